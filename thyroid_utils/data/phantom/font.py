"""A small pixel font: scanner text with the same pixels wherever it is drawn, which no installed font promises."""

from __future__ import annotations

from functools import cache

import numpy as np

HEIGHT, WIDTH = 7, 5

# One row of pixels a pair of hexadecimal digits, from top to bottom; the highest of five bits is the left pixel.
_ROWS = {
    " ": "00000000000000", ".": "00000000000C0C", "-": "0000001F000000", "/": "01010204081010", ":": "000C0C000C0C00",
    "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010608101F", "3": "1F02040201110E", "4": "02060A121F0202",
    "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204040808", "8": "0E11110E11110E", "9": "0E11110F01020C",
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1C12111111121C", "E": "1F10101E10101F",
    "F": "1F10101E101010", "G": "0E11101713110F", "H": "1111111F111111", "I": "0E04040404040E", "J": "0702020202120C",
    "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111", "N": "11191915131311", "O": "0E11111111110E",
    "P": "1E11111E101010", "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111", "Y": "11110A04040404",
    "Z": "1F01020408101F",
}  # fmt: skip


@cache
def _glyph(letter: str, scale: int) -> np.ndarray:
    rows = bytes.fromhex(_ROWS[letter])
    pixels = np.array([[row >> (WIDTH - 1 - column) & 1 for column in range(WIDTH)] for row in rows], bool)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def text_width(text: str) -> int:
    """Width in font pixels: five a letter and one between."""
    return max(0, len(text) * (WIDTH + 1) - 1)


def draw_text(frame: np.ndarray, x: int, y: int, text: str, level: int, scale: int = 1) -> None:
    """Write capital letters, digits and . - / : into a uint8 frame with their top left corner at (x, y); cut at its edges."""
    for letter in text:
        glyph = _glyph(letter, scale)
        window = frame[max(y, 0) : y + glyph.shape[0], max(x, 0) : x + glyph.shape[1]]
        window[glyph[: window.shape[0], : window.shape[1]]] = level
        x += (WIDTH + 1) * scale
