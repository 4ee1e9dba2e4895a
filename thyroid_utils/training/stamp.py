"""Where and with what a run was trained: numbers of another machine may differ in the last digits, and this says why."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

import torch

from thyroid_utils.common import paths
from thyroid_utils.training.checkpoint import TrainingProgress

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scikit-learn", "opencv-python-headless")


def device_name(device: torch.device) -> str:
    """The name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def environment_stamp(device: torch.device, precision: str, devices: int, progress: TrainingProgress) -> dict[str, Any]:
    """Versions, device, precision, threads, commit, and how fast it went; no host or user name.

    Args:
        device, precision, devices: what the run was finished on; where it was resumed, `stretches` says on what each epoch was.
        progress: of the whole run.
    """
    return {
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "device": device_name(device),
        "devices": devices,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "stretches": progress.stretches,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.images / progress.seconds, 2) if progress.seconds else None,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that the sources are at, None outside a git checkout."""
    if shutil.which("git") is None or not (paths.project_root() / ".git").exists():
        return None
    command = ["git", "-C", str(paths.project_root()), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() or None
