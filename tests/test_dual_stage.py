"""The two stages together: what the runs themselves say, bad images among good ones, runs that do not fit."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import project, stage_of

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data.images import write_png
from thyroid_utils.inference import doubts, dual_stage
from thyroid_utils.inference.cam import cam_maps, target_layer
from thyroid_utils.inference.conformal import conformal_sets
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.findings import STAGES, CaseImage, Finding, Findings
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import augmented_views, label_uncertainty, map_uncertainty
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.studies.dual_stage import predicted_mask


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, seeds=[0]) as found:
        yield {role: several[0] for role, several in found.items()}


@pytest.fixture(scope="module")
def stage(runs):
    return stage_of(runs["frame"], runs["segmenter"])


@pytest.fixture(scope="module")
def findings(stage):
    """Of the test images of both runs."""
    tested = stage.classifier.cases.query("split == 'test'")
    return list(stage.findings(CaseImage(*item) for item in tested["image"].items()))


def asked(stage: DualStage, *images: np.ndarray) -> list[Finding]:
    return list(stage.findings(CaseImage(f"image-{at}", image, 0.1) for at, image in enumerate(images)))


def bright(stage, monkeypatch, level=0.45):
    """From here on the segmenter calls nodule what is brighter than this share of white."""
    monkeypatch.setattr(stage.segmenter, "maps", lambda inputs: (inputs[:, 0] > level).astype(np.float32))


def two_discs(*radii: int) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    gray = np.random.default_rng(0).integers(50, 70, (96, 96)).astype(np.uint8)  # on a flat one the discs were the echo image
    for radius, (row, column) in zip(radii, ((30, 28), (66, 68)), strict=False):
        gray[np.hypot(y - row, x - column) < radius] = 200
    return gray


def attention_of(stage: DualStage, finding: Finding, layer) -> np.ndarray:
    """Grad-CAM of the class that is called, on the frame."""
    sample = stage.classifier.pipeline(finding.frame)
    found = cam_maps(stage.classifier.network, sample.image[None], target=int(finding.called), layer=layer).maps[0]
    return sample.geometry.to_original(found, smooth=True)


def test_findings_are_what_the_runs_say(stage, runs, findings):
    known = runs["frame"].predictions
    val = known.query("split == 'val'")
    calibration = fit_platt(val["label"], val["log_odds"])
    calibrated = pd.Series(calibration(known["log_odds"]), known.index)
    tested = calibrated[known["split"] == "test"]
    sets = conformal_sets(calibrated[val.index], val["label"], tested, stage.alpha, val_patients=val["patient"])
    assert known["log_odds"].std() > 1e-2 and sets["malignant"].any()
    layer = target_layer(stage.classifier.network, (64, 64))
    for case, finding in zip(tested.index, findings, strict=True):
        assert finding.case == case and finding.error == "" and not finding.samples
        assert finding.frame.shape == finding.map.shape == finding.mask.shape == finding.attention.shape
        assert finding.uncalibrated == pytest.approx(known.at[case, "probability"], abs=1e-4)
        assert finding.probability == pytest.approx(calibrated[case], abs=1e-4)
        assert finding.called == (finding.probability >= stage.threshold)
        assert finding.labels == tuple(name for name in ("benign", "malignant") if sets.at[case, name])
        held = predicted_mask(stage.segmenter, "test", case)
        assert (held != finding.mask).mean() < 0.002  # kept maps are rounded to 1/255
        assert finding.measures == pytest.approx(nodule_measures(finding.mask, finding.frame), nan_ok=True)
        np.testing.assert_allclose(finding.attention, attention_of(stage, finding, layer), atol=1e-4)
        p = finding.probability
        assert finding.uncertainty["entropy"] == pytest.approx(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))
        assert min(finding.row()[f"seconds_{name}"] for name in STAGES) >= 0
    assert {finding.called for finding in findings} == {False, True}


@pytest.mark.parametrize("mirror", [False, True])
def test_one_networks_uncertainty_is_that_of_ten_views_each_asked(runs, findings, mirror):
    stage = stage_of(runs["frame"], runs["segmenter"], mirror=mirror)
    found = asked(stage, *(finding.frame for finding in findings[:3]))
    own = [np.stack([predictor.pipeline(finding.frame).image for finding in found]) for _, predictor in stage.roles()]
    odds = np.log(1 / augmented_views(stage.classifier.probabilities, own[0]) - 1)
    (scale,) = stage.known["classifier"].calibrations
    slow = label_uncertainty(1 / (1 + np.exp(scale.slope * odds - scale.intercept)))
    maps = map_uncertainty(augmented_views(stage.segmenter.maps, own[1]))
    for name, expected in (("sd", slow["sd"]), *((f"map_{key}", maps[key]) for key in ("disagreement", "soft_dice_loss"))):
        np.testing.assert_allclose([finding.uncertainty[name] for finding in found], expected, atol=1e-6)
    assert slow["sd"].min() > 0


def test_one_bad_image_is_one_finding_and_no_file_name_is_told(stage, findings, tmp_path):
    frame = findings[0].frame
    truncated = tmp_path / "Jane Doe 1970-01-01.png"
    truncated.write_bytes(write_png(tmp_path / "good.png", frame).read_bytes()[:200])
    given = [frame, truncated, tmp_path / "Jane Doe absent.png", ImageError("a codec is missing"), frame]
    images = [*(CaseImage(f"image-{at}", image) for at, image in enumerate(given)), CaseImage("spacing", frame, -1.0)]
    found = list(stage.findings(images))
    assert [bool(finding.error) for finding in found] == [False, True, True, True, False, True]
    assert found[0].probability == pytest.approx(found[4].probability, abs=1e-6)
    assert "Jane" not in str([finding.row() for finding in found])
    assert "spacing" in found[5].error
    row = found[1].row()
    assert np.isnan([row[name] for name in ("probability", "entropy", "area_px")]).all() and row["called"] == row["labels"] == ""
    assert Findings(pd.DataFrame([finding.row() for finding in found]), {}).failed == 4 and asked(stage) == []


def test_an_image_that_cannot_be_prepared_is_told(runs, monkeypatch):
    stage = stage_of(runs["frame"], runs["segmenter"])
    failing = Mock(side_effect=DataError("too\nsmall"), needs_mask=False)
    for role in ("segmenter", "classifier"):
        with monkeypatch.context() as patch:
            patch.setattr(getattr(stage, role), "pipeline", failing)
            (found,) = asked(stage, two_discs(15))
        assert found.error == f"cannot be prepared for the {role}: too small" and found.called is None


def test_warnings_of_two_nodules_none_the_border_and_colour(stage, monkeypatch):
    bright(stage, monkeypatch)
    one = two_discs(15)
    red = np.where(np.dstack([one] * 3) > 99, [255, 90, 90], one[..., None]).astype(np.uint8)
    two, none, border, *plain, coloured = asked(
        stage, two_discs(15, 10), two_discs(), two_discs(40), one, np.dstack([one] * 3), red
    )
    assert "2 nodules found, the largest is measured" in two.warnings
    assert two.measures["area_px"] == pytest.approx(plain[0].measures["area_px"]) and two.measures["nodules"] == 2
    assert dual_stage.NO_NODULE in none.warnings and np.isnan(none.attention_inside) and np.isnan(none.measures["area_px"])
    assert any("border" in warning for warning in border.warnings) and "colour image, read as gray" in coloured.warnings
    assert not any(word in str(finding.warnings) for finding in plain for word in ("nodules", "border", "colour"))


@pytest.mark.parametrize(("place", "outside"), [(slice(0, 8), True), (slice(15, 25), False), (slice(0, 0), None)])
def test_attention_elsewhere_or_nowhere_warns(stage, monkeypatch, place, outside):
    bright(stage, monkeypatch)
    real = cam_maps

    def pointing(network, inputs, **options):
        maps = np.zeros(inputs[:, 0].shape, np.float32)
        maps[:, place, place] = 1
        return replace(real(network, inputs, **options), maps=maps)

    monkeypatch.setattr("thyroid_utils.inference.cam.cam_maps", pointing)
    (finding,) = asked(stage, two_discs(18))
    assert ("the attention map is blank" in finding.warnings) == (outside is None)
    assert (dual_stage.OUTSIDE in finding.warnings) == bool(outside)
    if outside is not None:
        assert finding.attention_by_chance == pytest.approx(finding.mask.mean())
        assert (finding.attention_inside > finding.attention_by_chance) != outside


def test_a_call_outside_its_set_is_told(stage, findings, monkeypatch):
    known = findings[0]
    sets = pd.DataFrame({"benign": [known.called], "malignant": [not known.called]})
    monkeypatch.setattr(stage, "_sets", lambda probabilities: sets)
    assert "the call is not in the conformal set" in asked(stage, known.frame)[0].warnings
    monkeypatch.setattr(stage, "_sets", lambda probabilities: sets & False)
    (neither,) = asked(stage, known.frame)
    assert neither.labels_text == "neither" and any("neither label fits" in warning for warning in neither.warnings)


def test_a_classifier_of_crops_sees_the_predicted_nodule(runs, monkeypatch):
    stage = stage_of(runs["crop"], runs["segmenter"])
    assert stage.crops and any("crops around predicted ones" in note for note in stage.notes)
    bright(stage, monkeypatch)
    image, crops = two_discs(15), Predictor(runs["crop"])
    found, none = asked(stage, image, two_discs())
    sample = crops.pipeline(image, found.mask)
    assert found.uncalibrated == pytest.approx(crops.probabilities(sample.image[None])[0], abs=1e-5)
    edge = np.nonzero(sample.geometry.to_original(np.ones((64, 64), bool)))
    seen = np.zeros(image.shape, bool)
    seen[edge[0].min() : edge[0].max() + 1, edge[1].min() : edge[1].max() + 1] = True
    assert not found.attention[~seen].any() and found.attention_by_chance == pytest.approx(found.mask.sum() / seen.sum())
    assert none.error == "" and f"{dual_stage.NO_NODULE}, so the classifier saw the whole frame" in none.warnings
    # A preprocessing that cuts the nodule off before the crop.
    cropped = stage.classifier.pipeline
    blind = Mock(side_effect=lambda image, mask: cropped(image, np.zeros_like(mask)), needs_mask=True)
    monkeypatch.setattr(stage.classifier, "pipeline", blind)
    (lost,) = asked(stage, image)
    assert lost.mask.any()
    for finding, told in ((lost, True), (found, False)):
        assert any("outside what the classifier's preprocessing keeps" in warning for warning in finding.warnings) == told


def test_a_joint_run_is_both_stages(runs, findings):
    stage = stage_of(runs["joint"], runs["joint"])
    known = runs["joint"].predictions
    for finding in stage.findings(CaseImage(one.case, one.frame) for one in findings[:4]):
        assert finding.uncalibrated == pytest.approx(known.at[finding.case, "probability"], abs=1e-4)
        assert (predicted_mask(stage.segmenter, "test", finding.case) != finding.mask).mean() < 0.002
        assert finding.attention.shape == finding.mask.shape and 0 <= finding.uncertainty["sd"] < 0.5


def test_runs_and_numbers_that_do_not_fit_are_refused(runs):
    frame, segmenter = runs["frame"], runs["segmenter"]
    with pytest.raises(DataError, match=rf"classifier is run {segmenter.name} .*; expected a run of task"):
        stage_of(segmenter, frame)
    with pytest.raises(ValueError, match="alpha"):
        stage_of(frame, segmenter, alpha=1.0)


def test_what_a_reader_should_know_of_the_runs_is_noted(runs, monkeypatch):
    monkeypatch.setitem(runs["frame"].data, "recipe", 0)
    monkeypatch.setitem(runs["segmenter"].data, "leaky", True)
    predictions = runs["frame"].predictions
    monkeypatch.setitem(runs["frame"].__dict__, "predictions", predictions.assign(log_odds=-predictions["log_odds"]))
    notes = stage_of(runs["frame"], runs["segmenter"], alpha=0.01).notes
    for told in ("classifier was trained by another version of the code", "leaks", "no better than chance", "99% coverage"):
        assert any(told in note for note in notes)


@pytest.mark.parametrize(
    ("auc", "dice", "told", "other"),
    [((0.6, 0.4, 0.8), np.nan, "not shown to be above chance", "not measured"),
     ((0.3, 0.2, 0.4), 0.4, "below chance on its own test images: its probabilities tell nothing", "Dice is below 0.5")],
)  # fmt: skip
def test_own_scores_are_told_as_they_are(runs, monkeypatch, auc, dice, told, other):
    own = {"AUC": Estimate(*auc, 20, 20), "Dice": Estimate(dice, np.nan, np.nan, 0, 0)}
    monkeypatch.setattr("thyroid_utils.inference.known.own_scores", lambda _: own)
    notes = stage_of(runs["frame"], runs["segmenter"]).notes
    assert told in notes[0] and other in notes[1]


def test_what_is_beyond_the_training_images_is_told_with_their_range():
    """Of 100 images the range is widened by a fifth of itself: brightness 20 to 60 by 8."""
    known = doubts.Familiar({"brightness": (20.0, 60.0, 100), "area": (0.02, 0.1, 100), "circularity": (0.7, 0.9, 4)})
    levels = {level: known.odd_image(np.full((9, 9), level, np.uint8)) for level in (9, 13, 67, 69)}
    assert levels == {9: "mean gray level 9 (theirs 20 to 60)", 13: "", 67: "", 69: "mean gray level 69 (theirs 20 to 60)"}
    large = known.odd_outline({"area_px": 40.0, "circularity": 0.1, "nodules": 9.0, "specks": 9.0}, (10, 10))
    assert large == "area 40 % (theirs 2 % to 10 %)", "4 images have no range, and what is not known is not told"
    parts = doubts.Familiar({"specks": (0.0, 0.0, 50), "circularity": (0.7, 0.9, 50)})
    measures = {"area_px": 40.0, "circularity": 1.0, "nodules": 1.0}
    told = [parts.odd_outline({**measures, "specks": specks}, (10, 10)) for specks in (2.0, 3.0)]
    assert told == ["", "specks 3 (theirs 0)"]
    empty = nodule_measures(np.zeros((9, 9), bool))
    assert parts.odd_outline(empty, (9, 9)) == known.odd_outline(empty, (9, 9)) == ""


def test_images_unlike_those_of_training_are_doubted_and_others_not(stage, findings):
    doubted = [any("image unlike" in warning for warning in finding.warnings) for finding in findings]
    assert sum(doubted) <= 1
    noise = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    for odd in (noise, 255 - findings[0].frame, findings[0].frame // 16):
        assert any("image unlike those of training" in warning for warning in asked(stage, odd)[0].warnings)


def test_absurd_outlines_and_networks_that_failed_are_doubted(stage, findings, monkeypatch):
    frame = findings[0].frame
    for sound in (True, False):
        monkeypatch.setattr(stage, "above_chance", sound)
        monkeypatch.setattr(stage, "fair_outlines", sound)
        (found,) = asked(stage, frame)
        assert found.above_chance == sound and found.outline_doubtful == (not sound) == found.row()["outline_doubtful"]
        assert any("above chance" in warning for warning in found.warnings) == (not sound)
        assert any("had a Dice of" in warning for warning in found.warnings) == (not sound)
    monkeypatch.setattr(stage, "fair_outlines", True)
    monkeypatch.setattr(stage.segmenter, "maps", lambda inputs: np.ones_like(inputs[:, 0]))
    (whole,) = asked(stage, frame)
    assert whole.outline_doubtful and any("area 100 % (theirs" in warning for warning in whole.warnings)


def test_own_scores_are_those_of_the_test_images(stage, runs):
    table = runs["segmenter"].predictions.query("split == 'test'")
    twice, apart = 2 * table["true_positives"], table["false_positives"] + table["false_negatives"]
    assert stage.scores["segmenter"].value == pytest.approx((twice / (twice + apart)).mean())
    assert stage.scores["classifier"].value == pytest.approx(runs["frame"].metrics["test"]["auc"])
    assert set(doubts.own_scores(runs["joint"])) == {"AUC", "Dice"}


def test_without_the_training_images_only_areas_are_known(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(Predictor, "cases", property(Mock(side_effect=DataError("gone"))))
    stage = stage_of(runs["frame"], runs["segmenter"])
    assert [set(known.ranges) for known in stage._familiar.values()] == [set(), {"area"}]
    assert any("training images are not at hand" in note for note in stage.notes)


def test_large_images_share_a_batch_with_fewer(monkeypatch):
    monkeypatch.setattr(dual_stage, "BATCH_PIXELS", 3 * 96 * 96)
    images = iter([CaseImage(str(at), two_discs(15)) for at in range(10)])
    assert [len(dual_stage._next_batch(images)) for _ in range(5)] == [3, 3, 3, 1, 0]
