"""Errors as rows, and the kinds of errors there are, on decisions and masks made by hand and on tiny runs."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from training_project import one_cache, own_runs, register_tiny_segmenter, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.estimates import patient_bootstrap, proportion_interval
from thyroid_utils.scores.masks import segmentation_table
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import (
    MODES,
    classifier_errors,
    decision_errors,
    failure_modes,
    segmenter_errors,
)
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.fit import fit_or_load


def decisions_of(probabilities: list[float], labels: list[int], threshold: float = 0.5, images: int = 1) -> pd.DataFrame:
    """A patient every `images` images."""
    index = pd.Index([f"c{number}" for number in range(len(labels))], dtype="string", name="case")
    patients = [f"p{number // images}" for number in range(len(labels))]
    columns = {"patient": patients, "label": labels, "probability": probabilities, "threshold": threshold}
    return pd.DataFrame(columns | {"log_odds": 0.0, "runs_wrong": 0, "runs": 1}, index)


def test_errors_are_sorted_by_how_sure_the_model_was():
    decisions = decisions_of([0.9, 0.3, 0.45, 0.1, 0.6, 0.4], [0, 0, 0, 1, 1, 1], threshold=0.4)
    uncertainty = pd.Series([0.1, 0.2], ["c0", "c3"])
    errors = decision_errors(decisions, "tiny", uncertainty=uncertainty)
    table = errors.table
    # 0.9 has gone 5/6 of the way from 0.4 to 1, 0.1 has gone 3/4 of the way to 0, 0.45 has gone 1/12.
    assert list(table.index) == ["c0", "c3", "c2"]
    np.testing.assert_allclose(table["confidence"], [5 / 6, 3 / 4, 1 / 12])
    assert table["kind"].tolist() == ["false positive", "false negative", "false positive"]
    assert table["truth"].tolist() == ["benign", "malignant", "benign"]
    assert table["prediction"].tolist() == ["malignant", "benign", "malignant"]
    assert table["uncertainty"].tolist()[:2] == [0.1, 0.2] and np.isnan(table["uncertainty"].iloc[2])
    assert list(errors.shown(2).index) == ["c0", "c3"]
    assert errors.rate == patient_bootstrap([1, 0, 1, 1, 0, 0], decisions["patient"])
    assert errors.sentence.startswith("tiny is wrong on 3 of 6 images of 6 patients (50.0 %, 95 % interval over patients ")
    assert errors.sentence.endswith(": 2 false positives of 3 benign images, 1 false negative of 3 malignant images.")


def test_saturated_probabilities_are_told_apart_by_their_logits():
    decisions = decisions_of([1.0, 1.0, 0.0], [0, 0, 1]).assign(log_odds=[20.0, 40.0, -30.0])
    assert list(decision_errors(decisions, "tiny").table.index) == ["c1", "c2", "c0"]
    for threshold in (0.0, np.nextafter(1, 2)):
        confidence = decision_errors(decisions_of([0.0, 0.5, 1.0], [0, 1, 1], threshold), "tiny").images["confidence"]
        assert np.isfinite(confidence).all() and confidence.between(0, 1).all()


def test_no_error_is_said_and_the_least_certain_are_shown():
    errors = decision_errors(decisions_of([0.2, 0.45, 0.9, 0.52], [0, 0, 1, 1]), "perfect")
    assert errors.table.empty and "kind" in errors.table
    assert list(errors.shown(9).index) == ["c3", "c1", "c0", "c2"]
    high = 100 * proportion_interval(0, 4)[1]
    assert errors.sentence == (
        "perfect makes no error on 4 images of 4 patients (95 % interval of the share of patients with one: 0 to "
        f"{high:.0f} %). It was least certain of c3, c1, c0."
    )
    modes = failure_modes(errors)
    assert modes.table.empty and modes.sentence == errors.sentence
    assert {"mode", "share", "most_in"} <= set(modes.table)


@pytest.mark.parametrize(("label", "kind", "other"), [(0, "false positives", "malignant"), (1, "false negatives", "benign")])
def test_one_class_only(label, kind, other):
    errors = decision_errors(decisions_of([0.9, 0.6, 0.1, 0.45], [label] * 4), "tiny")
    assert errors.sentence.endswith(f"no {other} image was tested.") or f"no {other} image was tested," in errors.sentence
    modes = failure_modes(errors)
    assert modes.table["mode"].str.startswith(kind).all() and modes.table["images"].sum() == 2


def grouped(kind: int = 1, images: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """40 benign and 40 malignant patients; nearly all errors are malignant nodules on device B, the fewer half."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40 * images)
    device = np.repeat(np.tile(["A", "A", "B"], 27)[:80], images)
    wrong = np.where((labels == kind) & (device == "B"), 0.85, 0.06) > random.random(len(labels))
    sure = np.where(random.random(len(labels)) < 0.5, 0.4, 0.05)  # confidence 0.9 or 0.2
    called = labels ^ wrong
    probabilities = np.where(called, 0.5 + np.abs(sure - 0.5), 0.5 - np.abs(sure - 0.5))
    decisions = decisions_of(list(probabilities), list(labels), images=images)
    side = np.tile(["left", "right"], len(labels) // 2)
    return decisions, pd.DataFrame({"device": pd.Categorical(device), "side": pd.Categorical(side)}, decisions.index)


def test_a_subgroup_with_more_errors_is_a_mode_and_every_error_is_in_one():
    decisions, groups = grouped()
    errors = decision_errors(decisions, "tiny", groups=groups)
    modes = failure_modes(errors)
    assert modes.table["images"].sum() == len(errors.table)
    assert sum(share.value for share in modes.table["share"]) == pytest.approx(1)
    first = modes.table.iloc[0]
    inside = (errors.images["label"] == 1) & (errors.images["device"] == "B")
    assert first["mode"] == "false negatives, device: B" and first["images"] == errors.images.loc[inside, "wrong"].sum()
    assert first["patients"] == errors.images.loc[inside & errors.images["wrong"], "patient"].nunique()
    assert not modes.table["mode"].str.contains("false positives, device|side:|near the threshold, ").any()
    rest = errors.table[~inside[errors.table.index]]
    counts = modes.table.set_index("mode")["images"]
    near = int((rest["confidence"] < 0.25).sum())
    assert counts[counts.index.str.endswith("near the threshold")].sum() == near
    assert counts[counts.index.str.endswith("confident")].sum() == len(rest) - near
    malignant = errors.images["label"] == 1
    expected = first["images"] * inside.sum() / malignant.sum()
    assert first["most_in"] == f"device: B ({first['images']} images, {expected:.1f} expected)"
    assert f"false negatives, device: B ({first['images']} of {len(rest) + first['images']} errors" in modes.sentence
    assert "Largest failure modes: " in modes.sentence and modes.sentence.startswith("tiny is wrong on ")


def test_without_a_subgroup_that_differs_no_subgroup_is_a_mode():
    decisions, groups = grouped(kind=7)
    modes = failure_modes(decision_errors(decisions, "tiny", groups))
    assert not modes.table["mode"].str.contains("device").any() and modes.table["images"].sum() > 3
    names = {f"false {kind}s{how}" for kind in ("positive", "negative") for how in (", confident", " near the threshold")}
    assert set(modes.table["mode"]) <= names
    assert failure_modes(decision_errors(decisions, "tiny")).table["most_in"].eq("").all()


def test_a_small_subgroup_is_no_mode_however_bad():
    decisions = decisions_of([0.9] * 8 + [0.1] * 40, [0] * 48)
    groups = pd.DataFrame({"device": pd.Categorical(["odd"] * 8 + ["usual"] * 40)}, decisions.index)
    modes = failure_modes(decision_errors(decisions, "tiny", groups))
    assert modes.table["mode"].tolist() == ["false positives, confident"] and modes.table.at[0, "most_in"] == ""
    assert (modes.table.at[0, "share"].value, modes.table.at[0, "of_tested"].value) == (1, 8 / 48)
    assert "Largest failure modes: false positives, confident (8 of 8 errors, 100 % [" in modes.sentence


SIDE = 48


def block(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


NODULE = (14, 34, 14, 34)


def made_comparison(truths: list[np.ndarray], maps: list[np.ndarray]) -> SimpleNamespace:
    """What a comparison of segmenters offers: every two images a patient."""
    names = pd.Index([f"c{number}" for number in range(len(truths))], dtype="string", name="case")
    pairs = [(truth, probability >= 0.5) for truth, probability in zip(truths, maps, strict=True)]
    table = segmentation_table(pairs, names, [None] * len(names))
    truth = pd.DataFrame({"patient": [f"p{number // 2}" for number in range(len(names))], "label": pd.NA}, names)
    pictures = {case: (truth, *pair) for case, pair in zip(names, zip(truths, maps, strict=True), strict=True)}
    both = pd.concat([table.assign(resolution=name) for name in ("network", "own")])
    return SimpleNamespace(tables={"tiny": [both]}, truth=truth, picture=lambda model, case: pictures[case])


def certain(mask: np.ndarray, inside: float = 0.9) -> np.ndarray:
    return np.where(mask, inside, 0.1).astype(np.float32)


def test_every_error_of_a_segmenter_is_in_one_mode():
    truths = [block(NODULE)] * 6 + [block()]
    maps = [certain(block(NODULE)), certain(block((14, 34, 14, 33)), 0.7), certain(block()), certain(block((0, 8, 0, 8))),
            certain(block((14, 20, 14, 34)), 0.6), certain(block(NODULE, (36, 48, 30, 48))), certain(block())]  # fmt: skip
    comparison = made_comparison(truths, maps)
    errors = segmenter_errors(comparison, "tiny", 0.8)
    assert errors.images["wrong"].tolist() == [False, False, True, True, True, True, False]
    assert errors.images["mode"].tolist() == ["", "boundary", "missed", "wrong place", "core", "extra", ""]
    np.testing.assert_allclose(errors.images["confidence"], [0.9, 0.7, 0.9, 0.9, 0.6, 0.9, 0.9], rtol=1e-5)
    assert errors.table.index[-1] == "c4" and errors.images["truth"].eq("unlabelled").all()
    modes = failure_modes(errors)
    assert dict(zip(modes.table["mode"], modes.table["images"], strict=True)) == {
        MODES[name]: 1 for name in ("missed", "wrong place", "extra", "core")
    }
    dice = errors.images["dice"]
    assert modes.table.set_index("mode").at[MODES["core"], "dice_lost"] == pytest.approx((1 - dice["c4"]) / (1 - dice).sum())
    assert modes.sentence.startswith("tiny is wrong on 4 of 7 images of 4 patients (57.1 %")
    assert len(segmenter_errors(comparison, "tiny", 1.0).table) == 5  # the empty image is no error


def test_tiny_runs_give_their_errors(monkeypatch):
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    classifiers = ClassifierComparison.of([fit_or_load(tiny_config(training__epochs=1, seed=seed)) for seed in (0, 1)])
    errors = classifier_errors(classifiers, "tiny")
    decisions = classifiers.decisions("tiny")
    assert errors.images["wrong"].equals(~decisions["right"]) and (errors.images["runs"] == 2).all()
    assert (errors.images["runs_wrong"] >= errors.images["wrong"]).all() and errors.images["runs_wrong"].max() <= 2
    assert errors.images["patient"].equals(decisions["patient"])
    segmenters = SegmenterComparison.of([fit_or_load(segmentation_config(training__epochs=1))])
    errors = segmenter_errors(segmenters, "tiny_segmenter", 1.0)
    truth, probability = segmenters.picture("tiny_segmenter", errors.images.index[0])[1:]
    assert errors.images["wrong_pixels"].iloc[0] == ((probability >= 0.5) != truth).sum()
    own = segmenters.tables["tiny_segmenter"][0].query("resolution == 'own'")
    assert errors.images["wrong_pixels"].equals(own["false_positives"] + own["false_negatives"])
    modes = failure_modes(errors)
    assert modes.table["images"].sum() == len(errors.table) > 0 and set(modes.table["mode"]) <= set(MODES.values())
