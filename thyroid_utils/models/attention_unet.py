"""The Attention U-Net of Oktay et al. (MIDL 2018), which paper 000 compares with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from thyroid_utils.models.any_size import resampled
from thyroid_utils.models.unet import UNet

_OPEN = 3.0  # first bias of ψ: coefficients begin near sigmoid(3) = 0.95, so that a gate lets everything pass


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
        self.gates = nn.ModuleList(
            AttentionGate(fine, coarse) for fine, coarse in pairwise(widths[1:])
        )  # of the second level and below
        for gate in self.gates:
            nn.init.constant_(gate.score.bias, _OPEN)

    def skip(self, level: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return fine if level == 0 else self.gates[level - 1](fine, coarse)
