"""Benign against malignant: scores of a threshold, scores of the ranking, curves, and the choice of the threshold.

An image is called malignant where its probability is at or above the threshold. A score that its data do not define is NaN,
never 0 or 1: an average or a comparison must not mistake "cannot be said" for "bad".


Scores of many resamples at once: a resample is a column that says how often each patient was drawn.

Whatever is a sum over images (counts at a threshold, squared errors, calibration gaps) is one matrix product of patients' sums
and draws. What depends on the order of the probabilities (AUC, curves) needs that order once: drawing patients changes how often
an image counts, not where it ranks, so that a cumulative sum down the sorted images serves every column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from sklearn import metrics as reference

from thyroid_utils.scores.checks import checked, need_both_classes
from thyroid_utils.scores.probabilities import bin_index, expected_calibration_error, logit, recalibration

# Name in code → name in a table. In this order they are reported.
SCORES = {
    "auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "mcc": "MCC",
    "sensitivity_at_specificity": "sensitivity at fixed specificity",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
# A rate read off a curve may miss a wanted one by rounding only: 1 - 0.9 is a little below 0.1.
ROUNDING = 1e-9
RANKING = ("auc", "pr_auc", "sensitivity_at_specificity")
CALIBRATION = ("calibration_slope", "calibration_intercept")
TABLE = ("true_positives", "false_positives", "false_negatives", "true_negatives")


def classification_scores(
    labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5, *, specificity: float = 0.9, bins: int = 10
) -> dict[str, float]:
    """Every score of `SCORES` of one model on one set of images, each image counted once.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        threshold: for accuracy, balanced_accuracy, sensitivity, specificity, precision, f1 and mcc; chosen on validation
            (`choose_threshold`) or 0.5, never on these images.
        specificity: the one at which `sensitivity_at_specificity` is read off the ROC curve of these very images: the highest
            sensitivity of any threshold whose specificity is at least this. It describes the ranking; a threshold for use is
            chosen on validation.
        bins: equal bins for `ece`.

    Returns:
        name → value. pr_auc is the average precision Σ (R_k − R_{k−1})·P_k; brier the mean of (p − y)²; ece, slope and
        intercept as in `scores.probabilities`. NaN where undefined:

        - sensitivity without a malignant image, specificity without a benign one, precision where nothing is called malignant,
          f1 where there is no malignant image and none is called so;
        - with one class only: balanced_accuracy, mcc, auc, pr_auc, sensitivity_at_specificity, slope and intercept;
        - slope also where a threshold separates the classes without error: its likelihood has no maximum.

        mcc is 0 where both classes are present and all images are called the same: such calls carry no correlation.

    Raises:
        ValueError: no image, labels other than 0 and 1, probabilities outside [0, 1] or NaN, or lengths that differ.
    """
    truth, values = checked(labels, probabilities, "classification_scores")
    scores = {name: float(value) for name, value in scores_from_counts(**confusion_counts(truth, values, threshold)).items()}
    scores["brier"] = float(np.mean((values - truth) ** 2))
    scores["ece"] = expected_calibration_error(truth, values, bins)
    slope, intercept = recalibration(truth, logit(values))
    scores["calibration_slope"], scores["calibration_intercept"] = float(slope[0]), float(intercept[0])
    if truth.any() and not truth.all():
        scores["auc"] = float(reference.roc_auc_score(truth, values))
        scores["pr_auc"] = float(reference.average_precision_score(truth, values))
        curve = roc_curve(truth, values)
        within = curve["false_positive_rate"] <= 1 - specificity + ROUNDING
        scores["sensitivity_at_specificity"] = float(curve.loc[within, "sensitivity"].max())
    return {name: scores.get(name, float("nan")) for name in SCORES}


def confusion_counts(labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5) -> dict[str, int]:
    """true_positives, false_positives, false_negatives and true_negatives; positive is malignant, at or above the threshold."""
    truth, values = checked(labels, probabilities, "confusion_counts")
    if np.isnan(threshold):
        raise ValueError("confusion_counts: threshold is NaN; expected a number, such as choose_threshold gives")
    called = values >= threshold
    return {
        "true_positives": int((truth & called).sum()),
        "false_positives": int((~truth & called).sum()),
        "false_negatives": int((truth & ~called).sum()),
        "true_negatives": int((~truth & ~called).sum()),
    }


def scores_from_counts(
    true_positives: np.ndarray, false_positives: np.ndarray, false_negatives: np.ndarray, true_negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """The scores of a 2×2 table: numbers, or arrays of one shape holding many tables. NaN as in `classification_scores`.

    MCC = (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)); F1 = 2TP / (2TP+FP+FN);
    balanced accuracy = (sensitivity + specificity) / 2.
    """
    tables = (true_positives, false_positives, false_negatives, true_negatives)
    tp, fp, fn, tn = (np.asarray(count, dtype=float) for count in tables)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        # The root is taken of each pair: the product of four counts of a large set would lose digits.
        margins = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
        correlation = np.where((tp + fp == 0) | (tn + fn == 0), 0.0, (tp * tn - fp * fn) / margins)
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "mcc": np.where((tp + fn == 0) | (tn + fp == 0), np.nan, correlation),
        }


def roc_curve(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The ROC curve, every distinct probability a point, by falling `threshold`: `false_positive_rate`, `sensitivity`.

    The first point, (0, 0), has the threshold inf. Raises DataError with one class only.
    """
    truth, values = checked(labels, probabilities, "roc_curve")
    need_both_classes(truth, "roc_curve")
    false_positive_rate, sensitivity, thresholds = reference.roc_curve(truth, values, drop_intermediate=False)
    return pd.DataFrame({"threshold": thresholds, "false_positive_rate": false_positive_rate, "sensitivity": sensitivity})


def pr_curve(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The precision-recall curve, every distinct probability a point, by falling `threshold`: `recall`, `precision`.

    The first point, recall 0 and precision 1, is a convention with the threshold inf. Between points precision is a step, not a
    line. Raises DataError with one class only.
    """
    truth, values = checked(labels, probabilities, "pr_curve")
    need_both_classes(truth, "pr_curve")
    precision, recall, thresholds = reference.precision_recall_curve(truth, values)
    falling = {"threshold": np.append(thresholds, np.inf)[::-1], "recall": recall[::-1], "precision": precision[::-1]}
    return pd.DataFrame(falling)


def choose_threshold(
    labels: Sequence[int], probabilities: Sequence[float], rule: str = "youden", target: float | None = None
) -> float:
    """The threshold that a rule picks on validation images, to be applied to others unchanged.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        rule: "youden" (highest sensitivity + specificity − 1), "accuracy", "f1" or "mcc" (highest), "sensitivity" (highest
            specificity among those that reach `target` sensitivity) or "specificity" (the other way round).
        target: wanted rate in [0, 1] for the rules "sensitivity" and "specificity"; no other rule takes one.

    Returns:
        a number halfway between two neighbouring probabilities, so that it does not lean on one image's value; of equally good
        ones that nearest to 0.5. Above the highest probability (nothing malignant) it may exceed 1 by rounding.

    Raises:
        DataError: one class only.
        ValueError: an unknown rule, or a target that is missing, out of range or not wanted.
    """
    truth, values = checked(labels, probabilities, "choose_threshold")
    rules = ("youden", "accuracy", "f1", "mcc", "sensitivity", "specificity")
    if rule not in rules:
        raise ValueError(f"choose_threshold: rule is {rule!r}; expected one of {', '.join(rules)}")
    if (rule in ("sensitivity", "specificity")) != (target is not None):
        raise ValueError(f"choose_threshold: rule {rule!r} with target {target}; only sensitivity and specificity take one")
    if target is not None and not 0 <= target <= 1:
        raise ValueError(f"choose_threshold: target is {target}; expected a share in [0, 1]")
    need_both_classes(truth, "choose_threshold")
    distinct = np.unique(values)
    above = (distinct[-1] + 1) / 2 if distinct[-1] < 1 else np.nextafter(1, 2)
    thresholds = np.concatenate([[distinct[0] / 2], (distinct[1:] + distinct[:-1]) / 2, [above]])
    tp = truth.sum() - np.searchsorted(np.sort(values[truth]), thresholds)
    fp = (~truth).sum() - np.searchsorted(np.sort(values[~truth]), thresholds)
    scores = scores_from_counts(tp, fp, truth.sum() - tp, (~truth).sum() - fp)
    if rule == "youden":
        quality = scores["balanced_accuracy"]
    elif target is None:
        quality = scores[rule]
    else:
        other = "specificity" if rule == "sensitivity" else "sensitivity"
        quality = np.where(scores[rule] >= target - ROUNDING, scores[other], -1.0)
    best = quality >= quality.max() - ROUNDING
    return float(min(thresholds[best], key=lambda threshold: abs(threshold - 0.5)))


class Ranked:
    """Images of one model by falling probability, ready to be counted with any weights.

    Args:
        truth: bool (n,), True for malignant.
        probabilities: of malignancy, (n,).
        codes: the patient of each image, int (n,).
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, codes: np.ndarray) -> None:
        order = np.argsort(-probabilities, kind="stable")
        self.codes = codes[order]
        self.truth = truth[order].astype(float)[:, None]
        # Images of equal probability cross a threshold together: the curve has a point only at the last of each such run.
        self.ends = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))

    def curve(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at each distinct probability as threshold, (distinct, m), for counts (patients, m)."""
        weights = counts[self.codes]
        true_positives = np.cumsum(weights * self.truth, axis=0)
        false_positives = np.cumsum(weights, axis=0, out=weights)
        false_positives -= true_positives
        if len(self.ends) < len(self.codes):
            return true_positives[self.ends], false_positives[self.ends]
        return true_positives, false_positives

    def scores(self, counts: np.ndarray, names: Iterable[str], specificity: float) -> dict[str, np.ndarray]:
        """Those of the scores `RANKING` that `names` holds, each (m,); NaN where a column has one class only."""
        true_positives, false_positives = self.curve(counts)
        malignant, benign = true_positives[-1], false_positives[-1]
        found = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if "auc" in names:
                # Trapezoids between the points are the Mann-Whitney statistic with half for ties.
                widths, heights = np.diff(false_positives, axis=0), true_positives[1:] + true_positives[:-1]
                area = (np.einsum("ij,ij->j", widths, heights) + false_positives[0] * true_positives[0]) / 2
                found["auc"] = area / (malignant * benign)
            if "pr_auc" in names:
                called = true_positives + false_positives
                precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
                gains = np.diff(true_positives, axis=0, prepend=0)
                found["pr_auc"] = np.einsum("ij,ij->j", gains, precision) / malignant
            if "sensitivity_at_specificity" in names:
                allowed = false_positives <= (1 - specificity + ROUNDING) * benign
                found["sensitivity_at_specificity"] = (true_positives * allowed).max(axis=0) / malignant
        both = (malignant > 0) & (benign > 0)
        return {name: np.where(both, values, np.nan) for name, values in found.items()}


class Scorer:
    """The scores of one model for any number of times that each patient counts.

    Args:
        truth: bool (n,), True for malignant.
        probabilities: of malignancy, (n,).
        codes: the patient of each image, int (n,), below `patients`.
        names: some of `SCORES`.
        threshold, specificity, bins: as in `classification_scores`.
    """

    def __init__(
        self,
        truth: np.ndarray,
        probabilities: np.ndarray,
        codes: np.ndarray,
        patients: int,
        names: tuple[str, ...],
        threshold: float,
        specificity: float,
        bins: int,
    ) -> None:
        self.names, self.specificity, self.codes, self.truth = names, specificity, codes, truth
        self.ranked = Ranked(truth, probabilities, codes) if set(names) & set(RANKING) else None
        self.logits = logit(probabilities) if set(names) & set(CALIBRATION) else None
        called = probabilities >= threshold
        table = np.column_stack([truth & called, ~truth & called, truth & ~called, ~truth & ~called])
        gap = probabilities - truth
        gaps = np.zeros((len(truth), bins))
        gaps[np.arange(len(truth)), bin_index(probabilities, np.arange(1, bins) / bins)] = gap
        by_image = np.column_stack([table, gap**2, gaps])
        self.sums = np.zeros((patients, by_image.shape[1]))
        np.add.at(self.sums, codes, by_image)

    def __call__(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Score name → values (m,), for counts (patients, m); NaN where `classification_scores` has NaN."""
        sums = counts.T @ self.sums
        images = sums[:, :4].sum(axis=1)
        found = scores_from_counts(**dict(zip(TABLE, sums[:, :4].T, strict=True)))
        found["brier"] = sums[:, 4] / images
        found["ece"] = np.abs(sums[:, 5:]).sum(axis=1) / images
        if self.ranked is not None:
            found |= self.ranked.scores(counts, self.names, self.specificity)
        if self.logits is not None:
            found |= dict(zip(CALIBRATION, recalibration(self.truth, self.logits, counts[self.codes]), strict=True))
        return {name: found[name] for name in self.names}

    def patients_behind(self, name: str) -> int:
        """Patients with an image in the denominator of a proportion; 0 for a score that is no proportion of images."""
        columns = {"accuracy": [0, 1, 2, 3], "sensitivity": [0, 2], "specificity": [1, 3], "precision": [0, 1]}.get(name)
        return int((self.sums[:, columns].sum(axis=1) > 0).sum()) if columns else 0


def checked_names(names: str | tuple[str, ...], where: str) -> tuple[str, ...]:
    """Names of scores as a tuple. Raises ValueError for one that is not in `SCORES`."""
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"{where}: no score {', '.join(map(repr, unknown)) or 'named'}; expected some of {', '.join(SCORES)}")
    return names
