"""Which files are to be predicted, what their results are called, and their frames one after another.

Results are called image-0001, image-0002, … in the order the files were given, a folder's by their path, because a file's name
may be a patient's, and so may a folder's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.dicom import DicomImage, is_dicom, read_dicom, shows_colour
from thyroid_utils.data.images import IMAGE_SUFFIXES, is_deep, read_image, uses_little_range
from thyroid_utils.inference.dual_stage import CaseImage
from thyroid_utils.workbook.errors import ParameterError

COLOUR = "colour Doppler; the networks learnt from gray images"
BURNED_IN = "the file says that letters are burned into its pixels"
SCALES_DIFFER = "the file's regions differ in scale; no millimetres are given"
NOT_SQUARE = "its pixels are not square and no spacing is given: heights and widths do not compare"
LITTLE_RANGE = (
    "fills less than an eighth of the range of gray levels that its file can hold; export it with a window or with 8 bits"
)


@dataclass(frozen=True)
class Source:
    """A file to be read, under the name that its results will have."""

    case: str
    path: Path


def find_sources(given: Sequence[Path], out: Path | None = None, keep_names: bool = False) -> tuple[list[Source], int]:
    """The files to read in order, and how many files of other kinds the folders hold.

    A folder's images are those with an image's or DICOM's suffix or DICOM's mark, sorted by path; hidden files, DICOMDIR and what
    lies in `out` are passed over. A file that is named itself is taken whatever it is, and fails by itself where it is no image.

    Raises:
        ParameterError: something that is not there, or nothing to read; it tells of the place in the list, not the name.
    """
    paths, others = [], 0
    for place, path in enumerate(given, 1):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _counts(file.relative_to(path)))
            inside = [file for file in inside if out is None or out.resolve() not in file.resolve().parents]
            chosen = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES or is_dicom(file)]
            paths, others = paths + chosen, others + len(inside) - len(chosen)
        elif path.exists():
            paths.append(path)
        else:
            raise ParameterError(f"predict: IMAGES number {place} is no file and no folder; check how it is written")
    if not paths:
        raise ParameterError("predict: the folders given hold no image; expected PNG, JPEG, TIFF, BMP, GIF or DICOM files")
    return [Source(case, path) for case, path in zip(_names(paths, keep_names), paths, strict=True)], others


def _counts(file: Path) -> bool:
    return not any(part.startswith(".") for part in file.parts) and file.name != "DICOMDIR"


def _names(paths: Sequence[Path], keep: bool) -> list[str]:
    if not keep:
        digits = max(4, len(str(len(paths))))
        return [f"image-{number:0{digits}d}" for number in range(1, len(paths) + 1)]
    names, taken = [], set()
    for path in paths:
        plain = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "image"
        name, number = plain, 1
        while name.lower() in taken:  # two masks must not fall into one file, whatever the file system makes of capitals
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def case_images(
    sources: Iterable[Source], spacing: float | None, notes: dict[str, list[str]], progress: Callable[[int], None] | None = None
) -> Iterator[CaseImage]:
    """The frames of the files one after another, each with its name and spacing, or the error of a file that cannot be read.

    Args:
        notes: gets case → what the file says beside its pixels; the caller removes it again.
        progress: called with the number of files that are read.
    """
    for number, source in enumerate(sources, 1):
        try:
            if is_dicom(source.path):
                image = read_dicom(source.path)
                for frame_number, frame in enumerate(image.iter_frames(), 1):
                    case = f"{source.case}-frame-{frame_number:04d}" if image.frame_count > 1 else source.case
                    notes[case] = _told(image) + _seen(
                        frame, image.says_colour_doppler or shows_colour(frame), image.deep_without_window
                    )
                    yield CaseImage(case, frame, None if image.scales_differ else image.spacing or spacing)
            else:
                frame = read_image(source.path)
                notes[source.case] = _seen(frame, shows_colour(frame), is_deep(source.path))
                yield CaseImage(source.case, frame, spacing)
        except ImageError as error:
            yield CaseImage(source.case, ImageError(anonymous(error, source.path)))
        if progress is not None:
            progress(number)


def _told(image: DicomImage) -> list[str]:
    """Notes on what the header says of all its frames."""
    return [BURNED_IN] * bool(image.burned_in) + [SCALES_DIFFER] * image.scales_differ + [NOT_SQUARE] * (not image.square)


def _seen(frame: np.ndarray, colour: bool, deep: bool) -> list[str]:
    """Notes on a frame. deep: whether its gray levels come from more than 8 bits and without a window."""
    return [COLOUR] * colour + [LITTLE_RANGE] * (deep and uses_little_range(frame))


def anonymous(error: ImageError, path: Path) -> str:
    """What is wrong and what to do, without the file's name and without what stands in brackets, which may quote its content."""
    text = str(error).removeprefix(f"{path}: ")
    before, bracket, rest = text.partition(" (")
    text = before + rest.rpartition(")")[2] if bracket else text
    for name in (str(path), path.name, path.stem):
        text = text.replace(name, "the file") if len(name) > 2 else text
    return text
