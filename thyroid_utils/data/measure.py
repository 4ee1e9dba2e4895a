"""Numbers that describe the images of a case table: sizes, nodule area and position, gray levels inside and around."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import LABEL_NAMES

GRID = 64  # side of the position maps, in cells


@dataclass(frozen=True)
class Measures:
    """What `measure_cases` found.

    Attributes:
        table: one row a case (index `case`): `width`, `height` (pixels), `area_share` (mask area over frame area, 0 to 1; NaN
            without a mask), `x`, `y` (centre of the mask over frame width and height, 0 to 1 from the left and the top),
            `taller` (height over width of the mask's bounding box), `parts` (connected components of the mask),
            `gray` (mean gray level of the frame), `inside`, `around` (mean gray level in the mask and in a ring around it).
        positions: class name → float array (GRID, GRID): share of that class's masks that cover each cell of the frame.
        histograms: class name → float array (2, 256): shares of gray levels inside the mask and in the ring around it,
            every image counted alike.
    """

    table: pd.DataFrame
    positions: dict[str, np.ndarray]
    histograms: dict[str, np.ndarray]


def measure_cases(cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None) -> Measures:
    """Read every image and mask of a case table once and measure them.

    Args:
        cases: case table.
        workers: reading threads; None takes one a core, at most four.
        progress: called with (images done, images in all).

    Raises:
        DataError: the table is empty.
        ImageError: an image or a mask cannot be read, or their sizes differ.
    """
    if cases.empty:
        raise DataError("measure_cases: the case table is empty; nothing to measure")
    pairs = list(zip(cases["image"], cases["mask"], strict=True))
    found = in_threads(lambda pair: _measure(*pair), pairs, workers, progress)
    rows, grids, histograms = (dict(zip(cases.index, part, strict=True)) for part in zip(*found, strict=True))
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(cases.index)
    with_mask = table.index[table["area_share"] > 0]
    members = {name: [case for case in with_mask if _same(cases.at[case, "label"], label)] for label, name in LABEL_NAMES.items()}
    members = {name: found for name, found in members.items() if found}
    return Measures(
        table,
        {name: np.mean([grids[case] for case in found], axis=0) for name, found in members.items()},
        {name: np.mean([histograms[case] for case in found], axis=0) for name, found in members.items()},
    )


def ring_around(mask: np.ndarray, width: float | None = None, gap: float = 2.0) -> np.ndarray:
    """The surroundings of a mask, to compare its inside with: bool (height, width), disjoint from `mask`; empty for an empty one.

    Args:
        mask: bool (height, width).
        width: of the ring in pixels; None takes a quarter of the diameter of a disc of the mask's area, at least 3.
        gap: pixels left out next to the contour, which nobody draws to the pixel.
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    width = max(3.0, 0.25 * np.sqrt(4 * mask.sum() / np.pi)) if width is None else width
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (distance > gap) & (distance <= gap + width)


def _same(label: object, wanted: int | None) -> bool:
    return bool(pd.isna(label)) if wanted is None else bool(pd.notna(label) and label == wanted)


def _measure(image: str, mask: str | None) -> tuple[dict, np.ndarray, np.ndarray]:
    gray = read_gray(image)
    height, width = gray.shape
    row = {"width": width, "height": height, "area_share": np.nan, "x": np.nan, "y": np.nan, "taller": np.nan}
    row |= {"parts": 0, "gray": float(gray.mean()), "inside": np.nan, "around": np.nan}
    covered, histogram = np.zeros((GRID, GRID)), np.zeros((2, 256))
    if pd.isna(mask):
        return row, covered, histogram
    truth = read_mask(mask, gray.shape)
    row["area_share"] = float(truth.mean())
    if not truth.any():
        return row, covered, histogram
    ys, xs = np.nonzero(truth)
    row |= {"x": (xs.mean() + 0.5) / width, "y": (ys.mean() + 0.5) / height}
    row["taller"] = float(np.ptp(ys) + 1) / float(np.ptp(xs) + 1)
    row["parts"] = cv2.connectedComponents(truth.astype(np.uint8))[0] - 1
    covered = cv2.resize(truth.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA).astype(float)
    for position, (name, region) in enumerate([("inside", truth), ("around", ring_around(truth))]):
        counts = np.bincount(gray[region], minlength=256)
        histogram[position] = counts / max(counts.sum(), 1)
        row[name] = float(gray[region].mean()) if region.any() else np.nan
    return row, covered, histogram
