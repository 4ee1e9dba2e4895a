"""One network for both questions: a segmenter whose encoder also answers benign or malignant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thyroid_utils.models.segmenter_architectures import SEGMENTERS
from thyroid_utils.models.segmenters import Segmenter, check_numbers
from thyroid_utils.models.weights import check_weights, load_weights

# Whose encoder is one of segmentation_models_pytorch's: called with images it gives a list of maps, the deepest last.
JOINT_MODELS = tuple(name for name, facts in SEGMENTERS.items() if facts.encoder is not None and not facts.encoder.own)
_CLASSES = 2  # benign, malignant


@dataclass(frozen=True)
class JointLogits:
    """Both answers of a joint network.

    image: float (batch, 2), logits of benign and malignant. pixels: float (batch, 1 or 2, height, width), a segmenter's logits.
    """

    image: torch.Tensor
    pixels: torch.Tensor

    def float(self) -> JointLogits:
        """Both in float32."""
        return JointLogits(self.image.float(), self.pixels.float())


class JointNetwork(Segmenter):
    """A segmenter with a second head: the mean over the places of its encoder's deepest map, dropout, a linear layer.

    Maps float (batch, in_channels, height, width) to `JointLogits`. All else is as in `Segmenter`; where images are mirrored to a
    size that the network takes, the second head sees the mirrored part too. Made by `build_joint`.
    """

    def __init__(self, name: str, in_channels: int, classes: int, options: dict[str, Any], head_dropout: float):
        super().__init__(name, in_channels, classes, options)
        encoder = getattr(self.network, "encoder", None)
        channels = getattr(encoder, "out_channels", None)
        if not isinstance(channels, list | tuple):
            raise ValueError(
                f"model {name}: has no encoder whose deepest map a second head could read; choose one of "
                f"{', '.join(JOINT_MODELS)} or smp:ARCH:ENCODER"
            )
        self.head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(channels[-1], _CLASSES))
        self._deepest: torch.Tensor | None = None
        encoder.register_forward_hook(self._keep)

    def _keep(self, encoder: nn.Module, images: Any, maps: Any) -> None:
        deepest = maps[-1]
        if not isinstance(deepest, torch.Tensor) or deepest.ndim != 4 or deepest.shape[1] != self.head[-1].in_features:
            raise ValueError(f"model {self.name}: its encoder ends in no map of places; choose one of {', '.join(JOINT_MODELS)}")
        self._deepest = deepest

    def forward(self, images: torch.Tensor) -> JointLogits:
        """Both logits. Raises ValueError as `Segmenter.forward`."""
        pixels = super().forward(images)
        deepest, self._deepest = self._deepest, None  # not held beyond the pass, whose graph it would keep in memory
        return JointLogits(self.head(deepest.mean(dim=(2, 3))), pixels)


class OneAnswer(nn.Module):
    """A joint network seen as a classifier ("image") or a segmenter ("pixels"): logits of that answer alone, same weights.

    For what explains or samples a network by its output, such as `explain.cam_maps` (with `layer=target_layer(network)`) and
    `uncertainty.mc_dropout`. name, in_channels: the network's. classes: 2 for "image", else the network's.
    """

    def __init__(self, network: JointNetwork, answer: str):
        super().__init__()
        if answer not in ("image", "pixels"):
            raise ValueError(f"answer must be image or pixels; found {answer!r}")
        self.joint, self.answer = network, answer
        self.name, self.in_channels = network.name, network.in_channels
        self.classes = _CLASSES if answer == "image" else network.classes
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 2), or (batch, classes, height, width)."""
        return getattr(self.joint(images), self.answer)


def build_joint(
    name: str,
    *,
    in_channels: int = 3,
    classes: int = 1,
    weights: str | Path = "none",
    head_dropout: float = 0.2,
    **options: Any,
) -> JointNetwork:
    """A segmenter with a class head on its encoder's deepest map.

    Args:
        name: one of `JOINT_MODELS`, or `smp:ARCH:ENCODER`.
        in_channels, classes, options: as for `build_segmenter`; `classes` are those of the pixels, the head has two.
        weights: "imagenet" (for the encoder), "none" or a file with the whole segmenter; the class head begins at random.
        head_dropout: in [0, 1), in front of the class head's linear layer.

    Returns:
        `JointNetwork` in training mode; the same seed of PyTorch's generator gives the same model.

    Raises:
        ValueError: an unknown model or option, a number out of range, or a network without such an encoder.
        WeightsError: weights that are missing, damaged or of another model.
    """
    check_numbers(name, in_channels, classes)
    if isinstance(head_dropout, bool) or not isinstance(head_dropout, int | float) or not 0 <= head_dropout < 1:
        raise ValueError(f"model {name}: head_dropout must be a number from 0 to below 1; found {head_dropout!r}")
    check_weights(name, weights, options=options)
    model = JointNetwork(name, in_channels, classes, options, head_dropout)
    load_weights(model, weights, name)
    return model
