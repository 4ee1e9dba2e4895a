"""Networks that answer together: what each may say of which image, and the means of what they say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import configs_of, project
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from training_project import segmentation_config, tiny_config

from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.doubts import own_scores
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.ensemble import Ensemble, check_ensemble, held_out, seed_ensemble
from thyroid_utils.inference.findings import CaseImage
from thyroid_utils.inference.predictor import predictors_of
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.studies.dual_stage_tables import findings_on_test
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.folds import calibrations_of


def fold(number: int, config=None, **data) -> SimpleNamespace:
    """A run of eight images: two are tested, six validate, each fold in its own scale; its folder's name is its number."""
    config = config or tiny_config(seed=number % 2, split__seed=number)
    random, cases = np.random.default_rng(number), np.roll([f"c{at}" for at in range(8)], 2 * number)
    table = pd.DataFrame({"split": ["test"] * 2 + ["val"] * 6}, index=pd.Index(cases, name="case"))
    table["label"] = [int(case in ("c1", "c2", "c3", "c6")) for case in cases]
    table["patient"] = [f"p{case[1]}" for case in cases]
    table["log_odds"] = (number + 1) * (2 * table["label"] - 1 + random.normal(0, 0.8, 8)) + number
    table["probability"] = expit(table["log_odds"])
    data = {"fingerprint": "same", "split_hash": f"split {number}", "input": [3, 64, 64], **data}
    run = SimpleNamespace(name=str(number), config=config, data=data, predictions=table)
    run.folds = (run,)
    return run


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([], "no run"),
        ([fold(0), fold(0)], "not all different"),
        ([fold(0), fold(1, fingerprint="other")], "images or labels: other and same"),
        ([fold(0), fold(1, tiny_config(data__options={"malignant_share": 0.2}))], "what its classes are"),
        ([fold(0), fold(1, input=[3, 32, 32])], "size of the input: 3×32×32 and 3×64×64"),
        ([fold(0), fold(1, tiny_config(model__name="resnet18"))], "recipe of training; give"),
        ([fold(0), fold(1, tiny_config(optimiser__learning_rate=0.5))], "recipe of training; give"),
        ([fold(0), fold(1, tiny_config(split__by="image"))], "unit or leak of the split: by image and by patient; give"),
        ([fold(0), fold(1, tiny_config(split__leak={"kind": "copies"}))], "leak of the split: by patient and near-copies"),
        ([fold(0), fold(1, segmentation_config())], "task: classification and segmentation"),
    ],
)  # fmt: skip
def test_runs_that_are_no_ensemble_are_refused_by_what_they_differ_in(runs, told):
    with pytest.raises(DataError, match=told):
        check_ensemble(runs)


def test_each_image_is_held_out_by_the_networks_that_were_tested_on_it():
    folds = [fold(number) for number in range(4)]
    check_ensemble(folds)
    found = held_out(folds)
    assert sorted(found.index) == [f"c{at}" for at in range(8)] and not found.index.has_duplicates
    for run, scale in zip(folds, calibrations_of(folds), strict=True):
        val, own = run.predictions[2:], run.predictions[:2]
        assert scale == fit_platt(val["label"], val["log_odds"], 0.5), "half of all images are malignant"
        assert found.loc[own.index, "log_odds"].tolist() == pytest.approx(list(scale.intercept + scale.slope * own["log_odds"]))
    assert own_scores(*folds)["AUC"].value == pytest.approx(roc_auc_score(found["label"], found["log_odds"]))
    assert own_scores(*folds)["AUC"].images == 8
    seeds = [fold(0, split_hash="one"), fold(4, split_hash="one")]  # the same images, of which all answer
    val = held_out(seeds)
    assert list(val.index) == [f"c{at}" for at in range(2, 8)]
    sides = [run.predictions[2:] for run in seeds]
    odds = [fit_platt(side["label"], side["log_odds"]).log_odds(side["log_odds"]) for side in sides]
    assert val["log_odds"].tolist() == pytest.approx(list(np.mean(odds, axis=0)))
    assert len(held_out(seeds, "test")) == 2


def test_a_network_that_may_have_met_an_image_says_nothing_of_it():
    assert seed_ensemble([fold(0), fold(4)], ["c1", "c0"]).shape == (2, 2)
    with pytest.raises(DataError, match="run 0 was not tested on 1 of 2 images"):
        seed_ensemble([fold(0), fold(1)], ["c0", "c6"])


def test_each_network_is_given_what_it_was_trained_on():
    """Folds scale by µ and σ of their own training images; who shares them shares the input."""
    networks = []
    for at, (mean, deviation) in enumerate([(10, 2), (20, 4), (10, 2)]):
        scaled = lambda frame, _, mean=mean, deviation=deviation: SimpleNamespace(image=(frame - mean) / deviation)  # noqa: E731
        told = lambda inputs, at=at: inputs[:, 0, 0] + 100 * at  # noqa: E731
        networks.append(SimpleNamespace(run=fold(at, fitted=[mean, deviation]), pipeline=scaled, log_odds=told))
    asked = Ensemble(networks, mirror=True)
    samples = asked.prepare(np.array([[30.0, 50.0]]), None)
    assert samples[0] is samples[2] and asked.answers("log_odds", [samples]).tolist() == [[15], [105], [215]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds on one split, and one on another."""
    with project(tmp_path_factory, seeds=[0, 1]) as found:
        for role in ("frame", "segmenter"):
            config = configs_of([0], epochs=1)[role][0]
            other = config.model_copy(update={"split": config.split.model_copy(update={"seed": 7})})
            found[role].append(fit_or_load(other))
            found[role][2].config.__dict__["training"] = found[role][0].config.training  # one epoch is enough for a test
        yield found


def test_networks_of_one_split_answer_by_their_means_and_their_spread_is_the_uncertainty(runs):
    classifiers, segmenters = predictors_of(runs["frame"][:2]), predictors_of(runs["segmenter"][:2])
    stage = DualStage(classifiers, segmenters, mirror=True)
    cases = classifiers[0].cases.query("split == 'test'")["image"][:3]
    scaled = []
    for one, scale in zip(classifiers, calibrations_of([one.run for one in classifiers]), strict=True):
        given = one.inputs(cases.index)
        odds = (one.log_odds(given) + one.log_odds(given[..., ::-1])) / 2
        scaled.append(scale.log_odds(odds))
    given = segmenters[0].inputs(cases.index)
    maps = np.stack([(one.maps(given) + one.maps(given[..., ::-1])[..., ::-1]) / 2 for one in segmenters])
    for at, finding in enumerate(stage.findings(CaseImage(*item) for item in cases.items())):
        assert finding.probability == pytest.approx(expit(np.mean(scaled, axis=0))[at], abs=1e-5)
        assert finding.uncertainty["sd"] == pytest.approx(expit(np.array(scaled))[:, at].std(), abs=1e-5)
        geometry = stage.segmenter.pipeline(finding.frame).geometry
        np.testing.assert_allclose(finding.map, geometry.to_original(maps.mean(axis=0)[at], smooth=True), atol=1e-5)
        one, two = maps[:, at] >= 0.5
        dice = 2 * (one & two).sum() / (one.sum() + two.sum())
        assert finding.uncertainty["map_disagreement"] == pytest.approx(1 - dice, abs=1e-6)
        assert finding.row()["classifiers"] == finding.row()["segmenters"] == 2
    known = held_out(runs["frame"][:2])
    assert stage.threshold == choose_threshold(known["label"], expit(known["log_odds"]))
    assert any("mirror image" in note for note in stage.notes)


def test_images_of_the_data_set_are_judged_by_the_networks_of_their_own_split(runs):
    stage = DualStage(predictors_of(runs["frame"][1:]), predictors_of(runs["segmenter"][1:]))
    assert all(part.scores is stage.scores for part in stage.by_split()), "believed as far as all of them together"
    rows = findings_on_test(stage).table
    assert list(rows["classifiers"].unique()) == [1], "one network of each split"
    first, second = (run.predictions.query("split == 'test'")["probability"] for run in runs["frame"][1:])
    for own in (first, second.drop(index=first.index, errors="ignore")):
        assert len(own) and rows.loc[own.index, "uncalibrated"].tolist() == pytest.approx(own.tolist(), abs=1e-4)
    with pytest.raises(DataError, match="classifiers and segmenters have different splits"):
        findings_on_test(DualStage(predictors_of(runs["frame"]), predictors_of(runs["segmenter"][:1])))
