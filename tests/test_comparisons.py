"""Paired tests against brute force, scipy and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit
from statsmodels.stats.multitest import multipletests

from thyroid_utils.scores.comparisons import compare_means, corrected_error, holm, subset_comparison, subset_estimate


def test_holm_by_hand_and_paired_means_over_patients():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p_values = np.random.default_rng(0).random(21) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True) and len(holm([])) == 0
    random = np.random.default_rng(3)
    codes = np.repeat(np.arange(15), 4)
    first, second = random.normal(size=(2, 60)) + random.normal(0, 1, (2, 15))[:, codes]
    found = compare_means(first, second, codes)
    expected = stats.ttest_1samp(pd.Series(first - second).groupby(codes).mean(), 0)  # as many images of each patient
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    some = compare_means([1, 3, np.nan, 5], [0, 1, 7, 2], ["a", "a", "b", "c"])
    assert (some.first, some.second, some.difference, some.images, some.patients) == (3, 1, 2, 3, 2)
    assert np.isnan(compare_means([np.nan], [1.0], ["a"]).difference)
    lone = compare_means([1.0, 2.0], [0.0, 0.0], ["a", "a"])
    assert lone.difference == 1.5 and np.isnan([lone.low, lone.p_value]).all() and lone.note == "1 patient"
    agree = compare_means([1.0, 1.0], [0.0, 0.0], ["a", "b"])
    assert np.isnan([agree.low, agree.p_value]).all() and agree.note == "all patients agree"
    assert compare_means([1.0, 2.0], [1.0, 2.0], ["a", "b"]).p_value == 1


def test_the_corrected_error_by_hand_without_overlap_and_without_a_spread():
    # variance of (0.7, 0.8, 0.9) is 0.01; 1/3 + 30/60 = 5/6
    error = corrected_error(np.array([0.7, 0.8, 0.9]), train=60, test=30)
    assert error == pytest.approx(np.sqrt(5 / 6 * 0.01))
    estimate = subset_estimate([0.7, 0.8, 0.9], 60, 30, 25, limits=(-np.inf, np.inf))
    assert estimate.value == pytest.approx(0.8) and (estimate.images, estimate.patients) == (30, 25)
    assert estimate.high - estimate.value == pytest.approx(4.302653 * error, rel=1e-6)  # t, two degrees of freedom
    # On the logit's scale, whose slope at 0.8 is 1 / (0.8 · 0.2), of a score in [0, 1]; of one in [−1, 1] at 0.9 of the way.
    within = subset_estimate([0.7, 0.8, 0.9], 60, 30, 25)
    assert (within.low, within.high) == pytest.approx(expit(np.log(4) + np.array([-1, 1]) * 4.302653 * error / 0.16), rel=1e-6)
    wider = subset_estimate([0.7, 0.8, 0.9], 60, 30, 25, limits=(-1, 1))
    assert wider.high == pytest.approx(2 * expit(np.log(9) + 4.302653 * error / (2 * 0.09)) - 1, rel=1e-6)
    first, second = np.random.default_rng(0).normal(0.8, 0.05, (2, 9))
    compared = subset_comparison(first, second, 10**12, 1, 1)  # test/train is nothing, and what is left the plain t-test
    reference = stats.ttest_rel(first, second)
    assert compared.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    assert (compared.low, compared.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-6)
    for values, told in (([0.8], "0.80 [no interval: 1 subset]"), ([1.0, 1.0], "1.00 [no interval: all subsets agree]"),
                         ([np.nan, np.nan], "undefined in 2 of 2 subsets")):  # fmt: skip
        assert subset_estimate(values, 60, 30, 25).text() == told
    missing = subset_estimate([0.7, np.nan, 0.9], 60, 30, 25)
    assert missing.value == pytest.approx(0.8) and missing.low < 0.8 and missing.note == "undefined in 1 of 3 subsets"
    equal = subset_comparison([0.7, 0.8], [0.7, 0.8], 70, 30, 30)
    assert equal.p_value == 1.0 and equal.difference == 0
    for alone in (([0.75, 1.0], [0.5, 0.75]), ([0.7], [0.8])):
        assert np.isnan(subset_comparison(*alone, 70, 30, 30).p_value)
