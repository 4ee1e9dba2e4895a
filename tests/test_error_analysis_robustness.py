"""Disturbances by hand and by their inverses; curves of real runs against the runs' own scores."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pandas as pd
import pytest
from segmentation_project import register_tiny_segmenter, segmentation_config
from sklearn.metrics import accuracy_score, roc_auc_score
from training_fixtures import one_cache, own_runs  # noqa: F401
from training_project import tiny_config

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.masks import segmentation_scores
from thyroid_utils.studies.error_analysis.robustness import PERTURBATIONS, change_table, perturb, perturb_mask, robustness_curve
from thyroid_utils.training.fit import fit_or_load


@pytest.fixture(autouse=True)
def small_segmenter(monkeypatch):
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))


SPLIT = (0.4, 0.3, 0.3)  # more test images than a run needs


def _frame(side: int = 48) -> np.ndarray:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((side, side)), (0, 0), 3)
    return np.round(30 + 180 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_disturbance_grows_from_nothing(name):
    frame, kind = _frame(200), PERTURBATIONS[name]
    before = frame.copy()
    assert list(kind.levels) == sorted(kind.levels) and 0 in kind.levels
    np.testing.assert_array_equal(perturb(frame, name, 0), frame)
    changes = []
    for level in [level for level in kind.levels if level > 0]:
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


def test_jpeg_is_what_opencv_writes_and_reads():
    frame = _frame()
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    np.testing.assert_array_equal(perturb(frame, "jpeg", 70), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    assert len(data) < frame.size / 4


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


def test_clahe_raises_local_contrast():
    frame = (100 + _frame(64) // 10).astype(np.uint8)
    assert perturb(frame, "clahe", 8).std() > 1.5 * frame.std()


def test_refused_disturbances():
    frame = _frame()
    for name, level, message in [
        ("fog", 1, "known: gain"), ("jpeg", 101, "0 to 100"), ("blur", -1, "level is -1"), ("rotation", np.nan, "level is nan"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            perturb(frame, name, level)
    with pytest.raises(ValueError, match=r"frame is float32"):
        perturb(frame.astype(np.float32), "gain", 1)


def _test_cases(predictor: Predictor):
    names = predictor.run.predictions.index[predictor.run.predictions["split"] == "test"]
    cases = predictor.cases.loc[names]
    return cases, [read_gray(image) for image in cases["image"]]


def test_a_classifiers_curve_begins_at_its_own_score():
    predictor = Predictor(fit_or_load(tiny_config(training__epochs=2, split__ratios=SPLIT)), batch_size=4)
    cases, frames = _test_cases(predictor)
    labels, steps = cases["label"].astype(int), []
    table = robustness_curve(
        predictor, frames, labels, cases["patient"], perturbations={"gain": [6], "speckle": [0.5, 0.3]}, threshold=0.45,
        measures=["auc", "accuracy"], resamples=100, progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [(row.perturbation, row.level, row.measure) for row in table.itertuples()] == [
        (name, level, measure)
        for name, levels in (("gain", (0, 6)), ("speckle", (0, 0.3, 0.5)))
        for level in levels
        for measure in ("auc", "accuracy")
    ]
    own = predictor.log_odds(predictor.inputs(cases.index))
    untouched = table[table["level"] == 0]
    for row in untouched.itertuples():
        expected = roc_auc_score(labels, own) if row.measure == "auc" else accuracy_score(labels, own >= np.log(0.45 / 0.55))
        assert row.score.value == pytest.approx(expected, rel=1e-12)  # two ways of adding up
        assert row.change.value == 0
    changed = predictor.log_odds(predictor.prepare([perturb(frame, "speckle", 0.5, (0, at)) for at, frame in enumerate(frames)]))
    last = table[(table["level"] == 0.5) & (table["measure"] == "auc")].iloc[0]
    assert last["score"].value == pytest.approx(roc_auc_score(labels, changed))
    assert last["change"].value == pytest.approx(roc_auc_score(labels, changed) - roc_auc_score(labels, own))
    assert np.abs(changed - own).max() > 1e-3
    assert steps[0] == (len(frames), 4 * len(frames)) and steps[-1] == (4 * len(frames), 4 * len(frames))


def test_a_segmenters_curve_begins_at_its_own_score():
    predictor = Predictor(fit_or_load(segmentation_config(training__epochs=1, split__ratios=SPLIT)), batch_size=3)
    cases, frames = _test_cases(predictor)
    masks = [read_mask(mask) for mask in cases["mask"]]
    names = ["rotation", "jpeg"]
    positions = predictor.cases.index.get_indexer(cases.index)
    maps = predictor.maps(predictor.inputs(cases.index))
    threshold = float(np.quantile(maps, 0.8))  # an untrained network calls nothing at 0.5
    own = [
        segmentation_scores(np.asarray(predictor.store.masks[at]), found >= threshold)["dice"]
        for at, found in zip(positions, maps, strict=True)
    ]
    table = robustness_curve(
        predictor, frames, masks, cases["patient"], perturbations={name: [90] for name in names}, threshold=threshold,
        resamples=50,
    )  # fmt: skip
    assert np.nanmean(own) > 0.05  # a network that finds nothing would agree for nothing
    for name in names:
        found = table[table["perturbation"] == name].set_index("level")
        assert found.loc[0, "score"].value == np.nanmean(own) and found.loc[0, "change"].value == 0
        assert (found["measure"] == "dice").all()
        assert found.loc[90, "score"].value != found.loc[0, "score"].value
    samples = [
        predictor.pipeline(perturb(frame, "rotation", 90), perturb_mask(mask, "rotation", 90))
        for frame, mask in zip(frames, masks, strict=True)
    ]
    turned = predictor.maps(np.stack([sample.image for sample in samples]))
    expected = [
        segmentation_scores(sample.mask, found >= threshold)["dice"] for sample, found in zip(samples, turned, strict=True)
    ]
    assert table.iloc[1]["score"].value == pytest.approx(np.nanmean(expected))


class _Bright:
    """A predictor whose segmenter calls bright pixels nodule, and whose frames are its inputs."""

    batch_size = 2

    def __init__(self, limit: float, task: str = "segmentation"):
        self.limit = limit
        self.run = type("Run", (), {"config": type("Config", (), {"task": task})})

    @staticmethod
    def pipeline(frame, mask=None):
        return type("Sample", (), {"image": frame[None].astype(np.float32), "mask": mask})

    def maps(self, inputs):
        return (inputs[:, 0] > self.limit).astype(np.float32)

    def log_odds(self, inputs):
        return inputs.mean(axis=(1, 2, 3)).astype(float) - 100


def _discs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    frames = []
    for at in range(5):
        frame = np.full((64, 64), 40, np.uint8)
        cv2.circle(frame, (20 + 4 * at, 24), 10, 200, -1)
        frames.append(frame)
    return frames, [frame > 100 for frame in frames]


def test_a_segmenter_that_follows_rotation_and_one_that_finds_nothing():
    frames, masks = _discs()
    patients = list("aabbc")
    turned = robustness_curve(_Bright(100), frames, masks, patients, perturbations=["rotation"], resamples=20)
    assert len(turned) == 7 and (turned["level"] == sorted(turned["level"])).all()
    assert all(score.value > 0.94 for score in turned["score"])  # were the mask not turned, 20° would leave less than 0.6
    nothing = robustness_curve(_Bright(1000), frames, masks, patients, perturbations=["jpeg"], resamples=20)
    assert all(score.value == 0 and score.images == 5 for score in nothing["score"])
    empty = robustness_curve(_Bright(1000), frames, [mask & False for mask in masks], patients, perturbations=["jpeg"])
    assert all(np.isnan(score.value) and score.images == 0 for score in empty["score"])  # neither has a nodule: no score


def test_one_class_only_has_no_auc_but_an_accuracy():
    frames, _ = _discs()
    classifier = _Bright(0, "classification")
    table = robustness_curve(
        classifier, frames, [0] * 5, list("abcde"), perturbations={"gain": []}, measures=["auc", "accuracy"], resamples=20
    ).set_index("measure")
    assert np.isnan(table.loc["auc", "score"].value) and table.loc["accuracy", "score"].value == 1


def test_refused_curves():
    frames, masks = _discs()
    segmenter = _Bright(100)
    for changes, message in [
        ({"perturbations": ["fog"]}, "'fog' is unknown"),
        ({"perturbations": {"jpeg": [200]}}, "level is 200"),
        ({"perturbations": []}, "no perturbation"),
        ({"measures": ["auc"]}, "expected some of dice"),
    ]:
        with pytest.raises(ValueError, match=message):
            robustness_curve(segmenter, frames, masks, list("abcde"), **changes)
    with pytest.raises(ValueError, match="5 frames and 4 truths"):
        robustness_curve(segmenter, frames, masks[:4], list("abcde"))
    with pytest.raises(ValueError, match="no patient"):
        robustness_curve(segmenter, frames, masks, ["a", None, "b", "b", "b"])


def test_the_table_of_changes_leaves_the_undisturbed_rows_out():
    score, change = Estimate(0.8, 0.7, 0.9, 10, 5), Estimate(-0.1, -0.2, 0.0, 10, 5)
    rows = [("gain", 0.0, Estimate(0.9, 0.8, 1.0, 10, 5)), ("gain", 6.0, score), ("jpeg", 50.0, score)]
    curve = pd.DataFrame(
        [
            {"perturbation": name, "level": level, "measure": "auc", "score": found, "change": change}
            for name, level, found in rows
        ]
    )
    table = change_table(curve)
    assert table["disturbance"].tolist() == [PERTURBATIONS[name].label for name in ("gain", "jpeg")]
    assert table["strength"].tolist() == [6.0, 50.0] and table["score"].tolist() == [score] * 2
    assert table["change"].tolist() == [change] * 2
