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
    _check(mask)
    if not mask.any():
        return [MaskProblem("empty", 1, 0)]
    if mask.all():
        return [MaskProblem("full", 1, mask.size)]
    found = []
    holes = _holes(mask)
    if holes.any():
        found.append(
            MaskProblem("holes", cv2.connectedComponents(holes.astype(np.uint8), connectivity=4)[0] - 1, int(holes.sum()))
        )
    labels, areas, boxes = _parts(mask | holes)
    speck = _is_speck(areas, boxes, SPECK_PIXELS, SPECK_SHARE)
    if speck.any():
        found.append(MaskProblem("specks", int(speck.sum()), int(areas[speck].sum())))
    if (~speck).sum() > 1:
        found.append(MaskProblem("several parts", int((~speck).sum()), int(areas[~speck].sum() - areas.max())))
    if border := _border_pixels(labels, boxes, ~speck):
        found.append(MaskProblem("touches border", 1, border))
    return found


def clean_mask(
    mask: np.ndarray, *, min_pixels: int = SPECK_PIXELS, min_share: float = SPECK_SHARE, fill_holes: bool = True
) -> np.ndarray:
    """The mask with its holes filled and without its specks; nothing else is added or removed.

    Args:
        mask: bool (height, width).
        min_pixels, min_share: a part stays when it has at least `min_pixels` pixels and at least `min_share` of the largest
            part's. The largest part always stays.
        fill_holes: also mark background that is enclosed by the mask. Holes are filled first, so that cleaning twice is the
            same as cleaning once.

    Returns:
        bool (height, width), a new array.
    """
    _check(mask)
    filled = mask | _holes(mask) if fill_holes else mask.copy()
    labels, areas, boxes = _parts(filled)
    if len(areas):
        filled[np.concatenate([[False], _is_speck(areas, boxes, min_pixels, min_share)])[labels]] = False
    return filled


def _check(mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"expected a mask, bool (height, width); found {mask.dtype} {mask.shape}")


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, int (height, width), 0 for background; areas of parts 1, 2, … in pixels; their (left, top, width, height)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels, stats[1:, cv2.CC_STAT_AREA], stats[1:, : cv2.CC_STAT_AREA]


def _is_speck(areas: np.ndarray, boxes: np.ndarray, min_pixels: int, min_share: float) -> np.ndarray:
    """bool (parts,); never the largest part, which is the topmost and leftmost of equals."""
    speck = areas < max(min_pixels, min_share * areas.max(initial=0))
    if len(areas):
        left, top, *_ = boxes.T
        speck[np.lexsort((left, top, -areas))[0]] = False
    return speck


def _holes(mask: np.ndarray) -> np.ndarray:
    """Background that no 4-connected path joins to the outside of the frame."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 0, flags=4)
    return outside[1:-1, 1:-1].astype(bool)


def _border_pixels(labels: np.ndarray, boxes: np.ndarray, counted: np.ndarray) -> int:
    """Pixels of the counted parts in the outermost rows and columns."""
    height, width = labels.shape
    left, top, wide, tall = boxes.T
    touching = counted & ((left == 0) | (top == 0) | (left + wide == width) | (top + tall == height))
    if not touching.any():
        return 0
    part = np.isin(labels, 1 + np.flatnonzero(touching))
    return int(part.sum() - part[1:-1, 1:-1].sum())
