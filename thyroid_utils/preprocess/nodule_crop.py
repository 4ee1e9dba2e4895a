"""The step that cuts a frame to its nodule, which it has to be told: for classifiers that come behind a segmenter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.overlays import Box, mask_box
from thyroid_utils.preprocess.base import Sample, Step, register
from thyroid_utils.preprocess.filters import laid_into


@register
@dataclass(frozen=True)
class NoduleCrop(Step):
    """Cut the frame to a square around the mask; all nodules of it together.

    The square has the longer side of the mask's bounding box, `margin` of it more on each side, and lies centred on the box.
    Where it would leave the frame it is moved inside; what the frame is too small for is black. In training the mask is the true
    one, so a network behind this step is told where the nodule is.

    margin: added on each side, as a share of the box's longer side. minimum: smallest side in pixels, so that a tiny nodule is
    not blown up to a blur. empty: of a mask without a nodule, `error` or `frame` (the whole frame goes on); a mask that is not
    given at all is an error always.
    """

    name: ClassVar[str] = "nodule_crop"
    kind: ClassVar[str] = "any"
    margin: float = 0.2
    minimum: int = 32
    empty: str = "error"

    def __post_init__(self):
        self._number("margin", 0, 5)
        self._number("minimum", 1, 4096, whole=True)
        self._choice("empty", ("error", "frame"))

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
