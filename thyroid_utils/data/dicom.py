"""Ultrasound frames out of DICOM files: pixels as a screen would show them, and how large they are. Nothing about the patient.

Only the elements named in `_ELEMENTS` are read, and what pydicom says about a file's content is not repeated, because a complaint
about a value quotes it. Parts of the standard meant below: PS3.3 C.7.6.3 (image pixels), C.8.5.5 (ultrasound regions).
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_color_lut, get_decoder, iter_pixels
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from thyroid_utils.common.errors import ImageError
from thyroid_utils.common.files import File, as_file
from thyroid_utils.data.dicom_levels import gray_levels, rescale, value_range, window
from thyroid_utils.data.images import DICOM_SUFFIXES, MAX_PIXELS

_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_ELEMENTS = ["SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
             "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "WindowCenter",
             "WindowWidth",
             "VOILUTFunction", "PixelSpacing", "PixelAspectRatio", "SequenceOfUltrasoundRegions", "UltrasoundColorDataPresent",
             "BurnedInAnnotation", "ModalityLUTSequence", "VOILUTSequence", "SmallestImagePixelValue",
             "LargestImagePixelValue", "PixelData",
             *(start + colour for start in (0x281101, 0x281201, 0x281221) for colour in range(3)),  # palettes: size, tables
             *_FLOAT_PIXELS]  # fmt: skip
_GRAY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TWO_DIMENSIONAL, _TISSUE, _COLOUR_FLOW, _CENTIMETRES = 1, 1, 2, 3  # codes of an ultrasound region
_SAME_SCALE = 0.01  # two regions whose pixels differ by less are one scale
_CHROMA_NOISE = 6  # gray levels by which the channels of a gray frame may differ after JPEG in YCbCr
_STRONG_CHROMA, _COLOURED_SHARE = 60, 0.01  # letters and a colour bar alone stay below a hundredth of the frame


@dataclass(frozen=True, eq=False)
class DicomImage:
    """What `read_dicom` found in the header; pixels are decoded when they are asked for.

    shape: (height, width) in pixels. spacing: (row, column) in mm a pixel, None where the file gives none or regions of several
    scales. scales_differ: whether it is None for the second reason, so that no one scale holds for the whole frame. square: False
    where spacing is None and the file says that its pixels are not square. frame_count: at least 1. burned_in: whether the file
    says that letters are burned into its pixels, None where it does not say. path: may itself name a patient and is left out of
    the repr.
    """

    path: File = field(repr=False)
    shape: tuple[int, int]
    spacing: tuple[float, float] | None
    scales_differ: bool
    square: bool
    frame_count: int
    burned_in: bool | None
    _header: pydicom.Dataset = field(repr=False)
    _pixels_at: int  # where the pixels begin in the file, in bytes

    @property
    def says_colour_doppler(self) -> bool:
        """Whether the header says that the file holds colour flow, whatever its frames show."""
        regions = self._header.get("SequenceOfUltrasoundRegions") or ()
        flow = any(region.get("RegionDataType") == _COLOUR_FLOW for region in regions)
        return flow or self._header.get("UltrasoundColorDataPresent") == 1

    def iter_frames(self) -> Iterator[np.ndarray]:
        """Frame after frame, each decoded when its turn comes: uint8 (height, width), or (height, width, 3) RGB where it holds
        colour. Memory does not grow with the number of frames.

        Raises:
            ImageError: the pixels are damaged, or other frames than the header says.
        """
        decoded, span = self._decoded(), (0.0, 0.0)
        if self._header.PhotometricInterpretation in _GRAY:
            with _reported(self.path):
                span = value_range(self._header, self._decoded())
        for _ in range(self.frame_count):
            with _reported(self.path):
                frame = self._shown(next(decoded), *span)
            yield frame
        with _reported(self.path):
            if next(decoded, None) is not None:
                raise ImageError(f"{self.path}: more frames than its header says, {self.frame_count}; export it again")

    def _decoded(self) -> Iterator[np.ndarray]:
        """Stored values, (height, width), or (height, width, 3) RGB."""
        header = self._header
        syntax, colour = header.file_meta.TransferSyntaxUID, header.SamplesPerPixel == 3
        if colour and syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
            # Headers of JPEG files often name the wrong colours; libjpeg goes by the markers and ids of the JPEG itself.
            with self.path.open("rb") as file:
                file.seek(self._pixels_at)
                for content in generate_frames(file, number_of_frames=self.frame_count):
                    image = Image.open(io.BytesIO(content), formats=["JPEG"])
                    if image.size[::-1] != self.shape:
                        raise ImageError(f"{self.path}: a frame has another size than its header says; export it again")
                    yield np.asarray(image.convert("RGB"))
        elif colour or (syntax.is_encapsulated and syntax != RLELossless):
            transformed = syntax in (JPEG2000, JPEG2000Lossless) and self._is_transformed()
            yield from iter_pixels(_given(self.path), raw=transformed)
        else:  # what lies above the stored bits is no part of the value, nor what lies below them
            unused = header.BitsAllocated - 1 - int(header.get("HighBit", header.BitsStored - 1))
            for words in iter_pixels(_given(self.path), correct_unused_bits=False):
                yield words << unused >> header.BitsAllocated - header.BitsStored

    def _palette_is_deep(self) -> bool:
        """Whether a palette of 16-bit words uses more than 8 bits of them (PS3.3 C.7.6.3.1.6 tells of those that do not)."""
        tables = [self._header.get(f"{name}PaletteColorLookupTableData") or b"" for name in ("Red", "Green", "Blue")]
        deep = any(max(np.frombuffer(table[: len(table) // 2 * 2], "<u2"), default=65535) > 255 for table in tables)
        return deep and self._header.RedPaletteColorLookupTableDescriptor[2] > 8

    def _fragments(self) -> Iterator[bytes]:
        """Of a compressed file: what it holds behind the table of offsets."""
        with self.path.open("rb") as file:
            file.seek(self._pixels_at)
            parse_basic_offsets(file)
            yield from generate_fragments(file)

    def _is_transformed(self) -> bool:
        """Whether a JPEG 2000 stream says that its colours are transformed, which its decoder undoes whatever the header says."""
        style = next(self._fragments()).partition(b"\xff\x52")[2]  # COD: length (2), style, order, layers (2), transform (1)
        return style[6:7] == b"\1"

    def _shown(self, stored: np.ndarray, low: float, high: float) -> np.ndarray:
        """uint8 (height, width) or (height, width, 3) of one decoded frame. low, high: range of the file's gray values."""
        if self._header.PhotometricInterpretation in _GRAY:
            return gray_levels(stored, self._header, low, high)
        if self._header.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, self._header)
            if stored.dtype == np.uint16 and self._palette_is_deep():
                stored = stored / 257.0 + 0.5
        levels = stored.astype(np.uint8)
        return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY) if _chroma(levels).max() <= _CHROMA_NOISE else levels


def _given(path: File) -> Path | io.BytesIO:
    """As pydicom takes it."""
    return path if isinstance(path, Path) else path.open()


def is_dicom(path: str | File) -> bool:
    """Whether a file's name or its first 132 bytes say that it is DICOM; False where it cannot be read."""
    path = as_file(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | File) -> DicomImage:
    """Read an ultrasound DICOM file's header; its frames follow when they are asked for.

    Spacing is that of the 2-D ultrasound regions in centimetres (PhysicalDeltaX, PhysicalDeltaY), else PixelSpacing.

    Raises:
        ImageError: missing, no DICOM file, damaged, without pixels, of a kind of pixels that is not shown here, or compressed in
            a way that no installed package decodes; the message then names the transfer syntax and what to install.
    """
    path = as_file(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; restore it or correct the path")
    with _reported(path):
        with path.open("rb") as file:
            read_preamble(file, False)
            meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group > 2)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise ImageError(f"{path}: deflated as a whole, which could fill the memory; export it uncompressed")
        header = pydicom.dcmread(_given(path), defer_size=2**18, specific_tags=_ELEMENTS)
        if any(tag in header for tag in _FLOAT_PIXELS):
            raise ImageError(f"{path}: floating-point pixels have no fixed range; export it with 8 or 16 bits")
        if "PixelData" not in header:
            raise ImageError(f"{path}: a DICOM file without a picture (a report, a document, other data); leave it out")
        pixels = header.get_item("PixelData", keep_deferred=True)  # not read: only where it lies and how long it is
        del header.PixelData
        spacing, differ = _spacing(header)
        image = DicomImage(
            path,
            shape=(int(header.Rows), int(header.Columns)),
            spacing=spacing,
            scales_differ=differ,
            square=spacing is not None or len(set(map(float, header.get("PixelAspectRatio") or ()))) < 2,
            frame_count=int(header.get("NumberOfFrames") or 1),
            burned_in={"YES": True, "NO": False}.get(header.get("BurnedInAnnotation")),
            _header=header,
            _pixels_at=pixels.value_tell,
        )
        problem = _problem(image, pixels.length)
    if problem:
        raise ImageError(f"{path}: {problem}")
    return image


def _problem(image: DicomImage, stored: int) -> str:
    """Why a file is not shown, and what to do; "" where it is. stored: length of its pixels in bytes."""
    header, (height, width) = image._header, image.shape
    photometric, syntax = header.PhotometricInterpretation, header.file_meta.TransferSyntaxUID
    if height * width > MAX_PIXELS:
        return f"{width}×{height} is more than {MAX_PIXELS:,} pixels; crop or shrink it first"
    if photometric not in (*_GRAY, *_COLOUR, "PALETTE COLOR"):
        return f"pixels of a kind that is not shown here; export it as {_GRAY[1]} or RGB"
    if photometric in _COLOUR and header.BitsStored != 8:
        return f"colour of {header.BitsStored} bits; export it with 8 bits a channel"
    if header.SamplesPerPixel != (3 if photometric in _COLOUR else 1):
        return f"{header.SamplesPerPixel} samples a pixel, which its kind of colours does not have; export it again"
    plain = not syntax.is_encapsulated
    if photometric in _COLOUR and plain and header.get("PlanarConfiguration") not in (0, 1):
        return "its header does not say how its colours are laid out; export it again"
    stored_bits, high = header.BitsStored, header.get("HighBit", header.BitsStored - 1)
    shifted = high != stored_bits - 1 and (photometric in _COLOUR or not (plain or syntax == RLELossless))
    if not 0 < stored_bits <= high + 1 <= header.BitsAllocated or shifted:
        return f"{stored_bits} bits up to bit {high} of {header.BitsAllocated} contradict each other; export it again"
    if header.get("ModalityLUTSequence") or (header.get("VOILUTSequence") and window(header) is None):
        return "shown through a table of gray levels, which is not done here; export it with a window"
    slope, intercept = rescale(header)
    if slope == 0 or not math.isfinite(2.0**stored_bits * slope + intercept):
        return "its gray levels are rescaled by no number or by 0; export it again"
    if not all(math.isfinite(number) for number in (window(header) or (0, 1))[:2]):
        return "its window is no number; export it again"
    if syntax.is_encapsulated and image.frame_count == 1:
        starts = [fragment[:2] for fragment in image._fragments()]
        if starts.count(starts[0]) > 1:
            return "more frames than its header says, 1; export it again"
    if plain:
        expected = get_expected_length(header)
        if not expected <= stored < expected + expected / image.frame_count / 2:  # less than half a frame more is padding
            return f"{stored} bytes of pixels where its header says {expected}: colours or frames are wrong; export it again"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if available:
        return ""
    name = syntax.name if syntax.name != syntax else "private"  # a private number could be anything
    return f"compressed as {name}, which no package here decodes; export its frames as images, or pip install 'pylibjpeg[all]'"


def _spacing(header: Any) -> tuple[tuple[float, float] | None, bool]:
    """(row, column) in mm a pixel, None without a sure one; and whether that is because regions differ in scale."""
    found = []
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        flat = region.get("RegionSpatialFormat") == _TWO_DIMENSIONAL and region.get("RegionDataType") in (_TISSUE, _COLOUR_FLOW)
        if flat and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES:
            found.append([10 * abs(float(region.get(f"PhysicalDelta{axis}") or 0)) for axis in "YX"])
    if not found and header.get("PixelSpacing"):
        found.append([float(value) for value in header.PixelSpacing])
    scales = np.array(found, float).reshape(-1, 2)
    sure = scales[(np.isfinite(scales) & (scales > 0)).all(axis=1)]
    differ = len(sure) > 1 and bool(np.ptp(sure, axis=0).max() > _SAME_SCALE * sure.min())
    if differ or not 0 < len(sure) == len(scales):
        return None, differ
    return (float(sure[0, 0]), float(sure[0, 1])), False


def shows_colour(frame: np.ndarray) -> bool:
    """Whether a frame shows colour flow: a hundredth of its pixels or more whose channels lie 60 gray levels apart.

    frame: uint8 (height, width), never so, or (height, width, 3) RGB. Coloured letters, callipers and colour bars cover less.
    """
    return frame.ndim == 3 and bool((_chroma(frame) >= _STRONG_CHROMA).mean() >= _COLOURED_SHARE)


def _chroma(frame: np.ndarray) -> np.ndarray:
    """How far the channels of each pixel lie apart: uint8 (height, width)."""
    return frame.max(axis=2) - frame.min(axis=2)


@contextmanager
def _reported(path: File) -> Iterator[None]:
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
    except InvalidDicomError:
        raise ImageError(f"{path}: not a DICOM file, or one without its first 132 bytes; export it again") from None
    except Exception as error:  # they raise many types on damaged data (AttributeError, struct.error, …)
        raise ImageError(f"{path}: damaged or incomplete DICOM, {type(error).__name__} in reading it; export it again") from None
    finally:
        logger.setLevel(level)
