"""Where a processed image came from: the way back from the network's pixel grid to the frame's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.overlays import Box


@dataclass(frozen=True)
class Geometry:
    """An axis-parallel map between the frame and the image made from it.

    A point of the image at (row, column), in pixels from the upper left corner, lies in the frame at
    `offset + scale * (row, column)`.

    frame: (height, width) of the frame. shape: (height, width) of the image. scale: frame pixels per image pixel, by axis.
    offset: where the image's upper left corner lies in the frame, in frame pixels (negative where the image was padded).
    """

    frame: tuple[int, int]
    shape: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, image: np.ndarray) -> Geometry:
        """The geometry of an untouched frame."""
        shape = (int(image.shape[0]), int(image.shape[1]))
        return cls(frame=shape, shape=shape)

    def cropped(self, box: Box) -> Geometry:
        """After cutting `box` (in pixels of the current image) out."""
        corner = (self.offset[0] + self.scale[0] * box.top, self.offset[1] + self.scale[1] * box.left)
        return replace(self, shape=box.shape, offset=corner)

    def resized(self, shape: tuple[int, int]) -> Geometry:
        """After resampling the current image to `shape`."""
        scale = tuple(self.scale[axis] * self.shape[axis] / shape[axis] for axis in (0, 1))
        return replace(self, shape=tuple(shape), scale=scale)

    def padded(self, top: int, left: int, shape: tuple[int, int]) -> Geometry:
        """After laying the current image into a larger one of `shape` at (top, left)."""
        corner = (self.offset[0] - self.scale[0] * top, self.offset[1] - self.scale[1] * left)
        return replace(self, shape=tuple(shape), offset=corner)

    def to_original(self, mask: np.ndarray, shape: tuple[int, int] | None = None, *, smooth: bool = False) -> np.ndarray:
        """Bring a mask (or a map of scores) on the image's grid back to the frame's, by the nearest pixel.

        Args:
            mask: (height, width) of the image, any type; float32 with `smooth`.
            shape: (height, width) of the frame, checked when given.
            smooth: interpolate between pixel centres (bilinear) in place of taking the nearest; half a pixel at the image's own
                border goes on as it is.

        Returns:
            array of the frame's size and the mask's type; 0 or False wherever the image does not reach.

        Raises:
            DataError: a mask or a frame of another size.
        """
        if mask.shape != self.shape:
            raise DataError(f"mask is {mask.shape}, expected the processed image's {self.shape}; predict at that size")
        if shape is not None and tuple(shape) != self.frame:
            raise DataError(f"frame is {tuple(shape)}, but this geometry belongs to one of {self.frame}; keep them in pairs")
        rows, row_inside = self._source(0)
        columns, column_inside = self._source(1)
        original = np.zeros(self.frame, mask.dtype)
        inside = np.ix_(row_inside, column_inside)
        if smooth:
            upper, lower, down = self._between(0, row_inside)
            left, right, across = self._between(1, column_inside)
            lines = mask[upper] + (mask[lower] - mask[upper]) * down[:, None]
            spread = lines[:, left] + (lines[:, right] - lines[:, left]) * across
            original[inside] = np.clip(spread, mask.min(), mask.max())  # rounding must not leave the map's range
        else:
            original[inside] = mask[np.ix_(rows, columns)]
        return original

    def _between(self, axis: int, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For the frame's pixel centres `inside` along an axis: the image pixels on either side, and how far on the way from the
        first to the second they lie, float32 in [0, 1]."""
        centres = np.flatnonzero(inside) + 0.5
        places = np.clip((centres - self.offset[axis]) / self.scale[axis] - 0.5, 0, self.shape[axis] - 1)
        low = places.astype(int)
        return low, np.minimum(low + 1, self.shape[axis] - 1), (places - low).astype(np.float32)

    def _source(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """For the frame's pixel centres along an axis: image indices of those that the image covers, and which those are."""
        centres = np.arange(self.frame[axis]) + 0.5
        indices = np.floor((centres - self.offset[axis]) / self.scale[axis] + 1e-9).astype(int)
        inside = (indices >= 0) & (indices < self.shape[axis])
        return indices[inside], inside
