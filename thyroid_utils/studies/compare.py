"""What studies share that train networks and compare them: settings from the parameters of a notebook, labels of runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from thyroid_utils.common.config import ConfigError, SplitConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.training.ledger import Run

# Parameter of a notebook → the field of `RunConfig` that it decides.
_FIELDS = {
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
        prefix: of a part with parameters of its own, "SEGMENTER_": these win over those without it. What belongs to one task
            (loss, class balance) is then not taken over; a segmentation loss is `bce_dice` where none is named.
        other: parameters that are given here instead of in the notebook's cell.
    """
    known = {**parameters, **other}
    settings: dict[str, Any] = {"task": task, "split": {"seed": known["SEEDS"][0]}, "training": {"monitor": _MONITORED[task]}}
    if task != "classification":
        settings["loss"] = {"name": "bce_dice"}
    for name, (*group, field) in _FIELDS.items():
        own = [prefix + name, prefix + _PREFIXED.get(name, name)] if prefix else []
        taken_over = not prefix or name in other or name not in _OF_ONE_TASK
        given = [known[found] for found in [*own, *[name] * taken_over] if found in known]
        if given:
            place = settings.setdefault(group[0], {}) if group else settings
            place[field] = given[0] or None if name in ("DATA_ROOT", "PATIENCE") else given[0]
    return settings


def options_of(models: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Model → options of its builder, in the order of `models`.

    Raises:
        ConfigError: options of a model that is not compared.
    """
    for name in options or {}:
        if name not in models:
            raise ConfigError("model.options", f"are given for {name}, which is not compared; known: {', '.join(models)}")
    return {name: dict((options or {}).get(name, {})) for name in models}


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


def short_labels(runs: Mapping[str, list[Run]]) -> dict[str, list[Run]]:
    """Runs by label, options left out of a label ("tversky (alpha 0.3, beta 0.7)") where its name alone is unique."""
    names = [label.partition(" (")[0] for label in runs]
    return {name if names.count(name) == 1 else label: found for name, (label, found) in zip(names, runs.items(), strict=True)}


def started_from(runs: Mapping[str, list[Run]]) -> str:
    """What models started from, as text for a caption: `all from scratch`, or each by its name."""
    weights = {model: found[0].data["weights"] for model, found in runs.items()}
    kinds = set(weights.values())
    return f"all {kinds.pop()}" if len(kinds) == 1 else ", ".join(f"{model} {kind}" for model, kind in weights.items())


def leak_mark(runs: Mapping[str, list[Run]]) -> str:
    """What a caption says of scores that are too good: `, LEAKY: split by image`; nothing of a split by patient."""
    leaky = any(run.data["leaky"] for found in runs.values() for run in found)
    return ", LEAKY: split by image" if leaky else ""


def latency(network: torch.nn.Module, shape: Sequence[int], repeats: int = 7) -> float:
    """Milliseconds of a forward pass of one image (channels, height, width) on the CPU: the median of `repeats`, after one that
    warms up."""
    image = torch.zeros(1, *shape)
    spent = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            network(image)
            spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent[1:])
