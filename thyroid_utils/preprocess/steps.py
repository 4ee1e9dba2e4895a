"""The named steps that a preprocessing pipeline is composed of.

A step is a frozen dataclass: its fields are the parameters that a parameter file may set, checked when it is made. Steps in
front of `scale` and `zscore` work on gray levels, uint8 in [0, 255]; these two end them and make float32.

To add a step: one dataclass below, decorated with `@register`. It then works in every parameter file.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import resize_mask
from thyroid_utils.data.overlays import Box, echo_mask, find_overlays, mask_box
from thyroid_utils.preprocess.base import STEPS, Sample, Step, luma, register
from thyroid_utils.preprocess.filters import laid_into, lee, resample, srad

MAX_SIDE = 4096  # pixels; a larger network input is a slip of the pen

__all__ = ["STEPS", "Sample", "Step", "register"]


@register
@dataclass(frozen=True)
class CropEcho(Step):
    """Cut the frame to the echo image and blank what lies around a fan or a slanted field.

    margin: pixels kept around the echo image, where truth masks sometimes reach. blank: set what lies outside the echo image
    (scanner text in a fan's corners) to black.
    """

    name: ClassVar[str] = "crop_echo"
    kind: ClassVar[str] = "colour"
    margin: int = 3
    blank: bool = True

    def __post_init__(self):
        self._number("margin", 0, 100, whole=True)
        self._flag("blank")

    def __call__(self, sample: Sample) -> Sample:
        gray = luma(sample.image)
        height, width = gray.shape
        echo = echo_mask(gray)
        found = mask_box(echo)
        box = Box(
            max(found.top - self.margin, 0),
            min(found.bottom + self.margin, height),
            max(found.left - self.margin, 0),
            min(found.right + self.margin, width),
        )
        image = box.crop(sample.image).copy()
        if self.blank:
            size = 2 * self.margin + 1
            near = cv2.dilate(echo.astype(np.uint8), np.ones((size, size), np.uint8))
            image[box.crop(near) == 0] = 0
        mask = None if sample.mask is None else box.crop(sample.mask).copy()
        return Sample(image, mask, sample.geometry.cropped(box))


@register
@dataclass(frozen=True)
class RemoveOverlays(Step):
    """Paint over text, callipers and scale marks: inpainted (Telea) inside the echo image, blanked outside.

    radius: pixels around a mark that the paint is mixed from. Reference: A. Telea, J. Graphics Tools 9 (2004) 23-34.
    """

    name: ClassVar[str] = "remove_overlays"
    radius: int = 3

    def __post_init__(self):
        self._number("radius", 1, 20, whole=True)

    def change(self, image):
        echo = echo_mask(image)
        drawn = find_overlays(image, echo=echo).mask
        if not drawn.any():
            return image
        inside = cv2.dilate((drawn & echo).astype(np.uint8), np.ones((3, 3), np.uint8))
        painted = cv2.inpaint(image, inside, self.radius, cv2.INPAINT_TELEA) if inside.any() else image.copy()
        around = cv2.dilate((drawn & ~echo).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        painted[around & ~echo] = 0
        return painted


@register
@dataclass(frozen=True)
class Resize(Step):
    """Resample to a fixed size: area average where it shrinks, linear where it grows; masks by nearest or half coverage.

    size: side of the square in pixels, or [height, width]. mode: `stretch` (the aspect ratio changes) or `letterbox` (the
    aspect ratio is kept and black fills the rest).
    """

    name: ClassVar[str] = "resize"
    kind: ClassVar[str] = "any"
    size: int | tuple[int, int] = 224
    mode: str = "stretch"

    def __post_init__(self):
        sides = self.size if isinstance(self.size, (list, tuple)) else (self.size, self.size)
        good = len(sides) == 2 and all(
            isinstance(side, numbers.Integral) and not isinstance(side, bool) and 8 <= side <= MAX_SIDE for side in sides
        )
        if not good:
            raise DataError(f"step resize: size must be a whole number or two, from 8 to {MAX_SIDE} pixels; found {self.size!r}")
        object.__setattr__(self, "size", tuple(int(side) for side in sides))
        self._choice("mode", ("stretch", "letterbox"))

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample.image.shape[:2]
        inner = self.size
        if self.mode == "letterbox":
            scale = min(self.size[0] / height, self.size[1] / width)
            inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = resample(sample.image, inner)
        mask = None if sample.mask is None else resize_mask(sample.mask, inner)
        geometry = sample.geometry.resized(inner)
        if inner != self.size:
            top, left = (self.size[0] - inner[0]) // 2, (self.size[1] - inner[1]) // 2
            image = laid_into(image, self.size, top, left)
            mask = None if mask is None else laid_into(mask, self.size, top, left)
            geometry = geometry.padded(top, left, self.size)
        return Sample(image, mask, geometry)


@register
@dataclass(frozen=True)
class Gray(Step):
    """Colour to gray by luma (ITU-R BT.601). Put first by `build_pipeline` where a list does not name it."""

    name: ClassVar[str] = "gray"
    kind: ClassVar[str] = "colour"

    def change(self, image):
        return luma(image)


@register
@dataclass(frozen=True)
class Gaussian(Step):
    """Gaussian smoothing. sigma: standard deviation in pixels."""

    name: ClassVar[str] = "gaussian"
    sigma: float = 1.0

    def __post_init__(self):
        self._number("sigma", 0.1, 50)

    def change(self, image):
        return cv2.GaussianBlur(image, (0, 0), float(self.sigma))


@register
@dataclass(frozen=True)
class Median(Step):
    """Median filter. window: side in pixels, odd."""

    name: ClassVar[str] = "median"
    window: int = 3

    def __post_init__(self):
        self._odd("window", 3, 31)

    def change(self, image):
        return cv2.medianBlur(image, self.window)


@register
@dataclass(frozen=True)
class Lee(Step):
    """Lee's local-statistics speckle filter (Lee 1980), additive form. window: side in pixels, odd."""

    name: ClassVar[str] = "lee"
    window: int = 7

    def __post_init__(self):
        self._odd("window", 3, 31)

    def change(self, image):
        return _levels(lee(image, self.window))


@register
@dataclass(frozen=True)
class Srad(Step):
    """Speckle-reducing anisotropic diffusion (Yu & Acton 2002), on the echo intensity before log compression.

    iterations: time steps. time_step: up to 0.25. dynamic_range_db: what the scanner compressed into 255 gray levels.
    """

    name: ClassVar[str] = "srad"
    iterations: int = 20
    time_step: float = 0.2
    dynamic_range_db: float = 60.0

    def __post_init__(self):
        self._number("iterations", 1, 500, whole=True)
        self._number("time_step", 0.001, 0.25)
        self._number("dynamic_range_db", 20, 120)

    def change(self, image):
        decibels = self.dynamic_range_db / 10 * (image.astype(np.float32) / 255 - 1)
        smooth = srad(10**decibels, self.iterations, self.time_step)
        return _levels(255 * (1 + 10 * np.log10(smooth) / self.dynamic_range_db))


@register
@dataclass(frozen=True)
class Bilateral(Step):
    """Bilateral filter: smooths where neighbours are alike. window: pixels, odd. sigma_level: gray levels. sigma_px: pixels."""

    name: ClassVar[str] = "bilateral"
    window: int = 7
    sigma_level: float = 40.0
    sigma_px: float = 2.0

    def __post_init__(self):
        self._odd("window", 3, 31)
        self._number("sigma_level", 1, 255)
        self._number("sigma_px", 0.1, 50)

    def change(self, image):
        return cv2.bilateralFilter(image, self.window, float(self.sigma_level), float(self.sigma_px))


@register
@dataclass(frozen=True)
class NonlocalMeans(Step):
    """Nonlocal means (Buades 2005). strength: gray levels. patch: side of what is compared, search: of where, in odd pixels."""

    name: ClassVar[str] = "nonlocal_means"
    strength: float = 12.0
    patch: int = 5
    search: int = 15

    def __post_init__(self):
        self._number("strength", 0.1, 100)
        self._odd("patch", 3, 15)
        self._odd("search", 5, 41)

    def change(self, image):
        return cv2.fastNlMeansDenoising(image, None, float(self.strength), self.patch, self.search)


@register
@dataclass(frozen=True)
class Equalise(Step):
    """Histogram equalisation over the whole image."""

    name: ClassVar[str] = "equalise"

    def change(self, image):
        return cv2.equalizeHist(image)


@register
@dataclass(frozen=True)
class Clahe(Step):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994).

    clip_limit: a histogram bin's ceiling, as a multiple of the mean bin. tiles: regions along each axis.
    """

    name: ClassVar[str] = "clahe"
    clip_limit: float = 2.0
    tiles: int = 8

    def __post_init__(self):
        self._number("clip_limit", 0.1, 100)
        self._number("tiles", 1, 64, whole=True)

    def change(self, image):
        return cv2.createCLAHE(float(self.clip_limit), (self.tiles, self.tiles)).apply(image)


@register
@dataclass(frozen=True)
class Scale(Step):
    """Gray levels 0 to 255 → float32 in [0, 1]."""

    name: ClassVar[str] = "scale"
    kind: ClassVar[str] = "any"

    def change(self, image):
        return image.astype(np.float32) / np.float32(255)


@register
@dataclass(frozen=True)
class Zscore(Step):
    """(I - µ) / σ. by: `image` (its own µ and σ) or `train` (over all pixels of the training images; `Pipeline.fit`).

    An image without contrast (σ = 0) becomes 0.
    """

    name: ClassVar[str] = "zscore"
    kind: ClassVar[str] = "any"
    by: str = "image"

    def __post_init__(self):
        self._choice("by", ("image", "train"))

    def change(self, image):
        values = image.astype(np.float64)
        return self.normalise(image, float(values.mean()), float(values.std()))

    @staticmethod
    def normalise(image: np.ndarray, mean: float, deviation: float) -> np.ndarray:
        """(image - mean) / deviation as float32; 0 where the deviation is 0."""
        centred = image.astype(np.float64) - mean
        return (centred / deviation if deviation > 1e-12 else 0 * centred).astype(np.float32)


@register
@dataclass(frozen=True)
class ThreeChannels(Step):
    """Repeat gray in three equal channels, for networks that were trained on colour photographs."""

    name: ClassVar[str] = "three_channels"
    kind: ClassVar[str] = "any"

    def change(self, image):
        return np.repeat(image[..., None], 3, axis=2)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
