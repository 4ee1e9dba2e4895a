"""What preprocessing steps and augmentations share: a name in a parameter file, and parameters that are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from thyroid_utils.common.errors import DataError, nearest

# A name, or {name: {parameter: value}}
Entry = str | Mapping[str, Mapping[str, Any] | None]


class Named:
    """Base of frozen dataclasses whose fields are made by `number`, `odd` and `choice`.

    name: in a parameter file. what: what a message calls it.
    """

    name: ClassVar[str] = ""
    what: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "allows" in field.metadata and not field.metadata["allows"](value):
                expected = field.metadata["expected"]
                raise DataError(f"{self.what} {self.name}: {field.name} must be {expected}; found {value!r}")

    def parameters(self) -> dict[str, Any]:
        """Every parameter with its value, defaults included."""
        return dataclasses.asdict(self)


Kind = TypeVar("Kind", bound=Named)


def number(default: float, low: float, high: float) -> Any:
    """A parameter from low to high; a whole number where its default is one."""
    kind, what = (Integral, "a whole number") if isinstance(default, int) else (Real, "a number")

    def allows(value: Any) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high

    return parameter(default, f"{what} from {low:g} to {high:g}", allows)


def odd(default: int, low: int, high: int) -> Any:
    """The side of a window that has a centre, in pixels."""

    def allows(value: Any) -> bool:
        return isinstance(value, Integral) and low <= value <= high and value % 2 == 1

    return parameter(default, f"odd and from {low} to {high}", allows)


def choice(*options: Any) -> Any:
    """One of some texts or of True and False; the first is the default."""

    def allows(value: Any) -> bool:
        return type(value) is type(options[0]) and value in options

    return parameter(options[0], f"one of {', '.join(map(str, options))}", allows)


def parameter(default: Any, expected: str, allows: Callable[[Any], bool]) -> Any:
    return dataclasses.field(default=default, metadata={"expected": expected, "allows": allows})


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
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise DataError(f"{what} {name}: parameters must be {{name: value}}; found {given!r}")
    parameters = [field.name for field in dataclasses.fields(known[name])]
    for parameter in given:
        if parameter not in parameters:
            hint = nearest(parameter, parameters) if parameters else "it has no parameters"
            raise DataError(f"{what} {name}: no parameter {parameter!r}; {hint}")
    return known[name](**given)
