"""Overlap, area and lesions by hand, against scikit-learn and MONAI, per image and pooled; paper 002's faulty evaluation."""

from __future__ import annotations

import math
import warnings

import cv2
import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies
from scipy import ndimage
from sklearn import metrics as reference

from thyroid_utils.scores.masks import (
    COUNTS,
    LESION_SCORES,
    OVERLAP_SCORES,
    PRESENCE,
    SEGMENTATION_SCORES,
    binarise,
    lesion_scores,
    overlap_scores,
    pixel_counts,
    pooled_scores,
    segmentation_scores,
    segmentation_summary,
    segmentation_table,
)
from thyroid_utils.scores.surface import surface_scores
from thyroid_utils.studies.faulty_002 import compare_with_faulty_002, faulty_002_labels, faulty_002_scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix

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
    scores = segmentation_scores(TRUTH, PREDICTION, spacing=0.1, tolerance=1)
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


def test_the_two_tolerances_and_the_overlap_reach_their_scores():
    truth, prediction = part(slice(5, 10), slice(5, 10)), part(slice(5, 10), slice(8, 13))
    scores = segmentation_scores(truth, prediction, (0.2, 0.5), tolerance=1, tolerance_mm=0.7, overlap=0.5)
    assert scores["nsd"] == surface_scores(truth, prediction, None, 1)["nsd"] < 1
    assert scores["nsd_mm"] == surface_scores(truth, prediction, (0.2, 0.5), 0.7)["nsd"] < 1
    assert scores["hd95_mm"] == surface_scores(truth, prediction, (0.2, 0.5))["hd95"]
    assert (scores["lesions_found"], scores["lesions_missed"], scores["lesions_false"]) == (0, 1, 1)


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
    assert presence in PRESENCE
    assert segmentation_table([truth], [prediction])["presence"].tolist() == [presence]


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


@pytest.mark.parametrize("seed", range(6))
def test_overlap_is_monais(seed):
    truth, prediction = random_masks(seed)
    y, y_pred = (torch.from_numpy(mask)[None, None].float() for mask in (truth, prediction))
    scores = segmentation_scores(truth, prediction)
    matrix = get_confusion_matrix(y_pred, y)
    theirs = {
        "dice": compute_dice(y_pred, y),
        "iou": compute_iou(y_pred, y),
        "sensitivity": compute_confusion_matrix_metric("sensitivity", matrix),
        "specificity": compute_confusion_matrix_metric("specificity", matrix),
        "precision": compute_confusion_matrix_metric("precision", matrix),
        "pixel_accuracy": compute_confusion_matrix_metric("accuracy", matrix),
    }
    for name, value in theirs.items():
        # MONAI counts in float32.
        assert scores[name] == pytest.approx(value.item(), rel=1e-6), name


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


def test_arrays_of_counts_are_scored_at_once():
    counts = np.random.default_rng(0).integers(0, 50, (4, 7, 3))
    counts[:3, 2, 1] = 0
    together = overlap_scores(*counts)
    for place in np.ndindex(7, 3):
        alone = overlap_scores(*counts[(slice(None), *place)])
        for name in OVERLAP_SCORES:
            np.testing.assert_array_equal(together[name][place], alone[name])
    assert list(together) == list(OVERLAP_SCORES) and np.isnan(together["dice"][2, 1])


def test_pooled_by_hand_and_beside_the_mean():
    """A large nodule found (Dice 1) and a small one missed (Dice 0): 0.5 a mean, 2·100 / (2·100 + 10) pooled."""
    assert pooled_scores([100, 0], [0, 0], [0, 10], [300, 390])["dice"] == pytest.approx(200 / 210)
    assert np.mean(overlap_scores([100, 0], [0, 0], [0, 10], [300, 390])["dice"]) == 0.5


def test_pooled_is_one_image_of_all_pixels():
    masks = [random_masks(seed, (20, 20 + seed)) for seed in range(5)]
    counts = pd.DataFrame([pixel_counts(*pair) for pair in masks])
    joined = segmentation_scores(*(np.concatenate([pair[side].ravel() for pair in masks])[None] for side in (0, 1)))
    pooled = pooled_scores(*(counts[name] for name in COUNTS))
    assert pooled == pytest.approx({name: joined[name] for name in OVERLAP_SCORES}, rel=1e-12)


def test_pooling_nothing_is_refused():
    for counts in ([[], [], [], []], [[1], [1], [1], [1, 2]], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match="pooled_scores: counts have shapes"):
            pooled_scores(*counts)
    assert all(math.isnan(value) for value in pooled_scores([0], [0], [0], [50]).values()), "no nodule anywhere"


def test_lesions_by_hand():
    truth = part(slice(0, 5), slice(0, 4)) | part(slice(10, 12), slice(10, 15)) | part(slice(15, 16), slice(25, 26))
    prediction = (
        part(slice(0, 1), slice(0, 2))  # 2 of 20 pixels of the first: a tenth
        | part(slice(12, 20), slice(9, 16))  # beside the second
        | part(slice(15, 16), slice(25, 30))  # the third, and four pixels beyond it: a fifth lies on the truth
        | part(slice(0, 2), slice(20, 22))  # nowhere
    )
    assert lesion_scores(truth, prediction) == {"lesions_found": 2, "lesions_missed": 1, "lesions_false": 2}
    assert lesion_scores(truth, prediction, 0.11) == {"lesions_found": 1, "lesions_missed": 2, "lesions_false": 2}
    assert lesion_scores(truth, prediction, 0.21) == {"lesions_found": 1, "lesions_missed": 2, "lesions_false": 3}
    assert lesion_scores(truth, prediction, 1.0) == {"lesions_found": 1, "lesions_missed": 2, "lesions_false": 3}


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
    found = sum(prediction[labels == number].mean() >= 0.6 for number in range(1, count + 1))
    false = sum(truth[called == number].mean() < 0.6 for number in range(1, parts + 1))
    assert count > 1 and parts > count
    assert tuple(lesion_scores(truth, prediction, 0.6).values()) == (found, count - found, false)


def test_the_table_holds_every_image_and_the_summary_the_means():
    truths = [NODULE, NODULE, NOTHING, NOTHING, TRUTH]
    predictions = [NODULE, NOTHING, ELSEWHERE, NOTHING, PREDICTION]
    done = []
    table = segmentation_table(
        truths,
        predictions,
        cases=list("abcde"),
        spacings=[0.1, (0.1, 0.2), None, 0.1, 0.1],
        progress=lambda *step: done.append(step),
    )
    assert list(table.columns) == [*SEGMENTATION_SCORES, *COUNTS, "presence"] and table.index.tolist() == list("abcde")
    assert table["presence"].tolist() == ["both", "missed", "false alarm", "neither", "both"]
    assert done == [(number, 5) for number in range(1, 6)]
    alone = segmentation_scores(TRUTH, PREDICTION, 0.1)
    assert table.loc["e", list(SEGMENTATION_SCORES)].to_dict() == pytest.approx(alone)

    summary = segmentation_summary(table)
    assert list(summary.index) == list(SEGMENTATION_SCORES) and summary["label"].to_dict() == SEGMENTATION_SCORES
    # Dice 1, 0, 0, excluded, 2/3.
    assert summary.loc["dice", ["mean", "images"]].tolist() == pytest.approx([5 / 12, 4])
    assert summary.loc["precision", ["mean", "images"]].tolist() == pytest.approx([(1 + 0 + 0.6) / 3, 3])
    assert summary.loc["hd95_mm", "images"] == 3 and math.isnan(summary.loc["hd95_mm", "pooled"])
    # TP 20 + 3, FP 50 + 2, FN 20 + 1.
    assert summary.loc["dice", "pooled"] == pytest.approx(46 / (46 + 52 + 21))
    # TN 580 + 580 + 550 + 600 + 14 of all that is background, the image without any nodule included.
    assert summary.loc["specificity", "pooled"] == pytest.approx(2324 / (2324 + 52))
    assert summary.loc[list(LESION_SCORES), "pooled"].tolist() == [2, 1, 1]
    assert summary.loc["lesions_false", "mean"] == pytest.approx(1 / 5)


def test_a_table_of_empty_masks_alone_has_no_mean():
    """A fold without a single nodule, predicted empty: everything is excluded, and the count says so."""
    table = segmentation_table(np.zeros((3, 8, 9), bool), np.zeros((3, 8, 9), bool))
    summary = segmentation_summary(table)
    assert (table["presence"] == "neither").all() and summary.loc["dice", "images"] == 0
    assert math.isnan(summary.loc["dice", "mean"]) and math.isnan(summary.loc["dice", "pooled"])


def test_images_of_mixed_and_odd_sizes():
    sizes = [(233, 317), (7, 5), (1, 1), (64, 64)]
    truths = [np.ones(size, bool) for size in sizes]
    table = segmentation_table(truths, truths)
    assert (table["dice"] == 1).all() and (table["hd95"] == 0).all()


def test_a_refused_image_is_named():
    with pytest.raises(ValueError, match=r"^ddti/7: segmentation_scores: truth is 20 × 30 pixels and prediction 4 × 5"):
        segmentation_table([NODULE, NODULE], [NODULE, PREDICTION], cases=["ddti/6", "ddti/7"])
    with pytest.raises(ValueError, match="2 truths, 1 predictions, 2 cases, 2 spacings"):
        segmentation_table([NODULE, NODULE], [NODULE])
    with pytest.raises(ValueError, match="0 truths"):
        segmentation_table([], [])


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ((TRUTH, PREDICTION.T), {}, "segmentation_scores: truth is 4 × 5 pixels and prediction 5 × 4"),
        ((TRUTH * 255, PREDICTION), {}, "truth holds 255; expected two levels, 0 and 1"),
        ((np.where(TRUTH, 1, 2), PREDICTION), {}, "truth holds 2; expected two levels"),
        ((TRUTH, np.where(PREDICTION, np.nan, 0.0)), {}, "prediction holds nan; expected two levels"),
        ((TRUTH[None], PREDICTION[None]), {}, r"truth has shape \(1, 4, 5\); expected a mask"),
        ((TRUTH[:0], PREDICTION[:0]), {}, "with at least one pixel"),
        ((TRUTH, PREDICTION), {"spacing": -0.1}, "segmentation_scores: spacing is -0.1"),
        ((TRUTH, PREDICTION), {"tolerance": -1}, "tolerance is -1"),
        ((TRUTH, PREDICTION), {"tolerance_mm": math.inf}, "tolerance is inf"),
        ((TRUTH, PREDICTION), {"overlap": 0}, "overlap is 0; expected a share above 0 and at most 1"),
        ((TRUTH, PREDICTION), {"overlap": 1.5}, "overlap is 1.5"),
    ],
)
def test_impossible_input_is_refused(masks, options, message):
    with pytest.raises(ValueError, match=message):
        segmentation_scores(*masks, **options)


def test_zeros_and_ones_are_masks_too():
    expected = segmentation_scores(TRUTH, PREDICTION)
    given = segmentation_scores(TRUTH.astype(np.uint8), PREDICTION.astype(np.float32))
    assert given == pytest.approx(expected, nan_ok=True)


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
