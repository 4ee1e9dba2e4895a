"""Image to network input: named steps, the papers' presets, and the store that keeps their results."""

from __future__ import annotations

from thyroid_utils.preprocess.base import STEPS, Sample, Step
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.preprocess.presets import PRESETS, Preset
from thyroid_utils.preprocess.store import ArrayStore, preprocessed

__all__ = ["PRESETS", "STEPS", "ArrayStore", "Geometry", "Pipeline", "Preset", "Sample", "Step", "build_pipeline", "preprocessed"]
