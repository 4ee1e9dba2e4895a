"""Whether two models differ on the same images, and how many such questions were asked.

Scores over repeated random subsets are not independent, as their training and test sets overlap: their plain standard error,
s/√k, would shrink to nothing by splitting the same patients over and over. Nadeau and Bengio's corrected one,
s·√(1/k + test/train), does not.

Reference:
    Nadeau and Bengio, Machine Learning 52 (2003) 239-281.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtr, ndtri, stdtr, stdtrit

from thyroid_utils.scores.checks import (
    checked_labels,
    checked_scores,
    known_patients,
    need_both_classes,
    patient_codes,
)
from thyroid_utils.scores.estimates import DETECTED, POWER, Comparison, Estimate, patient_estimate

ROUNDING = 1e-12  # of an AUC: one pair of images ranked otherwise moves it by more, up to a million images
_MOST_FLIPPED_IN_FULL = 12  # patients
_FLIPS = 9999  # of more patients
_SIGNS = 2**18  # held at once


def delong_test(
    labels: Sequence[int], first: Sequence[float], second: Sequence[float], patients: Sequence[str] | None = None
) -> Comparison:
    """Test of equal ROC-AUC of two models on the same images.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        first, second: any numbers that rank malignant images higher, shape (n,); or (seeds, n), compared by mean AUC over seeds.
        patients: the patient of each image, shape (n,). With them the variance is Obuchowski's for clustered images, which equals
            DeLong's where each patient has one image; without them DeLong's, which takes all images as independent.

    Returns:
        Comparison, with the 95 % interval of the difference. p-value and interval are NaN where the variance is 0 though the AUCs
        differ, or where it cannot be estimated because fewer than two patients (or images) have a class. Models that rank alike
        have p = 1.

    Raises:
        DataError: one class only.
        ValueError: shapes that differ, values out of range, a patient missing.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; Sun and Xu, IEEE Signal Process. Lett. 21 (2014)
        1389-1393; Obuchowski, Biometrics 53 (1997) 567-578.
    """
    truth, codes = _images(labels, patients, "delong_test")
    return _compare_areas(_area(truth, first), _area(truth, second), truth, codes)[0]


def _images(labels: Sequence[int], patients: Sequence[str] | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth, bool (n,), of both classes, and the patient of each image, int (n,)."""
    truth = checked_labels(labels, where)
    need_both_classes(truth, where)
    return truth, np.arange(len(truth)) if patients is None else patient_codes(patients, len(truth), where)[0]


def _area(truth: np.ndarray, scores: Sequence[float]) -> tuple[float, np.ndarray]:
    """A model's AUC, the mean over seeds, and what each image moves it by, (n,), of which DeLong's components are made."""
    found = []
    for row in np.atleast_2d(checked_scores(scores, len(truth), "delong_test")):
        benign, malignant = np.sort(row[~truth]), np.sort(row[truth])
        # The share of the other class that each image is ranked rightly against, ties half.
        ranked = np.where(truth, _below(benign, row), 1 - _below(malignant, row))
        area = ranked[truth].mean()
        found.append((area, (ranked - area) / np.where(truth, len(malignant), len(benign))))
    areas, influences = zip(*found, strict=True)
    return float(np.mean(areas)), np.mean(influences, axis=0)


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The share of ordered numbers (m,) that each value (n,) is above, equal ones half."""
    return (ordered.searchsorted(values) + ordered.searchsorted(values, side="right")) / (2 * len(ordered))


def _variance(influence: np.ndarray, truth: np.ndarray, codes: np.ndarray) -> float:
    """Obuchowski's (1997) variance of an AUC, or of a difference of two, of clustered images, from what each image moves it by;
    NaN where fewer than two patients have one of the classes."""
    count = codes.max() + 1
    sums, patients = [], []
    for members in (~truth, truth):
        sums.append(np.bincount(codes[members], influence[members], count))
        patients.append(len(np.unique(codes[members])))
    if min(patients) < 2:
        return np.nan
    own = sum(number / (number - 1) * of_class @ of_class for number, of_class in zip(patients, sums, strict=True))
    return float(own + 2 * count / (count - 1) * sums[0] @ sums[1])


def _compare_areas(
    first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], truth: np.ndarray, codes: np.ndarray
) -> tuple[Comparison, float]:
    """Test of two models' `_area`, and the standard error of their difference."""
    difference = first[0] - second[0]
    # Of the differences rather than of each model: models that rank alike then have a variance of 0 without rounding.
    error = float(np.sqrt(np.maximum(_variance(first[1] - second[1], truth, codes), 0)))
    reach = p_value = np.nan
    note = ""
    if np.isnan(error):
        note = "fewer than two patients have one of the classes"
    elif error > ROUNDING:
        reach, p_value = float(ndtri(0.975)) * error, float(2 * ndtr(-abs(difference) / error))
    elif abs(difference) < ROUNDING:
        p_value = 1.0
    else:
        note = "the variance is 0, as with a model that makes no error"
    bounds = difference - reach, difference + reach
    return Comparison(first[0], second[0], difference, *bounds, p_value, len(truth), int(codes.max()) + 1, note=note), error


@dataclass(frozen=True)
class McNemar:
    """Shares of images that two models call rightly, and the images that only one of them does, each counted once a seed."""

    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float
    images: int
    patients: int


def mcnemar_test(first_right: Sequence[bool], second_right: Sequence[bool], patients: Sequence[str] | None = None) -> McNemar:
    """Exact test of equal accuracy of two models on the same images, each at its threshold.

    Were the models equally good, swapping their roles in any patient would be as likely as not. The p-value is the share of all
    swaps, one toss a patient, whose difference in right calls is at least as large as the one seen. Where each patient has one
    image this is McNemar's exact (binomial) test.

    Args:
        first_right, second_right: whether each image was called rightly, shape (n,); or (seeds, n), the same seeds for both.
        patients: the patient of each image, shape (n,); None tosses for each image, as if each were a patient's only one.

    Raises:
        ValueError: shapes that differ, what is neither true nor false, or a patient missing.

    Reference:
        McNemar, Psychometrika 12 (1947) 153-157; the toss for patients is Fisher's randomisation test of paired differences.
    """
    one, two = (np.atleast_2d(np.asarray(right, dtype=bool)) for right in (first_right, second_right))
    if not all(np.isin(right, (0, 1)).all() for right in (first_right, second_right)):
        raise ValueError("mcnemar_test: an image is neither right (True, 1) nor wrong (False, 0); leave it out where unknown")
    images = one.shape[1]
    codes, count = (np.arange(images), images) if patients is None else patient_codes(patients, images, "mcnemar_test")
    by_image = (one & ~two).sum(axis=0) - (two & ~one).sum(axis=0)
    differences = np.bincount(codes, by_image, count).round().astype(int)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    shares = float(one.mean()), float(two.mean())
    return McNemar(*shares, only_first, only_second, _sign_flip_p(differences), images, count)


def _sign_flip_p(differences: np.ndarray) -> float:
    """P(|Σ ±d| ≥ |Σ d|) over independent fair signs, exactly, for whole numbers d (n,)."""
    from scipy.stats import binom  # half a second to load

    sizes = Counter(np.abs(differences[differences != 0]).tolist())
    # Distribution of the sum of the sizes that got a plus; of `times` equal sizes a binomial number gets one.
    chances = np.ones(1)
    for size, times in sizes.items():
        plus = np.zeros(size * times + 1)
        plus[::size] = binom.pmf(np.arange(times + 1), times, 0.5)
        chances = np.convolve(chances, plus)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(int(differences.sum()))].sum()))


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


def compare_models(
    labels: Sequence[int],
    probabilities: Mapping[str, Sequence[float]],
    patients: Sequence[str],
    thresholds: Mapping[str, float | Sequence[float]],
) -> pd.DataFrame:
    """Every pair of models on one test set: AUC by DeLong's test and accuracy by McNemar's, both over patients, after Holm.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of two models or more, model → probabilities of malignancy, (n,) or (seeds, n) with as many seeds for each.
        patients: the patient of each image, shape (n,).
        thresholds: model → the probability at or above which it calls an image malignant, or one a seed.

    Returns:
        DataFrame, a row a pair in the order of `probabilities`:

        - `first`, `second`: the models;
        - `auc_difference` (first − second), `low`, `high` (95 % interval of this pair alone, not adjusted);
        - `detectable`: the AUC difference that a set like this one shows with a power of 80 % in a single two-sided test,
          (z_{0.975} + z_{0.8}) · standard error. A set whose `detectable` exceeds the differences of interest cannot rank
          these models;
        - `p_auc`, `p_auc_holm`;
        - `accuracy_difference`, `only_first_right`, `only_second_right` (image counts, once a seed), `p_accuracy`,
          `p_accuracy_holm`;
        - `auc_differs`, `accuracy_differs`: adjusted p below 0.05.

        Holm is applied to all pairs of one test: AUC and accuracy are two families.

    Raises:
        DataError: one class only.
        ValueError: shapes that differ, or a patient missing.

    Reference:
        `delong_test`, `mcnemar_test`, `holm`.
    """
    truth, codes = _images(labels, patients, "compare_models")
    areas = {name: _area(truth, found) for name, found in probabilities.items()}
    right = {
        name: (np.atleast_2d(found) >= np.reshape(thresholds[name], (-1, 1))) == truth for name, found in probabilities.items()
    }
    rows = []
    for one, two in combinations(probabilities, 2):
        area, error = _compare_areas(areas[one], areas[two], truth, codes)
        calls = mcnemar_test(right[one], right[two], patients)
        rows.append(
            {
                "first": one,
                "second": two,
                "auc_difference": area.difference,
                "low": area.low,
                "high": area.high,
                "detectable": DETECTED * error,
                "p_auc": area.p_value,
                "accuracy_difference": calls.first - calls.second,
                "only_first_right": calls.only_first,
                "only_second_right": calls.only_second,
                "p_accuracy": calls.p_value,
            }
        )
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p_auc") + 1, "p_auc_holm", holm(table["p_auc"]))
    table["p_accuracy_holm"] = holm(table["p_accuracy"])
    return table.assign(auc_differs=table["p_auc_holm"] < 0.05, accuracy_differs=table["p_accuracy_holm"] < 0.05)


def compare_means(first: Sequence[float], second: Sequence[float], patients: Sequence[str]) -> Comparison:
    """Means of two values of the same images and their difference, with interval and p-value over patients.

    Args:
        first, second: one an image, shape (n,); a pair with NaN is left out of both means.
        patients: the patient of each image, shape (n,).

    Returns:
        Comparison (first − second), of means over images. `images` counts the pairs that have both values, so that
        `len(first) - images` were left out. Without any the numbers are NaN and `note` says so; a single patient has neither
        interval nor p-value.

    Raises:
        ValueError: shapes that differ, or a patient missing.

    Reference:
        `patient_estimate`, `sign_flip_test`: both ask of the mean that is shown.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known, codes, count = known_patients(one - two, patients, "compare_means")
    if not known.any():
        return Comparison(*[np.nan] * 6, 0, 0, note="no image has both values")
    found = patient_estimate(
        one - two,
        patients,
    )
    p_value = np.nan if count < 2 else sign_flip_test(np.bincount(codes, (one - two)[known]))
    means, note = (float(one[known].mean()), float(two[known].mean())), "1 patient" if count < 2 else ""
    return Comparison(*means, found.value, found.low, found.high, p_value, found.images, count, note=note)


def sign_flip_test(sums: np.ndarray) -> float:
    """Two-sided p-value of a mean difference of 0 between two values of the same images, over patients.

    Were the two values alike, each patient's difference could as well have the other sign. The p-value is the share of such flips
    whose mean over all images is at least as far from 0 as the one seen: it asks of the mean that is shown, where Wilcoxon's asks
    of ranks. Exact where differences are symmetric; as all flips have one sum of squares, dividing by the standard error would
    change nothing.

    Args:
        sums: the sum of a patient's differences, one a patient, float (n,). Of up to 12 patients all flips are taken, so that n
            patients give 2 / 2ⁿ at least; of more 9999 are drawn, the same ones each time.

    Reference:
        Fisher, The Design of Experiments (1935), section 21.
    """
    seen = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # sums in another order differ by rounding
    if len(sums) <= _MOST_FLIPPED_IN_FULL:
        signs = 1 - 2.0 * (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    random = np.random.default_rng(0)
    block = int(np.clip(_SIGNS // len(sums), 1, _FLIPS))
    rare = 0
    for start in range(0, _FLIPS, block):
        signs = random.integers(0, 2, (min(block, _FLIPS - start), len(sums))) * 2.0 - 1
        rare += int((np.abs(signs @ sums) >= seen).sum())
    return (rare + 1) / (_FLIPS + 1)


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
    reach, error, _ = _over_subsets(known, train, test)
    mean, (least, most) = float(known.mean()), limits
    if not error > 1e-12:
        return Estimate(mean, np.nan, np.nan, test, patients, note=note or "all subsets agree")
    low, high = mean - reach, mean + reach
    if np.isfinite(most - least):
        share = (mean - least) / (most - least)
        steep = reach / ((most - least) * share * (1 - share))
        low, high = (least + (most - least) * float(expit(logit(share) + move)) for move in (-steep, steep))
    return Estimate(mean, low, high, test, patients, note=note)


def subset_comparison(
    first: Sequence[float], second: Sequence[float], train: int, test: int, patients: int
) -> tuple[Comparison, float]:
    """Corrected resampled t-test of two models' scores on the same subsets, and the difference that it detects.

    Args:
        first, second: one score a subset, the same subsets for both, shape (k,).
        train, test, patients: as for `subset_estimate`.

    Returns:
        Comparison (first − second), its p-value NaN for one subset or where the differences do not vary and are not 0; and the
        difference that a single two-sided test at 5 % shows with a power of 80 %, NaN where there is no test.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    differences = one - two
    reach, error, freedom = _over_subsets(differences, train, test)
    difference, p_value, note = float(differences.mean()), np.nan, ""
    if np.isnan(error):
        note = "1 subset"
    elif error > 0:
        p_value = float(2 * stdtr(freedom, -abs(difference) / error))
    elif difference == 0:
        p_value = 1.0
    else:
        note = "the difference is the same in every subset"
    low, high = difference - reach, difference + reach
    detectable = reach + float(stdtrit(freedom, POWER)) * error
    return Comparison(float(one.mean()), float(two.mean()), difference, low, high, p_value, test, patients, note=note), detectable


def _over_subsets(values: np.ndarray, train: int, test: int) -> tuple[float, float, int]:
    """Of values (k,) half their mean's 95 % interval, its standard error, and degrees of freedom."""
    error, freedom = float(corrected_error(values, train, test)), len(values) - 1
    return float(stdtrit(freedom, 0.975)) * error, error, freedom
