"""The cascade of random weights: which stages there are, what it changes, what it leaves alone, and what a map makes of it."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from segmentation_project import register_tiny_segmenter
from torch import nn
from training_project import register_tiny

from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, build_segmenter
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.studies.grad_cam import compare_maps, randomisation_curve, randomisation_table, randomised, stages


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))


def trained(build=build_classifier, name: str = "tiny", **options) -> nn.Module:
    """No value is one that training could begin with."""
    torch.manual_seed(0)
    network = build(name, **options)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(value * 1.5 + 1)
    return network


def pictures(count: int = 3, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def names(network: nn.Module, **options) -> list[str]:
    return [name for name, _ in stages(network, **options)]


def test_stages_of_the_tiny_network_by_hand():
    network = build_classifier("tiny")
    assert names(network) == ["0", "1", "3", "4", "9"]
    assert stages(network)[1][1] == ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert names(network, most=2) == ["0", "9"] and names(network, most=3) == ["0", "3", "9"]


@pytest.mark.parametrize(
    ("build", "name", "first", "last"),
    [
        (build_classifier, "resnet18", "conv1", "fc"),
        (build_classifier, "inception_v3", "Conv2d_1a_3x3", "fc"),
        (build_classifier, "resnet18_transformer", "backbone.conv1", "head"),
        (build_classifier, "vit_b_16", "conv_proj", "heads"),
        (build_classifier, "swin_t", "features.0", "head"),
        (build_segmenter, "unet_resnet18", "encoder.conv1", "segmentation_head"),
        (build_segmenter, "unet", "encoder.0", "head"),
        (build_segmenter, "tiny_segmenter", "0", "8"),
    ],
)
def test_stages_hold_every_value_once_in_the_order_of_use(build, name, first, last):
    network = build(name)
    found = stages(network)
    held = [key for _, keys in found for key in keys]
    assert sorted(held) == sorted(network.network.state_dict()) and len(held) == len(set(held))
    assert found[0][0] == first and found[-1][0] == last and 5 <= len(found) <= 8
    assert network.training and not any(module._forward_hooks for module in network.modules())


def test_a_unet_is_made_random_from_its_head_back_to_its_encoder():
    """Its decoder is listed from the finest level, which is used last."""
    order = names(build_segmenter("unet", widths=(2, 2, 2, 2, 2)), most=100)
    assert [name for name in order if name.startswith("decoder")] == [f"decoder.{level}" for level in (3, 2, 1, 0)]


@pytest.mark.parametrize(("build", "name"), [(build_classifier, "tiny"), (build_segmenter, "tiny_segmenter")])
def test_the_cascade_changes_a_copy_stage_by_stage_and_never_the_callers_network(build, name):
    network = trained(build, name)
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    groups, changed = stages(network), set()
    for (stage, other), (expected, keys) in zip(randomised(network, seed=7), reversed(groups), strict=True):
        changed |= {f"network.{key}" for key in keys}
        assert stage == expected and other is not network and not other.training
        for key, value in other.state_dict().items():
            assert torch.equal(value, before[key]) != (key in changed), key
    assert changed == set(before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training and torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(7)
    anew = build(name).state_dict()
    assert all(torch.equal(value, anew[key]) for key, value in other.state_dict().items())


def test_a_half_used_cascade_leaves_the_network_as_it_was():
    network = trained()
    before = copy.deepcopy(network.state_dict())
    next(randomised(network, seed=0))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_similarity_by_hand():
    random = np.random.default_rng(0)
    one, other = random.random((2, 8, 8))
    constant = np.full((8, 8), 0.5)
    first = np.stack([one, one, one, one, constant])
    second = np.stack([one, 1 - one, other, np.zeros((8, 8)), one])
    found = compare_maps(first, second)
    assert found["spearman"][0] == pytest.approx(1) and found["ssim"][0] == pytest.approx(1)
    assert found["spearman"][1] == pytest.approx(-1) and found["ssim"][1] < 0
    assert found["spearman"][2] == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert found["blank"].tolist() == [False, False, False, True, True]
    assert found.loc[3:, ["spearman", "ssim"]].isna().all(axis=None)


def test_the_curve_begins_at_one_and_follows_the_cascade():
    network, inputs, steps = trained(name="resnet18"), pictures(2, 64), []
    torch.manual_seed(1)
    network = build_classifier("resnet18")
    curve = randomisation_curve(
        network, inputs, seeds=(1, 2), most=3, cases=["a", "b"], progress=lambda done, total: steps.append((done, total))
    )
    assert len(curve) == 2 * 4 * 2 and steps[-1] == (6, 6) and len(steps) == 6
    assert curve.loc[curve["position"] == 0, ["spearman", "ssim"]].to_numpy() == pytest.approx(1)
    per_stage = curve[curve["seed"] == 2].drop_duplicates("position")["stage"].tolist()
    assert per_stage == ["as trained", *reversed(names(network, most=3))]
    last = cam_maps([other for _, other in randomised(network, 2, 3)][-1], inputs).maps
    expected = compare_maps(cam_maps(network, inputs).maps, last)
    found = curve[(curve["seed"] == 2) & (curve["position"] == 3)]
    np.testing.assert_allclose(found["spearman"], expected["spearman"], equal_nan=True)
    assert not np.allclose(found["spearman"], 1)
    table = randomisation_table(curve, ["p", "q"], seed=4)
    assert list(table.index) == per_stage and (table["maps"] == 4).all()
    means = curve[curve["position"] == 2].groupby("image")["ssim"].mean()
    assert table.iloc[2]["ssim"].value == pytest.approx(patient_bootstrap(means.to_numpy(), ["p", "q"], seed=4).value)


def test_a_map_that_shows_only_the_picture_survives_and_one_that_shows_the_network_does_not():
    """Eigen-CAM of a fixed first layer beside Grad-CAM: only the head is random, which Eigen-CAM does not know."""
    network, inputs = build_classifier("tiny"), pictures(4, 48)
    curve = {
        method: randomisation_curve(network, inputs, seeds=range(4), method=method, most=2).query("position == 1")
        for method in ("eigen_cam", "grad_cam")
    }
    assert curve["eigen_cam"]["spearman"].to_numpy() == pytest.approx(1)
    assert curve["grad_cam"]["spearman"].mean() < 0.9


def test_blank_maps_are_counted_in_the_table():
    network = build_classifier("tiny")
    with torch.no_grad():
        network.network[9].weight.zero_()
    curve = randomisation_curve(network, pictures(2), most=2)
    table = randomisation_table(curve, ["p", "q"])
    assert (table["blank"] == 2).all() and all(np.isnan(value.value) for value in table["spearman"])


def test_a_segmenter_that_calls_nothing_has_a_curve():
    network = build_segmenter("tiny_segmenter")
    with torch.no_grad():
        network.network[8].bias.fill_(-100)
    curve = randomisation_curve(network, pictures(2), most=2)
    assert len(curve) == 6 and curve["spearman"].between(-1, 1 + 1e-9).all()


def test_what_cannot_be_made_random_is_refused():
    with pytest.raises(ValueError, match="expected a Classifier or Segmenter"):
        stages(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="most must be"):
        stages(build_classifier("tiny"), 1)
    with pytest.raises(ValueError, match="no seed given"):
        randomisation_curve(build_classifier("tiny"), pictures(1), seeds=())
    with pytest.raises(ValueError, match="expected two equal"):
        compare_maps(np.zeros((1, 8, 8)), np.zeros((2, 8, 8)))
