"""A number with its interval: over patients by the bootstrap, of a proportion, over seeds.

The bootstrap draws whole patients with replacement and takes percentiles. A score that a resample leaves undefined (most often
because it drew patients of one class only) is left out and counted in `undefined`. An interval then holds on condition that the
score exists; where that fails in more than a tenth of the resamples no interval is given, and `note` says so.

Where every resample gives the same number, as an AUC of 1 does, the bootstrap knows nothing about the spread and no interval is
given. A proportion of 0 or 1 (accuracy, sensitivity, specificity, precision) then gets Wilson's interval for that many patients.
It is an interval for the share of patients whose images are all right, and of images only where patients have similar numbers
of them: one patient in ten with fifty images, all wrong, is often missed by a sample whose interval then says [0.65, 1.00].

With few patients (below about 30 in the rarer class) percentile intervals are somewhat too narrow.

Reference: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtri

from thyroid_utils.common.words import count, number, p_value
from thyroid_utils.scores.checks import (
    COUNTS,
    checked_labels,
    checked_probabilities,
    checked_scores,
    known_patients,
    need_both_classes,
    patient_codes,
)
from thyroid_utils.scores.labels import SCORES, SHARES, Labelled, Weighed, checked_names
from thyroid_utils.scores.probabilities import THRESHOLDS, benefit_values

POWER = 0.8  # of the tests whose detectable difference is reported
DETECTED = ndtri(0.975) + ndtri(POWER)  # that difference in standard errors, of a single two-sided test at 5 %
MOST_UNDEFINED = 0.1  # share of resamples without a score above which there is no interval
# Images × resamples held at once: 512 kB of float64 stay in a core's cache. Blocks four times as large take four times as long.
BLOCK_VALUES = 2**16
DEFAULT_SCORES = tuple(SCORES)


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
            return f"{number(self.value, digits)} [no interval: {self.note or count(self.patients, 'patient')}]"
        return f"{number(self.value, digits)} [{number(self.low, digits)}, {number(self.high, digits)}]"


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
        low, high = (number(end, digits, sign=True) for end in (self.low, self.high))
        interval = "" if np.isnan(self.low) else f" [{low}, {high}]"
        why = f": {self.note}" if np.isnan(self.p_value) and self.note else ""
        return f"{number(self.difference, digits, sign=True)}{interval}, {p_value(self.p_value)}{why}"


def told_over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """`0.91 ± 0.02 (5 seeds)`: mean and sample standard deviation (n − 1) of one score over training seeds; NaN is left out.

    The SD is the spread of training on one split. It is no interval for other patients: that is the bootstrap's.
    """
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return "no data"
    spread = f" ± {number(known.std(), digits)}" if len(known) > 1 else ""
    return f"{number(known.mean(), digits)}{spread} ({count(len(known), 'seed')})"


def proportion_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion of independent trials (patients, not images), in [0, 1]; NaN for no trials.

    Reference:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    from scipy.stats import binomtest  # half a second to load

    if total == 0:
        return np.nan, np.nan
    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def drawn_patients(patients: int, resamples: int, images: int) -> Iterator[np.ndarray]:
    """How often each patient is drawn, float64 (patients, block), block after block until `resamples` columns were given.

    Each column draws `patients` patients with replacement; the columns are always the same, whatever the block.
    """
    random = np.random.default_rng(0)
    block = int(np.clip(BLOCK_VALUES // max(patients, images), 8, resamples))
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = random.integers(patients, size=(columns, patients))
        cells = drawn * columns + np.arange(columns)[:, None]
        yield np.bincount(cells.ravel(), minlength=patients * columns).reshape(patients, columns).astype(float)


def resample(score: Callable[[np.ndarray], np.ndarray], codes: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """A score of all images, and of the images of patients drawn with replacement: the bootstrap that all intervals rest on.
    The same patients are drawn each time, so that scores of the same images can be subtracted.

    Args:
        score: maps weights (n, m), how often each of n images counts in each of m resamples, to scores (…, m).
        codes: the patient of each image, int (n,), from 0 (`patient_codes`).
        resamples: how many sets of patients are drawn.

    Returns:
        the score (…,) and the resampled ones (…, resamples), without a column for a single patient, who says nothing when drawn
        again and again.
    """
    value, patients = score(np.ones((len(codes), 1))), codes.max() + 1
    if patients < 2:
        return value[..., 0], value[..., :0]
    drawn = [score(counts[codes]) for counts in drawn_patients(patients, resamples, len(codes))]
    return value[..., 0], np.concatenate(drawn, axis=-1)


def percentiles(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, str]:
    """low and high (…,), at 95 %, of resampled scores (…, resamples), the undefined share, and why there is no interval."""
    nothing = np.full(drawn.shape[:-1], np.nan)
    if not drawn.shape[-1]:
        return nothing, nothing, 0.0, "1 patient"
    known = drawn[..., ~np.isnan(drawn).reshape(-1, drawn.shape[-1]).any(axis=0)]
    undefined = 1 - known.shape[-1] / drawn.shape[-1]
    if undefined > MOST_UNDEFINED:
        return nothing, nothing, undefined, f"undefined in {undefined:.0%} of resamples"
    low, high = np.quantile(known, [0.025, 0.975], axis=-1)
    return low, high, undefined, ""


def percentile_estimate(value: float, drawn: np.ndarray, images: int, patients: int, share_of: int = 0) -> Estimate:
    """The Estimate of a score (value) and its resampled values (resamples,) of `resample`.

    share_of: patients that a proportion is a share of, who then have Wilson's interval where all values agree; 0 for others.
    """
    low, high, undefined, note = percentiles(drawn)
    if not note and np.nanmax(drawn) - np.nanmin(drawn) < 1e-12:
        low, high, note = np.nan, np.nan, "all resamples agree"
        if share_of and value in (0.0, 1.0):
            low, high = proportion_interval(int(value) * share_of, share_of)
            note = "Wilson's, of patients"
    return Estimate(float(value), float(low), float(high), images, patients, undefined, note)


def patient_estimate(
    values: Sequence[float],
    patients: Sequence[str],
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    share: bool = False,
    resamples: int = 1000,
) -> Estimate:
    """A mean, or another statistic, over images with its interval over patients.

    Args:
        values: one number an image, (n,), or k numbers, (n, k); an image with NaN is left out.
        patients: the patient of each, shape (n,).
        statistic: maps values (m,) or (m, k), in any order, to a number; None for the mean.
        share: the mean is a share in [0, 1]: where all values are 0, or all 1, it has Wilson's interval for so many patients.
            Other values that all agree have no interval, as the bootstrap knows no spread then.
        resamples: how many sets of patients are drawn, the same ones each time.

    Raises:
        ValueError: lengths differ, or a patient is missing.

    Example:
        >>> print(patient_estimate([0.8, 0.9, 0.4, 0.7], ["a", "a", "b", "c"], resamples=200))
        0.70 [0.40, 0.85]
    """
    values = np.asarray(values, dtype=float)
    known, codes, count = known_patients(values, patients, "patient_estimate")
    values = values[known]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)

    def score(weights: np.ndarray) -> np.ndarray:
        if statistic is None:
            return values @ weights / weights.sum(axis=0)
        return np.array([statistic(np.repeat(values, times, axis=0)) for times in weights.T.astype(int)])

    value, drawn = resample(score, codes, resamples)
    return percentile_estimate(value, drawn, len(values), count, count if share else 0)


def patient_scores(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    metrics: str | Sequence[str] = DEFAULT_SCORES,
    threshold: float | Sequence[float] = 0.5,
    *,
    less: Sequence[float] | None = None,
    resamples: int = 2000,
) -> dict[str, Estimate]:
    """Scores of one model, each with its interval over patients.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,); or (seeds, n) for a model trained several times, whose score is then
            the mean over seeds, in every resample as in the value.
        patients: the patient of each image, shape (n,).
        metrics: names of `scores.labels.SCORES`.
        threshold: at or above it an image is called malignant; one number, or one a seed.
        less: probabilities, shaped alike, whose scores are subtracted, in every resample as in the value: what a change changes.
        resamples: as in `patient_estimate`.

    Returns:
        name → Estimate, in the order asked for. The expected calibration error has no interval: it grows with noise, of which
        resamples have more, so that their percentiles miss the truth of a calibrated model every time.

    Raises:
        ValueError: shapes that differ, an unknown score, a patient missing, or values out of range.

    Example:
        >>> found = patient_scores([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], ["a", "b", "c", "d"], "specificity")
        >>> print(found["specificity"])
        0.50 [0.00, 1.00]
    """
    where = "patient_scores"
    truth = checked_labels(labels, where)
    codes, count = patient_codes(patients, len(truth), where)
    names, models = checked_names(metrics, where), _by_seed(truth, probabilities, threshold, where)
    others = [] if less is None else _by_seed(truth, less, threshold, where)

    def score(weights: np.ndarray) -> np.ndarray:
        return _scores(models, names, weights) - (_scores(others, names, weights) if others else 0)

    value, drawn = resample(score, codes, resamples)
    found = {}
    for at, name in enumerate(names):
        share_of = 0 if others else _share_of(name, models, codes)
        found[name] = percentile_estimate(value[at], drawn[at], len(truth), count, share_of)
    if "ece" in found and count > 1 and not others:
        found["ece"] = replace(found["ece"], low=np.nan, high=np.nan, note="biased in resamples")
    return found


def _by_seed(truth: np.ndarray, probabilities: Sequence[float], threshold: float | Sequence[float], where: str) -> list[Labelled]:
    rows = np.atleast_2d(checked_probabilities(probabilities, len(truth), where))
    thresholds = np.asarray(threshold, dtype=float)
    if thresholds.shape not in ((), (len(rows),)) or np.isnan(thresholds).any():
        raise ValueError(f"{where}: threshold is {threshold}; expected a number, or one for each of {len(rows)} seeds")
    return [Labelled(truth, row, cut) for row, cut in zip(rows, np.broadcast_to(thresholds, len(rows)), strict=True)]


def _scores(model: list[Labelled], names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Mean over seeds of each score, (names, m)."""
    weighed = [Weighed(images, weights) for images in model]
    return np.mean([[images.score(name) for name in names] for images in weighed], axis=0)


def _share_of(name: str, model: list[Labelled], codes: np.ndarray) -> int:
    """Patients with an image in the denominator of a proportion; 0 for a score that is no proportion of images."""
    rows = [COUNTS.index(count) for count in SHARES.get(name, ())]
    return min(len(np.unique(codes[images.table[rows].any(axis=0)])) for images in model)


def roc_band(
    labels: Sequence[int], probabilities: Sequence[float], patients: Sequence[str], *, resamples: int = 1000
) -> pd.DataFrame:
    """The ROC curve with a pointwise band over patients.

    Sensitivity is read at fixed false positive rates, along straight lines between the curve's points, at the upper end of a
    vertical step. The band covers each point with a probability of 95 %, not the whole curve at once.

    Args:
        labels, probabilities, patients: as in `patient_scores`; with (seeds, n) the mean curve over seeds.
        resamples: how many sets of patients; those with one class only are left out.

    Returns:
        DataFrame of 101 rows: false_positive_rate (0, 0.01, …, 1), sensitivity, low, high; these two NaN with fewer than two
        patients, or where more than a tenth of the resamples have one class only.

    Raises:
        DataError: the images are of one class only.
    """

    def sensitivity(grid: np.ndarray, hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        return np.interp(grid, np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1]))

    return _band(("false_positive_rate", "sensitivity"), sensitivity, labels, probabilities, patients, resamples)


def pr_band(
    labels: Sequence[int], probabilities: Sequence[float], patients: Sequence[str], *, resamples: int = 1000
) -> pd.DataFrame:
    """The precision-recall curve with a pointwise band over patients.

    Precision is that of the highest threshold whose recall reaches the given one, with no line drawn between points: the step
    function whose area is the average precision. At recall 0 it is that of the first malignant image found.

    Args and errors as for `roc_band`. Returns a DataFrame of 101 rows: recall, precision, low, high.
    """

    def precision(grid: np.ndarray, hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        # Counts of images are whole: half a hit asks for the first one. The other factor undoes rounding.
        reached = np.searchsorted(hits, np.maximum(grid * hits[-1] * (1 - 1e-12), 0.5))
        return hits[reached] / (hits[reached] + alarms[reached])

    return _band(("recall", "precision"), precision, labels, probabilities, patients, resamples)


def _band(columns, read, labels, probabilities, patients, resamples) -> pd.DataFrame:
    """Grid, curve and band, the curve at a grid being `read(grid, true positives (k,), false positives (k,))`."""
    where = "pr_band" if columns[0] == "recall" else "roc_band"
    truth = checked_labels(labels, where)
    need_both_classes(truth, where)
    codes, _ = patient_codes(patients, len(truth), where)
    rows = np.atleast_2d(checked_scores(probabilities, len(truth), where))
    grid, models = np.linspace(0, 1, 101), [Labelled(truth, row) for row in rows]

    def curves(weights: np.ndarray) -> np.ndarray:
        """Mean curve over seeds, (points, m), NaN where a class is missing."""
        found = np.full((len(models), weights.shape[1], len(grid)), np.nan)
        for of_seed, images in zip(found, models, strict=True):
            hits, alarms = Weighed(images, weights).curve
            for column in np.flatnonzero((hits[-1] > 0) & (alarms[-1] > 0)):
                of_seed[column] = read(grid, hits[:, column], alarms[:, column])
        return found.mean(axis=0).T

    value, drawn = resample(curves, codes, resamples)
    low, high, *_ = percentiles(drawn)
    return pd.DataFrame(dict(zip((*columns, "low", "high"), (grid, value, low, high), strict=True)))


def benefit_curve(
    labels: Sequence[int], probabilities: Sequence[float], patients: Sequence[str], thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Net benefit of acting (puncturing) where the probability reaches a threshold, against acting on all and on nobody.

    Net benefit at t = TP / n − FP / n · t / (1 − t): t is the probability of malignancy at which a person would just act, and its
    odds say how many needless actions one found malignancy is worth.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,); calibrated, as t is compared with them. With (seeds, n) the mean over
            seeds.
        patients: of each image, shape (n,).
        thresholds: in [0, 1).

    Returns:
        a row a threshold: `threshold`; `net_benefit`, `treat_all`, `treat_none` (0), in true positives an image: at most the
        share of malignant images; `low` and `high`, the net benefit's 95 % interval over patients at each threshold alone, NaN
        for a single patient.

    Raises:
        ValueError: as `scores.labels.classification_scores`, or a patient missing.

    Reference:
        Vickers and Elkin, Decision curve analysis, Med. Decis. Making 26 (2006) 565-574.
    """
    codes, _ = patient_codes(patients, len(labels), "benefit_curve")
    values = np.array([benefit_values(labels, probabilities, threshold) for threshold in thresholds])
    everybody = [benefit_values(labels, np.ones(len(labels)), threshold).mean() for threshold in thresholds]
    value, drawn = resample(lambda weights: values @ weights / weights.sum(axis=0), codes, 1000)
    low, high, *_ = percentiles(drawn)
    columns = {"threshold": thresholds, "net_benefit": value, "treat_all": everybody, "treat_none": 0.0}
    return pd.DataFrame({**columns, "low": low, "high": high})
