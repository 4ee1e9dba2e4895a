"""Losses on the logits of an image's classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from thyroid_utils.models import number


class ClassificationLoss(nn.Module):
    """What the losses on logits (batch, classes) and labels int64 (batch,) share: class weights and the check of shapes.

    Labels are class numbers from 0; the result is a scalar, computed in float32 whatever the logits' precision.
    """

    def __init__(self, class_weights: Sequence[float] | torch.Tensor | None = None):
        super().__init__()
        if class_weights is not None:
            class_weights = torch.as_tensor(class_weights, dtype=torch.float32)
            if class_weights.ndim != 1 or not bool((torch.isfinite(class_weights) & (class_weights > 0)).all()):
                raise ValueError(f"class_weights must be one positive number a class; found {class_weights.tolist()}")
        self.register_buffer("class_weights", class_weights, persistent=False)

    def _check(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype != torch.int64 or not len(labels):
            raise ValueError(
                "expected logits (batch, classes) and labels (batch,) of type int64; "
                f"found {tuple(logits.shape)} and {tuple(labels.shape)} of type {str(labels.dtype).removeprefix('torch.')}"
            )
        for name, values in self.named_buffers():
            if len(values) != logits.shape[1]:
                raise ValueError(f"{name} has {len(values)} values for {logits.shape[1]} classes; give one a class")


class CrossEntropy(ClassificationLoss):
    """Cross-entropy of the softmax.

    ℓ_i = -w_y Σ_c q_c log p_c with q the labels smoothed by s: 1 - s + s/C at the label and s/C elsewhere, each term weighted
    by its own class's w; the result is Σ ℓ_i / Σ w_{y_i}, PyTorch's weighted mean.

    Args:
        class_weights: w, one positive number a class; None for 1.
        label_smoothing: s, in [0, 1).
    """

    def __init__(self, class_weights: Sequence[float] | torch.Tensor | None = None, label_smoothing: float = 0.0):
        super().__init__(class_weights)
        self.label_smoothing = number("label_smoothing", label_smoothing, 0, 1, below=True)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self._check(logits, labels)
        return functional.cross_entropy(logits.float(), labels, weight=self.class_weights, label_smoothing=self.label_smoothing)


class Focal(ClassificationLoss):
    """Focal loss on the softmax (Lin et al. 2017; paper 001): ℓ_i = -w_y α_y (1 - p_y)^γ log p_y.

    The result is Σ ℓ_i / Σ w_{y_i}: the mean over the batch without class weights, and with γ = 0 and no α exactly the
    weighted cross-entropy. For two classes and no weights it is the usual sigmoid form on the difference of the logits.

    Args:
        class_weights: w, one positive number a class; None for 1. They come on top of α.
        alpha: with two classes one number in [0, 1], α of class 1, class 0 getting 1 - α, as Lin has it; or one number a
            class; None for 1. Paper 001 gives no value, and 0.25 is Lin's. Note that it weighs class 1, the malignant one,
            three times less than class 0: Lin found that right together with γ = 2, which itself spares the easy class.
        gamma: γ, 0 or more.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | torch.Tensor | None = None,
        alpha: float | Sequence[float] | None = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__(class_weights)
        values = None
        if alpha is not None:
            shares = [number("alpha", value, 0, 1) for value in (alpha if isinstance(alpha, Sequence) else [alpha])]
            values = torch.tensor([1 - shares[0], shares[0]] if not isinstance(alpha, Sequence) else shares)
        self.register_buffer("alpha", values, persistent=False)
        self.gamma = number("gamma", gamma)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self._check(logits, labels)
        log_p = functional.log_softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
        # 1 - p without cancellation; the floor keeps the gradient of (1 - p)^γ finite at p = 1 for γ < 1.
        missed = (-torch.expm1(log_p)).clamp(min=torch.finfo(torch.float32).tiny)
        losses = -(missed**self.gamma) * log_p
        if self.alpha is not None:
            losses = losses * self.alpha[labels]
        if self.class_weights is None:
            return losses.mean()
        weights = self.class_weights[labels]
        return (weights * losses).sum() / weights.sum()


CLASSIFICATION_LOSSES: dict[str, Callable[..., nn.Module]] = {"cross_entropy": CrossEntropy, "focal": Focal}
