"""Scores over repeated random subsets, whose training and test sets overlap from one to the next.

The k scores are not independent: their plain standard error, s/√k, would shrink to nothing by splitting the same patients over
and over. Nadeau and Bengio's corrected one, s·√(1/k + test/train), does not.

Reference:
    Nadeau and Bengio, Machine Learning 52 (2003) 239-281.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from thyroid_utils.scores.statistics.estimates import POWER, Comparison, Estimate, check_level


def corrected_error(values: np.ndarray, train: int, test: int) -> np.ndarray:
    """Standard error of the mean over subsets (axis 0) of `values` (k, …): (…), NaN for fewer than two subsets.

    Args:
        train, test: images that one subset is trained and tested on.

    Raises:
        ValueError: a number of images below 1.
    """
    if train < 1 or test < 1:
        raise ValueError(f"corrected_error: {train} training and {test} test images; expected at least one of each")
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    return np.sqrt((1 / count + test / train) * values.var(axis=0, ddof=1))


def subset_estimate(values: Sequence[float], train: int, test: int, patients: int, *, level: float = 0.95) -> Estimate:
    """Mean of a score over repeated random subsets, with the interval of the corrected t distribution (k − 1 degrees of freedom).

    Args:
        values: one score a subset, shape (k,).
        train, test: images that one subset is trained and tested on; `test` becomes the estimate's `images`.
        patients: tested in one subset.
        level: coverage of the interval, in (0, 1).

    Returns:
        Estimate, NaN where the score is undefined in a subset; one subset has no interval. It is not cut off at 0 or 1.

    Raises:
        ValueError: no value, a number of images below 1, or `level` outside (0, 1).
    """
    check_level(level, "subset_estimate")
    scores = _checked(values, "subset_estimate")
    low, high = _interval(scores, train, test, level)
    return Estimate(float(scores.mean()), low, high, test, patients, note="" if len(scores) > 1 else "1 subset")


def subset_comparison(
    first: Sequence[float], second: Sequence[float], train: int, test: int, patients: int, *, level: float = 0.95
) -> tuple[Comparison, float]:
    """Corrected resampled t-test of two models' scores on the same subsets, and the difference that it detects.

    Args:
        first, second: one score a subset, the same subsets for both, shape (k,).
        train, test, patients, level: as for `subset_estimate`.

    Returns:
        Comparison (first − second), its p-value NaN for one subset or where the differences do not vary and are not 0; and the
        difference that a single two-sided test shows with a power of 80 %, NaN where there is no test.

    Raises:
        ValueError: as `subset_estimate`, or shapes that differ.
    """
    where = "subset_comparison"
    check_level(level, where)
    one, two = _checked(first, where), _checked(second, where)
    if one.shape != two.shape:
        raise ValueError(f"{where}: {len(one)} and {len(two)} scores; expected one of each model for every subset")
    differences = one - two
    low, high = _interval(differences, train, test, level)
    error, freedom = float(corrected_error(differences, train, test)), len(one) - 1
    difference, p_value, note = float(differences.mean()), np.nan, ""
    if np.isnan(error):
        note = "1 subset"
    elif error > 0:
        p_value = float(2 * student.sf(abs(difference) / error, freedom))
    elif difference == 0:
        p_value = 1.0
    else:
        note = "the difference is the same in every subset"
    detectable = (student.ppf((1 + level) / 2, freedom) + student.ppf(POWER, freedom)) * error if freedom else np.nan
    means = float(one.mean()), float(two.mean())
    return Comparison(*means, difference, low, high, p_value, test, patients, note=note), float(detectable)


def _checked(values: Sequence[float], where: str) -> np.ndarray:
    scores = np.asarray(values, dtype=float)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"{where}: scores of shape {scores.shape}; expected (subsets,), at least one")
    return scores


def _interval(values: np.ndarray, train: int, test: int, level: float) -> tuple[float, float]:
    error = float(corrected_error(values, train, test))
    if np.isnan(error):
        return np.nan, np.nan
    reach = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    return float(values.mean()) - reach, float(values.mean()) + reach
