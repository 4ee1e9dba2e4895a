"""Power by simulation against closed forms, statsmodels' among them, and what it must say where a gain cannot be seen."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from thyroid_utils.scores import power


def spread(patients: int, sd: float, images: int = 1) -> tuple[np.ndarray, list[str]]:
    """Normal differences whose SD over patients is exactly `sd`; all images of a patient are alike."""
    values = np.random.default_rng(1).normal(size=patients)
    values = (values - values.mean()) / values.std() * sd
    return np.repeat(values, images), [f"p{number}" for number in range(patients) for _ in range(images)]


@pytest.mark.parametrize(("effect", "patients"), [(0.2, 20), (0.5, 20), (0.5, 40), (0.1, 500), (0.0, 10)])
def test_the_formula_is_that_of_the_paired_t_test(effect, patients):
    expected = TTestPower().power(effect_size=effect, nobs=patients, alpha=0.05) if effect else 0.05
    assert power.paired_power(effect, 1.0, patients) == pytest.approx(expected, abs=1e-6)
    assert power.paired_power(-effect, 1.0, patients) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("effect", "seed_sd"), [(0.01, 0.004), (0.0, 0.0), (0.0, 0.02)])
def test_simulation_is_the_formula_within_its_error(effect, seed_sd):
    """Differences are drawn from 2,000 normal ones, and each cell lies within 4 simulation errors, and 2 points that the formula
    is off where seeds differ. Without an effect that is at most the level, also where chance of training moves all patients at
    once, which a test over patients alone would take for a gain. One seed has no test where seeds differ."""
    question = *spread(2000, 0.05), effect
    found = power.power_simulation(*question, (20, 50, 100, 300), (1, 5), seed_sd, simulations=4000)
    expected = np.array([power.paired_power(effect, 0.05, row.patients, row.seeds, seed_sd) for row in found.itertuples()])
    asked = found["seeds"].gt(1) | (seed_sd == 0)
    assert np.array_equal(found["power"].notna(), asked) and np.array_equal(~np.isnan(expected), asked)
    found, expected = found[asked], expected[asked]
    off = 4 * np.sqrt(expected * (1 - expected) / 4000) + 0.02 * (seed_sd > 0)
    assert (np.abs(found["power"] - expected) < off).all(), found.assign(expected=expected)
    assert ((found["low"] <= found["power"]) & (found["power"] <= found["high"])).all()
    if not effect:
        assert (found["power"] < 0.065).all()
    else:
        assert power.power_simulation(*question, (10_000,), (100,), 0.02)["power"][0] > 0.95


def powers(*reached: float, seeds: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"patients": [100, 400, 900, 1600][: len(reached)], "seeds": seeds, "power": reached})


def test_patients_needed_by_hand_without_any_spread_or_with_patients_that_say_nothing():
    """Half the way from 0.7 at √400 = 20 to 0.9 at √900 = 30 is 25² patients."""
    table = pd.concat([powers(0.3, 0.7, 0.9), powers(0.85, 0.9, seeds=3), powers(0.1, 0.2, 0.79, seeds=5)])
    found = power.patients_needed(table)
    assert list(found["text"]) == ["about 625", "100 or fewer", "not within 900"]
    assert found.at[1, "patients"] == 625 and found.at[3, "patients"] == 100 and np.isnan(found.at[5, "patients"])
    assert power.patients_needed(powers(np.nan, np.nan)).at[1, "text"] == "no test"
    assert power.patients_needed(powers(0.5, 0.81, 0.79)).at[1, "text"] == "not within 900"  # one that does not last is error
    measured = power.power_simulation([0.1] * 6, list("abcdef"), 0.1, [5, 20], [1, 3], 0.0, simulations=20)
    assert measured["power"].isna().all() and set(power.patients_needed(measured)["text"]) == {"not measured"}
    assert np.isnan([power.paired_power(0, 0, 10), power.paired_power(1, 0, 10), power.smallest_gain(0, 10)]).all()
    for patients, message in (("aaa", "patients have shape"), ("aaaa", "1 patients have a difference"), ("ab?c", "no patient")):
        named = [None if name == "?" else name for name in patients]
        with pytest.raises(ValueError, match=message):
            power.power_simulation([0.1, 0.2, 0.3, 0.1], named, 0.1, (5,), (1,), 0.0)


@pytest.mark.parametrize(("sd", "patients", "seeds", "seed_sd"), [(5.0, 30, 1, 0.0), (0.05, 80, 3, 0.004), (0.0, 30, 2, 1.0)])
def test_the_smallest_gain_is_the_one_with_that_power(sd, patients, seeds, seed_sd):
    gain = power.smallest_gain(sd, patients, seeds, seed_sd)
    assert power.paired_power(gain, sd, patients, seeds, seed_sd) == pytest.approx(0.8, abs=1e-6)


def drawn(patients, seeds, own, shared, inner, random):
    """Differences (seeds, patients) with these SDs over patients, over seeds, and of each patient's answer to each seed."""
    noise = shared * random.normal(size=(seeds, 1)) + inner * random.normal(size=(seeds, patients))
    return own * random.normal(size=patients) + noise


def test_components_of_the_seeds_spread_are_unbiased_and_an_answer_to_the_seed_counts_once():
    random, names = np.random.default_rng(6), [f"p{number}" for number in range(40)]
    found = np.array([power.seed_components(drawn(40, 3, 0.05, 0.02, 0.06, random), names) for _ in range(1000)])
    error = found.std(axis=0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - [0.02**2, 0.06**2]), 4 * error)
    with pytest.raises(ValueError, match="two seeds or more"):
        power.seed_components([[0.1, 0.2]], ["a", "b"])
    # With no spread that patients share, a study of S seeds has the SD √(own² + inner² / S) over patients.
    random = np.random.default_rng(7)
    own, inner, effect, names = 0.03, 0.06, 0.006, [f"p{number}" for number in range(2000)]
    rows = drawn(2000, 3, own, 0.0, inner, random)
    found = power.power_simulation(rows, names, effect, (150,), (1, 3, 10), 0.0, simulations=4000).set_index("seeds")["power"]
    for seeds in (1, 3, 10):
        expected = power.paired_power(effect, np.sqrt(own**2 + inner**2 / seeds), 150)
        # 0.008 of the simulation, and what 2,000 patients leave open of the components
        assert found[seeds] == pytest.approx(expected, abs=0.06), seeds
    assert found[10] > found[1] + 0.2
