"""The classifiers by name. Adding one is a function or class that builds it and a line in `CLASSIFIERS`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torchvision import models

from thyroid_utils.models import Architecture
from thyroid_utils.models.any_size import AdaptivePool, AnySizeAuxiliary, AnySizeTransformer
from thyroid_utils.models.hybrids import ResNet18Transformer
from thyroid_utils.models.libraries import LITE0, lite0_classifier
from thyroid_utils.models.weights import fill, for_channels, published_values, rescaled

_DENSE = 4096  # units of each of the two hidden layers in AlexNet's and VGG's head
_DROPOUT = {"dropout": "dropout"}  # our name of an option → torchvision's
_DEPTH = {"stochastic_depth": "stochastic_depth_prob"}


def _finished(network: nn.Module, name: str, in_channels: int, pretrained: bool) -> nn.Module:
    """torchvision's network `name` with its first convolution for `in_channels`, and with published values where wanted."""
    for_channels(network, in_channels)
    if pretrained:
        fill(network, published_values(name))
    return network


def _as_it_is(name: str, in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    return _finished(models.get_model(name, num_classes=classes, **options), name, in_channels, pretrained)


def _with_dense_head(
    name: str, in_channels: int, classes: int, pretrained: bool = False, hidden: int = _DENSE, dropout: float = 0.5
) -> nn.Module:
    """AlexNet or VGG for images of any size, with another number of units in the hidden layers of its head."""
    network = models.get_model(name, num_classes=classes, dropout=dropout)
    network.avgpool = AdaptivePool(network.avgpool.output_size[0])
    if hidden != _DENSE:
        head = network.classifier
        first, second, last = (at for at, layer in enumerate(head) if isinstance(layer, nn.Linear))
        head[first] = nn.Linear(head[first].in_features, hidden)
        head[second] = nn.Linear(hidden, hidden)
        head[last] = nn.Linear(hidden, classes)
    return _finished(network, name, in_channels, pretrained)


def _inception(
    name: str, in_channels: int, classes: int, pretrained: bool = False, auxiliary: bool = True, dropout: float = 0.5
) -> nn.Module:
    # transform_input: its ImageNet weights expect (I - 0.5) / 0.5 where every other network's expect ImageNet's µ and σ.
    settings = {"num_classes": classes, "init_weights": True, "transform_input": True, "dropout": dropout}
    network = models.get_model(name, aux_logits=auxiliary, **settings)
    if auxiliary:
        any_size = AnySizeAuxiliary(768, classes)
        # Its random values have a scale of their own
        any_size.load_state_dict(network.AuxLogits.state_dict())
        network.AuxLogits = any_size
    for_channels(network, in_channels)
    network.transform_input = in_channels == 3
    if pretrained:
        values = published_values(name)
        if not network.transform_input:
            values = rescaled(values, "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.running_mean", 0.5, 0.5)
        fill(network, values)
    return network


def _transformer(name: str, in_channels: int, classes: int, pretrained: bool = False, dropout: float = 0.0) -> nn.Module:
    sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    network = AnySizeTransformer(image_size=224, patch_size=16, **sizes, dropout=dropout, num_classes=classes)
    # torchvision's head begins at zero, which would leave every other parameter without a gradient in the first step.
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return _finished(network, name, in_channels, pretrained)


def _of(name: str, explained: str, build: Callable[..., nn.Module] = _as_it_is, **facts: Any) -> Architecture:
    """The entry of a network of torchvision's. `_as_it_is` takes the options that the entry lists."""
    return Architecture(partial(build, name), f"torchvision:{name}", **{"size": 224, "explained": explained, **facts})


CLASSIFIERS: dict[str, Architecture] = {
    # AlexNet's and VGG's last maps are those behind the last ReLU, which changes the convolution's own output in place.
    "alexnet": _of("alexnet", "features.11", _with_dense_head, minimum=63),
    "vgg16": _of("vgg16", "features.29", _with_dense_head),
    "vgg19": _of("vgg19", "features.35", _with_dense_head),
    "resnet18": _of("resnet18", "layer4", options={}),
    "resnet34": _of("resnet34", "layer4", options={}),
    "inception_v3": _of("inception_v3", "Mixed_7c", _inception, size=299, minimum=75),
    "resnet18_transformer": Architecture(
        ResNet18Transformer, "torchvision:resnet18", size=224, explained="encoder.-1.norm1", patch=32
    ),
    "mobilenet_v2": _of("mobilenet_v2", "features.18", options=_DROPOUT),
    "efficientnet_b0": _of("efficientnet_b0", "features.8", options=_DROPOUT | _DEPTH),
    "efficientnet_lite0": Architecture(lite0_classifier, LITE0, size=224, explained="bn2"),
    "convnext_tiny": _of("convnext_tiny", "features.7", options=_DEPTH),
    "vit_b_16": _of("vit_b_16", "encoder.layers.-1.ln_1", _transformer, minimum=16, patch=16),
    "swin_t": _of("swin_t", "permute", options=_DROPOUT),
}
