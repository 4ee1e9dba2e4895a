"""How well probabilities of malignancy agree with the labels: decisions, ranking and calibration."""

from thyroid_utils.metrics.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    logit,
    recalibration,
    reliability_table,
)
from thyroid_utils.metrics.classification import (
    SCORES,
    choose_threshold,
    classification_scores,
    confusion_counts,
    pr_curve,
    roc_curve,
    scores_from_counts,
)

__all__ = [
    "SCORES",
    "apply_temperature",
    "choose_threshold",
    "classification_scores",
    "confusion_counts",
    "expected_calibration_error",
    "fit_temperature",
    "logit",
    "pr_curve",
    "recalibration",
    "reliability_table",
    "roc_curve",
    "scores_from_counts",
]
