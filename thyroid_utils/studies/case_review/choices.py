"""Which cases are looked at and in which order, and what another threshold would change."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from thyroid_utils.scores.estimates import Estimate, patient_scores
from thyroid_utils.scores.labels import predictive_values

# What may be asked of an outcome → as a choice is called.
OUTCOMES = {
    "": "all",
    "right": "right",
    "wrong": "wrong",
    "false positive": "false positives",
    "false negative": "false negatives",
}
# Column of `CaseSet.table` by which cases are put in order, that with the lowest number first where it is True → as it is called.
ORDERS = {
    ("error", True): "errors as notebook 07 shows them",
    ("uncertainty", False): "least certain first",
    ("label_error", True): "likely label errors first",
    ("probability", False): "most probably malignant first",
    ("dice", True): "lowest Dice first",
    ("hd95", False): "largest HD95 first",
}


def filtered(
    table: pd.DataFrame,
    *,
    outcome: str = "",
    label: int | None = None,
    group: tuple[str, str] | None = None,
    uncertainty: tuple[float, float] | None = None,
    dice: tuple[float, float] | None = None,
    suspects: bool = False,
    order: tuple[str, bool] | None = None,
) -> list[str]:
    """Ids of the cases that pass every filter, in an order.

    Args:
        table: of `CaseSet.table`, joined to `CaseSet.cases`.
        outcome: of `OUTCOMES`. label: 0 benign, 1 malignant. group: a factor and its level. suspects: only those whose label is
            likely wrong.
        uncertainty, dice: ends of a range, both in it, of the rank among all cases as a share, the least certain at 1, and of
            the number; a case without it is in none.
        order: of `ORDERS`; None leaves the data set's. Cases without the number come last, equal ones in the data set's order.
    """
    kept, ranks = pd.Series(True, table.index), pd.to_numeric(table["uncertainty"]).rank(pct=True)
    if outcome in ("right", "wrong"):
        kept &= table["wrong"].astype(bool) == (outcome == "wrong")
    elif outcome:
        kept &= table["kind"] == outcome
    if label is not None:
        kept &= table["label"].eq(label).fillna(False).astype(bool)
    if group is not None:
        kept &= table[f"group {group[0]}"].eq(group[1]).fillna(False).astype(bool)
    for limits, values in ((uncertainty, ranks), (dice, table.get("dice"))):
        if limits is not None:
            kept &= pd.to_numeric(values).between(*limits)
    if suspects:
        kept &= table["suspect"].astype(bool)
    found = table[kept]
    if order is not None:
        places = pd.to_numeric(found[order[0]]).sort_values(ascending=order[1], kind="stable", na_position="last")
        found = found.loc[places.index]
    return found.index.tolist()


class AtThreshold(NamedTuple):
    """What a classifier's threshold means.

    Attributes:
        matrix: int (2, 2), images: rows benign and malignant, columns called benign and malignant.
        sensitivity, specificity: with their intervals over patients.
        ppv, npv: predictive values at the prevalence asked for.
        net_benefit: in true positives an image, at the calibrated probability that the threshold stands for; NaN where that is 1.
    """

    matrix: np.ndarray
    sensitivity: Estimate
    specificity: Estimate
    ppv: float
    npv: float
    net_benefit: float


def at_threshold(table: pd.DataFrame, threshold: float, prevalence: float, calibrated: float) -> AtThreshold:
    """Call every image malignant whose probability reaches a threshold.

    Args:
        table: of a classifier, of `CaseSet.table`.
        threshold: of `probability`. calibrated: what that is once calibrated, by `CaseSet.calibrate`.
        prevalence: share of malignant ones among those whom the network would be asked about, in [0, 1].
    """
    truth, called = table["label"].to_numpy(int), (table["probability"] >= threshold).to_numpy(int)
    matrix = np.zeros((2, 2), int)
    np.add.at(matrix, (truth, called), 1)
    names = ("sensitivity", "specificity")
    found = patient_scores(truth, table["probability"], table["patient"], names, threshold)
    sensitivity, specificity = (found[name] for name in names)
    odds = calibrated / (1 - calibrated) if calibrated < 1 else np.nan
    benefit = (matrix[1, 1] - matrix[0, 1] * odds) / len(table)
    return AtThreshold(matrix, *found.values(), *predictive_values(sensitivity.value, specificity.value, prevalence), benefit)
