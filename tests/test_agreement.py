"""Two outlines of one picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.studies.data_exploration.agreement import outline_agreement


def test_hand_computed(tmp_path):
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[0, :3], b[0, 1:4] = True, True  # three pixels each, two shared: 2·2 / 6
    rows = []
    for name, mask in [("a", a), ("b", b), ("c", None)]:
        path = str(write_png(tmp_path / f"{name}.png", mask)) if mask is not None else pd.NA
        rows.append({"case": name, "image": "same.png", "patient": name, "dataset": "drawn", "mask": path})
    found = outline_agreement(make_cases(rows), pd.DataFrame({"cases": [["a", "b", "c"]]}))
    assert found.to_dict("records") == [{"a": "a", "b": "b", "dice": pytest.approx(2 / 3)}]
    assert outline_agreement(make_cases(rows), pd.DataFrame({"cases": []})).empty


def test_ddti_outlines_of_the_same_picture_differ(real_data):
    from thyroid_utils.data.readers import load_cases

    found = outline_agreement(load_cases("ddti", real_data), pd.DataFrame({"cases": [["ddti/332", "ddti/389"]]}))
    assert 0.5 < found.at[0, "dice"] < 0.99
