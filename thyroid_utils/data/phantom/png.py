"""PNG files whose bytes depend on the pixels alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BLOCK = 65535  # most bytes that a stored deflate block holds


def stored_png(pixels: np.ndarray) -> bytes:
    """A PNG file of a gray image (uint8) or a mask (boolean, one bit a pixel), without compression.

    Compressors differ: zlib and its faster relatives make other bytes of the same pixels, so `data.images.write_png` cannot
    promise the same file on every machine. Speckle hardly compresses, a mask takes an eighth of a byte a pixel, and storing
    is quicker than any compressor.
    """
    height, width = pixels.shape
    depth = 1 if pixels.dtype == bool else 8
    rows = np.packbits(pixels, axis=1) if depth == 1 else pixels
    lines = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each line starts with its filter: 0, none
    lines[:, 1:] = rows
    raw = lines.tobytes()
    stream = [b"\x78\x01"]
    for start in range(0, len(raw), _BLOCK):
        block = raw[start : start + _BLOCK]
        stream += [struct.pack("<BHH", start + _BLOCK >= len(raw), len(block), len(block) ^ 0xFFFF), block]
    stream.append(struct.pack(">I", zlib.adler32(raw)))
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(stream)) + _chunk(b"IEND", b"")


def stored_png_size(height: int, width: int, depth: int) -> int:
    """Bytes of the file that `stored_png` makes at 8 or 1 bits a pixel."""
    raw = height * (1 + (width * depth + 7) // 8)
    blocks = -(-raw // _BLOCK)
    return len(_SIGNATURE) + 3 * 12 + 13 + 2 + 5 * blocks + raw + 4


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
