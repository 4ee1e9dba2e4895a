"""From the values that a gray DICOM file stores to gray levels: PS3.3 C.11.1 (rescale), C.11.2 (window)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

_STEP = 1e-6  # width of a window that has none


def value_range(header: Any, frames: Iterable[np.ndarray]) -> tuple[float, float]:
    """Lowest and highest stored value of a file, as its header or else its bits say; frames are looked at only where need be."""
    bits = header.BitsStored
    least, most = first(header.get("SmallestImagePixelValue")), first(header.get("LargestImagePixelValue"))
    # The header's extremes serve deep pixels alone, and are wrong where a frame goes beyond them.
    told = bits > 8 and None not in (least, most) and least < most
    if told and all(least <= stored.min() and stored.max() <= most for stored in frames):
        return least, most
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.get("PixelRepresentation") == 1 else (0, 2**bits - 1)


def gray_levels(stored: np.ndarray, header: Any, low: float, high: float) -> np.ndarray:
    """Rescaled, then seen through the window, or over the file's range of values, `low` to `high`."""
    (slope, intercept), seen = rescale(header), window(header)
    values = stored.astype(np.float64).clip(low, high) * slope + intercept
    if seen is None:
        black, white = sorted((low * slope + intercept, high * slope + intercept))
        levels = 255 * (values - black) / (white - black)
    else:
        levels = _through(seen, values)
    return ((255 - levels if header.PhotometricInterpretation == "MONOCHROME1" else levels) + 0.5).astype(np.uint8)


def rescale(header: Any) -> tuple[float, float]:
    """Slope and intercept."""
    slope, intercept = first(header.get("RescaleSlope")), first(header.get("RescaleIntercept"))
    return 1.0 if slope is None else slope, intercept or 0.0


def window(header: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of a header's first window; None where it has none. Unknown functions count as linear."""
    centre, width = first(header.get("WindowCenter")), first(header.get("WindowWidth"))
    if centre is None or width is None or not width > 0:
        return None
    return centre, width, header.get("VOILUTFunction")


def _through(seen: tuple[float, float, str], values: np.ndarray) -> np.ndarray:
    """Values seen through a window, 0 to 255 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    centre, width, function = seen
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (values - centre) / width))
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, max(width - 1, _STEP)
    return 255 * np.clip((values - centre) / width + 0.5, 0, 1)


def first(value: Any) -> float | None:
    """The first of one or several numbers, None where it is empty."""
    if isinstance(value, list | tuple) or hasattr(value, "append"):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)
