"""Numbers, counts, p-values, shares and lists as they stand in a sentence; right for none, one, many and what is not known."""

import math
import re
from collections.abc import Iterable

UNKNOWN = "–"


def _known(value: object) -> float:
    """A number as a float; NaN for None, pandas' NA and whatever else is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def whole(value: object) -> str:
    """`58`, `1284`, `32 510`: a whole number; from five digits on by threes, as a comma may be read as a decimal one."""
    value = _known(value)
    if not math.isfinite(value):
        return number(value)
    rounded = round(value)
    return f"{rounded:,}".replace(",", "\u202f") if abs(rounded) >= 10_000 else str(rounded)


def count(value: object, noun: str, plural: str = "") -> str:
    """`3 images`, `1 image`, `no images`; "an unknown number of images" where it is not known.

    plural: of the noun, where it is not the noun with an s.
    """
    value, plural = _known(value), plural or f"{noun}s"
    if not math.isfinite(value):
        return f"an unknown number of {plural}"
    if value != round(value):  # a mean
        return f"{number(value, 1)} {plural}"
    return f"no {plural}" if value == 0 else f"{whole(value)} {noun if value == 1 else plural}"


def number(value: object, digits: int = 2, *, sign: bool = False) -> str:
    """`0.61`, with `digits` decimals; a minus is a true one, "−", which `float` does not read; a zero has no sign, whatever was
    rounded to it. "–" where it is not known.

    sign: write the sign of a number above zero too, as a difference has it.
    """
    value = _known(value)
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "−∞" if value < 0 else f"{'+' * sign}∞"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−") if any(digit in text for digit in "123456789") else text.lstrip("+-")


def p_number(value: object) -> str:
    """A p-value alone, as in a table's column: `0.032`, `< 0.001`, `1.000`; "–" where there is none."""
    value = _known(value)
    if not 0 <= value <= 1:
        return UNKNOWN
    return "< 0.001" if value < 0.001 else "< 0.05" if 0.0495 <= value < 0.05 else f"{value:.3f}"


def p_value(value: object) -> str:
    """`p = 0.032`, `p < 0.001`; `p < 0.05` where rounding would hide that it is; "no p-value" where there is none."""
    text = p_number(value)
    if text == UNKNOWN:
        return "no p-value"
    return f"p {text}" if text.startswith("<") else f"p = {float(value):.2g}"  # type: ignore[arg-type]


def share(value: object, digits: int = 0) -> str:
    """`82 %` of a share in [0, 1]; "< 1 %" and "> 99 %" where rounding would say none or all; "–" where it is not known."""
    value = _known(value)
    if not math.isfinite(value):
        return UNKNOWN
    text, least = number(100 * value, digits), 10.0**-digits
    if 0 < value < 1 and float(text) in (0, 100):
        return f"< {least:.{digits}f} %" if float(text) == 0 else f"> {100 - least:.{digits}f} %"
    return f"{text} %"


def listed(names: Iterable[object], none: str = "none") -> str:
    """`a, b and c`, parted by semicolons where a name has a comma itself; `none` where there is nothing to list."""
    names = [str(name) for name in names]
    if len(names) < 2:
        return names[0] if names else none
    if any("," in name for name in names):
        return f"{'; '.join(names[:-1])}; and {names[-1]}"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def literal(text: str) -> str:
    """A name from the data as it stands in markdown: no letter of it is a mark of emphasis, a formula or a link."""
    return re.sub(r"([\\`*_{}\[\]<>$|#])", r"\\\1", text)
