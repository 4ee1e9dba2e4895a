"""Curves of a model with their 95 % bands over patients: ROC, precision and recall, net benefit.

A band covers each point with a probability of 95 %, not the whole curve at once. Points are read off the order of the images,
which leaving out one patient moves by jumps: their standard errors are those of patients drawn with replacement. From there on a
point has the interval of any number between 0 and 1 (`scores.estimates`).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import checked_labels, checked_probabilities, checked_scores, need_both_classes, patient_codes
from thyroid_utils.scores.estimates import Estimate, estimate, patient_estimate, share_interval
from thyroid_utils.scores.labels import Labelled, Weighed
from thyroid_utils.scores.patients import BLOCK_VALUES, effective, images_of, leave_out

THRESHOLDS = tuple((np.arange(1, 100) / 100).tolist())
FEW = 30  # patients of a class below which a curve has no band
FEW_WRONG = 5  # patients below whose needless actions net benefit has none


def drawn_patients(patients: int, resamples: int) -> np.ndarray:
    """How often each patient is among as many that are drawn with replacement, float64 (resamples, patients); always the same."""
    return np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), resamples).astype(float)


def roc_band(
    labels: Sequence[int], probabilities: Sequence[float], patients: Sequence[str], *, resamples: int = 1000
) -> pd.DataFrame:
    """The ROC curve with a pointwise band over patients.

    Sensitivity is read at fixed false positive rates, along straight lines between the curve's points, at the upper end of a
    vertical step. The band covers each point with a probability of 95 %, not the whole curve at once.

    Args:
        labels, probabilities, patients: as in `patient_scores`; with (seeds, n) the mean curve over seeds.
        resamples: how many sets of patients.

    Returns:
        DataFrame of 101 rows: false_positive_rate (0, 0.01, …, 1), sensitivity, low, high; these two NaN with fewer than 30
        patients of a class.

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
    codes, people = patient_codes(patients, len(truth), where)
    rows = np.atleast_2d(checked_scores(probabilities, len(truth), where))
    grid, models = np.linspace(0, 1, 101), [Labelled(truth, row) for row in rows]

    def curves(weights: np.ndarray) -> np.ndarray:
        """Mean curve over seeds, (m, points)."""
        of_seeds = [(side.T for side in Weighed(images, weights).curve) for images in models]
        return np.mean([[read(grid, *counts) for counts in zip(*sides, strict=True)] for sides in of_seeds], axis=0)

    (value,) = curves(np.ones((len(codes), 1)))
    low = high = np.full(len(grid), np.nan)
    of_classes = images_of(codes, truth)
    if resamples > 1 and (of_classes > 0).sum(axis=1).min() >= FEW:
        blocks = np.array_split(drawn_patients(people, resamples), min(resamples, 1 + resamples * len(codes) // BLOCK_VALUES))
        error = np.concatenate([curves(block.T[codes]) for block in blocks]).std(axis=0, ddof=1)
        fewest = effective(of_classes).min()
        low, high = share_interval(value, error, fewest - 1, fewest, truth.sum())
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
        share of malignant images; `low` and `high`, the net benefit's 95 % interval over patients at each threshold alone. NaN
        where fewer than five patients are acted on needlessly: at high thresholds these few decide.

    Raises:
        ValueError: as `scores.labels.classification_scores`, or a patient missing.

    Reference:
        Vickers and Elkin, Decision curve analysis, Med. Decis. Making 26 (2006) 565-574.
    """
    truth, t = checked_labels(labels, "benefit_curve"), np.array(thresholds)
    rows = np.atleast_2d(checked_probabilities(probabilities, len(truth), "benefit_curve"))
    acted = np.where(truth, 1.0, -(t / (1 - t))[:, None])  # what acting on an image adds, (thresholds, n)
    values = np.mean([np.where(row >= t[:, None], acted, 0.0) for row in rows], axis=0)
    # From all acted on needlessly, −t / (1 − t), to all malignant and found, 1: moved to between 0 and 1.
    needless = [len(set(np.asarray(patients)[row < 0])) for row in values]
    moved = [patient_estimate(row * (1 - at) + at, patients, share=True) for row, at in zip(values, t, strict=True)]
    ends = np.array([(found.low, found.high) for found in moved]).T
    low, high = np.where(np.less(needless, FEW_WRONG), np.nan, (ends - t) / (1 - t))
    columns = {"threshold": t, "net_benefit": values.mean(axis=1), "treat_all": acted.mean(axis=1), "treat_none": 0.0}
    return pd.DataFrame({**columns, "low": low, "high": high})


def auc_within(labels: Sequence[int], scores: Sequence[float], patients: Sequence[str], folds: Sequence[int]) -> Estimate:
    """The mean of the AUCs of several folds, whose scores need no common scale, with its interval over patients.

    Args:
        labels, patients, folds: class, patient and fold of each image, (n,); an image may occur in several folds.
        scores: any numbers that rank malignant images higher, (n,), or (seeds, n) as for `patient_scores`.

    Returns:
        Estimate without an interval where a fold has one patient of a class.
    """
    truth, places = checked_labels(labels, "auc_within"), np.asarray(folds)
    rows = np.atleast_2d(checked_scores(scores, len(truth), "auc_within"))
    codes, _ = patient_codes(patients, len(truth), "auc_within")
    parts = [np.flatnonzero(places == fold) for fold in np.unique(places)]
    models = [[Labelled(truth[part], row[part]) for row in rows] for part in parts]

    def score(weights: np.ndarray) -> np.ndarray:
        found = [Weighed(model, weights[part]).score("auc") for part, row in zip(parts, models, strict=True) for model in row]
        return np.mean(found, axis=0)

    value, moves = leave_out(score, codes)
    return estimate(value, moves, images_of(codes, truth), (0, 1))
