"""Image quality: hand-computed cases, the theory of speckle, and what may change the numbers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.phantom.scanners import RAYLEIGH_SNR
from thyroid_utils.studies.preprocessing.image_quality import (
    contrast_to_noise,
    decompress,
    edge_strength,
    generalised_cnr,
    homogeneous_patches,
    quality,
    speckle_snr,
)


def disc(shape=(200, 240), row=100, column=120, radius=30):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def speckle(seed=0, shape=(200, 240), level=None):
    """Log-compressed (60 dB) fully developed speckle, uncorrelated, float; `level` shifts it by gray levels."""
    envelope = stats.rayleigh.rvs(size=shape, random_state=seed)
    return np.clip(150 + 255 / 60 * 20 * np.log10(envelope) + (0 if level is None else level), 0, 255)


def test_contrast_to_noise_by_hand():
    assert contrast_to_noise([1, 3], [10, 10]) == pytest.approx(8.0)  # |2 - 10| / √(1 + 0)
    assert contrast_to_noise([1, 3], [7, 13]) == pytest.approx(8 / np.sqrt(1 + 9))
    assert contrast_to_noise([4, 4], [4]) == 0 and contrast_to_noise([4], [5]) == np.inf
    assert np.isnan(contrast_to_noise([], [1]))


def test_generalised_cnr_by_hand():
    assert generalised_cnr([0, 0, 1, 1], [2, 2, 3, 3], bins=4) == 1.0
    assert generalised_cnr([0, 1, 2, 3], [0, 1, 2, 3], bins=4) == 0.0
    assert generalised_cnr([0, 0, 0, 3], [3, 3, 3, 0], bins=2) == pytest.approx(0.5)  # overlap 1/4 + 1/4
    assert generalised_cnr([5, 5], [5], bins=4) == 0.0 and np.isnan(generalised_cnr([], [1]))


def test_generalised_cnr_of_two_normal_groups_is_their_theory():
    """Equal normal distributions d standard deviations apart overlap by 2Φ(-d/2)."""
    rng = np.random.default_rng(0)
    for distance in (0.5, 1.0, 2.0, 4.0):
        found = generalised_cnr(rng.normal(0, 1, 100_000), rng.normal(distance, 1, 100_000))
        assert found == pytest.approx(1 - 2 * stats.norm.cdf(-distance / 2), abs=0.02)  # bins of a tenth σ, sampling 0.005


def test_a_gray_map_raises_the_cnr_and_not_the_generalised_cnr():
    rng = np.random.default_rng(1)
    inside, outside = rng.rayleigh(1, 50_000), rng.rayleigh(2, 50_000)
    assert contrast_to_noise(inside**2, outside**2) != pytest.approx(contrast_to_noise(inside, outside), rel=0.02)
    sharper = generalised_cnr(np.log(inside), np.log(outside)) - generalised_cnr(inside, outside)
    assert abs(sharper) < 0.02


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.floats(-500, 500), st.integers(0, 1000))
def test_contrast_is_affine_invariant(scale, offset, seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(0, 256, 300).astype(float), rng.integers(60, 256, 400).astype(float)
    assert contrast_to_noise(scale * inside + offset, scale * outside + offset) == pytest.approx(
        contrast_to_noise(inside, outside), rel=1e-6
    )
    # rounding may move a value that lies on a bin's edge
    assert generalised_cnr(scale * inside + offset, scale * outside + offset) == pytest.approx(
        generalised_cnr(inside, outside), abs=0.03
    )


def test_speckle_snr_is_rayleighs():
    assert pytest.approx(1.9131, abs=1e-4) == RAYLEIGH_SNR
    envelope = stats.rayleigh.rvs(size=400_000, random_state=0)
    assert speckle_snr(envelope) == pytest.approx(RAYLEIGH_SNR, abs=0.01)
    assert speckle_snr(7.5 * envelope) == pytest.approx(speckle_snr(envelope))
    assert speckle_snr([2, 4]) == 3.0 and speckle_snr([5, 5]) == np.inf and np.isnan(speckle_snr([]))
    assert speckle_snr(stats.expon.rvs(size=400_000, random_state=0)) == pytest.approx(1.0, abs=0.01)  # intensity


def test_decompress_by_hand():
    assert decompress(np.array([255, 0]), 60).tolist() == pytest.approx([1.0, 1e-3])
    assert decompress(np.array([127.5]), 40).tolist() == pytest.approx([0.1])
    assert speckle_snr(decompress(speckle(3), 60)) == pytest.approx(RAYLEIGH_SNR, abs=0.03)


def test_edge_strength_of_a_ramp_is_its_slope():
    ramp = np.tile(np.arange(60.0) * 2.5, (60, 1))
    mask = np.zeros((60, 60), bool)
    mask[:, :30] = True
    assert edge_strength(ramp, mask) == pytest.approx(2.5, rel=1e-3)  # the Gaussian is cut off at four σ
    assert edge_strength(3 * ramp + 7, mask) == pytest.approx(3 * edge_strength(ramp, mask))
    assert edge_strength(ramp.T, mask) == pytest.approx(0, abs=1e-9), "a slope along the contour is no edge"


def test_edge_strength_of_a_step():
    mask = disc()
    assert edge_strength(100.0 * mask, mask) == pytest.approx(100 * stats.norm.pdf(0.5), rel=0.1)  # half a pixel off the step
    assert edge_strength(cv2.GaussianBlur(100.0 * mask, (0, 0), 3), mask) < 0.5 * edge_strength(100.0 * mask, mask)
    assert np.isnan(edge_strength(100.0 * mask, np.zeros_like(mask))) and np.isnan(edge_strength(mask * 1.0, np.ones_like(mask)))


def test_patches_avoid_structure_shadow_and_black():
    gray = speckle()
    gray[:, :60] = 0
    gray[:, 60:80] = 20 + gray[:, 60:80] / 20
    cv2.circle(gray, (170, 100), 40, 255, -1)
    patches = homogeneous_patches(gray, count=6, size=24)
    assert len(patches) == 6
    for number, box in enumerate(patches):
        assert box.shape == (24, 24) and box.left >= 76 and box.crop(gray).max() < 255
        assert speckle_snr(decompress(box.crop(gray))) == pytest.approx(RAYLEIGH_SNR, abs=0.3)
        for other in patches[:number]:
            assert abs(box.top - other.top) >= 24 or abs(box.left - other.left) >= 24


def test_patches_respect_their_region_and_run_out_quietly():
    within = np.zeros((200, 240), bool)
    within[100:160, 30:100] = True
    for box in homogeneous_patches(speckle(), within=within):
        assert box.crop(within).all()
    assert homogeneous_patches(np.zeros((50, 50))) == [] and homogeneous_patches(speckle(shape=(10, 10))) == []


def test_quality_of_a_drawn_nodule():
    mask = disc()
    gray = np.where(mask, speckle(1, level=-40), speckle(2)).astype(np.uint8)
    found = quality(gray, mask)
    deviation = 255 / 60 * 5.57  # log-compressed Rayleigh speckle spreads by 5.57 dB
    assert found["cnr"] == pytest.approx(40 / (np.sqrt(2) * deviation), rel=0.08)
    assert 0.4 < found["gcnr"] < 0.75
    assert found["speckle_snr"] == pytest.approx(RAYLEIGH_SNR, abs=0.2)
    assert found["edge"] > quality(cv2.GaussianBlur(gray, (0, 0), 3), mask)["edge"]


def test_quality_is_the_same_after_scaling_and_zscore():
    gray = np.where(disc(), speckle(1, level=-40), speckle(2)).astype(np.uint8)
    gray[0, 0], gray[0, 1] = 0, 255  # the whole range, which a z-scored image cannot tell
    expected = quality(gray, disc())
    for image in (gray / np.float32(255), ((gray - 90.0) / 31)[None], np.repeat(gray[..., None], 3, axis=2)):
        for name, value in quality(image, disc()).items():
            assert value == pytest.approx(expected[name], rel=1e-3), name


def test_quality_without_a_nodule_is_nan_and_not_an_error():
    found = quality(speckle(), np.zeros((200, 240), bool))
    assert np.isnan([found["cnr"], found["gcnr"], found["edge"]]).all() and found["speckle_snr"] > 1.5
    assert np.isnan(quality(np.zeros((40, 40)), disc((40, 40), 20, 20, 8))["speckle_snr"])


def test_smoothing_raises_the_speckle_snr_and_lowers_edges_in_the_same_patches():
    gray = np.where(disc(), speckle(1, level=-40), speckle(2)).astype(np.uint8)
    patches = homogeneous_patches(gray)
    before = quality(gray, disc(), patches=patches)
    after = quality(cv2.GaussianBlur(gray, (0, 0), 1.5), disc(), patches=patches)
    assert before == quality(gray, disc())
    assert after["speckle_snr"] > 1.8 * before["speckle_snr"] and after["edge"] < 0.6 * before["edge"]
    assert after["cnr"] > before["cnr"]


def test_real_speckle_is_near_rayleighs(real_data):
    """Measured on raw frames it is near the theory, though scanners filter and remap what they store."""
    found = []
    for path in sorted((real_data / "ddti" / "image").glob("*.PNG"))[::40]:
        found.append(quality(read_gray(path), read_mask(real_data / "ddti" / "mask" / path.name))["speckle_snr"])
    assert 1.4 < np.median(found) < 2.6
