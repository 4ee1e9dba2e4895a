"""What is doubtful: all ways of asking of tiny runs, whether errors are found, labels that are likely wrong; disturbances by hand
and by their inverses, and curves of runs against their own scores."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from training_project import one_cache, own_runs, register_tiny_segmenter, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import LABEL_SCORES, label_uncertainty, map_uncertainty
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.masks import segmentation_scores
from thyroid_utils.scores.probabilities import aurc
from thyroid_utils.studies.error_analysis import trust
from thyroid_utils.studies.error_analysis.trust import (
    PERTURBATIONS,
    WAYS,
    ask_all,
    change_table,
    detection_table,
    error_detection,
    perturb,
    perturb_mask,
    rank_label_errors,
    robustness_curve,
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


def _frame(side: int = 48) -> np.ndarray:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((side, side)), (0, 0), 3)
    return np.round(30 + 180 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "levels"),
    [("gain", (3, 6, 12)), ("speckle", (0.05, 0.1, 0.4)), ("blur", (0.25, 1, 2)), ("jpeg", (10, 50, 90)), ("rotation", (5, 20)),
     ("clahe", (1, 4, 8))],
)  # fmt: skip
def test_every_disturbance_grows_from_nothing(name, levels):
    frame = _frame(200)
    before = frame.copy()
    np.testing.assert_array_equal(perturb(frame, name, 0), frame)
    changes = []
    for level in levels:
        changed = perturb(frame, name, level, seed=5)
        assert changed.dtype == np.uint8 and changed.shape == frame.shape
        np.testing.assert_array_equal(changed, perturb(frame, name, level, seed=5))
        changes.append(np.abs(changed.astype(float) - frame).mean())
    assert changes[0] > 0
    if name != "clahe":  # where no tile reaches the limit a higher one changes nothing
        assert changes == sorted(changes) and len(set(changes)) == len(changes)
    np.testing.assert_array_equal(frame, before)


def test_gain_by_hand():
    frame = np.array([[0, 10, 100, 250]], np.uint8)
    assert perturb(frame, "gain", 6).tolist() == [[0, 36, 126, 255]]  # 6 dB of 60 are 25.5 levels, rounded to even; black stays
    assert perturb(frame, "gain", -6).tolist() == [[0, 0, 74, 224]]


def test_speckle_multiplies_and_its_draw_does_not_depend_on_the_level():
    frame = np.full((200, 200), 100, np.uint8)
    weak, strong = (perturb(frame, "speckle", level, seed=1).astype(float) / 100 - 1 for level in (0.05, 0.2))
    assert weak.std() == pytest.approx(0.05, rel=0.03) and strong.std() == pytest.approx(0.2, rel=0.03)
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99
    assert (perturb(np.zeros((9, 9), np.uint8), "speckle", 0.4) == 0).all()
    assert (perturb(frame, "speckle", 0.2, seed=2) != perturb(frame, "speckle", 0.2, seed=1)).any()


def test_blur_is_a_share_of_the_side():
    point = np.zeros((101, 201), np.uint8)
    point[50, 100] = 255
    blurred = perturb(point, "blur", 2).astype(float)  # σ = 2.02 px
    offset = np.arange(-4, 5)
    profile = blurred[50, 96:105] / blurred[50, 100]
    np.testing.assert_allclose(profile, np.exp(-(offset**2) / (2 * 2.02**2)), atol=0.06)  # steps of 1 / 10 after rounding


def test_rotation_turns_image_and_mask_clockwise_together():
    frame = _frame(33)
    mask = frame > 140
    np.testing.assert_array_equal(perturb(frame, "rotation", 90), np.rot90(frame, -1))
    np.testing.assert_array_equal(perturb_mask(mask, "rotation", 90), np.rot90(mask, -1))
    np.testing.assert_array_equal(perturb_mask(mask, "rotation", -180), mask[::-1, ::-1])
    disc = np.zeros((96, 128), np.uint8)
    cv2.circle(disc, (80, 40), 12, 200, -1)
    turned, moved = perturb(disc, "rotation", 20), perturb_mask(disc > 0, "rotation", 20)
    assert moved.dtype == bool and segmentation_scores(turned > 100, moved)["dice"] > 0.97
    assert segmentation_scores(disc > 0, moved)["dice"] < 0.8
    assert np.argwhere(moved).mean(axis=0)[0] > np.argwhere(disc).mean(axis=0)[0]  # right of the centre goes down
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
    changed = predictor.log_odds(predictor.prepare(frames))
    last = table.iloc[-1]
    assert last["score"].value == pytest.approx(roc_auc_score(labels, changed))
    assert last["change"].value == pytest.approx(roc_auc_score(labels, changed) - roc_auc_score(labels, own))
    assert np.abs(changed - own).max() > 1e-3
    shown = change_table(table)
    assert shown["disturbance"].tolist() == [PERTURBATIONS[name].label for name in ("gain", "speckle", "speckle")]
    assert shown["strength"].tolist() == [6, 0.3, 0.5] and shown["change"].iloc[-1] == last["change"]
    some = robustness_curve(predictor, cases, {"gain": []}, 3)["score"].iloc[0]
    assert some.images == 3


class _Bright:
    """A predictor whose segmenter calls bright pixels nodule, and whose frames are its inputs."""

    batch_size = 2

    def __init__(self, limit: float, cases: pd.DataFrame, task: str = "segmentation"):
        self.limit, self.cases = limit, cases
        self.run = SimpleNamespace(config=SimpleNamespace(task=task))

    @staticmethod
    def pipeline(frame, mask=None):
        return SimpleNamespace(image=frame[None].astype(np.float32), mask=mask)

    def maps(self, inputs):
        return (inputs[:, 0] > self.limit).astype(np.float32)

    def log_odds(self, inputs):
        return inputs.mean(axis=(1, 2, 3)).astype(float) - 100


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
    nothing = robustness_curve(_Bright(1000, discs), discs, {"jpeg": [70]}, 5)
    assert all(score.value == 0 and score.images == 5 for score in nothing["score"])
    empty = discs.assign(mask=str(write_png(tmp_path / "empty.png", np.zeros((64, 64), np.uint8))))
    found = robustness_curve(_Bright(1000, empty), empty, {"jpeg": [70]}, 5)
    assert all(np.isnan(score.value) and score.images == 0 for score in found["score"])  # neither has a nodule: no score


@pytest.mark.parametrize(
    ("disturbed", "message"),
    [
        ({"fog": [1]}, "expected some of gain"),
        ({}, "expected some of gain"),
        ({"jpeg": [200]}, "0 to 100"),
        ({"blur": [-1]}, "0 to"),
    ],
)
def test_refused_disturbances(discs, disturbed, message):
    with pytest.raises(ValueError, match=message):
        robustness_curve(_Bright(100, discs), discs, disturbed, 5)
