"""The framework's findings on the test images, with the truth: class, mask and attention together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.findings import STAGES, CaseImage, Findings
from thyroid_utils.inference.predictor import spacings
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.groups import GroupComparison, mann_whitney_patients
from thyroid_utils.studies.dual_stage.variants import dice_of
from thyroid_utils.studies.error_analysis.uncertainty import error_detection

# Whether the class is wrong and whether the mask is poor → name of the outcome, in the order of a table.
OUTCOMES = {
    (False, False): "both right",
    (True, False): "class wrong, mask right",
    (False, True): "class right, mask wrong",
    (True, True): "both wrong",
}
# Class and call of an image, in the order of a table.
DECISIONS = ("benign, called benign", "benign, called malignant", "malignant, called malignant", "malignant, called benign")


def findings_on_test(
    stage: DualStage, cases: Sequence[str] | None = None, *, keep: int | Sequence[str] = 0, progress: Progress | None = None
) -> Findings:
    """`DualStage.predict` on labelled test images of both runs, with the truth.

    Args:
        stage: of two finished runs, whose data are at hand.
        cases: only these; None takes every image that is on the test side of both runs.
        keep: as for `DualStage.predict`.
        progress: called with (images done, images in all).

    Returns:
        `Findings`, whose table has besides: `patient`; `label` (0 or 1); `wrong`, whether the call is (<NA> with an error);
        `dice` with the mask file, on the frame (NaN without one, with an error, or where both masks are empty). Its
        `attrs["left_out"]`: labelled test images of the classifier that are not on the segmenter's test side.

    Raises:
        DataError: the two have no test image in common, a case that is none of these, or a test patient that the segmenter was
            trained or validated on.
    """
    table, outlined = stage.classifier.cases, stage.segmenter.cases
    tested = table.index[table["split"].eq("test") & table["label"].notna()]
    common = tested[tested.isin(outlined.index[outlined["split"].eq("test")])]
    if common.empty:
        raise DataError("dual-stage: the two runs have no test image in common; train both on one data set with one split")
    seen = set(outlined.loc[outlined["split"] != "test", "patient"]) & set(table.loc[common, "patient"])
    if seen and not stage.segmenter.run.data["leaky"]:
        raise DataError(f"dual-stage: the segmenter was trained on {len(seen)} of the test patients; train both with one split")
    chosen = common if cases is None else pd.Index(cases)
    if not chosen.isin(common).all():
        raise DataError(f"dual-stage: {chosen[~chosen.isin(common)][0]} is no test image of both runs")
    rows = table.loc[chosen]
    images = [CaseImage(str(case), path, mm) for case, path, mm in zip(chosen, rows["image"], spacings(rows), strict=True)]
    wanted = {str(case) for case in (chosen[:keep] if isinstance(keep, int) else keep)}
    lines, dices, kept = [], [], {}
    for done, finding in enumerate(stage.findings(images), 1):
        path = rows.at[finding.case, "mask"]
        dices.append(np.nan if finding.error or pd.isna(path) else dice_of(path, finding.mask))
        lines.append(finding.row())
        if finding.case in wanted:
            kept[finding.case] = finding
        if progress is not None:
            progress(done, len(images))
    found = pd.DataFrame(lines).set_index("case").assign(dice=dices)
    found["patient"], found["label"] = rows["patient"].to_numpy(object), rows["label"].astype(int).to_numpy()
    called = found["called"].map({"benign": 0, "malignant": 1})
    found["wrong"] = (called != found["label"]).astype("boolean").mask(called.isna())
    found.attrs["left_out"] = len(tested) - len(common)
    return Findings(found, kept, stage.notes)


def examples(table: pd.DataFrame, each: int = 1) -> list[str]:
    """Cases for cards, so many of each kind and each once: certain and right of each class, wrong, warned, lowest Dice.

    Args:
        table: of `findings_on_test`.
        each: of each kind, fewer where there are fewer.
    """
    known = table[table["error"] == ""]
    sure = known.sort_values("entropy", kind="stable")
    wrong = sure["wrong"].astype(bool)
    kinds = [
        sure[~wrong & sure["label"].eq(0)],
        sure[~wrong & sure["label"].eq(1)],
        sure[wrong],
        known[known["warnings"] != ""],
        known.dropna(subset="dice").sort_values("dice", kind="stable"),
        known.sort_values("entropy", ascending=False, kind="stable"),
    ]
    chosen: list[str] = []
    for kind in kinds:
        chosen += [case for case in kind.index if case not in chosen][:each]
    return chosen


def outcome_table(table: pd.DataFrame, enough: float = 0.7, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How often both stages are right on one image, against what their separate rates would give.

    Args:
        table: of `findings_on_test`; images without a call or a Dice are left out.
        enough: Dice from which a mask counts as right, in [0, 1].
        resamples, seed: of the intervals.

    Returns:
        index `outcome` (of `OUTCOMES`): `images`, `patients` that have one, `share` of the images (`Estimate`), and
        `if_unrelated`, the share that the two stages' own rates would give if the errors of one had nothing to do with those of
        the other.

    Raises:
        DataError: no image has both a call and a Dice.
    """
    known = _with_both(table, "outcome_table")
    wrong, poor = known["wrong"].astype(bool).to_numpy(), (known["dice"] < enough).to_numpy()
    rows = {}
    for (of_class, of_mask), name in OUTCOMES.items():
        members = (wrong == of_class) & (poor == of_mask)
        rows[name] = {
            "images": int(members.sum()),
            "patients": known.loc[members, "patient"].nunique(),
            "share": _share(members, known["patient"], resamples, seed),
            "if_unrelated": float((wrong == of_class).mean() * (poor == of_mask).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("outcome")


def _with_both(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The images that have a call and a Dice."""
    known = table[table["wrong"].notna() & table["dice"].notna()]
    if known.empty:
        raise DataError(f"{where}: no image has both a call and a Dice; give test images with masks")
    return known


@dataclass(frozen=True)
class DecisionDice:
    """Dice where the class is right and where it is wrong.

    table: rows "right", "wrong" and the four of `DECISIONS`: `dice` (`Estimate`, mean over images, interval over patients),
    `images`, `patients` that have a Dice. comparison: patients with a wrong call against the others, by Mann-Whitney's test;
    effect below 0: Dice is lower where the class is wrong. left_out: images without a Dice or a call.
    """

    table: pd.DataFrame
    comparison: GroupComparison
    left_out: int


def dice_by_decision(table: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> DecisionDice:
    """Is Dice lower where the class is wrong?

    Args:
        table: of `findings_on_test`.
        resamples, seed: of the intervals.

    Raises:
        DataError: no image has both a call and a Dice.
    """
    known = _with_both(table, "dice_by_decision")
    wrong, malignant = known["wrong"].astype(bool), known["label"].eq(1)
    groups = {"right": ~wrong, "wrong": wrong}
    groups |= dict(zip(DECISIONS, (~malignant & ~wrong, ~malignant & wrong, malignant & ~wrong, malignant & wrong), strict=True))
    rows = {}
    for name, members in groups.items():
        own = known[members]
        value = patient_bootstrap(own["dice"], own["patient"], resamples=resamples, seed=seed)
        rows[name] = {"dice": value, "images": len(own), "patients": own["patient"].nunique()}
    settings = {"resamples": resamples, "seed": seed}
    comparison = mann_whitney_patients(known["dice"], wrong.astype(int), known["patient"], **settings)
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("decision")
    return DecisionDice(found, comparison, len(table) - len(known))


@dataclass(frozen=True)
class Agreement:
    """Whether attention outside the predicted nodule warns of wrong calls.

    table: rows "inside" (attention is denser inside the predicted nodule than outside), "outside" (the warning) and "undefined"
    (no nodule found, or a blank map): `accuracy` and `dice` (`Estimate`s), `images`, `patients`, `wrong`. detection: AUROC of
    telling wrong calls from right ones by how little of the attention is inside (0.5: it warns of nothing), `Estimate`.
    """

    table: pd.DataFrame
    detection: Estimate


def agreement(table: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> Agreement:
    """Accuracy and Dice where the two stages look at the same place, and where they do not.

    Args:
        table: of `findings_on_test`; images with an error are left out.
        resamples, seed: of the intervals.
    """
    known = table[table["wrong"].notna()]
    excess = known["attention_inside"] / known["attention_by_chance"]
    groups = {"inside": excess > 1, "outside": excess <= 1, "undefined": excess.isna()}
    rows = {}
    for name, members in groups.items():
        own = known[members]
        wrong = own["wrong"].astype(bool).to_numpy()
        rows[name] = {
            "accuracy": _share(~wrong, own["patient"], resamples, seed),
            "dice": patient_bootstrap(own["dice"], own["patient"], resamples=resamples, seed=seed),
            "images": len(own),
            "patients": own["patient"].nunique(),
            "wrong": int(wrong.sum()),
        }
    detection = error_detection(-excess, known["wrong"].astype(float), known["patient"], resamples=resamples, seed=seed)
    return Agreement(pd.DataFrame.from_dict(rows, orient="index").rename_axis("attention"), detection)


def _share(right: np.ndarray, patients: pd.Series, resamples: int, seed: int) -> Estimate:
    """Share of True, with Wilson's interval where all or none are: an accuracy whose truth is all 1."""
    if not len(right):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    ones = np.ones(len(right), int)
    return patient_bootstrap_scores(ones, right.astype(float), patients, "accuracy", resamples=resamples, seed=seed)["accuracy"]


def stage_seconds(table: pd.DataFrame) -> pd.DataFrame:
    """Wall time an image of each stage, of images without an error.

    Args:
        table: of `DualStage.predict` or `findings_on_test`.

    Returns:
        index `stage` (of `STAGES`, then "all"): `median_ms`, `mean_ms`, and `share` of the mean of all.
    """
    columns = [f"seconds_{stage}" for stage in STAGES]
    spent = 1000 * table.loc[table["error"] == "", columns].set_axis(STAGES, axis=1)
    spent["all"] = spent.sum(axis=1, skipna=False)
    found = pd.DataFrame({"median_ms": spent.median(), "mean_ms": spent.mean()})
    return found.assign(share=found["mean_ms"] / found.at["all", "mean_ms"]).rename_axis("stage")
