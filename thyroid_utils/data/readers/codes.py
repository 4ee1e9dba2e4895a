"""Codes for the names of one's own images and patients, and the key that tells what each stands for."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd
from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import write_text

KEY = "key.csv"
_COLUMNS = ("folder", "case", "patient", "file", "case_name", "patient_name")
_COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")  # by spreadsheets, unless an apostrophe precedes


def coded(cases: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The case table with `case-0001`, … for its case ids and `patient-001`, … for the patients that are known.

    What the codes stand for is kept in `key.csv` beside the trained runs, which only grows: an image keeps its code for as long
    as its place in the folder is the same, and a patient for as long as the name is. New ones take the next numbers.

    Args:
        cases: case table of a reader; `patient_known` tells whose patient has a name.
        folder: that of the data; its images lie below it.

    Raises:
        DataError: the key cannot be written, or is none.
    """
    path, home = paths.runs_dir() / KEY, os.path.realpath(folder)
    files = [os.path.relpath(image, folder).replace(os.sep, "/") for image in cases["image"]]
    names = cases["patient"].where(cases["patient_known"].astype(bool), "")
    wanted = pd.DataFrame({"file": files, "case_name": cases.index, "patient_name": names}, dtype=object)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".key.lock")):
            key = _read(path)
            codes = _codes(wanted, key[key["folder"] == home])
            rows = codes.assign(folder=home)[list(_COLUMNS)]
            known = set(map(tuple, key.to_numpy()))
            new = rows[[tuple(row) not in known for row in rows.to_numpy()]]
            if len(new):
                _write(path, pd.concat([key, new]))
    except OSError as error:
        remedy = "set THYROID_WORKBOOK_RUNS to a folder that can, or keep the names: DATA_OPTIONS={keep_names: true}"
        raise DataError(f"{path}: what the codes of cases stand for cannot be written ({error.strerror}); {remedy}") from None
    patient = codes["patient"].where(codes["patient"] != "", codes["case"])
    return cases.set_axis(pd.Index(codes["case"], dtype="string", name="case")).assign(patient=patient.astype("string").array)


def _codes(wanted: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    """`wanted` with columns `case` and `patient`: the codes of the key, else the next ones; no patient has none ("")."""
    case = _numbered(wanted["file"], dict(zip(key["file"], key["case"], strict=True)), "case-{:04d}")
    patient = _numbered(wanted["patient_name"], dict(zip(key["patient_name"], key["patient"], strict=True)), "patient-{:03d}")
    return wanted.assign(case=case, patient=patient).reset_index(drop=True)


def _numbered(names: pd.Series, codes: dict[str, str], form: str) -> list[str]:
    codes = {**codes, "": ""}
    last = max((int(code.rpartition("-")[2]) for code in codes.values() if code), default=0)
    for name in names:
        if name not in codes:
            last += 1
            codes[name] = form.format(last)
    return [codes[name] for name in names]


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(_COLUMNS), dtype=object)
    try:
        key = pd.read_csv(path, dtype=str, keep_default_na=False)[list(_COLUMNS)]
    except (ValueError, KeyError):
        key = None
    if key is None or not (key["case"].str.fullmatch(r"case-\d+") & key["patient"].str.fullmatch(r"(patient-\d+)?")).all():
        raise DataError(f"{path}: not the key of codes that was written; restore it, or remove it and codes begin anew")
    return key.map(lambda text: text.removeprefix("'"))


def _write(path: Path, key: pd.DataFrame) -> None:
    safe = key.map(lambda text: f"'{text}" if text.startswith(_COMPUTED) else text)
    write_text(path, safe.to_csv(index=False, quoting=csv.QUOTE_ALL))
