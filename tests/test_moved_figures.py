"""Figures whose values a reader moves: what they say of values worked out by hand."""

import re

import numpy as np
import pandas as pd
import pytest
from drawn import dots, texts, titles

from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom import simulate_view
from thyroid_utils.plots.classifier_comparison import threshold_moved
from thyroid_utils.plots.data_exploration import phantom_traits
from thyroid_utils.plots.preprocessing import steps_on_and_off
from thyroid_utils.plots.segmenter_comparison import dragged_apart

FOUR = pd.DataFrame({"label": [0, 0, 0, 1, 1], "probability": [0.1, 0.2, 0.6, 0.4, 0.9]})


@pytest.mark.parametrize(
    ("threshold", "rates", "counts", "thousand", "values"),
    [
        (0.5, (1 / 3, 0.5), "2 1 1 1", "600 300 50 50", "PPV 0.14, NPV 0.92"),  # 50 of 350, 600 of 650
        (0.4, (1 / 3, 1), "2 1 0 2", "600 300 0 100", "PPV 0.25, NPV 1.00"),
        (0.95, (0, 0), "3 0 2 0", "900 0 100 0", "PPV –, NPV 0.90"),
    ],
)
def test_a_threshold_moves_the_point_the_counts_and_what_a_call_is_worth(threshold, rates, counts, thousand, values):
    figure = threshold_moved(FOUR, threshold, 0.1)
    curve, *matrices = figure.axes
    assert dots(curve) == [pytest.approx(rates[0])] and f"sensitivity {rates[1]:.2f}" in titles(figure)[0]
    assert [" ".join(text.get_text() for text in place.texts) for place in matrices] == [counts, thousand]
    assert values in texts(figure)


@pytest.mark.parametrize(
    ("moved", "told"),
    [
        ((0, 0, 0), "TP 100, FP 0, FN 0 = 200 / 200 = 1.00 = 100 / 100 = 1.00"),
        ((5, 0, 0), "TP 50, FP 50, FN 50 = 100 / 200 = 0.50 = 50 / 150 = 0.33"),
        ((0, -10, 0), "TP 0, FP 100, FN 100 = 0 / 200 = 0.00 = 0 / 200 = 0.00"),
        ((0, 0, 1), "TP 100, FP 40, FN 0 = 200 / 240 = 0.83 = 100 / 140 = 0.71"),
        ((0, 0, -1), "TP 64, FP 0, FN 36 = 128 / 164 = 0.78 = 64 / 100 = 0.64"),
    ],
)
def test_a_square_of_100_pixels_is_dragged_away_from_itself(moved, told):
    truth = np.zeros((40, 40), bool)
    truth[15:25, 15:25] = True
    below = dragged_apart(np.zeros((40, 40), np.uint8), truth, *moved).axes[1].get_xlabel()
    assert " ".join(re.findall(r"TP \d+, FP \d+, FN \d+|= \d+ / .*", below)) == told


def test_a_step_that_is_on_changes_the_second_picture_and_its_contrast(tmp_path):
    frame = simulate_view(3, size=128)
    row = pd.Series({name: str(write_png(tmp_path / f"{name}.png", getattr(frame, kind)))
                     for name, kind in (("image", "image"), ("mask", "nodule"))})  # fmt: skip
    off, on = (steps_on_and_off(row, crop_echo=False, gaussian=wanted) for wanted in (False, True))
    (before, same), (left, right) = ([place.images[0].get_array() for place in figure.axes[:2]] for figure in (off, on))
    assert (before == same).all() and (before == left).all() and right.std() < left.std()
    assert "after no step" in texts(off) and "after gaussian" in texts(on) and "crop_echo" not in texts(on)
    told = re.findall(r"generalised CNR ([\d.]+)", texts(on))
    assert float(told[1]) > float(told[0]), "smoothing parts the histograms"


def test_traits_change_the_nodule_in_one_and_the_same_neck():
    usual, bright, lobed, louder = (
        simulate_view(3, size=128, gain=gain, traits=traits)
        for gain, traits in ((0, None), (0, {"echogenicity": "hyperechoic"}), (0, {"margin": "lobulated"}), (6, None))
    )
    for other in (bright, louder):
        assert (other.nodule == usual.nodule).all()
    inside = [frame.image[usual.nodule].mean() for frame in (usual, bright, louder)]
    assert inside[1] > inside[0] + 20 and inside[2] > inside[0] + 10
    assert (bright.stages["echogenicity"] == usual.stages["echogenicity"])[:20].all()
    assert (louder.stages["echogenicity"] == usual.stages["echogenicity"]).all()
    assert (lobed.nodule != usual.nodule).any() and 0.7 < lobed.nodule.sum() / usual.nodule.sum() < 1.4
    first, second = (titles(phantom_traits("hypoechoic", margin)) for margin in ("smooth", "lobulated"))
    assert "TR4, P = 0.15" in first and "TR4, P = 0.84" in second
