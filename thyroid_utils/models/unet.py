"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), and the Attention U-Net of Oktay et al. (MIDL 2018), which changes
nothing but its skips. Papers 000, 002, 003 and 004 compare with the one, 000 with the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from thyroid_utils.models.any_size import cropped, mirrored, resampled

_PAIR = 4  # rows and columns that a pair of unpadded 3×3 convolutions takes off a map
_OPEN = 3.0  # first bias of ψ: coefficients begin near sigmoid(3) = 0.95, so that a gate lets everything pass


class ConvolutionPair(nn.Sequential):
    """Twice: 3×3 convolution, batch normalisation where wanted, ReLU. Unpadded convolutions where `padding` is 0.

    A convolution in front of a batch normalisation has no bias, which the normalisation would take out again.
    """

    def __init__(self, in_channels: int, out_channels: int, batch_norm: bool, padding: int = 1):
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=padding, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
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
        scores = self.score(torch.relu(self.from_skip(skip) + self.from_gating(gating)))  # (batch, 1, height/2, width/2)
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
    deepest = math.ceil((size - _PAIR) / 2**poolings) + _PAIR if size > _PAIR else _PAIR  # side of the last, coarsest map
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
