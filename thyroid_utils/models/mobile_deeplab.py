"""The improved DeepLabV3+ of paper 003: MobileNetV2, separable ASPP beside pyramid pooling, attention and three fusions.

Shapes in the comments are those of an image of 512×512 pixels with MobileNetV2; the batch is left out.
"""

from __future__ import annotations  # part of the names of finished runs, by `network_source`

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from thyroid_utils.common.errors import nearest
from thyroid_utils.models.any_size import AdaptivePool, resampled

# smp's own xception halves by pooling and so refuses dilation, as does timm's legacy_xception. timm's xception41, 65 and 71 are
# the aligned Xception that DeepLabV3+ introduced, with strided convolutions; 65 is the paper's depth, tf_in1k its own weights.
XCEPTION = "tu-xception65.tf_in1k"
# option → smp's encoder
BACKBONES = {"mobilenet_v2": "mobilenet_v2", "resnet50": "resnet50", "xception": XCEPTION}
# Channels of DeepLabV3+'s skip from 1/4 of the size (Chen et al. 2018)
_SHALLOW = 48
# Channels of the fusions, and of the last one at 1/2 of the size
_FUSED, _FINE = 128, 64
_FINEST_SKIP = 32  # MobileNetV2's 16 channels at 1/2, doubled
_BINS = (1, 2, 3, 6)  # places a side that the PPM pools to
_REDUCTION = 16  # r of the channel attention

# The parts of Figures 1 and 2 by their names there.
_PARTS = {
    "context.aspp": "ASPP",
    "context.ppm": "PPM",
    "context.adjust_aspp": "1×1 of ASPP",
    "context.adjust_ppm": "1×1 of PPM",
    "context.fuse": "F",
    "decoder.attend16": "CAM 1/16",
    "decoder.attend8": "SAM 1/8",
    "decoder.vertical8": "vertical 1/8",
    "decoder.attend_deep": "CAM of F",
    "decoder.attend4": "SAM 1/4",
    "decoder.reduce4": "1×1 at 1/4",
    "decoder.vertical4": "vertical 1/4 = V",
    "decoder.join": "join at 1/4",
    "decoder.refine": "3×3 at 1/4",
    "decoder.horizontal": "horizontal",
    "decoder.attend2": "SAM 1/2",
    "decoder.double2": "1×1 at 1/2",
    "decoder.secondary": "secondary",
    "head": "head",
}


def imagenet_of(options: Mapping[str, Any]) -> str:
    """Whose published values the encoder takes; see `Architecture.imagenet`."""
    return f"smp:{BACKBONES[_checked(options.get('backbone', 'mobilenet_v2'))]}"


def _checked(backbone: str) -> str:
    if backbone not in BACKBONES:
        raise ValueError(f"mobile_deeplab: backbone {backbone!r} is unknown; {nearest(str(backbone), BACKBONES)}")
    return backbone


def without_classifying_convolution(encoder: nn.Module) -> nn.Module:
    """smp's MobileNetV2 with the 320 channels of its last bottleneck as the deepest map; changed in place and returned."""
    encoder.features = encoder.features[:-1]
    encoder._out_channels = [*encoder._out_channels[:-1], encoder.features[-1].out_channels]
    encoder._out_indexes = [*encoder._out_indexes[:-1], len(encoder.features) - 1]
    return encoder


class MobileDeepLab(nn.Module):
    """(batch, in_channels, height, width) → logits (batch, classes, height, width), by Figures 1 to 4 and section 2.

    Backbone (output stride 16) → ASPP beside PPM → fused map F; vertical fusion 1/16 → 1/8 → 1/4 of backbone maps, under
    channel attention (deep) and spatial attention (shallow); horizontal fusion with F; secondary fusion with the map at 1/2.

    All on: 3.18 million parameters, 12.1 MiB in float32 (the paper: 12.4 MB; with ResNet50 125.7 MiB, the paper: 125 MB). All
    off is the stock MobileNetV2 DeepLabV3+ with as many parameters as `deeplabv3plus_mobilenet`, which the paper begins with:
    5.81 million, with the separable ASPP 3.85 (0.66 of it, the paper 0.642). All on has 0.825 of the latter (the paper 0.85):
    separable convolutions take the place of the stock decoder's two ordinary 3×3 ones.

    Where the paper is silent or ambiguous:

    - dilation 6, 12, 18; bins 1, 2, 3, 6; r = 16; 7×7 in the spatial attention; dropout behind the ASPP as in DeepLab; all widths
      of the decoder, chosen for the paper's 12.4 MB.
    - the introduction "cascades" ASPP and PPM, section 2.1 has them parallel: parallel.
    - "downsampled by a factor of four" in the text of the vertical fusion is read as the map at 1/4.
    - the shallow map of the secondary fusion is the one at 1/2, whose 16 channels become 32; other backbones get 32 as well.
    - the channel attention has a ReLU between its two layers (Woo et al. 2018, whose module it is).
    - without `multi_skip` there is no vertical fusion: channel attention then works on F, spatial attention on the map at 1/4.

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel.
        pretrained: whether the backbone begins with ImageNet values.
        attention: channel and spatial attention.
        multi_skip: vertical, horizontal and secondary fusion; False is DeepLabV3+'s decoder with its one skip from 1/4, and two
            ordinary 3×3 convolutions whatever `separable_decoder` says.
        ppm: pyramid pooling beside the ASPP.
        separable_aspp: the ASPP's dilated convolutions are depthwise and pointwise; False makes them ordinary.
        backbone: "mobilenet_v2", "resnet50" or "xception" (the aligned Xception-65).
        separable_decoder: the fusions' 3×3 convolutions are depthwise and pointwise; False makes them ordinary.
        width: channels of ASPP, PPM and F.
        rates: dilation of the ASPP's three 3×3 convolutions.
        dropout: share of the ASPP's channels dropped in training.

    Raises:
        ValueError: another backbone.
    """

    multiple = 16

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        pretrained: bool = False,
        attention: bool = True,
        multi_skip: bool = True,
        ppm: bool = True,
        separable_aspp: bool = True,
        backbone: str = "mobilenet_v2",
        separable_decoder: bool = True,
        width: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.backbone = _checked(backbone)
        self.encoder = _encoder(backbone, in_channels, pretrained)
        taps = [self.encoder.out_channels[level] for level in (1, 2, 3, -1)]
        self.context = Context(taps[-1], width, rates, ppm, separable_aspp, dropout)
        if multi_skip:
            self.decoder = FusionDecoder(taps, width, attention, separable_decoder)
        else:
            self.decoder = StockDecoder(taps[1], width, attention)
        self.head = nn.Conv2d(self.decoder.channels, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(images)
        # 16×256×256, 24×128×128, 32×64×64, 320×32×32
        f2, f4, f8, f16 = maps[1], maps[2], maps[3], maps[-1]
        rich = self.context(f16)  # F: 256×32×32
        decoded = self.decoder(rich, (f2, f4, f8, f16))  # 64×256×256
        return resampled(self.head(decoded), images.shape[-2:], "linear")  # classes×512×512

    def stages(self) -> dict[str, nn.Module]:
        """The parts of Figures 1 and 2 by their names there; those switched off are absent."""
        modules = {path: module for path, module in self.named_modules() if not isinstance(module, nn.Identity)}
        found = {name: modules[path] for path, name in _PARTS.items() if path in modules}
        if self.context.ppm is None:
            found["ASPP = F"] = found.pop("ASPP")
        return {self.backbone: self.encoder, **found}


def _encoder(backbone: str, in_channels: int, pretrained: bool) -> nn.Module:
    """smp's encoder at output stride 16: maps at 1/1 (the image), 1/2, 1/4, 1/8, 1/16 and 1/16."""
    # Takes seconds to import
    from segmentation_models_pytorch.encoders import get_encoder

    name = BACKBONES[backbone]
    published = (name.startswith("tu-") or "imagenet") if pretrained else None
    encoder = get_encoder(name, in_channels, weights=published, output_stride=16)
    return without_classifying_convolution(encoder) if backbone == "mobilenet_v2" else encoder


# Figure 1: the encoding


class Context(nn.Module):
    """f16 → rich map F of `width` channels: ASPP, and beside it the PPM where wanted."""

    def __init__(self, channels: int, width: int, rates: Sequence[int], ppm: bool, separable: bool, dropout: float):
        super().__init__()
        self.aspp = ASPP(channels, width, rates, separable, dropout)
        self.ppm = PPM(channels) if ppm else None
        if ppm:
            self.adjust_aspp = convolution(width, width, 1)
            self.adjust_ppm = convolution(self.ppm.channels, width, 1)
            self.fuse = Fusion(2 * width, width, size=1)

    def forward(self, f16: torch.Tensor) -> torch.Tensor:
        aspp = self.aspp(f16)  # 256×32×32
        if self.ppm is None:
            return aspp
        return self.fuse(self.adjust_aspp(aspp), self.adjust_ppm(self.ppm(f16)))  # 256×32×32


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, three dilated 3×3 and the mean of all places, joined and reduced to `width`."""

    def __init__(self, channels: int, width: int, rates: Sequence[int], separable: bool, dropout: float):
        super().__init__()
        self.point = convolution(channels, width, 1)
        self.dilated = nn.ModuleList(convolution(channels, width, 3, separable, rate) for rate in rates)
        self.pooled = convolution(channels, width, 1)
        self.project = nn.Sequential(convolution((len(rates) + 2) * width, width, 1), nn.Dropout(dropout))

    def forward(self, f16: torch.Tensor) -> torch.Tensor:
        # 256×1×1 → 256×32×32
        whole = self.pooled(f16.mean((2, 3), keepdim=True)).expand(-1, -1, *f16.shape[-2:])
        branches = [self.point(f16), *(branch(f16) for branch in self.dilated), whole]
        return self.project(torch.cat(branches, dim=1))  # 1280×32×32 → 256×32×32


class PPM(nn.Module):
    """Pyramid pooling (Zhao et al. 2017): means over bins of several sizes, enlarged and joined with the map itself."""

    def __init__(self, channels: int):
        super().__init__()
        each = channels // len(_BINS)
        self.channels = channels + len(_BINS) * each
        self.levels = nn.ModuleList(nn.Sequential(AdaptivePool(side), convolution(channels, each, 1)) for side in _BINS)

    def forward(self, f16: torch.Tensor) -> torch.Tensor:
        # 320×1×1, 2×2, 3×3 and 6×6 → 80 channels each → 80×32×32 each
        means = [resampled(level(f16), f16.shape[-2:], "linear") for level in self.levels]
        return torch.cat([f16, *means], dim=1)  # 640×32×32


# Figure 2: the decoding


class FusionDecoder(nn.Module):
    """F and the backbone's maps at 1/2, 1/4, 1/8 and 1/16 → a map at 1/2."""

    channels = _FINE

    def __init__(self, taps: Sequence[int], width: int, attention: bool, separable: bool):
        super().__init__()
        c2, c4, c8, c16 = taps
        self.attend16 = ChannelAttention(c16) if attention else nn.Identity()
        self.attend8, self.attend4, self.attend2 = (SpatialAttention() if attention else nn.Identity() for _ in range(3))
        self.vertical8 = Fusion(c16 + c8, _FUSED, separable)
        self.reduce4 = convolution(c4, _SHALLOW, 1)
        self.vertical4 = Fusion(_FUSED + _SHALLOW, _FUSED, separable)
        self.horizontal = Fusion(width + _FUSED, _FUSED, separable)
        self.double2 = convolution(c2, _FINEST_SKIP, 1)
        self.secondary = Fusion(_FUSED + _FINEST_SKIP, _FINE, separable)

    def forward(self, rich: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        f2, f4, f8, f16 = maps
        # up×2 of 320×32×32, with 32×64×64 → 128×64×64
        at8 = self.vertical8(self.attend16(f16), self.attend8(f8))
        # V: up×2, with 48×128×128 → 128×128×128
        at4 = self.vertical4(at8, self.reduce4(self.attend4(f4)))
        joined = self.horizontal(rich, at4)  # up×4 of 256×32×32, with V → 128×128×128
        # up×2, with 32×256×256 → 64×256×256
        return self.secondary(joined, self.double2(self.attend2(f2)))


class StockDecoder(nn.Module):
    """DeepLabV3+'s own: F enlarged four times, joined with 48 channels made of the map at 1/4, two ordinary 3×3."""

    def __init__(self, c4: int, width: int, attention: bool):
        super().__init__()
        self.channels = width
        self.attend_deep = ChannelAttention(width) if attention else nn.Identity()
        self.attend4 = SpatialAttention() if attention else nn.Identity()
        self.reduce4 = convolution(c4, _SHALLOW, 1)
        self.join = Fusion(width + _SHALLOW, width, separable=False)
        self.refine = convolution(width, width, 3)

    def forward(self, rich: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        # 304×128×128 → 256×128×128
        joined = self.join(self.attend_deep(rich), self.reduce4(self.attend4(maps[1])))
        return self.refine(joined)


class Fusion(nn.Module):
    """A deep map brought to a shallow one's size by interpolation, joined with it, and one convolution over both."""

    def __init__(self, in_channels: int, out_channels: int, separable: bool = False, size: int = 3):
        super().__init__()
        self.convolution = convolution(in_channels, out_channels, size, separable)

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        return self.convolution(torch.cat([resampled(deep, shallow.shape[-2:], "linear"), shallow], dim=1))


# Figure 3: ordinary and depthwise separable convolution


def convolution(in_channels: int, out_channels: int, size: int, separable: bool = False, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the map's size, batch normalisation, ReLU.

    An ordinary one has size² · in · out weights. A separable one, size × size on each channel and then 1×1 over channels, has
    size² · in + in · out: 1/out + 1/size² of that.
    """
    depthwise: list[nn.Module] = []
    if separable:
        padding = dilation * (size // 2)
        depthwise = [
            nn.Conv2d(in_channels, in_channels, size, padding=padding, dilation=dilation, groups=in_channels, bias=False)
        ]
        size, dilation = 1, 1
    return nn.Sequential(*depthwise, *Conv2dNormActivation(in_channels, out_channels, size, dilation=dilation, inplace=False))


# Figure 4: attention


class ChannelAttention(nn.Module):
    """CAM (Figure 4a): each channel times a number in (0, 1), made from the channels' maxima and means."""

    def __init__(self, channels: int, reduction: int = _REDUCTION):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.shared = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        weights = self.shared(maps.amax((2, 3))) + self.shared(maps.mean((2, 3)))  # 320 → 20 → 320
        return maps * weights.sigmoid()[:, :, None, None]


class SpatialAttention(nn.Module):
    """SAM (Figure 4b): each place times a number in (0, 1), made from the maximum and mean over channels around it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        # 2×64×64
        summary = torch.cat([maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)], dim=1)
        return maps * self.convolution(summary).sigmoid()  # 1×64×64
