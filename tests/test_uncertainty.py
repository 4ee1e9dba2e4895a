"""Uncertainty: scores by hand, and samples of networks."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torchvision.ops import StochasticDepth
from training_project import tiny_network

from thyroid_utils.inference.dropout import has_dropout, mc_dropout
from thyroid_utils.inference.ensemble import at_one_scale
from thyroid_utils.inference.uncertainty import (
    augmented_views,
    binary_entropy,
    label_uncertainty,
    map_uncertainty,
)
from thyroid_utils.models.networks import build_classifier


def test_entropy_mutual_information_and_nearness_to_threshold_and_call_by_hand():
    assert binary_entropy([0, 0.5, 1, 0.25]) == pytest.approx([0, 1, 0, 2 - 0.75 * math.log2(3)])
    # sure of opposite labels: all is disagreement; both unsure: none is; 0.25 and 0.75: H(0.5) − H(0.25)
    table = label_uncertainty(np.array([[0.0, 0.5, 0.25, 0.9], [1.0, 0.5, 0.75, 0.9]]))
    own = 2 - 0.75 * math.log2(3)
    sure = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert table["probability"].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.9])
    assert table["entropy"].tolist() == pytest.approx([1, 1, 1, sure])
    assert table["mutual_information"].tolist() == pytest.approx([1, 0, 1 - own, 0], abs=1e-12)
    assert table["sd"].tolist() == pytest.approx([0.5, 0, 0.25, 0], abs=1e-12)
    assert table["nearness"].tolist() == pytest.approx([0, 0, 0, -math.log(9)])
    table = label_uncertainty([0.2, 0.5, 0.8], threshold=0.2)
    assert table["nearness"].tolist() == pytest.approx([0, -math.log(4), -math.log(16)])
    assert table[["mutual_information", "sd"]].isna().all(axis=None)  # one answer disagrees with nothing
    table = label_uncertainty(np.array([[0.8, 0.2, 0.8], [0.8, 0.2, 0.8]]), 0.5, [True, True, False])
    assert table["nearness"].tolist() == pytest.approx([-math.log(4), math.log(4), math.log(4)])


def seeds_of_one_truth(shifts: list[float], steepness: list[float], count: int = 300) -> list[pd.DataFrame]:
    """Predictions of runs that rank images alike but for noise of their own, each log-odds scaled and shifted by its seed's."""
    random = np.random.default_rng(0)
    label, split = np.tile([0, 1], count // 2), np.repeat(["val", "test"], count // 2)
    found = []
    for shift, steep in zip(shifts, steepness, strict=True):
        odds = steep * (2 * label - 1 + random.normal(0, 1.2, count)) + shift
        found.append(pd.DataFrame({"split": split, "label": label, "log_odds": odds, "probability": 1 / (1 + np.exp(-odds))}))
    return found


@pytest.mark.parametrize("shifts", [[0, 0, 0], [4, -1, -6], [-3, 3, 0]])
@pytest.mark.parametrize("steepness", [[1, 1, 1], [6, 1, 0.2]])
def test_an_ensemble_of_seeds_is_no_worse_than_one_whatever_their_thresholds(shifts, steepness):
    """Three seeds are right in 0.93 to 0.95 of 150 images; raw probabilities at the first one's threshold in 0.50 to 0.95."""
    runs = seeds_of_one_truth(shifts, steepness)
    samples = np.stack([at_one_scale(run) for run in runs])
    test = (runs[0]["split"] == "test").to_numpy()
    label = runs[0]["label"].to_numpy(bool)
    single, mean = (samples[0] >= 0.5) == label, (samples.mean(axis=0) >= 0.5) == label
    assert single[test].mean() == pytest.approx(((runs[0]["log_odds"] >= shifts[0]) == label)[test].mean(), abs=0.06)
    assert mean[test].mean() > max(0.87, single[test].mean())
    doubt = label_uncertainty(samples, 0.5, samples[0] >= 0.5)
    assert roc_auc_score(~mean[test], label_uncertainty(samples)["nearness"][test]) > 0.7, "its own errors"
    assert roc_auc_score(~single[test], doubt["nearness"][test]) > 0.85, "the first one's"
    assert doubt.loc[test, "sd"].mean() < 0.25


def test_a_seed_that_knows_nothing_views_by_hand_and_the_same_draws_for_an_image():
    run = seeds_of_one_truth([2], [1])[0]
    assert (at_one_scale(run.assign(log_odds=-run["log_odds"], probability=1 - run["probability"])) == 0.5).all()
    inputs = np.random.default_rng(0).random((3, 1, 9, 11)).astype(np.float32)
    samples = augmented_views(lambda images: images[:, 0].copy(), inputs, shift=2)  # maps are brought back to the image
    assert samples.shape == (10, 3, 9, 11) and (samples == inputs[:, 0]).all()
    image = np.array([[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]]], np.float32)
    samples = augmented_views(lambda images: images[:, 0, 0, 0], image, shift=1)
    # upper left pixel: as it is, up, down (border repeated), left, right (border repeated); then mirrored
    assert samples[:, 0].tolist() == [0, 3, 0, 1, 0, 2, 5, 2, 2, 1]
    told = augmented_views(lambda images: images[:, 0, 0, 0], image, shift=1, first=np.array([7.0]))
    assert told[:, 0].tolist() == [7, 3, 0, 1, 0, 2, 5, 2, 2, 1], "what is known is not asked again"
    network = tiny_network(3, 2)
    inputs = _inputs(6)
    whole = mc_dropout(network, inputs, passes=20, seed=1)
    part = mc_dropout(network, inputs[4:], passes=20, seed=1, keys=[4, 5])
    np.testing.assert_array_equal(part, whole[:, 4:])
    # In evaluation PyTorch takes a fused kernel that knows no dropout: without care all passes would be alike.
    network = build_classifier("resnet18_transformer", layers=1, dropout=0.5).eval()
    assert len(np.unique(mc_dropout(network, _inputs(1, 64), passes=4))) == 4 and torch.backends.mha.get_fastpath_enabled()


def test_map_scores_by_hand_of_pairs_and_of_a_segmenter_that_calls_nothing():
    one = np.array([[1.0, 1.0], [0.0, 0.0]])
    two = np.array([[1.0, 0.0], [0.0, 0.0]])
    table = map_uncertainty(np.stack([one, two])[:, None])
    # mean map 1, 0.5, 0, 0: one pixel of four with an entropy of 1, all of it disagreement
    assert table["entropy"][0] == pytest.approx(0.25) and table["mutual_information"][0] == pytest.approx(0.25)
    assert table["sd"][0] == pytest.approx(0.5 / 4)
    assert table["disagreement"][0] == pytest.approx(1 - 2 * 1 / 3)
    assert table["soft_dice_loss"][0] == pytest.approx(1 - 2 * 1.5 / (2 + 1.5))
    maps = np.random.default_rng(0).random((4, 3, 9, 7))
    pairs = [(maps[i] >= 0.5, maps[j] >= 0.5) for i in range(4) for j in range(i)]
    expected = [1 - np.mean([f1_score(one[at].ravel(), two[at].ravel()) for one, two in pairs]) for at in range(3)]
    assert map_uncertainty(maps)["disagreement"].tolist() == pytest.approx(expected)
    table = map_uncertainty(np.full((3, 2, 8, 8), 0.01))
    assert (table["soft_dice_loss"] == 1).all() and (table["disagreement"] == 0).all() and (table["entropy"] > 0).all()
    assert map_uncertainty(np.zeros((2, 1, 8, 8)))["entropy"][0] == 0
    with pytest.raises(ValueError, match="image 1: 32 of 32 probabilities are NaN"):
        map_uncertainty(np.stack([np.zeros((2, 4, 4)), np.full((2, 4, 4), np.nan)], axis=1))


def _inputs(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_alone_is_random_and_the_network_is_left_as_it_was(training):
    torch.manual_seed(0)
    network = tiny_network(3, 2, dropout=0.5).train(training)
    network[1].train(not training)  # modules in different modes
    network[1].running_mean.fill_(0.3)
    modes = [module.training for module in network.modules()]
    kept, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    samples = mc_dropout(network, _inputs(5), passes=40, seed=3)
    assert samples.shape == (40, 5) and samples.dtype == np.float64
    assert (samples.std(axis=0) > 0).all() and len(np.unique(samples[:, 0])) > 10
    np.testing.assert_array_equal(samples, mc_dropout(network, _inputs(5), passes=40, seed=3))
    with pytest.raises(RuntimeError):
        mc_dropout(network, np.zeros((1, 5, 32, 32), np.float32))
    assert [module.training for module in network.modules()] == modes and torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())


def test_only_dropout_is_random_and_must_be_there_and_reached():
    """Behind a batch norm in use, dropout of rate p keeps a value with 1 − p and scales it: each answer is one of two."""

    class Doubtful(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.depth, self.drop = nn.BatchNorm2d(3), StochasticDepth(0.9, "batch"), nn.Dropout(0.25)
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images):
            value = self.depth(self.norm(images)).mean(dim=(1, 2, 3))[:, None]
            return torch.cat([torch.zeros_like(value), self.weight * self.drop(value)], dim=1)

    inputs = _inputs(2)
    samples = mc_dropout(Doubtful(), inputs, passes=2000, seed=0)
    means = (inputs / np.sqrt(1 + 1e-5)).mean(axis=(1, 2, 3))
    for image in range(2):
        dropped = samples[:, image] == 0.5
        kept = 1 / (1 + np.exp(-means[image] / 0.75))
        np.testing.assert_allclose(samples[~dropped, image], kept, rtol=1e-6)
        assert dropped.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))

    class Idle(nn.Module):
        def __init__(self, rate: float):
            super().__init__()
            self.drop, self.head = nn.Dropout(rate), nn.Linear(3, 2)

        def forward(self, images):
            return self.head(images.mean(dim=(2, 3)))

    for rate, message in ((0.0, "no dropout layer of a rate above 0"), (0.5, "no dropout layer is reached")):
        network = Idle(rate)
        assert has_dropout(network) == (rate > 0)
        with pytest.raises(ValueError, match=message):
            mc_dropout(network, _inputs(1))
        assert network.drop.training and not network.drop._forward_hooks
