"""The step that cuts to the nodule: by hand, back to the frame, with masks of another origin, in training."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from segmentation_project import register_tiny_segmenter, segmentation_config
from training_fixtures import one_cache, own_runs  # noqa: F401
from training_project import tiny_config

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.preprocess.steps import NoduleCrop, Sample
from thyroid_utils.preprocess.store import preprocessed
from thyroid_utils.training.fit import fit_or_load

CROPPED = ["gray", {"nodule_crop": {"margin": 0.25, "minimum": 8}}, {"resize": {"size": 64}}, "scale", "three_channels"]


def frame_and_mask(shape: tuple[int, int], rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels that tell the place, and a mask of one rectangle."""
    frame = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1])).astype(np.uint8)
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return frame, mask


def crop(frame: np.ndarray, mask: np.ndarray, **options):
    return NoduleCrop(**options)(Sample(frame, mask, Geometry.of(frame)))


@pytest.mark.parametrize(
    ("rows", "columns", "margin", "minimum", "top", "left", "side"),
    [
        ((20, 28), (30, 42), 0.25, 8, 15, 27, 18),  # a box of 8×12: side 12·(1 + 2·0.25), centred on (24, 36)
        ((0, 8), (70, 80), 0.5, 8, 0, 60, 20),  # at the border it is moved inside
        ((30, 31), (40, 41), 0.2, 16, 22, 32, 16),  # a tiny nodule gets the smallest side
    ],
)
def test_crops_by_hand(rows, columns, margin, minimum, top, left, side):
    frame, mask = frame_and_mask((60, 80), slice(*rows), slice(*columns))
    sample = crop(frame, mask, margin=margin, minimum=minimum)
    inside = slice(top, top + side), slice(left, left + side)
    np.testing.assert_array_equal(sample.image, frame[inside])
    np.testing.assert_array_equal(sample.mask, mask[inside])
    assert sample.geometry.offset == (top, left) and sample.geometry.scale == (1, 1)


def test_where_the_frame_is_too_small_the_square_is_black():
    """A frame 20 high and a nodule 24 wide: a square of 24, two black rows above and below."""
    frame, mask = frame_and_mask((20, 60), slice(5, 15), slice(10, 34))
    sample = crop(frame + 1, mask, margin=0, minimum=8)
    assert sample.image.shape == (24, 24)
    np.testing.assert_array_equal(sample.image[2:22], frame[:, 10:34] + 1)
    assert not sample.image[:2].any() and not sample.image[22:].any()
    np.testing.assert_array_equal(sample.geometry.to_original(sample.mask), mask)


def test_two_nodules_are_kept_together():
    frame, mask = frame_and_mask((60, 80), slice(10, 14), slice(10, 14))
    mask[40:44, 30:34] = True
    assert crop(frame, mask, margin=0).mask.sum() == 32


def test_a_map_of_the_crop_finds_back_to_the_frame():
    """Cut, enlarged by a whole factor, and brought back: the mask itself, and nothing outside the crop."""
    frame, mask = frame_and_mask((60, 80), slice(20, 28), slice(30, 46))
    mask[20:24, 30:34] = False
    sample = build_pipeline(["gray", {"nodule_crop": {"margin": 0, "minimum": 8}}, "resize", "scale"], 64)(frame, mask)
    np.testing.assert_array_equal(sample.geometry.to_original(sample.mask), mask)
    whole = sample.geometry.to_original(np.ones((64, 64), bool))
    assert whole.sum() == 16 * 16 and whole[16:32, 30:46].all()


def test_without_a_mask_it_is_refused():
    pipeline = build_pipeline(CROPPED)
    assert pipeline.needs_mask and not build_pipeline("plain").needs_mask
    with pytest.raises(DataError, match="nodule_crop: there is no mask"):
        pipeline(np.zeros((40, 40), np.uint8))


def test_an_empty_mask_is_refused_or_leaves_the_whole_frame():
    frame, mask = frame_and_mask((40, 50), slice(0, 0), slice(0, 0))
    with pytest.raises(DataError, match="the mask is empty"):
        crop(frame, mask)
    sample = crop(frame, mask, empty="frame")
    np.testing.assert_array_equal(sample.image, frame)
    assert sample.geometry.offset == (0, 0)


@pytest.fixture()
def small_segmenter(monkeypatch):
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))


def test_a_classifier_on_crops_takes_masks_of_any_origin():
    run = fit_or_load(tiny_config(training__epochs=1, preprocessing=CROPPED))
    predictor, told = Predictor(run), run.predictions["log_odds"]
    cases = predictor.cases.loc[told.index]
    frames = [read_gray(image) for image in cases["image"]]
    masks = [read_mask(mask) for mask in cases["mask"]]
    inputs = predictor.prepare(frames, masks)
    np.testing.assert_array_equal(inputs, predictor.inputs(told.index))
    np.testing.assert_allclose(predictor.log_odds(inputs), told, rtol=0, atol=1e-4)
    elsewhere = [np.roll(mask, 6, axis=1) for mask in masks]
    assert np.abs(predictor.log_odds(predictor.prepare(frames, elsewhere)) - told).max() > 1e-3
    with pytest.raises(DataError, match="there is no mask"):
        predictor.prepare(frames[:1])
    with pytest.raises(ValueError, match="zip"):
        predictor.prepare(frames, masks[:1])


def test_fitting_looks_at_the_crops():
    cropped = ["gray", {"nodule_crop": {"margin": 0, "minimum": 8}}, "resize", "scale", {"zscore": {"by": "train"}}]
    cases = Predictor(fit_or_load(tiny_config(training__epochs=1))).cases
    pipeline, again = build_pipeline(cropped, 32).fit(cases), build_pipeline(cropped, 32).fit(cases)
    samples = [build_pipeline(cropped[:-1], 32).load(case).image for _, case in cases[cases["split"].eq("train")].iterrows()]
    assert pipeline.mean == pytest.approx(np.mean(samples), rel=1e-5) and again.mean == pipeline.mean
    # Other masks of the same images give other crops, and so other numbers.
    swapped = cases.assign(mask=np.roll(cases["mask"].to_numpy(), 1))
    assert build_pipeline(cropped, 32).fit(swapped).mean != pipeline.mean


@pytest.mark.usefixtures("small_segmenter")
def test_a_segmenter_is_not_shown_where_the_nodule_is():
    with pytest.raises(ConfigError, match="nodule_crop with task segmentation"):
        fit_or_load(segmentation_config(preprocessing=CROPPED))


def test_a_case_without_a_nodule_is_named():
    cases = Predictor(fit_or_load(tiny_config(training__epochs=1))).cases
    two = cases.iloc[:2].assign(mask=[cases["mask"].iloc[0], None])
    with pytest.raises(DataError, match=f"case {two.index[1]}: step nodule_crop: there is no mask"):
        preprocessed(two, build_pipeline(CROPPED))
