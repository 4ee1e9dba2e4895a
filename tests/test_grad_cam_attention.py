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
from thyroid_utils.studies.grad_cam.attention import MEASURES, attention_answer, attention_scores, attention_table, centre_prior

# The nodule is the upper left quarter.
MASK = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
MAP = np.array([[0, 2, 4, 0], [2, 8, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]]) / 8


def scored(maps: np.ndarray, masks: np.ndarray, patients: list[str] | None = None) -> pd.DataFrame:
    """Of images each of a patient of its own, unless these are given."""
    names = [f"c{number}" for number in range(len(maps))]
    return attention_scores(maps, np.broadcast_to(masks, np.shape(maps)), names, patients or names)


def one(values: np.ndarray, mask: np.ndarray = MASK) -> pd.Series:
    return scored(values[None], mask).iloc[0]


def test_measures_by_hand():
    found = one(MAP)
    assert found["energy_inside"] == pytest.approx(12 / 20)
    assert found["pointing_game"] == 1 and found["peak_distance"] == 0
    assert found["iou"] == pytest.approx(1 / 6)  # 3 places reach a half, 1 of them among the 4 of the nodule
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


def test_chance_is_the_mean_over_all_places_of_the_map():
    random = np.random.default_rng(0)
    values = np.maximum(gaussian_filter(random.normal(size=(12, 10)), 2, mode="wrap"), 0)
    mask = np.zeros((12, 10), bool)
    mask[2:7, 3:6] = mask[3, 1:9] = True
    everywhere = scored(np.stack([np.roll(values, shift, axis=(0, 1)) for shift in np.ndindex(12, 10)]), mask)
    for name in MEASURES:
        assert everywhere[name].mean() == pytest.approx(one(values, mask)[f"{name}_chance"], rel=1e-9), name
        assert everywhere[name].std() > 0.01  # or any level would do
    assert everywhere["iou_chance"].std() < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_measures_keep_their_range_and_do_not_see_the_scale(seed):
    random = np.random.default_rng(seed)
    values, mask = random.random((1, 6, 7)), random.random((1, 6, 7)) < 0.4
    mask[0, 0, 0] = True
    found = scored(values, mask)
    pd.testing.assert_frame_equal(found, scored(values * 4, mask))
    shares = found[[f"{name}{end}" for name in MEASURES if name != "peak_distance" for end in ("", "_centre", "_chance")]]
    assert ((shares >= 0) & (shares <= 1 + 1e-12)).all(axis=None)
    assert (found["peak_distance"] == 0).all() == (found["pointing_game"] == 1).all()


def test_blank_maps_and_empty_masks_have_no_measures_and_are_counted():
    maps = np.stack([MAP, np.zeros((4, 4)), MAP, np.full((4, 4), np.nan)])
    masks = np.stack([MASK, MASK, np.zeros((4, 4), bool), MASK])
    found = scored(maps, masks)
    assert found["blank"].tolist() == [False, True, False, True]
    assert found["no_mask"].tolist() == [False, False, True, False]
    assert found.loc[["c1", "c2", "c3"], [*MEASURES, "iou_chance"]].isna().all(axis=None)
    assert np.isnan(found.at["c2", "iou_centre"]) and found.at["c1", "iou_centre"] > 0
    assert found.index.name == "case"
    table = attention_table(found, ["p", "q", "r", "s"])
    assert (table["blank"] == 2).all() and (table["no mask"] == 1).all()
    assert all(cell.images == 1 for column in ("map", "centre prior", "chance", "− centre prior") for cell in table[column])
    nothing = attention_table(scored(maps[1:2], MASK), ["p"])
    assert all(np.isnan(cell.value) for cell in nothing["map"]) and all(np.isnan(cell.p_value) for cell in nothing["− chance"])
    assert nothing.at["iou", "map"].text() == "no data" and (nothing["blank"] == 1).all()
    assert attention_answer(nothing) == "No image has both a map and an outline."


def test_the_table_is_over_patients_and_compares_on_the_same_images():
    random = np.random.default_rng(1)
    mask = np.zeros((16, 16), bool)
    mask[1:6, 1:6] = True  # away from the middle
    maps = np.stack([gaussian_filter(random.random((16, 16)) * (0.2 + 3 * mask), 1.5) for _ in range(24)])
    patients = [f"p{number // 3}" for number in range(24)]
    scores = scored(maps, mask, patients)
    table = attention_table(scores, patients)
    assert list(table.index) == list(MEASURES)
    for name in MEASURES:
        row = table.loc[name]
        assert row["map"] == patient_bootstrap(scores[name], patients, share=name == "pointing_game", resamples=2000)
        assert row["map"].patients == 8 and row["map"].images == 24
        assert row["− centre prior"].difference == pytest.approx(row["map"].value - row["centre prior"].value)
        assert row["− chance"].second == pytest.approx(scores[f"{name}_chance"].mean())
    against = table.at["energy_inside", "− centre prior"]
    assert against.low > 0 and against.p_value < 0.01
    assert ", not more than of other patients' maps laid there (" in attention_answer(table)


def test_maps_of_other_patients_are_laid_on_each_nodule():
    random = np.random.default_rng(3)
    maps, masks = random.random((5, 6, 7)), random.random((5, 6, 7)) < 0.3
    maps[3], masks[4] = 0, False
    maps[0, 2, 2] = maps[0, 4, 4] = 2  # two equal maxima
    patients = ["p", "p", "q", "q", "r"]
    found = scored(maps, masks, patients)
    for at in range(4):
        others = [number for number in (0, 1, 2, 4) if patients[number] != patients[at]]
        expected = scored(maps[others], masks[at])
        for name in MEASURES:
            assert found[f"{name}_other"].iloc[at] == pytest.approx(expected[name].mean()), (at, name)
    columns = [f"{name}_other" for name in MEASURES]
    assert found[columns].iloc[4].isna().all()
    assert scored(maps, masks, ["p"] * 5)[columns].isna().all(axis=None)
    table = attention_table(found, patients)
    assert table.at["iou", "other patients"].value == pytest.approx(found["iou_other"].iloc[:3].mean())
    differences = (found["iou"] - found["iou_other"]).iloc[:3]
    assert table.at["iou", "− other patients"].difference == pytest.approx(differences.mean())


def test_a_coarse_map_that_always_peaks_in_a_corner_is_below_chance_but_not_below_other_maps():
    """The maximum of 2×2 enlarged places lies in a corner; nodules lie in the middle."""
    random = np.random.default_rng(4)
    mask = np.zeros((32, 32), bool)
    mask[12:20, 12:20] = True
    maps = np.stack([cv2.resize(random.random((2, 2)), (32, 32), interpolation=cv2.INTER_LINEAR) for _ in range(30)])
    scores = scored(maps, mask)
    table = attention_table(scores, list(scores.index))
    assert table.at["pointing_game", "map"].value == 0 and table.at["pointing_game", "− chance"].p_value < 0.01
    assert table.at["pointing_game", "− other patients"].difference == 0
    assert table.at["energy_inside", "− other patients"].p_value > 0.05
