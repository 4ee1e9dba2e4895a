"""SegNet of Badrinarayanan, Kendall and Cipolla (IEEE TPAMI 2017), which paper 004 compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.vgg import make_layers

VGG16_WIDTHS = (64, 128, 256, 512, 512)  # channels of VGG16's five stages
VGG16_DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each


class SegNet(nn.Module):
    """VGG16's convolutions, and the same in reverse order, where each unpooling remembers where the maximum was.

    (batch, in_channels, height, width) → logits (batch, classes, height, width). The encoder is VGG16 without its dense layers,
    each convolution with batch normalisation and ReLU, which is torchvision's vgg16_bn: names and shapes are kept, so that its
    ImageNet weights fit (`encoder_values`). The decoder mirrors it stage by stage (Figure 2): values go back to the places
    that pooling took them from, zeros elsewhere (Figure 3), and as many convolutions as in the encoder's stage make them dense.

    What is ambiguous: whether the last of the 13 decoder convolutions gives features for a further classifier or the classes
    themselves; here the classes, which leaves 13 as the text counts them. Whether the decoder has ReLU: the paper leaves it out
    in its small SegNet-Basic only, so here it has. Published are 117 MB, which at four bytes are 29.3 million parameters, and
    29.45 million in comparisons that count them (12 classes of CamVid).

    Biases in front of the encoder's batch normalisations have no effect; they are there because torchvision's file has them.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        widths: channels of the five stages.
    """

    multiple = 32
    minimum = 32

    def __init__(self, in_channels: int = 3, classes: int = 1, widths: Sequence[int] = VGG16_WIDTHS):
        super().__init__()
        self.encoder = vgg16_features(in_channels, widths, batch_norm=True)
        following = (widths[0], *widths[:-1])  # what a decoder stage hands to the next finer one
        stages = [
            _decoder_stage(width, after, depth) for width, after, depth in zip(widths, following, VGG16_DEPTHS, strict=True)
        ]
        stages[0] = _decoder_stage(widths[0], widths[0], VGG16_DEPTHS[0] - 1)  # `head` is its last convolution
        self.decoder = nn.ModuleList(reversed(stages))
        self.head = nn.Conv2d(widths[0], classes, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # "the technique described in He et al."
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        places = []
        for layer in self.encoder:
            if isinstance(layer, nn.MaxPool2d):
                maps, indices = functional.max_pool2d(maps, 2, return_indices=True)
                places.append(indices)
            else:
                maps = layer(maps)
        # (batch, widths[-1], height / 32, width / 32)
        for stage, indices in zip(self.decoder, reversed(places), strict=True):
            maps = stage(unpooled(maps, indices))  # twice as high and wide
        return self.head(maps)

    @staticmethod
    def encoder_values(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """From torchvision's state dict of vgg16_bn what belongs into a SegNet's, under its names."""
        return {f"encoder.{key.removeprefix('features.')}": state[key] for key in state if key.startswith("features.")}


def _decoder_stage(channels: int, after: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(1, depth + 1):
        out = after if number == depth else channels
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def vgg16_features(in_channels: int, widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """The convolutions of torchvision's vgg16 or vgg16_bn, poolings included, without making its 120 million dense weights.

    Raises:
        ValueError: other than five widths.
    """
    if len(widths) != len(VGG16_DEPTHS):
        raise ValueError(f"VGG16 has five stages; widths must name one number of channels each; found {tuple(widths)}")
    layout: list[str | int] = []
    for width, depth in zip(widths, VGG16_DEPTHS, strict=True):
        layout += [*[width] * depth, "M"]
    features = make_layers(layout, batch_norm=batch_norm)
    if in_channels != 3:
        features[0] = nn.Conv2d(in_channels, widths[0], 3, padding=1)
    return features


def unpooled(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """What 2×2 max-pooling left, back at the places it was taken from, with zeros elsewhere.

    Every value is spread over its 2×2 window and kept where the window's index names that place. PyTorch's own unpooling
    writes to the places instead, which it refuses to do where deterministic algorithms are asked for.

    Args:
        values: (batch, channels, height, width).
        indices: the same shape; place in the larger map, row by row, as max_pool2d returns them.

    Returns:
        (batch, channels, 2 height, 2 width).
    """
    height, width = 2 * values.shape[-2], 2 * values.shape[-1]
    place = torch.arange(height * width, device=values.device).view(height, width)
    return torch.where(_spread(indices) == place, _spread(values), 0)


def _spread(maps: torch.Tensor) -> torch.Tensor:
    """Each value four times, in a square. Unlike resizing this works on whole numbers, too."""
    return maps.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
