"""Errors about data that a person can act on."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, or all of them."""
    known = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    return f"did you mean {known[close[0]]}?" if close else f"known: {', '.join(known.values()) or 'none'}"


class DataError(ValueError):
    """Something on disk is not as expected. The message says where, what was expected, what was found and what to do."""


class ImageError(DataError):
    """One image or mask file cannot be used. The message is one line that names the file and the remedy."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A file or folder that cannot be read as a DataError that says why."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one line: where, what was found, what to change."""


class ParameterError(ValueError):
    """A parameter file, option or notebook cannot be used as given. The message says where, what was found and what to do."""


class RunError(RuntimeError):
    """The run cannot start or go on. The message is one line that names the folder and the remedy."""
