"""Array arithmetic whose result does not depend on the machine.

Three rules give the same pixels on every processor, thread count and library version:
1. A sum whose order a library may choose (convolution, matrix product) is taken over whole numbers held in float32 that stay
   below 2^24: every partial sum is then exact, in whatever order and with whatever fused operations.
2. Everything else on arrays is +, -, ×, ÷ and square root, which IEEE 754 rounds in one way only.
3. Logarithm and power are read from tables of decimally rounded numbers, made with Python floats. An entry could differ
   between mathematical libraries only where it lies within 1e-12 of a rounding edge. Lengths and angles drawn with the platform's
   exp, sin or cos may differ in their sixteenth digit, of which float32 keeps seven.

The tests hold the pixels to recorded hashes, with and without the vector instructions of the processor.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np

from thyroid_utils.data.phantom.draws import Draws

DB_STEP = 1 / 16  # resolution of the decibel → amplitude table
_DB_RANGE = 120
_MANTISSA_BITS = 11  # a float32's first bits that the logarithm looks at: steps of 0.002 dB
LIMIT = 2**15 - 1  # largest whole number that enters a convolution; its kernels' weights sum to 256 at most
KERNEL_SUM = 256


@cache
def _amplitudes() -> np.ndarray:
    steps = range(round(-_DB_RANGE / DB_STEP), round(_DB_RANGE / DB_STEP) + 1)
    return np.array([float(f"{10 ** (step * DB_STEP / 20):.7g}") for step in steps], np.float32)


def amplitude(decibels: np.ndarray) -> np.ndarray:
    """10^(dB/20) in steps of 1/16 dB, float32; limited to ±120 dB."""
    steps = np.rint(decibels * np.float32(1 / DB_STEP)) + np.float32(_DB_RANGE / DB_STEP)
    return _amplitudes()[np.clip(steps, 0, 2 * _DB_RANGE / DB_STEP).astype(np.int32)]


@cache
def _logarithms() -> np.ndarray:
    mantissas = range(1 << _MANTISSA_BITS)
    within = [10 * math.log10(1 + (m + 0.5) / (1 << _MANTISSA_BITS)) for m in mantissas]
    octaves = [10 * math.log10(2.0) * exponent for exponent in range(-127, 129)]
    return np.array([float(f"{octave + part:.6f}") for octave in octaves for part in within], np.float32)


def decibels(power: np.ndarray) -> np.ndarray:
    """10·log10(power) within 0.002 dB, float32; power is float32 and 0 counts as the smallest float."""
    bits = np.ascontiguousarray(power, np.float32).view(np.int32) >> (23 - _MANTISSA_BITS)
    return _logarithms()[bits]


def bell(sd: float) -> np.ndarray:
    """A Gaussian kernel of this standard deviation (pixels) in whole numbers that sum to at most 256, float32 (odd,)."""
    half = max(1, math.ceil(2.6 * sd))
    weights = [math.exp(-0.5 * (k / sd) ** 2) for k in range(-half, half + 1)]
    total = math.fsum(weights)
    return np.array([math.floor(KERNEL_SUM * weight / total) for weight in weights], np.float32)


_ONE = np.ones(1, np.float32)


def filter_rows(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve each row of whole numbers (|value| ≤ `LIMIT`) with a kernel of whole numbers; exact."""
    return cv2.sepFilter2D(values, cv2.CV_32F, kernel, _ONE, borderType=cv2.BORDER_REFLECT_101)


def filter_columns(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve each column of whole numbers (|value| ≤ `LIMIT`) with a kernel of whole numbers; exact."""
    return cv2.sepFilter2D(values, cv2.CV_32F, _ONE, kernel, borderType=cv2.BORDER_REFLECT_101)


def whole(values: np.ndarray) -> np.ndarray:
    """Rounded to whole numbers within ±`LIMIT`, float32: ready for a convolution."""
    return np.clip(np.rint(values), -LIMIT, LIMIT).astype(np.float32)


def smoothstep(position: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1, 3t² - 2t³ between."""
    t = np.clip(position, 0, 1)
    return t * t * (3 - 2 * t)


def _spline(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Quadratic B-spline through the rows of `values` (knots, n), read at `positions` (m,) in knots: float32 (m, n)."""
    last = len(values) - 1
    nearest = np.clip(np.rint(positions), 0, last)
    offset = np.clip(positions - nearest, -0.5, 0.5)[:, None]
    nearest = nearest.astype(np.intp)
    before, after = np.float32(0.5) - offset, np.float32(0.5) + offset
    before, after = before * before * np.float32(0.5), after * after * np.float32(0.5)
    # Three products added in this order, and no matrix product, whose order of summation would be the library's choice.
    result = values[np.maximum(nearest - 1, 0)] * before
    result += values[nearest] * (1 - before - after)
    result += values[np.minimum(nearest + 1, last)] * after
    return result


class Texture:
    """Smooth noise fixed to the tissue: a spline through random knots, drawn once and seen from any probe position.

    Args:
        draws: where the knots come from.
        cell: (lateral, axial) distance of the knots in mm.
        span: (lateral, axial) size in mm of the covered tissue; lateral positions run from -span/2 to span/2.
    """

    def __init__(self, draws: Draws, cell: tuple[float, float], span: tuple[float, float]):
        self._cell, self._half = cell, span[0] / 2
        knots = (int(span[1] / cell[1]) + 3, int(span[0] / cell[0]) + 3)
        values = draws.bytes(knots[0] * knots[1]).reshape(knots).astype(np.float32)
        # A byte's SD is 73.9, of which the spline's averaging over both axes leaves 0.55.
        self._values = (values - np.float32(127.5)) * np.float32(1 / 40)

    def at(self, lateral: np.ndarray, axial: np.ndarray) -> np.ndarray:
        """Values at lateral (width,) × axial (height,) positions in mm: float32 (height, width), mean 0, SD about 1."""
        columns = (lateral + np.float32(self._half)) * np.float32(1 / self._cell[0]) + 1
        rows = axial * np.float32(1 / self._cell[1]) + 1
        across = _spline(np.ascontiguousarray(self._values.T), columns)
        return _spline(np.ascontiguousarray(across.T), rows)
