"""Findings of test images beside the truth: what goes wrong together, what warns of it, how long each stage takes, and the answer
that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from thyroid_utils.common.progress import Progress
from thyroid_utils.common.words import listed, number, p_value, share
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.inference.dual_stage import CLASSIFIER, DualStage
from thyroid_utils.inference.findings import STAGES, CaseImage, Findings
from thyroid_utils.inference.predictor import spacings
from thyroid_utils.scores.estimates import Estimate, patient_estimate
from thyroid_utils.scores.groups import GroupComparison, mann_whitney_patients
from thyroid_utils.scores.masks import pixel_counts
from thyroid_utils.studies.dual_stage import DualStageStudy, dice_of
from thyroid_utils.studies.error_analysis.trust import error_detection
from thyroid_utils.studies.followed import inputs_of, mask_steps, steps_to_call
from thyroid_utils.studies.tables import counted_patients, told_difference

# Whether the class is wrong and whether the mask is poor → name of the outcome, in the order of a table.
OUTCOMES = {
    (False, False): "both right",
    (True, False): "class wrong, mask right",
    (False, True): "class right, mask wrong",
    (True, True): "both wrong",
}


def findings_on_test(stage: DualStage, cases: Sequence[str] | None = None, progress: Progress | None = None) -> Findings:
    """`DualStage.findings` on test images, with the truth.

    Args:
        stage: of finished runs whose data are at hand. Of runs of several splits each image is judged by those alone that were
            tested on it (`DualStage.by_split`).
        cases: only these test images, whose findings are then kept whole; None takes all and keeps none.
        progress: called with (images done, images in all).

    Returns:
        `Findings`, whose table has besides: `patient`; `label` (0 or 1); `wrong`, whether the call is (<NA> with an error);
        `dice` with the mask file, on the frame (NaN with an error, or where both masks are empty).

    Raises:
        DataError: runs of different splits. KeyError: a case that is no test image.
    """
    parts, lines, kept = stage.by_split(), [], {}
    tested = pd.concat([part.classifier.cases.query("split == 'test'").assign(part=at) for at, part in enumerate(parts)])
    rows = tested[~tested.index.duplicated()].loc[slice(None) if cases is None else list(cases)]
    for at, part in enumerate(parts):
        own = rows[rows["part"] == at]
        images = [CaseImage(case, path, mm) for case, path, mm in zip(own.index, own["image"], spacings(own), strict=True)]
        for finding in part.findings(images):
            dice = np.nan if finding.error else dice_of(rows.at[finding.case, "mask"], finding.mask)
            lines.append({**finding.row(), "dice": dice})
            if cases is not None:
                kept[finding.case] = finding
            if progress is not None:
                progress(len(lines), len(rows))
    found = pd.DataFrame(lines).set_index("case").loc[rows.index]
    found["patient"], found["label"] = rows["patient"].to_numpy(object), rows["label"].astype(int).to_numpy()
    called = found["called"].map({"benign": 0, "malignant": 1})
    found["wrong"] = (called != found["label"]).astype("boolean").mask(called.isna())
    return Findings(found, kept, tuple(dict.fromkeys(note for part in parts for note in part.notes)))


def followed(stage: DualStage, case: str) -> pd.DataFrame:
    """A test image through both stages to its call and its Dice: a row a step, its numbers as text in a column of its name."""
    part = next(each for each in stage.by_split() if each.classifier.cases["split"].get(case) == "test")
    (finding,) = findings_on_test(stage, [case]).kept.values()
    asked, row = part.networks[CLASSIFIER], part.segmenter.cases.loc[case]
    odds = asked.answers("log_odds", [asked.prepare(finding.frame, finding.mask)])[:, 0]
    steps = {
        **inputs_of(part.classifier, row),
        **steps_to_call(odds, asked.calibrations, part.threshold),
        "prediction set": finding.labels_text,
        "true class": LABEL_NAMES[int(row["label"])],
        "map of the nodule, on the frame": f"probabilities {number(finding.map.min())} to {number(finding.map.max())}",
        **mask_steps(*pixel_counts(read_mask(row["mask"], finding.mask.shape), finding.mask).values()),
        "attention inside the outline": f"{share(finding.attention_inside)}, by chance {share(finding.attention_by_chance)}",
    }
    return pd.Series(steps, name=case).rename_axis("step").to_frame()


def examples(table: pd.DataFrame, each: int = 1) -> list[str]:
    """Cases for cards, each once: certain and right of each class, wrong, warned, of lowest Dice, undecided.

    Args:
        table: of `findings_on_test`.
        each: so many of each kind, fewer where there are fewer.
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


def outcome_table(table: pd.DataFrame, enough: float) -> pd.DataFrame:
    """How often both stages are right on one image, against what their separate rates would give.

    Args:
        table: of `findings_on_test`; images without a call or a Dice are left out.
        enough: Dice from which a mask counts as right, in [0, 1].

    Returns:
        index `outcome` (of `OUTCOMES`): `images`, `patients` that have one, `share` of the images (`Estimate`), and
        `if_unrelated`, the share that the two stages' own rates would give if the errors of one had nothing to do with those of
        the other.
    """
    known = with_both(table)
    wrong, poor = known["wrong"].astype(bool), known["dice"] < enough
    rows = {}
    for (of_class, of_mask), name in OUTCOMES.items():
        members = (wrong == of_class) & (poor == of_mask)
        rows[name] = {
            "images": int(members.sum()),
            "patients": known.loc[members, "patient"].nunique(),
            "share": patient_estimate(members, known["patient"], share=True),
            "if_unrelated": float((wrong == of_class).mean() * (poor == of_mask).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("outcome")


def with_both(table: pd.DataFrame) -> pd.DataFrame:
    """The images that have a call and a Dice."""
    return table[table["wrong"].notna() & table["dice"].notna()]


class DecisionDice(NamedTuple):
    """Dice where the class is right and where it is wrong.

    table: rows "right", "wrong" and "CLASS, called CALL" for the four pairs: `dice` (`Estimate`, mean over images, interval over
    patients), `images`, `patients` that have a Dice. comparison: patients with a wrong call against the others, by Mann-Whitney's
    test; effect below 0: Dice is lower where the class is wrong. left_out: images without a Dice or a call.
    """

    table: pd.DataFrame
    comparison: GroupComparison
    left_out: int


def dice_by_decision(table: pd.DataFrame) -> DecisionDice:
    """Is Dice lower where the class is wrong?

    Args:
        table: of `findings_on_test`.
    """
    known = with_both(table)
    wrong, malignant = known["wrong"].astype(bool), known["label"].eq(1)
    groups = {
        "right": ~wrong,
        "wrong": wrong,
        "benign, called benign": ~malignant & ~wrong,
        "benign, called malignant": ~malignant & wrong,
        "malignant, called malignant": malignant & ~wrong,
        "malignant, called benign": malignant & wrong,
    }
    rows = {}
    for name, members in groups.items():
        own = known[members]
        value = patient_estimate(own["dice"], own["patient"], share=True)
        rows[name] = {"dice": value, "images": len(own), "patients": own["patient"].nunique()}
    comparison = mann_whitney_patients(known["dice"], wrong.astype(int), known["patient"])
    return DecisionDice(pd.DataFrame.from_dict(rows, orient="index").rename_axis("decision"), comparison, len(table) - len(known))


class Agreement(NamedTuple):
    """Whether attention outside the predicted nodule warns of wrong calls.

    table: rows "inside" (attention is denser inside the predicted nodule than outside), "outside" (the warning) and "undefined"
    (no nodule found, or a blank map): `accuracy` and `dice` (`Estimate`s), `images`, `patients`, `wrong`. detection: AUROC of
    telling wrong calls from right ones by how little of the attention is inside (0.5: it warns of nothing), `Estimate`.
    """

    table: pd.DataFrame
    detection: Estimate


def agreement(table: pd.DataFrame) -> Agreement:
    """Accuracy and Dice where the two stages look at the same place, and where they do not.

    Args:
        table: of `findings_on_test`; images with an error are left out.
    """
    known = table[table["wrong"].notna()]
    excess, right = known["attention_inside"] / known["attention_by_chance"], ~known["wrong"].astype(bool)
    groups, rows = {"inside": excess > 1, "outside": excess <= 1, "undefined": excess.isna()}, {}
    for name, members in groups.items():
        patients = known.loc[members, "patient"]
        rows[name] = {
            "accuracy": patient_estimate(right[members], patients, share=True),
            "dice": patient_estimate(known.loc[members, "dice"], patients, share=True),
            "images": len(patients),
            "patients": patients.nunique(),
            "wrong": int((~right[members]).sum()),
        }
    detection = error_detection(-excess, known["wrong"].astype(float), known["patient"])
    return Agreement(pd.DataFrame.from_dict(rows, orient="index").rename_axis("attention"), detection)


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


def answer(study: DualStageStudy, decided: DecisionDice, pairs: pd.DataFrame, masks_learnt: bool) -> str:
    """The notebook's question answered: do both stages go wrong on the same images, and is segmenting first better; or why this
    run cannot say.

    Args:
        decided: `dice_by_decision`. pairs: `study.comparisons`.
        masks_learnt: whether validation shows that the segmenter has learnt something.
    """
    who = counted_patients(study.runs["frame"][0], len(study.truth), study.truth["patient"].nunique())
    together, asked = decided.comparison, "This run cannot say whether"
    idle = ["the classifier"] * ("frame" in study.classes.untrained) + ["the segmenter"] * (not masks_learnt)
    if idle or np.isnan(together.p_value):
        learnt = f"validation does not show that {listed(idle)} learnt anything"
        why = learnt if idle else "right and wrong calls are not both there"
        same = f"{asked} both stages go wrong on the same images, because {why}."
    else:
        same = "Both stages are not shown to go wrong on the same images"
        if together.p_value < 0.05:
            worse = together.effect < 0
            same = "Both stages go wrong on the same images" if worse else "Outlines are better where the class is wrong"
        wrong, right = (decided.table.at[name, "dice"].text(2) for name in ("wrong", "right"))
        same += f": Dice is {wrong} where the class is wrong and {right} where it is right ({p_value(together.p_value)}; {who})."
    row = pairs.set_index(["first", "second"]).loc[("crop_predicted", "frame")]
    moved = f"the crop's AUC less the whole frame's is {told_difference(row['difference'])}"
    if np.isnan(row["p_holm"]):
        return (
            f"{same} {asked} crops are better to classify than whole frames, because {row['difference'].note}: {moved} ({who})."
        )
    verdict = "more than chance" if row["differs"] else "not more than chance can give"
    return f"{same} Segmenting first: {moved}, {verdict} ({p_value(row['p_holm'])} after Holm; {who})."
