"""Whether two groups of patients differ in a value, and whether the mean of some images differs from that of the others.

Mann-Whitney: patients are the unit. Their images are averaged first, so that a patient with ten images weighs as much as one
with one.

Randomisation: were a patient's results unrelated to what tells two parts of the images apart, the parts could be dealt out anew:
patients whose images are all in one part swap places among themselves, and a patient with images in both has its own images
shuffled. The p-value is the share of such deals whose |t| is at least the one seen, t being the difference of the means over its
standard error, of patients, in that very deal.

That holds exactly where the parts make no difference whatever, for any number of patients, and also where a part has no error at
all: a bootstrap would take its spread for zero. Dividing by the standard error keeps it near where the means are alike and only
scatter differently, as Dice does among small nodules; the bare difference fails there.

Reference:
    Janssen, Stat. Probab. Lett. 36 (1997) 9-21; Chung and Romano, Ann. Stat. 41 (2013) 484-507.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from thyroid_utils.common.words import number, p_value
from thyroid_utils.scores.checks import checked_labels, patient_codes
from thyroid_utils.scores.estimates import DETECTED

_BLOCK = 2**18  # images × deals held at once


@dataclass(frozen=True)
class GroupComparison:
    """A value of two groups of patients, how far apart the groups lie, and whether chance explains it.

    Attributes:
        first, second: medians over the patients of group 0 and of group 1; NaN for a group without patients.
        effect: rank-biserial correlation in [-1, 1], P(second > first) − P(second < first) for a patient drawn from each group;
            0 where the groups lie alike, 1 where every patient of group 1 lies above every one of group 0.
        low, high: interval of the effect over patients, without 0 where p < 0.05; NaN where all patients are alike.
        p_value: of the two-sided Mann-Whitney test; NaN with one group only.
        detectable: the effect that a single such test at 5 % finds with a power of 80 % at these numbers of patients, above 1
            where no effect is large enough.
        images: that have a value and count. first_patients, second_patients: that they come from.
        left_out: images without a value (NaN). mixed: images of group 0 left out because their patient counts in group 1.
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
    note: str = ""

    def __str__(self) -> str:
        """`effect +0.31 [+0.10, +0.49], p = 0.004`; the note where there is no test."""
        if np.isnan(self.p_value):
            return f"no test: {self.note}"
        effect, low, high = (number(value, sign=True) for value in (self.effect, self.low, self.high))
        return f"effect {effect}{'' if np.isnan(self.low) else f' [{low}, {high}]'}, {p_value(self.p_value)}"


def mann_whitney_patients(
    values: Sequence[float],
    groups: Sequence[int],
    patients: Sequence[str],
) -> GroupComparison:
    """Mann-Whitney's test of two groups of patients, with the rank-biserial effect and its interval.

    A patient's value is the mean over its images. A patient with images of both groups counts in group 1, with its images of
    group 1 only: as in the project's other counts, a patient is as severe as the most severe image. The test is the asymptotic
    one, corrected for ties and continuity.

    The interval is the test turned round: the effects that it would not reject, so that 0 lies outside where p < 0.05, and
    nowhere else. A rank-biserial correlation is 2·AUC − 1. An AUC θ of n₀ and n₁ patients, N = (n₀ + n₁) / 2, has Hanley and
    McNeil's variance, θ(1 − θ) (1 + (N − 1) ((1 − θ) / (2 − θ) + θ / (1 + θ))) / (n₀ n₁), which at 1/2 is Mann and Whitney's.

    Args:
        values: one an image, shape (n,); NaN is left out and counted.
        groups: 0 or 1 (benign, malignant), shape (n,).
        patients: the patient of each image, shape (n,).

    Raises:
        ValueError: shapes that differ, infinite values, groups other than 0 and 1, or a patient missing.

    Reference:
        Mann and Whitney, Ann. Math. Stat. 18 (1947) 50-60; Kerby, Comprehensive Psychology 3 (2014) 1 (rank-biserial); Newcombe,
        Stat. Med. 25 (2006) 559-573, method 5 (interval); Noether, J. Am. Stat. Assoc. 82 (1987) 645-647 (power).
    """
    from scipy.stats import mannwhitneyu  # half a second to load

    where = "mann_whitney_patients"
    second = checked_labels(groups, where)
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != second.shape or np.isinf(numbers).any():
        raise ValueError(f"{where}: values have shape {numbers.shape}; expected {second.shape}, numbers or NaN, none infinite")
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
    medians = [float(np.median(found)) if len(found) else np.nan for found in (one, two)]
    if not (len(one) and len(two)):
        absent = " and ".join(str(name) for name, found in enumerate((one, two)) if not len(found))
        return GroupComparison(*medians, *[np.nan] * 5, **counts, note=f"no patient with a value in group {absent}")
    # Equal for values that differ by rounding alone: means of the same values in another order.
    ranks = np.unique([float(f"{mean:.12g}") for mean in means], return_inverse=True)[1] + 1.0
    test = mannwhitneyu(ranks[group], ranks[~group], method="asymptotic")
    area = float(test.statistic) / (len(one) * len(two))
    low, high = _area_interval(area, len(one), len(two), np.unique(ranks, return_counts=True)[1])
    return GroupComparison(
        *medians,
        effect=2 * area - 1,
        low=2 * low - 1,
        high=2 * high - 1,
        p_value=1.0 if ranks.max() == 1 else float(test.pvalue),  # all alike: scipy divides 0 by 0
        # the normal approximation, with the variance of no effect and no ties
        detectable=float(DETECTED * np.sqrt((len(one) + len(two) + 1) / (3 * len(one) * len(two)))),
        **counts,
    )


def _area_interval(area: float, first: int, second: int, ties: np.ndarray) -> tuple[float, float]:
    """95 % interval of the share of pairs, one patient of each group, that the second wins; ties: patients of each rank."""
    from scipy.optimize import brentq  # a tenth of a second to load

    pairs, patients = first * second, first + second
    fewer_ranks = 1 - (ties**3 - ties).sum() / (patients**3 - patients)
    if fewer_ranks <= 0:
        return np.nan, np.nan

    def beyond(share: float) -> float:
        """How far the area lies from a share in excess of what the test lets pass."""
        spread = 1 + (patients / 2 - 1) * ((1 - share) / (2 - share) + share / (1 + share))
        reach = ndtri(0.975) * np.sqrt(fewer_ranks * share * (1 - share) * spread / pairs)
        return abs(area - share) - 0.5 / pairs - reach

    low, high = (end if beyond(end) <= 0 else brentq(beyond, min(end, area), max(end, area)) for end in (0.0, 1.0))
    return float(low), float(high)


def randomisation_test(values: np.ndarray, inside: np.ndarray, known: np.ndarray, codes: np.ndarray, deals: int = 4999) -> float:
    """Two-sided p-value of equal means of `inside` and of the rest of `known`.

    Args:
        values: one an image, float (n,).
        inside: bool (n,), within `known`; neither it nor the rest is empty.
        known: bool (n,), the images that are compared, none of them NaN.
        codes: the patient of each image, int (n,), from 0, every number below the largest occurring.
        deals: how many; the p-value is at least 1 / (deals + 1).
    """
    values, order = np.where(known, values, 0), np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))

    def sizes(parts: np.ndarray) -> np.ndarray:
        return _studentised(values, parts, known, order, first)

    seen = sizes(inside[:, None].astype(float))[0]
    rare = sum(int((sizes(dealt) >= seen * (1 - 1e-9) - 1e-12).sum()) for dealt in _deals(inside, known, codes, deals))
    return (rare + 1) / (deals + 1)


def _studentised(values: np.ndarray, parts: np.ndarray, known: np.ndarray, order: np.ndarray, first: np.ndarray) -> np.ndarray:
    """|difference| over its standard error of m parts, given as 0 and 1 float (n, m): (m,), infinite where parts differ and
    nothing varies."""
    difference, influence = 0.0, 0.0
    for sign, part in ((1, parts), (-1, known[:, None] - parts)):
        images = part.sum(axis=0)
        means = values @ part / images
        moved = part * (values[:, None] - means) / images  # what each image moves the mean by
        patients = (np.add.reduceat(part[order], first, axis=0) > 0).sum(axis=0)
        difference = difference + sign * means
        influence = influence + sign * moved * np.sqrt(patients / np.maximum(patients - 1, 1))
    error = np.sqrt((np.add.reduceat(influence[order], first, axis=0) ** 2).sum(axis=0))
    # Sums in another order differ by rounding; what is that small is nothing.
    size, error = (np.where(np.abs(numbers) < 1e-12, 0.0, np.abs(numbers)) for numbers in (difference, error))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size == 0, 0.0, size / error)


def _deals(inside: np.ndarray, known: np.ndarray, codes: np.ndarray, deals: int) -> Iterator[np.ndarray]:
    """Parts dealt anew, float (n, block), block after block."""
    random = np.random.default_rng(0)
    patients = codes.max() + 1
    members, images = (np.bincount(codes[part], minlength=patients) for part in (inside, known))
    whole = np.flatnonzero((images > 0) & ((members == 0) | (members == images)))
    mixed = [np.flatnonzero(known & (codes == code)) for code in np.flatnonzero((members > 0) & (members < images))]
    block = int(np.clip(_BLOCK // len(codes), 8, deals))
    for start in range(0, deals, block):
        columns = min(block, deals - start)
        of_patient = np.zeros((patients, columns))
        of_patient[whole] = random.permuted(np.tile((members[whole] > 0)[:, None], columns), axis=0)
        dealt = of_patient[codes] * known[:, None]
        for rows in mixed:
            dealt[rows] = random.permuted(np.tile(inside[rows][:, None], columns), axis=0)
        yield dealt
