"""Notebook 02's numbers: hand-computed cases, the theory of speckle, what each step is known to do, leaks."""

import cv2
import numpy as np
import pandas as pd
import pytest
from drawn import bars, dots, titles
from scipy import stats

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.data.phantom.imaging import RAYLEIGH_SNR
from thyroid_utils.data.splits import split_cases
from thyroid_utils.data.table import make_cases
from thyroid_utils.plots import preprocessing as plots
from thyroid_utils.preprocess.augment import augmented_copies, build_augmentation
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies import preprocessing as study


def disc(shape=(200, 240), row=100, column=120, radius=30):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def speckle(seed=0, shape=(200, 240), level=0):
    """Log-compressed (60 dB) fully developed speckle, uncorrelated, float; `level` shifts it by gray levels."""
    envelope = stats.rayleigh.rvs(size=shape, random_state=seed)
    return np.clip(150 + 255 / 60 * 20 * np.log10(envelope) + level, 0, 255)


def drawn():
    """A nodule 40 gray levels darker than the tissue, uint8."""
    return np.where(disc(), speckle(1, level=-40), speckle(2)).astype(np.uint8)


def test_contrasts_by_hand_and_of_normal_groups_by_their_theory():
    assert study.contrast_to_noise([1, 3], [10, 10]) == pytest.approx(8.0)  # |2 - 10| / √(1 + 0)
    assert study.contrast_to_noise([4, 4], [4]) == 0 and study.contrast_to_noise([4], [5]) == np.inf
    assert study.generalised_cnr([0, 0, 1, 1], [2, 2, 3, 3], bins=4) == 1.0
    assert study.generalised_cnr([0, 1, 2, 3], [0, 1, 2, 3], bins=4) == 0.0
    assert study.generalised_cnr([0, 0, 0, 3], [3, 3, 3, 0], bins=2) == pytest.approx(0.5)  # overlap 1/4 + 1/4
    assert study.generalised_cnr([5, 5], [5], bins=4) == 0.0
    assert np.isnan([study.contrast_to_noise([], [1]), study.generalised_cnr([], [1])]).all()
    # Equal normal distributions d standard deviations apart overlap by 2Φ(-d/2).
    rng = np.random.default_rng(0)
    for distance in (0.5, 2.0, 4.0):
        found = study.generalised_cnr(rng.normal(0, 1, 100_000), rng.normal(distance, 1, 100_000))
        assert found == pytest.approx(1 - 2 * stats.norm.cdf(-distance / 2), abs=0.02)  # bins of a tenth σ, sampling 0.005
    groups = rng.rayleigh(1, 50_000), rng.rayleigh(2, 50_000)
    assert study.generalised_cnr(*map(np.log, groups)) == pytest.approx(study.generalised_cnr(*groups), abs=0.02)


def test_speckle_snr_is_rayleighs_and_edge_strength_a_slope():
    assert pytest.approx(1.9131, abs=1e-4) == RAYLEIGH_SNR
    envelope = stats.rayleigh.rvs(size=400_000, random_state=0)
    assert study.speckle_snr(envelope) == pytest.approx(RAYLEIGH_SNR, abs=0.01)
    assert study.speckle_snr([2, 4]) == 3.0 and study.speckle_snr([5, 5]) == np.inf and np.isnan(study.speckle_snr([]))
    assert study.decompress(np.array([255, 127.5, 0])).tolist() == pytest.approx([1.0, 10**-1.5, 1e-3])
    calm = study.patch_snr(phantom_cases(patients=4, size=256, views=(1, 1)))
    assert len(calm) >= 8 and 1.5 < np.median(calm) < 2.3, "tissue is not homogeneous, and shown at 50 to 60 dB"
    ramp = np.tile(np.arange(60.0) * 2.5, (60, 1))
    mask = np.zeros((60, 60), bool)
    mask[:, :30] = True
    assert study.edge_strength(ramp, mask) == pytest.approx(2.5, rel=1e-3)  # the Gaussian is cut off at four σ
    assert study.edge_strength(3 * ramp + 7, mask) == pytest.approx(3 * study.edge_strength(ramp, mask))
    assert study.edge_strength(ramp.T, mask) == pytest.approx(0, abs=1e-9), "a slope along the contour is no edge"
    step = 100.0 * disc()
    assert study.edge_strength(step, disc()) == pytest.approx(100 * stats.norm.pdf(0.5), rel=0.1)  # half a pixel off the step
    assert np.isnan([study.edge_strength(step, np.full(step.shape, filled)) for filled in (False, True)]).all()
    assert np.isnan(study.edge_strength(step, disc(radius=0))), "a single pixel has no normal"


def test_patches_avoid_structure_and_quality_is_of_a_nodule_smoothed_or_none():
    gray = speckle()
    gray[:, :60] = 0
    gray[:, 60:80] = 20 + gray[:, 60:80] / 20
    cv2.circle(gray, (170, 100), 40, 255, -1)
    patches = study.homogeneous_patches(gray)
    assert len(patches) == 5
    for box in patches:
        assert box.shape == (24, 24) and box.left >= 76 and box.crop(gray).max() < 255
    within = np.zeros((200, 240), bool)
    within[100:160, 30:100] = True
    assert all(box.crop(within).all() for box in study.homogeneous_patches(speckle(), within))
    assert study.homogeneous_patches(np.zeros((50, 50))) == study.homogeneous_patches(speckle(shape=(10, 10))) == []
    found = study.quality(drawn(), disc())
    deviation = 255 / 60 * 5.57  # log-compressed Rayleigh speckle spreads by 5.57 dB
    assert found["cnr"] == pytest.approx(40 / (np.sqrt(2) * deviation), rel=0.08)
    smooth = study.quality(cv2.GaussianBlur(drawn(), (0, 0), 1.5), disc(), study.homogeneous_patches(drawn()))
    assert smooth["speckle_snr"] > 1.8 * found["speckle_snr"] and smooth["edge"] < 0.6 * found["edge"]
    none = study.quality(speckle().astype(np.uint8), np.zeros((200, 240), bool))
    assert np.isnan([none["cnr"], none["gcnr"], none["edge"]]).all() and none["speckle_snr"] > 1.5
    assert np.isnan(study.quality(np.zeros((40, 40), np.uint8), disc((40, 40), 20, 20, 8))["speckle_snr"])


@pytest.fixture(scope="module")
def cases():
    return phantom_cases(patients=5, size=128, views=(1, 1))


def test_stages_are_measured_where_they_show_gray_levels_and_gains_are_told(cases):
    """`resize` to the same size changes nothing, smoothing what it is known to; z-scores have no gray levels."""
    seen = []
    smoothed = build_pipeline(["gray", {"gaussian": {"sigma": 1.5}}, {"resize": {"size": 128}}, "scale"])
    scored = build_pipeline(["gray", "zscore", {"resize": {"size": 64}}])
    found = study.measure_stages(cases, [smoothed], lambda done, total: seen.append((done, total)))
    means = found.groupby("step")[["speckle_snr", "edge", "ms"]].mean()
    assert means.loc["gaussian", "speckle_snr"] > 1.3 * means.loc["input", "speckle_snr"]
    assert means.loc["gaussian", "edge"] < means.loc["input", "edge"]
    assert means.loc["input", "ms"] == 0 < means.loc["gaussian", "ms"]
    assert seen == [(n, 5) for n in range(1, 6)] and len(found) == 5 * 5
    found = study.measure_stages(cases, [scored])
    assert found[found["step"] == "resize"]["edge"].isna().all()
    few = cases.drop_duplicates("patient")
    stages = study.measure_stages(
        few, [build_pipeline("paper_002").fit(few), build_pipeline(["gray", {"resize": {"size": 128}}])]
    )
    table = study.gains(stages)
    measured = stages[stages["pipeline"] == "paper_002"].dropna(subset="gcnr").groupby("case")["gcnr"]
    assert table.at["paper_002", "generalised CNR"].value == pytest.approx((measured.last() - measured.first()).mean())
    assert table["generalised CNR"].iloc[1].value == 0
    one, other = Estimate(0.1, 0.05, 0.2, 5, 5), Estimate(0.0, np.nan, np.nan, 1, 1)
    table = pd.DataFrame({"generalised CNR": [one, other], "speckle SNR": [other, other], "ms an image": [1.0, 2.0]}, ["a", "b"])
    told = study.answer(table, pd.DataFrame({"copy in training": [0.8, 0.0]}))
    assert "(generalised CNR, 5 patients) is gained by a (+0.10); not shown to move by b; speckle is smoothed by none;" in told
    assert "1.0 to 2.0 ms" in told and "80 % have a copy in training" in told and told.endswith("alone augmented, 0 %.")


@pytest.mark.parametrize("scale", [1.0, 1 / 255, 0.0187])
def test_bins_of_scaled_gray_levels_hold_as_many_levels_each(scale):
    """A ramp that holds each level once fills every bin but the last alike; 64 bins between its ends would hold 3 or 4."""
    values = np.arange(250, dtype=np.float32) * np.float32(scale) - np.float32(1)
    counts, _ = np.histogram(values, plots._bins(values))
    assert set(counts[counts > 0][:-1]) == {4} and counts.sum() == 250
    assert len(plots._bins(np.zeros(5, np.float32))) >= 2


def test_recipes_tell_which_pipelines_are_the_same_and_leaks_by_hand(tmp_path):
    fitted = build_pipeline("paper_000", 64)
    fitted.mean, fitted.deviation = 0.25, 0.125
    table = study.recipes([*(build_pipeline(name, 64) for name in ("paper_004", "plain", "paper_004")), fitted])
    assert table["same as"].tolist() == ["paper_004", "–", "paper_004", "–"]
    assert table["steps"].iloc[0] == "gray → scale → resize (size=64×64, mode=stretch)"
    rng = np.random.default_rng(0)
    first, second, third = (cv2.GaussianBlur(rng.integers(0, 256, (48, 60)).astype(np.uint8), (0, 0), 4) for _ in range(3))
    columns = ["case", "patient", "split", "source_case"]
    rows = [("a", "p", "train", "a"), ("a+1", "p", "test", "a"), ("b", "q", "train", "b"), ("c", "q", "test", "c")]
    images = [str(write_png(tmp_path / f"{n}.png", image)) for n, image in enumerate((first, second, third, third[:, ::-1]))]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    cases = make_cases([{**row, "image": image, "dataset": "test"} for row, image in zip(named, images, strict=True)])
    leaks = study.augmentation_leaks({"all": cases, "one": cases.drop("a+1")})
    assert leaks.loc["all", ["test images", "copy in training", "patient in training"]].tolist() == [2, 0.5, 1]
    assert leaks.loc["one", ["test images", "copy in training", "patient in training"]].tolist() == [1, 0, 1]
    assert leaks.loc["one", "nearest in training, r"] == pytest.approx(1), "a mirrored picture is the same picture"
    with pytest.raises(DataError, match="split the cases first"):
        study.augmentation_leaks({"none": cases.assign(split=None)})


def test_figures_show_stages_measures_costs_marks_and_copies(cases):
    pipelines = [build_pipeline(name, 64) for name in ("paper_002", "paper_004")]
    assert len(titles(plots.stages(pipelines[0], cases.index[0], cases.iloc[0]))) > 3
    measured = study.measure_stages(cases, pipelines)
    estimates, costs = study.stage_estimates(measured), study.step_costs(measured)
    assert dots(plots.stage_measures(estimates).axes[0]) == [estimate.value for estimate in estimates["cnr"]]
    assert bars(plots.costs(costs).axes[0]) == pytest.approx(list(costs["ms"]))
    assert len(titles(plots.removal(cases, list(cases.index[:2])))) == 6
    assert len(titles(plots.augmentations(cases, cases.index[0], build_augmentation("default"), count=3, size=64))) == 4
    copies = augmented_copies(cases, "paper_003", copies=2)
    assert "TEST" in titles(plots.siblings(split_cases(copies, (0.6, 0.4), by="image", require_classes=False)))[0]
