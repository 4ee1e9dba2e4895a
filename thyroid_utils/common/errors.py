"""Errors about data that a person can act on."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What finished runs may name and is no more → what to train with instead.
_REMOVED = dict.fromkeys(("median", "lee", "srad", "bilateral", "nonlocal_means"), "gaussian, or without a filter,")
_REMOVED |= dict.fromkeys(("smooth", "per_image", "dice_weight"), "the loss's fixed value, without the option,")


def nearest(name: str, known: Iterable[str], nothing: str = "known: none") -> str:
    """The end of an error message about an unknown name: that it was removed, the nearest known one, or all; nothing: of none."""
    if name in _REMOVED:
        return f"it was removed; train with {_REMOVED[name]} instead"
    known = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    return f"did you mean {known[close[0]]}?" if close else f"known: {', '.join(known.values())}" if known else nothing


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
