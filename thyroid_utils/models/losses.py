"""What training minimises, by name. Adding a loss is a class and a line in `CLASSIFICATION_LOSSES` or `SEGMENTATION_LOSSES`.

Losses on pixels take logits of one class (sigmoid) or two (softmax; class 1 is the nodule). The softmax of two logits is the
sigmoid of their difference, so that each loss is written once, on that difference; both forms give the same number. Region losses
are computed image by image and averaged: a small nodule counts as much as a large one, as in the mean Dice that is reported.

Where a library's loss does what its name says it is used; what decided against the others is said at each loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from thyroid_utils.common.errors import nearest
from thyroid_utils.models import check_options, number, own_options

if TYPE_CHECKING:
    from thyroid_utils.models.networks import JointLogits

_SMOOTH = 1.0  # s of Tversky and Dice, pixels
_PIXELS = (1, 2, 3)  # of an image, with its one channel


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


class SegmentationLoss(nn.Module):
    """What the losses share: checks, one or two classes, float32.

    A loss has `on_margin(margin, truth)`, of the nodule's log-odds and the truth, 0 or 1, both (batch, 1, height, width).

    Logits (batch, C, height, width), C 1 or 2, float of any precision; masks bool (batch, height, width). The result is a
    scalar, computed in float32, or in float64 where the logits are.
    """

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        fits = logits.ndim == 4 and logits.shape[1] in (1, 2) and masks.shape == (len(logits), *logits.shape[2:])
        if not fits or masks.dtype != torch.bool or not logits.numel() or not logits.is_floating_point():
            found = [f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}" for given in (logits, masks)]
            raise ValueError(
                "expected logits (batch, 1 or 2, height, width) and masks bool (batch, height, width); "
                f"found {found[0]} and {found[1]}"
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        margin = logits[:, :1] if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]
        # (batch, 1, height, width) both
        return self.on_margin(margin, masks[:, None].to(margin.dtype))


class BinaryCrossEntropy(SegmentationLoss):
    """BCE (papers 000 and 004): mean over pixels of −w·y log p − (1 − y) log(1 − p). PyTorch's.

    Args:
        nodule_weight: w, above 0; 1 in the papers.
    """

    def __init__(self, nodule_weight: float = 1.0):
        super().__init__()
        self.nodule_weight = number("nodule_weight", nodule_weight, above=True)

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(margin, truth, pos_weight=margin.new_full((), self.nodule_weight))


class Tversky(SegmentationLoss):
    """Tversky loss (Salehi et al. 2017; paper 003): 1 − (TP + s) / (TP + α·FP + β·FN + s).

    TP = Σ p·y, FP = Σ p·(1 − y), FN = Σ (1 − p)·y over the pixels of an image, then the mean over images.
    segmentation_models_pytorch's sums over the batch, and drops images without a nodule from value and gradient. With s,
    1 pixel, a false alarm on an empty truth costs 1 − s / (α·FP + s) and is pushed down; an empty prediction for it costs 0, a
    full one for a full truth too.

    Args:
        alpha: α, of false positives; 0.3 in paper 003.
        beta: β, of false negatives; 0.7 in paper 003.
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7):
        super().__init__()
        self.alpha, self.beta = number("alpha", alpha), number("beta", beta)

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return self.of_images(margin, truth).mean()

    def of_images(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """The loss of each image."""
        p = margin.sigmoid()
        hit = (p * truth).sum(_PIXELS)
        false_alarm, missed = (p * (1 - truth)).sum(_PIXELS), ((1 - p) * truth).sum(_PIXELS)
        return 1 - (hit + _SMOOTH) / (hit + self.alpha * false_alarm + self.beta * missed + _SMOOTH)


class Dice(SegmentationLoss):
    """Soft Dice (Milletari et al. 2016): 1 − (2·Σ p·y + s) / (Σ p + Σ y + s), and otherwise as `Tversky`."""

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        p = margin.sigmoid()
        overlap, both = (p * truth).sum(_PIXELS), p.sum(_PIXELS) + truth.sum(_PIXELS)
        return (1 - (2 * overlap + _SMOOTH) / (both + _SMOOTH)).mean()


class BinaryCrossEntropyDice(SegmentationLoss):
    """BCE + 1 − Dice, 1:1 as in paper 000's Eq. 21; its abstract says Dice alone."""

    def __init__(self):
        super().__init__()
        self._cross_entropy, self._dice = BinaryCrossEntropy(), Dice()

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return self._cross_entropy.on_margin(margin, truth) + self._dice.on_margin(margin, truth)


class FocalPixels(SegmentationLoss):
    """Focal loss (Lin et al. 2017): mean over pixels of −α_y (1 − p_y)^γ log p_y, α of the nodule and 1 − α of the rest.

    torchvision's. Lin divides by the number of positives, which images without a nodule do not have.

    Args:
        alpha: in [0, 1]; None for no weights. 0.25 is Lin's, right together with γ = 2.
        gamma: γ, 0 or at least 1: between them the gradient at a pixel that is surely right is not finite.
    """

    def __init__(self, alpha: float | None = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha = -1.0 if alpha is None else number("alpha", alpha, 0, 1)
        self.gamma = number("gamma", gamma)
        if 0 < self.gamma < 1:
            raise ValueError(f"gamma must be 0 or at least 1 for a gradient that is finite everywhere; found {gamma!r}")

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return sigmoid_focal_loss(margin, truth, self.alpha, self.gamma, reduction="mean")


class FocalTversky(Tversky):
    """Focal Tversky loss (Abraham and Khan 2019): mean over images of T^(1/γ), T the Tversky loss of an image.

    segmentation_models_pytorch raises the mean over the batch, and to γ instead.

    Args:
        alpha, beta: as for `Tversky`; the paper's 0.7 of false negatives and 0.3 of false positives.
        gamma: γ, at least 1; 4/3 in the paper. An image that is all but right pulls the stronger the larger γ is.
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3):
        super().__init__(alpha, beta)
        self.gamma = number("gamma", gamma, 1)

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        # The slope of T^(1/γ) has no bound at 0, where an image is surely right: below the floor it is 0.
        return self.of_images(margin, truth).clamp(min=1e-6).pow(1 / self.gamma).mean()


class BorderCrossEntropy(SegmentationLoss):
    """Cross-entropy with U-Net's border weights (Ronneberger et al. 2015; paper 002): Σ w·ℓ / Σ w over the batch's pixels.

    ℓ is the cross-entropy of a pixel and w as in `border_weights`. The division, which U-Net does not have,
    keeps the size of the loss, and with it the learning rate, that of plain cross-entropy. The weights are computed from the
    masks at every call, on the CPU: masks are augmented anew each time, so that nothing is gained by keeping them.

    Args:
        weight: w0, 0 or more; 10 in the paper.
        sigma: σ in pixels of the network's input, above 0; 5 in the paper.
        nodule_weight: w_c of the nodule, above 0; the background's is 1.
        separation_only: weigh what lies between nodules and not every outline, as U-Net does.
    """

    def __init__(self, weight: float = 10.0, sigma: float = 5.0, nodule_weight: float = 1.0, separation_only: bool = False):
        super().__init__()
        self.separation_only = separation_only
        self.weight = number("weight", weight)
        self.sigma = number("sigma", sigma, above=True)
        self.nodule_weight = number("nodule_weight", nodule_weight, above=True)

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        maps = [
            torch.from_numpy(border_weights(mask, self.weight, self.sigma, self.nodule_weight, self.separation_only))
            for mask in (truth[:, 0] > 0.5).cpu().numpy()
        ]
        weights = torch.stack(maps)[:, None].to(margin)
        return functional.binary_cross_entropy_with_logits(margin, truth, weight=weights, reduction="sum") / weights.sum()


def border_weights(
    mask: np.ndarray, weight: float = 10.0, sigma: float = 5.0, nodule_weight: float = 1.0, separation_only: bool = False
) -> np.ndarray:
    """w = w_c + w0·exp(−(d1 + d2)² / 2σ²) of Ronneberger et al. 2015, for outlines as paper 002 wants them weighted.

    d1 is the distance to the border of the nearest nodule and d2 to that of the second nearest, on either side of it; a
    nodule is an 8-connected part, its border its pixels with a side on background or on the image's edge.

    U-Net keeps touching cells apart with this, and gives the outline of a cell without neighbours no weight. Paper 002 weighs
    outlines, and most images here have one nodule. So d2 is taken to be d1, which is the larger weight of the two readings
    and the same one half-way between two nodules; a stray speck elsewhere in the mask changes nothing for the nodule.

    Args:
        mask: bool (height, width).
        weight: w0, 0 or more.
        sigma: σ in pixels, above 0.
        nodule_weight: w_c of the nodule's pixels; the background's is 1.
        separation_only: U-Net's own reading: d2 is that of the second nearest nodule, without which there is no weight.

    Returns:
        float32 (height, width): w_c + w0 on a border and w_c far from it; without a nodule all 1.
    """
    base = np.where(mask, np.float32(nodule_weight), np.float32(1))
    if not mask.any():
        return base
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    nearest = second = np.full(mask.shape, np.inf, np.float32)
    for label in range(1, count):
        nodule = (labels == label).astype(np.uint8)
        inside = cv2.erode(nodule, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        distance = cv2.distanceTransform(1 - (nodule ^ inside), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    both = nearest + (second if separation_only else nearest)
    return base + np.float32(weight) * np.exp(-(both**2) / np.float32(2 * sigma**2))


class Lovasz(SegmentationLoss):
    """Lovász hinge (Berman et al. 2018), the convex surrogate of 1 − IoU on log-odds. segmentation_models_pytorch's.

    With an empty truth it is the hinge of the worst pixel alone, with a full truth the mean hinge of all.
    """

    def __init__(self):
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss  # takes seconds to import

        self._loss = LovaszLoss("binary", per_image=True)

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        # The library's weights of the sorted errors are float32 whatever comes in.
        return self._loss(margin[:, 0].float(), truth[:, 0].float())


class HausdorffDistance(SegmentationLoss):
    """Hausdorff-distance loss (Karimi and Salcudean 2020): log(1 + mean of (p − y)²·(d_p^α + d_y^α)) + 1 − Dice.

    d_p and d_y are each pixel's distance to the border of the predicted (p > 0.5) and of the true mask, in pixels; 0 everywhere
    where a mask is empty or full. MONAI's LogHausdorffDTLoss: without the logarithm the first epochs, wrong far from the nodule,
    outweigh all others a hundredfold. As in the paper Dice is added: without a border the distance term alone has no gradient.

    Args:
        alpha: α, 1 or more; 2 in the paper.
    """

    def __init__(self, alpha: float = 2.0):
        super().__init__()
        # A second's import, which other losses need not wait for
        from monai.losses import LogHausdorffDTLoss

        alpha = number("alpha", alpha, 1)
        self._distance, self._dice = LogHausdorffDTLoss(alpha=alpha, include_background=True, sigmoid=True), Dice()

    def on_margin(self, margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return self._distance(margin, truth) + self._dice.on_margin(margin, truth)


SEGMENTATION_LOSSES: dict[str, Callable[..., SegmentationLoss]] = {
    "bce": BinaryCrossEntropy,
    "dice": Dice,
    "bce_dice": BinaryCrossEntropyDice,
    "tversky": Tversky,
    "focal": FocalPixels,
    "focal_tversky": FocalTversky,
    "border_cross_entropy": BorderCrossEntropy,
    "lovasz": Lovasz,
    "hausdorff_dt": HausdorffDistance,
}


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


_LOSSES = {"classification": CLASSIFICATION_LOSSES, "segmentation": SEGMENTATION_LOSSES, "joint": SEGMENTATION_LOSSES}


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
        ValueError: an unknown loss or option (the nearest name is given), a value out of range, or class weights for a
            segmentation loss.

    >>> logits, labels = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> round(build_loss("classification", "focal", gamma=2)(logits, labels).item(), 4)
    0.0652
    """
    losses, is_joint = _LOSSES[task], task == "joint"
    if name not in losses:
        raise ValueError(f"{task} loss {name!r} is unknown; {nearest(name, losses)}")
    known = own_options(losses[name], ["class_weights", "args", "kwargs"]) + ["classification_weight"] * is_joint
    check_options(f"loss {name}", options, known)
    if is_joint:
        weight = options.pop("classification_weight", 1.0)
        return JointLoss(losses[name](**options), class_weights, weight)
    if task == "classification":
        return losses[name](class_weights=class_weights, **options)
    if class_weights is not None:
        raise ValueError(
            f"loss {name} takes no class_weights; nodule and background are weighed by alpha of focal, alpha and beta of "
            "tversky and focal_tversky, or nodule_weight of bce and border_cross_entropy"
        )
    return losses[name](**options)
