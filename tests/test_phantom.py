"""Phantoms: the same bytes everywhere, physics against theory, traits against Bayes, files that survive interruptions."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.phantom import (
    RAYLEIGH_SNR,
    SCANNERS,
    Traits,
    homogeneous_phantom,
    log_compress,
    malignancy_posterior,
    perfect_reader_auc,
    phantom_cases,
    rayleigh_fit,
    simulate_view,
    simulation_stages,
    tirads_level,
    trait_table,
)
from thyroid_utils.data.phantom.draws import SCATTER_SD, Draws
from thyroid_utils.data.phantom.exact import amplitude, bell, decibels, filter_columns, filter_rows
from thyroid_utils.data.phantom.physics import USUAL_ATTENUATION, Tissue, beam_sd, echo_signal, envelope_of, total_attenuation
from thyroid_utils.data.phantom.png import stored_png, stored_png_size
from thyroid_utils.data.phantom.scanners import draw_callipers, echo_area
from thyroid_utils.data.phantom.traits import all_traits, sample_traits, trait_probability

PIXELS = """
import hashlib
from thyroid_utils.data.phantom import simulate_view
digest = hashlib.sha256()
for patient in range(6):
    frame = simulate_view(patient, 1, size=128, seed=3)
    for pixels in (frame.image, frame.nodule, frame.gland):
        digest.update(pixels.tobytes())
print(digest.hexdigest())
"""
# Changes only together with the simulator's pictures; then write the new value here.
RECORDED = "cdc257519d3e1dd51aea070807e9edad3e285ecd64a95910c7092dbe49604b18"


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Folder and case table of a small set."""
    folder = tmp_path_factory.mktemp("phantoms")
    return folder, phantom_cases(folder, patients=24, size=128, seed=1, workers=1)


# The same bytes


def run_pixels(**environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PIXELS], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_pixels_are_the_recorded_ones():
    assert run_pixels() == RECORDED


def test_pixels_do_not_depend_on_the_processors_vector_instructions():
    """The nearest that one machine comes to another: numpy and OpenCV fall back to their baseline code."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    present = " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))
    plain = run_pixels(
        NPY_DISABLE_CPU_FEATURES=present, OPENCV_CPU_DISABLE="AVX512-SKX,AVX2,FMA3,AVX,FP16,SSE4.2,SSE4.1", OPENCV_IPP="disabled"
    )
    assert plain == RECORDED


def test_worker_count_and_repetition_change_no_byte(cohort, tmp_path):
    folder, cases = cohort
    again = phantom_cases(tmp_path, patients=24, size=128, seed=1, workers=2)
    assert tree_hash(tmp_path) == tree_hash(folder)
    assert again.drop(columns=["image", "mask", "gland_mask"]).equals(cases.drop(columns=["image", "mask", "gland_mask"]))


def test_patients_stay_the_same_in_a_larger_set(cohort, tmp_path):
    _, cases = cohort
    fewer = phantom_cases(tmp_path, patients=3, size=128, seed=1)
    for case, row in fewer.iterrows():
        assert Path(row["image"]).read_bytes() == Path(cases.loc[case, "image"]).read_bytes()
        assert row["label"] == cases.loc[case, "label"]


def test_another_seed_gives_other_pixels():
    assert (simulate_view(0, size=64, seed=0).image != simulate_view(0, size=64, seed=1).image).mean() > 0.3


def test_draws_of_different_names_differ_and_of_the_same_agree():
    """(1,) and (1, 0) are one seed to numpy's SeedSequence; they must not be one stream here."""
    assert Draws(1).uniform() != Draws(1, 0).uniform()
    assert Draws(4, 2).uniform() == Draws(4, 2).uniform()


def test_draws_have_their_stated_distributions():
    draws = Draws(11)
    normal = np.array([draws.normal(3, 2) for _ in range(4000)])
    assert normal.mean() == pytest.approx(3, abs=4 * 2 / math.sqrt(4000))
    assert normal.std() == pytest.approx(2, rel=0.05)  # the standard error of an SD of 4000 draws is 1.1 %
    picked = [draws.pick({"a": 1, "b": 3, "c": 0}) for _ in range(4000)]
    assert picked.count("a") / 4000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))
    assert "c" not in picked
    assert {draws.whole(2, 4) for _ in range(200)} == {2, 3, 4}
    scatter = draws.scatterers((300, 300)).astype(float)
    assert scatter.mean() == pytest.approx(0, abs=4 * SCATTER_SD / 300)
    assert scatter.std() == pytest.approx(SCATTER_SD, rel=0.01)


# Arithmetic against independent references


def test_decibel_tables_agree_with_numpy():
    power = np.float32(10) ** np.linspace(-8, 9, 500, dtype=np.float32)
    assert np.abs(decibels(power) - 10 * np.log10(power.astype(float))).max() < 0.002
    level = np.linspace(-60, 40, 401, dtype=np.float32)
    assert amplitude(level) == pytest.approx(10 ** (np.rint(level * 16) / 16 / 20), rel=1e-6)


def test_filters_are_exact_convolutions():
    values = Draws(5).scatterers((40, 50)).astype(np.float32)
    kernel = bell(1.7)
    expected = ndimage.convolve1d(values.astype(np.float64), kernel.astype(np.float64), axis=1, mode="mirror")
    assert (filter_rows(values, kernel) == expected).all()
    expected = ndimage.convolve1d(values.astype(np.float64), kernel.astype(np.float64), axis=0, mode="mirror")
    assert (filter_columns(values, kernel) == expected).all()


def test_kernel_has_its_standard_deviation():
    kernel = bell(3.0).astype(float)
    offset = np.arange(len(kernel)) - len(kernel) // 2
    # Cut at 2.6 standard deviations and rounded down to whole 256ths, a bell narrows by up to a tenth.
    assert math.sqrt((kernel * offset**2).sum() / kernel.sum()) == pytest.approx(3.0, rel=0.1)
    assert kernel.sum() <= 256 and (kernel == kernel[::-1]).all()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (61, 37), (300, 300)])
def test_stored_png_reads_back(mask, shape, tmp_path):
    pixels = Draws(3).bytes(shape[0] * shape[1]).reshape(shape)
    pixels = pixels > 100 if mask else pixels
    content = stored_png(pixels)
    assert len(content) == stored_png_size(*shape, 1 if mask else 8)
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert (read_mask(path) == pixels).all() if mask else (read_gray(path) == pixels).all()
    assert (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) == pixels * (255 if mask else 1)).all()


# Physics


@pytest.mark.parametrize("scanner", SCANNERS)
def test_speckle_of_homogeneous_tissue_is_rayleigh(scanner):
    """512² pixels hold some 20 000 speckle cells, so the SNR's standard error is about 0.01; 0.05 leaves room for the finite
    number of scatterers in a cell. Log-normal or K-distributed speckle of the same mean fails both."""
    fit = rayleigh_fit(homogeneous_phantom(scanner=scanner))
    assert pytest.approx(1.9131, abs=1e-4) == RAYLEIGH_SNR
    assert fit.snr == pytest.approx(RAYLEIGH_SNR, abs=0.05)
    assert fit.scale == pytest.approx(math.sqrt(0.5), rel=0.05)  # mean power 1
    assert fit.p_value > 0.001 and fit.samples > 1000


def test_rayleigh_fit_recognises_other_envelopes():
    generator = np.random.default_rng(0)
    theory = rayleigh_fit(generator.rayleigh(2.0, (512, 512)))
    assert theory.snr == pytest.approx(RAYLEIGH_SNR, abs=0.02) and theory.p_value > 0.001
    assert theory.scale == pytest.approx(2.0, rel=0.01)
    assert rayleigh_fit(generator.exponential(1.0, (512, 512))).p_value < 1e-6
    assert rayleigh_fit(generator.weibull(3.0, (512, 512))).p_value < 1e-6


def test_log_compression_by_hand():
    """With DR 60 a factor of 10 (20 dB) is a third of the gray scale: 85 levels."""
    gray = log_compress(np.array([0.0, 1.0, 10.0, 1e6], np.float32), dynamic_range=60)
    assert gray.tolist() == [0, 102, 187, 255]
    assert log_compress(np.ones(1, np.float32), 60, gain=6)[0] == round((0.4 + 0.1) * 255)


def test_beam_is_narrowest_at_its_focus_and_widens_away_from_it():
    widths = [beam_sd(SCANNERS["linear-10"], 0.15, depth, focus=20) for depth in (5, 12, 20, 30, 45)]
    assert widths[2] == min(widths) and widths[0] > widths[1] and widths[4] > widths[3]
    # Diffraction limit: full width at half maximum = wavelength × f-number = 0.154 mm × 3.2.
    assert widths[2] * 2.3548 * 0.15 == pytest.approx(0.154 * 3.2)


def test_point_spread_grows_with_distance_from_the_focus():
    """Widths measured on simulated echoes of single points, not on the formula."""
    scanner, spacing, flat = SCANNERS["linear-10"], 0.15, np.zeros((301, 101), np.float32)
    scatter = np.zeros((2, *flat.shape), np.float32)
    depths = {"focus": 100, "deep": 290}
    for row in depths.values():
        scatter[0, row, 50] = 5000
    tissue = Tissue(flat, flat + np.float32(USUAL_ATTENUATION), flat, flat)
    envelope = envelope_of(*echo_signal(scatter, tissue, scanner, spacing, 100 * spacing, np.zeros_like(scatter)))
    widths = {name: (envelope[row] > envelope[row].max() / 2).sum() for name, row in depths.items()}
    assert widths["deep"] > 1.5 * widths["focus"] > 0


def attenuated(attenuation: float, shadow: float = 0.0) -> np.ndarray:
    """Loss below a 20 × 40 pixel inclusion in the middle of ordinary tissue, 0.2 mm a pixel, 10 MHz."""
    flat = np.zeros((120, 120), np.float32)
    alpha, lost = flat + np.float32(USUAL_ATTENUATION), flat.copy()
    alpha[40:60, 40:80], lost[50, 40:80] = attenuation, shadow
    return total_attenuation(Tissue(flat, alpha, lost, flat), SCANNERS["linear-10"], 0.2)


def test_fluid_enhances_by_what_it_does_not_attenuate():
    """20 pixels of 0.2 mm: 0.4 cm, both ways at 10 MHz: 0.8 cm·10 MHz × (0.55 - 0.15) dB = 3.2 dB."""
    loss = attenuated(0.15)
    assert loss[80, 60] == pytest.approx(-3.2, abs=0.1)
    assert loss[30, 60] == pytest.approx(0, abs=0.02) and loss[80, 10] == pytest.approx(0, abs=0.02)


def test_calcium_shadows_what_lies_below():
    loss = attenuated(USUAL_ATTENUATION, shadow=15.0)
    assert loss[80, 60] == pytest.approx(15.0, abs=0.2) and loss[40, 60] == pytest.approx(0, abs=0.02)


def trait_frames(count: int, **wanted: str) -> list:
    found = []
    for patient in range(400):
        frame = None
        traits = _patient(patient).traits
        if all(getattr(traits, name) == value for name, value in wanted.items()):
            frame = simulate_view(patient, size=192, seed=9)
            found.append(frame)
        if len(found) == count:
            return found
    raise AssertionError(f"{wanted}: only {len(found)} found")


def _patient(number: int):
    from thyroid_utils.data.phantom.patients import sample_patient

    return sample_patient(number, 9, tuple(SCANNERS.values()), 0.4, 0.0, (1, 6))


def nodule_minus_gland(frame) -> float:
    nearby = ndimage.binary_dilation(frame.nodule, iterations=20) & ~ndimage.binary_dilation(frame.nodule, iterations=5)
    rest = frame.gland & nearby
    return float(frame.image[ndimage.binary_erosion(frame.nodule, iterations=2)].mean()) - float(frame.image[rest].mean())


def test_echogenicity_shows_in_the_gray_levels():
    bodies = dict.fromkeys(("markedly hypoechoic", "hypoechoic", "isoechoic", "hyperechoic"), "solid")
    contrast = {
        echo: np.median([nodule_minus_gland(f) for f in trait_frames(8, echogenicity=echo, composition=body, foci="none")])
        for echo, body in {"anechoic": "cystic", **bodies}.items()
    }
    assert list(contrast.values()) == sorted(contrast.values())
    assert contrast["anechoic"] < -60 and abs(contrast["isoechoic"]) < 10 and contrast["hyperechoic"] > 15


def test_shape_trait_is_the_masks_shape():
    for shape, taller in (("taller than wide", True), ("wider than tall", False)):
        for frame in trait_frames(6, shape=shape, margin="smooth"):
            assert (frame.nodule.any(1).sum() > frame.nodule.any(0).sum()) == taller


def test_lobulated_outlines_are_less_convex_than_smooth_ones():
    def solidity(frame) -> float:
        contours, _ = cv2.findContours(frame.nodule.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outline = max(contours, key=cv2.contourArea)
        return cv2.contourArea(outline) / cv2.contourArea(cv2.convexHull(outline))

    smooth = np.median([solidity(f) for f in trait_frames(8, margin="smooth")])
    lobulated = np.median([solidity(f) for f in trait_frames(8, margin="lobulated")])
    assert smooth > 0.95 and lobulated < smooth - 0.02


def texture_of(gray: np.ndarray) -> np.ndarray:
    """Gray-level SD and correlation of neighbours along depth and across, averaged over the 40 % calmest mid-gray patches."""
    found = []
    for top in range(20, gray.shape[0] - 16, 8):
        for left in range(8, gray.shape[1] - 16, 8):
            patch = gray[top : top + 16, left : left + 16].astype(float)
            if 45 < patch.mean() < 140:
                spread = patch - patch.mean()
                along, across = (spread[1:] * spread[:-1]).mean(), (spread[:, 1:] * spread[:, :-1]).mean()
                found.append((patch.std(), along / patch.var(), across / patch.var()))
    found = np.array(found)
    return found[found[:, 0] <= np.quantile(found[:, 0], 0.4)].mean(0)


def test_texture_resembles_real_frames(real_data):
    """At DDTI's own 360 pixels. Its frames show 65 dB and the presets 50 to 60, so speckle spreads over 65/55 = 1.18 times as
    many gray levels. Between real frames the three figures have standard deviations of 1.1, 0.08 and 0.04."""
    files = sorted((real_data / "ddti" / "image").glob("*.PNG"))[::25]
    real = np.mean([texture_of(read_gray(path)) for path in files], axis=0)
    phantom = np.mean([texture_of(simulate_view(patient, size=360).image) for patient in range(12)], axis=0)
    assert phantom[0] / real[0] == pytest.approx(1.18, abs=0.15)
    assert np.abs(phantom[1:] - real[1:]).max() < 0.1


# Traits


def test_tirads_points_by_hand():
    assert tirads_level(Traits("solid", "hypoechoic", "wider than tall", "smooth", "none")) == "TR4"  # 2 + 2
    assert tirads_level(Traits("solid", "isoechoic", "wider than tall", "smooth", "none")) == "TR3"  # 2 + 1
    assert tirads_level(Traits("mixed", "isoechoic", "wider than tall", "smooth", "comet-tail")) == "TR2"  # 1 + 1
    assert tirads_level(Traits("cystic", "anechoic", "wider than tall", "smooth", "none")) == "TR1"
    assert tirads_level(Traits("spongiform", "hypoechoic", "taller than wide", "lobulated", "punctate")) == "TR1"
    # 2 + 3 + 3 + 3 + 3, and the lowest TR5: 2 + 2 + 0 + 0 + 3
    assert tirads_level(Traits("solid", "markedly hypoechoic", "taller than wide", "extrathyroidal", "punctate")) == "TR5"
    assert tirads_level(Traits("solid", "hypoechoic", "wider than tall", "smooth", "punctate")) == "TR5"
    assert tirads_level(Traits("solid", "hypoechoic", "wider than tall", "smooth", "rim")) == "TR4"


def test_trait_probabilities_sum_to_one():
    for label in (0, 1):
        assert sum(trait_probability(traits, label) for traits in all_traits()) == pytest.approx(1.0)


def test_posterior_is_bayes_rule():
    traits = Traits("cystic", "anechoic", "wider than tall", "smooth", "none")
    benign, malignant = trait_probability(traits, 0), trait_probability(traits, 1)
    assert malignancy_posterior(traits, 0.3) == pytest.approx(0.3 * malignant / (0.3 * malignant + 0.7 * benign))
    assert malignancy_posterior(traits, 0.0) == 0.0 and malignancy_posterior(traits, 1.0) == 1.0
    with pytest.raises(ValueError, match="never occur together"):
        malignancy_posterior(Traits("cystic", "hyperechoic", "wider than tall", "smooth", "none"))


def test_perfect_reader_has_auc_095():
    assert perfect_reader_auc() == pytest.approx(0.95, abs=0.01)


def test_exact_auc_agrees_with_sampled_patients():
    """scikit-learn's AUC over 6000 draws; its standard error is 0.003."""
    labels = np.repeat([0, 1], 3000)
    draws = Draws(21)
    posteriors = [malignancy_posterior(sample_traits(draws, int(label))) for label in labels]
    assert roc_auc_score(labels, posteriors) == pytest.approx(perfect_reader_auc(), abs=0.01)


# The case table


def test_table_carries_what_a_study_needs(cohort):
    _, cases = cohort
    assert cases["patient"].nunique() == 24 and set(cases["label"]) == {0, 1}
    views = cases.groupby("patient").size()
    assert views.min() >= 1 and views.max() <= 6 and views.nunique() > 2
    for column in ("label", "scanner", "composition", "tirads", "age", "sex", "spacing_mm", "malignancy_posterior"):
        assert (cases.groupby("patient")[column].nunique() == 1).all(), column
    for name, values in trait_table().items():
        assert set(cases[name]) <= set(values)
    assert set(cases["scanner"]) == set(SCANNERS)
    assert cases["patient_known"].all() and set(cases["target"]) == {"nodule"}
    assert cases.index[0] == "phantom/0000-1" and cases["patient"].iloc[0] == "phantom-0000"


def test_labels_follow_the_asked_share(tmp_path):
    for share, expected in ((0.4, 8), (0.0, 0), (1.0, 20), (0.25, 5)):
        cases = phantom_cases(tmp_path, patients=20, size=64, malignant_share=share, views=(1, 1))
        assert abs(int(cases["label"].sum()) - expected) <= (0 if share in (0, 1) else 1)


def test_every_image_has_one_nodule_inside_the_gland(cohort):
    _, cases = cohort
    for _, row in cases.iterrows():
        nodule, gland = read_mask(row["mask"], (128, 128)), read_mask(row["gland_mask"], (128, 128))
        top, bottom, left, right = echo_area(SCANNERS[row["scanner"]], 128)
        assert read_gray(row["image"]).shape == (128, 128)
        assert nodule.sum() > 60 and not (nodule & ~gland).any() and gland.sum() > nodule.sum()
        assert ndimage.label(nodule)[1] == 1
        outside = np.ones_like(gland)
        outside[top:bottom, left:right] = False
        assert not (gland & outside).any()


def test_views_of_a_patient_are_near_identical_and_patients_are_not(cohort):
    _, cases = cohort
    cases = cases[cases["scanner"] == "linear-10"]  # one layout, so that only tissue is compared
    pixels = np.stack([read_gray(path)[11:118, 7:118].ravel() for path in cases["image"]]).astype(float)
    alike = np.corrcoef(pixels)
    same = cases["patient"].to_numpy()[:, None] == cases["patient"].to_numpy()[None, :]
    own = alike[same & ~np.eye(len(cases), dtype=bool)]
    assert np.median(own) > np.quantile(alike[~same], 0.99)
    assert own.max() < 0.999  # yet no two files are the same
    assert len({hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in cases["image"]}) == len(cases)


def test_callipers_follow_the_bias_and_stand_at_the_nodules_ends(tmp_path):
    options = {"patients": 150, "size": 64, "views": (1, 1)}
    unbiased = phantom_cases(tmp_path, calliper_bias=0.0, **options)
    biased = phantom_cases(tmp_path, calliper_bias=0.6, **options)
    gap = {name: t.groupby("label")["callipers"].mean().diff().iloc[1] for name, t in (("no", unbiased), ("yes", biased))}
    assert gap["yes"] == pytest.approx(0.45, abs=0.15)  # 0.6 × three of four views; the standard error is 0.06
    assert abs(gap["no"]) < 0.2

    mask = np.zeros((256, 256), bool)
    mask[100:141, 80:151] = True
    frame = draw_callipers(np.zeros((256, 256), np.uint8), SCANNERS["linear-7"], mask, 256, 0.2, (16, 226, 22, 214))
    bright = frame == 250
    for y, x in ((120, 80), (120, 150), (100, 115), (140, 115)):
        assert bright[y, x - 3 : x + 4].all() and bright[y - 3 : y + 4, x].all()
    assert bright.sum() == 4 * 13


def test_stages_end_in_the_frame():
    stages = simulation_stages(2, 0, size=128)
    assert list(stages) == [
        "echogenicity", "attenuation", "loss", "scatterers", "echo", "envelope", "log-compressed", "frame", "callipers",
    ]  # fmt: skip
    frame = simulate_view(2, 0, size=128)
    expected = stages["callipers"] if frame.view.callipers else stages["frame"]
    assert (expected == frame.image).all()
    assert stages["envelope"].min() >= 0 and stages["log-compressed"].dtype == np.uint8


# Files


def test_cut_off_and_missing_files_are_made_again(tmp_path):
    cases = phantom_cases(tmp_path, patients=3, size=64)
    before = tree_hash(tmp_path)
    first, second = Path(cases["image"].iloc[0]), Path(cases["mask"].iloc[1])
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    seen = []
    phantom_cases(tmp_path, patients=3, size=64, progress=lambda done, total: seen.append((done, total)))
    assert tree_hash(tmp_path) == before
    assert seen == [(len(cases) - 1, len(cases)), (len(cases), len(cases))]


def test_an_interrupted_call_is_continued(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom_cases(tmp_path, patients=6, size=64, workers=1, progress=stop)
    assert len(list(tmp_path.rglob("image/*.png"))) == 4
    calls = []
    cases = phantom_cases(tmp_path, patients=6, size=64, workers=1, progress=lambda done, total: calls.append(done))
    assert calls[0] == 5 and calls[-1] == len(cases)


KILLED = """
import os, signal, sys
from thyroid_utils.data.phantom import phantom_cases
def progress(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
phantom_cases(sys.argv[1], patients=4, size=64, workers=1, progress=progress)
"""


def test_a_killed_process_leaves_nothing_half_taken(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert subprocess.run([sys.executable, "-c", KILLED, str(killed)]).returncode == -signal.SIGKILL
    (folder,) = killed.iterdir()
    (folder / "image" / ".0002-1-abc.png").write_bytes(b"what a killed write leaves")
    phantom_cases(killed, patients=4, size=64)
    phantom_cases(whole, patients=4, size=64)
    assert tree_hash(killed) == tree_hash(whole)


def test_a_finished_set_is_not_written_again(tmp_path):
    cases = phantom_cases(tmp_path, patients=2, size=64)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calls = []
    again = phantom_cases(tmp_path, patients=2, size=64, progress=lambda done, total: calls.append((done, total)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    assert again.equals(cases) and calls == [(len(cases), len(cases))]


def test_two_calls_at_once_share_the_work(tmp_path):
    made = [[], []]

    def work(k: int) -> None:
        phantom_cases(tmp_path, patients=4, size=64, workers=1, progress=lambda done, total: made[k].append(done))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    images = len(list(tmp_path.rglob("image/*.png")))
    assert sorted(map(len, made))[-1] == images  # one made all,
    assert min(map(len, made)) <= 1  # the other found them made


def test_default_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    cases = phantom_cases(patients=1, size=64)
    assert Path(cases["image"].iloc[0]).is_relative_to(paths.cache_dir() / "phantoms")
    assert phantom_cases(patients=1, size=96)["image"].iloc[0] != cases["image"].iloc[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 0}, "patients is 0, expected a whole number from 1"),
        ({"size": 63}, "size is 63, expected a whole number of pixels from 64 to 1024"),
        ({"size": 2048}, "size is 2048"),
        ({"size": 100.5}, "size is 100.5"),
        ({"seed": -1}, "seed is -1"),
        ({"scanners": ["linear-9"]}, "no scanner is called 'linear-9'; expected one of linear-7, linear-10, linear-14"),
        ({"scanners": []}, "no scanner given"),
        ({"malignant_share": 1.2}, "malignant_share is 1.2, expected 0 to 1"),
        ({"calliper_bias": 0.9}, "calliper_bias is 0.9, expected -0.6 to 0.6"),
        ({"views": (0, 3)}, "views is (0, 3), expected (fewest, most) from 1 to 6"),
        ({"views": 4}, "views is 4"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(options, message, tmp_path):
    with pytest.raises(DataError) as error:
        phantom_cases(tmp_path, **{"patients": 1, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write below .*file.*choose another folder"):
        phantom_cases(tmp_path / "file", patients=1, size=64)
