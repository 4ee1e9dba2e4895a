"""DICOM files written byte by byte, so that a reader is held to the standard (PS3.5, PS3.10) and not to a library that writes."""

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
ULTRASOUND, OURS = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.826.0.1.3680043.2.1125"
JPEG, LOSSLESS_JPEG, MPEG4 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.102"
_LONG = ("OB", "OW", "SQ", "UN", "UT")
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "FD": "d"}
Element = tuple[int, int, str, object]  # group, element, value representation, value


def element(group: int, number: int, vr: str, value: object, explicit: bool = True) -> bytes:
    """One data element, little endian. value: bytes, text, a number, or numbers."""
    if isinstance(value, str):
        value = value.encode()
    elif not isinstance(value, bytes):
        values = value if isinstance(value, Sequence) else [value]
        value = struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *values)
    value += (b"\0" if vr in ("UI", "OB", "OW", "UN") else b" ") * (len(value) % 2)
    tag = struct.pack("<HH", group, number)
    if not explicit:
        return tag + struct.pack("<I", len(value)) + value
    return tag + vr.encode() + (struct.pack("<HI", 0, len(value)) if vr in _LONG else struct.pack("<H", len(value))) + value


def region(delta_x: float, delta_y: float, data_type: int = 1, spatial: int = 1, units: int = 3) -> bytes:
    """An item of the sequence of ultrasound regions. delta: cm a pixel."""
    codes = {0x6012: spatial, 0x6014: data_type, 0x6024: units, 0x6026: units}
    content = b"".join(element(0x18, number, "US", value) for number, value in codes.items())
    content += element(0x18, 0x602C, "FD", delta_x) + element(0x18, 0x602E, "FD", delta_y)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    syntax: str = EXPLICIT,
    bits: int | None = None,
    regions: Sequence[bytes] = (),
    more: Sequence[Element] = (),
    change: Mapping[tuple[int, int], bytes | None] | None = None,
    fragments: Sequence[bytes] | None = None,
) -> Path:
    """Write frames (frames, height, width) or (frames, height, width, 3), uint8, uint16 or int16.

    bits: stored a sample, all that the type has unless given. more: further elements. change: element → bytes put in its place,
    None to leave it out. fragments: compressed frames to write instead of the pixels; for `JPEG` they are made here.
    """
    explicit, size = syntax != IMPLICIT, pixels.dtype.itemsize
    samples, stored = (3 if pixels.ndim == 4 else 1), bits or 8 * size
    if syntax == JPEG and fragments is None:
        fragments = [encoded_jpeg(frame) for frame in pixels]
    elements: list[Element] = [
        (0x08, 0x16, "UI", ULTRASOUND),
        (0x28, 0x02, "US", samples),
        (0x28, 0x04, "CS", photometric),
        *([(0x28, 0x06, "US", 0)] if samples == 3 else []),
        *([(0x28, 0x08, "IS", str(len(pixels)))] if len(pixels) > 1 else []),
        (0x28, 0x10, "US", pixels.shape[1]),
        (0x28, 0x11, "US", pixels.shape[2]),
        (0x28, 0x100, "US", 8 * size),
        (0x28, 0x101, "US", stored),
        (0x28, 0x102, "US", stored - 1),
        (0x28, 0x103, "US", int(pixels.dtype.kind == "i")),
        *more,
    ]
    if regions:
        elements.append((0x18, 0x6011, "SQ", b"".join(regions)))
    content = {(group, number): element(group, number, vr, value, explicit) for group, number, vr, value in elements}
    content[0x7FE0, 0x10] = (
        element(0x7FE0, 0x10, "OW" if size == 2 else "OB", pixels.tobytes(), explicit)
        if fragments is None
        else _encapsulated(fragments)
    )
    for tag, replacement in (change or {}).items():
        content[tag] = replacement or b""
    uids = {0x02: ULTRASOUND, 0x03: f"{OURS}.1", 0x10: syntax, 0x12: OURS}
    meta = element(0x02, 0x01, "OB", b"\0\1") + b"".join(element(0x02, number, "UI", uid) for number, uid in uids.items())
    head = bytes(128) + b"DICM" + element(0x02, 0x00, "UL", len(meta)) + meta
    path.write_bytes(head + b"".join(content[tag] for tag in sorted(content)))
    return path


def _encapsulated(fragments: Sequence[bytes]) -> bytes:
    items = [b"", *(fragment + b"\0" * (len(fragment) % 2) for fragment in fragments)]  # the first is the empty offset table
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encoded_jpeg(frame: np.ndarray, marker: str = "JFIF") -> bytes:
    """A frame as JPEG, in YCbCr unless `marker` is "ids". marker: what tells of the colours.

    "JFIF", "Adobe" (transform 1, YCbCr), "none" (component ids 1, 2, 3) or "ids" (R, G, B without transform).
    """
    stream = io.BytesIO()
    rgb = marker == "ids"
    Image.fromarray(frame).save(stream, "jpeg", quality=95, keep_rgb=rgb)
    content = stream.getvalue()
    if marker == "JFIF":
        return content
    first = 4 + int.from_bytes(content[4:6], "big")  # end of the first segment, which is JFIF's or, with keep_rgb, Adobe's
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" if marker == "Adobe" else b""
    return content[:2] + adobe + content[first:]


def palette(tables: Sequence[np.ndarray], bits: int, segmented: bool = False) -> list[Element]:
    """The elements of a palette of red, green and blue tables; segmented: as one discrete segment each."""
    elements: list[Element] = []
    for colour, table in enumerate(tables, 1):
        values = [0, len(table), *table] if segmented and bits == 16 else [0, 128, *table[:128], 0, 128, *table[128:]]
        content = np.array(values if segmented else table, np.uint16 if bits == 16 else np.uint8).tobytes()
        elements.append((0x28, 0x1100 + colour, "US", [len(table), 0, bits]))
        elements.append((0x28, 0x1200 + colour + 0x20 * segmented, "OW", content))
    return elements
