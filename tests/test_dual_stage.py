"""The two stages together: what the runs themselves say, bad images among good ones, runs that do not fit."""

from __future__ import annotations

import time
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import disc, project
from scipy.special import expit

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.inference import dual_stage
from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.inference.conformal import conformal_sets
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.findings import STAGES, CaseImage
from thyroid_utils.inference.layers import target_layer
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.studies.dual_stage import predicted_mask

NUMBERS = ["probability", "attention_inside", "entropy", "sd", "map_disagreement", "area_px", "long_axis_px"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, seeds=[0]) as found:
        yield {role: several[0] for role, several in found.items()}


@pytest.fixture(scope="module")
def stage(runs):
    return DualStage(runs["frame"], runs["segmenter"], batch_size=4)


@pytest.fixture(scope="module")
def tested(stage):
    """Rows of the test images of both runs."""
    return stage.classifier.cases.query("split == 'test'")


@pytest.fixture(scope="module")
def frame():
    return disc(np.random.default_rng(5), (96, 96), 0)[0]


def bright(stage, monkeypatch, level=0.45):
    """From here on the segmenter calls nodule what is brighter than this share of white."""
    monkeypatch.setattr(stage.segmenter, "maps", lambda inputs: (inputs[:, 0] > level).astype(np.float32))


def two_discs(*radii: int) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    gray = np.full((96, 96), 60, np.uint8)
    for radius, (row, column) in zip(radii, ((30, 28), (66, 68)), strict=False):
        gray[np.hypot(y - row, x - column) < radius] = 200
    return gray


def test_findings_are_what_the_runs_say(stage, runs, tested):
    findings = list(stage.findings(tested["image"]))
    known = runs["frame"].predictions
    val = known.query("split == 'val'")
    calibration = fit_platt(val["label"], val["log_odds"])
    calibrated = pd.Series(calibration(known["log_odds"]), known.index)
    sets = conformal_sets(calibrated[val.index], val["label"], calibrated[tested.index], stage.alpha, val_patients=val["patient"])
    assert known["log_odds"].std() > 1e-2 and sets["malignant"].any()
    for case, finding in zip(tested.index, findings, strict=True):
        assert finding.error == "" and finding.frame.shape == finding.map.shape == finding.mask.shape == finding.attention.shape
        assert finding.uncalibrated == pytest.approx(known.at[case, "probability"], abs=1e-4)
        assert finding.probability == pytest.approx(calibrated[case], abs=1e-4)
        assert finding.called == (finding.probability >= stage.threshold)
        assert finding.labels == tuple(name for name in ("benign", "malignant") if sets.at[case, name])
        held = predicted_mask(stage.segmenter, "test", case)
        assert (held != finding.mask).mean() < 0.002  # kept maps are rounded to 1/255
        assert finding.measures == pytest.approx(nodule_measures(finding.mask, finding.frame), nan_ok=True)
    assert [finding.case for finding in findings[:2]] == ["image-0001", "image-0002"]


def test_attention_is_grad_cam_of_the_class_that_is_called(stage, tested):
    both = set()
    for finding in stage.findings(tested["image"]):
        both.add(finding.called)
        inputs = stage.classifier.prepare([finding.frame])
        layer = target_layer(stage.classifier.network, inputs.shape[-2:])
        found = cam_maps(stage.classifier.network, inputs, target=int(finding.called), layer=layer).maps[0]
        back = stage.classifier.pipeline(finding.frame).geometry.to_original(found, smooth=True)
        np.testing.assert_allclose(finding.attention, back, atol=1e-4)
    assert both == {False, True}


def test_another_layer_can_be_asked_for_attention(runs, stage, tested):
    other = DualStage(runs["frame"], runs["segmenter"], layer="0")
    (finding,) = other.predict(tested["image"][:1], keep=1).kept.values()
    inputs = other.classifier.prepare([finding.frame])
    found = cam_maps(other.classifier.network, inputs, target=int(finding.called), layer="0").maps[0]
    back = other.classifier.pipeline(finding.frame).geometry.to_original(found, smooth=True)
    np.testing.assert_allclose(finding.attention, back, atol=1e-4)
    pairs = list(zip(other.findings(tested["image"]), stage.findings(tested["image"]), strict=True))
    assert max(np.abs(one.attention - two.attention).max() for one, two in pairs) > 0.1, "some maps may be blank in both"
    assert all(one.probability == pytest.approx(two.probability) for one, two in pairs)
    with pytest.raises(ValueError, match="no layer 'layer9'"):
        DualStage(runs["frame"], runs["segmenter"], layer="layer9")


def test_batches_decide_nothing_and_frames_equal_files(stage, runs, tested):
    paths = tested["image"][:6]
    one = DualStage(runs["frame"], runs["segmenter"], batch_size=1).predict(paths)
    frames = stage.predict(read_image(path) for path in paths)
    many = stage.predict(paths, keep=2)
    pd.testing.assert_frame_equal(one.table[NUMBERS], many.table[NUMBERS], atol=1e-4, rtol=1e-4)
    pd.testing.assert_frame_equal(frames.table[NUMBERS], many.table[NUMBERS])
    assert list(many.kept) == ["image-0001", "image-0002"] and many.failed == 0
    assert (many.table[[f"seconds_{name}" for name in STAGES]] >= 0).all(axis=None)
    chosen = stage.predict(paths, keep=["image-0003"])
    assert (
        list(chosen.kept) == ["image-0003"] and chosen.kept["image-0003"].mask.shape == read_image(tested["image"].iloc[2]).shape
    )


def test_one_bad_image_is_one_row_and_no_file_name_is_told(stage, frame, tmp_path):
    truncated = tmp_path / "Jane Doe 1970-01-01.png"
    truncated.write_bytes(write_png(tmp_path / "good.png", frame).read_bytes()[:200])
    images = [frame, truncated, tmp_path / "Jane Doe absent.png", frame.astype(float), frame[..., None].repeat(4, 2), None,
              CaseImage("refused", ImageError("a codec is missing")), CaseImage("spacing", frame, -1.0),
              np.zeros((0, 4), np.uint8), frame]  # fmt: skip
    steps = []
    table = stage.predict(images, lambda done, total: steps.append((done, total))).table
    assert steps == [(done, len(images)) for done in range(1, len(images) + 1)]
    bad = table["error"] != ""
    assert bad.tolist() == [False, *[True] * 8, False]
    assert table.loc[bad, NUMBERS].isna().all(axis=None) and (table.loc[bad, ["called", "labels"]] == "").all(axis=None)
    assert table["probability"].iloc[0] == pytest.approx(table["probability"].iloc[-1], abs=1e-6)
    assert not table.astype(str).apply(lambda column: column.str.contains("Jane")).any(axis=None)
    assert table.at["refused", "error"] == "a codec is missing"
    assert "spacing" in table.at["spacing", "error"] and "float64" in table.at["image-0004", "error"]
    assert stage.predict([]).table.empty
    assert stage.predict([None]).table["error"].iloc[0].endswith("found NoneType")


def test_memory_holds_one_batch(stage, frame):
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    def stream():
        for _ in range(24):
            one = frame.copy().view(Frame)
            alive.add(one)
            yield one
            del one

    for finding in stage.findings(stream()):
        assert finding.error == ""
        del finding
        most = max(most, len(alive))
    assert 0 < most <= 2 * stage.batch_size


def test_warnings_of_two_nodules_none_and_the_border(stage, monkeypatch):
    bright(stage, monkeypatch)
    colour = np.dstack([two_discs(15)] * 3)
    images = [two_discs(15, 10), two_discs(), two_discs(40), two_discs(15), colour, np.where(colour > 99, [255, 90, 90], 60)]
    found = list(stage.findings(image.astype(np.uint8) for image in images))
    two, none, border, one, gray, red = found
    assert "2 nodules found, the largest is measured" in two.warnings
    assert two.measures["area_px"] == pytest.approx(one.measures["area_px"]) and two.measures["nodules"] == 2
    assert none.warnings[0] == dual_stage.NO_NODULE and np.isnan(none.attention_inside) and np.isnan(none.measures["area_px"])
    assert any("border" in warning for warning in border.warnings)
    assert not any(
        "nodules" in warning or "border" in warning or "colour" in warning for warning in (*one.warnings, *gray.warnings)
    )
    assert "colour image, read as gray" in red.warnings


@pytest.mark.parametrize(("place", "outside"), [(slice(0, 8), True), (slice(15, 25), False)])
def test_attention_elsewhere_warns(stage, monkeypatch, place, outside):
    bright(stage, monkeypatch)
    real = cam_maps

    def pointing(network, inputs, **options):
        maps = np.zeros(inputs[:, 0].shape, np.float32)
        maps[:, place, place] = 1
        return replace(real(network, inputs, **options), maps=maps)

    monkeypatch.setattr(dual_stage, "cam_maps", pointing)
    (finding,) = stage.findings([two_discs(18)])
    assert (dual_stage.OUTSIDE in finding.warnings) == outside
    assert finding.attention_by_chance == pytest.approx(finding.mask.mean())
    assert (finding.attention_inside > finding.attention_by_chance) != outside


def test_a_blank_map_and_a_call_outside_its_set_are_told(stage, frame, monkeypatch):
    real = cam_maps
    monkeypatch.setattr(
        dual_stage, "cam_maps", lambda *given, **options: replace(real(*given, **options), maps=np.zeros((1, 64, 64), np.float32))
    )
    (found,) = stage.findings([frame])
    assert "the attention map is blank" in found.warnings
    sets = pd.DataFrame({"benign": [found.called], "malignant": [not found.called]})
    monkeypatch.setattr(stage, "_sets", lambda probabilities: sets)
    assert "the call is not in the conformal set" in next(stage.findings([frame])).warnings
    monkeypatch.setattr(stage, "_sets", lambda probabilities: sets & False)
    (neither,) = stage.findings([frame])
    assert neither.labels_text == "neither" and any("neither label fits" in warning for warning in neither.warnings)


def test_measures_are_in_millimetres_where_the_spacing_is_known(stage, monkeypatch):
    bright(stage, monkeypatch)
    plain, known = stage.findings([CaseImage("a", two_discs(15)), CaseImage("b", two_discs(15), (0.1, 0.1))])
    assert np.isnan(plain.measures["long_axis_mm"])
    assert known.measures["long_axis_mm"] == pytest.approx(0.1 * plain.measures["long_axis_px"])
    assert known.row()["area_mm2"] == pytest.approx(0.01 * plain.measures["area_px"])


def test_a_classifier_of_crops_sees_the_predicted_nodule(runs, monkeypatch):
    stage = DualStage(runs["crop"], runs["segmenter"])
    assert stage.crops and any("crops around predicted ones" in note for note in stage.notes)
    bright(stage, monkeypatch)
    image = two_discs(15)
    found, none = stage.findings([image, two_discs()])
    asked = Predictor(runs["crop"])
    assert found.uncalibrated == pytest.approx(expit(asked.log_odds(asked.prepare([image], [found.mask])))[0], abs=1e-5)
    edge = np.nonzero(asked.pipeline(image, found.mask).geometry.to_original(np.ones((64, 64), bool)))
    seen = np.zeros(image.shape, bool)
    seen[edge[0].min() : edge[0].max() + 1, edge[1].min() : edge[1].max() + 1] = True
    assert not found.attention[~seen].any() and found.attention_by_chance == pytest.approx(found.mask.sum() / seen.sum())
    assert none.error == "" and none.warnings[0] == f"{dual_stage.NO_NODULE}, so the classifier saw the whole frame"


def test_a_joint_run_is_both_stages(runs, tested):
    stage = DualStage(runs["joint"], runs["joint"])
    known = runs["joint"].predictions
    for case, finding in zip(tested.index[:4], stage.findings(tested["image"][:4]), strict=True):
        assert finding.uncalibrated == pytest.approx(known.at[case, "probability"], abs=1e-4)
        assert (predicted_mask(stage.segmenter, "test", case) != finding.mask).mean() < 0.002
        assert finding.attention.shape == finding.mask.shape and 0 <= finding.uncertainty["sd"] < 0.5


def test_uncertainty_is_of_the_calibrated_probability(stage, frame):
    (found,) = stage.findings([frame])
    p = found.probability
    odds = stage.classifier.log_odds(stage.classifier.prepare([frame]))
    assert p == pytest.approx(stage.calibration(odds)[0]) and p != found.uncalibrated
    assert found.uncertainty["entropy"] == pytest.approx(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def test_runs_that_do_not_fit_are_refused(runs, monkeypatch):
    frame, segmenter = runs["frame"], runs["segmenter"]
    with pytest.raises(DataError, match=f"classifier is run {segmenter.name} .* give them the other way round"):
        DualStage(segmenter, frame)
    with pytest.raises(DataError, match=r"the classifier is run .*; expected a run of task classification or joint"):
        DualStage(Predictor(segmenter), segmenter)
    with pytest.raises(DataError, match=r"the segmenter is run .*; expected a run of task segmentation or joint"):
        DualStage(frame, frame)
    monkeypatch.setitem(frame.data, "input", [1, 64, 64])
    with pytest.raises(DataError, match=r"trained on images of 1 channel of 64×64 pixels, .* now gives 3 channels of 64×64"):
        DualStage(frame, segmenter)


def test_numbers_out_of_range_are_refused(runs):
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="alpha"):
            DualStage(runs["frame"], runs["segmenter"], alpha)


def test_other_code_leaks_and_few_validation_patients_are_noted(runs, monkeypatch):
    assert not any("code" in note or "by image" in note for note in DualStage(runs["frame"], runs["segmenter"]).notes)
    monkeypatch.setitem(runs["frame"].data, "recipe", 0)
    monkeypatch.setitem(runs["segmenter"].data, "leaky", True)
    notes = DualStage(runs["frame"], runs["segmenter"], alpha=0.01).notes
    assert "the classifier was trained by another version of the code" in notes[0]
    assert "the segmenter was trained on a split by image" in notes[1]
    assert "validation patients; 99% coverage needs at least 99" in notes[-1]


def test_what_is_missing_is_said_before_the_first_image(runs, monkeypatch):
    def gone(predictor):
        raise DataError("the training images are gone")

    monkeypatch.setattr(Predictor, "pipeline", property(gone))
    with pytest.raises(DataError, match="the training images are gone"):
        DualStage(runs["frame"], runs["segmenter"])


def test_a_nodule_where_the_classifier_does_not_look_is_told(runs, monkeypatch):
    stage = DualStage(runs["crop"], runs["segmenter"])
    bright(stage, monkeypatch)
    cropped = stage.pipelines[dual_stage.CLASSIFIER]
    monkeypatch.setitem(stage.pipelines, dual_stage.CLASSIFIER, lambda image, mask: cropped(image, np.zeros_like(mask)))
    (found,) = stage.findings([two_discs(15)])
    assert found.mask.any() and any("outside what the classifier's preprocessing keeps" in warning for warning in found.warnings)
    monkeypatch.undo()
    bright(stage, monkeypatch)
    (found,) = stage.findings([two_discs(15)])
    assert not any("preprocessing keeps" in warning for warning in found.warnings)


def test_reading_counts_where_images_are_read_as_they_are_asked_for(stage, frame):
    def slow():
        time.sleep(0.3)
        yield frame

    assert stage.predict(slow()).table["seconds_read"].iloc[0] >= 0.25
