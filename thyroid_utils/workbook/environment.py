"""What a report says about where it was made (versions, commit, hardware), and what it must not say: a path of the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
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
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # a cluster's own may go by another name
            versions[package] = metadata.version(package)
    return {"versions": versions, "commit": commit(), "hardware": hardware()}


def commit() -> str | None:
    """Twelve hexadecimal digits and whether files were changed since; None where the project is no git checkout with a commit."""
    if not (paths.project_root() / ".git").exists():
        return None
    return _answer(
        "git", "--no-optional-locks", "-C", str(paths.project_root()),
        "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= with uncommitted changes",
    )  # fmt: skip


def hardware() -> str:
    """Processor, usable cores, memory and the NVIDIA GPUs that `nvidia-smi` names, as a phrase."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(errors="replace"), re.M) if cpuinfo.is_file() else None
    processor = named.group(1) if named else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpus = _answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    told = ", ".join(gpus.splitlines()) if gpus else "no GPU"
    return f"{processor}, {cores} core{'s' * (cores != 1)}, {memory:.1f} GB memory, {told}, {platform.system()}"


def _answer(*command: str) -> str | None:
    """What a program prints; None where it is not there, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


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
