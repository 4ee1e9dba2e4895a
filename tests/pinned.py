"""What `test_pinned_numbers` stands on: where each function is, how a result is written down, and how two are compared."""

import dataclasses
import functools
import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import thyroid_utils

PACKAGE = Path(thyroid_utils.__file__).parent
LONGEST = 24  # numbers that are written one by one; of longer arrays sums are kept, and five of the numbers


@functools.cache
def defined() -> dict[str, str]:
    """Which module of the package defines a name, by name; plots left out, as a plot is called like what it shows."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        text = "" if "plots" in path.parts else path.read_text(encoding="utf-8")
        for name in re.findall(r"^(?:def |class )?(\w+)\b(?=[(:]| = )", text, re.MULTILINE):
            found.setdefault(name, module)
    return found


class _Functions:
    """The package's public functions by name, wherever they are defined: a move does not change this test."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(defined()[name]), name)


f = _Functions()
Entries = dict[str, Callable[[], object]]


def each(name: str, *calls: tuple, **options) -> Entries:
    """An entry: what a function gives for each of several arguments."""
    return {name: lambda: [getattr(f, name)(*call, **options) for call in calls]}


def plain(value) -> object:
    """Numbers, texts, lists and dicts; tables and records become dicts, and of long arrays sums remain."""
    if isinstance(value, pd.DataFrame):
        index = {} if isinstance(value.index, pd.RangeIndex) else {"index": plain(value.index.to_numpy(object))}
        return index | {str(name): plain(value[name].to_numpy()) for name in value.columns if name not in ("note", "text")}
    if isinstance(value, pd.Series):
        return plain(value.to_frame(value.name or "values"))
    if hasattr(value, "detach"):
        return plain(value.detach().cpu().numpy())
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name != "note"]
        return {name: plain(getattr(value, name)) for name in names}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, pd.api.extensions.ExtensionArray):
        value = np.asarray(value)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        return shortened([plain(entry) for entry in value])
    if isinstance(value, np.ndarray) and value.ndim:
        return array_told(value)
    if value is None or value is pd.NA:
        return None
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def shortened(entries: list) -> list | dict:
    """Long lists of texts by their hash."""
    if len(entries) <= LONGEST or not all(entry is None or isinstance(entry, str) for entry in entries):
        numbers = len(entries) > LONGEST and all(isinstance(entry, (int, float)) for entry in entries)
        return array_told(np.array(entries, float)) if numbers else entries
    return {"texts": len(entries), "sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest()}


def array_told(array: np.ndarray) -> list | dict:
    if array.size <= LONGEST or array.dtype.kind in "OUS":
        return [plain(entry) for entry in array.tolist()] if array.ndim < 2 else [array_told(row) for row in array]
    if array.dtype.kind == "b":
        return {"shape": list(array.shape), "true": int(array.sum()), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    values = array.astype(float).ravel()
    known = np.where(np.isfinite(values), values, 0)
    some = values[np.linspace(0, len(values) - 1, 5).astype(int)]
    sums = {"sum": known, "places": known * np.linspace(-1, 1, len(known)), "size": np.abs(known)}
    return {
        "shape": list(array.shape),
        "not finite": int((~np.isfinite(values)).sum()),
        "some": plain(some),
        **{name: math.fsum(parts) for name, parts in sums.items()},
    }


def moved(stored, found, tolerance: float, place: str, slack: float = 0.1) -> Iterator[str]:
    """What differs, and where. slack: what counts as nothing, in units of the tolerance."""
    if isinstance(stored, dict) and isinstance(found, dict):
        if stored.keys() != found.keys():
            yield f"{place}: {sorted(stored.keys() ^ found.keys())} on one side only"
        slack = stored["size"] + 1e-3 if {"sum", "places", "size"} <= stored.keys() else slack
        for name in stored.keys() & found.keys():
            yield from moved(stored[name], found[name], tolerance, f"{place}.{name}", 0.1 if name == "some" else slack)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for at, (one, other) in enumerate(zip(stored, found, strict=True)):
            yield from moved(one, other, tolerance, f"{place}[{at}]", slack)
    elif isinstance(stored, (int, float)) and isinstance(found, (int, float)):
        if not math.isclose(stored, found, rel_tol=tolerance, abs_tol=slack * tolerance):
            yield f"{place}: {stored!r} is now {found!r}"
    elif stored != found:
        yield f"{place}: {stored!r} is now {found!r}"
