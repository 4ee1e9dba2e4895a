"""Notebook 09: how many points a bad split is worth, and how far a network gets on one's own data that only remembers patients.

A rung is a leak (`training.leaks`): the images that are scored, the number of training images, the recipe, seeds and folds are
those of the honest run. The leaks go from rung to rung, not their sum.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.config import LEAKS, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import in_threads
from thyroid_utils.common.words import count, number, p_number, share
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import kfold_splits
from thyroid_utils.scores.estimates import Estimate, patient_estimate, patient_scores
from thyroid_utils.scores.labels import SCORES
from thyroid_utils.scores.masks import SEGMENTATION_SCORES
from thyroid_utils.studies.classifier_comparison import MAIN_SCORES, ClassifierComparison
from thyroid_utils.studies.compare import comparison_configs
from thyroid_utils.studies.papers import PAPERS, reported_scores
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.data import input_pipeline, split_data
from thyroid_utils.training.leaks import of_videos
from thyroid_utils.training.ledger import Run
from thyroid_utils.training.tasks import SCORE_NAMES, TASKS

NEIGHBOUR_SIDE = 32  # pixels that images are compared at
NEIGHBOURS = {"same patient": "neighbour of the same patient or video", "accuracy": "accuracy", "auc": "AUC", "dice": "Dice"}


@dataclass(frozen=True)
class Plan:
    """A task's ladder before it is climbed.

    configs: of all its runs, the honest ones first; none where no leak can be shown. left_out: what
    cannot be shown here → why. tables: rung → its split case table (of the first fold). room: rung → training images that leaks
    replace, of how many, as text. met: rung by image → test patients that training has met; shares that meet as many are one.
    """

    configs: list[RunConfig]
    left_out: dict[str, str]
    tables: dict[str, pd.DataFrame]
    room: dict[str, str]
    met: dict[str, int]


def ladder_plan(
    common: Mapping[str, Any],
    model: str,
    seeds: Sequence[int],
    leaks: Sequence[str],
    shares: Sequence[float] = (),
    *,
    weights: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """The runs of a ladder: the honest ones, each leak that these data can show, and the leak by image in smaller shares.

    Args:
        common: the fields of `RunConfig` that all share (`shared_settings`).
        model: its network; "" plans nothing.
        leaks: of `LEAKS`; "image" stands for "frames" where patients are videos.
        shares: of the test patients that training has met, between 0 and 1.

    Raises:
        DataError: data that cannot be read or split; or a rung that would score other images than the honest run.
    """
    unfit = _unfit(common) if model else "no network was asked for"
    if unfit:
        return Plan([], {"every rung": unfit}, {}, {}, {})
    named = {"options": {model: dict(options)}} if options else {}

    def configs_of(kind: str, share: float = 1.0) -> list[RunConfig]:
        split = {**common["split"], "leak": {"kind": kind, "share": float(share)}}
        return comparison_configs([model], seeds, {**common, "split": split}, weights=weights, **named)

    plan = Plan(configs_of("none"), {}, {}, {}, {})
    honest = _tables(plan.configs)
    plan.tables[LEAKS["none"]] = honest[0]
    frames, fits = of_videos(_whole(plan)), input_pipeline(plan.configs[0]).needs_fit
    image, other = ("frames", "image") if frames else ("image", "frames")
    plan.left_out[LEAKS[other]] = "the images of a patient here are frames of a video" if frames else "no videos here"
    asked = [image if kind in ("image", "frames") else kind for kind in leaks if kind != "none"]
    for kind, part in [*((kind, 1.0) for kind in dict.fromkeys(asked)), *((image, part) for part in shares if image in asked)]:
        configs = configs_of(kind, part)
        label = configs[0].split.label
        if kind == "preprocessing" and not fits:
            plan.left_out[label] = "PREPROCESSING takes no number from the training images"
            continue
        try:
            tables = _tables(configs)
        except DataError as error:
            plan.left_out[label] = str(error).removeprefix("split.leak: ")
            continue
        if kind == image:
            met = sum(len(set(one["patient"][_side(one, "train")]) & set(one["patient"][_side(one, "test")])) for one in tables)
            if met in plan.met.values():
                continue
            plan.met[label] = met
        scored, own = (pd.concat(found).query("split == 'test'").index.sort_values() for found in (tables, honest))
        if not scored.equals(own):
            kept = f"{len(scored.intersection(own))} of the {count(len(own), 'image')} that the honest run is scored on"
            raise DataError(f"ladder: {label} would be scored on {kept}; what leaks must not leave the test set")
        new = sum(len(_side(found, "train").difference(_side(own, "train"))) for own, found in zip(honest, tables, strict=True))
        plan.room[label] = f"{new} of {sum(len(_side(own, 'train')) for own in honest)}"
        plan.tables[label] = tables[0]
        plan.configs.extend(configs)
    return plan if plan.room else replace(plan, configs=[])


def _loaded(common: Mapping[str, Any]) -> pd.DataFrame:
    data = RunConfig(data=common["data"]).data
    return load_cases(data.dataset, data.root, **data.options)


def _unfit(common: Mapping[str, Any]) -> str:
    """Why nothing can be learnt from the data for a task; "" where something can."""
    table = _loaded(common)
    try:
        TASKS[common["task"]].cases(table, common["data"]["dataset"])
    except DataError as error:
        return str(error)
    return ""


def left_out(plans: Mapping[str, Plan]) -> pd.DataFrame:
    """What the plans of tasks cannot show, and why: `task`, `what training would have seen`, `why not`."""
    rows = [(task, what, why) for task, plan in plans.items() for what, why in plan.left_out.items()]
    return pd.DataFrame(rows, columns=["task", "what training would have seen", "why not"])


def _whole(plan: Plan) -> pd.DataFrame:
    """The case table with the pools."""
    split = plan.configs[0].split.model_copy(update={"leak": None})
    return split_data(plan.configs[0].model_copy(update={"split": split})).cases


def _tables(configs: Sequence[RunConfig]) -> list[pd.DataFrame]:
    """The split case tables of the folds of the first seed."""
    return [split_data(config).cases for config in configs[: configs[0].split.folds or 1]]


def _side(table: pd.DataFrame, side: str) -> pd.Index:
    return table.index[table["split"] == side]


class _Ladder:
    """Runs that differ in their leaks, the honest ones first.

    A network that recalls patients and knows nothing of new ones is what is looked for: no verdict is withheld because validation
    shows nothing."""

    untrained: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """Of the score: AUC or Dice."""
        return SCORE_NAMES[self.score]

    @property
    def rungs(self) -> list[str]:
        """The leaks at their full share, in the order of the runs."""
        return [model for model, found in self.runs.items() if model != self.models[0] and found[0].config.split.leak.share == 1]

    @cached_property
    def worth(self) -> pd.DataFrame:
        """Each rung against the honest run, as `ComparedRuns.paired`."""
        return self.paired(self.compared(self.score), [(rung, self.models[0]) for rung in self.rungs])

    def doses(self, plan: Plan) -> pd.Series:
        """Share of the test patients of a plan that training has met, of those it can meet → `Comparison` with the honest run;
        empty without smaller shares."""
        compare, most = self.compared(self.score), max(plan.met.values(), default=0)
        found = {met / most: compare(rung, self.models[0]) for rung, met in plan.met.items()}
        return pd.Series(found if len(found) > 1 else {}, dtype=object).sort_index()

    @property
    def highest(self) -> str:
        """The rung that is worth most."""
        return max(self.worth.itertuples(), key=lambda row: row.difference.difference).first

    def table(self, plan: Plan) -> pd.DataFrame:
        """A row a rung: the training images that the leak of a plan replaces, the score, points against the honest run with 95 %
        interval, and p after Holm."""
        table = pd.DataFrame({"replaced": plan.room}, [self.models[0], *self.rungs]).rename_axis("training saw")
        table["on test"] = self.estimates([self.score])[self.score].map(Estimate.text)
        worth = self.worth.set_index("first")
        table["points [95 %]"] = worth["difference"].map(lambda found: told_difference(found, 1, 100))
        table["p (Holm)"] = worth["p_holm"].map(p_number)
        return table.fillna("")

    def followed(self, case: str, rungs: Iterable[str]) -> pd.DataFrame:
        """What each training says of a scored image (`case_answers`), a row a rung."""
        found = {rung: self.case_answers(rung)[:, self.truth.index.get_loc(case)] for rung in rungs}
        table = pd.DataFrame.from_dict(found, orient="index").rename_axis("training saw")
        return table.rename(columns=lambda at: f"training {at + 1}")

    def told(self) -> str:
        """What the highest rung is worth and how many are more than chance, as sentences."""
        row = self.worth.set_index("first").loc[self.highest, "difference"]
        points, ends = told_difference(row, 1, 100), (number(row.second), number(row.first))
        most = f"{self.name} is {ends[0]} by patient and {ends[1]} with the leak *{self.highest}*: {points} points ({self.over})"
        one = self.trainings == 1 and not self.folds  # of which `over` says that there is no verdict
        return f"{most}." if one else f"{most}. {self.verdicts(self.worth, self.name)}"


class ClassifierLadder(_Ladder, ClassifierComparison):
    """Classifiers by leak."""

    reported: ClassVar[tuple[str, ...]] = MAIN_SCORES
    names: ClassVar[Mapping[str, str]] = SCORES

    def case_answers(self, rung: str) -> np.ndarray:
        """Of each scored image the probability of its own class, (seeds, n)."""
        return np.abs(1 - self.truth["label"].to_numpy(int) - self.probabilities(rung))


class SegmenterLadder(_Ladder, SegmenterComparison):
    """Segmenters by leak."""

    names: ClassVar[Mapping[str, str]] = SEGMENTATION_SCORES
    reported: ClassVar[tuple[str, ...]] = ("dice", "iou", "precision", "sensitivity", "specificity", "pixel_accuracy")

    def case_answers(self, rung: str) -> np.ndarray:
        """Of each scored image Dice, (seeds, n)."""
        return self.values(rung, ["dice"])[..., 0]


Ladder = ClassifierLadder | SegmenterLadder


def ladders_of(found: Sequence[Sequence[Run]], root: str | None = None) -> list[Ladder]:
    """The finished runs of plans by rung, without those of empty plans. root: the data's folder, as it is now.

    Raises:
        DataError: all plans were empty.
    """
    ladders = []
    for runs in filter(None, found):
        segments = runs[0].config.task == "segmentation"
        ladders.append(SegmenterLadder.of(runs, "split", root=root) if segments else ClassifierLadder.of(runs, "split"))
    if not ladders:
        raise DataError("ladder: no leak can be shown on these data, for the reasons that the plans have in `left_out`")
    return ladders


def met_case(ladder: Ladder, plan: Plan) -> tuple[str, dict[str, tuple[pd.Series, float]]]:
    """Of the scored images that the first rung to meet any has met, the one whose answer it changes most for the better.

    Returns:
        its case, and rung → the row of an image that training has seen instead (its own row for the honest run) and the answer
        (`case_answers`, mean over seeds); only rungs that met it.
    """
    honest, seen = ladder.models[0], {}
    answers = pd.DataFrame({rung: ladder.case_answers(rung).mean(axis=0) for rung in ladder.models}, ladder.truth.index)
    own = plan.tables[honest].query("split == 'test'")
    for rung in ladder.rungs:
        train = plan.tables[rung].query("split == 'train'")
        met = {case: nearest_met(train, row) for case, row in own.iterrows()}
        seen[rung] = {case: row for case, row in met.items() if row is not None}
    first = next((rung for rung, met in seen.items() if met), honest)
    case = (answers[first] - answers[honest]).loc[list(seen.get(first, own.index))].idxmax()
    shown = {honest: (own.loc[case], float(answers.at[case, honest]))}
    return case, shown | {rung: (met[case], float(answers.at[case, rung])) for rung, met in seen.items() if case in met}


def nearest_met(train: pd.DataFrame, scored: pd.Series) -> pd.Series | None:
    """What training has met of a scored image (a row of a case table): its copy, or of its patient the frame with the nearest
    number, or the first image; None where it has met neither."""
    met = train[train.index == f"{scored.name}+1"]
    met = train[train["patient"] == scored["patient"]] if met.empty else met
    if met.empty:
        return None
    frames = pd.to_numeric(pd.Series([scored.get("frame"), *met.get("frame", [])]), errors="coerce").fillna(0)
    return met.iloc[int((frames[1:] - frames[0]).abs().argmin())] if "frame" in met else met.iloc[0]


def papers_within(ladders: Sequence[Ladder]) -> pd.DataFrame:
    """The papers' figures beside what leaks do here to the same score.

    Returns:
        a row a paper and score that is measured here, of ladders with a leak that is shown to be worth something: `paper`,
        `score`, `figures` (how many), `reported` (from the lowest to the highest), `honest` and the `leakiest` of these leaks
        (`Estimate`s), and how many of the figures are `no higher` than the honest interval, `within` what leaks reach (up to the
        upper limit of the leakiest), or `beyond` it.
    """
    rows = []
    for found in ladders:
        task = found.tasks[0]
        shown = [row.first for row in found.worth.itertuples() if row.differs and row.difference.difference > 0]
        estimates = found.estimates(list(found.reported)).loc[[found.models[0], *shown]]
        told = reported_scores(task)
        for (paper, score), own in told[told["paper"].str.isdecimal()].groupby(["paper", "score"], sort=False):
            if not shown or score not in estimates or np.isnan([one.high for one in estimates[score]]).any():
                continue
            honest, values = estimates[score].iloc[0], own["value"]
            leakiest = max(estimates[score].iloc[1:], key=lambda one: one.high)
            low, high = honest.high, leakiest.high
            kinds = {"no higher": values <= low, "within": (values > low) & (values <= high), "beyond": values > max(low, high)}
            span = " to ".join(dict.fromkeys(number(end, 3) for end in (values.min(), values.max())))
            row = {"paper": PAPERS[paper].name, "score": found.names[score], "figures": len(own), "reported": span}
            counts = {kind: int(is_so.sum()) for kind, is_so in kinds.items()}
            rows.append({**row, "honest": honest, "leakiest": leakiest, **counts})
    return pd.DataFrame(rows)


def papers_told(table: pd.DataFrame) -> str:
    """What `papers_within` counts, as sentences."""
    if table.empty:
        return "No leak is shown to be worth anything here, so that nothing is said of the papers' figures."
    within, beyond, lower, figures = table[["within", "beyond", "no higher", "figures"]].sum()
    return (
        f"Of the papers' figures of these scores **{within} of {figures}** lie in the range that leakage alone produces here, "
        f"{lower} no higher than the honest interval reaches, {beyond} above what any leak does. That is what leakage can do "
        "here, no proof of what happened there."
    )


def nearest_neighbours(common: Mapping[str, Any], plan: Plan, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """What a network reaches that only remembers: each test image gets the label and the outline of the training image whose
    pixels are nearest (32 × 32, Euclidean). Nothing is trained.

    Args:
        common, plan: of a ladder; its images are asked about.
        folds: each image is tested once; fewer where there are fewer patients.

    Returns:
        index how they are split, "by patient", "by image" and, where the set came with one, "as it came"; columns of
        `NEIGHBOURS`, `Estimate`s over patients.

    Raises:
        DataError: fewer than two patients.
    """
    cases = _whole(plan)
    folds = min(folds, cases["patient"].nunique())
    ways = {f"by {by}": kfold_splits(cases, folds, by, seed, require_classes=False) for by in ("patient", "image")}
    came = _loaded(common)["split"].reindex(cases.index)
    if came.isin(["train"]).any() and came.isin(["test"]).any():
        ways["as it came"] = [cases.assign(split=came)[came.notna()]]
    pixels = np.stack(in_threads(lambda path: _small(read_gray(path)), cases["image"].tolist())).astype(np.float32)
    rows = {way: _remembered(cases, pixels, tables) for way, tables in ways.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def memory_told(memory: pd.DataFrame) -> str:
    """What `nearest_neighbours` finds by patient, by image and, where the set came with a split, by that, as sentences."""
    told = []
    for way, row in memory.iterrows():
        reached = [f"{NEIGHBOURS[name]} {row[name].text()}" for name in ("auc", "dice") if isinstance(row.get(name), Estimate)]
        met = f"the same patient or video in {share(row['same patient'].value)} of the images"
        told.append(
            f"Split {way}, the nearest picture in training shows {met}, and its answer has {' and '.join(reached) or 'no score'}."
        )
    return " ".join(told)


def _small(gray: np.ndarray) -> np.ndarray:
    return cv2.resize(gray, (NEIGHBOUR_SIDE, NEIGHBOUR_SIDE), interpolation=cv2.INTER_AREA).ravel()


def _remembered(cases: pd.DataFrame, pixels: np.ndarray, tables: Sequence[pd.DataFrame]) -> dict[str, Estimate]:
    """A row of `nearest_neighbours`; pixels: float32 (n, pixels), in the order of the cases."""
    from sklearn.neighbors import NearestNeighbors  # a second, which who only reads runs need not wait

    pairs = []
    for table in tables:
        train, test = (cases.index.get_indexer(table.index[table["split"].eq("test").eq(is_test)]) for is_test in (False, True))
        near = NearestNeighbors(n_neighbors=1).fit(pixels[train]).kneighbors(pixels[test], return_distance=False)[:, 0]
        pairs.append(np.stack([test, train[near]]))
    own, other = (cases.iloc[side] for side in np.concatenate(pairs, axis=1))
    patients = own["patient"].to_numpy()
    found = {"same patient": patient_estimate(patients == other["patient"].to_numpy(), patients, share=True)}
    if own["label"].notna().all() and own["label"].nunique() > 1:
        answers = other["label"].to_numpy(float)
        found |= patient_scores(own["label"], answers, patients, ["accuracy", "auc"])
    if own["mask"].notna().all():
        found["dice"] = patient_estimate(_dice(own["mask"], other["mask"]), patients, share=True)
    return found


def _dice(truths: pd.Series, answers: pd.Series, side: int = 2 * NEIGHBOUR_SIDE) -> list[float]:
    """Dice of masks with those of their neighbours, both brought to one size, the frames' own; NaN of an empty truth."""

    def dice(pair: tuple[str, str]) -> float:
        size = {"dsize": (side, side), "interpolation": cv2.INTER_AREA}
        truth, answer = (cv2.resize(read_mask(path).astype(np.float32), **size) >= 0.5 for path in pair)
        return 2 * float((truth & answer).sum()) / (truth.sum() + answer.sum()) if truth.any() else np.nan

    return in_threads(dice, list(zip(truths, answers, strict=True)))
