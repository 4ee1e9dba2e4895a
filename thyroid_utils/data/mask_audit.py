"""What is wrong with a mask, and the mask without it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# In a 256 × 256 frame 16 pixels are a square of 4 × 4, a letter of burned-in text; no nodule or gland is drawn that small.
SPECK_PIXELS = 16
SPECK_SHARE = 0.01


class MaskProblem(NamedTuple):
    """One finding. `count`: how many regions (for "touches border" and "full" 1); `pixels`: how many pixels they hold."""

    problem: str
    count: int
    pixels: int


def mask_problems(mask: np.ndarray) -> list[MaskProblem]:
    """Everything about a mask that deserves a look.

    empty: nothing is marked. full: everything is. holes: background enclosed by the mask. specks: with holes filled, parts
    smaller than `SPECK_PIXELS` or `SPECK_SHARE` of the largest part. several parts: more than one part that is no speck (right
    where there are two nodules; `pixels` counts those outside the largest). touches border: a part that is no speck reaches the
    outermost rows or columns (`pixels` counts those there).

    Args:
        mask: bool (height, width). Parts are 8-connected, holes 4-connected.

    Returns:
        the problems found, in the order above; an empty list for a clean mask.
    """
    if not mask.any():
        return [MaskProblem("empty", 1, 0)]
    if mask.all():
        return [MaskProblem("full", 1, mask.size)]
    found = []
    holes = _holes(mask)
    if holes.any():
        count = cv2.connectedComponents(holes.astype(np.uint8), connectivity=4)[0] - 1
        found.append(MaskProblem("holes", count, int(holes.sum())))
    labels, areas, speck = _parts(mask | holes)
    if speck.any():
        found.append(MaskProblem("specks", int(speck.sum()), int(areas[speck].sum())))
    if (~speck).sum() > 1:
        found.append(MaskProblem("several parts", int((~speck).sum()), int(areas[~speck].sum() - areas.max())))
    edge = np.ones(mask.shape, bool)
    edge[1:-1, 1:-1] = False
    if border := int(np.isin(labels[edge], 1 + np.flatnonzero(~speck)).sum()):
        found.append(MaskProblem("touches border", 1, border))
    return found


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes filled and without its specks, bool (height, width); nothing else is added or removed.

    Holes are filled first, so that cleaning twice is the same as cleaning once. The largest part always stays.
    """
    filled = mask | _holes(mask)
    labels, _, speck = _parts(filled)
    return filled & ~np.isin(labels, 1 + np.flatnonzero(speck))


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, int (height, width), 0 for background; areas of parts 1, 2, … in pixels; which of these are specks."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    speck = areas < max(SPECK_PIXELS, SPECK_SHARE * areas.max(initial=0))
    if len(areas):  # never the largest part, which is the topmost and leftmost of equals
        left, top = stats[1:, cv2.CC_STAT_LEFT], stats[1:, cv2.CC_STAT_TOP]
        speck[np.lexsort((left, top, -areas))[0]] = False
    return labels, areas, speck


def _holes(mask: np.ndarray) -> np.ndarray:
    """Background that no 4-connected path joins to the outside of the frame."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 0, flags=4)
    return outside[1:-1, 1:-1].astype(bool)
