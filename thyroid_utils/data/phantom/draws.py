"""Random draws that are the same on every machine and with every numpy version.

numpy keeps the raw stream of its bit generators stable for ever, but not what `Generator.normal` and its like make of it, and
their rare branches call the platform's mathematical library. So only raw 64-bit words are taken from numpy, and turned into
numbers with operations that IEEE 754 rounds in one way only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Name = TypeVar("Name")

SCATTER_SD = math.sqrt(4 * (256**2 - 1) / 12)  # of `Draws.scatterers`: four independent bytes added


class Draws:
    """A stream of draws named by whole numbers: the same names give the same stream.

    Args:
        names: non-negative whole numbers, for example seed, purpose and patient.
    """

    def __init__(self, *names: int):
        # SeedSequence takes (1,) and (1, 0) for the same; the count in front tells them apart.
        self._bits = np.random.PCG64(np.random.SeedSequence((len(names), *names)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number, uniform in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def normal(self, mean: float, sd: float) -> float:
        """One number, near normal (twelve uniform ones added), never beyond six standard deviations."""
        return mean + sd * (sum(self.uniform() for _ in range(12)) - 6.0)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def whole(self, low: int, high: int) -> int:
        """One whole number from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def pick(self, weights: Mapping[Name, float]) -> Name:
        """One key, drawn in proportion to its weight."""
        left = self.uniform() * sum(weights.values())
        for name, weight in weights.items():
            if left < weight:
                return name
            left -= weight
        return [name for name, weight in weights.items() if weight > 0][-1]  # rounding left a last crumb

    def bytes(self, count: int) -> np.ndarray:
        """`count` uniform bytes, uint8 (count,)."""
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count]

    def scatterers(self, shape: tuple[int, ...]) -> np.ndarray:
        """Whole numbers of mean 0 and standard deviation `SCATTER_SD` (148), near normal: int16 in [-510, 510].

        Any symmetric distribution serves: some ten scatterers in a resolution cell make its sum normal.
        """
        count = int(np.prod(shape))
        quarters = self.bytes(4 * count).reshape(4, count).astype(np.int16)
        return (quarters[0] + quarters[1] + quarters[2] + quarters[3] - 510).reshape(shape)
