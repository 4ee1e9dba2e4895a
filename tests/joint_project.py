"""A tiny segmenter with an encoder of smp's form and a tiny config, for the tests of joint runs."""

from __future__ import annotations

from collections.abc import Callable

from segmentation_project import segmentation_config
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.models import Architecture
from thyroid_utils.models.segmenters import SEGMENTERS


def _block(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class TinyEncoder(nn.Module):
    """Maps at full, half and quarter size in a list, the deepest last."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.out_channels = [in_channels, width, 2 * width]
        self.to_half, self.to_quarter = _block(in_channels, width), _block(width, 2 * width)

    def forward(self, images):
        half = self.to_half(images)
        return [images, half, self.to_quarter(half)]


class TinyJoinable(nn.Module):
    """A segmenter on that encoder's last map."""

    multiple = 4

    def __init__(self, in_channels: int, classes: int, width: int = 6):
        super().__init__()
        self.encoder = TinyEncoder(in_channels, width)
        self.head = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(2 * width, classes, 1), nn.Upsample(scale_factor=4))

    def forward(self, images):
        return self.head(self.encoder(images)[-1])


def register_tiny_joint(registry: Callable[[str, Architecture], None] = SEGMENTERS.__setitem__) -> None:
    """Enter it as `tiny_joint`, a segmenter that `build_joint` takes."""
    registry("tiny_joint", Architecture(TinyJoinable, size=64))


def joint_config(**changes) -> RunConfig:
    """Three epochs of the tiny joint network on some twenty phantoms of 64 pixels; changes as for `tiny_config`."""
    values = {"task": "joint", "model__name": "tiny_joint", "training__monitor": "loss"}
    return segmentation_config(**{**values, **changes})
