"""The worked example of the losses by hand, and the figures of the loss ablation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.plots import loss_ablation as plots
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.loss_ablation import loss_values


def test_losses_of_a_worked_example_by_hand():
    truth = np.array([[True, False], [False, False]])
    probabilities = np.array([[0.6, 0.1], [0.1, 0.1]])
    table = loss_values(truth, probabilities)
    assert table.at["bce", "this answer"] == pytest.approx(-(np.log(0.6) + 3 * np.log(0.9)) / 4, rel=1e-5)
    assert table.at["bce", "no nodule"] == pytest.approx(-np.log(1e-4) / 4, rel=1e-3)
    assert (table["perfect"] <= table[["this answer", "no nodule", "all nodule"]].min(axis=1)).all()


def test_a_worked_example_writes_every_number():
    truth = np.eye(3, dtype=bool)
    figure = plots.worked_example(truth, np.full((3, 3), 0.25))
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.25"] * 9
    assert len(plots.border_weights(np.zeros((3, 3), np.uint8), truth, np.ones((3, 3))).axes) == 3


def test_the_plane_and_the_sweep_show_every_loss():
    values = [Estimate(value, value - 0.1, value + 0.1, 60, 30) for value in (0.5, 0.7)]
    estimates = pd.DataFrame({"sensitivity": values, "precision": values[::-1]}, index=["bce", "tversky"])
    plane = plots.plane(estimates, {"sensitivity": "across", "precision": "up"})
    assert [text.get_text() for text in plane.legends[0].get_texts()] == ["bce", "tversky"]
    dots = [line.get_data() for line in plane.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert {(float(x[0]), float(y[0])) for x, y in dots} == {(0.5, 0.7), (0.7, 0.5)}
    swept = plots.sweep(estimates, [0.3, 0.7], estimates.iloc[0]).axes[0]
    assert swept.lines[0].get_ydata().tolist() == [0.5, 0.7] and set(swept.lines[1].get_ydata()) == {0.5}
