"""Figures: what is drawn are the numbers of the tables; what is blank, absent or of few patients is said; captions are whole."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawn import bars, dots, legend, points, saved, texts, ticks, titles
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from thyroid_utils.common import paths
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.inference.findings import RESEARCH_ONLY, UNCERTAINTY, Finding
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.plots import error_analysis as errors
from thyroid_utils.plots import grad_cam as cams
from thyroid_utils.plots import style
from thyroid_utils.plots.dual_stage import doubt_and_dice, finding_cards, measure_lines, variants_forest
from thyroid_utils.plots.pictures import FALSE, FOUND, MAP_COLOURS, MISSED, Panel, card_grid, case_panel, panel_grid
from thyroid_utils.scores.estimates import Comparison, Estimate, benefit_curve, patient_bootstrap
from thyroid_utils.scores.probabilities import risk_coverage
from thyroid_utils.studies.error_analysis import decision_errors, nodule_frame_errors
from thyroid_utils.studies.error_analysis.subgroups import subgroup_calibration, subgroup_table
from thyroid_utils.studies.error_analysis.trust import PERTURBATIONS, rank_label_errors
from thyroid_utils.studies.grad_cam.shortcut import MarkPairs

NOTEBOOKS = sorted((paths.project_root() / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_caption_of_a_notebook_is_there_and_used(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    texts = tomllib.loads(Path(style.__file__).with_name("captions.toml").read_text(encoding="utf-8"))[notebook.stem[3:]]
    said = re.findall(r"(?:says|captions\(\"\w+\"\))\(\s*\"(\w+)\"", code)
    assert set(said) == set(texts)
    assert all(text.endswith((".", "}", "?")) for text in texts.values())


def test_a_caption_is_filled_in_by_what_is_known_and_what_is_added():
    says = style.captions("grad_cam", method="HiResCAM")
    assert says("segmenter", model="unet") == "HiResCAM of unet for the pixels it calls nodule, beside the same baselines."
    assert style.captions("preprocessing")("augmentation", name="x").startswith("Augmentation 'x': one image")


def disc() -> np.ndarray:
    y, x = np.ogrid[:48, :60]
    return (y - 24) ** 2 + (x - 30) ** 2 < 100


def test_a_case_is_titled_by_id_and_class_with_its_outline_and_never_by_its_patient(tmp_path):
    files = {"image": str(write_png(tmp_path / "a.png", np.full((48, 60), 90, np.uint8)))}
    files["mask"] = str(write_png(tmp_path / "b.png", disc()))
    known = {"case": "d/4", **files, "label": 1, "patient": "p7", "dataset": "d", "tirads": "TR4a"}
    cases = make_cases([known, {"case": "d/5", "image": files["image"], "patient": "p8", "dataset": "d"}])
    panel = case_panel(cases, "d/4")
    assert panel.title == "d/4\nmalignant, TI-RADS 4a" and (
        case_panel(cases, "d/5").title,
        case_panel(cases, "d/5", "x").title,
    ) == ("d/5", "x")
    figure = panel_grid([panel, Panel(np.zeros((10, 10)), "flat", boxes={"red": (1, 5, 2, 6)})], 2)
    assert len(figure.axes[0].collections) == 1, "the outline"
    (box,) = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 0.5, 4, 4)
    assert panel_grid([]) is None and card_grid([]) is None


@pytest.mark.parametrize("blank", [np.zeros((48, 60)), np.full((48, 60), np.nan)])
def test_a_blank_map_is_said_and_not_coloured(blank):
    figure = panel_grid([Panel(np.zeros((48, 60)), map=blank, outlines={"red": disc()})])
    assert "blank map" in texts(figure) and all(image.get_cmap().name == "gray" for image in figure.axes[0].images)


def test_maps_are_blue_to_red_and_may_be_coarser_than_their_image():
    low, high = MAP_COLOURS(0.0), MAP_COLOURS(1.0)
    assert low[2] > 2 * max(low[:2]) and high[0] > 3 * max(high[1:3])
    cards = [[Panel(np.zeros(shape), "a"), Panel(np.zeros(shape), map=np.eye(7))] for shape in ((60, 40), (30, 90), (200, 40))]
    assert card_grid(cards).axes[1].images[1].get_extent() == [-0.5, 39.5, 59.5, -0.5]


def test_texts_stay_on_their_card():
    title, picture = "a-very-long-folder-name/" * 4 + "image\nbenign", np.zeros((48, 60))
    figure = card_grid([[Panel(picture, title, below=["word " * 40, "few"]), Panel(picture, map=picture + 1)]] * 6)
    FigureCanvasAgg(figure).draw()
    heads = [axes._left_title.get_window_extent() for axes in figure.axes[:12]]
    feet = [axes.xaxis.label.get_window_extent() for axes in figure.axes[:12]]
    assert max(box.y1 for box in heads) <= figure.bbox.y1 and max(box.x1 for box in [*heads, *feet]) <= figure.bbox.x1
    assert all(head.y1 < foot.y0 for head, foot in zip(heads[4:], feet, strict=False)), "no row reaches into the next"


def test_the_same_data_gives_the_same_file_in_the_one_style_and_no_figure_stays_open():
    with plt.rc_context({"axes.facecolor": "red", "font.size": 30}):
        figure = panel_grid([Panel(disc() * 1.0, "a")])
        assert plt.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)
    assert saved(figure) == saved(panel_grid([Panel(disc() * 1.0, "a")])) and plt.get_fignums() == []


COUNT = 48
CASES = pd.Index([f"drawn/{number}" for number in range(COUNT)], name="case")
PATIENTS = pd.Series([f"patient-{number // 2}" for number in range(COUNT)], CASES)
LABELS = pd.Series([number // 2 % 2 for number in range(COUNT)], CASES)
# 0 is called wrongly for every fifth image.
PROBABILITIES = pd.Series([0.9 - 0.01 * n if (n // 2 % 2) != (n % 5 == 0) else 0.1 + 0.005 * n for n in range(COUNT)], CASES)
SCANNERS, CALLIPERS = ["old"] * 14 + ["new"] * 34, ["yes", "yes", "no", "no"] * 12
GROUPS = pd.DataFrame({"scanner": SCANNERS, "callipers": CALLIPERS}, CASES, dtype="category")


def decided(labels: pd.Series, probabilities: pd.Series) -> pd.DataFrame:
    columns = {"patient": PATIENTS, "label": labels, "probability": probabilities, "threshold": 0.5}
    return pd.DataFrame(columns | {"log_odds": 0.0, "runs_wrong": 2, "runs": 3}, CASES)


@pytest.fixture(scope="module")
def called():
    return decision_errors(decided(LABELS, PROBABILITIES), "ResNet18", groups=GROUPS)


@pytest.fixture(scope="module")
def masks():
    """Squares of 12 pixels in 40 × 40, and what was found: moved by two pixels, or nothing in every sixth image."""
    truths = np.zeros((COUNT, 40, 40), bool)
    for number in range(COUNT):
        truths[number, 12:24, 5 + number % 10 : 17 + number % 10] = True
    founds = np.roll(truths, 2, axis=1)
    founds[::6] = False
    return truths, founds


@pytest.fixture
def study(masks):
    """What a study of maps has for a card."""
    maps = np.tile(np.linspace(0.1, 1, 40), (COUNT, 40, 1))
    images = decided(LABELS, PROBABILITIES)
    return SimpleNamespace(images=images, masks=masks[0], grays=1.0 * masks[0], maps=SimpleNamespace(maps=maps))


def test_cards_of_a_classifier_tell_truth_call_and_case_and_never_the_patient(called, study):
    rows = called.shown(1).assign(uncertainty=0.25)
    ((image, mapped),) = errors.classifier_cards(rows, study, ["scanner", "absent"])
    (case, row), at = next(rows.iterrows()), study.images.index.get_loc(rows.index[0])
    assert image.title == f"{case}\n{row['truth']}, called {row['prediction']}"
    odds = f"p(malignant) {row['probability']:.2f}, threshold 0.50"
    assert image.below == [odds, "wrong in 2 of 3 runs", "uncertainty 0.25", f"scanner: {row['scanner']}"]
    np.testing.assert_array_equal(image.image, study.grays[at])
    np.testing.assert_array_equal(mapped.map, study.maps.maps[at])


def test_cards_of_a_segmenter_colour_what_is_wrong_in_gray_frames(masks):
    """Rec. 601: 0.299 R + 0.587 G + 0.114 B. Moved by two rows of twelve: 10 · 12 found, 2 · 12 missed and as many too many."""
    frame = np.full((40, 40, 3), (200, 0, 100), np.uint8)
    pictures = [(frame, masks[0][at], masks[1][at].astype(float)) for at in (1, 0)]
    scores = {"dice": [0.83, np.nan], "hd95": 3.0, "mode": ["boundary", ""], "uncertainty": np.nan, "scanner": "old", "wrong": 1}
    rows = pd.DataFrame(scores, CASES[[1, 0]])
    comparison = SimpleNamespace(pictures=lambda model, cases: pictures)
    moved, missed = errors.segmenter_cards(rows, comparison, "unet", ["scanner"])
    assert moved[0].title == f"{CASES[1]}\nboundary only" and missed[0].title == f"{CASES[0]}\nno pixel wrong"
    assert moved[0].below == ["Dice 0.83, HD95 3 px", "scanner: old"] and moved[0].image == pytest.approx(71, abs=1)
    assert missed[0].below[0] == "no nodule, none called"
    assert [int(moved[1].filled[colour].sum()) for colour in (FOUND, FALSE, MISSED)] == [120, 24, 24]
    assert [int(missed[1].filled[colour].sum()) for colour in (FOUND, FALSE, MISSED)] == [0, 0, 144]
    ((_, figure, _),) = errors.card_pages(SimpleNamespace(images=rows, model="unet"), [moved, missed])
    assert len(figure.axes) == 2 * 3 + 1, "three pictures each, and the scale"


def test_cards_come_in_pages_and_what_they_show_is_told(called, study, monkeypatch):
    monkeypatch.setattr(errors, "_PAGE", 2)
    cards = errors.classifier_cards(called.shown(3), study, [])
    pages = list(errors.card_pages(called, cards))
    assert [page for page, *_ in pages] == [1, 2] and [len(figure.axes) for _, figure, _ in pages] == [5, 3]
    wrong = len(called.table)
    assert pages[1][2] == f"ResNet18. Errors, the most confident first (3 of {wrong}, page 2 of 2)"
    perfect = decision_errors(decided(LABELS, LABELS * 0.6 + 0.1), "tiny")
    ((_, _, kind),) = errors.card_pages(perfect, cards[:1])
    assert kind == "tiny. No error: the least certain images (1 of 1, page 1 of 1)"


def test_forest_shows_every_subgroup_and_marks_the_small_and_what_was_predicted(called):
    right = 1.0 - called.images["wrong"]
    table = subgroup_table(right, GROUPS, PATIENTS)
    axes = errors.forest(table, "accuracy", patient_bootstrap(right, PATIENTS)).axes[0]
    assert dots(axes) == pytest.approx([row.value for row in table["estimate"]])
    hollow = [line.get_markerfacecolor() == "white" for line in axes.lines if line.get_marker() == "o"]
    assert hollow == list(table["marked"]) and sum(hollow) == 1, "7 patients of the old scanner"
    assert sum("too few" in text.get_text() for text in axes.texts) == 1
    assert ticks(axes) == ["scanner", "callipers", "new (34 / 17)", "old (14 / 7)", "no (24 / 12)", "yes (24 / 12)"]
    assert f"n = {COUNT} images, 24 patients" in axes.get_xlabel()
    table = subgroup_calibration(called.images, GROUPS, PATIENTS)
    axes = errors.forest(table, "share of images").axes[0]
    assert dots(axes) == pytest.approx([value.value for value in table["observed"]])
    predicted = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert predicted == pytest.approx([value.value for value in table["predicted"]])


def test_forest_colours_what_differs_and_survives_undefined_scores():
    estimates = [
        Estimate(0.5, 0.4, 0.6, 20, 12),
        Estimate(np.nan, np.nan, np.nan, 0, 0),
        Estimate(0.7, np.nan, np.nan, 20, 12, note="odd"),
    ]
    told = {"level": list("abc"), "estimate": estimates, "p_holm": [0.0002, np.nan, np.nan], "differs": [True, False, False]}
    table = pd.DataFrame({"factor": "scanner", "images": 20, "patients": 12, "marked": False, **told})
    axes = errors.forest(table, "AUC", estimates[1]).axes[0]
    lines = [to_hex(line.get_color()) for line in axes.lines if line.get_marker() == "o"]
    assert len(lines) == 2 and lines[0] == "#d55e00" != lines[1]
    written = [text.get_text() for text in axes.texts]
    assert written == ["0.50 [0.40, 0.60], p < 0.001", "no data, p = –", "0.70 [no interval: odd], p = –"]
    assert errors.forest(table.iloc[:0], "AUC") is None
    assert len(dots(errors.lost_dots(table.rename(columns={"estimate": "lost"})).axes[0])) == 2


def test_nodule_frame_draws_both_maps_on_one_scale(masks):
    found = nodule_frame_errors(*masks)
    pictures = [axes.images[0] for axes in errors.nodule_frame(found).axes[:2]]
    for picture, expected in zip(pictures, found.maps, strict=True):
        np.testing.assert_allclose(picture.get_array(), 100 * expected)
    assert pictures[0].get_clim() == pictures[1].get_clim()
    assert errors.nodule_frame(nodule_frame_errors([np.zeros((8, 8), bool)], [np.ones((8, 8), bool)])) is None


def test_risk_coverage_draws_the_curve_and_its_area(called):
    wrong = called.images["wrong"].astype(float)
    curve = risk_coverage(1 - called.images["confidence"], wrong)
    figure = errors.risk_coverage({"confidence": curve})
    line, chance = figure.axes[0].lines
    drawn = curve[curve["coverage"] >= 0.05]
    np.testing.assert_allclose(line.get_xydata(), drawn.assign(coverage=100 * drawn["coverage"])[["coverage", "risk"]])
    assert chance.get_ydata()[0] == pytest.approx(wrong.mean())
    assert legend(figure)[0] == f"confidence: {curve['risk'].mean():.3f}"


def test_decision_curve_draws_models_and_both_references():
    curve = benefit_curve(LABELS, PROBABILITIES, PATIENTS)
    figure = errors.decision_curve({"ResNet18": curve, "VGG16": curve}, "n = 48 images")
    columns = ["net_benefit", "net_benefit", "treat_all", "treat_none"]
    for line, column in zip(figure.axes[0].lines, columns, strict=True):
        assert list(line.get_ydata()) == pytest.approx(list(curve[column]))
    assert legend(figure) == ["ResNet18", "VGG16", "act on all", "act on nobody"]


@pytest.mark.parametrize("kinds", [["gain", "blur", "jpeg", "clahe"], ["rotation"]])
def test_robustness_has_a_panel_a_disturbance(kinds):
    values = {-12: 0.8, 0: 0.9, 8: np.nan}
    rows = [(kind, level, Estimate(value, 0.7, 0.95, 30, 12)) for kind in kinds for level, value in values.items()]
    figure = errors.robustness(pd.DataFrame(rows, columns=["perturbation", "level", "score"]), "ResNet18", "AUC")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert {axes.get_xlabel() for axes in shown} == {PERTURBATIONS[kind].label for kind in kinds}
    (line,) = [line for line in shown[0].lines if line.get_marker() == "o"]
    assert list(line.get_xdata()) == list(values)
    assert figure.legends[0].get_title().get_text() == "n = 30 images, 12 patients"


def test_conformal_bars_add_up_and_show_coverage():
    sets = conformal_sets(PROBABILITIES[:24], LABELS[:24], PROBABILITIES[24:], 0.2)
    table = coverage(sets, LABELS[24:], PATIENTS[24:])
    widths, shown = errors.conformal_bars(table, 0.2).axes
    assert sum(bars(widths)) == pytest.approx(300), "three rows of 100 %"
    assert dots(shown) == pytest.approx([100 * value.value for value in table["coverage"]])
    benign = (LABELS[24:] == 0).to_numpy()
    one = coverage(sets[benign], LABELS[24:][benign], PATIENTS[24:][benign])
    assert len(ticks(errors.conformal_bars(one, 0.2).axes[0])) == 2, "one class: no row of the other"


def test_label_suspects_show_label_and_probability_but_no_patient(tmp_path):
    image = str(write_png(tmp_path / "image.png", np.full((30, 30), 90, np.uint8)))
    rows = [{"case": case, "image": image, "label": LABELS[case], "patient": PATIENTS[case], "dataset": "d"} for case in CASES]
    cases, ranked = make_cases(rows), rank_label_errors(decided(LABELS, PROBABILITIES))
    shown, first = titles(errors.label_suspects(cases, ranked, 3)), ranked.iloc[0]
    name = ["benign", "malignant"][first["label"]]
    assert len(shown) == 3 and shown[0] == f"1. {ranked.index[0]}\nlabelled {name}, p(malignant) {first['probability']:.2f}"
    assert not any("patient" in title for title in shown)
    assert errors.label_suspects(cases, ranked[~ranked["suspect"]], 3) is None


@pytest.mark.parametrize("labels", [LABELS, 0 * LABELS], ids=["no error", "one class"])
def test_results_with_nothing_to_show_have_every_figure(labels):
    images = decided(labels, 0.2 + 0.7 * labels)
    right = (images["probability"] > 0.5) == (labels == 1)
    sets = conformal_sets(images["probability"], labels, images["probability"], val_patients=PATIENTS, by_class=True)
    figures = [
        errors.forest(subgroup_calibration(images, GROUPS, PATIENTS), ""),
        errors.risk_coverage({"single": risk_coverage(-(images["probability"] - 0.5).abs(), ~right)}),
        errors.decision_curve({"tiny": benefit_curve(labels, images["probability"], PATIENTS)}, ""),
        errors.conformal_bars(coverage(sets, labels, PATIENTS), 0.1),
    ]
    assert all(saved(figure) for figure in figures)


EIGHT = [f"drawn/{number}" for number in range(8)]


def estimate(value: float, images: int = 7, patients: int = 4) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, images, patients)


def test_cam_panels_show_image_map_overlay_and_probability_of_the_surest(masks):
    """Each class is called rightly and wrongly; of the malignant that are right, drawn/7 is surer but blank."""
    columns = {"label": LABELS[:8], "called": [0, 1, 1, 1, 0, 0, 0, 1], "probability": [0.1, 0.6, 0.7, 0.8, 0.2, 0.3, 0.3, 0.9]}
    images = pd.DataFrame(columns | {"threshold": 0.5}, EIGHT)
    images["right"] = images["called"] == images["label"]
    truths, blank = masks[0][:8], np.arange(8) == 7
    drawn = SimpleNamespace(maps=truths * ~blank[:, None, None] * 1.0, blank=blank)
    scores = pd.DataFrame({"energy_inside": np.where(blank, np.nan, 0.62)}, EIGHT)
    figure = cams.cam_panels(SimpleNamespace(images=images, scores=scores, maps=drawn, masks=truths, grays=1.0 * truths))
    called = ["benign, called benign", "benign, called malignant", "malignant, called malignant", "malignant, called benign"]
    assert titles(figure)[::3] == [f"drawn/{number}\n{text}" for number, text in zip((0, 1, 3, 6), called, strict=True)]
    picture, alone, overlay = figure.axes[:3]
    np.testing.assert_array_equal(alone.images[1].get_array(), drawn.maps[0])
    assert alone.images[1].get_clim() == overlay.images[1].get_clim() == (0, 1), "one scale, whatever the map's maximum"
    assert (alone.images[1].get_alpha(), overlay.images[1].get_alpha()) == (1, 0.5)
    assert all(len(axes.collections) == 1 for axes in (picture, alone, overlay)), "the outline"
    assert picture.get_xlabel() == "p(malignant) 0.10, threshold 0.50\n62 % of the map inside"


def test_attention_dots_are_the_estimates():
    sources = ("map", "other patients", "centre prior", "chance")
    table = pd.DataFrame({name: [estimate(0.1 * n)] * 4 for n, name in enumerate(sources)}, cams.MEASURES).assign(blank=1)
    one = table.map(lambda value: estimate(0.5, 1, 1)).assign(blank=0)
    none = table.map(lambda value: Estimate(np.nan, np.nan, np.nan, 0, 0)).assign(blank=1)
    figure = cams.attention_dots({"ResNet18": table, "right": one, "wrong": none})
    assert [dots(axes)[:4] for axes in figure.axes] == [[0, 0.1, 0.2, pytest.approx(0.3)]] * 4
    assert ticks(figure.axes[0]) == ["ResNet18\nn = 7 images\n4 patients\n1 blank left out", "right\nn = 1 image\n1 patient"]
    assert cams.attention_dots({"wrong": none}) is None and cams.attention_dots({}) is None


def test_sanity_curve_falls_as_the_table_does():
    ranks, structure = ([estimate(value) for value in values] for values in ([1, 0.5, 0.25], [1, 0.9, 0.8]))
    table = pd.DataFrame({"spearman": ranks, "ssim": structure, "blank": [0, 0, 1], "maps": 8}, ["as trained", "fc", "conv1"])
    figure = cams.sanity_curve(table, "Grad-CAM")
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[1, 0.5, 0.25], [1, 0.9, 0.8]]
    assert ticks(figure.axes[0], "x") == ["as trained", "fc", "conv1"]
    assert titles(figure) == ["n = 7 images, 4 patients"] and legend(figure)[0] == "Grad-CAM (1 of 24 maps blank)"


def test_shape_plots_show_every_region():
    table = pd.DataFrame({"area": [*np.linspace(0.1, 0.7, 7), np.nan], "solidity": 0.5, "entropy": np.nan}, EIGHT)
    compared = pd.DataFrame({"effect": [0.25, np.nan], "p_holm": [0.03, np.nan]}, ["area", "solidity"])
    figure = cams.shape_plots(table, LABELS[:8], compared)
    area, solidity = figure.axes
    assert points(area) == pytest.approx(table["area"].dropna())
    assert ticks(area, "x") == ["benign\n4 regions", "malignant\n3 regions"]
    assert area.get_title(loc="left") == "area, share of image\neffect +0.25, p = 0.03 (Holm)"
    assert solidity.get_title(loc="left").endswith("no test")
    assert cams.shape_plots(table[["entropy"]], LABELS[:8], compared) is None


def test_shape_sweep_draws_effect_and_p_by_threshold():
    tested = {"feature": "area", "threshold": [0.2, 0.5, 0.9], "effect": [0.1, -0.4, 0.0], "p_holm": [0.9, 0.02, np.nan]}
    sweep = pd.DataFrame(tested | {"benign_patients": 3, "malignant_patients": 4})
    effects, chance = cams.shape_sweep(sweep).axes
    assert effects.lines[0].get_xydata().tolist() == [[20, 0.1], [50, -0.4]]
    assert list(chance.lines[0].get_ydata()) == [0.9, 0.02] and effects.get_title(loc="left") == "n = 7 patients"
    assert cams.shape_sweep(sweep.assign(p_holm=np.nan)) is None


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
    deletion, insertion = cams.deletion_insertion_curves(curves).axes
    assert list(deletion.lines[0].get_ydata()) == [1, 0.5, 0] and list(insertion.lines[0].get_ydata()) == [0, 0.5, 1]
    assert deletion.get_legend().get_texts()[0].get_text() == "the map's order: 0.50"
    assert "n = 2 images" in deletion.get_ylabel() and cams.deletion_insertion_curves(curves.iloc[:0]) is None


@pytest.fixture(scope="module")
def scores():
    """The first image has no marks and the last a blank map; drawn/1 has callipers."""
    kept = np.linspace(0.1, 0.8, 8)
    table = {"marks": [0, 0.1, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1], "callipers": [0, 2, 0, 0, 0, 0, 0, 0], "chance": 0.1}
    energy = np.where(np.arange(8) < 7, 0.2, np.nan)
    table |= {"energy_kept": energy, "energy_removed": energy, "probability_kept": kept, "probability_removed": kept - 0.05}
    return pd.DataFrame({**table, "probability_placebo": np.nan}, EIGHT)


def test_shortcut_pairs_draw_each_image_once(scores):
    energy, moved, placebo = cams.shortcut_pairs(scores).axes
    assert points(moved) == pytest.approx(list(scores["probability_removed"].iloc[1:]))
    assert [axes.get_xlabel() for axes in (energy, moved, placebo)] == [f"as it is (n = {n} images)" for n in (6, 7, 0)]
    assert cams.shortcut_pairs(scores.iloc[:1]) is None


def test_shortcut_panels_are_pairs(scores, masks, monkeypatch):
    inputs = np.zeros((2, 3, 48, 48), np.float32)

    def pairs_of(pipeline, cases):
        assert pipeline == "its pipeline" and list(cases.index) == ["drawn/5", "drawn/3"], "those with the largest marks"
        return MarkPairs(inputs, inputs + 1, inputs, masks[0][:2], scores.loc[cases.index, ["marks"]])

    monkeypatch.setattr(cams, "mark_pairs", pairs_of)
    predictor = SimpleNamespace(pipeline="its pipeline", cases=pd.DataFrame(index=EIGHT), network=None)
    study = SimpleNamespace(predictor=predictor, maps_of=lambda network, images: SimpleNamespace(maps=1.0 * masks[0][:2]))
    figure = cams.shortcut_panels(study, scores)
    assert titles(figure)[::2] == [f"drawn/{n}\n{way}" for n in (5, 3) for way in ("as it is", "marks painted over")]
    assert (figure.axes[2].images[0].get_array() == 1).all(), "painted"
    expected = [scores.at[case, f"probability_{way}"] for case in ("drawn/5", "drawn/3") for way in ("kept", "removed")]
    assert [float(axes.get_xlabel().split()[1]) for axes in figure.axes[:8:2]] == pytest.approx(expected, abs=0.006)
    assert cams.shortcut_panels(study, scores.assign(marks=0.0)) is None


def finding(case="a", mask=None, shape=(40, 60), spacing=None, **changes) -> Finding:
    frame = np.random.default_rng(0).integers(60, 120, shape).astype(np.uint8)
    if mask is None:
        mask = np.zeros(shape, bool)
        mask[10:22, 20:44] = True
    known = {"frame": frame, "probability": 0.83, "uncalibrated": 0.9, "threshold": 0.4, "called": True, "labels": ("malignant",),
             "map": mask.astype(np.float32), "mask": mask, "attention": np.ones(shape, np.float32), "spacing": spacing,
             "uncertainty": dict.fromkeys(UNCERTAINTY, 0.25), "measures": nodule_measures(mask, frame, spacing)}  # fmt: skip
    return Finding(case, **{**known, **changes})


@pytest.fixture
def cases(tmp_path) -> pd.DataFrame:
    mask = str(write_png(tmp_path / "mask.png", finding().mask))
    return pd.DataFrame({"label": 0, "mask": mask}, index=["a", "seen but bad", "none", "all"])


def test_cards_say_what_was_found_of_every_kind(cases):
    nothing, everything = np.zeros((40, 60), bool), np.ones((40, 60), bool)
    kinds = [
        finding(warnings=("two of them",)),
        finding("seen but bad", error="cannot be prepared " * 6),
        finding("none", nothing, attention=np.zeros((40, 60), np.float32), labels=()),
        finding("all", everything, frame=np.zeros((40, 60, 3), np.uint8)),
    ]
    said = texts(finding_cards(kinds, cases)).replace("masks' Dice\n", "masks' Dice ")
    for part in ("a\nframe", "truth: benign, called malignant", "p(malignant) 0.83, threshold 0.40", "set: malignant",
                 "Dice 0.75", "entropy 0.25", "! two of them", "could not be used", "neither", RESEARCH_ONLY):  # fmt: skip
        assert part in said, part
    saved(finding_cards([finding(error="damaged", frame=None)], cases))
    assert finding_cards([], cases) is None


def test_measures_are_read_in_millimetres_where_known():
    lines = measure_lines(finding(spacing=0.5))
    assert lines[0] == "13.2 × 6.0 mm, area 72.0 mm²"
    assert lines[1] == "height / width 0.50 (not taller than wide)"
    assert measure_lines(finding())[0].endswith("area 288 px")
    assert measure_lines(finding(mask=np.zeros((40, 60), bool))) == []


def test_the_forest_has_a_row_a_variant_and_a_pair():
    value = Estimate(0.8, 0.7, 0.9, 50, 20)
    sure = Estimate(1.0, np.nan, np.nan, 50, 20, note="all resamples agree")
    estimates = pd.DataFrame({"what": ["whole frame (the paper)", "crop by the true mask"], "auc": [value, sure]},
                             index=["frame", "crop_true"])  # fmt: skip
    difference = Comparison(1.0, 0.8, 0.2, np.nan, np.nan, np.nan, 50, 20, note="the variance is 0")
    pairs = pd.DataFrame({"first": ["crop_true"], "second": ["frame"], "auc": [difference], "p_holm": [np.nan], "differs": False})
    figure = variants_forest(estimates, pairs)
    left, right = figure.axes
    assert ticks(left) == list(estimates["what"])
    assert ticks(right) == ["crop by the true mask\n− whole frame"]
    assert "no test" in texts(figure) and "0.800" in texts(figure)


def test_every_image_with_a_class_and_a_mask_is_a_point():
    known = {"wrong": [False, True, None], "label": [0, 1, 0], "probability": [0.1, 0.2, np.nan], "dice": [0.9, 0.7, 0.3]}
    (drawn,) = doubt_and_dice(pd.DataFrame(known), 0.7).axes[0].collections
    assert drawn.get_offsets().tolist() == [[0.1, 0.9], [0.2, 0.7]]
