"""What training has already met, on a table small enough to count by hand."""

from __future__ import annotations

import pandas as pd

from thyroid_utils.data.table import make_cases
from thyroid_utils.studies.data_exploration.exposure import seen_in_training


def test_hand_counted():
    rows = [
        ("a", "1", "train"),
        ("b", "1", "test"),
        ("c", "2", "train"),
        ("d", "3", "test"),
        ("e", "4", "test"),
        ("f", "5", "val"),
    ]
    cases = make_cases([{"case": c, "image": f"{c}.png", "patient": p, "split": s, "dataset": "drawn"} for c, p, s in rows])
    clusters = pd.Series([0, 1, 2, 2, 3, 3], index=cases.index)  # c and d are copies; e and f too, but f is in validation
    seen = seen_in_training(cases, clusters)
    assert seen.to_dict("list") == {
        "same patient": [True, False, False],
        "near-identical image": [False, True, False],
        "either": [True, True, False],
    }
    assert list(seen.index) == ["b", "d", "e"]
