"""Scores over repeated random subsets: by hand, against scipy, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from thyroid_utils.scores.comparisons import corrected_error, subset_comparison, subset_estimate


def test_the_corrected_error_by_hand():
    # variance of (0.7, 0.8, 0.9) is 0.01; 1/3 + 30/60 = 5/6
    error = corrected_error(np.array([0.7, 0.8, 0.9]), train=60, test=30)
    assert error == pytest.approx(math.sqrt(5 / 6 * 0.01))
    estimate = subset_estimate([0.7, 0.8, 0.9], 60, 30, 25)
    assert estimate.value == pytest.approx(0.8) and (estimate.images, estimate.patients) == (30, 25)
    assert estimate.high - estimate.value == pytest.approx(4.302653 * error, rel=1e-6)  # t, two degrees of freedom


def test_without_overlap_it_is_students_test():
    random = np.random.default_rng(0)
    first, second = random.normal(0.8, 0.05, (2, 9))
    huge = 10**12  # test/train is then nothing, and what is left is the plain t-test
    compared, _ = subset_comparison(first, second, huge, 1, 1)
    reference = ttest_rel(first, second)
    assert compared.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    assert (compared.low, compared.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-6)
    interval = ttest_1samp(first, 0).confidence_interval()
    assert subset_estimate(first, huge, 1, 1).low == pytest.approx(interval.low, rel=1e-6)


def test_it_covers_where_the_plain_interval_does_not():
    """k splits of the same 100 values, the score being the mean of the 30 tested; the truth is 0."""
    random = np.random.default_rng(1)
    trials, covered, plain = 800, 0, 0
    for _ in range(trials):
        data = random.normal(size=100)
        scores = np.array([random.permutation(data)[:30].mean() for _ in range(10)])
        estimate = subset_estimate(scores, 70, 30, 30)
        covered += estimate.low <= 0 <= estimate.high
        interval = ttest_1samp(scores, 0).confidence_interval()
        plain += interval.low <= 0 <= interval.high
    # The score does not depend on training here, so the correction is exact on average.
    assert 0.92 <= covered / trials <= 0.99
    assert plain / trials < 0.85


def test_one_subset_has_no_interval_and_equal_models_no_difference():
    alone = subset_estimate([0.8], 70, 30, 30)
    assert alone.value == 0.8 and math.isnan(alone.low) and "1 subset" in alone.text()
    equal, _ = subset_comparison([0.7, 0.8], [0.7, 0.8], 70, 30, 30)
    assert equal.p_value == 1.0 and equal.difference == 0
    constant, _ = subset_comparison([0.75, 1.0], [0.5, 0.75], 70, 30, 30)
    assert math.isnan(constant.p_value) and "every subset" in constant.note
    once, detectable = subset_comparison([0.7], [0.8], 70, 30, 30)
    assert math.isnan(once.p_value) and math.isnan(detectable)
    assert math.isnan(subset_estimate([0.7, math.nan], 70, 30, 30).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subset_estimate([], 7, 3, 3), "at least one"),
        (lambda: subset_estimate([0.5, 0.6], 0, 3, 3), "at least one of each"),
        (lambda: subset_comparison([0.5, 0.6], [0.5], 7, 3, 3), "2 and 1 scores"),
        (lambda: subset_estimate([0.5, 0.6], 7, 3, 3, level=1.0), "level is 1.0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
