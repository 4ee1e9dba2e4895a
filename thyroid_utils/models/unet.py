"""U-Nets: the classic one of Ronneberger, Fischer and Brox (MICCAI 2015), the Attention U-Net of Oktay et al. (MIDL 2018), which
changes nothing but its skips, and two of residual units. Papers 000, 002, 003 and 004 compare with the first, 000 with the
second; 004 chose a residual one and wishes for one on a pretrained encoder."""

from __future__ import annotations  # part of the names of finished runs, by `network_source`

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from thyroid_utils.models.any_size import cropped, mirrored, resampled

_PAIR = 4  # rows and columns that a pair of unpadded 3×3 convolutions takes off a map
# First bias of ψ: coefficients begin near sigmoid(3) = 0.95, so that a gate lets everything pass
_OPEN = 3.0


class ConvolutionPair(nn.Sequential):
    """Twice: 3×3 convolution, batch normalisation where wanted, ReLU. Unpadded convolutions where `padding` is 0.

    A convolution in front of a batch normalisation has no bias, which the normalisation would take out again.
    """

    def __init__(self, in_channels: int, out_channels: int, batch_norm: bool, padding: int = 1):
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            norm = nn.BatchNorm2d if batch_norm else None
            layers += Conv2dNormActivation(channels, out_channels, padding=padding, norm_layer=norm)
        super().__init__(*layers)


class UNet(nn.Module):
    """Classic U-Net, with padded or unpadded convolutions.

    (batch, in_channels, height, width) → logits (batch, classes, height, width), by Figure 1 of the paper: at each level two
    3×3 convolutions with ReLU; 2×2 max-pooling on the way down, which doubles the channels; 2×2 up-convolution on the way up,
    which halves them; the map of the same level from the way down joined to it; a 1×1 convolution at the end.

    What the paper leaves open, or where the default is another:

    - Batch normalisation. The paper has none (it is of the same year) and trains with a momentum of 0.99 on single large tiles.
      Here it is on, since every other network of the comparison has it, and a difference in normalisation should not pass for
      one in architecture; batch_norm=False is the paper's network.
    - `valid`. The paper's convolutions are unpadded, its skips cropped in the middle, and its output is smaller than its input
      (388 of 572 pixels). valid=True does the same, on an image whose border was extended by mirroring as in the paper's
      overlap-tile strategy (Figure 2), so that the output still has the size of the input. Whether the outermost pixel is
      doubled in the mirror is not said; here it is not. Images smaller than the border are mirrored again and again.
    - Dropout "at the end of the contracting path", of a share that is not given: behind the two deepest levels, by default 0.
    - Values at the start: normal with a standard deviation of sqrt(2 / N), N being the values that go into one output value.

    The paper gives no number of parameters; drawn as it is (one channel, two classes, no normalisation) it has 31,030,658.
    Zhou et al. (2018) print 7.76 million for half the `widths`, which it has, too.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel: 1 (sigmoid) or 2 (softmax, as in the paper).
        widths: channels of each level, finest first.
        valid: unpadded convolutions.
        batch_norm: batch normalisation behind each 3×3 convolution.
        dropout: share of values dropped in the two deepest levels.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        valid: bool = False,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        padding = 0 if valid else 1
        self.valid, self.poolings = valid, len(widths) - 1
        # Unpadded, it extends the image by mirroring itself, and much further.
        self.multiple = self.minimum = 1 if valid else 2**self.poolings
        self.encoder = nn.ModuleList(
            ConvolutionPair(before, after, batch_norm, padding)
            for before, after in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=not batch_norm) for fine, coarse in pairwise(widths)
        )
        self.decoder = nn.ModuleList(ConvolutionPair(2 * width, width, batch_norm, padding) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.valid:
            return self.logits(images)
        height, width = images.shape[-2:]
        rows, columns = valid_sizes(height, self.poolings), valid_sizes(width, self.poolings)
        extended = mirrored(images, rows[0], columns[0])
        return cropped(self.logits(extended), height, width)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The network alone: with unpadded convolutions the result is smaller than the images, as in the paper."""
        maps = images
        skips = []
        for level, pair in enumerate(self.encoder):
            maps = pair(maps if level == 0 else self.pool(maps))
            if level >= self.poolings - 1:
                maps = self.dropout(maps)
            skips.append(maps)  # (batch, widths[level], height / 2^level, width / 2^level)
        for level in reversed(range(self.poolings)):
            raised = self.up[level](maps)  # (batch, widths[level], height / 2^level, width / 2^level)
            skip = self.skip(level, skips[level], maps)
            if self.valid:
                skip = cropped(skip, *raised.shape[-2:])
            maps = self.decoder[level](torch.cat([skip, raised], dim=1))
        return self.head(maps)

    def skip(self, level: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """What the way down hands over at a level, given the map of the next coarser level of the way up: all of it."""
        return fine


class AttentionGate(nn.Module):
    """Additive attention gate: a share between 0 and 1 for each place of a skip, by equations 1 and 2 of the paper.

    q = ψᵀ relu(W_xᵀ x + W_gᵀ g + b_g) + b_ψ and α = sigmoid(q), where x is the skip and g, the gating signal, the map of the
    next coarser level of the way up. α is computed on the grid of g and enlarged linearly to that of x (Figure 2).

    The paper brings x down to g's grid without saying how; here W_x is a 2×2 convolution of stride 2, as in the authors'
    published code, so that every value of x counts. The number of channels in between (F_int) is that of the skip, as there.

    Args:
        skip_channels: channels of x.
        gating_channels: channels of g.
    """

    def __init__(self, skip_channels: int, gating_channels: int):
        super().__init__()
        self.from_skip = nn.Conv2d(skip_channels, skip_channels, 2, stride=2, bias=False)
        self.from_gating = nn.Conv2d(gating_channels, skip_channels, 1)
        self.score = nn.Conv2d(skip_channels, 1, 1)

    def coefficients(self, skip: torch.Tensor, gating: torch.Tensor) -> torch.Tensor:
        """α (batch, 1, height, width), each in (0, 1), for a skip (batch, channels, height, width)."""
        # (batch, 1, height/2, width/2)
        scores = self.score(torch.relu(self.from_skip(skip) + self.from_gating(gating)))
        return resampled(torch.sigmoid(scores), tuple(skip.shape[-2:]), "linear")

    def forward(self, skip: torch.Tensor, gating: torch.Tensor) -> torch.Tensor:
        return skip * self.coefficients(skip, gating)


class AttentionUNet(UNet):
    """U-Net whose skips pass attention gates: `UNet` with one `AttentionGate` a level, and nothing else changed.

    (batch, in_channels, height, width) → logits (batch, classes, height, width).

    - The finest skip has no gate: the paper leaves it out, as its maps say too little yet.
    - Gates begin open, as the paper has it; the value of the bias that does so is ours.
    - The paper's network is three-dimensional, enlarges by interpolation, and adds up predictions of every level (deep
      supervision). Here the rest is `UNet`'s, so that the two differ by the gates alone. Its 6.40 million parameters (5.88
      without gates) are of that other network and cannot be compared; ours are checked by hand.
    - MONAI's AttentionUnet is not used: it halves by strided convolutions where Figure 1 pools, enlarges the gating signal to
      the skip's grid instead of working on the coarser one, normalises inside the gate (a mean score of 0, so that gates begin
      half closed), gates the finest skip too, and has one convolution with another normalisation on the way up. Its gate gives
      the same coefficients as this one where the two can be compared, which is tested.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        widths: channels of each level, finest first.
        batch_norm: batch normalisation behind each 3×3 convolution.
        dropout: share of values dropped in the two deepest levels.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        batch_norm: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__(in_channels, classes, widths, batch_norm=batch_norm, dropout=dropout)
        # of the second level and below
        self.gates = nn.ModuleList(AttentionGate(fine, coarse) for fine, coarse in pairwise(widths[1:]))
        for gate in self.gates:
            nn.init.constant_(gate.score.bias, _OPEN)

    def skip(self, level: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return fine if level == 0 else self.gates[level - 1](fine, coarse)


def valid_sizes(size: int, poolings: int) -> tuple[int, int]:
    """Side of the image that unpadded convolutions need for an output of at least `size`, and the side of that output."""
    # Side of the last, coarsest map
    deepest = math.ceil((size - _PAIR) / 2**poolings) + _PAIR if size > _PAIR else _PAIR
    needed = deepest + _PAIR
    for _ in range(poolings):
        needed = 2 * needed + _PAIR
    return needed, 2**poolings * (deepest - _PAIR) + _PAIR


def _initialise(module: nn.Module) -> None:
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return
    # Windows of the up-convolution do not overlap: each of its output values comes from one place, not from 2×2 of them.
    places = math.prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1
    nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * places)))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


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
    is a U-Net "with integrated residual blocks". This one is the Deep Residual U-Net of Zhang, Liu and Wang (IEEE GRSL 2018),
    Table I: three units down, the first convolution of the second and the third with stride 2 instead of a pooling; one as the
    bridge, with stride 2; three up, each on the doubled coarser map joined with the skip; a 1×1 convolution. How maps are doubled
    is not said: here values are repeated. How the input is added where channels change is not said either: here by a 1×1
    convolution. The 15 convolutions of the table have 7.8 million parameters, as published; the 1×1 convolutions of the added
    inputs, 0.43 million more, are not among them.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        widths: channels of each level, finest first.
    """

    def __init__(self, in_channels: int = 3, classes: int = 1, widths: Sequence[int] = (64, 128, 256, 512)):
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.body = _ZhangBody(in_channels, widths)
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
        # Takes seconds to import
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("resnet18", in_channels, depth=5, weights="imagenet" if pretrained else None)
        coarsest, *skips = reversed(self.encoder.out_channels[1:])
        self.decoder = nn.ModuleList(
            ResidualUnit(before + skip, after)
            for before, skip, after in zip((coarsest, *widths[:-1]), (*skips, 0), widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # (batch, channels, height / 32, width / 32), then finer and finer
        maps, *skips = reversed(self.encoder(images)[1:])
        for unit, skip in zip(self.decoder, (*skips, None), strict=True):
            maps = doubled(maps)
            maps = unit(maps if skip is None else torch.cat([maps, skip], dim=1))
        return self.head(maps)


def doubled(maps: torch.Tensor) -> torch.Tensor:
    """Each value of maps (batch, channels, height, width) four times, in a square."""
    return functional.interpolate(maps, scale_factor=2, mode="nearest")
