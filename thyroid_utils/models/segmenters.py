"""From an image to the logits of every pixel, under one interface for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from thyroid_utils.models.segmenter_architectures import SEGMENTERS, InputRule, segmenter_architecture, segmenter_facts
from thyroid_utils.models.unet import cropped, mirrored
from thyroid_utils.models.weights import check_weights, load_weights

__all__ = ["SEGMENTERS", "InputRule", "Segmenter", "build_segmenter", "segmenter_facts"]


class Segmenter(nn.Module):
    """A network and what the rest of the workbook has to know about it. Made by `build_segmenter`.

    Maps float (batch, in_channels, height, width) to logits (batch, classes, height, width), any height and width from 1. An
    image of a size that the network does not take (`input_rule`) is continued on all four sides by mirroring, as often as
    needed, up to the next size that it takes, and the logits are cropped to the image.

    name, in_channels, classes, options: as it was built. network: the architecture's own module. weights: what it started
    from, as text for tables. minimum_size: smallest height and width in pixels, 1. auxiliary_weight: 0, as there are no
    auxiliary heads.
    """

    minimum_size = 1
    auxiliary_weight = 0.0

    def __init__(self, name: str, in_channels: int, classes: int, options: dict[str, Any]):
        super().__init__()
        facts = segmenter_architecture(name)
        self.name, self.in_channels, self.classes, self.options = name, in_channels, classes, options
        self.network = facts(name, in_channels, classes, options)
        self.weights = "from scratch"
        self.input_rule = facts.input_rule(self.network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits.

        Raises:
            ValueError: another number of channels, an image without pixels, or a training batch of one image where the network
                normalises over a batch of single values.
        """
        self._check(images)
        height, width = images.shape[-2:]
        taken = self.input_rule.side(height), self.input_rule.side(width)
        if taken != (height, width):
            images = mirrored(images, *taken)
        try:
            logits = self.network(images)
        except ValueError as error:
            # PyTorch's batch normalisation; which layer sees a single place depends on the image's size.
            if not self.training or "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{self.name}: a training batch of one image of {height}×{width} pixels; a batch normalisation of this network "
                "sees a single value a channel there and needs two or more: raise the batch size, or leave out the last, "
                "incomplete batch of an epoch"
            ) from None
        return cropped(logits, height, width)

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.name}: expected images (batch, {self.in_channels}, height, width); found {tuple(images.shape)}; "
                "build the model with in_channels as the preprocessing gives them"
            )
        self.check_size(images.shape[2], images.shape[3])

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError unless images of this size have pixels; every other size is taken."""
        if min(height, width) < self.minimum_size:
            raise ValueError(f"{self.name}: images of {height}×{width} pixels are empty; its minimum is 1×1")


def check_numbers(name: str, in_channels: int, classes: int) -> None:
    """Raise ValueError unless both are whole numbers from 1."""
    for what, number in (("in_channels", in_channels), ("classes", classes)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"model {name}: {what} must be a whole number from 1; found {number!r}")


def build_segmenter(
    name: str, *, in_channels: int = 3, classes: int = 1, weights: str | Path = "none", **options: Any
) -> Segmenter:
    """A segmenter by its name.

    Args:
        name: one of `SEGMENTERS`, or `smp:ARCH:ENCODER` with any architecture and encoder of segmentation_models_pytorch,
            such as smp:fpn:resnet34 or, with an encoder of timm's, smp:unet:tu-convnext_tiny.
        in_channels: channels of the images, 1 or more.
        classes: maps of logits: 1 (nodule, for a sigmoid), 2 (background and nodule, for a softmax) or more.
        weights: "imagenet" (for the encoder), "none" or a file with the whole network; see `load_weights`.
        options: the architecture's own; for an `smp:` model smp's, under its names.

    Returns:
        `Segmenter` in training mode. Random values come from PyTorch's generator: the same seed gives the same model.

    Raises:
        ValueError: an unknown model or option (the nearest name is given), or a number out of range.
        WeightsError: weights that are missing, damaged or of another model.
    """
    check_numbers(name, in_channels, classes)
    check_weights(name, weights, options=options)
    model = Segmenter(name, in_channels, classes, options)
    load_weights(model, weights, name)
    return model
