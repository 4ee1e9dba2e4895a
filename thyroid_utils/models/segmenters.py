"""The segmenters by name. Adding one is a function or class that builds it and a line in `SEGMENTERS`; `segmenters.csv` says what
each is, and where it comes from."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from thyroid_utils.models import Architecture
from thyroid_utils.models.any_size import AdaptivePool
from thyroid_utils.models.hybrids import PUBLISHED, TransUNet
from thyroid_utils.models.libraries import LITE0, lite0_segmenter, smp_network
from thyroid_utils.models.mobile_deeplab import XCEPTION, MobileDeepLab, imagenet_of, without_classifying_convolution
from thyroid_utils.models.unet import AttentionUNet, PretrainedResidualUNet, ResidualUNet, UNet
from thyroid_utils.models.vgg_segmenters import FCN8s, SegNet

# Our names of options → smp's.
_UNET = {"decoder_channels": "decoder_channels"}
_DEEPLAB = {
    "separable_aspp": "decoder_aspp_separable",
    "decoder_channels": "decoder_channels",
    "atrous_rates": "decoder_atrous_rates",
    "dropout": "decoder_aspp_dropout",
}
_PSPNET = {"decoder_channels": "psp_out_channels", "dropout": "psp_dropout"}
_SEGFORMER = {"decoder_channels": "decoder_segmentation_channels"}
# DeepLab's papers and 003 have these rates at output stride 16; smp's own rates are those of stride 8.
_STRIDE_16 = {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18)}


def segmenter_facts() -> pd.DataFrame:
    """What each segmenter is, a row each, from `segmenters.csv`.

    Returns:
        DataFrame indexed by name: what, paper, made_from, encoder (the part that takes ImageNet weights, "" for none),
        published_parameters (millions, as printed; NaN without one) and published_in (where, and with which settings).
    """
    facts = pd.read_csv(Path(__file__).with_suffix(".csv"), index_col="name").fillna({"published_in": ""})
    facts.insert(3, "encoder", [SEGMENTERS[name].source().partition(":")[2] for name in facts.index])
    return facts


def _deeplabv3plus_mobilenet(in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """The stock MobileNetV2 DeepLabV3+ that 003 begins with.

    smp's differs in two ways. Its ASPP reads the 1,280 channels of MobileNetV2's classifying convolution, which an ordinary ASPP
    would answer with 8.8 million parameters; here as in 003 it reads the 320 channels in front of that, and the convolution is
    gone. And its two other 3×3 convolutions are separable; here they are ordinary, so that `separable_aspp` turns the three
    dilated convolutions alone, 003's ablation.
    """
    settings = _STRIDE_16 | {"decoder_channels": 256, "decoder_aspp_separable": False, "decoder_aspp_dropout": 0.5} | options
    network = smp_network("deeplabv3plus", "mobilenet_v2", in_channels, classes, pretrained, **settings)
    encoder = without_classifying_convolution(network.encoder)
    aspp = {f"aspp_{name}": settings[f"decoder_aspp_{name}"] for name in ("separable", "dropout")}
    widths = settings["decoder_channels"], settings["decoder_atrous_rates"]
    decoder = type(network.decoder)(encoder.out_channels, 5, *widths, output_stride=16, **aspp)
    for block, place in ((decoder.aspp, 1), (decoder.block2, 0)):
        depthwise, pointwise = block[place][0], block[place][1]
        block[place] = nn.Conv2d(depthwise.in_channels, pointwise.out_channels, 3, padding=1, bias=False)
    network.decoder = decoder
    return network


def _pspnet(in_channels: int, classes: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """All of ResNet50, dilated to stride 8 as published; smp's default ends after the third of five stages."""
    settings = {"encoder_depth": 5, "output_stride": 8} | options
    network = smp_network("pspnet", "resnet50", in_channels, classes, pretrained, **settings)
    for block in network.decoder.psp.blocks:
        if block.pool_size > 1:
            block.pool[0] = AdaptivePool(block.pool_size)
    return network


def _of_smp(kind: str, encoder: str, options: Mapping[str, str], explained: str, **settings: Any) -> Architecture:
    return Architecture(partial(smp_network, kind, encoder, **settings), f"smp:{encoder}", options, explained=explained)


def _on_lite0(kind: str, options: Mapping[str, str], **settings: Any) -> Architecture:
    return Architecture(partial(lite0_segmenter, kind, **settings), LITE0, options, explained="encoder.model.blocks.-1")


SEGMENTERS: dict[str, Architecture] = {
    "unet_efficientnet_lite0": _on_lite0("unet", _UNET),
    "deeplabv3plus_efficientnet_lite0": _on_lite0("deeplabv3plus", _DEEPLAB, **_STRIDE_16),
    "unet_resnet18": _of_smp("unet", "resnet18", _UNET, "encoder.layer4"),
    "unet_resnet50": _of_smp("unet", "resnet50", _UNET, "encoder.layer4"),
    "unet_vgg16": _of_smp("unet", "vgg16", _UNET, "decoder.center"),
    "unet_vgg19": _of_smp("unet", "vgg19", _UNET, "decoder.center"),
    "deeplabv3plus": _of_smp("deeplabv3plus", "resnet50", _DEEPLAB, "encoder.layer4", **_STRIDE_16),
    "deeplabv3plus_xception": _of_smp("deeplabv3plus", XCEPTION, _DEEPLAB, "encoder.model.blocks_20", **_STRIDE_16),
    "deeplabv3plus_mobilenet": Architecture(
        _deeplabv3plus_mobilenet, "smp:mobilenet_v2", _DEEPLAB, explained="encoder.features.-1"
    ),
    "mobile_deeplab": Architecture(MobileDeepLab, imagenet_of, explained="encoder.features.-1"),
    "pspnet": Architecture(_pspnet, "smp:resnet50", _PSPNET, explained="encoder.layer4"),
    "unetpp": _of_smp("unetplusplus", "resnet34", _UNET, "encoder.layer4"),
    "segformer": _of_smp("segformer", "mit_b0", _SEGFORMER, "encoder.norm4"),
    "unet": Architecture(UNet, explained="encoder.-1"),
    "attention_unet": Architecture(AttentionUNet, explained="encoder.-1"),
    "residual_unet": Architecture(ResidualUNet, explained="body.encoder.-1"),
    "residual_unet_resnet18": Architecture(PretrainedResidualUNet, "smp:resnet18", explained="encoder.layer4"),
    "segnet": Architecture(SegNet, "torchvision:vgg16_bn", explained="encoder.42"),
    "fcn8s": Architecture(FCN8s, "torchvision:vgg16", explained="encoder.29"),
    "transunet": Architecture(TransUNet, f"timm:{PUBLISHED}", explained="bridge"),
}
