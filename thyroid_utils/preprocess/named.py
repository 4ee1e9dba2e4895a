"""What preprocessing steps and augmentations share: a name in a parameter file, and parameters that are checked."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from thyroid_utils.common.errors import DataError, nearest

# A name, or {name: {parameter: value}}
Entry = str | Mapping[str, Mapping[str, Any] | None]


class Named(BaseModel, frozen=True, strict=True, extra="forbid", allow_inf_nan=False):
    """Base of what a list in a parameter file names; its fields are its parameters. name: there."""

    name: ClassVar[str] = ""


Kind = TypeVar("Kind", bound=Named)


def listed_presets(kind: str) -> dict[str, Any]:
    """What `presets.toml` holds: name → preset. kind: "preprocessing" or "augmentation"."""
    return tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))[kind]


def parsed(entry: Entry, known: Mapping[str, type[Kind]], what: str) -> Kind:
    """What an entry of a parameter file's list names.

    Raises:
        DataError: an unknown name or parameter (the nearest known one is given), or a value out of range.
    """
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise DataError(f"{what} must be a name or {{name: {{parameter: value}}}}; found {entry!r}")
    name, given = next(iter(entry.items()))
    if name not in known:
        raise DataError(f"{what} {name!r} is unknown; {nearest(name, known)}")
    try:
        return known[name].model_validate(given or {})
    except ValidationError as error:
        first = error.errors()[0]
        parameter, parameters = str(first["loc"][0]) if first["loc"] else "parameters", known[name].model_fields
        if first["type"] == "extra_forbidden":
            hint = nearest(parameter, parameters) if parameters else "it has no parameters"
            raise DataError(f"{what} {name}: no parameter {parameter!r}; {hint}") from None
        raise DataError(f"{what} {name}: {parameter}: {first['msg']}; found {first['input']!r}") from None
