"""What a report says about where it was made (versions, commit, hardware), and what it must not say: a path of the machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import thyroid_utils
from thyroid_utils.common import paths

_PACKAGES = ("thyroid-utils", "torch", "torchvision", "numpy", "pandas", "scikit-learn", "scikit-image", "opencv-python-headless",
             "segmentation-models-pytorch", "matplotlib", "papermill")  # fmt: skip

_LEFT_ALONE = ("image/png", "image/jpeg", "image/webp", "application/pdf")  # base64, which could hold a path only by accident


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


class Scrubber:
    """Replaces absolute paths of this machine in text, and in the strings of anything that JSON can hold.

    Files of the project become project-relative, the home becomes `~`; `private` folders (data, output), the environment and the
    temporary folder keep their last name: `…/data/ddti`.
    """

    def __init__(self, private: Iterable[str | Path] = ()) -> None:
        shown_as: dict[str, str] = {}
        home = Path.home()  # its last name is a person's
        for folder in [home, sys.prefix, sys.base_prefix, tempfile.gettempdir(), paths.cache_dir(), *private]:
            for known in (os.path.abspath(folder), os.path.realpath(folder)):
                if len(Path(known).parts) > 1:
                    shown_as[known] = "~" if folder == home else f"…/{Path(known).name}"
        checkout = Path(thyroid_utils.__file__).parents[1]  # where the package lies, not always the project that it serves
        project = {str(folder) for root in (paths.project_root(), checkout) for folder in (root, os.path.realpath(root))}
        longest_first = sorted([*shown_as, *project], key=len, reverse=True)
        self._shown_as = shown_as
        # Whole names only: /data/set is not /data/settings. The colour codes of tracebacks end in a digit and m.
        names = "|".join(re.escape(path) for path in longest_first)
        self._pattern = re.compile(rf"(?:(?<![\w.…~-])|(?<=\dm))({names})(?:(/)|(?![\w-]|\.\w))")

    def text(self, text: str) -> str:
        return self._pattern.sub(self._replacement, text) if "/" in text else text

    def _replacement(self, match: re.Match[str]) -> str:
        path, slash = match.group(1), match.group(2) or ""
        if path in self._shown_as:
            return self._shown_as[path] + slash
        return "" if slash else f"…/{Path(path).name}"

    def anything(self, value: Any) -> Any:
        """`value` with every string scrubbed, keys included; dicts and lists become new ones of the same kind."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            cleaned = {self.text(key) if isinstance(key, str) else key: inner if key in _LEFT_ALONE else self.anything(inner)
                       for key, inner in value.items()}  # fmt: skip
            return type(value)(cleaned)
        if isinstance(value, list | tuple):
            return type(value)(self.anything(inner) for inner in value)
        return value
