"""How sure a network is: several answers to an image, from runs of several seeds, from changed images or from random dropout
(`dropout`), and scores of uncertainty made of them. Entropies are in bits, so that that of a coin is 1."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import entr

from thyroid_utils.scores.checks import check_probabilities, checked_probabilities
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


def augmented_views(
    answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, shift: int = 4, first: np.ndarray | None = None
) -> np.ndarray:
    """What a network says of each image as it is, shifted by some pixels up, down, left and right, and all that mirrored.

    Only left and right are exchanged: depth has a meaning in ultrasound. A shift repeats the border. Maps are brought back; where
    a shifted image has lost a pixel, the map of the unshifted one stands in, which disagrees with nothing.

    Args:
        answer: `probabilities` or `log_odds` of a classifier's `Predictor`, or `maps` of a segmenter's.
        inputs: float32 (n, channels, height, width), as `Predictor.inputs` gives them.
        shift: pixels of the network's input.
        first: the answer to the images as they are, where it is known.

    Returns:
        samples, the image as it is first: (views, n), or float32 (views, n, height, width).
    """
    shifts = [(0, 0), (-shift, 0), (shift, 0), (0, -shift), (0, shift)]
    samples = [answer(inputs) if first is None else first]
    for mirrored, (down, right) in list(product((1, -1), shifts))[1:]:
        found = answer(np.ascontiguousarray(_shifted(inputs, down, right)[..., ::mirrored]))
        if found.ndim == 3:
            found = _shifted_back(found[..., ::mirrored], down, right, samples[0])
        samples.append(found)
    return np.stack(samples)


def _shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (..., height, width) moved, their border repeated."""
    height, width = images.shape[-2:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return images[..., rows[:, None], columns]


def _shifted_back(maps: np.ndarray, down: int, right: int, fallback: np.ndarray) -> np.ndarray:
    """Maps (n, height, width) of shifted images on the unshifted grid, `fallback` where they have no pixel."""
    height, width = maps.shape[-2:]
    back = _shifted(maps, -down, -right).copy()
    rows, columns = np.arange(height) + down, np.arange(width) + right
    lost = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))
    back[:, lost] = fallback[:, lost]
    return back


def binary_entropy(probabilities: np.ndarray) -> np.ndarray:
    """−p log₂ p − (1 − p) log₂(1 − p), in [0, 1] bits, of probabilities of any shape."""
    values = np.asarray(probabilities, dtype=float)
    return (entr(values) + entr(1 - values)) / np.log(2)


def label_uncertainty(samples: np.ndarray, threshold: float = 0.5, called: Sequence[bool] | None = None) -> pd.DataFrame:
    """Uncertainty of a classifier from several answers to each image.

    Args:
        samples: probabilities of malignancy, (samples, n) or, for a single answer, (n,).
        threshold: at or above it an image is called malignant, in (0, 1).
        called: (n,), whether the network whose errors are looked for calls it malignant; None: as the mean over samples does.

    Returns:
        a row an image: `probability` (mean over samples) and the scores of `LABEL_SCORES`:

        - `entropy` H(mean p), in [0, 1];
        - `mutual_information` H(mean p) − mean H(p), in [0, 1]: what the samples disagree about, while the entropy also holds
          what each of them doubts;
        - `sd` of p over samples (divided by their number), in [0, 0.5];
        - `nearness` −|logit(mean p) − logit(threshold)|, at most 0, or above where the mean is on the other side than the call:
          the firmer, the more doubtful that. The entropy is highest at 0.5, the wrong place where the threshold is another.

        mutual_information and sd are NaN for a single sample.

    Reference:
        Depeweg et al., Decomposition of uncertainty in Bayesian deep learning, ICML (2018).
    """
    samples = np.atleast_2d(np.asarray(samples, dtype=float))
    samples = np.atleast_2d(checked_probabilities(samples, samples.shape[-1], "label_uncertainty"))
    mean, entropy, information, spread = _moments(samples)
    above = logit(mean) - logit(threshold)
    nearness = -np.abs(above) if called is None else np.where(called, -above, above)
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
    rows = []
    for image in range(samples.shape[1]):
        maps = samples[:, image].astype(float)  # (samples, height, width)
        check_probabilities(maps, f"map_uncertainty, image {image}")
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
