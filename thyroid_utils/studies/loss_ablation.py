"""Every segmentation loss on one mask, for tables that can be checked by hand; and what losses move, in sentences."""

import numpy as np
import pandas as pd
import torch

from thyroid_utils.common.words import number, whole
from thyroid_utils.models.losses import SEGMENTATION_LOSSES
from thyroid_utils.scores.masks import binarise, pixel_counts
from thyroid_utils.studies.tables import shown_interval

_SURE = 1e-4  # how far the sure answers are from 0 and 1


def loss_values(truth: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """What each loss of `SEGMENTATION_LOSSES`, with its defaults, pays for an answer and for three extreme ones.

    Args:
        truth: bool (height, width).
        probabilities: of nodule, (height, width), inside (0, 1).

    Returns:
        DataFrame, index the loss: `this answer`, and with probabilities of 0.0001 and 0.9999 `perfect`, `no nodule`,
        `all nodule`.
    """
    answers = {
        "this answer": probabilities,
        "perfect": np.where(truth, 1 - _SURE, _SURE),
        "no nodule": np.full(truth.shape, _SURE),
        "all nodule": np.full(truth.shape, 1 - _SURE),
    }
    masks = torch.from_numpy(truth)[None]
    rows = {}
    for name, loss in SEGMENTATION_LOSSES.items():
        criterion = loss()
        rows[name] = {
            answer: float(criterion(torch.from_numpy(np.log(values / (1 - values))).float()[None, None], masks))
            for answer, values in answers.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss")


def pixel_sums(truth: np.ndarray, probabilities: np.ndarray) -> tuple[float, float, float]:
    """TP, FP and FN of a loss, in pixels: Σ p over the nodule, Σ p outside it, and Σ (1 − p) over the nodule.

    truth: bool (height, width). probabilities: of nodule, the same shape; held within 0.0001 and 0.9999.
    """
    p = np.clip(np.asarray(probabilities, float), _SURE, 1 - _SURE)
    return float(p[truth].sum()), float(p[~truth].sum()), float((1 - p)[truth].sum())


def losses_by_hand(truth: np.ndarray, probabilities: np.ndarray, alpha: float = 0.3, beta: float = 0.7) -> pd.DataFrame:
    """The sums that losses are made of, the losses that follow from them, and what scores make of the same answer.

    Args:
        truth: bool (height, width).
        probabilities: of nodule, the same shape; held as in `pixel_sums`, for the logarithms too.
        alpha, beta: Tversky's, of false and of missed pixels.

    Returns:
        DataFrame, index `step`; `how` (the formula with the numbers in it) and `value`, both text.
    """
    p = np.clip(np.asarray(probabilities, float), _SURE, 1 - _SURE)
    hit, false, missed = sums = pixel_sums(truth, probabilities)
    tp, fp, fn = (number(each) for each in sums)
    dice = 1 - (2 * hit + 1) / (2 * hit + false + missed + 1)
    tversky = 1 - (hit + 1) / (hit + alpha * false + beta * missed + 1)
    entropy = -np.log(np.where(truth, p, 1 - p)).mean()
    found, extra, lost, _ = pixel_counts(truth, binarise(probabilities)).values()
    both = 2 * found + extra + lost
    rows = [
        ("TP", f"p summed over the {whole(truth.sum())} pixels of the nodule", tp),
        ("FP", f"p summed over the {whole((~truth).sum())} other pixels", fp),
        ("FN", "1 − p summed over the nodule", fn),
        ("dice", f"1 − (2 · {tp} + 1) / (2 · {tp} + {fp} + {fn} + 1)", number(dice, 3)),
        ("tversky", f"1 − ({tp} + 1) / ({tp} + {alpha:g} · {fp} + {beta:g} · {fn} + 1)", number(tversky, 3)),
        ("focal_tversky", f"{number(tversky, 3)} to the power of 3/4", number(tversky**0.75, 3)),
        ("bce", "mean of −log p over the nodule and −log (1 − p) elsewhere", number(entropy, 3)),
        ("bce_dice", f"{number(entropy, 3)} + {number(dice, 3)}", number(entropy + dice, 3)),
        ("TP, FP, FN of the mask", "pixels called nodule from p = 0.5 on", f"{found}, {extra}, {lost}"),
        ("Dice of the mask", f"2 · {found} / (2 · {found} + {extra} + {lost})", number(2 * found / both if both else None, 3)),
    ]
    return pd.DataFrame(rows, columns=["step", "how", "value"]).set_index("step")


def gain_told(pairs: pd.DataFrame, gain: float) -> str:
    """A published gain, a share, against half the width of the intervals of differences (median over pairs), as a sentence.

    pairs: of `ComparedRuns.paired`.
    """
    half = pd.Series([np.ptp(shown_interval(found)) / 2 for found in pairs["difference"]], dtype=float).median()
    if np.isnan(half):
        return "No interval of a difference was measured that the paper's gain could be held against."
    seen = "lies far inside it" if gain < half / 2 else "is no smaller than half of that"
    reach = f"The interval of a difference reaches {number(100 * half, 1)} points to either side (median)"
    return f"{reach}; the paper's gain of {number(100 * gain)} points {seen}."


def range_told(estimates: pd.Series, what: str) -> str:
    """Between which of several models a score goes, as a sentence; empty where fewer than two have it."""
    values = estimates.map(lambda found: found.value).dropna().astype(float)
    if len(values) < 2:
        return ""
    low, high = values.idxmin(), values.idxmax()
    if number(values[low]) == number(values[high]):
        return f"{what} is {number(values[low])} with each."
    return f"{what} goes from {number(values[low])} ({low}) to {number(values[high])} ({high})."
