"""Numbers that describe the images of a case table: sizes, nodule area and position, gray levels inside and around."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import LABEL_NAMES

GRID = 64  # side of the position maps, in cells
RING = 0.15  # width of the ring around a nodule, as a share of the diameter of the circle with the nodule's area


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


def measure_cases(
    cases: pd.DataFrame, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Measures:
    """Read every image and mask of a case table once and measure them.

    Args:
        cases: case table.
        workers: reading threads; None takes one a core, at most four.
        progress: called with (images done, images in all).

    Raises:
        ImageError: an image or a mask cannot be read, or their sizes differ.
    """
    rows: dict[str, dict] = {}
    grids: dict[str, np.ndarray] = {}
    histograms: dict[str, np.ndarray] = {}
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        jobs = {pool.submit(_measure, row.image, row.mask): row.Index for row in cases[["image", "mask"]].itertuples()}
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                case = jobs[job]
                rows[case], grids[case], histograms[case] = job.result()
                if progress is not None:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(cases.index)
    with_mask = table.index[table["area_share"] > 0] if len(table) else table.index
    members = {name: [case for case in with_mask if _same(cases.at[case, "label"], label)] for label, name in LABEL_NAMES.items()}
    members = {name: found for name, found in members.items() if found}
    return Measures(
        table,
        {name: np.mean([grids[case] for case in found], axis=0) for name, found in members.items()},
        {name: np.mean([histograms[case] for case in found], axis=0) for name, found in members.items()},
    )


def ring_around(mask: np.ndarray) -> np.ndarray:
    """The surroundings of a mask: pixels within `RING` of its equivalent diameter (at least 3 pixels) outside it.

    Args:
        mask: bool (height, width).

    Returns:
        bool (height, width), disjoint from `mask`; empty for an empty mask.
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    width = max(3.0, RING * np.sqrt(4 * mask.sum() / np.pi))
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return (distance > 0) & (distance <= width)


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
