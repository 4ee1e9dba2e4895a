"""What a report says about where it was made: versions, commit, hardware. Asks torch nothing, so that nothing heavy is loaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from thyroid_utils.common import paths

_PACKAGES = ("thyroid-utils", "torch", "torchvision", "numpy", "pandas", "scikit-learn", "scikit-image", "opencv-python-headless",
             "segmentation-models-pytorch", "matplotlib", "papermill")  # fmt: skip


def describe() -> dict[str, Any]:
    """Versions of Python and the packages that decide numbers, the commit of the project, the hardware; no host or user name."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any] | None:
    """`{"id": 40 hexadecimal digits, "dirty": bool}`, or None where the project is no git checkout with a commit."""
    if shutil.which("git") is None or not (paths.project_root() / ".git").exists():
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess:
        command = ["git", "-C", str(paths.project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return None
    return {"id": head.stdout.strip(), "dirty": bool(git("status", "--porcelain", "--untracked-files=no").stdout.strip())}


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GB and the NVIDIA GPUs that `nvidia-smi` names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "memory_gb": _memory_gb(), "gpus": _gpus(), "system": platform.system()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []
