"""A study of maps on tiny runs and made by hand; where maps point, by hand on 4×4 pictures, chance levels by simulation, and
over patients; shapes of figures known by hand, and the answer to the paper's claim on maps whose truth is known."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.special import ellipe
from training_project import register_tiny, register_tiny_segmenter, segmentation_config, tiny_config

from thyroid_utils.data.readers import load_cases
from thyroid_utils.inference.cam import CamMaps, cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.plots import error_analysis as error_plots
from thyroid_utils.plots import grad_cam as plots
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import classifier_errors
from thyroid_utils.studies.grad_cam import (
    FEATURES,
    MEASURES,
    MIN_PIXELS,
    MapStudy,
    attention_answer,
    attention_scores,
    attention_table,
    centre_prior,
    claim_answer,
    compare_shapes,
    faithfulness,
    highlighted,
    mask_shapes,
    region_shape,
    shape_table,
    study_maps,
    threshold_sweep,
)
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.fit import fit_or_load

LAYER = "4"  # the second normalisation of the tiny classifier


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory):
    """A ledger and a cache for the file, both tiny networks, one thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(tmp_path_factory.mktemp(name.lower())))
        register_tiny(functools.partial(patch.setitem, CLASSIFIERS))
        register_tiny_segmenter(functools.partial(patch.setitem, SEGMENTERS))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def called():
    return ClassifierComparison.of([fit_or_load(tiny_config())])


@pytest.fixture(scope="module")
def study(called):
    return study_maps(Predictor(called.runs["tiny"][0]), called.decisions("tiny"), layer=LAYER)


def drawn(labels: list[int], right: list[bool], blank: list[bool] | None = None, sure: list[float] | None = None) -> MapStudy:
    """A study whose image, mask, map and patient of case n all tell n: no network is asked."""
    count = len(labels)
    blank = np.zeros(count, bool) if blank is None else np.array(blank)
    sure = [0.1] * count if sure is None else sure
    called = [label if well else 1 - label for label, well in zip(labels, right, strict=True)]
    images = pd.DataFrame(
        {
            "patient": [f"patient-{number}" for number in range(count)],
            "label": labels,
            "called": called,
            "right": right,
            "probability": [0.5 + (away if up else -away) for away, up in zip(sure, called, strict=True)],
            "threshold": 0.5,
        },
        index=pd.Index([f"drawn/{number}" for number in range(count)], name="case"),
    )
    inputs = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, 24, 24)).copy()
    masks, maps = np.zeros((count, 24, 24), bool), np.zeros((count, 24, 24), np.float32)
    for number in range(count):
        masks[number, 4:8, number : number + 4] = True
        maps[number, 4:8, number : number + 8] = 0.5
        maps[number, 5, number + 1] = 1
    maps[blank] = 0
    found = CamMaps(maps, blank, np.where(blank, 0, np.arange(count) + 1.0), np.zeros(count, bool), (6, 6))
    return MapStudy(SimpleNamespace(network=None), images, inputs, masks, found, "grad_cam", 1, None)


def test_a_study_holds_the_maps_and_outlines_of_its_images(called, study):
    predictor, decisions = Predictor(called.runs["tiny"][0]), called.decisions("tiny")
    shuffled = decisions.iloc[::-1]
    backwards = study_maps(predictor, shuffled, method="layer_cam", target=0, layer=LAYER)
    for found, images, other in ((study, decisions, {}), (backwards, shuffled, {"method": "layer_cam", "target": 0})):
        inputs = predictor.inputs(list(images.index))
        maps = cam_maps(predictor.network, inputs, layer=LAYER, **other)
        np.testing.assert_array_equal(found.inputs, inputs)
        np.testing.assert_array_equal(found.grays, inputs[:, 0])
        np.testing.assert_array_equal(found.maps.maps, maps.maps)
        assert maps.maps.std() > 0 and found.maps.grid == maps.grid == (7, 7)
        outlines = [predictor.store.masks[predictor.cases.index.get_loc(case)] for case in images.index]
        np.testing.assert_array_equal(found.masks, outlines)
        assert found.masks.any(axis=(1, 2)).all() and list(found.patients) == list(images["patient"])
        pd.testing.assert_frame_equal(
            found.scores, attention_scores(maps.maps, np.stack(outlines), images.index, images["patient"])
        )
    assert not np.array_equal(backwards.maps.maps[::-1], study.maps.maps), "method and target were passed on"
    assert study.attention().equals(attention_table(study.scores, study.patients))
    declared = study_maps(predictor, study.images, layer="")
    assert declared.layer is None and not np.array_equal(declared.maps.maps, study.maps.maps)


def test_a_network_agrees_with_itself_and_not_with_another(called, study):
    noise = fit_or_load(tiny_config(data__permute_labels=1, seed=5))
    table = faithfulness.likeness_table(study, {"itself": called.runs["tiny"][0], "noise": noise})
    assert [found.value for found in table.loc["itself", ["spearman", "ssim"]]] == pytest.approx([1, 1])
    expected = faithfulness.compare_maps(study.maps.maps, study.maps_of(Predictor(noise).network).maps)
    assert table.loc["noise", "spearman"].value == pytest.approx(expected["spearman"].mean())
    assert expected["spearman"].mean() < 0.95
    assert table.loc["noise", "images"] == (~expected["blank"]).sum()


def test_some_are_drawn_at_random_and_stay_in_step():
    whole = drawn([0, 1] * 6, [True] * 12, blank=[number in (2, 7) for number in range(12)])
    chosen = {seed: list(whole.some(5, seed).images.index) for seed in range(24)}
    assert chosen[3] == list(whole.some(5, 3).images.index), "the same seed draws the same images"
    assert len({tuple(cases) for cases in chosen.values()}) > 12 and {case for cases in chosen.values() for case in cases} == {
        f"drawn/{number}" for number in range(12) if number not in (2, 7)
    }
    part = whole.some(5, 3)
    numbers = [int(case.rpartition("/")[2]) for case in part.images.index]
    assert numbers == sorted(numbers) and len(numbers) == 5
    assert not part.maps.blank.any() and list(part.maps.peak) == [number + 1 for number in numbers]
    assert list(part.patients) == [f"patient-{number}" for number in numbers] and list(part.grays[:, 0, 0]) == numbers
    assert [int(np.flatnonzero(mask.any(axis=0))[0]) for mask in part.masks] == numbers
    assert [int(values.max(axis=0).argmax()) - 1 for values in part.maps.maps] == numbers
    assert list(part.scores.index) == list(part.images.index), "not the scores of the whole study"
    assert len(whole.some(100).images) == 10 and part.method == whole.method and part.maps.grid == (6, 6)


def test_attention_is_of_the_images_kept_with_the_references_of_all():
    whole = drawn([0, 1, 0, 1, 0, 1], [True, False, True, True, False, True])
    tables = whole.attention_by_decision()
    assert list(tables) == ["right", "wrong"]
    for name, members in (("right", [0, 2, 3, 5]), ("wrong", [1, 4])):
        expected = attention_table(whole.scores.iloc[members], whole.patients[members])
        assert tables[name].equals(expected) and tables[name].at["iou", "map"].images == len(members)
    alone = whole.attention([True] + [False] * 5).at["energy_inside", "other patients"]
    assert alone.value == pytest.approx(whole.scores["energy_inside_other"].iloc[0]), "maps of images not kept are references"
    assert list(drawn([0, 1], [False] * 2).attention_by_decision()) == ["wrong"]


def test_a_set_without_outlines_has_maps_and_no_attention(monkeypatch):
    config = tiny_config(training__epochs=1, seed=9)
    cases = load_cases("phantom", **config.data.options).assign(mask=pd.NA)
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
    comparison = ClassifierComparison.of([fit_or_load(config)])
    study = study_maps(Predictor(comparison.runs["tiny"][0]), comparison.decisions("tiny"), layer=LAYER)
    assert study.predictor.store.masks is None and study.maps.maps.max() == 1
    assert study.masks.dtype == bool and study.masks.shape == study.maps.maps.shape and not study.masks.any()
    table = study.attention()
    assert (table["no mask"] == len(study.images)).all() and np.isnan(table.at["iou", "map"].value)
    assert plots.attention_dots({"map": table}) is None and plots.attention_dots(study.attention_by_decision()) is None
    assert plots.cam_panels(study) is not None
    assert error_plots.classifier_cards(classifier_errors(comparison, "tiny").shown(1), study, [])


def test_a_segmenter_is_studied_by_its_nodule():
    outlined = SegmenterComparison.of([fit_or_load(segmentation_config())])
    predictor = Predictor(outlined.runs["tiny_segmenter"][0])
    study = study_maps(predictor, outlined.truth, target="nodule")
    by_hand = cam_maps(predictor.network, predictor.inputs(list(outlined.truth.index)), target="nodule")
    np.testing.assert_array_equal(study.maps.maps, by_hand.maps)
    np.testing.assert_array_equal(study.maps.none_called, by_hand.none_called)
    assert study.attention().at["energy_inside", "map"].images == (~by_hand.blank).sum() > 0


def test_a_network_without_a_say_has_blank_maps_that_nothing_divides_by(called, study):
    """The head's weights are 0, so that no place speaks for any class."""
    predictor = Predictor(called.runs["tiny"][0])
    with torch.no_grad():
        predictor.network.network[-1].weight.zero_()
    blank = study_maps(predictor, study.images, layer=LAYER)
    assert blank.maps.blank.all() and not blank.maps.maps.any() and (blank.attention()["blank"] == len(study.images)).all()
    assert plots.attention_dots({"grad_cam": blank.attention()}) is None
    curves, table = faithfulness.deletion_insertion_curves(blank), faithfulness.randomisation_table(blank, [0])
    assert curves.empty and plots.deletion_insertion_curves(curves) is None
    assert (table["blank"] == table["maps"]).all() and np.isnan(table["spearman"].iloc[-1].value)
    figure, count = plots.sanity_curve(table, "grad_cam"), table["maps"].sum()
    assert figure.legends[0].get_texts()[0].get_text() == f"grad_cam ({count} of {count} maps blank)"
    labels, patients = study.images["label"].astype(int), study.patients
    shapes = shape_table(highlighted(blank.maps.maps, 0.5), blank.grays, list(blank.images.index))
    compared = compare_shapes(shapes, labels, patients)
    assert (compared["left_out"] == len(study.images)).all() and compared["p"].isna().all()
    assert plots.shape_plots(shapes, labels, compared) is None
    sweep = threshold_sweep(blank.maps.maps, labels, patients, blank.grays, [0.5])
    assert plots.shape_sweep(sweep) is None and claim_answer(sweep).text.startswith("No test")


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
