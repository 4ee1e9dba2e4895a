"""Three scanners: how each images tissue, and what it burns into the frame (border, gray bar, ticks, text, callipers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.font import draw_text, text_width

FRAME = 256  # the layouts below are in pixels of a 256 × 256 frame and scale with its size


@dataclass(frozen=True)
class Scanner:
    """A scanner preset.

    `frequency` MHz; `cycles` full width at half maximum of the pulse's echo along depth, in wavelengths;
    `f_number` focal depth over aperture; `dynamic_range` dB from black to white; `gain` dB above the common level;
    `tgc` most that time gain compensates, dB; `noise` of the electronics at the skin, dB relative to the gland;
    `area` top, bottom, left, right of the echo in a 256 × 256 frame; `border` gray level around it; `marks` shape of the
    callipers, "plus" or "cross"; `text` (x, y, words) burned into a 256 × 256 frame.
    """

    name: str
    frequency: float
    cycles: float
    f_number: float
    dynamic_range: float
    gain: float
    tgc: float
    noise: float
    area: tuple[int, int, int, int]
    border: int
    marks: str
    text: tuple[tuple[int, int, str], ...]


SCANNERS = {
    scanner.name: scanner
    for scanner in (
        Scanner(
            name="linear-7", frequency=7.5, cycles=1.0, f_number=2.6, dynamic_range=60.0, gain=1.5, tgc=44.0, noise=-72.0,
            area=(16, 226, 22, 214), border=0, marks="plus",
            text=((219, 24, "P100"), (219, 34, "7L4"), (219, 44, "7.5"), (219, 54, "31FPS"), (219, 64, "DR60")),
        ),
        Scanner(
            name="linear-10", frequency=10.0, cycles=1.2, f_number=3.2, dynamic_range=55.0, gain=0.0, tgc=50.0, noise=-72.0,
            area=(22, 240, 14, 236), border=8, marks="cross",
            text=((16, 6, "THYROID"), (120, 6, "L10-5"), (196, 6, "10MHZ"), (16, 245, "MI 0.7"), (66, 245, "TIS 0.3")),
        ),
        Scanner(
            name="linear-14", frequency=13.0, cycles=1.5, f_number=3.8, dynamic_range=50.0, gain=-1.5, tgc=58.0, noise=-74.0,
            area=(8, 248, 32, 232), border=0, marks="plus",
            text=((3, 12, "14L5"), (3, 22, "GN62"), (3, 32, "DR50")),
        ),
    )
}  # fmt: skip


def find_scanner(name: str) -> Scanner:
    """The preset of this name; DataError names the known ones."""
    if name not in SCANNERS:
        raise DataError(f"phantom: no scanner is called {name!r}; expected one of {', '.join(SCANNERS)}")
    return SCANNERS[name]


def find_scanners(names: Sequence[str] | str) -> tuple[Scanner, ...]:
    """The presets of these names, at least one; DataError names the known ones."""
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError(f"phantom: no scanner given; expected one or more of {', '.join(SCANNERS)}")
    return tuple(find_scanner(name) for name in dict.fromkeys(names))


def echo_area(scanner: Scanner, size: int) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (pixels, the second of each pair exclusive) of the echo in a size × size frame."""
    return tuple(edge * size // FRAME for edge in scanner.area)


def lay_out(scanner: Scanner, echo: np.ndarray, size: int, spacing: float, side: str) -> np.ndarray:
    """The whole frame around an echo image: border, gray bar, depth ticks and text.

    Args:
        scanner: the preset.
        echo: uint8, of the size of `echo_area`.
        size: side of the square frame in pixels.
        spacing: mm a pixel.
        side: "right" or "left" lobe, written into the frame.

    Returns:
        uint8 (size, size).
    """
    top, bottom, left, right = echo_area(scanner, size)
    frame = np.full((size, size), scanner.border, np.uint8)
    frame[top:bottom, left:right] = echo
    scale = max(1, round(size / FRAME))
    for x, y, text in scanner.text:
        draw_text(frame, x * size // FRAME, y * size // FRAME, text, 200, scale)
    word = {"right": "RIGHT", "left": "LEFT"} if scanner.name == "linear-7" else {"right": "RT", "left": "LT"}
    below = bottom + 6 * size // FRAME if scanner.name == "linear-7" else top + 4 * size // FRAME
    at = left + 8 * size // FRAME if scanner.name == "linear-7" else right - 16 * size // FRAME
    draw_text(frame, at, below, word[side], 215, scale)
    _depth_ticks(frame, scanner, size, spacing, scale)
    if scanner.name != "linear-14":
        _gray_bar(frame, size, 4 * size // FRAME if scanner.name == "linear-7" else 244 * size // FRAME)
    return frame


def _depth_ticks(frame: np.ndarray, scanner: Scanner, size: int, spacing: float, scale: int) -> None:
    """A mark every 5 mm of depth, a longer one every 10 mm, beside the echo."""
    top, bottom, left, right = echo_area(scanner, size)
    on_left = scanner.name == "linear-7"
    for step in range(int((bottom - top) * spacing / 5) + 1):
        y = top + round(step * 5 / spacing)
        length = (4 if step % 2 == 0 else 2) * scale
        x = left - 2 * scale - length if on_left else right + 2 * scale
        if y + scale <= bottom:
            frame[y : y + scale, x : x + length] = 190
        if scanner.name == "linear-14" and step % 4 == 0 and step:
            draw_text(frame, right + 8 * scale, y - 3 * scale, str(step // 2), 170, scale)


def _gray_bar(frame: np.ndarray, size: int, x: int) -> None:
    top, bottom, width = 104 * size // FRAME, 176 * size // FRAME, 5 * size // FRAME
    levels = 255 - np.arange(bottom - top) * 255 // (bottom - top - 1)
    frame[top:bottom, x : x + width] = levels[:, None]


def draw_callipers(
    frame: np.ndarray, scanner: Scanner, mask: np.ndarray, size: int, spacing: float, inside: tuple[int, int, int, int]
) -> np.ndarray:
    """Callipers at the ends of a nodule's width and height, joined by dots, and their distances as text.

    Args:
        frame: uint8 (size, size), left as it is.
        scanner: its mark is a plus or a cross.
        mask: nodule, boolean (size, size), not empty.
        size, spacing: pixels, mm a pixel.
        inside: `echo_area`, which the marks stay in.

    Returns:
        uint8 (size, size), a copy.
    """
    frame = frame.copy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    middle_x = int(np.median(np.flatnonzero(mask[top])) + np.median(np.flatnonzero(mask[bottom]))) // 2
    middle_y = int(np.median(np.flatnonzero(mask[:, left])) + np.median(np.flatnonzero(mask[:, right]))) // 2
    scale = max(1, round(size / FRAME))
    for x in range(left, right, 5 * scale):
        frame[middle_y : middle_y + scale, x : x + scale] = 235
    for y in range(top, bottom, 5 * scale):
        frame[y : y + scale, middle_x : middle_x + scale] = 235
    for y, x in ((middle_y, left), (middle_y, right), (top, middle_x), (bottom, middle_x)):
        _mark(frame, y, x, scanner.marks, scale, inside)
    words = [f"D1 {(right - left + 1) * spacing:.1f}MM", f"D2 {(bottom - top + 1) * spacing:.1f}MM"]
    x = inside[3] - (text_width(words[0]) + 3) * scale
    for line, text in enumerate(words):
        draw_text(frame, x, inside[1] - (20 - 9 * line) * scale, text, 225, scale)
    return frame


def _mark(frame: np.ndarray, y: int, x: int, style: str, scale: int, inside: tuple[int, int, int, int]) -> None:
    reach = 3 * scale
    y = min(max(y, inside[0] + reach), inside[1] - reach - scale)
    x = min(max(x, inside[2] + reach), inside[3] - reach - scale)
    for step in range(-reach, reach + 1):
        if style == "plus":
            frame[y : y + scale, x + step] = 250
            frame[y + step, x : x + scale] = 250
        else:
            frame[y + step, x + step : x + step + scale] = 250
            frame[y + step, x - step : x - step + scale] = 250
