"""U-Net's weight map: pixels near a nodule's border count more, or those between two."""

from __future__ import annotations

import cv2
import numpy as np

WEIGHT = 10.0
SIGMA = 5.0

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def border_weights(
    mask: np.ndarray,
    weight: float = WEIGHT,
    sigma: float = SIGMA,
    nodule_weight: float = 1.0,
    separation_only: bool = False,
) -> np.ndarray:
    """w = w_c + w0·exp(−(d1 + d2)² / 2σ²) of Ronneberger et al. 2015, for outlines as paper 002 wants them weighted.

    d1 is the distance to the border of the nearest nodule and d2 to that of the second nearest, on either side of it; a
    nodule is an 8-connected part, its border its pixels with a side on background or on the image's edge.

    U-Net keeps touching cells apart with this, and gives the outline of a cell without neighbours no weight. Paper 002 weighs
    outlines, and most images here have one nodule. So d2 is taken to be d1, which is the larger weight of the two readings
    and the same one half-way between two nodules; a stray speck elsewhere in the mask changes nothing for the nodule.

    Args:
        mask: bool (height, width).
        weight: w0, 0 or more.
        sigma: σ in pixels, above 0.
        nodule_weight: w_c of the nodule's pixels; the background's is 1.
        separation_only: U-Net's own reading: d2 is that of the second nearest nodule, without which there is no weight.

    Returns:
        float32 (height, width): w_c + w0 on a border and w_c far from it; without a nodule all 1.
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
    both = nearest + (second if separation_only else nearest)
    return base + np.float32(weight) * np.exp(-(both**2) / np.float32(2 * sigma**2))
