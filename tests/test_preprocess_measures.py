"""What steps do, measured: on a phantom, against what each step is known to do."""

from __future__ import annotations

import numpy as np
import pytest

from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.preprocess import build_pipeline
from thyroid_utils.studies.preprocessing.measures import measure_stages, patch_snr, timed_stages


@pytest.fixture(scope="module")
def cases():
    return phantom_cases(patients=5, size=128, views=(1, 1))


def test_smoothing_raises_speckle_snr_and_lowers_edges(cases):
    pipeline = build_pipeline(["gray", {"gaussian": {"sigma": 1.5}}, {"resize": {"size": 128}}, "scale"])
    means = measure_stages(cases, [pipeline]).groupby("step")[["speckle_snr", "edge", "ms"]].mean()
    assert means.loc["gaussian", "speckle_snr"] > 1.3 * means.loc["input", "speckle_snr"]
    assert means.loc["gaussian", "edge"] < means.loc["input", "edge"]
    assert means.loc["input", "ms"] == 0 and means.loc["gaussian", "ms"] > 0


def test_a_step_that_changes_nothing_changes_no_measure(cases):
    measured = measure_stages(cases, [build_pipeline(["gray", {"resize": {"size": 128}}, "scale"])])
    before, after = (measured[measured["step"] == step].set_index("case") for step in ("input", "resize"))
    for name in ("cnr", "gcnr", "speckle_snr", "edge"):
        np.testing.assert_array_equal(before[name], after[name])


def test_scaled_images_are_measured_on_gray_levels_and_z_scores_not_at_all(cases):
    scaled = measure_stages(cases, [build_pipeline(["gray", "scale", {"resize": {"size": 128}}])])
    before, after = (scaled[scaled["step"] == step].set_index("case") for step in ("input", "resize"))
    np.testing.assert_allclose(before["edge"], after["edge"])
    scored = measure_stages(cases, [build_pipeline(["gray", {"zscore": {"by": "image"}}, {"resize": {"size": 64}}])])
    assert scored[scored["step"] == "resize"]["edge"].isna().all()


def test_rows_and_progress(cases):
    seen = []
    pipeline = build_pipeline("plain", 64)
    measured = measure_stages(cases, [pipeline], lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert len(measured) == 5 * (1 + len(pipeline.steps)) and set(measured["position"]) == set(range(1 + len(pipeline.steps)))


def test_timed_stages_are_the_stages():
    image = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    pipeline = build_pipeline("paper_003", 64)
    stages, seconds = timed_stages(pipeline, image, None)
    for (name, pixels, _), (other, expected, _) in zip(stages, pipeline.stages(image), strict=True):
        assert name == other
        np.testing.assert_array_equal(pixels, expected)
    assert len(seconds) == len(stages) and seconds[0] == 0


def test_a_case_without_a_mask_is_named(cases):
    without = cases.assign(mask=cases["mask"].where(cases.index != cases.index[2]))
    with pytest.raises(ValueError, match=f"1 cases have no mask .first: {cases.index[2]}"):
        measure_stages(without, [build_pipeline("plain", 64)])


def test_patches_of_phantoms_have_about_rayleighs_snr():
    snr = patch_snr(phantom_cases(patients=16, size=256, views=(1, 1)))
    # The calmest patches of frames shown at 50 to 60 dB, read back as 60 dB: theory 1.91, and tissue is not homogeneous.
    assert len(snr) >= 40 and 1.5 < np.median(snr) < 2.3
