"""Scores of uncertainty, one an image, from several answers to it. Entropies are in bits, so that that of a coin is 1."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import entr

from thyroid_utils.scores.checks import checked_probabilities
from thyroid_utils.scores.probabilities import logit

# Name in code → name in a table. The higher, the less certain.
LABEL_SCORES = {
    "entropy": "predictive entropy",
    "mutual_information": "mutual information",
    "sd": "standard deviation",
    "nearness": "nearness to the threshold",
}
MAP_SCORES = {
    "entropy": "predictive entropy",
    "mutual_information": "mutual information",
    "sd": "standard deviation",
    "disagreement": "disagreement of masks",
    "soft_dice_loss": "1 − expected Dice",
}


def binary_entropy(probabilities: np.ndarray) -> np.ndarray:
    """−p log₂ p − (1 − p) log₂(1 − p), in [0, 1] bits, of probabilities of any shape."""
    values = np.asarray(probabilities, dtype=float)
    return (entr(values) + entr(1 - values)) / np.log(2)


def label_uncertainty(samples: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Uncertainty of a classifier from several answers to each image.

    Args:
        samples: probabilities of malignancy, (samples, n) or, for a single answer, (n,).
        threshold: at or above it an image is called malignant, in (0, 1).

    Returns:
        a row an image: `probability` (mean over samples) and the scores of `LABEL_SCORES`:

        - `entropy` H(mean p), in [0, 1];
        - `mutual_information` H(mean p) − mean H(p), in [0, 1]: what the samples disagree about, while the entropy also holds
          what each of them doubts;
        - `sd` of p over samples (divided by their number), in [0, 0.5];
        - `nearness` −|logit(mean p) − logit(threshold)|, at most 0. The entropy is highest at 0.5, the wrong place where the
          threshold is another.

        mutual_information and sd are NaN for a single sample.

    Reference:
        Depeweg et al., Decomposition of uncertainty in Bayesian deep learning, ICML (2018).
    """
    samples = np.atleast_2d(np.asarray(samples, dtype=float))
    samples = np.atleast_2d(checked_probabilities(samples, samples.shape[-1], "label_uncertainty"))
    if not 0 < threshold < 1:
        raise ValueError(f"label_uncertainty: threshold is {threshold}; expected a probability in (0, 1)")
    mean, entropy, information, spread = _moments(samples)
    nearness = -np.abs(logit(mean) - float(logit([threshold])[0]))
    return pd.DataFrame(
        {"probability": mean, "entropy": entropy, "mutual_information": information, "sd": spread, "nearness": nearness}
    )


def map_uncertainty(samples: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Uncertainty of a segmenter from several maps of each image, one image in memory in double precision at a time.

    Args:
        samples: probabilities of nodule, (samples, n, height, width).
        threshold: at or above it a pixel is called nodule.

    Returns:
        a row an image: the scores of `MAP_SCORES`:

        - `entropy`, `mutual_information`, `sd` as in `label_uncertainty`, of each pixel, the mean over all pixels;
        - `disagreement` 1 − the mean Dice of every pair of samples' masks (two empty masks agree);
        - `soft_dice_loss` 1 − 2 Σ_called p / (number called + Σ p), with p the mean map: one less the Dice that its
          probabilities promise to its own mask. It is 1 where nothing is called nodule: against any nodule that Dice is 0.

        mutual_information, sd and disagreement are NaN for a single sample.

    Reference:
        Roy et al., Bayesian QuickNAT, NeuroImage 195 (2019) 11-22 (disagreement); Borges, Pacheco and Silva, Soft Dice
        confidence (2024), arXiv 2402.10665.
    """
    samples = np.asarray(samples)
    if samples.ndim != 4 or not samples.size:
        raise ValueError(f"map_uncertainty: samples of shape {samples.shape}; expected (samples, n, height, width)")
    rows = []
    for image in range(samples.shape[1]):
        maps = samples[:, image].astype(float)  # (samples, height, width)
        if not (maps.min() >= 0 and maps.max() <= 1):
            raise ValueError(f"map_uncertainty: image {image} holds NaN or values outside [0, 1]; expected probabilities")
        mean, *scores = _moments(maps)
        called = mean >= threshold
        total = called.sum() + mean.sum()
        rows.append(
            {
                **dict(zip(MAP_SCORES, (float(score.mean()) for score in scores), strict=False)),
                "disagreement": _disagreement(maps >= threshold),
                "soft_dice_loss": float(1 - 2 * mean[called].sum() / total) if called.any() else 1.0,
            }
        )
    return pd.DataFrame(rows)


def _moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, entropy of the mean, mutual information and SD over the first axis."""
    mean = samples.mean(axis=0)
    entropy = binary_entropy(mean)
    if len(samples) == 1:
        undefined = np.full(mean.shape, np.nan)
        return mean, entropy, undefined, undefined
    # Never below 0 but by rounding: the entropy is concave.
    information = np.maximum(entropy - binary_entropy(samples).mean(axis=0), 0)
    return mean, entropy, information, samples.std(axis=0)


def _disagreement(masks: np.ndarray) -> float:
    """1 − mean Dice over the pairs of masks, bool (samples, height, width); NaN for one."""
    if len(masks) < 2:
        return float("nan")
    pixels = masks.reshape(len(masks), -1).astype(np.float32)
    shared, areas = (pixels @ pixels.T).astype(float), pixels.sum(axis=1, dtype=float)
    one, two = np.triu_indices(len(masks), 1)
    both = areas[one] + areas[two]
    dice = np.divide(2 * shared[one, two], both, out=np.ones(len(both)), where=both > 0)
    return float(1 - dice.mean())
