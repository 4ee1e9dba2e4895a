"""Finding a data set's folders, images and masks on disk, and saying what is missing."""

from __future__ import annotations

import csv
import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import IMAGE_SUFFIXES

_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}
_SHOWN = 8


def entries(folder: Path) -> list[Path]:
    """What a folder holds, one level deep, in natural order (2 before 10), without hidden files and what systems leave behind.

    Nothing is walked recursively, so a link that leads back to a parent is never followed round and round.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check the path and its permissions") from None
    kept = [name for name in names if not name.startswith(".") and name.lower() not in _LITTER]
    return [folder / name for name in sorted(kept, key=natural_order)]


def natural_order(name: str) -> tuple:
    """Sort key that puts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name)], name


def stem_key(name: str) -> str:
    """The part of a file name that ties image, mask and CSV row together: no folder, no image suffix, one Unicode form.

    macOS stores é as e + accent, spreadsheets write it as one letter: both give the same key.
    """
    path = Path(name.strip().replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    return unicodedata.normalize("NFC", stem)


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The image files of one folder, key `stem_key`, in natural order.

    Raises:
        DataError: two files that differ in suffix alone, or a link that leads nowhere or to itself.
    """
    found: dict[str, Path] = {}
    for path in entries(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.is_dir():
            continue
        if not path.is_file():
            raise DataError(f"{path}: a link that leads nowhere or back to itself; put the file in its place or remove it")
        key = stem_key(path.name)
        if key in found:
            raise DataError(f"{folder}: two files for one image, {found[key].name} and {path.name}; keep one or rename one")
        found[key] = path
    return found


def subfolder(folder: Path, *names: str) -> Path | None:
    """The first folder below `folder` that has one of the names, upper and lower case alike; None where there is none."""
    if not folder.is_dir():
        return None
    below = {path.name.lower(): path for path in entries(folder) if path.is_dir()}
    return next((below[name.lower()] for name in names if name.lower() in below), None)


def set_folder(dataset: str, root: Path, fits: Callable[[Path], bool], expected: str, published: str) -> Path:
    """`root`, or the folder below it that bears the set's name, whichever fits; DataError naming the tree where neither does."""
    named = subfolder(root, dataset)
    for folder in (root, named):
        if folder is not None and folder.is_dir() and fits(folder):
            return folder
    raise missing_data(dataset, named or root, expected, published)


def missing_data(dataset: str, folder: Path, expected: str, published: str = "") -> DataError:
    """The error for a set that is not there: where, the expected tree, what was found, and where the set is published."""
    remedy = f"published at {published}" if published else "correct the folder or its contents"
    return DataError(f"{dataset}: no such data in {folder}; expected {expected}; found: {what_is_in(folder)}; {remedy}")


def what_is_in(folder: Path) -> str:
    """The first entries of a folder in words, for an error message."""
    if folder.is_file():
        return "a file, not a folder"
    if not folder.is_dir():
        return "no such folder"
    names = [f"{path.name}/" if path.is_dir() else path.name for path in entries(folder)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "an empty folder"


def first_few(names: Iterable[str], count: int = 3) -> str:
    """The first names for an error message: "a, b, c, …"."""
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def masks_without_image(masks: Mapping[str, Path], images: Mapping[str, Path]) -> list[dict[str, str]]:
    """A note {file, problem, remedy} where masks bear no image's name: often a sign that masks are named otherwise."""
    lonely = [path for key, path in masks.items() if key not in images]
    if not lonely:
        return []
    problem = f"{len(lonely)} masks bear the name of no image ({first_few(path.name for path in lonely)}); left out"
    return [{"file": str(lonely[0].parent), "problem": problem, "remedy": "name each mask like its image"}]


def path_or_na(path: Path | None) -> str:
    """A path as text, or NA."""
    return pd.NA if path is None else str(path)


BLANK = {"", "na", "n/a", "nan", "none", "null", "unknown", "?"}
_BENIGN = {"0", "0.0", "benign"}
_MALIGNANT = {"1", "1.0", "malignant"}


@dataclass(frozen=True)
class Row:
    """One line of a CSV file: `values` by column name (stripped text), and where it stands, for messages."""

    path: Path
    line: int
    values: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.path} line {self.line}"

    def given(self, column: str) -> str:
        """The text of a column, "" where it is not there or holds what programs write for nothing (NA, NaN, null, ?, …)."""
        text = self.values.get(column, "")
        return "" if text.lower() in BLANK else text

    def label(self, column: str):
        """0 (benign), 1 (malignant) or NA (blank); DataError for anything else."""
        text = self.given(column).lower()
        if not text:
            return pd.NA
        if text in _BENIGN:
            return 0
        if text in _MALIGNANT:
            return 1
        raise DataError(
            f"{self.place}: {column} is {self.values[column]!r}; expected 0 or benign, 1 or malignant, or nothing: correct it"
        )

    def text(self, column: str):
        """The text of a column, NA where it is blank or the column is not there."""
        return value if (value := self.values.get(column, "")) else pd.NA


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a CSV file.

    Args:
        path: a text file in UTF-8, with or without byte-order mark; comma, semicolon or tab, whichever the first line holds most.
        columns: names for a file that has no header; None takes the first line, lower-cased.

    Raises:
        DataError: not UTF-8, empty, a column named twice, or a line with more or fewer fields than columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it again as 'CSV UTF-8'") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = list(columns) if columns is not None else None
    rows = []
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if header is None:
                header = _header(path, fields)
                continue
            while len(fields) > len(header) and not fields[-1]:  # spreadsheets write empty columns at the right
                fields.pop()
            if len(fields) != len(header):
                expected = f"expected {len(header)} ({', '.join(header)})"
                raise DataError(f"{path} line {reader.line_num}: {len(fields)} fields, {expected}; correct the line")
            rows.append(Row(path, reader.line_num, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}; correct the quotes in this line") from None
    if header is None:
        raise DataError(f"{path}: empty; expected a line of column names and a line for each image")
    return rows


def require_columns(path: Path, rows: Sequence[Row], required: Sequence[str], known: Sequence[str] = ()) -> None:
    """DataError where a required column is missing or a column's name is a near miss of one in `required` or `known`."""
    if not rows:
        raise DataError(f"{path}: no rows below its header; expected a line for each image")
    found = list(rows[0].values)
    absent = [name for name in (*required, *known) if name not in found]
    for name in found:
        if name in required or name in known:
            continue
        near = difflib.get_close_matches(name, absent, n=1, cutoff=0.75)
        if near:
            raise DataError(f"{path}: unknown column {name!r}; did you mean {near[0]!r}? Rename it")
    missing = [name for name in required if name not in found]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(found)}; rename or add it")


def _header(path: Path, fields: list[str]) -> list[str]:
    header = [field.lower() for field in fields]
    while not header[-1]:
        header.pop()
    doubled = [name for name in header if header.count(name) > 1]
    if doubled:
        raise DataError(f"{path}: column {doubled[0]!r} occurs twice; rename one")
    return header
