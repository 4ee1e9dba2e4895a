"""Whether two models differ on the same images, and how many such questions were asked.

Scores over repeated random subsets are not independent, as their training and test sets overlap: their plain standard error,
s/√k, would shrink to nothing by splitting the same patients over and over. Nadeau and Bengio's corrected one,
s·√(1/k + test/train), does not.

Reference:
    Nadeau and Bengio, Machine Learning 52 (2003) 239-281.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from thyroid_utils.scores.checks import known_patients, patient_codes
from thyroid_utils.scores.estimates import POWER, Comparison, Estimate, interval
from thyroid_utils.scores.patients import over_patients
from thyroid_utils.scores.recipes import Influence, RecipeComparison, mean_influence

_ROUNDING = 1e-12


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method, shape (n,), in the given order.

    Calling those below 0.05 significant keeps the chance of any false call below 0.05, whatever their dependence. NaN stays NaN
    and is not counted: no test was made.

    Reference:
        Holm, Scand. J. Stat. 6 (1979) 65-70.
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values)[: (~np.isnan(values)).sum()]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return adjusted


def compare_means(first: Sequence[float], second: Sequence[float], patients: Sequence[str]) -> Comparison:
    """Means of two values of the same images and their difference, with interval and p-value over patients.

    Args:
        first, second: one an image, shape (n,); a pair with NaN is left out of both means.
        patients: the patient of each image, shape (n,).

    Returns:
        Comparison (first − second), of means over images; its interval and p-value are those of one t over patients
        (`over_patients`). `images` counts the pairs that have both values, so that `len(first) - images` were left out. Without
        any the numbers are NaN, for one patient or patients who all agree interval and p-value are, and `note` says so. Values
        that do not differ at all have p = 1.

    Raises:
        ValueError: shapes that differ, or a patient missing.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known, _, _ = known_patients(one - two, patients, "compare_means")
    return compare_answers(mean_influence(one[known]), mean_influence(two[known]), np.asarray(patients, dtype=object)[known])


def compare_answers(first: Influence, second: Influence, patients: Sequence[str]) -> Comparison:
    """Whether two fixed sets of answers to the same images differ, for other patients; it says nothing of recipes.

    Args:
        first, second: of `mean_influence` or `auc_influence`; of several trainings the mean is held fixed, and the numbers of
            trainings need not be equal.
        patients: the patient of each image, (n,).

    Returns:
        Comparison (first − second), as `compare_means` gives it; of an AUC by DeLong's variance over patients.
    """
    images = first.by_image.shape[1]
    if not images:
        return Comparison(*[np.nan] * 6, 0, 0, note="no image has both values")
    codes, count = patient_codes(patients, images, "compare_answers")
    means, moves = (float(first.scores.mean()), float(second.scores.mean())), first.by_image.mean(0) - second.by_image.mean(0)
    (variance,), (freedom,) = over_patients(moves[None], first.strata, codes)
    few = "fewer than two patients of a class" if first.strata.any() else "1 patient"
    tested = _t_test(means[0] - means[1], float(np.sqrt(variance)), float(freedom), few, "all patients agree")
    return Comparison(*means, *tested[:-1], images, count, tested[-1])


def _t_test(difference: float, error: float, freedom: float, single: str, alike: str) -> tuple[float, float, float, float, str]:
    """A difference, the ends of its 95 % interval, its p-value, and why it has none: `single` where the error is NaN, `alike`
    where it is 0 and the difference is not."""
    if error > _ROUNDING:
        reach, p_value = float(stdtrit(freedom, 0.975)) * error, float(2 * stdtr(freedom, -abs(difference) / error))
        return difference, difference - reach, difference + reach, p_value, ""
    same = abs(difference) <= _ROUNDING and not np.isnan(error)
    return difference, np.nan, np.nan, 1.0 if same else np.nan, "" if same else single if np.isnan(error) else alike


def corrected_error(values: np.ndarray, train: int, test: int) -> np.ndarray:
    """Standard error of the mean over subsets (axis 0) of `values` (k, …): (…), NaN for fewer than two subsets.

    Args:
        train, test: images that one subset is trained and tested on.
    """
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    return np.sqrt((1 / count + test / train) * values.var(axis=0, ddof=1))


def subset_estimate(
    values: Sequence[float], train: int, test: int, patients: int, limits: tuple[float, float] = (0.0, 1.0)
) -> Estimate:
    """Mean of a score over repeated random subsets, with the 95 % interval of the corrected t distribution (k − 1 degrees of
    freedom).

    Args:
        values: one score a subset, shape (k,); NaN, where a subset leaves it undefined, is left out and told in `note`.
        train, test: images that one subset is trained and tested on; `test` becomes the estimate's `images`.
        patients: tested in one subset.
        limits: that the score lies between; the interval is made on the logit's scale and stays within, unless they are infinite.

    Returns:
        Estimate without an interval where fewer than two subsets have the score, or all have the same.

    Example:
        >>> print(subset_estimate([0.9, 0.95, 0.92, 0.96, 0.93], train=60, test=20, patients=20))
        0.93 [0.86, 0.97]
    """
    scores = np.asarray(values, dtype=float)
    known, missing = scores[~np.isnan(scores)], int(np.isnan(scores).sum())
    note = f"undefined in {missing} of {len(scores)} subsets" if missing else ""
    if len(known) < 2:
        value = float(known[0]) if len(known) else np.nan
        return Estimate(value, np.nan, np.nan, test, patients, note=note or "1 subset")
    mean, error = float(known.mean()), float(corrected_error(known, train, test))
    if not error > _ROUNDING:
        return Estimate(mean, np.nan, np.nan, test, patients, note=note or "all subsets agree")
    low, high = interval(mean, error, len(known) - 1, np.inf, limits)
    return Estimate(mean, float(low), float(high), test, patients, note=note)


def subset_comparison(first: Sequence[float], second: Sequence[float], train: int, test: int, patients: int) -> RecipeComparison:
    """Corrected resampled t-test of two models' scores on the same subsets.

    Args:
        first, second: one score a subset, the same subsets for both, shape (k,).
        train, test, patients: as for `subset_estimate`.

    Returns:
        RecipeComparison (first − second) of as many `seeds` as subsets; its interval, p-value and `detectable` are NaN for one
        subset, and all numbers where a subset leaves a score undefined, as `note` tells; without an interval, and a p-value of 1
        or none, where the differences do not vary.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    error, freedom = float(corrected_error(one - two, train, test)), len(one) - 1
    missing = int(np.isnan(one - two).sum())
    single = f"undefined in {missing} of {len(one)} subsets" if missing else "1 subset"
    same = "the difference is the same in every subset"
    *tested, note = _t_test(float((one - two).mean()), error, freedom, single, same)
    detectable = float(stdtrit(freedom, 0.975) + stdtrit(freedom, POWER)) * error
    means = float(one.mean()), float(two.mean())
    return RecipeComparison(*means, *tested, test, patients, note=note, seeds=len(one), detectable=detectable)
