"""What predictions are worth to who acts on them: how errors fall as doubtful images are handed on, and net benefit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.scores.metrics.inputs import checked_labels, checked_probabilities

THRESHOLDS = tuple((np.arange(1, 100) / 100).tolist())


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

    Their mean is the net benefit, so that `statistics.patient_bootstrap` of them gives its interval, and of the differences to
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
