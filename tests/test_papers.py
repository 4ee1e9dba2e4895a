"""The papers' numbers against each other's arithmetic."""

from __future__ import annotations

import pandas as pd
import pytest

from thyroid_utils.metrics import SCORES, scores_from_counts
from thyroid_utils.papers import PAPERS, beside_reported, reported_scores, whole_counts
from thyroid_utils.statistics import Estimate

RANGE = {"images": range(600, 720), "prevalence": (0.35, 0.65)}


def wide(task: str):
    return reported_scores(task).pivot(index=["paper", "model"], columns="score", values="value")


def test_every_number_is_a_share_with_its_basis():
    for task in ("classification", "segmentation"):
        table = reported_scores(task)
        assert table["value"].between(0.3, 1).all() and not table[["data", "split", "why_not"]].eq("").any().any()
        assert not table.duplicated(["paper", "model", "score"]).any()
        assert set(table["paper"]) <= {*PAPERS, "TN3K"}
    assert set(reported_scores("classification")["score"]) <= set(SCORES)
    with pytest.raises(ValueError, match="expected classification or segmentation"):
        reported_scores("detection")


def test_precision_and_sensitivity_give_the_f1_reported():
    table = wide("classification").dropna()
    f1 = 2 * table["precision"] * table["sensitivity"] / (table["precision"] + table["sensitivity"])
    # Both are rounded to four decimals (three in 001), which moves F1 by as much at most, and F1 is rounded once more.
    assert (f1 - table["f1"]).abs().max() < 1.6e-3
    assert 2 * 0.997 * 0.978 / (0.997 + 0.978) > 0.987, "001's other precision does not fit its F1"


def test_iou_and_dice_of_paper_002_and_003_agree():
    table = wide("segmentation")
    pooled = table.loc[("002", "unet"), "iou"]
    assert 2 * pooled / (1 + pooled) == pytest.approx(0.760, abs=5e-4)
    ours = table.loc[("003", "mobile_deeplab")]
    assert 2 * ours["iou"] / (1 + ours["iou"]) == pytest.approx(ours["dice"], abs=1e-4)
    assert not ours["sensitivity"] <= ours["pixel_accuracy"] <= ours["specificity"], "which is what makes it impossible"


def test_one_division_of_the_classes_explains_all_of_paper_000s_table():
    table = wide("classification").loc["000"]
    divisions = []
    for model, row in table.iterrows():
        scores = tuple(row[["accuracy", "precision", "sensitivity", "f1"]])
        found = whole_counts(**RANGE, scores=scores)
        assert found, model
        for counts in found:
            computed = scores_from_counts(*counts)
            assert [round(float(computed[name]), 4) for name in ("accuracy", "precision", "sensitivity", "f1")] == list(scores)
        divisions.append({(tp + fn, fp + tn) for tp, fp, fn, tn in found})
    assert set.intersection(*divisions) == {(329, 329)}


def test_counts_that_no_table_has_are_not_found():
    assert whole_counts(range(10, 20), (0.4, 0.6), (0.9999, 0.5, 0.5, 0.5)) == []
    assert (3, 1, 2, 4) in whole_counts(range(10, 11), (0.5, 0.5), (0.7, 0.75, 0.6, 0.6667))


def test_ours_stand_beside_the_reported_ones_with_the_reason_against_comparing():
    estimates = pd.DataFrame({"auc": [Estimate(0.7, 0.6, 0.8, 100, 80)] * 2}, index=["resnet18", "convnext_tiny"])
    beside = beside_reported(estimates, "classification")
    assert beside[["model", "score", "reported", "paper", "here"]].values.tolist() == [
        ["resnet18", "auc", 0.997, "001", "0.700 [0.600, 0.800]"]
    ]
    assert "no validation set" in beside["why not comparable"].iloc[0]
    assert beside_reported(estimates.loc[["convnext_tiny"]], "classification").empty
