"""Patient-clustered intervals against theory and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from thyroid_utils.statistics import patient_bootstrap, proportion_interval


def test_one_image_a_patient_is_the_ordinary_bootstrap():
    values = np.random.default_rng(0).normal(5, 2, 80)
    ours = patient_bootstrap(values, [f"p{i}" for i in range(80)], resamples=4000)
    reference = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == pytest.approx(values.mean())
    # Two Monte-Carlo quantiles of 4000 draws differ by about 0.02; the interval itself is 0.9 wide.
    assert ours.low == pytest.approx(reference.confidence_interval.low, abs=0.06)
    assert ours.high == pytest.approx(reference.confidence_interval.high, abs=0.06)


def test_copies_of_an_image_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=40)
    patients = [f"p{i}" for i in range(40)]
    once = patient_bootstrap(values, patients)
    copied = patient_bootstrap(np.repeat(values, 6), np.repeat(patients, 6))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert copied.images == 240 and copied.patients == 40
    naive = patient_bootstrap(np.repeat(values, 6), [str(i) for i in range(240)])
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        patient_effect = np.repeat(random.normal(size=40), 4)
        found = patient_bootstrap(
            patient_effect + 0.1 * random.normal(size=160), np.repeat(np.arange(40), 4), resamples=300, seed=trial
        )
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99  # 0.95 less the small-sample shortfall, ± 3 standard errors of 200 trials


def test_missing_values_one_patient_and_none():
    assert patient_bootstrap([1.0, np.nan, 3.0], ["a", "b", "c"]).images == 2
    single = patient_bootstrap([1.0, 3.0], ["a", "a"])
    assert single.value == 2.0 and np.isnan(single.low) and "no interval" in single.text()
    assert patient_bootstrap([], []).text() == "no data"
    assert patient_bootstrap([1.0, 2.0, 4.0], list("abc"), np.median).value == 2.0


def test_bad_arguments():
    with pytest.raises(ValueError, match="expected two equal"):
        patient_bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="level is 95"):
        patient_bootstrap([1.0, 2.0], ["a", "b"], level=95)


def test_proportion_interval_is_wilsons():
    n, p, z = 20, 0.25, 1.959963985
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert proportion_interval(5, 20) == pytest.approx((centre - half, centre + half))
    assert proportion_interval(0, 10)[0] == 0 and proportion_interval(0, 10)[1] > 0.2
    assert np.isnan(proportion_interval(0, 0)).all()
