"""From an image to the logits of its classes, under one interface for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from thyroid_utils.models.architectures import architecture, timm_fixed_size
from thyroid_utils.models.weights import check_weights, load_weights

_AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss, as in the paper of Inception (Szegedy et al. 2015)


class Classifier(nn.Module):
    """A network and what the rest of the workbook has to know about it. Made by `build_classifier`.

    Maps float (batch, in_channels, height, width) to logits (batch, classes). Where `auxiliary_weight` is above 0 (Inception
    v3) a model in training mode returns (logits, auxiliary logits), and the loss is that of the first plus `auxiliary_weight`
    times that of the second.

    name, in_channels, classes, options: as it was built. network: the architecture's own module. weights: what it started
    from, as text for tables. minimum_size: smallest height and width in pixels. fixed_size: the only height and width it
    takes, None for nearly all models.
    """

    def __init__(self, name: str, in_channels: int, classes: int, options: dict[str, Any]):
        super().__init__()
        facts = architecture(name)
        self.name, self.in_channels, self.classes, self.options = name, in_channels, classes, options
        self.network = facts(name, in_channels, classes, options)
        self.weights = "from scratch"
        self.minimum_size = facts.minimum
        self.fixed_size = timm_fixed_size(self.network, options) if facts.first is None else None
        has_auxiliary_head = getattr(self.network, "AuxLogits", None) is not None
        self.auxiliary_weight = _AUXILIARY_WEIGHT if has_auxiliary_head else 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits.

        Raises:
            ValueError: another number of channels, an image too small for the network, or a training batch of one image where
                the network normalises over the batch.
        """
        self._check(images)
        result = self.network(images)
        return tuple(result) if isinstance(result, tuple) else result

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.name}: expected images (batch, {self.in_channels}, height, width); found {tuple(images.shape)}; "
                "build the model with in_channels as the preprocessing gives them"
            )
        self.check_size(images.shape[2], images.shape[3])
        if self.training and len(images) == 1 and any(isinstance(m, _BatchNorm) and m.training for m in self.modules()):
            raise ValueError(
                f"{self.name}: a training batch of one image; batch normalisation needs two or more: "
                "raise the batch size, or leave out the last, incomplete batch of an epoch"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError that names the limit unless the model takes images of this size in pixels."""
        if self.fixed_size is not None and (height, width) != (self.fixed_size, self.fixed_size):
            raise ValueError(
                f"{self.name}: takes images of {self.fixed_size}×{self.fixed_size} pixels only; found {height}×{width}; "
                "preprocess to that size, or build it with the option img_size"
            )
        if min(height, width) < self.minimum_size:
            raise ValueError(
                f"{self.name}: images of {height}×{width} pixels are too small; its minimum is "
                f"{self.minimum_size}×{self.minimum_size}; raise the size in preprocessing"
            )


def build_classifier(
    name: str, *, in_channels: int = 3, classes: int = 2, weights: str | Path = "none", **options: Any
) -> Classifier:
    """A classifier by its name.

    Args:
        name: one of `CLASSIFIERS`, or `timm:NAME` with any name that timm knows, such as timm:resnet18.a1_in1k.
        in_channels: channels of the images, 1 or more.
        classes: number of logits, 2 or more.
        weights: "imagenet", "none" or a file; see `load_weights`.
        options: the architecture's own: hidden (units of the two hidden layers) and dropout for alexnet, vgg16 and vgg19;
            auxiliary (whether there is an auxiliary head) and dropout for inception_v3; layers, heads and dropout for
            resnet18_transformer; dropout and stochastic_depth where the architecture has them; for timm what timm takes.

    Returns:
        `Classifier` in training mode. Random values come from PyTorch's generator: the same seed gives the same model.

    Raises:
        ValueError: an unknown model or option (the nearest name is given), or a number out of range.
        WeightsError: weights that are missing, damaged or of another model.
    """
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f"model {name}: in_channels must be a whole number from 1; found {in_channels!r}")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"model {name}: classes must be a whole number from 2; found {classes!r}")
    check_weights(name, weights)
    model = Classifier(name, in_channels, classes, options)
    load_weights(model, weights, name)
    return model


def minimum_size(name: str) -> int:
    """Smallest height and width in pixels of a classifier's images."""
    return architecture(name).minimum


def input_size(name: str) -> int:
    """Side in pixels of the square images that a classifier was published with."""
    return architecture(name).size


def parameter_count(model: nn.Module) -> int:
    """Number of trainable values of a model, auxiliary heads included."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def last_conv_layer(model: Classifier) -> nn.Module:
    """The module whose output is the last feature map, float (batch, channels, height, width), as Grad-CAM needs it.

    It is the output with its activation function, where it has one, and in front of any pooling.

    Raises:
        ValueError: a model that works on tokens and has no such map.
    """
    last_map = architecture(model.name).last_map
    if last_map is None and model.name.startswith("timm:"):
        last_map = _timm_last_map(model)
    if last_map is None:
        raise ValueError(
            f"{model.name}: works on tokens and has no feature map behind a convolution; Grad-CAM needs another model"
        )
    return model.network.get_submodule(last_map)


def _timm_last_map(model: Classifier) -> str | None:
    """timm names its last stage, but whether that puts out a map with the channels in front only a trial shows."""
    stage = model.network.feature_info[-1] if getattr(model.network, "feature_info", None) else None
    if stage is None:
        return None
    shapes = []
    module = model.network.get_submodule(stage["module"])
    hook = module.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(getattr(output, "shape", ()))))
    training = model.training
    model.eval()
    try:
        side = model.fixed_size or input_size(model.name)
        parameter = next(model.parameters())
        with torch.no_grad():
            model(torch.zeros(1, model.in_channels, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        hook.remove()
        model.train(training)
    is_map = bool(shapes) and len(shapes[0]) == 4 and shapes[0][1] == stage["num_chs"]
    return stage["module"] if is_map else None
