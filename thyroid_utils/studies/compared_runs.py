"""Finished runs by model or loss, and what every comparison of them says: whom it rests on, what was chosen, which differ."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import content_key
from thyroid_utils.common.words import count, listed, p_value
from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.models.networks import latency, parameter_count
from thyroid_utils.scores.comparisons import holm, subset_comparison
from thyroid_utils.scores.estimates import Comparison, Estimate, few_told
from thyroid_utils.scores.recipes import ONE_TRAINING
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import Run

SCRATCH = " (from scratch)"


def check_recipes(runs: Mapping[str, list[Run | FoldedRun]]) -> None:
    """Raise DataError where the runs of one label are no repetitions of one recipe: only seed, split and the data's folder may
    differ."""
    for name, found in runs.items():
        if len({run.config.recipe for run in found}) > 1:
            raise DataError(f"comparison: the runs of {name} differ in more than seed and split; compare them one by one")


def _labels(found: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Label and start of each run → how its model is named: "tversky (alpha 0.3, beta 0.7)" is short where "tversky" alone is
    unique, and a start is told where a model has several."""
    found = dict.fromkeys(found)
    plain = [label.partition(" (")[0] for label in dict.fromkeys(label for label, _ in found)]
    starts = Counter(label for label, _ in found)
    named = {}
    for label, weights in found:
        short = label.partition(" (")[0]
        start = {"none": SCRATCH, "imagenet": ""}.get(weights, f" ({weights})") if starts[label] > 1 else ""
        named[label, weights] = (short if plain.count(short) == 1 else label) + start
    return named


def _split(run: Run | FoldedRun) -> tuple[str, str]:
    """What two runs share whose images can be paired: the split (of leaks its test images), and the data that it is of."""
    split = run.data["split_hash"]
    if run.config.split.leak:
        split = content_key(run.predictions.query("split == 'test'").index.tolist())
    return split, run.data["fingerprint"]


@dataclass(frozen=True)
class ComparedRuns:
    """Finished runs by model or by loss; "model" below means either.

    `runs`: model → its trainings, with the same seeds and splits in the same order for each model; where the split has folds, a
    training is a whole cross-validation, a `FoldedRun`.
    """

    runs: dict[str, list[Run | FoldedRun]]

    tasks: ClassVar[tuple[str, ...]]
    score: ClassVar[str]  # by which validation chooses
    what: ClassVar[str] = "the recipes"  # that are compared
    subsets: ClassVar[bool] = True  # whether runs may have several splits, the same ones for each model
    hopeless: ClassVar[Callable[[Iterable[bool]], bool]] = any  # which of two untrained models leave a pair without a verdict

    @classmethod
    def of(cls, runs: Sequence[Run], key: str = "model", **more: Any):
        """Group finished runs by `key`, "model", "loss" or "split" (leaks), and by folds; `more`: the other fields of the
        class. A model that was trained from several starts is named with them: `resnet18`, `resnet18 (from scratch)`.

        Raises:
            DataError: no runs, a fold missing, runs of another task, models without the same seeds and splits, or runs of one
                model that differ in more than these, or that leak on purpose.
        """
        if key != "split" and any(run.config.split.leak for run in runs):
            raise DataError("comparison: some of the runs leak on purpose (notebook 09), and say nothing of their networks")
        if not runs or any(run.config.task not in cls.tasks for run in runs):
            raise DataError(f"comparison: needs one or more runs, all of task {' or '.join(cls.tasks)}")
        grouped: dict[str, list[Run | FoldedRun]] = {}
        labels = _labels([(getattr(run.config, key).label, run.config.model.weights) for run in runs])
        for run in by_folds(runs):
            grouped.setdefault(labels[getattr(run.config, key).label, run.config.model.weights], []).append(run)
        check_recipes(grouped)
        plans = {tuple((run.config.seed, _split(run)) for run in found) for found in grouped.values()}
        seeds = {tuple(seed for seed, _ in plan) for plan in plans}
        if len(seeds) > 1 or any(len(set(plan)) < len(plan) for plan in plans):
            raise DataError(f"comparison: give every {key} the same seeds, each once; found {sorted(seeds)}")
        if len(plans) > 1 or (not cls.subsets and len({split for plan in plans for _, split in plan}) > 1):
            raise DataError("comparison: the runs were trained on different splits, so their images cannot be paired")
        return cls(grouped, **more)

    @property
    def models(self) -> list[str]:
        return list(self.runs)

    @property
    def first(self) -> Run | FoldedRun:
        return self.runs[self.models[0]][0]

    @property
    def one_split(self) -> bool:
        """Whether all runs share one split, so that their test images are the same."""
        return len({_split(run) for found in self.runs.values() for run in found}) == 1

    @property
    def folds(self) -> int:
        """Of each training; 0 for one split or random subsets."""
        return self.first.config.split.folds

    @cached_property
    def validation(self) -> pd.Series:
        """Model → mean score on validation over its runs, best first."""
        scores = {model: np.mean([run.metrics["val"][self.score] for run in found]) for model, found in self.runs.items()}
        return pd.Series(scores).sort_values(ascending=False, kind="stable")

    @property
    def chosen(self) -> str:
        """The model with the highest mean score on validation. On one split test images have no say in it; in folds the mean
        leans on patients whom other folds test, which flatters what is chosen: `nested` scores the choice itself."""
        return self.validation.index[0]

    @cached_property
    def preferred(self) -> list[str]:
        """Of each fold the model that its own validation prefers, mean over seeds: no patient that it tests has a say."""
        scores = {
            model: np.mean([[fold.metrics["val"][self.score] for fold in run.folds] for run in runs], axis=0)
            for model, runs in self.runs.items()
        }
        return pd.DataFrame(scores).idxmax(axis=1).tolist()

    def nested(self) -> Estimate:
        """What choosing on validation reaches in folds: the score that chooses, of all test images, those of a fold answered by
        the model that the fold has `preferred`; its interval is over patients."""
        raise NotImplementedError

    def _by_preferred(self, values: Callable[[str], np.ndarray]) -> np.ndarray:
        """Numbers of test images, (seeds, n) a model, each image's from the model that its fold has `preferred`."""
        rows, folds = {model: values(model) for model in self.runs}, self.first.predictions.loc[self.truth.index, "fold"]
        return np.stack([rows[self.preferred[fold]][:, at] for at, fold in enumerate(folds)], axis=1)

    @property
    def plan(self) -> str:
        """What the runs of a model differ in, as text for a caption: `3 training seeds`, `3 training seeds in 5 folds` or
        `10 random subsets`."""
        leaky = ", LEAKY: split by image" if self.first.data["leaky"] else ""
        seeds = count(self.trainings, "training seed" if self.one_split else "random subset")
        parts = [seeds] * (self.trainings > 1 or not self.folds) + [f"{self.folds} folds"] * bool(self.folds)
        return " in ".join(parts) + leaky

    @property
    def band(self) -> str:
        """What a line by epoch and its band are, as text for a caption; nothing to tell of one training."""
        return "; line: mean, band: from the lowest to the highest" if self.trainings * (self.folds or 1) > 1 else ""

    @property
    def trainings(self) -> int:
        """Of each model; one on all folds counts once."""
        return len(self.runs[self.models[0]])

    @property
    def fold_by_fold(self) -> bool:
        """Whether folds, rather than patients and seeds, tell how a recipe varies: one training on all folds shows no spread, and
        of two the spread has one degree of freedom, whose intervals are wider than any difference."""
        return self.trainings < 3 and self.folds > 0

    @property
    def over(self) -> str:
        """What the intervals of differences are over, as text for a caption."""
        if not self.one_split:
            return "over random subsets, corrected for their overlap"
        if self.fold_by_fold:
            return "over folds, each by itself, and corrected for their overlap"
        alone = "over patients, of these trained networks only: with one training of each there is no verdict on recipes"
        return "over patients and training seeds" if self.trainings > 1 else alone

    @property
    def untrained(self) -> list[str]:
        """The models that validation does not show to have learnt anything."""
        raise NotImplementedError

    @property
    def unclear(self) -> dict[str, Estimate]:
        """Those `untrained` of which validation cannot say anything, with their score there: too few patients."""
        return {}

    @property
    def banner(self) -> str:
        """Warnings, in markdown, of models that are `untrained` and of few patients; empty where there is neither."""
        return "\n\n".join(filter(None, [self.unlearnt, few_told(*self.fewest, score=self.score)]))

    @property
    def unlearnt(self) -> str:
        """A warning, in markdown, where some models are `untrained`; empty where none is."""
        none, told = "so that no verdict rests on them", []
        if known := [model for model in self.untrained if model not in self.unclear]:
            what = f"{listed(known)}: on validation not shown to be better than {self.blind}"
            told.append(f"> **Not shown to have learnt.** {what}, {none}. More EPOCHS or patients may show it.")
        if self.unclear:
            what = listed(f"{model} {found.text(2)}" for model, found in self.unclear.items())
            few = "Validation has too few patients to say whether they have learnt"
            told.append(f"> **Not known to have learnt.** {few}: {what}, {none}. More patients may show it.")
        return "\n>\n".join(told)

    def by_fold(self, model: str, score: str) -> np.ndarray:
        """A score of each training on each fold's test side by itself: (seeds, folds)."""
        raise NotImplementedError

    @cached_property
    def _tested(self) -> pd.DataFrame:
        """`patient`, `label` and `fold` of all tested images, in folds."""
        return self.first.predictions[["patient", "label", "fold"]]

    def over_folds(self, score: str, most: float = 1) -> Callable[[str, str], Comparison]:
        """Compares two models by their differences fold by fold, means over seeds, where `fold_by_fold`. Nadeau and Bengio's
        correction, as the folds' training sides overlap."""
        values = {model: self.by_fold(model, score).mean(axis=0) for model in self.runs}
        images, patients = len(self._tested), self._tested["patient"].nunique()
        train, test = self.first.data["images"]["train"], round(images / self.folds)

        def compare(one: str, two: str) -> Comparison:
            found = subset_comparison(values[one], values[two], train, test, patients)
            detectable = found.detectable if found.detectable < most else np.nan
            return replace(found, images=images, low=max(found.low, -most), high=min(found.high, most), detectable=detectable)

        return compare

    def fold_table(self, pooled: pd.Series, score: str) -> pd.DataFrame:
        """What each fold tests, its patients by class and the score of each model there (means over seeds), then the mean of the
        folds and all `pooled`, model → Estimate. Empty without folds."""
        if not self.folds:
            return pd.DataFrame()
        groups = [patient_class(own).value_counts() for _, own in self._tested.groupby("fold")]
        table = pd.DataFrame(groups).fillna(0).astype("Int64").reset_index(drop=True)
        table = table[[name for name in LABEL_NAMES.values() if name in table]].assign(images=self._tested.groupby("fold").size())
        table = pd.concat([table.rename(index=lambda at: f"{at + 1}"), table.sum().to_frame("all, pooled").T])
        table = table.reindex([*table.index[:-1], "mean of folds", "all, pooled"])
        for model in self.runs:
            values = self.by_fold(model, score).mean(axis=0)
            table[model] = [*values, values.mean(), pooled[model].value]
        return table.rename_axis(index="fold", columns="model")

    def paired(self, compare: Callable[[str, str], Comparison], pairs: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
        """Every pair of models, best on validation first, or `pairs`, by one test and after Holm.

        Args:
            compare: maps two models to their `Comparison`. Where `untrained` models make it noise its p-value is taken away, and
                `note` says why.

        Returns:
            a row a pair: `first`, `second`, `difference` (`Comparison`, first − second), `p_holm`, and `differs`, below 0.05.
        """
        pairs = combinations(self.validation.index, 2) if pairs is None else pairs
        rows = [(*pair, self.withheld(compare(*pair), pair)) for pair in pairs]
        table = pd.DataFrame(rows, columns=["first", "second", "difference"])
        adjusted = holm([found.p_value for found in table["difference"]])
        return table.assign(p_holm=adjusted, differs=adjusted < 0.05)

    def withheld(self, found: Comparison, pair: Sequence[str]) -> Comparison:
        """A comparison without its p-value where the pair's models are `untrained`."""
        if not type(self).hopeless(model in self.untrained for model in pair):
            return found
        return replace(found, p_value=np.nan, note="validation does not show that they have learnt")

    def lead(self, pairs: pd.DataFrame, score: str) -> str:
        """How far the model that is best on validation is ahead of the next, and whether that is more than chance, as a sentence
        of an answer, in folds with what choosing reaches; pairs: of `paired`. score: as it is called."""
        if not len(pairs):
            return "Alone it cannot be ranked."
        pair = pairs.iloc[0]
        ahead = told_difference(pair["difference"])
        told = self._judged(f"Its {score} less that of **{pair['second']}**, next on validation, is {ahead}", pair)
        if not self.folds:
            return told
        how = "Chosen in each fold by that fold's own validation, where no patient that it tests has a say"
        return f"{told} {how}: {score} {self.nested()}."

    def pretraining(self, pairs: pd.DataFrame, score: str) -> str:
        """What weights are worth to each model that was also trained from scratch, in points of a score, as sentences; pairs: of
        `paired`. score: as it is called."""
        told = []
        for _, pair in pairs.iterrows():
            first, second = pair["first"], pair["second"]
            if SCRATCH in first + second and first.removesuffix(SCRATCH) == second.removesuffix(SCRATCH):
                model, sign = (second, -1) if first.endswith(SCRATCH) else (first, 1)
                worth = f"{told_difference(pair['difference'], 1, 100 * sign)} points of {score} against one from scratch"
                start = f"To **{model}** its start ({self.runs[model][0].data['weights']}) is worth {worth}"
                told.append(self._judged(start, pair))
        return " ".join(told) or "No network began at random beside its weights; FROM_SCRATCH asks what they are worth."

    def _judged(self, told: str, pair: pd.Series) -> str:
        """A difference that a sentence begins with, and whether it is more than chance; pair: a row of `paired`."""
        found = pair["difference"]
        if np.isnan(pair["p_holm"]):
            how = "; SEEDS asks for more" if found.note == ONE_TRAINING else ""
            return f"{told} ({self.over.partition(':')[0]}). This run cannot say whether {self.what} differ: {found.note}{how}."
        verdict = "more than chance" if pair["differs"] else "not more than chance can give"
        return f"{told} ({self.over}): {verdict} ({p_value(pair['p_holm'])} after Holm)."

    def verdicts(self, pairs: pd.DataFrame, score: str) -> str:
        """How many of the pairs differ, as a sentence; pairs: of `paired`."""
        asked = int(pairs["p_holm"].notna().sum())
        if not asked:
            return f"No verdict on {score}: {listed(sorted({found.note for found in pairs['difference']}), 'one alone')}."
        unasked = f"; {count(len(pairs) - asked, 'pair')} without a verdict" if asked < len(pairs) else ""
        return f"**{int(pairs['differs'].sum())} of {count(asked, 'pair')}** differ in {score} after Holm, {self.over}{unasked}."

    @property
    def started(self) -> str:
        """What the models started from, as text for a caption: `all from scratch`, or each by its name."""
        weights = {model: found[0].data["weights"] for model, found in self.runs.items()}
        kinds = set(weights.values())
        return f"all {kinds.pop()}" if len(kinds) == 1 else ", ".join(f"{model} {kind}" for model, kind in weights.items())

    @property
    def sides(self) -> str:
        """Images of the first run, as text: `48 train, 16 val, 16 test`; of folds those of one and all that are tested."""
        images = self.first.data["images"]
        if self.folds:
            return (
                f"{images['test']}, each tested once in {self.folds} folds of about {images['train']} train, {images['val']} val"
            )
        return ", ".join(f"{count} {side}" for side, count in images.items())

    def history(self) -> pd.DataFrame:
        """The histories of all runs, fold by fold: `model`, `seed`, `epoch` and their columns."""
        runs = [(model, run) for model, found in self.runs.items() for training in found for run in training.folds]
        tables = [run.history.reset_index().assign(model=model, seed=run.config.seed) for model, run in runs]
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """`parameters` (millions), `latency_ms` (of one image of the run's input on this machine's CPU), `images_per_second` in
        training, `weights` it started from; a row a model."""
        rows = {}
        for model, found in self.runs.items():
            network, folds = found[0].folds[0].load_model(), [fold for run in found for fold in run.folds]
            rows[model] = {
                "parameters": parameter_count(network) / 1e6,
                "latency_ms": latency(network, found[0].data["input"]),
                "images_per_second": float(np.mean([run.environment.get("images_per_second") or np.nan for run in folds])),
                "weights": found[0].data["weights"],
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
