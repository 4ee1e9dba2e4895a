"""What a radiologist measures of a nodule, from its mask: size, shape, margin, and brightness against its surroundings.

Lengths are those of the outline through the midpoints between pixels inside and outside, so that an upright block of w × h pixels
is w wide and h high. Where the mask has several parts, the largest is measured and the others are counted.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from skimage.measure import label, regionprops

from thyroid_utils.common.words import number, whole
from thyroid_utils.data.images import ring_around
from thyroid_utils.data.overlays import echo_mask, mask_box
from thyroid_utils.scores.checks import checked_spacing

# Name in code → name in a table, with its unit. In this order they are reported.
MEASURES: dict[str, str] = {
    "area_px": "area (px)",
    "area_mm2": "area (mm²)",
    "long_axis_px": "long axis (px)",
    "long_axis_mm": "long axis (mm)",
    "short_axis_px": "short axis (px)",
    "short_axis_mm": "short axis (mm)",
    "height_over_width": "height / width",
    "taller_than_wide": "taller than wide",
    "circularity": "circularity",
    "margin_irregularity": "margin irregularity",
    "echo_inside": "gray level inside",
    "echo_around": "gray level around",
    "echo_difference": "gray level, inside − around",
    "nodules": "nodules",
    "specks": "specks",
    "touches_border": "touches the border",
}
MIN_PIXELS = 50  # below it an outline is made of pixels, and its perimeter says nothing
_EDGE, _EDGE_SHARE = 3.0, 0.01  # pixels, and of a frame's shorter side: how well the echo image's edge is found
SPECK = 0.05  # share of the largest part's area below which another part is a speck


def nodule_measures(
    mask: np.ndarray, gray: np.ndarray | None = None, spacing: float | Sequence[float] | None = None
) -> dict[str, float]:
    """Measures of the largest part (8 neighbours) of a mask.

    - `area_px`, `area_mm2`: pixels of the part, and their area.
    - `long_axis_*`: the greatest distance of two points of the outline; `short_axis_*`: the smallest distance of two parallel
      lines that enclose it. Of an ellipse they are its axes, up to a pixel longer.
    - `height_over_width`: of the upright bounding box, depth over transverse extent; `taller_than_wide`: 1 above 1, else 0.
    - `circularity`: 4πA / P², 1 for a disc and less the longer or the more ragged.
    - `margin_irregularity`: P over the perimeter of the ellipse with the same second moments, less 1: near 0 for every smooth
      oval, 0.1 where bumps and notches make the outline a tenth longer. P is Crofton's estimate in four directions, so that ovals
      lie within ±0.02 of 0, and an upright square at 0.02 to 0.04 where 0.10 is true.
    - `echo_inside`, `echo_around`: mean gray level, 0 to 255, of the part and of a ring around it (a quarter of its diameter
      wide, `data.images.ring_around`), without other parts of the mask and inside the echo image; `echo_difference`: the first
      less the second, below 0 for a hypoechoic nodule. A scanner's gray levels are logarithms of echoes, so that their difference
      is a ratio of echoes: in decibels it is difference · dynamic range / 255, with a dynamic range that image files do not tell.
      Gain and offset leave the difference as it is; a gray map or a filter does not.
    - `nodules`: parts of at least 5 % of the largest one's area; `specks`: the smaller ones. `touches_border`: 1 where the part
      reaches the frame's border or, with `gray`, comes as near to the edge of the echo image as that is known to (3 pixels, or
      1 % of the frame's shorter side), so that its sizes are lower bounds.

    Ratios are of lengths in millimetres where the spacing is known; without it pixels are taken as square.

    Args:
        mask: bool (height, width).
        gray: gray levels of the same frame, uint8 (height, width); None leaves brightness out.
        spacing: (row, column) in mm, or one number for both; None where unknown.

    Returns:
        name of `MEASURES` → value. NaN: millimetres without spacing, brightness without `gray` or with an empty ring, circularity
        and irregularity of parts under 50 pixels or too thin for pixels that are not square; of an empty mask everything but
        `nodules` and `specks`, which are 0.

    Raises:
        ValueError: not a bool mask, gray levels of another size or type, or an impossible spacing.

    References:
        Chen et al., Radiology 226 (2003) 504-514 (elliptic-normalized circumference); Tessler et al., J. Am. Coll. Radiol. 14
        (2017) 587-595 (taller than wide, echogenicity).
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2 or not mask.size:
        raise ValueError(f"nodule_measures: mask is {mask.dtype} {mask.shape}; expected bool (height, width)")
    if gray is not None and (gray.dtype != np.uint8 or gray.shape != mask.shape):
        raise ValueError(f"nodule_measures: gray is {gray.dtype} {gray.shape}; expected uint8 {mask.shape} as the mask")
    rows, columns = checked_spacing(spacing, "nodule_measures")
    found = dict.fromkeys(MEASURES, float("nan")) | {"nodules": 0.0, "specks": 0.0}
    own, areas = _largest(mask)
    if not len(areas):
        return found
    area = float(areas.max())
    top, bottom, left, right = box = mask_box(own)
    part = box.crop(own)
    height, width = rows * (bottom - top), columns * (right - left)
    found |= {
        "area_px": area,
        "height_over_width": height / width,
        "taller_than_wide": float(height > width * (1 + 1e-9)),
        "nodules": float(np.count_nonzero(areas >= SPECK * area)),
        "touches_border": float(top == 0 or left == 0 or bottom == mask.shape[0] or right == mask.shape[1]),
    }
    found["specks"] = len(areas) - found["nodules"]
    outline = _outline(part)
    found["long_axis_px"], found["short_axis_px"] = _axes(outline)
    if spacing is not None:
        found["area_mm2"] = area * rows * columns
        found["long_axis_mm"], found["short_axis_mm"] = _axes(outline * (rows, columns))
    if area >= MIN_PIXELS:
        found["circularity"], found["margin_irregularity"] = _margin(part, rows / columns)
    if gray is not None:
        echo = echo_mask(gray)
        found |= _brightness(own, mask, gray, echo)
        found["touches_border"] = max(found["touches_border"], float(_is_at_edge(own, echo)))
    return found


def measures_told(found: dict[str, float]) -> dict[str, str]:
    """Those measures that a reader looks for, in mm where that is known, as text; what is not defined is left out."""
    if not found or np.isnan(found["area_px"]):
        return {}
    in_mm = np.isfinite(found["area_mm2"])
    unit, square, digits = ("mm", "mm2", 1) if in_mm else ("px", "px", 0)
    axes = " × ".join(number(found[f"{name}_axis_{unit}"], digits) for name in ("long", "short"))
    shown = {"long × short axis": f"{axes} {unit}", "area": f"{whole(found[f'area_{square}'])} {unit}²"}
    for name, called, decimals in (
        ("height_over_width", "height / width", 2),
        ("circularity", "circularity", 2),
        ("margin_irregularity", "margin irregularity", 2),
        ("echo_difference", "gray level against surroundings", 0),
    ):
        if np.isfinite(found[name]):
            shown[called] = number(found[name], decimals, sign=name == "echo_difference")
    if found["taller_than_wide"]:
        shown["height / width"] += ", taller than wide"
    return shown


def _largest(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest part of a bool mask, as such a mask, and the areas of all parts in pixels; of an empty mask no area."""
    labels = label(mask)
    areas = np.bincount(labels.ravel())[1:]
    return (labels == areas.argmax() + 1 if len(areas) else mask), areas


def _outline(part: np.ndarray) -> np.ndarray:
    """Midpoints of the border edges of a bool part, (points, 2) as (row, column) from its upper left corner."""
    padded = np.pad(part, 1)
    points = []
    for axis, half in ((0, (0.0, 0.5)), (1, (0.5, 0.0))):
        edges = np.argwhere(np.diff(padded.astype(np.int8), axis=axis))  # between this pixel and the next one along the axis
        points.append(edges + half - (np.array([0.0, 1.0]) if axis == 0 else np.array([1.0, 0.0])))
    return np.concatenate(points)


def _axes(points: np.ndarray) -> tuple[float, float]:
    """The greatest distance of two points, and the smallest of two parallel lines around all (one of which holds an edge of the
    convex hull)."""
    hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(float)
    apart = hull[:, None] - hull[None]
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.hypot(*edges.T)[:, None]
    return float(np.hypot(apart[..., 0], apart[..., 1]).max()), float(np.ptp(hull @ normals.T, axis=0).min())


def _margin(part: np.ndarray, row_over_column: float) -> tuple[float, float]:
    """Circularity and irregularity of a bool part whose pixels are so many times as high as wide; NaN where it is too thin."""
    part = np.pad(part, 1)
    if abs(row_over_column - 1) > 1e-6:  # Crofton's formula wants square pixels: those of the finer side
        part, areas = _largest(_squared(part, max(row_over_column, 1), max(1 / row_over_column, 1)))
        if areas.max(initial=0) < MIN_PIXELS:
            return float("nan"), float("nan")
    (region,) = regionprops(part.astype(np.uint8))
    perimeter = float(region.perimeter_crofton)
    a, b = region.axis_major_length / 2, region.axis_minor_length / 2
    # Ramanujan's formula, exact to 10⁻⁴ up to an axis ratio of 10
    ellipse = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    return 4 * np.pi * float(region.area) / perimeter**2, perimeter / float(ellipse) - 1


def _squared(part: np.ndarray, down: float, across: float) -> np.ndarray:
    """A bool part enlarged by two factors and smoothed by as much: repeated pixels would be steps in its outline."""
    size = round(part.shape[1] * across), round(part.shape[0] * down)
    large = cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(large, (0, 0), max(down, across) / 2) >= 0.5


def _is_at_edge(own: np.ndarray, echo: np.ndarray) -> bool:
    """Whether a part reaches what is not echo image, nearly or quite; False where all of the frame is."""
    if echo.all():
        return False
    inside = cv2.distanceTransform(echo.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(inside[own].min() <= max(_EDGE, _EDGE_SHARE * min(own.shape)))


def _brightness(own: np.ndarray, mask: np.ndarray, gray: np.ndarray, echo: np.ndarray) -> dict[str, float]:
    ring = ring_around(own) & ~mask & echo
    inside, around = float(gray[own].mean()), float(gray[ring].mean()) if ring.any() else float("nan")
    return {"echo_inside": inside, "echo_around": around, "echo_difference": inside - around}
