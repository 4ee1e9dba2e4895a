"""Notebook 01: what is in a data set, what its own outlines agree on, what a split lets through, phantoms beside real frames.

Tables are as they are read: a row a thing, a column a quantity with its unit, intervals beside estimates.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, listed, share
from thyroid_utils.data.audit import Audit
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import LABEL_NAMES, Measures, known_patients, label_names, malignant_share
from thyroid_utils.scores.estimates import patient_estimate, patient_median, proportion_interval

CLASSES = tuple(LABEL_NAMES.values())
_WRONG = ("unreadable images", "… filed under several patients", "… of different patients")
_FEW = 30  # patients of the rarer class, below which intervals are wide
TRAITS = ("composition", "echogenicity", "shape", "margin", "foci")


def class_counts(cases: pd.DataFrame) -> pd.DataFrame:
    """Images, patients and masks of each class present, and of all; a patient counts at its most severe label."""
    classes, of_patient = label_names(cases), patient_class(cases)
    rows = {}
    for name in [*CLASSES, "all"]:
        images, patients = (kind if name == "all" else kind[kind == name] for kind in (classes, of_patient))
        if len(images):
            masks = int(cases.loc[images.index, "mask"].notna().sum())
            rows[name] = {"images": len(images), "patients": len(patients), "with mask": masks}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def columns(cases: pd.DataFrame) -> pd.DataFrame:
    """What a case table holds beside files and patients, without its values, which may name a patient: a row a column with its
    type, the number of different values and that of missing ones."""
    shown = cases.drop(columns=["image", "mask", "patient"])
    rows = {"type": shown.dtypes.map(str), "different values": shown.nunique(), "missing": shown.isna().sum()}
    return pd.DataFrame(rows).rename_axis("column")


def answer(cases: pd.DataFrame, audit: Audit, split: pd.DataFrame, leaks: pd.DataFrame) -> str:
    """What the set holds, what is wrong with it, and what a test on its split can tell, in three sentences.

    Args:
        cases: case table as it was split; its `attrs["notes"]` are those of the reader.
        audit: of these cases.
        split: the table with its split.
        leaks: of `Audit.leaks`.
    """
    patients = count(cases["patient"].nunique(), "patient") if known_patients(cases).all() else "patients unknown"
    malignant = malignant_share(cases)
    labelled = "none labelled" if np.isnan(malignant) else f"{share(malignant)} of the labelled ones malignant"
    found = audit.summary().set_index("what")["count"]
    wrong = [f"{number} × {name.removeprefix('… ')}" for name, number in found[found.index.isin(_WRONG)].items() if number]
    wrong += [f"{count(audit.masks['case'].nunique(), 'mask')} to look at"] if len(audit.masks) else []
    wrong += [note["problem"].partition(" (")[0] for note in cases.attrs.get("notes", [])]  # names stand in the brackets
    side = f"{count(len(leaks), 'leak')} across the split" if len(leaks) else "no known patient and no copy lies on two sides"
    holds = f"{count(len(cases), 'image')}, {patients}, {labelled}"
    return f"The set holds {holds}. Wrong with it: {listed(wrong, 'nothing found')}. Split: {side}; {_test_tells(split)}."


def _test_tells(split: pd.DataFrame) -> str:
    held = patient_class(split[split["split"] == "test"]).value_counts()
    benign, malignant = (int(held.get(name, 0)) for name in ("benign", "malignant"))
    if not benign + malignant:
        return f"this split cannot test a classifier, because no test patient of {held.sum()} has a label"
    if not benign or not malignant:
        only = "benign" if benign else "malignant"
        return f"this split cannot test a classifier, because all {count(benign + malignant, 'test patient')} are {only}"
    low, high = proportion_interval(round(0.8 * malignant), malignant)
    told = f"a sensitivity near 80 % would be known to [{share(low)}, {share(high)}]"
    few = "" if min(benign, malignant) >= _FEW else ", so differences between networks will hardly show"
    return f"the test holds {count(malignant, 'malignant patient')} and {benign} benign, with which {told}{few}"


def majority(cases: pd.DataFrame) -> str:
    """What always naming the larger class would reach, as a phrase."""
    malignant, labelled = malignant_share(cases), int(cases["label"].notna().sum())
    if not labelled:
        return "none of them labelled"
    larger = share(max(malignant, 1 - malignant))
    return f"always naming the larger class is right on {larger} of {count(labelled, 'labelled image')}"


def measures_by_class(measures: Measures, cases: pd.DataFrame) -> pd.DataFrame:
    """Median area, gray levels and shape by class, each with its 95 % interval over patients.

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
        if not len(members):
            continue
        patients = cases.loc[members, "patient"]
        rows[name] = {"images": len(members), "patients": patients.nunique()}
        for quantity, values in quantities.items():
            estimate = patient_median(values[members], patients)
            rows[name][quantity] = estimate.text(1 if "gray" in quantity or "−" in quantity else 2)
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
                "text regions an image": patient_estimate(text[members].to_numpy(float, na_value=np.nan), patients).text(1),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def _percentage(count: int, total: int) -> str:
    """`25 [16, 34]`: a share of independent units in percent, with its 95 % Wilson interval."""
    low, high = proportion_interval(count, total)
    return f"{100 * count / total:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def outline_agreement(cases: pd.DataFrame, identical: pd.DataFrame) -> pd.DataFrame:
    """Dice of the masks of pixel-identical images: what the set's own outlines would score against each other.

    Args:
        cases: case table.
        identical: one row a set of pixel-identical images with a list `cases` (`Audit.identical`).

    Returns:
        one row a pair that has two masks: `a`, `b` (cases), `dice` = 2|A∩B| / (|A| + |B|), in [0, 1]; NaN where both are empty.

    Raises:
        ImageError: a mask cannot be read.
    """
    rows = []
    for members in identical["cases"]:
        masks = {case: read_mask(cases.at[case, "mask"]) for case in members if pd.notna(cases.at[case, "mask"])}
        for a, b in combinations(masks, 2):
            total = masks[a].sum() + masks[b].sum()
            rows.append({"a": a, "b": b, "dice": 2 * (masks[a] & masks[b]).sum() / total if total else np.nan})
    return pd.DataFrame(rows, columns=["a", "b", "dice"]).astype({"dice": float})


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
            images = np.mean([len(table) for table in seen])
            rows.append((rule, kind, np.mean(shares), min(shares), max(shares), len(shares), images))
    columns = ["split by", "training holds", "mean", "lowest", "highest", "seeds", "mean test images"]
    return pd.DataFrame(rows, columns=columns)


def simulated_and_real(dataset: str, data_root: str | Path, cases: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The case table at hand, and its counterpart: phantoms beside a real set, DDTI frames beside phantoms.

    Args:
        dataset: name of the reader of `cases`.
        data_root: beside phantoms, the folder that holds `ddti/`; empty where there is none.
        cases: the case table at hand.

    Returns:
        phantoms and real frames; None in place of real frames where `data_root` is empty.

    Raises:
        DataError: `data_root` is given and holds no DDTI.
    """
    if dataset != "phantom":
        return phantom_cases(patients=16), cases
    if not data_root:
        return cases, None
    try:
        return cases, load_cases("ddti", data_root)
    except DataError as error:
        raise DataError(
            f"DATASET is phantom, and DATA_ROOT holds no DDTI frames to lay beside them; to read images of yours set DATASET "
            f"(folders, manifest, …), else leave DATA_ROOT empty ({error})"
        ) from None
