"""What decides numbers beside the code's own names: versions of packages, and the commit that the sources are at."""

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata

from thyroid_utils.common import paths


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
