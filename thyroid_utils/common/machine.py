"""The machine and what is installed on it: versions of packages, the commit that the sources are at, and how memory is kept."""

import ctypes
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from thyroid_utils.common import paths

_INT8 = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package → version, of those that are installed: a cluster's own, and some of OpenCV's, go by another name."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def commit() -> str | None:
    """Twelve hexadecimal digits and whether files were changed since; None where the project is no git checkout with a commit."""
    if not (paths.project_root() / ".git").exists():
        return None
    return answer(
        "git", "--no-optional-locks", "-C", str(paths.project_root()),
        "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= with uncommitted changes",
    )  # fmt: skip


def answer(*command: str) -> str | None:
    """What a program prints; None where it is not there, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def int8_instructions() -> str:
    """What the processor has to multiply bytes with, as text: `avx512_vnni`, `none of its own`; "not known" where Linux does not
    tell it."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return "not known"
    return ", ".join(name for name in _INT8 if name in told) or "none of its own"


@cache
def keep_freed_memory() -> None:
    """Have this process keep memory that it frees, up to 2 GiB, where its allocator is glibc's; elsewhere nothing happens.

    Otherwise large arrays of a step are given back and fetched anew, cleared by the kernel, in the next: 3 to 9 % of a step in
    training, a sixth for small networks. Numbers do not change.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # musl's has no such settings
            allocator = ctypes.CDLL(None)
            if allocator.mallopt(-3, 2**30):  # M_MMAP_THRESHOLD, bytes; older glibc refuses more than 32 MiB
                allocator.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD; alone it would stop the other from growing by itself
