"""Whether a network depends on what a map shows: deletion and insertion of a network whose answer is known, as it looks at one
corner and nowhere else; the cascade of random weights, what it changes, what it leaves alone, and what a map makes of it."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from training_project import register_tiny, register_tiny_segmenter

from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, build_segmenter
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.studies.grad_cam import MapStudy, faithfulness


class Corner(nn.Module):
    """Malignant is log-odds 8·(mean of the upper left 4×4 pixels) − 4."""

    classes = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        odds = self.scale * images[:, 0, :4, :4].mean(dim=(1, 2)) - 4
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))


SIDE = 16
CORNER = np.zeros((SIDE, SIDE))
CORNER[:4, :4] = 1
PICTURE = CORNER[None, None].astype(np.float32)  # (1, 1, 16, 16)


def study_of(network, inputs, maps=None, target=1, patients=None, **settings) -> MapStudy:
    """A study of a network, its maps as given or as `cam_maps` makes them; images a, b, c, … each of a patient of its own."""
    names = list("abcdefgh"[: len(inputs)])
    images = pd.DataFrame({"patient": patients or names}, index=pd.Index(names, name="case"))
    settings = {"method": "grad_cam", "layer": None, **settings}
    found = SimpleNamespace(maps=maps) if maps is not None else cam_maps(network, inputs, target=target, **settings)
    masks = np.zeros((len(inputs), *inputs.shape[2:]), bool)
    return MapStudy(SimpleNamespace(network=network), images, inputs, masks, found, target=target, **settings)


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


@pytest.fixture
def all_gray(monkeypatch):
    """Everything blurred is one gray: a blur wider than the image; and 16 steps, in the first of which the corner goes."""
    monkeypatch.setattr(faithfulness, "_BLUR", 50.0)
    monkeypatch.setattr(faithfulness, "_STEPS", 16)


def test_the_curve_by_hand(all_gray):
    study = study_of(Corner(), PICTURE, CORNER[None])
    curves = faithfulness.deletion_insertion_curves(study)
    gray = curves.loc[(curves["direction"] == "deletion") & (curves["order"] == "map"), "probability"].to_numpy()
    outside = gray[-1]
    assert gray[0] == pytest.approx(sigmoid(4))
    np.testing.assert_allclose(gray[1:], outside, atol=1e-6)
    inserted = curves[(curves["direction"] == "insertion") & (curves["order"] == "map")]["probability"].to_numpy()
    assert inserted[0] == pytest.approx(outside, abs=1e-6)
    np.testing.assert_allclose(inserted[1:], sigmoid(4), atol=1e-6)
    areas = faithfulness.area_table(curves, study)["map − middle"]
    assert areas["deletion"].first == pytest.approx(outside + (sigmoid(4) - outside) / 32, abs=1e-6)
    assert areas["insertion"].first == pytest.approx(sigmoid(4) - (sigmoid(4) - outside) / 32, abs=1e-6)


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


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in faithfulness.stages(network)]


def few(monkeypatch, most: int) -> None:
    monkeypatch.setattr(faithfulness, "_MOST_STAGES", most)


@pytest.mark.parametrize(
    ("build", "name", "first", "last"),
    [
        (build_classifier, "resnet18_transformer", "backbone.conv1", "head"),
        (build_classifier, "swin_t", "features.0", "head"),
        (build_segmenter, "unet", "encoder.0", "head"),
        (build_segmenter, "tiny_segmenter", "0", "8"),
    ],
)
def test_stages_hold_every_value_once_in_the_order_of_use(build, name, first, last):
    network = build(name)
    found = faithfulness.stages(network)
    held = [key for _, keys in found for key in keys]
    assert sorted(held) == sorted(network.network.state_dict()) and len(held) == len(set(held))
    assert found[0][0] == first and found[-1][0] == last and 5 <= len(found) <= 8
    assert network.training and not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("build", "name"), [(build_classifier, "tiny"), (build_segmenter, "tiny_segmenter")])
def test_the_cascade_changes_a_copy_stage_by_stage_and_never_the_callers_network(build, name):
    network = trained(build, name)
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    groups, changed = faithfulness.stages(network), set()
    for (stage, other), (expected, keys) in zip(faithfulness.randomised(network, seed=7), reversed(groups), strict=True):
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


def test_similarity_by_hand():
    random = np.random.default_rng(0)
    one, other = random.random((2, 8, 8))
    constant = np.full((8, 8), 0.5)
    first = np.stack([one, one, one, one, constant])
    second = np.stack([one, 1 - one, other, np.zeros((8, 8)), one])
    found = faithfulness.compare_maps(first, second)
    assert found["spearman"][0] == pytest.approx(1) and found["ssim"][0] == pytest.approx(1)
    assert found["spearman"][1] == pytest.approx(-1) and found["ssim"][1] < 0
    assert found["spearman"][2] == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert found["blank"].tolist() == [False, False, False, True, True]
    assert found.loc[3:, ["spearman", "ssim"]].isna().all(axis=None)


def test_a_map_that_shows_only_the_picture_survives_and_one_that_shows_the_network_does_not(monkeypatch):
    """Eigen-CAM of a fixed first layer beside Grad-CAM: only the head is random, which Eigen-CAM does not know."""
    few(monkeypatch, 2)
    network, inputs = build_classifier("tiny"), pictures(4, 48)
    picture, learnt = (
        faithfulness.randomisation_table(study_of(network, inputs, method=method), range(4))["spearman"].iloc[1].value
        for method in ("eigen_cam", "grad_cam")
    )
    assert picture == pytest.approx(1) and learnt < 0.9
