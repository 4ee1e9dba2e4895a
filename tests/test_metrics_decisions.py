"""Risk-coverage curves and net benefit: by hand, by their formulas and against every order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.scores.labels import confusion_counts
from thyroid_utils.scores.probabilities import aurc, benefit_values, decision_curve, risk_coverage


def test_five_cases_by_hand():
    # by rising uncertainty the errors are 0, 0, 1, 0, 1: risks 0/1, 0/2, 1/3, 1/4, 2/5
    table = risk_coverage([0.9, 0.1, 0.5, 0.2, 0.7], [1, 0, 1, 0, 0])
    assert table["coverage"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert table["images"].tolist() == [1, 2, 3, 4, 5]
    assert table["uncertainty"].tolist() == [0.1, 0.2, 0.5, 0.7, 0.9]
    assert aurc([0.9, 0.1, 0.5, 0.2, 0.7], [1, 0, 1, 0, 0]) == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert table.attrs["left_out"] == 0


def test_equal_uncertainty_is_the_mean_over_all_orders():
    errors = np.array([0, 0.2, 1, 0.6])
    uncertainty = np.array([1, 2, 2, 2])
    orders = [[0, *rest] for rest in permutations([1, 2, 3])]
    expected = np.mean([np.cumsum(errors[order]) / np.arange(1, 5) for order in orders], axis=0)
    np.testing.assert_allclose(risk_coverage(uncertainty, errors)["risk"], expected)
    # nothing known: the risk is the mean error at any coverage
    np.testing.assert_allclose(risk_coverage(np.zeros(4), errors)["risk"], 0.45)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=6))
def test_no_order_is_better_than_that_of_the_errors(pairs):
    uncertainty, errors = np.array(pairs).T
    best = min(np.mean(np.cumsum(order) / np.arange(1, len(errors) + 1)) for order in permutations(errors))
    assert aurc(errors, errors) == pytest.approx(best)
    assert aurc(uncertainty, errors) >= best - 1e-12
    assert risk_coverage(uncertainty, errors)["risk"].iloc[-1] == pytest.approx(errors.mean())


def test_what_is_undefined_is_left_out_and_counted():
    table = risk_coverage([0.1, np.nan, 0.3, 0.2], [0, 1, np.nan, 1])
    assert table["risk"].tolist() == [0, 0.5] and table["coverage"].tolist() == [0.5, 1] and table.attrs["left_out"] == 2
    empty = risk_coverage([np.nan], [1])
    assert len(empty) == 0 and empty.attrs["left_out"] == 1 and np.isnan(aurc([np.nan], [1]))


def test_no_error_at_all_has_no_risk():
    assert aurc([3, 1, 2], [0, 0, 0]) == 0 and risk_coverage([3, 1, 2], [False] * 3)["risk"].tolist() == [0, 0, 0]


def test_risk_coverage_refuses():
    with pytest.raises(ValueError, match=r"\(2,\) and errors \(3,\)"):
        risk_coverage([1, 2], [0, 0, 1])
    with pytest.raises(ValueError, match="an error is -1"):
        risk_coverage([1, 2], [0, -1])


def test_net_benefit_of_a_table_made_by_hand():
    """20 images, 8 malignant; at 0.25 the table is TP 6, FP 3: 6/20 − 3/20 · (1/4)/(3/4) = 0.25."""
    labels = [1] * 8 + [0] * 12
    probabilities = [0.9] * 6 + [0.1] * 2 + [0.8] * 3 + [0.05] * 9
    curve = decision_curve(labels, probabilities, [0, 0.25, 0.5, 0.85]).set_index("threshold")
    assert curve.loc[0.25, "net_benefit"] == pytest.approx(6 / 20 - 3 / 20 / 3)
    assert curve.loc[0.5, "net_benefit"] == pytest.approx(6 / 20 - 3 / 20)
    assert curve.loc[0.85, "net_benefit"] == pytest.approx(6 / 20)
    assert curve.loc[0.25, "treat_all"] == pytest.approx(8 / 20 - 12 / 20 / 3)
    assert curve.loc[0.5, "treat_all"] == pytest.approx(-0.2)
    assert curve.loc[0, "net_benefit"] == curve.loc[0, "treat_all"] == pytest.approx(0.4)  # all are called: worth their share
    assert (curve["treat_none"] == 0).all()


def test_net_benefit_by_its_formula():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 2, 60), random.random(60).round(1)  # some lie on a threshold
    curve = decision_curve(labels, probabilities)
    assert curve["threshold"].tolist() == [t / 100 for t in range(1, 100)]
    for row in curve.itertuples():
        counts = confusion_counts(labels, probabilities, row.threshold)
        odds = row.threshold / (1 - row.threshold)
        assert row.net_benefit == pytest.approx((counts["true_positives"] - counts["false_positives"] * odds) / 60)
        assert row.treat_all == pytest.approx(labels.mean() - (1 - labels.mean()) * odds)


def test_seeds_are_averaged_and_images_add_up():
    random = np.random.default_rng(1)
    labels, seeds = random.integers(0, 2, 30), random.random((3, 30))
    each = [decision_curve(labels, row, [0.3])["net_benefit"][0] for row in seeds]
    assert decision_curve(labels, seeds, [0.3])["net_benefit"][0] == pytest.approx(np.mean(each))
    values = benefit_values(labels, seeds, 0.3)
    estimate = patient_bootstrap(values, np.arange(30) // 3)
    assert estimate.value == pytest.approx(np.mean(each)) and estimate.low < estimate.value < estimate.high


def test_one_class_only_and_refusals():
    curve = decision_curve([0, 0, 0, 0], [0.6, 0.1, 0.2, 0.3], [0.5])
    assert curve["net_benefit"][0] == pytest.approx(-0.25) and curve["treat_all"][0] == pytest.approx(-1)
    for threshold in (1, -0.1, np.nan):
        with pytest.raises(ValueError, match="threshold is"):
            decision_curve([0, 1], [0.5, 0.5], [threshold])
    with pytest.raises(ValueError, match="not logits"):
        decision_curve([0, 1], [3, 0.5], [0.5])
