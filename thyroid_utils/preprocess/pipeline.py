"""A list of named steps as one object: checked, described, hashed, fitted on the training images, applied to any image.

The same object serves notebooks, training and the app, so that an image meets the same arithmetic everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.common.files import write_text
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.preprocess.base import STEPS, Sample, Step
from thyroid_utils.preprocess.content import code_hash, file_hashes, store_root
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.nodule_crop import NoduleCrop
from thyroid_utils.preprocess.presets import PRESETS
from thyroid_utils.preprocess.steps import Resize, Zscore

Spec = str | Sequence[str | Mapping[str, Mapping[str, Any] | None]]


class Pipeline:
    """Preprocessing from a frame to a network's input.

    Call it with an image, uint8 (height, width) or RGB (height, width, 3), and perhaps its mask, bool (height, width); the
    result is a `Sample` with a float32 image (channels, height, width), the mask on the same grid and the geometry.
    Made by `build_pipeline`.
    """

    def __init__(self, steps: Sequence[Step], name: str):
        self.steps = tuple(steps)
        self.name = name
        self.mean: float | None = None  # of the training images, in front of zscore by train
        self.deviation: float | None = None

    @property
    def needs_fit(self) -> bool:
        """Whether a step takes its numbers from the training images."""
        return any(isinstance(step, Zscore) and step.by == "train" for step in self.steps)

    @property
    def needs_mask(self) -> bool:
        """Whether a step reads the mask, so that an image without one cannot be preprocessed."""
        return any(isinstance(step, NoduleCrop) for step in self.steps)

    @property
    def fitted(self) -> bool:
        return not self.needs_fit or self.mean is not None

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
        content = [[step.name, step.parameters()] for step in self.steps], self.mean, self.deviation
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Pipeline({self.name}: {' → '.join(step.name for step in self.steps)})"

    def describe(self) -> pd.DataFrame:
        """One row a step: its name, its parameters and what it does, for a notebook to show."""
        rows = []
        for step in self.steps:
            parameters = ", ".join(f"{name}={_shown(value)}" for name, value in step.parameters().items())
            if isinstance(step, Zscore) and step.by == "train" and self.mean is not None:
                parameters += f" (µ={self.mean:.4g}, σ={self.deviation:.4g})"
            rows.append({"step": step.name, "parameters": parameters, "effect": (step.__doc__ or "").splitlines()[0]})
        return pd.DataFrame(rows)

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> Sample:
        """Apply every step.

        Raises:
            DataError: not fitted; an image that is not uint8 (height, width) or (height, width, 3); a mask of another size.
        """
        self._check_fitted()
        sample = _started(image, mask)
        for step in self.steps:
            sample = self._apply(step, sample)
        return replace(sample, image=_channels_first(sample.image))

    def stages(self, image: np.ndarray, mask: np.ndarray | None = None) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
        """What each step leaves behind, for pictures: ("input", image, mask), then (name of the step, image, mask).

        Images are (height, width) or (height, width, 3), uint8 up to `scale` or `zscore` and float32 from there.
        """
        return list(self.iterate(image, mask))

    def iterate(self, image: np.ndarray, mask: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
        """`stages`, one at a time: each step runs when its result is asked for, so that it can be timed."""
        self._check_fitted()
        sample = _started(image, mask)
        yield "input", sample.image, sample.mask
        for step in self.steps:
            sample = self._apply(step, sample)
            yield step.name, sample.image, sample.mask

    def load(self, case: pd.Series) -> Sample:
        """Read and preprocess the image and the mask of one row of a case table.

        Raises:
            ImageError: a file that cannot be read, or a mask of another size than its image.
        """
        return self(*_read(case))

    def fit(self, cases: pd.DataFrame, progress: Progress | None = None, workers: int | None = None) -> Pipeline:
        """Take µ and σ of `zscore` by train over all pixels of the images whose split is "train", and return the pipeline.

        Nothing is read, and any table will do, where no step needs it. Images count by their pixels after the steps in front
        of `zscore`. The result does not depend on the number of workers or the order of the rows, and is kept in the cache
        folder under the content of the files, so that fitting a second time is free.

        Args:
            cases: case table with its split filled.
            progress: called with (images done, images in all).
            workers: threads; None takes one a core, at most four.

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
        before = self.steps[: next(i for i, step in enumerate(self.steps) if isinstance(step, Zscore))]

        key = self._fit_key(before, train, self.needs_mask)
        record = store_root() / "fits" / f"{key}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):  # absent or damaged: computed below
            self.mean, self.deviation = map(float, json.loads(record.read_text(encoding="utf-8")))
            return self

        def sums(case: pd.Series) -> tuple[int, float, float]:
            sample = _started(*_read(case)) if self.needs_mask else _started(read_image(case["image"]), None)
            for step in before:
                sample = step(sample)
            values = sample.image.astype(np.float64)
            return values.size, float(values.sum()), float((values * values).sum())

        counts, totals, squares = zip(*for_each_case(sums, train, workers, progress), strict=True)
        pixels = sum(counts)
        mean = math.fsum(totals) / pixels
        variance = math.fsum(squares) / pixels - mean**2
        if variance <= 1e-12:
            raise DataError(f"pipeline {self.name}: {len(train)} training images have no contrast (σ = 0); check the images")
        self.mean, self.deviation = mean, math.sqrt(variance)
        with contextlib.suppress(OSError):  # the record only saves time
            write_text(record, json.dumps([self.mean, self.deviation]))
        return self

    def refitted(self, mean: float, deviation: float) -> Pipeline:
        """The pipeline with numbers that `fit` has found before, for images far from those it was fitted on."""
        self.mean, self.deviation = float(mean), float(deviation)
        return self

    @staticmethod
    def _fit_key(before: Sequence[Step], train: pd.DataFrame, with_masks: bool) -> str:
        hashes = file_hashes([*train["image"], *(train["mask"].dropna() if with_masks else ())])
        images = [hashes[path] for path in train["image"]]
        if with_masks:
            masks = [None if pd.isna(path) else hashes[path] for path in train["mask"]]
            images = [f"{image} {mask}" for image, mask in zip(images, masks, strict=True)]
        content = [[step.name, step.parameters()] for step in before], code_hash(), sorted(images)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _apply(self, step: Step, sample: Sample) -> Sample:
        if isinstance(step, Zscore) and step.by == "train":
            return replace(sample, image=step.normalise(sample.image, self.mean, self.deviation))
        return step(sample)

    def _check_fitted(self) -> None:
        if not self.fitted:
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
    if not isinstance(spec, Sequence) or not spec:
        raise DataError(f"preprocessing must be a preset's name or a list of steps; found {spec!r}")
    steps = [_parsed(entry) for entry in spec]
    if not any(step.name == "gray" for step in steps):
        steps.insert(0, STEPS["gray"]())
    _check_order(steps)
    if size is not None:
        size = size if isinstance(size, int) else tuple(size)
        steps = [replace(step, size=size) if isinstance(step, Resize) else step for step in steps]
    return Pipeline(steps, name)


def _parsed(entry: str | Mapping[str, Mapping[str, Any] | None]) -> Step:
    if isinstance(entry, str):
        name, parameters = entry, {}
    elif isinstance(entry, Mapping) and len(entry) == 1:
        name, parameters = next(iter(entry.items()))
        parameters = {} if parameters is None else parameters
    else:
        raise DataError(f"preprocessing step must be a name or {{name: {{parameter: value}}}}; found {entry!r}")
    if name not in STEPS:
        raise DataError(f"preprocessing step {name!r} is unknown; {nearest(name, STEPS)}")
    if not isinstance(parameters, Mapping):
        raise DataError(f"step {name}: parameters must be {{name: value}}; found {parameters!r}")
    known = [field.name for field in fields(STEPS[name])]
    for parameter in parameters:
        if parameter not in known:
            hint = nearest(parameter, known) if known else "it has no parameters"
            raise DataError(f"step {name}: no parameter {parameter!r}; {hint}")
    return STEPS[name](**parameters)


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


def _started(image: np.ndarray, mask: np.ndarray | None) -> Sample:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise DataError(f"expected a uint8 image (height, width) or (height, width, 3); found {image.dtype} {image.shape}")
    if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
        raise DataError(f"expected a boolean mask {image.shape[:2]} like its image; found {mask.dtype} {mask.shape}")
    return Sample(image, mask, Geometry.of(image))


def _channels_first(image: np.ndarray) -> np.ndarray:
    stacked = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return np.ascontiguousarray(stacked, dtype=np.float32)


def _read(case: pd.Series) -> tuple[np.ndarray, np.ndarray | None]:
    image = read_image(case["image"])
    return image, None if pd.isna(case["mask"]) else read_mask(case["mask"], shape=image.shape[:2])


def _shown(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
