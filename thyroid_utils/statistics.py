"""Intervals that respect that images of one patient are not independent: the patient is what is resampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and what it rests on.

    `low` and `high` are NaN where fewer than two patients are left: one patient says nothing about the spread.
    """

    value: float
    low: float
    high: float
    images: int
    patients: int

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """`0.61 [0.55, 0.66]`, rounded to `digits` decimals; "no data" where nothing was measured."""
        if np.isnan(self.value):
            return "no data"
        if np.isnan(self.low):
            return f"{self.value:.{digits}f} [no interval: {self.patients} patient]"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def patient_bootstrap(
    values: Sequence[float],
    patients: Sequence[str],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """A statistic over images with the percentile interval of the bootstrap that draws whole patients with replacement.

    Args:
        values: one number an image, shape (n,); NaN is left out.
        patients: the patient of each, shape (n,).
        statistic: maps an array of values to a number.
        resamples: how many sets of patients are drawn.
        level: coverage of the interval, in (0, 1).
        seed: same seed, same interval.

    Raises:
        ValueError: lengths differ, or `level` is not in (0, 1).

    Reference:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8: resampling clusters.
    """
    values, patients = np.asarray(values, dtype=float), np.asarray(patients, dtype=object)
    if values.shape != patients.shape or values.ndim != 1:
        raise ValueError(
            f"patient_bootstrap: values have shape {values.shape}, patients {patients.shape}; expected two equal (n,)"
        )
    if not 0 < level < 1:
        raise ValueError(f"patient_bootstrap: level is {level}; expected a number between 0 and 1, such as 0.95")
    known = ~np.isnan(values)
    values, patients = values[known], patients[known]
    codes, names = pd.factorize(patients)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    estimate = float(statistic(values))
    if len(names) < 2:
        return Estimate(estimate, np.nan, np.nan, len(values), len(names))
    members = [values[codes == code] for code in range(len(names))]
    random = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([members[code] for code in random.integers(len(names), size=len(names))]))
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(estimate, float(low), float(high), len(values), len(names))


def proportion_interval(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion of independent trials (patients, not images), in [0, 1]; NaN for no trials.

    Reference:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if total == 0:
        return np.nan, np.nan
    interval = binomtest(successes, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
