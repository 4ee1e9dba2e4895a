"""The segmenters of our own, each against what its paper fixes, a case by hand or a library's piece."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from thyroid_utils.models import unet as unets
from thyroid_utils.models.hybrids import TransUNet
from thyroid_utils.models.vgg_segmenters import BilinearUp, FCN8s, SegNet, unpooled

pytestmark = pytest.mark.usefixtures("one_thread")

# Small ones; dropout off where it would leave parameters without a gradient by chance.
NETWORKS = {
    "unet": partial(unets.UNet, widths=(4, 8, 8)),
    "unet, valid": partial(unets.UNet, widths=(4, 8, 8), valid=True),
    "unet, not normalised": partial(unets.UNet, widths=(4, 8, 8), batch_norm=False),
    "attention_unet": partial(unets.AttentionUNet, widths=(4, 8, 8, 8)),
    "residual_unet": partial(unets.ResidualUNet, widths=(4, 8, 8)),
    "residual_unet_resnet18": partial(unets.PretrainedResidualUNet, widths=(16, 8, 8, 8, 4)),
    "segnet": partial(SegNet, widths=(8, 8, 8, 8, 8)),
    "fcn8s": partial(FCN8s, widths=(8, 8, 8, 8, 8), hidden=16, dropout=0.0),
    "transunet": partial(
        TransUNet, width=12, layers=2, heads=2, blocks=(1, 1, 1), widths=(8, 8, 8, 4), image_size=32, dropout=0.0
    ),
}

# Operations whose gradient on a GPU adds in no fixed order unless PyTorch is told otherwise, by autograd's names.
UNORDERED = ("Upsample", "ReflectionPad", "ReplicationPad", "AdaptiveAvgPool", "AdaptiveMaxPool", "MaxUnpool", "ScaledDotProduct")


def built(name: str, *, in_channels: int = 3, classes: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name](in_channels, classes)


def count(build) -> int:
    """Number of trainable values; on a device without values, where even large networks cost nothing."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters() if parameter.requires_grad)


def operations(result: torch.Tensor) -> set[str]:
    """Names of the steps that autograd will go back through."""
    seen, waiting = set(), [result.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        waiting += [before for before, _ in step.next_functions]
    return {step.name() for step in seen}


@pytest.mark.parametrize("name", NETWORKS)
def test_runs_by_deterministic_algorithms_alone(name):
    network = built(name)
    torch.use_deterministic_algorithms(True)
    try:
        logits = network(torch.randn(2, 3, 64, 64))
        logits.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    found = operations(logits)
    assert any("Convolution" in step for step in found)
    # Repeating values, as resizing to the nearest does, has an ordered gradient.
    assert not [step for step in found if any(name in step for name in UNORDERED) and "UpsampleNearest" not in step]


def test_networks_have_the_published_numbers_of_parameters():
    def pair(before, after):
        return 9 * before * after + after + 9 * after * after + after

    down = pair(1, 64) + pair(64, 128) + pair(128, 256) + pair(256, 512) + pair(512, 1024)
    up = sum(pair(2 * width, width) + 4 * 2 * width * width + width for width in (64, 128, 256, 512))
    by_hand = down + up + 64 * 2 + 2
    assert count(lambda: unets.UNet(1, 2, batch_norm=False)) == by_hand == 31_030_658  # known as 31.03 million
    assert count(lambda: unets.UNet(1, 2, valid=True, batch_norm=False)) == by_hand
    # Normalisation trades the biases of 18 convolutions and 4 up-convolutions for two values a channel.
    assert count(lambda: unets.UNet(1, 2)) == by_hand + 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024 - (64 + 128 + 256 + 512)
    gates = sum(4 * fine**2 + 2 * fine * fine + fine + fine + 1 for fine in (128, 256, 512))  # W_x, W_g with b_g, ψ with b_ψ
    assert count(unets.AttentionUNet) == count(unets.UNet) + gates == 33_102_852
    with torch.device("meta"):
        weights = {key: value.numel() for key, value in unets.ResidualUNet(3, 1).named_parameters() if value.ndim == 4}
    of_the_table = [number for key, number in weights.items() if "shortcut" not in key]
    assert len(of_the_table) == 15 and round(sum(of_the_table) / 1e6, 1) == 7.8  # Zhang et al. 2018: 7.8 M
    widths = [(3, 64), (64, 128), (128, 256), (256, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64)]
    assert sum(weights.values()) - sum(of_the_table) == sum(before * after for before, after in widths)
    assert count(unets.ResidualUNet) == 8_218_177
    number = count(lambda: TransUNet(3, 9))
    assert number == pytest.approx(105.28e6, rel=5e-5)  # as printed to two decimals by others, for 224 pixels and 9 classes
    layer = 4 * 768 * 769 + (768 * 3072 + 3072) + (3072 * 768 + 768) + 4 * 768
    assert count(lambda: TransUNet(3, 9)) - count(lambda: TransUNet(3, 9, layers=11)) == layer


def test_valid_unet_has_the_papers_sizes_and_agrees_with_its_figure_written_out():
    """Figure 1: 572 → 568 … 32 → 28 … 392 → 388."""
    network, sides = unets.UNet(1, 2, widths=(2, 2, 2, 2, 2), valid=True).eval(), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        assert network.logits(torch.randn(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    down = [570, 568, 282, 280, 138, 136, 66, 64, 30, 28]
    up = [56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]
    assert sides == [*down, *up, 388]
    assert [unets.valid_sizes(side, 4) for side in (388, 389, 1)] == [(572, 388), (588, 404), (188, 4)]
    # Three levels take 40 pixels; outputs are 4 more than a multiple of 4: 24 fits as it is, of 49 columns 52 are made.
    torch.manual_seed(0)
    network = unets.UNet(1, 2, widths=(3, 4, 5), valid=True, batch_norm=False)
    image = np.random.default_rng(0).normal(size=(24, 49)).astype(np.float32)
    assert [unets.valid_sizes(side, 2) for side in image.shape] == [(64, 24), (92, 52)]
    extended = torch.from_numpy(np.pad(image, [(20, 20), (21, 22)], mode="reflect"))[None, None]
    expected = plain_unet(network, extended)
    assert expected.shape == (1, 2, 24, 52)
    torch.testing.assert_close(network(torch.from_numpy(image)[None, None]), expected[..., 1:50], rtol=1e-5, atol=1e-5)


def plain_unet(network: unets.UNet, images: torch.Tensor) -> torch.Tensor:
    """Three levels, unpadded, not normalised, written out from the paper's figure."""

    def pair(maps, convolutions):
        maps = functional.relu(functional.conv2d(maps, convolutions[0].weight, convolutions[0].bias))
        return functional.relu(functional.conv2d(maps, convolutions[2].weight, convolutions[2].bias))

    def joined(skip, maps):
        cut = (skip.shape[-1] - maps.shape[-1]) // 2
        return torch.cat([skip[:, :, cut:-cut, cut:-cut], maps], dim=1)

    first = pair(images, network.encoder[0])
    second = pair(functional.max_pool2d(first, 2), network.encoder[1])
    third = pair(functional.max_pool2d(second, 2), network.encoder[2])
    up = functional.conv_transpose2d(third, network.up[1].weight, network.up[1].bias, stride=2)
    second = pair(joined(second, up), network.decoder[1])
    up = functional.conv_transpose2d(second, network.up[0].weight, network.up[0].bias, stride=2)
    first = pair(joined(first, up), network.decoder[0])
    return functional.conv2d(first, network.head.weight, network.head.bias)


def test_unet_starts_with_the_papers_spread_and_attention_unet_with_open_gates_is_it():
    torch.manual_seed(0)
    network = unets.UNet(1, 1, widths=(64, 128))
    for layer, incoming in ((network.encoder[1][0], 9 * 64), (network.up[0], 128), (network.decoder[0][0], 9 * 128)):
        # 3 standard errors of a standard deviation from n values
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / incoming), rel=3 / math.sqrt(2 * layer.weight.numel()))
    torch.manual_seed(0)
    unet, attention = unets.UNet(1, 1, widths=(4, 8, 8, 8)).eval(), unets.AttentionUNet(1, 1, widths=(4, 8, 8, 8)).eval()
    assert not attention.load_state_dict(unet.state_dict(), strict=False).unexpected_keys
    images = torch.randn(2, 1, 32, 32)
    assert not torch.allclose(attention(images), unet(images), atol=1e-3)
    for gate in attention.gates:
        nn.init.constant_(gate.score.bias, 50.0)
    torch.testing.assert_close(attention(images), unet(images))


def set_values(layer: nn.Module, weight: list[float], bias: float | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).view(layer.weight.shape))
        if bias is not None:
            layer.bias.fill_(bias)


def test_gate_by_hand_and_as_monais_where_that_works_on_the_same_grid():
    """x = [[1, 2], [3, 4]], g = 2: q = ψ · relu(W_x x + W_g g + b_g) + b_ψ = 0.5 · relu(1 · 1 + 4 · 0.5 - 1 · 2 + 1) - 2 = -1."""
    gate = unets.AttentionGate(1, 1)
    set_values(gate.from_skip, [1.0, 0.0, 0.0, 0.5])
    set_values(gate.from_gating, [-1.0], 1.0)
    set_values(gate.score, [0.5], -2.0)
    skip, gating = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[2.0]]]])
    alpha = 1 / (1 + math.e)  # sigmoid(-1) = 0.2689
    torch.testing.assert_close(gate.coefficients(skip, gating), torch.full((1, 1, 2, 2), alpha))
    torch.testing.assert_close(gate(skip, gating), alpha * skip)
    # MONAI's gate has skip and signal on one grid: of a skip constant over 2×2 windows ours sees the same.
    from monai.networks.nets.attentionunet import AttentionBlock  # MONAI takes seconds to import

    torch.manual_seed(0)
    ours, theirs = unets.AttentionGate(4, 6), AttentionBlock(2, f_int=4, f_g=6, f_l=4).eval()
    with torch.no_grad():
        theirs.W_x[0].conv.weight.copy_(ours.from_skip.weight.sum(dim=(2, 3), keepdim=True))
        theirs.W_x[0].conv.bias.zero_()
        theirs.W_g[0].conv.load_state_dict(ours.from_gating.state_dict())
        theirs.psi[0].conv.load_state_dict(ours.score.state_dict())
    coarse, gating = torch.randn(2, 4, 1, 1).expand(2, 4, 3, 3), torch.randn(2, 6, 1, 1).expand(2, 6, 3, 3)
    # 3e-4: three untrained batch normalisations, which divide by sqrt(1 + 1e-5)
    torch.testing.assert_close(ours(unets.doubled(coarse), gating), unets.doubled(theirs(gating, coarse)), rtol=3e-4, atol=1e-5)


@pytest.mark.parametrize(("out_channels", "stride", "first"), [(3, 1, False), (5, 1, False), (5, 2, False), (4, 1, True)])
def test_residual_unit_written_out(out_channels, stride, first):
    torch.manual_seed(0)
    unit = unets.ResidualUnit(3, out_channels, stride, first).eval()
    maps = torch.randn(2, 3, 8, 8)
    before = maps if first else functional.relu(maps / math.sqrt(1 + 1e-5))  # an untrained batch normalisation
    inner = functional.conv2d(before, unit.convolutions[0].weight, stride=stride, padding=1)
    inner = functional.relu(inner / math.sqrt(1 + 1e-5))
    inner = functional.conv2d(inner, unit.convolutions[3].weight, unit.convolutions[3].bias, padding=1)
    added = maps if out_channels == 3 else functional.conv2d(maps, unit.shortcut.weight, stride=stride)
    torch.testing.assert_close(unit(maps), added + inner, rtol=1e-5, atol=1e-5)


def test_unpooling_and_its_gradient_are_pytorchs():
    torch.manual_seed(0)
    values, indices = functional.max_pool2d(torch.randn(2, 3, 8, 6), 2, return_indices=True)
    given = [values.clone().requires_grad_() for _ in range(2)]
    found = [unpooled(given[0], indices), functional.max_unpool2d(given[1], indices, 2)]
    weights = torch.randn(2, 3, 8, 6)
    gradients = [torch.autograd.grad((maps * weights).sum(), one)[0] for maps, one in zip(found, given, strict=True)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize(("factor", "learns"), [(2, True), (8, False)])
def test_transposed_convolution_begins_as_pytorchs_bilinear_interpolation(factor, learns):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 5)
    up = BilinearUp(3, factor, learns)
    assert len(list(up.parameters())) == learns
    torch.testing.assert_close(up(maps), functional.interpolate(maps, scale_factor=factor, mode="bilinear"))


def test_fcn8s_adds_scores_of_three_depths_and_its_dense_layers_are_vgg16s():
    """Each depth's scores are enlarged bilinearly, step by step, and added."""
    network, images, scores = built("fcn8s", classes=2).eval(), torch.randn(1, 3, 64, 96), []
    for layer in (network.score7, network.score4, network.score3):
        layer.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    found = network(images)
    deep, middle, fine = scores
    assert [tuple(output.shape[-2:]) for output in scores] == [(2, 3), (4, 6), (8, 12)]
    enlarged = partial(functional.interpolate, mode="bilinear")
    expected = enlarged(enlarged(deep, scale_factor=2) + middle, scale_factor=2) + fine
    torch.testing.assert_close(found, enlarged(expected, scale_factor=8))
    # On the one 7×7 map whose every pixel the 7×7 convolution covers, its middle is VGG16's own result.
    torch.manual_seed(0)
    dense = nn.Linear(8 * 7 * 7, 16)
    network = built("fcn8s")
    network.dense6.load_state_dict({"weight": dense.weight.reshape(16, 8, 7, 7), "bias": dense.bias})
    maps = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(network.dense6(maps)[:, :, 3, 3], dense(maps.flatten(1)), rtol=1e-5, atol=1e-5)


def test_transunets_encoder_is_timms_hybrid_with_positions_for_other_sizes():
    from timm.layers import HybridEmbed, StdConv2dSame
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = TransUNet(1, 1, width=12, layers=2, heads=2, blocks=(1, 1, 1), image_size=64).eval()
    backbone = ResNetV2(
        (1, 1, 1), num_classes=0, in_chans=1, global_pool="", stem_type="same", preact=False,
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )  # fmt: skip
    hybrid = VisionTransformer(
        img_size=64, patch_size=1, in_chans=1, num_classes=0, global_pool="", embed_dim=12, depth=2, num_heads=2,
        class_token=False, embed_layer=partial(HybridEmbed, backbone=backbone),
    ).eval()  # fmt: skip
    hybrid.load_state_dict(network.encoder.state_dict())
    images = torch.randn(2, 1, 64, 64)
    last, _ = network.encoder(images)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), hybrid.forward_features(images), rtol=1e-4, atol=1e-5)
    network = built("transunet")  # 2×2 places
    positions = torch.arange(17.0).view(1, 17, 1).expand(1, 17, 12)  # a class token's and 4×4 places'
    published = {"pos_embed": positions, "cls_token": torch.zeros(1, 1, 12), "norm.weight": torch.ones(12)}
    values = network.encoder.without_class_token(published)
    assert set(values) == {"pos_embed", "norm.weight"} and values["pos_embed"].shape == (1, 4, 12)
    grid = values["pos_embed"][0, :, 0].view(2, 2)
    # a plane that rises by 1 a column and 4 a row keeps its mean, 1 + 7.5, and rises twice as much a place
    assert grid.mean().item() == pytest.approx(8.5, abs=1e-4)
    assert (grid[1] - grid[0]).mean().item() == pytest.approx(4 * (grid[:, 1] - grid[:, 0]).mean().item(), rel=1e-4)
