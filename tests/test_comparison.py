"""Which frames are laid side by side."""

from __future__ import annotations

import pytest

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.studies.data_exploration.comparison import simulated_and_real


def test_phantoms_stand_alone_without_real_frames_and_beside_any_others(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    cases = phantom_cases(patients=1, size=64)
    assert simulated_and_real("phantom", "", cases) == (cases, None)
    monkeypatch.setattr(
        "thyroid_utils.studies.data_exploration.comparison.phantom_cases", lambda patients: f"{patients} phantoms"
    )
    assert simulated_and_real("folders", tmp_path, cases) == ("16 phantoms", cases)


def test_a_folder_without_ddti_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such data"):
        simulated_and_real("phantom", tmp_path, None)


def test_real_frames_beside_phantoms(real_data):
    simulated, real = simulated_and_real("phantom", real_data, "the phantoms")
    assert simulated == "the phantoms" and len(real) == 543
