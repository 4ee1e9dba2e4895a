"""Reading image and mask files into arrays, whatever their format, and saying in one line what is wrong when that fails."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from thyroid_utils.common.errors import ImageError
from thyroid_utils.common.files import File, as_file, hdf5_entry, write_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_PIXELS = 8192 * 8192  # a larger frame is no ultrasound image; decoding it would take gigabytes
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")  # Pillow's names for gray levels of 16 bits or more
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
_JPEG_NOISE = 32  # an empty mask stored as JPEG stays below this gray level of 255
_DARK = 64  # gray level below which a colour is taken for a background
# Only these decoders may run: a file's name says nothing about its content, and the rarer decoders are the riskier ones.
_DECODERS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")


@contextmanager
def _open(path: File) -> Iterator[Image.Image]:
    """The file as a Pillow image with only its header read; what Pillow or the disk raises becomes an ImageError."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ImageError(f"{path}: a folder, a pipe or a device, not a file; correct the path")
    try:
        # Pillow gets a stream and not the path: it would map an uncompressed TIFF into memory and forget to turn it.
        with path.open("rb") as stream:
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
        with path.open("rb") as stream:
            begins = stream.read(16)  # <!DOCTYPE html: the page that asks to sign in
        told = f"not a PNG, JPEG, TIFF, BMP or GIF image, or a damaged one (begins with {begins!r})"
        raise ImageError(f"{path}: {told}; download or export it again") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged data (OSError, SyntaxError, …)
        told, remedy = f"damaged or truncated ({error})", "download or export it again"
        if getattr(error, "strerror", None):  # the disk's own
            told, remedy = error.strerror.lower(), "restore it, correct its path or drop its row"
        raise ImageError(f"{path}: {told}; {remedy}") from None


def _decode(path: File, mask: bool = False) -> tuple[np.ndarray, str]:
    """uint8 or uint16 array, (height, width), or uint8 (height, width, 3), and the file format's name.

    mask: refuse what changes or hides labels, and take labels of 32 bits.
    """
    if entry := hdf5_entry(path):
        return _read_entry(*entry), "HDF5"
    with _open(path) as image:
        kind, tags = image.format, getattr(image, "tag_v2", {})
        bits = max(tags.get(_BITS, (8,))) if kind == "TIFF" else 8
        if kind == "TIFF" and 2 in tags.get(_SAMPLE_FORMAT, ()):
            raise ImageError(f"{path}: gray levels with a sign have no fixed range; export it as 8 or 16 bit without")
        # of colours of 16 bits Pillow keeps the upper 8
        if mask and image.mode not in _DEEP_MODES and (bits > 8 or any(";16" in str(tile[3]) for tile in image.tile)):
            raise ImageError(f"{path}: colours of more than 8 bits; export a mask of 0 and 255")
        image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_MODES:
            pixels = np.asarray(image).astype(np.int64)
            if kind == "TIFF" and tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds up to 8 bits
                pixels = 65535 - pixels
            if pixels.min() < 0 or pixels.max() > 65535 or (bits > 16 and not mask):
                raise ImageError(f"{path}: gray levels of {bits} bits have no fixed range; export it as 8 or 16 bit")
            if 8 < bits < 16 and not mask:
                pixels = pixels * 65535 // (2**bits - 1)
            return pixels.astype(np.uint16), kind
        if image.mode == "F":
            raise ImageError(f"{path}: floating-point pixels have no fixed range; export it as 8 or 16 bit")
        if image.mode in ("1", "L"):
            return np.array(image.convert("L")), kind
        if mask and image.mode == "P" and _is_label_lost(image):
            raise ImageError(f"{path}: its palette shows two labels in one dark colour; export a mask of 0 and 255")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
            _check_transparency(path, np.asarray(layer), mask)
        return np.array(image.convert("RGB")), kind


def _read_entry(file: str, array: str, position: int) -> np.ndarray:
    """One frame, (height, width), of an array (frames, height, width) in an HDF5 file."""
    try:
        with h5py.File(file, "r", locking=False) as frames:  # opened each time, a millisecond: open ones survive no fork
            return frames[array][position]
    except (OSError, LookupError, ValueError) as error:
        raise ImageError(f"{file}: {array}[{position}] cannot be read ({error}); download or restore the file") from None


def _rotation(path: Path) -> int:
    """Code of the turn that EXIF asks for; 1 is none."""
    if hdf5_entry(path):
        return 1
    with _open(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def _is_label_lost(image: Image.Image) -> bool:
    """Whether two indices of a palette image have one dark colour, so that what is drawn in one of them cannot be seen."""
    colours = image.getpalette() or []
    shown = [tuple(colours[3 * index : 3 * index + 3]) for index in np.unique(np.asarray(image)).tolist()]
    return any(shown.count(colour) > 1 and max(colour, default=0) < _DARK for colour in set(shown))


def _check_transparency(path: Path, layer: np.ndarray, mask: bool) -> None:
    """Raise ImageError where an image laid on black loses what is drawn: RGBA, uint8 (height, width, 4)."""
    clear, bright = layer[..., 3] < 128, layer[..., :3].max(axis=2) >= _DARK
    if clear.any() and not (bright & ~clear).any():
        raise ImageError(f"{path}: drawn by transparency alone; export it in black and white")
    if mask and clear.any() and (~bright & ~clear).any():
        raise ImageError(
            f"{path}: transparent beside black and white, which leaves open the background; export a mask of 0 and 255"
        )


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 257.0 + 0.5).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # 65535 / 257 = 255


def read_image(path: str | File) -> np.ndarray:
    """Read one ultrasound image.

    Takes PNG, JPEG, TIFF, BMP and GIF, as a file or in memory, and an entry of an HDF5 file (`dataset.hdf5::image[12]`); 8 and
    16 bit; gray, RGB, RGBA (laid on black) and palette; EXIF rotation is applied.

    Returns:
        uint8 in [0, 255], (height, width), or (height, width, 3) RGB where the file really holds colour. 16-bit values are
        scaled by their full range (65535 → 255).

    Raises:
        ImageError: missing, empty, truncated, not an image, several frames, floating point, or over `MAX_PIXELS`.
    """
    pixels = _to_8_bit(_decode(as_file(path))[0])
    if pixels.ndim == 3 and (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height as a file's header tells them; None of a file that is no image."""
    with suppress(ImageError), _open(path) as image:
        return image.size
    return None


def read_gray(path: str | Path) -> np.ndarray:
    """As `read_image`, colour reduced to luma (ITU-R BT.601): uint8 (height, width)."""
    pixels = read_image(path)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def uses_little_range(frame: np.ndarray) -> bool:
    """Whether a frame (uint8, any shape) fills less than an eighth of the gray levels."""
    return int(frame.max()) - int(frame.min()) < 255 / 8


def read_mask(path: str | Path, shape: tuple[int, int] | None = None, image: str | Path | None = None) -> np.ndarray:
    """Read one mask as a boolean array (height, width).

    Two-level files ({0, 1}, {0, 255}, palette colours, of several channels the brightest) are true at the upper level; files with
    more levels (JPEG, smoothed outlines) are cut at half the 8-bit range, never at `!= 0`, which would dilate the mask by its
    compression noise. A file of one level is empty at 0 and full from half range on (or at 1, unless it is a JPEG).

    Args:
        path: the mask file.
        shape: (height, width) of the image it belongs to, checked when given.
        image: the image's file, whose EXIF rotation is compared when given.

    Raises:
        ImageError: as `read_image`; a size other than `shape`; a rotation that the image has and the mask has not; levels or
            colours that leave open what is foreground, such as several labels, a picture or colours without black; colours that
            touch or lie within each other; a mask of more than half the frame and three of its corners, which is white outside.
    """
    path = Path(path)
    pixels, kind = _decode(path, mask=True)
    gray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    if shape is not None and gray.shape != tuple(shape):
        sizes = f"mask is {gray.shape[1]}×{gray.shape[0]}, its image {shape[1]}×{shape[0]} (width×height)"
        raise ImageError(f"{path}: {sizes}; export the mask again at the image's size")
    if image is not None and _rotation(Path(image)) != _rotation(path):
        raise ImageError(f"{path}: EXIF turns its image and not the mask, or otherwise; export both as they are to be seen")
    if pixels.ndim == 3 and gray.min() >= _DARK and np.ptp(pixels, axis=(0, 1)).max() >= _DARK:
        raise ImageError(f"{path}: colours without black do not tell foreground from background; export a mask of 0 and 255")
    found = _foreground(gray, 0 if kind != "JPEG" else 16 if pixels.ndim == 2 else 64)
    if found is None:
        told = f"gray levels from {gray.min()} to {gray.max()} do not tell foreground from background"
        raise ImageError(f"{path}: {told}; export a mask of 0 and 255")
    if pixels.ndim == 3 and _holds_colours(pixels, found, 5 if kind == "JPEG" else 1):
        raise ImageError(f"{path}: several labels, one colour within or beside another; export a mask of 0 and 255, one label")
    corners = found[:: len(found) - 1 or 1, :: len(found[0]) - 1 or 1]
    if corners.mean() >= 0.75 and 0.5 < found.mean() < 1:
        raise ImageError(f"{path}: white outside, so that it seems inverted; export it with the nodule white on black")
    return found


def _foreground(pixels: np.ndarray, noise: int) -> np.ndarray | None:
    """bool (height, width) of gray levels (uint8 or uint16); None where they leave open what is foreground. noise: of a JPEG."""
    if not noise and pixels.min() < pixels.max() and len(np.unique(pixels)) == 2:
        black = pixels.min() == 0 or pixels.min() < 128 <= pixels.max()
        return pixels == pixels.max() if black else None
    # {0, 1} or {0, 255} in a 16-bit file: scaling would lose the 1
    gray = pixels.astype(np.uint8) if pixels.max() <= 255 else _to_8_bit(pixels)
    low, high = int(gray.min()), int(gray.max())
    if low == high and (high == 0 or high >= 128 or (high == 1 and not noise)):
        return np.full(gray.shape, high > 0)
    if noise and high <= _JPEG_NOISE:  # nothing, unless something is drawn in a dark level, such as {0, 1}
        return np.zeros(gray.shape, bool) if low == high or not _has_area(gray > (low + high) / 2) else None
    if high < 128 or low >= 128 or _holds_labels(pixels, gray, noise) or _is_picture(gray, noise):
        return None
    return gray >= 128


def _holds_colours(pixels: np.ndarray, found: np.ndarray, rim: int) -> bool:
    """Whether one connected area, with what it encloses, holds two colours: nodule and gland, not two nodules apart.

    rim: side in pixels of the square that must fit into the foreground around a pixel whose colour counts.
    """
    inside = cv2.erode(found.astype(np.uint8), np.ones((rim, rim), np.uint8), borderValue=0) > 0
    colours = pixels / np.maximum(pixels.max(axis=2, keepdims=True), 1)
    outlines = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = cv2.drawContours(np.zeros(found.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    areas = cv2.connectedComponents(filled)[1] * inside
    return any(np.ptp(colours[areas == area], axis=0).max() > 0.4 for area in np.unique(areas[areas > 0]))


_SQUARE = np.ones((3, 3), np.uint8)


def _has_area(region: np.ndarray) -> bool:
    """Whether a square of 3 × 3 pixels fits in."""
    return bool(cv2.erode(region.astype(np.uint8), _SQUARE, borderValue=0).any())


def _holds_labels(pixels: np.ndarray, gray: np.ndarray, noise: int) -> bool:
    """Whether areas between black and white are more than rims of smoothed outlines: of one level, or apart from what is white.

    noise: gray level that compression reaches beside an outline, 0 where there was none.
    """
    if noise:
        wide = np.ones((5, 5), np.uint8)
        steps = cv2.dilate(gray, wide) - cv2.erode(gray, wide)
        least = noise // 2 if noise > 16 else np.bincount(gray[gray < 128]).argmax() + 1
        middle = ((steps == 0) & (gray >= least)) | ((steps <= 8) & (gray >= noise // 2))
        labelled = (middle & (gray < 224)).sum() > 25
    else:
        areas = np.unique(pixels[cv2.erode(pixels, _SQUARE) == cv2.dilate(pixels, _SQUARE)])
        labelled = len(areas) > 2 and len(np.unique(pixels)) <= 32
    count, parts = cv2.connectedComponents((gray >= max(noise, 16)).astype(np.uint8))
    apart = np.isin(parts, np.setdiff1d(np.arange(1, count), parts[gray >= 128]))
    return bool(labelled) or _has_area(apart)


def _is_picture(gray: np.ndarray, noise: int) -> bool:
    """Whether more pixels lie far from black and white than the rims of outlines do, even compressed ones."""
    between, white = ((gray >= 32) & (gray < 224)).sum(), (gray >= 128).sum()
    of_frame, of_white = (0.1, 1) if noise > 16 else (0.02, 0.5)  # JPEG blurs colours over 16 × 16 pixels
    return bool(between > of_frame * gray.size and between > of_white * white)


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
