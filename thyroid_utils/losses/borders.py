"""U-Net's weight map: pixels near a nodule's border count more."""

from __future__ import annotations

import cv2
import numpy as np

WEIGHT = 10.0
SIGMA = 5.0

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def border_weights(mask: np.ndarray, weight: float = WEIGHT, sigma: float = SIGMA, nodule_weight: float = 1.0) -> np.ndarray:
    """w = w_c + w0·exp(−(d1 + d2)² / 2σ²) of Ronneberger et al. 2015, as paper 002 uses it.

    d1 is the distance to the border of the nearest nodule and d2 to that of the second nearest, on either side of it; a
    nodule is an 8-connected part, its border its pixels with a side on background or on the image's edge. U-Net keeps touching
    cells apart with this; most images here have one nodule, whose edge paper 002 wants weighted: there d2 is d1.

    Args:
        mask: bool (height, width).
        weight: w0, 0 or more.
        sigma: σ in pixels, above 0.
        nodule_weight: w_c of the nodule's pixels; the background's is 1.

    Returns:
        float32 (height, width). Without a nodule all 1; with one alone, 1 + w0 on its border and w_c far from it.
    """
    base = np.where(mask, np.float32(nodule_weight), np.float32(1))
    if not mask.any():
        return base
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    nearest = second = np.full(mask.shape, np.inf, np.float32)
    for number in range(1, count):
        nodule = (labels == number).astype(np.uint8)
        inside = cv2.erode(nodule, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        distance = cv2.distanceTransform(1 - (nodule ^ inside), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    both = nearest + (nearest if count == 2 else second)
    return base + np.float32(weight) * np.exp(-(both**2) / np.float32(2 * sigma**2))
