"""Figures of explanations: what is drawn are the numbers of the tables, and what is blank or absent is said."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawn import dots, legend, points, saved, ticks, titles

from thyroid_utils.plots import grad_cam as plots
from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.studies.grad_cam import attention_scores, attention_table
from thyroid_utils.studies.grad_cam.shape import FEATURES, compare_shapes, highlighted, shape_table, threshold_sweep
from thyroid_utils.studies.grad_cam.shortcut import MarkPairs, text_attention

CASES = [f"drawn/{number}" for number in range(8)]
PATIENTS = [f"patient-{number // 2}" for number in range(8)]
LABELS = pd.Series([0, 0, 1, 1, 0, 0, 1, 1], index=CASES)


@pytest.fixture(scope="module")
def masks():
    """Discs of radius 5 to 12 near the middle of 48 × 48 pixels."""
    y, x = np.ogrid[:48, :48]
    return np.stack([(y - 22) ** 2 + (x - 20 - number) ** 2 < (5 + number) ** 2 for number in range(8)])


@pytest.fixture(scope="module")
def maps(masks):
    """Cones that fall off from the nodule's middle; that of drawn/7 is blank."""
    y, x = np.ogrid[:48, :48]
    cones = [np.clip(1 - np.hypot(y - 22, x - 20 - number) / (10 + 2 * number), 0, 1) for number in range(8)]
    cones[7] = np.zeros((48, 48))
    return np.stack(cones).astype(np.float32)


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


def test_attention_dots_are_the_estimates(maps, masks):
    table = attention_table(attention_scores(maps, masks, CASES, PATIENTS), PATIENTS)
    one = attention_table(attention_scores(maps[:1], masks[:1], CASES[:1], PATIENTS[:1]), PATIENTS[:1])
    none = attention_table(attention_scores(maps[7:], masks[7:], CASES[7:], PATIENTS[7:]), PATIENTS[7:])
    figure = plots.attention_dots({"ResNet18": table, "right": one, "wrong": none})
    assert len(figure.axes) == 4
    for axes, measure in zip(figure.axes, plots.MEASURES, strict=True):
        expected = [table.at[measure, name].value for name in ("map", "other patients", "centre prior", "chance")]
        assert dots(axes)[:4] == pytest.approx(expected)
    names = ticks(figure.axes[0])
    assert names == ["ResNet18\nn = 7 images\n4 patients\n1 blank left out", "right\nn = 1 image\n1 patient"]
    assert saved(figure) == saved(plots.attention_dots({"ResNet18": table, "right": one, "wrong": none}))
    assert plots.attention_dots({"wrong": none}) is None and plots.attention_dots({}) is None


def test_sanity_curve_falls_as_the_table_does():
    rows = {
        stage: {
            name: patient_bootstrap([value] * 8, PATIENTS) for name, value in (("spearman", 1 / (1 + at)), ("ssim", 1 - 0.1 * at))
        }
        | {"blank": int(at == 3), "maps": 8}
        for at, stage in enumerate(["as trained", "fc", "layer4", "conv1"])
    }
    figure = plots.sanity_curve(pd.DataFrame.from_dict(rows, orient="index"), "Grad-CAM")
    ranks, structure = figure.axes
    assert list(ranks.lines[0].get_ydata()) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert list(structure.lines[0].get_ydata()) == pytest.approx([1, 0.9, 0.8, 0.7])
    assert ticks(ranks, "x") == ["as trained", "fc", "layer4", "conv1"]
    assert ranks.get_title(loc="left") == "n = 8 images, 4 patients"
    assert legend(figure)[0] == "Grad-CAM (1 of 32 maps blank)"


def test_shape_plots_show_every_region(maps):
    table = shape_table(highlighted(maps, 0.4), None, CASES)
    compared = compare_shapes(table, LABELS, PATIENTS)
    figure = plots.shape_plots(table, LABELS, compared)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == len(FEATURES) - 1, "the entropy was not measured"
    assert points(shown[0]) == pytest.approx(sorted(table["area"].dropna()))
    assert ticks(shown[0], "x") == ["benign\n4 regions", "malignant\n3 regions"]
    effect = compared.at["area", "effect"]
    assert shown[0].get_title(loc="left").startswith(f"area, share of image\neffect {effect:+.2f}, p")
    figure = plots.shape_plots(table, LABELS * 0, compare_shapes(table, LABELS * 0, PATIENTS))
    assert figure.axes[0].get_xticklabels()[1].get_text() == "malignant\n0 regions"
    assert figure.axes[0].get_title(loc="left").endswith("no test")


def test_shape_sweep_draws_effect_and_p_by_threshold(maps):
    sweep = threshold_sweep(maps, LABELS, PATIENTS, maps, (0.2, 0.5))
    effects, chance = plots.shape_sweep(sweep).axes
    area = sweep[sweep["feature"] == "area"]
    assert list(effects.lines[0].get_xdata()) == pytest.approx([20, 50])
    assert list(effects.lines[0].get_ydata()) == pytest.approx(list(area["effect"]))
    assert list(chance.lines[0].get_ydata()) == pytest.approx(list(area["p_holm"]))


def test_deletion_and_insertion_curves():
    """Two images whose probability falls, or rises, in a straight line in the map's order and stays 0.5 in the others."""
    rows = [
        {"image": image, "direction": direction, "order": order, "share": share, "probability": line if order == "map" else 0.5}
        for image in (0, 1)
        for direction in ("deletion", "insertion")
        for order in ("map", "random", "centre")
        for share in (0.0, 0.5, 1.0)
        for line in [1 - share if direction == "deletion" else share]
    ]
    deletion, insertion = plots.deletion_insertion_curves(pd.DataFrame(rows)).axes
    assert list(deletion.lines[0].get_ydata()) == [1, 0.5, 0] and list(insertion.lines[0].get_ydata()) == [0, 0.5, 1]
    assert deletion.get_legend().get_texts()[0].get_text() == "the map's order: 0.50"
    assert "n = 2 images" in deletion.get_ylabel()


@pytest.fixture(scope="module")
def shortcut(maps):
    """Marks in a corner of all but the first image; drawn/1 has callipers."""
    marks = np.zeros((8, 48, 48), bool)
    marks[1:, :20, :20] = True
    scores = text_attention(marks, maps, maps, CASES)
    probability = np.linspace(0.1, 0.8, 8)
    return marks, scores.assign(
        marks=marks.mean(axis=(1, 2)), callipers=[0, 2, 0, 0, 0, 0, 0, 0], probability_kept=probability,
        probability_removed=np.where(marks.any(axis=(1, 2)), probability - 0.05, np.nan), probability_placebo=np.nan,
    )  # fmt: skip


def test_shortcut_pairs_draw_each_image_once(shortcut):
    _, scores = shortcut
    energy, moved, placebo = plots.shortcut_pairs(scores).axes
    assert points(moved) == pytest.approx(sorted(scores["probability_removed"].dropna()))
    counted = [axes.get_xlabel() for axes in (energy, moved, placebo)]
    assert counted == [f"as it is (n = {n} images)" for n in (6, 7, 0)], "one has no marks and one a blank map"
    assert plots.shortcut_pairs(scores.iloc[:1]) is None


def test_shortcut_panels_are_pairs(shortcut, maps, monkeypatch):
    marks, scores = shortcut
    inputs = np.zeros((2, 3, 48, 48), np.float32)

    def pairs_of(pipeline, cases):
        assert pipeline == "its pipeline" and list(cases.index) == ["drawn/5", "drawn/3"], "those with the largest marks"
        return MarkPairs(inputs, inputs + 1, inputs, marks[1:3], scores.loc[cases.index, ["marks"]])

    monkeypatch.setattr(plots, "mark_pairs", pairs_of)
    predictor = SimpleNamespace(pipeline="its pipeline", cases=pd.DataFrame(index=CASES), network=None)
    study = SimpleNamespace(predictor=predictor, maps_of=lambda network, images: SimpleNamespace(maps=maps[1:3]))
    scores = scores.assign(marks=[0, 0.1, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1])
    figure = plots.shortcut_panels(study, scores)
    assert titles(figure)[::2] == [f"drawn/{n}\n{way}" for n in (5, 3) for way in ("as it is", "marks painted over")]
    assert (figure.axes[2].images[0].get_array() == 1).all(), "painted"
    expected = [scores.at[case, f"probability_{way}"] for case in ("drawn/5", "drawn/3") for way in ("kept", "removed")]
    assert [float(axes.get_xlabel().split()[1]) for axes in figure.axes[:8:2]] == pytest.approx(expected, abs=0.006)
    assert plt.get_fignums() == [] and plots.shortcut_panels(study, scores.assign(marks=0.0)) is None
