"""Sets of labels instead of one: how often the truth is among them is promised before the test, whatever the network.

Split conformal prediction. The score of a label is 1 − its probability; a label enters the set of a test image where its score
is at most a quantile of the true labels' scores on validation. The promise, P(truth in set) ≥ 1 − alpha, is over the draw of
validation and test together and needs them to be exchangeable: it holds on average, not for each validation set, and not for
images of another clinic. It suffers where validation also chose the epoch, as it does here: a little, and unmeasured.

Images of one patient are not exchangeable with those of others. With `patients` each patient weighs the same, however many
images there are, and the promise is about a random image of a new patient.

Reference:
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Sadinle, Lei and Wasserman, J. Am. Stat. Assoc.
    114 (2019) 223-234 (the score); Lee, Barber and Willett, Distribution-free inference with hierarchical data (2023), arXiv
    2306.06342 (patients).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import checked, checked_labels, patient_codes
from thyroid_utils.scores.estimates import patient_estimate

CLASSES = ("benign", "malignant")
_ROUNDING = 1e-9  # of a sum of weights, and of 1 − p; what it lets in besides keeps the promise


def conformal_quantile(scores: Sequence[float], alpha: float, patients: Sequence[str] | None = None) -> float:
    """The smallest score that at least a weight of 1 − alpha reaches, one unseen image or patient counted as infinite.

    Without patients it is the ⌈(n + 1)(1 − alpha)⌉-th smallest of n scores. With k patients each image of a patient with m images
    weighs 1 / ((k + 1) m), and the unseen patient 1 / (k + 1).

    Args:
        scores: of the true labels on validation, shape (n,).
        alpha: share of misses that is allowed, in (0, 1).
        patients: the patient of each, shape (n,).

    Returns:
        a score, or inf where n (or k) is below 1 / alpha − 1: too few to promise anything.
    """
    _check_alpha(alpha)
    values = np.asarray(scores, dtype=float)
    codes, count = patient_codes(range(len(values)) if patients is None else patients, len(values), "conformal_quantile")
    weights = 1 / ((count + 1) * np.bincount(codes, minlength=count)[codes])
    order = np.argsort(values, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= 1 - alpha - _ROUNDING)
    return float(values[order][reached[0]]) if len(reached) else float("inf")


def conformal_sets(
    val_probabilities: Sequence[float],
    val_labels: Sequence[int],
    test_probabilities: Sequence[float],
    alpha: float = 0.1,
    *,
    val_patients: Sequence[str] | None = None,
    by_class: bool = False,
) -> pd.DataFrame:
    """The set of labels of each test image, by the quantile of the validation images.

    Args:
        val_probabilities: of malignancy, in [0, 1], of images that the network was not trained on, shape (n,).
        val_labels: 0 benign, 1 malignant, shape (n,).
        test_probabilities: shape (m,).
        alpha: share of sets that may miss the truth, in (0, 1).
        val_patients: the patient of each validation image; None takes the images as independent.
        by_class: a quantile for each class, of the images that have it: the promise then holds within benign and within
            malignant images. The rarer class has few validation images, and larger sets for that.

    Returns:
        a row a test image (the index of `test_probabilities` where it has one): `benign`, `malignant` (bool, whether the label is
        in the set), `size` (0, 1 or 2; an empty set says that both labels are strange). `attrs`: `alpha`; `quantiles` (class →
        the score that is just let in, inf where there were too few); `note`, a sentence where there were too few images or
        patients, n < 1 / alpha − 1, so that a label is in every set; else "".

    Raises:
        ValueError: values out of range, shapes that differ, a patient missing.
    """
    _check_alpha(alpha)
    truth, known = checked(val_labels, val_probabilities, "conformal_sets")
    new = np.asarray(test_probabilities, dtype=float)
    if new.ndim != 1 or np.isnan(new).any() or (len(new) and (new.min() < 0 or new.max() > 1)):
        raise ValueError(f"conformal_sets: test probabilities of shape {new.shape}; expected (m,) within [0, 1], none NaN")
    patients = np.asarray(range(len(truth)) if val_patients is None else val_patients, dtype=object)
    patient_codes(patients, len(truth), "conformal_sets")
    scores = np.where(truth, 1 - known, known)
    quantiles, few = {}, []
    for malignant, name in enumerate(CLASSES):
        members = truth == bool(malignant) if by_class else np.ones(len(truth), dtype=bool)
        quantiles[name] = conformal_quantile(scores[members], alpha, patients[members])
        if np.isinf(quantiles[name]):
            few.append((name if by_class else "validation", len(set(patients[members]))))
    table = sets_within(quantiles, new)
    if isinstance(test_probabilities, pd.Series):
        table.index = test_probabilities.index
    unit = "images" if val_patients is None else "patients"
    table.attrs |= {"alpha": alpha, "quantiles": quantiles, "note": _note(few, unit, alpha)}
    return table


def sets_within(quantiles: Mapping[str, float], probabilities: np.ndarray) -> pd.DataFrame:
    """The sets of images by quantiles that are known, with the columns of `conformal_sets`; probabilities: of malignancy (m,)."""
    benign = probabilities <= quantiles["benign"] + _ROUNDING
    malignant = 1 - probabilities <= quantiles["malignant"] + _ROUNDING
    return pd.DataFrame({"benign": benign, "malignant": malignant, "size": benign.astype(int) + malignant})


def _note(few: list[tuple[str, int]], unit: str, alpha: float) -> str:
    if not few:
        return ""
    found = " and ".join(dict.fromkeys(f"{count} {name} {unit}" for name, count in few))
    needed = int(np.ceil(1 / alpha - 1 - _ROUNDING))
    what = "every set is full" if len(few) == len(CLASSES) else f"{few[0][0]} is in every set"
    return f"{found}; {1 - alpha:.0%} coverage needs at least {needed}, so {what}"


def coverage(sets: pd.DataFrame, labels: Sequence[int], patients: Sequence[str]) -> pd.DataFrame:
    """How often the truth is in the set, over all test images and within each class, with intervals over patients.

    Args:
        sets: of `conformal_sets`.
        labels: 0 benign, 1 malignant, of the test images, shape (m,).
        patients: the patient of each, shape (m,). Both, where they are Series of the sets' cases, may have another order.

    Returns:
        rows "all", "benign", "malignant": `coverage` (`Estimate`, the share of a patient's images whose set holds the truth,
        mean over patients, who weigh alike as in the promise), `size` (`Estimate`, labels in a set), `images`, `patients`,
        `empty`, `single`, `both` (shares of sets of 0, 1 and 2 labels) and `single_right` (share of the sets of one label that
        hold the truth). NaN where there is no such image.
    """
    labels, patients = (
        values.reindex(sets.index) if isinstance(values, pd.Series) and set(values.index) == set(sets.index) else values
        for values in (labels, patients)
    )
    truth = checked_labels(labels, "coverage")
    codes, _ = patient_codes(patients, len(truth), "coverage")
    if len(sets) != len(truth):
        raise ValueError(f"coverage: {len(sets)} sets and {len(truth)} labels; expected one label for each set")
    held = np.where(truth, sets["malignant"], sets["benign"]).astype(bool)
    size, rows = sets["size"].to_numpy(), {}
    for name, members in {"all": np.ones(len(truth), dtype=bool), "benign": ~truth, "malignant": truth}.items():
        own = codes[members]
        single = size[members] == 1
        by_patient = pd.Series(held[members], dtype=float).groupby(own).mean()
        kept = patient_estimate(by_patient, by_patient.index, share=True)
        rows[name] = {
            "coverage": replace(kept, images=int(members.sum())),
            "size": patient_estimate(size[members], own),
            "images": int(members.sum()),
            "patients": len(np.unique(own)),
            **{key: _mean(size[members] == count) for count, key in enumerate(("empty", "single", "both"))},
            "single_right": _mean(held[members][single]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"conformal: alpha is {alpha}; expected a share in (0, 1), such as 0.1 for 90 % coverage")
