"""Frames with their burned-in marks, with the marks painted over, and with a placebo, as a network sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.progress import Progress
from thyroid_utils.data.images import read_gray
from thyroid_utils.data.overlays import Box, echo_mask, find_overlays, mask_box
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import Pipeline, for_each_case
from thyroid_utils.preprocess.steps import CropEcho, RemoveOverlays, Sample


@dataclass(frozen=True)
class MarkPairs:
    """What a network sees of n frames with their marks and without.

    Attributes:
        kept, removed, placebo: float32 (n, channels, height, width): as they are; with the marks painted over; with the mirror
            image of the marks inside the echo image painted over instead.
        marks: bool (n, height, width), network pixels of which painting the marks over changes any part; none where preprocessing
            crops, blanks or paints them over itself. Where a frame is enlarged, interpolation carries a mark half a frame pixel
            beyond them.
        table: index `case`: `marks` and `placebo` (shares of the network's pixels that the two ways of painting change; no
            placebo without marks inside the echo image whose mirror image is free), `callipers` and `text_regions` (counts in the
            whole frame).
    """

    kept: np.ndarray
    removed: np.ndarray
    placebo: np.ndarray
    marks: np.ndarray
    table: pd.DataFrame


def mark_pairs(
    pipeline: Pipeline, cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None
) -> MarkPairs:
    """Preprocess each frame three times: with its marks, with them painted over, and with the placebo.

    All three are cropped alike: the crop is that of the untouched frame, as `crop_echo` finds another box in two of five painted
    frames of DDTI, and what moved with the box would be taken for the marks' doing.

    Args:
        pipeline: of a `Predictor`.
        cases: one or more rows of a case table; each needs memory of three inputs.
        workers: threads; None takes one a core, at most four.
        progress: called with (images done, images in all).

    Raises:
        ValueError: no rows.
        DataError: an image that cannot be read.
    """
    if cases.empty:
        raise ValueError("mark_pairs: no cases; expected one row or more of a case table")
    found = for_each_case(lambda case: _pair(pipeline, read_gray(case["image"])), cases, workers, progress)
    inputs, marks, rows = zip(*found, strict=True)
    kept, removed, placebo = (np.stack(images) for images in zip(*inputs, strict=True))
    return MarkPairs(kept, removed, placebo, np.stack(marks), pd.DataFrame(rows, index=cases.index.rename("case")))


def _pair(pipeline: Pipeline, gray: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, dict]:
    """Inputs (kept, removed, placebo), marks on the network's grid and the row of the table, of one frame uint8."""
    echo = echo_mask(gray)
    found, painter = find_overlays(gray, echo=echo), RemoveOverlays()
    mirrored = _mirrored(found.mask & echo, echo)
    placebo = cv2.inpaint(gray, mirrored.astype(np.uint8), painter.radius, cv2.INPAINT_TELEA) if mirrored.any() else gray
    kept, removed, placebo = _cropped([gray, painter.change(gray), placebo], pipeline)
    rest = _after_crop(pipeline)
    samples = [rest(image) for image in (kept, removed, placebo)]
    marks = np.zeros(samples[0].image.shape[1:], bool)
    if not any(step.name == "remove_overlays" for step in pipeline.steps):
        marks = any_part(kept != removed, samples[0].geometry)
    elsewhere = any_part(kept != placebo, samples[0].geometry)
    row = {
        "marks": float(marks.mean()),
        "placebo": float(elsewhere.mean()),
        "callipers": found.callipers,
        "text_regions": found.text_regions,
    }
    return [sample.image for sample in samples], marks, row


def _mirrored(marks: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """Marks inside the echo image, mirrored left to right in its box and kept to what is echo and not itself near a mark."""
    box, turned = mask_box(echo), np.zeros_like(marks)
    # Painted as wide as the step paints: it widens what was drawn by a pixel.
    wide = cv2.dilate(marks.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    turned[box.top : box.bottom, box.left : box.right] = box.crop(wide)[:, ::-1]
    near = cv2.dilate(wide.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    return turned & echo & ~near


def _last_crop(pipeline: Pipeline) -> int:
    """How many steps lead up to and include the last `crop_echo`; 0 without one."""
    return max((number for number, step in enumerate(pipeline.steps, start=1) if isinstance(step, CropEcho)), default=0)


def _after_crop(pipeline: Pipeline) -> Pipeline:
    rest = Pipeline(pipeline.steps[_last_crop(pipeline) :], pipeline.name)
    rest.mean, rest.deviation = pipeline.mean, pipeline.deviation
    return rest


def _cropped(images: list[np.ndarray], pipeline: Pipeline) -> list[np.ndarray]:
    """Gray frames after the steps up to the last crop, each cropped and blanked as the first one is."""
    samples = [Sample(image, None, Geometry.of(image)) for image in images]
    for step in pipeline.steps[: _last_crop(pipeline)]:
        if not isinstance(step, CropEcho):
            samples = [step(sample) for sample in samples]
            continue
        before, after = samples[0], step(samples[0])
        (top, left), (height, width) = _corner(before.geometry, after.geometry), after.image.shape
        box = Box(top, top + height, left, left + width)
        blanked = (after.image == 0) & (box.crop(before.image) != 0)
        samples = [replace(after, image=np.where(blanked, np.uint8(0), box.crop(sample.image))) for sample in samples]
    return [sample.image for sample in samples]


def _corner(before: Geometry, after: Geometry) -> tuple[int, int]:
    """Where a crop's upper left corner lies in the image before it, in its pixels."""
    row, column = ((new - old) / scale for new, old, scale in zip(after.offset, before.offset, before.scale, strict=True))
    return round(row), round(column)


def any_part(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A mask of a frame on the grid of the image made from it: True where any part of the image's pixel is.

    Args:
        mask: bool, `geometry.frame`.
        geometry: of the preprocessed image.

    Returns:
        bool, `geometry.shape`; False where the image reaches beyond the frame.

    Raises:
        ValueError: a mask of another size.
    """
    if mask.shape != geometry.frame:
        raise ValueError(f"any_part: mask is {mask.shape}, expected the frame's {geometry.frame}")
    bounds = []
    for axis in (0, 1):
        edges = geometry.offset[axis] + geometry.scale[axis] * np.arange(geometry.shape[axis] + 1)
        # 1e-9: an edge that should lie on a whole pixel must not reach into the next by rounding.
        first, last = np.floor(edges[:-1] + 1e-9).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
        bounds.append((np.clip(first, 0, mask.shape[axis]), np.clip(last, 0, mask.shape[axis])))
    (top, bottom), (left, right) = bounds
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    return counts > 0
