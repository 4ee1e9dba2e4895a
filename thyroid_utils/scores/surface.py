"""Distances between the outlines of two masks: HD95, ASSD and normalised surface Dice.

The outline is the mask without its erosion by the 4-neighbourhood: its pixels with a side on background or on the image's
edge. Distances run between pixel centres, Euclidean. MONAI has the same conventions, and the same values; see
`surface_scores` for the one rule that differs, that of empty masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, inf
from typing import NamedTuple

import cv2
import numpy as np

from thyroid_utils.scores.checks import checked_masks, checked_spacing

# Name in code → name in a table, without the unit. In this order they are reported.
SURFACE_SCORES = {"hd95": "HD95", "assd": "ASSD", "nsd": "surface Dice"}
TOLERANCE = 2.0
# Above this many pairs of points trees are faster than all pairs; up to it the pairs take 4 MB.
_PAIRS = 1_000_000
# In a box of this side coordinates differ by 180 at most, and the sum of two such squares is below 2^16.
_LARGEST = 181
# A distance may miss the tolerance by rounding only: 3 × 0.1 is a little above 0.3.
_ROUNDING = 1 + 1e-9


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
        ValueError: masks of different shapes or of more than two levels, or an impossible spacing or tolerance.

    Example:
        >>> truth, prediction = np.zeros((2, 9, 9), bool)
        >>> truth[1, 1] = prediction[4, 5] = True  # 3 rows and 4 columns apart
        >>> surface_scores(truth, prediction, tolerance=5)
        {'hd95': 5.0, 'assd': 5.0, 'nsd': 1.0}
    """
    if not tolerance >= 0:
        raise ValueError(f"surface_scores: tolerance is {tolerance}; expected a length, 0 or more")
    there, back = surface_distances(truth, prediction, spacing)
    if not len(there) and not len(back):
        return dict.fromkeys(SURFACE_SCORES, float("nan"))
    if not len(there) or not len(back):
        diagonal = hypot(*np.multiply(np.shape(truth), checked_spacing(spacing, "surface_scores")))
        return {"hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    distances = np.concatenate([there, back])
    return {
        "hd95": max(_percentile(there, 0.95), _percentile(back, 0.95)),
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
    outlines = _outlines(truth, prediction)
    distances = np.full(outlines.total, inf)
    if 0 < outlines.of_truth < outlines.total:
        distances = _nearest(outlines, rows, columns)
    return distances[: outlines.of_truth], distances[outlines.of_truth :]


class _Outlines(NamedTuple):
    """The outline pixels of truth, the first `of_truth`, and of prediction: int32 `rows` and `columns`, each (total,),
    counted from the corner of a box around both masks, whose longer side is `side`."""

    rows: np.ndarray
    columns: np.ndarray
    of_truth: int
    total: int
    side: int


def _outlines(truth: np.ndarray, prediction: np.ndarray) -> _Outlines:
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    # Eight pixels at a time where rows divide so; a box a little wider than need be does no harm.
    step = 8 if truth.shape[1] % 8 == 0 else 1
    words = np.uint64 if step == 8 else np.uint8
    marked = np.logical_or(truth.view(words), prediction.view(words))
    left, top, width, height = cv2.boundingRect(marked.view(np.uint8))
    left, width = step * left, step * width
    if not width:
        return _Outlines(np.empty(0, np.int32), np.empty(0, np.int32), 0, 0, 0)
    # Both masks one above the other, with an empty row above, between and below and an empty column to the right: whatever
    # lies outside is background, and with rows joined end to end each pixel's neighbours are a fixed number of pixels away.
    stride = width + 1
    both = np.zeros((2 * height + 3, stride), bool)
    both[1 : height + 1, :width] = truth[top : top + height, left : left + width]
    both[height + 2 : -1, :width] = prediction[top : top + height, left : left + width]
    both = both.ravel()
    inside = both[: -2 * stride] & both[2 * stride :]
    inside &= both[stride - 1 : -stride - 1]
    inside &= both[stride + 1 : 1 - stride]
    position = (both[stride:-stride] > inside).nonzero()[0].astype(np.int32)
    of_truth = int(position.searchsorted(height * stride))
    position[of_truth:] -= (height + 1) * stride
    rows, columns = np.divmod(position, stride)
    return _Outlines(rows, columns, of_truth, len(position), max(height, width))


def _nearest(outlines: _Outlines, rows: float, columns: float) -> np.ndarray:
    """The distance of every point to the nearest one of the other outline, float64 (total,)."""
    pairs = outlines.of_truth * (outlines.total - outlines.of_truth)
    if rows == columns and pairs <= _PAIRS and outlines.side <= _LARGEST:
        distances = np.sqrt(_nearest_squares(outlines).astype(float))
        return distances if rows == 1 else distances * rows
    from scipy.spatial import cKDTree  # a tenth of a second to load

    points = np.stack([outlines.rows * rows, outlines.columns * columns], axis=1)
    one, two = points[: outlines.of_truth], points[outlines.of_truth :]
    return np.concatenate([cKDTree(two).query(one)[0], cKDTree(one).query(two)[0]])


def _nearest_squares(outlines: _Outlines) -> np.ndarray:
    """The squares of `_nearest` at spacing 1, uint16 (total,), from all pairs: 16 bits take a quarter of the time of 64."""
    end = outlines.of_truth
    rows, columns = outlines.rows.astype(np.int16), outlines.columns.astype(np.int16)
    squares = rows[:end, None] - rows[end:]
    squares *= squares
    across = columns[:end, None] - columns[end:]
    across *= across
    squares += across
    # Sums of 2^15 and more have wrapped to negative numbers; read without a sign they are right.
    squares = squares.view(np.uint16)
    return np.concatenate([np.minimum.reduce(squares, axis=1), np.minimum.reduce(squares, axis=0)])


def _percentile(values: np.ndarray, share: float) -> float:
    """The percentile with linear interpolation, as numpy.percentile, which takes longer than all else here."""
    ordered = np.sort(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    low, *high = ordered[below : below + 2].tolist()
    return low + (position - below) * (high[0] - low) if high else low
