"""The segmenters by name, and the one place that says what each is. Adding one is a function or class and an entry here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from thyroid_utils.common.errors import nearest
from thyroid_utils.common.files import source_hash
from thyroid_utils.models import segmentation_libraries as libraries
from thyroid_utils.models.architectures import CLASSIFIERS, Architecture, architecture
from thyroid_utils.models.attention_unet import AttentionUNet
from thyroid_utils.models.fcn8s import FCN8s
from thyroid_utils.models.mobile_deeplab import BACKBONES, MobileDeepLab
from thyroid_utils.models.residual_unet import PretrainedResidualUNet, ResidualUNet
from thyroid_utils.models.segnet import SegNet
from thyroid_utils.models.transunet import TransUNet
from thyroid_utils.models.unet import UNet


@dataclass(frozen=True)
class InputRule:
    """Which image sides a network takes, in pixels.

    multiple: what a side must be a multiple of. minimum: the smallest side, itself such a multiple.
    """

    multiple: int
    minimum: int

    def side(self, side: int) -> int:
        """The smallest side that the network takes and that is not below `side`."""
        return max(side + -side % self.multiple, self.minimum)


@dataclass(frozen=True)
class Encoder:
    """The part of a network that takes published ImageNet weights.

    name: smp's name of the encoder, or tu-NAME for timm's; torchvision's are smp's. All parameters whose names begin with
    `encoder.` must find their values. own: the network picks them from the published state dict itself, by `encoder_values`;
    else it is an encoder of smp's. left_out: beginnings of published names that the network has no use for.
    """

    name: str
    own: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmenterArchitecture:
    """How to build a network, and what has to be known about it.

    build: called with in_channels, classes and the model's own options. what, paper, made_from: for `segmenter_facts`.
    input_rule: from the network to the sides that it takes. published: its number of trainable parameters in millions as
    `published_in` prints it, None where there is none; built with the settings `published_with` the network has as many.
    encoder: what takes ImageNet weights, None where nothing does; backbones: the same for each value of the option `backbone`
    where the network has one. head: what makes the logits, as beginnings of parameter
    names. size: side of the square images it gets where a run names none, in pixels. explained: where Grad-CAM looks, the path of
    the module with the coarsest map, at the end of the encoder or behind what follows it there without a way around (-1: a
    module's last child); a layer close to the output would repeat the predicted mask. "": found by a trial.
    """

    build: Callable[..., nn.Module]
    what: str
    paper: str
    made_from: str
    input_rule: Callable[[nn.Module], InputRule]
    published: float | None = None
    published_in: str = ""
    published_with: Mapping[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None
    backbones: Mapping[str, Encoder] = field(default_factory=dict)
    head: tuple[str, ...] = ("segmentation_head.",)
    size: int = 256
    explained: str = ""

    def __call__(self, name: str, in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """The network with random values."""
        known = [option for option in inspect.signature(self.build).parameters if option not in _GIVEN]
        for option in options:
            if option not in known and "options" not in known:
                hint = nearest(option, known) if known else "it has no options"
                raise ValueError(f"model {name}: no option {option!r}; {hint}")
        return self.build(in_channels, classes, **options)

    def encoder_of(self, options: Mapping[str, Any] | None = None) -> Encoder | None:
        """What takes ImageNet weights in a network built with these options."""
        return self.backbones.get((options or {}).get("backbone", ""), self.encoder)


_GIVEN = ("in_channels", "classes", "weights")
_SHARED = ("architectures.py", "segmentation_libraries.py")  # many networks in one file, all made by libraries


def _smp_rule(network: nn.Module) -> InputRule:
    return InputRule(*libraries.smp_sizes(network))


def _from_smp(build: Callable[..., nn.Module], encoder: str | Encoder, **facts: Any) -> SegmenterArchitecture:
    encoder = encoder if isinstance(encoder, Encoder) else Encoder(encoder)
    return SegmenterArchitecture(build, input_rule=_smp_rule, encoder=encoder, **facts)


def _own_rule(network: nn.Module) -> InputRule:
    if getattr(network, "valid", False):
        return InputRule(1, 1)  # extends the image by mirroring itself, much further
    return InputRule(network.multiple, network.minimum)


def _own(build: Callable[..., nn.Module], made_from: str = "this package", **facts: Any) -> SegmenterArchitecture:
    return SegmenterArchitecture(build, made_from=made_from, input_rule=_own_rule, **{"head": ("head.",), **facts})


_MOBILE = Encoder("mobilenet_v2", left_out=("features.18.",))

SEGMENTERS: dict[str, SegmenterArchitecture] = {
    "unet_resnet18": _from_smp(
        libraries.unet_resnet18,
        "resnet18",
        what="U-Net's decoder on ResNet18",
        paper="Ronneberger et al. 2015; He et al. 2016",
        made_from="smp Unet",
        explained="encoder.layer4",
    ),
    "unet_resnet50": _from_smp(
        libraries.unet_resnet50,
        "resnet50",
        what="U-Net's decoder on ResNet50; 000's chosen one",
        paper="Ronneberger et al. 2015; He et al. 2016",
        made_from="smp Unet",
        explained="encoder.layer4",
    ),
    "unet_vgg16": _from_smp(
        libraries.unet_vgg16,
        "vgg16",
        what="U-Net's decoder on VGG16",
        paper="Ronneberger et al. 2015; Simonyan and Zisserman 2015",
        made_from="smp Unet",
        explained="decoder.center",
    ),
    "unet_vgg19": _from_smp(
        libraries.unet_vgg19,
        "vgg19",
        what="U-Net's decoder on VGG19",
        paper="Ronneberger et al. 2015; Simonyan and Zisserman 2015",
        made_from="smp Unet",
        explained="decoder.center",
    ),
    "deeplabv3plus": _from_smp(
        libraries.deeplabv3plus,
        "resnet50",
        what="ASPP on ResNet50 at stride 16, decoder with one skip from stride 4; separable convolutions",
        paper="Chen et al. 2018",
        made_from="smp DeepLabV3Plus, rates 6, 12, 18",
        explained="encoder.layer4",
    ),
    "deeplabv3plus_xception": _from_smp(
        libraries.deeplabv3plus_xception,
        libraries.XCEPTION,
        what="the same on the aligned Xception-65",
        paper="Chen et al. 2018",
        made_from="smp DeepLabV3Plus on timm's xception65, rates 6, 12, 18 (smp's own Xception refuses dilation)",
        explained="encoder.model.blocks_20",
    ),
    "deeplabv3plus_mobilenet": _from_smp(
        libraries.deeplabv3plus_mobilenet,
        _MOBILE,
        what="the same on MobileNetV2 with ordinary convolutions; separable_aspp makes the three dilated ones separable, as 003",
        paper="Chen et al. 2018; Sandler et al. 2018",
        made_from="smp DeepLabV3Plus, its ASPP on MobileNetV2's 320 channels and its separable 3×3 made ordinary",
        published=5.81,
        published_in="usual PyTorch version with two ordinary 3×3 convolutions of 256 channels in its decoder",
        explained="encoder.features.-1",
    ),
    "mobile_deeplab": _own(
        MobileDeepLab,
        what="003's improved DeepLabV3+: separable ASPP beside PPM, attention, three fusions; every part is a switch",
        paper="paper 003; Chen et al. 2018; Zhao et al. 2017; Woo et al. 2018",
        made_from="this package, on smp's encoders",
        encoder=_MOBILE,
        backbones={"mobilenet_v2": _MOBILE, **{name: Encoder(BACKBONES[name]) for name in ("resnet50", "xception")}},
        explained="encoder.features.-1",
    ),
    "pspnet": _from_smp(
        libraries.pspnet,
        "resnet50",
        what="pyramid pooling (1, 2, 3, 6) on ResNet50 at stride 8",
        paper="Zhao et al. 2017",
        made_from="smp PSPNet on all of a dilated ResNet50; behind the pyramid smp has 1×1 where the paper has 3×3",
        explained="encoder.layer4",
    ),
    "unetpp": _from_smp(
        libraries.unetpp,
        "resnet34",
        what="U-Net++: nested skips, on ResNet34, without deep supervision",
        paper="Zhou et al. 2018",
        made_from="smp UnetPlusPlus",
        explained="encoder.layer4",
    ),
    "segformer": _from_smp(
        libraries.segformer,
        "mit_b0",
        what="SegFormer-B0: hierarchical transformer, all-MLP decoder",
        paper="Xie et al. 2021",
        made_from="smp Segformer (its encoder is under NVIDIA's non-commercial licence)",
        published=3.8,
        published_in="Xie et al. 2021, Table 1, B0: ADE20K's 150 classes",
        published_with={"classes": 150},
        explained="encoder.norm4",
    ),
    "unet": _own(
        UNet,
        what="the classic U-Net, padded or (valid) unpadded, with batch normalisation unless told",
        paper="Ronneberger et al. 2015",
        published=7.76,
        published_in="Zhou et al. 2018, Table 2: half the channels, no normalisation",
        published_with={"widths": (32, 64, 128, 256, 512), "batch_norm": False},
        explained="encoder.-1",
    ),
    "attention_unet": _own(
        AttentionUNet,
        what="the classic U-Net with additive attention gates on its skips",
        paper="Oktay et al. 2018",
        made_from="this package (MONAI's differs from the paper in five ways; its gate agrees with ours)",
        explained="encoder.-1",
    ),
    "residual_unet": _own(
        ResidualUNet,
        what="U-Net of residual units; 004's chosen one; design monai is MONAI's",
        paper="Zhang et al. 2018",
        made_from="this package; with design monai MONAI's UNet",
        published=7.8,
        published_in="Zhang et al. 2018: without the 1×1 convolutions of the added inputs",
        explained="body.encoder.-1",
    ),
    "residual_unet_resnet18": _own(
        PretrainedResidualUNet,
        what="decoder of residual units on ResNet18, 004's wish for a pretrained backbone",
        paper="Zhang et al. 2018; He et al. 2016",
        made_from="this package, on smp's encoder",
        encoder=Encoder("resnet18"),
        explained="encoder.layer4",
    ),
    "segnet": _own(
        SegNet,
        what="VGG16 and its mirror image, joined by the places of the maxima",
        paper="Badrinarayanan et al. 2017",
        encoder=Encoder("vgg16_bn", own=True),
        published=29.45,
        published_in="comparisons on CamVid: 12 classes",
        published_with={"classes": 12},
        explained="encoder.42",
    ),
    "fcn8s": _own(
        FCN8s,
        what="VGG16 made convolutional, with skips from pool3 and pool4",
        paper="Long et al. 2015",
        encoder=Encoder("vgg16", own=True),
        head=("score", "up"),
        published=134,
        published_in="Long et al. 2015, Table 1: PASCAL VOC's 21 classes",
        published_with={"classes": 21},
        explained="encoder.29",
    ),
    "transunet": _own(
        TransUNet,
        what="ResNet50, a vision transformer over its last map, cascaded decoder",
        paper="Chen et al. 2021",
        made_from="this package, on timm's ResNetV2 and transformer blocks",
        encoder=Encoder("tu-vit_base_r50_s16_224.orig_in21k", own=True),
        published=105.28,
        published_in="comparisons at 224 pixels: Synapse's 9 classes",
        published_with={"classes": 9},
        explained="bridge",
    ),
}


def segmenter_architecture(name: str) -> SegmenterArchitecture:
    """The architecture of a name in `SEGMENTERS` or of `smp:ARCH:ENCODER`.

    Raises:
        ValueError: no such model; the nearest name is given.
    """
    if not name.startswith(libraries.PREFIX):
        if name not in SEGMENTERS:
            raise ValueError(
                f"model {name!r} is unknown; {nearest(name, SEGMENTERS)} (smp:ARCH:ENCODER takes any model of "
                "segmentation_models_pytorch)"
            )
        return SEGMENTERS[name]
    kind, encoder = libraries.smp_parts(name)
    return _from_smp(
        partial(libraries.smp_network, kind, encoder),
        encoder,
        what=f"{kind} on {encoder}",
        paper="see segmentation_models_pytorch",
        made_from="segmentation_models_pytorch as it is",
        head=("head.",) if kind == "dpt" else ("segmentation_head.",),
    )


def any_architecture(name: str) -> Architecture | SegmenterArchitecture:
    """A classifier's or segmenter's architecture. An unknown name is refused by the registry that has the nearest one."""
    closest = difflib.get_close_matches(name, [*CLASSIFIERS, *SEGMENTERS], n=1, cutoff=0.5)
    of_segmenters = name.startswith(libraries.PREFIX) or (closest and closest[0] in SEGMENTERS)
    return segmenter_architecture(name) if of_segmenters and not name.startswith("timm:") else architecture(name)


def network_source(name: str) -> str:
    """Hash of the code of a network that has a file of its own in this folder; "" where a library builds it.

    It is part of a run's name: who changes a network of their own is not handed the run of the old one. Comments, docstrings and
    layout do not count, nor does what networks share.
    """
    if name.startswith((libraries.PREFIX, "timm:")):
        return ""
    build = any_architecture(name).build
    file = Path(inspect.getfile(getattr(build, "func", build)))
    own = file.parent == Path(__file__).parent and file.name not in _SHARED
    return source_hash([file]) if own else ""


def input_size(name: str) -> int:
    """Side in pixels of the square images that a classifier was published with, or that a segmenter gets unless told."""
    return any_architecture(name).size


def segmenter_facts() -> pd.DataFrame:
    """What each segmenter is, a row each.

    Returns:
        DataFrame indexed by name: what, paper, made_from, encoder (the part that takes ImageNet weights, "" for none),
        published_parameters (millions, as printed; NaN without one) and published_in (where, and with which settings).
    """
    rows = {
        name: {
            "what": facts.what,
            "paper": facts.paper,
            "made_from": facts.made_from,
            "encoder": facts.encoder.name if facts.encoder else "",
            "published_parameters": facts.published,
            "published_in": facts.published_in,
        }
        for name, facts in SEGMENTERS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name").astype({"published_parameters": float})
