"""Deletion, insertion and ROAD on a network whose answer is known: it looks at one corner and nowhere else."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from segmentation_project import register_tiny_segmenter
from torch import nn
from training_project import register_tiny

from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, build_segmenter
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.studies.grad_cam import deletion_insertion, deletion_insertion_curves, road
from thyroid_utils.studies.grad_cam.faithfulness import curve_areas


class Corner(nn.Module):
    """Malignant is log-odds 8·(mean of the upper left 4×4 pixels) − 4."""

    classes = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        odds = self.scale * self.dropout(images[:, 0, :4, :4]).mean(dim=(1, 2)) - 4
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


SIDE = 16
CORNER = np.zeros((SIDE, SIDE))
CORNER[:4, :4] = 1
PICTURE = CORNER[None, None].astype(np.float32)  # (1, 1, 16, 16)


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


# The library hands a tensor to numpy in a way that numpy will stop taking.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


def test_the_right_map_is_faithful_and_the_wrong_one_is_not():
    wrong = np.roll(CORNER, (8, 8), axis=(0, 1))
    inputs = np.repeat(PICTURE, 2, axis=0)
    network = Corner().train()
    found = deletion_insertion(network, inputs, np.stack([CORNER, wrong]), steps=16, blur=50.0, cases=["right", "wrong"])
    assert network.training and network.dropout.training
    assert found.loc["right", "deletion_auc"] < 0.15 < 0.5 < found.loc["wrong", "deletion_auc"]
    assert found.loc["right", "insertion_auc"] > 0.9 > 0.75 > found.loc["wrong", "insertion_auc"]
    assert found.loc["right", "deletion_centre"] == pytest.approx(found.loc["wrong", "deletion_centre"], abs=0.05)


def test_the_curve_by_hand():
    """Everything blurred is one gray here: a blur wider than the image. The corner goes in the first of 16 steps."""
    curves = deletion_insertion_curves(Corner(), PICTURE, CORNER[None], steps=16, blur=50.0)
    gray = curves.loc[(curves["direction"] == "deletion") & (curves["order"] == "map"), "probability"].to_numpy()
    outside = gray[-1]
    assert gray[0] == pytest.approx(sigmoid(4))
    np.testing.assert_allclose(gray[1:], outside, atol=1e-6)
    inserted = curves[(curves["direction"] == "insertion") & (curves["order"] == "map")]["probability"].to_numpy()
    assert inserted[0] == pytest.approx(outside, abs=1e-6)
    np.testing.assert_allclose(inserted[1:], sigmoid(4), atol=1e-6)
    areas = curve_areas(curves, CORNER[None]).iloc[0]
    assert areas["deletion_auc"] == pytest.approx(outside + (sigmoid(4) - outside) / 32, abs=1e-6)
    assert areas["insertion_auc"] == pytest.approx(sigmoid(4) - (sigmoid(4) - outside) / 32, abs=1e-6)
    shares = curves.groupby(["direction", "order"])["share"].agg(["min", "max", "size"])
    assert (shares["min"] == 0).all() and (shares["max"] == 1).all() and (shares["size"] == 17).all() and len(shares) == 6


def test_equal_values_fall_at_random_and_a_seed_repeats_the_draw():
    flat = np.ones((1, SIDE, SIDE))
    areas = [deletion_insertion(Corner(), PICTURE, flat, steps=8, seed=seed)["deletion_auc"][0] for seed in (0, 0, 1)]
    assert areas[0] == areas[1] != areas[2]
    one = deletion_insertion(Corner(), PICTURE, CORNER[None], steps=8, batch_size=1)
    np.testing.assert_allclose(one.to_numpy(float), deletion_insertion(Corner(), PICTURE, CORNER[None], steps=8).to_numpy(float))


def test_a_blank_map_has_no_area_and_is_said():
    inputs, steps = np.repeat(PICTURE, 2, axis=0), []
    maps = np.stack([np.zeros((SIDE, SIDE)), CORNER])
    found = deletion_insertion(Corner(), inputs, maps, steps=4, progress=lambda done, total: steps.append((done, total)))
    assert found["blank"].tolist() == [True, False]
    assert found.iloc[0].drop("blank").isna().all() and found.iloc[1].notna().all()
    assert steps == [(1, 2), (2, 2)]
    nothing = deletion_insertion(Corner(), PICTURE, maps[:1], steps=4)
    assert len(nothing) == 1 and nothing["blank"].all() and nothing["insertion_auc"].isna().all()
    assert np.isnan(road(Corner(), PICTURE, maps[:1])).all()


def test_road_finds_the_right_map_and_leaves_the_generators_alone():
    random = np.random.default_rng(0)
    inputs = np.repeat(PICTURE, 2, axis=0) + random.normal(0, 0.05, (2, 1, SIDE, SIDE)).astype(np.float32)
    wrong = np.roll(CORNER, (8, 8), axis=(0, 1))
    before, steps = torch.get_rng_state(), []
    network = Corner().train()
    found = road(network, inputs, np.stack([CORNER, wrong]), progress=lambda done, total: steps.append(done))
    assert torch.equal(torch.get_rng_state(), before) and network.dropout.training and steps == [1, 2]
    assert found[0] > 0.15 > abs(found[1]) + 0.05
    np.testing.assert_array_equal(found, road(network, inputs, np.stack([CORNER, wrong])))
    upside_down = road(network, inputs[:1], 1.001 - CORNER[None])
    assert upside_down[0] < -0.15


def test_networks_of_the_registries_can_be_asked(monkeypatch):
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    inputs = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    for network in (build_classifier("tiny"), build_segmenter("tiny_segmenter"), build_segmenter("tiny_segmenter", classes=2)):
        maps = cam_maps(network, inputs, method="eigen_cam").maps
        found = deletion_insertion(network, inputs, maps, steps=3)
        areas = found.drop(columns="blank").to_numpy(float)
        assert areas.shape == (2, 6) and ((areas >= 0) & (areas <= 1)).all()
        assert (np.abs(road(network, inputs, maps, percentiles=(50,))) <= 0.5).all()
        assert network.training


def test_a_segmenter_is_asked_about_the_pixels_it_called_in_the_whole_image(monkeypatch):
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    torch.manual_seed(0)
    network = build_segmenter("tiny_segmenter").eval()
    inputs = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        network.network[8].bias -= network(torch.from_numpy(inputs)).median()
        probability = torch.sigmoid(network(torch.from_numpy(inputs)))
    curves = deletion_insertion_curves(network, inputs, np.random.default_rng(1).random((1, 32, 32)), "nodule", steps=2)
    whole = curves[(curves["direction"] == "deletion") & (curves["share"] == 0)]["probability"]
    np.testing.assert_allclose(whole, float(probability[probability >= 0.5].mean()), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected \(1, 16, 16\)"):
        deletion_insertion(Corner(), PICTURE, CORNER[None, :8])
    with pytest.raises(ValueError, match=r"expected \(1, 16, 16\)"):
        road(Corner(), PICTURE, CORNER)
    with pytest.raises(ValueError, match="steps must be a whole number from 1"):
        deletion_insertion(Corner(), PICTURE, CORNER[None], steps=0)
    with pytest.raises(ValueError, match="0 to 1"):
        deletion_insertion(Corner(), PICTURE, CORNER[None], target=2)
