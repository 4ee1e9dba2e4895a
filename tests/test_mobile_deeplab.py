"""003's improved DeepLabV3+: parameters by hand, parts against other implementations, switches, pretrained encoders, stages."""

import pytest
import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP as TheirASPP
from torch.nn import functional
from training_project import one_cache, own_runs, segmentation_config  # noqa: F401

from thyroid_utils.models.mobile_deeplab import ASPP, PPM, ChannelAttention, SpatialAttention
from thyroid_utils.models.networks import build_segmenter, parameter_count
from thyroid_utils.models.weights import WeightsError
from thyroid_utils.studies.module_ablation.tables import network_stages
from thyroid_utils.training.engine import run_all
from thyroid_utils.training.fit import fit_or_load

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = {"attention": False, "multi_skip": False, "ppm": False}


def on_meta(name: str = "mobile_deeplab", **options):
    with torch.device("meta"):
        return build_segmenter(name, **options)


def count(**options) -> int:
    return parameter_count(on_meta(**options))


@pytest.mark.parametrize("separable", [False, True])
def test_all_off_has_as_many_parameters_as_the_stock_network(separable):
    """That one is smp's, and its 5.81 million with ordinary convolutions are published."""
    stock = parameter_count(on_meta("deeplabv3plus_mobilenet", separable_aspp=separable))
    assert count(**PLAIN, separable_aspp=separable) == stock


def test_separable_convolutions_save_what_the_paper_says():
    """12.4 MB of float32 are 3.10 million parameters, 12.4 MiB 3.25 million."""
    whole, plain = count(), count(**PLAIN)
    assert 0.60 <= plain / count(**PLAIN, separable_aspp=False) <= 0.69  # the paper: 0.642
    assert 0.80 <= whole / plain <= 0.90 and whole == 3_178_574  # the paper: 0.85
    assert count(separable_aspp=False) - whole == 3 * (9 * 320 * 256 - (9 * 320 + 320 * 256))
    assert count(backbone="resnet50") / whole == pytest.approx(125 / 12.4, rel=0.05)


@pytest.mark.parametrize("separable", [False, True])
def test_the_aspp_is_smps(separable):
    torch.manual_seed(0)
    ours = ASPP(24, 16, (2, 3, 4), separable, dropout=0.5).eval()
    theirs = TheirASPP(24, 16, (2, 3, 4), separable=separable, dropout=0.5).eval()
    values = list(ours.state_dict().values())  # in the same order
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    maps = torch.randn(2, 24, 9, 6)
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_the_ppm_is_pytorchs_pooling_and_attention_by_hand():
    torch.manual_seed(0)
    ours, maps = PPM(16).eval(), torch.randn(2, 16, 7, 9)
    expected = [maps]
    for side, (_, reduce) in zip((1, 2, 3, 6), ours.levels, strict=True):
        pooled = reduce(functional.adaptive_avg_pool2d(maps, side))
        assert pooled.shape == (2, 4, side, side)
        expected.append(functional.interpolate(pooled, size=(7, 9), mode="bilinear"))
    torch.testing.assert_close(ours(maps), torch.cat(expected, dim=1), atol=1e-6, rtol=1e-5)
    # Two channels, r = 2: one hidden unit that adds them; weights sigmoid(max part + mean part).
    module = ChannelAttention(2, 2)
    with torch.no_grad():
        module.shared[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
        module.shared[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        for layer in (module.shared[0], module.shared[2]):
            layer.bias.zero_()
    maps = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # maxima 3 and 2, means 2 and 1: hidden 5 and 3
    expected = maps * torch.tensor([8.0, -8.0]).sigmoid()[None, :, None, None]
    torch.testing.assert_close(module(maps), expected)
    module = SpatialAttention()
    with torch.no_grad():
        module.convolution.weight.zero_()
        module.convolution.weight[0, :, 3, 3] = torch.tensor([1.0, -2.0])  # of each place's own maximum and mean
        module.convolution.bias.fill_(0.5)
    maps = torch.tensor([[[[4.0, 1.0]], [[0.0, 3.0]]]])
    expected = maps * torch.tensor([[4 - 2 * 2 + 0.5, 3 - 2 * 2 + 0.5]]).sigmoid()
    torch.testing.assert_close(module(maps), expected)


@pytest.mark.parametrize("setting", [(False, False, True), (True, False, False), (False, True, False), (True, True, True)])
def test_combinations_of_switches_run_on_any_size(setting):
    model = on_meta(**dict(zip(("attention", "multi_skip", "ppm"), setting, strict=True))).eval()
    assert model(torch.zeros(1, 3, 45, 61, device="meta")).shape == (1, 1, 45, 61)
    kinds = {type(part) for part in model.modules()}
    assert (ChannelAttention in kinds) == (SpatialAttention in kinds) == setting[0] and (PPM in kinds) == setting[2]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "xception"])
def test_backbones_give_maps_at_the_four_sizes(backbone):
    model = on_meta(backbone=backbone, in_channels=2, classes=3).eval()
    maps = model.network.encoder(torch.zeros(1, 2, 64, 96, device="meta"))
    assert [tuple(maps[level].shape[2:]) for level in (1, 2, 3, -1)] == [(32, 48), (16, 24), (8, 12), (4, 6)]


def test_stages_are_those_of_the_network_without_what_is_switched_off():
    model = build_segmenter("mobile_deeplab")
    found = network_stages(model, 64).set_index("stage")
    assert list(found.index) == [
        "mobilenet_v2", "ASPP", "1×1 of ASPP", "PPM", "1×1 of PPM", "F", "CAM 1/16", "SAM 1/8", "vertical 1/8", "SAM 1/4",
        "1×1 at 1/4", "vertical 1/4 = V", "horizontal", "SAM 1/2", "1×1 at 1/2", "secondary", "head", "logits",
    ]  # fmt: skip
    assert found["parameters"].sum() == parameter_count(model)
    assert tuple(found.loc["secondary", ["channels", "height", "width"]]) == (64, 32, 32)
    assert found.at["horizontal", "inputs"] == (("F", 256, 4, 4), ("vertical 1/4 = V", 128, 16, 16))
    assert found.at["SAM 1/8", "inputs"] == (("mobilenet_v2", 32, 8, 8),)
    assert found.at["mobilenet_v2", "inputs"] == (("image", 3, 64, 64),)
    assert all(name for inputs in found["inputs"] for name, *_ in inputs), "every map read is some part's"
    assert model.training and not any(module._forward_hooks for module in model.modules())
    found = network_stages(build_segmenter("mobile_deeplab", **PLAIN, in_channels=1), 32)
    assert list(found["stage"]) == ["mobilenet_v2", "ASPP = F", "1×1 at 1/4", "join at 1/4", "3×3 at 1/4", "head", "logits"]
    join = found.set_index("stage").at["join at 1/4", "inputs"]
    assert join == (("ASPP = F", 256, 2, 2), ("1×1 at 1/4", 48, 8, 8))


def test_training_asks_for_the_weights_of_the_backbone_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = segmentation_config(model={"name": "mobile_deeplab", "weights": "imagenet", "options": {"backbone": "resnet50"}})
    for train in (fit_or_load, lambda config: run_all([config])):
        with pytest.raises(WeightsError, match=r"the ImageNet weights smp-hub/resnet50\.imagenet .* are not in"):
            train(config)
