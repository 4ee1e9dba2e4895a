"""A tiny segmenter and a tiny config for the tests of segmentation runs; the ledger's helpers are those of `training_project`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from training_project import tiny_config

from thyroid_utils.common.config import RunConfig
from thyroid_utils.models import Architecture
from thyroid_utils.models.segmenters import SEGMENTERS


def tiny_segmenter(in_channels: int, classes: int, width: int = 6, dropout: float = 0.2) -> nn.Module:
    """A stride, batch normalisation, dropout and interpolation: all that a resumed run could get wrong."""
    network = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=2, dilation=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(width, classes, 1),
    )
    network.multiple = 2
    return network


def register_tiny_segmenter(registry: Callable[[str, Architecture], None] = SEGMENTERS.__setitem__) -> None:
    """Enter it as `tiny_segmenter`."""
    registry("tiny_segmenter", Architecture(tiny_segmenter, size=64))


def segmentation_config(**changes) -> RunConfig:
    """Three epochs of the tiny segmenter on some twenty phantoms of 64 pixels; changes as for `tiny_config`."""
    values = {"task": "segmentation", "model__name": "tiny_segmenter", "loss__name": "bce_dice", "preprocessing": "plain"}
    return tiny_config(**{**values, "training__monitor": "dice", **changes})
