"""What each step of a pipeline does to an image, in numbers, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from thyroid_utils.data.images import read_gray, read_image, read_mask
from thyroid_utils.data.overlays import Box, echo_mask
from thyroid_utils.preprocess.base import luma
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.studies.preprocessing.image_quality import decompress, homogeneous_patches, quality, speckle_snr

MEASURES = {  # name → how a table names it
    "cnr": "CNR",
    "gcnr": "generalised CNR",
    "speckle_snr": "speckle SNR",
    "edge": "edge, gray levels/pixel",
}
_SAME_PICTURE = ("gray", "scale", "zscore", "three_channels")


def measure_stages(
    cases: pd.DataFrame, pipelines: Sequence[Pipeline], progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Image quality after every step of every pipeline, and the time the step took, image by image.

    Scaling, z-scores and copied channels change numbers, not the picture: their rows carry the time alone, and so does what comes
    behind a z-score. What comes behind `scale` is measured on 255 times its values.

    Args:
        cases: case table with masks.
        pipelines: fitted where they need it.
        progress: called with (images done, images in all).

    Returns:
        one row an image and stage: `case`, `patient`, `pipeline`, `position` (0 is the input), `step`, `ms` (wall time of the
        step, milliseconds; 0 for the input), and `cnr`, `gcnr`, `speckle_snr`, `edge` of `image_quality.quality`.

    Raises:
        ImageError: a file cannot be read.
        ValueError: a case has no mask.
    """
    without = cases.index[cases["mask"].isna()]
    if len(without):
        raise ValueError(f"measure_stages: {len(without)} cases have no mask (first: {without[0]}); drop them")
    rows, total = [], len(cases)
    for done, (case, row) in enumerate(cases.iterrows(), start=1):
        image = read_image(row["image"])
        mask = read_mask(row["mask"], image.shape[:2])
        for pipeline in pipelines:
            stages, seconds = timed_stages(pipeline, image, mask)
            patches: dict[
                tuple[int, int], list[Box]
            ] = {}  # one choice a size: else each filter would be judged where it did best
            for position, ((step, pixels, outline), spent) in enumerate(zip(stages, seconds, strict=True)):
                found = {"case": case, "patient": row["patient"], "pipeline": pipeline.name, "position": position, "step": step}
                found["ms"] = 1000 * spent
                levels = None if step in _SAME_PICTURE else _levels(pixels, pipeline, position)
                if levels is not None:
                    if levels.shape not in patches:
                        patches[levels.shape] = homogeneous_patches(levels, within=echo_mask(levels))
                    found |= quality(levels, outline, patches=patches[levels.shape])
                rows.append(found)
        if progress is not None:
            progress(done, total)
    return pd.DataFrame(rows)


def _levels(pixels: np.ndarray, pipeline: Pipeline, position: int) -> np.ndarray | None:
    """Gray levels, uint8 (height, width), of the picture behind a step; None where it has none in [0, 255]."""
    if pixels.dtype == np.uint8:
        return luma(pixels)
    before = [step.name for step in pipeline.steps[:position]]
    return None if "zscore" in before or pixels.ndim != 2 else np.rint(255 * pixels).astype(np.uint8)


def timed_stages(pipeline: Pipeline, image: np.ndarray, mask: np.ndarray | None) -> tuple[list, list[float]]:
    """`pipeline.stages(image, mask)` and the wall time of each in seconds, 0 for the input."""
    stages, seconds = [], [0.0]
    iterator = pipeline.iterate(image, mask)
    stages.append(next(iterator))
    while True:
        started = time.perf_counter()
        try:
            stages.append(next(iterator))
        except StopIteration:
            return stages, seconds
        seconds.append(time.perf_counter() - started)


def patch_snr(cases: pd.DataFrame, images: int = 40, seed: int = 0, dynamic_range_db: float = 60.0) -> np.ndarray:
    """Speckle SNR of the most even patches of some frames, decompressed as if they had been shown at `dynamic_range_db`.

    A real scanner filters and compresses in ways it does not tell, so values of real frames only show an order of magnitude.

    Args:
        cases: case table.
        images: frames at most, one a patient.
        seed: which frames.

    Returns:
        float array (patches,), mean over SD of each patch's amplitude.
    """
    chosen = cases.sample(frac=1, random_state=seed).drop_duplicates("patient").head(images)
    found = []
    for path in chosen["image"]:
        gray = read_gray(path)
        patches = homogeneous_patches(gray, within=echo_mask(gray))
        found += [speckle_snr(decompress(box.crop(gray), dynamic_range_db)) for box in patches]
    return np.array(found)
