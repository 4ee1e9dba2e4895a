"""One training run, from a config to a finished folder: `fit_or_load`, the only way a network is trained."""

from __future__ import annotations

from thyroid_utils.training.errors import TrainingError
from thyroid_utils.training.fit import fit_or_load

__all__ = ["TrainingError", "fit_or_load"]
