"""Residual U-Nets: the one that paper 004 chose, and the one it wishes for, on a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


class ResidualUnit(nn.Module):
    """Twice batch normalisation, ReLU, 3×3 convolution; their input is added to the result (Zhang et al. 2018, Figure 1b).

    The input takes a 1×1 convolution on its way where the number of channels or the stride changes, and is added as it is
    otherwise.

    Args:
        in_channels, out_channels: channels before and behind.
        stride: of the first convolution.
        first: the unit reads the image, and begins with the convolution (the paper's level 1).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: bool = False):
        super().__init__()
        self.activation = nn.Identity() if first else nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.shortcut(maps) + self.convolutions(self.activation(maps))


class ResidualUNet(nn.Module):
    """U-Net of residual units.

    (batch, in_channels, height, width) → logits (batch, classes, height, width). Paper 004 says no more than that its network
    is a U-Net "with integrated residual blocks". Two published networks are that:

    - design "zhang": the Deep Residual U-Net of Zhang, Liu and Wang (IEEE GRSL 2018), Table I: three units down, the first
      convolution of the second and the third with stride 2 instead of a pooling; one as the bridge, with stride 2; three up,
      each on the doubled coarser map joined with the skip; a 1×1 convolution. How maps are doubled is not said: here values are
      repeated. How the input is added where channels change is not said either: here by a 1×1 convolution. The 15 convolutions
      of the table have 7.8 million parameters, as published; the 1×1 convolutions of the added inputs, 0.43 million more, are
      not among them.
    - design "monai": the residual U-Net of Kerfoot et al. (STACOM 2018) as MONAI has it (`monai.networks.nets.UNet` with
      num_res_units=2, PReLU), with batch normalisation and an own 1×1 convolution behind it. MONAI's network alone ends in
      units with one channel a class, normalised there: over one image, as by its default, that fixes the mean of the logits of
      every image, with a nodule or without. Its finest map is at half the image's size.

    "zhang" is the default, for its published table and number of parameters.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        widths: channels of each level, finest first.
        design: "zhang" or "monai".

    Raises:
        ValueError: another design.
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 1, widths: Sequence[int] = (64, 128, 256, 512), design: str = "zhang"
    ):
        super().__init__()
        if design not in ("zhang", "monai"):
            raise ValueError(f"residual_unet: design must be zhang or monai; found {design!r}")
        self.multiple = 2 ** (len(widths) - 1)
        self.body = _ZhangBody(in_channels, widths) if design == "zhang" else _monai_body(in_channels, widths)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


class _ZhangBody(nn.Module):
    """Everything in front of the last 1×1 convolution: (batch, in_channels, …) → (batch, widths[0], …)."""

    def __init__(self, in_channels: int, widths: Sequence[int]):
        super().__init__()
        steps = list(pairwise(widths))  # (finer, coarser) channels
        self.encoder = nn.ModuleList(
            [ResidualUnit(in_channels, widths[0], first=True), *(ResidualUnit(fine, coarse, 2) for fine, coarse in steps)]
        )
        self.decoder = nn.ModuleList(ResidualUnit(coarse + fine, fine) for fine, coarse in reversed(steps))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        skips = []
        for unit in self.encoder:
            maps = unit(maps)  # (batch, widths[level], height / 2^level, width / 2^level)
            skips.append(maps)
        for unit, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            maps = unit(torch.cat([doubled(maps), skip], dim=1))
        return maps


def _monai_body(in_channels: int, widths: Sequence[int]) -> nn.Module:
    from monai.networks.nets import UNet  # slow to import, and only this design needs it

    strides = (2,) * (len(widths) - 1)
    # The normalisation behind each convolution would take a bias out again.
    return UNet(2, in_channels, widths[0], tuple(widths), strides, num_res_units=2, norm="batch", bias=False)


class PretrainedResidualUNet(nn.Module):
    """A decoder of residual units on an encoder that ImageNet weights exist for: 004's "pre-trained backbones".

    (batch, in_channels, height, width) → logits (batch, classes, height, width). The paper names the wish, not a network: the
    encoder is segmentation-models-pytorch's ResNet18, which suits sets of some hundred images on two cores; the decoder doubles
    the coarsest map five times (values repeated), joins the encoder's map of the same size where there is one, and has one
    `ResidualUnit` a level; then a 1×1 convolution.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        pretrained: whether the encoder begins with ImageNet values.
        widths: channels of the decoder's five levels, coarsest first (the library's own U-Net has the same).
    """

    multiple = 32

    def __init__(
        self, in_channels: int = 3, classes: int = 1, pretrained: bool = False, widths: Sequence[int] = (256, 128, 64, 32, 16)
    ):
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder  # takes seconds to import

        self.encoder = get_encoder("resnet18", in_channels, depth=5, weights="imagenet" if pretrained else None)
        coarsest, *skips = reversed(self.encoder.out_channels[1:])
        self.decoder = nn.ModuleList(
            ResidualUnit(before + skip, after)
            for before, skip, after in zip((coarsest, *widths[:-1]), (*skips, 0), widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps, *skips = reversed(self.encoder(images)[1:])  # (batch, channels, height / 32, width / 32), then finer and finer
        for unit, skip in zip(self.decoder, (*skips, None), strict=True):
            maps = doubled(maps)
            maps = unit(maps if skip is None else torch.cat([maps, skip], dim=1))
        return self.head(maps)


def doubled(maps: torch.Tensor) -> torch.Tensor:
    """Each value of maps (batch, channels, height, width) four times, in a square."""
    return functional.interpolate(maps, scale_factor=2, mode="nearest")
