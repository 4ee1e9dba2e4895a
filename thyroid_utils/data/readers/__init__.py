"""From a data set on disk to the case table: one reader a set, found by name.

A reader is a function `(root, **options) -> DataFrame`; adding one is a function and a line in `READERS`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.data.readers.codes import coded
from thyroid_utils.data.readers.ddti import read_ddti
from thyroid_utils.data.readers.own import read_folders, read_manifest
from thyroid_utils.data.readers.published import read_busi, read_tg3k, read_thyroidxl, read_tn3k, read_tn5000, read_tnscui
from thyroid_utils.data.readers.stanford import read_stanford

READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "phantom": phantom_cases,
    "ddti": read_ddti,
    "tn3k": read_tn3k,
    "tg3k": read_tg3k,
    "tnscui": read_tnscui,
    "tn5000": read_tn5000,
    "stanford": read_stanford,
    "thyroidxl": read_thyroidxl,
    "busi": read_busi,
    "folders": read_folders,
    "manifest": read_manifest,
}
OWN = ("folders", "manifest")  # people's own images, whose names may name a patient


def load_cases(
    dataset: str, root: str | Path | None = None, *, having: Sequence[str] | None = None, keep_names: bool = False, **options
) -> pd.DataFrame:
    """The case table of a data set (see `thyroid_utils.data.table`).

    Beyond the required columns every reader fills `patient_known` (False where the set gives no patient ids, so that each
    image stands for its own patient) and `target` ("nodule" or "gland": what the masks outline).

    Args:
        dataset: one of `READERS`.
        root: the set's folder or its parent, for `manifest` also the CSV file; relative paths are seen from the project root.
            Phantoms are made in the cache; a folder that is given holds someone's data and is left alone.
        having: columns that a case must have a value in, such as label and mask: networks of different tasks can only be
            asked about the same test images if they were split from the same cases. None keeps all.
        keep_names: of `OWN` sets: case ids and patients stay what files and rows say, instead of codes (see `coded`).
        options: what the reader takes: `fold` (tn3k), `every` (stanford), `patient_pattern` and others (folders), the settings of
            `phantom_cases` (phantom).

    Raises:
        DataError: unknown set or option, data not there or not as expected; one line that names the file and the remedy.

    >>> load_cases("phantom", patients=3, size=64, having="mask")["patient"].nunique()
    3
    """
    check_options(dataset, {**options, "keep_names": True} if keep_names else options)
    if dataset == "phantom":
        cases = phantom_cases(**options)
    elif root is None:
        raise DataError(f"{dataset}: no folder given; name the one that holds the data (DATA_ROOT, --data-root)")
    else:
        folder = paths.resolve_in_project(root)
        cases = READERS[dataset](folder, **options)
        if dataset in OWN and not keep_names:
            cases = coded(cases, folder.parent if folder.is_file() else folder)
    columns = [having] if isinstance(having, str) else list(having or ())
    for column in columns:
        if column not in cases:
            raise DataError(f"{dataset}: no column {column!r}, which having names; {nearest(column, cases.columns)}")
    kept = cases.dropna(subset=columns) if columns else cases
    if kept.empty:
        raise DataError(f"{dataset}: none of {len(cases)} cases has {' and '.join(columns)}; ask for less in having")
    return kept


def check_options(dataset: str, options: Mapping[str, object]) -> None:
    """Raise DataError where there is no such reader, or it does not take one of these options; the nearest name is told."""
    if dataset not in READERS:
        raise DataError(f"unknown data set {dataset!r}; {nearest(dataset.lower(), READERS)}")
    takes = {*inspect.signature(READERS[dataset]).parameters, "having"} - {"root"} | ({"keep_names"} if dataset in OWN else set())
    for name in {*options} - takes:
        raise DataError(f"{dataset}: unknown option {name!r}; {nearest(name, sorted(takes))}")
