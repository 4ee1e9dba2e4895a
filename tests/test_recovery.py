"""What takes the patient's place where none is named."""

from __future__ import annotations

import numpy as np
import pytest

from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import write_png
from thyroid_utils.data.recovery import recover_patients
from thyroid_utils.data.table import make_cases


@pytest.fixture
def rows(tmp_path):
    """Four frames: a and b are the same picture, c and d are others."""
    random = np.random.default_rng(0)
    pictures = {name: random.integers(0, 255, (64, 64)).astype(np.uint8) for name in "acd"} | {}
    pictures["b"] = pictures["a"]
    return [
        {"case": name, "image": str(write_png(tmp_path / f"{name}.png", pictures[name])), "patient": name, "dataset": "drawn"}
        for name in "abcd"
    ]


def test_known_patients_stay(rows):
    cases = make_cases([row | {"patient_known": True} for row in rows])
    recovered = recover_patients(cases, audit_cases(cases))
    assert recovered.cases is cases and recovered.evidence is None


def test_copies_become_one_unit_and_known_patients_keep_their_name(rows):
    cases = make_cases([row | {"patient_known": row["case"] == "d"} for row in rows])
    recovered = recover_patients(cases, audit_cases(cases))
    patients = recovered.cases["patient"]
    assert patients["a"] == patients["b"] != patients["c"] and patients["d"] == "d"
    assert "3 images; 2 clusters" in recovered.how


def test_a_copy_of_a_known_patients_image_joins_that_patient(rows):
    cases = make_cases([row | {"patient_known": row["case"] == "b"} for row in rows])
    patients = recover_patients(cases, audit_cases(cases)).cases["patient"]
    assert patients["a"] == patients["b"] == "b" and patients.nunique() == 3


def test_numbered_frames_become_videos(rows):
    cases = make_cases([row | {"patient_known": False, "frame": number} for number, row in enumerate(rows)])
    recovered = recover_patients(cases, audit_cases(cases))
    assert "videos" in recovered.how and recovered.evidence is not None
    assert recovered.cases.at["a", "patient"] == recovered.cases.at["b", "patient"]
