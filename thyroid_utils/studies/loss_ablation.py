"""Every segmentation loss on one small mask, for a table that can be checked by hand; and what losses move, in sentences."""

import numpy as np
import pandas as pd
import torch

from thyroid_utils.common.words import number
from thyroid_utils.models.losses import SEGMENTATION_LOSSES
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
