"""Classification scores by hand, against scikit-learn, and by what must hold for any data."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as reference

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.labels import SCORES, Labelled, Weighed, choose_threshold, classification_scores

ONE_CLASS_NAN = {"auc", "pr_auc", "balanced_accuracy", "mcc", *list(SCORES)[-2:]}


def example(images: int = 300, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and overconfident probabilities with many ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, images)
    return labels, expit(3 * random.normal(size=images) + 3 * labels - 1).round(digits)


def test_six_images_by_hand_and_weighted_images_as_their_copies():
    # At 0.5: called malignant are 0.9 (malignant), 0.8 (benign), 0.6 (malignant): TP 2, FP 1, FN 1, TN 2.
    scores = classification_scores([1, 0, 1, 1, 0, 0], [0.9, 0.8, 0.6, 0.4, 0.2, 0.1])
    for name in ("accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy"):
        assert scores[name] == pytest.approx(2 / 3), name
    assert scores["mcc"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    # Of nine pairs the 0.8 beats two malignant images.
    assert scores["auc"] == pytest.approx(7 / 9)
    # Recall rises by a third at precision 1, 2/3 and 3/4.
    assert scores["pr_auc"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert scores["brier"] == pytest.approx((0.01 + 0.64 + 0.16 + 0.36 + 0.04 + 0.01) / 6)
    many = Labelled(np.array([True, False, True, False]), np.array([0.9, 0.9, 0.1, 0.1]))
    large = Weighed(many, np.array([[4.0], [1], [1], [4]]) * 100_000).score("mcc")
    assert large == pytest.approx(0.6, abs=1e-12), "of a large table, too"
    scores = classification_scores([1, 0, 1], [0.2, 0.1, 0.3])
    assert np.isnan(scores["precision"]) and scores["mcc"] == 0 == scores["f1"] == scores["sensitivity"]
    # Each column against the images written out and scored by themselves; ties, and columns of one class, included.
    labels, probabilities = example(60)
    weights = np.random.default_rng(1).integers(0, 3, (60, 20))
    weights[labels == 1, 0] = 0
    weighed = Weighed(Labelled(labels == 1, probabilities, 0.4), weights.astype(float))
    found = {name: weighed.score(name) for name in SCORES}
    for column in range(20):
        copies = np.repeat(np.arange(60), weights[:, column])
        expected = classification_scores(labels[copies], probabilities[copies], 0.4)
        assert {name: found[name][column] for name in SCORES} == pytest.approx(expected, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_scores_are_scikit_learns(threshold):
    labels, probabilities = example()
    called = probabilities >= threshold
    alike = ("accuracy", "balanced_accuracy", "precision", "f1")
    expected = {name: getattr(reference, f"{name}_score")(labels, called) for name in alike}
    expected |= {"sensitivity": reference.recall_score(labels, called), "mcc": reference.matthews_corrcoef(labels, called)}
    expected |= {"specificity": reference.recall_score(labels, called, pos_label=0)}
    ranking = {"auc": "roc_auc_score", "pr_auc": "average_precision_score", "brier": "brier_score_loss"}
    expected |= {name: getattr(reference, score)(labels, probabilities) for name, score in ranking.items()}
    scores = classification_scores(labels, probabilities, threshold)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("label", "rate"), [(1, "specificity"), (0, "sensitivity")])
def test_one_class_leaves_what_it_does_not_define_nan(label, rate):
    scores = classification_scores([label] * 4, [0.2, 0.6, 0.7, 0.9])
    assert {name for name, value in scores.items() if np.isnan(value)} == ONE_CLASS_NAN | {rate}
    assert scores["accuracy"] == (0.75 if label else 0.25)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], [], "at least one image"),
        ([0, 2], [0.1, 0.2], "labels hold 2; expected 0"),
        ([0, pd.NA], [0.1, 0.2], "1 of 2 labels are unknown"),
        ([0, 1], [0.1], "expected \\(2,\\)"),
        ([0, 1], [[0.1, 0.2]], "expected \\(2,\\)"),
        ([0, 1], [-1.2, 3.0], "-1.2 to 3; expected \\[0, 1\\], not logits"),
    ],
)
def test_bad_input_is_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(labels, probabilities)


def test_the_threshold_by_hand_against_all_others_and_at_the_ends():
    # Youden's index is 2/3 both between 0.3 and 0.4 (no malignant missed) and between 0.6 and 0.7 (no benign called): 0.35 and
    # 0.65 are as far from 0.5.
    chosen = choose_threshold([0, 0, 1, 0, 1, 1], [0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    assert chosen in (pytest.approx(0.35), pytest.approx(0.65))
    labels, probabilities = example(80, seed=3)

    def balanced(threshold):
        return classification_scores(labels, probabilities, threshold)["balanced_accuracy"]

    best = balanced(choose_threshold(labels, probabilities))
    assert best == pytest.approx(max(balanced(cut) for cut in np.linspace(0, 1.01, 203))) and best > balanced(0.99)
    assert choose_threshold([0, 1], [1.0, 0.2]) in (pytest.approx(0.1), pytest.approx(1.0))  # no order worse: all or nothing
    with pytest.raises(DataError, match="all 3 images are malignant; expected both classes"):
        choose_threshold([1, 1, 1], [0.2, 0.3, 0.8])
