"""What readers say of single images (`review.csv`): wrong labels, poor outlines, duplicates, notes.

A mark belongs to a case and to its file's content, because one file serves every data set, and two settings of the phantoms share
their case ids. What marks would change is asked in `second_labels`.
"""

import csv
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pandas as pd
from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import as_cell, file_hashes, from_cell, write_text
from thyroid_utils.common.words import count
from thyroid_utils.data.table import LABEL_NAMES

REVIEW = "review.csv"
COLUMNS = ("case", "image", "kind", "value", "note", "reader", "time")
LABELS = {name: label for label, name in LABEL_NAMES.items() if label is not None}
WRONG, READ, OUTLINE, DUPLICATE, NOTE = "label wrong", "label read", "outline poor", "duplicate", "note"
# Kind of a mark → what its value is.
KINDS = {
    WRONG: "benign or malignant, or empty where the right one is not known",
    READ: "benign or malignant, as a reader calls it who was not shown the label (from an exported form)",
    OUTLINE: "empty",
    DUPLICATE: "the id of the case that it repeats",
    NOTE: "empty, with some words as note",
}
_FORM = re.compile(r"image-[0-9a-f]{10}")
_LONGEST = 1000  # letters of a cell


def image_code(path: str) -> str:
    """What a mark calls the content of an image's file: `image-` and ten digits of its SHA-256. DataError: it cannot be read."""
    return f"image-{file_hashes([path])[path][:10]}"


class Marks:
    """The marks of a file, read anew at each look; none where there is no file.

    Args:
        path: None takes `review.csv` beside the trained runs and the key of codes.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = paths.runs_dir() / REVIEW if path is None else Path(path)

    @property
    def table(self) -> pd.DataFrame:
        """A row a mark, text columns `COLUMNS`, in the order in which they were made. DataError as `read_marks`."""
        return read_marks(self.path) if self.path.exists() else pd.DataFrame(columns=COLUMNS, dtype=object)

    def of(self, case: str, image: str) -> pd.DataFrame:
        """The marks of one case, whose image has that code."""
        table = self.table
        return table[(table["case"] == case) & (table["image"] == image)]

    def add(self, case: str, image: str, kind: str, reader: str, value: str = "", note: str = "") -> None:
        """Write a mark; it takes the place of one of the same kind that the reader gave the case before.

        Raises:
            DataError: a value that the kind does not take, a file that is not as written here, or that cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        new = dict(zip(COLUMNS, (case, image, kind, value, " ".join(note.split()), reader.strip(), now), strict=True))
        if told := _problem(new):
            raise DataError(f"the mark is not kept: {told}")
        self._change(lambda rows: [*_without(rows, case, image, kind, new["reader"]), new])

    def undo(self, case: str, image: str, kind: str, reader: str) -> None:
        """Take a reader's own mark back. DataError as for `add`."""
        self._change(lambda rows: _without(rows, case, image, kind, reader.strip()))

    def _change(self, change: Callable[[list[dict]], list[dict]]) -> None:
        """What another has written since is read first, under a lock, so that two readers at once lose nothing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.stem}.lock"), timeout=20):
                text = StringIO()
                rows = change(self.table.to_dict("records"))
                cells = [[as_cell(row[name]) for name in COLUMNS] for row in rows]
                csv.writer(text, lineterminator="\n").writerows([COLUMNS, *cells])
                write_text(self.path.resolve(), text.getvalue())  # a link stays one
        except OSError as error:  # of which FileLock's Timeout is one
            told = error.strerror or "another program holds it"
            raise DataError(f"{self.path}: the mark cannot be written ({told}); free it, or set THYROID_WORKBOOK_RUNS") from None


def _without(rows: list[dict], *mark: str) -> list[dict]:
    return [row for row in rows if tuple(row[name] for name in ("case", "image", "kind", "reader")) != mark]


def read_marks(path: str | Path) -> pd.DataFrame:
    """The marks of a CSV file, as `Marks.table`. Rows of `label read` without a value, which nobody has filled in, are left out.

    Raises:
        DataError: it cannot be read, has other columns, or a row that is not as it should be: the first, with its line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        lines = csv.reader(StringIO(text, newline=""), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        rows = [(lines.line_num, list(map(from_cell, row))) for row in lines if any(row)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except (ValueError, csv.Error):
        raise DataError(f"{path}: no CSV in UTF-8; save it as that, with the columns {','.join(COLUMNS)}") from None
    if not rows or tuple(rows[0][1]) != COLUMNS:
        raise DataError(f"{path}: line 1 is not {','.join(COLUMNS)}; give it that heading, or move the file away")
    found = []
    for line, row in rows[1:]:
        mark = dict(zip(COLUMNS, row, strict=False))
        if len(row) == len(COLUMNS) and mark["kind"] == READ and not mark["value"]:
            continue
        told = f"{len(row)} values; expected {len(COLUMNS)}" if len(row) != len(COLUMNS) else _problem(mark)
        if told:
            raise DataError(f"{path}: line {line}: {told}; correct the line or remove it (nothing was changed)")
        found.append(mark)
    return pd.DataFrame(found, columns=COLUMNS, dtype=object)


def _problem(mark: dict[str, str]) -> str:
    """What is wrong with a row and what is expected; "" for nothing."""
    kind, value = mark["kind"], mark["value"]
    if kind not in KINDS:
        return f"kind is {kind!r}; expected {', '.join(KINDS)}"
    right = {WRONG: value in ("", *LABELS), READ: value in LABELS, DUPLICATE: value not in ("", mark["case"])}
    if not right.get(kind, not value):
        return f"value is {value!r}; expected of {kind}: {KINDS[kind]}"
    if not mark["case"] or not _FORM.fullmatch(mark["image"]):
        return f"image is {mark['image']!r} of case {mark['case']!r}; expected both as the app writes them (image-0123456789)"
    if kind == NOTE and not mark["note"]:
        return "a note without words; expected some"
    if max(map(len, mark.values())) > _LONGEST:
        return f"a cell of more than {_LONGEST} letters; say it in fewer"
    return "" if mark["reader"] else "reader is empty; expected who made the mark, such as initials"


def marks_of(review: str, cases: pd.DataFrame) -> pd.DataFrame:
    """The marks of a data set's images, with `patient` and `label` of each; `attrs["others"]`: how many are of other images.

    Args:
        review: path of a `review.csv`, seen from the project root; "" for none.
        cases: case table.

    Raises:
        DataError: as `read_marks`, or an image cannot be read.
    """
    table = read_marks(paths.resolve_in_project(review)) if review else pd.DataFrame(columns=COLUMNS, dtype=object)
    known = table[table["case"].isin(cases.index)]
    codes = {case: image_code(cases.at[case, "image"]) for case in known["case"].unique()}
    mine = known[known["case"].map(codes) == known["image"]]
    found = mine.join(cases[["patient", "label"]], on="case")
    found.attrs = {"others": len(table) - len(found)}
    return found


def repeated(marks: pd.DataFrame) -> set[str]:
    """The cases that readers call duplicates, of which another one is kept: of two that repeat one another the second goes.

    Args:
        marks: of `marks_of`.
    """
    gone: set[str] = set()
    for case, kept in marks.loc[marks["kind"] == DUPLICATE, ["case", "value"]].itertuples(index=False):
        if kept not in gone:
            gone.add(case)
    return gone


def second_labels(marks: pd.DataFrame, *kinds: str) -> pd.Series:
    """Case → 0 benign or 1 malignant, as readers call it; without those of which readers say both.

    Args:
        marks: of `marks_of`.
        kinds: of `KINDS`; none takes `label wrong` and `label read`.
    """
    told = marks[marks["kind"].isin(kinds or (WRONG, READ)) & marks["value"].isin(LABELS)]
    labels = told["value"].map(LABELS).groupby(told["case"]).agg(["min", "max"])
    return labels.loc[labels["min"] == labels["max"], "min"].astype(int)


def marks_by_kind(marks: pd.DataFrame) -> pd.DataFrame:
    """A row a kind that occurs: `marks`, `readers`, `images`, `patients`, and how many of the images are labelled how."""
    rows = []
    for kind, own in ((kind, marks[marks["kind"] == kind]) for kind in KINDS):
        of_image = own.drop_duplicates("case")
        counts = {"marks": len(own), "readers": own["reader"].nunique(), "images": len(of_image)}
        counts |= {"patients": of_image["patient"].nunique()}
        rows.append(
            {"kind": kind, **counts, **{f"labelled {name}": int((of_image["label"] == LABELS[name]).sum()) for name in LABELS}}
        )
    return pd.DataFrame(rows).query("marks > 0")


def marks_sentence(marks: pd.DataFrame) -> str:
    """How many marks are of these images and of others, and on how many images readers contradict each other."""
    readers = marks.loc[marks["value"].isin(LABELS)].groupby("case")["value"].nunique()
    told = f"{count(len(marks), 'mark')} of {count(marks['case'].nunique(), 'image')} of this data set"
    others = f", {marks.attrs['others']} of images that are not in it" if marks.attrs["others"] else ""
    return f"{told}{others}; on {count(int((readers > 1).sum()), 'image')} readers give both labels, and neither is taken."
