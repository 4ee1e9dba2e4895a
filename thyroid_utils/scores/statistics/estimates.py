"""A number with its interval: of values an image, of a proportion, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

POWER = 0.8  # of the tests whose detectable difference is reported


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and what it rests on.

    `low` and `high` are NaN where the data give no interval: fewer than two patients, or what `note` says.
    `undefined` is the share of resamples, in [0, 1], in which the number did not exist and which the interval leaves out.
    """

    value: float
    low: float
    high: float
    images: int
    patients: int
    undefined: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """`0.61 [0.55, 0.66]`, rounded to `digits` decimals; why there is none, or "no data", where nothing was measured."""
        if np.isnan(self.value):
            return self.note or "no data"
        if np.isnan(self.low):
            return f"{self.value:.{digits}f} [no interval: {self.note or f'{self.patients} patient'}]"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """A number of two models on the same images, their difference (first − second) and whether chance explains it.

    `low` and `high` bound the difference; NaN where the test has no interval. `p_value` is two-sided; NaN where it cannot be
    said, for the reason in `note`.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    images: int
    patients: int
    undefined: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 3) -> str:
        """`+0.031 [-0.002, +0.064], p = 0.07`."""
        if np.isnan(self.difference):
            return self.note or "no data"
        interval = "" if np.isnan(self.low) else f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"
        if np.isnan(self.p_value):
            return f"{self.difference:+.{digits}f}{interval}, no p-value: {self.note}"
        chance = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        return f"{self.difference:+.{digits}f}{interval}, {chance}"


@dataclass(frozen=True)
class SeedSummary:
    """Mean and sample standard deviation (n − 1) over seeds; `sd` is NaN for one seed."""

    mean: float
    sd: float
    seeds: int

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """`0.91 ± 0.02 (5 seeds)`."""
        if not self.seeds:
            return "no data"
        if self.seeds == 1:
            return f"{self.mean:.{digits}f} (1 seed)"
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f} ({self.seeds} seeds)"


def seed_summary(values: Sequence[float]) -> SeedSummary:
    """Mean ± SD of one score over training seeds, shape (seeds,); NaN is left out and not counted.

    The SD is the spread of training on one split. It is no interval for other patients: that is the bootstrap's.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return SeedSummary(np.nan, np.nan, 0)
    return SeedSummary(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else np.nan, len(known))


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
        ValueError: lengths differ, a patient is missing, or `level` is not in (0, 1).

    Reference:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8: resampling clusters.
    """
    values, patients = np.asarray(values, dtype=float), np.asarray(patients, dtype=object)
    if values.shape != patients.shape or values.ndim != 1:
        raise ValueError(
            f"patient_bootstrap: values have shape {values.shape}, patients {patients.shape}; expected two equal (n,)"
        )
    check_level(level, "patient_bootstrap")
    patient_codes(patients, len(values), "patient_bootstrap")
    known = ~np.isnan(values)
    values = values[known]
    codes, count = patient_codes(patients[known], len(values), "patient_bootstrap")
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    estimate = float(statistic(values))
    if count < 2:
        return Estimate(estimate, np.nan, np.nan, len(values), count)
    members = [values[codes == code] for code in range(count)]
    random = np.random.default_rng(seed)
    drawn = [statistic(np.concatenate([members[code] for code in random.integers(count, size=count)])) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(estimate, float(low), float(high), len(values), count)


def check_level(level: float, where: str) -> None:
    """Raises ValueError where a confidence level is not in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"{where}: level is {level}; expected a number between 0 and 1, such as 0.95")


def patient_codes(patients: Sequence[str], images: int, where: str) -> tuple[np.ndarray, int]:
    """The patient of each image as a number from 0, int (n,), and how many patients there are.

    Raises:
        ValueError: not one patient for each image, or a patient is missing.
    """
    patients = np.asarray(patients, dtype=object)
    if patients.shape != (images,):
        raise ValueError(f"{where}: patients have shape {patients.shape}; expected ({images},), one for each image")
    codes, names = pd.factorize(patients)
    missing = int((codes < 0).sum())
    if missing:
        raise ValueError(
            f"{where}: {missing} of {images} values have no patient; fill the column `patient`, with the case where unknown"
        )
    return codes, len(names)


def proportion_interval(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion of independent trials (patients, not images), in [0, 1]; NaN for no trials.

    Reference:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if total == 0:
        return np.nan, np.nan
    interval = binomtest(successes, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
