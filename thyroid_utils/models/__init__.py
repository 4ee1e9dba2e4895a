"""The networks by name, and the weights they start from."""

from __future__ import annotations

from thyroid_utils.models.architectures import CLASSIFIERS, Architecture
from thyroid_utils.models.classifiers import (
    Classifier,
    build_classifier,
    input_size,
    last_conv_layer,
    minimum_size,
    parameter_count,
)
from thyroid_utils.models.weights import WeightsError, check_weights, load_weights, weights_tag

SEGMENTERS: dict[str, Architecture] = {}

__all__ = [
    "CLASSIFIERS",
    "SEGMENTERS",
    "Classifier",
    "WeightsError",
    "build_classifier",
    "check_weights",
    "input_size",
    "last_conv_layer",
    "load_weights",
    "minimum_size",
    "parameter_count",
    "weights_tag",
]
