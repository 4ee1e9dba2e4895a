"""k folds as one run: tiny classifiers and segmenters on discs, against the same numbers put together by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import configs_of, discs
from sklearn.metrics import roc_auc_score

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.inference.ensemble import one_scale_on_test
from thyroid_utils.inference.predictor import Predictor, predictor_of
from thyroid_utils.scores.comparisons import subset_comparison
from thyroid_utils.scores.estimates import patient_scores
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.scores.recipes import auc_influence, compare_recipes
from thyroid_utils.studies import dual_stage
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compare import comparison_configs
from thyroid_utils.studies.error_analysis.trust import ask_all, prediction_sets, robustness_curve
from thyroid_utils.studies.external_validation import MENDED, ExternalValidation
from thyroid_utils.studies.grad_cam import study_maps
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.data import split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import identity, run_hash

K = 3


def folded_configs(role: str, name: str, seeds: list[int]) -> list[RunConfig]:
    (config,) = configs_of([0], epochs=3)[role]
    common = config.model_dump(exclude={"model", "seed"}) | {"size": 32}
    common["split"] |= {"folds": K}
    return comparison_configs([name], seeds, common)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with discs(tmp_path_factory):
        asked = {"frame": ("tiny", [0, 1]), "crop": ("tiny", [0]), "segmenter": ("tiny_segmenter", [0])}
        yield {role: [fit_or_load(config) for config in folded_configs(role, *how)] for role, how in asked.items()}


def test_the_name_of_a_run_of_one_split_does_not_depend_on_folds():
    assert set(identity(RunConfig())["split"]) == {"by", "ratios", "seed", "repeat"}
    assert run_hash(RunConfig(), "fingerprint", "split").startswith("eb049298"), "finished runs of users are found by it"
    folds = [RunConfig(split={"folds": 3, "fold": fold}) for fold in range(3)]
    assert len({run_hash(config, "fingerprint", "split") for config in [RunConfig(), *folds]}) == 4


def test_every_case_is_tested_once_and_validated_by_folds_that_do_not_test_it(runs):
    tables = [split_data(run.config).cases for run in runs["frame"][:K]]
    tested = pd.concat([table[table["split"] == "test"] for table in tables])
    assert sorted(tested.index) == sorted(tables[0].index) and tested.groupby("patient")["split"].size().eq(2).all()
    for table in tables:
        rest = table[table["split"] != "test"]
        assert (rest["split"] == "val").mean() == pytest.approx(1 / 3, abs=0.1), "0.25 of 0.5 + 0.25"
    whole = by_folds(runs["frame"])[0]
    assert list(whole.predictions.index) == sorted(tables[0].index)
    for case, fold in whole.predictions["fold"].items():
        assert tables[fold].at[case, "split"] == "test" and whole.of_case(case) is whole.folds[fold]


def test_predictions_are_put_on_one_scale_fold_by_fold(runs):
    whole = FoldedRun(runs["frame"][:K][::-1])
    assert whole.config.split.fold == 0 and whole.data["images"]["test"] == len(whole.predictions) == 64
    malignant = whole.predictions["label"].mean()
    for at, run in enumerate(runs["frame"][:K]):
        val, test = (run.predictions.query("split == @side") for side in ("val", "test"))
        platt = fit_platt(val["label"], val["log_odds"])
        goal = (val["label"].sum() + 1) / (val["label"].sum() + 2) * val["label"].mean()
        goal += (1 - val["label"].mean()) / ((1 - val["label"]).sum() + 2)
        moved = platt.intercept + np.log(malignant / (1 - malignant)) - np.log(goal / (1 - goal))
        odds = {name: moved + platt.slope * side["log_odds"].to_numpy() for name, side in (("val", val), ("test", test))}
        own = whole.predictions[whole.predictions["fold"] == at].loc[test.index]
        assert own["log_odds"].to_numpy() == pytest.approx(odds["test"], abs=1e-9)
        assert own["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-odds["test"])))
        assert (own["own_log_odds"] == test["log_odds"]).all()
        cut = choose_threshold(val["label"], 1 / (1 + np.exp(-odds["val"])))
        assert own["threshold"].to_numpy() == pytest.approx(cut) and own["threshold"].nunique() == 1


def moved(run, by: float):
    """The run, whose network says the same on another scale."""
    odds = run.predictions["log_odds"] + by
    told = run.predictions.assign(log_odds=odds, probability=1 / (1 + np.exp(-odds)))
    return SimpleNamespace(folds=(run,), config=run.config, data=run.data, name=run.name, metrics=run.metrics, predictions=told)


def test_a_shift_of_one_folds_log_odds_changes_nothing(runs):
    first, *others = runs["frame"][:K]
    one, other = (FoldedRun([run, *others]).predictions for run in (first, moved(first, 5.0)))
    assert other["probability"].to_numpy() == pytest.approx(one["probability"].to_numpy(), abs=1e-6)
    assert ((other["probability"] >= other["threshold"]) == (one["probability"] >= one["threshold"])).all()
    raw = pd.concat([run.predictions.query("split == 'test'") for run in (moved(first, 5.0), *others)])
    assert auc_influence(raw["label"], raw["log_odds"]).scores != auc_influence(one["label"], one["log_odds"]).scores


def test_home_of_an_external_validation_is_judged_fold_by_fold(runs):
    own = ClassifierComparison.of(runs["frame"][:K])
    study, table = ExternalValidation({"A": {"AUC": own}}, {}, {"A": "phantom"}), own.first.predictions
    told = table["label"], table["probability"], table["patient"]
    found, expected = study.mended("A").loc[0], patient_scores(*told, MENDED, table["threshold"].to_numpy()[None])
    assert [found[score].value for score in MENDED] == pytest.approx([expected[score].value for score in MENDED])
    held = coverage(prediction_sets(own.first, 0.2), table["label"], table["patient"])["coverage"]
    assert study.coverage(0.2).loc["A", ["all", "benign", "malignant"]].to_dict() == held.to_dict()


def test_folds_that_are_not_whole_are_refused(runs):
    first, *others = runs["frame"][:K]
    mixed = runs["frame"][K]
    for given, told in (([first, *others[:1]], "fold 1 and fold 2"), ([first, first, *others], "fold 1, fold 1"),
                        ([mixed, *others], "several recipes")):  # fmt: skip
        with pytest.raises(DataError, match=f"expected the 3 folds of tiny.*each once; found runs of {told}"):
            FoldedRun(given)
    with pytest.raises(DataError, match="each once"):
        ClassifierComparison.of([first, *others[:1]])


def test_three_trainings_are_compared_by_the_pooled_values_and_fewer_by_their_folds(runs):
    """The two seeds as trainings of one recipe, then as two recipes."""
    whole = ClassifierComparison.of(runs["frame"])
    assert (whole.trainings, whole.folds, whole.one_split) == (2, K, True)
    assert whole.plan == "2 training seeds in 3 folds" and whole.over.startswith("over folds")
    one, two = (table["probability"] for table in whole.predictions("tiny"))
    seeds = whole.runs["tiny"]
    both = ClassifierComparison({"a": [*seeds, seeds[0]], "b": [*seeds[::-1], seeds[1]]})
    assert both.over == "over patients and training seeds"
    both.__dict__["untrained"] = []
    found = both.pairs()["difference"].iloc[0]
    expected = compare_recipes(*(auc_influence(whole.truth["label"], [p, q, p]) for p, q in ((one, two), (two, one))),
                               whole.truth["patient"], 1)  # fmt: skip
    assert found.p_value == expected.p_value and found.images == 64
    right = [((own["probability"] >= own["threshold"]) == own["label"]).mean() for own in whole.predictions("tiny")]
    assert both.pairs("accuracy")["difference"].iloc[0].first == pytest.approx(np.mean([*right, right[0]]))
    own = [((table["own_log_odds"] >= 0) == table["label"]).mean() for table in whole.predictions("tiny")]
    assert whole.estimates(["accuracy"], fixed=True).at["tiny", "accuracy"].value == pytest.approx(np.mean(own))
    assert whole.by_run(["accuracy"], fixed=True)["accuracy"].tolist() == pytest.approx(own) and own != right
    alone = ClassifierComparison({name: [run] for name, run in zip("ab", whole.runs["tiny"], strict=True)})
    alone.__dict__["untrained"] = []
    aucs = {
        name: [auc_influence(own["label"], own["log_odds"]).scores[0] for fold in run.folds
               for own in [fold.predictions.query("split == 'test'")]]
        for name, (run,) in alone.runs.items()
    }  # fmt: skip
    pair = alone.pairs().iloc[0]
    images = whole.first.data["images"]
    told = subset_comparison(aucs[pair["first"]], aucs[pair["second"]], images["train"], round(64 / K), 32)
    assert pair["difference"].p_value == pytest.approx(told.p_value, nan_ok=True)
    assert pair["difference"].difference == pytest.approx(told.difference)
    val = pd.DataFrame({name: [fold.metrics["val"]["auc"] for fold in run.folds] for name, (run,) in alone.runs.items()})
    assert alone.preferred == val.idxmax(axis=1).tolist()
    alone.__dict__["preferred"] = list("aba")
    taken = two.where(whole.first.predictions["fold"] == 1, one)
    assert alone.nested().value == pytest.approx(roc_auc_score(whole.truth["label"], taken))
    assert alone.lead(alone.pairs(), "AUC").endswith(f"no patient that it tests has a say: AUC {alone.nested()}.")
    assert alone.over.startswith("over folds") and alone.plan == "3 folds"


def test_the_table_of_folds_counts_patients_and_has_both_means(runs):
    whole = ClassifierComparison.of(runs["frame"][:K])
    both = replace(whole, runs={"tiny": whole.runs["tiny"], "again": whole.runs["tiny"]})
    assert both.fold_table(both.estimates(["auc"])["auc"], "auc")[["tiny", "again"]].T.drop_duplicates().shape == (1, K + 2)
    estimates = whole.estimates(["auc", "accuracy"])
    table = whole.fold_table(estimates["auc"], "auc")
    assert list(table.index) == ["1", "2", "3", "mean of folds", "all, pooled"]
    assert table.loc["all, pooled", ["benign", "malignant", "images"]].tolist() == [16, 16, 64]
    assert table["tiny"].iloc[:K].mean() == pytest.approx(table.at["mean of folds", "tiny"])
    assert table.at["mean of folds", "tiny"] == pytest.approx(whole.within_folds("tiny").value)
    assert table.at["all, pooled", "tiny"] == estimates.at["tiny", "auc"].value
    right = (whole.decisions("tiny")["called"] == whole.truth["label"]).mean()
    assert estimates.at["tiny", "accuracy"].value == pytest.approx(right)
    assert "Every patient is tested once" in whole.pooling(estimates) and "64, each tested once" in whole.sides


def test_a_segmenters_folds_are_measured_as_one(runs):
    comparison = SegmenterComparison.of(runs["segmenter"])
    comparison.__dict__["untrained"] = []
    (model,) = comparison.models
    assert len(comparison.truth) == 64 and comparison.estimates(["dice"]).at[model, "dice"].images == 64
    by_fold, (table,) = comparison.by_fold(model, "dice"), comparison.tables[model]
    network = [table.query("resolution == 'own'")["dice"] for table in comparison.tables[model]]
    fold = comparison.first.predictions["fold"]
    assert by_fold[0].tolist() == pytest.approx([network[0][fold == at].mean() for at in range(K)])
    cases, maps = comparison.first.maps("test", list(comparison.truth.index[[40, 3]]))
    for case, found in zip(cases, maps, strict=True):
        assert (found == comparison.first.of_case(case).maps("test", [case])[1][0]).all()
        _, truth, drawn = comparison.picture(model, case)
        assert truth.shape == drawn.shape
    assert comparison.validation[model] == pytest.approx(np.mean([run.metrics["val"]["dice"] for run in runs["segmenter"]]))
    assert comparison.fold_table(comparison.estimates(["dice"])["dice"], "dice").shape == (K + 2, 4)
    pair = SegmenterComparison(dict.fromkeys("ab", comparison.runs[model]))
    assert pair.preferred == ["a"] * K
    pair.__dict__.update({"preferred": list("aba"), "tables": {"a": [table], "b": [table.assign(dice=0.0)]}})
    dice = table.query("resolution == 'own'")["dice"].where(fold != 1, 0)
    assert (pair.nested().value, pair.nested().images) == (pytest.approx(dice.mean()), 64)


def test_an_image_is_explained_and_asked_by_the_network_of_its_fold(runs):
    comparison = ClassifierComparison.of(runs["frame"])
    whole, decisions = comparison.first, comparison.decisions("tiny").iloc[::-1]
    predictor = predictor_of(whole)
    study, parts = study_maps(predictor, decisions, layer="4"), []
    for part in study.parts():
        parts += list(part.images.index)
        assert all(whole.of_case(case) is part.predictor.run for case in part.images.index)
        alone = study_maps(Predictor(part.predictor.run), part.images, layer="4")
        np.testing.assert_array_equal(alone.maps.maps, study.maps.maps[study.images.index.get_indexer(part.images.index)])
        told = part.predictor.probabilities(part.inputs)
        assert told == pytest.approx(part.images["probability"].to_numpy(), abs=1e-5), "on the scale of the predictions"
    assert sorted(parts) == sorted(decisions.index) and predictor.cases["split"].eq("test").all()
    asked = ask_all(comparison.runs["tiny"], 2, decisions["threshold"])
    assert asked.scores["single"].loc[parts, "probability"].to_numpy() == pytest.approx(
        decisions.loc[parts, "probability"].to_numpy(), abs=1e-5
    )
    seeds = np.mean([one_scale_on_test(run)[parts] for run in comparison.runs["tiny"]], axis=0)
    assert asked.scores["seeds"].loc[parts, "probability"].to_numpy() == pytest.approx(seeds)
    curve = robustness_curve(predictor, decisions, {"gain": [6]}, 1000)
    pooled = roc_auc_score(decisions["label"], decisions["probability"])
    assert curve["score"].iloc[0].value == pytest.approx(pooled, abs=1e-3)
    sets, fold = prediction_sets(whole, 0.2), whole.folds[2]
    val, test = (fold.predictions.query("split == @side") for side in ("val", "test"))
    own = conformal_sets(val["probability"], val["label"], test["probability"], 0.2, val_patients=val["patient"], by_class=True)
    assert sets.loc[own.index].equals(own) and sorted(sets.index) == sorted(decisions.index)


def test_the_variants_of_the_dual_stage_are_compared_over_folds(runs, monkeypatch):
    monkeypatch.setattr(dual_stage, "predicted_mask", lambda predictor, _, case: read_mask(predictor.cases.at[case, "mask"]))
    study = dual_stage.DualStageStudy.of({"frame": runs["frame"][:K], "crop": runs["crop"], "segmenter": runs["segmenter"]})
    told, labels = study.classes, study.truth["label"]
    np.testing.assert_allclose(told.probabilities("crop_predicted"), told.probabilities("crop_true"), atol=1e-4)
    found = study.estimates(["auc"])
    assert list(found.index) == study.variants and (found["without_nodule"].dropna() == 0).all()
    assert found.at["frame", "auc"].value == pytest.approx(roc_auc_score(labels, told.probabilities("frame")[0]))
    told.__dict__["untrained"] = []
    row = study.comparisons().iloc[0]["difference"]
    means = told.fold_table(found["auc"], "auc").loc["mean of folds"]
    assert row.difference == pytest.approx(means["crop_true"] - means["frame"])
    assert study.dice_table().at["segmenter", "dice"].images == 64


@pytest.mark.parametrize(
    ("malignant", "told"),
    [
        (0, "training images are benign; training, validation and test each need both classes"),
        (2, "3 folds need as many patients of each class, and there are 2 malignant; ask for fewer folds"),
    ],
)
def test_a_class_missing_or_rarer_than_folds_is_told(runs, monkeypatch, malignant, told):
    config = runs["frame"][0].config
    cases = split_data(config).cases
    chosen = sorted(set(cases.loc[cases["label"] == 1, "patient"]))[:malignant]
    cases = cases[(cases["label"] == 0) | cases["patient"].isin(chosen)]
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
    with pytest.raises(DataError, match=told):
        split_data(config)
