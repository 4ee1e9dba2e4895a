"""The classifiers by name. Adding one is a function that builds it and a line in `CLASSIFIERS`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import nn
from torchvision import models

from thyroid_utils.common.errors import nearest
from thyroid_utils.models.any_size import AdaptivePool, AnySizeAuxiliary, AnySizeTransformer
from thyroid_utils.models.resnet18_transformer import ResNet18Transformer


class Tokens(NamedTuple):
    """Where a transformer holds an image as tokens, the class token first.

    module: its path (-1: the last child), in front of the last block's attention: behind it only the class token is read, and the
    gradient of every other token is zero. patch: side of what a token stands for, in pixels.
    """

    module: str
    patch: int


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what has to be known about it.

    build: called with the number of classes and the model's own options; returns a module that takes three channels (where
    `first` is None: called with in_channels too, and takes that many). imagenet: torchvision's name for its ImageNet weights,
    None for timm models. first: the convolution that reads the image. head: what makes the logits, as beginnings of parameter
    names. last_map: the module that puts out the last feature map, None where there is none. minimum: smallest side in
    pixels. size: side of the square images it was published with, in pixels. backbone: where ImageNet weights belong, as the
    beginning of parameter names. tokens: where Grad-CAM looks in a transformer; in all other networks it is `last_map`.
    """

    build: Callable[..., nn.Module]
    imagenet: Any
    first: str | None
    head: tuple[str, ...]
    last_map: str | None
    minimum: int = 32
    size: int = 224
    backbone: str = ""
    tokens: Tokens | None = None

    def __call__(self, name: str, in_channels: int, classes: int, options: dict[str, Any]) -> nn.Module:
        """The network with random values, its first convolution made for `in_channels`."""
        if self.first is None:
            return self.build(in_channels, classes, **options)
        known = [option for option in inspect.signature(self.build).parameters if option != "classes"]
        for option in options:
            if option not in known:
                hint = nearest(option, known) if known else "it has no options"
                raise ValueError(f"model {name}: no option {option!r}; {hint}")
        network = self.build(classes, **options)
        if in_channels != 3:
            _replace_first_convolution(network, self.first, in_channels)
        return network


def _replace_first_convolution(network: nn.Module, first: str, in_channels: int) -> None:
    parent, _, child = first.rpartition(".")
    old = network.get_submodule(first)
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    setattr(network.get_submodule(parent), child, new)
    if hasattr(network, "transform_input"):
        network.transform_input = False  # Inception's rescaling of red, green and blue


def _dense(network: nn.Module, first: int, second: int, hidden: int, classes: int) -> nn.Module:
    """Other numbers of units in the two hidden layers of AlexNet's or VGG's head."""
    if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
        raise ValueError(f"hidden must be a whole number from 1; found {hidden!r}")
    if hidden != 4096:
        head = network.classifier
        head[first] = nn.Linear(head[first].in_features, hidden)
        head[second] = nn.Linear(hidden, hidden)
        head[6] = nn.Linear(hidden, classes)
    return network


def _alexnet(classes: int, hidden: int = 4096, dropout: float = 0.5) -> nn.Module:
    network = models.alexnet(num_classes=classes, dropout=dropout)
    network.avgpool = AdaptivePool(6)
    return _dense(network, 1, 4, hidden, classes)


def _vgg(builder: Callable[..., nn.Module], classes: int, hidden: int = 4096, dropout: float = 0.5) -> nn.Module:
    network = builder(num_classes=classes, dropout=dropout)
    network.avgpool = AdaptivePool(7)
    return _dense(network, 0, 3, hidden, classes)


def _resnet(builder: Callable[..., nn.Module], classes: int) -> nn.Module:
    return builder(num_classes=classes)


def _inception_v3(classes: int, auxiliary: bool = True, dropout: float = 0.5) -> nn.Module:
    # transform_input: its ImageNet weights expect (I - 0.5) / 0.5 where every other network's expect ImageNet's µ and σ.
    network = models.inception_v3(
        num_classes=classes, aux_logits=auxiliary, init_weights=True, transform_input=True, dropout=dropout
    )
    if auxiliary:
        any_size = AnySizeAuxiliary(768, classes)
        any_size.load_state_dict(network.AuxLogits.state_dict())  # its random values have a scale of their own
        network.AuxLogits = any_size
    return network


def _mobilenet_v2(classes: int, dropout: float = 0.2) -> nn.Module:
    return models.mobilenet_v2(num_classes=classes, dropout=dropout)


def _efficientnet_b0(classes: int, dropout: float = 0.2, stochastic_depth: float = 0.2) -> nn.Module:
    return models.efficientnet_b0(num_classes=classes, dropout=dropout, stochastic_depth_prob=stochastic_depth)


def _convnext_tiny(classes: int, stochastic_depth: float = 0.1) -> nn.Module:
    return models.convnext_tiny(num_classes=classes, stochastic_depth_prob=stochastic_depth)


def _vit_b_16(classes: int, dropout: float = 0.0) -> nn.Module:
    network = AnySizeTransformer(
        image_size=224,
        patch_size=16,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        mlp_dim=3072,
        dropout=dropout,
        num_classes=classes,
    )
    # torchvision's head begins at zero, which would leave every other parameter without a gradient in the first step.
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return network


def _swin_t(classes: int, dropout: float = 0.0) -> nn.Module:
    return models.swin_t(num_classes=classes, dropout=dropout)


def _beginnings(*modules: str) -> tuple[str, ...]:
    return tuple(f"{module}." for module in modules)


def _torchvision(
    build: Callable[..., nn.Module], weights: Any, first: str, head: str, last_map: str | None, **facts
) -> Architecture:
    return Architecture(build, weights.IMAGENET1K_V1, first, _beginnings(*head.split()), last_map, **facts)


CLASSIFIERS: dict[str, Architecture] = {
    "alexnet": _torchvision(
        _alexnet, models.AlexNet_Weights, "features.0", "classifier.6", "features.11", minimum=63
    ),  # last_map: behind the last convolution's ReLU, which changes the convolution's own output in place
    "vgg16": _torchvision(partial(_vgg, models.vgg16), models.VGG16_Weights, "features.0", "classifier.6", "features.29"),
    "vgg19": _torchvision(partial(_vgg, models.vgg19), models.VGG19_Weights, "features.0", "classifier.6", "features.35"),
    "resnet18": _torchvision(partial(_resnet, models.resnet18), models.ResNet18_Weights, "conv1", "fc", "layer4"),
    "resnet34": _torchvision(partial(_resnet, models.resnet34), models.ResNet34_Weights, "conv1", "fc", "layer4"),
    "inception_v3": _torchvision(
        _inception_v3,
        models.Inception_V3_Weights,
        "Conv2d_1a_3x3.conv",
        "fc AuxLogits.fc",
        "Mixed_7c",
        minimum=75,
        size=299,
    ),
    "resnet18_transformer": _torchvision(
        ResNet18Transformer,
        models.ResNet18_Weights,
        "backbone.conv1",
        "head",
        "backbone.layer4",
        backbone="backbone.",
        tokens=Tokens("encoder.-1.norm1", 32),
    ),
    "mobilenet_v2": _torchvision(_mobilenet_v2, models.MobileNet_V2_Weights, "features.0.0", "classifier.1", "features.18"),
    "efficientnet_b0": _torchvision(
        _efficientnet_b0, models.EfficientNet_B0_Weights, "features.0.0", "classifier.1", "features.8"
    ),
    "convnext_tiny": _torchvision(_convnext_tiny, models.ConvNeXt_Tiny_Weights, "features.0.0", "classifier.2", "features.7"),
    "vit_b_16": _torchvision(
        _vit_b_16,
        models.ViT_B_16_Weights,
        "conv_proj",
        "heads.head",
        None,
        minimum=16,
        tokens=Tokens("encoder.layers.-1.ln_1", 16),
    ),
    "swin_t": _torchvision(_swin_t, models.Swin_T_Weights, "features.0.0", "head", "permute"),
}


def architecture(name: str) -> Architecture:
    """The architecture of a name in `CLASSIFIERS` or of `timm:NAME`.

    Raises:
        ValueError: no such model; the nearest name is given.
    """
    if name.startswith("timm:"):
        return _timm_architecture(name)
    if name not in CLASSIFIERS:
        raise ValueError(f"model {name!r} is unknown; {nearest(name, CLASSIFIERS)} (timm:NAME takes any model of timm)")
    return CLASSIFIERS[name]


def timm_module() -> types.ModuleType:
    """timm, imported when first asked for: it registers a thousand models, which takes seconds."""
    import timm

    return timm


def _timm_architecture(name: str) -> Architecture:
    timm = timm_module()
    own_name = name.removeprefix("timm:")
    plain_name = own_name.split(".")[0]
    if not timm.is_model(plain_name):
        raise ValueError(f"model {name!r} is unknown to timm; {nearest(plain_name, timm.list_models())}")
    try:
        facts = timm.models.get_pretrained_cfg(own_name)
    except RuntimeError:
        known = [tag.partition(".")[2] for tag in timm.list_pretrained(f"{plain_name}.*")]
        raise ValueError(f"model {name!r}: timm has no such weights of {plain_name}; known: {', '.join(known)}") from None
    head = (None if facts is None else facts.classifier) or ()
    return Architecture(
        build=partial(_build_timm, own_name),
        imagenet=None,
        first=None,
        head=_beginnings(head) if isinstance(head, str) else _beginnings(*head),
        last_map=None,
        minimum=32 if facts is None or facts.min_input_size is None else max(facts.min_input_size[1:]),
        size=224 if facts is None else facts.input_size[-1],
    )


def _build_timm(name: str, in_channels: int, classes: int, **options: Any) -> nn.Module:
    timm = timm_module()
    # Most transformers need this switch to take images of any size; convolutional networks do not know it.
    for switch in ({"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=classes, **{**switch, **options})
        except TypeError as error:
            refused = error
    raise ValueError(f"model timm:{name}: timm refuses the options {options}: {refused}") from None


def timm_fixed_size(network: nn.Module, options: dict[str, Any]) -> int | None:
    """The side in pixels of the only images that a timm network takes, None where it takes several sizes."""
    facts = network.pretrained_cfg
    patches = getattr(network, "patch_embed", None)
    if not facts.get("fixed_input_size") or getattr(patches, "strict_img_size", True) is False:
        return None
    return options.get("img_size", facts["input_size"][-1])
