"""A study of maps on tiny runs and made by hand; where maps point, by hand on 4×4 pictures, chance levels by simulation, and
over patients; shapes of figures known by hand, and the answer to the paper's claim on maps whose truth is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import ledger
from scipy import stats
from scipy.ndimage import gaussian_filter
from training_project import tiny_config

from thyroid_utils.common.words import share
from thyroid_utils.data.readers import load_cases
from thyroid_utils.inference.cam import CamMaps, cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.plots.grad_cam import layer_panels
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import Estimate, patient_estimate
from thyroid_utils.studies.classifier_comparison import ClassifierComparison, banner
from thyroid_utils.studies.grad_cam import (
    FEATURES,
    MIN_PIXELS,
    MapStudy,
    claim_answer,
    compare_shapes,
    faithfulness,
    highlighted,
    map_by_hand,
    mask_shapes,
    region_shape,
    shape_table,
    shown_shapes,
    study_maps,
    threshold_sweep,
)
from thyroid_utils.studies.grad_cam.attention import (
    MEASURES,
    attention_answer,
    attention_scores,
    attention_table,
    centre_prior,
    placement_tests,
)
from thyroid_utils.training.fit import fit_or_load

LAYER = "4"  # the second normalisation of the tiny classifier


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    with ledger(tmp_path_factory.mktemp("maps")):
        yield ClassifierComparison.of([fit_or_load(tiny_config())])


@pytest.fixture(scope="module")
def study(called):
    return study_maps(Predictor(called.runs["tiny"][0]), called.decisions("tiny"), layer=LAYER)


def drawn(right: list[bool], blank: tuple[int, ...] = ()) -> MapStudy:
    """A study whose image, mask, map and patient of case n all tell n: no network is asked."""
    count = len(right)
    images = pd.DataFrame(
        {"patient": [f"patient-{number}" for number in range(count)], "right": right},
        index=pd.Index([f"drawn/{number}" for number in range(count)], name="case"),
    )
    inputs = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, 24, 24)).copy()
    masks, maps = np.zeros((count, 24, 24), bool), np.zeros((count, 24, 24), np.float32)
    for number in range(count):
        masks[number, 4:8, number : number + 4] = True
        maps[number, 4:8, number : number + 8] = 0.5 * (number not in blank)
    unseen = np.isin(np.arange(count), blank)
    found = CamMaps(maps, unseen, np.zeros(count, bool), (6, 6))
    return MapStudy(SimpleNamespace(network=None), images, inputs, masks, found, "grad_cam", 1, None)


def test_a_study_holds_the_maps_and_outlines_of_its_images(called, study):
    predictor, shuffled = Predictor(called.runs["tiny"][0]), called.decisions("tiny").iloc[::-1]
    found = study_maps(predictor, shuffled, method="layer_cam", target=0, layer=LAYER)
    inputs = predictor.inputs(list(shuffled.index))
    maps = cam_maps(predictor.network, inputs, layer=LAYER, method="layer_cam", target=0)
    np.testing.assert_array_equal(found.inputs, inputs)
    np.testing.assert_array_equal(found.maps.maps, maps.maps)
    outlines = [predictor.store.masks[predictor.cases.index.get_loc(case)] for case in shuffled.index]
    np.testing.assert_array_equal(found.masks, outlines)
    scores = attention_scores(maps.maps, np.stack(outlines), shuffled.index, shuffled["patient"])
    pd.testing.assert_frame_equal(found.scores, scores)
    assert not np.array_equal(found.maps.maps[::-1], study.maps.maps), "method and target were passed on"
    assert study_maps(predictor, study.images, layer="").layer is None


def test_one_image_step_by_step_ends_at_the_share_that_is_scored_and_has_maps_at_other_layers(study):
    case = study.scores["energy_inside"].idxmax()
    at, inside = study.images.index.get_loc(case), study.scores.at[case, "energy_inside"]
    steps = map_by_hand(replace(study, method="eigen_cam"), case)["value"]
    assert steps["share inside"] == share(inside, 1), "of Grad-CAM, whatever the study's method"
    scaled = replace(study, images=study.images.assign(own_log_odds=0.0))
    assert map_by_hand(scaled, case).at["log-odds", "how"].endswith(", calibrated by its fold")
    assert steps["p(malignant)"] == f"{study.images.at[case, 'probability']:.3f}" and steps["input"] == "3×64×64"
    assert not steps.str.contains("-").any(), "a minus is a true one"
    assert steps["A_k"] == "12 maps of 7×7 places" and steps["chance"] == share(study.masks[at].mean(), 1)
    np.testing.assert_allclose(study.at_layer(case, LAYER).maps.maps[0], study.maps.maps[at], atol=1e-6)  # another batch
    titles = [axes.get_title(loc="left") + axes.get_title() for axes in layer_panels(study, case, "1").axes]
    assert titles[0] == f"{case}\n1: 16×16 places"
    assert map_by_hand(replace(study, masks=np.zeros_like(study.masks)), case).at["share inside", "value"] == "–"


def test_some_are_drawn_at_random_and_stay_in_step():
    whole = drawn([True] * 12, blank=(2, 7))
    assert len({tuple(whole.some(5, seed).images.index) for seed in range(24)}) > 12
    part = whole.some(5, 3)
    assert list(part.images.index) == list(whole.some(5, 3).images.index), "the same seed draws the same images"
    numbers = [int(case.rpartition("/")[2]) for case in part.images.index]
    assert numbers == sorted(numbers) and len(numbers) == 5 and not part.maps.blank.any()
    assert list(part.grays[:, 0, 0]) == numbers
    for shown in (part.masks, part.maps.maps):
        assert [int(np.flatnonzero(each.any(axis=0))[0]) for each in shown] == numbers
    assert list(part.scores.index) == list(part.images.index), "not the scores of the whole study"
    assert len(whole.some(100).images) == 10


def test_attention_is_of_the_images_kept_with_the_references_of_all():
    whole = drawn([True, False, True, True, False, True])
    right = whole.attention_by_decision()["right"]
    alone = attention_table(whole.scores.iloc[[0, 2, 3, 5]], whole.patients[[0, 2, 3, 5]])
    assert right.map(str).equals(alone.map(str))
    alone = whole.attention([True] + [False] * 5).at["energy_inside", "other patients"]
    assert alone.value == pytest.approx(whole.scores["energy_inside_other"].iloc[0]), "maps of images not kept are references"
    assert list(drawn([False] * 2).attention_by_decision()) == ["wrong"]


def test_a_set_without_outlines_has_maps_and_no_attention(called, monkeypatch):
    config = tiny_config(training__epochs=1, seed=9)
    cases = load_cases("phantom", **config.data.options).assign(mask=pd.NA)
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
    comparison = ClassifierComparison.of([fit_or_load(config)])
    study = study_maps(Predictor(comparison.runs["tiny"][0]), comparison.decisions("tiny"), layer=LAYER)
    assert study.maps.maps.max() == 1 and not study.masks.any()
    table = study.attention()
    assert (table["no mask"] == len(study.images)).all() and np.isnan(table.at["iou", "map"].value)


def test_a_network_agrees_with_itself_and_not_with_another(called, study):
    noise = fit_or_load(tiny_config(data__permute_labels=1, seed=5))
    table = faithfulness.likeness_table(study, {"itself": called.runs["tiny"][0], "noise": noise})
    assert [found.value for found in table.loc["itself", ["spearman", "ssim"]]] == pytest.approx([1, 1])
    expected = faithfulness.compare_maps(study.maps.maps, study.maps_of(Predictor(noise).network).maps)
    assert table.loc["noise", "spearman"].value == pytest.approx(expected["spearman"].mean())
    assert expected["spearman"].mean() < 0.95
    assert table.loc["noise", "images"] == (~expected["blank"]).sum()


ABOVE, NAMED_RUN = Estimate(0.9, 0.8, 0.95, 40, 20), SimpleNamespace(data={})

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
    outside[0, 0] = 1
    assert one(outside)["pointing_game"] == 0.5 and one(outside)["peak_distance"] == pytest.approx(np.sqrt(8) / 2)


def test_the_centre_prior_by_hand():
    prior = centre_prior((4, 4))
    assert prior.max() == 1 and (prior == prior.T).all() and (prior == prior[::-1]).all()
    assert prior[0, 1] == pytest.approx(np.exp(-0.5 * (1.5**2 - 0.5**2)))  # σ is one pixel
    found = one(MAP)
    assert found["energy_inside_centre"] == pytest.approx(0.25) and found["iou_centre"] == pytest.approx(1 / 7)
    assert found["pointing_game_centre"] == 0.25  # one of its four equal middle pixels


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


def test_blank_maps_and_empty_masks_have_no_measures_and_are_counted():
    maps = np.stack([MAP, np.zeros((4, 4)), MAP, np.full((4, 4), np.nan)])
    found = scored(maps, np.stack([MASK, MASK, np.zeros((4, 4), bool), MASK]))
    assert found["blank"].tolist() == [False, True, False, True]
    assert found["no_mask"].tolist() == [False, False, True, False]
    assert found.loc[["c1", "c2", "c3"], [*MEASURES, "iou_chance"]].isna().all(axis=None)
    table = attention_table(found, ["p", "q", "r", "s"])
    assert (table["blank"] == 2).all() and (table["no mask"] == 1).all()
    assert attention_scores(maps[:0], np.zeros((0, 4, 4), bool), [], []).empty
    nothing = attention_table(scored(maps[1:2], MASK), ["p"])
    assert all(np.isnan(cell.value) for cell in nothing["map"])
    untested = placement_tests(maps[1:2], MASK[None], ["p"])
    assert all(np.isnan(cell.p_value) and cell.note for cell in untested["− chance"])
    assert "no image has both a map and an outline" in attention_answer("net", NAMED_RUN, ABOVE, nothing, untested)


def test_the_table_is_over_patients_and_compares_on_the_same_images():
    random = np.random.default_rng(1)
    mask = np.zeros((16, 16), bool)
    mask[1:6, 1:6] = True  # away from the middle
    maps = np.stack([gaussian_filter(random.random((16, 16)) * (0.2 + 3 * mask), 1.5) for _ in range(24)])
    patients = [f"p{number // 3}" for number in range(24)]
    scores = scored(maps, mask, patients)
    table = attention_table(scores, patients)
    for name in MEASURES:
        row = table.loc[name]
        assert str(row["map"]) == str(patient_estimate(scores[name], patients, share=name != "peak_distance"))
    tests = placement_tests(maps, np.broadcast_to(mask, maps.shape), patients, deals=999)
    for name in MEASURES:
        against = tests.loc[name]
        assert against["− chance"].second == pytest.approx(scores[f"{name}_chance"].mean())
        assert against["− other patients"].second == pytest.approx(scores[f"{name}_other"].mean())
        assert against["− chance"].first == against["− other patients"].first == pytest.approx(scores[name].mean())
    told = attention_answer("net", NAMED_RUN, ABOVE, table, tests)
    assert "more than chance gives" in told and "not shown to differ from what maps of other patients" in told, (
        "one nodule for all"
    )


@pytest.mark.parametrize("low", [0.5, 0.31, np.nan])
def test_a_classifier_near_chance_is_not_worth_explaining(low):
    poor = replace(ABOVE, low=low, note="all resamples agree")
    assert "above chance" in banner("net", poor) and not banner("net", ABOVE)
    table = attention_table(scored(MAP[None], MASK), ["p"])
    assert attention_answer("net", NAMED_RUN, poor, table, None).startswith(
        "This run cannot say what net looks at: its AUC on test"
    )
    one_patient = attention_answer("net", NAMED_RUN, ABOVE, table, placement_tests(MAP[None], MASK[None], ["p"]))
    assert "not tested against what chance gives (25 %, fewer than 5" in one_patient and "in 1 image of 1 patient" in one_patient
    assert "not tested against what maps of other patients laid there have (–, fewer than 5 patients" in one_patient


def test_shapes_are_shown_in_six_columns():
    row = {"benign": 0.1, "malignant": 0.2, "effect": 0.3, "low": -0.1, "high": 0.6, "p_holm": 0.04, "detectable": 1.2,
           "benign_patients": 3, "malignant_patients": 1}  # fmt: skip
    shown = shown_shapes(pd.DataFrame([row, row | {"low": np.nan}], index=["area", "solidity"]))
    assert shown["effect [95 %]"].tolist() == ["+0.30 [−0.10, +0.60]", "+0.30"] and shown["detectable"].isna().all()
    assert shown["patients"].tolist() == ["3 + 1"] * 2 and shown.index[0] == FEATURES["area"]


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


def test_exchanges_and_shifts_by_hand():
    """Five patients, each with its nodule in another column, the map on it: of 120 exchanges one is as good, of 5⁵ shifts one."""
    masks = np.eye(5, dtype=bool)[:, None, :].repeat(2, axis=1)  # a column each, of 2 rows
    tests = placement_tests(masks * 1.0, masks, list("abcde"), deals=20_000)
    by_exchange, by_shift = tests.loc["energy_inside"]
    assert (by_exchange.first, by_exchange.second, by_shift.second) == pytest.approx((1, 0, 1 / 5))
    assert by_exchange.p_value == pytest.approx(2 / 120, rel=0.25)  # a share of 1 / 120 of 20 000 is known within 8 %
    assert by_shift.p_value == pytest.approx(2 / 5**5, rel=0.6) and "p < 0.001" in str(by_shift)
    away = placement_tests(np.roll(masks, 1, axis=0) * 1.0, masks, list("abcde"))
    assert away.at["energy_inside", "− other patients"].difference == pytest.approx(-0.25), "four others, one of them there"
    few = placement_tests(masks[:4] * 1.0, masks[:4], list("abcd")).loc["energy_inside"]
    assert all(np.isnan(found.p_value) and "fewer than 5" in str(found) for found in few)
    twice = np.concatenate([masks, masks])
    together = placement_tests(twice * 1.0, twice, list("abcde") * 2, deals=20_000).at["energy_inside", "− chance"]
    assert together.p_value == pytest.approx(2 / 5**5, rel=0.6), "a patient's maps are shifted alike: not one of 5¹⁰"


def followed(random: np.random.Generator, patients: int, share: float, side: int = 24) -> tuple:
    """Nodules of 5 % anywhere, and blobs on them in a share of the patients and anywhere in the others; 1 or 2 images each."""
    y, x, radius = *np.mgrid[:side, :side], side * np.sqrt(0.05 / np.pi)
    codes = np.repeat(np.arange(patients), random.integers(1, 3, patients))
    maps, masks, follows = [], [], random.random(patients) < share
    for code in codes:
        nodule = random.uniform(radius, side - radius, 2)
        at = nodule if follows[code] else random.uniform(0, side, 2)
        down, right = ((grid - where + side / 2) % side - side / 2 for grid, where in zip((y, x), at, strict=True))
        maps.append(np.exp(-(down**2 + right**2) / 10))
        masks.append(np.hypot(y - nodule[0], x - nodule[1]) <= radius)
    return np.stack(maps), np.stack(masks), codes


@pytest.mark.parametrize(("patients", "share", "sets", "least", "most"), [(8, 0.0, 100, 0.0, 0.1), (20, 0.3, 40, 0.7, 1.0)])
def test_maps_at_random_are_seldom_and_following_ones_often_told_from_chance(patients, share, sets, least, most):
    """A rate of 0.05 in 100 sets has a standard error of 0.022. Flipped signs called 0.26 of random maps of 10 patients."""
    random, called = np.random.default_rng(0), []
    for _ in range(sets):
        tests = placement_tests(*followed(random, patients, share), deals=399)
        called.append(tests.map(lambda found: found.p_value < 0.05))
    rates = sum(called) / len(called)
    assert (rates.drop(index="peak_distance") >= least).all(axis=None) and (rates <= most).all(axis=None), rates


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


@pytest.mark.parametrize("radius", [4.0, 7.0, 20.0, 50.0])
def test_a_disc(radius):
    found = region_shape(ellipse(radius, radius))
    assert found["area"] == pytest.approx(np.pi * radius**2 / 128**2, rel=0.05)  # pixels of a small disc are that far from π r²
    assert found["perimeter"] == pytest.approx(2 * np.pi * radius / 128, rel=0.07)
    assert found["circularity"] == pytest.approx(1, abs=0.12)
    assert found["eccentricity"] == pytest.approx(0, abs=1e-6) and found["aspect_ratio"] == 1
    assert found["solidity"] > 0.9 and not found["at_edge"]


def test_a_square_and_upright_and_lying_rectangles():
    square, tall, wide = (region_shape(rectangle(*sides)) for sides in ((20, 20), (40, 10), (10, 40)))
    assert square["area"] == 0.04 and square["eccentricity"] == 0 and square["solidity"] == 1 and square["aspect_ratio"] == 1
    assert square["perimeter"] == pytest.approx(0.8, rel=0.09)  # 80 pixels of 100; Crofton's in four directions is short
    assert tall["aspect_ratio"] == 4 and wide["aspect_ratio"] == 0.25
    assert tall["eccentricity"] == wide["eccentricity"] == pytest.approx(np.sqrt(1 - 10**2 / 40**2), abs=1e-3)


def test_the_largest_part_is_measured_and_a_small_one_has_no_shape():
    region = rectangle(20, 20)
    region[80:90, 80:90] = region[5, 5] = True
    found = region_shape(region)
    assert (found["area"], found["at_edge"]) == (0.04, False)
    assert region_shape(rectangle(20, 20, top=0))["at_edge"]
    diagonal = np.zeros((30, 30), bool)
    diagonal[:10, :10] = diagonal[10:20, 10:20] = True
    assert region_shape(diagonal)["area"] == 200 / 900, "corners connect"
    found = region_shape(rectangle(1, MIN_PIXELS - 1, left=0), np.ones((100, 100)))
    assert np.isnan([found[name] for name in FEATURES]).all() and not found["at_edge"]


def test_entropy_by_hand():
    region, gray = rectangle(20, 20), np.zeros((100, 100), np.uint8)
    gray[0, 0] = 255
    assert region_shape(region, gray)["entropy"] == 0
    gray[20:40, 30:40] = 255  # half of the region
    assert region_shape(region, gray)["entropy"] == pytest.approx(1)
    gray[20:30, 30:40], gray[30:40, 40:50] = 80, 160  # quarters
    assert region_shape(region, gray)["entropy"] == pytest.approx(2)
    assert region_shape(region, gray.astype(float) / 100 - 1)["entropy"] == pytest.approx(2), "gain and offset do not count"


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


def test_a_sweep_compares_the_classes_at_every_threshold():
    """Maps with a foot, flat in malignant images and round in benign ones, and a peak alike in both."""
    random, labels = np.random.default_rng(0), np.arange(40) % 2
    tops = [random.uniform(6, 9, 2) for _ in labels]
    maps = np.stack(
        [
            np.where(ellipse(*top, side=64, centre=31.5), 1, 0.45 * ellipse(28, 12 if label else 28, side=64, centre=31.5))
            for label, top in zip(labels, tops, strict=True)
        ]
    )
    patients = np.arange(40) // 4 * 2 + labels
    sweep = threshold_sweep(maps, labels, patients, maps, [0.2, 0.6])
    assert sweep["p_sweep"].to_numpy() == pytest.approx(holm(sweep["p"]), nan_ok=True) and len(sweep) == 2 * len(FEATURES)
    alone = compare_shapes(shape_table(highlighted(0.25 * maps, 0.2), maps), labels, patients)
    pd.testing.assert_frame_equal(sweep[sweep["threshold"] == 0.2].set_index("feature")[alone.columns], alone)
    assert claim_answer(sweep).sweep_holds
    assert sweep.loc[sweep["threshold"] == 0.6, "p"].min() > alone["p"].min(), "the peaks do not differ as the feet do"
    blank = threshold_sweep(0 * maps, labels, patients, maps, [0.5])
    assert blank["p"].isna().all() and not claim_answer(blank).sweep_holds


def test_an_unadjusted_claim_is_told_from_an_adjusted_one():
    counts = {"left_out": 0, "at_edge": 0.0, "detectable": 1.4, "benign_patients": 9, "malignant_patients": 8}
    p_values = {0.3: [0.03, 0.6, 0.9], 0.5: [0.5, 0.012, 0.9], 0.7: [0.5, 0.6, 0.9]}
    tables = [pd.DataFrame({"threshold": at, "p": values, "p_holm": holm(values), **counts}) for at, values in p_values.items()]
    table = pd.concat(tables, ignore_index=True)
    answer = claim_answer(table.assign(p_sweep=holm(table["p"])))
    assert not answer.sweep_holds
    assert (
        "at 2 (0.3 and 0.5) without adjustment; at 1 (0.5) after" in answer.text and "at none after Holm over all" in answer.text
    )


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
