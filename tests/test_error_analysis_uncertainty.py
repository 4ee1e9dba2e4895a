"""What is doubtful: all ways of asking of tiny runs, whether errors are found, and labels that are likely wrong, by hand, by the
definition and where they were planted."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from training_project import one_cache, own_runs, register_tiny_segmenter, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.uncertainty import LABEL_SCORES, label_uncertainty, map_uncertainty
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.probabilities import aurc
from thyroid_utils.studies.error_analysis import trust
from thyroid_utils.studies.error_analysis.trust import (
    WAYS,
    ask_all,
    detection_table,
    error_detection,
    rank_label_errors,
    selective_risk,
)
from thyroid_utils.training.fit import fit_or_load

SPLIT = (0.4, 0.3, 0.3)


def test_all_ways_of_a_classifiers_runs(monkeypatch):
    runs = [fit_or_load(tiny_config(training__epochs=1, split__ratios=SPLIT, seed=seed)) for seed in (0, 1)]
    asked = ask_all(runs, 6)
    names = runs[1].predictions.query("split == 'test'").index
    ensemble = np.stack([run.predictions.loc[names, "probability"] for run in runs])
    assert list(asked.scores) == list(WAYS) and not asked.skipped
    assert all(table.index.equals(names) for table in asked.scores.values())
    np.testing.assert_allclose(asked.scores["single"]["probability"], ensemble[0], atol=1e-5)
    np.testing.assert_allclose(asked.scores["seeds"], label_uncertainty(ensemble), rtol=1e-12)
    monkeypatch.setattr(trust, "_BLOCK", 3)
    some = ask_all(runs[:1], 6)
    assert some.skipped == {"seeds": "there is one seed"}
    pd.testing.assert_frame_equal(some.scores["dropout"], asked.scores["dropout"], rtol=1e-6)
    table = detection_table(asked.scores, ensemble[0] > np.median(ensemble[0]), ["p" + name[:13] for name in names])
    assert set(table["method"]) == set(WAYS.values()) and (table["errors"] == len(names) // 2).all()
    runs[1].data["split_hash"] = "another"
    for few in ([], runs):
        with pytest.raises(DataError, match=rf"{len(few)} runs of {len(few)} splits or tasks"):
            ask_all(few, 2)


def test_all_ways_of_a_segmenters_runs(monkeypatch):
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    monkeypatch.setattr(trust, "has_dropout", lambda network: False)
    runs = [fit_or_load(segmentation_config(training__epochs=1, split__ratios=SPLIT, seed=seed)) for seed in (0, 1)]
    asked = ask_all(runs, 3)
    assert list(asked.scores) == ["single", "seeds", "views"] and asked.skipped == {"dropout": "the network has no dropout"}
    expected = map_uncertainty(np.stack([run.maps("test")[1] for run in runs]))["disagreement"]
    assert asked.scores["seeds"]["disagreement"].tolist() == expected.tolist()


def test_error_detection_is_the_auroc_over_patients():
    random = np.random.default_rng(0)
    wrong = random.random(80) < 0.3
    doubt = random.normal(size=80) + wrong - 50  # no probabilities, and below 0
    patients = [f"p{number // 2}" for number in range(80)]
    found = error_detection(doubt, wrong, patients)
    assert found.value == pytest.approx(roc_auc_score(wrong, doubt))
    assert found.low < found.value < found.high and (found.images, found.patients, found.note) == (80, 40, "")
    same = error_detection(doubt, wrong, patients)
    assert (same.low, same.high) == (found.low, found.high)
    assert error_detection(np.zeros(80), wrong, patients).value == 0.5


@pytest.mark.parametrize(("wrong", "what"), [([False] * 3, "all 3 images are right"), ([1, 1, 1], "all 3 images are wrong")])
def test_without_both_errors_and_right_ones_there_is_no_detection(wrong, what):
    found = error_detection([0.1, 0.2, 0.3], wrong, ["a", "b", "c"])
    assert np.isnan(found.value) and np.isnan(found.low) and found.note == what and found.images == 3


def test_detection_leaves_out_what_is_undefined_and_says_so():
    wrong = pd.array([True, False, None, True, False], dtype="boolean")
    found = error_detection([0.9, 0.1, 0.5, np.nan, 0.2], wrong, list("abcde"))
    assert found.value == 1 and found.images == 3 and "2 of 5 images left out" in found.note
    same = error_detection([0.9, 0.1, 0.5, np.nan, 0.2], np.array([1, 0, np.nan, 1, 0], object), list("abcde"))
    assert (same.value, same.images, same.note) == (1, 3, found.note)
    none = error_detection([np.nan], [True], ["a"])
    assert np.isnan(none.value) and none.note == "no image; 1 of 1 images left out"
    with pytest.raises(ValueError, match=r"0\.5; expected 0"):
        error_detection([0.1, 0.2], [0.5, 1], ["a", "b"])


def test_selective_risk_and_the_table():
    random = np.random.default_rng(2)
    errors, doubt = random.random(30), random.random(30)
    errors[4] = np.nan
    patients = [f"p{number // 3}" for number in range(30)]
    found = selective_risk(doubt, errors, patients)
    assert found.value == pytest.approx(aurc(doubt, errors)) and found.low < found.value < found.high and found.images == 29
    scores = {"single": label_uncertainty(doubt), "seeds": label_uncertainty(np.stack([doubt, doubt**2]))}
    table = detection_table(scores, np.where(np.isnan(errors), np.nan, errors > 0.5), patients, errors=errors)
    assert [(row.method, row.score) for row in table.itertuples()] == [
        (WAYS["single"], "entropy"), (WAYS["single"], "nearness"),
        *[(WAYS["seeds"], name.replace("_", " ")) for name in LABEL_SCORES],
    ]  # fmt: skip
    assert (table["images"] == 29).all() and (table["left_out"] == 1).all()
    assert (table["errors"] == (errors > 0.5).sum()).all()
    assert table["aurc"][0].value == pytest.approx(aurc(scores["single"]["entropy"], errors))


def images_of(labels: list[int], probabilities: list[float], patients: list[str] | None = None) -> pd.DataFrame:
    names = patients or [f"p{number}" for number in range(len(labels))]
    return pd.DataFrame(
        {"patient": names, "label": labels, "probability": probabilities}, pd.RangeIndex(len(labels), name="case")
    )


def test_label_errors_are_ranked_by_hand():
    # benign: mean P(benign) (0.9 + 0.8 + 0.1) / 3 = 0.6; malignant: mean P(malignant) (0.8 + 0.61 + 0.29 + 0.7) / 4 = 0.6.
    # 0.29 malignant is 0.71 benign, which reaches 0.6; 0.9 reaches malignant's 0.6.
    table = rank_label_errors(images_of([0, 0, 0, 1, 1, 1, 1], [0.1, 0.2, 0.9, 0.8, 0.61, 0.29, 0.7]).set_axis(list("abcdefg")))
    assert table.index.tolist() == ["c", "f", "e", "g", "b", "d", "a"]  # suspects, then by the probability of the own label
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7] and table["suspect"].tolist() == [True, True] + [False] * 5
    assert table["self_confidence"].tolist() == pytest.approx([0.1, 0.29, 0.61, 0.7, 0.8, 0.8, 0.9])
    # Means 0.15 and 0.3: the second and the last reach both, and have the likelier class.
    found = rank_label_errors(images_of([0, 0, 1, 1, 1], [0.9, 0.8, 0.3, 0.2, 0.4]))
    assert found.sort_index()["confident"].tolist() == [1, 1, 0, 0, 0]


def test_planted_flips_are_found():
    """300 patients of a problem that a linear network mostly solves, 10 % of the labels turned; probabilities out of sample."""
    random = np.random.default_rng(0)
    right = random.integers(0, 2, 300)
    features = 2.0 * (right[:, None] - 0.5) + random.normal(size=(300, 4))
    flipped = np.zeros(300, bool)
    flipped[random.choice(300, 30, replace=False)] = True
    labels = np.where(flipped, 1 - right, right)
    probabilities = cross_val_predict(LogisticRegression(), features, labels, cv=5, method="predict_proba")[:, 1]
    table = rank_label_errors(images_of(labels, probabilities))
    planted = flipped[table.index.to_numpy()]
    assert roc_auc_score(planted, -table["rank"]) > 0.9  # chance is 0.5
    found = planted[table["suspect"]]
    assert found.mean() > 0.5 and found.sum() >= 20  # chance is one in ten
    assert planted[:10].mean() >= 0.7


def test_one_class_only_has_no_suspects_and_an_unknown_label_is_refused():
    table = rank_label_errors(images_of([0, 0, 0], [0.1, 0.99, 0.5]))
    assert not table["suspect"].any() and table.index.tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="labels are unknown"):
        rank_label_errors(images_of(pd.array([0, None], dtype="Int8"), [0.1, 0.2]))
