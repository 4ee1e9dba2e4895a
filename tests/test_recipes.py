"""The rule by which recipes differ: hand-computed variances, other implementations, and the rates of equal recipes."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.patients import over_patients
from thyroid_utils.scores.recipes import ONE_TRAINING, auc_influence, compare_recipes, mean_influence


def test_trainings_patients_or_both_are_held_against_t_variables_and_one_training_gives_no_verdict():
    values = np.array([0.1, 0.2, 0.3, -0.1])
    found = compare_recipes(mean_influence(values), mean_influence(np.zeros(4)), list("abcd"))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.fixed_low, found.fixed_high) == pytest.approx((expected.low, expected.high))
    assert found.note == ONE_TRAINING and np.isnan([found.low, found.high, found.p_value, found.detectable]).all()
    values = np.repeat([[0.02], [0.05], [0.08]], 6, axis=1)  # all patients answer alike: nothing but the seeds differs
    found = compare_recipes(mean_influence(values), mean_influence(np.zeros((3, 6))), list("abcdef"))
    expected = stats.ttest_1samp(values[:, 0], 0)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-6)
    assert np.isnan(found.fixed_low), "these patients show no spread"
    values = np.tile([0.1, 0.2, 0.3, -0.1, 0.4], (2, 1))  # both trainings answer alike
    found = compare_recipes(mean_influence(values), mean_influence(np.zeros((2, 5))), list("abcde"))
    expected = stats.ttest_1samp(values[0], 0)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-5)
    random = np.random.default_rng(0)
    values = 0.1 + random.normal(0, 0.05, (3, 1)) + random.normal(0, 0.3, 12) + random.normal(0, 0.1, (3, 12))
    found = compare_recipes(mean_influence(values), mean_influence(np.zeros((3, 12))), range(12))
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    own = (residuals**2).sum() / (2 * 11) / (3 * 12)
    parts = values.mean(axis=0).var(ddof=1) / 12 - own, values.mean(axis=1).var(ddof=1) / 3
    drawn = np.sqrt(parts[0]) * random.standard_t(11, 400_000) + np.sqrt(parts[1]) * random.standard_t(2, 400_000)
    assert found.p_value == pytest.approx(np.mean(np.abs(drawn) >= values.mean()), abs=0.002)  # two standard errors
    assert found.high - found.difference == pytest.approx(np.quantile(np.abs(drawn), 0.95), rel=0.01)
    assert (found.p_value < 0.05) == (found.low > 0)


def test_an_auc_has_delongs_variance_and_clustered_images_that_of_patients_left_out():
    random = np.random.default_rng(1)
    labels, scores = random.integers(0, 2, 40), random.normal(size=(2, 40))
    found = auc_influence(labels, scores)
    assert found.scores == pytest.approx([roc_auc_score(labels, row) for row in scores])
    assert np.abs(found.by_image.sum(axis=1)).max() < 1e-12
    above = (scores[0][labels == 1][:, None] > scores[0][labels == 0]).astype(float)
    by_hand = above.mean(axis=1).var(ddof=1) / labels.sum() + above.mean(axis=0).var(ddof=1) / (1 - labels).sum()
    assert over_patients(found.by_image, found.strata, np.arange(40))[0][0] == pytest.approx(by_hand)
    # Each image three times, one patient's: nothing more is known.
    thrice = auc_influence(np.repeat(labels, 3), np.repeat(scores, 3, axis=1))
    again = over_patients(thrice.by_image, thrice.strata, np.repeat(np.arange(40), 3))
    assert again[0][0] == pytest.approx(by_hand) and again[1] == pytest.approx(
        over_patients(found.by_image, found.strata, np.arange(40))[1]
    )
    codes = np.repeat(np.arange(4), [9, 1, 1, 1])
    moves = mean_influence(np.arange(12.0))
    assert over_patients(moves.by_image, moves.strata, codes)[1] == pytest.approx(12**2 / (81 + 3) - 1)


def test_what_cannot_be_said_is_not_said():
    flat = mean_influence(np.full((2, 4), 0.5))
    same = compare_recipes(flat, flat, list("abcd"))
    assert (same.difference, same.p_value, same.note) == (0, 1, "")
    apart = compare_recipes(mean_influence(np.full((2, 4), 0.7)), flat, list("abcd"))
    assert np.isnan(apart.p_value) and apart.note == "the difference is the same in every training and patient"
    assert compare_recipes(flat, flat, list("aaaa")).note == "fewer than two patients"
    of_class = auc_influence([0, 0, 1, 1], np.arange(8.0).reshape(2, 4))
    assert compare_recipes(of_class, of_class, list("abcc")).note == "fewer than two patients of a class"
    wide = compare_recipes(mean_influence([[0.9, 0.2], [0.1, 0.3]]), mean_influence(np.zeros((2, 2))), list("ab"), most=1)
    assert (wide.low, wide.high, wide.fixed_high) == (-1, 1, 1)
    with pytest.raises(ValueError, match="as many seeds"):
        compare_recipes(flat, mean_influence(np.zeros((3, 4))), list("abcd"))
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        mean_influence([0.5, np.nan])
    with pytest.raises(DataError, match="all 2 images are malignant"):
        auc_influence([1, 1], [0.1, 0.2])


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("of_all", [0.0, 0.15])
def test_one_recipe_trained_twice_differs_about_as_rarely_as_it_may(seeds, of_all):
    """300 pairs of one recipe, 20 patients: a rate of 5 % has a standard error of 1.3 points; 9 % is three above. Before, when
    the networks were tested instead of the recipes, it was 39 to 47 %."""
    random, hits = np.random.default_rng(seeds), 0
    for _ in range(300):
        one, two = (random.normal(0, of_all, (seeds, 1)) + random.normal(0, 0.3, (seeds, 20)) for _ in range(2))
        hits += compare_recipes(mean_influence(one), mean_influence(two), range(20)).p_value < 0.05
    assert 2 <= hits <= 27
