"""The hybrid of ResNet18 and a transformer that paper 000 compares without describing it; the details are ours."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models import resnet18

from thyroid_utils.models.any_size import resampled_positions
from thyroid_utils.models.weights import fill, for_channels, published_values

_GRID = (7, 7)  # of ResNet18's last map for images of 224 × 224 pixels
_WIDTH = 512  # channels of that map


class ResNet18Transformer(nn.Module):
    """ResNet18's last map as tokens, a transformer encoder over them, and the class token's result to the head.

    (batch, in_channels, height, width) → backbone (batch, 512, height/32, width/32) → tokens with a learnt position embedding of
    7×7 places, interpolated for other grids → class token in front → `layers` encoder layers (normalised in front of attention
    and of the feed-forward part, which is four times as wide) → layer norm → linear head (batch, classes).

    Args:
        in_channels: channels of the images.
        classes: number of logits.
        pretrained: whether the backbone begins with ResNet18's ImageNet values.
        layers: encoder layers.
        heads: attention heads; must divide 512.
        dropout: share of values dropped inside the encoder.
    """

    def __init__(
        self, in_channels: int, classes: int, pretrained: bool = False, layers: int = 2, heads: int = 8, dropout: float = 0.1
    ):
        super().__init__()
        parts = OrderedDict(resnet18().named_children())
        self.backbone = nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if name not in ("avgpool", "fc")))
        self.class_token = nn.Parameter(torch.empty(1, 1, _WIDTH))
        self.positions = nn.Parameter(torch.empty(1, _GRID[0] * _GRID[1], _WIDTH))
        # Made one by one: nn.TransformerEncoder copies a single layer, which leaves all of them with the same first values.
        settings = {"dim_feedforward": 4 * _WIDTH, "dropout": dropout, "activation": "gelu"}
        self.encoder = nn.Sequential(
            *(nn.TransformerEncoderLayer(_WIDTH, heads, **settings, batch_first=True, norm_first=True) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, classes)
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        for_channels(self.backbone, in_channels)
        if pretrained:
            fill(self.backbone, published_values("resnet18"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.backbone(images)
        tokens = maps.flatten(2).transpose(1, 2)  # (batch, places, 512)
        tokens = tokens + resampled_positions(self.positions, _GRID, tuple(maps.shape[-2:]))
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1)
        return self.head(self.norm(self.encoder(tokens)[:, 0]))
