"""A predicted mask against its truth: overlap, distances between the outlines, area and lesions, per image and pooled.

Per image, then averaged: every image counts the same, however small its nodule. Pooled: the pixels of all images are counted
together and scored once, so that large nodules decide. The two differ by points; a table says which one it shows.

The outline is the mask without its erosion by the 4-neighbourhood: its pixels with a side on background or on the image's
edge. Distances run between pixel centres, Euclidean. MONAI has the same conventions, and the same values; see
`surface_scores` for the one rule that differs, that of empty masks.
"""

from collections.abc import Callable, Iterable, Sequence
from math import hypot

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import COUNTS, check_probabilities, checked_masks, checked_spacing

# Name in code → name in a table. In this order they are reported.
OVERLAP_SCORES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "pixel_accuracy": "pixel accuracy",
    "b_iou": "b_IoU (background)",
    "n_iou": "n_IoU (nodule)",
    "miou": "mIoU",
    "class_mean_f1": "class-mean F1",
}
SURFACE_SCORES = ("hd95", "assd", "nsd")
LESION_SCORES = {"lesions_found": "nodules found", "lesions_missed": "nodules missed", "lesions_false": "false nodules"}
# Of a score whose interval must stay within: where it lies.
SEGMENTATION_LIMITS = {
    **dict.fromkeys((*OVERLAP_SCORES, "nsd", "nsd_mm"), (0, 1)),
    **dict.fromkeys(("hd95", "assd", "hd95_mm", "assd_mm"), (0, np.inf)),
}
OVERLAP = 0.1  # share of a lesion's pixels from which it counts as found
TOLERANCE, TOLERANCE_MM = 2.0, 1.0  # of surface Dice
SEGMENTATION_SCORES = {
    **OVERLAP_SCORES,
    "hd95": "HD95 (px)",
    "assd": "ASSD (px)",
    "nsd": f"surface Dice at {TOLERANCE:g} px",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "nsd_mm": f"surface Dice at {TOLERANCE_MM:g} mm",
    "area_error": "area error",
    **LESION_SCORES,
}
# Above this many pairs of points trees are faster than all pairs; up to it the pairs take 4 MB.
_PAIRS = 1_000_000
# In a box of this side coordinates differ by 180 at most, and the sum of two such squares is below 2^16.
_LARGEST = 181
# A distance may miss the tolerance by rounding only: 3 × 0.1 is a little above 0.3.
_ROUNDING = 1 + 1e-9


def binarise(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Masks from probability maps: True where the probability is at or above the threshold.

    Args:
        probabilities: in [0, 1], any shape.
        threshold: in [0, 1]; chosen on validation or 0.5, never on the images that are scored.

    Returns:
        bool, the shape of `probabilities`.

    Raises:
        ValueError: NaN or values outside [0, 1] among the probabilities.
    """
    values = np.asarray(probabilities)
    check_probabilities(values, "binarise")
    return values >= threshold


def segmentation_scores(
    truth: np.ndarray, prediction: np.ndarray, spacing: float | Sequence[float] | None = None
) -> dict[str, float]:
    """Every score of `SEGMENTATION_SCORES` of one pair of masks.

    With TP, FP, FN and TN pixels: dice = 2TP / (2TP+FP+FN); iou = TP / (TP+FP+FN); sensitivity = TP / (TP+FN);
    specificity = TN / (TN+FP); precision = TP / (TP+FP); pixel_accuracy = (TP+TN) / all. Paper 002's: n_iou is iou;
    b_iou = TN / (TN+FP+FN); miou their mean; class_mean_f1 the mean of the nodule's Dice and the background's
    2TN / (2TN+FP+FN). A class that neither mask holds stays out of these two means.
    hd95, assd, nsd as in `surface_scores`, in pixels, and with `_mm` in millimetres; area_error = (predicted area − true
    area) / true area, signed; lesions as in `lesion_scores`.

    An image has one of four cases:

    | truth | prediction | dice, iou, n_iou | hd95, assd | nsd | sensitivity | precision | area_error | the rest | lesions |
    |---|---|---|---|---|---|---|---|---|---|
    | nodule | nodule | formula | formula | formula | formula | formula | formula | formula | counted |
    | nodule | empty: missed | 0 | image diagonal | 0 | 0 | NaN | −1 | formula | all missed |
    | empty | nodule: false alarm | 0 | image diagonal | 0 | NaN | 0 | NaN | formula | all false |
    | empty | empty | NaN | NaN | NaN | NaN | NaN | NaN | NaN | none |

    The last case is left out of every mean and counted (`presence` of `segmentation_table`). NaN elsewhere is a share of nothing:
    specificity has none where the truth fills the image, either.

    Args:
        truth, prediction: bool (height, width), or 0 and 1.
        spacing: (row, column) in mm of the pixels of these very masks, or one number for both; None where unknown.

    Returns:
        name → value. The scores in millimetres are NaN without spacing.

    Raises:
        ValueError: masks of different shapes or of more than two levels, or an impossible spacing.

    Example:
        >>> truth, prediction = np.zeros((2, 8, 8), bool)
        >>> truth[2:6, 2:6] = prediction[2:6, 3:7] = True  # a square of 16 pixels, found one column to the right
        >>> scores = segmentation_scores(truth, prediction, spacing=0.5)
        >>> scores["dice"], scores["hd95"], scores["hd95_mm"], scores["lesions_found"]
        (0.75, 1.0, 0.5, 1)
    """
    truth, prediction = checked_masks(truth, prediction, "segmentation_scores")
    counts = pixel_counts(truth, prediction)
    scores = {name: float(value) for name, value in overlap_scores(**counts).items()}
    scores |= surface_scores(truth, prediction)
    in_mm = dict.fromkeys(SURFACE_SCORES, float("nan"))
    if spacing is not None:
        in_mm = surface_scores(truth, prediction, spacing, TOLERANCE_MM)
    scores |= {f"{name}_mm": value for name, value in in_mm.items()}
    area = counts["true_positives"] + counts["false_negatives"]
    excess = counts["false_positives"] - counts["false_negatives"]
    scores["area_error"] = excess / area if area else float("nan")
    return scores | lesion_scores(truth, prediction)


def pixel_counts(truth: np.ndarray, prediction: np.ndarray) -> dict[str, int]:
    """true_positives, false_positives, false_negatives and true_negatives; positive is nodule.

    Raises ValueError for masks, bool (height, width), of different shapes or of more than two levels.
    """
    truth, prediction = checked_masks(truth, prediction, "pixel_counts")
    hits = int(np.count_nonzero(truth & prediction))
    area, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    return dict(zip(COUNTS, (hits, predicted - hits, area - hits, truth.size - area - predicted + hits), strict=True))


def overlap_scores(
    true_positives: np.ndarray, false_positives: np.ndarray, false_negatives: np.ndarray, true_negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """The scores of `OVERLAP_SCORES` of pixel counts: numbers, or arrays of one shape holding many images or resamples.

    Formulas and the four cases as in `segmentation_scores`; all NaN where neither mask has a nodule. Of sums of counts the scores
    are pooled: of all pixels of all images together.

    Example:
        >>> large, small = (100, 0, 0, 300), (0, 0, 10, 390)  # one nodule found, one missed
        >>> float(overlap_scores(*large)["dice"]), float(overlap_scores(*small)["dice"])
        (1.0, 0.0)
        >>> round(float(overlap_scores(*np.add(large, small))["dice"]), 2)  # where the mean is 0.5
        0.95
    """
    tables = (true_positives, false_positives, false_negatives, true_negatives)
    tp, fp, fn, tn = (np.asarray(count, dtype=float) for count in tables)
    with np.errstate(invalid="ignore", divide="ignore"):
        dice, background_dice = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
        iou, background_iou = tp / (tp + fp + fn), tn / (tn + fp + fn)
        scores = {
            "dice": dice,
            "iou": iou,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "pixel_accuracy": (tp + tn) / (tp + fp + fn + tn),
            "b_iou": background_iou,
            "n_iou": iou,
            "miou": np.where(np.isnan(background_iou), iou, (iou + background_iou) / 2),
            "class_mean_f1": np.where(np.isnan(background_dice), dice, (dice + background_dice) / 2),
        }
    neither = tp + fp + fn == 0
    return {name: np.where(neither, np.nan, value) for name, value in scores.items()}


def segmentation_table(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    cases: Sequence[str],
    spacings: Sequence[float | Sequence[float] | None],
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """One row an image: its scores, its pixel counts and which of the four cases it is.

    Args:
        pairs: truth and prediction of each image, bool (height, width); sizes may differ between images. May be made one by one.
        cases: index of the result.
        spacings: one an image as for `segmentation_scores`.
        progress: called with (done, total).

    Returns:
        columns of `SEGMENTATION_SCORES`, then `COUNTS`, then `presence`: a nodule in "both" masks, in the truth alone
        ("missed"), in the prediction alone ("false alarm") or in "neither".

    Raises:
        ValueError: masks that are refused, with the image's case in front.
    """
    rows = []
    for case, (truth, prediction), spacing in zip(cases, pairs, spacings, strict=True):
        try:
            counts = pixel_counts(truth, prediction)
            scores = segmentation_scores(truth, prediction, spacing)
        except ValueError as error:
            raise ValueError(f"{case}: {error}") from None
        rows.append({**scores, **counts, "presence": _presence(**counts)})
        if progress:
            progress(len(rows), len(cases))
    return pd.DataFrame(rows, index=pd.Index(cases, name="case"))


def _presence(true_positives: int, false_positives: int, false_negatives: int, true_negatives: int) -> str:
    if true_positives + false_negatives:
        return "both" if true_positives + false_positives else "missed"
    return "false alarm" if false_positives else "neither"


def lesion_scores(truth: np.ndarray, prediction: np.ndarray) -> dict[str, int]:
    """How many nodules a mask finds, misses and invents.

    A nodule is an 8-connected part of the truth. It is found where the prediction covers at least a tenth (`OVERLAP`) of its
    pixels, and missed otherwise. A part of the prediction is false where less than that share of its pixels lies on the truth.
    One part may find two nodules, and two parts the same one.

    Args:
        truth, prediction: bool (height, width). Where one is empty, the other's parts are all false or all missed.

    Returns:
        name of `LESION_SCORES` → count; found + missed is the number of nodules. Counts add up over images: the sensitivity
        of a set is Σ found / Σ (found + missed), and its false nodules an image Σ false / images.

    Raises:
        ValueError: masks of different shapes or of more than two levels.
    """
    truth, prediction = checked_masks(truth, prediction, "lesion_scores")
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    left, top, width, height = cv2.boundingRect((truth | prediction).view(np.uint8))
    truth, prediction = (mask[top : top + height, left : left + width] for mask in (truth, prediction))
    found, nodules = _covered(truth, prediction)
    hits, parts = _covered(prediction, truth)
    return {"lesions_found": found, "lesions_missed": nodules - found, "lesions_false": parts - hits}


def _covered(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """How many parts of the mask have at least the share, and how many there are."""
    if not mask.any():
        return 0, 0
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    areas = np.bincount(labels[mask], minlength=count)[1:]
    shared = np.bincount(labels[mask & other], minlength=count)[1:]
    # A share may miss the wanted one by rounding only: 0.1 × 30 is a little above 3.
    return int(np.count_nonzero(shared >= OVERLAP * areas - 1e-9)), count - 1


def surface_scores(
    truth: np.ndarray, prediction: np.ndarray, spacing: float | Sequence[float] | None = None, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """HD95, ASSD and NSD of one pair of masks.

    With d the distances of every outline pixel of one mask to the nearest of the other, in both directions:
    hd95 = max over the directions of the 95th percentile of d (linear interpolation);
    assd = mean of d over the outline pixels of both masks; nsd = share of these pixels with d ≤ tolerance
    (Nikolov et al. 2021, with pixels counted where they measure lengths).

    | truth | prediction | hd95, assd | nsd |
    |---|---|---|---|
    | nodule | nodule | as above | as above |
    | nodule | empty: missed | the image's diagonal | 0 |
    | empty | nodule: false alarm | the image's diagonal | 0 |
    | empty | empty | NaN | NaN |

    The diagonal of H × W pixels is √(H² + W²), in millimetres with `spacing`. MONAI gives infinity or NaN in the last three.

    Args:
        truth, prediction: bool (height, width).
        spacing: (row, column) in mm, or one number for both; None where unknown.
        tolerance: in mm with spacing, in pixels without.

    Returns:
        name of `SURFACE_SCORES` → value; lengths in mm with spacing, in pixels without.

    Raises:
        ValueError: masks of different shapes or of more than two levels, or an impossible spacing.

    Example:
        >>> truth, prediction = np.zeros((2, 9, 9), bool)
        >>> truth[1, 1] = prediction[4, 5] = True  # 3 rows and 4 columns apart
        >>> surface_scores(truth, prediction, tolerance=5)
        {'hd95': 5.0, 'assd': 5.0, 'nsd': 1.0}
    """
    there, back = surface_distances(truth, prediction, spacing)
    if not len(there) and not len(back):
        return dict.fromkeys(SURFACE_SCORES, float("nan"))
    if not len(there) or not len(back):
        diagonal = hypot(*np.multiply(np.shape(truth), checked_spacing(spacing, "surface_scores")))
        return {"hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    distances = np.concatenate([there, back])
    return {
        "hd95": max(_percentile_95(there), _percentile_95(back)),
        "assd": float(distances.sum()) / len(distances),
        "nsd": int(np.count_nonzero(distances <= tolerance * _ROUNDING)) / len(distances),
    }


def surface_distances(
    truth: np.ndarray, prediction: np.ndarray, spacing: float | Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The distance of every outline pixel to the nearest outline pixel of the other mask.

    Args:
        truth, prediction: bool (height, width).
        spacing: (row, column) in mm, or one number for both; None for pixels.

    Returns:
        from truth to prediction, float64 (outline pixels of truth,), and from prediction to truth; infinite where the other mask
        is empty. Outline pixels in the order of reading: by row, then by column.

    Raises:
        ValueError: as `surface_scores`.
    """
    truth, prediction = checked_masks(truth, prediction, "surface_scores")
    rows, columns = checked_spacing(spacing, "surface_scores")
    left, top, width, height = cv2.boundingRect((truth | prediction).view(np.uint8))
    one, two = (_outline(mask[top : top + height, left : left + width]) for mask in (truth, prediction))
    if not len(one) or not len(two):
        return np.full(len(one), np.inf), np.full(len(two), np.inf)
    if rows == columns and len(one) * len(two) <= _PAIRS and max(height, width) <= _LARGEST:
        squares = _squares(one, two)
        there, back = (np.sqrt(np.minimum.reduce(squares, axis=axis).astype(float)) * rows for axis in (1, 0))
        return there, back
    from scipy.spatial import cKDTree  # a tenth of a second to load

    one, two = one * (rows, columns), two * (rows, columns)
    return cKDTree(two).query(one)[0], cKDTree(one).query(two)[0]


def _outline(mask: np.ndarray) -> np.ndarray:
    """(row, column) of the outline pixels, int (n, 2)."""
    framed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    framed[1:-1, 1:-1] = mask
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.argwhere(mask > inside)


def _squares(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs of points, uint16 (n, m): 16 bits take a quarter of the time of 64."""
    one, two = one.T.astype(np.int16), two.T.astype(np.int16)
    squares, across = (np.subtract.outer(*places) for places in zip(one, two, strict=True))
    squares *= squares
    across *= across
    squares += across
    # Sums of 2^15 and more have wrapped to negative numbers; read without a sign they are right.
    return squares.view(np.uint16)


def _percentile_95(values: np.ndarray) -> float:
    """With linear interpolation, as numpy.percentile, which takes longer than all else here."""
    ordered = np.sort(values)
    position = 0.95 * (len(ordered) - 1)
    low, *high = ordered[int(position) :][:2].tolist()
    return low + (position % 1) * (high[0] - low) if high else low
