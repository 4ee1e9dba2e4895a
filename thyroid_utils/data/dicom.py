"""Ultrasound frames out of DICOM files: pixels as a screen would show them, and how large they are. Nothing about the patient.

Only the elements named in `_ELEMENTS` are read; the data set itself is not kept, and what pydicom says about a file's content
is not repeated, because a complaint about a value quotes it. Parts of the standard meant below: PS3.3 C.7.6.3 (image pixels),
C.8.5.5 (ultrasound regions), C.11.1 and C.11.2 (rescale and window).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.images import MAX_PIXELS

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_ELEMENTS = ("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
             "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
             "PixelSpacing", "SequenceOfUltrasoundRegions", "UltrasoundColorDataPresent", "BurnedInAnnotation",
             "ModalityLUTSequence", "VOILUTSequence", "SmallestImagePixelValue", "LargestImagePixelValue")  # fmt: skip
_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)
_GRAY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TWO_DIMENSIONAL, _TISSUE, _COLOUR_FLOW, _CENTIMETRES = 1, 1, 2, 3  # codes of an ultrasound region
_SAME_SCALE = 0.01  # two regions whose pixels differ by less are one scale
_CHROMA_NOISE = 6  # gray levels by which the channels of a gray frame may differ after JPEG in YCbCr
_STRONG_CHROMA, _COLOURED_SHARE = 60, 0.01  # letters and a colour bar alone stay below a hundredth of the frame

_CODECS = (  # beginning of the transfer syntax's number, what decodes it
    ("1.2.840.10008.1.2.4.10", "no decoder takes video: export its frames as single images"),  # MPEG-2, MPEG-4, HEVC
    ("1.2.840.10008.1.2.4.20", "pip install pylibjpeg pylibjpeg-openjpeg"),  # HTJ2K
    ("1.2.840.10008.1.2.4.9", "pip install pylibjpeg pylibjpeg-openjpeg"),  # JPEG 2000
    ("1.2.840.10008.1.2.4", "pip install pylibjpeg pylibjpeg-libjpeg"),  # JPEG, lossless JPEG, JPEG-LS
)


@dataclass(frozen=True, eq=False)
class DicomImage:
    """What `read_dicom` found in the header; pixels are decoded when they are asked for.

    shape: (height, width) in pixels. spacing: (row, column) in mm a pixel, None where the file gives none or regions of several
    scales. scales_differ: whether it is None for the second reason, so that no one scale holds for the whole frame. photometric:
    as stored, "MONOCHROME1" for one. frame_count: at least 1. burned_in: whether the file says that letters are burned into its
    pixels, None where it does not say. path: may itself name a patient and is left out of the repr.
    """

    path: Path
    shape: tuple[int, int]
    spacing: tuple[float, float] | None
    scales_differ: bool
    photometric: str
    frame_count: int
    burned_in: bool | None
    _pixels: _Pixels

    def __repr__(self) -> str:
        return f"DicomImage({self.frame_count} of {self.shape[0]}×{self.shape[1]}, {self.photometric}, spacing={self.spacing})"

    def iter_frames(self) -> Iterator[np.ndarray]:
        """Frame after frame, each decoded when its turn comes: uint8 (height, width), or (height, width, 3) RGB where it holds
        colour. Memory does not grow with the number of frames.

        Raises:
            ImageError: the pixels are damaged, or fewer frames than the header says.
        """
        from pydicom.pixels import iter_pixels

        with _reported(self.path):
            decoded, count = iter_pixels(self.path), 0
        while True:
            with _reported(self.path):
                stored = next(decoded, None)
                frame = None if stored is None else self._pixels.shown(np.asarray(stored), self.path)
            if frame is None:
                break
            count += 1
            yield frame
        if count < self.frame_count:
            raise ImageError(f"{self.path}: {count} frames of {self.frame_count} can be read; export it again")

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames at once, uint8 (frames, height, width), or (frames, height, width, 3) RGB where any holds colour."""
        frames = list(self.iter_frames())
        if any(frame.ndim == 3 for frame in frames):
            frames = [frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2) for frame in frames]
        return np.stack(frames)

    @property
    def says_colour_doppler(self) -> bool:
        """Whether the header says that the file holds colour flow, whatever its frames show."""
        return self._pixels.colour_flow

    @property
    def deep_without_window(self) -> bool:
        """Whether gray levels are stored with more than 8 bits and no window, so that frames may use little of the range."""
        return self.photometric in _GRAY and self._pixels.bits > 8 and self._pixels.window is None

    @cached_property
    def has_colour_doppler(self) -> bool:
        """Whether the file says that it holds colour flow, or its first frame shows it (`shows_colour`)."""
        return self.says_colour_doppler or shows_colour(next(self.iter_frames()))


def is_dicom(path: str | Path) -> bool:
    """Whether a file's name or its first 132 bytes say that it is DICOM; False where it cannot be read."""
    path = Path(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | Path) -> DicomImage:
    """Read an ultrasound DICOM file's header; its frames follow when they are asked for.

    Spacing is that of the 2-D ultrasound regions in centimetres (PhysicalDeltaX, PhysicalDeltaY), else PixelSpacing.

    Raises:
        ImageError: missing, no DICOM file, damaged, without pixels, of a kind of pixels that is not shown here, or compressed in
            a way that no installed package decodes; the message then names the transfer syntax and what to install.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; restore it or correct the path")
    pydicom = _pydicom(path)
    with _reported(path):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_ELEMENTS, *_PALETTE])
        syntax = header.file_meta.TransferSyntaxUID
        shape = (int(header.Rows), int(header.Columns))
        photometric = str(header.PhotometricInterpretation)
        frame_count = int(header.get("NumberOfFrames") or 1)
        burned_in = {"YES": True, "NO": False}.get(header.get("BurnedInAnnotation"))
        spacing, differ = spacing_of(header), scales_differ(header)
        pixels = _Pixels.of(header)
        tables = bool(header.get("ModalityLUTSequence")) or (bool(header.get("VOILUTSequence")) and pixels.window is None)
    if min(shape) < 1 or frame_count < 1:
        raise ImageError(f"{path}: the header gives no size; export it again")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ImageError(f"{path}: {shape[1]}×{shape[0]} is more than {MAX_PIXELS:,} pixels; crop or shrink it first")
    if photometric not in (*_GRAY, *_COLOUR, "PALETTE COLOR"):
        raise ImageError(f"{path}: pixels of a kind that is not shown here; export it as {_GRAY[1]} or RGB")
    if tables:
        raise ImageError(f"{path}: shown through a table of gray levels, which is not done here; export it with a window")
    _check_codec(path, syntax)
    return DicomImage(path, shape, spacing, differ, photometric, frame_count, burned_in, pixels)


def spacing_of(header: Any) -> tuple[float, float] | None:
    """(row, column) in mm a pixel of a DICOM header's 2-D ultrasound regions in centimetres, else of its PixelSpacing; None where
    it has neither, or regions of scales that differ by more than a hundredth."""
    scales = _scales(header)
    if not len(scales) or not _usable(scales).all() or _differ(scales):
        return None
    row, column = scales[0]
    return float(row), float(column)


def scales_differ(header: Any) -> bool:
    """Whether a DICOM header's 2-D ultrasound regions have scales that differ by more than a hundredth."""
    scales = _scales(header)
    return _differ(scales[_usable(scales)])


def _scales(header: Any) -> np.ndarray:
    """Whatever (row, column) in mm a pixel the header gives, (scales, 2); values may be impossible."""
    found = []
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        flat = region.get("RegionSpatialFormat") == _TWO_DIMENSIONAL and region.get("RegionDataType") in (_TISSUE, _COLOUR_FLOW)
        if flat and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES:
            found.append([10 * abs(float(region.get(f"PhysicalDelta{axis}") or 0)) for axis in "YX"])
    if not found and header.get("PixelSpacing"):
        found.append([float(value) for value in header.PixelSpacing])
    return np.array(found, float).reshape(-1, 2)


def _usable(scales: np.ndarray) -> np.ndarray:
    return (np.isfinite(scales) & (scales > 0)).all(axis=1)


def _differ(scales: np.ndarray) -> bool:
    return len(scales) > 1 and bool(np.ptp(scales, axis=0).max() > _SAME_SCALE * scales.min())


def shows_colour(frame: np.ndarray) -> bool:
    """Whether a frame shows colour flow: a hundredth of its pixels or more whose channels lie 60 gray levels apart.

    frame: uint8 (height, width), never so, or (height, width, 3) RGB. Coloured letters, callipers and colour bars cover less.
    """
    return frame.ndim == 3 and bool((_chroma(frame) >= _STRONG_CHROMA).mean() >= _COLOURED_SHARE)


@dataclass(frozen=True)
class _Pixels:
    """What turns stored values into shown ones."""

    photometric: str
    bits: int
    signed: bool
    slope: float
    intercept: float
    window: tuple[float, float, str] | None  # centre, width, function
    extremes: tuple[int, int] | None  # least and greatest stored value, where the header tells them
    colour_flow: bool
    palette: Any  # a data set of the six palette elements alone, None without

    @classmethod
    def of(cls, header: Any) -> _Pixels:
        centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
        window = None
        if centre is not None and width is not None and width > 0:
            window = (centre, width, str(header.get("VOILUTFunction") or "LINEAR"))
        regions = header.get("SequenceOfUltrasoundRegions") or ()
        flow = any(region.get("RegionDataType") == _COLOUR_FLOW for region in regions)
        photometric = str(header.PhotometricInterpretation)
        return cls(
            photometric,
            int(header.BitsStored),
            header.get("PixelRepresentation") == 1,
            float(header.get("RescaleSlope") or 1),
            float(header.get("RescaleIntercept") or 0),
            window,
            _extremes(header),
            flow or header.get("UltrasoundColorDataPresent") == 1,
            _palette(header) if photometric == "PALETTE COLOR" else None,
        )

    def shown(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """uint8 (height, width) or (height, width, 3) of one decoded frame."""
        if self.photometric in _GRAY:
            return self._gray(stored)
        if self.palette is not None:
            from pydicom.pixels import apply_color_lut

            wide = int(self.palette.RedPaletteColorLookupTableDescriptor[2]) > 8  # bits of an entry
            levels = apply_color_lut(stored, self.palette)
            levels = (levels / 257.0 + 0.5).astype(np.uint8) if wide else levels.astype(np.uint8)
        elif self.bits == 8:
            levels = stored.astype(np.uint8)
        else:
            raise ImageError(f"{path}: colour of {self.bits} bits; export it with 8 bits a channel")
        return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY) if _chroma(levels).max() <= _CHROMA_NOISE else levels

    def _gray(self, stored: np.ndarray) -> np.ndarray:
        """Rescaled, then seen through the window, or over the file's range of values, or over that which its bits can hold."""
        low, high = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)
        if self._fits(stored):
            low, high = self.extremes
        values = np.clip(stored.astype(np.float32), low, high) * self.slope + self.intercept
        if self.window is None:
            ends = sorted((low * self.slope + self.intercept, high * self.slope + self.intercept))
            share = (values - ends[0]) / (ends[1] - ends[0])
        else:
            share = window_share(values, *self.window)
        if self.photometric == "MONOCHROME1":  # its lowest value is white
            share = 1 - share
        return (255 * share + 0.5).astype(np.uint8)

    def _fits(self, stored: np.ndarray) -> bool:
        """Whether the header's extremes decide what is black and white: 8 bits are shown as they are, and extremes that a frame
        goes beyond are wrong."""
        if self.window is not None or self.bits <= 8 or self.extremes is None:
            return False
        return bool(stored.min() >= self.extremes[0] and stored.max() <= self.extremes[1])


def window_share(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values seen through a window, as shares in [0, 1] of the screen's range (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    function: "LINEAR" (half a step aside, by the standard), "LINEAR_EXACT" or "SIGMOID"; anything else counts as "LINEAR".
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:  # a threshold
        return (values > centre - 0.5).astype(np.float32)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _extremes(header: Any) -> tuple[int, int] | None:
    low, high = _first(header.get("SmallestImagePixelValue")), _first(header.get("LargestImagePixelValue"))
    return None if low is None or high is None or low >= high else (int(low), int(high))


def _palette(header: Any) -> Any:
    """A data set of the palette's six elements and nothing else."""
    from pydicom.dataset import Dataset

    palette = Dataset()
    for name in _PALETTE:
        palette.add(header[name])
    return palette


def _chroma(frame: np.ndarray) -> np.ndarray:
    """How far the channels of each pixel lie apart: uint8 (height, width)."""
    return frame.max(axis=2) - frame.min(axis=2)


def _first(value: Any) -> float | None:
    """The first of one or several numbers, None where it is empty; a file with several windows shows the first."""
    if isinstance(value, list | tuple) or hasattr(value, "append"):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
    except ModuleNotFoundError:
        raise ImageError(f"{path}: a DICOM file, and no package here reads those; pip install pydicom") from None
    return pydicom


def _check_codec(path: Path, syntax: Any) -> None:
    """Raise ImageError where the pixels are compressed in a way that nothing here decodes."""
    from pydicom.pixels import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        remedy = next((how for start, how in _CODECS if syntax.startswith(start)), "export it uncompressed")
        name = syntax.name if syntax.name != syntax else "private"  # a private number could be anything
        raise ImageError(f"{path}: compressed as {name}, which no installed package decodes; {remedy}")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what pydicom and the decoders raise into an ImageError, and keep quiet what they warn of: both quote the file."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except PermissionError:
        raise ImageError(f"{path}: not readable; change its permissions") from None
    except Exception as error:  # they raise many types on damaged data (InvalidDicomError, AttributeError, struct.error, …)
        if type(error).__name__ == "InvalidDicomError":
            raise ImageError(f"{path}: not a DICOM file, or one without its first 132 bytes; export it again") from None
        raise ImageError(f"{path}: damaged or incomplete DICOM, {type(error).__name__} in reading it; export it again") from None
    finally:
        logger.setLevel(level)
