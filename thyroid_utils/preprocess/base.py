"""What passes through a pipeline, and what every step of one shares."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.preprocess.geometry import Geometry


@dataclass(frozen=True)
class Sample:
    """One image on its way through a pipeline.

    image: (height, width) or (height, width, 3) on the way, uint8 gray levels until `scale` or `zscore`, float32 after;
    float32 (channels, height, width) as a pipeline's result. mask: bool (height, width) or None. geometry: the way back.
    """

    image: np.ndarray
    mask: np.ndarray | None
    geometry: Geometry


@dataclass(frozen=True)
class Step:
    """What all steps share.

    kind: what the step takes. "levels": uint8 gray levels; "colour": uint8, gray or colour; "any": float32 as well.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "levels"

    def __call__(self, sample: Sample) -> Sample:
        return replace(sample, image=self.change(sample.image))

    def change(self, image: np.ndarray) -> np.ndarray:
        """The step's effect on the image alone, for steps that keep its size."""
        raise NotImplementedError

    def parameters(self) -> dict:
        """Every parameter with its value, defaults included."""
        return dataclasses.asdict(self)

    def _number(self, field: str, low: float, high: float, whole: bool = False) -> None:
        value = getattr(self, field)
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise DataError(f"step {self.name}: {field} must be {what} from {low:g} to {high:g}; found {value!r}")

    def _odd(self, field: str, low: int, high: int) -> None:
        self._number(field, low, high, whole=True)
        if getattr(self, field) % 2 == 0:
            raise DataError(f"step {self.name}: {field} must be odd (a window has a centre); found {getattr(self, field)}")

    def _choice(self, field: str, choices: tuple) -> None:
        if getattr(self, field) not in choices:
            raise DataError(f"step {self.name}: {field} must be one of {', '.join(choices)}; found {getattr(self, field)!r}")

    def _flag(self, field: str) -> None:
        if not isinstance(getattr(self, field), bool):
            raise DataError(f"step {self.name}: {field} must be true or false; found {getattr(self, field)!r}")


STEPS: dict[str, type[Step]] = {}


def register(step: type[Step]) -> type[Step]:
    """Enter a step into `STEPS` under its name."""
    STEPS[step.name] = step
    return step


def luma(image: np.ndarray) -> np.ndarray:
    """Gray levels of a gray or RGB image: uint8 (height, width), ITU-R BT.601."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
