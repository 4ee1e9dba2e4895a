"""How well predictions agree with the truth: labels (decisions, ranking, calibration) and masks (overlap, outline, nodules)."""

from thyroid_utils.scores.metrics.calibration import (
    Platt,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    logit,
    recalibration,
    reliability_table,
)
from thyroid_utils.scores.metrics.classification import (
    SCORES,
    choose_threshold,
    classification_scores,
    confusion_counts,
    pr_curve,
    roc_curve,
    scores_from_counts,
)
from thyroid_utils.scores.metrics.decisions import aurc, benefit_values, decision_curve, risk_coverage
from thyroid_utils.scores.metrics.lesions import LESION_SCORES, lesion_scores
from thyroid_utils.scores.metrics.masks import binarise
from thyroid_utils.scores.metrics.segmentation import (
    COUNTS,
    OVERLAP_SCORES,
    PRESENCE,
    SEGMENTATION_SCORES,
    overlap_scores,
    pixel_counts,
    pooled_scores,
    segmentation_scores,
    segmentation_summary,
    segmentation_table,
)
from thyroid_utils.scores.metrics.surface import SURFACE_SCORES, surface_distances, surface_scores

__all__ = [
    "COUNTS",
    "LESION_SCORES",
    "OVERLAP_SCORES",
    "PRESENCE",
    "SCORES",
    "SEGMENTATION_SCORES",
    "SURFACE_SCORES",
    "Platt",
    "aurc",
    "benefit_values",
    "binarise",
    "choose_threshold",
    "classification_scores",
    "confusion_counts",
    "decision_curve",
    "expected_calibration_error",
    "fit_platt",
    "fit_temperature",
    "lesion_scores",
    "logit",
    "overlap_scores",
    "pixel_counts",
    "pooled_scores",
    "pr_curve",
    "recalibration",
    "reliability_table",
    "risk_coverage",
    "roc_curve",
    "scores_from_counts",
    "segmentation_scores",
    "segmentation_summary",
    "segmentation_table",
    "surface_distances",
    "surface_scores",
]
