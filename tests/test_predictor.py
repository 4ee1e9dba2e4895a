"""Predictors give what a run's own predictions say, and take images that the run has never seen."""

import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from training_project import one_cache, own_runs, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray
from thyroid_utils.inference.predictor import Predictor, spacings
from thyroid_utils.training.fit import fit_or_load


@pytest.mark.parametrize("preprocessing", ["paper_001", ["gray", "resize", "zscore"]])
def test_a_classifier_says_what_its_run_says(preprocessing):
    run = fit_or_load(tiny_config(training__epochs=1, preprocessing=preprocessing))
    predictor, told = Predictor(run, batch_size=3), run.predictions["log_odds"]
    np.testing.assert_allclose(predictor.log_odds(predictor.inputs(told.index)), told, rtol=0, atol=1e-4)
    frames = [read_gray(image) for image in predictor.cases.loc[told.index, "image"]]
    for frame, expected in zip(frames, predictor.inputs(told.index), strict=True):
        np.testing.assert_array_equal(predictor.pipeline(frame).image, expected)
    assert told.std() > 1e-3  # all the same would agree for nothing


def test_a_segmenter_says_what_its_run_says_and_new_images_need_no_training_images(monkeypatch):
    run = fit_or_load(segmentation_config(training__epochs=1))
    predictor = Predictor(run, batch_size=5)
    names, maps = run.maps("test")
    found = predictor.maps(predictor.inputs(names))
    np.testing.assert_allclose(found, maps, rtol=0, atol=0.51 / 255)
    assert maps.std() > 1e-3
    # µ and σ of the training images are in the run.
    run = fit_or_load(tiny_config(training__epochs=1, preprocessing="paper_001"))
    predictor = Predictor(run)
    frame = read_gray(predictor.cases["image"].iloc[0])
    expected = predictor.pipeline(frame).image
    mean, deviation = run.data["fitted"]
    assert deviation > 0 and (predictor.pipeline.mean, predictor.pipeline.deviation) == (mean, deviation)
    with monkeypatch.context() as away:
        away.setattr("thyroid_utils.inference.predictor.split_data", None)
        np.testing.assert_array_equal(Predictor(run).pipeline(frame).image, expected)
    assert fit_or_load(tiny_config(training__epochs=1, preprocessing=["gray", "resize", "zscore"])).data["fitted"] is None


def test_what_cannot_be_asked_is_refused_and_spacings_may_be_unknown():
    cases = pd.DataFrame({"spacing_mm": [0.1, np.nan]})
    assert spacings(cases) == [0.1, None] and spacings(cases[[]]) == [None, None]
    run = fit_or_load(tiny_config(training__epochs=1))
    predictor = Predictor(run)
    with pytest.raises(ValueError, match="needs one of segmentation"):
        predictor.maps(predictor.inputs(run.predictions.index[:1]))
    with pytest.raises(KeyError, match="no case phantom/none"):
        predictor.inputs(["phantom/none"])
    other = Predictor(run)
    assert Predictor(run, "elsewhere").config.data.root == "elsewhere"
    run.data["fingerprint"] = "another"
    with pytest.raises(DataError, match="not those it was trained on"):
        other.cases  # noqa: B018


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_and_not_fetched_anew():
    work = """
from resource import RUSAGE_SELF, getrusage
import numpy as np
from thyroid_utils.common.machine import keep_freed_memory
keep_freed_memory()
np.ones(2**24)
before = getrusage(RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**24)
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""
    told = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True).stdout
    assert int(told) < 100, "128 MiB are 32,768 pages, or 64 large ones, five times"
