"""Whether a probability means what it says, how to mend it, and how errors fall as doubtful images are handed on.

Mended by one number, the temperature, or by slope and intercept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.scores.checks import checked, checked_labels, need_both_classes

# A float32 softmax saturates at 1 - 6e-8; without a limit one sure image would have an infinite logit.
CLOSEST_TO_CERTAIN = 1e-7
TEMPERATURES = (0.05, 20.0)


def logit(probabilities: Sequence[float]) -> np.ndarray:
    """log(p / (1 − p)) with p held within [1e-7, 1 − 1e-7], so that it lies in ±16.1."""
    held = np.clip(np.asarray(probabilities, dtype=float), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return np.log(held) - np.log1p(-held)


def reliability_table(labels: Sequence[int], probabilities: Sequence[float], bins: int = 10) -> pd.DataFrame:
    """Predicted probability of malignancy against the share that is malignant, in bins of equally many images.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        bins: number of bins, at least 1; ties can leave fewer. Edges are quantiles and belong to the bin above them.

    Returns:
        a row a bin: `images`, `predicted` (mean probability), `observed` (share malignant).

    Raises:
        ValueError: as `scores.labels.classification_scores`.

    Example:
        >>> reliability_table([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], bins=2).round(2).values.tolist()
        [[3.0, 0.2, 0.33], [3.0, 0.8, 0.67]]
    """
    truth, values = checked(labels, probabilities, "reliability_table")
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    edges = edges[edges > values.min()]
    table = pd.DataFrame({"images": 1, "predicted": values, "observed": truth.astype(float)})
    by_bin = table.groupby(np.searchsorted(edges, values, side="right"))
    return by_bin.agg({"images": "sum", "predicted": "mean", "observed": "mean"})


def recalibration(truth: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of calibration, by maximum likelihood.

    The slope is b of logit P(malignant) = a + b·logit(p): 1 is right, below 1 the probabilities are too extreme. The intercept is
    a of logit P(malignant) = a + logit(p), with the slope held at 1: above 0 the probabilities are too low on the whole.

    Args:
        truth: bool (n,), True for malignant.
        logits: of the probabilities, (n,).
        weights: how often each image counts, (n, m): m fits at once.

    Returns:
        slopes (m,) and intercepts (m,). Both NaN with one class only; the slope also where one threshold separates the classes
        without error, touching included.

    Reference:
        Van Calster et al., Calibration: the Achilles heel of predictive analytics, BMC Medicine 17 (2019) 230.
    """
    slopes, intercepts = np.full((2, weights.shape[1]), np.nan)
    ones = np.ones((len(truth), 1))
    low, high = _extremes(logits[truth], weights[truth])
    benign_low, benign_high = _extremes(logits[~truth], weights[~truth])
    both = np.isfinite(low) & np.isfinite(benign_low)
    intercepts[both] = _fit_logistic(ones, logits, truth, weights[:, both])[:, 0]
    overlapping = (low < benign_high) & (benign_low < high)
    spread = logits.std() or 1.0  # Newton's steps are well conditioned for a covariate of unit spread
    design = np.column_stack([ones, (logits - logits.mean()) / spread])
    slopes[overlapping] = _fit_logistic(design, np.zeros(len(truth)), truth, weights[:, overlapping])[:, 1] / spread
    return slopes, intercepts


def _extremes(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest of values (n,) among those with a weight, for each column of weights (n, m); ±inf where none has."""
    present = weights > 0
    low = np.where(present, values[:, None], np.inf).min(axis=0, initial=np.inf)
    return low, np.where(present, values[:, None], -np.inf).max(axis=0, initial=-np.inf)


def _fit_logistic(design: np.ndarray, offset: np.ndarray, goal: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients (m, k) of m weighted logistic regressions of a goal in [0, 1] on one design (n, k): Newton, steps halved."""
    columns, terms = weights.shape[1], design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    best, best_likelihood = np.zeros((columns, terms)), np.full(columns, -np.inf)
    step = np.zeros((columns, terms))
    for _ in range(200):
        candidate = best + step
        linear = offset[:, None] + design @ candidate.T  # (images, fits)
        likelihood = (weights * (goal[:, None] * linear - np.logaddexp(0, linear))).sum(axis=0)
        probability = expit(linear)
        gradient = (weights * (goal[:, None] - probability)).T @ design
        curvature = ((weights * probability * (1 - probability)).T @ products).reshape(columns, terms, terms)
        worse = likelihood < best_likelihood - 1e-12 * np.abs(best_likelihood)
        newton = np.linalg.solve(curvature + 1e-12 * np.eye(terms), gradient[:, :, None])[:, :, 0]
        best = np.where(worse[:, None], best, candidate)
        best_likelihood = np.where(worse, best_likelihood, likelihood)
        step = np.where(worse[:, None], step / 2, newton)
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return best


def fit_temperature(labels: Sequence[int], logits: Sequence[float]) -> float:
    """The temperature T that minimises the log-loss of σ(logit / T), to be fitted on validation and used on test.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        logits: of malignant against benign (`logit` of the probability of malignancy), shape (n,).

    Returns:
        T in [0.05, 20]: above 1 the model is too sure, below 1 not sure enough. A bound is returned where the loss falls all the
        way to it: the lower one for classes separated at probability 0.5, the upper one for a model worse than chance.

    Raises:
        DataError: one class only.
        ValueError: logits of another shape, or not finite.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML (2017).

    Example:
        >>> round(fit_temperature([0, 1, 0, 1, 1], [-2, -1, 1, 1, 3]), 2)
        1.72
    """
    from scipy.optimize import minimize_scalar  # a tenth of a second to load

    truth, values = _checked_logits(labels, logits, "fit_temperature")
    wrongness = np.where(truth, -values, values)
    low, high = TEMPERATURES
    # The loss is convex in 1/T, not in T.
    found = minimize_scalar(
        lambda inverse: np.logaddexp(0, inverse * wrongness).mean(),
        bounds=(1 / high, 1 / low), method="bounded", options={"xatol": 1e-9, "maxiter": 500},
    )  # fmt: skip
    return float(1 / found.x)


def at_bound(temperature: float) -> bool:
    """Whether `fit_temperature` would have gone on: such a value scales, and says nothing of how sure the model is."""
    return not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] / 1.01


def _checked_logits(labels: Sequence[int], logits: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    truth, values = checked_labels(labels, where), np.asarray(logits, dtype=float)
    if values.shape != truth.shape or not np.isfinite(values).all():
        raise ValueError(f"{where}: logits of shape {values.shape}; expected finite ones of shape ({len(truth)},)")
    need_both_classes(truth, where)
    return truth, values


@dataclass(frozen=True)
class Platt:
    """P(malignant) = σ(intercept + slope · logit). slope: at least 0, so that no order is turned round; 0 tells nothing apart."""

    slope: float
    intercept: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of malignancy in [0, 1], of logits of any shape."""
        return expit(self.log_odds(logits))

    def log_odds(self, logits: np.ndarray) -> np.ndarray:
        """The same before σ, to be averaged with those of other networks."""
        return self.intercept + self.slope * np.asarray(logits, dtype=float)


def fit_platt(labels: Sequence[int], logits: Sequence[float], base_rate: float | None = None) -> Platt:
    """Slope and intercept that minimise the log-loss, to be fitted on validation and used on new images.

    A temperature can only make probabilities more or less sure. Where training weighed or drew the classes otherwise than they
    occur, all are too high or too low besides, which takes an intercept.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        logits: of malignant against benign, shape (n,).
        base_rate: share of malignant images where it is used, if that is known to differ; in (0, 1).

    Returns:
        Platt. The truth is taken as (m + 1) / (m + 2) and 1 / (b + 2) of m malignant and b benign images, as Platt has it, so
        that few or separated images give no certainty.

    Raises:
        DataError: one class only.
        ValueError: logits of another shape, or not finite.

    Reference:
        Platt, in: Advances in Large Margin Classifiers, MIT Press (2000) 61-74.
    """
    truth, values = _checked_logits(labels, logits, "fit_platt")
    goal = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    here = float(logit(goal.mean()))
    there = here if base_rate is None else float(logit(base_rate))
    nothing = Platt(0.0, there)
    middle, spread = values.mean(), values.std()
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):  # equal but for rounding: they tell nothing apart
        return nothing
    ones = np.ones((len(values), 1))
    design = np.column_stack([ones, (values - middle) / spread])  # well conditioned for a spread of 1
    intercept, slope = _fit_logistic(design, np.zeros(len(values)), goal, ones)[0]
    if slope <= 0:  # the likelihood is concave: no slope above 0 is better than 0
        return nothing
    return Platt(float(slope / spread), float(intercept - slope / spread * middle) + there - here)


def risk_coverage(uncertainty: Sequence[float], errors: Sequence[float]) -> pd.DataFrame:
    """The mean error among the k most certain images, for every k: what is left when the doubtful ones are handed to a person.

    Images of equal uncertainty have no order among themselves: each counts with their mean error, which is what a random order
    gives on average.

    Args:
        uncertainty: the higher the less certain, any scale, shape (n,).
        errors: of each image, at least 0: 0 and 1 for right and wrong, or a loss such as 1 − Dice. Shape (n,).

    Returns:
        a row a k from 1 to the number of images that have both values: `coverage` (k / that number), `risk`, `images` (k),
        `uncertainty` (of the least certain image kept).

    Reference:
        El-Yaniv and Wiener, J. Mach. Learn. Res. 11 (2010) 1605-1641.
    """
    values, losses = np.asarray(uncertainty, dtype=float), np.asarray(errors, dtype=float)
    known = ~(np.isnan(values) | np.isnan(losses))
    values, losses = values[known], losses[known]
    distinct, group = np.unique(values, return_inverse=True)
    sizes = np.bincount(group, minlength=len(distinct))
    means = np.bincount(group, losses, len(distinct)) / np.maximum(sizes, 1)
    kept = np.arange(1, len(values) + 1)
    return pd.DataFrame(
        {
            "coverage": kept / max(len(values), 1),
            "risk": np.cumsum(np.repeat(means, sizes)) / kept,
            "images": kept,
            "uncertainty": np.repeat(distinct, sizes),
        }
    )


def aurc(uncertainty: Sequence[float], errors: Sequence[float]) -> float:
    """Area under the risk-coverage curve: the mean of `risk` over k = 1, …, n; the lower the better. NaN for no image.

    Arguments as for `risk_coverage`. `aurc(errors, errors)` is the lowest that any order reaches; an order by chance has the mean
    error on average. The area less the lowest is the excess area (E-AURC).

    Reference:
        Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty estimation for deep neural classifiers, ICLR (2019).
    """
    return float(risk_coverage(uncertainty, errors)["risk"].mean())
