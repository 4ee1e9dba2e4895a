"""What studies that compare say to a reader: differences in words, tables of scores, whom they rest on."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from thyroid_utils.common.words import UNKNOWN, count, number
from thyroid_utils.scores.estimates import Comparison, Estimate
from thyroid_utils.scores.recipes import RecipeComparison
from thyroid_utils.training.ledger import NAMED, Run


def names_patients(run: Run) -> bool:
    """Whether the data set of a run names the patients of all its images."""
    return run.data.get("patients", NAMED) == NAMED


def counted_patients(run: Run, images: int, patients: int) -> str:
    """`110 images of 22 patients`; where the set of a run names no patients `110 images (patients unknown: intervals are too
    narrow)`, as images of one patient then count as those of several."""
    if not names_patients(run):
        return f"{count(images, 'image')} (patients unknown: intervals are too narrow)"
    return f"{count(images, 'image')} of {count(patients, 'patient')}"


def told_difference(found: Comparison, digits: int = 3, scale: float = 1) -> str:
    """`+0.031 [−0.002, +0.064]`: a difference times `scale`, with its interval (`shown_interval`)."""
    limits = sorted(scale * limit for limit in shown_interval(found))
    told, low, high = (number(value, digits, sign=True) for value in (scale * found.difference, *limits))
    return f"{told} [no interval]" if low == UNKNOWN else f"{told} [{low}, {high}]"


def shown_interval(found: Comparison) -> tuple[float, float]:
    """The interval of a difference over patients and trainings, or, where there is none, of these networks over patients."""
    if np.isnan(found.low) and isinstance(found, RecipeComparison):
        return found.fixed_low, found.fixed_high
    return found.low, found.high


def pair_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """`ComparedRuns.paired` for a reader: difference with interval, p after Holm, whether the recipes differ ("–": no verdict,
    for the reason in `why`), and the difference that would be detected with a power of 80 %."""
    found = pairs["difference"]
    shown = pairs[["first", "second"]].assign(**{"difference [95 %]": [told_difference(each) for each in found]})
    shown["p (Holm)"] = pairs["p_holm"]
    shown["differs"] = np.where(pairs["p_holm"].isna(), UNKNOWN, np.where(pairs["differs"], "yes", "no"))
    shown["detectable"] = [getattr(each, "detectable", np.nan) for each in found]
    shown["why"] = [each.note for each in found]
    return shown.loc[:, [not (column.isna() | (column == "")).all() for _, column in shown.items()]]


def score_table(
    runs: Mapping[str, Sequence[Run]], estimates: pd.DataFrame, pairs: pd.DataFrame, names: Mapping[str, str], digits: int = 3
) -> pd.DataFrame:
    """The scores of each model with the models that differ from it, the images that they rest on, and what it started from where
    models started from different weights. runs: of `ComparedRuns`."""
    told = different_from(pairs, estimates.index).to_frame()
    told["images"] = [max(found.images for found in row) for row in estimates.to_numpy()]
    weights = pd.Series({model: found[0].data["weights"] for model, found in runs.items()}, name="weights")
    if weights.nunique() > 1:
        told = told.join(weights)
    return told.join(estimate_table(estimates, names, digits)).rename_axis(estimates.index.name)


def different_from(pairs: pd.DataFrame, models: Sequence[str]) -> pd.Series:
    """Model → the models that differ from it after Holm, as text; "none" where there is none, "–" where no pair of it has a
    verdict. pairs: of `ComparedRuns.paired`."""
    found: dict[str, list[str]] = {model: [] for model in models}
    asked = set()
    for row in pairs.itertuples():
        asked |= set() if np.isnan(row.p_holm) else {row.first, row.second}
        if row.differs:
            found[row.first].append(row.second)
            found[row.second].append(row.first)
    told = {model: ", ".join(others) or ("none" if model in asked else UNKNOWN) for model, others in found.items()}
    return pd.Series(told, name="differs from", dtype=object)


def estimate_table(estimates: pd.DataFrame, names: Mapping[str, str] | None = None, digits: int = 3) -> pd.DataFrame:
    """A table of `Estimate`s and `Comparison`s as text, `value [low, high]`, its columns named by `names`."""
    kinds = (Estimate, Comparison)
    return estimates.map(lambda value: value.text(digits) if isinstance(value, kinds) else value).rename(
        columns=dict(names or {})
    )
