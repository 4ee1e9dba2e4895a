"""From a data set on disk to the case table: one reader a set, found by name.

A reader is a function `(root, **options) -> DataFrame`; adding one is a function and a line in `READERS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers.own import read_folders, read_manifest
from thyroid_utils.data.readers.published import read_ddti, read_tg3k, read_tn3k, read_tnscui


def _read_phantom(root: Path | None = None, **options) -> pd.DataFrame:
    """Phantoms are made in the cache; a folder that was given holds someone's data and is not written into."""
    return _phantom_cases()(**options)


def _phantom_cases() -> Callable[..., pd.DataFrame]:
    from thyroid_utils.data.phantom import phantom_cases  # the simulator is only loaded where it is used

    return phantom_cases


READERS: Mapping[str, Callable[..., pd.DataFrame]] = MappingProxyType(
    {
        "phantom": _read_phantom,
        "ddti": read_ddti,
        "tn3k": read_tn3k,
        "tg3k": read_tg3k,
        "tnscui": read_tnscui,
        "folders": read_folders,
        "manifest": read_manifest,
    }
)


def load_cases(dataset: str, root: str | Path | None = None, *, having: Sequence[str] | None = None, **options) -> pd.DataFrame:
    """The case table of a data set (see `thyroid_utils.data.table`).

    Beyond the required columns every reader fills `patient_known` (False where the set gives no patient ids, so that each
    image stands for its own patient) and `target` ("nodule" or "gland": what the masks outline).

    Args:
        dataset: one of `READERS`.
        root: the set's folder or its parent, for `manifest` also the CSV file; relative paths are seen from the project root.
            `phantom` makes no use of it.
        having: columns that a case must have a value in, such as label and mask: networks of different tasks can only be
            asked about the same test images if they were split from the same cases. None keeps all.
        options: what the reader takes: `fold` (tn3k), `patient_pattern` and `target` (folders), the settings of
            `phantom_cases` (phantom).

    Raises:
        DataError: unknown set or option, data not there or not as expected; one line that names the file and the remedy.
    """
    if dataset not in READERS:
        raise DataError(f"unknown data set {dataset!r}{_nearest(dataset, READERS)}; known: {', '.join(READERS)}")
    check_options(dataset, options)
    if root is None and dataset != "phantom":
        raise DataError(f"{dataset}: no folder given; name the one that holds the data (DATA_ROOT, --data-root)")
    cases = READERS[dataset](None if root is None else paths.resolve_in_project(root), **options)
    return cases if having is None else _having(cases, having, dataset)


def _having(cases: pd.DataFrame, columns: Sequence[str], dataset: str) -> pd.DataFrame:
    columns = [columns] if isinstance(columns, str) else list(columns)
    absent = [column for column in columns if column not in cases]
    if absent:
        raise DataError(
            f"{dataset}: having names the column {absent[0]!r}, which is not there{_nearest(absent[0], cases.columns)}; "
            f"known: {', '.join(cases.columns)}"
        )
    kept = cases[cases[columns].notna().all(axis=1)]
    if kept.empty:
        raise DataError(f"{dataset}: none of {len(cases)} cases has {' and '.join(columns)}; ask for less in having")
    return kept


_OF_ALL = ("having",)  # options of `load_cases` itself


def check_options(dataset: str, options: Mapping[str, object]) -> None:
    """Raise DataError where a reader does not take one of these options; the nearest one that it takes is named."""
    takes = inspect.signature(_phantom_cases() if dataset == "phantom" else READERS[dataset]).parameters
    valid = [*(name for name in takes if name not in ("root", "progress", "workers")), *_OF_ALL]
    unknown = [name for name in options if name not in (*takes, *_OF_ALL) or name == "root"]
    if unknown:
        raise DataError(f"{dataset}: unknown option {unknown[0]!r}{_nearest(unknown[0], valid)}; known: {', '.join(valid)}")


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
