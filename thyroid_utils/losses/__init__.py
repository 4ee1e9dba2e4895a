"""What training minimises, by name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from thyroid_utils.losses.borders import border_weights
from thyroid_utils.losses.classification import CLASSIFICATION_LOSSES, ClassificationLoss, CrossEntropy, Focal
from thyroid_utils.losses.example import loss_values
from thyroid_utils.losses.segmentation import SEGMENTATION_LOSSES, SegmentationLoss
from thyroid_utils.preprocess.pipeline import nearest

_LOSSES = {"classification": CLASSIFICATION_LOSSES, "segmentation": SEGMENTATION_LOSSES}


def build_loss(task: str, name: str, *, class_weights: Sequence[float] | torch.Tensor | None = None, **options: Any) -> nn.Module:
    """A loss by its name.

    Args:
        task: "classification" or "segmentation".
        name: one of `CLASSIFICATION_LOSSES` or `SEGMENTATION_LOSSES`.
        class_weights: one positive number a class, or None; for classification only.
        options: the loss's own, such as label_smoothing, or alpha and gamma.

    Returns:
        module (logits, labels) → scalar, or (logits, masks) → scalar.

    Raises:
        ValueError: an unknown task, loss or option (the nearest name is given), a value out of range, or class weights for a
            segmentation loss.
    """
    if task not in _LOSSES:
        raise ValueError(f"task {task!r} has no losses; {nearest(task, _LOSSES)}")
    losses = _LOSSES[task]
    if name not in losses:
        raise ValueError(f"{task} loss {name!r} is unknown; {nearest(name, losses)}")
    known = [option for option in inspect.signature(losses[name]).parameters if option != "class_weights"]
    for option in options:
        if option not in known:
            raise ValueError(f"loss {name}: no option {option!r}; {nearest(option, known)}")
    if task == "classification":
        return losses[name](class_weights=class_weights, **options)
    if class_weights is not None:
        raise ValueError(
            f"loss {name} takes no class_weights; nodule and background are weighed by alpha of focal, alpha and beta of "
            "tversky and focal_tversky, or nodule_weight of bce and border_cross_entropy"
        )
    return losses[name](**options)


__all__ = [
    "CLASSIFICATION_LOSSES",
    "SEGMENTATION_LOSSES",
    "ClassificationLoss",
    "CrossEntropy",
    "Focal",
    "SegmentationLoss",
    "border_weights",
    "build_loss",
    "loss_values",
]
