"""Figures of explanations: what is drawn are the numbers of the tables, and what is blank or absent is said."""

from __future__ import annotations

import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from thyroid_utils.plots import error_analysis as errors
from thyroid_utils.plots import grad_cam as explain
from thyroid_utils.plots.pictures import MAP_COLOURS, Explained
from thyroid_utils.plots.style import TRUTH
from thyroid_utils.studies.grad_cam.attention import attention_scores, attention_table
from thyroid_utils.studies.grad_cam.marks import MarkPairs
from thyroid_utils.studies.grad_cam.sanity import randomisation_table
from thyroid_utils.studies.grad_cam.shape import FEATURES, compare_shapes, highlighted, shape_table, threshold_sweep
from thyroid_utils.studies.grad_cam.shortcut import text_attention

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


def saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def texts(figure: Figure) -> list[str]:
    """Everything written in the axes of a figure."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [axes.get_title(loc="left") for axes in figure.axes]


def dots(axes) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]


def decision(label=0, probability=0.8, threshold=0.4) -> pd.Series:
    called = int(probability >= threshold)
    return pd.Series(
        {"label": label, "called": called, "right": called == label, "probability": probability, "threshold": threshold}
    )


def test_low_is_blue_and_high_is_red():
    low, high = MAP_COLOURS(0.0), MAP_COLOURS(1.0)
    assert low[2] > 2 * low[0] and low[2] > 2 * low[1]
    assert high[0] > 3 * high[1] and high[0] > 3 * high[2]


def test_cam_panels_show_image_map_overlay_and_probability(maps, masks):
    image = np.full((48, 48), 100, np.uint8)
    example = explain.example("drawn/0", decision(), image, maps[0], masks[0], ["62 % inside"])
    figure = explain.cam_panels([example])
    (picture, alone, overlay, _, bar) = figure.axes
    assert picture.get_title(loc="left") == "drawn/0\nbenign, called malignant (wrong)"
    np.testing.assert_array_equal(alone.images[0].get_array(), maps[0])
    assert alone.images[0].get_clim() == overlay.images[1].get_clim() == (0, 1), "one scale, whatever the map's maximum"
    np.testing.assert_array_equal(overlay.images[0].get_array(), image)
    assert overlay.images[1].get_alpha() < 1
    assert all(len(axes.collections) == 1 for axes in (picture, alone, overlay)), "the outline"
    assert "p(malignant) 0.80, threshold 0.40\n62 % inside" in texts(figure)
    assert [tick.get_text() for tick in bar.get_xticklabels()] == ["0 (low)", "0.5", "1 (high)"]


def test_the_probability_bar_has_the_length_of_the_probability(maps):
    figure = explain.cam_panels([Explained(np.zeros((48, 48)), maps[0], "drawn/0", 0.3, 0.5)])
    ends = [line.get_xdata()[1] for line in figure.axes[3].lines]
    assert ends == pytest.approx([1, 0.3, 0.504])


@pytest.mark.parametrize("blank", [np.zeros((48, 48)), np.full((48, 48), np.nan)])
def test_a_blank_map_is_said_and_not_coloured(blank, masks):
    figure = explain.cam_panels([Explained(np.zeros((48, 48), np.uint8), blank, "drawn/7", 0.3, outlines={TRUTH: masks[7]})])
    assert texts(figure).count("blank map") == 2
    assert all(image.get_cmap().name == "gray" for axes in figure.axes[:3] for image in axes.images)


def test_maps_may_be_coarser_than_their_image_and_images_of_any_form():
    examples = [Explained(np.zeros(shape), np.eye(7), "drawn/0") for shape in ((60, 40), (30, 90), (200, 40))]
    figure = explain.cam_panels(examples)
    assert figure.axes[2].images[1].get_extent() == [-0.5, 39.5, 59.5, -0.5]
    saved(figure)
    for axes in figure.axes:
        assert axes.get_position().x0 >= 0 and axes.get_position().x1 <= 1 and axes.get_position().y0 >= 0


def test_examples_without_a_map_or_none_at_all():
    assert explain.cam_panels([]) is None
    with pytest.raises(ValueError, match="no map"):
        explain.cam_panels([Explained(np.zeros((8, 8)), None, "drawn/0")])


def test_attention_dots_are_the_estimates(maps, masks):
    table = attention_table(attention_scores(maps, masks), PATIENTS, resamples=50)
    figure = explain.attention_dots({"ResNet18": table, "again": table})
    assert len(figure.axes) == 4
    for axes, measure in zip(figure.axes, explain.MEASURES, strict=True):
        expected = [table.at[measure, name].value for name in ("map", "centre prior", "chance")]
        assert [x for x, _ in dots(axes)] == pytest.approx(expected * 2)
    label = figure.axes[0].get_yticklabels()[0].get_text()
    assert label == "ResNet18\nn = 7 images\n4 patients\n1 blank left out"
    assert saved(figure) == saved(explain.attention_dots({"ResNet18": table, "again": table}))


def test_attention_dots_of_one_image_and_of_blank_maps_alone(maps, masks):
    one = attention_table(attention_scores(maps[:1], masks[:1]), PATIENTS[:1], resamples=20)
    none = attention_table(attention_scores(maps[7:], masks[7:]), PATIENTS[7:], resamples=20)
    figure = explain.attention_dots({"right": one, "wrong": none})
    assert len(figure.axes[0].get_yticklabels()) == 1, "without any value there is no row"
    assert "n = 1 image\n1 patient" in figure.axes[0].get_yticklabels()[0].get_text()
    assert explain.attention_dots({"wrong": none}) is None and explain.attention_dots({}) is None


def randomised(stages: list[str]) -> pd.DataFrame:
    rows = [
        {
            "position": at,
            "stage": stage,
            "seed": 0,
            "image": image,
            "spearman": 1 / (1 + at),
            "ssim": 1 - 0.1 * at,
            "blank": False,
        }
        for at, stage in enumerate(["as trained", *stages])
        for image in range(8)
    ]
    rows[-1] |= {"spearman": np.nan, "ssim": np.nan, "blank": True}
    return randomisation_table(pd.DataFrame(rows), PATIENTS, resamples=20)


def test_sanity_curve_falls_as_the_table_does():
    figure = explain.sanity_curve({"Grad-CAM": randomised(["fc", "layer4", "conv1"])})
    ranks, structure = figure.axes
    assert list(ranks.lines[0].get_ydata()) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert list(structure.lines[0].get_ydata()) == pytest.approx([1, 0.9, 0.8, 0.7])
    assert [tick.get_text() for tick in ranks.get_xticklabels()] == ["as trained", "fc", "layer4", "conv1"]
    assert ranks.get_title(loc="left") == "n = 8 images, 4 patients"
    assert figure.legends[0].get_texts()[0].get_text() == "Grad-CAM (1 of 32 maps blank)"


def test_networks_of_different_stages_are_counted_not_named():
    figure = explain.sanity_curve({"ResNet18": randomised(["fc", "conv1"]), "VGG16": randomised(["c", "b", "a"])})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "3"]
    assert explain.sanity_curve({}) is None


def test_shape_plots_show_every_region(maps):
    table = shape_table(highlighted(maps, 0.4), None, CASES)
    compared = compare_shapes(table, LABELS, PATIENTS, features=[name for name in FEATURES if name != "entropy"], resamples=20)
    figure = explain.shape_plots(table, LABELS, compared)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == len(FEATURES) - 1, "the entropy was not measured"
    area = shown[0]
    points = np.concatenate([line.get_ydata() for line in area.lines if line.get_marker() == "."])
    assert sorted(points) == pytest.approx(sorted(table["area"].dropna()))
    assert [tick.get_text() for tick in area.get_xticklabels()] == ["benign\n4 regions", "malignant\n3 regions"]
    effect = compared.at["area", "effect"]
    assert area.get_title(loc="left").startswith(f"area, share of image\neffect {effect:+.2f}, p")


def test_shape_plots_of_one_class_and_of_nothing(maps):
    table = shape_table(highlighted(maps, 0.4), None, CASES)
    figure = explain.shape_plots(table, LABELS * 0)
    assert figure.axes[0].get_xticklabels()[1].get_text() == "malignant\n0 regions"
    nothing = shape_table(np.zeros((8, 48, 48), bool), None, CASES)
    assert explain.shape_plots(nothing, LABELS) is None


def test_shape_sweep_draws_effect_and_p_by_threshold(maps):
    sweep = threshold_sweep(maps, LABELS, PATIENTS, (0.2, 0.5), resamples=20)
    effects, chance = explain.shape_sweep(sweep).axes
    area = sweep[sweep["feature"] == "area"]
    assert list(effects.lines[0].get_xdata()) == pytest.approx([20, 50])
    assert list(effects.lines[0].get_ydata()) == pytest.approx(list(area["effect"]))
    assert list(chance.lines[0].get_ydata()) == pytest.approx(list(area["p_holm"]))
    one_class = threshold_sweep(maps, LABELS * 0, PATIENTS, (0.2,), resamples=20)
    assert explain.shape_sweep(one_class) is None


def curves() -> pd.DataFrame:
    """Two images whose probability falls, or rises, in a straight line in the map's order and stays 0.5 in the others."""
    rows = [
        {"image": image, "direction": direction, "order": order, "share": share, "probability": line if order == "map" else 0.5}
        for image in (0, 1)
        for direction in ("deletion", "insertion")
        for order in ("map", "random", "centre")
        for share in (0.0, 0.5, 1.0)
        for line in [1 - share if direction == "deletion" else share]
    ]
    return pd.DataFrame(rows)


def test_deletion_and_insertion_curves():
    figure = explain.deletion_insertion_curves(curves())
    deletion, insertion = figure.axes
    assert list(deletion.lines[0].get_ydata()) == [1, 0.5, 0] and list(insertion.lines[0].get_ydata()) == [0, 0.5, 1]
    assert deletion.get_legend().get_texts()[0].get_text() == "the map's order: 0.50"
    assert "n = 2 images" in deletion.get_ylabel()
    assert explain.deletion_insertion_curves(curves().iloc[:0]) is None


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
    energy, moved, placebo = explain.shortcut_pairs(scores).axes
    points = np.concatenate([line.get_ydata() for line in moved.lines if line.get_marker() == "."])
    assert sorted(points) == pytest.approx(sorted(scores["probability_removed"].dropna()))
    assert energy.get_xlabel() == "marks kept (n = 6 images)", "one has no marks and one a blank map"
    assert moved.get_xlabel() == "marks kept (n = 7 images)"
    assert [text.get_text() for text in placebo.texts] == ["nothing to paint"]


def test_shortcut_pairs_without_marks_or_with_blank_maps(shortcut):
    _, scores = shortcut
    assert explain.shortcut_pairs(scores.iloc[:1]) is None
    blank = scores.assign(energy_kept=np.nan, energy_removed=np.nan)
    assert explain.shortcut_pairs(blank).axes[0].texts[0].get_text() == "all maps are blank"


def test_shortcut_examples_are_pairs_of_cards(shortcut, maps, monkeypatch):
    marks, scores = shortcut
    inputs = np.zeros((2, 3, 48, 48), np.float32)

    def pairs_of(pipeline, cases):
        assert pipeline == "its pipeline" and list(cases.index) == ["drawn/5", "drawn/3"], "those with the largest marks"
        return MarkPairs(inputs, inputs + 1, inputs, marks[1:3], scores.loc[cases.index, ["marks"]])

    monkeypatch.setattr(explain, "mark_pairs", pairs_of)
    predictor = SimpleNamespace(pipeline="its pipeline", cases=pd.DataFrame(index=CASES), network=None)
    scores = scores.assign(marks=[0, 0.1, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1])
    found = explain.shortcut_examples(predictor, scores, lambda network, images: SimpleNamespace(maps=maps[1:3]))
    assert [example.title for example in found[:2]] == ["drawn/5\nas it is", "drawn/5\nmarks painted over"]
    assert found[1].image.shape == (48, 48) and (found[1].image == 1).all()
    expected = [scores.at[case, f"probability_{way}"] for case in ("drawn/5", "drawn/3") for way in ("kept", "removed")]
    assert [example.probability for example in found] == pytest.approx(expected)
    assert len(errors.cards(found).axes) == 4 * 3 + 1
    assert plt.get_fignums() == []
    assert explain.shortcut_examples(predictor, scores.assign(marks=0.0), None) == []
