"""Does a model do worse in some patients: its scores by nodule, device and picture, each part against the rest.

The test of a subgroup is the randomisation test over patients of `scores.groups`: exact however few patients there are, for
levels that images of one patient share and for those they do not, and for a subgroup without a single error. It is made for
numbers an image (a Dice; whether a call is right, whose mean is the accuracy). Holm's adjustment is over all the tests of a
table. Intervals are of each score alone, over patients, and not adjusted.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.data.table import label_names
from thyroid_utils.scores.checks import checked, patient_codes
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import patient_estimate
from thyroid_utils.scores.groups import randomisation_test

NOT_KNOWN = "not known"  # the level of images whose factor the set does not tell
FEWEST_PATIENTS = 10  # below it a subgroup is shown and marked, and no test is made
# Columns of a case table that images are divided by where a set has them.
FACTORS = ("tirads", "echogenicity", "scanner", "device", "pane", "callipers")
COLUMNS = ["factor", "level", "images", "patients", "estimate", "marked", "rest", "difference", "p", "p_holm", "differs",
           "untested"]  # fmt: skip
_ORDERED = {"echogenicity": ("anechoic", "hyperechoic", "isoechoic", "hypoechoic", "markedly hypoechoic")}
# Where the ACR TI-RADS (Tessler et al. 2017) changes what it recommends.
_SIZES_MM = {"below 10 mm": 10, "10 to 15 mm": 15, "15 to 25 mm": 25, "from 25 mm": np.inf}


def subgroup_columns(cases: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """What the images of a case table can be divided by, as far as the set tells it.

    Args:
        cases: split case table, best the whole of it and not its test side alone: tertiles are cut on training and validation
            images, so that they are the same whatever is tested; on all images where these give fewer than three values.
        images: of `measure_cases(cases).table`, of which are taken `area_share`, `inside` and `around` (gray levels, for the
            contrast), `width` and `height` (where no device is told, the frame's size stands for it).

    Returns:
        index `case`, a column a factor, ordered categories, NA where unknown: "mask area", "nodule size" (ACR's steps in mm, of
        the longer side), "contrast" (mean gray around − inside), "class", those of `FACTORS`, and "frame size". A factor with
        fewer than two levels divides nothing and is left out; `attrs["left_out"]` has factor → why.
    """
    images, names = images.reindex(cases.index), label_names(cases)
    train = ~cases["split"].eq("test").fillna(False).to_numpy(bool)
    found = {"mask area": tertiles(100 * images["area_share"].where(images["area_share"] > 0), train, "%")}
    if {"nodule_width_mm", "nodule_height_mm"} <= set(cases):
        longer = pd.to_numeric(cases[["nodule_width_mm", "nodule_height_mm"]].max(axis=1))
        found["nodule size"] = pd.cut(longer, [-np.inf, *_SIZES_MM.values()], right=False, labels=list(_SIZES_MM))
    found["contrast"] = tertiles(images["around"] - images["inside"], train, "gray levels")
    found["class"] = _categories(names.where(names != "unlabelled"), "class")
    for column in FACTORS:
        if column in cases:
            factor = "TI-RADS" if column == "tirads" else column
            found[factor] = _categories(_yes_no(cases[column]) if column == "callipers" else cases[column], column)
    if not {"scanner", "device"} & set(found):
        sizes = images["width"].astype("string") + " × " + images["height"].astype("string")
        found["frame size"] = _categories(sizes, "frame")
    kept = {factor: values for factor, values in found.items() if values.nunique() > 1}
    table = pd.DataFrame(kept, index=cases.index)
    table.attrs["left_out"] = {
        factor: NOT_KNOWN if values.isna().all() else f"all {values.dropna().iloc[0]}"
        for factor, values in found.items()
        if factor not in kept
    }
    return table


def of_each_class(images: pd.DataFrame, count: int, *, surest: bool = False) -> pd.DataFrame:
    """So many images of a classifier, one of each class in turn, by the probability of the true class: the lowest first, or the
    highest (`surest`). How far a probability lies from the threshold would not do: from a low one only malignant calls lie far.

    images: `label` (0, 1), `probability` of malignancy and `log_odds`, which still tell apart where probabilities are saturated.
    """
    sign = 2 * images["label"].astype(int) - 1
    own = pd.DataFrame({"p": (images["probability"] - 0.5) * sign, "odds": images["log_odds"] * sign, "sign": sign})
    turns = own.sort_values(["p", "odds"], ascending=not surest).groupby("sign").cumcount()
    return images.loc[turns.sort_values(kind="stable").index[:count]]


def tertiles(values: pd.Series, reference: np.ndarray, unit: str) -> pd.Series:
    """Values as ordered categories `low (below 2.1 %)`, `middle`, `high`, NaN as NA; fewer categories where tertiles coincide.

    Args:
        values: numbers.
        reference: bool (n,), whose tertiles are the cuts; those of all where it names fewer than three numbers.
        unit: of the numbers, for the text.
    """
    known = values[reference].dropna()
    known = known if len(known) > 2 else values.dropna()
    if known.empty:
        return _categories(pd.Series(pd.NA, values.index, dtype="string"), "")
    cuts = np.unique(np.quantile(known, [1 / 3, 2 / 3]))
    cuts = cuts[cuts > values.min()]
    texts = [f"{cut:.3g} {unit}" for cut in cuts]
    if len(cuts) == 2:
        levels = [f"low (below {texts[0]})", "middle", f"high (from {texts[1]})"]
    else:
        levels = [f"below {texts[0]}", f"from {texts[0]}"] if len(cuts) else ["all alike"]
    codes = np.searchsorted(cuts, values.to_numpy(float), side="right")
    codes[values.isna()] = -1
    return pd.Series(pd.Categorical.from_codes(codes, levels, ordered=True), values.index)


def _yes_no(values: pd.Series) -> pd.Series:
    known = pd.to_numeric(values.astype("Float64"))
    return (known > 0).map({True: "yes", False: "no"}).astype("string").where(known.notna())


def _categories(values: pd.Series, column: str) -> pd.Series:
    """Texts as ordered categories: in the field's order where it has one, else by the alphabet."""
    texts, order = values.astype("string"), _ORDERED.get(column, ())
    known = sorted(texts.dropna().unique())
    levels = [level for level in order if level in known] + [level for level in known if level not in order]
    return pd.Series(pd.Categorical(texts.astype(object), levels, ordered=True), values.index)


def subgroup_table(
    results: pd.Series, groups: pd.DataFrame, patients: pd.Series, *, alpha: float = 0.05, share: bool = True
) -> pd.DataFrame:
    """A mean in every subgroup, against the rest.

    Args:
        results: index case: a number an image (a Dice; 1 for a right call and 0 for a wrong one), NaN where undefined.
        groups: of `subgroup_columns`: index case, a column a factor. Cases that it lacks are unknown in every factor.
        patients: index case, the patient of each.
        alpha: the significance level.
        share: the numbers lie in [0, 1], as for `patient_estimate`.

    Returns:
        a row a factor and level, in their order:

        - `images`, `patients`: of the subgroup, those with a number;
        - `estimate`: an `Estimate` over patients; `marked`: fewer than ten patients, so no test;
        - `rest`: the mean of the images of the factor's other levels; `difference` = estimate − rest;
        - `p`, `p_holm`: of the randomisation test (see the module), Holm's over all tests of the table. Rows that divide the
          images alike, as the two halves of a factor of two levels, are one test. NaN without a test; `untested` says why, ""
          where one was made;
        - `differs`: `p_holm` below alpha.

        Images whose level is unknown are a last row of their factor, `NOT_KNOWN`, outside all tests. No row without a factor.

    Raises:
        ValueError: a patient missing.
    """
    known = pd.to_numeric(results).astype(float).dropna()
    values, names = known.to_numpy(), patients.reindex(known.index).to_numpy(object)
    codes, _ = patient_codes(names, len(values), "subgroup_table")
    rows, questions = [], []

    def add(factor: str, level: str, inside: np.ndarray, others: np.ndarray, why: str = "") -> None:
        row = _row(values, names, inside, others, share)
        row |= {"factor": factor, "level": level, "p": np.nan, "untested": why or row["untested"]}
        if not row["untested"]:
            row["p"] = randomisation_test(values, inside, inside | others, codes)
        rows.append(row)
        questions.append(frozenset({inside.tobytes(), others.tobytes()}))

    for factor, levels in groups.reindex(known.index).items():
        of = pd.Categorical(levels).remove_unused_categories()
        for number, name in enumerate(of.categories):
            add(factor, str(name), of.codes == number, (of.codes >= 0) & (of.codes != number))
        if (of.codes < 0).any():
            add(factor, NOT_KNOWN, of.codes < 0, np.zeros(len(values), bool), "level not known")
    return _adjusted(pd.DataFrame(rows, columns=COLUMNS), questions, alpha)


def _row(values: np.ndarray, names: np.ndarray, inside: np.ndarray, others: np.ndarray, share: bool) -> dict:
    estimate = patient_estimate(values[inside], names[inside], share=share)
    rest = values[others].mean() if others.any() else np.nan
    marked, why = estimate.patients < FEWEST_PATIENTS, ""
    if marked:
        why = f"fewer than {FEWEST_PATIENTS} patients"
    elif len(set(names[others])) < FEWEST_PATIENTS:
        why = f"fewer than {FEWEST_PATIENTS} patients to compare with"
    numbers = {"images": estimate.images, "patients": estimate.patients, "estimate": estimate, "marked": marked}
    return {**numbers, "rest": rest, "difference": estimate.value - rest, "untested": why}


def _adjusted(table: pd.DataFrame, questions: Sequence[object], alpha: float) -> pd.DataFrame:
    """Holm over the questions that were asked, each once however many rows ask it."""
    asked = {question: p for question, p in zip(questions, table["p"], strict=True) if not np.isnan(p)}
    adjusted = dict(zip(asked, holm(np.array(list(asked.values()), dtype=float)), strict=True))
    p_holm = [np.nan if np.isnan(p) else adjusted[question] for question, p in zip(questions, table["p"], strict=True)]
    numbers = dict.fromkeys(["p", "rest", "difference"], float) | dict.fromkeys(["images", "patients"], int)
    table = table.assign(p_holm=np.array(p_holm, dtype=float)).astype({**numbers, "marked": bool})
    return table.assign(differs=table["p_holm"] < alpha)


def subgroup_calibration(predictions: pd.DataFrame, groups: pd.DataFrame, patients: pd.Series) -> pd.DataFrame:
    """Whether probabilities mean the same in every subgroup: the mean probability against the share that is malignant.

    The gap is a difference of two means, which few images do not bias; the expected calibration error is inflated by them, more
    so the smaller the subgroup.

    Args:
        predictions: index case; `label`, `probability`.
        groups, patients: as in `subgroup_table`.

    Returns:
        as `subgroup_table`, `estimate` being the gap: observed − predicted, in [-1, 1], above 0 where malignancy is underrated;
        with `predicted` and `observed`, an `Estimate` each.
    """
    truth, values = checked(predictions["label"], predictions["probability"], "subgroup_calibration")
    parts = {"observed": pd.Series(truth.astype(float), predictions.index), "predicted": pd.Series(values, predictions.index)}
    table = subgroup_table(parts["observed"] - parts["predicted"], groups, patients, share=False)
    levels = groups.reindex(predictions.index)
    for name, numbers in parts.items():
        found = []
        for row in table.itertuples():
            given = levels[row.factor]
            part = numbers[given.isna() if row.level == NOT_KNOWN else given.astype("string").eq(row.level).fillna(False)]
            found.append(patient_estimate(part, patients.reindex(part.index), share=True))
        table[name] = pd.Series(found, table.index, dtype=object)
    return table
