"""What is made once and found again: plain values and folders of files, named by what decides them, whole or absent.

What a folder holds is written down when it is finished (`seal`): the SHA-256 of each file with its size and dates. A file is
read again only where size or dates are others, as after a copy; so a change is noticed and a look costs next to nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, cache_errors
from thyroid_utils.common.files import file_hash, write_text

MARK = "complete.json"
_SETTLED_NS = 2_000_000_000  # a file changed more recently than this may change again within its date's grain


def content_key(*content: Any) -> str:
    """32 hexadecimal digits that name plain values (what JSON holds): the beginning of their SHA-256.

    >>> content_key("plain", {"size": 224, "seed": 0}) == content_key("plain", {"seed": 0, "size": 224})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def cached(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """`make()` as JSON holds it (tuples as lists), or what it gave an earlier time for the same key.

    Kept in `kind/key.json` of the cache folder with its own hash: a file that was damaged or edited is made again, and where none
    can be written the value is made each time.

    Args:
        kind: a folder's name.
        key: what decides the value, by `content_key`.
    """
    path = paths.cache_dir() / kind / f"{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if content_key(kept["value"]) == kept["sha256"]:
            return kept["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    value = json.loads(json.dumps(make()))
    with suppress(OSError):
        write_text(path, json.dumps({"value": value, "sha256": content_key(value)}))
    return value


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` now or an earlier time.

    Of two processes that ask at once one makes it and the other waits. One that is killed leaves nothing that is taken for whole,
    and what is damaged is made again. A finished folder is not written to, so it may be read-only.

    Args:
        folder: its name tells what decides the content.
        make: fills the empty folder it is given, which then gets the name.

    Raises:
        DataError: a folder that cannot be written, or a full disk. Nothing half-made stays.
    """
    if broken_seal(folder) is None:
        return folder
    with cache_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if broken_seal(folder) is not None:
                _make(folder, make)
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    for left_behind in [*folder.parent.glob(f".{folder.name}-*"), folder]:
        shutil.rmtree(left_behind, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(6)}")
    temporary.mkdir()
    try:
        make(temporary)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        seal(temporary, [path.relative_to(temporary).as_posix() for path in files])
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def seal(folder: Path, names: Iterable[str], **told: Any) -> None:
    """Write the mark that a folder is finished: these files as they are now, and what else is told."""
    files = {name: {"sha256": file_hash(folder / name), "state": _state(folder / name)} for name in names}
    mark = {**told, "files": files}
    write_text(folder / MARK, json.dumps({**mark, "key": content_key(mark)}, indent=2))


def broken_seal(folder: Path) -> str | None:
    """What is wrong with a folder, beginning with the file's name; None where all is as it was sealed."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        if mark.pop("key") != content_key(mark):
            return f"{MARK} was changed after it had been finished"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{MARK} cannot be read"
    for name, sealed in mark["files"].items():
        try:
            if _state(folder / name) != sealed["state"] and file_hash(folder / name) != sealed["sha256"]:
                return f"{name} was changed after it had been finished"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def file_hashes(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by path, remembered in `file_hashes.json` of the cache folder.

    A hash holds while size, inode and dates of its file are the same, and is remembered only where the file had been left alone
    for two seconds, because a later change within the grain of the clock would be invisible. On a file system that keeps no such
    dates a change of equal length can be missed; delete the cache folder after one.

    Raises:
        DataError: a file that is missing or cannot be read.
    """
    record = paths.cache_dir() / "file_hashes.json"
    remembered, fresh, found = _read_hashes(record), {}, {}
    for path in dict.fromkeys(files):
        name = os.path.abspath(path)
        try:
            state = _state(Path(path))
            known, found[path] = remembered.get(name, (None, ""))
            if known != state:
                found[path] = file_hash(path)
                if _state(Path(path)) == state and time.time_ns() - max(state[2:]) > _SETTLED_NS:
                    fresh[name] = [state, found[path]]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); restore it or drop its row") from None
    if fresh:
        with suppress(OSError):  # the record only saves time
            write_text(record, json.dumps(remembered | fresh))
    return found


def _read_hashes(record: Path) -> dict[str, list]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {path: entry for path, entry in content.items() if len(entry) == 2 and len(entry[1]) == 64}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # absent or damaged
        return {}


def _state(path: Path) -> list[int]:
    """Size, inode and dates: of modification, and of change, which unlike the former cannot be set back."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
