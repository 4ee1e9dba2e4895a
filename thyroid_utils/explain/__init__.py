"""Explanations that are measured: maps, where they point, whether the network depends on what they show, whether they survive
random weights."""

from __future__ import annotations

from thyroid_utils.explain.attention import MEASURES, attention_scores, attention_table, centre_prior
from thyroid_utils.explain.cam import CAM_METHODS, CamMaps, cam_maps
from thyroid_utils.explain.faithfulness import deletion_insertion, deletion_insertion_curves, road
from thyroid_utils.explain.layers import TargetLayer, target_layer
from thyroid_utils.explain.sanity import compare_maps, randomisation_curve, randomisation_table, randomised, stages
from thyroid_utils.explain.shape import FEATURES, compare_shapes, mask_shapes, shape_table, threshold_sweep
from thyroid_utils.explain.shape_claim import ClaimAnswer, claim_answer
from thyroid_utils.explain.shortcut import shortcut_answer, shortcut_scores, shortcut_table
from thyroid_utils.explain.study import MapStudy, study_maps

__all__ = [
    "CAM_METHODS",
    "FEATURES",
    "MEASURES",
    "CamMaps",
    "ClaimAnswer",
    "MapStudy",
    "TargetLayer",
    "attention_scores",
    "attention_table",
    "cam_maps",
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
    "target_layer",
    "threshold_sweep",
]
