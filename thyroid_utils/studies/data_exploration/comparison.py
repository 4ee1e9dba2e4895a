"""Which simulated and which real frames a notebook lays side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.data.readers import load_cases


def simulated_and_real(dataset: str, data_root: str | Path, cases: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The case table at hand, and its counterpart: phantoms beside a real set, DDTI frames beside phantoms.

    Args:
        dataset: name of the reader of `cases`.
        data_root: beside phantoms, the folder that holds `ddti/`; empty where there is none.
        cases: the case table at hand.

    Returns:
        phantoms and real frames; None in place of real frames where `data_root` is empty.

    Raises:
        DataError: `data_root` is given and holds no DDTI.
    """
    if dataset != "phantom":
        return phantom_cases(patients=16), cases
    if not data_root:
        return cases, None
    try:
        return cases, load_cases("ddti", data_root)
    except DataError as error:
        raise DataError(
            f"DATASET is phantom, and DATA_ROOT holds no DDTI frames to lay beside them; to read images of yours set DATASET "
            f"(folders, manifest, …), else leave DATA_ROOT empty ({error})"
        ) from None
