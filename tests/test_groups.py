"""Groups of patients and parts of images, against brute force, scipy and simulated data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from thyroid_utils.scores.comparisons import delong_test
from thyroid_utils.scores.groups import Area, Mean, mann_whitney_patients, randomisation_test


def grouped(first: list[float], second: list[float]) -> tuple[list[float], list[int], list[str]]:
    """Values, groups and patients of one image a patient."""
    count = len(first) + len(second)
    return [*first, *second], [0] * len(first) + [1] * len(second), [f"p{number}" for number in range(count)]


def brute_force_effect(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean([np.sign(b - a) for a in first for b in second]))


def test_three_against_two_by_hand():
    # Of the six pairs group 1 wins (3 beats 1, 2; 5 beats 1, 2, 4) five and loses (3 against 4) one: (5 − 1) / 6.
    found = mann_whitney_patients(*grouped([1, 2, 4], [3, 5]))
    assert found.effect == pytest.approx(4 / 6)
    # 10 ways to place two of five ranks; the rank sum 3 + 5 = 8 and the more extreme 9, and their mirror images: 4 of 10.
    assert found.p_value == pytest.approx(0.4) and str(found).startswith("effect +0.67") and "p = 0.4" in str(found)
    assert (found.first, found.second) == (2, 4)
    assert (found.images, found.first_patients, found.second_patients, found.left_out, found.mixed) == (5, 3, 2, 0, 0)


@pytest.mark.parametrize("decimals", [6, 1, 0], ids=["no ties", "some ties", "many ties"])
@pytest.mark.parametrize("sizes", [(5, 6), (40, 12)])
def test_one_image_a_patient_is_scipys_test(decimals, sizes):
    random = np.random.default_rng(sizes[0])
    first, second = random.normal(size=sizes[0]).round(decimals), random.normal(0.6, size=sizes[1]).round(decimals)
    found = mann_whitney_patients(*grouped(first, second), resamples=50)
    assert found.p_value == pytest.approx(stats.mannwhitneyu(second, first).pvalue, rel=1e-12)
    assert found.effect == pytest.approx(brute_force_effect(first, second), abs=1e-12)


def test_a_patients_images_are_averaged_first():
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(30), random.integers(1, 6, 30))
    groups = (codes % 3 == 0).astype(int)
    values = random.normal(size=len(codes)) + random.normal(size=30)[codes] + groups
    found = mann_whitney_patients(values, groups, codes, resamples=50)
    means = np.array([values[codes == code].mean() for code in range(30)])
    second = np.arange(30) % 3 == 0
    assert found.p_value == pytest.approx(stats.mannwhitneyu(means[second], means[~second]).pvalue, rel=1e-12)
    assert found.effect == pytest.approx(brute_force_effect(means[~second], means[second]))
    assert found.p_value > 1.5 * stats.mannwhitneyu(values[groups == 1], values[groups == 0]).pvalue, "images are not the unit"
    repeated = np.repeat(np.arange(len(codes)), 3)
    again = mann_whitney_patients(values[repeated], groups[repeated], codes[repeated], resamples=50)
    assert (again.p_value, again.effect, again.low) == (found.p_value, found.effect, found.low)


def test_the_order_of_images_and_the_names_of_groups_do_not_matter():
    random = np.random.default_rng(2)
    codes = np.repeat(np.arange(20), 3)
    groups, values = (codes < 8).astype(int), random.normal(size=60)
    found, order = mann_whitney_patients(values, groups, codes, resamples=50), random.permutation(60)
    again = mann_whitney_patients(values[order], groups[order], codes[order], resamples=50)
    assert (again.p_value, again.effect) == (found.p_value, found.effect)
    turned = mann_whitney_patients(values, 1 - groups, codes, resamples=50)
    assert (turned.p_value, turned.effect) == pytest.approx((found.p_value, -found.effect))


def test_equal_means_in_another_order_of_addition_are_ties():
    values = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    assert np.mean(values[:3]) != np.mean(values[3:]), "the test's own numbers must differ by rounding"
    assert mann_whitney_patients(values, [0, 0, 0, 1, 1, 1], [*"aaabbb"]).effect == 0


def test_what_has_no_value_and_who_is_in_both_groups_is_counted():
    values = [1.0, np.nan, 2.0, 9.0, 3.0, 4.0, np.nan]
    groups = [0, 0, 0, 0, 1, 1, 1]
    patients = ["a", "a", "b", "c", "c", "d", "e"]  # c has a benign image (9) and a malignant one (3)
    found = mann_whitney_patients(values, groups, patients)
    assert (found.images, found.first_patients, found.second_patients, found.left_out, found.mixed) == (4, 2, 2, 2, 1)
    assert (found.first, found.second, found.effect) == (1.5, 3.5, 1.0)
    # A malignant image without a value does not move its patient to the malignant group.
    lost = mann_whitney_patients([1.0, 2.0, np.nan, 5.0], [0, 0, 1, 1], ["a", "b", "b", "c"])
    assert (lost.first_patients, lost.second_patients, lost.mixed) == (2, 1, 0)


def test_one_group_only_is_said():
    found = mann_whitney_patients([1.0, 2.0], [0, 0], ["a", "b"])
    assert np.isnan([found.p_value, found.effect, found.low, found.second]).all()
    assert found.first == 1.5 and "group 1" in found.note and found.text() == "no test: no patient with a value in group 1"
    empty = mann_whitney_patients([np.nan, np.nan], [0, 1], ["a", "b"])
    assert empty.note == "no patient with a value in group 0 and 1" and empty.left_out == 2


def test_all_alike_and_full_separation():
    alike = mann_whitney_patients(*grouped([2.0] * 6, [2.0] * 5))
    assert (alike.p_value, alike.effect) == (1.0, 0.0)
    found = mann_whitney_patients(*grouped([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]))
    assert found.effect == 1 and found.p_value == pytest.approx(2 / 252)
    assert np.isnan(found.low) and found.note == "all resamples agree"


@pytest.mark.parametrize(
    ("values", "groups", "patients", "message"),
    [
        ([1.0], [0, 1], ["a", "b"], "two equal"),
        ([1.0, 2.0], [0, 2], ["a", "b"], "hold 2"),
        ([1.0, np.inf], [0, 1], ["a", "b"], "infinite"),
        ([1.0, 2.0], [0, 1], ["a", None], "no patient"),
        ([], [], [], "at least one"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, groups, patients, message):
    with pytest.raises(ValueError, match=message):
        mann_whitney_patients(values, groups, patients)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Normal patients d = 1 apart: the true effect is 2·Φ(1/√2) − 1. Two images a patient share most of their variance."""
    truth = 2 * stats.norm.cdf(1 / np.sqrt(2)) - 1
    random, trials, covered = np.random.default_rng(0), 150, 0
    codes = np.repeat(np.arange(60), 2)
    groups = (codes < 25).astype(int)
    for _ in range(trials):
        # Variances of 0.9 between patients and 0.2 between their images give means of variance 1.
        values = random.normal(0, np.sqrt(0.9), 60)[codes] + random.normal(0, np.sqrt(0.2), 120) + groups
        found = mann_whitney_patients(values, groups, codes, resamples=300)
        covered += found.low <= truth <= found.high
    # 95 % less what few patients cost (measured with 2,000 trials: 94 %), ± 3 standard errors of 150 trials.
    assert 0.885 <= covered / trials <= 0.985


def test_the_test_errs_as_often_as_it_says_and_finds_what_it_calls_detectable():
    random, trials = np.random.default_rng(0), 200
    groups, codes = np.repeat([0, 1], [25, 15]), np.arange(40)
    detectable = mann_whitney_patients(np.arange(40.0), groups, codes, resamples=10).detectable
    shift = np.sqrt(2) * stats.norm.ppf((1 + detectable) / 2)
    found = [
        [mann_whitney_patients(random.normal(size=40) + by * groups, groups, codes, resamples=1).p_value for _ in range(trials)]
        for by in (0, shift)
    ]
    false_alarms, power = np.mean(np.array(found) < 0.05, axis=1)
    assert 0.005 <= false_alarms <= 0.095  # 0.05 ± 3 standard errors
    assert 0.71 <= power <= 0.9  # 0.8, somewhat more as the variance under an effect is smaller


def test_scores_of_parts_are_those_of_their_images():
    random = np.random.default_rng(0)
    truth, p = random.random(80) < 0.4, random.integers(0, 9, 80) / 10  # ties across the classes
    parts = (random.random((80, 30)) < 0.5).astype(float)
    parts[:, 0] = 1
    parts[truth, 1] = 0  # one class only
    areas, influence = Area(truth, p).of(parts)
    means, moved = Mean(p).of(parts)
    for number, part in enumerate(parts.T.astype(bool)):
        assert means[number] == pytest.approx(p[part].mean())
        if number == 1:
            assert np.isnan(areas[number])
        else:
            assert areas[number] == pytest.approx(roc_auc_score(truth[part], p[part]))
    np.testing.assert_allclose(influence[:, [0, *range(2, 30)]].sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(moved.sum(axis=0), 0, atol=1e-12)
    assert np.isnan(Mean(p).of(np.zeros((80, 1)))[0]).all()


def test_influences_add_up_to_the_standard_error_over_patients():
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(150), 3)
    truth = np.repeat(random.random(150) < 0.4, 3)
    p = 1 / (1 + np.exp(-(truth + np.repeat(random.normal(size=150), 3) + random.normal(size=450))))
    influence = Area(truth, p).of(np.ones((450, 1)))[1][:, 0]
    found = (np.bincount(codes, influence) ** 2).sum()
    # Obuchowski's corrects for the number of patients, here by about one in sixty.
    tested = delong_test(truth.astype(int), p, np.zeros(450), codes)  # a model without any order has no error of its own
    assert found == pytest.approx(((tested.high - tested.difference) / 1.96) ** 2, rel=0.03)
    assert found > 1.5 * (influence**2).sum()  # images of a patient are no evidence of their own


def share_found(scatter: float, runs: int = 150) -> float:
    """How often ten patients, whose values scatter so many times as much as those of a hundred others, are called different."""
    random, found = np.random.default_rng(2), 0
    for number in range(runs):
        codes = np.repeat(np.arange(110), random.integers(1, 4, 110))
        inside = codes < 10
        values = random.normal(size=110)[codes] + 0.7 * random.normal(size=len(codes))
        p, why = randomisation_test(
            Mean(np.where(inside, scatter * values, values)), inside, np.ones_like(inside), codes, 99, number
        )
        assert not why
        found += p <= 0.05
    return found / runs


@pytest.mark.parametrize("scatter", [1, 2])
def test_equal_means_are_called_different_about_as_seldom_as_said(scatter):
    # 0.05 and four standard errors of 150 runs; the bare difference is called so in a quarter of the runs with scatter 2.
    assert share_found(scatter) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)


def test_a_rare_class_in_a_part_makes_no_difference_of_an_area():
    """Twenty patients of whom two are benign, in one part, against forty of whom thirty are; the model ranks all alike."""
    random, found = np.random.default_rng(3), 0
    inside = np.arange(60) < 20
    truth = np.r_[np.ones(18, bool), np.zeros(32, bool), np.ones(10, bool)]
    for number in range(150):
        score = Area(truth, truth + random.normal(size=60))
        p, why = randomisation_test(score, inside, np.ones(60, bool), np.arange(60), 99, number)
        assert not why
        found += p <= 0.05
    assert found / 150 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
    # The two benign patients inside are ranked above all malignant ones, those outside below: one in the 496 pairs of 32.
    ranked = np.where(inside & ~truth, 3.0, np.where(truth, 2 + random.random(60), random.random(60)))
    assert 0.001 < randomisation_test(Area(truth, ranked), inside, np.ones(60, bool), np.arange(60), 4999)[0] < 0.006


def test_nothing_that_varies_and_everything_that_differs():
    codes = np.arange(24)
    inside, known = codes < 12, np.ones(24, bool)
    assert randomisation_test(Mean(np.ones(24)), inside, known, codes, 99) == (1.0, "")
    assert randomisation_test(Mean(inside.astype(float)), inside, known, codes, 99) == (0.01, "")
    assert randomisation_test(Area(inside, np.ones(24)), inside, known, codes, 99)[1] == "the score is undefined on one side"


def test_a_patient_in_both_parts_has_its_own_images_shuffled():
    """The one patient with malignant images keeps one inside, which is benign in a third of the deals: no area then."""
    codes, truth = np.array([0, 0, 0, *range(1, 11)]), np.arange(13) < 2
    inside = np.array([True, False, False, *[True] * 5, *[False] * 5])
    p, why = randomisation_test(Area(truth, np.arange(13) % 5), inside, np.ones(13, bool), codes, 200)
    assert np.isnan(p) and why.startswith("the score is undefined in 3")
