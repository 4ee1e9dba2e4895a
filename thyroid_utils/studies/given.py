"""Answers that were made elsewhere beside finished runs: the same test images, scores, intervals and pictures.

They are one fixed set of answers. Nothing tells how another set of the same making would differ, so that a test holds ours fixed
too, the mean of all trainings of the chosen network, and is over patients alone: its verdict is of these answers, not of recipes.
It is over the images that both answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, p_value
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.inference.predictions import Answers, read_predictions
from thyroid_utils.inference.predictor import predictor_of, spacings
from thyroid_utils.scores.checks import need_both_classes
from thyroid_utils.scores.comparisons import compare_answers, compare_means, holm
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.scores.masks import segmentation_table
from thyroid_utils.scores.recipes import auc_influence, mean_influence
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import told_difference


@dataclass(frozen=True)
class Beside(ComparedRuns):
    """`ours` and what is `given`, by name; "model" below means either."""

    ours: Any = None
    given: dict[str, Answers] = field(default_factory=dict)
    cases: pd.DataFrame | None = None

    @classmethod
    def of_notebook(cls, ours: ComparedRuns, predictions: Mapping[str, Any], root: str | None = None):
        """Finished runs beside what `PREDICTIONS` of a notebook names for their task, nothing among it too; root: the data's
        folder, where it is another than in training.

        Raises:
            DataError: as `read_predictions`; a name that one of our networks has; runs on random subsets.
        """
        cases = predictor_of(ours.first, root).cases if predictions else None
        given = read_predictions(predictions, cases, masks="segmentation" in cls.tasks)
        for source in given:
            if source in ours.runs:
                raise DataError(f"PREDICTIONS: {source} is one of our networks; give it another name")
        return cls(ours.runs, ours=ours, given=given, cases=cases)

    @property
    def models(self) -> list[str]:
        return [*self.runs, *self.given]

    @property
    def truth(self) -> pd.DataFrame:
        return self.ours.truth

    def values_of(self, model: str, score: str) -> np.ndarray:
        """What a score is made of, float (seeds, n) in the order of `truth`; NaN where there is no answer."""
        raise NotImplementedError

    def pairs(self, score: str) -> pd.DataFrame:
        """What is given, each beside the `chosen` network, as `ComparedRuns.paired`, by `compare_answers`."""
        return self.paired(self.compared(score), [(source, self.chosen) for source in self.given])

    def compared(self, score: str) -> Callable[[str, str], Comparison]:
        """What `pairs` compares by."""

        def compare(one: str, two: str) -> Comparison:
            rows = self.values_of(one, score), self.values_of(two, score)
            known = np.isfinite(np.concatenate(rows)).all(axis=0)
            labels = self.truth["label"][known]
            sides = [auc_influence(labels, row[:, known]) if score == "auc" else mean_influence(row[:, known]) for row in rows]
            return compare_answers(*sides, self.truth["patient"][known])

        return compare

    def wrong(self, source: str, enough: float) -> pd.Series:
        """Whether each answer of a source is wrong: case → bool."""
        raise NotImplementedError

    def errors(self, ours: pd.Series, enough: float) -> pd.DataFrame:
        """Whether a source errs on the images that a network errs on.

        Args:
            ours: case → whether the network is wrong, bool.
            enough: Dice from which a mask counts as right, or probability from which an image is called malignant.

        Returns:
            a row a source: `images` that both answer; errors that are `ours`, `theirs` and of `both`, and how many of both there
            would be `by chance`; `difference` of the shares of errors (theirs − ours, `compare_means`), and `p (Holm)`.
        """
        rows = {}
        for source in self.given:
            theirs = self.wrong(source, enough)
            own, images = ours[theirs.index], len(theirs)
            counts = {"images": images, "ours": int(own.sum()), "theirs": int(theirs.sum()), "both": int((own & theirs).sum())}
            found = compare_means(theirs, own, self.truth.loc[theirs.index, "patient"])
            rows[source] = {**counts, "by chance": own.mean() * theirs.mean() * images, "difference": told_difference(found)}
            rows[source]["p (Holm)"] = found.p_value
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
        return table.assign(**{"p (Holm)": holm(table["p (Holm)"])}) if rows else table

    def said(self, estimates: pd.Series, pairs: pd.DataFrame, score: str) -> list[str]:
        """What is to be said of each source: who is answered, its score, and whether that is another than ours. estimates: of
        the score, by model. pairs: of it. score: as it is called."""
        found = []
        for row in pairs.itertuples():
            verdict = "more than chance" if row.differs else "not more than chance can give"
            tested = f"{verdict} ({p_value(row.p_holm)} after Holm over {count(len(pairs), 'source')})"
            if np.isnan(row.p_holm):
                tested = f"no verdict, as {row.difference.note}"
            less = (
                f"less that of {row.second} on the same images {told_difference(row.difference)}, over patients, of these answers"
            )
            reached = f"Its {score} is {estimates[row.first].text(2)}, {less}: {tested}."
            found.append(f"{self.given[row.first].told} {reached}")
        return found


@dataclass(frozen=True)
class GivenMasks(Beside, SegmenterComparison):
    """Segmenters beside masks that were made elsewhere, all at the images' own resolution."""

    @cached_property
    def tables(self) -> dict[str, list[pd.DataFrame]]:
        """As `SegmenterComparison.tables`; rows of NaN where a source has no answer."""
        return {**self.ours.tables, **{source: [self._measured(found)] for source, found in self.given.items()}}

    def _measured(self, found: Answers) -> pd.DataFrame:
        rows = self.cases.loc[found.given.index]
        truths = (read_mask(mask) for mask in rows["mask"])
        pairs = ((truth, found.mask(case, truth.shape)) for case, truth in zip(rows.index, truths, strict=True))
        return segmentation_table(pairs, list(rows.index), spacings(rows)).reindex(self.truth.index).assign(resolution="own")

    def values_of(self, model: str, score: str) -> np.ndarray:
        return self.values(model, [score])[..., 0]

    def wrong(self, source: str, enough: float) -> pd.Series:
        return self.tables[source][0].loc[self.given[source].given.index, "dice"] < enough

    def pictures(self, model: str, cases=None):
        """As `SegmenterComparison.pictures`; a mask stands for a map of 0 and 1."""
        if model not in self.given:
            yield from self.ours.pictures(model, cases)
            return
        for case in self.given[model].given.index if cases is None else cases:
            truth = read_mask(self.cases.at[case, "mask"])
            yield read_image(self.cases.at[case, "image"]), truth, self.given[model].mask(case, truth.shape).astype(np.float32)

    def apart(self, few: int = 2) -> list[str]:
        """The test images that all answer on which the chosen network and what is given lie farthest apart in Dice."""
        dice = pd.DataFrame({model: self.values_of(model, "dice").mean(axis=0) for model in [self.chosen, *self.given]})
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
        known, truth = np.isfinite(rows[0]), self.truth
        return truth["label"][known], rows[:, known], truth["patient"][known]

    def values_of(self, model: str, score: str) -> np.ndarray:
        rows = self.probabilities(model)
        if score == "auc":
            return rows
        cuts = np.reshape(self._cuts(model, fixed=False), (len(rows), -1))
        return np.where(np.isnan(rows), np.nan, (rows >= cuts) == self.truth["label"].to_numpy(bool))

    def wrong(self, source: str, enough: float) -> pd.Series:
        given = self.given[source].given
        return (given >= enough) != self.truth.loc[given.index, "label"].astype(bool)

    def _cuts(self, model: str, fixed: bool) -> list[float] | list[np.ndarray]:
        return [0.5] if model in self.given else self.ours._cuts(model, fixed)
