"""Disturbances by hand and by their inverses; curves of real runs against the runs' own scores."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from training_project import one_cache, own_runs, tiny_config  # noqa: F401

from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.masks import segmentation_scores
from thyroid_utils.studies.error_analysis.trust import PERTURBATIONS, change_table, perturb, perturb_mask, robustness_curve
from thyroid_utils.training.fit import fit_or_load


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
