"""The check of a loss's options."""

from __future__ import annotations

import math
from typing import Any


def number(name: str, value: Any, low: float, high: float, below: bool = False) -> float:
    """The value as float. Raises ValueError unless it is a number from low to high, or below high where asked."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (below and value == high):
        allowed = f"{low} or more" if high == math.inf else f"from {low} to {'below ' if below else ''}{high}"
        raise ValueError(f"{name} must be a number {allowed}; found {value!r}")
    return float(value)
