"""Files whole or absent: written, named by what decides them, made once and found again.

An interruption, a full disk or a second process never leaves half of one. What a folder holds is written down when it is finished
(`seal`): the SHA-256 of each file with its size and dates. A file is read again only where size or dates are others, as after a
copy; so a change is noticed and a look costs next to nothing. What a disk itself corrupts keeps its dates and is not noticed:
hashing takes eight times as long as reading a store of images once (0.7 ms a MB), a checksum four times. Delete the cache folder
where you doubt a disk.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MARK = "complete.json"
_SCRATCH, _HELD = "thyroid-workbook-", ".held"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, larger than files may be here
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# A sign in front of digits is a number's, unless what follows calls a function or a program, as in -1+cmd|'/C calc'!A0
_FORMULA = re.compile(r"\s*[=@]|[\t\r\n]|\s*[+-](?!\d[^(|!]*$)", re.DOTALL)
_COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_ENTRY = re.compile(r"(.+\.hdf5)::(\w+)\[(\d+)\]", re.DOTALL)
_SETTLED_NS = 2_000_000_000  # a file changed more recently than this may change again within its date's grain


class InMemory:
    """Bytes that are read as a file is, without a name that could name a patient.

    Has what readers of images ask of a `Path`; its text is "the image".
    """

    suffix, name = "", "the image"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self._content)

    def is_file(self) -> bool:
        return True

    exists = is_file


File = Path | InMemory


def as_file(path: str | File) -> File:
    """A path as a `Path`; bytes in memory as they are."""
    return path if isinstance(path, InMemory) else Path(path)


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` when the block ends well, and is removed when it does not.

    Raises whatever the block raises; `target` is then what it was before. A full disk is an OSError that names `target`.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(6)}{target.suffix}")
    # Not by tempfile, whose files are private: giving them an ordinary file's rights would mean lifting the umask of all threads.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            remedy = "no space left to write it; free some and run again (what was there before is unchanged)"
            raise OSError(error.errno, remedy, str(target)) from None
        raise


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder among the system's temporary ones, for this block.

    What processes that were killed have left is removed: folders of this user with a lock in them that nobody holds."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*/{_HELD}"):
        with suppress(OSError, Timeout):
            if 0 <= time.time() - left.stat().st_mtime < 1:
                continue  # made this moment, and about to be held
            with FileLock(left, timeout=0):
                if not left.parent.is_symlink() and left.parent.stat().st_uid == os.getuid():
                    shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, ignore_cleanup_errors=True) as folder, FileLock(Path(folder, _HELD)):
        yield Path(folder)


def remove_temporaries(folder: Path) -> None:
    """Remove what processes that were killed inside `atomic_path` have left in a folder that none of them writes to now."""
    for path in folder.glob(f".*-{'[0-9a-f]' * 12}.*"):
        path.unlink()


def write_bytes(target: str | Path, content: bytes) -> Path:
    """Write `content` to `target` atomically and return the path."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return Path(target)


def write_text(target: str | Path, content: str) -> Path:
    """Write `content` as UTF-8 to `target` atomically and return the path."""
    return write_bytes(target, content.encode("utf-8"))


def as_cell(text: str) -> str:
    """Text of a CSV file that is read back: no spreadsheet takes it for a formula, for what could be one has an apostrophe before
    it (as has what begins with one), and it is UTF-8, which names of files need not be."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(_COMPUTED) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` was given."""
    return text.removeprefix("'")


def csv_text(table: pd.DataFrame, *, hyphens: bool = False, **options: Any) -> str:
    """A table as CSV for people's spreadsheets: text that they would take for a formula has an apostrophe before it.

    For tables of names that users give; a file that is read back is written as it is.

    hyphens: whether the minus of a number within text, "−", becomes "-", which programs read.
    options: of `DataFrame.to_csv`.
    """

    def safe(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = re.sub(r"−(?=\d)", "-", value) if hyphens else value
        value = value.replace("\r", "\n")  # which pandas would not quote
        return f"'{value}" if _FORMULA.match(value) else value

    columns = table.apply(lambda column: column.map(safe) if column.dtype.kind == "O" else column)
    return columns.rename(index=safe, columns=safe).to_csv(lineterminator="\n", **options)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. OSError also for what is no plain file: a pipe would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "a folder, a pipe or a device, not a file", str(path))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hdf5_entry(path: str | Path) -> tuple[str, str, int] | None:
    """File, array and position of a path such as `dataset.hdf5::image[12]`, a frame within an HDF5 file; None of other paths."""
    entry = _ENTRY.fullmatch(str(path))
    return (entry[1], entry[2], int(entry[3])) if entry else None


def file_of(path: str | Path) -> str:
    """The file on disk that holds what a path names: the path itself, or the HDF5 file of its entry."""
    entry = hdf5_entry(path)
    return entry[0] if entry else str(path)


def source_hash(modules: Iterable[str | Path]) -> str:
    """SHA-256 of what Python files compute: of their syntax trees, so that comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse(Path(module).read_bytes())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


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
    value = _kept(path)
    if value is None:
        value = json.loads(json.dumps(make()))
        _keep(path, value)
    return value


def _kept(path: Path) -> Any:
    """A value that was kept; None where there is none, or it was damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["value"] if content_key(kept["value"]) == kept["sha256"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _keep(path: Path, value: Any) -> None:
    with suppress(OSError):  # it only saves time
        write_text(path, json.dumps({"value": value, "sha256": content_key(value)}))


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
    with _cache_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if broken_seal(folder) is not None:
                _make(folder, make)
    return folder


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """A full disk or a cache folder that cannot be written as a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            told = "the disk is full; free some space or set THYROID_WORKBOOK_CACHE to another disk"
        elif error.errno in _UNWRITABLE:
            told = f"the cache folder cannot be written ({error.strerror}); set THYROID_WORKBOOK_CACHE to one that can"
        else:
            raise
        raise DataError(f"{folder}: {told}") from None


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
    """SHA-256 of files by path, remembered in `file_hashes.json` of the cache folder. Of an HDF5 file's entry
    it is that of the file with the entry behind it.

    A hash holds while size, inode and dates of its file are the same, and is remembered only where the file had been left alone
    for two seconds, because a later change within the grain of the clock would be invisible. On a file system that keeps no such
    dates a change of equal length can be missed; delete the cache folder after one.

    Raises:
        DataError: a file that is missing or cannot be read.
    """
    record = paths.cache_dir() / "file_hashes.json"
    remembered, fresh, found = _kept(record) or {}, {}, {}
    held = {path: file_of(path) for path in files}
    for path in dict.fromkeys(held.values()):
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
        _keep(record, remembered | fresh)
    return {path: found[file] + path.removeprefix(file) for path, file in held.items()}


def _state(path: Path) -> list[int]:
    """Size, inode and dates: of modification, and of change, which unlike the former cannot be set back."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
