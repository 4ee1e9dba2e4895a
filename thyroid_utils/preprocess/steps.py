"""The named steps that a preprocessing pipeline is composed of.

A step's fields are the parameters that a parameter file may set, checked when it is made. Steps in
front of `scale` and `zscore` work on gray levels, uint8 in [0, 255]; these two end them and make float32.

To add a step: one class below, with its name. It then works in every parameter file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import BeforeValidator, Field

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import resize_mask
from thyroid_utils.data.overlays import Box, echo_mask, find_overlays, mask_box
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.named import Named


def _both(size: Any) -> Any:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


# pixels; a larger network input is a slip of the pen
Side = Annotated[int, Field(ge=8, le=4096)]


@dataclass(frozen=True)
class Sample:
    """One image on its way through a pipeline.

    image: (height, width) or (height, width, 3) on the way, uint8 gray levels until `scale` or `zscore`, float32 after;
    float32 (channels, height, width) as a pipeline's result. mask: bool (height, width) or None. geometry: the way back.
    """

    image: np.ndarray
    mask: np.ndarray | None
    geometry: Geometry


STEPS: dict[str, type[Step]] = {}


class Step(Named):
    """What all steps share. Those that keep the image's size have `change(image)`, which leaves mask and geometry as they are.

    kind: what the step takes. "levels": uint8 gray levels; "colour": uint8, gray or colour; "any": float32 as well.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, name: str, kind: str = "levels"):
        super().__init_subclass__()
        cls.name, cls.kind = name, kind
        STEPS[name] = cls

    def __call__(self, sample: Sample) -> Sample:
        return replace(sample, image=self.change(sample.image))


def luma(image: np.ndarray) -> np.ndarray:
    """Gray levels of a gray or RGB image: uint8 (height, width), ITU-R BT.601."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


class CropEcho(Step, name="crop_echo", kind="colour"):
    """Cut the frame to the echo image and blank what lies around a fan or a slanted field.

    margin: pixels kept around the echo image, where truth masks sometimes reach. blank: set what lies outside the echo image
    (scanner text in a fan's corners) to black.
    """

    margin: int = Field(3, ge=0, le=100)
    blank: bool = True

    def __call__(self, sample: Sample) -> Sample:
        size = 2 * self.margin + 1
        echo = echo_mask(luma(sample.image)).astype(np.uint8)
        near = cv2.dilate(echo, np.ones((size, size), np.uint8)) > 0
        box = mask_box(near)
        image = box.crop(sample.image).copy()
        if self.blank:
            image[~box.crop(near)] = 0
        mask = None if sample.mask is None else box.crop(sample.mask).copy()
        return Sample(image, mask, sample.geometry.cropped(box))


class RemoveOverlays(Step, name="remove_overlays"):
    """Paint over text, callipers and scale marks: inpainted (Telea) inside the echo image, blanked outside.

    radius: pixels around a mark that the paint is mixed from. Reference: A. Telea, J. Graphics Tools 9 (2004) 23-34.
    """

    radius: int = Field(3, ge=1, le=20)

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


class Resize(Step, name="resize", kind="any"):
    """Resample to a fixed size: area average where it shrinks, linear where it grows; masks by nearest or half coverage.

    size: side of the square in pixels, or [height, width]. mode: `stretch` (the aspect ratio changes) or `letterbox` (the
    aspect ratio is kept and black fills the rest).
    """

    size: Annotated[tuple[Side, Side], BeforeValidator(_both)] = (224, 224)
    mode: Literal["stretch", "letterbox"] = "stretch"

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


class NoduleCrop(Step, name="nodule_crop", kind="any"):
    """Cut the frame to a square around the mask; all nodules of it together.

    The square has the longer side of the mask's bounding box, `margin` of it more on each side, and lies centred on the box.
    Where it would leave the frame it is moved inside; what the frame is too small for is black. In training the mask is the true
    one, so a network behind this step is told where the nodule is.

    margin: added on each side, as a share of the box's longer side. minimum: smallest side in pixels, so that a tiny nodule is
    not blown up to a blur. empty: of a mask without a nodule, `error` or `frame` (the whole frame goes on); a mask that is not
    given at all is an error always.
    """

    margin: float = Field(0.2, ge=0, le=5)
    minimum: int = Field(32, ge=1, le=4096)
    empty: Literal["error", "frame"] = "error"

    def __call__(self, sample: Sample) -> Sample:
        if sample.mask is None:
            raise DataError("step nodule_crop: there is no mask to crop to; give each image one, or take another preprocessing")
        if not sample.mask.any():
            if self.empty == "frame":
                return sample
            raise DataError(
                "step nodule_crop: the mask is empty, so there is no nodule to crop to; leave the image out or set empty: frame"
            )
        side, box = self._square(mask_box(sample.mask), sample.mask.shape)
        top, left = (side - box.shape[0]) // 2, (side - box.shape[1]) // 2
        geometry = sample.geometry.cropped(box).padded(top, left, (side, side))
        image, mask = (laid_into(box.crop(array), (side, side), top, left) for array in (sample.image, sample.mask))
        return Sample(image, mask, geometry)

    def _square(self, nodule: Box, frame: tuple[int, int]) -> tuple[int, Box]:
        """Side of the square in pixels, and the part of it that lies in the frame."""
        side = max(round(max(nodule.shape) * (1 + 2 * self.margin)), self.minimum)
        bounds: list[int] = []
        for start, end, length in ((nodule.top, nodule.bottom, frame[0]), (nodule.left, nodule.right, frame[1])):
            inside = min(side, length)
            first = min(max((start + end - inside) // 2, 0), length - inside)
            bounds += [first, first + inside]
        return side, Box(*bounds)


class Gray(Step, name="gray", kind="colour"):
    """Colour to gray by luma (ITU-R BT.601). Put first by `build_pipeline` where a list does not name it."""

    def change(self, image):
        return luma(image)


class Gaussian(Step, name="gaussian"):
    """Gaussian smoothing. sigma: standard deviation in pixels."""

    sigma: float = Field(1.0, ge=0.1, le=50)

    def change(self, image):
        return cv2.GaussianBlur(image, (0, 0), self.sigma)


class Equalise(Step, name="equalise"):
    """Histogram equalisation over the whole image."""

    def change(self, image):
        return cv2.equalizeHist(image)


class Clahe(Step, name="clahe"):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994).

    clip_limit: a histogram bin's ceiling, as a multiple of the mean bin. tiles: regions along each axis.
    """

    clip_limit: float = Field(2.0, ge=0.1, le=100)
    tiles: int = Field(8, ge=1, le=64)

    def change(self, image):
        return cv2.createCLAHE(self.clip_limit, (self.tiles, self.tiles)).apply(image)


class Scale(Step, name="scale", kind="any"):
    """Gray levels 0 to 255 → float32 in [0, 1]."""

    def change(self, image):
        return image.astype(np.float32) / np.float32(255)


class Zscore(Step, name="zscore", kind="any"):
    """(I - µ) / σ. by: `image` (its own µ and σ) or `train` (over all pixels of the training images; `Pipeline.fit`).

    An image without contrast (σ = 0) becomes 0.
    """

    by: Literal["image", "train"] = "image"

    def change(self, image):
        values = image.astype(np.float64)
        return self.normalise(image, float(values.mean()), float(values.std()))

    @staticmethod
    def normalise(image: np.ndarray, mean: float, deviation: float) -> np.ndarray:
        """(image - mean) / deviation as float32; 0 where the deviation is 0."""
        centred = image.astype(np.float64) - mean
        return (centred / deviation if deviation > 1e-12 else 0 * centred).astype(np.float32)


class ThreeChannels(Step, name="three_channels", kind="any"):
    """Repeat gray in three equal channels, for networks that were trained on colour photographs."""

    def change(self, image):
        return np.repeat(image[..., None], 3, axis=2)


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image to (height, width): area average along an axis that shrinks, linear along one that grows."""
    height, width = shape
    shrunk = (min(height, image.shape[0]), min(width, image.shape[1]))
    if shrunk != image.shape[:2]:
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def laid_into(array: np.ndarray, shape: tuple[int, int], top: int, left: int) -> np.ndarray:
    """An array (height, width, ...) at (top, left) of a larger one of `shape`, which is 0 or False elsewhere."""
    whole = np.zeros((*shape, *array.shape[2:]), array.dtype)
    whole[top : top + array.shape[0], left : left + array.shape[1]] = array
    return whole
