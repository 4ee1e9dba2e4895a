"""What is wrong with a data set before a model sees it: copies, leaks, mask noise, burned-in marks."""

from __future__ import annotations

from thyroid_utils.data.audit.masks import MaskProblem, clean_mask, mask_problems
from thyroid_utils.data.audit.pixels import connected_groups, patient_groups, pixel_groups, pixel_hash, pixel_hashes
from thyroid_utils.data.audit.report import Audit, audit_cases
from thyroid_utils.data.audit.videos import VideoQuality, recover_videos, video_recovery_quality, videos_as_patients

__all__ = [
    "Audit",
    "MaskProblem",
    "VideoQuality",
    "audit_cases",
    "clean_mask",
    "connected_groups",
    "mask_problems",
    "patient_groups",
    "pixel_groups",
    "pixel_hash",
    "pixel_hashes",
    "recover_videos",
    "video_recovery_quality",
    "videos_as_patients",
]
