"""Paper 002's faulty evaluation by hand, against the paper's own steps and beside the right one."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from sklearn import metrics as reference
from test_masks import NODULE, part, random_masks
from thyroid_utils.studies.faulty_002 import compare_with_faulty_002, faulty_002_labels, faulty_002_scores


def test_the_faulty_evaluation_by_hand():
    """A 2 × 2 nodule in 4 × 4, enlarged to 8 × 8 and compared with 0: the right 4 × 4 pixels and one row and column around."""
    truth = part(slice(1, 3), slice(1, 3), (4, 4))
    prediction = part(slice(2, 6), slice(2, 6), (8, 8))
    faulty = faulty_002_scores([truth], [prediction], size=8)
    grown = 36
    assert faulty["n_iou"] == pytest.approx(16 / grown) and faulty["b_iou"] == pytest.approx((64 - grown) / (64 - 16))
    assert faulty["miou"] == pytest.approx((16 / 36 + 28 / 48) / 2)
    assert faulty["pixel_accuracy"] == pytest.approx((16 + 28) / 64)
    assert faulty["class_mean_f1"] == pytest.approx((2 * 16 / 52 + 2 * 28 / 76) / 2)
    # TN "wrongly determined" is FP, here 0: (16 + 0) / (16 + 0 + 0 + 20).
    assert faulty["pixel_accuracy_as_defined"] == pytest.approx(16 / 36) and faulty["skipped"] == 0
    both = compare_with_faulty_002([truth], [prediction], size=8)
    assert both["corrected"].to_dict() == {
        "b_iou": 1, "n_iou": 1, "miou": 1, "pixel_accuracy": 1, "class_mean_f1": 1, "pixel_accuracy_as_defined": 1,
    }  # fmt: skip
    assert both.loc["n_iou", "difference"] == pytest.approx(16 / 36 - 1)


def test_the_faulty_evaluation_is_the_papers_code():
    """Its steps once more with its own means: an image of three channels, OpenCV's default resize, a histogram of pairs."""
    masks = [random_masks(seed, (90, 110)) for seed in range(4)]
    predictions = [cv2.resize(prediction.astype(np.uint8), (64, 64)) > 0 for _, prediction in masks]
    predictions[2] = predictions[2][:, :-1]
    pairs = []
    for (truth, _), prediction in zip(masks, predictions, strict=True):
        label, image = np.repeat(255 * truth[..., None].astype(np.uint8), 3, axis=2), np.repeat(prediction[..., None], 3, axis=2)
        label = cv2.resize(label, (64, 64))
        if label.size == image.size:
            pairs.append(np.stack([label.ravel() != 0, image.ravel()]))
    truth, prediction = np.concatenate(pairs, axis=1)
    faulty = faulty_002_scores([truth for truth, _ in masks], predictions, size=64)
    assert len(pairs) == 3 and faulty["skipped"] == 1
    assert faulty["b_iou"] == pytest.approx(reference.jaccard_score(truth, prediction, pos_label=0))
    assert faulty["n_iou"] == pytest.approx(reference.jaccard_score(truth, prediction))
    assert faulty["pixel_accuracy"] == pytest.approx(reference.accuracy_score(truth, prediction))
    assert faulty["class_mean_f1"] == pytest.approx(reference.f1_score(truth, prediction, average="macro"))


def test_the_comparison_shows_the_growth_whatever_the_sizes():
    truths = [random_masks(0, (100, 100))[0], random_masks(1, (60, 140))[0]]
    both = compare_with_faulty_002(truths, truths, size=150)
    assert list(both.columns) == ["corrected", "faulty", "difference"] and np.isfinite(both.to_numpy()).all()
    assert both.at["n_iou", "corrected"] == 1 and both.at["n_iou", "difference"] < -0.02
    assert both.at["pixel_accuracy_as_defined", "corrected"] == both.at["pixel_accuracy", "corrected"]
    assert both.at["pixel_accuracy_as_defined", "faulty"] < both.at["pixel_accuracy", "faulty"]
    alone = compare_with_faulty_002(truths[:1], truths[:1], size=100)
    assert alone.at["n_iou", "difference"] == 0, "at its own size a label is not resized, and nothing grows"


def test_the_faulty_evaluation_of_nothing():
    skipped = faulty_002_scores([NODULE], [NODULE], size=8)
    assert skipped["skipped"] == 1 and math.isnan(skipped["n_iou"]) and math.isnan(skipped["class_mean_f1"])
    with pytest.raises(ValueError, match="2 truths and 1 predictions"):
        faulty_002_scores([NODULE, NODULE], [NODULE])
    with pytest.raises(ValueError, match="no pair of masks"):
        compare_with_faulty_002([], [])


def test_white_becomes_background_in_8_bits():
    image = np.repeat(255 * NODULE[..., None].astype(np.uint8), 3, axis=2)
    assert not faulty_002_labels(image).any()
    wide = image.astype(int)
    assert ((wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2] == 16777215) == NODULE).all(), "as it is meant"
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(OverflowError):
            image[..., 0] * 65536
