"""The framework's study: variants against their runs' own numbers, and tables of small cases by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import project, stage_of
from sklearn.metrics import roc_auc_score

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import share
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.findings import STAGES, CaseImage, Findings
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import segmentation_scores
from thyroid_utils.scores.recipes import ONE_TRAINING, RecipeComparison, auc_influence, compare_recipes
from thyroid_utils.studies import dual_stage
from thyroid_utils.studies.dual_stage import VARIANTS, DualStageStudy, predicted_mask, with_crop
from thyroid_utils.studies.dual_stage_tables import (
    agreement,
    answer,
    dice_by_decision,
    examples,
    findings_on_test,
    followed,
    outcome_table,
    stage_seconds,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, seeds=[0, 1]) as found:
        yield found


@pytest.fixture(scope="module")
def study(runs):
    return DualStageStudy.of(runs)


@pytest.fixture(scope="module")
def found(runs) -> Findings:
    return findings_on_test(stage_of(runs["frame"][0], runs["segmenter"][0]))


def table(**columns) -> pd.DataFrame:
    """Of `findings_on_test`, by hand: a patient an image unless said otherwise."""
    size = len(columns["wrong"])
    given = {"error": [""] * size, "warnings": [""] * size, "patient": [f"p{at}" for at in range(size)], "entropy": [0.5] * size}
    return pd.DataFrame({**given, **columns}, index=pd.Index([f"c{at}" for at in range(size)], name="case")).assign(
        wrong=pd.array(columns["wrong"], dtype="boolean")
    )


def test_a_crop_stands_in_front_of_resize():
    crop = {"nodule_crop": {"margin": 0.3}}
    assert with_crop(["gray", "resize", "scale"], 0.3) == ["gray", crop, "resize", "scale"]
    assert [step.name for step in build_pipeline(with_crop("paper_004")).steps] == ["gray", "scale", "nodule_crop", "resize"]
    for wrong in ("paper_00", ["gray", "scale"]):
        with pytest.raises(DataError):
            with_crop(wrong)


def test_each_variant_says_what_its_runs_say(study, runs):
    order = study.truth.index
    for variant, role in (("frame", "frame"), ("crop_true", "crop"), ("joint", "joint")):
        told = [run.predictions.loc[order, "probability"] for run in runs[role]]
        np.testing.assert_array_equal(study.classes.probabilities(variant), told)
    stage = stage_of(runs["crop"][1], runs["segmenter"][1])
    images = stage.classifier.cases.loc[order, "image"]
    crops = [finding.uncalibrated for finding in stage.findings(CaseImage(*item) for item in images.items())]
    # A mask kept in steps of 1/255 may differ by a pixel at its border, and move the crop by one.
    assert np.abs(study.classes.probabilities("crop_predicted")[1] - crops).max() < 0.05


def test_a_perfect_segmenter_costs_nothing(runs, monkeypatch):
    def true_mask(predictor, split, case):
        return read_mask(predictor.cases.at[case, "mask"])

    monkeypatch.setattr(dual_stage, "predicted_mask", true_mask)
    study = DualStageStudy.of({role: runs[role] for role in ("frame", "crop", "segmenter")})
    np.testing.assert_allclose(study.classes.probabilities("crop_predicted"), study.classes.probabilities("crop_true"), atol=1e-5)
    assert study.variants == ["frame", "crop_true", "crop_predicted"]


def test_scores_and_differences(study):
    estimates, label = study.estimates(["auc", "accuracy"]), study.truth["label"]
    for variant in VARIANTS:
        areas = [roc_auc_score(label, seed) for seed in study.classes.probabilities(variant)]
        assert estimates.at[variant, "auc"].value == pytest.approx(np.mean(areas))
    val = study.runs["frame"][1].predictions.query("split == 'val'")
    assert study.classes.thresholds["frame"][1] == choose_threshold(val["label"], val["probability"])
    pairs = study.comparisons()
    for row in pairs.itertuples():
        one, two = (auc_influence(label, study.classes.probabilities(name)) for name in (row.first, row.second))
        expected = compare_recipes(one, two, study.truth["patient"], most=1)
        withheld = {row.first, row.second} <= set(study.classes.untrained)
        assert row.difference.difference == expected.difference and np.isnan(row.difference.p_value) == withheld
        assert withheld or row.difference == expected
    np.testing.assert_array_equal(pairs["p_holm"], holm([each.p_value for each in pairs["difference"]]))


def test_both_masks_are_scored(study, runs):
    case = study.truth.index[0]
    predictors = [Predictor(run) for run in runs["joint"]]
    truth = read_mask(predictors[0].cases.at[case, "mask"])
    masks = [predicted_mask(predictor, "test", case) for predictor in predictors]
    scored = study.masks.values("joint", ["dice"], cases=[case])[:, 0, 0]
    assert scored.tolist() == pytest.approx([segmentation_scores(truth, mask)["dice"] for mask in masks])
    rows = study.dice_table()
    assert rows.at["segmenter", "difference"] is None
    difference = rows.at["joint", "dice"].value - rows.at["segmenter", "dice"].value
    assert rows.at["joint", "difference"].difference == pytest.approx(difference)


def test_runs_of_other_seeds_or_splits_are_refused(runs, monkeypatch):
    with pytest.raises(DataError, match="different seeds"):
        DualStageStudy.of({**runs, "crop": runs["crop"][:1]})
    segmenter = runs["segmenter"][0]
    stage = stage_of(runs["frame"][0], segmenter)
    monkeypatch.setitem(segmenter.data, "fingerprint", "another")
    for refused in (lambda: DualStageStudy.of(runs), lambda: findings_on_test(stage)):
        with pytest.raises(DataError, match="different splits"):
            refused()


def test_findings_meet_the_truth(found, runs):
    stage = stage_of(runs["frame"][0], runs["segmenter"][0])
    cases, rows = stage.classifier.cases, found.table
    assert list(rows.index) == list(cases.index[cases["split"] == "test"]) and not found.kept
    assert (rows["label"] == cases.loc[rows.index, "label"]).all() and (rows["patient"] == cases.loc[rows.index, "patient"]).all()
    assert (rows["wrong"] == (rows["called"] != rows["label"].map({0: "benign", 1: "malignant"}))).all()
    some = findings_on_test(stage, list(rows.index[2:0:-1]))
    assert list(some.kept) == list(rows.index[2:0:-1])
    for case, finding in some.kept.items():
        truth = read_mask(cases.at[case, "mask"])
        assert rows.at[case, "dice"] == pytest.approx(segmentation_scores(truth, finding.mask)["dice"])
        assert rows.at[case, "area_mm2"] == pytest.approx(rows.at[case, "area_px"] * float(cases.at[case, "spacing_mm"]) ** 2)


def test_an_image_is_followed_to_both_answers_of_its_finding(found, runs):
    stage, (case, row) = stage_of(runs["frame"][0], runs["segmenter"][0]), next(found.table.iterrows())
    steps = followed(stage, case)[case]
    sign = "≥" if row["called"] == "malignant" else "<"
    assert steps["called"] == f"{row['called']}: {row['probability']:.2f} {sign} {stage.threshold:.2f}"
    hits, alarms, missed = map(int, re.findall(r"\d+", steps["both, the mask alone, the truth alone, neither"])[:3])
    assert hits + alarms == row["area_px"] and 2 * hits / (2 * hits + alarms + missed) == pytest.approx(row["dice"])
    assert steps["Dice = 2TP / (2TP + FP + FN)"].endswith(f"= {row['dice']:.2f}")
    shares = (share(row[name]) for name in ("attention_inside", "attention_by_chance"))
    assert steps["attention inside the outline"] == ", by chance ".join(shares)


def test_dice_by_decision_by_hand():
    rows = table(
        wrong=[False] * 6 + [True] * 5 + [None, False],
        label=[0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0],
        called=["benign"] * 3 + ["malignant"] * 3 + ["malignant"] * 2 + ["benign"] * 3 + ["", "benign"],
        dice=[0.9, 0.8, 0.7, 0.95, 0.85, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, np.nan, np.nan],
    )
    result = dice_by_decision(rows)
    means = {name: value.value for name, value in result.table["dice"].items()}
    assert means == pytest.approx(
        {"right": 0.8, "wrong": 0.3, "benign, called benign": 0.8, "benign, called malignant": 0.45,
         "malignant, called malignant": 0.8, "malignant, called benign": 0.2}
    )  # fmt: skip
    assert result.comparison.effect == -1 and result.comparison.p_value == pytest.approx(0.008113, rel=1e-4)  # z = 14.5 / √30
    assert result.left_out == 2 and result.table.at["wrong", "patients"] == 5


def test_the_answer_follows_the_numbers(study):
    """Twelve patients, an image each: the two wrong ones have the poorest outlines, or calls are all right."""
    wrong, dice = [True] * 2 + [False] * 10, [0.1, 0.2, *np.linspace(0.5, 0.9, 10)]
    rows = {"label": [0, 1] * 6, "called": ["benign"] * 12, "dice": dice}
    decided, calm = (dice_by_decision(table(wrong=calls, **rows)) for calls in (wrong, [False] * 12))
    sure = RecipeComparison(0.8, 0.7, 0.1, 0.02, 0.18, 0.01, 32, 16, seeds=3)
    one = replace(sure, low=np.nan, high=np.nan, p_value=np.nan, note=ONE_TRAINING, fixed_low=-0.1, fixed_high=0.3)
    trained = replace(study, runs=dict(study.runs))
    trained.__dict__["classes"] = SimpleNamespace()

    def told(found, known=decided, untrained=(), learnt=True):
        trained.classes.untrained = list(untrained)
        pairs = pd.DataFrame({"first": ["crop_predicted"], "second": ["frame"], "difference": [found]})
        return answer(trained, known, pairs.assign(p_holm=found.p_value, differs=found.p_value < 0.05), learnt)

    first = told(sure)
    assert (
        first.startswith("Both stages go wrong on the same images: Dice is 0.15") and "more than chance (p = 0.01 after" in first
    )
    assert "16 images of 8 patients" in first and "+0.100 [+0.020, +0.180]" in first
    assert "not more than chance can give (p = 0.2" in told(replace(sure, p_value=0.2))
    withheld = told(one)
    assert (
        f"cannot say whether crops are better to classify than whole frames, because {ONE_TRAINING}" in withheld
        and "[−0.100, +0.300]" in withheld
    )
    assert "because right and wrong calls are not both there" in told(sure, calm)
    idle = told(sure, untrained=["frame"], learnt=False)
    assert (
        "validation does not show that the classifier and the segmenter learnt anything" in idle
        and "go wrong on the same images:" not in idle
    )


def test_variants_that_validation_calls_untrained_have_no_verdict(runs):
    study = DualStageStudy.of(runs)
    study.classes.__dict__["untrained"] = list(VARIANTS)
    assert study.comparisons()["p_holm"].isna().all() and not study.comparisons()["differs"].any()


def test_outcomes_by_hand():
    rows = table(
        wrong=[False, False, False, True, True, None, False],
        label=[0, 0, 1, 1, 0, 0, 1],
        probability=[0.1, 0.2, 0.9, 0.2, 0.8, np.nan, 0.9],
        dice=[0.9, 0.7, 0.2, 0.8, 0.1, 0.9, np.nan],
        patient=["a", "a", "b", "c", "d", "e", "f"],
    )
    result = outcome_table(rows, 0.7)
    assert result["images"].to_dict() == {
        "both right": 2, "class wrong, mask right": 1, "class right, mask wrong": 1, "both wrong": 1,
    }  # fmt: skip
    assert result.at["both right", "patients"] == 1 and result.at["both right", "share"].value == pytest.approx(0.4)
    assert result["if_unrelated"].tolist() == pytest.approx([0.36, 0.24, 0.24, 0.16])


def test_agreement_by_hand():
    rows = table(
        wrong=[False, False, False, True, True, False, None],
        attention_inside=[0.8, 0.6, 0.2, 0.1, 0.05, np.nan, 0.9],
        attention_by_chance=[0.2, 0.3, 0.1, 0.1, 0.1, np.nan, 0.1],
        dice=[0.9, 0.8, 0.7, 0.2, 0.4, 0.0, np.nan],
    )
    result = agreement(rows)
    assert result.table["images"].to_dict() == {"inside": 3, "outside": 2, "undefined": 1}
    assert [value.value for value in result.table["accuracy"]] == [1, 0, 1]
    assert result.table["wrong"].tolist() == [0, 2, 0] and result.table.at["outside", "dice"].value == pytest.approx(0.3)
    assert result.detection.value == 1 and "1 of 6 images left out" in result.detection.note


def test_seconds_by_hand():
    spent = {f"seconds_{stage}": [0.001 * (at + 1), 0.003 * (at + 1), 9.0] for at, stage in enumerate(STAGES)}
    result = stage_seconds(pd.DataFrame({"error": ["", "", "bad"], **spent}))
    assert result.at["read", "median_ms"] == pytest.approx(2) and result.at["all", "mean_ms"] == pytest.approx(2 * 28)
    assert result.at["measure", "share"] == pytest.approx(7 / 28)


def test_examples_show_each_kind_once():
    rows = table(
        wrong=[False, False, True, False, False, None],
        label=[0, 1, 1, 0, 0, 0],
        entropy=[0.1, 0.2, 0.9, 0.3, 0.4, np.nan],
        dice=[0.9, 0.9, 0.9, 0.9, 0.1, np.nan],
        warnings=["", "", "", "no nodule found", "", ""],
        error=["", "", "", "", "", "damaged"],
    )
    assert examples(rows) == ["c0", "c1", "c2", "c3", "c4"]
