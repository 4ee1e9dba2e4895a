"""What training minimises, by name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from thyroid_utils.common.errors import nearest
from thyroid_utils.models.losses.borders import border_weights
from thyroid_utils.models.losses.classification import CLASSIFICATION_LOSSES, ClassificationLoss, CrossEntropy, Focal
from thyroid_utils.models.losses.joint import JointLoss
from thyroid_utils.models.losses.segmentation import SEGMENTATION_LOSSES, SegmentationLoss

_LOSSES = {"classification": CLASSIFICATION_LOSSES, "segmentation": SEGMENTATION_LOSSES, "joint": SEGMENTATION_LOSSES}

_JOINT_OPTION = "classification_weight"


def build_loss(task: str, name: str, *, class_weights: Sequence[float] | torch.Tensor | None = None, **options: Any) -> nn.Module:
    """A loss by its name.

    Args:
        task: "classification", "segmentation" or "joint", which adds the cross-entropy of the class (`JointLoss`).
        name: one of `CLASSIFICATION_LOSSES`, or for the others of `SEGMENTATION_LOSSES`.
        class_weights: one positive number a class, or None; not for segmentation.
        options: the loss's own, such as label_smoothing, or alpha and gamma; for joint also classification_weight.

    Returns:
        module (logits, labels) → scalar, (logits, masks) → scalar, or (`JointLogits`, (masks, labels)) → scalar.

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
    known += [_JOINT_OPTION] * (task == "joint")
    for option in options:
        if option not in known:
            raise ValueError(f"loss {name}: no option {option!r}; {nearest(option, known)}")
    if task == "classification":
        return losses[name](class_weights=class_weights, **options)
    if task == "joint":
        weight = {_JOINT_OPTION: options.pop(_JOINT_OPTION)} if _JOINT_OPTION in options else {}
        return JointLoss(losses[name](**options), class_weights, **weight)
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
    "JointLoss",
    "SegmentationLoss",
    "border_weights",
    "build_loss",
]
