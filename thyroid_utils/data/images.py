"""Reading image and mask files into arrays, whatever their format, and saying in one line what is wrong when that fails."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from thyroid_utils.common.errors import ImageError
from thyroid_utils.common.files import write_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
MAX_PIXELS = 8192 * 8192  # a larger frame is no ultrasound image; decoding it would take gigabytes
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")  # Pillow's names for gray levels of 16 bits or more
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of a TIFF
_JPEG_NOISE = 32  # an empty mask stored as JPEG stays below this gray level of 255
# Only these decoders may run: a file's name says nothing about its content, and the rarer decoders are the riskier ones.
_DECODERS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The file as a Pillow image with only its header read; what Pillow or the disk raises becomes an ImageError."""
    try:
        # Pillow gets a stream and not the path: it would map an uncompressed TIFF into memory and forget to turn it.
        with open(path, "rb") as stream:
            image = Image.open(stream, formats=_DECODERS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            frames = getattr(image, "n_frames", 1) if image.format != "JPEG" else 1
            if frames > 1:
                raise ImageError(f"{path}: holds {frames} frames, expected one; export the frames as single files")
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path}: more than {MAX_PIXELS:,} pixels; crop or shrink it first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_what_it_is_instead(path)}") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged data (OSError, SyntaxError, …)
        told, remedy = f"damaged or truncated ({error})", "download or export it again"
        if getattr(error, "strerror", None):  # the disk's own
            told, remedy = error.strerror.lower(), "restore it, correct its path or drop its row"
        raise ImageError(f"{path}: {told}; {remedy}") from None


def _what_it_is_instead(path: Path) -> str:
    with open(path, "rb") as stream:
        head = stream.read(512)
    if not head:
        return "empty (0 bytes); download or export it again"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head")):
        return "a web page (HTML), not an image; download it again, perhaps after signing in"
    return f"not a PNG, JPEG, TIFF, BMP or GIF image (starts with {head[:8]!r}); convert it"


def _decode(path: Path) -> tuple[np.ndarray, str]:
    """uint8 or uint16 array, (height, width), or uint8 (height, width, 3), and the file format's name."""
    with _open(path) as image:
        kind, tags = image.format, getattr(image, "tag_v2", {})
        image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_MODES:
            pixels = np.asarray(image).astype(np.int64)
            if kind == "TIFF" and tags.get(_SAMPLE_FORMAT) == (2,):
                raise ImageError(f"{path}: gray levels with a sign have no fixed range; export it as 8 or 16 bit without")
            if kind == "TIFF" and tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds up to 8 bits
                pixels = 65535 - pixels
            if pixels.min() < 0 or pixels.max() > 65535:
                raise ImageError(f"{path}: values outside 0 to 65535; export it as 8 or 16 bit")
            return pixels.astype(np.uint16), kind
        if image.mode == "F":
            raise ImageError(f"{path}: floating-point pixels have no fixed range; export it as 8 or 16 bit")
        if image.mode in ("1", "L"):
            return np.array(image.convert("L")), kind
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            if max(high for _, high in layer.getextrema()[:3]) == 0 and layer.getextrema()[3][0] < 255:
                raise ImageError(f"{path}: drawn by transparency alone; export it in black and white")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
        return np.array(image.convert("RGB")), kind


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 257.0 + 0.5).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # 65535 / 257 = 255


def read_image(path: str | Path) -> np.ndarray:
    """Read one ultrasound image.

    Takes PNG, JPEG, TIFF, BMP and GIF; 8 and 16 bit; gray, RGB, RGBA (laid on black) and palette; EXIF rotation is applied.

    Returns:
        uint8 in [0, 255], (height, width), or (height, width, 3) RGB where the file really holds colour. 16-bit values are
        scaled by their full range (65535 → 255).

    Raises:
        ImageError: missing, empty, truncated, not an image, several frames, floating point, or over `MAX_PIXELS`.
    """
    pixels = _to_8_bit(_decode(Path(path))[0])
    if pixels.ndim == 3 and (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def read_gray(path: str | Path) -> np.ndarray:
    """As `read_image`, colour reduced to luma (ITU-R BT.601): uint8 (height, width)."""
    pixels = read_image(path)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def is_deep(path: str | Path) -> bool:
    """Whether an image file holds gray levels of more than 8 bits, from its header alone. Raises ImageError as `read_image`."""
    with _open(Path(path)) as image:
        return image.mode in _DEEP_MODES


def uses_little_range(frame: np.ndarray) -> bool:
    """Whether a frame (uint8, any shape) fills less than an eighth of the gray levels."""
    return int(frame.max()) - int(frame.min()) < 255 / 8


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read one mask as a boolean array (height, width).

    Two-level files ({0, 1}, {0, 255}, palette colours, of several channels the brightest) are true at the upper level; files with
    more levels (JPEG, smoothed outlines) are cut at half the 8-bit range, never at `!= 0`, which would dilate the mask by its
    compression noise. A file of one level is empty at 0 and full from half range on (or at 1, unless it is a JPEG).

    Args:
        path: the mask file.
        shape: (height, width) of the image it belongs to, checked when given.

    Raises:
        ImageError: as `read_image`; a size other than `shape`; levels that leave open what is foreground, such as several labels
            or a picture.
    """
    path = Path(path)
    pixels, kind = _decode(path)
    pixels = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    if shape is not None and pixels.shape != tuple(shape):
        sizes = f"mask is {pixels.shape[1]}×{pixels.shape[0]}, its image {shape[1]}×{shape[0]} (width×height)"
        raise ImageError(f"{path}: {sizes}; export the mask again at the image's size")
    lossless = kind != "JPEG"
    if lossless and pixels.min() < pixels.max() and len(np.unique(pixels)) == 2:
        return pixels == pixels.max()
    # {0, 1} or {0, 255} in a 16-bit file: scaling would lose the 1
    gray = pixels.astype(np.uint8) if pixels.max() <= 255 else _to_8_bit(pixels)
    low, high = int(gray.min()), int(gray.max())
    if low == high and (high == 0 or high >= 128 or (high == 1 and lossless)):
        return np.full(gray.shape, high > 0)
    drawn_at_one = low == 0 and high == 1 and gray.sum() > 16  # {0, 1} saved as JPEG
    if high <= _JPEG_NOISE and not lossless and not drawn_at_one:
        return np.zeros(gray.shape, bool)
    if high < 128 or low >= 128 or (lossless and _holds_labels(pixels)) or _is_picture(gray):
        told = f"gray levels from {low} to {high} do not tell foreground from background"
        raise ImageError(f"{path}: {told}; export a mask of 0 and 255")
    return gray >= 128


def _holds_labels(pixels: np.ndarray) -> bool:
    """Whether there are few levels and whole areas of one in the middle, not only the rims of smoothed outlines."""
    square = np.ones((3, 3), np.uint8)
    areas = np.unique(pixels[cv2.erode(pixels, square) == cv2.dilate(pixels, square)])
    return len(np.unique(pixels)) <= 32 and len(areas) > 2


def _is_picture(gray: np.ndarray) -> bool:
    """Whether more pixels lie far from black and white than the rims of outlines do, even compressed ones."""
    between = ((gray >= 32) & (gray < 224)).sum()
    return bool(between > 0.02 * gray.size and between > 0.5 * (gray >= 128).sum())


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a boolean mask to (height, width): nearest when enlarging, more than half covered when
    shrinking; never dilates."""
    height, width = shape
    if mask.shape == (height, width):
        return mask.copy()
    if height <= mask.shape[0] and width <= mask.shape[1]:
        covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return covered > 0.5 + 1e-5  # a pixel half covered, give or take rounding, stays background: it would dilate
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def ring_around(mask: np.ndarray) -> np.ndarray:
    """The surroundings of a mask, to compare its inside with: bool (height, width), disjoint from `mask`; empty for an empty one.

    The ring begins beyond 2 pixels next to the contour, which nobody draws to the pixel, and is as wide as a quarter of the
    diameter of a disc of the mask's area, at least 3.
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    width = max(3.0, 0.25 * np.sqrt(4 * mask.sum() / np.pi))
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (distance > 2) & (distance <= 2 + width)


def write_png(path: str | Path, pixels: np.ndarray) -> Path:
    """Write a uint8 or boolean array, (height, width) or (height, width, 3), as PNG, atomically. True becomes 255."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return write_bytes(path, buffer.getvalue())
