"""The networks by name, and the weights they start from."""

from __future__ import annotations

from thyroid_utils.models.architectures import CLASSIFIERS
from thyroid_utils.models.classifiers import Classifier, build_classifier, last_conv_layer, minimum_size, parameter_count
from thyroid_utils.models.joint import JOINT_MODELS, JointLogits, JointNetwork, OneAnswer, build_joint
from thyroid_utils.models.segmenter_architectures import SEGMENTERS, input_size, network_source, segmenter_facts
from thyroid_utils.models.segmenters import Segmenter, build_segmenter
from thyroid_utils.models.weights import WeightsError, check_weights, load_weights, weights_tag

__all__ = [
    "CLASSIFIERS",
    "JOINT_MODELS",
    "SEGMENTERS",
    "Classifier",
    "JointLogits",
    "JointNetwork",
    "OneAnswer",
    "Segmenter",
    "WeightsError",
    "build_classifier",
    "build_joint",
    "build_segmenter",
    "check_weights",
    "input_size",
    "last_conv_layer",
    "load_weights",
    "minimum_size",
    "network_source",
    "parameter_count",
    "segmenter_facts",
    "weights_tag",
]
