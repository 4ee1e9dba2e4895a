"""Optimisers and schedules by name, and the weights of the classes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch.optim import lr_scheduler

from thyroid_utils.common.config import OptimiserConfig

Schedule = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau | None


def build_optimiser(config: OptimiserConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over the parameters that can be trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        return torch.optim.SGD(trained, momentum=config.momentum, **shared)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](trained, **shared)


def build_schedule(config: OptimiserConfig, optimiser: torch.optim.Optimizer, epochs: int, steps: int, mode: str) -> Schedule:
    """The schedule of the learning rate, None for a constant one.

    Args:
        epochs: of the whole run.
        steps: of one epoch.
        mode: "min" or "max": what is better in the monitored value (plateau).
    """
    if config.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    if config.schedule == "one_cycle":
        # Momentum stays what the config says; cycling it as well would train with a number that no one wrote down.
        return lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=epochs * steps, cycle_momentum=False)
    if config.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimiser, mode=mode, factor=0.1, patience=2, threshold=0.0)
    return None


def step_after_batch(schedule: Schedule) -> None:
    """Go on by one step, where the schedule counts steps."""
    # The last step of all has been taken when the last batch ends; one more is not in the cycle.
    if isinstance(schedule, lr_scheduler.OneCycleLR) and schedule.last_epoch + 1 < schedule.total_steps:
        schedule.step()


def step_after_epoch(schedule: Schedule, monitored: float) -> None:
    """Go on by one epoch, where the schedule counts epochs."""
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        schedule.step(monitored)
    elif schedule is not None and not isinstance(schedule, lr_scheduler.OneCycleLR):
        schedule.step()


def class_weights(labels: np.ndarray, classes: int = 2) -> torch.Tensor:
    """n / (classes · n of the class): float32 (classes,), so that every class weighs the same in the sum."""
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)
