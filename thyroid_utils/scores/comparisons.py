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
from scipy.stats import binom, norm, rankdata, wilcoxon
from scipy.stats import t as student

from thyroid_utils.scores.checks import check_level, checked_labels, checked_probabilities, need_both_classes, patient_codes
from thyroid_utils.scores.estimates import POWER, Comparison, Estimate, patient_bootstrap

ROUNDING = 1e-12  # of an AUC: one pair of images ranked otherwise moves it by more, up to a million images
_MOST_FLIPPED_IN_FULL = 12  # patients
_SIGNS = 2**18  # held at once


def delong_test(
    labels: Sequence[int],
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Test of equal ROC-AUC of two models on the same images.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        first, second: probabilities of malignancy, in [0, 1], shape (n,); or (seeds, n), compared by mean AUC over seeds.
        patients: the patient of each image, shape (n,). With them the variance is Obuchowski's for clustered images, which equals
            DeLong's where each patient has one image; without them DeLong's, which takes all images as independent.
        level: coverage of the interval of the difference, in (0, 1).

    Returns:
        Comparison. p-value and interval are NaN where the variance is 0 though the AUCs differ, or where it cannot be estimated
        because fewer than two patients (or images) have a class. Models that rank alike have p = 1.

    Raises:
        DataError: one class only.
        ValueError: shapes that differ, values out of range, a patient missing.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; Sun and Xu, IEEE Signal Process. Lett. 21 (2014)
        1389-1393; Obuchowski, Biometrics 53 (1997) 567-578.
    """
    check_level(level, "delong_test")
    ranking = _Ranking.of(labels, [first, second], patients, "delong_test")
    return _compare_areas(ranking, 0, 1, level)[0]


def auc_covariance(
    labels: Sequence[int], models: Sequence[Sequence[float]], patients: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUC of k models on the same images, (k,), and the covariance of these estimates, (k, k); arguments as `delong_test`.

    The covariance is NaN where fewer than two patients (images, if no patients are given) have one of the classes.
    """
    ranking = _Ranking.of(labels, models, patients, "auc_covariance")
    return ranking.areas, _clustered_covariance(ranking.centred, ranking)


@dataclass(frozen=True)
class _Ranking:
    """How models rank the same images: AUCs (models,), each image's component less the AUC (models, images), and patients."""

    areas: np.ndarray
    centred: np.ndarray
    truth: np.ndarray
    codes: np.ndarray
    patients: int

    @classmethod
    def of(cls, labels: Sequence[int], models: Sequence[Sequence[float]], patients: Sequence[str] | None, where: str) -> _Ranking:
        truth = checked_labels(labels, where)
        need_both_classes(truth, where)
        codes, count = (np.arange(len(truth)), len(truth)) if patients is None else patient_codes(patients, len(truth), where)
        rows = [np.atleast_2d(checked_probabilities(model, len(truth), where)) for model in models]
        # A component is a mean over the other class, so that the mean over seeds of the AUC is the AUC of the mean components.
        components = np.array([np.mean([_components(truth, row) for row in seeds], axis=0) for seeds in rows])
        areas = components[:, truth].mean(axis=1)
        return cls(areas, components - areas[:, None], truth, codes, count)


def _components(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """For each image the share of the other class's images that it is ranked rightly against, ties half: (n,) in [0, 1].

    By midranks: an image's rank among all less its rank in its own class counts the others below it.
    """
    ranks = rankdata(probabilities)
    components = np.empty(len(truth))
    components[truth] = (ranks[truth] - rankdata(probabilities[truth])) / (~truth).sum()
    components[~truth] = 1 - (ranks[~truth] - rankdata(probabilities[~truth])) / truth.sum()
    return components


def _clustered_covariance(centred: np.ndarray, ranking: _Ranking) -> np.ndarray:
    """Obuchowski's (1997) covariance of k AUCs, or of k differences, from their centred components (k, images): (k, k)."""
    truth, codes, count = ranking.truth, ranking.codes, ranking.patients
    sums = np.zeros((2, len(centred), count))  # of benign and malignant images of each patient
    present = np.zeros((2, count), dtype=bool)
    for kind, members in enumerate((~truth, truth)):
        present[kind, codes[members]] = True
        np.add.at(sums[kind].T, codes[members], centred[:, members].T)
        sums[kind] /= members.sum()
    benign, malignant = present.sum(axis=1)
    if min(benign, malignant) < 2:
        return np.full((len(centred), len(centred)), np.nan)
    mixed = count / (count - 1) * sums[1] @ sums[0].T
    own = malignant / (malignant - 1) * sums[1] @ sums[1].T + benign / (benign - 1) * sums[0] @ sums[0].T
    return own + mixed + mixed.T


def _compare_areas(ranking: _Ranking, one: int, two: int, level: float) -> tuple[Comparison, float]:
    """Test of two of the models, and the standard error of their difference."""
    first, second = ranking.areas[one], ranking.areas[two]
    difference = first - second
    # Of the differences rather than of each model: models that rank alike then have a variance of 0 without rounding.
    variance = _clustered_covariance((ranking.centred[one] - ranking.centred[two])[None], ranking)[0, 0]
    error = float(np.sqrt(np.maximum(variance, 0)))
    low = high = p_value = np.nan
    note = ""
    if np.isnan(variance):
        note = "fewer than two patients have one of the classes"
    elif error > ROUNDING:
        reach = norm.ppf((1 + level) / 2) * error
        low, high, p_value = difference - reach, difference + reach, 2 * norm.sf(abs(difference) / error)
    elif abs(difference) < ROUNDING:
        p_value = 1.0
    else:
        note = "the variance is 0, as with a model that makes no error"
    numbers = (float(number) for number in (first, second, difference, low, high, p_value))
    return Comparison(*numbers, len(ranking.truth), ranking.patients, note=note), error


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
        ValueError: shapes that differ, or a patient missing.

    Reference:
        McNemar, Psychometrika 12 (1947) 153-157; the toss for patients is Fisher's randomisation test of paired differences.
    """
    one, two = (np.atleast_2d(np.asarray(right, dtype=bool)) for right in (first_right, second_right))
    if one.shape != two.shape or one.ndim != 2 or not one.size:
        raise ValueError(
            f"mcnemar_test: shapes {np.shape(first_right)} and {np.shape(second_right)}; expected two equal (n,) or (seeds, n)"
        )
    images = one.shape[1]
    codes, count = (np.arange(images), images) if patients is None else patient_codes(patients, images, "mcnemar_test")
    by_image = (one & ~two).sum(axis=0) - (two & ~one).sum(axis=0)
    differences = np.bincount(codes, by_image, count).round().astype(int)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    shares = float(one.mean()), float(two.mean())
    return McNemar(*shares, only_first, only_second, _sign_flip_p(differences), images, count)


def _sign_flip_p(differences: np.ndarray) -> float:
    """P(|Σ ±d| ≥ |Σ d|) over independent fair signs, exactly, for whole numbers d (n,)."""
    sizes = Counter(np.abs(differences[differences != 0]).tolist())
    # Distribution of the sum of the sizes that got a plus; of `times` equal sizes a binomial number gets one.
    chances = np.ones(1)
    for size, times in sizes.items():
        plus = np.zeros(size * times + 1)
        plus[::size] = binom.pmf(np.arange(times + 1), times, 0.5)
        chances = np.convolve(chances, plus)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(int(differences.sum()))].sum()))


def wilcoxon_test(first: Sequence[float], second: Sequence[float], patients: Sequence[str] | None = None) -> Comparison:
    """Wilcoxon's signed-rank test of two models' values on the same images, such as Dice, or on the same splits.

    Args:
        first, second: a value an image, shape (n,); a pair with NaN is left out.
        patients: the patient of each image, shape (n,); values are then averaged over a patient, and patients are the pairs.
            None takes each pair as independent.

    Returns:
        Comparison of the medians, `difference` being the median of the differences; no interval. Equal pairs are left out; p = 1
        where no pair differs. `images` counts the images, `patients` the pairs. The exact distribution is used for up to 50 pairs
        without ties, as scipy does.

    Raises:
        ValueError: shapes that differ, no pair, or a patient missing.

    Reference:
        Wilcoxon, Biometrics Bulletin 1 (1945) 80-83.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"wilcoxon_test: shapes {one.shape} and {two.shape}; expected two equal (n,)")
    known = ~(np.isnan(one) | np.isnan(two))
    images = int(known.sum())
    if not images:
        raise ValueError(f"wilcoxon_test: none of {len(one)} pairs has both values; expected at least one")
    if patients is None:
        one, two = one[known], two[known]
    else:
        patient_codes(patients, len(one), "wilcoxon_test")
        pairs = pd.DataFrame({"one": one, "two": two})[known].groupby(np.asarray(patients, dtype=object)[known]).mean()
        one, two = pairs["one"].to_numpy(), pairs["two"].to_numpy()
    differences = one - two
    # Averages of the same values in another order can differ by rounding; such pairs are equal.
    differences[np.abs(differences) < 1e-12 * np.maximum(np.abs(one), np.abs(two))] = 0
    p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    medians = float(np.median(one)), float(np.median(two)), float(np.median(differences))
    return Comparison(*medians, np.nan, np.nan, p_value, images, len(one))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method, shape (n,), in the given order.

    Calling those below 0.05 significant keeps the chance of any false call below 0.05, whatever their dependence. NaN stays NaN
    and is not counted: no test was made. Raises ValueError for values outside [0, 1].

    Reference:
        Holm, Scand. J. Stat. 6 (1979) 65-70.
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError(f"holm: p-values of shape {values.shape} or outside [0, 1]; expected (n,) within it")
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values)[: (~np.isnan(values)).sum()]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return adjusted


def compare_models(
    labels: Sequence[int],
    probabilities: Mapping[str, Sequence[float]],
    patients: Sequence[str],
    thresholds: float | Mapping[str, float | Sequence[float]] = 0.5,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """Every pair of models on one test set: AUC by DeLong's test and accuracy by McNemar's, both over patients, after Holm.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: model → probabilities of malignancy, (n,) or (seeds, n) with as many seeds for every model.
        patients: the patient of each image, shape (n,).
        thresholds: at or above it an image is called malignant: one number, or model → number or one a seed.
        level: 1 − level is the significance level of the family of pairs, and the interval's coverage of a single pair.

    Returns:
        DataFrame, a row a pair in the order of `probabilities`:

        - `first`, `second`: the models;
        - `auc_difference` (first − second), `low`, `high` (interval of this pair alone, not adjusted);
        - `detectable`: the AUC difference that a set like this one shows with a power of 80 % in a single two-sided test,
          (z_{(1+level)/2} + z_{0.8}) · standard error. A set whose `detectable` exceeds the differences of interest cannot rank
          these models;
        - `p_auc`, `p_auc_holm`;
        - `accuracy_difference`, `only_first_right`, `only_second_right` (image counts, once a seed), `p_accuracy`,
          `p_accuracy_holm`;
        - `auc_differs`, `accuracy_differs`: adjusted p below 1 − level.

        Holm is applied to all pairs of one test: AUC and accuracy are two families.

    Raises:
        DataError: one class only.
        ValueError: shapes that differ, a model without a threshold, a patient missing, fewer than two models.

    Reference:
        `delong_test`, `mcnemar_test`, `holm`.
    """
    where = "compare_models"
    check_level(level, where)
    names = list(probabilities)
    if len(names) < 2:
        raise ValueError(f"{where}: {len(names)} models; expected two or more to compare")
    ranking = _Ranking.of(labels, list(probabilities.values()), patients, where)
    truth = ranking.truth
    right = {name: _right(truth, probabilities[name], thresholds, name) for name in names}
    rows = []
    for one, two in combinations(range(len(names)), 2):
        area, error = _compare_areas(ranking, one, two, level)
        calls = mcnemar_test(right[names[one]], right[names[two]], patients)
        rows.append(
            {
                "first": names[one],
                "second": names[two],
                "auc_difference": area.difference,
                "low": area.low,
                "high": area.high,
                "detectable": (norm.ppf((1 + level) / 2) + norm.ppf(POWER)) * error,
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
    table["auc_differs"] = table["p_auc_holm"] < 1 - level
    table["accuracy_differs"] = table["p_accuracy_holm"] < 1 - level
    return table


def _right(
    truth: np.ndarray, probabilities: Sequence[float], thresholds: float | Mapping[str, float | Sequence[float]], name: str
) -> np.ndarray:
    """Whether each image is called rightly, bool (seeds, n)."""
    if isinstance(thresholds, Mapping) and name not in thresholds:
        raise ValueError(f"compare_models: no threshold for {name}; thresholds name {', '.join(thresholds)}")
    threshold = np.asarray(thresholds[name] if isinstance(thresholds, Mapping) else thresholds, dtype=float)
    rows = np.atleast_2d(np.asarray(probabilities, dtype=float))
    if threshold.shape not in ((), (len(rows),)) or np.isnan(threshold).any():
        raise ValueError(
            f"compare_models: threshold of {name} is {threshold}; expected a number, or one for each of {len(rows)} seeds"
        )
    return (rows >= threshold.reshape(-1, 1)) == truth


def compare_means(
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Means of two values of the same images and their difference, with interval and p-value over patients.

    Args:
        first, second: one an image, shape (n,); a pair with NaN is left out of both means.
        patients: the patient of each image, shape (n,).
        resamples, level, seed: of the interval, as in `patient_bootstrap`.

    Returns:
        Comparison (first − second), of means over images. `images` counts the pairs that have both values, so that
        `len(first) - images` were left out. Without any the numbers are NaN and `note` says so; a single patient has neither
        interval nor p-value.

    Raises:
        ValueError: shapes that differ, or a patient missing.

    Reference:
        `patient_bootstrap`, `scores.comparisons.sign_flip_test`: both ask of the mean that is shown.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"compare_means: shapes {one.shape} and {two.shape}; expected two equal (n,)")
    difference = patient_bootstrap(one - two, patients, resamples=resamples, level=level, seed=seed)
    known = ~np.isnan(one - two)
    if not known.any():
        return Comparison(*[np.nan] * 6, 0, 0, note="no image has both values")
    means = float(one[known].mean()), float(two[known].mean())
    single = difference.patients < 2
    codes, _ = patient_codes(np.asarray(patients, dtype=object)[known], int(known.sum()), "compare_means")
    p_value = np.nan if single else sign_flip_test(np.bincount(codes, (one - two)[known]), seed=seed)
    note = "1 patient" if single else ""
    counts = difference.images, difference.patients
    return Comparison(*means, difference.value, difference.low, difference.high, p_value, *counts, note=note)


def sign_flip_test(sums: np.ndarray, flips: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0 between two values of the same images, over patients.

    Were the two values alike, each patient's difference could as well have the other sign. The p-value is the share of such flips
    whose mean over all images is at least as far from 0 as the one seen: it asks of the mean that is shown, where Wilcoxon's asks
    of ranks. Exact where differences are symmetric; as all flips have one sum of squares, dividing by the standard error would
    change nothing.

    Args:
        sums: the sum of a patient's differences, one a patient, float (n,).
        flips: how many are drawn; up to 12 patients all are taken instead, so that n patients give 2 / 2ⁿ at least.
        seed: same seed, same flips.

    Raises:
        ValueError: a sum that is NaN or infinite.

    Reference:
        Fisher, The Design of Experiments (1935), section 21.
    """
    if not np.isfinite(sums).all():
        raise ValueError("sign_flip_test: a sum is NaN or infinite; expected numbers, patients without a difference left out")
    seen = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # sums in another order differ by rounding
    if len(sums) <= _MOST_FLIPPED_IN_FULL:
        signs = 1 - 2.0 * (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    random = np.random.default_rng(seed)
    block = int(np.clip(_SIGNS // len(sums), 1, flips))
    rare = 0
    for start in range(0, flips, block):
        signs = random.integers(0, 2, (min(block, flips - start), len(sums))) * 2.0 - 1
        rare += int((np.abs(signs @ sums) >= seen).sum())
    return (rare + 1) / (flips + 1)


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
