"""What studies share that train networks and compare them: settings from the parameters of a notebook, labels of runs."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import TooFewPatients
from thyroid_utils.models.libraries import LITE0
from thyroid_utils.models.networks import architecture
from thyroid_utils.training.data import split_data

# Parameter of a notebook → the field of `RunConfig` that it decides.
FIELDS = {
    "DATASET": ("data", "dataset"),
    "DATA_ROOT": ("data", "root"),
    "DATA_OPTIONS": ("data", "options"),
    "SPLIT_BY": ("split", "by"),
    "RATIOS": ("split", "ratios"),
    "FOLDS": ("split", "folds"),
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
    "COMPILE": ("training", "cuda_graph"),
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
            leaves DATA_OPTIONS, a SEGMENTER_LEARNING_RATE of 0 LEARNING_RATE). What belongs to one task (loss, class balance)
            is then not taken over; a segmentation loss is `bce_dice` where none is named.
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
            if name in ("DATA_OPTIONS", "LEARNING_RATE"):
                place[field] = next(filter(None, given), given[-1])
            else:
                place[field] = given[0] or None if name in ("DATA_ROOT", "PATIENCE") else given[0]
    if settings["data"].get("options", {}).get("having"):
        settings["data"]["options"] = _options_that_count(json.dumps(settings["data"]))
    if settings["split"].get("folds"):
        asked = {name: settings[name] for name in ("task", "data", "split")}
        asked |= {"model": {"name": "any"}, "loss": {"name": "any"}}  # on which a split does not depend
        settings["split"]["folds"] = _possible_folds(json.dumps(asked), settings["split"]["folds"])
    return settings


@cache
def _options_that_count(data: str) -> dict[str, Any]:
    """A reader's options without a `having` that all cases meet: what was trained without it is then the same run."""
    asked = json.loads(data)
    source = asked["dataset"], asked.get("root")
    others = {name: value for name, value in asked["options"].items() if name != "having"}
    try:
        idle = len(load_cases(*source, **asked["options"])) == len(load_cases(*source, **others))
    except DataError:  # told where the data are needed
        idle = False
    return others if idle else asked["options"]


@cache
def _possible_folds(settings: str, folds: int) -> int:
    """So many folds, or 0, told with the reason, where the data have too few patients for them."""
    try:
        split_data(RunConfig(**json.loads(settings)))
    except TooFewPatients as error:
        print(f"FOLDS: {str(error).partition(';')[0]}; one split is used instead", flush=True)
        return 0
    except DataError:  # told where the data are needed
        pass
    return folds


def each_fold(split: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The split of the runs of one recipe and seed: itself, or one a fold where it has `folds`."""
    return [{**split, "fold": fold} for fold in range(split.get("folds", 0))] or [dict(split)]


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
    """One config a model, start, loss, seed and, where the split has folds, fold; equal in all else.

    Args:
        models: names of `models.CLASSIFIERS` or `models.SEGMENTERS`, `timm:NAME` or `smp:ARCH:ENCODER`.
        seeds: of the training; with `subsets` only the first is used.
        common: the other fields of `RunConfig` (`shared_settings`), `loss` among them unless `losses` are given.
        weights: what every model, or the encoder of every segmenter, starts from; "installed" is "imagenet" for those whose
            values come with the installation, and "none" for all others.
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
        source = _source(name, own) if weights in ("imagenet", "installed") else ""
        start = weights if weights != "installed" else "imagenet" if source == LITE0 else "none"
        alone = again and start == "imagenet" and not source
        starts = dict.fromkeys([start] * (not alone) + ["none"] * again)
        named += [{"name": name, "weights": start, "options": own} for start in starts]
    changes = [{}] if losses is None else [{"loss": {"name": name, "options": dict(own)}} for name, own in losses]
    split = dict(common.get("split", {}))
    plans = [{"seed": seed, "split": own} for seed in seeds for own in each_fold(split)]
    if subsets:
        plans = [{"seed": seeds[0], "split": {**split, "repeat": repeat}} for repeat in range(subsets)]
    return [RunConfig(**{**common, "model": model, **change, **plan}) for model in named for change in changes for plan in plans]


def _source(name: str, options: Mapping[str, Any]) -> str:
    """Whose ImageNet values a network takes; "" of an unknown one, which is told when it is built."""
    try:
        return architecture(name).source(options)
    except ValueError:
        return ""
