"""The segmenters by name, and the one place that says what each is. Adding one is a function or class and an entry here."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from torch import nn

from thyroid_utils.models import Architecture
from thyroid_utils.models.any_size import AdaptivePool
from thyroid_utils.models.hybrids import PUBLISHED, TransUNet
from thyroid_utils.models.libraries import smp_network
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
    """What each segmenter is, a row each.

    Returns:
        DataFrame indexed by name: what, paper, made_from, encoder (the part that takes ImageNet weights, "" for none),
        published_parameters (millions, as printed; NaN without one) and published_in (where, and with which settings).
    """
    columns = ["what", "paper", "made_from", "encoder", "published_parameters", "published_in"]
    rows = {}
    for name, facts in SEGMENTERS.items():
        encoder = facts.source().partition(":")[2]
        rows[name] = (facts.what, facts.paper, facts.made_from, encoder, facts.published, facts.published_in)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("name").astype({"published_parameters": float})


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


def _smp_unet(encoder: str, what: str, paper: str, explained: str) -> Architecture:
    build, paper = partial(smp_network, "unet", encoder), f"Ronneberger et al. 2015; {paper}"
    texts = {"what": f"U-Net's decoder on {what}", "paper": paper, "made_from": "smp Unet"}
    return Architecture(build, f"smp:{encoder}", _UNET, explained=explained, **texts)


SEGMENTERS: dict[str, Architecture] = {
    "unet_resnet18": _smp_unet("resnet18", "ResNet18", "He et al. 2016", "encoder.layer4"),
    "unet_resnet50": _smp_unet("resnet50", "ResNet50; 000's chosen one", "He et al. 2016", "encoder.layer4"),
    "unet_vgg16": _smp_unet("vgg16", "VGG16", "Simonyan and Zisserman 2015", "decoder.center"),
    "unet_vgg19": _smp_unet("vgg19", "VGG19", "Simonyan and Zisserman 2015", "decoder.center"),
    "deeplabv3plus": Architecture(
        partial(smp_network, "deeplabv3plus", "resnet50", **_STRIDE_16),
        "smp:resnet50",
        _DEEPLAB,
        explained="encoder.layer4",
        what="ASPP on ResNet50 at stride 16, decoder with one skip from stride 4; separable convolutions",
        paper="Chen et al. 2018",
        made_from="smp DeepLabV3Plus, rates 6, 12, 18",
    ),
    "deeplabv3plus_xception": Architecture(
        partial(smp_network, "deeplabv3plus", XCEPTION, **_STRIDE_16),
        f"smp:{XCEPTION}",
        _DEEPLAB,
        explained="encoder.model.blocks_20",
        what="the same on the aligned Xception-65",
        paper="Chen et al. 2018",
        made_from="smp DeepLabV3Plus on timm's xception65, rates 6, 12, 18 (smp's own Xception refuses dilation)",
    ),
    "deeplabv3plus_mobilenet": Architecture(
        _deeplabv3plus_mobilenet,
        "smp:mobilenet_v2",
        _DEEPLAB,
        explained="encoder.features.-1",
        what="the same on MobileNetV2 with ordinary convolutions; separable_aspp makes the three dilated ones separable, as 003",
        paper="Chen et al. 2018; Sandler et al. 2018",
        made_from="smp DeepLabV3Plus, its ASPP on MobileNetV2's 320 channels and its separable 3×3 made ordinary",
        published=5.81,
        published_in="usual PyTorch version with two ordinary 3×3 convolutions of 256 channels in its decoder",
    ),
    "mobile_deeplab": Architecture(
        MobileDeepLab,
        imagenet_of,
        explained="encoder.features.-1",
        what="003's improved DeepLabV3+: separable ASPP beside PPM, attention, three fusions; every part is a switch",
        paper="paper 003; Chen et al. 2018; Zhao et al. 2017; Woo et al. 2018",
        made_from="this package, on smp's encoders",
    ),
    "pspnet": Architecture(
        _pspnet,
        "smp:resnet50",
        _PSPNET,
        explained="encoder.layer4",
        what="pyramid pooling (1, 2, 3, 6) on ResNet50 at stride 8",
        paper="Zhao et al. 2017",
        made_from="smp PSPNet on all of a dilated ResNet50; behind the pyramid smp has 1×1 where the paper has 3×3",
    ),
    "unetpp": Architecture(
        partial(smp_network, "unetplusplus", "resnet34"),
        "smp:resnet34",
        _UNET,
        explained="encoder.layer4",
        what="U-Net++: nested skips, on ResNet34, without deep supervision",
        paper="Zhou et al. 2018",
        made_from="smp UnetPlusPlus",
    ),
    "segformer": Architecture(
        partial(smp_network, "segformer", "mit_b0"),
        "smp:mit_b0",
        _SEGFORMER,
        explained="encoder.norm4",
        what="SegFormer-B0: hierarchical transformer, all-MLP decoder",
        paper="Xie et al. 2021",
        made_from="smp Segformer (its encoder is under NVIDIA's non-commercial licence)",
        published=3.8,
        published_in="Xie et al. 2021, Table 1, B0: ADE20K's 150 classes",
    ),
    "unet": Architecture(
        UNet,
        explained="encoder.-1",
        what="the classic U-Net, padded or (valid) unpadded, with batch normalisation unless told",
        paper="Ronneberger et al. 2015",
        published=7.76,
        published_in="Zhou et al. 2018, Table 2: half the channels, no normalisation",
    ),
    "attention_unet": Architecture(
        AttentionUNet,
        explained="encoder.-1",
        what="the classic U-Net with additive attention gates on its skips",
        paper="Oktay et al. 2018",
        made_from="this package (MONAI's differs from the paper in five ways; its gate agrees with ours)",
    ),
    "residual_unet": Architecture(
        ResidualUNet,
        explained="body.encoder.-1",
        what="U-Net of residual units; 004's chosen one; design monai is MONAI's",
        paper="Zhang et al. 2018",
        made_from="this package; with design monai MONAI's UNet",
        published=7.8,
        published_in="Zhang et al. 2018: without the 1×1 convolutions of the added inputs",
    ),
    "residual_unet_resnet18": Architecture(
        PretrainedResidualUNet,
        "smp:resnet18",
        explained="encoder.layer4",
        what="decoder of residual units on ResNet18, 004's wish for a pretrained backbone",
        paper="Zhang et al. 2018; He et al. 2016",
        made_from="this package, on smp's encoder",
    ),
    "segnet": Architecture(
        SegNet,
        "torchvision:vgg16_bn",
        explained="encoder.42",
        what="VGG16 and its mirror image, joined by the places of the maxima",
        paper="Badrinarayanan et al. 2017",
        published=29.45,
        published_in="comparisons on CamVid: 12 classes",
    ),
    "fcn8s": Architecture(
        FCN8s,
        "torchvision:vgg16",
        explained="encoder.29",
        what="VGG16 made convolutional, with skips from pool3 and pool4",
        paper="Long et al. 2015",
        published=134,
        published_in="Long et al. 2015, Table 1: PASCAL VOC's 21 classes",
    ),
    "transunet": Architecture(
        TransUNet,
        f"timm:{PUBLISHED}",
        explained="bridge",
        what="ResNet50, a vision transformer over its last map, cascaded decoder",
        paper="Chen et al. 2021",
        made_from="this package, on timm's ResNetV2 and transformer blocks",
        published=105.28,
        published_in="comparisons at 224 pixels: Synapse's 9 classes",
    ),
}
