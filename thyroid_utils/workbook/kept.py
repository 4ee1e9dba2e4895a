"""What a finished report was made from: where nothing of it has changed, the report is kept and not made again."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import thyroid_utils
from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError
from thyroid_utils.common.files import MARK, content_key, file_hash
from thyroid_utils.training.ledger import RunDamaged, find_run


def surroundings() -> str:
    """A name for what every notebook is run by: each file of the package, Python, and the version of every installed library."""
    files = (path for path in Path(thyroid_utils.__file__).parent.rglob("*") if "__pycache__" not in path.parts)
    libraries = sorted(f"{found.name} {found.version}" for found in metadata.distributions())
    return content_key(_hashes(files), sys.version, libraries)


def sources(notebook: Path, values: dict[str, Any], *others: Any) -> str:
    """A name for what a notebook begins with: its file, pictures that lie beside it, the values of its parameters, and whatever
    lies where one of these names a file or folder, by size and dates. `others`: what else counts, as plain values."""
    beside = (path for path in notebook.parent.iterdir() if path == notebook or path.suffix != ".ipynb")
    places = (os.path.join(paths.project_root(), os.path.expanduser(text)) for text in _texts(values) if text)
    named = [_state(place) for place in places if os.path.exists(place)]
    return content_key(_hashes(beside), repr(values), named, others)


def made_of(source: str, runs: Iterable[str]) -> list[str] | None:
    """`source` with what tells each run of the ledger from one made again; None where a run is missing or damaged, which is
    never the same as anything."""
    try:
        found = [find_run(run) for run in runs]
    except (ParameterError, RunDamaged):
        return None
    return None if None in found else [source, *(file_hash(run.folder / MARK) for run in found)]


def _hashes(files: Iterable[Path]) -> list[list[str]]:
    return [[str(path), file_hash(path)] for path in sorted(files) if path.is_file()]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _state(place: str) -> list[list[Any]]:
    """Size and dates of every file at or below a place; folders behind links too, each once."""
    files, seen = [place] if os.path.isfile(place) else [], {os.path.realpath(place)}
    for folder, below, names in os.walk(place, followlinks=True):
        inside = {os.path.realpath(os.path.join(folder, name)): name for name in below}
        below[:] = [name for real, name in sorted(inside.items()) if real not in seen]
        seen.update(inside)
        files += [os.path.join(folder, name) for name in names]
    states = []
    for file in sorted(files):
        with suppress(FileNotFoundError):  # a link to nothing, or removed this moment
            found = os.stat(file)
            states.append([file, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns])
    return states
