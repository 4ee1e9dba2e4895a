"""Confident learning: thresholds and counts by hand, planted flips found, one class only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from thyroid_utils.studies.error_analysis.label_errors import (
    class_thresholds,
    confident_classes,
    confident_joint,
    rank_label_errors,
)

# benign: probabilities of malignancy 0.1, 0.2, 0.9 → mean P(benign) (0.9 + 0.8 + 0.1) / 3 = 0.6
# malignant: 0.8, 0.6, 0.3, 0.7 → mean P(malignant) 0.6
LABELS = [0, 0, 0, 1, 1, 1, 1]
PROBABILITIES = [0.1, 0.2, 0.9, 0.8, 0.6, 0.3, 0.7]


def test_thresholds_and_classes_by_hand():
    assert class_thresholds(LABELS, PROBABILITIES) == pytest.approx([0.6, 0.6])
    # 0.3 malignant is 0.7 benign, which reaches 0.6; 0.9 reaches malignant's 0.6
    assert confident_classes(LABELS, [0.1, 0.2, 0.9, 0.8, 0.61, 0.29, 0.7]).tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert confident_classes(LABELS, [0.1, 0.2, 0.9, 0.8, 0.45, 0.3, 0.85]).tolist() == [0, 0, 1, 1, -1, 0, 1]


def test_an_image_above_both_thresholds_has_the_likelier_class():
    labels, probabilities = [0, 0, 1, 1, 1], [0.9, 0.8, 0.3, 0.2, 0.4]
    assert class_thresholds(labels, probabilities) == pytest.approx([0.15, 0.3])  # the second and the last reach both
    assert confident_classes(labels, probabilities).tolist() == [1, 1, 0, 0, 0]


def test_joint_and_ranking_by_hand():
    probabilities = [0.1, 0.2, 0.9, 0.8, 0.61, 0.29, 0.7]
    joint = confident_joint(LABELS, probabilities)
    assert joint.to_numpy().tolist() == [[2, 1], [1, 3]]
    assert joint.index.name == "labelled" and joint.columns.tolist() == ["benign", "malignant"]
    table = rank_label_errors(pd.Series(LABELS, index=list("abcdefg")), probabilities, ["p1", "p2", "p3", "p3", "p4", "p5", "p5"])
    assert table.index.tolist() == ["c", "f", "e", "g", "b", "d", "a"]  # suspects, then by the probability of the own label
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert table["suspect"].tolist() == [True, True] + [False] * 5
    assert table["self_confidence"].tolist() == pytest.approx([0.1, 0.29, 0.61, 0.7, 0.8, 0.8, 0.9])
    assert table.loc["c", ["patient", "patient_images", "patient_suspects"]].tolist() == ["p3", 2, 1]
    assert table.loc["g", "patient_suspects"] == 1 and not table.loc["g", "suspect"]


def test_planted_flips_are_found():
    """300 patients of a problem that a linear network mostly solves, 10 % of the labels turned; probabilities out of sample."""
    random = np.random.default_rng(0)
    right = random.integers(0, 2, 300)
    features = 2.0 * (right[:, None] - 0.5) + random.normal(size=(300, 4))
    flipped = np.zeros(300, bool)
    flipped[random.choice(300, 30, replace=False)] = True
    labels = np.where(flipped, 1 - right, right)
    probabilities = cross_val_predict(LogisticRegression(), features, labels, cv=5, method="predict_proba")[:, 1]
    table = rank_label_errors(labels, probabilities, [f"p{number}" for number in range(300)])
    planted = flipped[table.index.to_numpy()]
    assert roc_auc_score(planted, -table["rank"]) > 0.9  # chance is 0.5
    found = planted[table["suspect"]]
    assert found.mean() > 0.5 and found.sum() >= 20  # chance is one in ten
    assert planted[:10].mean() >= 0.7
    # The turned labels' share is told from their confident counts, within what 300 images can say.
    joint = confident_joint(labels, probabilities)
    share = 1 - np.diag(joint).sum() / joint.to_numpy().sum()
    assert 0.05 < share < 0.2


def test_as_the_definition_says():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 80)
    probabilities = random.beta(1 + 2 * labels, 3 - 2 * labels)
    thresholds = [np.mean([1 - p for p, k in zip(probabilities, labels, strict=True) if k == 0]),
                  np.mean([p for p, k in zip(probabilities, labels, strict=True) if k == 1])]  # fmt: skip
    expected = []
    for malignant in probabilities:
        both = (1 - malignant, malignant)
        candidates = [kind for kind in (0, 1) if both[kind] >= thresholds[kind]]
        expected.append(max(candidates, key=lambda kind: both[kind]) if candidates else -1)
    assert confident_classes(labels, probabilities).tolist() == expected
    assert set(expected) == {-1, 0, 1}


def test_seeds_are_averaged():
    table = rank_label_errors([0, 1], [[0.2, 0.9], [0.4, 0.7]], ["a", "b"])
    assert table.sort_index()["probability"].tolist() == pytest.approx([0.3, 0.8])


def test_one_class_only_has_no_suspects():
    table = rank_label_errors([0, 0, 0], [0.1, 0.99, 0.5], ["a", "b", "c"])
    assert not table["suspect"].any() and table.index.tolist() == [1, 2, 0]
    assert np.isnan(class_thresholds([0, 0], [0.2, 0.4])[1])


def test_refusals():
    with pytest.raises(ValueError, match="labels are unknown"):
        rank_label_errors(pd.array([0, None], dtype="Int8"), [0.1, 0.2], ["a", "b"])
    with pytest.raises(ValueError, match="no patient"):
        rank_label_errors([0, 1], [0.1, 0.2], ["a", None])
