"""Bands of curves: by hand, against the curves and against patients drawn one by one."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve
from test_estimates import example

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.curves import benefit_curve, drawn_patients, pr_band, roc_band
from thyroid_utils.scores.estimates import share_interval
from thyroid_utils.scores.labels import classification_scores


def test_bands_and_net_benefit_by_hand_over_seeds_and_of_one_class():
    roc, precision = (band([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], list("abcd"), resamples=50) for band in (roc_band, pr_band))
    assert roc["sensitivity"][::25].tolist() == [0.5, 0.5, 1, 1, 1]  # upright steps at 0 and at 1/2, read at their upper ends
    assert precision["precision"][::25].tolist() == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])
    labels, probabilities, _, patients = example()
    roc, precision = roc_band(labels, probabilities, patients), pr_band(labels, probabilities, patients)
    scores = classification_scores(labels, probabilities)
    # A grid of 101 points and trapezoids across upright steps are off by less than half a step of the grid.
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(scores["auc"], abs=0.006)
    assert precision["precision"].mean() == pytest.approx(scores["pr_auc"], abs=0.01)
    labels, first, second, patients = example()
    one, two, both, ranked = (
        roc_band(labels, model, patients, resamples=20)["sensitivity"]
        for model in (first, second, [first, second], 5 * first - 3)  # of the last, only the order counts
    )
    assert both.tolist() == pytest.approx(((one + two) / 2).tolist()) and ranked.equals(one)
    rare = pr_band([0, 0, 1], [0.1, 0.6, 0.5], list("abc"), resamples=200)
    assert rare["precision"].tolist() == [0.5] * 101 and rare[["low", "high"]].isna().all(axis=None)
    with pytest.raises(DataError, match="roc_band: all 2 images are benign"):
        roc_band([0, 0], [0.1, 0.6], list("ab"))
    # 20 images, 8 malignant; at 0.25 the table is TP 6, FP 3: 6/20 − 3/20 · (1/4)/(3/4) = 0.25.
    labels = [1] * 8 + [0] * 12
    probabilities = [0.9] * 6 + [0.1] * 2 + [0.8] * 3 + [0.05] * 9
    curve = benefit_curve(labels, probabilities, range(20), [0, 0.25, 0.5, 0.85])
    assert curve["net_benefit"].tolist() == pytest.approx([0.4, 6 / 20 - 3 / 20 / 3, 6 / 20 - 3 / 20, 6 / 20])
    assert curve["treat_all"][:3].tolist() == pytest.approx([0.4, 8 / 20 - 12 / 20 / 3, -0.2])  # at 0 all are called
    told = benefit_curve(labels, probabilities, range(20), [0.04, 0.07])
    assert np.isnan(curve[["low", "high"]]).all(axis=None) and np.isnan(told["low"][1]), "3 patients are called wrongly, or none"
    assert -1 / 24 < told["low"][0] < 0.4 - 0.6 / 24 < told["high"][0] < 1


def test_a_band_has_the_spread_of_resampled_curves():
    labels, probabilities, _, patients = example(80)
    band = roc_band(labels, probabilities, patients, resamples=60)
    codes = pd.factorize(patients)[0]
    curves = []
    for column in drawn_patients(80, 60).astype(int):
        images = np.repeat(np.arange(len(labels)), column[codes])
        if 0 < labels[images].sum() < len(images):
            alarms, hits, _ = roc_curve(labels[images], probabilities[images])
            curves.append(np.interp(band["false_positive_rate"], alarms, hits))
    images = np.bincount(codes[labels == 1])  # the malignant patients are fewer
    fewest = images.sum() ** 2 / (images**2).sum()
    low, high = share_interval(band["sensitivity"], np.std(curves, axis=0, ddof=1), fewest - 1, fewest, labels.sum())
    assert band["low"].tolist() == pytest.approx(low.tolist()) and band["high"].tolist() == pytest.approx(high.tolist())
