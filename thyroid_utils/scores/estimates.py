"""A number with its interval: over patients, of a proportion, over seeds.

An interval over patients has the variance of `scores.patients`, and takes t for the number of patients that it rests on: few
patients tell little of their own spread.

A number between two limits, as a share or an AUC is, has its interval on the logit's scale, which stays within them, after half a
patient that says nothing (the middle of the scale) is added: by luck few patients agree too well, near a limit above all. At a
limit itself, as with an AUC of 1, patients show no spread. The interval is then Wilson's for a share of so many patients, of the
smaller class for a score of two classes. It is one for the share of patients, and of images only as far as patients have similar
numbers of them: one patient in ten with fifty images, all wrong, is often missed by a sample, and no interval can tell.

Nor can any where what is rare decides a mean. Of a Dice near 0.9 with 5 % of the nodules missed altogether, the interval of 30
patients holds the truth in only about 82 % of samples: most samples of that size hold too few misses, and look too good.

Patients are taken as drawn with their classes. Where the number of malignant ones is fixed by design, intervals of precision,
PR-AUC, F1 and the calibration intercept are wider than they need be. All intervals hold the trained networks fixed.

`benchmarks/bench_coverage.py` measures how often they hold the truth.

Reference:
    Agresti and Coull, Am. Stat. 52 (1998) 119-126 (what is added); Davison and Hinkley, Bootstrap Methods and their Application
    (1997), section 3.8, where patients are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import betaincinv, expit, logit, ndtri, stdtrit

from thyroid_utils.common.words import count, number, p_value
from thyroid_utils.scores.checks import COUNTS, checked_labels, checked_probabilities, known_patients, patient_codes
from thyroid_utils.scores.labels import LIMITS, SCORES, SHARES, Labelled, Weighed, checked_names
from thyroid_utils.scores.patients import images_of, in_groups, jackknife, leave_out

POWER = 0.8  # of the tests whose detectable difference is reported
FEW_PATIENTS = 50  # of so many, one sample in 13 shows nothing of what befalls 5 % of patients
DETECTED = ndtri(0.975) + ndtri(POWER)  # that difference in standard errors, of a single two-sided test at 5 %
UNKNOWING = 0.5  # of a patient in the middle of the scale, added to an interval between limits
MIDWAY = 0.2  # of an image that counts for neither end of a share's interval: 0 is Clopper and Pearson's, 0.5 Jeffreys's
NO_LIMITS = (-np.inf, np.inf)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and what it rests on.

    `low` and `high` are NaN where the data give no interval: fewer than two patients, or what `note` says.
    """

    value: float
    low: float
    high: float
    images: int
    patients: int
    note: str = ""

    def text(self, digits: int = 2) -> str:
        """`0.61 [0.55, 0.66]`, rounded to `digits` decimals; why there is none, or "no data", where nothing was measured."""
        if np.isnan(self.value):
            return self.note or "no data"
        if np.isnan(self.low):
            return f"{number(self.value, digits)} [no interval: {self.note or count(self.patients, 'patient')}]"
        return f"{number(self.value, digits)} [{number(self.low, digits)}, {number(self.high, digits)}]"

    __str__ = text


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
    note: str = ""

    def text(self, digits: int = 3) -> str:
        """`+0.031 [−0.002, +0.064], p = 0.07`."""
        if np.isnan(self.difference):
            return self.note or "no data"
        low, high = (number(end, digits, sign=True) for end in (self.low, self.high))
        interval = "" if np.isnan(self.low) else f" [{low}, {high}]"
        why = f": {self.note}" if np.isnan(self.p_value) and self.note else ""
        return f"{number(self.difference, digits, sign=True)}{interval}, {p_value(self.p_value)}{why}"

    __str__ = text


def told_over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """`0.91 ± 0.02 (5 seeds)`: mean and sample standard deviation (n − 1) of one score over training seeds; NaN is left out.

    The SD is the spread of training on one split. It is no interval for other patients.
    """
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return "no data"
    spread = f" ± {number(known.std(), digits)}" if len(known) > 1 else ""
    return f"{number(known.mean(), digits)}{spread} ({count(len(known), 'seed')})"


def proportion_interval(successes: float, total: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion of independent trials (patients, not images), in [0, 1]; NaN for no trials.

    Reference:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if total <= 0:
        return np.nan, np.nan
    share, more = successes / total, ndtri(0.975) ** 2 / total
    half = np.sqrt(more * (share * (1 - share) + more / 4))
    low, high = ((share + more / 2 + end) / (1 + more) for end in (-half, half))
    return (0.0 if successes == 0 else float(low)), (1.0 if successes == total else float(high))


def interval(
    value: np.ndarray,
    error: np.ndarray,
    freedom: float,
    patients: float,
    limits: tuple[float, float] = NO_LIMITS,
    middle: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of numbers, as the module describes; NaN where the error is 0 between the limits.

    Args:
        value, error: numbers and their standard errors, of one shape.
        freedom: of t; at least 1 is taken.
        patients: `effective` number that the numbers rest on; inf for none that says nothing.
        limits: that they lie between; (0, inf) for lengths, whose interval is made on the logarithm's scale.
        middle: where between the limits, as a share of the way, the half patient lies that says nothing.
    """
    value, error = np.asarray(value, dtype=float), np.asarray(error, dtype=float)
    t, (least, most) = _t(freedom), limits
    error = np.where(error > 1e-9, error, np.nan)  # sums in another order differ by rounding
    if np.isinf(most):
        if np.isinf(least):
            return value - t * error, value + t * error
        factor = np.exp(t * error / (value - least))
        return least + (value - least) / factor, least + (value - least) * factor
    place, known = (value - least) / (most - least), 1 / (1 + UNKNOWING / patients)
    moved = known * place + (1 - known) * middle
    spread = np.hypot(known * error / (most - least), (1 - known) * np.sqrt(middle * (1 - middle)))
    reach = t * spread / (moved * (1 - moved))
    low, high = np.minimum(expit(logit(moved) - reach), place), np.maximum(expit(logit(moved) + reach), place)
    low, high = _at_limits(place, low, high, patients)
    return least + (most - least) * low, least + (most - least) * high


def share_interval(
    share: np.ndarray, error: np.ndarray, freedom: float, patients: float, images: float
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of shares of images: the beta distribution's, of as many independent images as would have that error.

    Between Clopper and Pearson's interval, which is never short, and one that is right on average; Wilson's of the patients at 0
    and 1. Arguments as for `interval`, which it equals elsewhere but for small terms; `images` are what the share is of.

    Reference:
        Korn and Graubard, Survey Methodology 24 (1998) 193-201; Brown, Cai and DasGupta, Stat. Sci. 16 (2001) 101-133.
    """
    share, error = np.asarray(share, dtype=float), np.asarray(error, dtype=float)
    known = 1 / (1 + UNKNOWING / patients)
    variance = np.where(error > 1e-9, (known * error) ** 2 + ((1 - known) / 2) ** 2, np.nan)
    as_many = share * (1 - share) / variance * (_t(images - 1) / _t(freedom)) ** 2
    right, wrong = share * as_many, (1 - share) * as_many
    low, high = betaincinv(right + MIDWAY, wrong + 1 - MIDWAY, 0.025), betaincinv(right + 1 - MIDWAY, wrong + MIDWAY, 0.975)
    return _at_limits(share, low, high, patients)


def _t(freedom: float) -> float:
    return float(stdtrit(max(freedom, 1), 0.975))


def _at_limits(share: np.ndarray, low: np.ndarray, high: np.ndarray, patients: float) -> tuple[np.ndarray, np.ndarray]:
    for end in (0, 1):
        wilson, at = proportion_interval(end * patients, patients), np.abs(share - end) < 1e-9
        low, high = np.where(at, wilson[0], low), np.where(at, wilson[1], high)
    return low, high


def estimate(
    value: float,
    moves: np.ndarray,
    images: np.ndarray,
    limits: tuple[float, float] = NO_LIMITS,
    middle: float = 0.5,
    share: bool = False,
) -> Estimate:
    """The Estimate of a number from what leaving out each patient moves it by.

    Arguments as for `jackknife` and `interval`; share: the number is a share of the images (`share_interval`).
    """
    counted = np.atleast_2d(images).sum(axis=0)
    told = int(counted.sum()), int((counted > 0).sum())
    low = high = np.nan
    note = ""
    if np.isnan(value) or told[1] < 2:
        note = "undefined" * bool(told[1]) if np.isnan(value) else "1 patient"
    elif np.isnan(moves[counted > 0]).any():
        note = "undefined without one of the patients"
    else:
        variance, freedom, patients = jackknife(moves, images)
        spread = np.sqrt(variance), freedom, patients
        low, high = share_interval(value, *spread, told[0]) if share else interval(value, *spread, limits, middle)
        note = "all patients agree" if np.isnan(low) else ""
    return Estimate(float(value), float(low), float(high), *told, note)


def patient_estimate(
    values: Sequence[float],
    patients: Sequence[str],
    *,
    share: bool = False,
) -> Estimate:
    """A mean over images with its interval over patients.

    Args:
        values: one number an image, (n,); an image with NaN is left out.
        patients: the patient of each, shape (n,).
        share: the number lies in [0, 1], as a Dice does, and so does its interval; of values 0 and 1 it is a share of the images.

    Raises:
        ValueError: lengths differ, or a patient is missing.

    Example:
        >>> print(patient_estimate([0.8, 0.9, 0.4, 0.7], ["a", "a", "b", "c"], share=True))
        0.70 [0.06, 0.98]
    """
    values = np.asarray(values, dtype=float)
    known, codes, _ = known_patients(values, patients, "patient_estimate")
    values = values[known]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    images, value = np.bincount(codes), values.mean()
    moves = -np.bincount(codes, values - value) / np.maximum(len(values) - images, 1)
    of_images = share and bool(np.isin(values, (0, 1)).all())
    return estimate(value, moves, images, limits=(0, 1) if share else NO_LIMITS, share=of_images)


def patient_median(values: Sequence[float], patients: Sequence[str]) -> Estimate:
    """The median over images, with the values at the two ends of the interval of the share of images below it.

    Args and errors as for `patient_estimate`. Reference: Woodruff, J. Am. Stat. Assoc. 47 (1952) 635-646.
    """
    values = np.asarray(values, dtype=float)
    middle = np.nanmedian(values) if (~np.isnan(values)).any() else np.nan
    below = patient_estimate(np.where(np.isnan(values), np.nan, (np.sign(middle - values) + 1) / 2), patients, share=True)
    low, high = below.low, below.high
    if not np.isnan(low):
        low, high = (np.nanquantile(values, end, method=how) for end, how in ((low, "lower"), (high, "higher")))
    return replace(below, value=float(middle), low=float(low), high=float(high))


def patient_scores(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    metrics: str | Sequence[str] = tuple(SCORES),
    threshold: float | Sequence[float] = 0.5,
    *,
    less: Sequence[float] | None = None,
) -> dict[str, Estimate]:
    """Scores of one model, each with its interval over patients.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,); or (seeds, n) for a model trained several times, whose score is then
            the mean over seeds, whoever is left out.
        patients: the patient of each image, shape (n,).
        metrics: names of `scores.labels.SCORES`.
        threshold: at or above it an image is called malignant; one number, one a seed, or one a seed and image.
        less: probabilities, shaped alike, whose scores are subtracted: what a change changes.

    Returns:
        name → Estimate, in the order asked for.

    Raises:
        ValueError: shapes that differ, an unknown score, a patient missing, or values out of range.

    Example:
        >>> found = patient_scores([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], ["a", "b", "c", "d"], "specificity")
        >>> print(found["specificity"])
        0.50 [0.01, 0.99]
    """
    where = "patient_scores"
    truth = checked_labels(labels, where)
    codes, people = patient_codes(patients, len(truth), where)
    names, models = checked_names(metrics, where), _by_seed(truth, probabilities, threshold, where)
    others = [] if less is None else _by_seed(truth, less, threshold, where)

    def score(weights: np.ndarray) -> np.ndarray:
        return _scores(models, names, weights) - (_scores(others, names, weights) if others else 0)

    folded = in_groups(codes, truth)
    value, moves = leave_out(score, folded)
    found = {}
    for at, name in enumerate(names):
        of_score = _of_score(name, value[at], moves[at], models, folded, alone=not others)
        found[name] = replace(of_score, images=len(truth), patients=people)
    return found


def few_told(patients: int, noun: str, plural: str = "", *, score: str) -> str:
    """A warning, in markdown, where intervals rest on fewer than `FEW_PATIENTS`; empty elsewhere.

    Args:
        patients: that they rest on; of two classes those of the rarer one.
        noun, plural: what these are called, as for `words.count`.
        score: that the page is about, "auc" or "dice".
    """
    few = f"Intervals on this page rest on {count(patients, noun, plural)}. So few do not tell of failures that none shows"
    if score == "dice":
        measured = "a 95 % interval of the Dice of 30 patients held the truth in as few as 82 % of simulated studies"
        why = f"where 5 % of nodules are missed altogether, {measured}"
    else:
        absent = f"what befalls 5 % of them is absent from {number(100 * 0.95**patients, 0)} % of samples of that size"
        why = f"{absent}, and from the interval of the {score.upper()} with it"
    return f"> **Few patients.** {few}: {why}." if patients < FEW_PATIENTS else ""


def _by_seed(truth: np.ndarray, probabilities: Sequence[float], threshold: float | Sequence[float], where: str) -> list[Labelled]:
    rows = np.atleast_2d(checked_probabilities(probabilities, len(truth), where))
    thresholds = np.asarray(threshold, dtype=float)
    if thresholds.shape not in ((), (len(rows),), rows.shape) or np.isnan(thresholds).any():
        raise ValueError(f"{where}: threshold is {threshold}; expected a number, or one for each of {len(rows)} seeds")
    cuts = thresholds if thresholds.ndim == 2 else np.broadcast_to(thresholds, len(rows))
    return [Labelled(truth, row, cut) for row, cut in zip(rows, cuts, strict=True)]


def _scores(model: list[Labelled], names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Mean over seeds of each score, (names, m)."""
    weighed = [Weighed(images, weights) for images in model]
    return np.mean([[images.score(name) for name in names] for images in weighed], axis=0)


def _of_score(name: str, value: float, moves: np.ndarray, models: list[Labelled], codes: np.ndarray, alone: bool) -> Estimate:
    """The Estimate of a score, or of a difference of two where it does not stand `alone`."""
    truth, images = models[0].truth, np.bincount(codes)
    limits = LIMITS.get(name, (0, 1)) if alone else NO_LIMITS
    if name in SHARES:
        rows = [COUNTS.index(kind) for kind in SHARES[name]]
        counted = np.mean([np.bincount(codes, model.table[rows].sum(axis=0), len(images)) for model in models], axis=0)
        return estimate(value, moves, counted, limits=limits, share=alone)
    if name == "brier":
        return estimate(value, moves, images, limits=limits)
    of_classes = images_of(codes, truth)
    fewest, kind = min(zip((of_classes > 0).sum(axis=1).tolist(), ("benign", "malignant"), strict=True))
    if fewest < 2:
        note = f"{count(fewest, 'patient')} with {kind} images"
        return Estimate(float(value), np.nan, np.nan, len(truth), len(images), note)
    return estimate(value, moves, of_classes, limits, truth.mean() if name == "pr_auc" else 0.5)
