"""The classifiers by name. Adding one is a function or class that builds it and a line in `CLASSIFIERS`."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torchvision import models

from thyroid_utils.common.errors import nearest
from thyroid_utils.models import Architecture
from thyroid_utils.models.any_size import AdaptivePool, AnySizeAuxiliary, AnySizeTransformer
from thyroid_utils.models.hybrids import ResNet18Transformer
from thyroid_utils.models.libraries import timm_architecture
from thyroid_utils.models.weights import fill, for_channels, published_values


def classifier_architecture(name: str) -> Architecture:
    """The architecture of a name in `CLASSIFIERS` or of `timm:NAME`.

    Raises:
        ValueError: no such model; the nearest name is given.
    """
    if name.startswith("timm:"):
        return timm_architecture(name)
    if name not in CLASSIFIERS:
        raise ValueError(f"model {name!r} is unknown; {nearest(name, CLASSIFIERS)} (timm:NAME takes any model of timm)")
    return CLASSIFIERS[name]


def _finished(network: nn.Module, name: str, in_channels: int, pretrained: bool) -> nn.Module:
    """torchvision's network `name` with its first convolution for `in_channels`, and with published values where wanted."""
    for_channels(network, in_channels)
    if pretrained:
        fill(network, published_values(name))
    return network


def _alexnet(in_channels: int, classes: int, pretrained: bool = False, hidden: int = 4096, dropout: float = 0.5) -> nn.Module:
    network = models.alexnet(num_classes=classes, dropout=dropout)
    network.avgpool = AdaptivePool(6)
    _narrow(network.classifier, (1, 4, 6), hidden)
    return _finished(network, "alexnet", in_channels, pretrained)


def _vgg(
    name: str, in_channels: int, classes: int, pretrained: bool = False, hidden: int = 4096, dropout: float = 0.5
) -> nn.Module:
    network = models.get_model(name, num_classes=classes, dropout=dropout)
    network.avgpool = AdaptivePool(7)
    _narrow(network.classifier, (0, 3, 6), hidden)
    return _finished(network, name, in_channels, pretrained)


def _narrow(head: nn.Sequential, dense: tuple[int, int, int], hidden: int) -> None:
    """Another number of units in the two hidden layers of AlexNet's or VGG's head."""
    if hidden != 4096:
        first, second, last = dense
        head[first] = nn.Linear(head[first].in_features, hidden)
        head[second] = nn.Linear(hidden, hidden)
        head[last] = nn.Linear(hidden, head[last].out_features)


def _resnet(name: str, in_channels: int, classes: int, pretrained: bool = False) -> nn.Module:
    return _finished(models.get_model(name, num_classes=classes), name, in_channels, pretrained)


def _inception_v3(
    in_channels: int, classes: int, pretrained: bool = False, auxiliary: bool = True, dropout: float = 0.5
) -> nn.Module:
    # transform_input: its ImageNet weights expect (I - 0.5) / 0.5 where every other network's expect ImageNet's µ and σ.
    network = models.inception_v3(
        num_classes=classes, aux_logits=auxiliary, init_weights=True, transform_input=True, dropout=dropout
    )
    if auxiliary:
        any_size = AnySizeAuxiliary(768, classes)
        any_size.load_state_dict(network.AuxLogits.state_dict())  # its random values have a scale of their own
        network.AuxLogits = any_size
    for_channels(network, in_channels)
    network.transform_input = in_channels == 3
    if pretrained:
        values = published_values("inception_v3")
        fill(network, values if network.transform_input else _with_rescaling(values))
    return network


def _with_rescaling(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inception's own rescaling of red, green and blue, which other channels do not go through, moved into its first layer.

    It maps a colour to (σ x + µ - 0.5) / 0.5. The factor goes into the filters; what the constant adds is the same everywhere,
    as this convolution does not pad, and the mean of the batch normalisation behind it takes it up.
    """
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    first, running = "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.running_mean"
    constant = (values[first] * ((mean - 0.5) / 0.5).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    factor = (deviation / 0.5).view(1, 3, 1, 1)
    return values | {first: values[first] * factor, running: values[running] - constant}


def _mobilenet_v2(in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.2) -> nn.Module:
    return _finished(models.mobilenet_v2(num_classes=classes, dropout=dropout), "mobilenet_v2", in_channels, pretrained)


def _efficientnet_b0(
    in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.2, stochastic_depth: float = 0.2
) -> nn.Module:
    network = models.efficientnet_b0(num_classes=classes, dropout=dropout, stochastic_depth_prob=stochastic_depth)
    return _finished(network, "efficientnet_b0", in_channels, pretrained)


def _convnext_tiny(in_channels: int, classes: int, pretrained: bool = False, stochastic_depth: float = 0.1) -> nn.Module:
    network = models.convnext_tiny(num_classes=classes, stochastic_depth_prob=stochastic_depth)
    return _finished(network, "convnext_tiny", in_channels, pretrained)


def _vit_b_16(in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.0) -> nn.Module:
    sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    network = AnySizeTransformer(image_size=224, patch_size=16, **sizes, dropout=dropout, num_classes=classes)
    # torchvision's head begins at zero, which would leave every other parameter without a gradient in the first step.
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return _finished(network, "vit_b_16", in_channels, pretrained)


def _swin_t(in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.0) -> nn.Module:
    return _finished(models.swin_t(num_classes=classes, dropout=dropout), "swin_t", in_channels, pretrained)


CLASSIFIERS: dict[str, Architecture] = {
    # AlexNet's and VGG's last maps are those behind the last ReLU, which changes the convolution's own output in place.
    "alexnet": Architecture(_alexnet, "torchvision:alexnet", 224, minimum=63, explained="features.11"),
    "vgg16": Architecture(partial(_vgg, "vgg16"), "torchvision:vgg16", 224, explained="features.29"),
    "vgg19": Architecture(partial(_vgg, "vgg19"), "torchvision:vgg19", 224, explained="features.35"),
    "resnet18": Architecture(partial(_resnet, "resnet18"), "torchvision:resnet18", 224, explained="layer4"),
    "resnet34": Architecture(partial(_resnet, "resnet34"), "torchvision:resnet34", 224, explained="layer4"),
    "inception_v3": Architecture(_inception_v3, "torchvision:inception_v3", 299, minimum=75, explained="Mixed_7c"),
    "resnet18_transformer": Architecture(
        ResNet18Transformer, "torchvision:resnet18", 224, explained="encoder.-1.norm1", patch=32
    ),
    "mobilenet_v2": Architecture(_mobilenet_v2, "torchvision:mobilenet_v2", 224, explained="features.18"),
    "efficientnet_b0": Architecture(_efficientnet_b0, "torchvision:efficientnet_b0", 224, explained="features.8"),
    "convnext_tiny": Architecture(_convnext_tiny, "torchvision:convnext_tiny", 224, explained="features.7"),
    "vit_b_16": Architecture(_vit_b_16, "torchvision:vit_b_16", 224, minimum=16, explained="encoder.layers.-1.ln_1", patch=16),
    "swin_t": Architecture(_swin_t, "torchvision:swin_t", 224, explained="permute"),
}
