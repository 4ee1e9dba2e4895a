"""Measures of where a map points: by hand on 4×4 pictures, their chance levels by simulation, and over patients."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.studies.grad_cam import MEASURES, attention_scores, attention_table, centre_prior

# The nodule is the upper left quarter.
MASK = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
MAP = np.array([[0, 2, 4, 0], [2, 8, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]]) / 8


def one(values: np.ndarray, mask: np.ndarray = MASK, threshold: float = 0.5) -> pd.Series:
    return attention_scores(values[None], mask[None], threshold).iloc[0]


def test_measures_by_hand():
    found = one(MAP)
    assert found["energy_inside"] == pytest.approx(12 / 20)
    assert found["pointing_game"] == 1 and found["peak_distance"] == 0
    assert found["iou"] == pytest.approx(1 / 6)  # 3 places reach a half, 1 of them among the 4 of the nodule
    assert one(MAP, threshold=0.25)["iou"] == pytest.approx(3 / 6)
    assert found["energy_inside_chance"] == found["pointing_game_chance"] == 4 / 16
    root = np.sqrt
    distances = [0, 0, 1, 2, 0, 0, 1, 2, 1, 1, root(2), root(5), 2, 2, root(5), root(8)]
    assert found["peak_distance_chance"] == pytest.approx(np.mean(distances))
    assert not found["blank"] and not found["no_mask"]


def test_a_peak_outside_and_several_equal_peaks_by_hand():
    outside = np.zeros((4, 4))
    outside[3, 3] = 1
    found = one(outside)
    assert found["pointing_game"] == 0 and found["energy_inside"] == 0 and found["iou"] == 0
    assert found["peak_distance"] == pytest.approx(np.sqrt(8))
    both = outside.copy()
    both[0, 0] = 1
    assert one(both)["pointing_game"] == 0.5 and one(both)["peak_distance"] == pytest.approx(np.sqrt(8) / 2)


def test_the_centre_prior_by_hand():
    prior = centre_prior((4, 4))
    assert prior.max() == 1 and (prior == prior.T).all() and (prior == prior[::-1]).all()
    assert prior[0, 1] == pytest.approx(np.exp(-0.5 * (1.5**2 - 0.5**2)))  # σ is one pixel
    found = one(MAP)
    assert found["energy_inside_centre"] == pytest.approx(0.25)
    assert found["pointing_game_centre"] == 0.25  # one of its four equal middle pixels
    assert found["peak_distance_centre"] == pytest.approx((0 + 1 + 1 + np.sqrt(2)) / 4)
    assert found["iou_centre"] == pytest.approx(1 / 7)
    assert centre_prior((5, 9))[2, 4] == 1 and centre_prior((5, 9)).shape == (5, 9)


def shifted(values: np.ndarray):
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            yield np.roll(values, (row, column), axis=(0, 1))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_chance_is_the_mean_over_all_places_of_the_map(threshold):
    random = np.random.default_rng(0)
    values = np.maximum(gaussian_filter(random.normal(size=(12, 10)), 2, mode="wrap"), 0)
    mask = np.zeros((12, 10), bool)
    mask[2:7, 3:6] = mask[3, 1:9] = True
    maps = np.stack(list(shifted(values)))
    everywhere = attention_scores(maps, np.repeat(mask[None], len(maps), axis=0), threshold)
    for name in MEASURES:
        assert everywhere[name].mean() == pytest.approx(one(values, mask, threshold)[f"{name}_chance"], rel=1e-9), name
        assert everywhere[name].std() > 0.01  # or any level would do
    assert everywhere["iou_chance"].std() < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_measures_keep_their_range_and_do_not_see_the_scale(seed, threshold):
    random = np.random.default_rng(seed)
    values, mask = random.random((1, 6, 7)), random.random((1, 6, 7)) < 0.4
    mask[0, 0, 0] = True
    found, scaled = attention_scores(values, mask, threshold), attention_scores(values * 4, mask, threshold)
    pd.testing.assert_frame_equal(found, scaled)
    shares = found[[column for column in found if column.startswith(("energy", "pointing", "iou"))]].to_numpy(float)
    assert ((shares >= 0) & (shares <= 1 + 1e-12)).all()
    assert (found["peak_distance"] == 0).all() == (found["pointing_game"] == 1).all()


def test_blank_maps_and_empty_masks_have_no_measures_and_are_counted():
    maps = np.stack([MAP, np.zeros((4, 4)), MAP, np.full((4, 4), np.nan)])
    masks = np.stack([MASK, MASK, np.zeros((4, 4), bool), MASK])
    with np.errstate(all="raise"):
        found = attention_scores(maps, masks, cases=["a", "b", "c", "d"])
    assert found["blank"].tolist() == [False, True, False, True]
    assert found["no_mask"].tolist() == [False, False, True, False]
    assert found.loc[["b", "c", "d"], [*MEASURES, "iou_chance"]].isna().all(axis=None)
    assert found.loc["c", "iou_centre":"iou_centre"].isna().all() and found.loc["b", "iou_centre"] > 0
    assert found.index.name == "case"
    table = attention_table(found, ["p", "q", "r", "s"])
    assert (table["blank"] == 2).all() and (table["no mask"] == 1).all()
    assert all(cell.images == 1 for column in ("map", "centre prior", "chance", "difference") for cell in table[column])


def test_nothing_but_blank_maps_gives_a_table_without_numbers():
    table = attention_table(attention_scores(np.zeros((2, 4, 4)), np.stack([MASK, MASK])), ["p", "q"])
    assert (table["blank"] == 2).all()
    assert all(np.isnan(cell.value) for cell in table["map"]) and all(np.isnan(cell.p_value) for cell in table["difference"])
    assert table.at["iou", "map"].text() == "no data"


def test_the_table_is_over_patients_and_compares_on_the_same_images():
    random = np.random.default_rng(1)
    mask = np.zeros((16, 16), bool)
    mask[1:6, 1:6] = True  # away from the middle
    maps = np.stack([gaussian_filter(random.random((16, 16)) * (0.2 + 3 * mask), 1.5) for _ in range(24)])
    scores = attention_scores(maps, np.repeat(mask[None], 24, axis=0))
    patients = [f"p{number // 3}" for number in range(24)]
    table = attention_table(scores, patients, seed=3)
    assert list(table.index) == list(MEASURES)
    for name in MEASURES:
        row = table.loc[name]
        share = name == "pointing_game"
        assert row["map"] == patient_bootstrap(scores[name].to_numpy(), patients, share=share, resamples=2000, seed=3)
        assert row["map"].patients == 8 and row["map"].images == 24
        assert row["difference"].difference == pytest.approx(row["map"].value - row["centre prior"].value)
        assert row["above chance"].second == pytest.approx(scores[f"{name}_chance"].mean())
    assert table.at["energy_inside", "difference"].low > 0 and table.at["energy_inside", "difference"].p_value < 0.01
    again = attention_table(scores, patients, seed=3)
    assert again.at["iou", "difference"] == table.at["iou", "difference"]


def test_maps_of_other_patients_are_laid_on_each_nodule():
    random = np.random.default_rng(3)
    maps, masks = random.random((5, 6, 7)), random.random((5, 6, 7)) < 0.3
    maps[3], masks[4] = 0, False
    maps[0, 2, 2] = maps[0, 4, 4] = 2  # two equal maxima
    patients = ["p", "p", "q", "q", "r"]
    found = attention_scores(maps, masks, 0.6, patients=patients)
    for at in range(4):
        others = [number for number in (0, 1, 2, 4) if patients[number] != patients[at]]
        expected = attention_scores(maps[others], np.repeat(masks[at][None], len(others), axis=0), 0.6)
        for name in MEASURES:
            assert found.loc[at, f"{name}_other"] == pytest.approx(expected[name].mean()), (at, name)
    columns = [f"{name}_other" for name in MEASURES]
    assert found.loc[4, columns].isna().all()
    assert attention_scores(maps, masks, patients=["p"] * 5)[columns].isna().all(axis=None)
    pd.testing.assert_frame_equal(found.drop(columns=columns), attention_scores(maps, masks, 0.6))
    table = attention_table(found, patients)
    assert table.at["iou", "other patients"].value == pytest.approx(found.loc[[0, 1, 2], "iou_other"].mean())
    assert table.at["iou", "above other patients"].difference == pytest.approx(
        (found["iou"] - found["iou_other"])[[0, 1, 2]].mean()
    )
    with pytest.raises(ValueError, match=r"expected \(5,\)"):
        attention_scores(maps, masks, patients=["p"])


def test_a_coarse_map_that_always_peaks_in_a_corner_is_below_chance_but_not_below_other_maps():
    """The maximum of 2×2 enlarged places lies in a corner; nodules lie in the middle."""
    random = np.random.default_rng(4)
    mask = np.zeros((32, 32), bool)
    mask[12:20, 12:20] = True
    maps = np.stack([cv2.resize(random.random((2, 2)), (32, 32), interpolation=cv2.INTER_LINEAR) for _ in range(30)])
    patients = [f"p{number}" for number in range(30)]
    table = attention_table(attention_scores(maps, np.repeat(mask[None], 30, axis=0), patients=patients), patients)
    assert table.at["pointing_game", "map"].value == 0 and table.at["pointing_game", "above chance"].p_value < 0.01
    assert table.at["pointing_game", "above other patients"].difference == 0
    assert table.at["energy_inside", "above other patients"].p_value > 0.05


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\), masks \(1, 4, 3\)"):
        attention_scores(MAP[None], MASK[None, :, :3])
    with pytest.raises(ValueError, match="threshold is 0"):
        attention_scores(MAP[None], MASK[None], 0)
    with pytest.raises(ValueError, match="down to -1"):
        attention_scores(-MAP[None], MASK[None])
    with pytest.raises(ValueError, match=r"expected \(1,\)"):
        attention_table(attention_scores(MAP[None], MASK[None]), ["p", "q"])
