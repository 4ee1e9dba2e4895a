"""What decides a preprocessed result: the bytes of the files and the code that computes.

The bytes are not read a second time. A file's SHA-256 is remembered with its path, size, inode, date of modification and date
of change (ctime, which unlike the former cannot be set back), and holds while all five are the same. It is remembered only
where the file had been left alone for two seconds, because a later change within the grain of the clock would be invisible.
On a file system that keeps no such dates a change of equal length can be missed; delete the cache folder after one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash, source_hash, write_text
from thyroid_utils.data import images, overlays

_SETTLED_NS = 2_000_000_000  # a file changed more recently than this may change again within its date's grain
_HERE = Path(__file__).parent
_CODE = [Path(images.__file__), Path(overlays.__file__)]
_CODE += [_HERE / f"{name}.py" for name in ("base", "filters", "geometry", "nodule_crop", "pipeline", "steps")]


def store_root() -> Path:
    """The folder of everything that preprocessing keeps."""
    return paths.cache_dir() / "preprocessed"


@cache
def code_hash() -> str:
    """Hash of the modules that compute a preprocessed image, and the versions of OpenCV and NumPy."""
    return f"{source_hash(_CODE)} {cv2.__version__} {np.__version__}"


_remembered: dict[str, list] = {}  # path → [size, inode, mtime_ns, ctime_ns, hash]


def file_hashes(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 by path; remembered in memory and in `file_hashes.json` by the rule above.

    Raises:
        DataError: a file that is missing or cannot be read.
    """
    record = store_root() / "file_hashes.json"
    states = {path: _state(path) for path in dict.fromkeys(files)}
    if any(_recall(path, state) is None for path, state in states.items()):
        _remembered.update(_read_record(record))
    found, fresh = {}, {}
    for path, state in states.items():
        known = _recall(path, state)
        if known is None:
            known = _hash(path)
            if _state(path) == state and time.time_ns() - max(state[2], state[3]) > _SETTLED_NS:
                fresh[os.path.abspath(path)] = [*state, known]
        found[path] = known
    if fresh:
        _remembered.update(fresh)
        # The record only saves time: where it cannot be written the files are hashed again next time.
        with contextlib.suppress(OSError):
            record.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(record.with_suffix(".lock")):
                write_text(record, json.dumps(_read_record(record) | fresh))
    return found


def _state(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it or drop its row") from None
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _hash(path: str) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it or drop its row") from None


def _recall(path: str, state: list[int]) -> str | None:
    entry = _remembered.get(os.path.abspath(path))
    return entry[4] if entry is not None and entry[:4] == state else None


def _read_record(record: Path) -> dict[str, list]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {path: entry for path, entry in content.items() if len(entry) == 5 and len(entry[4]) == 64}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
