"""What is doubtful: all ways of asking of tiny runs, whether errors are found, labels that are likely wrong; disturbances by hand
and by their inverses, and curves of runs against their own scores."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from training_project import one_cache, own_runs, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import listed, number
from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.inference.ensemble import at_one_scale
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import label_uncertainty
from thyroid_utils.scores.probabilities import aurc
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import classifier_errors, one_case, trust
from thyroid_utils.studies.error_analysis.trust import (
    WAYS,
    ask_all,
    change_table,
    detection_table,
    error_detection,
    perturb,
    perturb_mask,
    rank_label_errors,
    robustness_curve,
)
from thyroid_utils.training.fit import fit_or_load

SPLIT = (0.4, 0.3, 0.3)


def test_all_ways_of_a_classifiers_runs(monkeypatch):
    runs = [fit_or_load(tiny_config(training__epochs=1, split__ratios=SPLIT, seed=seed)) for seed in (0, 1)]
    asked = ask_all(runs, 6)
    names = runs[1].predictions.query("split == 'test'").index
    ensemble = np.stack([run.predictions.loc[names, "probability"] for run in runs])
    scaled = np.stack([at_one_scale(run.predictions)[names] for run in runs])
    assert list(asked.scores) == list(WAYS) and not asked.skipped
    assert all(table.index.equals(names) for table in asked.scores.values())
    np.testing.assert_allclose(asked.scores["single"]["probability"], ensemble[0], atol=1e-5)
    np.testing.assert_allclose(asked.scores["seeds"], label_uncertainty(scaled, 0.5, ensemble[0] >= 0.5), rtol=1e-12)
    comparison = ClassifierComparison.of(runs)
    called, case = classifier_errors(comparison, "tiny"), names[0]
    row, sets = comparison.decisions("tiny").loc[case], trust.prediction_sets(runs[0], 0.2)
    steps = one_case.call_by_hand(comparison, called, asked, sets, rank_label_errors(called.images), case)["value"]
    said = [number(run.predictions.at[case, "log_odds"], 3) for run in runs]
    assert list(steps[["log-odds, seed 0", "log-odds, seed 1"]]) == said
    assert steps["mean over seeds"] == f"{scaled[:, 0].mean():.3f}" and steps["p(malignant)"] == f"{row['probability']:.3f}"
    assert steps["called"].startswith(("benign", "malignant")[row["called"]])
    assert steps["prediction set"] == listed(name for name in ("benign", "malignant") if sets.at[case, name])
    monkeypatch.setattr(trust, "_BLOCK", 3)
    some = ask_all(runs[:1], 6)
    assert some.skipped == {"seeds": "there is one seed"}
    pd.testing.assert_frame_equal(some.scores["dropout"], asked.scores["dropout"], rtol=1e-6)
    table = detection_table(asked.scores, ensemble[0] > np.median(ensemble[0]), ["p" + name[:13] for name in names])
    assert set(table["method"]) == set(WAYS.values()) and (table["errors"] == len(names) // 2).all()
    for run in runs:
        monkeypatch.setitem(run.__dict__, "predictions", run.predictions.assign(log_odds=0.0))
    assert ask_all(runs, 6).skipped == {"seeds": "no training ranks validation better than chance"}
    runs[1].data["fingerprint"] = "another"
    for few, told in (([], "no run"), (runs, "differ in their images")):
        with pytest.raises(DataError, match=told):
            ask_all(few, 2)


def test_error_detection_is_the_auroc_over_patients():
    random = np.random.default_rng(0)
    wrong = random.random(80) < 0.3
    doubt = random.normal(size=80) + wrong - 50  # no probabilities, and below 0
    patients = [f"p{number // 2}" for number in range(80)]
    found = error_detection(doubt, wrong, patients)
    assert found.value == pytest.approx(roc_auc_score(wrong, doubt))
    assert found.low < found.value < found.high and (found.images, found.patients, found.note) == (80, 40, "")
    assert error_detection(np.zeros(80), wrong, patients).value == 0.5


def test_detection_leaves_out_what_is_undefined_and_says_so():
    wrong = pd.array([True, False, None, True, False], dtype="boolean")
    found = error_detection([0.9, 0.1, 0.5, np.nan, 0.2], wrong, list("abcde"))
    assert found.value == 1 and found.images == 3 and "2 of 5 images left out" in found.note
    for doubt, same in (([np.nan], [True]), ([0.1, 0.2, 0.3], [False] * 3), ([0.1, 0.2, 0.3], [1, 1, 1])):
        none = error_detection(doubt, same, list("abc")[: len(doubt)])
        assert np.isnan(none.value) and none.note
    with pytest.raises(ValueError, match="expected 0"):
        error_detection([0.1, 0.2], [0.5, 1], ["a", "b"])
    random = np.random.default_rng(2)
    errors, doubt, patients = random.random(30), random.random(30), np.repeat(np.arange(10), 3)
    errors[4] = np.nan
    wrong = np.where(np.isnan(errors), np.nan, errors > 0.5)
    table = detection_table({"single": label_uncertainty(doubt)}, wrong, patients, errors=errors)
    assert (table["left_out"] == 1).all() and table["aurc"][0] == pytest.approx(aurc(label_uncertainty(doubt)["entropy"], errors))


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


def test_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match="labels are unknown"):
        rank_label_errors(images_of(pd.array([0, None], dtype="Int8"), [0.1, 0.2]))
    assert not rank_label_errors(images_of([0, 0, 0], [0.1, 0.99, 0.5]))["suspect"].any()


def _frame(side: int = 48) -> np.ndarray:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((side, side)), (0, 0), 3)
    return np.round(30 + 180 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.mark.parametrize(("name", "levels"), [("gain", (3, 12)), ("speckle", (0.05, 0.4)), ("blur", (0.25, 2)), ("jpeg", (10, 90)), ("clahe", (1,))])  # fmt: skip # noqa: E501
def test_every_disturbance_grows_from_nothing(name, levels):
    frame = _frame(200)
    np.testing.assert_array_equal(perturb(frame, name, 0), frame)
    changes = [np.abs(perturb(frame, name, level, seed=5).astype(float) - frame).mean() for level in levels]
    assert changes[0] > 0 and changes == sorted(changes)


def test_gain_by_hand():
    frame = np.array([[0, 10, 100, 250]], np.uint8)
    assert perturb(frame, "gain", 6).tolist() == [[0, 36, 126, 255]]  # 6 dB of 60 are 25.5 levels, rounded to even; black stays
    assert perturb(frame, "gain", -6).tolist() == [[0, 0, 74, 224]]


def test_speckle_multiplies_by_its_level():
    frame = np.full((200, 200), 100, np.uint8)
    weak, strong = (perturb(frame, "speckle", level, seed=1).astype(float) / 100 - 1 for level in (0.05, 0.2))
    assert weak.std() == pytest.approx(0.05, rel=0.03) and strong.std() == pytest.approx(0.2, rel=0.03)


def test_rotation_turns_image_and_mask_clockwise_together():
    frame = _frame(33)
    mask = frame > 140
    np.testing.assert_array_equal(perturb(frame, "rotation", 90), np.rot90(frame, -1))
    np.testing.assert_array_equal(perturb_mask(mask, "rotation", 90), np.rot90(mask, -1))
    np.testing.assert_array_equal(perturb_mask(mask, "blur", 2), mask)
    np.testing.assert_array_equal(perturb_mask(mask, "rotation", 0), mask)


def test_a_classifiers_curve_begins_at_its_own_score():
    predictor = Predictor(fit_or_load(tiny_config(training__epochs=2, split__ratios=(0.4, 0.3, 0.3))), batch_size=4)
    cases = predictor.cases[predictor.cases["split"] == "test"]
    table = robustness_curve(predictor, cases, {"gain": [6], "speckle": [0.5, 0.3]}, 1000)
    assert [(row.perturbation, row.level) for row in table.itertuples()] == [
        ("gain", 0), ("gain", 6), ("speckle", 0), ("speckle", 0.3), ("speckle", 0.5),
    ]  # fmt: skip
    labels, own = cases["label"].astype(int), predictor.log_odds(predictor.inputs(cases.index))
    for row in table[table["level"] == 0].itertuples():
        assert row.score.value == pytest.approx(roc_auc_score(labels, own)) and row.change.value == 0
    frames = [perturb(read_gray(image), "speckle", 0.5, (0, at)) for at, image in enumerate(cases["image"])]
    changed = predictor.log_odds(np.stack([predictor.pipeline(frame).image for frame in frames]))
    last = table.iloc[-1]
    assert last["score"].value == pytest.approx(roc_auc_score(labels, changed))
    assert last["change"].value == pytest.approx(roc_auc_score(labels, changed) - roc_auc_score(labels, own))
    assert np.abs(changed - own).max() > 1e-3
    assert change_table(table)["strength"].tolist() == [6, 0.3, 0.5]
    assert robustness_curve(predictor, cases, {"gain": []}, 3)["score"].iloc[0].images == 3


class _Bright:
    """A predictor whose segmenter calls bright pixels nodule, and whose frames are its inputs."""

    batch_size = 2
    run = SimpleNamespace(config=SimpleNamespace(task="segmentation"))

    def __init__(self, limit: float, cases: pd.DataFrame):
        self.limit, self.cases = limit, cases

    def by_fold(self, cases):
        yield self, np.arange(len(cases))

    @staticmethod
    def pipeline(frame, mask=None):
        return SimpleNamespace(image=frame[None].astype(np.float32), mask=mask)

    def maps(self, inputs):
        return (inputs[:, 0] > self.limit).astype(np.float32)


@pytest.fixture
def discs(tmp_path) -> pd.DataFrame:
    """A case table of five frames with a disc, which is the mask."""
    rows = []
    for at, patient in enumerate("aabbc"):
        frame = np.full((64, 64), 40, np.uint8)
        cv2.circle(frame, (20 + 4 * at, 24), 10, 200, -1)
        image, mask = (
            write_png(tmp_path / f"{at}.png", frame),
            write_png(tmp_path / f"{at}_mask.png", np.uint8(255) * (frame > 100)),
        )
        rows.append({"image": str(image), "mask": str(mask), "patient": patient, "label": 0})
    return pd.DataFrame(rows, pd.Index([f"drawn/{at}" for at in range(5)], name="case"))


def test_a_segmenter_that_follows_rotation_and_one_that_finds_nothing(discs, tmp_path):
    turned = robustness_curve(_Bright(100, discs), discs, {"rotation": [-20, 10]}, 5)
    assert turned["level"].tolist() == [-20, 0, 10]
    assert all(score.value > 0.94 for score in turned["score"])  # were the mask not turned, 20° would leave less than 0.6
    assert turned["change"].iloc[0].value == pytest.approx(turned["score"].iloc[0].value - turned["score"].iloc[1].value)
    empty = discs.assign(mask=str(write_png(tmp_path / "empty.png", np.zeros((64, 64), np.uint8))))
    found = robustness_curve(_Bright(1000, empty), empty, {"jpeg": [70]}, 5)
    assert all(np.isnan(score.value) and score.images == 0 for score in found["score"])  # neither has a nodule: no score
    for disturbed in ({"fog": [1]}, {}, {"jpeg": [200]}, {"blur": [-1]}):
        with pytest.raises(ValueError, match=r"expected some of|0 to"):
            robustness_curve(_Bright(100, discs), discs, disturbed, 5)
