"""Overlap, outlines, area and lesions by hand, against scikit-learn, MONAI and scipy, per image and pooled."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as reference

from thyroid_utils.scores import masks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

# N: nodule, P: predicted, B: both, of 4 × 5 pixels: TP 3, FP 2, FN 1, TN 14.
PICTURE = ["..NBP", "...BP", "...B.", "....."]
TRUTH = np.array([[pixel in "NB" for pixel in row] for row in PICTURE])
PREDICTION = np.array([[pixel in "PB" for pixel in row] for row in PICTURE])
NAN = math.nan


def blobs(seed: int, shape: tuple[int, int] = (40, 55), share: float = 0.25, smooth: float = 3) -> np.ndarray:
    """Smooth random parts: several of them, often at the border, at times with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 1 - share)


def random_masks(seed: int, shape=(30, 41), share=0.2) -> tuple[np.ndarray, np.ndarray]:
    truth = blobs(seed, shape, share)
    return truth, truth ^ (np.random.default_rng(seed).random(shape) < 0.1)


def part(rows: slice, columns: slice, shape=(20, 30)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


NODULE, ELSEWHERE, NOTHING = part(slice(2, 6), slice(2, 7)), part(slice(10, 15), slice(12, 22)), np.zeros((20, 30), bool)
DIAGONAL, DIAGONAL_MM = math.hypot(20, 30), math.hypot(20 * 0.1, 30 * 0.2)


@pytest.mark.parametrize(
    ("truth", "prediction", "presence", "overlap", "outlines", "in_mm", "rest"),
    [
        # Every pixel of the picture is outline, three are shared; one of the truth and two of the prediction are 1 from the other
        # outline. 95th percentiles: position 2.85 of 0 0 0 1, and 3.8 of 0 0 0 1 1.
        (TRUTH, PREDICTION, "both",
         (6 / 9, 3 / 6, 3 / 4, 14 / 16, 3 / 5, 17 / 20, 14 / 17, 3 / 6, (14 / 17 + 3 / 6) / 2, (28 / 31 + 6 / 9) / 2),
         (1, 3 / 9, 1), (0.2, 0.6 / 9, 1), (1 / 4, 1, 0, 0)),
        (NODULE, NODULE, "both", (1,) * 10, (0, 0, 1), (0, 0, 1), (0, 1, 0, 0)),
        (NODULE, NOTHING, "missed", (0, 0, 0, 1, NAN, 580 / 600, 580 / 600, 0, 290 / 600, 580 / 1180),
         (DIAGONAL, DIAGONAL, 0), (DIAGONAL_MM, DIAGONAL_MM, 0), (-1, 0, 1, 0)),
        (NOTHING, ELSEWHERE, "false alarm", (0, 0, NAN, 550 / 600, 0, 550 / 600, 550 / 600, 0, 275 / 600, 550 / 1150),
         (DIAGONAL, DIAGONAL, 0), (DIAGONAL_MM, DIAGONAL_MM, 0), (NAN, 0, 0, 1)),
        (NOTHING, NOTHING, "neither", (NAN,) * 10, (NAN,) * 3, (NAN,) * 3, (NAN, 0, 0, 0)),
    ],
    ids=["a picture", "both", "missed", "false alarm", "neither"],
)  # fmt: skip
def test_every_score_by_hand(truth, prediction, presence, overlap, outlines, in_mm, rest):
    done = []
    table = masks.segmentation_table([(truth, prediction)] * 2, ["a", "b"], [(0.1, 0.2), None], lambda *step: done.append(step))
    found, without = table[list(masks.SEGMENTATION_SCORES)].to_numpy(float)
    np.testing.assert_allclose(found, [*overlap, *outlines, *in_mm, *rest], rtol=1e-12)
    np.testing.assert_allclose(without, [*overlap, *outlines, NAN, NAN, NAN, *rest], rtol=1e-12)
    assert table["presence"].tolist() == [presence] * 2 and done == [(1, 2), (2, 2)]


def test_full_images_two_squares_lesions_and_a_threshold_by_hand():
    full, half = np.ones((4, 6), bool), np.arange(24).reshape(4, 6) < 12
    right = masks.segmentation_scores(full, full)
    assert right["dice"] == right["miou"] == right["class_mean_f1"] == 1, "a background that neither holds is left out"
    assert math.isnan(right["b_iou"]) and math.isnan(right["specificity"])
    assert masks.segmentation_scores(full, half)["miou"] == pytest.approx((0.5 + 0) / 2)
    truth = part(slice(0, 5), slice(0, 4)) | part(slice(10, 12), slice(10, 15)) | part(slice(15, 16), slice(25, 26))
    prediction = (
        part(slice(0, 1), slice(0, 2))  # 2 of 20 pixels of the first: a tenth
        | part(slice(12, 20), slice(9, 16))  # beside the second
        | part(slice(15, 16), slice(25, 30))  # the third, and four pixels beyond it: a fifth lies on the truth
        | part(slice(0, 2), slice(20, 22))  # nowhere
    )
    assert masks.lesion_scores(truth, prediction) == {"lesions_found": 2, "lesions_missed": 1, "lesions_false": 2}
    assert masks.binarise(np.array([[0.2, 0.5], [0.49, 1.0]], np.float32)).tolist() == [[False, True], [False, True]]
    for wrong, message in ((np.nan, "1 of 2 probabilities are NaN or infinite"), (3.0, r"span 0.5 to 3; expected \[0, 1\], not")):
        with pytest.raises(ValueError, match=f"binarise: .*{message}"):
            masks.binarise(np.array([wrong, 0.5]))
    # 3 × 3 pixels moved down by one row: of 8 outline pixels each, 5 lie on the other outline. Truth's upper row is 1 above the
    # other outline's upper row; its middle pixels lie on it, and of its lower row the outer two do, while the inner one is 1
    # above the outline below it.
    truth, prediction = part(slice(1, 4), slice(1, 4)), part(slice(2, 5), slice(1, 4))
    there, back = masks.surface_distances(truth.astype(np.uint8), prediction)
    assert there.tolist() == [1, 1, 1, 0, 0, 0, 1, 0] and back.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    # Position 0.95 · 7 = 6.65 lies between two ones.
    assert masks.surface_scores(truth, prediction, tolerance=0.5) == {"hd95": 1.0, "assd": 8 / 16, "nsd": 8 / 16}
    # A row is 0.5 mm and a column 0.1: the four pixels that were 1 row off, of each, are now 0.5, but for the one in the middle
    # of a row whose ends lie on the other outline, 0.1 beside it.
    in_mm = masks.surface_scores(truth, prediction, (0.5, 0.1))
    assert in_mm["hd95"] == pytest.approx(0.5) and in_mm["assd"] == pytest.approx((3 * 0.5 + 0.1) * 2 / 16)
    # A distance at the tolerance is within it: three rows of 0.1 mm are 0.30000000000000004 mm.
    pair = part(slice(4, 5), slice(7, 8)), part(slice(7, 8), slice(7, 8))
    assert [masks.surface_scores(*pair, (0.1, 0.2), tolerance=tolerance)["nsd"] for tolerance in (0.3, 0.299)] == [1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_overlap_is_scikit_learns(seed):
    truth, prediction = random_masks(seed, (23 + seed, 31))
    flat = truth.ravel(), prediction.ravel()
    scores = masks.segmentation_scores(truth, prediction)
    named = {"dice": "f1", "iou": "jaccard", "n_iou": "jaccard", "sensitivity": "recall", "precision": "precision"}
    named |= {"pixel_accuracy": "accuracy"}
    expected = {name: getattr(reference, f"{score}_score")(*flat) for name, score in named.items()}
    expected |= {"specificity": reference.recall_score(*flat, pos_label=0), "b_iou": reference.jaccard_score(*flat, pos_label=0)}
    expected |= {"miou": reference.jaccard_score(*flat, average="macro")}
    expected |= {"class_mean_f1": reference.f1_score(*flat, average="macro")}
    assert {name: scores[name] for name in masks.OVERLAP_SCORES} == pytest.approx(expected, rel=1e-12)
    (tn, fp), (fn, tp) = reference.confusion_matrix(*flat)
    assert tuple(masks.pixel_counts(truth, prediction).values()) == (tp, fp, fn, tn)


@pytest.mark.parametrize(
    ("truth", "prediction", "spacing", "message"),
    [
        (TRUTH, PREDICTION.T, None, "a: pixel_counts: truth is 4 × 5 pixels and prediction 5 × 4; bring both to one size"),
        (TRUTH * 255, PREDICTION, None, "truth holds 255; expected two levels, 0 and 1"),
        (TRUTH[None], PREDICTION[None], None, r"truth has shape \(1, 4, 5\); expected a mask"),
        *((TRUTH, PREDICTION, spacing, "expected .row, column. in mm") for spacing in ((0.1, 0), NAN, (1, 1, 1))),
    ],
)
def test_impossible_masks_and_spacings_are_refused(truth, prediction, spacing, message):
    with pytest.raises(ValueError, match=message):
        masks.segmentation_table([(truth, prediction)], ["a"], [spacing])


ONE, EDGE = part(slice(4, 5), slice(7, 8)), part(slice(0, 6), slice(24, 30))
HOLE = part(slice(3, 15), slice(3, 15)) & ~part(slice(7, 10), slice(7, 10))
PAIRS = {
    "the same pixel": (ONE, ONE),
    "in two corners": (EDGE, part(slice(15, 20), slice(0, 4))),
    "everything": (np.ones((20, 30), bool), EDGE),
    "with a hole": (HOLE, part(slice(3, 15), slice(5, 18))),
    "a line and two parts": (part(slice(5, 6), slice(0, 30)), HOLE | EDGE),
    "large blobs": (blobs(9, share=0.5), np.roll(blobs(9, share=0.5), 2, axis=1)),
}
SPACINGS = [None, (0.07, 0.07), (0.05, 0.13)]


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("truth", "prediction"), PAIRS.values(), ids=PAIRS)
def test_outlines_are_as_far_apart_as_scipy_and_monai_say(truth, prediction, spacing, monkeypatch):
    tolerance = 2.0 if spacing is None else 2.5 * spacing[0]
    ours, distances = (
        masks.surface_scores(truth, prediction, spacing, tolerance),
        masks.surface_distances(truth, prediction, spacing),
    )
    one, two = (mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction))
    transforms = [ndimage.distance_transform_edt(~outline, sampling=spacing or (1, 1)) for outline in (two, one)]
    expected = [transforms[0][one], transforms[1][two]]
    for mine, theirs in zip(distances, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    assert ours["hd95"] == pytest.approx(max(np.percentile(found, 95) for found in expected), rel=1e-12)
    assert ours["assd"] == pytest.approx(np.concatenate(expected).mean(), rel=1e-12)
    y, y_pred = (torch.from_numpy(mask)[None, None] for mask in (truth, prediction))
    options = {"include_background": True, "spacing": spacing}
    # MONAI's percentile lies between two distances at a position that it rounds to float32, 1e-5 of a step at most.
    slack = 1e-6 if spacing is None else 1e-5 * max(spacing)
    assert ours["hd95"] == pytest.approx(
        compute_hausdorff_distance(y_pred, y, percentile=95, **options).item(), rel=1e-6, abs=slack
    )
    assert ours["assd"] == pytest.approx(compute_average_surface_distance(y_pred, y, symmetric=True, **options).item(), rel=1e-6)
    # The tolerance lies between two distances by more than MONAI's float32 loses.
    theirs = compute_surface_dice(y_pred.float(), y.float(), [tolerance * (1 + 1e-6)], **options).item()
    assert ours["nsd"] == pytest.approx(theirs, rel=1e-6)
    monkeypatch.setattr(masks, "_PAIRS", 0)  # trees give what all pairs give
    for mine, theirs in zip(masks.surface_distances(truth, prediction, spacing), distances, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)


@pytest.mark.parametrize("side", [181, 182, 400])
def test_distances_at_the_limit_of_16_bits(side):
    """Two corners of a square are as far apart as two pixels get."""
    truth, prediction = np.zeros((2, side, side), bool)
    truth[0, 0] = prediction[-1, -1] = True
    assert masks.surface_scores(truth, prediction)["hd95"] == pytest.approx(math.hypot(side - 1, side - 1), rel=1e-12)
