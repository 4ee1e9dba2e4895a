"""Answers that were made elsewhere beside finished runs: the same test images, scores, intervals and pictures.

`PREDICTIONS` of a notebook names each source: `{"nnU-Net": FOLDER, "reader 2": FILE.csv}`. A folder holds a PNG mask a case,
named by the case; a CSV file has the columns `case` and `probability` (of malignant, in [0, 1]). A case goes by its id or by the
name of its image's file, with or without the ending. `{"path": FOLDER, "trained_on": FILE.csv}` says what a source was trained
on, a column `case`; images of these patients are no test of it and are left out.

Each source is one fixed set of answers. Nothing tells how another set of the same making would differ, so that a test holds ours
fixed too, the mean of all trainings of the chosen network, and is over patients alone: its verdict is of these answers, not of
recipes. It is over the images that both answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.words import count, listed
from thyroid_utils.data.images import read_image, read_mask, resize_mask
from thyroid_utils.data.readers.listing import first_few, read_table
from thyroid_utils.inference.predictor import predictor_of, spacings
from thyroid_utils.scores.checks import need_both_classes
from thyroid_utils.scores.comparisons import compare_answers, compare_means, holm
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.scores.masks import binarise, segmentation_table
from thyroid_utils.scores.recipes import auc_influence, mean_influence
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import told_difference


@dataclass(frozen=True)
class Answers:
    """What one source says of the tested cases.

    source: how it is called. given: case → mask file, or probability of malignant in [0, 1], of the cases that are scored.
    missing: tested cases that it does not answer. trained_on: tested cases that it answers and that are left out, as it was
    trained on images of their patients. others: how many of its answers are of no tested case. learnt: names in `trained_on`, and
    how many of them are of images here.
    """

    source: str
    given: pd.Series
    missing: list[str]
    trained_on: list[str]
    others: int
    learnt: tuple[int, int] = (0, 0)

    def mask(self, case: str, shape: tuple[int, int]) -> np.ndarray:
        """Its mask of a case, bool, brought to the frame's (height, width) by `images.resize_mask`: the nearest pixel, or, where
        it is made smaller, what is more than half covered.

        Raises:
            DataError: no mask, or one of other proportions than the frame.
        """
        path, where = self.given[case], f"PREDICTIONS, {self.source}, mask of {case}"
        try:
            mask = read_mask(path)
        except ImageError as error:
            raise DataError(f"{where}: {str(error).removeprefix(f'{path}: ')}") from None
        scales = np.divide(mask.shape, shape)
        if abs(scales[0] - scales[1]) > np.divide(1, shape).sum():  # more than a pixel's rounding
            sizes = " for a frame of ".join(f"{width}×{height}" for height, width in (mask.shape, shape))
            raise DataError(f"{where}: {sizes} pixels, of other proportions; give it uncropped, at any size of the frame's shape")
        return resize_mask(mask, shape)

    @property
    def told(self) -> str:
        """Whom it answers and whom not, as sentences."""
        tested = len(self.given) + len(self.missing) + len(self.trained_on)
        said = [f"{self.source} was not trained here and answers {len(self.given)} of {count(tested, 'test image')}"]
        left_out = {"Without an answer": self.missing, "Left out, as it was trained on their patients": self.trained_on}
        said += [f"{why}: {count(len(cases), 'image')} ({first_few(cases, 30)})" for why, cases in left_out.items() if cases]
        said += [f"Of no test image: {count(self.others, 'answer')}"] * bool(self.others)
        said += [f"Of {count(self.learnt[0], 'name')} in its training list {self.learnt[1]} fit images here"] * bool(
            self.learnt[0]
        )
        return " ".join(f"{sentence}." for sentence in said)


def file_name(case: str) -> str:
    """A case id as the name of a file, without ending: whatever is no letter, digit, dot or hyphen is an underscore."""
    return re.sub(r"[^\w.-]", "_", case)


def read_predictions(predictions: Mapping[str, Any], cases: pd.DataFrame, *, masks: bool) -> dict[str, Answers]:
    """The sources that give masks, or those that give probabilities, by name.

    Args:
        predictions: as the module says; relative paths are seen from the project's folder.
        cases: the split case table; what is scored is of `split` "test".
        masks: which of the two.

    Raises:
        DataError: a source that is not there or cannot be read, no answer to a tested case, two to one case, a name that several
            images have, or a probability that is none.
    """
    found = {}
    for source, told in predictions.items():
        told = told if isinstance(told, Mapping) else {"path": told}
        given = bool(told.get("path")) and all(isinstance(value, str | Path) for value in told.values())
        path = paths.resolve_in_project(told["path"] if given else "nothing")
        if not path.exists() or not {*told} <= {"path", "trained_on"}:
            expected = "a folder of PNG masks or a CSV file with columns case and probability, and trained_on, a CSV file"
            raise DataError(f"PREDICTIONS, {source}: found {dict(told)}; expected path, {expected}")
        if path.is_dir() == masks:
            found[source] = _answers(source, path, told.get("trained_on"), cases)
    return found


def _answers(source: str, path: Path, trained_on: str | None, cases: pd.DataFrame) -> Answers:
    where, named, given = f"PREDICTIONS, {source}", _named(cases), {}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    masks = [(name if name in named else file.stem, file) for name, file in zip(names, files, strict=True)]
    answers = masks if path.is_dir() else _probabilities(path)
    if not answers:
        raise DataError(f"{where}: no PNG file in {path}; give masks as PNG, named by case id or as the images")
    for name, answer in answers:
        bearing = named.get(name, [])
        if len(bearing) > 1:
            raise DataError(f"{where}: one name for the images of {listed(bearing)}; name answers by case id")
        if bearing and bearing[0] in given:
            raise DataError(f"{where}: two answers to {bearing[0]}; keep one")
        given |= dict.fromkeys(bearing, answer)
    learnt = read_table(paths.resolve_in_project(trained_on), ("case",))["case"] if trained_on else []
    here = [case for name in learnt for case in named.get(name, [])]
    if len(learnt) and not here:
        raise DataError(
            f"{where}: trained_on fits no image here; name cases by id, or leave it out if it was of another data set"
        )
    tested = cases[cases["split"] == "test"]
    answered, met = tested.index.isin(list(given)), tested["patient"].isin(cases.loc[here, "patient"]).to_numpy(bool)
    scored, seen, missing = (list(tested.index[rows]) for rows in (answered & ~met, answered & met, ~answered))
    others = len(answers) - len(scored) - len(seen)
    if not scored:
        found = f"{len(seen)} to patients of its training and {others} to others; name them by case id, such as {tested.index[0]}"
        raise DataError(f"{where}: no answer to any of {count(len(tested), 'test image')}; found {found}")
    return Answers(source, pd.Series(given)[scored], missing, seen, others, (len(learnt), len(here)))


def _named(cases: pd.DataFrame) -> dict[str, list[str]]:
    """What a case may be called → the cases that are called so; an id is that of one case alone."""
    named: dict[str, list[str]] = {}
    for case, image in cases["image"].items():
        for name in {Path(image).name, Path(image).stem, file_name(case)}:
            named.setdefault(name, []).append(case)
    return named | {case: [case] for case in cases.index}


def _probabilities(path: Path) -> list[tuple[str, float]]:
    table = read_table(path, ("case", "probability"))
    values = pd.to_numeric(table["probability"], errors="coerce").astype(float)
    if len(wrong := table.index[~values.between(0, 1)]):
        expected = "expected a probability in [0, 1], no logit or percentage; leave out who has no answer"
        raise DataError(f"{wrong[0]}, and {len(wrong)} in all: found {table.at[wrong[0], 'probability']}; {expected}")
    return list(zip(table["case"], values, strict=True))


@dataclass(frozen=True)
class Beside(ComparedRuns):
    """`ours` and what is `given`, by name; "model" below means either. cases: the split case table. unread: what gives another
    kind of answers, as sentences."""

    ours: Any = None
    given: dict[str, Answers] = field(default_factory=dict)
    cases: pd.DataFrame | None = None
    unread: list[str] = field(default_factory=list)

    over: ClassVar[str] = "over patients, of these answers alone"
    what: ClassVar[str] = "these answers"

    @classmethod
    def of_notebook(cls, ours: ComparedRuns, predictions: Mapping[str, Any], root: str | None = None):
        """Finished runs beside what `PREDICTIONS` of a notebook names for their task, nothing among it too; root: the data's
        folder, where it is another than in training.

        Raises:
            DataError: as `read_predictions`; a name that one of our networks has; runs on random subsets.
        """
        cases = predictor_of(ours.first, root).cases if predictions else None
        masks = "segmentation" in cls.tasks
        given = read_predictions(predictions, cases, masks=masks)
        kind = "probabilities, which notebook 03 scores" if masks else "masks, which notebook 04 scores"
        unread = [f"{source} gives {kind}." for source in predictions if source not in given]
        if alike := [source for source in given if source in ours.runs]:
            raise DataError(f"PREDICTIONS: {alike[0]} is one of our networks; give it another name")
        return cls(ours.runs, ours=ours, given=given, cases=cases, unread=unread)

    @property
    def models(self) -> list[str]:
        return [*self.runs, *self.given]

    @property
    def truth(self) -> pd.DataFrame:
        return self.ours.truth

    def pairs(self, score: str) -> pd.DataFrame:
        """What is given, each beside the `chosen` network, as `ComparedRuns.paired`, by `compare_answers`."""
        patients, labels = self.truth["patient"], self.truth["label"]

        def compare(one: str, two: str) -> Comparison:
            rows = self.rated(one, score), self.rated(two, score)
            known = np.isfinite(np.concatenate(rows)).all(axis=0)
            influence = partial(auc_influence, labels[known]) if score == "auc" else mean_influence
            return compare_answers(*(influence(row[:, known]) for row in rows), patients[known])

        return self.paired(compare, [(source, self.chosen) for source in self.given])

    def errors(self, ours: pd.Series, enough: float = 0.5) -> pd.DataFrame:
        """Whether a source errs on the images that a network errs on.

        Args:
            ours: case → whether the network is wrong, bool.
            enough: Dice from which a mask counts as right; an image is called malignant from 0.5 on.

        Returns:
            a row a source: `images` that both answer; errors that are `ours`, `theirs` and of `both`, and how many of both there
            would be `by chance`; `difference` of the shares of errors (theirs − ours, `compare_means`), and `p (Holm)`.
        """
        rows = {}
        for source, found in self.given.items():
            theirs, own = self.wrong(source, enough)[found.given.index], ours[found.given.index]
            gap = compare_means(theirs, own, self.truth.loc[own.index, "patient"])
            counts = {"images": len(own), "ours": own.sum(), "theirs": theirs.sum(), "both": (own & theirs).sum()}
            chance = {"by chance": own.mean() * theirs.sum()}
            rows[source] = {**counts, **chance, "difference": told_difference(gap), "p (Holm)": gap.p_value}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
        return table.assign(**{"p (Holm)": holm(table["p (Holm)"])}) if rows else table

    def said(self, estimates: pd.Series, pairs: pd.DataFrame, score: str) -> list[str]:
        """What is to be said of each source: who is answered, its score, and whether that is another than ours. estimates: of
        the score, by model. pairs: of it. score: as it is called."""
        found = []
        for _, row in pairs.iterrows():
            less = f"less that of {row['second']} on the same images {told_difference(row['difference'])}"
            told = f"{self.given[row['first']].told} Its {score} is {estimates[row['first']].text(2)}, {less}"
            found.append(self._judged(told, row))
        return found


@dataclass(frozen=True)
class GivenMasks(Beside, SegmenterComparison):
    """Segmenters beside masks that were made elsewhere, all at the images' own resolution."""

    @cached_property
    def tables(self) -> dict[str, list[pd.DataFrame]]:
        """As `SegmenterComparison.tables`; rows of NaN where a source has no answer."""
        found = dict(self.ours.tables)
        for source, answers in self.given.items():
            cases = list(answers.given.index)
            pairs = ((truth, binarise(mask)) for _, truth, mask in self.pictures(source, cases))
            table = segmentation_table(pairs, cases, spacings(self.cases.loc[cases]))
            found[source] = [table.reindex(self.truth.index).assign(resolution="own")]
        return found

    def rated(self, model: str, score: str) -> np.ndarray:
        """The numbers that a score is of, (seeds, n) in the order of `truth`; NaN where there is no answer."""
        return self.values(model, [score])[..., 0]

    def wrong(self, source: str, enough: float) -> pd.Series:
        return self.tables[source][0]["dice"] < enough

    def pictures(self, model: str, cases: Sequence[str] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """As `SegmenterComparison.pictures`; a given mask stands for a map of 0 and 1."""
        if model not in self.given:
            yield from self.ours.pictures(model, cases)
            return
        for case in self.given[model].given.index if cases is None else cases:
            image, truth = read_image(self.cases.at[case, "image"]), read_mask(self.cases.at[case, "mask"])
            yield image, truth, self.given[model].mask(case, truth.shape).astype(np.float32)

    def apart(self, few: int = 2) -> list[str]:
        """The test images that all answer on which the chosen network and what is given lie farthest apart in Dice."""
        dice = pd.DataFrame({model: self.rated(model, "dice").mean(axis=0) for model in [self.chosen, *self.given]})
        between = dice.set_index(self.truth.index).dropna().agg(np.ptp, axis=1)
        return list(between.sort_values(ascending=False, kind="stable").index[:few])


@dataclass(frozen=True)
class GivenProbabilities(Beside, ClassifierComparison):
    """Classifiers beside probabilities that were made elsewhere, which call an image malignant from 0.5 on."""

    def __post_init__(self):
        for source, found in self.given.items():
            need_both_classes(self.truth.loc[found.given.index, "label"].to_numpy(bool), f"PREDICTIONS, {source}")

    def probabilities(self, model: str) -> np.ndarray:
        """As `ClassifierComparison.probabilities`; NaN where a source has no answer."""
        if model in self.given:
            return self.given[model].given.reindex(self.truth.index).to_numpy(float)[None]
        return self.ours.probabilities(model)

    def answers(self, model: str) -> tuple[pd.Series, np.ndarray, pd.Series]:
        rows = self.probabilities(model)
        known = np.isfinite(rows[0])
        return self.truth["label"][known], rows[:, known], self.truth["patient"][known]

    def rated(self, model: str, score: str) -> np.ndarray:
        return self.probabilities(model)

    def wrong(self, source: str, enough: float) -> pd.Series:
        return (self.given[source].given >= 0.5) != self.truth["label"].reindex(self.given[source].given.index).astype(bool)

    def _cuts(self, model: str, fixed: bool) -> list[float] | list[np.ndarray]:
        return [0.5] if model in self.given else self.ours._cuts(model, fixed)
