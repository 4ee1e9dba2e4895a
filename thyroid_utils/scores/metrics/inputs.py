"""The two arrays that every metric takes, checked once and in the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError


def checked_labels(labels: Sequence[int], where: str) -> np.ndarray:
    """Labels as bool (n,), True for malignant. Raises ValueError where they are not a list of 0 and 1, naming `where`."""
    array = np.asarray(labels)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{where}: labels have shape {array.shape}; expected (n,) with at least one image")
    unknown = int(pd.isna(array).sum())
    if unknown:
        raise ValueError(f"{where}: {unknown} of {len(array)} labels are unknown; leave these images out")
    wrong = [label for label in array.tolist() if label not in (0, 1)]
    if wrong:
        raise ValueError(f"{where}: labels hold {wrong[0]!r}; expected 0 (benign) and 1 (malignant)")
    return array.astype(bool)


def checked_probabilities(probabilities: Sequence[float], images: int, where: str) -> np.ndarray:
    """Probabilities as float64, (images,) or (seeds, images). Raises ValueError for another shape or values outside [0, 1]."""
    array = np.asarray(probabilities, dtype=float)
    if array.ndim not in (1, 2) or array.shape[-1] != images or not array.size:
        raise ValueError(f"{where}: probabilities have shape {array.shape}; expected ({images},), one for each label")
    missing = int(np.isnan(array).sum())
    if missing:
        raise ValueError(f"{where}: {missing} of {array.size} probabilities are NaN; the model's training has failed")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"{where}: probabilities span {array.min():.3g} to {array.max():.3g}; expected [0, 1], not logits")
    return array


def checked(labels: Sequence[int], probabilities: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool (n,) and probabilities of one model as float64 (n,)."""
    truth = checked_labels(labels, where)
    values = checked_probabilities(probabilities, len(truth), where)
    if values.ndim != 1:
        raise ValueError(f"{where}: probabilities have shape {values.shape}; expected ({len(truth)},), one for each label")
    return truth, values


def need_both_classes(truth: np.ndarray, where: str) -> None:
    """Raises DataError where bool labels (n,) are all alike."""
    if truth.all() or not truth.any():
        only = "malignant" if truth.all() else "benign"
        raise DataError(f"{where}: all {len(truth)} images are {only}; expected both classes, choose a split that has them")
