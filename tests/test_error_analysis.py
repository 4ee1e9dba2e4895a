"""Where masks go wrong, errors as rows, and the kinds of errors there are: on masks and decisions made by hand, on tiny runs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from training_project import one_cache, own_runs, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.inference.uncertainty import label_uncertainty
from thyroid_utils.scores.estimates import patient_estimate, proportion_interval
from thyroid_utils.scores.masks import lesion_scores, segmentation_table, surface_scores
from thyroid_utils.studies import error_analysis
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import (
    LOST_PARTS,
    MODES,
    classifier_errors,
    decision_errors,
    failure_modes,
    hd95_outliers,
    lost_dice,
    nodule_frame_errors,
    segmenter_errors,
    trust,
    where_lost,
)
from thyroid_utils.studies.error_analysis.subgroups import of_each_class, subgroup_table
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.fit import fit_or_load

SIDE = 60


def block(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of 60 × 60 with filled boxes (first row, last row, first column, last column), ends excluded."""
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


NODULE = (20, 40, 20, 40)  # 400 pixels; a tenth of the diameter of a disc of that area is 2.26


def test_wrong_pixels_are_counted_where_they_lie():
    truth = block(NODULE)
    # Called 4 rows too short below, 5 rows too high above, and 25 pixels far off.
    lost = where_lost(truth, block((15, 36, 20, 40), (50, 55, 50, 55)))
    assert lost["wrong_pixels"] == 4 * 20 + 5 * 20 + 25 and lost["mode"] == "boundary"
    # Missed rows 36 to 39: the outer two and the ends of the inner ones (2 columns a side) are in the ring.
    assert lost["core"] * 205 == pytest.approx(2 * 16) and lost["extra"] * 205 == pytest.approx(25)
    assert lost["spill"] * 205 == pytest.approx(3 * 20) and lost["boundary"] * 205 == pytest.approx(80 - 32 + 2 * 20)
    assert lost["missed"] == 0 and sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)


def test_parts_agree_with_the_lesion_rule():
    random = np.random.default_rng(0)
    for _ in range(40):
        boxes = [(r, r + h, c, c + w) for r, c, h, w in random.integers([0, 0, 3, 3], [45, 45, 15, 15], (4, 4))]
        truth, found = block(*boxes[:2]), block(*boxes[2:])
        lesions, lost = lesion_scores(truth, found), where_lost(truth, found)
        assert (lost["missed"] > 0) == (lesions["lesions_missed"] > 0)
        assert (lost["extra"] > 0) == (lesions["lesions_false"] > 0)
        assert sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)
        assert lost["wrong_pixels"] == (truth ^ found).sum()


@pytest.mark.parametrize(
    ("truth", "found", "mode"),
    [
        (block(NODULE), block(), "missed"),
        (block(NODULE), block((20, 21, 20, 40)), "missed"),  # one row in twenty: below a tenth
        (block(NODULE), block((5, 15, 45, 55)), "wrong place"),
        (block(NODULE), block((20, 21, 20, 22), (5, 15, 45, 55)), "wrong place"),
        (block(NODULE, (45, 58, 5, 25)), block(NODULE), "missed"),  # one of two nodules
        (block(NODULE), block(NODULE, (45, 58, 45, 58)), "extra"),
        (block(), block((45, 58, 45, 58)), "extra"),
        (block(NODULE), block((20, 28, 20, 40)), "core"),
        (block(NODULE), block((10, 55, 10, 55)), "spill"),
        (block(NODULE), block((21, 41, 21, 41)), "boundary"),
        (block(NODULE), block(NODULE), ""),
        (block(), block(), ""),
    ],
)
def test_every_error_has_the_one_mode_that_a_reader_would_name(truth, found, mode):
    lost = where_lost(truth, found)
    assert lost["mode"] == mode and (mode in MODES or all(np.isnan(lost[name]) for name in LOST_PARTS))
    assert where_lost(truth.astype(int), found.astype(int)) == lost or not mode


def comparison_of(truths: list[np.ndarray], maps: list[np.ndarray], patients: list[str]) -> SimpleNamespace:
    """What a comparison of segmenters offers, with the parts of `where_lost` in its table."""
    pairs = [(truth, probability >= 0.5) for truth, probability in zip(truths, maps, strict=True)]
    table = segmentation_table(pairs, [f"c{number}" for number in range(len(pairs))], [None] * len(pairs))
    parts = pd.DataFrame([where_lost(*pair) for pair in pairs], table.index)
    own = table.join(parts).assign(patient=patients, resolution="own")
    pictures = dict(zip(table.index, zip(truths, truths, np.asarray(maps, float), strict=True), strict=True))
    truth, picture = pd.DataFrame({"patient": patients, "label": pd.NA}, table.index), lambda model, case: pictures[case]
    return SimpleNamespace(tables={"tiny": [own]}, truth=truth, picture=picture, first=None)


def test_lost_points_of_dice_add_up_to_what_is_lost():
    truths = [block(NODULE)] * 4 + [block()]
    founds = [block(), block((21, 41, 21, 41)), block((20, 28, 20, 40)), block(NODULE), block()]
    table = comparison_of(truths, founds, ["a", "a", "b", "c", "d"]).tables["tiny"][0]
    lost = lost_dice(table)["lost"]
    assert list(lost.index) == [*LOST_PARTS.values(), "all"]
    whole = 1 - table["dice"].dropna().mean()
    assert lost["all"].value == pytest.approx(whole) == pytest.approx(sum(found.value for found in lost[:-1]))
    assert lost["missed nodules"].value == pytest.approx(1 / 4) and lost["all"].images == 4
    perfect = lost_dice(comparison_of([block(NODULE)] * 2, [block(NODULE)] * 2, ["a", "b"]).tables["tiny"][0])
    assert {found.text() for found in perfect["lost"]} == {"0.00 [0.00, 0.66]"}, "Wilson's of two patients"


def test_the_nodule_fills_the_inner_half_of_its_frame(monkeypatch):
    """A wide nodule and a high one, each with its upper half missed and a strip called left of it."""
    monkeypatch.setattr(error_analysis, "_SIDE", 16)
    truths = [block((20, 28, 20, 44)), block((10, 50, 30, 38)), block()]
    founds = [block((24, 28, 20, 44), (20, 28, 14, 20)), block((30, 50, 30, 38), (10, 50, 28, 30)), block((3, 9, 3, 9))]
    frame = nodule_frame_errors(iter(truths), iter(founds))
    missed, called = np.zeros((16, 16)), np.zeros((16, 16))
    missed[4:8, 4:12] = 1
    called[4:12, 2:4] = 1
    np.testing.assert_array_equal(frame.maps, [missed, called])
    assert frame.images == 2


def test_outliers_say_why_their_outline_is_far_off(monkeypatch):
    monkeypatch.setattr(error_analysis, "_WHISKER", 0.1)
    truths = [block(NODULE)] * 8 + [block()]
    near = [block((20 + shift, 40 + shift, 20, 40)) for shift in (0, 0, 1, 1, 1)]
    founds = [*near, block(NODULE, (0, 12, 50, 60)), block((20, 40, 20, 60)), block(), block((0, 5, 0, 5))]
    comparison = comparison_of(truths, founds, list("abcdefghi"))
    table, outliers = comparison.tables["tiny"][0], hd95_outliers(comparison, "tiny")
    assert dict(outliers["cause"]) == {"c5": "extra regions", "c6": "outline", "c7": "nodule missed", "c8": "false alarm"}
    assert outliers["hd95"].is_monotonic_decreasing
    assert outliers.at["c5", "without_extra"] == 0
    assert outliers.at["c6", "without_extra"] == surface_scores(truths[6], founds[6])["hd95"]
    monkeypatch.setattr(error_analysis, "_WHISKER", 100)
    comparison.tables["tiny"][0] = table[:5]
    assert hd95_outliers(comparison, "tiny").empty


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
    assert errors.rate == patient_estimate([1, 0, 1, 1, 0, 0], decisions["patient"], share=True)
    assert "wrong on 3 of 6 images" in errors.sentence and "2 false positives of 3 benign" in errors.sentence


def test_no_error_is_said_and_the_least_certain_are_shown():
    errors = decision_errors(decisions_of([0.2, 0.45, 0.9, 0.52], [0, 0, 1, 1]), "perfect")
    assert errors.table.empty and list(errors.shown(9).index) == ["c3", "c1", "c0", "c2"]
    assert f"0 to {100 * proportion_interval(0, 4)[1]:.0f} %" in errors.sentence and "4 images of 4 patients" in errors.sentence
    assert failure_modes(errors).table.empty
    one_class = decision_errors(decisions_of([0.9, 0.6, 0.1, 0.45], [0] * 4), "tiny")
    assert failure_modes(one_class).table["images"].sum() == 2


def answer_of(errors: error_analysis.Errors) -> str:
    right, patients = 1.0 - errors.images["wrong"], errors.images["patient"]
    nearness = label_uncertainty(errors.images["probability"], errors.images["threshold"].iloc[0]).set_index(errors.images.index)
    detection = trust.detection_table({"single": nearness}, errors.images["wrong"], patients)
    return trust.errors_answer(errors, subgroup_table(right, errors.groups, patients), detection)


@pytest.mark.parametrize(
    ("probabilities", "labels", "told"),
    [
        ([0.2, 0.9], [0, 1], "tiny makes no error on 2 images of 2 patients"),
        ([0.8], [0], "tiny is wrong on 1 of 1 image of 1 patient (100 %"),
        ([0.8, 0.3], [0, 1], "1 false positive of 1 benign image and 1 false negative of 1 malignant image. What they have in"),
        ([0.8, 0.9, 0.3], [0, 1, 1], "no subgroup and its rest have 10 patients each. They"),
        ([0.8, 0.7, 0.1], [0, 0, 0], "2 false positives of 3 benign images and no malignant image was tested"),
        (
            [0.8, 0.9],
            [0, 0],
            "cannot be said to be foreseeable or not by nearness to the threshold (AUROC all 2 images are",
        ),
    ],
)
def test_the_answer_is_right_for_none_one_and_all(probabilities, labels, told):
    assert told in answer_of(decision_errors(decisions_of(probabilities, labels), "tiny"))


def test_the_answer_names_what_is_in_common_as_text_and_says_that_patients_are_unknown():
    decisions, groups = grouped()
    errors = decision_errors(decisions, "tiny", groups=groups.rename(columns={"device": "$device_"}))
    told = answer_of(replace(errors, run=SimpleNamespace(data={"patients": "not given for 160 of 160 images"})))
    assert r"more of them than elsewhere in \$device\_: B (p < 0.05 after Holm)" in told
    assert "of 160 images (patients unknown: intervals are too narrow) (" in told and "patients (" not in told


def test_the_gallery_has_both_classes_though_the_threshold_is_low():
    """Of a threshold of 0.1 all malignant images lie further off than any benign one can."""
    images = decisions_of([0.9, 0.96, 0.99, 0.8, 0.02, 0.08, 0.05], [1, 1, 1, 1, 0, 0, 0], threshold=0.1)
    assert list(of_each_class(images, 4, surest=True).index) == ["c2", "c4", "c1", "c6"]
    assert list(of_each_class(images, 9).index) == ["c3", "c5", "c0", "c6", "c1", "c4", "c2"]
    assert list(of_each_class(images[:2], 9, surest=True).index) == ["c1", "c0"] and of_each_class(images[:0], 4).empty


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
    rest = errors.table[~inside[errors.table.index]]
    counts = modes.table.set_index("mode")["images"]
    assert counts.drop(first["mode"]).sum() == len(rest)
    none = failure_modes(decision_errors(grouped(kind=7)[0], "tiny", grouped(kind=7)[1]))
    assert not none.table["mode"].str.contains("device").any()


def certain(mask: np.ndarray, inside: float = 0.9) -> np.ndarray:
    return np.where(mask, inside, 0.1).astype(np.float32)


def test_every_error_of_a_segmenter_is_in_one_mode():
    truths = [block(NODULE)] * 6 + [block()]
    maps = [certain(block(NODULE)), certain(block((20, 40, 20, 39)), 0.7), certain(block()), certain(block((0, 8, 0, 8))),
            certain(block((20, 26, 20, 40)), 0.6), certain(block(NODULE, (48, 60, 40, 60))), certain(block())]  # fmt: skip
    comparison = comparison_of(truths, maps, [f"p{number // 2}" for number in range(7)])
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
    assert len(segmenter_errors(comparison, "tiny", 1.0).table) == 5  # the empty image is no error


def test_tiny_runs_give_their_errors():
    classifiers = ClassifierComparison.of([fit_or_load(tiny_config(training__epochs=1, seed=seed)) for seed in (0, 1)])
    errors = classifier_errors(classifiers, "tiny")
    assert errors.images["wrong"].equals(~classifiers.decisions("tiny")["right"]) and (errors.images["runs"] == 2).all()
    assert (errors.images["runs_wrong"] >= errors.images["wrong"]).all() and errors.images["runs_wrong"].max() <= 2
    segmenters = SegmenterComparison.of([fit_or_load(segmentation_config(training__epochs=1))])
    errors = segmenter_errors(segmenters, "tiny_segmenter", 1.0)
    truth, probability = segmenters.picture("tiny_segmenter", errors.images.index[0])[1:]
    assert errors.images["wrong_pixels"].iloc[0] == ((probability >= 0.5) != truth).sum()
    modes = failure_modes(errors)
    assert modes.table["images"].sum() == len(errors.table) > 0 and set(modes.table["mode"]) <= set(MODES.values())
