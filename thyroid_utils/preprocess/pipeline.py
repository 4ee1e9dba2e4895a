"""A list of named steps as one object: checked, hashed, fitted on the training images, applied to any image.

The same object serves notebooks, training and the app, so that an image meets the same arithmetic everywhere. `PRESETS`
(`presets.toml`) holds the preprocessing of the five papers, and one of our own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.common.files import cached, content_key, file_hashes, source_hash
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data import images, overlays
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.named import Entry, listed_presets, parsed
from thyroid_utils.preprocess.steps import STEPS, NoduleCrop, Resize, Sample, Step, Zscore

Spec = str | Sequence[Entry]


@dataclass(frozen=True)
class Preset:
    """A list as a parameter file would hold it, and what the paper says and leaves open."""

    steps: list[Entry]
    note: str


PRESETS = {name: Preset(**told) for name, told in listed_presets("preprocessing").items()}


@dataclass(eq=False, repr=False)
class Pipeline:
    """Preprocessing from a frame to a network's input; made by `build_pipeline`.

    Call it with an image, uint8 (height, width) or RGB (height, width, 3), and perhaps its mask, bool (height, width); the
    result is a `Sample` with a float32 image (channels, height, width), the mask on the same grid and the geometry.

    mean, deviation: of the training images, in front of `zscore` by train; given where `fit` has found them before.
    """

    steps: Sequence[Step]
    name: str
    mean: float | None = None
    deviation: float | None = None

    @property
    def needs_fit(self) -> bool:
        """Whether a step takes its numbers from the training images."""
        return any(isinstance(step, Zscore) and step.by == "train" for step in self.steps)

    @property
    def needs_mask(self) -> bool:
        """Whether a step reads the mask, so that an image without one cannot be preprocessed."""
        return any(isinstance(step, NoduleCrop) for step in self.steps)

    @property
    def channels(self) -> int:
        return 3 if any(step.name == "three_channels" for step in self.steps) else 1

    @property
    def hash(self) -> str:
        """SHA-256 over the steps, all their parameters and the fitted numbers; the pipeline's name does not count.

        Raises:
            DataError: not fitted yet: the hash would not tell what the pipeline does.
        """
        self._check_fitted()
        content = [[step.name, step.model_dump()] for step in self.steps], self.mean, self.deviation
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Pipeline({self.name}: {' → '.join(step.name for step in self.steps)})"

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> Sample:
        """Apply every step.

        Raises:
            DataError: not fitted; an image that is not uint8 (height, width) or (height, width, 3).
        """
        for _, sample in self.iterate(image, mask):
            last = sample
        stacked = last.image[None] if last.image.ndim == 2 else last.image.transpose(2, 0, 1)
        return replace(last, image=np.ascontiguousarray(stacked, dtype=np.float32))

    def stages(self, image: np.ndarray, mask: np.ndarray | None = None) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
        """What each step leaves behind, for pictures: ("input", image, mask), then (name of the step, image, mask).

        Images are (height, width) or (height, width, 3), uint8 up to `scale` or `zscore` and float32 from there.
        """
        return [(name, sample.image, sample.mask) for name, sample in self.iterate(image, mask)]

    def iterate(self, image: np.ndarray, mask: np.ndarray | None = None) -> Iterator[tuple[str, Sample]]:
        """`stages` as samples, one at a time: each step runs when its result is asked for, so that it can be timed."""
        self._check_fitted()
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.size == 0:
            raise DataError(f"expected a uint8 image (height, width) or (height, width, 3); found {image.dtype} {image.shape}")
        if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
            raise DataError(f"expected a boolean mask {image.shape[:2]} like its image; found {mask.dtype} {mask.shape}")
        sample = Sample(image, mask, Geometry.of(image))
        yield "input", sample
        for step in self.steps:
            if isinstance(step, Zscore) and step.by == "train":
                sample = replace(sample, image=step.normalise(sample.image, self.mean, self.deviation))
            else:
                sample = step(sample)
            yield step.name, sample

    def load(self, case: pd.Series) -> Sample:
        """Read and preprocess the image and the mask of one row of a case table.

        Raises:
            ImageError: a file that cannot be read, or a mask of another size than its image.
        """
        image = read_image(case["image"])
        return self(image, None if pd.isna(case["mask"]) else read_mask(case["mask"], image.shape[:2], case["image"]))

    def fit(self, cases: pd.DataFrame, progress: Progress | None = None) -> Pipeline:
        """Take µ and σ of `zscore` by train over all pixels of the images whose split is "train", and return the pipeline.

        Nothing is read, and any table will do, where no step needs it. Images count by their pixels after the steps in front
        of `zscore`. The result does not depend on the order of the rows, and is kept in the cache folder under the content of
        the files, so that fitting a second time is free.

        Args:
            cases: case table with its split filled.
            progress: called with (images done, images in all).

        Raises:
            DataError: no training image in the table, an unreadable image, or training images without any contrast.
        """
        if not self.needs_fit:
            return self
        train = cases[cases["split"].eq("train").fillna(False)]
        if train.empty:
            raise DataError(
                f"pipeline {self.name}: zscore by train needs training images, and no row has split = train; "
                "split the cases first (split_cases) or use zscore by image"
            )
        if not self.needs_mask:
            train = train.assign(mask=pd.NA)  # so that none is read
        before = Pipeline(self.steps[: [step.name for step in self.steps].index("zscore")], self.name)
        key = content_key(before.hash, code_hash(), sorted(contents(train)))
        self.mean, self.deviation = cached("fits", key, lambda: before._statistics(train, progress))
        return self

    def _statistics(self, cases: pd.DataFrame, progress: Progress | None) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the results."""

        def sums(case: pd.Series) -> tuple[int, float, float]:
            values = self.load(case).image.astype(np.float64)
            return values.size, float(values.sum()), float((values * values).sum())

        counts, totals, squares = zip(*for_each_case(sums, cases, progress=progress), strict=True)
        mean = math.fsum(totals) / sum(counts)
        variance = math.fsum(squares) / sum(counts) - mean**2
        if variance <= 1e-12:
            raise DataError(f"pipeline {self.name}: {len(cases)} training images have no contrast (σ = 0); check the images")
        return mean, math.sqrt(variance)

    def _check_fitted(self) -> None:
        if self.needs_fit and self.mean is None:
            raise DataError(f"pipeline {self.name}: not fitted; call fit(cases) with the split case table first")


def build_pipeline(spec: Spec, size: int | Sequence[int] | None = None) -> Pipeline:
    """The pipeline that a parameter names.

    Args:
        spec: a preset's name (`PRESETS`), or a list of step names and `{name: {parameter: value}}`, for example
            `["crop_echo", {"resize": {"size": 224}}, {"clahe": {"clip_limit": 2.0, "tiles": 8}}, "scale"]`.
        size: replaces the size of its `resize`, in pixels: a square's side or (height, width).

    Returns:
        `Pipeline`, to be fitted where `needs_fit`.

    Raises:
        DataError: an unknown preset, step or parameter (the nearest valid name is given), a value out of range, an order that
            makes no sense, or no `resize`.
    """
    name = spec if isinstance(spec, str) else "custom"
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise DataError(f"preprocessing {spec!r} is no preset; {nearest(spec, PRESETS)}")
        spec = PRESETS[spec].steps
    steps = [parsed(entry, STEPS, "step") for entry in spec]
    if not any(step.name == "gray" for step in steps):
        steps.insert(0, STEPS["gray"]())
    _check_order(steps)
    if size is not None:
        steps = [Resize(size=size, mode=step.mode) if isinstance(step, Resize) else step for step in steps]
    return Pipeline(steps, name)


def _check_order(steps: Sequence[Step]) -> None:
    names = [step.name for step in steps]
    for only_once in ("gray", "nodule_crop", "resize", "scale", "zscore", "three_channels"):
        if names.count(only_once) > 1:
            raise DataError(f"preprocessing: {only_once} occurs {names.count(only_once)} times; keep one")
    if "resize" not in names:
        raise DataError("preprocessing: no resize among the steps; a network needs images of one size: add resize")
    if "nodule_crop" in names[names.index("resize") :]:
        raise DataError("preprocessing: nodule_crop behind resize makes images of different sizes; put it in front of resize")
    if "scale" in names and "zscore" in names and names.index("scale") > names.index("zscore"):
        raise DataError("preprocessing: scale behind zscore divides z-scores by 255; put it in front or drop it")
    ends = [position for position, name in enumerate(names) if name in ("scale", "zscore", "three_channels")]
    levels_end = min(ends, default=len(names))
    for position, step in enumerate(steps):
        if step.kind != "any" and position > levels_end:
            raise DataError(f"preprocessing: {step.name} needs gray levels 0 to 255; put it in front of {names[levels_end]}")
        if step.kind == "levels" and position < names.index("gray"):
            raise DataError(f"preprocessing: {step.name} needs a gray image; put gray in front of it")


@cache
def code_hash() -> str:
    """Hash of the modules that compute a preprocessed image, and the versions of OpenCV and NumPy."""
    here = [Path(__file__).with_name(f"{name}.py") for name in ("geometry", "pipeline", "steps")]
    return f"{source_hash([images.__file__, overlays.__file__, *here])} {cv2.__version__} {np.__version__}"


def contents(cases: pd.DataFrame) -> list[list[str]]:
    """SHA-256 of the image and of the mask of every row; "" for no mask."""
    rows = cases[["image", "mask"]].to_numpy(object)
    hashes = file_hashes(path for path in rows.flat if not pd.isna(path))
    return [[hashes.get(path, "") for path in row] for row in rows]


def for_each_case(
    work: Callable[[pd.Series], Any], cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None
) -> list:
    """`work` on every row of a case table by `in_threads`; results in row order.

    Raises:
        DataError: the first failure in row order, with its case id in front.
    """

    def named(row: pd.Series) -> Any:
        try:
            return work(row)
        except DataError as error:
            raise type(error)(f"case {row.name}: {error}") from None

    return in_threads(named, [row for _, row in cases.iterrows()], workers, progress)
