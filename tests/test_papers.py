"""The papers' numbers against each other's arithmetic."""

import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from thyroid_utils.common import paths
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.labels import SCORES
from thyroid_utils.studies.papers import PAPERS, beside_reported, compare_with_faulty_002, reported_scores


def wide(task: str):
    table = reported_scores(task)
    compared = table["paper"].eq("003") & table["loss"].eq("bce")  # the one second loss of a model
    return table[~compared].pivot(index=["paper", "model"], columns="score", values="value")


def test_reported_numbers_agree_with_each_others_arithmetic_and_papers_are_cited():
    for task in ("classification", "segmentation"):
        table = reported_scores(task)
        assert table["value"].between(0.3, 1).all() and not table[["data", "split", "why_not"]].eq("").any().any()
        assert not table.duplicated(["paper", "model", "loss", "score"]).any()
        assert set(table["paper"]) <= set(PAPERS)
    assert set(reported_scores("classification")["score"]) <= set(SCORES)
    table = wide("classification").dropna()
    f1 = 2 * table["precision"] * table["sensitivity"] / (table["precision"] + table["sensitivity"])
    # Both are rounded to four decimals (three in 001), which moves F1 by as much at most, and F1 is rounded once more.
    assert (f1 - table["f1"]).abs().max() < 1.6e-3
    table = wide("segmentation")
    pooled = table.loc[("002", "unet"), "iou"]
    assert 2 * pooled / (1 + pooled) == pytest.approx(0.760, abs=5e-4)
    ours = table.loc[("003", "mobile_deeplab")]
    assert 2 * ours["iou"] / (1 + ours["iou"]) == pytest.approx(ours["dice"], abs=1e-4)
    assert not ours["sensitivity"] <= ours["pixel_accuracy"] <= ours["specificity"], "which is what makes it impossible"
    table = reported_scores("segmentation").query("paper == '003'")
    by_loss = table[table["model"] == "mobile_deeplab"].pivot(index="score", columns="loss", values="value")
    assert (by_loss["tversky"] - by_loss["bce"]).round(4).to_dict() == {
        "dice": 0.0002, "iou": 0.0003, "sensitivity": 0.0177, "specificity": -0.0033, "pixel_accuracy": -0.0003
    }  # fmt: skip
    bce = by_loss["bce"]
    assert 2 * bce["iou"] / (1 + bce["iou"]) == pytest.approx(bce["dice"], abs=2e-4)
    assert bce["sensitivity"] <= bce["pixel_accuracy"] <= bce["specificity"], "Tversky's alone is impossible"
    others = table[table["loss"] == ""].set_index("model")
    assert others["value"].to_dict() == {"fcn8s": 0.8990, "unet": 0.9372, "deeplabv3plus_xception": 0.9420}
    cited = (paths.project_root() / "CITATION.cff").read_text(encoding="utf-8")
    for number, paper in list(PAPERS.items())[:5]:
        assert f"# paper_{number}: {paper.name}\n" in cited


def test_ours_stand_beside_the_reported_ones_with_the_reason_against_comparing():
    estimate, together = Estimate(0.7, 0.6, 0.8, 100, 80), Estimate(0.65, 0.6, 0.7, 100, 80)
    beside, why = beside_reported(pd.DataFrame({"auc": [estimate] * 2}, index=["resnet18", "convnext_tiny"]), "classification")
    assert beside[["model", "loss", "score", "reported", "paper", "here"]].values.tolist() == [
        ["resnet18", "focal", "auc", 0.997, "Subha Indu and Radha", "0.700 [0.600, 0.800]"]
    ]
    assert why == (
        "- **Subha Indu and Radha**: 508 images of 508 patients, 151 of them test; split 70/30. "
        "Not comparable: another set; no validation set: test chose the epoch."
    )
    nothing, why = beside_reported(pd.DataFrame({"auc": [estimate]}, index=["convnext_tiny"]), "classification")
    assert nothing.empty and why == ""
    estimates = pd.DataFrame({"iou": [estimate] * 2, "dice": [estimate] * 2}, index=["unet", "mobile_deeplab"])
    beside, why = beside_reported(estimates, "segmentation", pd.DataFrame({"iou": [together]}, index=["unet"]))
    known = beside["model"].eq("unet") & beside["score"].eq("iou")
    assert beside["here_pooled"].tolist() == ["0.650 [0.600, 0.700]" if here else "" for here in known]
    papers = {"the TNUS paper", "the TN-SCUI paper", "Yang et al. (2025)", "figures on TN3K"}
    assert set(beside.loc[known, "paper"]) == papers and "remark" not in beside
    lines = why.splitlines()
    assert len(lines) == 5 and all(line.count("Not comparable") == 1 for line in lines), "a reason is said once a paper"
    assert "`unet` (iou): pooled over pixels (n_IoU); a Dice of 0.760." in why
    only, _ = beside_reported(estimates, "segmentation", papers=["000"])
    assert set(only["paper"]) == {"the TNUS paper"}


def blobs(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A mask of a few smooth parts."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return cv2.GaussianBlur(noise, (0, 0), 6) > 0.02


def test_the_faulty_evaluation_by_hand_and_as_the_papers_code():
    """A 2 × 2 nodule in 4 × 4, enlarged to 8 × 8 and compared with 0: the right 4 × 4 pixels and one row and column around."""
    truth, prediction = np.zeros((4, 4), bool), np.zeros((8, 8), bool)
    truth[1:3, 1:3] = prediction[2:6, 2:6] = True
    both = compare_with_faulty_002([truth], [prediction], size=8)
    faulty, grown = both["faulty"], 36
    assert faulty["n_iou"] == pytest.approx(16 / grown) and faulty["b_iou"] == pytest.approx((64 - grown) / (64 - 16))
    assert faulty["miou"] == pytest.approx((16 / 36 + 28 / 48) / 2)
    assert faulty["pixel_accuracy"] == pytest.approx((16 + 28) / 64)
    assert faulty["class_mean_f1"] == pytest.approx((2 * 16 / 52 + 2 * 28 / 76) / 2)
    # TN "wrongly determined" is FP, here 0: (16 + 0) / (16 + 0 + 0 + 20).
    assert faulty["pixel_accuracy_as_defined"] == pytest.approx(16 / 36)
    assert (both["corrected"] == 1).all() and both.loc["n_iou", "difference"] == pytest.approx(16 / 36 - 1)
    # Its steps once more with its own means: an image of three channels, OpenCV's default resize, a histogram of pairs.
    truths = [blobs(seed, (90, 110)) for seed in range(4)]
    predictions = [cv2.resize(blobs(10 + seed, (90, 110)).astype(np.uint8), (64, 64)) > 0 for seed in range(4)]
    pairs = []
    for truth, prediction in zip(truths, predictions, strict=True):
        label, image = np.repeat(255 * truth[..., None].astype(np.uint8), 3, axis=2), np.repeat(prediction[..., None], 3, axis=2)
        pairs.append(np.stack([cv2.resize(label, (64, 64)).ravel() != 0, image.ravel()]))
    truth, prediction = np.concatenate(pairs, axis=1)
    faulty = compare_with_faulty_002(truths, predictions, size=64)["faulty"]
    assert faulty["b_iou"] == pytest.approx(reference.jaccard_score(truth, prediction, pos_label=0))
    assert faulty["n_iou"] == pytest.approx(reference.jaccard_score(truth, prediction))
    assert faulty["pixel_accuracy"] == pytest.approx(reference.accuracy_score(truth, prediction))
    assert faulty["class_mean_f1"] == pytest.approx(reference.f1_score(truth, prediction, average="macro"))


NUMBERED = re.compile(r"[Pp]apers? 00\d|\b00\d's")


WRITTEN = ("notebooks/*.ipynb", "params/*.yaml", "thyroid_utils/**/*.toml", "thyroid_utils/**/*.csv", "README.md")


@pytest.mark.parametrize("place", WRITTEN)
def test_papers_are_named_and_each_reader_meets_the_reference_first(place):
    for file in paths.project_root().glob(place):
        text = file.read_text(encoding="utf-8")
        assert not NUMBERED.search(text), file
        if file.suffix in (".ipynb", ".md"):
            cells = json.loads(text)["cells"] if file.suffix == ".ipynb" else [{"cell_type": "markdown", "source": [text]}]
            prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
            for paper in list(PAPERS.values())[:5]:
                first, told = prose.lower().find(paper.name.removesuffix(" (2025)").lower()), prose.find(paper.reference)
                assert first < 0 or told >= 0, f"{file.name} names {paper.name} without its reference"
