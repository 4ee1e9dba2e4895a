"""Whether a probability means what it says, and how to mend it: by one number, the temperature, or by slope and intercept.

What predictions are worth to who acts on them: how errors fall as doubtful images are handed on, and net benefit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from thyroid_utils.scores.checks import checked, checked_labels, checked_probabilities, need_both_classes

# A float32 softmax saturates at 1 - 6e-8; without a limit one sure image would have an infinite logit.
CLOSEST_TO_CERTAIN = 1e-7
TEMPERATURES = (0.05, 20.0)
THRESHOLDS = tuple((np.arange(1, 100) / 100).tolist())


def logit(probabilities: Sequence[float]) -> np.ndarray:
    """log(p / (1 − p)) with p held within [1e-7, 1 − 1e-7], so that it lies in ±16.1."""
    held = np.clip(np.asarray(probabilities, dtype=float), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return np.log(held) - np.log1p(-held)


def reliability_table(
    labels: Sequence[int], probabilities: Sequence[float], bins: int = 10, equal: str = "width"
) -> pd.DataFrame:
    """Predicted probability of malignancy against the share that is malignant, in bins.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        bins: number of bins.
        equal: "width" (edges at 0, 1/bins, …, 1) or "count" (edges at quantiles; ties can leave fewer bins).

    Returns:
        a row a bin: `low` (inside the bin) and `high` (outside it, but for the last), `images`, `predicted` (mean probability),
        `observed` (share malignant); the last two NaN in an empty bin.
    """
    truth, values = checked(labels, probabilities, "reliability_table")
    if equal not in ("width", "count") or bins < 1:
        raise ValueError(f"reliability_table: {bins} bins of equal {equal!r}; expected at least 1, of equal width or count")
    edges = np.arange(1, bins) / bins
    if equal == "count":
        edges = np.unique(np.quantile(values, edges))
        edges = edges[edges > values.min()]
    index = bin_index(values, edges)
    images = np.bincount(index, minlength=len(edges) + 1)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(index, values, len(edges) + 1) / images
        observed = np.bincount(index, truth, len(edges) + 1) / images
    ends = {"low": np.append(0.0, edges), "high": np.append(edges, 1.0)}
    return pd.DataFrame(ends | {"images": images, "predicted": predicted, "observed": observed})


def bin_index(probabilities: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each probability, int (n,), given the inner edges in rising order; an edge belongs to the bin above it."""
    return np.searchsorted(edges, probabilities, side="right")


def expected_calibration_error(labels: Sequence[int], probabilities: Sequence[float], bins: int = 10) -> float:
    """Σ_bins (images in bin / n) · |mean probability − share malignant|, in [0, 1], over `reliability_table` of equal width.

    The probability is that of malignancy, not of the class called. Biased upwards on few images: noise within a bin never
    cancels. Reference: Naeini, Cooper and Hauskrecht, AAAI (2015) 2901-2907.
    """
    table = reliability_table(labels, probabilities, bins)
    gaps = (table["images"] * (table["predicted"] - table["observed"]).abs()).sum()
    return float(gaps / table["images"].sum())


def recalibration(
    labels: Sequence[int], logits: Sequence[float], weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of calibration, by maximum likelihood.

    The slope is b of logit P(malignant) = a + b·logit(p): 1 is right, below 1 the probabilities are too extreme. The intercept is
    a of logit P(malignant) = a + logit(p), with the slope held at 1: above 0 the probabilities are too low on the whole.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        logits: of the probabilities, shape (n,).
        weights: how often each image counts, shape (n, m): m fits at once, for a bootstrap. None: once each, m = 1.

    Returns:
        slopes (m,) and intercepts (m,). Both NaN with one class only; the slope also where one threshold separates the classes
        without error, touching included.

    Reference:
        Van Calster et al., Calibration: the Achilles heel of predictive analytics, BMC Medicine 17 (2019) 230.
    """
    truth, logits = checked_labels(labels, "recalibration"), np.asarray(logits, dtype=float)
    weights = np.ones((len(truth), 1)) if weights is None else np.asarray(weights, dtype=float)
    slopes, intercepts = np.full(weights.shape[1], np.nan), np.full(weights.shape[1], np.nan)

    both = (weights[truth] > 0).any(axis=0) & (weights[~truth] > 0).any(axis=0)
    ones = np.ones((len(truth), 1))
    intercepts[both] = _fit_logistic(ones, logits, truth, weights[:, both])[:, 0]

    low, high = _extremes(logits[truth], weights[truth])
    benign_low, benign_high = _extremes(logits[~truth], weights[~truth])
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


def _fit_logistic(design: np.ndarray, offset: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients (m, k) of m weighted logistic regressions on one design (n, k), by Newton's method with halved steps."""
    columns, terms = weights.shape[1], design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    best, best_likelihood = np.zeros((columns, terms)), np.full(columns, -np.inf)
    step = np.zeros((columns, terms))
    for _ in range(200):
        candidate = best + step
        linear = offset[:, None] + design @ candidate.T  # (images, fits)
        # log σ(z) = -log(1 + e^-z), without overflow
        likelihood = -(weights * np.logaddexp(0, np.where(truth[:, None], -linear, linear))).sum(axis=0)
        probability = expit(linear)
        gradient = (weights * (truth[:, None] - probability)).T @ design
        curvature = ((weights * probability * (1 - probability)).T @ products).reshape(columns, terms, terms)
        worse = likelihood < best_likelihood - 1e-12 * np.abs(best_likelihood)
        newton = np.linalg.solve(curvature + 1e-12 * np.eye(terms), gradient[:, :, None])[:, :, 0]
        best = np.where(worse[:, None], best, candidate)
        best_likelihood = np.where(worse, best_likelihood, likelihood)
        step = np.where(worse[:, None], step / 2, newton)
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return best


def fit_temperature(labels: Sequence[int], logits: np.ndarray) -> float:
    """The temperature T that minimises the log-loss of softmax(logits / T), to be fitted on validation and used on test.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        logits: shape (n, 2), benign and malignant, or (n,), their difference (`logit` of the probability of malignancy).

    Returns:
        T in [0.05, 20]: above 1 the model is too sure, below 1 not sure enough. A bound is returned where the loss falls all the
        way to it: the lower one for classes separated at probability 0.5, the upper one for a model worse than chance.

    Raises:
        DataError: one class only.
        ValueError: logits of another shape, or not finite.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML (2017).
    """
    truth, logits = checked_labels(labels, "fit_temperature"), np.asarray(logits, dtype=float)
    if logits.shape not in ((len(truth),), (len(truth), 2)) or not np.isfinite(logits).all():
        raise ValueError(
            f"fit_temperature: logits of shape {logits.shape}, finite: {bool(np.isfinite(logits).all())}; "
            f"expected finite ones of shape ({len(truth)}, 2) or ({len(truth)},)"
        )
    need_both_classes(truth, "fit_temperature")
    margin = logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits
    wrongness = np.where(truth, -margin, margin)
    low, high = TEMPERATURES
    # The loss is convex in 1/T, not in T.
    found = minimize_scalar(
        lambda inverse: np.logaddexp(0, inverse * wrongness).mean(),
        bounds=(1 / high, 1 / low), method="bounded", options={"xatol": 1e-9, "maxiter": 500},
    )  # fmt: skip
    return float(1 / found.x)


@dataclass(frozen=True)
class Platt:
    """P(malignant) = σ(intercept + slope · logit). slope: at least 0, so that no order is turned round; 0 tells nothing apart."""

    slope: float
    intercept: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of malignancy in [0, 1], of logits of any shape."""
        return expit(self.intercept + self.slope * np.asarray(logits, dtype=float))


def fit_platt(labels: Sequence[int], logits: Sequence[float]) -> Platt:
    """Slope and intercept that minimise the log-loss, to be fitted on validation and used on new images.

    A temperature can only make probabilities more or less sure. Where training weighed or drew the classes otherwise than they
    occur, all are too high or too low besides, which takes an intercept.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        logits: of malignant against benign, shape (n,).

    Returns:
        Platt. The truth is taken as (m + 1) / (m + 2) and 1 / (b + 2) of m malignant and b benign images, as Platt has it, so
        that few or separated images give no certainty.

    Raises:
        DataError: one class only.
        ValueError: logits of another shape, or not finite.

    Reference:
        Platt, in: Advances in Large Margin Classifiers, MIT Press (2000) 61-74.
    """
    truth, values = checked_labels(labels, "fit_platt"), np.asarray(logits, dtype=float)
    if values.shape != truth.shape or not np.isfinite(values).all():
        raise ValueError(f"fit_platt: logits of shape {values.shape}; expected finite ones of shape ({len(truth)},)")
    need_both_classes(truth, "fit_platt")
    goal = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    middle, spread = values.mean(), values.std()
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):  # equal but for rounding: they tell nothing apart
        return Platt(0.0, float(np.log(goal.mean() / (1 - goal.mean()))))
    held = (values - middle) / spread  # the search is well conditioned for a spread of 1

    def loss(terms: np.ndarray) -> tuple[float, np.ndarray]:
        linear = terms[0] * held + terms[1]
        excess = expit(linear) - goal
        return float((np.logaddexp(0, linear) - goal * linear).mean()), np.array([(excess * held).mean(), excess.mean()])

    start = [1.0, float(np.log(goal.mean() / (1 - goal.mean())))]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], options={"ftol": 1e-14, "gtol": 1e-9}
    )
    slope = float(found.x[0] / spread)
    return Platt(slope, float(found.x[1] - slope * middle))


def risk_coverage(uncertainty: Sequence[float], errors: Sequence[float]) -> pd.DataFrame:
    """The mean error among the k most certain images, for every k: what is left when the doubtful ones are handed to a person.

    Images of equal uncertainty have no order among themselves: each counts with their mean error, which is what a random order
    gives on average.

    Args:
        uncertainty: the higher the less certain, any scale, shape (n,).
        errors: of each image, at least 0: 0 and 1 for right and wrong, or a loss such as 1 − Dice. Shape (n,).

    Returns:
        a row a k from 1 to the number of images that have both values: `coverage` (k / that number), `risk`, `images` (k),
        `uncertainty` (of the least certain image kept). `attrs["left_out"]` is the number of images without either value, NaN.

    Raises:
        ValueError: shapes that differ, or a negative error.

    Reference:
        El-Yaniv and Wiener, J. Mach. Learn. Res. 11 (2010) 1605-1641.
    """
    values, losses = _paired(uncertainty, errors)
    known = ~(np.isnan(values) | np.isnan(losses))
    left_out = int((~known).sum())
    values, losses = values[known], losses[known]
    distinct, group = np.unique(values, return_inverse=True)
    sizes = np.bincount(group, minlength=len(distinct))
    means = np.bincount(group, losses, len(distinct)) / np.maximum(sizes, 1)
    kept = np.arange(1, len(values) + 1)
    table = pd.DataFrame(
        {
            "coverage": kept / max(len(values), 1),
            "risk": np.cumsum(np.repeat(means, sizes)) / kept,
            "images": kept,
            "uncertainty": np.repeat(distinct, sizes),
        }
    )
    table.attrs["left_out"] = left_out
    return table


def aurc(uncertainty: Sequence[float], errors: Sequence[float]) -> float:
    """Area under the risk-coverage curve: the mean of `risk` over k = 1, …, n; the lower the better. NaN for no image.

    Arguments as for `risk_coverage`. `aurc(errors, errors)` is the lowest that any order reaches; an order by chance has the mean
    error on average. The area less the lowest is the excess area (E-AURC).

    Reference:
        Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty estimation for deep neural classifiers, ICLR (2019).
    """
    risks = risk_coverage(uncertainty, errors)["risk"]
    return float(risks.mean()) if len(risks) else float("nan")


def _paired(uncertainty: Sequence[float], errors: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    values, losses = np.asarray(uncertainty, dtype=float), np.asarray(errors, dtype=float)
    if values.ndim != 1 or values.shape != losses.shape:
        raise ValueError(f"risk_coverage: uncertainty {values.shape} and errors {losses.shape}; expected two equal (n,)")
    if (losses < 0).any():
        raise ValueError(f"risk_coverage: an error is {np.nanmin(losses):.3g}; expected 0 (right) or more")
    return values, losses


def benefit_values(labels: Sequence[int], probabilities: Sequence[float], threshold: float) -> np.ndarray:
    """What each image adds to the net benefit: 1 called malignant rightly, −t / (1 − t) wrongly, 0 not called; float (n,).

    Their mean is the net benefit, so that `estimates.patient_bootstrap` of them gives its interval, and of the differences to
    those of another model, or of probabilities that are all 1 (act on all), the interval of what is gained.

    Arguments and errors as for `decision_curve`; with (seeds, n) the mean over seeds.
    """
    truth = checked_labels(labels, "benefit_values")
    rows = np.atleast_2d(checked_probabilities(probabilities, len(truth), "benefit_values"))
    called = rows >= _checked_threshold(threshold)
    return np.where(called, np.where(truth, 1.0, -threshold / (1 - threshold)), 0.0).mean(axis=0)


def decision_curve(
    labels: Sequence[int], probabilities: Sequence[float], thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Net benefit of acting (puncturing) where the probability reaches a threshold, against acting on all and on nobody.

    Net benefit at t = TP / n − FP / n · t / (1 − t): t is the probability of malignancy at which a person would just act, and its
    odds say how many needless actions one found malignancy is worth.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,); calibrated, as t is compared with them. With (seeds, n) the mean over
            seeds.
        thresholds: in [0, 1).

    Returns:
        a row a threshold: `threshold`, `net_benefit`, `treat_all`, `treat_none` (0), in true positives an image: at most the
        share of malignant images.

    Raises:
        ValueError: as `classification_scores`, or a threshold outside [0, 1).

    Reference:
        Vickers and Elkin, Decision curve analysis, Med. Decis. Making 26 (2006) 565-574.
    """
    everybody = np.ones(len(labels))
    rows = [
        {
            "threshold": float(threshold),
            "net_benefit": float(benefit_values(labels, probabilities, threshold).mean()),
            "treat_all": float(benefit_values(labels, everybody, threshold).mean()),
            "treat_none": 0.0,
        }
        for threshold in thresholds
    ]
    return pd.DataFrame(rows, columns=["threshold", "net_benefit", "treat_all", "treat_none"])


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold < 1:
        raise ValueError(f"decision_curve: threshold is {threshold}; expected a probability in [0, 1)")
    return threshold
