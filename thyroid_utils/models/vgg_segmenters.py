"""The two segmenters made of VGG16: SegNet of Badrinarayanan, Kendall and Cipolla (IEEE TPAMI 2017), which paper 004 compares
with, and FCN-8s of Long, Shelhamer and Darrell (CVPR 2015), which paper 003 compares with."""

from __future__ import annotations  # part of the names of finished runs, by `network_source`

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.vgg import make_layers
from torchvision.ops import Conv2dNormActivation

from thyroid_utils.models.weights import fill, published_values

_WIDTHS = (64, 128, 256, 512, 512)  # channels of VGG16's five stages
_DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each
_SCORE_SD = 0.01  # of the first values of FCN's scoring convolutions


def _features(in_channels: int, widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """The convolutions of torchvision's vgg16 or vgg16_bn, poolings included, without making its 120 million dense weights."""
    layout: list[str | int] = []
    for width, depth in zip(widths, _DEPTHS, strict=True):
        layout += [*[width] * depth, "M"]
    features = make_layers(layout, batch_norm=batch_norm)
    if in_channels != 3:
        features[0] = nn.Conv2d(in_channels, widths[0], 3, padding=1)
    return features


def _begin(network: nn.Module) -> None:
    """First values of every convolution as He et al. 2015 have them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class SegNet(nn.Module):
    """VGG16's convolutions, and the same in reverse order, where each unpooling remembers where the maximum was.

    (batch, in_channels, height, width) → logits (batch, classes, height, width). The encoder is VGG16 without its dense layers,
    each convolution with batch normalisation and ReLU, which is torchvision's vgg16_bn: names and shapes are kept, so that its
    ImageNet weights fit. The decoder mirrors it stage by stage (Figure 2): values go back to the places
    that pooling took them from, zeros elsewhere (Figure 3), and as many convolutions as in the encoder's stage make them dense.

    What is ambiguous: whether the last of the 13 decoder convolutions gives features for a further classifier or the classes
    themselves; here the classes, which leaves 13 as the text counts them. Whether the decoder has ReLU: the paper leaves it out
    in its small SegNet-Basic only, so here it has. Published are 117 MB, which at four bytes are 29.3 million parameters, and
    29.45 million in comparisons that count them (12 classes of CamVid).

    Biases in front of the encoder's batch normalisations have no effect; they are there because torchvision's file has them.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        pretrained: whether to begin with VGG16's ImageNet values.
        widths: channels of the five stages.
    """

    multiple = 32

    def __init__(self, in_channels: int = 3, classes: int = 1, pretrained: bool = False, widths: Sequence[int] = _WIDTHS):
        super().__init__()
        self.encoder = _features(in_channels, widths, batch_norm=True)
        following = (widths[0], *widths[:-1])  # what a decoder stage hands to the next finer one
        stages = [_decoder_stage(*sizes) for sizes in zip(widths, following, _DEPTHS, strict=True)]
        # `head` is its last convolution
        stages[0] = _decoder_stage(widths[0], widths[0], _DEPTHS[0] - 1)
        self.decoder = nn.ModuleList(reversed(stages))
        self.head = nn.Conv2d(widths[0], classes, 3, padding=1)
        _begin(self)
        if pretrained:
            fill(self.encoder, published_values("vgg16_bn", "features."))

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


def _decoder_stage(channels: int, after: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(1, depth + 1):
        out = after if number == depth else channels
        layers += Conv2dNormActivation(channels, out)
    return nn.Sequential(*layers)


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
    values, indices = (maps.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1) for maps in (values, indices))
    return torch.where(indices == place, values, 0)


class FCN8s(nn.Module):
    """VGG16 as a fully convolutional network, with the scores of pool3 and pool4 added to those of its end (Figure 3).

    (batch, in_channels, height, width) → logits (batch, classes, height, width): VGG16's convolutions; its two dense layers as
    convolutions (7×7 and 1×1); a score a class at 1/32 of the size, doubled and added to pool4's scores at 1/16, doubled and
    added to pool3's at 1/8, and enlarged eight times. Enlarging is a transposed convolution that begins as bilinear
    interpolation; the first two learn, the last stays as it is (section 3.3 and 4.3 of the paper).

    `encoder` has the shapes of torchvision's vgg16, so that its ImageNet weights fit, as the paper begins; so do `dense6` and
    `dense7` where `hidden` is VGG16's 4096. Other choices:

    - The authors pad the image by 100 pixels and crop at the end. Here 7×7 is padded by 3, and an enlarged map continues its
      outermost values beyond the border, which leaves nothing to crop.
    - The paper's scoring layers begin at zero, so that nothing beneath them moves in the first step; here with small values.
    - The paper trains FCN-32s, then 16s, then 8s; here all at once.
    - No batch normalisation, as in the paper.

    134 million parameters, as in the paper's Table 1 (with 21 classes).

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        pretrained: whether to begin with VGG16's ImageNet values.
        widths: channels of VGG16's five stages.
        hidden: channels of the two former dense layers.
        dropout: share of values dropped behind each of them.
    """

    multiple = 32

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        pretrained: bool = False,
        widths: Sequence[int] = _WIDTHS,
        hidden: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.encoder = _features(in_channels, widths, batch_norm=False)
        self.dense6 = nn.Conv2d(widths[4], hidden, 7, padding=3)
        self.dense7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        _begin(self)
        self.score3, self.score4, self.score7 = (nn.Conv2d(width, classes, 1) for width in (widths[2], widths[3], hidden))
        for score in (self.score3, self.score4, self.score7):
            nn.init.normal_(score.weight, std=_SCORE_SD)
            nn.init.zeros_(score.bias)
        self.up7 = BilinearUp(classes, 2)
        self.up4 = BilinearUp(classes, 2)
        self.up3 = BilinearUp(classes, 8, learns=False)
        if pretrained:
            fill(self.encoder, published_values("vgg16", "features."))
            for layer, place in ((self.dense6, 0), (self.dense7, 3)):
                values = published_values("vgg16", f"classifier.{place}.")
                if hidden == len(values["bias"]):
                    layer.load_state_dict({"weight": values["weight"].reshape(layer.weight.shape), "bias": values["bias"]})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        pools = []
        for layer in self.encoder:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                # (batch, widths[number], height / 2^(number + 1), width / 2^(number + 1))
                pools.append(maps)
        # (batch, hidden, height / 32, width / 32)
        maps = self.dropout(torch.relu(self.dense6(maps)))
        maps = self.dropout(torch.relu(self.dense7(maps)))
        # (batch, classes, height / 16, width / 16)
        scores = self.up7(self.score7(maps)) + self.score4(pools[3])
        scores = self.up4(scores) + self.score3(pools[2])  # (batch, classes, height / 8, width / 8)
        return self.up3(scores)


class BilinearUp(nn.Module):
    """Maps (batch, channels, height, width) enlarged `factor` times by a transposed convolution that begins as bilinear.

    Beyond its border a map is taken to continue with its outermost values; a plain transposed convolution takes zeros and lets
    the scores fade there.

    Args:
        channels: of the maps.
        factor: an even number.
        learns: whether training changes the kernel, which then may mix channels.
    """

    def __init__(self, channels: int, factor: int, learns: bool = True):
        super().__init__()
        self.factor = factor
        self.groups = 1 if learns else channels
        kernel = bilinear_kernel(factor)
        if learns:
            weight = torch.zeros(channels, channels, *kernel.shape)
            weight[range(channels), range(channels)] = kernel
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([maps[..., :1, :], maps, maps[..., -1:, :]], dim=-2)
        maps = torch.cat([maps[..., :1], maps, maps[..., -1:]], dim=-1)
        # Half a kernel's overhang and the one added value are cut off on each side.
        cut = self.factor // 2 + self.factor
        return functional.conv_transpose2d(maps, self.weight, stride=self.factor, padding=cut, groups=self.groups)


def bilinear_kernel(factor: int) -> torch.Tensor:
    """The kernel (2 factor, 2 factor) whose transposed convolution of stride `factor` interpolates bilinearly.

    Along each axis 1 - |t| / factor, where t is the distance from the kernel's middle.
    """
    places = torch.arange(2 * factor, dtype=torch.float32) - (factor - 0.5)
    line = 1 - places.abs() / factor
    return torch.outer(line, line)
