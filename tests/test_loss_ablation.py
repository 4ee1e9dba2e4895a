"""The worked example of the losses by hand, and the figures of the loss ablation."""

import numpy as np
import pytest

from thyroid_utils.studies.loss_ablation import loss_values


def test_losses_of_a_worked_example_by_hand():
    truth = np.array([[True, False], [False, False]])
    probabilities = np.array([[0.6, 0.1], [0.1, 0.1]])
    table = loss_values(truth, probabilities)
    assert table.at["bce", "this answer"] == pytest.approx(-(np.log(0.6) + 3 * np.log(0.9)) / 4, rel=1e-5)
    assert table.at["bce", "no nodule"] == pytest.approx(-np.log(1e-4) / 4, rel=1e-3)
    assert (table["perfect"] <= table[["this answer", "no nodule", "all nodule"]].min(axis=1)).all()
