"""Groups of patients and parts of images, against brute force, scipy and simulated data whose truth is known."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from thyroid_utils.scores.groups import mann_whitney_patients, randomisation_test


def grouped(first: list[float], second: list[float]) -> tuple[list[float], list[int], list[str]]:
    """Values, groups and patients of one image a patient."""
    count = len(first) + len(second)
    return [*first, *second], [0] * len(first) + [1] * len(second), [f"p{number}" for number in range(count)]


def brute_force_effect(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean([np.sign(b - a) for a in first for b in second]))


def test_three_against_two_by_hand_and_a_patients_images_averaged_first():
    # Of the six pairs group 1 wins (3 beats 1, 2; 5 beats 1, 2, 4) five and loses (3 against 4) one: (5 − 1) / 6.
    found = mann_whitney_patients(*grouped([1, 2, 4], [3, 5]))
    assert found.effect == pytest.approx(4 / 6)
    # z = (5 − 1/2 − 3) / √(3 · 2 · 6 / 12) = 1.5 / √3
    assert found.p_value == pytest.approx(2 * stats.norm.sf(1.5 / np.sqrt(3))) and str(found).startswith("effect +0.67")
    assert (found.first, found.second) == (2, 4)
    assert (found.first_patients, found.second_patients, found.left_out) == (3, 2, 0)
    values = [1.0, np.nan, 2.0, 9.0, 3.0, 4.0, np.nan]
    groups = [0, 0, 0, 0, 1, 1, 1]
    patients = ["a", "a", "b", "c", "c", "d", "e"]  # c has a benign image (9) and a malignant one (3)
    found = mann_whitney_patients(values, groups, patients)
    assert (found.first_patients, found.second_patients, found.left_out) == (2, 2, 2)
    assert (found.first, found.second, found.effect) == (1.5, 3.5, 1.0)
    # A malignant image without a value does not move its patient to the malignant group.
    lost = mann_whitney_patients([1.0, 2.0, np.nan, 5.0], [0, 0, 1, 1], ["a", "b", "b", "c"])
    assert (lost.first_patients, lost.second_patients) == (2, 1)
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(30), random.integers(1, 6, 30))
    groups = (codes % 3 == 0).astype(int)
    values = random.normal(size=len(codes)) + random.normal(size=30)[codes] + groups
    found = mann_whitney_patients(values, groups, codes)
    means = np.array([values[codes == code].mean() for code in range(30)])
    second = np.arange(30) % 3 == 0
    assert found.p_value == pytest.approx(stats.mannwhitneyu(means[second], means[~second]).pvalue, rel=1e-12)
    assert found.effect == pytest.approx(brute_force_effect(means[~second], means[second]))
    assert found.p_value > 1.5 * stats.mannwhitneyu(values[groups == 1], values[groups == 0]).pvalue, "images are not the unit"
    repeated = np.repeat(np.arange(len(codes)), 3)[::-1]  # in another order, too
    again = mann_whitney_patients(values[repeated], groups[repeated], codes[repeated])
    assert (again.p_value, again.effect) == (found.p_value, found.effect)


@pytest.mark.parametrize("decimals", [6, 1, 0], ids=["no ties", "some ties", "many ties"])
@pytest.mark.parametrize("sizes", [(5, 6), (40, 12)])
def test_one_image_a_patient_is_scipys_test(decimals, sizes):
    random = np.random.default_rng(sizes[0])
    first, second = random.normal(size=sizes[0]).round(decimals), random.normal(0.6, size=sizes[1]).round(decimals)
    found = mann_whitney_patients(*grouped(first, second))
    assert found.p_value == pytest.approx(stats.mannwhitneyu(second, first, method="asymptotic").pvalue, rel=1e-12)
    assert found.effect == pytest.approx(brute_force_effect(first, second), abs=1e-12)


def test_one_group_alone_all_alike_full_separation_and_what_cannot_be_compared():
    found = mann_whitney_patients([1.0, 2.0], [0, 0], ["a", "b"])
    assert np.isnan([found.p_value, found.effect, found.low, found.second]).all()
    assert found.first == 1.5 and "group 1" in found.note and str(found) == "no test: no patient with a value in group 1"
    values = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    assert np.mean(values[:3]) != np.mean(values[3:]), "the test's own numbers must differ by rounding"
    assert mann_whitney_patients(values, [0, 0, 0, 1, 1, 1], [*"aaabbb"]).effect == 0
    alike = mann_whitney_patients(*grouped([2.0] * 6, [2.0] * 5))
    assert (alike.p_value, alike.effect) == (1.0, 0.0)
    found = mann_whitney_patients(*grouped([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]))
    # z = (25 − 1/2 − 12.5) / √(25 · 11 / 12)
    assert found.effect == found.high == 1 and found.p_value == pytest.approx(2 * stats.norm.sf(12 / np.sqrt(275 / 12)))
    assert 0 < found.low < 0.5 and np.isnan(alike.low)
    for values, groups, patients, message in (
        ([1.0, 2.0], [0, 2], "ab", "hold 2"),
        ([1.0, np.inf], [0, 1], "ab", "infinite"),
        ([1.0, 2.0], [0, 1], ["a", None], "no patient"),
    ):
        with pytest.raises(ValueError, match=message):
            mann_whitney_patients(values, groups, list(patients))


@pytest.mark.parametrize("sizes", [(4, 4), (5, 7), (7, 40), (30, 30)])
def test_the_interval_is_without_nothing_just_where_the_test_rejects(sizes):
    random = np.random.default_rng(1)
    for decimals in (6, 0):  # without and with ties
        for shift in np.linspace(0, 2, 25):
            values = np.append(random.normal(size=sizes[0]), random.normal(shift, size=sizes[1])).round(decimals)
            found = mann_whitney_patients(values, [0] * sizes[0] + [1] * sizes[1], range(sum(sizes)))
            assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
            assert -1 <= found.low <= found.effect <= found.high <= 1


def test_the_test_errs_as_often_as_it_says_and_finds_what_it_calls_detectable():
    random, trials = np.random.default_rng(0), 200
    groups, codes = np.repeat([0, 1], [25, 15]), np.arange(40)
    detectable = mann_whitney_patients(np.arange(40.0), groups, codes).detectable
    shift = np.sqrt(2) * stats.norm.ppf((1 + detectable) / 2)
    found = [
        [mann_whitney_patients(random.normal(size=40) + by * groups, groups, codes).p_value for _ in range(trials)]
        for by in (0, shift)
    ]
    false_alarms, power = np.mean(np.array(found) < 0.05, axis=1)
    assert 0.005 <= false_alarms <= 0.095  # 0.05 ± 3 standard errors
    assert 0.71 <= power <= 0.9  # 0.8, somewhat more as the variance under an effect is smaller


def test_parts_are_dealt_out_as_by_hand_with_nothing_that_varies_or_everything_that_differs():
    codes = np.arange(24)
    inside, known = codes < 12, codes < 23
    lost = np.where(known, 1.0, np.nan)  # what is not known may be anything
    assert randomisation_test(lost, inside, known, codes, 99) == 1.0
    assert randomisation_test(inside * lost, inside, known, codes, 99) == 0.01
    # Two patients swap, one has its three images shuffled, of which one is inside: six deals, of which all are drawn.
    codes, inside = np.array([0, 1, 2, 2, 2]), np.array([True, False, True, False, False])
    values = np.array([4.0, 0.0, 5.0, 1.0, 1.0])

    def size(part: np.ndarray) -> float:
        difference, error = 0.0, np.zeros(3)
        for sign, chosen in ((1, part), (-1, ~part)):
            mean, patients = values[chosen].mean(), len(set(codes[chosen]))
            difference += sign * mean
            moved = np.bincount(codes[chosen], (values[chosen] - mean) / chosen.sum(), 3)
            error += sign * moved * np.sqrt(patients / max(patients - 1, 1))
        return abs(difference) / np.sqrt((error**2).sum())

    sizes = []
    for whole, shuffled in product(((True, False), (False, True)), permutations((True, False, False))):
        sizes.append(size(np.array([*whole, *shuffled])))
    expected = np.mean(np.array(sizes) >= size(inside) - 1e-9)
    found = randomisation_test(values, inside, np.ones(5, bool), codes, 4000)
    assert 0 < expected < 1 and found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))
