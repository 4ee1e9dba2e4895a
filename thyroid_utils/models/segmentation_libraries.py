"""Segmentation networks made from segmentation_models_pytorch (smp), and where smp's encoders find their ImageNet weights."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from thyroid_utils.common.errors import nearest
from thyroid_utils.models.any_size import AdaptivePool

PREFIX = "smp:"
_RATES = (6, 12, 18)  # of the ASPP at output stride 16, as DeepLab's papers and 003 have them; smp's own are those of stride 8
# What smp's builders also take, but is settled elsewhere or would change what the network gives back.
_RESERVED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "upsampling", "kwargs")
_SMALLEST_MAP = {"pan": 8}  # places a side that a decoder needs of the encoder's last map; 1 for the others


def smp_module() -> types.ModuleType:
    """segmentation_models_pytorch, imported when first asked for: it brings timm, which takes seconds."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch


def smp_parts(name: str) -> tuple[str, str]:
    """Architecture and encoder of `smp:ARCH:ENCODER`.

    Raises:
        ValueError: another form, or an architecture or encoder that smp does not have; the nearest name is given.
    """
    parts = name.removeprefix(PREFIX).split(":")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"model {name!r}: expected smp:ARCH:ENCODER, such as smp:fpn:resnet34")
    smp = smp_module()
    architectures = {kind.lower(): kind for kind in vars(smp) if _is_architecture(getattr(smp, kind))}
    architecture, encoder = parts
    if architecture.lower() not in architectures:
        raise ValueError(f"model {name!r}: smp has no architecture {architecture!r}; {nearest(architecture, architectures)}")
    check_encoder(encoder, name)
    return architecture.lower(), encoder


def check_encoder(encoder: str, name: str) -> None:
    """Raise a ValueError with the nearest name unless smp has this encoder, or timm the NAME of a `tu-NAME`."""
    if not encoder.startswith("tu-"):
        known = list(smp_module().encoders.encoders)
        if encoder not in known:
            raise ValueError(
                f"model {name!r}: smp has no encoder {encoder!r}; {nearest(encoder, known)} (tu-NAME takes timm's networks)"
            )
        return
    import timm

    plain = encoder.removeprefix("tu-").split(".")[0]
    if not timm.is_model(plain):
        raise ValueError(f"model {name!r}: timm has no network {plain!r}; {nearest(plain, timm.list_models())}")
    try:
        timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
    except RuntimeError:
        known = ", ".join(tag.partition(".")[2] for tag in timm.list_pretrained(f"{plain}.*"))
        raise ValueError(f"model {name!r}: timm has no such weights of {plain}; known: {known}") from None


def _is_architecture(thing: Any) -> bool:
    return inspect.isclass(thing) and hasattr(thing, "check_input_shape")


def smp_network(
    architecture: str, encoder: str, in_channels: int, classes: int, *, weights: Path | None = None, **options: Any
) -> nn.Module:
    """A network of smp, with random values unless `weights` gives a timm encoder's file.

    Args:
        architecture: smp's class, in lower case.
        encoder: smp's name of it, or tu-NAME for one of timm's.
        weights: ImageNet file of a `tu-` encoder, which timm reads itself.
        options: smp's own, under its names; for a `tu-` encoder also timm's.

    Raises:
        ValueError: an option that smp does not have or that is settled elsewhere, a value that it refuses, or an encoder
            that does not go with the architecture.
    """
    smp = smp_module()
    kind = next(thing for thing in vars(smp).values() if _is_architecture(thing) and thing.__name__.lower() == architecture)
    known = [option for option in inspect.signature(kind.__init__).parameters if option not in ("self", *_RESERVED)]
    for option in options:
        taken_by_timm = encoder.startswith("tu-") and option not in _RESERVED
        if option not in known and not taken_by_timm and option != "output_stride":
            raise ValueError(f"model smp:{architecture}:{encoder}: no option {option!r}; {nearest(option, known)}")
    given = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        return kind(
            encoder_name=encoder,
            encoder_weights=None if weights is None else True,
            in_channels=in_channels,
            classes=classes,
            **options,
            **given,
        )
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"model smp:{architecture}:{encoder}: smp refuses it with {options or 'no options'}: {reason}") from None


def smp_sizes(network: nn.Module) -> tuple[int, int]:
    """(what height and width must be multiples of, the smallest height and width) of a network of smp, in pixels."""
    kind = type(network).__name__.lower()
    stride = int(network.encoder.output_stride) * (2 if kind == "dpt" else 1)  # whose decoder halves the map once more
    return stride, stride * _SMALLEST_MAP.get(kind, 1)


def unet_resnet18(in_channels: int, classes: int, decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)) -> nn.Module:
    return _unet("resnet18", in_channels, classes, decoder_channels)


def unet_resnet50(in_channels: int, classes: int, decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)) -> nn.Module:
    return _unet("resnet50", in_channels, classes, decoder_channels)


def unet_vgg16(in_channels: int, classes: int, decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)) -> nn.Module:
    return _unet("vgg16", in_channels, classes, decoder_channels)


def unet_vgg19(in_channels: int, classes: int, decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)) -> nn.Module:
    return _unet("vgg19", in_channels, classes, decoder_channels)


def _unet(encoder: str, in_channels: int, classes: int, decoder_channels: tuple[int, ...]) -> nn.Module:
    return smp_network("unet", encoder, in_channels, classes, decoder_channels=tuple(decoder_channels))


def deeplabv3plus(
    in_channels: int,
    classes: int,
    separable_aspp: bool = True,
    decoder_channels: int = 256,
    atrous_rates: tuple[int, int, int] = _RATES,
    dropout: float = 0.5,
) -> nn.Module:
    return _deeplab("resnet50", in_channels, classes, separable_aspp, decoder_channels, atrous_rates, dropout)


def deeplabv3plus_xception(
    in_channels: int,
    classes: int,
    separable_aspp: bool = True,
    decoder_channels: int = 256,
    atrous_rates: tuple[int, int, int] = _RATES,
    dropout: float = 0.5,
    weights: Path | None = None,
) -> nn.Module:
    return _deeplab(XCEPTION, in_channels, classes, separable_aspp, decoder_channels, atrous_rates, dropout, weights=weights)


# smp's own xception halves by pooling and so refuses dilation, as does timm's legacy_xception. timm's xception41, 65 and 71 are
# the aligned Xception that DeepLabV3+ introduced, with strided convolutions; 65 is the paper's depth, tf_in1k its own weights.
XCEPTION = "tu-xception65.tf_in1k"


def _deeplab(
    encoder: str,
    in_channels: int,
    classes: int,
    separable_aspp: bool,
    decoder_channels: int,
    atrous_rates: tuple[int, int, int],
    dropout: float,
    **weights: Path | None,
) -> nn.Module:
    return smp_network(
        "deeplabv3plus",
        encoder,
        in_channels,
        classes,
        encoder_output_stride=16,
        decoder_aspp_separable=separable_aspp,
        decoder_channels=decoder_channels,
        decoder_atrous_rates=tuple(atrous_rates),
        decoder_aspp_dropout=dropout,
        **weights,
    )


def deeplabv3plus_mobilenet(
    in_channels: int,
    classes: int,
    separable_aspp: bool = False,
    decoder_channels: int = 256,
    atrous_rates: tuple[int, int, int] = _RATES,
    dropout: float = 0.5,
) -> nn.Module:
    """The stock MobileNetV2 DeepLabV3+ that 003 begins with.

    smp's differs in two ways. Its ASPP reads the 1,280 channels of MobileNetV2's classifying convolution, which an ordinary ASPP
    would answer with 8.8 million parameters; here as in 003 it reads the 320 channels in front of that, and the convolution is
    gone. And its two other 3×3 convolutions are separable; here they are ordinary, so that `separable_aspp` turns the three
    dilated convolutions alone, 003's ablation.
    """
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

    network = _deeplab("mobilenet_v2", in_channels, classes, separable_aspp, decoder_channels, atrous_rates, dropout)
    encoder = without_classifying_convolution(network.encoder)
    decoder = DeepLabV3PlusDecoder(
        encoder.out_channels,
        encoder_depth=5,
        out_channels=decoder_channels,
        atrous_rates=tuple(atrous_rates),
        output_stride=16,
        aspp_separable=separable_aspp,
        aspp_dropout=dropout,
    )
    for block, place in ((decoder.aspp, 1), (decoder.block2, 0)):
        separable = block[place]  # depthwise, pointwise
        block[place] = nn.Conv2d(separable[0].in_channels, separable[1].out_channels, 3, padding=1, bias=False)
    network.decoder = decoder
    return network


def without_classifying_convolution(encoder: nn.Module) -> nn.Module:
    """smp's MobileNetV2 with the 320 channels of its last bottleneck as the deepest map; changed in place and returned."""
    encoder.features = encoder.features[:-1]
    encoder._out_channels = [*encoder._out_channels[:-1], encoder.features[-1].out_channels]
    encoder._out_indexes = [*encoder._out_indexes[:-1], len(encoder.features) - 1]
    return encoder


def pspnet(in_channels: int, classes: int, decoder_channels: int = 512, dropout: float = 0.2) -> nn.Module:
    """All of ResNet50, dilated to stride 8 as published; smp's default ends after the third of five stages."""
    network = smp_network(
        "pspnet",
        "resnet50",
        in_channels,
        classes,
        encoder_depth=5,
        output_stride=8,
        psp_out_channels=decoder_channels,
        psp_dropout=dropout,
    )
    for block in network.decoder.psp.blocks:
        if block.pool_size > 1:
            block.pool[0] = AdaptivePool(block.pool_size)
    return network


def unetpp(in_channels: int, classes: int, decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)) -> nn.Module:
    return smp_network("unetplusplus", "resnet34", in_channels, classes, decoder_channels=tuple(decoder_channels))


def segformer(in_channels: int, classes: int, decoder_channels: int = 256) -> nn.Module:
    return smp_network("segformer", "mit_b0", in_channels, classes, decoder_segmentation_channels=decoder_channels)


def torchvision_weights_url(encoder: str) -> str | None:
    """Address of torchvision's IMAGENET1K_V1 file where an encoder is torchvision's network, parameter names included.

    smp-hub holds the same values a second time; with torchvision's file a classifier and an encoder share one.
    """
    if encoder != "mobilenet_v2" and not encoder.startswith(("vgg", "resnet")):
        return None
    return torchvision.models.get_model_weights(encoder).IMAGENET1K_V1.url


def hub_weights(encoder: str) -> tuple[str, str, str] | None:
    """(repository, revision, name for the file on disk) of smp's ImageNet weights on Hugging Face's hub, None without any."""
    settings = smp_module().encoders.encoders[encoder]["pretrained_settings"].get("imagenet")
    if settings is None:
        return None
    return settings["repo_id"], settings["revision"], f"{encoder}.imagenet.safetensors"


def published_encoder(encoder: str) -> nn.Module:
    """An encoder of smp as its ImageNet file knows it: for three channels, all stages; `load_state_dict` drops the head."""
    return smp_module().encoders.get_encoder(encoder, in_channels=3, depth=5, weights=None)
