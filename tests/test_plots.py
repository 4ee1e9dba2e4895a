"""Figures: what is drawn are the numbers of the tables; what is blank, absent or of few patients is said; captions are whole."""

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import bars, dots, points, saved, texts, ticks, titles
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from thyroid_utils.common import paths
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.inference.findings import RESEARCH_ONLY, UNCERTAINTY, Finding
from thyroid_utils.inference.nodule_measures import measures_told, nodule_measures
from thyroid_utils.plots import error_analysis as errors
from thyroid_utils.plots import grad_cam as cams
from thyroid_utils.plots import style
from thyroid_utils.plots.charts import cost_and_score, score_dots
from thyroid_utils.plots.dual_stage import finding_cards, variants_forest
from thyroid_utils.plots.pictures import FALSE, FOUND, MISSED, Panel, card_grid, case_panel, panel_grid
from thyroid_utils.scores.curves import benefit_curve
from thyroid_utils.scores.estimates import Comparison, Estimate, patient_estimate
from thyroid_utils.scores.probabilities import risk_coverage
from thyroid_utils.studies.error_analysis import decision_errors, nodule_frame_errors
from thyroid_utils.studies.error_analysis.subgroups import subgroup_calibration, subgroup_table
from thyroid_utils.studies.error_analysis.trust import rank_label_errors
from thyroid_utils.studies.grad_cam.shortcut import MarkPairs

NOTEBOOKS = sorted(paths.notebooks_dir().glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_caption_of_a_notebook_is_there_and_used(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    texts = tomllib.loads(Path(style.__file__).with_name("captions.toml").read_text(encoding="utf-8"))[notebook.stem[3:]]
    assert set(re.findall(r"(?:says|captions\(\"\w+\"\))\(\s*\"(\w+)\"", code)) == set(texts)
    assert style.captions("grad_cam", method="HiResCAM")("segmenter", model="unet").startswith("HiResCAM of unet for the pixels")
    said = [style.captions("grad_cam")("sanity", count=images, which="").split("network's, of ")[1] for images in (0, 1, 2)]
    assert [text.split(";")[0] for text in said] == ["no images", "1 image", "2 images"]


def disc() -> np.ndarray:
    y, x = np.ogrid[:48, :60]
    return (y - 24) ** 2 + (x - 30) ** 2 < 100


def test_a_case_is_titled_by_id_and_class_with_its_outline_and_never_by_its_patient(tmp_path):
    files = {"image": str(write_png(tmp_path / "a.png", np.full((48, 60), 90, np.uint8)))}
    files["mask"] = str(write_png(tmp_path / "b.png", disc()))
    known = {"case": "d/4", **files, "label": 1, "patient": "p7", "dataset": "d", "tirads": "TR4a"}
    cases = make_cases([known, {"case": "d/5", "image": files["image"], "patient": "p8", "dataset": "d"}])
    panels = [case_panel(cases, "d/4"), case_panel(cases, "d/5"), case_panel(cases, "d/5", "x")]
    assert [panel.title for panel in panels] == ["d/4\nmalignant, TI-RADS 4a", "d/5", "x"]
    blanks = [Panel(np.zeros((48, 60)), map=np.full((48, 60), value), outlines={"red": disc()}) for value in (0, np.nan)]
    figure = panel_grid([panels[0], Panel(np.zeros((10, 10)), "flat", boxes={"red": (1, 5, 2, 6)}), *blanks], 2)
    assert len(figure.axes[0].collections) == 1, "the outline"
    assert texts(figure).count("blank map") == 2
    (box,) = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 0.5, 4, 4)
    assert panel_grid([]) is None and card_grid([]) is None
    mixed = [[Panel(np.zeros(shape), below=["text"])] * 3 for shape in ((26, 56), (36, 22), (26, 56))]
    figure = card_grid(mixed)
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.25, "low frames beside tall ones stay as wide as their texts"
    figure = panel_grid([Panel(np.zeros(shape)) for shape in ((36, 22), (26, 56))], 1)
    figure.draw_without_rendering()
    lefts = [axes.get_position().x0 for axes in figure.axes]
    assert lefts[0] == pytest.approx(lefts[1]), "the title of a narrow frame has all of its column"


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


def test_cards_of_a_classifier_tell_truth_call_and_case_in_pages_and_never_the_patient(called, study, monkeypatch):
    rows = called.shown(1).assign(uncertainty=0.25)
    ((image, mapped),) = errors.classifier_cards(rows, study, ["scanner", "absent"])
    (case, row), at = next(rows.iterrows()), study.images.index.get_loc(rows.index[0])
    assert image.title == f"{case}\n{row['truth']}, called {row['prediction']}"
    odds = f"p(malignant) {row['probability']:.2f}, threshold 0.50"
    assert image.below == [odds, "wrong in 2 of 3 runs", "uncertainty 0.25", f"scanner: {row['scanner']}"]
    np.testing.assert_array_equal(image.image, study.grays[at])
    np.testing.assert_array_equal(mapped.map, study.maps.maps[at])
    monkeypatch.setattr(errors, "_PAGE", 2)
    cards = errors.classifier_cards(called.shown(3), study, [])
    pages = list(errors.card_pages(called, cards))
    assert [page for page, *_ in pages] == [1, 2] and [len(figure.axes) for _, figure, _ in pages] == [5, 3]
    wrong = len(called.table)
    assert pages[1][2] == f"ResNet18. Errors, both classes in turn, the truth least probable first (3 of {wrong}, page 2 of 2)"
    perfect = decision_errors(decided(LABELS, LABELS * 0.6 + 0.1), "tiny")
    ((_, _, kind),) = errors.card_pages(perfect, cards[:1])
    assert kind == "tiny. No error: the least certain images (1 of 1, page 1 of 1)"


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
    ((_, figure, _),) = errors.card_pages(SimpleNamespace(images=rows, model="unet", task="segmentation"), [moved, missed])
    assert len(figure.axes) == 2 * 3 + 1, "three pictures each, and the scale"


def test_forest_shows_every_subgroup_the_small_what_was_predicted_and_undefined_scores(called):
    right = 1.0 - called.images["wrong"]
    table = subgroup_table(right, GROUPS, PATIENTS)
    axes = errors.forest(table, "accuracy", patient_estimate(right, PATIENTS)).axes[0]
    assert dots(axes) == pytest.approx([row.value for row in table["estimate"]])
    hollow = [line.get_markerfacecolor() == "white" for line in axes.lines if line.get_marker() == "o"]
    assert hollow == list(table["marked"]) and sum(hollow) == 1, "7 patients of the old scanner"
    table = subgroup_calibration(called.images, GROUPS, PATIENTS)
    axes = errors.forest(table, "share of images").axes[0]
    predicted = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert predicted == pytest.approx([value.value for value in table["predicted"]])
    unknown = Estimate(*[np.nan] * 3, 0, 0)
    estimates = [Estimate(0.5, 0.4, 0.6, 20, 12), unknown, Estimate(0.7, np.nan, np.nan, 20, 12, note="odd")]
    told = {"level": list("abc"), "estimate": estimates, "p_holm": [0.0002, np.nan, np.nan], "differs": [True, False, False]}
    table = pd.DataFrame({"factor": "scanner", "images": 20, "patients": 12, "marked": False, **told})
    axes = errors.forest(table, "AUC", estimates[1]).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["0.50 [0.40, 0.60], p < 0.001", "no data, no p-value", "0.70 [no interval: odd], no p-value"]
    assert errors.forest(table.iloc[:0], "AUC") is None
    assert len(dots(errors.lost_dots(table.rename(columns={"estimate": "lost"})).axes[0])) == 2


@pytest.mark.parametrize("labels", [LABELS, 0 * LABELS], ids=["no error", "one class"])
def test_results_with_nothing_to_show_have_every_figure(labels, tmp_path):
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
    image = str(write_png(tmp_path / "image.png", np.full((30, 30), 90, np.uint8)))
    rows = [{"case": case, "image": image, "label": labels[case], "patient": PATIENTS[case], "dataset": "d"} for case in CASES]
    ranked = rank_label_errors(decided(labels, PROBABILITIES))
    suspects = errors.label_suspects(make_cases(rows), ranked.assign(suspect=True), 3)
    assert len(titles(suspects)) == 3 and "patient" not in texts(suspects)
    assert errors.label_suspects(make_cases(rows), ranked.assign(suspect=False), 3) is None


EIGHT = [f"drawn/{number}" for number in range(8)]


def estimate(value: float, images: int = 7, patients: int = 4) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, images, patients)


def test_what_is_kept_and_what_is_handed_on_add_up_to_all_calls(called):
    near = pd.Series(np.arange(COUNT, dtype=float), CASES).sample(frac=1, random_state=0)
    figure = errors.handed_on(near, called.images, kept=25)
    left, right = figure.axes
    first = called.images["kind"][:12]  # a quarter of the 48, by rising uncertainty
    shown = {bars.get_label(): list(bars.datavalues) for bars in right.containers}
    assert shown["right"] == [(called.images["kind"][12:] == "").sum(), (first == "").sum()], "handed on below kept"
    assert shown["false negative"][1] == (first == "false negative").sum() > 0
    assert np.sum(list(shown.values())) == COUNT
    assert left.get_title(loc="left") == f"12 of 48 images kept: {100 * (first != '').mean():.1f} % wrong"
    (x,), (y,) = left.lines[1].get_data()
    assert x == 25 and y == pytest.approx((first != "").mean())
    assert errors.handed_on(near, called.images, kept=1).axes[0].lines[1].get_xdata() == [pytest.approx(100 / 48)], "never none"


def test_cam_panels_show_the_surest_calls_nodule_frames_both_maps_and_conformal_bars_add_up(masks):
    columns = {"label": LABELS[:8], "called": [0, 1, 1, 1, 0, 0, 0, 1], "probability": [0.1, 0.6, 0.7, 0.8, 0.2, 0.3, 0.3, 0.9]}
    images = pd.DataFrame(columns | {"threshold": 0.5}, EIGHT)
    images["right"] = images["called"] == images["label"]
    truths, blank = masks[0][:8], np.arange(8) == 7
    drawn = SimpleNamespace(maps=truths * ~blank[:, None, None] * 1.0, blank=blank)
    scores = pd.DataFrame({"energy_inside": np.where(blank, np.nan, 0.62)}, EIGHT)
    figure = cams.cam_panels(SimpleNamespace(images=images, scores=scores, maps=drawn, masks=truths, grays=1.0 * truths))
    assert [title.split("\n")[0] for title in titles(figure)[::3]] == [f"drawn/{number}" for number in (0, 1, 3, 6)]
    assert figure.axes[1].images[1].get_clim() == (0, 1), "one scale, whatever the map's maximum"
    found = nodule_frame_errors(*masks)
    pictures = [axes.images[0] for axes in errors.nodule_frame(found).axes[:2]]
    for picture, expected in zip(pictures, found.maps, strict=True):
        np.testing.assert_allclose(picture.get_array(), 100 * expected)
    assert pictures[0].get_clim() == pictures[1].get_clim()
    assert errors.nodule_frame(nodule_frame_errors([np.zeros((8, 8), bool)], [np.ones((8, 8), bool)])) is None
    sets = conformal_sets(PROBABILITIES[:24], LABELS[:24], PROBABILITIES[24:], 0.2)
    table = coverage(sets, LABELS[24:], PATIENTS[24:])
    widths, shown = errors.conformal_bars(table, 0.2).axes
    assert sum(bars(widths)) == pytest.approx(300), "three rows of 100 %"
    assert dots(shown) == pytest.approx([100 * value.value for value in table["coverage"]])


def test_figures_of_attention_shapes_faithfulness_and_variants_draw_their_tables():
    sources = ("map", "other patients", "centre prior", "chance")
    table = pd.DataFrame({name: [estimate(0.1 * n)] * 4 for n, name in enumerate(sources)}, cams.MEASURES).assign(blank=1)
    none = table.map(lambda value: Estimate(np.nan, np.nan, np.nan, 0, 0)).assign(blank=1)
    figure = cams.attention_dots({"ResNet18": table, "wrong": none})
    assert [dots(axes) for axes in figure.axes] == [[0, 0.1, 0.2, pytest.approx(0.3)]] * 4
    assert cams.attention_dots({"wrong": none}) is None and cams.attention_dots({}) is None
    ranks, structure = ([estimate(value) for value in values] for values in ([1, 0.5, 0.25], [1, 0.9, 0.8]))
    table = pd.DataFrame({"spearman": ranks, "ssim": structure, "blank": [0, 0, 1], "maps": 8}, ["as trained", "fc", "conv1"])
    figure = cams.sanity_curve(table, "Grad-CAM")
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[1, 0.5, 0.25], [1, 0.9, 0.8]]
    shapes = pd.DataFrame({"area": [*np.linspace(0.1, 0.7, 7), np.nan], "solidity": 0.5, "entropy": np.nan}, EIGHT)
    compared = pd.DataFrame({"effect": [0.25, np.nan], "p_holm": [0.03, np.nan]}, ["area", "solidity"])
    assert points(cams.shape_plots(shapes, LABELS[:8], compared).axes[0]) == pytest.approx(shapes["area"].dropna())
    assert cams.shape_plots(shapes[["entropy"]], LABELS[:8], compared) is None
    tested = {"feature": "area", "threshold": [0.2, 0.5, 0.9], "effect": [0.1, -0.4, 0.0], "p_holm": [0.9, 0.02, np.nan]}
    sweep = pd.DataFrame(tested | {"benign_patients": 3, "malignant_patients": 4})
    assert cams.shape_sweep(sweep).axes[0].lines[0].get_xydata().tolist() == [[20, 0.1], [50, -0.4]]
    assert cams.shape_sweep(sweep.assign(p_holm=np.nan)) is None
    rows = [
        (0, way, order, x, x) for way in ("deletion", "insertion") for order in ("map", "random", "centre") for x in (0, 0.5, 1)
    ]
    curves = pd.DataFrame(rows, columns=["image", "direction", "order", "share", "probability"])
    assert list(cams.deletion_insertion_curves(curves).axes[0].lines[0].get_ydata()) == [0, 0.5, 1]
    assert cams.deletion_insertion_curves(curves.iloc[:0]) is None
    value = Estimate(0.8, 0.7, 0.9, 50, 20)
    sure = Estimate(1.0, np.nan, np.nan, 50, 20, note="all patients agree")
    what = ["whole frame (the paper)", "crop by the true mask"]
    estimates = pd.DataFrame({"what": what, "auc": [value, sure]}, ["frame", "crop_true"])
    difference = Comparison(1.0, 0.8, 0.2, np.nan, np.nan, np.nan, 50, 20, note="the variance is 0")
    pairs = pd.DataFrame(
        {"first": ["crop_true"], "second": ["frame"], "difference": [difference], "p_holm": [np.nan], "differs": False}
    )
    figure = variants_forest(estimates, pairs)
    assert [ticks(axes) for axes in figure.axes] == [what, ["crop by the true mask\n− whole frame"]]
    assert "no verdict" in texts(figure) and "0.800" in texts(figure)


@pytest.fixture(scope="module")
def scores():
    """The first image has no marks and the last a blank map; drawn/1 has callipers."""
    kept = np.linspace(0.1, 0.8, 8)
    table = {"marks": [0, 0.1, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1], "callipers": [0, 2, 0, 0, 0, 0, 0, 0], "chance": 0.1}
    energy = np.where(np.arange(8) < 7, 0.2, np.nan)
    table |= {"energy_kept": energy, "energy_removed": energy, "probability_kept": kept, "probability_removed": kept - 0.05}
    return pd.DataFrame({**table, "probability_placebo": np.nan}, EIGHT)


def test_shortcut_panels_are_pairs(scores, masks, monkeypatch):
    inputs = np.zeros((2, 3, 48, 48), np.float32)
    pairs = MarkPairs(inputs, inputs + 1, inputs, masks[0][:2], scores.loc[["drawn/5", "drawn/3"], ["marks"]])
    monkeypatch.setattr(cams, "mark_pairs", lambda pipeline, cases: pairs)
    predictor = SimpleNamespace(pipeline="its pipeline", cases=pd.DataFrame(index=EIGHT), network=None)
    predictor.by_fold = lambda cases: [(predictor, [0])]
    study = SimpleNamespace(predictor=predictor, maps_of=lambda network, images: SimpleNamespace(maps=1.0 * masks[0][:2]))
    figure = cams.shortcut_panels(study, scores)
    assert titles(figure)[::2] == [f"drawn/{n}\n{way}" for n in (5, 3) for way in ("as it is", "marks painted over")]
    assert (figure.axes[2].images[0].get_array() == 1).all(), "painted"
    assert cams.shortcut_panels(study, scores.assign(marks=0.0)) is None
    energy, moved, placebo = cams.shortcut_pairs(scores).axes
    assert points(moved) == pytest.approx(list(scores["probability_removed"].iloc[1:]))
    assert [axes.get_xlabel() for axes in (energy, moved, placebo)] == [f"as it is ({n} images)" for n in (6, 7, "no")]
    assert cams.shortcut_pairs(scores.iloc[:1]) is None


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
    for part in ("truth: benign, called malignant", "Dice 0.75", "! two of them", "could not be used", "neither", RESEARCH_ONLY):
        assert part in said, part
    saved(finding_cards([finding(error="damaged", frame=None)], cases))
    assert finding_cards([], cases) is None
    told = measures_told(finding(spacing=0.5).measures)
    assert (told["long × short axis"], told["area"]) == ("13.2 × 6.0 mm", "72 mm²")
    assert measures_told(finding().measures)["area"] == "288 px²" and measures_told(kinds[2].measures) == {}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["0$_$x", "$5 and $6", "$", "甲$x$", "اسم"])
def test_a_name_is_drawn_as_it_is_wherever_it_stands(name, tmp_path):
    """Between two dollars matplotlib reads a formula, and what its font lacks becomes a box and a warning."""
    value = Estimate(0.5, 0.4, 0.6, 9, 4)
    figures = [
        panel_grid([Panel(np.zeros((10, 12)), name, below=(name,))], rows=[name], map_label=name),
        score_dots(pd.DataFrame({"auc": [value] * 2}, index=[name, "b"]), {"auc": name}),
        cost_and_score(pd.DataFrame({"ms": [1.0]}, index=[name]), pd.Series({name: value}), name, {"ms": name}),
    ]
    for figure in figures:
        figure.savefig(tmp_path / "a.png")
        drawn = [text for text in figure.findobj(Text) if text.get_text()]
        said = [text._preprocess_math(text.get_text()) for text in drawn]
        assert not any(formula for _, formula in said) and style.plain(name).replace(r"\$", "$") in " ".join(
            text for text, _ in said
        )
    assert style.plain("甲") == ("甲" if len(style.FONTS) > 1 else "[7532]") and style.plain(style.plain("$a$")) == r"\$a\$"
