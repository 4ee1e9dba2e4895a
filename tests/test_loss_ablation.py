"""The worked example of the losses by hand, and what losses move, in sentences."""

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.plots.loss_ablation import tversky_case
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.loss_ablation import loss_values, losses_by_hand, range_told


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


def test_the_numbers_in_the_formulas_give_what_the_losses_say():
    truth = np.array([[True, True], [False, False]])
    probabilities = np.array([[0.9, 0.4], [0.7, 0.1]])
    table = losses_by_hand(truth, probabilities)
    assert list(table["value"][:3]) == ["1.30", "0.80", "0.70"], "TP 0.9 + 0.4, FP 0.7 + 0.1, FN 0.1 + 0.6"
    assert table.at["dice", "how"] == "1 − (2 · 1.30 + 1) / (2 · 1.30 + 0.80 + 0.70 + 1)"
    said = loss_values(truth, probabilities)["this answer"]
    for loss in ("dice", "tversky", "focal_tversky", "bce", "bce_dice"):
        assert float(table.at[loss, "value"]) == pytest.approx(said[loss], abs=6e-4)  # three decimals
    assert table.at["TP, FP, FN of the mask", "value"] == "1, 1, 1" and table.at["Dice of the mask", "value"] == "0.500"
    nothing = losses_by_hand(np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert nothing.at["Dice of the mask", "value"] == "–" and nothing.at["dice", "value"] == "0.000"


def test_the_formula_above_a_case_has_the_numbers_that_were_chosen():
    truth, answer = np.eye(8, dtype=bool), np.where(np.eye(8), 0.75, 0.25)
    figure = tversky_case(np.zeros((8, 8), np.uint8), truth, answer, alpha=0.2, beta=0.8)
    told = figure.get_suptitle()
    assert "(6.0 + 0.20 · 14.0 + 0.80 · 2.0 + 1) = 0.386" in told, "1 − 7 / 11.4"
    assert "as much as 4 false ones" in told
    np.testing.assert_allclose(figure.axes[1].images[-1].get_array(), np.where(truth, 0.2, 0.05), atol=1e-6)
