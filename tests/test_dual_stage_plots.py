"""Cards and forests: what they say, and that every kind of finding can be drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn import saved, texts, ticks

from thyroid_utils.data.images import write_png
from thyroid_utils.inference.findings import RESEARCH_ONLY, UNCERTAINTY, Finding
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.plots.dual_stage import doubt_and_dice, finding_cards, measure_lines, variants_forest
from thyroid_utils.scores.estimates import Comparison, Estimate


def finding(case="a", mask=None, shape=(40, 60), spacing=None, **changes) -> Finding:
    frame = np.random.default_rng(0).integers(60, 120, shape).astype(np.uint8)
    if mask is None:
        mask = np.zeros(shape, bool)
        mask[10:22, 20:44] = True
    known = {"frame": frame, "probability": 0.83, "uncalibrated": 0.9, "threshold": 0.4, "called": True, "labels": ("malignant",),
             "map": mask.astype(np.float32), "mask": mask, "attention": np.ones(shape, np.float32), "spacing": spacing,
             "uncertainty": dict.fromkeys(UNCERTAINTY, 0.25), "measures": nodule_measures(mask, frame, spacing)}  # fmt: skip
    return Finding(case, **{**known, **changes})


@pytest.fixture
def cases(tmp_path) -> pd.DataFrame:
    mask = str(write_png(tmp_path / "mask.png", finding().mask))
    return pd.DataFrame({"label": 0, "mask": mask}, index=["a", "seen but bad", "none", "all"])


def test_cards_say_what_was_found_of_every_kind(cases):
    nothing, everything = np.zeros((40, 60), bool), np.ones((40, 60), bool)
    kinds = [
        finding(warnings=("two of them",)),
        finding("seen but bad", error="cannot be prepared " * 6),
        finding("none", nothing, attention=np.zeros((40, 60), np.float32), labels=()),
        finding("all", everything, frame=np.zeros((40, 60, 3), np.uint8)),
    ]
    said = texts(finding_cards(kinds, cases)).replace("masks' Dice\n", "masks' Dice ")
    for part in ("a\nframe", "truth: benign, called malignant", "p(malignant) 0.83, threshold 0.40", "set: malignant",
                 "Dice 0.75", "entropy 0.25", "! two of them", "could not be used", "neither", RESEARCH_ONLY):  # fmt: skip
        assert part in said, part
    saved(finding_cards([finding(error="damaged", frame=None)], cases))
    assert finding_cards([], cases) is None


def test_measures_are_read_in_millimetres_where_known():
    lines = measure_lines(finding(spacing=0.5))
    assert lines[0] == "13.2 × 6.0 mm, area 72.0 mm²"
    assert lines[1] == "height / width 0.50 (not taller than wide)"
    assert measure_lines(finding())[0].endswith("area 288 px")
    assert measure_lines(finding(mask=np.zeros((40, 60), bool))) == []


def test_the_forest_has_a_row_a_variant_and_a_pair():
    value = Estimate(0.8, 0.7, 0.9, 50, 20)
    sure = Estimate(1.0, np.nan, np.nan, 50, 20, note="all resamples agree")
    estimates = pd.DataFrame({"what": ["whole frame (the paper)", "crop by the true mask"], "auc": [value, sure]},
                             index=["frame", "crop_true"])  # fmt: skip
    difference = Comparison(1.0, 0.8, 0.2, np.nan, np.nan, np.nan, 50, 20, note="the variance is 0")
    pairs = pd.DataFrame({"first": ["crop_true"], "second": ["frame"], "auc": [difference], "p_holm": [np.nan], "differs": False})
    figure = variants_forest(estimates, pairs)
    left, right = figure.axes
    assert ticks(left) == list(estimates["what"])
    assert ticks(right) == ["crop by the true mask\n− whole frame"]
    assert "no test" in texts(figure) and "0.800" in texts(figure)


def test_every_image_with_a_class_and_a_mask_is_a_point():
    known = {"wrong": [False, True, None], "label": [0, 1, 0], "probability": [0.1, 0.2, np.nan], "dice": [0.9, 0.7, 0.3]}
    (drawn,) = doubt_and_dice(pd.DataFrame(known), 0.7).axes[0].collections
    assert drawn.get_offsets().tolist() == [[0.1, 0.9], [0.2, 0.7]]
