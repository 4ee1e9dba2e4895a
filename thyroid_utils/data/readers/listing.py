"""What lies in a data set's folders and stands in its CSV files, and what is missing: the tools of every reader."""

import csv
import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from thyroid_utils.common.errors import DataError, readable
from thyroid_utils.data.images import IMAGE_SUFFIXES
from thyroid_utils.data.table import make_cases

BLANK = {"", "-", "--", "–", "—", ".", "?", "??", "#n/a", "#n/a n/a", "#na", "#null!", "#ref!", "#value!", "<na>", "-1.#ind",
         "-1.#qnan", "1.#ind", "1.#qnan", "-nan", "n.a", "n.a.", "n.d.", "n/a", "n/d", "na", "nan", "nat", "nil", "missing",
         "none",
         "not available", "not known", "null", "unk", "unknown"}  # fmt: skip
LABELS = {"0": 0, "0.0": 0, "benign": 0, "1": 1, "1.0": 1, "malignant": 1}
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}


def entries(folder: Path) -> list[Path]:
    """What a folder holds, one level deep, in natural order (2 before 10), without hidden files and what systems leave behind."""
    with readable(folder):
        names = os.listdir(folder)
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
    return unicodedata.normalize("NFC", path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name)


def images_by_stem(folder: Path | None) -> dict[str, Path]:
    """The image files of one folder, key `stem_key`, in natural order; none where there is no folder.

    Raises:
        DataError: two files that differ in suffix alone, or a link that leads nowhere or to itself.
    """
    found: dict[str, Path] = {}
    for path in [] if folder is None else entries(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.is_dir():
            continue
        if not path.is_file():
            what = "a link that leads nowhere or back to itself" if path.is_symlink() else "a pipe or a device, not a file"
            raise DataError(f"{path}: {what}; put the file in its place or remove it")
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


def missing_data(dataset: str, folder: Path, expected: str, published: str = "", found: str = "") -> DataError:
    """The error for a set that is not there: where, the expected tree, what was found, and where the set is published."""
    remedy = f"published at {published}" if published else "correct the folder or its contents"
    if folder.is_dir():
        names = [f"{path.name}/" if path.is_dir() else path.name for path in entries(folder)]
        found = found or first_few(names, 8)
    else:
        found = "a file, not a folder" if folder.is_file() else "no such folder"
    return DataError(f"{dataset}: no such data in {folder}; expected {expected}; found: {found or 'an empty folder'}; {remedy}")


def first_few(names: Iterable[str], count: int = 3) -> str:
    """The first names for an error message: "a, b, c, …"."""
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def image_rows(
    dataset: str, prefix: str, images: Mapping[str, Path], masks: Mapping[str, Path], **columns: object
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """A row for each image, and a note {file, problem, remedy} where masks bear no image's name.

    Args:
        prefix: stands before an image's key in its case id.
        images, masks: files by key.
        columns: further ones, a value for all images or a mapping from key to value. Unless given, each image stands for its
            own patient and what is outlined is a nodule.
    """
    table = pd.DataFrame({"image": pd.Series(images, dtype=object).map(str), "mask": pd.Series(masks, dtype=object).map(str)})
    table = table.reindex(list(images))
    table["case"] = prefix + table.index.astype(str)
    unless_given = {"patient": table["case"], "patient_known": False, "target": "nodule", "dataset": dataset}
    for name, value in {**unless_given, **columns}.items():
        table[name] = table.index.map(value) if isinstance(value, Mapping) else value
    lonely = [path for key, path in masks.items() if key not in images]
    if not lonely:
        return table, []
    problem = f"{len(lonely)} masks bear the name of no image ({first_few(path.name for path in lonely)}); left out"
    return table, [{"file": str(lonely[0].parent), "problem": problem, "remedy": "name each mask like its image"}]


def case_table(parts: Iterable[tuple[pd.DataFrame, list[dict[str, str]]]], texts: Sequence[str] = ()) -> pd.DataFrame:
    """The case table of rows and notes as `image_rows` gives them; notes become `attrs["notes"]`. texts: columns of text."""
    tables, notes = zip(*parts, strict=True)
    cases = make_cases(pd.concat(tables)).astype(dict.fromkeys(("target", *texts), "string"))
    cases.attrs["notes"] = [note for found in notes for note in found]
    return cases


def read_table(path: Path, required: Sequence[str], known: Sequence[str] = (), header: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of a CSV file as text; the index tells where a row stands ("FILE line 3"), as messages do.

    Args:
        path: UTF-8 with or without byte-order mark; comma, semicolon or tab, whichever the first line holds most or `sep=` names.
        required, known: columns; in these what programs write for nothing (NA, NaN, null, ?, …) is NA, in others nothing alone.
        header: names for a file that has no header; else they are the first line, in lower case.

    Returns:
        the table; its `attrs["blank"]` tells by required or known column how often each word stood for nothing.

    Raises:
        DataError: not UTF-8, empty, a column named twice, missing or nearly called as one of these, a line with more or fewer
            fields than the first (empty ones at its end apart).
    """
    with readable(path):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig").lstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it again as 'CSV UTF-8'") from None
    first, told = text.partition("\n")[0].strip("\r"), 0
    delimiter = max(",;\t", key=first.count)
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's first line
        delimiter, told = first[4], 1
    reader, rows = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True), {}
    try:
        for fields in reader:
            rows[f"{path} line {reader.line_num}"] = [field.strip() for field in fields]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}; correct the line, or its quotes") from None
    rows = {line: row for line, row in list(rows.items())[told:] if any(row)}
    names = list(header) or [field.lower() for field in rows.pop(next(iter(rows), ""), [])]
    while names and not names[-1]:  # spreadsheets write empty columns at the right
        names.pop()
    for line, row in rows.items():
        if len(row) < len(names) or any(row[len(names) :]):
            raise DataError(f"{line}: {len(row)} fields, expected {len(names)}; correct the line, or its quotes")
        del row[len(names) :]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names, dtype="string").replace("", pd.NA)
    table = table.drop(columns="", errors="ignore")
    _check_columns(path, list(table), required, known)
    if table.empty:
        raise DataError(f"{path}: no rows below its header; expected one or more")
    known = [name for name in (*required, *known) if name in table]
    filled = table.assign(**{name: without_blanks(table[name]) for name in known})
    filled.attrs["blank"] = {name: table[name][filled[name].isna()].value_counts().to_dict() for name in known}
    return filled


def _check_columns(path: Path, names: Sequence[str], required: Sequence[str], known: Sequence[str]) -> None:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(f"{path}: column {doubled[0]!r} occurs twice; rename one")
    absent = [name for name in (*required, *known) if name not in names]
    for name in {*names}.difference(required, known):
        near = difflib.get_close_matches(name, absent, n=1, cutoff=0.75)
        if near:
            raise DataError(f"{path}: unknown column {name!r}; did you mean {near[0]!r}? Rename it")
    missing = [name for name in required if name in absent]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(names)}; rename or add it")


def without_blanks(column: pd.Series) -> pd.Series:
    """A column of text with NA for what programs write for nothing."""
    return column.mask(column.str.lower().isin(BLANK))


def looked_up(column: pd.Series, meanings: Mapping[str, object]) -> pd.Series:
    """What the words of a column of `read_table` mean, NA kept. Raises DataError for another word, with its line."""
    words = column.str.lower()
    wrong = column[words.notna() & ~words.isin(list(meanings))]
    if len(wrong):
        expected = f"expected {', '.join(meanings)} or nothing"
        raise DataError(f"{wrong.index[0]}: {column.name} is {wrong.iloc[0]!r}; {expected}: correct it")
    return words.astype(object).map(meanings)


def read_xml(path: Path) -> Element | None:
    """The root of an XML file; None where it is not well-formed. DataError where it defines entities, a way to exhaust memory."""
    with readable(path):
        content = path.read_bytes()
    try:
        return fromstring(content)
    except DefusedXmlException:
        raise DataError(f"{path}: defines XML entities, which no data set needs; download it again") from None
    except (ParseError, ValueError, LookupError):
        return None


def text_of(element: Element, name: str) -> str:
    """What stands in the first element of this name below, without spaces around; "" where there is none."""
    return (element.findtext(name) or "").strip()


def as_numbers(column: pd.Series) -> pd.Series:
    """Numbers where every value is one or NA and the like; a leading zero (007) or 16 digits mark an identifier: text."""
    words = column.fillna("").tolist()  # not by pandas, which takes a minute for twenty thousand columns
    given = [word for word in words if word.lower() not in BLANK]
    if not given or any(re.fullmatch(r"0\d+|\d{16,}|.*_.*", word) for word in given):
        return column
    whole = len(given) == len(words) and all(re.fullmatch(r"[+-]?\d+", word) for word in given)
    try:
        numbers = [(int if whole else float)(word) if word.lower() not in BLANK else float("nan") for word in words]
    except ValueError:
        return column
    return pd.Series(numbers, column.index)
