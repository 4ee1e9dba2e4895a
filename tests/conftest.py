"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thyroid_utils.common import paths

collect_ignore = ["new_study"]  # laid into a copy of the project by `test_new_study`


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds `ddti/` and `tg3k/`: `THYROID_WORKBOOK_DATA` when set, else `../shared/data` beside the project."""
    folder = Path(os.environ.get("THYROID_WORKBOOK_DATA", paths.project_root().parent / "shared" / "data"))
    if not (folder / "ddti" / "labels.csv").is_file():
        pytest.skip("no real data: set THYROID_WORKBOOK_DATA to a folder with ddti/ and tg3k/")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """The same sums in the same order on every machine."""
    import torch  # the fixture alone needs it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
