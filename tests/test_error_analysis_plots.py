"""Figures of errors: what is drawn are the numbers of the tables; few patients are marked, and results that have nothing to show
(no error, one class, a segmenter that finds nothing) are drawn all the same."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import bars, dots, legend, saved, ticks, titles
from matplotlib.colors import to_hex

from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.plots import error_analysis as plots
from thyroid_utils.plots.pictures import FALSE, FOUND, MISSED
from thyroid_utils.scores.estimates import Estimate, benefit_curve, patient_bootstrap
from thyroid_utils.scores.probabilities import risk_coverage
from thyroid_utils.studies.error_analysis import decision_errors, nodule_frame_errors
from thyroid_utils.studies.error_analysis.subgroups import subgroup_calibration, subgroup_table
from thyroid_utils.studies.error_analysis.trust import PERTURBATIONS, rank_label_errors

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
    ((image, mapped),) = plots.classifier_cards(rows, study, ["scanner", "absent"])
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
    moved, missed = plots.segmenter_cards(rows, comparison, "unet", ["scanner"])
    assert moved[0].title == f"{CASES[1]}\nboundary only" and missed[0].title == f"{CASES[0]}\nno pixel wrong"
    assert moved[0].below == ["Dice 0.83, HD95 3 px", "scanner: old"] and moved[0].image == pytest.approx(71, abs=1)
    assert missed[0].below[0] == "no nodule, none called"
    assert [int(moved[1].filled[colour].sum()) for colour in (FOUND, FALSE, MISSED)] == [120, 24, 24]
    assert [int(missed[1].filled[colour].sum()) for colour in (FOUND, FALSE, MISSED)] == [0, 0, 144]
    ((_, figure, _),) = plots.card_pages(SimpleNamespace(images=rows, model="unet"), [moved, missed])
    assert len(figure.axes) == 2 * 3 + 1, "three pictures each, and the scale"


def test_cards_come_in_pages_and_what_they_show_is_told(called, study, monkeypatch):
    monkeypatch.setattr(plots, "_PAGE", 2)
    cards = plots.classifier_cards(called.shown(3), study, [])
    pages = list(plots.card_pages(called, cards))
    assert [page for page, *_ in pages] == [1, 2] and [len(figure.axes) for _, figure, _ in pages] == [5, 3]
    wrong = len(called.table)
    assert pages[1][2] == f"ResNet18. Errors, the most confident first (3 of {wrong}, page 2 of 2)"
    perfect = decision_errors(decided(LABELS, LABELS * 0.6 + 0.1), "tiny")
    ((_, _, kind),) = plots.card_pages(perfect, cards[:1])
    assert kind == "tiny. No error: the least certain images (1 of 1, page 1 of 1)"


def test_forest_shows_every_subgroup_and_marks_the_small_and_what_was_predicted(called):
    right = 1.0 - called.images["wrong"]
    table = subgroup_table(right, GROUPS, PATIENTS)
    axes = plots.forest(table, "accuracy", patient_bootstrap(right, PATIENTS)).axes[0]
    assert dots(axes) == pytest.approx([row.value for row in table["estimate"]])
    hollow = [line.get_markerfacecolor() == "white" for line in axes.lines if line.get_marker() == "o"]
    assert hollow == list(table["marked"]) and sum(hollow) == 1, "7 patients of the old scanner"
    assert sum("too few" in text.get_text() for text in axes.texts) == 1
    assert ticks(axes) == ["scanner", "callipers", "new (34 / 17)", "old (14 / 7)", "no (24 / 12)", "yes (24 / 12)"]
    assert f"n = {COUNT} images, 24 patients" in axes.get_xlabel()
    table = subgroup_calibration(called.images, GROUPS, PATIENTS)
    axes = plots.forest(table, "share of images").axes[0]
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
    axes = plots.forest(table, "AUC", estimates[1]).axes[0]
    lines = [to_hex(line.get_color()) for line in axes.lines if line.get_marker() == "o"]
    assert len(lines) == 2 and lines[0] == "#d55e00" != lines[1]
    written = [text.get_text() for text in axes.texts]
    assert written == ["0.50 [0.40, 0.60], p < 0.001", "no data, p = –", "0.70 [no interval: odd], p = –"]
    assert plots.forest(table.iloc[:0], "AUC") is None
    assert len(dots(plots.lost_dots(table.rename(columns={"estimate": "lost"})).axes[0])) == 2


def test_nodule_frame_draws_both_maps_on_one_scale(masks):
    found = nodule_frame_errors(*masks)
    pictures = [axes.images[0] for axes in plots.nodule_frame(found).axes[:2]]
    for picture, expected in zip(pictures, found.maps, strict=True):
        np.testing.assert_allclose(picture.get_array(), 100 * expected)
    assert pictures[0].get_clim() == pictures[1].get_clim()
    assert plots.nodule_frame(nodule_frame_errors([np.zeros((8, 8), bool)], [np.ones((8, 8), bool)])) is None


def test_risk_coverage_draws_the_curve_and_its_area(called):
    wrong = called.images["wrong"].astype(float)
    curve = risk_coverage(1 - called.images["confidence"], wrong)
    figure = plots.risk_coverage({"confidence": curve})
    line, chance = figure.axes[0].lines
    drawn = curve[curve["coverage"] >= 0.05]
    np.testing.assert_allclose(line.get_xydata(), drawn.assign(coverage=100 * drawn["coverage"])[["coverage", "risk"]])
    assert chance.get_ydata()[0] == pytest.approx(wrong.mean())
    assert legend(figure)[0] == f"confidence: {curve['risk'].mean():.3f}"


def test_decision_curve_draws_models_and_both_references():
    curve = benefit_curve(LABELS, PROBABILITIES, PATIENTS)
    figure = plots.decision_curve({"ResNet18": curve, "VGG16": curve}, "n = 48 images")
    columns = ["net_benefit", "net_benefit", "treat_all", "treat_none"]
    for line, column in zip(figure.axes[0].lines, columns, strict=True):
        assert list(line.get_ydata()) == pytest.approx(list(curve[column]))
    assert legend(figure) == ["ResNet18", "VGG16", "act on all", "act on nobody"]


@pytest.mark.parametrize("kinds", [["gain", "blur", "jpeg", "clahe"], ["rotation"]])
def test_robustness_has_a_panel_a_disturbance(kinds):
    values = {-12: 0.8, 0: 0.9, 8: np.nan}
    rows = [(kind, level, Estimate(value, 0.7, 0.95, 30, 12)) for kind in kinds for level, value in values.items()]
    figure = plots.robustness(pd.DataFrame(rows, columns=["perturbation", "level", "score"]), "ResNet18", "AUC")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert {axes.get_xlabel() for axes in shown} == {PERTURBATIONS[kind].label for kind in kinds}
    (line,) = [line for line in shown[0].lines if line.get_marker() == "o"]
    assert list(line.get_xdata()) == list(values)
    assert figure.legends[0].get_title().get_text() == "n = 30 images, 12 patients"


def test_conformal_bars_add_up_and_show_coverage():
    sets = conformal_sets(PROBABILITIES[:24], LABELS[:24], PROBABILITIES[24:], 0.2)
    table = coverage(sets, LABELS[24:], PATIENTS[24:])
    widths, shown = plots.conformal_bars(table, 0.2).axes
    assert sum(bars(widths)) == pytest.approx(300), "three rows of 100 %"
    assert dots(shown) == pytest.approx([100 * value.value for value in table["coverage"]])
    benign = (LABELS[24:] == 0).to_numpy()
    one = coverage(sets[benign], LABELS[24:][benign], PATIENTS[24:][benign])
    assert len(ticks(plots.conformal_bars(one, 0.2).axes[0])) == 2, "one class: no row of the other"


def test_label_suspects_show_label_and_probability_but_no_patient(tmp_path):
    image = str(write_png(tmp_path / "image.png", np.full((30, 30), 90, np.uint8)))
    rows = [{"case": case, "image": image, "label": LABELS[case], "patient": PATIENTS[case], "dataset": "d"} for case in CASES]
    cases, ranked = make_cases(rows), rank_label_errors(decided(LABELS, PROBABILITIES))
    shown, first = titles(plots.label_suspects(cases, ranked, 3)), ranked.iloc[0]
    name = ["benign", "malignant"][first["label"]]
    assert len(shown) == 3 and shown[0] == f"1. {ranked.index[0]}\nlabelled {name}, p(malignant) {first['probability']:.2f}"
    assert not any("patient" in title for title in shown)
    assert plots.label_suspects(cases, ranked[~ranked["suspect"]], 3) is None


@pytest.mark.parametrize("labels", [LABELS, 0 * LABELS], ids=["no error", "one class"])
def test_results_with_nothing_to_show_have_every_figure(labels):
    images = decided(labels, 0.2 + 0.7 * labels)
    right = (images["probability"] > 0.5) == (labels == 1)
    sets = conformal_sets(images["probability"], labels, images["probability"], val_patients=PATIENTS, by_class=True)
    figures = [
        plots.forest(subgroup_calibration(images, GROUPS, PATIENTS), ""),
        plots.risk_coverage({"single": risk_coverage(-(images["probability"] - 0.5).abs(), ~right)}),
        plots.decision_curve({"tiny": benefit_curve(labels, images["probability"], PATIENTS)}, ""),
        plots.conformal_bars(coverage(sets, labels, PATIENTS), 0.1),
    ]
    assert all(saved(figure) for figure in figures)
