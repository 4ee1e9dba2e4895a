"""What an epoch leaves and the next one begins with: device, precision, and the state that a killed run goes on from."""

import hashlib
import io
import json
import os
import pickle
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from thyroid_utils.common.config import ConfigError, TrainingConfig
from thyroid_utils.common.files import atomic_path
from thyroid_utils.common.machine import commit, versions
from thyroid_utils.training.ledger import STATE


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
    """ "bf16-mixed" or "32-true"; "auto" is bf16 on GPUs that have it in hardware and float32 elsewhere."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "32"
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


@contextmanager
def repeatable(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Deterministic algorithms inside, on a GPU where they are asked for, and torch's settings and random state as they were
    afterwards.

    A CPU computes the same numbers again with the same number of threads; another number adds up in another order. On a GPU
    the few operations without a deterministic form are let through.
    """
    on_gpu = device.type == "cuda"
    if on_gpu and deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(deterministic or not on_gpu, warn_only=on_gpu)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a search for bugs, which costs time
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark


@dataclass
class State:
    """Where training stands after an epoch. Random numbers need no state: they are drawn from (seed, epoch).

    epoch: epochs finished; history: a row each; best_value: the monitored value at `best_epoch`; waited: epochs since then;
    stopped: by early stopping; seconds, images: spent on and seen in training; network, best: tensors now and at the best epoch.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    waited: int = 0
    stopped: bool = False
    seconds: float = 0.0
    images: int = 0
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] | None = None


class StateDamaged(RuntimeError):
    """A state to resume from that is there and cannot be used."""


def write_state(folder: Path, state: State) -> None:
    """Keep a state in place of the one before, in one step: a process killed at any moment leaves one whole state."""
    content = io.BytesIO()
    torch.save(vars(state), content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    with atomic_path(folder / STATE) as temporary, temporary.open("wb") as stream:
        stream.write(json.dumps({"epoch": state.epoch, "sha256": digest}).encode() + b"\n")
        stream.write(content.getbuffer())


def read_state(folder: Path) -> State | None:
    """The state that was kept last, or None where there is none. Nothing but tensors and plain values is unpickled.

    Raises:
        StateDamaged: it cannot be read, or is not what was written.
    """
    if not (folder / STATE).exists():
        return None
    try:
        with (folder / STATE).open("rb") as stream:
            head, content = stream.readline(), stream.read()
        if hashlib.sha256(content).hexdigest() != json.loads(head)["sha256"]:
            raise ValueError("its content is not what was written")
        return State(**torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise StateDamaged(f"{folder / STATE}: {error}") from None


_PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scikit-learn", "opencv-python-headless")


def environment_stamp(device: str, precision: str, devices: int) -> dict[str, Any]:
    """Where and with what a run was finished, as numbers of another machine may differ in the last digits: versions, device,
    precision, threads, commit, whether by deterministic algorithms; no host or user name."""
    return {
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
        "device": device,
        "devices": devices,
        "cuda": None if device == "cpu" else torch.version.cuda,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "commit": commit(),
    }
