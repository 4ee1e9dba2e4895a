"""A number with its interval: over patients by the bootstrap, of a proportion, over seeds.

The bootstrap draws whole patients with replacement and takes percentiles. A score that a resample leaves undefined (most often
because it drew patients of one class only) is left out and counted in `undefined`. An interval then holds on condition that the
score exists; where that fails in more than a tenth of the resamples no interval is given, and `note` says so.

Where every resample gives the same number, as an AUC of 1 does, the bootstrap knows nothing about the spread and no interval is
given. A proportion of 0 or 1 (accuracy, sensitivity, specificity, precision) then gets Wilson's interval for that many patients.
That is safe: patients whose images are all right cannot be more frequent than images that are.

With few patients (below about 30 in the rarer class) percentile intervals are somewhat too narrow.

Reference: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from thyroid_utils.scores.checks import check_level, checked_labels, checked_probabilities, need_both_classes, patient_codes
from thyroid_utils.scores.labels import SCORES, Ranked, Scorer, checked_names
from thyroid_utils.scores.probabilities import THRESHOLDS, benefit_values, decision_curve

POWER = 0.8  # of the tests whose detectable difference is reported
# Images × resamples held at once: 512 kB of float64 stay in a core's cache. Blocks four times as large take four times as long.
BLOCK_VALUES = 2**16
MOST_UNDEFINED = 0.1
DEFAULT_SCORES = tuple(SCORES)


def p_text(value: float) -> str:
    """A p-value as it is read: `0.03`, `< 0.001`, or a dash where there is none."""
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def p_told(value: float) -> str:
    """`p = 0.03` or `p < 0.001`."""
    return f"p {'' if value < 0.001 else '= '}{p_text(value)}"


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
        return f"{self.difference:+.{digits}f}{interval}, {p_told(self.p_value)}"


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


def proportion_interval(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion of independent trials (patients, not images), in [0, 1]; NaN for no trials.

    Reference:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if total == 0:
        return np.nan, np.nan
    interval = binomtest(successes, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def drawn_patients(patients: int, resamples: int, images: int, seed: int) -> Iterator[np.ndarray]:
    """How often each patient is drawn, float64 (patients, block), block after block until `resamples` columns were given.

    Each column draws `patients` patients with replacement. The same seed gives the same columns, whatever the block.
    """
    random = np.random.default_rng(seed)
    block = int(np.clip(BLOCK_VALUES // max(patients, images), 8, resamples))
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = random.integers(patients, size=(columns, patients))
        cells = drawn * columns + np.arange(columns)[:, None]
        yield np.bincount(cells.ravel(), minlength=patients * columns).reshape(patients, columns).astype(float)


@dataclass(frozen=True)
class _Drawn:
    """One score of one model: its value, its values in the resamples (resamples,), and the patients behind a proportion."""

    value: float
    resamples: np.ndarray
    behind: int


def patient_bootstrap_scores(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    metrics: str | Sequence[str] = DEFAULT_SCORES,
    threshold: float | Sequence[float] = 0.5,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    specificity: float = 0.9,
    bins: int = 10,
) -> dict[str, Estimate]:
    """Scores of one model, each with its interval over patients.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,); or (seeds, n) for a model trained several times, whose score is then
            the mean over seeds, in every resample as in the value.
        patients: the patient of each image, shape (n,).
        metrics: names of `scores.labels.SCORES`, defined as in `classification_scores`.
        threshold: at or above it an image is called malignant; one number, or one a seed.
        resamples: how many sets of patients are drawn.
        level: coverage of the interval, in (0, 1).
        seed: same seed, same resamples, so that two models on the same images meet the same ones.
        specificity, bins: as in `classification_scores`.

    Returns:
        name → Estimate, in the order asked for.

    Raises:
        ValueError: shapes that differ, an unknown score, a patient missing, or values out of range.
    """
    where = "patient_bootstrap_scores"
    check_level(level, where)
    truth = checked_labels(labels, where)
    codes, count = patient_codes(patients, len(truth), where)
    settings = (truth, codes, count, checked_names(metrics, where), specificity, bins)
    drawn = _draw([_by_seed(probabilities, threshold, len(truth), where)], *settings, resamples, seed)[0]
    return {name: _estimate(found, len(truth), count, level) for name, found in drawn.items()}


def paired_patient_bootstrap(
    labels: Sequence[int],
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str],
    metrics: str | Sequence[str] = ("auc",),
    threshold: float | tuple[float | Sequence[float], float | Sequence[float]] = 0.5,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    specificity: float = 0.9,
    bins: int = 10,
) -> dict[str, Comparison]:
    """Differences of two models' scores (first − second), both scored on the same resamples of patients.

    The p-value is 2·min(#{d ≤ 0} + 1, #{d ≥ 0} + 1) / (resamples + 1), at most 1: one less the level of the interval that just
    reaches 0. It cannot fall below 2 / (resamples + 1); ask for more resamples where many p-values are adjusted.

    Args:
        first, second: probabilities of malignancy of the two models, shape (n,) or (seeds, n).
        threshold: one number for both, or a pair; each a number or one a seed.
        labels, patients, metrics, resamples, level, seed, specificity, bins: as in `patient_bootstrap_scores`.

    Returns:
        name → Comparison. Interval and p-value are NaN with fewer than two patients, or where the difference is undefined in more
        than a tenth of the resamples.
    """
    where = "paired_patient_bootstrap"
    check_level(level, where)
    truth = checked_labels(labels, where)
    codes, count = patient_codes(patients, len(truth), where)
    thresholds = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    models = [_by_seed(rows, cut, len(truth), where) for rows, cut in zip((first, second), thresholds, strict=True)]
    settings = (truth, codes, count, checked_names(metrics, where), specificity, bins)
    one, two = _draw(models, *settings, resamples, seed)
    return {name: _compare(one[name], two[name], len(truth), count, level) for name in one}


def _by_seed(
    probabilities: Sequence[float], threshold: float | Sequence[float], images: int, where: str
) -> list[tuple[np.ndarray, float]]:
    """(probabilities (n,), threshold) of each training seed."""
    rows = np.atleast_2d(checked_probabilities(probabilities, images, where))
    thresholds = np.asarray(threshold, dtype=float)
    if thresholds.shape not in ((), (len(rows),)) or np.isnan(thresholds).any():
        raise ValueError(f"{where}: threshold is {threshold}; expected a number, or one for each of {len(rows)} seeds")
    return list(zip(rows, np.broadcast_to(thresholds, len(rows)).tolist(), strict=True))


def _draw(
    models: list[list[tuple[np.ndarray, float]]],
    truth: np.ndarray,
    codes: np.ndarray,
    count: int,
    names: tuple[str, ...],
    specificity: float,
    bins: int,
    resamples: int,
    seed: int,
) -> list[dict[str, _Drawn]]:
    """For each model, score name → value and resampled values, each the mean over the model's seeds."""
    if resamples < 1:
        raise ValueError(f"bootstrap: {resamples} resamples; expected at least 1, 1000 or more for an interval")
    scorers = [
        [Scorer(truth, rows, codes, count, names, threshold, specificity, bins) for rows, threshold in model] for model in models
    ]
    once = np.ones((count, 1))
    drawn = [[] for _ in scorers]
    if count > 1:  # a lone patient drawn again and again says nothing
        for counts in drawn_patients(count, resamples, len(truth), seed):
            for found, model in zip(drawn, scorers, strict=True):
                found.append(_mean_over_seeds(model, counts))
    return [_gather(model, _mean_over_seeds(model, once), found) for model, found in zip(scorers, drawn, strict=True)]


def _gather(model: list[Scorer], value: dict[str, np.ndarray], blocks: list[dict[str, np.ndarray]]) -> dict[str, _Drawn]:
    return {
        name: _Drawn(
            float(value[name][0]),
            np.concatenate([block[name] for block in blocks]) if blocks else np.empty(0),
            min(scorer.patients_behind(name) for scorer in model),
        )
        for name in value
    }


def _mean_over_seeds(model: list[Scorer], counts: np.ndarray) -> dict[str, np.ndarray]:
    found = [scorer(counts) for scorer in model]
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in found[0]}


def _interval(resamples: np.ndarray, level: float) -> tuple[float, float, float, str]:
    """low, high, share undefined, and why there is no interval."""
    if not len(resamples):
        return np.nan, np.nan, 0.0, "1 patient"
    known = resamples[~np.isnan(resamples)]
    undefined = 1 - len(known) / len(resamples)
    if undefined > MOST_UNDEFINED:
        return np.nan, np.nan, undefined, f"undefined in {undefined:.0%} of resamples"
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), undefined, ""


def _estimate(drawn: _Drawn, images: int, patients: int, level: float) -> Estimate:
    low, high, undefined, note = _interval(drawn.resamples, level)
    if not note and np.ptp(drawn.resamples[~np.isnan(drawn.resamples)]) < 1e-12:
        low, high, note = np.nan, np.nan, "all resamples agree"
        if drawn.behind and drawn.value in (0.0, 1.0):
            low, high = proportion_interval(int(drawn.value) * drawn.behind, drawn.behind, level)
            note = "Wilson's, of patients"
    return Estimate(drawn.value, low, high, images, patients, undefined, note)


def _compare(one: _Drawn, two: _Drawn, images: int, patients: int, level: float) -> Comparison:
    differences = one.resamples - two.resamples
    low, high, undefined, note = _interval(differences, level)
    p_value = np.nan
    if not note:
        known = differences[~np.isnan(differences)]
        # Two equal scores can differ by rounding; that is no difference.
        rarer = min((known <= 1e-12).sum(), (known >= -1e-12).sum())
        p_value = min(1.0, 2 * (int(rarer) + 1) / (len(known) + 1))
    values = (one.value, two.value, one.value - two.value)
    return Comparison(*values, low, high, p_value, images, patients, undefined, note)


def roc_band(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    *,
    points: int = 101,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The ROC curve with a pointwise band over patients.

    Sensitivity is read at fixed false positive rates, along straight lines between the curve's points, at the upper end of a
    vertical step. The band covers each point with probability `level`, not the whole curve at once.

    Args:
        labels, probabilities, patients, level, seed: as in `patient_bootstrap_scores`; with (seeds, n) the mean curve over seeds.
        points: how many rates in [0, 1], ends included.
        resamples: how many sets of patients; those with one class only are left out.

    Returns:
        DataFrame of `points` rows: false_positive_rate, sensitivity, low, high; these two NaN with fewer than two patients, or
        where more than a tenth of the resamples have one class only.

    Raises:
        DataError: the images are of one class only.
    """

    def sensitivity(grid: np.ndarray, true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
        rates = np.append(0.0, false_positives / false_positives[-1]), np.append(0.0, true_positives / true_positives[-1])
        return np.interp(grid, *rates)

    columns = ("false_positive_rate", "sensitivity")
    return _band(columns, sensitivity, labels, probabilities, patients, points, resamples, level, seed)


def pr_band(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    *,
    points: int = 101,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The precision-recall curve with a pointwise band over patients.

    Precision is that of the highest threshold whose recall reaches the given one, with no line drawn between points: the step
    function whose area is the average precision. At recall 0 it is that of the first malignant image found.

    Args and errors as for `roc_band`. Returns a DataFrame of `points` rows: recall, precision, low, high.
    """

    def precision(grid: np.ndarray, true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
        # Counts of images are whole: half a hit asks for the first one. The other factor undoes rounding.
        wanted = np.maximum(grid * true_positives[-1] * (1 - 1e-12), 0.5)
        reached = np.searchsorted(true_positives, wanted)
        return true_positives[reached] / (true_positives[reached] + false_positives[reached])

    return _band(("recall", "precision"), precision, labels, probabilities, patients, points, resamples, level, seed)


def _band(columns, read, labels, probabilities, patients, points, resamples, level, seed) -> pd.DataFrame:
    """Grid, curve and band, the curve at a grid being `read(grid, true positives (k,), false positives (k,))`."""
    where = "pr_band" if columns[0] == "recall" else "roc_band"
    check_level(level, where)
    truth = checked_labels(labels, where)
    need_both_classes(truth, where)
    codes, count = patient_codes(patients, len(truth), where)
    rows = np.atleast_2d(checked_probabilities(probabilities, len(truth), where))
    grid, models = np.linspace(0, 1, points), [Ranked(truth, row, codes) for row in rows]

    def curves(counts: np.ndarray) -> np.ndarray:
        """Mean curve over seeds, (columns with both classes, points)."""
        of_seeds = []
        for model in models:
            hits, alarms = model.curve(counts)
            both = np.flatnonzero((hits[-1] > 0) & (alarms[-1] > 0))
            of_seeds.append([read(grid, hits[:, column], alarms[:, column]) for column in both])
        return np.mean(of_seeds, axis=0).reshape(-1, points)

    low = high = np.full(points, np.nan)
    if count > 1:
        drawn = np.concatenate([curves(counts) for counts in drawn_patients(count, resamples, len(truth), seed)])
        if len(drawn) >= (1 - MOST_UNDEFINED) * resamples:
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    value = curves(np.ones((count, 1)))[0]
    return pd.DataFrame(dict(zip((*columns, "low", "high"), (grid, value, low, high), strict=True)))


def benefit_curve(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """`scores.probabilities.decision_curve` with `low` and `high`, the net benefit's percentile interval at each threshold alone.

    Args:
        labels, probabilities, thresholds: as for `decision_curve`.
        patients: of each image, shape (n,).
        resamples, level, seed: of the bootstrap that draws whole patients.

    Raises:
        ValueError: as `decision_curve`, or a patient missing. A single patient has no interval.
    """
    codes, count = patient_codes(patients, len(labels), "benefit_curve")
    curve = decision_curve(labels, probabilities, thresholds)
    if count < 2:
        return curve.assign(low=np.nan, high=np.nan)
    values = [benefit_values(labels, probabilities, threshold) for threshold in curve["threshold"]]
    sums, sizes = np.stack([np.bincount(codes, found) for found in values]), np.bincount(codes)
    drawn = [(sums @ times) / (sizes @ times) for times in drawn_patients(count, resamples, len(labels), seed)]
    low, high = np.quantile(np.concatenate(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2], axis=1)
    return curve.assign(low=low, high=high)
