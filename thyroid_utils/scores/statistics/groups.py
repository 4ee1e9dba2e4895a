"""Whether two groups of patients differ in a value, and whether two values of the same images do.

Patients are the unit: their images are averaged first, so that a patient with ten images weighs as much as one with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu, norm, rankdata

from thyroid_utils.scores.metrics.inputs import checked_labels
from thyroid_utils.scores.statistics.bootstrap import patient_bootstrap_scores
from thyroid_utils.scores.statistics.estimates import POWER, Comparison, check_level, patient_bootstrap, patient_codes
from thyroid_utils.scores.statistics.randomisation import sign_flip_test


@dataclass(frozen=True)
class GroupComparison:
    """A value of two groups of patients, how far apart the groups lie, and whether chance explains it.

    Attributes:
        first, second: medians over the patients of group 0 and of group 1; NaN for a group without patients.
        effect: rank-biserial correlation in [-1, 1], P(second > first) − P(second < first) for a patient drawn from each group;
            0 where the groups lie alike, 1 where every patient of group 1 lies above every one of group 0.
        low, high: interval of the effect over patients; NaN where `note` says why.
        p_value: of the two-sided Mann-Whitney test; NaN with one group only.
        detectable: the effect that a single such test at 1 − level finds with a power of 80 % at these numbers of patients, above
            1 where no effect is large enough.
        images: that have a value and count. first_patients, second_patients: that they come from.
        left_out: images without a value (NaN). mixed: images of group 0 left out because their patient counts in group 1.
        undefined: share of the resamples, in [0, 1], that drew one group only.
    """

    first: float
    second: float
    effect: float
    low: float
    high: float
    p_value: float
    detectable: float
    images: int
    first_patients: int
    second_patients: int
    left_out: int = 0
    mixed: int = 0
    undefined: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """`effect +0.31 [+0.10, +0.49], p = 0.004`; the note where there is no test."""
        if np.isnan(self.p_value):
            return f"no test: {self.note}"
        interval = f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]" if not np.isnan(self.low) else ""
        chance = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        return f"effect {self.effect:+.{digits}f}{interval}, {chance}"


def mann_whitney_patients(
    values: Sequence[float],
    groups: Sequence[int],
    patients: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> GroupComparison:
    """Mann-Whitney's test of two groups of patients, with the rank-biserial effect and its interval.

    A patient's value is the mean over its images. A patient with images of both groups counts in group 1, with its images of
    group 1 only: as in the project's other counts, a patient is as severe as the most severe image. The test is exact for a group
    of up to 8 patients without ties, and asymptotic with corrections for ties and continuity otherwise, as scipy chooses.

    The interval is the percentile bootstrap of `patient_bootstrap_scores` over patients. At a nominal 95 % and an effect of 0.52
    it was measured to hold the truth in 95 % of simulated studies of 90 and 60 patients, 94 % of 35 and 25, and 91 % of 10 and 8.
    There is none where more than a tenth of the resamples miss a group, or at an effect of ±1.

    Args:
        values: one an image, shape (n,); NaN is left out and counted.
        groups: 0 or 1 (benign, malignant), shape (n,).
        patients: the patient of each image, shape (n,).
        level: coverage of the interval, in (0, 1); 1 − level is the test's level in `detectable`.
        resamples: sets of patients drawn for the interval.
        seed: same seed, same interval.

    Raises:
        ValueError: shapes that differ, infinite values, groups other than 0 and 1, a patient missing, or `level` outside (0, 1).

    Reference:
        Mann and Whitney, Ann. Math. Stat. 18 (1947) 50-60; Kerby, Comprehensive Psychology 3 (2014) 1 (rank-biserial); Noether,
        J. Am. Stat. Assoc. 82 (1987) 645-647 (power).
    """
    where = "mann_whitney_patients"
    check_level(level, where)
    second = checked_labels(groups, where)
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != second.shape:
        raise ValueError(f"{where}: values have shape {numbers.shape}, groups {second.shape}; expected two equal (n,)")
    if np.isinf(numbers).any():
        raise ValueError(
            f"{where}: {int(np.isinf(numbers).sum())} of {len(numbers)} values are infinite; expected numbers or NaN"
        )
    codes, _ = patient_codes(patients, len(numbers), where)
    known = ~np.isnan(numbers)
    mixed = known & ~second & np.isin(codes, codes[known & second])
    used = known & ~mixed
    by_patient = pd.DataFrame({"value": numbers, "group": second})[used].groupby(codes[used], sort=False)
    means, group = by_patient["value"].mean().to_numpy(), by_patient["group"].first().to_numpy()
    one, two = means[~group], means[group]
    counts = {
        "images": int(used.sum()),
        "first_patients": len(one),
        "second_patients": len(two),
        "left_out": int((~known).sum()),
        "mixed": int(mixed.sum()),
    }
    medians = float(np.median(one)) if len(one) else np.nan, float(np.median(two)) if len(two) else np.nan
    if not (len(one) and len(two)):
        absent = " and ".join(name for name, found in (("0", one), ("1", two)) if not len(found))
        nothing = dict.fromkeys(("effect", "low", "high", "p_value", "detectable"), np.nan)
        return GroupComparison(*medians, **nothing, **counts, note=f"no patient with a value in group {absent}")
    ranks = _ranks(means)
    test = mannwhitneyu(ranks[group], ranks[~group])
    # The rank-biserial correlation is 2·AUC − 1, so that the AUC's bootstrap over patients is its bootstrap.
    area = patient_bootstrap_scores(
        group, ranks / ranks.max(), np.arange(len(ranks)), "auc", resamples=resamples, level=level, seed=seed
    )["auc"]
    return GroupComparison(
        *medians,
        effect=2 * float(test.statistic) / (len(one) * len(two)) - 1,
        low=2 * area.low - 1,
        high=2 * area.high - 1,
        p_value=1.0 if ranks.max() == 1 else float(test.pvalue),  # all alike: scipy divides 0 by 0
        detectable=_detectable(len(one), len(two), level),
        undefined=area.undefined,
        note=area.note,
        **counts,
    )


def _ranks(means: np.ndarray) -> np.ndarray:
    """1, 2, 3 … by size, equal for values that differ by rounding alone: means of the same values in another order."""
    return rankdata([float(f"{mean:.12g}") for mean in means], method="dense").astype(float)


def _detectable(one: int, two: int, level: float) -> float:
    """Rank-biserial effect found with `POWER`, by the normal approximation with the variance of no effect and no ties."""
    return float((norm.ppf((1 + level) / 2) + norm.ppf(POWER)) * np.sqrt((one + two + 1) / (3 * one * two)))


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
        `patient_bootstrap`, `statistics.randomisation.sign_flip_test`: both ask of the mean that is shown.
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
