"""Benign against malignant: scores of a threshold, of the ranking and of the probabilities, and the choice of the threshold.

An image is called malignant where its probability is at or above the threshold. A score that its data do not define is NaN,
never 0 or 1: an average or a comparison must not mistake "cannot be said" for "bad".

A new score is one function below, entered by `_score`: tables, intervals over patients and comparisons then have it. It computes
many resamples at once: a resample is a column of weights that say how often each image counts. Whatever is a sum over images is a
matrix product; what depends on the order of the probabilities needs that order once, as drawing patients changes how often an
image counts, not where it ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from thyroid_utils.scores.checks import COUNTS, checked, need_both_classes
from thyroid_utils.scores.probabilities import logit, recalibration

# Name in code → name in a table. In this order they are reported.
SCORES: dict[str, str] = {}
# Of a score that is a share of images: the counts of these images.
SHARES: dict[str, tuple[str, ...]] = {}
# Of a score that does not lie in [0, 1]: where it lies.
LIMITS = {"mcc": (-1, 1), "calibration_slope": (-np.inf, np.inf), "calibration_intercept": (-np.inf, np.inf)}
_COMPUTE: dict[str, Callable[[Weighed], np.ndarray]] = {}


class Labelled:
    """A model's probabilities of images with a label, sorted once, to be scored with any weights.

    Args:
        truth: bool (n,), True for malignant.
        probabilities: of malignancy, (n,).
        threshold: at or above it an image is called malignant; a number, or one an image.
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5) -> None:
        self.truth, self.probabilities = truth, probabilities
        self.order = np.argsort(-probabilities, kind="stable")
        self.falling = truth[self.order].astype(float)[:, None]  # by falling probability
        # Images of equal probability cross a threshold together: a curve has a point only at the last of each such run.
        self.ends = np.flatnonzero(np.append(np.diff(probabilities[self.order]) != 0, True))
        called = probabilities >= threshold
        self.table = np.stack([truth & called, ~truth & called, truth & ~called, ~truth & ~called]).astype(float)

    @cached_property
    def logits(self) -> np.ndarray:
        return logit(self.probabilities)


class Weighed:
    """Images that count as often as their weights (n, m) say."""

    def __init__(self, images: Labelled, weights: np.ndarray) -> None:
        self.source, self.weights = images, weights

    def score(self, name: str) -> np.ndarray:
        """A score of `SCORES`, (m,); NaN where undefined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _COMPUTE[name](self)

    @cached_property
    def table(self) -> np.ndarray:
        return self.source.table @ self.weights

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at each distinct probability as threshold, by falling threshold, (distinct, m)."""
        order, ends = self.source.order, self.source.ends
        weights = self.weights[order]
        hits = np.cumsum(weights * self.source.falling, axis=0)
        alarms = np.cumsum(weights, axis=0, out=weights)
        alarms -= hits
        return (hits[ends], alarms[ends]) if len(ends) < len(hits) else (hits, alarms)

    @cached_property
    def calibration(self) -> tuple[np.ndarray, np.ndarray]:
        return recalibration(self.source.truth, self.source.logits, self.weights)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of values (n,) or (k, n) over images: (m,) or (k, m)."""
        return values @ self.weights / self.weights.sum(axis=0)


def _score(label: str, share_of: tuple[str, ...] = ()):
    """Enters a function as the score of its name, reported as `label`; `share_of`: the counts a proportion is a share of."""

    def entered(function):
        SCORES[function.__name__], _COMPUTE[function.__name__] = label, function
        if share_of:
            SHARES[function.__name__] = share_of
        return function

    return entered


@_score("ROC-AUC")
def auc(images: Weighed) -> np.ndarray:
    """Trapezoids between the curve's points: the Mann-Whitney statistic with half for ties."""
    hits, alarms = images.curve
    area = np.einsum("ij,ij->j", np.diff(alarms, axis=0), hits[1:] + hits[:-1]) + alarms[0] * hits[0]
    return area / (2 * hits[-1] * alarms[-1])


@_score("PR-AUC")
def pr_auc(images: Weighed) -> np.ndarray:
    """Average precision Σ (R_k − R_{k−1})·P_k."""
    hits, alarms = images.curve
    called = hits + alarms
    precisions = np.divide(hits, called, out=np.zeros_like(called), where=called > 0)
    area = np.einsum("ij,ij->j", np.diff(hits, axis=0, prepend=0), precisions) / hits[-1]
    return np.where(alarms[-1] > 0, area, np.nan)


@_score("accuracy", share_of=COUNTS)
def accuracy(images: Weighed) -> np.ndarray:
    tp, _, _, tn = images.table
    return (tp + tn) / images.table.sum(axis=0)


@_score("balanced accuracy")
def balanced_accuracy(images: Weighed) -> np.ndarray:
    return (sensitivity(images) + specificity(images)) / 2


@_score("sensitivity", share_of=("true_positives", "false_negatives"))
def sensitivity(images: Weighed) -> np.ndarray:
    tp, _, fn, _ = images.table
    return tp / (tp + fn)


@_score("specificity", share_of=("false_positives", "true_negatives"))
def specificity(images: Weighed) -> np.ndarray:
    _, fp, _, tn = images.table
    return tn / (tn + fp)


@_score("precision", share_of=("true_positives", "false_positives"))
def precision(images: Weighed) -> np.ndarray:
    tp, fp, _, _ = images.table
    return tp / (tp + fp)


@_score("F1")
def f1(images: Weighed) -> np.ndarray:
    tp, fp, fn, _ = images.table
    return 2 * tp / (2 * tp + fp + fn)


@_score("MCC")
def mcc(images: Weighed) -> np.ndarray:
    """(TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)); 0 where both classes are present and all are called the same."""
    tp, fp, fn, tn = images.table
    # The root is taken of each pair: the product of four counts of a large set would lose digits.
    margins = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
    correlation = np.where((tp + fp == 0) | (tn + fn == 0), 0.0, (tp * tn - fp * fn) / margins)
    return np.where((tp + fn == 0) | (tn + fp == 0), np.nan, correlation)


@_score("Brier score")
def brier(images: Weighed) -> np.ndarray:
    """Mean of (p − y)²."""
    return images.mean((images.source.probabilities - images.source.truth) ** 2)


@_score("calibration slope")
def calibration_slope(images: Weighed) -> np.ndarray:
    """As in `recalibration`."""
    return images.calibration[0]


@_score("calibration intercept")
def calibration_intercept(images: Weighed) -> np.ndarray:
    """As in `recalibration`."""
    return images.calibration[1]


def classification_scores(
    labels: Sequence[int], probabilities: Sequence[float], threshold: float | np.ndarray = 0.5
) -> dict[str, float]:
    """Every score of `SCORES` of one model on one set of images, each image counted once.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        threshold: for accuracy, balanced_accuracy, sensitivity, specificity, precision, f1 and mcc; chosen on validation
            (`choose_threshold`) or 0.5, never on these images; one number, or one an image.

    Returns:
        name → value, defined at the function of that name in this module. NaN where undefined:

        - sensitivity without a malignant image, specificity without a benign one, precision where nothing is called malignant,
          f1 where there is no malignant image and none is called so;
        - with one class only: balanced_accuracy, mcc, auc, pr_auc, slope and intercept;
        - slope also where a threshold separates the classes without error: its likelihood has no maximum.

    Raises:
        ValueError: no image, labels other than 0 and 1, probabilities outside [0, 1] or NaN, a threshold NaN, or lengths that
            differ.

    Example:
        >>> scores = classification_scores([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
        >>> scores["auc"], scores["sensitivity"], scores["precision"]
        (0.75, 0.5, 0.5)
    """
    if np.isnan(threshold).any():
        raise ValueError("classification_scores: threshold is NaN; expected a number, or one an image")
    images = Labelled(*checked(labels, probabilities, "classification_scores"), threshold)
    images = Weighed(images, np.ones((len(images.truth), 1)))
    return {name: float(images.score(name)[0]) for name in SCORES}


def checked_names(names: str | Sequence[str], where: str) -> tuple[str, ...]:
    """Names of scores as a tuple. Raises ValueError for one that is not in `SCORES`."""
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"{where}: no score {', '.join(map(repr, unknown)) or 'named'}; expected some of {', '.join(SCORES)}")
    return names


def choose_threshold(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """The threshold with the highest sensitivity + specificity on validation images, to be applied to others unchanged.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).

    Returns:
        a number halfway between two neighbouring probabilities, so that it does not lean on one image's value; of equally good
        ones that nearest to 0.5. Above the highest probability (nothing malignant) it may exceed 1 by rounding.

    Raises:
        DataError: one class only.
        ValueError: as `classification_scores`.

    Reference:
        Youden, Cancer 3 (1950) 32-35.

    Example:
        >>> choose_threshold([0, 0, 1, 1], [0.25, 0.5, 0.75, 1.0])
        0.625
    """
    truth, values = checked(labels, probabilities, "choose_threshold")
    need_both_classes(truth, "choose_threshold")
    distinct = np.unique(values)
    above = (distinct[-1] + 1) / 2 if distinct[-1] < 1 else np.nextafter(1, 2)
    thresholds = np.concatenate([[distinct[0] / 2], (distinct[1:] + distinct[:-1]) / 2, [above]])
    missed, cleared = (np.searchsorted(np.sort(values[part]), thresholds) / part.sum() for part in (truth, ~truth))
    quality = cleared - missed
    best = quality >= quality.max() - 1e-9  # equal but for rounding
    return float(min(thresholds[best], key=lambda threshold: abs(threshold - 0.5)))


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Shares that are right of the images called malignant and of those called benign, where a share `prevalence` is malignant.

    $PPV = se·p / (se·p + (1 - sp)(1 - p))$ and $NPV = sp(1 - p) / (sp(1 - p) + (1 - se)p)$ (Bayes); all in [0, 1], NaN where
    none would be called so. They hold where images of a class are alike to those that the two rates were measured on.
    """
    hits, missed = sensitivity * prevalence, (1 - sensitivity) * prevalence
    alarms, cleared = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
    return tuple(good / (good + bad) if good + bad > 0 else np.nan for good, bad in ((hits, alarms), (cleared, missed)))
