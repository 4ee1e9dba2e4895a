"""Codes for the names of one's own images and patients, and the key that tells what each stands for."""

import csv
import os
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pandas as pd
from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import as_cell, file_hashes, write_text

KEY = "key.csv"
_COLUMNS = ("folder", "case", "patient", "file", "case_name", "patient_name")


def coded(cases: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The case table with `case-` and ten digits of the image file's SHA-256 for its case ids, and `patient-` and the digits of
    the first of a patient's cases for the patients that are known.

    So the files alone decide: the same images are split alike wherever they lie, in whatever order they are listed. Copies of a
    file are told apart by `-2`, `-3`, … in the order of their names. What the codes stand for is kept in `key.csv` beside the
    trained runs, which only grows and decides nothing.

    Args:
        cases: case table of a reader; `patient_known` tells whose patient has a name.
        folder: that of the data; its images lie below it.

    Raises:
        DataError: an image cannot be read; the key cannot be written, or is none.
    """
    hashes, known = file_hashes(cases["image"]), cases["patient_known"].astype(bool)
    files = [os.path.relpath(image, folder).replace(os.sep, "/") for image in cases["image"]]
    told = pd.DataFrame({"file": files, "sha256": cases["image"].map(hashes)}, cases.index, dtype=object)
    digits = told.sort_values(["sha256", "file"])["sha256"].str[:10]
    copy = digits.groupby(digits).cumcount() + 1
    digits = (digits + copy.map("-{}".format).where(copy > 1, ""))[cases.index]
    first = digits.groupby(cases["patient"]).transform("min")
    case, patient = "case-" + digits, ("patient-" + first).where(known, "case-" + digits)
    names = (cases["patient"].where(known, ""), patient.where(known, ""))
    _tell(zip([os.path.realpath(folder)] * len(cases), case, names[1], files, cases.index, names[0], strict=True))
    return cases.set_axis(pd.Index(case, dtype="string", name="case")).assign(patient=patient.astype("string").array)


def _tell(rows: Iterable[tuple[str, ...]]) -> None:
    """Add to the key what it does not hold."""
    path = paths.runs_dir() / KEY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".key.lock")):
            key = dict.fromkeys(_read(path))
            held = len(key)
            key |= dict.fromkeys(tuple(map(as_cell, row)) for row in rows)
            if len(key) > held:
                text = StringIO()
                csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([_COLUMNS, *key])
                write_text(path, text.getvalue())
    except OSError as error:
        remedy = "set THYROID_WORKBOOK_RUNS to a folder that can, or keep the names: DATA_OPTIONS={keep_names: true}"
        raise DataError(f"{path}: what the codes of cases stand for cannot be written ({error.strerror}); {remedy}") from None


def _read(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    try:
        header, *rows = map(tuple, csv.reader(StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (ValueError, csv.Error):
        header = ()
    if header != _COLUMNS:
        raise DataError(f"{path}: not the key of codes that was written; restore it, or remove it and it is written anew")
    return rows
