"""Any network of timm (`timm:NAME`) and segmentation_models_pytorch (`smp:ARCH:ENCODER`), which both take seconds to import; and
those on EfficientNet-Lite0, whose ImageNet weights are installed with this package."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import nn

from thyroid_utils.common.errors import nearest
from thyroid_utils.models import Architecture
from thyroid_utils.models.weights import fill, installed_file, rescaled

# Where the values of networks on EfficientNet-Lite0 come from, and timm's name of it
LITE0, _OWN = "installed:efficientnet_lite0", "tf_efficientnet_lite0"
# What smp's builders also take, but is settled elsewhere or would change what the network gives back.
_RESERVED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "upsampling", "kwargs")
# Places a side that a decoder needs of the encoder's last map; 1 for the others
_SMALLEST_MAP = {"pan": 8}


def timm_architecture(name: str) -> Architecture:
    """The architecture of `timm:NAME`.

    Raises:
        ValueError: timm does not know it; the nearest name is given.
    """
    own = name.removeprefix("timm:")
    facts = _timm_facts(own, name)
    size, minimum = (facts.input_size, facts.min_input_size) if facts else (None, None)
    return Architecture(
        partial(_timm_network, own),
        imagenet=f"timm:{facts.architecture}.{facts.tag}" if facts else name,
        size=size[-1] if size else 224,
        minimum=max(minimum[1:]) if minimum else 32,
    )


def _timm_facts(own: str, name: str) -> Any:
    """timm's own entry of a network, possibly with the tag of its weights; None where it has none."""
    import timm

    plain, _, tag = own.partition(".")
    if not timm.is_model(plain):
        raise ValueError(f"model {name!r} is unknown to timm; {nearest(plain, timm.list_models())}")
    try:
        return timm.models.get_pretrained_cfg(own)
    except RuntimeError:
        known = ", ".join(found.partition(".")[2] for found in timm.list_pretrained(f"{plain}.*"))
        raise ValueError(f"model {name!r}: timm has no weights {tag!r} of {plain}; known: {known}") from None


def _timm_network(name: str, in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    import timm

    settings = {"pretrained": pretrained, "in_chans": in_channels, "num_classes": classes}
    # Most transformers need this switch to take images of any size; convolutional networks do not know it.
    for switch in ({"dynamic_img_size": True}, {}):
        try:
            network = timm.create_model(name, **settings, **(switch | options))
            break
        except TypeError as error:
            refused = error
    else:
        raise ValueError(f"model timm:{name}: timm refuses the options {options}: {refused}")
    facts, patches = network.pretrained_cfg, getattr(network, "patch_embed", None)
    if facts.get("fixed_input_size") and getattr(patches, "strict_img_size", True):
        network.fixed_size = options.get("img_size", facts["input_size"][-1])
    return network


def smp_architecture(name: str) -> Architecture:
    """The architecture of `smp:ARCH:ENCODER`, where ENCODER is smp's, or tu-NAME for timm's.

    Raises:
        ValueError: another form, or an architecture or encoder that smp does not have; the nearest name is given.
    """
    import segmentation_models_pytorch as smp

    parts = name.split(":")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"model {name!r}: expected smp:ARCH:ENCODER, such as smp:fpn:resnet34")
    kind, encoder, kinds = parts[1].lower(), parts[2], smp.MODEL_ARCHITECTURES_MAPPING
    if kind not in kinds:
        raise ValueError(f"model {name!r}: smp has no architecture {kind!r}; {nearest(kind, kinds)}")
    options = None  # timm's encoders take more than smp says
    if encoder.startswith("tu-"):
        _timm_facts(encoder.removeprefix("tu-"), name)
    elif encoder in smp.encoders.encoders:
        known = {*inspect.signature(kinds[kind]).parameters, "output_stride"}.difference(_RESERVED)
        options = {option: option for option in sorted(known)}
    else:
        hint = nearest(encoder, smp.encoders.encoders)
        raise ValueError(f"model {name!r}: smp has no encoder {encoder!r}; {hint} (tu-NAME takes timm's networks)")
    return Architecture(partial(smp_network, kind, encoder), f"smp:{encoder}", options)


def smp_network(kind: str, encoder: str, in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of smp.

    Args:
        kind: smp's class, in lower case.
        encoder: smp's name of it, or tu-NAME for one of timm's.
        options: smp's own, under its names; for a `tu-` encoder also timm's.

    Raises:
        ValueError: an option or a value that smp refuses, or an encoder that does not go with the architecture.
    """
    import segmentation_models_pytorch as smp

    published = (encoder.startswith("tu-") or "imagenet") if pretrained else None
    settled = {"activation": None, "aux_params": None}  # logits of the pixels alone
    try:
        network = smp.create_model(kind, encoder, published, in_channels, classes, **settled, **options)
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"model smp:{kind}:{encoder}: smp refuses it with {options or 'no options'}: {reason}") from None
    # DPT's decoder halves the map once more.
    network.multiple = int(network.encoder.output_stride) * (2 if kind == "dpt" else 1)
    network.minimum = network.multiple * _SMALLEST_MAP.get(kind, 1)
    return network


def lite0_classifier(
    in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.2, stochastic_depth: float = 0.2
) -> nn.Module:
    """timm's EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6 (TensorFlow's team, 2020)."""
    network = _timm_network(_OWN, in_channels, classes, drop_rate=dropout, drop_path_rate=stochastic_depth)
    # As MobileNetV2's: timm's range of 1 / √classes begins two classes with logits of some ten
    nn.init.normal_(network.classifier.weight, std=0.01)
    if pretrained:
        fill(network, _lite0_values())
    return network


def lite0_segmenter(kind: str, in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of smp on EfficientNet-Lite0 without its last convolution; options: as of `smp_network`."""
    network = smp_network(kind, f"tu-{_OWN}", in_channels, classes, **options)
    if pretrained:
        fill(network.encoder.model, _lite0_values())
    return network


def _lite0_values() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's ImageNet values without the head's: the file's, which were made for gray levels (x - 127) / 128 and
    have the order of timm's network, under its names."""
    import timm

    state = torch.load(installed_file("efficientnet_lite0"), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(_OWN).state_dict()
    values = {name: value for name, value in zip(names, state.values(), strict=True) if not name.startswith("classifier.")}
    return rescaled(values, "conv_stem.weight", "bn1.running_mean", 127 / 255, 128 / 255)
