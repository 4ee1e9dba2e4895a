"""What every segmentation metric takes: two binary masks, their spacing, and masks made from a probability map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def binarise(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Masks from probability maps: True where the probability is at or above the threshold.

    Args:
        probabilities: in [0, 1], any shape.
        threshold: in [0, 1]; chosen on validation or 0.5, never on the images that are scored.

    Returns:
        bool, the shape of `probabilities`.

    Raises:
        ValueError: NaN or values outside [0, 1] among the probabilities, or such a threshold.
    """
    values = np.asarray(probabilities)
    if not 0 <= threshold <= 1:
        raise ValueError(f"binarise: threshold is {threshold}; expected a number in [0, 1]")
    missing = int(np.isnan(values).sum())
    if missing:
        raise ValueError(f"binarise: {missing} of {values.size} probabilities are NaN; the model's training has failed")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(f"binarise: probabilities span {values.min():.3g} to {values.max():.3g}; expected [0, 1], not logits")
    return values >= threshold


def checked_masks(truth: np.ndarray, prediction: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as bool (height, width) of one shape. Raises ValueError where they are something else, naming `where`."""
    truth, prediction = _checked_mask(truth, where, "truth"), _checked_mask(prediction, where, "prediction")
    if truth.shape != prediction.shape:
        raise ValueError(
            f"{where}: truth is {truth.shape[0]} × {truth.shape[1]} pixels and prediction {prediction.shape[0]} × "
            f"{prediction.shape[1]}; bring both to one size first, and say which in the table"
        )
    return truth, prediction


def _checked_mask(mask: np.ndarray, where: str, name: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"{where}: {name} has shape {mask.shape}; expected a mask, (height, width), with at least one pixel")
    if mask.dtype == bool:
        return mask
    wrong = ~((mask == 0) | (mask == 1))
    if wrong.any():
        raise ValueError(f"{where}: {name} holds {mask[wrong][0]}; expected two levels, 0 and 1 (compare with a threshold first)")
    return mask.astype(bool)


def checked_spacing(spacing: float | Sequence[float] | None, where: str) -> tuple[float, float]:
    """Millimetres a row and a column; (1, 1) for None, which leaves lengths in pixels. Raises ValueError naming `where`."""
    if spacing is None:
        return 1.0, 1.0
    values = np.asarray(spacing, dtype=float)
    if values.shape not in ((), (2,)) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{where}: spacing is {spacing}; expected (row, column) in mm, both above 0, or None where unknown")
    rows, columns = np.broadcast_to(values, 2).tolist()
    return rows, columns
