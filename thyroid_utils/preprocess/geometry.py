"""Where a processed image came from: the way back from the network's pixel grid to the frame's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.overlays import Box

# Pixels; so that a place on the border of two pixels is always the second's
_ROUNDING = 1e-9


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
        return cls(frame=image.shape[:2], shape=image.shape[:2])

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

    def to_original(self, mask: np.ndarray, *, smooth: bool = False) -> np.ndarray:
        """Bring a mask (or a map of scores) on the image's grid back to the frame's, by the nearest pixel.

        Args:
            mask: (height, width) of the image, any type; float32 with `smooth`.
            smooth: interpolate between pixel centres (bilinear) in place of taking the nearest; half a pixel at the image's own
                border goes on as it is.

        Returns:
            array of the frame's size and the mask's type; 0 or False wherever the image does not reach.

        Raises:
            DataError: a mask of another size.
        """
        if mask.shape != self.shape:
            raise DataError(f"mask is {mask.shape}, expected the processed image's {self.shape}; predict at that size")
        (inside_rows, rows), (inside_columns, columns) = self._places(0), self._places(1)
        original = np.zeros(self.frame, mask.dtype)
        inside = np.ix_(inside_rows, inside_columns)
        if not smooth:
            original[inside] = mask[np.ix_((rows + _ROUNDING).astype(int), (columns + _ROUNDING).astype(int))]
            return original
        upper, lower, down = _between(rows, self.shape[0])
        left, right, across = _between(columns, self.shape[1])
        lines = mask[upper] + (mask[lower] - mask[upper]) * down[:, None]
        spread = lines[:, left] + (lines[:, right] - lines[:, left]) * across
        # Rounding must not leave the map's range
        original[inside] = np.clip(spread, mask.min(), mask.max())
        return original

    def _places(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Along an axis, which of the frame's pixel centres the image covers, and where in the image those lie, in pixels."""
        places = (np.arange(self.frame[axis]) + 0.5 - self.offset[axis]) / self.scale[axis]
        inside = (places + _ROUNDING >= 0) & (places + _ROUNDING < self.shape[axis])
        return inside, places[inside]


def _between(places: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels on either side of places along an axis, and how far from the first to the second they lie, float32 in [0, 1]."""
    places = np.clip(places - 0.5, 0, length - 1)
    low = places.astype(int)
    return low, np.minimum(low + 1, length - 1), (places - low).astype(np.float32)
