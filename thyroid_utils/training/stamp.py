"""Where and with what a run was trained: numbers of another machine may differ in the last digits, and this says why."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

import torch

from thyroid_utils import paths

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scikit-learn", "opencv-python-headless")


def environment_stamp(device: torch.device, precision: str, devices: int, seconds: float, images: int) -> dict[str, Any]:
    """Versions, device, precision, threads, commit, and how fast it went; no host or user name.

    Args:
        device, precision, devices: what it was trained on.
        seconds: spent on the epochs, validation included.
        images: seen in training.
    """
    return {
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "devices": devices,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 2) if seconds else None,
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
