"""What training minimises, by name. Adding a loss is a class in `classification` or `segmentation` and a line in its registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thyroid_utils.common.errors import nearest
from thyroid_utils.models import check_options, number, own_options
from thyroid_utils.models.losses.classification import CLASSIFICATION_LOSSES, CrossEntropy
from thyroid_utils.models.losses.segmentation import SEGMENTATION_LOSSES

if TYPE_CHECKING:
    from thyroid_utils.models.networks import JointLogits

_LOSSES = {"classification": CLASSIFICATION_LOSSES, "segmentation": SEGMENTATION_LOSSES, "joint": SEGMENTATION_LOSSES}


class JointLoss(nn.Module):
    """segmentation loss + w · cross-entropy of the class.

    Args:
        segmentation: a loss of `SEGMENTATION_LOSSES`, built.
        class_weights: of the cross-entropy, one positive number a class; None for 1.
        classification_weight: w, 0 or more; with 0 the class head is not trained.
    """

    def __init__(
        self,
        segmentation: nn.Module,
        class_weights: Sequence[float] | torch.Tensor | None = None,
        classification_weight: float = 1.0,
    ):
        super().__init__()
        self.segmentation, self.classification = segmentation, CrossEntropy(class_weights)
        self.classification_weight = number("classification_weight", classification_weight)

    def forward(self, logits: JointLogits, truth: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Scalar, of a batch's logits and its truth: masks bool (batch, height, width) and labels int64 (batch,)."""
        masks, labels = truth
        return self.segmentation(logits.pixels, masks) + self.classification_weight * self.classification(logits.image, labels)


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

    >>> logits, labels = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> round(build_loss("classification", "focal", gamma=2)(logits, labels).item(), 4)
    0.0652
    """
    if task not in _LOSSES:
        raise ValueError(f"task {task!r} has no losses; {nearest(task, _LOSSES)}")
    losses = _LOSSES[task]
    if name not in losses:
        raise ValueError(f"{task} loss {name!r} is unknown; {nearest(name, losses)}")
    of_joint = ["classification_weight"] if task == "joint" else []
    check_options(f"loss {name}", options, own_options(losses[name], ["class_weights"]) + of_joint)
    if task == "classification":
        return losses[name](class_weights=class_weights, **options)
    if task == "joint":
        weight = {key: options.pop(key) for key in of_joint if key in options}
        return JointLoss(losses[name](**options), class_weights, **weight)
    if class_weights is not None:
        raise ValueError(
            f"loss {name} takes no class_weights; nodule and background are weighed by alpha of focal, alpha and beta of "
            "tversky and focal_tversky, or nodule_weight of bce and border_cross_entropy"
        )
    return losses[name](**options)
