"""What training works with beside data and network, and its state after an epoch: device, optimiser, schedule, checkpoint."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler

from thyroid_utils.common.config import ConfigError, OptimiserConfig, TrainingConfig
from thyroid_utils.common.files import atomic_path
from thyroid_utils.training.ledger import STATE

Schedule = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau | None


def choose_device(config: TrainingConfig) -> torch.device:
    """The device that a config asks for; "auto" is a GPU where there is one.

    Raises:
        ConfigError: a GPU where there is none, or more of them than there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cuda" and not gpus:
        raise ConfigError("training.device", "must be auto or cpu on a machine without a GPU that PyTorch can use; found 'cuda'")
    if config.device == "cpu" or not gpus:
        return torch.device("cpu")
    if config.devices > gpus:
        raise ConfigError("training.devices", f"must be a whole number from 1 to {gpus}, the GPUs here; found {config.devices}")
    return torch.device("cuda")


def device_name(device: torch.device) -> str:
    """The name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_precision(precision: str, device: torch.device) -> str:
    """Lightning's name of a precision; "auto" is bf16 on GPUs that have it in hardware and float32 elsewhere."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "32"
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms inside, and torch's settings and random state as they were afterwards.

    A CPU computes the same numbers again with the same number of threads; another number adds up in another order. On a GPU
    the few operations without a deterministic form are let through.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True, warn_only=on_gpu)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a search for bugs, which costs time
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark


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


@dataclass
class Standing:
    """How far a run is. epoch: epochs finished; history: a row each; waited: epochs since the best one; best_value: the
    monitored value at `best_epoch`; stopped: by early stopping; seconds, images: spent on and seen in training; stretches:
    device, version of torch, and the first and last epoch trained with them."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    waited: int = 0
    stopped: bool = False
    seconds: float = 0.0
    images: int = 0
    stretches: list[dict[str, Any]] = field(default_factory=list)

    def note_stretch(self, device: str) -> None:
        """Count the epoch just finished to the last stretch, or begin one where the device or the version has changed."""
        here = {"device": device, "torch": str(torch.__version__)}
        if not self.stretches or {**self.stretches[-1], **here} != self.stretches[-1]:
            self.stretches.append({**here, "epochs": [self.epoch, self.epoch]})
        self.stretches[-1]["epochs"][1] = self.epoch


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch: the network's tensors then and at the best epoch, and those of optimiser and schedule.

    Random numbers need no state: they are drawn from (seed, epoch), not from what was drawn before.
    """

    standing: Standing
    network: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any] | None


class CheckpointDamaged(RuntimeError):
    """A state to resume from that is there and cannot be used."""


def write_checkpoint(folder: Path, state: Checkpoint) -> None:
    """Keep a state in place of the one before, in one step: a process killed at any moment leaves one whole state."""
    content = io.BytesIO()
    torch.save({**vars(state), "standing": asdict(state.standing)}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    head = json.dumps({"epoch": state.standing.epoch, "sha256": digest})
    with atomic_path(folder / STATE) as temporary, temporary.open("wb") as stream:
        stream.write(head.encode() + b"\n")
        stream.write(content.getbuffer())


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The state that was kept last, or None where there is none. Nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointDamaged: it cannot be read, or is not what was written.
    """
    if not (folder / STATE).exists():
        return None
    try:
        with (folder / STATE).open("rb") as stream:
            head, content = stream.readline(), stream.read()
        if hashlib.sha256(content).hexdigest() != json.loads(head)["sha256"]:
            raise ValueError("its content is not what was written")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return Checkpoint(**{**found, "standing": Standing(**found["standing"])})
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointDamaged(f"{folder / STATE}: {error}") from None
