"""Writing files so that an interruption, a full disk or a second process never leaves half of one."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, larger than files may be here


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


def write_bytes(target: str | Path, content: bytes) -> Path:
    """Write `content` to `target` atomically and return the path."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return Path(target)


def write_text(target: str | Path, content: str) -> Path:
    """Write `content` as UTF-8 to `target` atomically and return the path."""
    return write_bytes(target, content.encode("utf-8"))


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
