"""Reading the small CSV files that come with data sets: any usual delimiter, BOM or not, with line numbers in every error."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError

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
