"""The loss of a network that segments and classifies at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from thyroid_utils.models.losses.classification import CrossEntropy
from thyroid_utils.models.losses.options import number

if TYPE_CHECKING:
    from thyroid_utils.models.joint import JointLogits


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
        self.classification_weight = number("classification_weight", classification_weight, 0, math.inf, below=True)

    def forward(self, logits: JointLogits, truth: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Scalar, of a batch's logits and its truth: masks bool (batch, height, width) and labels int64 (batch,)."""
        masks, labels = truth
        return self.segmentation(logits.pixels, masks) + self.classification_weight * self.classification(logits.image, labels)
