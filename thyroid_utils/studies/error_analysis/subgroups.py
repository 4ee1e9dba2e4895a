"""Does a model do worse in some patients: its scores by nodule, device and picture, each part against the rest.

The test of a subgroup is the randomisation test over patients of `scores.groups`: exact however few patients there
are, for levels that images of one patient share and for those they do not, and for a subgroup without a single error. It is made
for numbers an image, for the scores that are a mean over images (`MEANS`) and for the AUC. Holm's adjustment is over all the
tests of a table. Intervals are of each score alone, by patients' bootstrap, and not adjusted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.table import label_names
from thyroid_utils.scores.checks import checked, patient_codes
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.groups import Area, Mean, randomisation_test
from thyroid_utils.scores.labels import SCORES

NOT_KNOWN = "not known"  # the level of images whose factor the set does not tell
FEWEST_PATIENTS = 10  # below it a subgroup is shown and marked, and no test is made
FEWEST_OF_A_CLASS = 5  # of an AUC, in the subgroup and in the rest: two patients that rank alike have no spread to judge by
# Column of a case table → factor, those that are taken where a set has them.
FACTORS = {
    "tirads": "TI-RADS",
    "echogenicity": "echogenicity",
    "scanner": "scanner",
    "device": "device",
    "pane": "pane",
    "callipers": "callipers",
}
MEANS = ("accuracy", "sensitivity", "specificity", "precision", "brier")
COLUMNS = ["factor", "level", "images", "patients", "estimate", "marked", "rest", "difference", "p", "p_holm", "differs",
           "untested"]  # fmt: skip
_ORDERED = {"echogenicity": ("anechoic", "hyperechoic", "isoechoic", "hypoechoic", "markedly hypoechoic")}
_SIZES_MM = (10, 15, 25)  # where the ACR TI-RADS (Tessler et al. 2017) changes what it recommends
_MOST_LEVELS = 12


def subgroup_columns(
    cases: pd.DataFrame,
    areas: pd.Series | None = None,
    images: pd.DataFrame | None = None,
    also: Sequence[str] = (),
) -> pd.DataFrame:
    """What the images of a case table can be divided by, as far as the set tells it.

    Args:
        cases: split case table, best the whole of it and not its test side alone: tertiles are cut on training and validation
            images, so that they are the same whatever is tested; on all images where these give fewer than three values.
        areas: case → area of the mask as a share of the frame, 0 to 1; NaN where there is none. Zero counts as unknown.
        images: further columns by case, as `data.table.measure_cases(...).table` or `Audit.images` have them: `area_share`
            (taken where `areas` is None), `inside` and `around` (gray levels, for the contrast), `width` and `height` (pixels:
            where no device is told, the frame's size stands for it), `callipers` (count or bool).
        also: further columns of the case table, such as "margin"; numbers are cut at their tertiles.

    Returns:
        index `case`, a column a factor, ordered categories, NA where unknown: "mask area", "nodule size" (ACR's steps in mm, of
        the longer side), "contrast" (mean gray around − inside), "class", those of `FACTORS`, "frame size", and `also`. A factor
        with fewer than two levels divides nothing and is left out; `attrs["left_out"]` has factor → why.

    Raises:
        DataError: a column of `also` that the table has not, or of more than twelve texts.
    """
    areas = _column(images, "area_share", cases.index) if areas is None else areas.reindex(cases.index)
    train = ~cases["split"].eq("test").fillna(False).to_numpy(bool)
    found: dict[str, pd.Series] = {}
    if areas is not None:
        found["mask area"] = tertiles(100 * areas.where(areas > 0), train, "%")
    if {"nodule_width_mm", "nodule_height_mm"} <= set(cases):
        found["nodule size"] = _sizes(cases[["nodule_width_mm", "nodule_height_mm"]].max(axis=1))
    inside, around = (_column(images, name, cases.index) for name in ("inside", "around"))
    if inside is not None and around is not None:
        found["contrast"] = tertiles(around - inside, train, "gray levels")
    names = label_names(cases)
    found["class"] = _categories(names.where(names != "unlabelled"), "class")
    for column, factor in FACTORS.items():
        values = cases[column] if column in cases else _column(images, column, cases.index) if column == "callipers" else None
        if values is not None:
            found[factor] = _categories(_yes_no(values) if column == "callipers" else values, column)
    if not {"scanner", "device"} & set(found) and images is not None and {"width", "height"} <= set(images):
        sizes = images.reindex(cases.index)
        found["frame size"] = _categories(sizes["width"].astype("string") + " × " + sizes["height"].astype("string"), "frame")
    for column in also:
        found[column] = _further(cases, column, train)
    kept = {factor: values for factor, values in found.items() if values.nunique() > 1}
    table = pd.DataFrame(kept, index=cases.index)
    table.attrs["left_out"] = {factor: _one_level(values) for factor, values in found.items() if factor not in kept}
    return table


def tertiles(values: pd.Series, reference: np.ndarray, unit: str = "") -> pd.Series:
    """Values as ordered categories `low (below 2.1 %)`, `middle`, `high`, NaN as NA; fewer categories where tertiles coincide.

    Args:
        values: numbers.
        reference: bool (n,), whose tertiles are the cuts; those of all where it names fewer than three numbers.
        unit: of the numbers, for the text.
    """
    numbers = pd.to_numeric(values).astype(float)
    known = numbers[reference].dropna()
    known = known if len(known) > 2 else numbers.dropna()
    if known.empty:
        return _categories(pd.Series(pd.NA, values.index, dtype="string"), "")
    cuts = np.unique(np.quantile(known, [1 / 3, 2 / 3]))
    cuts = cuts[cuts > numbers.min()]
    texts = [f"{cut:.3g}{unit and ' '}{unit}" for cut in cuts]
    if len(cuts) == 2:
        levels = [f"low (below {texts[0]})", "middle", f"high (from {texts[1]})"]
    else:
        levels = [f"below {texts[0]}", f"from {texts[0]}"] if len(cuts) else ["all alike"]
    codes = np.searchsorted(cuts, numbers.to_numpy(), side="right")
    codes[numbers.isna()] = -1
    return pd.Series(pd.Categorical.from_codes(codes, levels, ordered=True), values.index)


def _sizes(millimetres: pd.Series) -> pd.Series:
    low, *_, high = _SIZES_MM
    steps = [f"{one} to {two} mm" for one, two in itertools.pairwise(_SIZES_MM)]
    bins = [-np.inf, *_SIZES_MM, np.inf]
    return pd.cut(pd.to_numeric(millimetres), bins, right=False, labels=[f"below {low} mm", *steps, f"from {high} mm"])


def _column(images: pd.DataFrame | None, name: str, cases: pd.Index) -> pd.Series | None:
    return None if images is None or name not in images else images[name].reindex(cases)


def _yes_no(values: pd.Series) -> pd.Series:
    known = pd.to_numeric(values.astype("Float64"))
    return (known > 0).map({True: "yes", False: "no"}).astype("string").where(known.notna())


def _further(cases: pd.DataFrame, column: str, train: np.ndarray) -> pd.Series:
    if column not in cases:
        raise DataError(f"subgroup_columns: the case table has no column {column}; it has {', '.join(cases)}")
    values = cases[column]
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 5:
        return tertiles(values, train)
    if values.nunique() > _MOST_LEVELS:
        raise DataError(f"subgroup_columns: column {column} has {values.nunique()} values; expected at most {_MOST_LEVELS}")
    return _categories(_yes_no(values) if pd.api.types.is_bool_dtype(values) else values, column)


def _categories(values: pd.Series, column: str) -> pd.Series:
    """Texts as ordered categories: in the field's order where it has one, else numbers within texts by their value."""
    texts = values.astype("string")
    present = list(texts.dropna().unique())
    rank = {level: position for position, level in enumerate(_ORDERED.get(column, ()))}
    levels = sorted(present, key=lambda level: (rank.get(level, len(rank)), _natural(level)))
    return pd.Series(pd.Categorical(texts.astype(object), levels, ordered=True), values.index)


def _natural(text: str) -> list[tuple[int, float, str]]:
    return [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in re.split(r"(\d+)", text) if part]


def _one_level(values: pd.Series) -> str:
    return NOT_KNOWN if values.isna().all() else f"all {values.dropna().iloc[0]}"


def overall_estimate(
    results: pd.Series | pd.DataFrame, patients: pd.Series, statistic: str = "mean", threshold: float = 0.5
) -> Estimate:
    """The score of all images that `subgroup_table` divides; arguments as there."""
    return _Scored.of(results, patients, statistic, threshold).estimate(slice(None))


def subgroup_table(
    results: pd.Series | pd.DataFrame,
    groups: pd.DataFrame,
    patients: pd.Series,
    statistic: str = "mean",
    threshold: float = 0.5,
    *,
    deals: int = 4999,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """A score in every subgroup, against the rest.

    Args:
        results: index case. A number an image (Dice; 1 for a right call and 0 for a wrong one), NaN where undefined; or a table
            with `label` (0, 1) and `probability` of malignancy.
        groups: of `subgroup_columns`: index case, a column a factor. Cases that it lacks are unknown in every factor.
        patients: index case, the patient of each.
        statistic: "mean" for numbers; for a table a name of `scores.labels.SCORES`, of which `MEANS` and "auc" are tested.
        threshold: at or above it an image is called malignant, for scores that need it.
        deals: random deals of a test; no p-value is below 1 / (deals + 1).
        level: 1 − level is the significance level.
        seed: same seed, same deals.

    Returns:
        a row a factor and level, in their order:

        - `images`, `patients`: of the subgroup, those that the score counts: for sensitivity the malignant ones;
        - `estimate`: an `Estimate` over patients; `marked`: fewer than ten patients, so no test (nor is there one of an AUC with
          fewer than five patients of a class on either side);
        - `rest`: the score of the images of the factor's other levels; `difference` = estimate − rest;
        - `p`, `p_holm`: of the randomisation test (see the module), Holm's over all tests of the table. Rows that divide the
          images alike, as the two halves of a factor of two levels, are one test. NaN without a test; `untested` says why, ""
          where one was made;
        - `differs`: `p_holm` below 1 − level.

        Images whose level is unknown are a last row of their factor, `NOT_KNOWN`, outside all tests. No row without a factor.

    Raises:
        ValueError: an unknown statistic, labels or probabilities that are none, a patient missing.
    """
    scored = _Scored.of(results, patients, statistic, threshold)
    levels = groups.reindex(scored.cases)
    rows, questions = [], []
    for factor in levels:
        codes = pd.Categorical(levels[factor]).remove_unused_categories()
        for number, name in enumerate(codes.categories):
            inside, known = codes.codes == number, codes.codes >= 0
            row = _row(scored, factor, str(name), inside, known)
            if not row["untested"]:
                row["p"], row["untested"] = scored.chance(inside, known, deals, seed)
            rows.append(row)
            questions.append(frozenset({inside.tobytes(), (known & ~inside).tobytes()}))
        if (codes.codes < 0).any():
            unknown = codes.codes < 0
            rows.append(_row(scored, factor, NOT_KNOWN, unknown, unknown) | {"untested": "level not known"})
            questions.append(None)
    return _adjusted(pd.DataFrame(rows, columns=COLUMNS), questions, 1 - level)


def subgroup_calibration(predictions: pd.DataFrame, groups: pd.DataFrame, patients: pd.Series, **settings) -> pd.DataFrame:
    """Whether probabilities mean the same in every subgroup: the mean probability against the share that is malignant.

    The gap is a difference of two means, which few images do not bias; the expected calibration error is inflated by them, more
    so the smaller the subgroup.

    Args:
        predictions: index case; `label`, `probability`.
        groups, patients, settings (deals, level, seed): as in `subgroup_table`.

    Returns:
        as `subgroup_table`, `estimate` being the gap: observed − predicted, in [-1, 1], above 0 where malignancy is underrated;
        with `predicted` and `observed`, an `Estimate` each.
    """
    truth, values = checked(predictions["label"], predictions["probability"], "subgroup_calibration")
    parts = {"observed": pd.Series(truth.astype(float), predictions.index), "predicted": pd.Series(values, predictions.index)}
    table = subgroup_table(parts["observed"] - parts["predicted"], groups, patients, **settings)
    levels = groups.reindex(predictions.index)
    for name, numbers in parts.items():
        found = []
        for row in table.itertuples():
            given = levels[row.factor]
            part = numbers[given.isna() if row.level == NOT_KNOWN else given.astype("string").eq(row.level).fillna(False)]
            found.append(patient_bootstrap(part, patients.reindex(part.index), share=True))
        table[name] = pd.Series(found, table.index, dtype=object)
    return table


def _row(scored: _Scored, factor: str, level: str, inside: np.ndarray, known: np.ndarray) -> dict:
    outside = known & ~inside
    estimate, rest, others = scored.estimate(inside), scored.value(outside), scored.count(outside)
    marked = estimate.patients < FEWEST_PATIENTS
    why = ""
    if marked:
        why = f"fewer than {FEWEST_PATIENTS} patients"
    elif others < FEWEST_PATIENTS:
        why = f"fewer than {FEWEST_PATIENTS} patients to compare with"
    elif np.isnan(estimate.value) or np.isnan(rest):
        why = "the score is undefined on one side"
    elif min(scored.rarer(inside), scored.rarer(outside)) < FEWEST_OF_A_CLASS:
        why = f"fewer than {FEWEST_OF_A_CLASS} patients of a class"
    numbers = {"images": estimate.images, "patients": estimate.patients, "estimate": estimate, "marked": marked, "rest": rest}
    missing = {"p": np.nan, "p_holm": np.nan, "differs": False, "untested": why}
    return {"factor": factor, "level": level, **numbers, "difference": estimate.value - rest, **missing}


def _adjusted(table: pd.DataFrame, questions: Sequence[object], alpha: float) -> pd.DataFrame:
    """Holm over the questions that were asked, each once however many rows ask it."""
    asked = {question: p for question, p in zip(questions, table["p"], strict=True) if not np.isnan(p)}
    adjusted = dict(zip(asked, holm(np.array(list(asked.values()), dtype=float)), strict=True))
    p_holm = [np.nan if np.isnan(p) else adjusted[question] for question, p in zip(questions, table["p"], strict=True)]
    numbers = dict.fromkeys(["p", "rest", "difference"], float) | dict.fromkeys(["images", "patients"], int)
    table = table.assign(p_holm=np.array(p_holm, dtype=float)).astype({**numbers, "marked": bool})
    return table.assign(differs=table["p_holm"] < alpha)


@dataclass(frozen=True)
class _Scored:
    """Results of images and a score of any part of them.

    cases, patients: of the images that can define it, (n,). measure: None for a score that is not tested.
    """

    cases: pd.Index
    patients: np.ndarray
    measure: Mean | Area | None
    estimate_of: Callable[[np.ndarray], Estimate]

    @classmethod
    def of(cls, results: pd.Series | pd.DataFrame, patients: pd.Series, statistic: str, threshold: float) -> _Scored:
        if isinstance(results, pd.DataFrame):
            return cls._of_predictions(results, patients, statistic, threshold)
        if statistic != "mean":
            raise ValueError(f"subgroup_table: statistic {statistic!r} needs labels and probabilities; of numbers: mean")
        known = pd.to_numeric(results).astype(float).dropna()
        names, values = patients.reindex(known.index).to_numpy(object), known.to_numpy()
        return cls(known.index, names, Mean(values), lambda part: patient_bootstrap(values[part], names[part], share=True))

    @classmethod
    def _of_predictions(cls, results: pd.DataFrame, patients: pd.Series, statistic: str, threshold: float) -> _Scored:
        if statistic not in SCORES:
            raise ValueError(f"subgroup_table: no score {statistic!r} of labels and probabilities; known: {', '.join(SCORES)}")
        truth, values = checked(results["label"], results["probability"], "subgroup_table")
        if statistic in MEANS:
            return cls.of(_by_image(statistic, truth, values, threshold, results.index), patients, "mean", threshold)
        names, labels = patients.reindex(results.index).to_numpy(object), truth.astype(int)

        def estimate_of(part: np.ndarray) -> Estimate:
            found = patient_bootstrap_scores(labels[part], values[part], names[part], statistic, threshold)
            return found[statistic]

        return cls(results.index, names, Area(truth, values) if statistic == "auc" else None, estimate_of)

    @cached_property
    def codes(self) -> np.ndarray:
        return patient_codes(self.patients, len(self.cases), "subgroup_table")[0]

    def estimate(self, part: np.ndarray | slice) -> Estimate:
        chosen = np.arange(len(self.cases))[part]
        _ = self.codes  # refuses a patient that is missing
        return self.estimate_of(chosen) if len(chosen) else Estimate(np.nan, np.nan, np.nan, 0, 0)

    def count(self, part: np.ndarray) -> int:
        """Patients with an image in it."""
        return len(np.unique(self.codes[part]))

    def rarer(self, part: np.ndarray) -> float:
        """Patients of the rarer class in it, where the score is an AUC; else no limit."""
        if not isinstance(self.measure, Area):
            return np.inf
        return min(self.count(part & self.measure.truth), self.count(part & ~self.measure.truth))

    def value(self, part: np.ndarray) -> float:
        if self.measure is None or not part.any():
            return self.estimate(part).value
        return float(self.measure.of(part[:, None].astype(float))[0][0])

    def chance(self, inside: np.ndarray, known: np.ndarray, deals: int, seed: int) -> tuple[float, str]:
        """p-value, and why there is none."""
        if self.measure is None:
            return np.nan, "no test of this score"
        return randomisation_test(self.measure, inside, known, self.codes, deals, seed)


def _by_image(statistic: str, truth: np.ndarray, values: np.ndarray, threshold: float, cases: pd.Index) -> pd.Series:
    """The number an image whose mean is a score of `MEANS`, NaN for images that it leaves out."""
    called = values >= threshold
    if statistic == "brier":
        return pd.Series((values - truth) ** 2, cases)
    counted = {"accuracy": np.ones(len(truth), bool), "sensitivity": truth, "specificity": ~truth, "precision": called}
    return pd.Series(np.where(counted[statistic], (called == truth).astype(float), np.nan), cases)
