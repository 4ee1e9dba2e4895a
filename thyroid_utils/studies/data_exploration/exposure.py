"""How much of a test set a model has already met in training: what a leaky split is worth, counted."""

from __future__ import annotations

import pandas as pd


def seen_in_training(cases: pd.DataFrame, clusters: pd.Series) -> pd.DataFrame:
    """For every test image, whether training holds another image of its patient, or a copy of itself.

    Args:
        cases: case table with `split` filled.
        clusters: case → cluster of identical and near-identical images (`Audit.clusters`).

    Returns:
        bool DataFrame, index the test cases: "same patient", "near-identical image", "either".
    """
    train, test = cases[cases["split"] == "train"], cases[cases["split"] == "test"]
    table = pd.DataFrame(
        {
            "same patient": test["patient"].isin(train["patient"]),
            "near-identical image": clusters[test.index].isin(clusters[train.index]),
        }
    )
    return table.assign(either=table.any(axis=1))
