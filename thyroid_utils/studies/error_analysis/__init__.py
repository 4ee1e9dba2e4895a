"""Every error of a model as a row with what a card of it needs, what kinds of errors there are, and where masks go wrong.

A classifier errs where its call at the threshold chosen on validation is not the label. A segmenter errs where its mask's Dice
at the image's own resolution is below what was asked for, or where it calls nodule in an image that has none. Every wrong pixel
of a mask belongs to one part of `LOST_PARTS`; a nodule counts as found and a called region as false by the rule of
`scores.masks.lesion_scores`: an 8-connected part of which at least a tenth lies on the other mask is found, or not false.

Who is served worse is asked in `subgroups`, what could have been foreseen and what breaks a network in `trust`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, listed, literal, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.scores.checks import checked_masks
from thyroid_utils.scores.estimates import Estimate, patient_estimate, proportion_interval
from thyroid_utils.scores.masks import OVERLAP, binarise, surface_scores
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis.subgroups import of_each_class, subgroup_table
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import counted_patients
from thyroid_utils.training.ledger import Run

KINDS = {1: "false positive", 0: "false negative"}  # of a wrong call
_NEAR = 0.25  # confidence below which a wrong call counts as near the threshold
_ALPHA = 0.025  # false positives and false negatives are two families of tests, each at half of 0.05
# Name in code → name in a table.
LOST_PARTS = {
    "boundary": "boundary ring",
    "core": "core of a found nodule, missed",
    "spill": "spilt beyond the ring",
    "missed": "missed nodules",
    "extra": "extra regions",
}
# What goes wrong in an image: name in code → name in a table.
MODES = {
    "missed": "nodule missed",
    "wrong place": "wrong place",
    "extra": "extra regions",
    "core": "under-segmented",
    "spill": "over-segmented",
    "boundary": "boundary only",
}
_RING_SHARE = 0.1  # of the diameter of a disc of the nodules' area: shrinking a disc by so much leaves a Dice of 0.78
_SMALLEST_RING = 2.0
_WHISKER = 1.5  # interquartile ranges above the third quartile, as a box plot's
_SIDE = 64  # cells of a nodule's frame
_BY_RULE = {"missed": MODES["missed"], "false alarm": "false alarm"}


@dataclass(frozen=True)
class Errors:
    """What a model got wrong, and what it got right.

    Attributes:
        model: its name. task: "classification" or "segmentation".
        images: every tested image, index `case`: `patient`, `label`, `truth` ("benign", "malignant" or "unlabelled"), `wrong`
            (bool), `confidence` (0 to 1), `uncertainty` (NaN where none was given), then

            - of a classifier `prediction` (name of the class called), `probability` of malignancy, `log_odds`, `threshold`,
              `kind` (of `KINDS`; "" where right), and `runs_wrong` of `runs`, how many trainings of the model err on it;
            - of a segmenter (its confidence is the mean probability of the called pixels; where none is called, 1 − the highest
              probability: both in [0.5, 1]) `dice`, `iou`, `hd95` (pixels), `presence`, and the columns of `where_lost`;

            and a column a factor where groups were given.
        groups: index `case`, as given (`subgroups.subgroup_columns`); without columns where none were.
        run: whose errors they are; None for decisions that were made otherwise.
    """

    model: str
    task: str
    images: pd.DataFrame
    groups: pd.DataFrame
    run: Run | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The errors: of a classifier those of both classes in turn, the truth least probable first (`of_each_class`); of a
        segmenter the most confident first. No row where there is none."""
        wrong = self.images[self.images["wrong"]]
        if self.task == "classification":
            return of_each_class(wrong, len(wrong))
        return wrong.sort_values("confidence", ascending=False, kind="stable")

    def shown(self, most: int) -> pd.DataFrame:
        """So many of the errors, in the table's order; without any the images that were right by the smallest margin."""
        if self.images["wrong"].any():
            return self.table.head(most)
        return of_each_class(self.images, most) if self.task == "classification" else self.images.nsmallest(most, "confidence")

    @property
    def rate(self) -> Estimate:
        """Share of images that are wrong, with its interval over patients."""
        return patient_estimate(self.images["wrong"].astype(float), self.images["patient"], share=True)

    @property
    def sentence(self) -> str:
        """How many images are wrong, as text."""
        rate, wrong = self.rate, int(self.images["wrong"].sum())
        tested = f"{count(rate.images, 'image')} of {count(rate.patients, 'patient')}"
        tested = counted_patients(self.run, rate.images, rate.patients) if self.run else tested
        if not wrong:
            high = proportion_interval(0, rate.patients)[1]
            return f"{self.model} makes no error on {tested} (share of patients with one: 95 % interval 0 to {share(high)})."
        interval = "" if np.isnan(rate.low) else f", 95 % interval over patients {share(rate.low)} to {share(rate.high)}"
        told = "" if self.task == "segmentation" else f": {listed(self._of_class(label) for label in (0, 1))}"
        return f"{self.model} is wrong on {wrong} of {tested} ({share(rate.value)}{interval}){told}."

    def _of_class(self, label: int) -> str:
        members, name = self.images[self.images["label"] == label], f"{LABEL_NAMES[label]} image"
        wrong = count(members["wrong"].sum(), KINDS[1 - label])
        return f"{wrong} of {count(len(members), name)}" if len(members) else f"no {name} was tested"


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
    runs = list(zip(comparison.predictions(model), comparison.thresholds[model], strict=True))
    runs = runs if comparison.one_split else runs[:1]
    wrong = sum(((found["probability"] >= threshold) != found["label"].astype(bool)).astype(int) for found, threshold in runs)
    found = decision_errors(images.assign(runs_wrong=wrong, runs=len(runs)), model, groups, uncertainty)
    return replace(found, run=comparison.first)


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
        _, mask, probabilities = comparison.picture(model, case)
        called = binarise(probabilities)
        confidence = float(probabilities[called].mean()) if called.any() else 1 - float(probabilities.max())
        rows.append({"confidence": confidence, **where_lost(mask, called)})
        bar(done, len(names))
    images = pd.DataFrame(rows, pd.Index(names, name="case")).join(scores).join(comparison.truth[["patient", "label"]])
    truth = images["label"].map(LABEL_NAMES).astype("string").fillna(LABEL_NAMES[None])
    found = _errors(model, "segmentation", images.assign(truth=truth, wrong=images["dice"] < enough), groups, uncertainty)
    return replace(found, run=comparison.first)


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
            - `dice_lost`, of a segmenter: the share of all Dice lost, over all images, that is lost in the mode's errors.
        sentence: the three largest as text; without any, that there is no error.
    """

    table: pd.DataFrame
    sentence: str


def failure_modes(errors: Errors) -> FailureModes:
    """Sort every error into one mode and count.

    A segmenter's modes are those of `MODES`. A classifier's are found in the data: false positives (among benign
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
    table, parts = _mode_table(errors, of_case.astype("string"), order), []
    for row in table.head(3).itertuples():
        interval = "" if np.isnan(row.share.low) else f" [{share(row.share.low)}, {share(row.share.high)}]"
        parts.append(f"{literal(row.mode)} ({row.images} of {count(len(wrong), 'error')}, {share(row.share.value)}{interval})")
    told = f"Largest failure modes of {errors.model}: {'; '.join(parts)}."
    return FailureModes(table, told if parts else f"{errors.model} makes no error, so that it has no failure mode.")


def _modes_of_calls(errors: Errors, wrong: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """The mode of each error, and all modes in their order."""
    of_case = wrong["kind"] + np.where(wrong["confidence"] < _NEAR, "s near the threshold", "s, confident")
    found = []
    for label in (0, 1):
        members = errors.images[errors.images["label"] == label]
        if members["wrong"].any():
            table = subgroup_table(members["wrong"], errors.groups.loc[members.index], members["patient"], alpha=_ALPHA)
            table = table[table["differs"] & (table["difference"] > 0)]
            found.append(table.assign(kind=KINDS[1 - label], excess=table["difference"] * table["images"]))
    names, free = [], pd.Series(True, wrong.index)
    for row in pd.concat(found).sort_values("excess", ascending=False, kind="stable").itertuples() if found else ():
        names.append(f"{row.kind}s, {row.factor}: {row.level}")
        inside = errors.groups.loc[wrong.index, row.factor].astype("string").eq(row.level).fillna(False)
        chosen = inside.to_numpy(bool) & (wrong["kind"] == row.kind) & free
        of_case[chosen] = names[-1]
        free &= ~chosen
    return of_case, names + [f"{kind}{how}" for kind in KINDS.values() for how in ("s, confident", "s near the threshold")]


def _mode_table(errors: Errors, of_case: pd.Series, order: list[str]) -> pd.DataFrame:
    patients, rows = errors.images["patient"], []
    for mode in order:
        members = of_case.index[of_case == mode]
        if len(members):
            inside = pd.Series(errors.images.index.isin(members), errors.images.index)
            row = {"mode": mode, "images": len(members), "patients": patients[members].nunique()}
            row["share"] = patient_estimate((of_case == mode).astype(float), patients[of_case.index], share=True)
            row["of_tested"] = patient_estimate(inside.astype(float), patients, share=True)
            if errors.task == "segmentation":
                loss = 1 - errors.images["dice"]
                row["dice_lost"] = float(loss[inside].sum() / loss.sum())
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["mode", "images", "share"])
    return table.sort_values("images", ascending=False, kind="stable").reset_index(drop=True)


def where_lost(truth: np.ndarray, found: np.ndarray) -> dict[str, float | str]:
    """How the wrong pixels of one image are shared out, and the one mode that they amount to.

    Args:
        truth, found: bool (height, width).

    Returns:
        `wrong_pixels`, those in one mask alone, and name of `LOST_PARTS` → its share of them, in [0, 1], summing to 1; NaN where
        no pixel is wrong.

        - missed: of nodules that are not found; extra: of called regions that are false, wherever they lie;
        - boundary: of the rest those within a ring of the outline of a found nodule, to either side: as wide as a tenth of the
          diameter of a disc of the area of the truth, and at least 2 pixels;
        - core: missed further inside a found nodule; spill: called further outside.

        `mode`, of `MODES`; "" where no pixel is wrong:

        - "missed": no nodule is found and nothing else is called, or missed nodules hold most of the wrong pixels;
        - "wrong place": no nodule is found, and a region elsewhere is called;
        - else the part with the most wrong pixels, the first of `MODES` where parts are equal.

    Raises:
        ValueError: masks of different shapes or of more than two levels.
    """
    truth, found = checked_masks(truth, found, "where_lost")
    wrong = truth ^ found
    total = int(wrong.sum())
    missed, extra = _unmatched(truth, found), _unmatched(found, truth)
    rest = wrong & ~missed & ~extra
    near = _within(truth & ~missed, max(_SMALLEST_RING, _RING_SHARE * np.sqrt(4 * truth.sum() / np.pi)))
    parts = {
        "boundary": rest & near,
        "core": rest & truth & ~near,
        "spill": rest & ~truth & ~near,
        # Pixels of a missed nodule that were called all the same are not wrong.
        "missed": wrong & missed,
        "extra": wrong & extra,
    }
    shares = {name: int(part.sum()) / total if total else np.nan for name, part in parts.items()}
    mode = max((name for name in MODES if name in LOST_PARTS), key=shares.get) if total else ""
    if total and truth.any() and not (truth & ~missed).any():
        mode = "wrong place" if extra.any() else "missed"
    return {"wrong_pixels": total, **shares, "mode": mode}


def _unmatched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pixels of the mask's 8-connected parts of which less than a tenth lies on the other mask, bool."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)
    shared = np.bincount(labels[mask & other], minlength=count)
    alone = shared < OVERLAP * areas - 1e-9
    alone[0] = False
    return alone[labels]


def _within(mask: np.ndarray, distance: float) -> np.ndarray:
    """Pixels at most `distance` from the mask's outline, to either side, bool; a pixel beside the outline is at distance 1."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, bool)
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (mask, ~mask))
    return np.where(mask, inside, outside) <= distance + 1e-4  # single precision


def lost_dice(table: pd.DataFrame) -> pd.DataFrame:
    """How many points of Dice each part of `LOST_PARTS` costs: the mean over images of (1 − Dice) · its share of wrong pixels.

    1 − Dice = (FP + FN) / (2TP + FP + FN) grows with the wrong pixels, so that an image's loss is shared out as they are.

    Args:
        table: a row an image: `patient`, `dice` and the columns of `where_lost`; images without Dice are left out.

    Returns:
        index part (labels of `LOST_PARTS`, then "all"): `lost`, an `Estimate` over patients, in [0, 1], the parts summing to 1 −
        mean Dice.
    """
    known = table[table["dice"].notna()]
    loss = 1 - known["dice"]
    parts = {label: loss * known[name].fillna(0) for name, label in LOST_PARTS.items()} | {"all": loss}
    rows = {label: {"lost": patient_estimate(part, known["patient"], share=True)} for label, part in parts.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


class FrameErrors(NamedTuple):
    """maps: float (2, 64, 64), missed and falsely called; NaN in a cell that no image reaches. images: how many they rest on;
    those without a nodule have no such frame."""

    maps: np.ndarray
    images: int


def nodule_frame_errors(truths: Iterable[np.ndarray], founds: Iterable[np.ndarray]) -> FrameErrors:
    """Where in and around a nodule pixels are missed and falsely called, on average, in a frame that every nodule fills alike.

    The frame is centred on the bounding box of the image's largest nodule and twice as wide and as high; the box is its inner
    half. Each axis is scaled on its own, and a cell takes the pixel at its centre. Cells beyond the image count for nothing.

    Args:
        truths, founds: bool (height, width) each, a pair an image, of any sizes; may be generators, one pair is held at a time.

    Returns:
        FrameErrors: share of the images that reach a cell whose pixel there is missed, and falsely called.
    """
    sums, reached, images = np.zeros((2, _SIDE, _SIDE)), np.zeros((2, _SIDE, _SIDE)), 0
    for truth, found in zip(truths, founds, strict=True):
        if not truth.any():
            continue
        _, _, parts, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
        left, top, width, height, _ = parts[1 + parts[1:, cv2.CC_STAT_AREA].argmax()].tolist()
        wrong = np.stack([truth & ~found, found & ~truth]).astype(float)  # (2, height, width)
        wrong = np.pad(wrong, ((0, 0), (height, height), (width, width)), constant_values=np.nan)
        cells = wrong[:, _cells(top, height) + height][:, :, _cells(left, width) + width]
        sums += np.nan_to_num(cells)
        reached += ~np.isnan(cells)
        images += 1
    with np.errstate(invalid="ignore"):
        return FrameErrors(sums / reached, images)


def _cells(first: int, length: int) -> np.ndarray:
    """The pixel under the centre of each cell of an axis that is twice as long as the box and centred on it; may lie outside."""
    centres = first - length / 2 + (np.arange(_SIDE) + 0.5) * 2 * length / _SIDE
    return np.floor(centres).astype(int)


def hd95_outliers(comparison: SegmenterComparison, model: str) -> pd.DataFrame:
    """The test images of a model's first run whose outline is far off somewhere at their own resolution, and why.

    Outliers lie above the third quartile by more than 1.5 interquartile ranges, both of the images that have a nodule in truth
    and prediction.

    Returns:
        index `case`, the largest first: `dice`, `hd95` and `limit` (pixels; the limit NaN where no image has both),
        `without_extra`, HD95 with false regions taken away, and `cause`: "extra regions" where that falls to the limit, else
        "outline"; or "nodule missed" and "false alarm", whose HD95 is the image's diagonal by rule.
    """
    scores = comparison.tables[model][0].query("resolution == 'own'")
    both = scores["presence"] == "both"
    low, high = scores.loc[both, "hd95"].quantile([0.25, 0.75])
    limit = high + _WHISKER * (high - low)
    table = scores[scores["presence"].isin(list(_BY_RULE)) | (both & (scores["hd95"] > limit))]
    rows = []
    for case, presence in table["presence"].items():
        without, cause = np.nan, _BY_RULE.get(presence)
        if cause is None:
            _, truth, probabilities = comparison.picture(model, case)
            found = binarise(probabilities)
            kept = found & ~_unmatched(found, truth)
            without = surface_scores(truth, kept)["hd95"] if kept.any() else np.nan
            cause = "extra regions" if without <= limit else "outline"
        rows.append((without, cause))
    table = table[["dice", "hd95"]].assign(limit=limit)
    table[["without_extra", "cause"]] = pd.DataFrame(rows, table.index, columns=["without_extra", "cause"])
    return table.sort_values("hd95", ascending=False, kind="stable").rename_axis("case")
