"""Overlap, area and lesions by hand, against scikit-learn and scipy, per image and pooled."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies
from scipy import ndimage
from sklearn import metrics as reference

from thyroid_utils.scores.masks import (
    COUNTS,
    OVERLAP_SCORES,
    SEGMENTATION_SCORES,
    binarise,
    lesion_scores,
    overlap_scores,
    pixel_counts,
    segmentation_scores,
    segmentation_table,
)
from thyroid_utils.scores.surface import surface_scores

# N: nodule, P: predicted, B: both, of 4 × 5 pixels: TP 3, FP 2, FN 1, TN 14.
PICTURE = ["..NBP", "...BP", "...B.", "....."]
TRUTH = np.array([[pixel in "NB" for pixel in row] for row in PICTURE])
PREDICTION = np.array([[pixel in "PB" for pixel in row] for row in PICTURE])
NAN = math.nan


def random_masks(seed: int, shape=(30, 41), share=0.2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=shape), 3)
    truth = noise > np.quantile(noise, 1 - share)
    return truth, truth ^ (random.random(shape) < 0.1)


def part(rows: slice, columns: slice, shape=(20, 30)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def test_a_picture_by_hand():
    assert pixel_counts(TRUTH, PREDICTION) == dict(zip(COUNTS, (3, 2, 1, 14), strict=True))
    scores = segmentation_scores(TRUTH, PREDICTION, spacing=0.1)
    expected = {
        "dice": 6 / 9,
        "iou": 3 / 6,
        "sensitivity": 3 / 4,
        "specificity": 14 / 16,
        "precision": 3 / 5,
        "pixel_accuracy": 17 / 20,
        "b_iou": 14 / 17,
        "n_iou": 3 / 6,
        "miou": (14 / 17 + 3 / 6) / 2,
        "class_mean_f1": (28 / 31 + 6 / 9) / 2,
        # Every pixel is outline, three are shared; one of the truth and two of the prediction are 1 from the other outline.
        # 95th percentiles: position 2.85 of 0 0 0 1, and 3.8 of 0 0 0 1 1.
        "hd95": 1.0,
        "assd": 3 / 9,
        "nsd": 1.0,
        "hd95_mm": 0.1,
        "assd_mm": 0.3 / 9,
        "nsd_mm": 1.0,
        "area_error": 1 / 4,
        "lesions_found": 1,
        "lesions_missed": 0,
        "lesions_false": 0,
    }
    assert scores == pytest.approx(expected, rel=1e-12) and list(scores) == list(SEGMENTATION_SCORES)
    without = segmentation_scores(TRUTH, PREDICTION)
    assert all(math.isnan(without[name]) for name in ("hd95_mm", "assd_mm", "nsd_mm")) and without["hd95"] == 1


def test_lengths_in_pixels_and_in_mm_have_their_own_tolerance():
    truth, prediction = part(slice(5, 10), slice(5, 10)), part(slice(5, 10), slice(8, 13))
    scores = segmentation_scores(truth, prediction, (0.2, 0.5))
    assert scores["nsd"] == surface_scores(truth, prediction, None, 2)["nsd"] < 1
    assert scores["nsd_mm"] == surface_scores(truth, prediction, (0.2, 0.5), 1)["nsd"] < 1
    assert scores["hd95_mm"] == surface_scores(truth, prediction, (0.2, 0.5))["hd95"]


NODULE, ELSEWHERE, NOTHING = part(slice(2, 6), slice(2, 7)), part(slice(10, 15), slice(12, 22)), np.zeros((20, 30), bool)
DIAGONAL, DIAGONAL_MM = math.hypot(20, 30), math.hypot(20 * 0.1, 30 * 0.2)


@pytest.mark.parametrize(
    ("truth", "prediction", "presence", "expected"),
    [
        (NODULE, NODULE, "both", {
            "dice": 1, "iou": 1, "n_iou": 1, "sensitivity": 1, "specificity": 1, "precision": 1, "pixel_accuracy": 1, "b_iou": 1,
            "miou": 1, "class_mean_f1": 1, "hd95": 0, "assd": 0, "nsd": 1, "hd95_mm": 0, "assd_mm": 0, "nsd_mm": 1,
            "area_error": 0, "lesions_found": 1, "lesions_missed": 0, "lesions_false": 0,
        }),
        (NODULE, NOTHING, "missed", {
            "dice": 0, "iou": 0, "n_iou": 0, "sensitivity": 0, "specificity": 1, "precision": NAN, "pixel_accuracy": 580 / 600,
            "b_iou": 580 / 600, "miou": 290 / 600, "class_mean_f1": 580 / 1180, "hd95": DIAGONAL, "assd": DIAGONAL, "nsd": 0,
            "hd95_mm": DIAGONAL_MM, "assd_mm": DIAGONAL_MM, "nsd_mm": 0, "area_error": -1,
            "lesions_found": 0, "lesions_missed": 1, "lesions_false": 0,
        }),
        (NOTHING, ELSEWHERE, "false alarm", {
            "dice": 0, "iou": 0, "n_iou": 0, "sensitivity": NAN, "specificity": 550 / 600, "precision": 0,
            "pixel_accuracy": 550 / 600, "b_iou": 550 / 600, "miou": 275 / 600, "class_mean_f1": 550 / 1150,
            "hd95": DIAGONAL, "assd": DIAGONAL, "nsd": 0, "hd95_mm": DIAGONAL_MM, "assd_mm": DIAGONAL_MM, "nsd_mm": 0,
            "area_error": NAN, "lesions_found": 0, "lesions_missed": 0, "lesions_false": 1,
        }),
        (NOTHING, NOTHING, "neither", {
            **dict.fromkeys(SEGMENTATION_SCORES, NAN), "lesions_found": 0, "lesions_missed": 0, "lesions_false": 0,
        }),
    ],
    ids=["both", "missed", "false alarm", "neither"],
)  # fmt: skip
def test_the_four_cases(truth, prediction, presence, expected):
    assert segmentation_scores(truth, prediction, (0.1, 0.2)) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert segmentation_table([(truth, prediction)], ["a"], [None])["presence"].tolist() == [presence]


def test_an_image_full_of_nodule():
    full, half = np.ones((4, 6), bool), np.arange(24).reshape(4, 6) < 12
    right = segmentation_scores(full, full)
    assert right["dice"] == right["miou"] == right["class_mean_f1"] == 1, "a background that neither holds is left out"
    assert math.isnan(right["b_iou"]) and math.isnan(right["specificity"])
    assert segmentation_scores(full, half)["miou"] == pytest.approx((0.5 + 0) / 2)


def test_a_one_pixel_nodule_at_the_border():
    truth = part(slice(0, 1), slice(29, 30))
    missed_by_one = segmentation_scores(truth, part(slice(1, 2), slice(29, 30)))
    assert missed_by_one["dice"] == 0 and missed_by_one["hd95"] == 1 and missed_by_one["lesions_missed"] == 1
    assert segmentation_scores(truth, truth)["dice"] == 1


@pytest.mark.parametrize("seed", range(6))
def test_overlap_is_scikit_learns(seed):
    truth, prediction = random_masks(seed, (23 + seed, 31))
    flat = truth.ravel(), prediction.ravel()
    scores = segmentation_scores(truth, prediction)
    expected = {
        "dice": reference.f1_score(*flat),
        "iou": reference.jaccard_score(*flat),
        "sensitivity": reference.recall_score(*flat),
        "specificity": reference.recall_score(*flat, pos_label=0),
        "precision": reference.precision_score(*flat),
        "pixel_accuracy": reference.accuracy_score(*flat),
        "b_iou": reference.jaccard_score(*flat, pos_label=0),
        "n_iou": reference.jaccard_score(*flat),
        "miou": reference.jaccard_score(*flat, average="macro"),
        "class_mean_f1": reference.f1_score(*flat, average="macro"),
    }
    assert {name: scores[name] for name in OVERLAP_SCORES} == pytest.approx(expected, rel=1e-12)
    (tn, fp), (fn, tp) = reference.confusion_matrix(*flat)
    assert tuple(pixel_counts(truth, prediction).values()) == (tp, fp, fn, tn)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(strategies.lists(strategies.integers(0, 1000), min_size=4, max_size=4))
def test_what_holds_for_any_counts(counts):
    scores = {name: float(value) for name, value in overlap_scores(*counts).items()}
    tp, fp, fn, tn = counts
    if tp + fp + fn == 0:
        assert all(math.isnan(value) for value in scores.values())
        return
    assert all(math.isnan(value) or 0 <= value <= 1 for value in scores.values())
    assert scores["dice"] == pytest.approx(2 * scores["iou"] / (1 + scores["iou"]), rel=1e-12)
    assert scores["iou"] <= scores["dice"] <= 1 and scores["n_iou"] == scores["iou"]
    sensitivity, precision = scores["sensitivity"], scores["precision"]
    if tp:
        assert scores["dice"] == pytest.approx(2 * sensitivity * precision / (sensitivity + precision), rel=1e-12)
    # Background for nodule: what belongs to the one belongs to the other.
    swapped = overlap_scores(tn, fn, fp, tp)
    if tn + fn + fp:
        assert swapped["n_iou"] == pytest.approx(scores["b_iou"], nan_ok=True)
        assert swapped["class_mean_f1"] == pytest.approx(scores["class_mean_f1"], nan_ok=True)


def test_counts_are_pooled_by_their_sum():
    """A large nodule found (Dice 1) and a small one missed (Dice 0): 0.5 a mean, 2·100 / (2·100 + 10) pooled."""
    counts = np.array([[100, 0], [0, 0], [0, 10], [300, 390]])
    assert overlap_scores(*counts.sum(axis=1))["dice"] == pytest.approx(200 / 210)
    assert np.mean(overlap_scores(*counts)["dice"]) == 0.5
    masks = [random_masks(seed, (20, 20 + seed)) for seed in range(5)]
    pooled = overlap_scores(**pd.DataFrame([pixel_counts(*pair) for pair in masks]).sum())
    joined = segmentation_scores(*(np.concatenate([pair[side].ravel() for pair in masks])[None] for side in (0, 1)))
    assert pooled == pytest.approx({name: joined[name] for name in OVERLAP_SCORES}, rel=1e-12)


def test_lesions_by_hand():
    truth = part(slice(0, 5), slice(0, 4)) | part(slice(10, 12), slice(10, 15)) | part(slice(15, 16), slice(25, 26))
    prediction = (
        part(slice(0, 1), slice(0, 2))  # 2 of 20 pixels of the first: a tenth
        | part(slice(12, 20), slice(9, 16))  # beside the second
        | part(slice(15, 16), slice(25, 30))  # the third, and four pixels beyond it: a fifth lies on the truth
        | part(slice(0, 2), slice(20, 22))  # nowhere
    )
    assert lesion_scores(truth, prediction) == {"lesions_found": 2, "lesions_missed": 1, "lesions_false": 2}


def test_a_share_at_the_overlap_is_enough():
    """3 of 30 pixels: 0.1 · 30 is 3.0000000000000004."""
    truth = part(slice(0, 1), slice(0, 30))
    assert lesion_scores(truth, part(slice(0, 1), slice(0, 3)))["lesions_found"] == 1
    assert lesion_scores(truth, part(slice(0, 1), slice(0, 2)))["lesions_found"] == 0


def test_corners_join_a_lesion_and_one_part_may_find_two():
    corner = part(slice(2, 4), slice(2, 4)) | part(slice(4, 6), slice(4, 6))
    assert lesion_scores(corner, NOTHING)["lesions_missed"] == 1
    two = part(slice(2, 6), slice(2, 6)) | part(slice(2, 6), slice(8, 12))
    bridged = part(slice(2, 6), slice(2, 12))
    assert lesion_scores(two, bridged) == {"lesions_found": 2, "lesions_missed": 0, "lesions_false": 0}
    assert lesion_scores(bridged, two) == {"lesions_found": 1, "lesions_missed": 0, "lesions_false": 0}


@pytest.mark.parametrize("seed", range(5))
def test_lesions_against_scipys_labels(seed):
    truth, prediction = random_masks(seed, (50, 60), 0.15)
    labels, count = ndimage.label(truth, np.ones((3, 3)))
    called, parts = ndimage.label(prediction, np.ones((3, 3)))
    found = sum(prediction[labels == number].mean() >= 0.1 for number in range(1, count + 1))
    false = sum(truth[called == number].mean() < 0.1 for number in range(1, parts + 1))
    assert count > 1 and parts > count
    assert tuple(lesion_scores(truth, prediction).values()) == (found, count - found, false)


def test_the_table_holds_every_image():
    truths = [NODULE, NODULE, NOTHING, NOTHING, TRUTH]
    predictions = [NODULE, NOTHING, ELSEWHERE, NOTHING, PREDICTION]
    done, spacings = [], [0.1, (0.1, 0.2), None, 0.1, 0.1]
    pairs = zip(truths, predictions, strict=True)
    table = segmentation_table(pairs, list("abcde"), spacings, progress=lambda *step: done.append(step))
    assert list(table.columns) == [*SEGMENTATION_SCORES, *COUNTS, "presence"] and table.index.tolist() == list("abcde")
    assert table["presence"].tolist() == ["both", "missed", "false alarm", "neither", "both"]
    assert done == [(number, 5) for number in range(1, 6)]
    alone = segmentation_scores(TRUTH, PREDICTION, 0.1)
    assert table.loc["e", list(SEGMENTATION_SCORES)].to_dict() == pytest.approx(alone)
    assert table["hd95_mm"].notna().tolist() == [True, True, False, False, True]


def test_images_of_mixed_and_odd_sizes():
    sizes = [(233, 317), (7, 5), (1, 1), (64, 64)]
    table = segmentation_table(((np.ones(size, bool),) * 2 for size in sizes), range(4), [None] * 4)
    assert (table["dice"] == 1).all() and (table["hd95"] == 0).all()


def test_a_refused_image_is_named():
    with pytest.raises(ValueError, match=r"^ddti/7: pixel_counts: truth is 20 × 30 pixels and prediction 4 × 5"):
        segmentation_table([(NODULE, NODULE), (NODULE, PREDICTION)], ["ddti/6", "ddti/7"], [None] * 2)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ((TRUTH, PREDICTION.T), "segmentation_scores: truth is 4 × 5 pixels and prediction 5 × 4; bring both to one size"),
        ((TRUTH * 255, PREDICTION), "truth holds 255; expected two levels, 0 and 1"),
        ((TRUTH, np.where(PREDICTION, np.nan, 0.0)), "prediction holds nan; expected two levels"),
        ((TRUTH[None], PREDICTION[None]), r"truth has shape \(1, 4, 5\); expected a mask"),
        ((TRUTH[:0], PREDICTION[:0]), "with at least one pixel"),
    ],
)
def test_impossible_masks_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        segmentation_scores(*masks)


def test_binarise():
    assert binarise(np.array([[0.2, 0.5], [0.49, 1.0]], np.float32)).tolist() == [[False, True], [False, True]]
    assert binarise(np.array([0.2, 0.5]), 0.2).tolist() == [True, True]
    assert binarise(np.zeros((0, 4, 4))).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="binarise: 1 of 2 probabilities are NaN; the model's training has failed"):
        binarise(np.array([np.nan, 0.5]))
    with pytest.raises(ValueError, match=r"binarise: probabilities span -2 to 3; expected \[0, 1\], not logits"):
        binarise(np.array([-2.0, 3.0]))
    for threshold in (math.nan, 1.5):
        with pytest.raises(ValueError, match="binarise: threshold is"):
            binarise(np.zeros(2), threshold)
