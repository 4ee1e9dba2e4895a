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
from thyroid_utils.studies.review_marks import READ, WRONG, repeated, second_labels


def scores_by_label(comparison: ClassifierComparison, marks: pd.DataFrame) -> pd.DataFrame:
    """A row a model: its AUC `as labelled`, with `second labels`, and `without` the images whose label is called wrong and those
    that are called duplicates: `Estimate`s of the same probabilities.

    Args:
        comparison: the classifiers.
        marks: of `marks_of`.
    """
    second, doubted = second_labels(marks), _doubted(marks)
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


def _doubted(marks: pd.DataFrame) -> set[str]:
    return set(marks.loc[marks["kind"] == WRONG, "case"]) | repeated(marks)


def label_sentence(comparison: ClassifierComparison, marks: pd.DataFrame) -> str:
    """What the columns of `scores_by_label` are made of, and how far they may be believed."""
    tested = comparison.truth.index
    second = second_labels(marks).reindex(tested).dropna()
    moved = int((second != comparison.truth.loc[second.index, "label"].astype(int)).sum())
    doubted = len(_doubted(marks) & set(tested))
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
    return (
        f"Of {count(len(read), 'image')} read without the label, Cohen's κ of the two labels is {found.text()}. They are images "
        "that somebody had marked, perhaps in doubt, so κ of all images is likely higher."
    )


def suspects_confirmed(marks: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
    """Are the likely label errors those that readers call otherwise? Only who was not shown the label answers that: who looked in
    the app and found a label right has left no mark.

    Args:
        marks: of `marks_of`. ranked: of `rank_label_errors`.

    Returns:
        a row a k: of the `first` k of the ranking so many were `read` without the label, so many of them called `otherwise`, and
        their share, `precision` (`Estimate` over patients); `called wrong`: by whom the label was shown. No row where there is
        neither.
    """
    second, shown = second_labels(marks, READ), set(marks.loc[marks["kind"] == WRONG, "case"])
    otherwise = second[second.index.isin(ranked.index)].ne(ranked["label"].reindex(second.index).dropna())
    rows = []
    for k in sorted({5, 10, 20, int(ranked["suspect"].sum()), len(ranked)} - {0}):
        first = ranked.index[:k]
        own, wrong = otherwise[otherwise.index.isin(first)], len(shown & set(first))
        if k <= len(ranked) and (len(own) or wrong):
            precision = Estimate(np.nan, np.nan, np.nan, 0, 0, "none was read without its label")
            if len(own):
                precision = patient_estimate(own.astype(float), ranked.loc[own.index, "patient"], share=True)
            rows.append(
                {"first": k, "read": len(own), "otherwise": int(own.sum()), "precision": precision, "called wrong": wrong}
            )
    return pd.DataFrame(rows, columns=["first", "read", "otherwise", "precision", "called wrong"])
