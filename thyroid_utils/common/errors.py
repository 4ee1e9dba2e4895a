"""Errors about data that a person can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thyroid_utils.common.files import NO_SPACE

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class DataError(ValueError):
    """Something on disk is not as expected. The message says where, what was expected, what was found and what to do."""


class ImageError(DataError):
    """One image or mask file cannot be used. The message is one line that names the file and the remedy."""


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """A full disk or a cache folder that cannot be written as a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(
                f"{folder}: the disk is full; free some space or set THYROID_WORKBOOK_CACHE to another disk"
            ) from None
        if error.errno in _UNWRITABLE:
            raise DataError(
                f"{folder}: the cache folder cannot be written ({error.strerror}); set THYROID_WORKBOOK_CACHE to one that can"
            ) from None
        raise
