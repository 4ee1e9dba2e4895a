"""Tables as they are read: a row a thing, a column a quantity with its unit, intervals beside estimates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import LABEL_NAMES, Measures, label_names
from thyroid_utils.scores.estimates import patient_bootstrap, proportion_interval
from thyroid_utils.studies.data_exploration.exposure import seen_in_training

CLASSES = tuple(LABEL_NAMES.values())
TRAITS = ("composition", "echogenicity", "shape", "margin", "foci")


def class_counts(cases: pd.DataFrame) -> pd.DataFrame:
    """Images, patients and masks of each class present, and of all; a patient counts at its most severe label."""
    classes, of_patient = label_names(cases), patient_class(cases)
    rows = {
        name: {
            "images": int((classes == name).sum()),
            "patients": int((of_patient == name).sum()),
            "with mask": int(cases.loc[classes == name, "mask"].notna().sum()),
        }
        for name in CLASSES
        if (classes == name).any()
    }
    rows["all"] = {"images": len(cases), "patients": cases["patient"].nunique(), "with mask": int(cases["mask"].notna().sum())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def measures_by_class(measures: Measures, cases: pd.DataFrame) -> pd.DataFrame:
    """Median area, gray levels and shape by class, each with its 95 % interval by bootstrap over patients.

    Columns carry their units; the cells are text, `median [low, high]`.
    """
    table, classes = measures.table, label_names(cases)
    quantities = {
        "area, % of frame": 100 * table["area_share"],
        "height / width": table["taller"],
        "gray inside": table["inside"],
        "gray around": table["around"],
        "inside − around": table["inside"] - table["around"],
    }
    rows = {}
    for name in CLASSES:
        members = table.index[(classes == name) & (table["area_share"] > 0)]
        if len(members):
            estimates = {
                quantity: patient_bootstrap(values[members], cases.loc[members, "patient"], np.median)
                for quantity, values in quantities.items()
            }
            n = estimates["height / width"]
            rows[name] = {"images": n.images, "patients": n.patients}
            rows[name] |= {
                quantity: estimate.text(1 if "gray" in quantity or "−" in quantity else 2)
                for quantity, estimate in estimates.items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def malignant_by_trait(cases: pd.DataFrame) -> pd.DataFrame:
    """Labelled patients with each value of each nodule trait present, and the share of them that is malignant.

    Args:
        cases: case table; of the columns `composition`, `echogenicity`, `shape`, `margin`, `foci` those present are used. A
            patient counts once, with the traits of its first image.

    Returns:
        DataFrame, index (trait, value): patients, malignant (count), malignant, % with its 95 % Wilson interval as text.
    """
    first = cases[cases["label"].notna()].drop_duplicates("patient")
    rows = {}
    for trait in [trait for trait in TRAITS if trait in first]:
        for value, members in first.groupby(first[trait].astype("string"), sort=True):
            malignant, total = int(members["label"].sum()), len(members)
            rows[trait, value] = {"patients": total, "malignant": malignant, "malignant, %": _percentage(malignant, total)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["patients", "malignant", "malignant, %"])
    table.index = pd.MultiIndex.from_tuples(rows, names=["trait", "value"])
    return table


def marks_by_class(cases: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Burned-in marks by class, as text: patients with callipers in any image (%, 95 % Wilson interval) and mean text regions an
    image (95 % interval over patients).

    Args:
        cases: case table.
        images: one row a case with the counts `callipers` and `text_regions` (`Audit.images`).
    """
    classes, rows = label_names(cases), {}
    marked = images["callipers"].fillna(0) > 0
    text = images["text_regions"].astype("Float64")
    for name in CLASSES:
        members = cases.index[classes == name]
        if len(members):
            patients = cases.loc[members, "patient"]
            rows[name] = {
                "images": len(members),
                "patients": patients.nunique(),
                "with callipers, %": _percentage(patients[marked[members]].nunique(), patients.nunique()),
                "text regions an image": patient_bootstrap(text[members].to_numpy(float, na_value=np.nan), patients).text(1),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def _percentage(count: int, total: int) -> str:
    """`25 [16, 34]`: a share of independent units in percent, with its 95 % Wilson interval."""
    low, high = proportion_interval(count, total)
    return f"{100 * count / total:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def exposure(splits: dict[str, list[pd.DataFrame]], clusters: pd.Series) -> pd.DataFrame:
    """Share of the test images that training has already met, by rule of splitting.

    Args:
        splits: name of the rule → case tables split by it, one a seed.
        clusters: case → cluster of identical and near-identical images (`Audit.clusters`).

    Returns:
        one row a rule and kind: `split by`, `training holds`, `mean`, `lowest`, `highest` (shares over the seeds, 0 to 1),
        `seeds`, `mean test images`.
    """
    rows = []
    for rule, tables in splits.items():
        seen = [seen_in_training(table, clusters) for table in tables]
        for kind in seen[0].columns:
            shares = [float(table[kind].mean()) for table in seen]
            row = {
                "split by": rule,
                "training holds": kind,
                "mean": np.mean(shares),
                "lowest": min(shares),
                "highest": max(shares),
            }
            rows.append(row | {"seeds": len(shares), "mean test images": np.mean([len(table) for table in seen])})
    return pd.DataFrame(rows)
