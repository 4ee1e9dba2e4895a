"""Arrays, masks, spacings and levels that every score and test takes, checked once and in the same words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError

# Of a 2 × 2 table, of images or of pixels; positive is malignant, or nodule.
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")


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


def checked_scores(scores: Sequence[float], images: int, where: str) -> np.ndarray:
    """Numbers as float64, (images,) or (seeds, images). Raises ValueError for another shape, NaN or infinite values."""
    array = np.asarray(scores, dtype=float)
    if array.ndim not in (1, 2) or array.shape[-1] != images or not array.size:
        raise ValueError(f"{where}: probabilities have shape {array.shape}; expected ({images},), one for each label")
    _check_finite(array, where)
    return array


def checked_probabilities(probabilities: Sequence[float], images: int, where: str) -> np.ndarray:
    """`checked_scores`, and a ValueError for values outside [0, 1]."""
    array = checked_scores(probabilities, images, where)
    check_probabilities(array, where)
    return array


def check_probabilities(values: np.ndarray, where: str) -> None:
    """Raises ValueError where numbers, of any shape, are not in [0, 1]."""
    _check_finite(values, where)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(f"{where}: probabilities span {values.min():.3g} to {values.max():.3g}; expected [0, 1], not logits")


def _check_finite(values: np.ndarray, where: str) -> None:
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise ValueError(
            f"{where}: {missing} of {values.size} probabilities are NaN or infinite; the model's training has failed"
        )


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


def patient_codes(patients: Sequence[str], images: int, where: str) -> tuple[np.ndarray, int]:
    """The patient of each image as a number from 0, int (n,), and how many patients there are.

    Raises:
        ValueError: not one patient for each image, or a patient is missing.
    """
    patients = np.asarray(patients, dtype=object)
    if patients.shape != (images,):
        raise ValueError(f"{where}: patients have shape {patients.shape}; expected ({images},), one for each image")
    codes, names = pd.factorize(patients)
    missing = int((codes < 0).sum())
    if missing:
        raise ValueError(
            f"{where}: {missing} of {images} values have no patient; fill the column `patient`, with the case where unknown"
        )
    return codes, len(names)


def known_patients(values: np.ndarray, patients: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Which values, float (n,), are without NaN, bool (n,), and `patient_codes` of these.

    Raises:
        ValueError: not one patient for each value, or a patient is missing, be it of a NaN.
    """
    patient_codes(patients, len(values), where)
    known = ~np.isnan(values)
    return known, *patient_codes(np.asarray(patients, dtype=object)[known], int(known.sum()), where)
