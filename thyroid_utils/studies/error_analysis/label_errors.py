"""Which labels are likely wrong, by confident learning: what a network that never saw an image says firmly against its label.

Probabilities must be out of sample: of test or validation images of the run, or of the held-out fold of a cross-validation. A
network has learnt the labels of its training images, the wrong ones too. Probabilities of a run's test images are out of sample;
those of validation chose the epoch, which is a weak use of their labels.

A suspect is a question to a reader, not a correction: where the network is weak, what it lists are its own errors. Both look
alike from here.

Reference:
    Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, J. Artif. Intell. Res. 70 (2021)
    1373-1411.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import checked_labels, checked_probabilities, patient_codes

CLASSES = ("benign", "malignant")


def class_thresholds(labels: Sequence[int], probabilities: Sequence[float]) -> np.ndarray:
    """How sure the network is of each class where that is the label: mean probability of class j over the images labelled j.

    Arguments as for `rank_label_errors`. Returns float (2,), benign and malignant; NaN for a class without an image.
    """
    truth, both = _checked(labels, probabilities, "class_thresholds")
    return np.array([both[truth == kind, kind].mean() if (truth == kind).any() else np.nan for kind in (0, 1)])


def confident_classes(labels: Sequence[int], probabilities: Sequence[float]) -> np.ndarray:
    """The class that each image confidently has: the most probable of those whose probability reaches their own threshold.

    Arguments as for `rank_label_errors`. Returns int (n,): 0, 1, or −1 where neither threshold is reached.
    """
    _, both = _checked(labels, probabilities, "confident_classes")
    reached = both >= class_thresholds(labels, probabilities)  # (n, 2); nothing reaches NaN
    best = np.where(reached, both, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """How many images labelled so (rows) confidently have which class (columns), ints (2, 2); off the diagonal they are suspect.

    Arguments as for `rank_label_errors`. Images that reach neither threshold are in no cell.
    """
    truth, classes = checked_labels(labels, "confident_joint"), confident_classes(labels, probabilities)
    counts = [[int(((truth == row) & (classes == column)).sum()) for column in (0, 1)] for row in (0, 1)]
    return pd.DataFrame(counts, index=pd.Index(CLASSES, name="labelled"), columns=pd.Index(CLASSES, name="confidently"))


def rank_label_errors(
    labels: Sequence[int], probabilities: Sequence[float], patients: Sequence[str], cases: Sequence[str] | None = None
) -> pd.DataFrame:
    """Every image, the likeliest label error first.

    Suspects (images that confidently have the other class) come before the rest, and within both the lowest self-confidence, the
    probability of the label that the image has.

    Args:
        labels: 0 benign, 1 malignant, as they are in the data set, shape (n,).
        probabilities: of malignancy, in [0, 1], out of sample, shape (n,); (seeds, n) is averaged over seeds.
        patients: the patient of each image, shape (n,).
        cases: ids; None takes the index of `labels` where it has one, else 0, 1, …

    Returns:
        index `case`: `rank` (from 1), `patient`, `label`, `probability`, `self_confidence`, `confident` (0, 1, or −1 for
        neither), `suspect` (bool), `patient_images` (of that patient here) and `patient_suspects`: a label is a patient's or a
        nodule's, so that a patient whose images are all suspect is a stronger hint than one image of five. With one class only
        nothing can be suspect.

    Raises:
        ValueError: shapes that differ, labels or probabilities out of range, a patient missing.
    """
    truth, both = _checked(labels, probabilities, "rank_label_errors")
    codes, count = patient_codes(patients, len(truth), "rank_label_errors")
    if cases is None:
        cases = labels.index if isinstance(labels, pd.Series) else range(len(truth))
    confident = confident_classes(labels, probabilities)
    suspect = (confident >= 0) & (confident != truth)
    table = pd.DataFrame(
        {
            "patient": np.asarray(patients, dtype=object),
            "label": truth.astype(int),
            "probability": both[:, 1],
            "self_confidence": both[np.arange(len(truth)), truth.astype(int)],
            "confident": confident,
            "suspect": suspect,
            "patient_images": np.bincount(codes, minlength=count)[codes],
            "patient_suspects": np.bincount(codes, suspect, count)[codes].astype(int),
        },
        index=pd.Index(cases, name="case"),
    )
    ordered = table.sort_values(["suspect", "self_confidence"], ascending=[False, True], kind="stable")
    ordered.insert(0, "rank", np.arange(1, len(ordered) + 1))
    return ordered


def _checked(labels: Sequence[int], probabilities: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool (n,), and the mean probabilities of both classes, (n, 2)."""
    truth = checked_labels(labels, where)
    malignant = np.atleast_2d(checked_probabilities(probabilities, len(truth), where)).mean(axis=0)
    return truth, np.column_stack([1 - malignant, malignant])
