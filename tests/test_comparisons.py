"""Paired tests against brute force, scipy and statsmodels, and the table of all pairs."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.comparisons import (
    compare_means,
    compare_models,
    corrected_error,
    delong_test,
    holm,
    mcnemar_test,
    sign_flip_test,
    subset_comparison,
    subset_estimate,
)


def example(patients: int = 50, each: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels that differ within patients, probabilities of three models with many ties, and patients."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), random.integers(1, 2 * each, patients))
    labels = (random.normal(size=patients)[codes] + random.normal(size=len(codes)) > 0.3).astype(int)
    common = random.normal(size=patients)[codes] + labels
    models = expit(common + random.normal(size=(3, len(codes)))).round(2)
    return labels, models, codes


def wins(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether each malignant image beats each benign one, ties a half: (malignant, benign)."""
    malignant, benign = probabilities[labels == 1][:, None], probabilities[labels == 0][None]
    return (malignant > benign) + 0.5 * (malignant == benign)


def test_delong_by_hand():
    # Malignant 0.8, 0.4, benign 0.6, 0.2: components of the malignant 1 and 1/2, of the benign 1/2 and 1; each has variance 1/8.
    # A model that tells nothing apart has components of 1/2 throughout, so that this is also the variance of the difference.
    found, error = delong_test([1, 1, 0, 0], [0.8, 0.4, 0.6, 0.2], [0, 0, 0, 0]), np.sqrt(1 / 8 / 2 + 1 / 8 / 2)
    assert (found.first, found.second) == (0.75, 0.5)
    assert (found.low, found.high) == pytest.approx((0.25 - 1.959964 * error, 0.25 + 1.959964 * error))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.25 / error))


@pytest.mark.parametrize("clustered", [True, False])
def test_the_variance_is_obuchowskis_definition(clustered):
    """Obuchowski (1997), equations for S10, S01 and S11, by loops over patients; DeLong's where each image is a patient."""
    labels, models, codes = example()
    names = np.unique(codes)
    assert sum(0 < labels[codes == name].mean() < 1 for name in names) > 10  # patients with both classes have cross terms
    codes = codes if clustered else np.arange(len(labels))
    names = np.unique(codes)
    tables = [wins(labels, model) for model in models]
    malignant, benign = codes[labels == 1], codes[labels == 0]

    def sums(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
        """What each patient's images are above the mean, in all."""
        return np.array([(values[owners == name] - values.mean()).sum() for name in names])

    v10 = np.array([sums(table.mean(axis=1), malignant) for table in tables])
    v01 = np.array([sums(table.mean(axis=0), benign) for table in tables])
    m, n, patients = len(malignant), len(benign), len(names)
    with_malignant, with_benign = len(set(malignant)), len(set(benign))
    s10, s01 = v10 @ v10.T * with_malignant / (with_malignant - 1), v01 @ v01.T * with_benign / (with_benign - 1)
    s11 = v10 @ v01.T * patients / (patients - 1)
    ours = s10 / m**2 + s01 / n**2 + (s11 + s11.T) / (m * n)
    for weights, pair in (((1, -1, 0), models[:2]), ((0, 1, -1), models[1:]), ((0.5, 0.5, -1), (models[:2], models[2]))):
        found = delong_test(labels, *pair, codes if clustered else None)  # of seeds it is of the mean AUC
        assert found.high - found.difference == pytest.approx(1.959963985 * np.sqrt(weights @ ours @ weights), rel=1e-8)
    assert found.first == pytest.approx(np.mean([roc_auc_score(labels, model) for model in models[:2]]))


def test_delong_at_the_edges():
    labels, models, codes = example()
    same = delong_test(labels, models[0], 5 * models[0] ** 3 - 2, codes)  # the same order of the images, and no probabilities
    assert (same.difference, same.p_value) == (0, 1)
    perfect = delong_test([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.8, 0.9, 0.1, 0.2])
    assert perfect.difference == 1 and np.isnan(perfect.p_value) and "variance is 0" in perfect.text()
    few = delong_test([0, 0, 1, 1], [0.1, 0.3, 0.2, 0.9], [0.3, 0.1, 0.2, 0.9], list("abcc"))
    assert np.isnan(few.p_value)
    with pytest.raises(DataError, match="delong_test: all 2 images are malignant"):
        delong_test([1, 1], [0.1, 0.2], [0.1, 0.2])


def test_mcnemar_is_statsmodels_exact_test():
    random = np.random.default_rng(0)
    for images, first, second in [(60, 0.8, 0.6), (400, 0.7, 0.75), (9, 0.5, 0.5)]:
        one, two = random.random(images) < first, random.random(images) < second
        table = [[(one & two).sum(), (one & ~two).sum()], [(~one & two).sum(), (~one & ~two).sum()]]
        found = mcnemar_test(one, two)
        assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-10)
        assert (found.only_first, found.only_second) == (table[0][1], table[1][0])
    # Eight images that only the first calls rightly and none the other way: 2 / 2⁸.
    assert mcnemar_test([1] * 8 + [0] * 5, [0] * 13).p_value == pytest.approx(2 / 2**8)


def test_mcnemar_of_patients_is_every_swap_counted():
    """All 2^9 swaps written out."""
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(9), random.integers(1, 6, 9))
    one, two = random.random(len(codes)) < 0.8, random.random(len(codes)) < 0.5
    differences = np.bincount(codes, one.astype(float) - two)
    swaps = np.abs(np.array(list(product((-1, 1), repeat=9))) @ differences)
    expected = (swaps >= abs(differences.sum())).mean()
    assert 0.001 < expected < 0.9
    assert mcnemar_test(one, two, codes).p_value == pytest.approx(expected)
    # Images of one patient that go the same way are one patient's evidence.
    assert mcnemar_test(np.repeat(one, 3), np.repeat(two, 3), np.repeat(codes, 3)).p_value == pytest.approx(expected)


def test_mcnemar_edges_and_seeds():
    assert mcnemar_test([1, 0, 1], [1, 0, 1]).p_value == 1
    seeds = mcnemar_test([[1, 1], [1, 0]], [[0, 1], [0, 0]])  # one image, right in both seeds for the first model only
    assert (seeds.first, seeds.second, seeds.only_first, seeds.p_value) == (0.75, 0.25, 2, 1)
    for unclear in ([1, np.nan], ["False", "True"], [1, 2]):
        with pytest.raises(ValueError, match="neither right"):
            mcnemar_test([1, 0], unclear)


def test_holm_by_hand_and_statsmodels():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p_values = np.random.default_rng(0).random(21) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True) and len(holm([])) == 0


def test_every_pair_of_models_with_holm():
    labels, models, codes = example(80)
    noise = np.random.default_rng(5).random(len(labels))
    probabilities = dict(zip("abc", models, strict=True)) | {"noise": noise}
    thresholds = {"a": 0.5, "b": 0.6, "c": 0.4, "noise": 0.5}
    table = compare_models(labels, probabilities, codes, thresholds)
    assert list(zip(table["first"], table["second"], strict=True)) == list(combinations(probabilities, 2))
    for _, row in table.iterrows():
        one, two = row["first"], row["second"]
        ranking = delong_test(labels, probabilities[one], probabilities[two], codes)
        assert (row["auc_difference"], row["low"], row["p_auc"]) == (ranking.difference, ranking.low, ranking.p_value)
        calls = mcnemar_test(
            (probabilities[one] >= thresholds[one]) == labels, (probabilities[two] >= thresholds[two]) == labels, codes
        )
        assert (row["p_accuracy"], row["only_first_right"]) == (calls.p_value, calls.only_first)
        # 2.8 standard errors: 1.96 for the test and 0.84 for a power of 80 %.
        assert row["detectable"] == pytest.approx((1.959964 + 0.841621) * (row["high"] - row["low"]) / 2 / 1.959964, rel=1e-5)
    assert table["p_auc_holm"].tolist() == pytest.approx(holm(table["p_auc"]).tolist())
    assert table["p_accuracy_holm"].tolist() == pytest.approx(holm(table["p_accuracy"]).tolist())
    assert table["auc_differs"].tolist() == [False, False, True, False, True, True]


def test_paired_means_use_patients():
    found = compare_means([1, 3, np.nan, 5], [0, 1, 7, 2], ["a", "a", "b", "c"])
    assert (found.first, found.second, found.difference, found.images, found.patients) == (3, 1, 2, 3, 2)
    # Without a the mean is 3, without c 1.5; t of (3²/5 − 1) degrees of freedom, of which at least 1 is taken.
    assert found.high - found.low == pytest.approx(2 * 12.706205 * np.sqrt((1 + 0.25) / 2), rel=1e-6)
    random = np.random.default_rng(3)
    codes = np.repeat(np.arange(15), 4)
    first = random.normal(size=60) + random.normal(size=15)[codes]
    second = first + random.normal(0.3, 1, 15)[codes]
    found = compare_means(first, second, codes)
    sums = pd.Series(first - second).groupby(codes).sum()
    other = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=1)
    # three standard errors of two draws of 10,000
    assert found.p_value == pytest.approx(other.pvalue, abs=4.3 * np.sqrt(other.pvalue / 10_000) + 1e-4)
    assert found.low < 0 < found.high and found.p_value > 0.05
    assert np.isnan(compare_means([np.nan], [1.0], ["a"]).difference)
    lone = compare_means([1.0, 2.0], [0.0, 0.0], ["a", "a"])
    assert lone.difference == 1.5 and np.isnan([lone.low, lone.p_value]).all() and lone.note == "1 patient"


def test_sign_flips_by_hand_and_against_scipy():
    assert sign_flip_test(np.array([1.0, 2.0, 3.0])) == 2 / 8, "of eight flips two reach 6"
    assert sign_flip_test(np.array([1.0, -1.0, 0.0])) == 1
    assert sign_flip_test(1e-13 * np.ones(20)) == sign_flip_test(np.ones(20)) < 0.001, "whatever the unit"
    sums = np.random.default_rng(2).normal(0.4, 1, 10)
    exact = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(sums) == pytest.approx(exact.pvalue)


def test_the_corrected_error_by_hand():
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


def test_without_overlap_it_is_students_test():
    first, second = np.random.default_rng(0).normal(0.8, 0.05, (2, 9))
    compared, _ = subset_comparison(first, second, 10**12, 1, 1)  # test/train is nothing, and what is left the plain t-test
    reference = stats.ttest_rel(first, second)
    assert compared.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    assert (compared.low, compared.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-6)


def test_subsets_without_an_interval_or_a_test():
    for values, told in (([0.8], "0.80 [no interval: 1 subset]"), ([1.0, 1.0], "1.00 [no interval: all subsets agree]"),
                         ([np.nan, np.nan], "undefined in 2 of 2 subsets")):  # fmt: skip
        assert subset_estimate(values, 60, 30, 25).text() == told
    missing = subset_estimate([0.7, np.nan, 0.9], 60, 30, 25)
    assert missing.value == pytest.approx(0.8) and missing.low < 0.8 and missing.note == "undefined in 1 of 3 subsets"
    equal, _ = subset_comparison([0.7, 0.8], [0.7, 0.8], 70, 30, 30)
    assert equal.p_value == 1.0 and equal.difference == 0
    for alone in (([0.75, 1.0], [0.5, 0.75]), ([0.7], [0.8])):
        assert np.isnan(subset_comparison(*alone, 70, 30, 30)[0].p_value)
