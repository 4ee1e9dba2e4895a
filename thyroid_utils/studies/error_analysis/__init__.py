"""Every error of a model as a row with what a card of it needs, and what kinds of errors there are, counted.

A classifier errs where its call at the threshold chosen on validation is not the label. A segmenter errs where its mask's Dice
at the image's own resolution is below what was asked for, or where it calls nodule in an image that has none. Where masks go
wrong is measured in `mask_errors`, who is served worse in `subgroups`, what could have been foreseen in `uncertainty`, and what
breaks a network in `robustness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, proportion_interval
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis.mask_errors import MODES, mask_row
from thyroid_utils.studies.error_analysis.subgroups import FEWEST_PATIENTS, subgroup_table
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

KINDS = {1: "false positive", 0: "false negative"}  # of a wrong call
_NEAR = 0.25  # confidence below which a wrong call counts as near the threshold
_ALPHA = 0.025  # false positives and false negatives are two families of tests, each at half of 0.05


@dataclass(frozen=True)
class Errors:
    """What a model got wrong, and what it got right.

    Attributes:
        model: its name. task: "classification" or "segmentation".
        images: every tested image, index `case`: `patient`, `label`, `truth` ("benign", "malignant" or "unlabelled"), `wrong`
            (bool), `confidence` (0 to 1), `uncertainty` (NaN where none was given), then

            - of a classifier `prediction` (name of the class called), `probability` of malignancy, `log_odds`, `threshold`,
              `kind` (of `KINDS`; "" where right), and `runs_wrong` of `runs`, how many trainings of the model err on it;
            - of a segmenter `dice`, `iou`, `hd95` (pixels), `presence`, and the columns of `mask_errors.where_lost`;

            and a column a factor where groups were given.
        groups: index `case`, as given (`subgroups.subgroup_columns`); without columns where none were.
    """

    model: str
    task: str
    images: pd.DataFrame
    groups: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """The errors, the most confident first; no row where there is none."""
        return _most_confident_first(self.images[self.images["wrong"]])

    def shown(self, count: int) -> pd.DataFrame:
        """So many of the errors, the most confident first; without any the images that were right by the smallest margin."""
        right = _most_confident_first(self.images[~self.images["wrong"]])[::-1]
        return (self.table if self.images["wrong"].any() else right).head(count)

    @property
    def rate(self) -> Estimate:
        """Share of images that are wrong, with its interval over patients."""
        return patient_bootstrap(self.images["wrong"].astype(float), self.images["patient"], share=True)

    @property
    def sentence(self) -> str:
        """How many images are wrong, as text."""
        rate, wrong = self.rate, int(self.images["wrong"].sum())
        tested = f"{rate.images} images of {rate.patients} patients"
        if not wrong:
            high = proportion_interval(0, rate.patients)[1]
            return (
                f"{self.model} makes no error on {tested} (95 % interval of the share of patients with one: 0 to "
                f"{100 * high:.0f} %). It was least certain of {', '.join(self.shown(3).index)}."
            )
        interval = "" if np.isnan(rate.low) else f", 95 % interval over patients {100 * rate.low:.0f} to {100 * rate.high:.0f} %"
        return f"{self.model} is wrong on {wrong} of {tested} ({100 * rate.value:.1f} %{interval}){self._detail()}."

    def _detail(self) -> str:
        if self.task == "segmentation":
            return ""
        parts = []
        for label, kind in ((0, KINDS[1]), (1, KINDS[0])):
            members = self.images[self.images["label"] == label]
            count = int(members["wrong"].sum())
            told = f"{count} {kind}{'' if count == 1 else 's'} of {len(members)} {LABEL_NAMES[label]} images"
            parts.append(told if len(members) else f"no {LABEL_NAMES[label]} image was tested")
        return ": " + ", ".join(parts)


def _most_confident_first(images: pd.DataFrame) -> pd.DataFrame:
    """Where a probability has saturated its logit still tells images apart."""
    margin = images["log_odds"].abs() if "log_odds" in images else images["confidence"]
    order = pd.DataFrame({"confidence": images["confidence"], "margin": margin})
    return images.loc[order.sort_values(["confidence", "margin"], ascending=False, kind="stable").index]


def classifier_errors(
    comparison: ClassifierComparison, model: str, groups: pd.DataFrame | None = None, uncertainty: pd.Series | None = None
) -> Errors:
    """The test images of a model's first run, each called at the threshold that validation chose; `Errors` tells the columns.

    Args:
        comparison: with the model.
        groups: of `subgroups.subgroup_columns`.
        uncertainty: case → uncertainty of the prediction, any scale.
    """
    images = comparison.decisions(model)
    wrong = pd.Series(0, images.index)
    runs = list(zip(comparison.predictions(model), comparison.thresholds[model], strict=True))
    runs = runs if comparison.one_split else runs[:1]
    for found, threshold in runs:
        wrong += ((found["probability"] >= threshold) != found["label"].astype(bool)).reindex(images.index).astype(int)
    return decision_errors(images.assign(runs_wrong=wrong, runs=len(runs)), model, groups, uncertainty)


def decision_errors(
    decisions: pd.DataFrame, model: str, groups: pd.DataFrame | None = None, uncertainty: pd.Series | None = None
) -> Errors:
    """`classifier_errors` of any decisions; one class or no error will do.

    Args:
        decisions: index case; `patient`, `label` (0, 1), `probability`, `log_odds`, `threshold`, `runs_wrong` and `runs`.
        model, groups, uncertainty: as for `classifier_errors`.

    Returns:
        Errors, whose `confidence` is how far the probability is from the threshold on the side it fell, as a share of the way to
        0 or 1.
    """
    p, threshold = decisions["probability"].astype(float), decisions["threshold"].astype(float)
    called = p >= threshold
    away = np.where(called, (p - threshold) / np.maximum(1 - threshold, 1e-12), (threshold - p) / threshold.clip(lower=1e-12))
    wrong = called != decisions["label"].astype(bool)
    images = decisions[["patient", "label", "probability", "log_odds", "threshold", "runs_wrong", "runs"]].assign(
        truth=decisions["label"].map(LABEL_NAMES),
        prediction=called.map({False: LABEL_NAMES[0], True: LABEL_NAMES[1]}),
        wrong=wrong,
        kind=called.astype(int).map(KINDS).where(wrong, ""),
        confidence=np.clip(away, 0, 1),
    )
    return _errors(model, "classification", images, groups, uncertainty)


def segmenter_errors(
    comparison: SegmenterComparison,
    model: str,
    enough: float,
    groups: pd.DataFrame | None = None,
    uncertainty: pd.Series | None = None,
) -> Errors:
    """The test images of a model's first run at their own resolution; `Errors` tells the columns. One image is held at a time.

    Args:
        comparison: with the model.
        enough: Dice from which a mask counts as right, in [0, 1]. Where neither mask has a nodule there is none: that is right.
        groups, uncertainty: as for `classifier_errors`.
    """
    scores = comparison.tables[model][0].query("resolution == 'own'")[["dice", "iou", "hd95", "presence"]]
    names, bar, rows = list(comparison.truth.index), progress_bar("Reading maps"), []
    for done, case in enumerate(names, 1):
        rows.append(mask_row(*comparison.picture(model, case)[1:]))
        bar(done, len(names))
    images = pd.DataFrame(rows, pd.Index(names, name="case")).join(scores).join(comparison.truth[["patient", "label"]])
    truth = images["label"].map(LABEL_NAMES).astype("string").fillna(LABEL_NAMES[None])
    return _errors(model, "segmentation", images.assign(truth=truth, wrong=images["dice"] < enough), groups, uncertainty)


def _errors(model: str, task: str, images: pd.DataFrame, groups: pd.DataFrame | None, uncertainty: pd.Series | None) -> Errors:
    told = np.nan if uncertainty is None else uncertainty.reindex(images.index)
    groups = pd.DataFrame(index=images.index) if groups is None else groups.reindex(images.index)
    columns = groups.rename(columns={name: f"{name} (group)" for name in groups if name in images})
    return Errors(model, task, images.assign(uncertainty=told).join(columns), groups)


class FailureModes(NamedTuple):
    """What kinds of errors there are.

    Attributes:
        table: a row a mode, the most frequent first; every error is in exactly one.

            - `mode`; `images`, `patients`: that err so; `share` of all errors and `of_tested`, of all images: `Estimate`s over
              patients, the former over those with an error;
            - `most_in`: the subgroup of ten patients or more in which the mode exceeds most what an even spread would give, as
              text; `observed` and `expected` images there. It is picked as the largest and was not tested; "" without groups;
            - `dice_lost`, of a segmenter: the share of all Dice lost, over all images, that is lost in the mode's errors.
        sentence: the three largest as text.
    """

    table: pd.DataFrame
    sentence: str


def failure_modes(errors: Errors) -> FailureModes:
    """Sort every error into one mode and count.

    A segmenter's modes are those of `mask_errors.MODES`. A classifier's are found in the data: false positives (among benign
    images) or false negatives (among malignant ones) in a subgroup where they are more frequent than elsewhere, by
    `subgroup_table`'s test after Holm over all subgroups of both kinds, the subgroup with the largest excess first; of the other
    errors those "near the threshold", whose confidence is below a quarter, and the "confident" ones, of either kind.

    Returns:
        FailureModes; without errors an empty table and a sentence that says so.
    """
    wrong = errors.table
    if errors.task == "segmentation":
        of_case, order = wrong["mode"].map(MODES), list(MODES.values())
    else:
        of_case, order = _modes_of_calls(errors, wrong)
    table = _mode_table(errors, of_case.astype("string"), order)
    return FailureModes(table, _sentence(errors, table))


def _modes_of_calls(errors: Errors, wrong: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    of_case = wrong["kind"] + np.where(wrong["confidence"] < _NEAR, "s near the threshold", "s, confident")
    candidates = []
    for label, kind in ((0, KINDS[1]), (1, KINDS[0])):
        members = errors.images[errors.images["label"] == label]
        if members["wrong"].any():
            found = subgroup_table(members["wrong"], errors.groups.loc[members.index], members["patient"], alpha=_ALPHA)
            found = found[found["differs"] & (found["difference"] > 0)]
            candidates.append(found.assign(kind=kind, excess=found["difference"] * found["images"]))
    taken, names = pd.Series(False, wrong.index), []
    found = pd.concat(candidates).sort_values("excess", ascending=False, kind="stable") if candidates else pd.DataFrame()
    for row in found.itertuples():
        names.append(f"{row.kind}s, {row.factor}: {row.level}")
        inside = errors.groups.loc[wrong.index, row.factor].astype("string").eq(row.level).fillna(False)
        chosen = (inside & (wrong["kind"] == row.kind)).to_numpy(bool) & ~taken
        of_case[chosen] = names[-1]
        taken |= chosen
    return of_case, names + [f"{kind}{how}" for kind in KINDS.values() for how in ("s, confident", "s near the threshold")]


def _mode_table(errors: Errors, of_case: pd.Series, order: list[str]) -> pd.DataFrame:
    patients, rows = errors.images["patient"], []
    for mode in order:
        members = of_case.index[of_case == mode]
        if len(members):
            inside = pd.Series(errors.images.index.isin(members), errors.images.index)
            row = {"mode": mode, "images": len(members), "patients": patients[members].nunique()}
            row["share"] = patient_bootstrap((of_case == mode).astype(float), patients[of_case.index], share=True)
            row["of_tested"] = patient_bootstrap(inside.astype(float), patients, share=True)
            rows.append(row | _most_in(errors, inside) | _dice_lost(errors, inside))
    columns = ["mode", "images", "patients", "share", "of_tested", "most_in", "observed", "expected"]
    table = pd.DataFrame(rows, columns=columns + ["dice_lost"] * (errors.task == "segmentation"))
    return table.sort_values("images", ascending=False, kind="stable").reset_index(drop=True)


def _most_in(errors: Errors, inside: pd.Series) -> dict:
    """Where a mode (bool by case) exceeds an even spread over the images that could have it."""
    best = {"most_in": "", "observed": np.nan, "expected": np.nan}
    possible = errors.images.index
    if errors.task == "classification":
        possible = possible[errors.images["label"].isin(errors.images.loc[inside, "label"])]
    largest = 1e-9
    for factor in errors.groups:
        levels = errors.groups.loc[possible, factor].dropna()
        for level, members in levels.groupby(levels, observed=True):
            observed = int(inside[members.index].sum())
            expected = inside[levels.index].sum() * len(members) / len(levels)
            enough = errors.images.loc[members.index, "patient"].nunique() >= FEWEST_PATIENTS
            if enough and observed - expected > largest:
                largest = observed - expected + 1e-9
                text = f"{factor}: {level} ({observed} images, {expected:.1f} expected)"
                best = {"most_in": text, "observed": observed, "expected": expected}
    return best


def _dice_lost(errors: Errors, inside: pd.Series) -> dict:
    if errors.task != "segmentation":
        return {}
    loss = 1 - errors.images["dice"]
    return {"dice_lost": float(loss[inside].sum() / loss.sum())}


def _sentence(errors: Errors, table: pd.DataFrame) -> str:
    if table.empty:
        return errors.sentence
    top, total, parts = table.head(3), int(table["images"].sum()), []
    for row in top.itertuples():
        low, high = row.share.low, row.share.high
        interval = "" if np.isnan(low) else f" [{100 * low:.0f}, {100 * high:.0f}]"
        parts.append(f"{row.mode} ({row.images} of {total} errors, {100 * row.share.value:.0f} %{interval})")
    together = f"; together {100 * top['images'].sum() / total:.0f} % of the errors" if len(top) > 1 else ""
    named = f"The {['two', 'three'][len(top) - 2]} largest failure modes are" if len(top) > 1 else "The one failure mode is"
    return f"{errors.sentence} {named} {', '.join(parts)}{together}."
