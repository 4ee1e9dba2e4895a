"""Near-identical images: a perceptual hash proposes pairs, the correlation of small pictures decides."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # side of the thumbnail in pixels
HASH_BITS = 64
# Every pair of DDTI and TG3K frames that correlates at 0.9 or more differs in at most 16 of the 64 bits.
HASH_DISTANCE = 16
NEAR_CORRELATION = 0.9
_BLOCK = 256


def thumbnail(gray: np.ndarray) -> np.ndarray:
    """A small picture of local contrast whose scalar product with another one is their correlation.

    The frame is reduced to 32 × 32 by area, each pixel is set against the mean and the spread of its surroundings (Gaussian,
    3 pixels), and the result has mean 0 and length 1. Without the local contrast the bright top and the dark bottom that
    every ultrasound frame has make frames of different patients correlate at up to 0.93; with it they stay below 0.81.

    Args:
        gray: uint8 (height, width).

    Returns:
        float32 (1024,); all 0 for a flat frame, which then correlates with nothing.
    """
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    centred = small - cv2.GaussianBlur(small, (0, 0), 3)
    spread = np.sqrt(cv2.GaussianBlur(centred * centred, (0, 0), 3))
    contrast = (centred / (spread + 6)).ravel()  # 6 gray levels keep the noise of black regions small
    contrast -= contrast.mean()
    length = np.linalg.norm(contrast)
    return contrast / length if length > 1e-3 else np.zeros_like(contrast)


def perceptual_hash(thumb: np.ndarray) -> np.ndarray:
    """64 bits as -1 and +1: whether each of the 8 × 8 lowest cosine coefficients exceeds their median (pHash).

    Args:
        thumb: float32 (1024,), as `thumbnail` makes it.

    Returns:
        int8 (64,). The number of differing bits of two hashes is (64 - a·b) / 2.
    """
    low = cv2.dct(thumb.reshape(SIDE, SIDE))[:8, :8].ravel()
    return np.where(low > np.median(low), 1, -1).astype(np.int8)


def near_pairs(
    thumbs: np.ndarray,
    hashes: np.ndarray,
    near_correlation: float = NEAR_CORRELATION,
    hash_distance: int = HASH_DISTANCE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images that look the same in at least one of their views (whole frame, echo image alone).

    Args:
        thumbs: float32 (views, n, 1024), of `thumbnail`; an image that cannot be read is all 0.
        hashes: int8 (views, n, 64), of `perceptual_hash`.
        near_correlation: lowest correlation of a pair, above 0 and at most 1.
        hash_distance: pairs whose hashes differ in more bits are not compared.

    Returns:
        pairs, int (m, 2) with first < second, in order; correlation, float (m,) rounded to 4 digits (the better view's);
        distance, int (m,), differing bits of that view's hashes.
    """
    views, count, _ = thumbs.shape
    signs = hashes.astype(np.float32)
    found = []
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        best = np.zeros((rows.stop - start, count - start), np.float32)
        bits = np.zeros(best.shape, np.int16)
        for view in range(views):
            distance = (HASH_BITS - signs[view, rows] @ signs[view, start:].T) / 2
            proposed = np.triu(distance <= hash_distance, 1)
            columns = np.flatnonzero(proposed.any(0))
            correlation = thumbs[view, rows] @ thumbs[view, start + columns].T
            better = proposed[:, columns] & (correlation > best[:, columns])
            row, column = np.nonzero(better)
            best[row, columns[column]] = correlation[row, column]
            bits[row, columns[column]] = distance[row, columns[column]]
        # Rounding before the comparison keeps the answer independent of the order in which threads add up.
        best = best.round(4)
        row, column = np.nonzero(best >= near_correlation)
        found.append((np.stack([row + start, column + start], 1), best[row, column].astype(float), bits[row, column].astype(int)))
    if not found:
        return np.zeros((0, 2), int), np.zeros(0), np.zeros(0, int)
    pairs, correlation, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    return pairs, correlation, distance


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Union-find: the connected components of `count` things under `pairs`, int (m, 2).

    Returns:
        int (count,), components numbered from 0 in the order of their first member.
    """
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return pd.factorize(connected_components(links, directed=False)[1])[0]
