"""Figures of explanations: what is drawn are the numbers of the tables, and what is blank or absent is said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import dots, legend, points, saved, ticks, titles

from thyroid_utils.plots import grad_cam as plots
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.grad_cam.shortcut import MarkPairs

CASES = [f"drawn/{number}" for number in range(8)]
LABELS = pd.Series([0, 0, 1, 1, 0, 0, 1, 1], index=CASES)


def estimate(value: float, images: int = 7, patients: int = 4) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, images, patients)


@pytest.fixture(scope="module")
def masks():
    """Discs of radius 5 to 12 near the middle of 48 × 48 pixels."""
    y, x = np.ogrid[:48, :48]
    return np.stack([(y - 22) ** 2 + (x - 20 - number) ** 2 < (5 + number) ** 2 for number in range(8)])


@pytest.fixture(scope="module")
def maps(masks):
    """The discs, fading to the right; that of drawn/7 is blank."""
    return masks * np.linspace(1, 0, 48) * (np.arange(8) < 7)[:, None, None]


def test_cam_panels_show_image_map_overlay_and_probability_of_the_surest(maps, masks):
    """Each class is called rightly and wrongly; of the malignant that are right, drawn/7 is surer but blank."""
    columns = {"label": LABELS, "called": [0, 1, 1, 1, 0, 0, 0, 1], "probability": [0.1, 0.6, 0.7, 0.8, 0.2, 0.3, 0.3, 0.9]}
    images = pd.DataFrame(columns | {"threshold": 0.5}, CASES)
    images["right"] = images["called"] == images["label"]
    drawn = SimpleNamespace(maps=maps, blank=np.arange(8) == 7)
    scores = pd.DataFrame({"energy_inside": [0.62] * 7 + [np.nan]}, CASES)
    study = SimpleNamespace(images=images, scores=scores, maps=drawn, masks=masks, grays=np.full((8, 48, 48), 100, np.uint8))
    figure = plots.cam_panels(study)
    assert titles(figure)[::3] == [
        "drawn/0\nbenign, called benign", "drawn/1\nbenign, called malignant",
        "drawn/3\nmalignant, called malignant", "drawn/6\nmalignant, called benign",
    ]  # fmt: skip
    picture, alone, overlay = figure.axes[:3]
    np.testing.assert_array_equal(alone.images[1].get_array(), maps[0])
    assert alone.images[1].get_clim() == overlay.images[1].get_clim() == (0, 1), "one scale, whatever the map's maximum"
    assert (alone.images[1].get_alpha(), overlay.images[1].get_alpha()) == (1, 0.5)
    assert all(len(axes.collections) == 1 for axes in (picture, alone, overlay)), "the outline"
    assert picture.get_xlabel() == "p(malignant) 0.10, threshold 0.50\n62 % of the map inside"
    saved(figure)


def test_attention_dots_are_the_estimates():
    sources = ("map", "other patients", "centre prior", "chance")
    table = pd.DataFrame({name: [estimate(0.1 * n)] * 4 for n, name in enumerate(sources)}, plots.MEASURES).assign(blank=1)
    one = table.map(lambda value: estimate(0.5, 1, 1)).assign(blank=0)
    none = table.map(lambda value: Estimate(np.nan, np.nan, np.nan, 0, 0)).assign(blank=1)
    figure = plots.attention_dots({"ResNet18": table, "right": one, "wrong": none})
    assert [dots(axes)[:4] for axes in figure.axes] == [[0, 0.1, 0.2, pytest.approx(0.3)]] * 4
    assert ticks(figure.axes[0]) == ["ResNet18\nn = 7 images\n4 patients\n1 blank left out", "right\nn = 1 image\n1 patient"]
    assert plots.attention_dots({"wrong": none}) is None and plots.attention_dots({}) is None


def test_sanity_curve_falls_as_the_table_does():
    ranks, structure = ([estimate(value) for value in values] for values in ([1, 0.5, 0.25], [1, 0.9, 0.8]))
    table = pd.DataFrame({"spearman": ranks, "ssim": structure, "blank": [0, 0, 1], "maps": 8}, ["as trained", "fc", "conv1"])
    figure = plots.sanity_curve(table, "Grad-CAM")
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[1, 0.5, 0.25], [1, 0.9, 0.8]]
    assert ticks(figure.axes[0], "x") == ["as trained", "fc", "conv1"]
    assert titles(figure) == ["n = 7 images, 4 patients"] and legend(figure)[0] == "Grad-CAM (1 of 24 maps blank)"


def test_shape_plots_show_every_region():
    table = pd.DataFrame({"area": [*np.linspace(0.1, 0.7, 7), np.nan], "solidity": 0.5, "entropy": np.nan}, CASES)
    compared = pd.DataFrame({"effect": [0.25, np.nan], "p_holm": [0.03, np.nan]}, ["area", "solidity"])
    figure = plots.shape_plots(table, LABELS, compared)
    area, solidity = figure.axes
    assert points(area) == pytest.approx(table["area"].dropna())
    assert ticks(area, "x") == ["benign\n4 regions", "malignant\n3 regions"]
    assert area.get_title(loc="left") == "area, share of image\neffect +0.25, p = 0.03 (Holm)"
    assert solidity.get_title(loc="left").endswith("no test")
    assert plots.shape_plots(table[["entropy"]], LABELS, compared) is None


def test_shape_sweep_draws_effect_and_p_by_threshold():
    tested = {"feature": "area", "threshold": [0.2, 0.5, 0.9], "effect": [0.1, -0.4, 0.0], "p_holm": [0.9, 0.02, np.nan]}
    sweep = pd.DataFrame(tested | {"benign_patients": 3, "malignant_patients": 4})
    effects, chance = plots.shape_sweep(sweep).axes
    assert effects.lines[0].get_xydata().tolist() == [[20, 0.1], [50, -0.4]]
    assert list(chance.lines[0].get_ydata()) == [0.9, 0.02] and effects.get_title(loc="left") == "n = 7 patients"
    assert plots.shape_sweep(sweep.assign(p_holm=np.nan)) is None


def test_deletion_and_insertion_curves():
    """Two images whose probability falls, or rises, in a straight line in the map's order and stays 0.5 in the others."""
    rows = [
        (image, direction, order, share, line if order == "map" else 0.5)
        for image in (0, 1)
        for order in ("map", "random", "centre")
        for share in (0.0, 0.5, 1.0)
        for direction, line in (("deletion", 1 - share), ("insertion", share))
    ]
    curves = pd.DataFrame(rows, columns=["image", "direction", "order", "share", "probability"])
    deletion, insertion = plots.deletion_insertion_curves(curves).axes
    assert list(deletion.lines[0].get_ydata()) == [1, 0.5, 0] and list(insertion.lines[0].get_ydata()) == [0, 0.5, 1]
    assert deletion.get_legend().get_texts()[0].get_text() == "the map's order: 0.50"
    assert "n = 2 images" in deletion.get_ylabel() and plots.deletion_insertion_curves(curves.iloc[:0]) is None


@pytest.fixture(scope="module")
def scores():
    """The first image has no marks and the last a blank map; drawn/1 has callipers."""
    kept = np.linspace(0.1, 0.8, 8)
    table = {"marks": [0, 0.1, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1], "callipers": [0, 2, 0, 0, 0, 0, 0, 0], "chance": 0.1}
    energy = np.where(np.arange(8) < 7, 0.2, np.nan)
    table |= {"energy_kept": energy, "energy_removed": energy, "probability_kept": kept, "probability_removed": kept - 0.05}
    return pd.DataFrame({**table, "probability_placebo": np.nan}, CASES)


def test_shortcut_pairs_draw_each_image_once(scores):
    energy, moved, placebo = plots.shortcut_pairs(scores).axes
    assert points(moved) == pytest.approx(list(scores["probability_removed"].iloc[1:]))
    assert [axes.get_xlabel() for axes in (energy, moved, placebo)] == [f"as it is (n = {n} images)" for n in (6, 7, 0)]
    assert plots.shortcut_pairs(scores.iloc[:1]) is None


def test_shortcut_panels_are_pairs(scores, maps, masks, monkeypatch):
    inputs = np.zeros((2, 3, 48, 48), np.float32)

    def pairs_of(pipeline, cases):
        assert pipeline == "its pipeline" and list(cases.index) == ["drawn/5", "drawn/3"], "those with the largest marks"
        return MarkPairs(inputs, inputs + 1, inputs, masks[1:3], scores.loc[cases.index, ["marks"]])

    monkeypatch.setattr(plots, "mark_pairs", pairs_of)
    predictor = SimpleNamespace(pipeline="its pipeline", cases=pd.DataFrame(index=CASES), network=None)
    study = SimpleNamespace(predictor=predictor, maps_of=lambda network, images: SimpleNamespace(maps=maps[1:3]))
    figure = plots.shortcut_panels(study, scores)
    assert titles(figure)[::2] == [f"drawn/{n}\n{way}" for n in (5, 3) for way in ("as it is", "marks painted over")]
    assert (figure.axes[2].images[0].get_array() == 1).all(), "painted"
    expected = [scores.at[case, f"probability_{way}"] for case in ("drawn/5", "drawn/3") for way in ("kept", "removed")]
    assert [float(axes.get_xlabel().split()[1]) for axes in figure.axes[:8:2]] == pytest.approx(expected, abs=0.006)
    assert plots.shortcut_panels(study, scores.assign(marks=0.0)) is None
