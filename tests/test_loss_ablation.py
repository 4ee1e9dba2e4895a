"""The worked example of the losses by hand, and what losses move, in sentences."""

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.loss_ablation import loss_values, range_told


def test_losses_of_a_worked_example_by_hand():
    truth = np.array([[True, False], [False, False]])
    probabilities = np.array([[0.6, 0.1], [0.1, 0.1]])
    table = loss_values(truth, probabilities)
    assert table.at["bce", "this answer"] == pytest.approx(-(np.log(0.6) + 3 * np.log(0.9)) / 4, rel=1e-5)
    assert table.at["bce", "no nodule"] == pytest.approx(-np.log(1e-4) / 4, rel=1e-3)
    assert (table["perfect"] <= table[["this answer", "no nodule", "all nodule"]].min(axis=1)).all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"a": 0.62, "b": 0.58, "c": 0.60}, "Dice goes from 0.58 (b) to 0.62 (a)."),
        ({"a": 0.001, "b": 0.0}, "Dice is 0.00 with each."),
        ({"a": 0.62, "b": np.nan}, ""),
    ],
)
def test_the_range_of_a_score_over_models(values, told):
    estimates = pd.Series({name: Estimate(value, np.nan, np.nan, 9, 3) for name, value in values.items()})
    assert range_told(estimates, "Dice") == told
