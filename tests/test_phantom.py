"""Phantoms: the same from the same seed, physics against theory, traits against Bayes, one nodule an image."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.phantom import imaging, patients, phantom_cases, simulate_view


def pixels_of(cases: pd.DataFrame) -> list[bytes]:
    return [read_gray(path).tobytes() for column in ("image", "mask") for path in cases[column]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pd.DataFrame:
    return phantom_cases(tmp_path_factory.mktemp("phantoms"), patients=24, size=128, seed=1)


@pytest.mark.parametrize("scanner", imaging.SCANNERS)
def test_speckle_of_homogeneous_tissue_is_rayleigh(scanner):
    """512² pixels hold some 20 000 speckle cells, so the SNR's standard error is about 0.01; 0.05 leaves room for the finite
    number of scatterers in a cell. Log-normal or K-distributed speckle of the same mean fails both."""
    fit = imaging.rayleigh_fit(imaging.homogeneous_phantom(scanner=scanner))
    assert pytest.approx(1.9131, abs=1e-4) == imaging.RAYLEIGH_SNR
    assert fit.snr == pytest.approx(imaging.RAYLEIGH_SNR, abs=0.05)
    assert fit.scale == pytest.approx(math.sqrt(0.5), rel=0.05)  # mean power 1
    assert fit.p_value > 0.001 > imaging.rayleigh_fit(np.random.default_rng(0).exponential(1.0, (512, 512))).p_value


def test_log_compression_and_tirads_by_hand_and_the_perfect_readers_auc():
    """With DR 60 a factor of 10 (20 dB) is a third of the gray scale: 85 levels."""
    gray = imaging.log_compress(np.array([0.0, 1.0, 10.0, 1e6], np.float32), dynamic_range=60)
    assert gray.tolist() == [0, 102, 187, 255]
    assert imaging.log_compress(np.ones(1, np.float32), 60, gain=6)[0] == round((0.4 + 0.1) * 255)
    assert {traits: patients.tirads_level(patients.Traits(*traits.split(", "))) for traits in LEVELS} == LEVELS
    # scikit-learn's AUC over 6000 draws; its standard error is 0.003.
    random, labels = np.random.default_rng(2), np.repeat([0, 1], 3000)
    posteriors = [patients.malignancy_posterior(patients.sample_traits(random, label)) for label in labels]
    drawn = {patients.sample_traits(random, 0) for _ in range(1500)}
    assert 0.9 < sum(patients.trait_probability(traits, 0) for traits in drawn) <= 1 + 1e-9, "what 1500 draws leave out is rare"
    assert roc_auc_score(labels, posteriors) == pytest.approx(0.95, abs=0.01)
    traits = patients.Traits("cystic", "anechoic", "wider than tall", "smooth", "none")
    benign, malignant = patients.trait_probability(traits, 0), patients.trait_probability(traits, 1)
    assert patients.malignancy_posterior(traits, 0.3) == pytest.approx(0.3 * malignant / (0.3 * malignant + 0.7 * benign))


def flat_tissue(shape: tuple[int, int], attenuation: float = imaging.USUAL_ATTENUATION) -> imaging.Tissue:
    maps = np.zeros((4, *shape), np.float32)
    maps[1] = attenuation
    return imaging.Tissue(*maps)


@pytest.mark.parametrize(
    ("attenuation", "shadow", "below"),
    [
        (0.15, 0.0, -3.2),  # 20 pixels of 0.2 mm, both ways at 10 MHz: 0.8 cm·10 MHz × (0.55 - 0.15) dB of enhancement
        (imaging.USUAL_ATTENUATION, 15.0, 15.0),
    ],
)
def test_fluid_enhances_and_calcium_shadows_what_lies_below(attenuation, shadow, below):
    tissue = flat_tissue((120, 120))
    tissue.attenuation[40:60, 40:80], tissue.shadow[50, 40:80] = attenuation, shadow
    loss = imaging.total_attenuation(tissue, imaging.SCANNERS["linear-10"], 0.2)
    assert loss[80, 60] == pytest.approx(below, abs=0.2)
    assert loss[30, 60] == pytest.approx(0, abs=0.02) and loss[80, 10] == pytest.approx(0, abs=0.02)


LEVELS = {  # composition, echogenicity, shape, margin and foci as points
    "solid, hypoechoic, wider than tall, smooth, none": "TR4",  # 2 + 2
    "solid, isoechoic, wider than tall, smooth, none": "TR3",  # 2 + 1
    "mixed, isoechoic, wider than tall, smooth, comet-tail": "TR2",  # 1 + 1
    "cystic, anechoic, wider than tall, smooth, none": "TR1",
    "spongiform, hypoechoic, taller than wide, lobulated, punctate": "TR1",
    "solid, hypoechoic, wider than tall, smooth, punctate": "TR5",  # 2 + 2 + 3, the lowest
}


def test_every_image_has_one_nodule_and_neither_threads_nor_repetition_change_a_pixel(cases, tmp_path):
    for _, row in cases.iterrows():
        nodule = read_mask(row["mask"], (128, 128))
        assert read_gray(row["image"]).shape == (128, 128) and nodule.sum() > 60
        assert ndimage.label(nodule)[1] == 1
    fewer = phantom_cases(tmp_path, patients=3, size=128, seed=1, workers=1)
    assert pixels_of(fewer) == pixels_of(cases.loc[fewer.index])
    files = ["image", "mask"]
    assert fewer.drop(columns=files).equals(cases.loc[fewer.index].drop(columns=files))
    other = simulate_view(0, size=128, seed=2)
    assert (other.image != read_gray(fewer["image"].iloc[0])).mean() > 0.3


def test_callipers_follow_the_bias_and_stand_at_the_nodules_ends():
    for bias, gap in ((0.0, 0.0), (0.6, 0.45)):  # 0.6 × three of four views; the standard error is 0.03
        settings = patients.Settings(calliper_bias=bias)
        people = [patients.Patient(number, settings) for number in range(600)]
        marked = [(person.label, patients.View(person, 0, settings).callipers) for person in people]
        shares = [np.mean([callipers for label, callipers in marked if label == wanted]) for wanted in (0, 1)]
        assert shares[1] - shares[0] == pytest.approx(gap, abs=0.1)
    mask = np.zeros((256, 256), bool)
    mask[100:141, 80:151] = True
    bright = imaging.draw_callipers(np.zeros((256, 256), np.uint8), imaging.SCANNERS["linear-7"], mask, 0.2) == 250
    for y, x in ((120, 80), (120, 150), (100, 115), (140, 115)):
        assert bright[y, x - 3 : x + 4].all() and bright[y - 3 : y + 4, x].all()
    assert bright.sum() == 4 * 13


def test_damaged_files_are_made_again_and_a_finished_set_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    cases = phantom_cases(patients=2, size=64)
    first = Path(cases["image"].iloc[0])
    before, stamp, seen = pixels_of(cases), first.stat().st_mtime_ns, []
    assert first.is_relative_to(tmp_path / "phantoms")
    assert phantom_cases(patients=2, size=np.int64(64)).equals(cases) and first.stat().st_mtime_ns == stamp
    first.write_bytes(first.read_bytes()[:100])
    phantom_cases(patients=2, size=64, progress=lambda done, total: seen.append((done, total)))
    assert pixels_of(cases) == before and seen[-1] == (len(cases), len(cases))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 0}, "patients is 0, expected a whole number from 1"),
        ({"size": 63}, "size is 63, expected a whole number of pixels"),
        ({"scanners": ["linear-9"]}, "scanners are linear-9; expected one or more of linear-7, linear-10, linear-14"),
        ({"seed": -1}, "seed is -1"),
        ({"calliper_bias": 0.9}, "calliper_bias is 0.9"),
        ({"malignant_share": 1.2}, "malignant_share is 1.2, expected 0 to 1"),
        *(({"views": views}, "expected (fewest, most) from 1 to 6") for views in ((0, 3), 4)),
    ],
)
def test_impossible_settings_are_refused(options, message, tmp_path):
    with pytest.raises(DataError, match=re.escape(message)):
        phantom_cases(tmp_path, **{"patients": 1, **options})
    assert not list(tmp_path.iterdir())
