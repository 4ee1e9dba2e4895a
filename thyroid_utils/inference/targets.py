"""What of a network's output is explained, as pytorch-grad-cam's targets: called with the output of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from thyroid_utils.models.networks import Segmenter
from thyroid_utils.training.tasks import THRESHOLD, nodule_probability

Target = Callable[[torch.Tensor], torch.Tensor]
NODULE = "nodule"


class ClassLogit:
    """The logit of a class (number from 0) of a classifier's output (classes,)."""

    def __init__(self, number: int):
        self.number = number

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return output[self.number]


class ClassProbability(ClassLogit):
    """The same as a probability in [0, 1], by softmax."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return torch.softmax(output, dim=0)[self.number]


class PixelLogits:
    """The mean nodule logit of chosen pixels, bool (height, width), of a segmenter's output (classes, height, width)."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels = pixels

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return output[min(1, len(output) - 1)][self.pixels].mean()


class PixelProbability(PixelLogits):
    """Their mean probability of nodule, in [0, 1]."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return nodule_probability(output[None])[0][self.pixels].mean()


def image_targets(
    network: nn.Module, images: torch.Tensor, target: int | str, *, probability: bool = False
) -> tuple[Sequence[Target], np.ndarray]:
    """A target for each image.

    Args:
        network: in evaluation mode.
        images: (batch, channels, height, width), on the network's device.
        target: the number of a class; for a segmenter 1 or "nodule", the pixels that it calls nodule in that image, once and
            for all versions of the image (Seg-Grad-CAM), and all pixels where it calls none.
        probability: of the class or pixels instead of the logit.

    Returns:
        targets, and bool (batch,): the segmenter calls no pixel nodule.

    Raises:
        ValueError: a class or target that the network does not have.

    Reference:
        Vinogradova, Dibrov and Myers, AAAI 2020 (Seg-Grad-CAM), who take the sum over the pixels: the same map, but in
        Score-CAM's softmax a sum over thousands leaves a single channel.
    """
    if not isinstance(network, Segmenter):
        classes = getattr(network, "classes", None)
        if isinstance(target, bool) or not isinstance(target, int) or target < 0 or (classes is not None and target >= classes):
            raise ValueError(f"target is {target!r}; a classifier needs a class, 0 to {'…' if classes is None else classes - 1}")
        kind = ClassProbability if probability else ClassLogit
        return [kind(target)] * len(images), np.zeros(len(images), bool)
    if target not in (1, NODULE) or network.classes > 2:
        raise ValueError(
            f"target is {target!r} of {network.classes} classes; a segmenter is explained for its nodule pixels only"
        )
    with torch.no_grad():
        called = nodule_probability(network(images)) >= THRESHOLD  # (batch, height, width)
    none_called = ~called.flatten(1).any(dim=1)
    called[none_called] = True
    kind = PixelProbability if probability else PixelLogits
    return [kind(pixels) for pixels in called], none_called.cpu().numpy()
