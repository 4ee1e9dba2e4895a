"""What second labels would change: scores beside those with the first labels, agreement, and whether suspects were confirmed.

Marks are made on test images, in sight of what networks say. To leave out what a network gets wrong, or to relabel it, selects on
the outcome and flatters the network; so no score is cleaned in silence. What is shown stands beside the score with the labels as
they are, and says how far labels alone could move it.
"""

import numpy as np
import pandas as pd

from thyroid_utils.common.words import count
from thyroid_utils.scores.checks import patient_codes
from thyroid_utils.scores.estimates import Estimate, estimate, patient_estimate, patient_scores
from thyroid_utils.scores.patients import leave_out
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.review_marks import DUPLICATE, READ, WRONG, second_labels


def scores_by_label(comparison: ClassifierComparison, marks: pd.DataFrame) -> pd.DataFrame:
    """A row a model: its AUC `as labelled`, with `second labels`, and `without` the images whose label is called wrong and those
    that are called duplicates: `Estimate`s of the same probabilities.

    Args:
        comparison: the classifiers.
        marks: of `marks_of`.
    """
    second, doubted = second_labels(marks), set(marks.loc[marks["kind"].isin([WRONG, DUPLICATE]), "case"])
    rows = []
    for model in comparison.models:
        labels, probabilities, patients = comparison.answers(model)
        kept = ~labels.index.isin(doubted)
        replaced = second.reindex(labels.index).fillna(labels).astype(int)
        found = {"as labelled": labels, "second labels": replaced}
        scores = {name: patient_scores(given, probabilities, patients, "auc")["auc"] for name, given in found.items()}
        scores["without"] = Estimate(np.nan, np.nan, np.nan, 0, 0, "no image is left")
        if kept.any():
            scores["without"] = patient_scores(labels[kept], np.atleast_2d(probabilities)[:, kept], patients[kept], "auc")["auc"]
        rows.append({"model": model, **scores})
    return pd.DataFrame(rows)


def label_sentence(comparison: ClassifierComparison, marks: pd.DataFrame) -> str:
    """What the columns of `scores_by_label` are made of, and how far they may be believed."""
    tested = comparison.truth.index
    second = second_labels(marks).reindex(tested).dropna()
    moved = int((second != comparison.truth.loc[second.index, "label"].astype(int)).sum())
    doubted = marks.loc[marks["kind"].isin([WRONG, DUPLICATE]) & marks["case"].isin(tested), "case"].nunique()
    told = f"Test images: {len(tested)}; with a second label: {len(second)}, with another than the first: {moved}"
    return f"{told}; called wrongly labelled or a duplicate: {doubted}. " + (
        "The column *as labelled* remains the result. Marks are made in sight of what the networks say: labels that follow "
        "their errors flatter them, as does leaving these images out. The other columns say how far labels can move a score."
    )


def cohen_kappa(first: pd.Series, second: pd.Series, patients: pd.Series) -> Estimate:
    """Cohen's κ of two labels of the same images, with its interval over patients: (agreement − agreement by chance) / (1 −
    agreement by chance). 1 is agreement throughout, 0 chance; NaN where both give every image one class.

    Args:
        first, second: 0 or 1, (n,). patients: (n,).

    Reference: Cohen, Educ. Psychol. Meas. 20 (1960) 37-46.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if not len(one):
        return Estimate(np.nan, np.nan, np.nan, 0, 0, "no image has two labels")

    def kappa(weights: np.ndarray) -> np.ndarray:
        n, a, b = weights.sum(axis=0), one @ weights, other @ weights
        by_chance = a * b + (n - a) * (n - b)  # in counts, which are exact
        with np.errstate(invalid="ignore"):
            return (n * ((one == other) @ weights) - by_chance) / (n * n - by_chance)

    codes, _ = patient_codes(patients, len(one), "cohen_kappa")
    value, moves = leave_out(kappa, codes)
    return estimate(value, moves, np.bincount(codes), limits=(-1, 1))


def agreement_sentence(marks: pd.DataFrame, images: pd.DataFrame) -> str:
    """How far labels and second labels agree, or why that cannot be said.

    Args:
        marks: of `marks_of`. images: index `case`, with `label` and `patient`, as `Errors.images`.
    """
    read = second_labels(marks, READ)
    read = read[read.index.isin(images.index)]
    if read.empty:
        return (
            "How far a second reader agrees with the labels cannot be said: no image was read by one who did not see the label. "
            "`thyroid-workbook export-dataset --review` writes images for that."
        )
    found = cohen_kappa(images.loc[read.index, "label"], read, images.loc[read.index, "patient"])
    return f"Of {count(len(read), 'image')} read without the label, Cohen's κ of the two labels is {found.text()}."


def suspects_confirmed(marks: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
    """Are the likely label errors those that readers call wrong? A row a k: of the `first` k of the ranking so many were `read`,
    of which so many were `wrong`, and their share, `precision` (`Estimate` over patients). No row where none was read.

    Args:
        marks: of `marks_of`. ranked: of `rank_label_errors`.
    """
    read = second_labels(marks, READ)
    called = read[read.index.isin(ranked.index)] != ranked["label"].reindex(read.index).dropna()
    wrong = pd.Series(True, marks.loc[marks["kind"] == WRONG, "case"].unique(), dtype=bool)
    looked = pd.concat([wrong, called[~called.index.isin(wrong.index)]]).reindex(ranked.index)
    suspects = int(ranked["suspect"].sum())
    rows = []
    for k in sorted({5, 10, 20, suspects, len(ranked)} - {0}):
        own = looked.iloc[:k].dropna().astype(bool)
        if k <= len(ranked) and len(own):
            precision = patient_estimate(own.astype(float), ranked.loc[own.index, "patient"], share=True)
            rows.append({"first": k, "read": len(own), "wrong": int(own.sum()), "precision": precision})
    return pd.DataFrame(rows, columns=["first", "read", "wrong", "precision"])
