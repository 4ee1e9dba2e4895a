"""What studies share that train networks and compare them: settings from the parameters of a notebook, labels of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from thyroid_utils.common.config import ConfigError, RunConfig, SplitConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, listed, p_value
from thyroid_utils.models.networks import architecture, latency, parameter_count
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import Comparison, few_told
from thyroid_utils.scores.recipes import ONE_TRAINING
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.ledger import Run

# Parameter of a notebook → the field of `RunConfig` that it decides.
FIELDS = {
    "DATASET": ("data", "dataset"),
    "DATA_ROOT": ("data", "root"),
    "DATA_OPTIONS": ("data", "options"),
    "SPLIT_BY": ("split", "by"),
    "RATIOS": ("split", "ratios"),
    "PREPROCESSING": ("preprocessing",),
    "SIZE": ("size",),
    "AUGMENTATION": ("augmentation",),
    "LOSS": ("loss", "name"),
    "LOSS_OPTIONS": ("loss", "options"),
    "OPTIMISER": ("optimiser", "name"),
    "LEARNING_RATE": ("optimiser", "learning_rate"),
    "SCHEDULE": ("optimiser", "schedule"),
    "EPOCHS": ("training", "epochs"),
    "BATCH_SIZE": ("training", "batch_size"),
    "PATIENCE": ("training", "patience"),
    "PRECISION": ("training", "precision"),
    "CLASS_BALANCE": ("training", "class_balance"),
}
_PREFIXED = {"DATA_OPTIONS": "DATA", "BATCH_SIZE": "BATCH"}  # SEGMENTER_DATA, SEGMENTER_BATCH
_OF_ONE_TASK = ("LOSS", "LOSS_OPTIONS", "CLASS_BALANCE")
_MONITORED = {"classification": "auc", "segmentation": "dice", "joint": "loss"}


def shared_settings(parameters: Mapping[str, Any], task: str, prefix: str = "", **other: Any) -> dict[str, Any]:
    """What all runs of a notebook share: the fields of `RunConfig` that its parameters decide, for `comparison_configs` and its
    like. A field without a parameter keeps its default; an empty DATA_ROOT and a PATIENCE of 0 mean None.

    Args:
        parameters: the notebook's names, `globals()`.
        task: "classification" (the epoch is chosen by AUC), "segmentation" (by Dice) or "joint" (by loss).
        prefix: of a part with parameters of its own, "SEGMENTER_": these win over those without it (an empty SEGMENTER_DATA
            leaves DATA_OPTIONS). What belongs to one task (loss, class balance) is then not taken over; a segmentation loss is
            `bce_dice` where none is named.
        other: parameters that are given here instead of in the notebook's cell.
    """
    known = {**parameters, **other}
    settings: dict[str, Any] = {"task": task, "split": {"seed": known["SEEDS"][0]}, "training": {"monitor": _MONITORED[task]}}
    if task != "classification":
        settings["loss"] = {"name": "bce_dice"}
    for name, (*group, field) in FIELDS.items():
        own = [prefix + name, prefix + _PREFIXED.get(name, name)] if prefix else []
        taken_over = not prefix or name in other or name not in _OF_ONE_TASK
        given = [known[found] for found in [*own, *[name] * taken_over] if found in known]
        if given:
            place = settings.setdefault(group[0], {}) if group else settings
            if name == "DATA_OPTIONS":
                place[field] = next(filter(None, given), {})
            else:
                place[field] = given[0] or None if name in ("DATA_ROOT", "PATIENCE") else given[0]
    return settings


def comparison_configs(
    models: Sequence[str],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    scratch: Sequence[str] = (),
    losses: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    subsets: int = 0,
) -> list[RunConfig]:
    """One config a model, start, loss and seed, equal in all else.

    Args:
        models: names of `models.CLASSIFIERS` or `models.SEGMENTERS`, `timm:NAME` or `smp:ARCH:ENCODER`.
        seeds: of the training; with `subsets` only the first is used.
        common: the other fields of `RunConfig` (`shared_settings`), `loss` among them unless `losses` are given.
        weights: what every model, or the encoder of every segmenter, starts from.
        options: model → options of its builder.
        scratch: models that are trained a second time from random values, which shows what `weights` are worth; those without
            ImageNet weights are trained from random values alone.
        losses: pairs of a loss and its options; a loss may occur several times (a sweep).
        subsets: 0 for one fixed split; else so many repeated random subsets, each trained once.

    Raises:
        ConfigError: a field that cannot be, or options of a model that is not compared.
    """
    options = options or {}
    for what, names in (("model.options", options), ("FROM_SCRATCH", scratch)):
        for name in names:
            if name not in models:
                raise ConfigError(what, f"are given for {name}, which is not compared; known: {', '.join(models)}")
    named = []
    for name in models:
        own, again = dict(options.get(name, {})), name in scratch
        alone = again and weights == "imagenet" and not architecture(name).source(own)
        starts = dict.fromkeys([weights] * (not alone) + ["none"] * again)
        named += [{"name": name, "weights": start, "options": own} for start in starts]
    changes = [{}] if losses is None else [{"loss": {"name": name, "options": dict(own)}} for name, own in losses]
    split = dict(common.get("split", {}))
    plans = [{"seed": seed, "split": split} for seed in seeds]
    if subsets:
        plans = [{"seed": seeds[0], "split": {**split, "repeat": repeat}} for repeat in range(subsets)]
    return [RunConfig(**{**common, "model": model, **change, **plan}) for model in named for change in changes for plan in plans]


def check_recipes(runs: Mapping[str, list[Run]]) -> None:
    """Raise DataError where the runs of one label are no repetitions of one recipe: only seed, split and the data's folder may
    differ."""
    for name, found in runs.items():
        recipes = set()
        for run in found:
            data = run.config.data.model_copy(update={"root": None})
            recipes.add(run.config.model_copy(update={"seed": 0, "split": SplitConfig(), "data": data}).to_json())
        if len(recipes) > 1:
            raise DataError(f"comparison: the runs of {name} differ in more than seed and split; compare them one by one")


def _split(run: Run) -> tuple[str, str]:
    """What two runs share whose images can be paired: the split, and the data that it is of."""
    return run.data["split_hash"], run.data["fingerprint"]


@dataclass(frozen=True)
class ComparedRuns:
    """Finished runs by model or by loss; "model" below means either.

    `runs`: model → its runs, with the same seeds and splits in the same order for each model.
    """

    runs: dict[str, list[Run]]

    tasks: ClassVar[tuple[str, ...]]
    score: ClassVar[str]  # by which validation chooses
    subsets: ClassVar[bool] = True  # whether runs may have several splits, the same ones for each model
    hopeless: ClassVar[Callable[[Iterable[bool]], bool]] = any  # which of two untrained models leave a pair without a verdict

    @classmethod
    def of(cls, runs: Sequence[Run], key: str = "model", **more: Any):
        """Group finished runs by `key`, "model" or "loss"; `more`: the other fields of the class.

        Raises:
            DataError: no runs, runs of another task, models without the same seeds and splits, or runs of one model that differ
                in more than these.
        """
        if not runs or any(run.config.task not in cls.tasks for run in runs):
            raise DataError(f"comparison: needs one or more runs, all of task {' or '.join(cls.tasks)}")
        grouped: dict[str, list[Run]] = {}
        for run in runs:
            grouped.setdefault(getattr(run.config, key).label, []).append(run)
        check_recipes(grouped)
        plans = {tuple((run.config.seed, _split(run)) for run in found) for found in grouped.values()}
        seeds = {tuple(seed for seed, _ in plan) for plan in plans}
        if len(seeds) > 1 or any(len(set(plan)) < len(plan) for plan in plans):
            raise DataError(f"comparison: give every {key} the same seeds, each once; found {sorted(seeds)}")
        if len(plans) > 1 or (not cls.subsets and len({split for plan in plans for _, split in plan}) > 1):
            raise DataError("comparison: the runs were trained on different splits, so their images cannot be paired")
        # "tversky (alpha 0.3, beta 0.7)" is short where "tversky" alone is unique
        short = [label.partition(" (")[0] for label in grouped]
        labels = [name if short.count(name) == 1 else label for name, label in zip(short, grouped, strict=True)]
        return cls(dict(zip(labels, grouped.values(), strict=True)), **more)

    @property
    def models(self) -> list[str]:
        return list(self.runs)

    @property
    def first(self) -> Run:
        return self.runs[self.models[0]][0]

    @property
    def one_split(self) -> bool:
        """Whether all runs share one split, so that their test images are the same."""
        return len({_split(run) for found in self.runs.values() for run in found}) == 1

    @cached_property
    def validation(self) -> pd.Series:
        """Model → mean score on validation over its runs, best first."""
        scores = {model: np.mean([run.metrics["val"][self.score] for run in found]) for model, found in self.runs.items()}
        return pd.Series(scores).sort_values(ascending=False, kind="stable")

    @property
    def chosen(self) -> str:
        """The model with the highest mean score on validation: test images have no say in it."""
        return self.validation.index[0]

    @property
    def plan(self) -> str:
        """What the runs of a model differ in, as text for a caption: `3 training seeds` or `10 random subsets`."""
        leaky = ", LEAKY: split by image" if self.first.data["leaky"] else ""
        return count(self.trainings, "training seed" if self.one_split else "random subset") + leaky

    @property
    def band(self) -> str:
        """What a line by epoch and its band are, as text for a caption; nothing to tell of one training."""
        return "; line: mean, band: from the lowest to the highest" if self.trainings > 1 else ""

    @property
    def trainings(self) -> int:
        """Runs of each model."""
        return len(self.runs[self.models[0]])

    @property
    def over(self) -> str:
        """What the intervals of differences are over, as text for a caption."""
        if not self.one_split:
            return "over random subsets, corrected for their overlap"
        alone = "over patients, of these trained networks only: with one training of each there is no verdict on recipes"
        return "over patients and training seeds" if self.trainings > 1 else alone

    @property
    def untrained(self) -> list[str]:
        """The models that validation does not show to have learnt anything."""
        raise NotImplementedError

    @property
    def fewest(self) -> tuple[str | int, ...]:
        """What the scores rest on, for `few_told`: patients on test, of the rarer class; images, where the set names none."""
        raise NotImplementedError

    @property
    def banner(self) -> str:
        """Warnings, in markdown, of models that are `untrained` and of few patients; empty where there is neither."""
        return "\n\n".join(filter(None, [self.unlearnt, few_told(*self.fewest)]))

    @property
    def unlearnt(self) -> str:
        """A warning, in markdown, where some models are `untrained`; empty where none is."""
        what = f"{listed(self.untrained)}: on validation not shown to be better than {self.blind}"
        told = f"> **Not shown to have learnt.** {what}, so that no verdict rests on them. More EPOCHS or patients may show it."
        return told if self.untrained else ""

    def paired(self, compare: Callable[[str, str], Comparison]) -> pd.DataFrame:
        """Every pair of models, best on validation first, by one test and after Holm.

        Args:
            compare: maps two models to their `Comparison`. Where `untrained` models make it noise its p-value is taken away, and
                `note` says why.

        Returns:
            a row a pair: `first`, `second`, `difference` (`Comparison`, first − second), `p_holm`, and `differs`, below 0.05.
        """
        pairs = list(combinations(self.validation.index, 2))
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
        of an answer; pairs: of `paired`. score: as it is called."""
        if not len(pairs):
            return "Alone it cannot be ranked."
        pair, found = pairs.iloc[0], pairs.iloc[0]["difference"]
        told = f"Its {score} less that of **{pair['second']}**, next on validation, is {told_difference(found)}"
        if np.isnan(pair["p_holm"]):
            how = "; SEEDS asks for more" if found.note == ONE_TRAINING else ""
            return f"{told} ({self.over.partition(':')[0]}). This run cannot say whether the recipes differ: {found.note}{how}."
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
        """Images of the first run, as text: `48 train, 16 val, 16 test`."""
        return ", ".join(f"{count} {side}" for side, count in self.first.data["images"].items())

    def history(self) -> pd.DataFrame:
        """The histories of all runs: `model`, `seed`, `epoch` and their columns."""
        runs = [(model, run) for model, found in self.runs.items() for run in found]
        tables = [run.history.reset_index().assign(model=model, seed=run.config.seed) for model, run in runs]
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """`parameters` (millions), `latency_ms` (of one image of the run's input on this machine's CPU), `images_per_second` in
        training, `weights` it started from; a row a model."""
        rows = {}
        for model, found in self.runs.items():
            network = found[0].load_model()
            rows[model] = {
                "parameters": parameter_count(network) / 1e6,
                "latency_ms": latency(network, found[0].data["input"]),
                "images_per_second": float(np.mean([run.environment.get("images_per_second") or np.nan for run in found])),
                "weights": found[0].data["weights"],
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
