"""Figures of errors: what is drawn are the numbers of the tables; few patients are marked, and nothing is drawn of nothing."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.plots import error_analysis as errors
from thyroid_utils.plots.pictures import FALSE, FOUND, MISSED
from thyroid_utils.plots.style import TRUTH
from thyroid_utils.scores.estimates import Estimate, benefit_curve
from thyroid_utils.scores.probabilities import risk_coverage
from thyroid_utils.studies.error_analysis.error_analysis import decision_errors, map_errors, mask_row
from thyroid_utils.studies.error_analysis.label_errors import rank_label_errors
from thyroid_utils.studies.error_analysis.mask_errors import LOST_PARTS, lost_dice, nodule_frame_errors
from thyroid_utils.studies.error_analysis.robustness import PERTURBATIONS
from thyroid_utils.studies.error_analysis.subgroups import overall_estimate, subgroup_calibration, subgroup_table

COUNT = 48
CASES = pd.Index([f"drawn/{number}" for number in range(COUNT)], name="case")
PATIENTS = pd.Series([f"patient-{number // 2}" for number in range(COUNT)], CASES)
LABELS = pd.Series([number // 2 % 2 for number in range(COUNT)], CASES)
# 0 is called wrongly for every fifth image.
PROBABILITIES = pd.Series([0.9 - 0.01 * n if (n // 2 % 2) != (n % 5 == 0) else 0.1 + 0.005 * n for n in range(COUNT)], CASES)
GROUPS = pd.DataFrame(
    {
        "scanner": pd.Categorical(["old" if number < 14 else "new" for number in range(COUNT)]),
        "callipers": pd.Categorical(["yes" if number % 4 < 2 else "no" for number in range(COUNT)]),
    },
    index=CASES,
)


def saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def dots(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]


def bars(axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture(scope="module")
def called():
    decisions = {"patient": PATIENTS, "label": LABELS, "probability": PROBABILITIES, "threshold": 0.5, "runs_wrong": 2, "runs": 3}
    return decision_errors(pd.DataFrame(decisions, index=CASES), "ResNet18", groups=GROUPS)


@pytest.fixture(scope="module")
def masks():
    """Squares of 12 pixels in 40 × 40, and what was found: moved by two pixels, or nothing in every sixth image."""
    truths, founds = np.zeros((COUNT, 40, 40), bool), np.zeros((COUNT, 40, 40), bool)
    for number in range(COUNT):
        left = 5 + number % 10
        truths[number, 12:24, left : left + 12] = True
        if number % 6:
            founds[number, 14:26, left : left + 12] = True
    return truths, founds


@pytest.fixture(scope="module")
def outlined(masks):
    rows = []
    for truth, found in zip(*masks, strict=True):
        dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
        rows.append({**mask_row(truth, found.astype(float)), "dice": dice, "iou": 0.5, "hd95": 3.0, "presence": "both"})
    table = pd.DataFrame(rows, CASES).assign(patient=PATIENTS, label=LABELS)
    return map_errors(table, "U-Net", enough=0.9)


def test_a_card_of_a_classifier_tells_truth_call_and_case(called, masks):
    case, row = next(iter(called.table.iterrows()))
    example = errors.card(case, row, np.zeros((40, 40), np.uint8), masks[0][0], factors=["scanner", "absent"])
    assert example.title == f"{case}\n{row['truth']}, called {row['prediction']}"
    assert list(example.facts) == ["wrong in 2 of 3 runs", f"scanner: {row['scanner']}"]
    assert example.probability == row["probability"] and not example.filled and list(example.outlines) == [TRUTH]
    assert "patient" not in example.title + " ".join(example.facts)


def test_a_card_of_a_segmenter_colours_what_is_wrong(outlined, masks):
    truth, found = masks[0][1], masks[1][1]
    example = errors.card(CASES[1], outlined.images.loc[CASES[1]], np.zeros((40, 40), np.uint8), truth, found=found)
    assert example.title == f"{CASES[1]}\nboundary only" and np.isnan(example.probability)
    assert example.facts[0].startswith("Dice 0.83, HD95 3 px")
    assert [int(example.filled[colour].sum()) for colour in (FOUND, FALSE, MISSED)] == [120, 24, 24]


def test_cards_have_the_pictures_that_there_are(called, masks):
    image, values = np.zeros((40, 40), np.uint8), np.eye(40)
    rows = list(called.table.iterrows())[:3]
    plain = [errors.card(case, row, image, masks[0][0]) for case, row in rows]
    assert len(errors.cards(plain).axes) == 3 * 2  # a picture and its text
    with_map = [errors.card(case, row, image, masks[0][0], values=values) for case, row in rows]
    figure = errors.cards(with_map)
    assert len(figure.axes) == 3 * 3 + 1  # and the scale
    full = [errors.card(case, row, image, masks[0][0], found=masks[1][1], values=values) for case, row in rows]
    figure = errors.cards(full)
    assert len(figure.axes) == 3 * 4 + 1 and legend(figure) == ["found", "falsely called nodule", "missed"]
    for axes in figure.axes:
        place = axes.get_position()
        assert place.x0 >= 0 and place.x1 <= 1 and place.y0 >= 0 and place.y1 <= 1
    assert errors.cards([]) is None


def test_long_facts_and_ids_stay_on_their_card(called):
    case = "a-very-long-folder-name/" * 4 + "image"
    row = called.table.iloc[0].rename(case)
    example = errors.card(case, row.to_frame().T.assign(note="word " * 40).iloc[0], np.zeros((40, 40)), factors=["note"])
    figure = errors.cards([example] * 4)
    drawn = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    saved(figure)
    boxes = [text.get_window_extent(drawn) for axes in figure.axes for text in [axes.title, axes._left_title, *axes.texts]]
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and min(box.y0 for box in boxes) >= 0


def test_forest_shows_every_subgroup_and_marks_the_small(called):
    right = (~called.images["wrong"]).astype(float)
    table = subgroup_table(right, GROUPS, PATIENTS, deals=19)
    figure = errors.forest(table, overall_estimate(right, PATIENTS), "accuracy")
    axes = figure.axes[0]
    assert dots(axes) == pytest.approx([row.value for row in table["estimate"]])
    hollow = [line.get_markerfacecolor() == "white" for line in axes.lines if line.get_marker() == "o"]
    assert hollow == list(table["marked"]) and sum(hollow) == 1, "7 patients of the old scanner"
    written = [text.get_text() for text in axes.texts]
    assert "too few" in written and "7" in written and legend(figure) == ["fewer than 10 patients: shown, not tested"]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["scanner", "callipers", "new", "old", "no", "yes"]
    assert f"n = {COUNT} images, 24 patients" in axes.get_xlabel()


def test_forest_colours_what_differs_and_survives_undefined_scores():
    row = {"factor": "scanner", "images": 20, "patients": 12, "marked": False}
    nothing, single = Estimate(np.nan, np.nan, np.nan, 0, 0), Estimate(0.7, np.nan, np.nan, 20, 12, note="all resamples agree")
    table = pd.DataFrame(
        [
            {**row, "level": "a", "estimate": Estimate(0.5, 0.4, 0.6, 20, 12), "p_holm": 0.0002, "differs": True},
            {**row, "level": "b", "estimate": nothing, "p_holm": np.nan, "differs": False},
            {**row, "level": "c", "estimate": single, "p_holm": np.nan, "differs": False},
        ]
    )
    figure = errors.forest(table, nothing, "AUC")
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(lines) == 2 and to_hex(lines[0].get_color()) == "#d55e00" != to_hex(lines[1].get_color())
    written = [text.get_text() for text in figure.axes[0].texts]
    assert {"< 0.001", "no data", "–", "0.70 [no interval]"} <= set(written)
    saved(figure)
    assert errors.forest(table.iloc[:0], nothing, "AUC") is None


def test_calibration_draws_observed_and_predicted():
    predictions = pd.DataFrame({"label": LABELS, "probability": PROBABILITIES})
    table = subgroup_calibration(predictions, GROUPS, PATIENTS, deals=19)
    axes = errors.calibration_by_subgroup(table).axes[0]
    assert dots(axes) == pytest.approx([value.value for value in table["observed"]])
    predicted = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert predicted == pytest.approx([value.value for value in table["predicted"]])
    assert errors.calibration_by_subgroup(table.iloc[:0]) is None


def test_loss_of_dice_bars_are_points(outlined):
    table = lost_dice(outlined.images)
    figure = errors.loss_of_dice({"U-Net": table})
    expected = [100 * value.value for value in table["lost"]]
    assert bars(figure.axes[0]) == pytest.approx(expected)
    assert sum(expected[:-1]) == pytest.approx(expected[-1]), "the parts make the whole"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [*LOST_PARTS.values(), "all"]
    assert f"n = {COUNT} images, 24 patients" in figure.axes[0].get_xlabel()
    two = errors.loss_of_dice({"U-Net": table, "SegNet": table})
    assert len(bars(two.axes[0])) == 2 * len(expected) and legend(two) == ["U-Net", "SegNet"]
    assert errors.loss_of_dice({}) is None


def test_nodule_frame_draws_both_maps_on_one_scale(masks):
    found = nodule_frame_errors(*masks, side=12)
    missed, false = errors.nodule_frame(found).axes[:2]
    np.testing.assert_allclose(missed.images[0].get_array(), 100 * found.maps[0])
    np.testing.assert_allclose(false.images[0].get_array(), 100 * found.maps[1])
    assert missed.images[0].get_clim() == false.images[0].get_clim()
    nothing = nodule_frame_errors([np.zeros((8, 8), bool)], [np.ones((8, 8), bool)], side=4)
    assert errors.nodule_frame(nothing) is None


def test_a_segmenter_that_finds_nothing_is_drawn(masks):
    truths, nothing = masks[0], np.zeros_like(masks[0])
    missed, false = errors.nodule_frame(nodule_frame_errors(truths, nothing, side=8)).axes[:2]
    assert missed.images[0].get_array().max() == 100 and false.images[0].get_array().max() == 0
    rows = [
        {**mask_row(truth, np.zeros((40, 40))), "dice": 0.0, "iou": 0.0, "hd95": 56.0, "presence": "missed"} for truth in truths
    ]
    table = lost_dice(pd.DataFrame(rows, CASES).assign(patient=PATIENTS))
    assert max(bars(errors.loss_of_dice({"U-Net": table}).axes[0])) == pytest.approx(100)


def test_risk_coverage_draws_the_curve_and_its_area(called):
    wrong = called.images["wrong"].astype(float)
    curve = risk_coverage(1 - called.images["confidence"], wrong)
    figure = errors.risk_coverage({"confidence": curve})
    line, chance = figure.axes[0].lines
    drawn = curve[curve["coverage"] >= 0.05]
    assert list(line.get_xdata()) == pytest.approx(list(100 * drawn["coverage"]))
    assert list(line.get_ydata()) == pytest.approx(list(drawn["risk"]))
    assert chance.get_ydata()[0] == pytest.approx(wrong.mean())
    assert legend(figure)[0] == f"confidence: {curve['risk'].mean():.3f}"
    assert figure.axes[0].get_title(loc="left") == f"n = {COUNT} images"
    assert errors.risk_coverage({"dropout": curve.iloc[:0]}) is None


def test_decision_curve_draws_models_and_both_references():
    curve = benefit_curve(LABELS, PROBABILITIES, range(len(LABELS)))
    figure = errors.decision_curve({"ResNet18": curve, "VGG16": curve}, "n = 48 images")
    lines = figure.axes[0].lines
    for line, column in zip(lines, ["net_benefit", "net_benefit", "treat_all", "treat_none"], strict=True):
        assert list(line.get_ydata()) == pytest.approx(list(curve[column]))
    assert legend(figure) == ["ResNet18", "VGG16", "act on all", "act on nobody"]
    low, high = figure.axes[0].get_ylim()
    assert high > curve["net_benefit"].max() and low > curve["treat_all"].min(), "acting on all is cut off below"
    assert errors.decision_curve({}) is None


def robustness_table(kinds, undefined=()) -> pd.DataFrame:
    rows = []
    for kind in kinds:
        for level in PERTURBATIONS[kind].levels:
            value = np.nan if level in undefined else 0.9 - 0.001 * abs(level)
            rows.append(
                {
                    "perturbation": kind,
                    "level": level,
                    "measure": "auc",
                    "score": Estimate(value, value - 0.1, value + 0.05, 30, 12),
                }
            )
    return pd.DataFrame(rows)


def test_robustness_has_a_panel_a_disturbance():
    table = robustness_table(PERTURBATIONS)
    figure = errors.robustness({"ResNet18": table, "VGG16": table}, "auc", "AUC")
    assert [axes.get_xlabel() for axes in figure.axes] == [kind.label for kind in PERTURBATIONS.values()]
    gain = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert list(gain[0].get_xdata()) == list(PERTURBATIONS["gain"].levels) and len(gain) == 2
    assert figure.legends[0].get_title().get_text() == "n = 30 images, 12 patients"
    few = errors.robustness({"ResNet18": robustness_table(["gain", "blur", "jpeg", "clahe"], undefined=(-12, 8))}, "auc", "AUC")
    assert sum(axes.get_visible() for axes in few.axes) == 4
    saved(few)
    assert errors.robustness({"ResNet18": table}, "dice", "Dice") is None
    assert errors.robustness({}, "auc", "AUC") is None


def test_conformal_bars_add_up_and_show_coverage():
    sets = conformal_sets(PROBABILITIES[:24], LABELS[:24], PROBABILITIES[24:], 0.2)
    table = coverage(sets, LABELS[24:], PATIENTS[24:], resamples=50)
    figure = errors.conformal_bars(table, 0.2)
    widths, shown = figure.axes
    assert sum(bars(widths)) == pytest.approx(300), "three rows of 100 %"
    assert dots(shown) == pytest.approx([100 * value.value for value in table["coverage"]])
    right = sum(patch.get_width() for patch in widths.patches if to_hex(patch.get_facecolor()) == "#009e73") / 3
    assert right <= 100 * table["coverage"].map(lambda value: value.value).mean() + 1e-9
    benign = (LABELS[24:] == 0).to_numpy()
    one = coverage(sets[benign], LABELS[24:][benign], PATIENTS[24:][benign], resamples=50)
    assert len(errors.conformal_bars(one, 0.2).axes[0].get_yticklabels()) == 2, "one class: no row of the other"
    assert errors.conformal_bars(one.iloc[2:], 0.2) is None


def test_label_suspects_show_label_and_probability_but_no_patient(tmp_path):
    image = write_png(tmp_path / "image.png", np.full((30, 30), 90, np.uint8))
    rows = [
        {"case": case, "image": str(image), "mask": pd.NA, "label": LABELS[case], "patient": PATIENTS[case], "dataset": "drawn"}
        for case in CASES
    ]
    cases = make_cases(rows)
    ranked = rank_label_errors(LABELS, PROBABILITIES, PATIENTS)
    figure = errors.label_suspects(cases, ranked, count=3)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    first = ranked.iloc[0]
    name = ["benign", "malignant"][first["label"]]
    assert len(titles) == 3 and titles[0] == f"1. {ranked.index[0]}\nlabelled {name}, p(malignant) {first['probability']:.2f}"
    assert not any("patient" in title for title in titles)
    assert errors.label_suspects(cases, ranked[~ranked["suspect"]]) is None


def test_the_same_data_gives_the_same_file_and_no_figure_stays_open(outlined):
    table = lost_dice(outlined.images)
    assert saved(errors.loss_of_dice({"U-Net": table})) == saved(errors.loss_of_dice({"U-Net": table}))
    assert plt.get_fignums() == []
