"""Nodules found, missed and invented: masks compared part by part."""

from __future__ import annotations

import cv2
import numpy as np

from thyroid_utils.scores.metrics.masks import checked_masks

# Name in code → name in a table. In this order they are reported.
LESION_SCORES = {"lesions_found": "nodules found", "lesions_missed": "nodules missed", "lesions_false": "false nodules"}
OVERLAP = 0.1


def lesion_scores(truth: np.ndarray, prediction: np.ndarray, overlap: float = OVERLAP) -> dict[str, int]:
    """How many nodules a mask finds, misses and invents.

    A nodule is an 8-connected part of the truth. It is found where the prediction covers at least the share `overlap` of its
    pixels, and missed otherwise. A part of the prediction is false where less than that share of its pixels lies on the truth.
    One part may find two nodules, and two parts the same one.

    Args:
        truth, prediction: bool (height, width). Where one is empty, the other's parts are all false or all missed.
        overlap: above 0, at most 1.

    Returns:
        name of `LESION_SCORES` → count; found + missed is the number of nodules. Counts add up over images: the sensitivity
        of a set is Σ found / Σ (found + missed), and its false nodules an image Σ false / images.

    Raises:
        ValueError: masks of different shapes or of more than two levels, or an impossible overlap.
    """
    truth, prediction = checked_masks(truth, prediction, "lesion_scores")
    if not 0 < overlap <= 1:
        raise ValueError(f"lesion_scores: overlap is {overlap}; expected a share above 0 and at most 1")
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    left, top, width, height = cv2.boundingRect((truth | prediction).view(np.uint8))
    truth, prediction = (mask[top : top + height, left : left + width] for mask in (truth, prediction))
    found, nodules = _covered(truth, prediction, overlap)
    hits, parts = _covered(prediction, truth, overlap)
    return {"lesions_found": found, "lesions_missed": nodules - found, "lesions_false": parts - hits}


def _covered(mask: np.ndarray, other: np.ndarray, overlap: float) -> tuple[int, int]:
    """How many parts of the mask have at least the share `overlap` of their pixels on the other one, and how many there are."""
    if not mask.any():
        return 0, 0
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    areas = np.bincount(labels[mask], minlength=count)[1:]
    shared = np.bincount(labels[mask & other], minlength=count)[1:]
    # A share may miss the wanted one by rounding only: 0.1 × 30 is a little above 3.
    return int(np.count_nonzero(shared >= overlap * areas - 1e-9)), count - 1
