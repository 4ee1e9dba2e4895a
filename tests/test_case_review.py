"""Which cases of a report can be looked at, what is said and shown of them, and what a threshold means."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from review_project import reviewed, write_report
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.curves import benefit_curve
from thyroid_utils.studies import case_review
from thyroid_utils.studies.case_review import Review
from thyroid_utils.studies.case_review.choices import at_threshold, filtered
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import classifier_errors
from thyroid_utils.workbook.review.browse import browse, told
from thyroid_utils.workbook.review.shown import Shown
from thyroid_utils.workbook.review.threshold import threshold_panel
from thyroid_utils.workbook.review.viewer import LAYERS, picture


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with reviewed(tmp_path_factory) as found:
        yield found


@pytest.fixture
def chosen(project):
    return Review.of(str(project[0])).sets[0]


def test_a_table_says_what_notebook_07_says_and_dice_is_that_of_the_layers(project, chosen):
    assert list(chosen.networks) == ["timm:test_resnet", "timm:test_resnet, focal", "unet (widths [4, 8]), bce_dice"]
    calls = chosen.table("timm:test_resnet")
    errors = classifier_errors(ClassifierComparison.of(project[1][:2]), "timm:test_resnet")
    assert calls[calls["wrong"]].sort_values("error").index.tolist() == errors.table.index.tolist()
    assert calls["runs"].eq(2).all() and calls["between_runs"].notna().all()
    assert ((calls["probability"] >= calls["threshold"]) != calls["label"].astype(bool)).equals(calls["wrong"].astype(bool))
    masks = chosen.table("unet (widths [4, 8]), bce_dice")
    for case, row in masks.iterrows():
        layers = chosen.layers("unet (widths [4, 8]), bce_dice", case)
        truth, found = layers["truth"], layers["prediction"] >= 0.5
        assert row["dice"] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
        p = np.clip(layers["prediction"].astype(float), 1e-9, 1 - 1e-9)
        assert layers["uncertainty"] == pytest.approx(-p * np.log2(p) - (1 - p) * np.log2(1 - p), abs=1e-5)


def test_grad_cam_is_that_of_the_network_on_the_frame(project, chosen):
    predictor, case = Predictor(project[1][0]), chosen.cases.index[0]
    expected = predictor.on_frame(case, cam_maps(predictor.network, predictor.inputs([case])).maps[0])
    found = chosen.layers("timm:test_resnet", case, attention=True)
    assert np.array_equal(found["attention"], expected) and found["frame"].shape == expected.shape
    assert chosen.layers("unet (widths [4, 8]), bce_dice", case, attention=True)["attention"].max() <= 1


CASES = pd.DataFrame(
    {
        "label": [0, 0, 1, 1, None],
        "wrong": [False, True, True, False, False],
        "kind": ["", "false positive", "false negative", "", ""],
        "uncertainty": [0.1, 0.9, 0.5, 0.2, 0.3],
        "dice": [0.9, None, 0.2, 0.5, 0.9],
        "suspect": [False, True, False, False, False],
        "group size": ["small", "large", None, "large", "small"],
    },
    list("abcde"),
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "abcde"),
        ({"outcome": "right"}, "ade"),
        ({"outcome": "wrong"}, "bc"),
        ({"outcome": "false negative"}, "c"),
        ({"label": 0}, "ab"),
        ({"group": ("size", "large")}, "bd"),
        ({"uncertainty": (0.75, 1)}, "bc"),
        ({"dice": (0.5, 0.9)}, "ade"),
        ({"suspects": True}, "b"),
        ({"outcome": "wrong", "label": 0}, "b"),
        ({"order": ("uncertainty", False)}, "bceda"),
        ({"order": ("dice", True)}, "cdaeb"),
        ({"outcome": "wrong", "suspects": True, "label": 1}, ""),
    ],
    ids=str,
)
def test_filters_and_orders(asked, expected):
    assert filtered(CASES, **asked) == list(expected)


def test_a_threshold_means_what_scikit_learn_and_bayes_say(chosen):
    table = chosen.table("timm:test_resnet")
    threshold = float(table["probability"].median())
    calibrated = chosen.calibrate("timm:test_resnet", threshold)
    found, called = at_threshold(table, threshold, 0.1, calibrated), table["probability"] >= threshold
    assert (found.matrix == confusion_matrix(table["label"], called)).all()
    se, sp = recall_score(table["label"], called), recall_score(table["label"], called, pos_label=0)
    assert (found.sensitivity.value, found.specificity.value) == pytest.approx((se, sp))
    assert found.ppv == pytest.approx(0.1 * se / (0.1 * se + 0.9 * (1 - sp)))
    here = at_threshold(table, threshold, table["label"].mean(), calibrated)
    assert here.ppv == pytest.approx(precision_score(table["label"], called)), "at these images' prevalence: precision"
    curve = benefit_curve(table["label"], table["calibrated"], table["patient"], [calibrated])
    assert found.net_benefit == pytest.approx(curve["net_benefit"].iloc[0])
    assert np.isnan(at_threshold(table, 1.1, 0.1, 1.0).ppv) and np.isnan(at_threshold(table, 1.1, 0.1, 1.0).net_benefit)


def test_a_pruned_or_damaged_report_shows_what_is_left_and_says_what_is_missing(project, tmp_path, monkeypatch):
    runs = shutil.copytree(project[1][0].folder.parent, tmp_path / "runs")
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(runs))
    shutil.rmtree(runs / project[1][2].name)
    (runs / project[1][3].name / "maps.safetensors").unlink()
    review = Review.of(str(project[0]))
    assert f"1 run of 4 is not to be found ({project[1][2].name[:8]})" in told(review).value
    shown = Shown(review)
    box = browse(shown)
    assert len(review.sets[0].networks) == 2 and shown.case
    text = "".join(value for value in (widget.value for widget in _html(box)) if isinstance(value, str))
    assert f"run {project[1][3].name[:8]}: a file of it is missing or damaged" in text
    assert "probability of malignant" in text, "the classifier's numbers are there"


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({}, None),
        ({"status": "failed"}, "expected the folder of a finished report"),
        ({"notebooks": []}, "expected the folder of a finished report"),
    ],
    ids=str,
)
def test_the_newest_finished_report_is_taken_and_no_other_folder(project, tmp_path, monkeypatch, record, found):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    assert "make report" in told(Review.of()).value and isinstance(browse(Shown(Review.of())).value, str)
    write_report(tmp_path / "reports" / "old", [], started="2025-01-01")
    folder = write_report(tmp_path / "reports" / "new", project[1], **record)
    if found is None:
        assert Review.of().report == folder and Review.of(runs=[project[1][0].name[:8]]).report is None
        return
    assert Review.of().report.name == "old"
    with pytest.raises(DataError, match=found):
        Review.of("reports/new")


def test_folds_are_read_as_one_and_told_of_where_one_is_missing(project, monkeypatch):
    whole = project[1][:2]
    config = whole[0].config
    folds = [config.model_copy(update={"split": config.split.model_copy(update={"folds": 3, "fold": at})}) for at in (0, 1)]
    for run, changed in zip(whole, folds, strict=True):
        monkeypatch.setitem(run.__dict__, "config", changed)
    sets, broken = case_review._sets([(run, "03") for run in whole])
    assert not sets and "expected the 3 folds" in broken[0]


def _html(box):
    return [box] if hasattr(box, "value") else [found for child in getattr(box, "children", ()) for found in _html(child)]


def test_the_panels_follow_what_is_shown_and_load_no_pytorch(project):
    """With everything kept from before, in a process where PyTorch cannot be imported."""
    for name in Review.of(str(project[0])).sets[0].networks:
        Review.of(str(project[0])).sets[0].table(name)
    script = f"""if True:
        import sys
        sys.modules["torch"] = None
        from thyroid_utils.studies.case_review import Review
        from thyroid_utils.workbook.review.browse import browse, notice
        from thyroid_utils.workbook.review.shown import Shown
        from thyroid_utils.workbook.review.threshold import threshold_panel
        shown = Shown(Review.of({str(project[0])!r}))
        notice(), browse(shown), threshold_panel(shown)
        assert len(shown.networks) == 2
        first = shown.case
        shown.step(-1)
        assert shown.case == first == shown.cases[0]
        shown.step(1)
        assert shown.case == shown.cases[1]
        shown.step(1000)
        assert shown.case == shown.cases[-1]
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_picture_has_its_layers_in_their_order_no_larger_than_a_screen():
    frame, mask = np.zeros((1500, 2000), np.uint8), np.zeros((1500, 2000), bool)
    mask[:100, :100] = True
    found = picture("a", {"truth": mask, "frame": frame, "attention": mask.astype(float)}, "b")
    assert list(found["layers"]) == ["frame", "truth", "attention"] and set(found["layers"]) < set(LAYERS)
    assert (found["width"], found["height"]) == (2000, 1500), "of the frame, for the ruler"
    sizes = [int.from_bytes(png[16:20], "big") for png in found["layers"].values()]
    assert sizes == [1000, 1000, 1000]


def test_the_threshold_panel_asks_another_classifier_and_has_none_without_one(chosen):
    shown = Shown(Review())
    panel = threshold_panel(shown)
    assert "No classifier" in _html(panel)[-1].value
    shown.chosen = chosen
    assert "called malignant" in _html(panel)[-1].value and _html(panel)[-1].value.count("<circle") == 2
