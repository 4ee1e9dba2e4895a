"""Paper 002's own evaluation with its faults, beside the corrected one: for showing what the faults are worth, never for results.

The faults, as the code printed in the paper has them:

1. Labels are resized to 512² with bilinear interpolation and then compared with 0: every pixel that a nodule's edge bleeds
   into becomes nodule, so that the truth grows.
2. Three equal channels are counted. Every count is three times what it should be; ratios of counts do not change.
3. Pairs whose sizes differ are skipped with a message, so that the figures describe fewer images than the text says.
4. TN is defined as "the number of negative samples that were wrongly determined". The code does not follow this definition:
   its diagonal holds the negatives determined rightly. `pixel_accuracy_as_defined` is what the text's formula gives.
5. Colours are turned into classes with blue·65536 + green·256 + red on 8-bit arrays. In 8 bits white becomes 255 and not
   16777215, and its class 0; NumPy 1 widened the product and hid the fault, NumPy 2 refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.masks import overlap_scores, pixel_counts

PAPER_SIZE = 512
_CHANNELS = 3
# The paper's five figures, which both evaluations give.
PAPER_SCORES = ("b_iou", "n_iou", "miou", "pixel_accuracy", "class_mean_f1")


def faulty_002_scores(
    truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], size: int = PAPER_SIZE
) -> dict[str, float]:
    """Paper 002's five figures as its code has them, faults 1 to 4 included; see the module for the list.

    Args:
        truths: bool (height, width) at the size of the labels' files.
        predictions: bool (height, width) at the network's size; one whose size is not `size` × `size` is skipped (fault 3).
        size: that the labels are resized to, in pixels.

    Returns:
        `PAPER_SCORES`, pooled; `pixel_accuracy_as_defined` (fault 4); `skipped`, how many pairs were. A class that is never
        predicted makes `class_mean_f1` NaN, and all figures are NaN where every pair is skipped.

    Raises:
        ValueError: lengths differ.
    """
    _check_lengths(truths, predictions, "faulty_002_scores")
    histogram, skipped = np.zeros((2, 2)), 0
    for truth, prediction in zip(truths, predictions, strict=True):
        if prediction.shape != (size, size):
            skipped += 1
            continue
        grown = cv2.resize(255 * truth.astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR) != 0
        histogram += _CHANNELS * np.bincount(2 * grown.ravel() + prediction.ravel(), minlength=4).reshape(2, 2)
    right = histogram.diagonal()
    predicted_wrongly, missed = histogram.sum(axis=0) - right, histogram.sum(axis=1) - right
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = right / (right + predicted_wrongly + missed)
        precision, recall = right / (right + predicted_wrongly), right / (right + missed)
        tp, fp, fn = right[1], predicted_wrongly[1], missed[1]
        return {
            "b_iou": float(iou[0]),
            "n_iou": float(iou[1]),
            "miou": float(np.nan if np.isnan(iou).all() else np.nanmean(iou)),
            "pixel_accuracy": float(right.sum() / (right.sum() + predicted_wrongly.sum())),
            "class_mean_f1": float((2 * precision * recall / (precision + recall)).mean()),
            # The negatives wrongly determined are FP: it stands both for TN and for itself.
            "pixel_accuracy_as_defined": float((tp + fp) / (tp + fp + fp + fn)),
            "skipped": skipped,
        }


def compare_with_faulty_002(
    truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], size: int = PAPER_SIZE
) -> pd.DataFrame:
    """What the faults 1, 2 and 4 of paper 002's evaluation are worth on these masks.

    For the faulty side each prediction is brought to `size` × `size` by nearest neighbour, as a network of that size would put
    it out, so that no pair is skipped: fault 3 changes which images are scored, and is worth whatever the skipped ones are.

    Args:
        truths: bool (height, width) at the size of the labels' files.
        predictions: bool (height, width) of the whole frame, at any size.
        size: that the labels are resized to, in pixels.

    Returns:
        rows `PAPER_SCORES` and `pixel_accuracy_as_defined`, whose corrected value is pixel accuracy; columns `corrected` (at
        the truth's own size, which predictions are brought to by nearest neighbour, pooled), `faulty`, and `difference`,
        faulty − corrected.

    Raises:
        ValueError: no pair, or lengths that differ.
    """
    _check_lengths(truths, predictions, "compare_with_faulty_002")
    counts = pd.DataFrame(
        [pixel_counts(truth, _at_size(prediction, truth.shape)) for truth, prediction in zip(truths, predictions, strict=True)]
    )
    if counts.empty:
        raise ValueError("compare_with_faulty_002: no pair of masks; expected at least one")
    faulty = faulty_002_scores(truths, [_at_size(prediction, (size, size)) for prediction in predictions], size)
    corrected = {name: float(value) for name, value in overlap_scores(**counts.sum()).items()}
    corrected["pixel_accuracy_as_defined"] = corrected["pixel_accuracy"]
    both = pd.DataFrame({"corrected": corrected, "faulty": faulty}).loc[[*PAPER_SCORES, "pixel_accuracy_as_defined"]]
    return both.assign(difference=both["faulty"] - both["corrected"]).rename_axis("score")


def faulty_002_labels(image: np.ndarray) -> np.ndarray:
    """Classes of a colour-coded label image with fault 5: black and white both become 0.

    Args:
        image: uint8 (height, width, 3), blue, green, red; black for background and white for nodule.

    Returns:
        int (height, width): 1 where blue·65536 + green·256 + red, kept in 8 bits, is white's 16777215, which is nowhere.
    """
    weights = np.array([65536, 256, 1]).astype(np.uint8)  # 0, 0, 1
    return ((image * weights).sum(axis=2, dtype=np.uint8) == 16777215).astype(int)


def _at_size(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if mask.shape == tuple(shape):
        return mask
    return cv2.resize(np.asarray(mask, bool).astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) != 0


def _check_lengths(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], where: str) -> None:
    if len(truths) != len(predictions):
        raise ValueError(f"{where}: {len(truths)} truths and {len(predictions)} predictions; expected one of each an image")
