"""Shapes of figures known by hand, the comparison of classes, and the answer to the claim on maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ellipe

from thyroid_utils.scores.comparisons import holm
from thyroid_utils.studies.grad_cam import (
    FEATURES,
    MIN_PIXELS,
    claim_answer,
    compare_shapes,
    highlighted,
    mask_shapes,
    region_shape,
    shape_table,
    threshold_sweep,
)


def ellipse(across: float, deep: float, *, angle: float = 0.0, side: int = 128, centre: float = 63.5) -> np.ndarray:
    """Half-axes in pixels, `across` along the columns at an angle of 0 (degrees)."""
    y, x = np.mgrid[:side, :side] - centre
    turn = np.deg2rad(angle)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (u / across) ** 2 + (v / deep) ** 2 <= 1


def rectangle(height: int, width: int, side: int = 100, top: int = 20, left: int = 30) -> np.ndarray:
    region = np.zeros((side, side), bool)
    region[top : top + height, left : left + width] = True
    return region


def cone(across: float, deep: float, side: int = 64) -> np.ndarray:
    """1 in the middle, falling to 0 on an ellipse: the region at threshold t is that ellipse shrunk by 1 − t."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.clip(1 - np.sqrt((x / across) ** 2 + (y / deep) ** 2), 0, None)


@pytest.mark.parametrize("radius", [4.0, 7.0, 20.0, 50.0])
def test_a_disc(radius):
    found = region_shape(ellipse(radius, radius))
    assert found["area"] == pytest.approx(np.pi * radius**2 / 128**2, rel=0.05)  # pixels of a small disc are that far from π r²
    assert found["perimeter"] == pytest.approx(2 * np.pi * radius / 128, rel=0.07)
    assert found["circularity"] == pytest.approx(1, abs=0.12)
    assert found["eccentricity"] == pytest.approx(0, abs=1e-6) and found["aspect_ratio"] == 1
    assert found["solidity"] > 0.9 and not found["at_edge"]


@pytest.mark.parametrize("angle", [0, 30, 45, 90])
@pytest.mark.parametrize(("long", "short"), [(50, 25), (24, 8)])
def test_an_ellipse(long, short, angle):
    found = region_shape(ellipse(long, short, angle=angle))
    squared = 1 - (short / long) ** 2
    perimeter = 4 * long * ellipe(squared)
    assert found["eccentricity"] == pytest.approx(np.sqrt(squared), abs=0.01)
    assert found["perimeter"] == pytest.approx(perimeter / 128, rel=0.04)
    assert found["circularity"] == pytest.approx(4 * np.pi * np.pi * long * short / perimeter**2, abs=0.06)
    turn = np.deg2rad(angle)
    height = np.hypot(long * np.sin(turn), short * np.cos(turn))
    width = np.hypot(long * np.cos(turn), short * np.sin(turn))
    assert found["aspect_ratio"] == pytest.approx(height / width, rel=0.07)  # a pixel of 16


def test_a_square_and_upright_and_lying_rectangles():
    square = region_shape(rectangle(20, 20))
    assert square["area"] == 0.04 and square["eccentricity"] == 0 and square["solidity"] == 1 and square["aspect_ratio"] == 1
    assert square["perimeter"] == pytest.approx(0.8, rel=0.09)  # 80 pixels of 100; Crofton's in four directions is short
    assert np.pi / 4 < square["circularity"] < 0.95
    tall, wide = region_shape(rectangle(40, 10)), region_shape(rectangle(10, 40))
    assert tall["aspect_ratio"] == 4 and wide["aspect_ratio"] == 0.25
    # Second moments of n pixels in a row: (n² − 1) / 12, and 1 / 12 more in skimage, which gives each pixel its own extent.
    assert tall["eccentricity"] == wide["eccentricity"] == pytest.approx(np.sqrt(1 - 10**2 / 40**2), abs=1e-3)
    assert tall["circularity"] < square["circularity"]


def test_the_largest_part_is_measured():
    region = rectangle(20, 20)
    region[80:90, 80:90] = region[5, 5] = True
    found = region_shape(region)
    assert (found["area"], found["at_edge"]) == (0.04, False)
    touching = region_shape(rectangle(20, 20, top=0))
    assert touching["at_edge"] and touching["area"] == 0.04
    diagonal = np.zeros((30, 30), bool)
    diagonal[:10, :10] = diagonal[10:20, 10:20] = True
    assert region_shape(diagonal)["area"] == 200 / 900, "corners connect"


def test_empty_and_small_regions_have_no_shape():
    empty = region_shape(np.zeros((9, 9), bool), np.ones((9, 9)))
    small = region_shape(rectangle(1, MIN_PIXELS - 1, left=0), np.ones((100, 100)))
    assert np.isnan([found[name] for found in (empty, small) for name in FEATURES]).all()
    assert not empty["at_edge"] and not small["at_edge"]
    assert region_shape(rectangle(1, MIN_PIXELS))["area"] == MIN_PIXELS / 100**2


def test_entropy_by_hand():
    region, gray = rectangle(20, 20), np.zeros((100, 100), np.uint8)
    gray[0, 0] = 255
    assert region_shape(region, gray)["entropy"] == 0
    gray[20:40, 30:40] = 255  # half of the region
    assert region_shape(region, gray)["entropy"] == pytest.approx(1)
    gray[20:30, 30:40], gray[30:40, 40:50] = 80, 160  # quarters
    assert region_shape(region, gray)["entropy"] == pytest.approx(2)
    assert region_shape(region, gray.astype(float) / 100 - 1)["entropy"] == pytest.approx(2), "gain and offset do not count"
    assert region_shape(region, np.full((100, 100), 7))["entropy"] == 0
    assert "entropy" not in region_shape(region)
    random = np.random.default_rng(0).integers(0, 256, (100, 100))
    assert region_shape(np.ones((100, 100), bool), random)["entropy"] == pytest.approx(5, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_region_keeps_to_the_ranges(seed):
    random = np.random.default_rng(seed)
    region = random.random((24, 30)) < random.uniform(0.3, 0.9)
    found = region_shape(region, random.random((24, 30)))
    if found["area"] == found["area"]:
        assert 0 < found["area"] <= 1 and 0 <= found["eccentricity"] < 1 and 0 < found["solidity"] <= 1
        assert 0 < found["circularity"] < 1.2 and 0 <= found["entropy"] <= 5 and 0 < found["aspect_ratio"] < 50
        turned = region_shape(region.T)
        assert turned["aspect_ratio"] == pytest.approx(1 / found["aspect_ratio"])
        for name in ("area", "perimeter", "eccentricity", "solidity", "circularity"):
            assert turned[name] == pytest.approx(found[name], abs=1e-6), name


def test_thresholds_are_shares_of_each_maps_own_maximum():
    maps = np.stack([cone(20, 20), 0.25 * cone(20, 20), np.zeros((64, 64))])
    found = highlighted(maps, 0.5)
    assert found[0].any() and (found[0] == found[1]).all() and not found[2].any(), "a blank map highlights nothing"
    assert found[0].sum() == pytest.approx(np.pi * 10**2, rel=0.08)  # no pixel lies on the very top: a slightly wider disc


def population(seed: int = 0, patients: int = 30) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Shapes of one to three regions a patient: malignant ones are taller, equal in all else."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    labels = (codes % 5 < 2).astype(int)
    sizes = [(random.uniform(9, 14), random.uniform(9, 14) * (1.7 if label else 1.0)) for label in labels]
    return shape_table([ellipse(*size, side=64, centre=31.5) for size in sizes]), labels, codes


def test_classes_are_compared_feature_by_feature():
    table, labels, codes = population()
    found = compare_shapes(table, labels, codes)
    assert list(found.index) == [name for name in FEATURES if name != "entropy"]
    means = table.groupby(codes).mean(numeric_only=True)
    malignant = np.arange(30) % 5 < 2
    for name, row in found.iterrows():
        one, two = means.loc[~malignant, name], means.loc[malignant, name]
        assert row["p"] == pytest.approx(stats.mannwhitneyu(two, one).pvalue, rel=1e-9), name
        assert (row["benign"], row["malignant"]) == pytest.approx((one.median(), two.median()))
    assert found.at["aspect_ratio", "p_holm"] < 0.05 and found.at["aspect_ratio", "effect"] > 0.8
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"]))


def test_one_class_only_is_said():
    table, labels, codes = population()
    found = compare_shapes(table, 0 * labels, codes)
    assert found["p"].isna().all() and (found["malignant_patients"] == 0).all()
    maps = np.stack([cone(20, 20)] * 4)
    answer = claim_answer(threshold_sweep(maps, [1] * 4, [*"abcd"], maps, [0.2, 0.5]))
    assert answer.text.startswith("No test") and not answer.sweep_holds


def wide_at_the_foot(seed: int = 0, patients: int = 24, images: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps with a foot below 0.45 of the maximum, flat in malignant images and round in benign ones, and a peak alike in both."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), images)
    labels = codes % 2
    maps = [
        np.maximum(0.45 * (cone(28, 12 if label else 28) > random.uniform(0, 0.3)), cone(*random.uniform(20, 24, 2)) ** 0.5 * 1.0
                   * (cone(11, 11) > 0))
        for label in labels
    ]  # fmt: skip
    return np.stack(maps), labels, codes


def test_the_sweep_finds_the_threshold_at_which_a_difference_ends():
    maps, labels, codes = wide_at_the_foot()
    sweep = threshold_sweep(maps, labels, codes, maps, [0.2, 0.4, 0.6, 0.7])
    assert sweep["threshold"].unique().tolist() == [0.2, 0.4, 0.6, 0.7] and len(sweep) == 4 * len(FEATURES)
    assert sweep["p_sweep"].to_numpy() == pytest.approx(holm(sweep["p"]), nan_ok=True)
    alone = compare_shapes(shape_table(highlighted(maps, 0.4), maps), labels, codes)
    pd.testing.assert_frame_equal(sweep[sweep["threshold"] == 0.4].set_index("feature")[alone.columns], alone)
    shapes = sweep[sweep["feature"] != "entropy"]  # whose gray levels here are the map's own
    answer = claim_answer(shapes)
    assert answer.sweep_holds
    assert "of 4 thresholds, at 2 (0.2, 0.4) without adjustment, at 2 (0.2, 0.4) after Holm over the features, " in answer.text
    assert "With 12 benign and 12 malignant patients" in answer.text and "; 0% of the regions reach" in answer.text
    assert "no image is left out" in answer.text


def test_an_unadjusted_claim_is_told_from_an_adjusted_one():
    counts = {"left_out": 0, "at_edge": 0.0, "detectable": 1.4, "benign_patients": 9, "malignant_patients": 8}
    p_values = {0.3: [0.03, 0.6, 0.9], 0.5: [0.5, 0.012, 0.9], 0.7: [0.5, 0.6, 0.9]}
    tables = [pd.DataFrame({"threshold": at, "p": values, "p_holm": holm(values), **counts}) for at, values in p_values.items()]
    table = pd.concat(tables, ignore_index=True)
    answer = claim_answer(table.assign(p_sweep=holm(table["p"])))
    assert not answer.sweep_holds and answer.text.startswith(
        "P < 0.05 holds for some feature, of 3 thresholds, at 2 (0.3, 0.5) without adjustment, at 1 (0.5) after Holm over the "
        "features, at 0 after Holm over all features and thresholds."
    )
    assert "a single test finds no effect, however large, with a power of 80 %" in answer.text


def test_predicted_masks_of_labelled_cases_are_compared():
    y, x = np.ogrid[:40, :40]
    masks = [np.hypot(y - 20, (x - 20) * (1.0 if number % 2 else 2.0)) < 12 for number in range(12)]
    cases = pd.DataFrame({"patient": [f"p{number}" for number in range(12)], "label": [number % 2 for number in range(12)]})
    cases["label"] = cases["label"].astype("Int64")
    cases.loc[0, "label"] = pd.NA
    found = mask_shapes(masks, cases)
    expected = compare_shapes(shape_table(masks[1:]), cases["label"][1:].astype(int), cases["patient"][1:])
    assert "entropy" not in found.index and found.at["area", "effect"] == expected.at["area", "effect"] == 1
    assert (found["benign_patients"] + found["malignant_patients"] == 11).all()
    assert found.at["eccentricity", "malignant"] < found.at["eccentricity", "benign"]
    assert mask_shapes(masks, cases.assign(label=pd.array([1] * 12, dtype="Int64"))).empty
