"""Transformers on a ResNet: TransUNet of Chen et al. (arXiv 2102.04306, 2021), and a hybrid of ResNet18 and a transformer. Paper
000 compares with both; it does not describe the second, whose details are ours."""

from __future__ import annotations  # part of the names of finished runs, by `network_source`

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.ops import Conv2dNormActivation

from thyroid_utils.models.any_size import resampled, resampled_positions
from thyroid_utils.models.weights import fill, for_channels, published_values

# timm's network that the paper begins from
PUBLISHED = "vit_base_r50_s16_224.orig_in21k"
_STRIDE = 16  # pixels a token, along each axis
# Channels of ResNet50 at 1/2, and at 1/4, 1/8 and 1/16
_STEM, _STAGES = 64, (256, 512, 1024)
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
        # Without pooling and head
        self.backbone = nn.Sequential(OrderedDict(list(resnet18().named_children())[:-2]))
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


class TransUNet(nn.Module):
    """ResNet50 as the encoder, a vision transformer over its last map, and a cascaded decoder with the ResNet's skips.

    (batch, in_channels, height, width) → logits (batch, classes, height, width), by Figure 1 and section 3: the published
    R50-ViT-B_16 with the defaults.

    - ResNet50 to 1/16 of the size: 3, 4 and 9 blocks (the fourth stage's went to the third), with weight standardisation and
      group normalisation. It is timm's, as of its vit_base_r50_s16_224, the network that the paper begins from, pretrained on
      ImageNet-21k: names and shapes of `encoder` are kept, so that the published values fit.
    - Each place of that map is a token (equation 1, patches of 1×1); position embedding; `layers` transformer layers,
      normalised in front (equations 2 and 3), and a last normalisation. No class token.
    - Cascaded upsampler: 3×3 convolution to 512 channels; four times doubled, joined with the skip of that size (1/8, 1/4 and
      1/2; none at full size), and two 3×3 convolutions with batch normalisation and ReLU, to 256, 128, 64 and 16 channels; a
      3×3 convolution to the classes.

    What is ambiguous, or differs: the paper's upsampling operator is bilinear in its code, with the corners aligned; here
    bilinear with pixel centres aligned, as everywhere in this workbook. The code repeats gray images to three channels; here
    the first convolution has `in_channels`. Position embedding is interpolated for images of other sizes than `image_size`.
    Attention is computed step by step: the fused kinds have no deterministic gradient on GPUs by default.

    The paper gives no number of parameters; others count 105.28 million (224 pixels, 9 classes).

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        pretrained: whether `encoder` begins with the values of timm's network.
        width: values a token.
        layers: transformer layers.
        heads: attention heads; must divide `width`.
        blocks: blocks of the ResNet's three stages.
        widths: channels of the decoder's four levels, coarsest first.
        image_size: side in pixels of the images that the position embedding is made for; a multiple of 16.
        dropout: share of values dropped in embedding and feed-forward parts.
    """

    multiple = 16

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        pretrained: bool = False,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        blocks: Sequence[int] = (3, 4, 9),
        widths: Sequence[int] = (256, 128, 64, 16),
        image_size: int = 224,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.encoder = HybridEncoder(in_channels, width, layers, heads, blocks, image_size, dropout)
        self.bridge = Conv2dNormActivation(width, 512)
        skips = (_STAGES[1], _STAGES[0], _STEM, 0)
        self.decoder = nn.ModuleList(
            nn.Sequential(Conv2dNormActivation(before + skip, after), Conv2dNormActivation(after, after))
            for before, skip, after in zip((512, *widths[:-1]), skips, widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], classes, 3, padding=1)
        if pretrained:
            import timm

            published = timm.create_model(PUBLISHED, pretrained=True).state_dict()
            fill(self.encoder, self.encoder.without_class_token(published))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps, skips = self.encoder(images)
        maps = self.bridge(maps)  # (batch, 512, height / 16, width / 16)
        for level, skip in zip(self.decoder, (*skips, None), strict=True):
            maps = resampled(maps, (2 * maps.shape[-2], 2 * maps.shape[-1]), "linear")
            maps = level(maps if skip is None else torch.cat([maps, skip], dim=1))
        return self.head(maps)


class HybridEncoder(nn.Module):
    """ResNet and transformer; parameters are named as in timm's hybrid vision transformers.

    (batch, in_channels, height, width) → last map (batch, width, height / 16, width / 16), and the ResNet's maps at 1/8, 1/4
    and 1/2 with 512, 256 and 64 channels.
    """

    def __init__(
        self, in_channels: int, width: int, layers: int, heads: int, blocks: Sequence[int], image_size: int, dropout: float
    ):
        super().__init__()
        from timm.layers import StdConv2dSame  # timm takes seconds to import
        from timm.models.resnetv2 import ResNetV2
        from timm.models.vision_transformer import Block

        self.grid = (image_size // _STRIDE, image_size // _STRIDE)
        settings = {"global_pool": "", "stem_chs": _STEM, "stem_type": "same", "preact": False}
        convolution = partial(StdConv2dSame, eps=1e-8)
        backbone = ResNetV2(list(blocks), _STAGES, num_classes=0, in_chans=in_channels, conv_layer=convolution, **settings)
        self.patch_embed = nn.ModuleDict({"backbone": backbone, "proj": nn.Conv2d(_STAGES[-1], width, 1)})
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], width))
        self.pos_drop = nn.Dropout(dropout)
        norm = partial(nn.LayerNorm, eps=1e-6)
        settings = {"mlp_ratio": 4, "qkv_bias": True, "proj_drop": dropout, "norm_layer": norm}
        self.blocks = nn.Sequential(*(Block(width, heads, **settings) for _ in range(layers)))
        self.norm = norm(width)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for block in self.blocks:
            block.attn.fused_attn = False
            block.attn.proj_drop = nn.Identity()  # published: dropout in the feed-forward part only
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        backbone = self.patch_embed["backbone"]
        # (batch, 64, height / 2, width / 2), behind its ReLU
        stem = backbone.stem.norm(backbone.stem.conv(images))
        maps = backbone.stem.pool(stem)
        skips = [stem]
        for stage in backbone.stages:
            maps = stage(maps)
            skips.append(maps)
        tokens, grid = self.tokens(skips.pop())
        tokens = self.norm(self.blocks(self.pos_drop(tokens)))
        maps = tokens.transpose(1, 2).unflatten(2, grid)  # (batch, width, height / 16, width / 16)
        return maps, tuple(reversed(skips))

    def tokens(self, maps: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The ResNet's last map as tokens (batch, rows · columns, width) with their positions, and (rows, columns)."""
        maps = self.patch_embed["proj"](maps)
        grid = (maps.shape[-2], maps.shape[-1])
        return maps.flatten(2).transpose(1, 2) + resampled_positions(self.pos_embed, self.grid, grid), grid

    def without_class_token(self, published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """timm's values of vit_base_r50_s16_224 without its head, class token and the class token's position.

        The other positions are interpolated where `image_size` is another than theirs.
        """
        left_out = ("head.", "fc_norm.", "cls_token")
        values = {key: value for key, value in published.items() if not key.startswith(left_out)}
        positions = published["pos_embed"][:, 1:]
        side = round(positions.shape[1] ** 0.5)
        return values | {"pos_embed": resampled_positions(positions, (side, side), self.grid)}
