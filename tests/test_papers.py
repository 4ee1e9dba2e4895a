"""The papers' numbers against each other's arithmetic."""

from __future__ import annotations

import pandas as pd
import pytest

from thyroid_utils.models.losses.classification import CLASSIFICATION_LOSSES
from thyroid_utils.models.losses.segmentation import SEGMENTATION_LOSSES
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.labels import SCORES, Counted
from thyroid_utils.studies.papers import PAPERS, beside_reported, reported_scores, whole_counts

RANGE = {"images": range(600, 720), "prevalence": (0.35, 0.65)}


def wide(task: str):
    table = reported_scores(task)
    compared = table["paper"].eq("003") & table["loss"].eq("bce")  # the one second loss of a model
    return table[~compared].pivot(index=["paper", "model"], columns="score", values="value")


def test_every_number_is_a_share_with_its_basis():
    for task in ("classification", "segmentation"):
        table = reported_scores(task)
        assert table["value"].between(0.3, 1).all() and not table[["data", "split", "why_not"]].eq("").any().any()
        assert not table.duplicated(["paper", "model", "loss", "score"]).any()
        assert set(table["paper"]) <= {*PAPERS, "TN3K"}
        known = CLASSIFICATION_LOSSES if task == "classification" else SEGMENTATION_LOSSES
        assert set(table["loss"]) <= {*known, ""}
        untold = table["paper"].eq("TN3K") | (table["paper"].eq("003") & table["model"].ne("mobile_deeplab"))
        assert (table["loss"].eq("") == untold).all()
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


def test_paper_003_by_loss_and_what_tversky_gains():
    table = reported_scores("segmentation").query("paper == '003' and model == 'mobile_deeplab'")
    by_loss = table.pivot(index="score", columns="loss", values="value")
    gain = by_loss["tversky"] - by_loss["bce"]
    assert gain.round(4).to_dict() == {
        "dice": 0.0002, "iou": 0.0003, "sensitivity": 0.0177, "specificity": -0.0033, "pixel_accuracy": -0.0003
    }  # fmt: skip
    assert by_loss.loc["sensitivity"].to_dict() == {"bce": 0.966, "tversky": 0.9837}
    bce = by_loss["bce"]
    assert 2 * bce["iou"] / (1 + bce["iou"]) == pytest.approx(bce["dice"], abs=2e-4)
    assert bce["sensitivity"] <= bce["pixel_accuracy"] <= bce["specificity"], "Tversky's alone is impossible"
    assert table.loc[table["remark"].ne(""), ["loss", "score"]].values.tolist() == [["tversky", "pixel_accuracy"]]


def test_paper_003_by_method():
    table = reported_scores("segmentation").query("paper == '003' and score == 'iou' and loss != 'bce'").set_index("model")
    assert table["value"].to_dict() == {
        "mobile_deeplab": 0.9437, "fcn8s": 0.8990, "unet": 0.9372, "deeplabv3plus_xception": 0.9420
    }  # fmt: skip
    assert table.at["unet", "remark"] == "U-Net; 0.9437 less the 0.65 points that the text says it is behind"
    assert set(table.index) - {"mobile_deeplab"} <= set(SEGMENTERS)


def test_one_division_of_the_classes_explains_all_of_paper_000s_table():
    table = wide("classification").loc["000"]
    divisions = []
    for model, row in table.iterrows():
        scores = tuple(row[["accuracy", "precision", "sensitivity", "f1"]])
        found = whole_counts(**RANGE, scores=scores)
        assert found, model
        for counts in found:
            table = Counted(*counts)
            assert [round(float(table.score(name)), 4) for name in ("accuracy", "precision", "sensitivity", "f1")] == list(scores)
        divisions.append({(tp + fn, fp + tn) for tp, fp, fn, tn in found})
    assert set.intersection(*divisions) == {(329, 329)}


def test_counts_that_no_table_has_are_not_found():
    assert whole_counts(range(10, 20), (0.4, 0.6), (0.9999, 0.5, 0.5, 0.5)) == []
    assert (3, 1, 2, 4) in whole_counts(range(10, 11), (0.5, 0.5), (0.7, 0.75, 0.6, 0.6667))


def test_ours_stand_beside_the_reported_ones_with_the_reason_against_comparing():
    estimates = pd.DataFrame({"auc": [Estimate(0.7, 0.6, 0.8, 100, 80)] * 2}, index=["resnet18", "convnext_tiny"])
    beside = beside_reported(estimates, "classification")
    assert beside[["model", "loss", "score", "reported", "paper", "here"]].values.tolist() == [
        ["resnet18", "focal", "auc", 0.997, "001", "0.700 [0.600, 0.800]"]
    ]
    assert "here_pooled" not in beside
    assert "no validation set" in beside["why not comparable"].iloc[0]
    assert beside_reported(estimates.loc[["convnext_tiny"]], "classification").empty


def test_pooled_figures_stand_beside_the_means_over_images():
    estimate, together = Estimate(0.7, 0.6, 0.8, 100, 80), Estimate(0.65, 0.6, 0.7, 100, 80)
    estimates = pd.DataFrame({"iou": [estimate] * 2, "dice": [estimate] * 2}, index=["unet", "mobile_deeplab"])
    pooled = pd.DataFrame({"iou": [together]}, index=["unet"])
    beside = beside_reported(estimates, "segmentation", pooled)
    assert list(beside) == [
        "model", "loss", "score", "reported", "paper", "here", "here_pooled", "reported on", "why not comparable"
    ]  # fmt: skip
    assert (beside["here"] == "0.700 [0.600, 0.800]").all()
    known = beside["model"].eq("unet") & beside["score"].eq("iou")
    assert beside["here_pooled"].tolist() == ["0.650 [0.600, 0.700]" if here else "" for here in known]
    assert set(beside.loc[known, "paper"]) == {"000", "002", "003", "TN3K"}
    ours = beside[beside["model"].eq("mobile_deeplab")]
    assert ours[["loss", "score", "reported"]].values.tolist() == [
        ["tversky", "dice", 0.971], ["tversky", "iou", 0.9437], ["bce", "dice", 0.9708], ["bce", "iou", 0.9434]
    ]  # fmt: skip
    pd.testing.assert_frame_equal(beside.drop(columns="here_pooled"), beside_reported(estimates, "segmentation"))
