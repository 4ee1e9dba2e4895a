"""`thyroid-workbook predict`: image files in, a table of findings, masks and a page of cards out, and nobody's name among them.

What is printed or written tells of files by their place in the list alone, unless it is asked to keep their names: results are
called image-0001, image-0002, … in the order the files were given, a folder's by their path, because a file's name may be a
patient's, and so may a folder's.
"""

from __future__ import annotations

import errno
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from thyroid_utils.common.errors import DataError, ImageError, ParameterError
from thyroid_utils.common.files import NO_SPACE, write_text
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.data.dicom import is_dicom, read_dicom, shows_colour
from thyroid_utils.data.images import IMAGE_SUFFIXES, is_deep, read_image, uses_little_range, write_png
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.findings import RESEARCH_ONLY, CaseImage
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.training.ledger import Run
from thyroid_utils.workbook.pages import duration_text, seen_from_here
from thyroid_utils.workbook.predict_page import BURNED_IN, Pages

FINE, SOME_FAILED = 0, 1
TABLE, MASKS, INDEX = "findings.csv", "masks", "index.html"

COLOUR = "colour Doppler; the networks learnt from gray images"
SCALES_DIFFER = "the file's regions differ in scale; no millimetres are given"
NOT_SQUARE = "its pixels are not square and no spacing is given: heights and widths do not compare"
LITTLE_RANGE = (
    "fills less than an eighth of the range of gray levels that its file can hold; export it with a window or with 8 bits"
)

Source = tuple[str, Path]  # the name that a file's results will have, and the file


def predict(
    images: Sequence[Path], classifier: Run, segmenter: Run, out: Path, spacing: float | None = None, keep_names: bool = False
) -> int:
    """Find and judge the nodules of image files, write `findings.csv`, `masks/` and `index.html`, and say how it went.

    Args:
        images: files and folders (searched with all below them) of PNG, JPEG, TIFF, BMP, GIF or DICOM, one or many frames.
        classifier, segmenter: finished runs.
        out: folder that does not exist or is empty; removed again where the work is interrupted.
        spacing: mm a pixel of images whose file gives none.
        keep_names: call results by the files' names; for files that name nobody.

    Returns:
        exit code: 0, or 1 where some images could not be used.

    Raises:
        ParameterError: nothing to read, runs that do not serve, a folder that holds something.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if spacing is not None and not (math.isfinite(spacing) and spacing > 0):
        raise ParameterError(f"predict: --spacing is {spacing:g}; expected millimetres a pixel, such as 0.07")
    sources, others = find_sources(images, keep_names)
    try:
        stage = DualStage(Predictor(classifier), Predictor(segmenter))
    except DataError as error:
        raise ParameterError(f"predict: {error}") from None
    if others:
        console.print(f"{others} file{'s' * (others != 1)} of another kind left out")
    began = time.monotonic()
    with _new_folder(out):
        counts = _write(out, stage, sources, spacing, began)
    told = ", ".join(f"{number} {name}" for name, number in counts.items())
    console.print(f"{told} in {duration_text(time.monotonic() - began)}: {seen_from_here(out / INDEX)}")
    for note in stage.notes:
        console.print(f"note: {note}")
    console.print(RESEARCH_ONLY)
    return SOME_FAILED if counts["not predicted"] else FINE


def _write(folder: Path, stage: DualStage, sources: list[Source], spacing: float | None, began: float) -> Counter:
    """Write everything into the folder; returns what the counts on the page say."""
    (folder / MASKS).mkdir()
    pages, rows = Pages(folder), []
    counts = Counter({"images": 0, "not predicted": 0, "without a nodule": 0, "undecided": 0, "with a warning": 0})
    for finding in stage.findings(case_images(sources, spacing, progress_bar("Reading files"))):
        file = "" if finding.error else f"{MASKS}/{finding.case}.png"
        if file:
            write_png(folder / file, finding.mask)
            counts["without a nodule"] += not finding.mask.any()
            counts["undecided"] += len(finding.labels) != 1
        counts["images"] += 1
        counts["not predicted"] += bool(finding.error)
        counts["with a warning"] += bool(finding.warnings)
        rows.append(finding.row() | {"mask": file})
        pages.add(finding)
    write_text(folder / TABLE, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    networks = {"Classifier": _facts(stage.classifier.run), "Segmenter": _facts(stage.segmenter.run)}
    told = {"counts": counts, "alpha": stage.alpha, "notes": stage.notes, "networks": networks}
    pages.close(**told, duration=time.monotonic() - began)
    return counts


def _facts(run: Run) -> dict[str, Any]:
    """What a reader should know of a network: name, what it was trained on, and how well it did on its test images."""
    config = run.config
    facts = {"run": run.name[:8], "network": config.model.name, "trained on": config.data.dataset, "seed": config.seed}
    scores = {name: run.metrics["test"].get(name.lower()) for name in ("AUC", "Dice")}
    return facts | {f"{name} on its test images": f"{value:.3f}" for name, value in scores.items() if value is not None}


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    """A new or empty folder; what is written into it goes again where the block does not end well.

    Raises:
        ParameterError: something is there already, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError("predict: --out is there and not an empty folder; give a new or an empty one")
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (*NO_SPACE, errno.EACCES, errno.EPERM, errno.EROFS):
            told = f"predict: --out cannot be written ({error.strerror}); free some space or give another"
            raise ParameterError(told) from None
        raise


def find_sources(given: Sequence[Path], keep_names: bool = False) -> tuple[list[Source], int]:
    """The files to read in order, each with the name of its results, and how many files of other kinds the folders hold.

    A folder's images are those with an image's or DICOM's suffix or DICOM's mark, sorted by path; hidden files and DICOMDIR are
    passed over. A file that is named itself is taken whatever it is, and fails by itself where it is no image.

    Raises:
        ParameterError: something that is not there, or nothing to read; it tells of the place in the list, not the name.
    """
    paths, others = [], 0
    for place, path in enumerate(given, 1):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _counts(file.relative_to(path)))
            chosen = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES or is_dicom(file)]
            paths, others = paths + chosen, others + len(inside) - len(chosen)
        elif path.exists():
            paths.append(path)
        else:
            raise ParameterError(f"predict: IMAGES number {place} is no file and no folder; check how it is written")
    if not paths:
        raise ParameterError("predict: the folders given hold no image; expected PNG, JPEG, TIFF, BMP, GIF or DICOM files")
    names = [re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") if keep_names else "" for path in paths]
    return [
        (f"{name or 'image'}-{number:04d}", path) for number, (name, path) in enumerate(zip(names, paths, strict=True), 1)
    ], others


def _counts(file: Path) -> bool:
    return not any(part.startswith(".") for part in file.parts) and file.name != "DICOMDIR"


def case_images(sources: Sequence[Source], spacing: float | None, progress: Progress) -> Iterator[CaseImage]:
    """The frames of the files one after another, or the error of a file that cannot be read; `progress` counts files."""
    for number, (case, path) in enumerate(sources, 1):
        try:
            if is_dicom(path):
                yield from _dicom_frames(case, path, spacing)
            else:
                frame = read_image(path)
                yield CaseImage(case, frame, spacing, _seen(frame, shows_colour(frame), is_deep(path)))
        except ImageError as error:
            yield CaseImage(case, ImageError(anonymous(error, path)))
        progress(number, len(sources))


def _dicom_frames(case: str, path: Path, spacing: float | None) -> Iterator[CaseImage]:
    image = read_dicom(path)
    scale = None if image.scales_differ else image.spacing or spacing
    told = (BURNED_IN,) * bool(image.burned_in) + (SCALES_DIFFER,) * image.scales_differ + (NOT_SQUARE,) * (not image.square)
    for number, frame in enumerate(image.iter_frames(), 1):
        name = f"{case}-frame-{number:04d}" if image.frame_count > 1 else case
        seen = _seen(frame, image.says_colour_doppler or shows_colour(frame), image.deep_without_window)
        yield CaseImage(name, frame, scale, told + seen)


def _seen(frame: np.ndarray, colour: bool, deep: bool) -> tuple[str, ...]:
    """Warnings of a frame. deep: whether its gray levels come from more than 8 bits and without a window."""
    return (COLOUR,) * colour + (LITTLE_RANGE,) * (deep and uses_little_range(frame))


def anonymous(error: ImageError, path: Path) -> str:
    """What is wrong and what to do, without the file's name and without what stands in brackets, which may quote its content."""
    text = str(error).removeprefix(f"{path}: ")
    before, bracket, rest = text.partition(" (")
    text = before + rest.rpartition(")")[2] if bracket else text
    for name in (str(path), path.name, path.stem):
        text = text.replace(name, "the file") if len(name) > 2 else text
    return text
