"""The interval of net benefit, against the bootstrap of its values image by image."""

from __future__ import annotations

import numpy as np
import pytest

from thyroid_utils.scores.estimates import benefit_curve, patient_bootstrap
from thyroid_utils.scores.probabilities import benefit_values, decision_curve


def test_the_interval_is_that_of_the_values_over_patients():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 90)
    probabilities = np.clip(0.3 + 0.3 * labels + random.normal(0, 0.2, 90), 0, 1)
    patients = [f"p{number // 2}" for number in range(90)]
    found = benefit_curve(labels, probabilities, patients, (0.2, 0.5), resamples=4000)
    plain = decision_curve(labels, probabilities, (0.2, 0.5))
    assert found[plain.columns.tolist()].equals(plain)
    for row in found.itertuples():
        expected = patient_bootstrap(benefit_values(labels, probabilities, row.threshold), patients, resamples=4000, seed=9)
        # other draws of the same bootstrap: the ends of 4,000 resamples differ by a few hundredths of the interval's width
        width = expected.high - expected.low
        assert row.low == pytest.approx(expected.low, abs=0.08 * width)
        assert row.high == pytest.approx(expected.high, abs=0.08 * width)
        assert row.low < row.net_benefit < row.high


def test_one_patient_has_no_interval_and_a_missing_one_is_refused():
    assert benefit_curve([0, 1], [0.2, 0.7], ["a", "a"], (0.5,))[["low", "high"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="patient"):
        benefit_curve([0, 1], [0.2, 0.7], ["a", None], (0.5,))
    with pytest.raises(ValueError, match="threshold is 1"):
        benefit_curve([0, 1], [0.2, 0.7], ["a", "b"], (1.0,))
