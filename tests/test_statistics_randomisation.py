"""Randomisation over patients: scores of parts against scikit-learn, standard errors against Obuchowski's, error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from thyroid_utils.scores.comparisons import auc_covariance, sign_flip_test
from thyroid_utils.scores.groups import Area, Mean, randomisation_test


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
    assert found == pytest.approx(auc_covariance(truth.astype(int), [p], codes)[1][0, 0], rel=0.03)
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


def test_sign_flips_by_hand_and_against_scipy():
    assert sign_flip_test(np.array([1.0, 2.0, 3.0])) == 2 / 8, "of eight flips two reach 6"
    assert sign_flip_test(np.array([1.0, -1.0, 0.0])) == 1
    assert sign_flip_test(np.zeros(30)) == 1
    assert sign_flip_test(1e-13 * np.ones(20)) == sign_flip_test(np.ones(20)) < 0.001, "whatever the unit"
    with pytest.raises(ValueError, match="NaN"):
        sign_flip_test(np.array([1.0, np.nan]))
    sums = np.random.default_rng(2).normal(0.4, 1, 10)
    exact = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(sums) == pytest.approx(exact.pvalue)


def test_sign_flips_of_skewed_differences_keep_their_rate():
    """Most patients differ by a little below 0, a few by much above, and the mean is 0: ranks would see a difference."""
    random = np.random.default_rng(5)
    found = [sign_flip_test(random.exponential(1, 40) - 1, flips=499, seed=trial) for trial in range(400)]
    rejected = np.mean(np.array(found) < 0.05)
    # 0.05 ± 3 standard errors of 0.011, and what is lost to the skew at 40 patients, a few hundredths
    assert 0.02 <= rejected <= 0.12
    ranks = [stats.wilcoxon(random.exponential(1, 40) - 1).pvalue < 0.05 for _ in range(400)]
    assert np.mean(ranks) > 0.15
