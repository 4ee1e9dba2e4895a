"""Percentile intervals by drawing whole patients with replacement, for scores of labels and probabilities.

A score that a resample leaves undefined (most often because it drew patients of one class only) is left out and counted in
`undefined`. An interval then holds on condition that the score exists; where that fails in more than a tenth of the resamples no
interval is given, and `note` says so.

Where every resample gives the same number, as an AUC of 1 does, the bootstrap knows nothing about the spread and no interval is
given. A proportion of 0 or 1 (accuracy, sensitivity, specificity, precision) then gets Wilson's interval for that many patients.
That is safe: patients whose images are all right cannot be more frequent than images that are.

With few patients (below about 30 in the rarer class) percentile intervals are somewhat too narrow.

Reference: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from thyroid_utils.scores.metrics.classification import SCORES
from thyroid_utils.scores.metrics.inputs import checked_labels, checked_probabilities, need_both_classes
from thyroid_utils.scores.statistics.estimates import Comparison, Estimate, check_level, patient_codes, proportion_interval
from thyroid_utils.scores.statistics.resampling import Ranked, Scorer, checked_names, drawn_patients

MOST_UNDEFINED = 0.1
DEFAULT_SCORES = tuple(SCORES)


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
        metrics: names of `thyroid_utils.scores.metrics.SCORES`, defined as in `classification_scores`.
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
