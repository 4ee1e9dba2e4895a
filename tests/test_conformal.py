"""Conformal sets: by hand, the promise exactly and by simulation, with patients of several images."""

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.inference.conformal import conformal_quantile, conformal_sets, coverage


@pytest.mark.parametrize("alpha", [0.01, 0.07, 0.1, 1 / 3])
def test_the_quantile_is_the_order_statistic_and_needs_enough_images(alpha):
    random = np.random.default_rng(0)
    for count in (1, 8, 9, 10, 18, 99, 100, 313):
        scores = random.random(count)
        place = int(np.ceil(round((count + 1) * (1 - alpha), 9)))
        expected = np.sort(scores)[place - 1] if place <= count else np.inf
        assert conformal_quantile(scores, alpha) == conformal_quantile(scores, alpha, range(count)) == expected
        assert np.isinf(expected) == (count < 1 / alpha - 1 - 1e-9)


def test_patients_weigh_the_same_sets_by_hand_and_what_makes_none_or_full_ones():
    # patients a (4 images) and b, c (1 each) and the unseen one: weights 1/16 four times, 1/4, 1/4, and 1/4 for inf
    scores, patients = [0.1, 0.2, 0.3, 0.4, 0.5, 0.05], list("aaaabc")
    # rising: 0.05 → 4/16, 0.1 → 5/16, 0.2 → 6/16, 0.3 → 7/16, 0.4 → 8/16, 0.5 → 12/16
    assert [conformal_quantile(scores, alpha, patients) for alpha in (0.5, 0.25, 0.24)] == [0.4, 0.5, np.inf]
    # scores of the truth: 0.1 (benign, 0.1), 0.4 (benign, 0.4), 0.2 (malignant, 0.8); alpha 0.5: ⌈4 · 0.5⌉ = 2nd = 0.2
    index = pd.Index(["a", "b", "c", "d"], name="case")
    test = pd.Series([0.05, 0.2, 0.5, 0.95], index=index)
    sets = conformal_sets([0.1, 0.4, 0.8], [0, 0, 1], test, 0.5)
    assert sets["benign"].tolist() == [True, True, False, False] and sets["malignant"].tolist() == [False, False, False, True]
    assert sets["size"].tolist() == [1, 1, 0, 1] and sets.index.equals(index)
    assert sets.attrs["quantiles"]["benign"] == pytest.approx(0.2) and sets.attrs["note"] == ""
    for alpha in (0, 1, np.nan):
        with pytest.raises(ValueError, match="alpha is"):
            conformal_sets([0.1], [0], [0.3], alpha)
    with pytest.raises(ValueError, match="test probabilities"):
        conformal_sets([0.1], [0], [np.nan], 0.1)
    with pytest.raises(ValueError, match="1 sets and 2 labels"):
        coverage(conformal_sets([0.1], [0], [0.3], 0.1), [0, 1], ["a", "b"])
    sets = conformal_sets([0.1, 0.9, 0.2], [0, 1, 0], [0.0, 0.5, 1.0], 0.1)
    assert (sets["size"] == 2).all()
    assert sets.attrs["note"] == "3 validation images; 90% coverage needs at least 9, so every set is full"
    one_class = conformal_sets(np.linspace(0.01, 0.2, 20), [0] * 20, [0.1, 0.9], 0.1, by_class=True)
    assert one_class["malignant"].all() and one_class["benign"].tolist() == [True, False]
    assert one_class.attrs["note"] == "0 malignant images; 90% coverage needs at least 9, so malignant is in every set"


def _images(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities of a network that is wrong and badly calibrated."""
    labels = (random.random(count) < 0.3).astype(int)
    logits = 1.5 * (labels - 0.5) + random.normal(size=count)
    return labels, 1 / (1 + np.exp(-3 * logits - 1))


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (40, 0.2)])
def test_the_promise_holds_and_is_not_exceeded(count, alpha):
    """Without ties the coverage is k / (n + 1) exactly, k the place of the quantile, whatever the network."""
    random, held = np.random.default_rng(0), []
    for _ in range(800):
        labels, probabilities = _images(random, count)
        new, asked = _images(random, 20)
        sets = conformal_sets(probabilities, labels, asked, alpha)
        held.append(np.where(new == 1, sets["malignant"], sets["benign"]).mean())
    exact, error = np.ceil((count + 1) * (1 - alpha) - 1e-9) / (count + 1), np.std(held) / np.sqrt(len(held))
    assert exact >= 1 - alpha and 4 * error < 0.02  # or nothing would be shown
    assert np.mean(held) == pytest.approx(exact, abs=4 * error)


def test_coverage_by_hand_is_of_patients_and_follows_the_cases():
    sets = pd.DataFrame(
        {"benign": [True, True, False, True], "malignant": [False, True, False, False], "size": [1, 2, 0, 1]}, index=list("abcd")
    )
    table = coverage(sets, [0, 1, 1, 1], ["p1", "p2", "p2", "p3"])
    assert [value.value for value in table["coverage"]] == pytest.approx([(1 + 1 / 2 + 0) / 3, 1, (1 / 2 + 0) / 2])
    assert [value.value for value in table["size"]] == pytest.approx([1, 1, 1])
    assert table["images"].tolist() == [4, 1, 3] and table["patients"].tolist() == [3, 1, 2]
    assert table.loc["all", ["empty", "single", "both"]].tolist() == [0.25, 0.5, 0.25]
    assert table["single_right"].tolist() == [0.5, 1, 0]
    whole = table.loc["all", "coverage"]
    assert whole.low < 0.5 < whole.high and (whole.images, whole.patients) == (4, 3)
    sets = conformal_sets([0.1], [0], [0.3] * 20, 0.1)
    table = coverage(sets, [0] * 20, [f"p{number // 2}" for number in range(20)])
    found = table.loc["all", "coverage"]
    assert found.value == 1 and found.low == pytest.approx(1 / (1 + 1.959964**2 / 10), rel=1e-6)  # Wilson's of 10 of 10
    assert np.isnan(table.loc["malignant", "coverage"].value) and table.loc["malignant", "images"] == 0
    # 17 patients with an image that is held, 3 with ten that are not: the promise is of a new patient, not of an image.
    names = [f"p{number}" for number in range(17)] + [f"q{number // 10}" for number in range(30)]
    cases = [f"c{number}" for number in range(47)]
    sets = pd.DataFrame({"benign": [True] * 17 + [False] * 30, "malignant": False, "size": 1}, index=cases)
    labels, patients = pd.Series(0, cases), pd.Series(names, cases)
    assert coverage(sets, labels, patients).loc["all", "coverage"].value == pytest.approx(17 / 20)
    labels["c0"] = 1
    one = coverage(sets, labels, patients)
    assert coverage(sets, labels[::-1], patients[::-1]).astype(str).equals(one.astype(str))
    assert one.loc["all", "coverage"].value == pytest.approx(16 / 20)
