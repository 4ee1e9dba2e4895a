"""The shortcut test on drawn frames whose marks are known, with networks that do and do not look at them."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from training_project import one_cache, own_runs, tiny_config  # noqa: F401

from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.data.overlays import Box, find_echo_area
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.preprocess.steps import RemoveOverlays
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.studies.grad_cam.shortcut import (
    COMPARED,
    MOST_LEFT,
    any_part,
    mark_pairs,
    shortcut_answer,
    shortcut_scores,
    shortcut_table,
    text_attention,
)

SHOWN = ["gray", {"resize": {"size": 96}}, "scale"]
CROPPED = ["gray", "crop_echo", {"resize": {"size": 96}}, {"zscore": {"by": "image"}}]


def frame(seed: int, callipers: bool, text: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Speckle in a black border, with scanner text in the border and callipers in the left of the echo image; what was drawn."""
    random = np.random.default_rng(seed)
    field = cv2.GaussianBlur(random.normal(size=(240, 320, 2)), (0, 0), 1.2)
    gray = np.clip(90 + 35 * np.log10(np.maximum(np.hypot(field[..., 0], field[..., 1]) / field.std(), 1e-2)), 1, 160)
    border = np.ones(gray.shape, bool)
    border[30:220, 40:290] = False
    gray[border] = 0
    gray = gray.astype(np.uint8)
    before = gray.copy()
    if text:
        cv2.putText(gray, "12L6 9.0", (120, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)
    for row, column in ((80, 90), (150, 130)) if callipers else ():
        gray[row - 6 : row + 7, column] = gray[row, column - 6 : column + 7] = 255
    return gray, gray != before


@pytest.fixture
def frames(tmp_path):
    """Write frames and give their case table: `frames(marks)` with ("both" | "text" | "none") for each of them."""

    def write(kinds: list[str], images_of_a_patient: int = 1) -> pd.DataFrame:
        rows = []
        for number, kind in enumerate(kinds):
            gray, _ = frame(number, kind == "both", kind != "none")
            path = tmp_path / f"{number}.png"
            write_png(path, gray)
            rows.append({"case": f"drawn/{number}", "image": str(path), "patient": f"p{number // images_of_a_patient}",
                         "label": number % 2, "dataset": "drawn"})  # fmt: skip
        return make_cases(rows)

    return write


def test_any_part_by_hand():
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = mask[3, 4] = True
    whole = Geometry.of(mask)
    assert (any_part(mask, whole) == mask).all()
    assert any_part(mask, whole.resized((2, 3))).tolist() == [[True, False, False], [False, False, True]]
    # Columns of 6 / 4 = 1.5 pixels: the frame's column 4 lies in [3, 4.5) and in [4.5, 6).
    assert any_part(mask, whole.resized((4, 4)))[3].tolist() == [False, False, True, True]
    assert any_part(mask, whole.resized((8, 12))).sum() == 8  # each pixel became four
    cropped = whole.cropped(Box(2, 4, 3, 6))
    assert any_part(mask, cropped).tolist() == [[False] * 3, [False, True, False]]


def test_marks_are_where_they_were_drawn_and_gone_where_painted(frames):
    cases = frames(["both", "text", "none"])
    pairs, pipeline = mark_pairs(build_pipeline(SHOWN), cases), build_pipeline(SHOWN)
    assert pairs.kept.shape == pairs.removed.shape == pairs.placebo.shape == (3, 1, 96, 96)
    for row, kind in enumerate(["both", "text", "none"]):
        gray, drawn = frame(row, kind == "both", kind != "none")
        assert (pairs.kept[row] == pipeline(gray).image).all(), "the network's own input"
        truth = any_part(drawn, Geometry.of(gray).resized((96, 96)))
        near = cv2.dilate(truth.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        assert pairs.marks[row][truth].all() and not pairs.marks[row][~near].any()
        changed = np.abs(pairs.kept[row, 0] - pairs.removed[row, 0]) > 1e-6
        assert (changed <= pairs.marks[row]).all(), "nothing else was changed"
        assert pairs.table["marks"].iloc[row] == pairs.marks[row].mean()
    assert pairs.table["callipers"].tolist() == [2, 0, 0] and (pairs.table["text_regions"] > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("pipeline", [SHOWN, CROPPED])
def test_the_placebo_paints_as_much_of_the_echo_image_and_leaves_the_marks(frames, pipeline):
    pairs = mark_pairs(build_pipeline(pipeline), frames(["both", "text", "none"]))
    like = pairs.table["placebo"] / pairs.table["marks"]
    assert like.iloc[0] == pytest.approx(1, abs=0.2) and pairs.table["placebo"].iloc[2] == 0
    assert np.isnan(like.iloc[1]) if pipeline is CROPPED else like.iloc[1] > 0.6, "thin text covers more pixels in part"
    changed = np.abs(pairs.kept[0, 0] - pairs.placebo[0, 0]) > 1e-6
    assert changed.any() and (pipeline is CROPPED or not (changed & pairs.marks[0]).any()), "a z-score moves every pixel"


def test_what_is_still_read_is_measured(frames):
    """Letters of a 128-pixel phantom are too small to be found at its size; drawn ones of usual size are gone."""
    assert mark_pairs(build_pipeline(SHOWN), frames(["both", "text"])).table["left"].max() < MOST_LEFT
    small = phantom_cases(patients=6, size=128, workers=1)
    assert mark_pairs(build_pipeline(SHOWN), small).table["left"].mean() > MOST_LEFT


def test_all_three_are_cropped_alike_though_painting_moves_the_echo_area():
    cases = phantom_cases(patients=6, size=192, workers=1)
    grays = [read_gray(path) for path in cases["image"]]
    moves = [find_echo_area(gray) != find_echo_area(RemoveOverlays().change(gray)) for gray in grays]
    assert any(moves), "some of the test's own frames must move the crop"
    pipeline = build_pipeline(["gray", "crop_echo", {"resize": {"size": 96}}, "scale"])
    pairs = mark_pairs(pipeline, cases[moves])
    for row, gray in enumerate(gray for gray, moved in zip(grays, moves, strict=True) if moved):
        assert (pairs.kept[row] == pipeline(gray).image).all()
    differs = np.abs(pairs.kept - pairs.removed)[:, 0] > 1e-6
    assert differs.any() and (differs <= pairs.marks).all() and pairs.table["marks"].max() < 0.15, "only marks differ"


def test_what_preprocessing_takes_away_is_no_mark_and_its_fit_is_kept(frames):
    cases = frames(["both", "text"]).assign(split="train")
    cropped = mark_pairs(build_pipeline(CROPPED), cases)
    assert cropped.marks[0].any() and not cropped.marks[1].any(), "the border's text is not in the crop"
    assert (cropped.kept[1] == cropped.removed[1]).all()
    steps = ["gray", {"resize": {"size": 64}}, {"zscore": {"by": "train"}}, "three_channels"]
    pipeline = build_pipeline(steps).fit(cases)
    fitted = mark_pairs(pipeline, cases)
    assert (fitted.kept[0] == pipeline(read_gray(cases["image"].iloc[0])).image).all()


def test_energy_by_hand():
    marks, maps = np.zeros((4, 2, 2), bool), np.ones((4, 2, 2))
    marks[:3, 0, 0] = True
    maps[1], maps[2] = [[3, 0], [1, 0]], 0
    removed = np.ones((4, 2, 2))
    removed[1, 0, 0] = 0
    found = text_attention(marks, maps, removed, [*"abcd"])
    assert found.loc["a"].tolist() == [0.25, 0.25, 0.25]
    assert found.loc["b"].tolist() == [0.75, 0, 0.25]
    assert np.isnan(found.at["c", "energy_kept"]) and found.at["c", "energy_removed"] == 0.25  # a blank map is not divided by
    assert found.loc["d"].isna().all() and found.index.name == "case"


def stub(cases, odds, energy) -> SimpleNamespace:
    """A study whose network and maps are functions of the input, (n, 1, height, width)."""

    def maps_of(network, inputs):
        return SimpleNamespace(maps=energy(inputs))

    told = {"probabilities": lambda inputs: expit(odds(inputs)), "cases": cases, "by_fold": lambda names: [(predictor, names)]}
    predictor = SimpleNamespace(pipeline=build_pipeline(SHOWN), network=None, **told)
    study = SimpleNamespace(predictor=predictor, images=cases, maps_of=maps_of, parts=lambda: [study])
    return study


def test_a_network_that_lives_on_the_marks_is_caught(frames):
    """Two images a patient; one without marks, one with text alone, and the first map of all is blank."""
    cases = frames(["both"] * 16 + ["none", "text"], images_of_a_patient=2)

    def bright(inputs):
        return 3 * np.tanh((inputs[:, 0] > 0.5).sum(axis=(1, 2)) / 20) - 1.5

    def energy(inputs):
        return inputs[:, 0] ** 4 * (np.arange(len(inputs)) > 0)[:, None, None]

    scores = shortcut_scores(stub(cases, bright, energy))
    assert list(scores.index) == list(cases.index)
    assert scores["probability_removed"].isna().tolist() == [False] * 16 + [True, False]
    assert scores["probability_placebo"].isna().tolist() == [False] * 16 + [True, False]
    table = shortcut_table(scores, cases["patient"], 0.5)
    assert table["images"].tolist() == [16, 16, 17, 17, 17, 17] and table["left_out"].tolist() == [2, 2, 1, 1, 1, 1]
    energy, _, shift, moved, changed, area = table["comparison"]
    assert energy.first > 3 * energy.second and energy.low > 0 and energy.p_value < 0.05 and energy.patients == 9
    assert shift.difference > 0.3 and shift.low > 0.3
    assert moved.first > 0.3 and moved.second < 0.05 and moved.p_value < 0.05
    assert (changed.first, changed.second) == (16 / 17, 0), "every call turns without its callipers, none by the placebo"
    told = shortcut_answer(table, scores)
    assert "94.1 % of calls change, 0.0 % by the placebo. The network sees them." in told
    left = scores.assign(left=0.3)
    assert told != shortcut_answer(table, left) and "30 % of them can still be found" in shortcut_answer(table, left)
    painted = scores[scores["probability_placebo"].notna()]
    assert (area.first, area.second) == pytest.approx((painted["marks"].mean(), painted["placebo"].mean()))
    none = shortcut_table(scores[16:17], cases["patient"][16:17], 0.5)
    assert (none["images"] == 0).all() and shortcut_answer(none, scores[16:17])


def test_a_map_on_the_place_of_the_marks_is_not_taken_for_one_on_the_marks(frames):
    """Callipers stand where the nodule is: energy far above the area's share, and just as much without the marks."""
    cases = frames(["both"] * 12)

    def on_the_nodule(inputs: np.ndarray) -> np.ndarray:
        maps = np.full(inputs[:, 0].shape, 0.01)
        maps[:, 28:66, 22:44] = np.linspace(0.5, 1, len(maps))[:, None, None]  # patients differ a little
        return maps

    study = stub(cases, lambda inputs: np.zeros(len(inputs)), on_the_nodule)
    table = shortcut_table(shortcut_scores(study), cases["patient"], 0.5)
    energy, against = table["comparison"].iloc[:2]
    assert against.difference > 0.02 and against.p_value < 0.05
    assert energy.difference == 0 and energy.p_value == 1


@pytest.mark.parametrize(
    ("moved", "p", "area", "told"),
    [
        (0.1, 0.001, 0.027, "cannot say whether the network sees them: the placebo covers 2.7 % of the area, they 8.6 %"),
        (0.1, 0.001, 0.07, "The network sees them."),
        (0.002, 0.001, 0.08, "too little to matter"),
        (0.1, 0.2, 0.08, "not shown to see them"),
        (-0.1, 0.001, 0.08, "not shown to see them"),
        (0.1, np.nan, 0.08, "cannot say whether the network sees them: 1 patient"),
    ],
)
def test_a_verdict_needs_a_placebo_of_like_area_and_an_effect_that_matters(moved, p, area, told):
    found = Comparison(0.05 + moved, 0.05, moved, np.nan, np.nan, p, 20, 9, note="1 patient" if np.isnan(p) else "")
    rows = dict.fromkeys(COMPARED, found) | {"area painted, marks − placebo": replace(found, first=0.086, second=area)}
    table = pd.DataFrame({"comparison": pd.Series(rows)})
    assert told in shortcut_answer(table, pd.DataFrame({"marks": [0.1, 0], "left": [0.05, np.nan]}))
