"""Explanations that are measured: maps, where they point, whether the network depends on what they show, whether they survive
random weights."""

from __future__ import annotations

from thyroid_utils.studies.grad_cam.attention import MEASURES, attention_scores, attention_table, centre_prior
from thyroid_utils.studies.grad_cam.faithfulness import deletion_insertion, deletion_insertion_curves, road
from thyroid_utils.studies.grad_cam.sanity import compare_maps, randomisation_curve, randomisation_table, randomised, stages
from thyroid_utils.studies.grad_cam.shape import FEATURES, compare_shapes, mask_shapes, shape_table, threshold_sweep
from thyroid_utils.studies.grad_cam.shape_claim import ClaimAnswer, claim_answer
from thyroid_utils.studies.grad_cam.shortcut import shortcut_answer, shortcut_scores, shortcut_table
from thyroid_utils.studies.grad_cam.study import MapStudy, study_maps

__all__ = [
    "FEATURES",
    "MEASURES",
    "ClaimAnswer",
    "MapStudy",
    "attention_scores",
    "attention_table",
    "centre_prior",
    "claim_answer",
    "compare_maps",
    "compare_shapes",
    "deletion_insertion",
    "deletion_insertion_curves",
    "mask_shapes",
    "randomisation_curve",
    "randomisation_table",
    "randomised",
    "road",
    "shape_table",
    "shortcut_answer",
    "shortcut_scores",
    "shortcut_table",
    "stages",
    "study_maps",
    "threshold_sweep",
]
