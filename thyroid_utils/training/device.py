"""What a network is trained on, and how its arithmetic is kept repeatable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thyroid_utils.common.config import ConfigError, TrainingConfig


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


def choose_precision(precision: str, device: torch.device) -> str:
    """Lightning's name of a precision; "auto" is bf16 on GPUs that have it in hardware and float32 elsewhere."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if has_bf16 else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


@contextmanager
def repeatable(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Deterministic algorithms inside, and torch's settings and random state as they were afterwards.

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
        torch.backends.cudnn.benchmark = on_gpu and not deterministic
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark
