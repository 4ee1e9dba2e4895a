"""`thyroid-workbook predict`: image files in, a table of findings, masks and a page of cards out, and nobody's name among them.

What is printed or written tells of files by their place in the list alone, unless it is asked to keep their names: results are
called image-0001, image-0002, … in the order the files were given, a folder's by their path, because a file's name may be a
patient's, and so may a folder's. Which file is which stands in a key beside the output folder, not inside it.
"""

import math
import os
import re
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count as numbers
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console

from thyroid_utils.common.errors import DataError, ImageError, ParameterError
from thyroid_utils.common.files import File, csv_text, write_text
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.common.words import count, listed, whole
from thyroid_utils.data.dicom import is_dicom, read_dicom, shows_colour
from thyroid_utils.data.images import IMAGE_SUFFIXES, read_image, uses_little_range, write_png
from thyroid_utils.data.readers.own import is_mask_beside, masked_images
from thyroid_utils.inference.doubts import own_scores
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.findings import RESEARCH_ONLY, CaseImage
from thyroid_utils.inference.known import SCORES
from thyroid_utils.studies.tables import counted_patients
from thyroid_utils.training.ledger import Run
from thyroid_utils.workbook.pages import duration_text, seen_from_here
from thyroid_utils.workbook.predict_page import BURNED_IN, Pages

FINE, SOME_FAILED = 0, 1
TABLE, NETWORKS, MASKS, INDEX = "findings.csv", "networks.csv", "masks", "index.html"
UNFINISHED = ".unfinished"  # locked while an output folder is being written
MOST_PIXELS = 4096 * 4096  # of a frame; four times that took a minute and gigabytes, and no scanner makes one

# What `predict` writes, as paths below the output folder, with the names of `files.atomic_path` until they are whole.
_OURS = re.compile(
    rf"{TABLE}|{NETWORKS}|{INDEX}|page-\d+\.html|\.cards-\d+|{MASKS}(/.*-\d{{4,}}(-frame-\d{{4,}})?\.png)?"
    rf"|({MASKS}/)?\.[^/]*-[0-9a-f]{{12}}\.\w+|{re.escape(UNFINISHED)}"
)

COLOUR = "colour Doppler; the networks learnt from gray images"
SCALES_DIFFER = "the file's regions differ in scale; no millimetres are given"
NOT_SQUARE = "its pixels are not square and no spacing is given: heights and widths do not compare"
LITTLE_RANGE = "fills less than an eighth of the range of gray levels that it could; export it with a window"
TOO_LARGE = f"more than {whole(MOST_PIXELS)} pixels; crop or shrink it first"

# The name that a file's results will have, the file, and what keeps it from being read ("" for nothing).
Source = tuple[str, File, str]


def predict(
    images: Sequence[Path],
    stage_of: Callable[[], DualStage],
    out: Path,
    spacing: float | None = None,
    keep_names: bool = False,
) -> int:
    """Find and judge the nodules of image files, write `findings.csv`, `masks/` and `index.html`, and say how it went.

    Args:
        images: files and folders (searched with all below them) of PNG, JPEG, TIFF, BMP, GIF or DICOM, one or many frames.
        stage_of: makes the networks that are asked, of runs or of ONNX files.
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
    out = Path(os.path.abspath(out))  # of "." there is nothing beside
    sources, others = find_sources(images, keep_names)
    for told, left_out in others.items():
        console.print(f"{count(left_out, told)} left out")
    began = time.monotonic()
    with _new_folder(out):
        try:
            stage = stage_of()
        except DataError as error:
            raise ParameterError(f"predict: {error}") from None
        counts = _write(out, stage, sources, spacing, began)
        key = None if keep_names else _write_key(out, sources)
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if name != "images")
    console.print(
        f"{count(counts['images'], 'image')}, {told} in {duration_text(time.monotonic() - began)}: {seen_from_here(out / INDEX)}"
    )
    if key is not None:
        console.print(f"which file is which: {seen_from_here(key)}; keep it to yourself, as files may name patients")
    for note in stage.notes:
        console.print(f"note: {note}")
    console.print(RESEARCH_ONLY)
    return SOME_FAILED if counts["not predicted"] else FINE


def _write(folder: Path, stage: DualStage, sources: list[Source], spacing: float | None, began: float) -> Counter:
    """Write everything into the folder; returns what the counts on the page say."""
    (folder / MASKS).mkdir()
    pages, rows = Pages(folder), []
    counts = Counter(dict.fromkeys(("images", "not predicted", "without a nodule", "undecided", "with a warning"), 0))
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
    write_text(folder / TABLE, csv_text(pd.DataFrame(rows), index=False, float_format="%.6g"))
    write_text(folder / NETWORKS, csv_text(_networks(stage), index=False, float_format="%.6g"))
    networks = {role.capitalize(): _facts(*found.runs) for role, found in stage.networks.items()}
    scores = {}
    for role, found in stage.networks.items():
        own, runs = stage.scores[role], found.runs
        who, alone = counted_patients(runs[0], own.images, own.patients), len(runs) == 1
        name = f"{SCORES[role]} of the {role}" if alone else f"{SCORES[role]} of {count(len(runs), role)}"
        scores[name] = f"{own} on {'its' if alone else 'their'} own test images, {who}"
    told = {"counts": counts, "scores": scores, "alpha": stage.alpha, "notes": stage.notes, "networks": networks}
    pages.close(**told, duration=time.monotonic() - began)
    return counts


def _facts(*runs: Run) -> dict[str, Any]:
    """What a reader should know of a network, or of several of one recipe: names and what they were trained on."""
    config, seeds = runs[0].config, dict.fromkeys(run.config.seed for run in runs)
    facts = {"run": listed(run.name[:8] for run in runs), "network": config.model.name, "trained on": config.data.dataset}
    facts |= {"seed": listed(seeds), "patients": runs[0].data["patients"]}
    return facts | ({"networks": len(runs)} if len(runs) > 1 else {})


def _networks(stage: DualStage) -> pd.DataFrame:
    """A row a network: its score on its own test images, with the 95 % interval over patients."""
    rows = []
    for role, predictor in stage.roles():
        run = predictor.run
        own = (own_scores(run) if stage.explains else predictor.own_scores)[SCORES[role]]
        told = {"role": role, **_facts(run), "run": run.name, "score": SCORES[role], "value": own.value, "low": own.low}
        rows.append(told | {"high": own.high, "images": own.images, "of_patients": own.patients, "note": own.note})
    return pd.DataFrame(rows)


def _write_key(out: Path, sources: list[Source]) -> Path:
    """Which file each name stands for, beside the folder; a key that is there already is left alone."""
    tried = (out.with_name(f"{out.name[:60]}-key{'' if number == 1 else f'-{number}'}.csv") for number in numbers(1))
    path = next(path for path in tried if not os.path.lexists(path))
    key = pd.DataFrame([(case, os.path.abspath(file)) for case, file, _ in sources], columns=["case", "file"])
    text = csv_text(key, index=False)
    return write_text(path, text.encode("utf-8", "replace").decode())  # names need not be UTF-8


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    """A new or empty folder; what is written into it goes again where the block does not end well, or at the next call where the
    process was killed.

    Raises:
        ParameterError: something is there already, or it cannot be written.
    """
    mark, done = out / UNFINISHED, False
    try:
        if os.path.lexists(out) and not _is_free(out):
            raise ParameterError("predict: --out is there and not an empty folder; give a new or an empty one")
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(mark, timeout=0):
            try:
                _clear(out)
                yield
                done = True
            finally:
                if not done:
                    _clear(out)
                mark.unlink(missing_ok=True)
    except Timeout:
        raise ParameterError("predict: another predict is writing into --out; wait for it or give another folder") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise ParameterError(f"predict: --out cannot be written ({why}); give another folder, or free some space") from None
    finally:
        if not done:
            with suppress(OSError):
                out.rmdir()  # unless it holds what is not ours


def _is_free(out: Path) -> bool:
    """Whether a folder is empty, or holds only what a predict that was killed left there."""
    if not out.is_dir():
        return False
    inside = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    return not inside or (UNFINISHED in inside and all(_OURS.fullmatch(name) for name in inside))


def _clear(out: Path) -> None:
    """Remove what is ours but the mark."""
    for path in sorted(out.rglob("*"), reverse=True):  # what a folder holds before the folder
        if path.name != UNFINISHED and _OURS.fullmatch(path.relative_to(out).as_posix()):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def find_sources(given: Sequence[Path], keep_names: bool = False) -> tuple[list[Source], Counter]:
    """The files to read in order, each with the name of its results, and how many were left out by kind.

    A folder's images are those with an image's or DICOM's suffix or DICOM's mark, sorted by path; hidden files, DICOMDIR and
    what `predict` itself has written are passed over. What cannot be read or listed is a source too, with the reason. Of those,
    masks beside the images that they belong to are left out. A file that is named itself is taken whatever it is, and fails by
    itself where it is no image.

    Raises:
        ParameterError: something that is not there, or nothing to read; it tells of the place in the list, not the name.
    """
    found: list[tuple[Path, str]] = []
    others: Counter = Counter()
    for place, path in enumerate(given, 1):
        if os.path.isdir(path):
            inside = sorted(_inside(path))
            chosen = [(file, why) for file, why in inside if why or file.suffix.lower() in IMAGE_SUFFIXES or is_dicom(file)]
            found, others["file of another kind"] = found + chosen, others["file of another kind"] + len(inside) - len(chosen)
        elif os.path.lexists(path):
            found.append((path, _problem(path)))
        else:
            raise ParameterError(f"predict: IMAGES number {place} is no file and no folder; check how it is written")
    kept = _without_masks(found, set(given))
    others["mask"] = len(found) - len(kept)
    if not kept:
        raise ParameterError("predict: the folders given hold no image; expected PNG, JPEG, TIFF, BMP, GIF or DICOM files")
    names = [re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") if keep_names else "" for path, _ in kept]
    sources = [
        (f"{name or 'image'}-{number:04d}", *source) for number, (name, source) in enumerate(zip(names, kept, strict=True), 1)
    ]
    return sources, +others


def _inside(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, and every folder that cannot be searched, with what keeps it from being read."""
    failed: list[OSError] = []
    for here, below, names in os.walk(folder, onerror=failed.append):
        if {TABLE, NETWORKS, INDEX} <= set(names):  # an earlier output
            below.clear()
            continue
        below[:] = [name for name in below if not name.startswith(".")]
        links = [Path(here, name) for name in below if os.path.islink(Path(here, name))]
        yield from ((link, "a link to a folder is not followed; give that folder itself") for link in links)
        files = [Path(here, name) for name in names if not name.startswith(".") and name != "DICOMDIR"]
        yield from ((file, _problem(file)) for file in files)
    yield from ((Path(error.filename), f"a folder that cannot be listed ({error.strerror})") for error in failed)


def _problem(path: Path) -> str:
    """What keeps a file from being read, without opening it: a pipe would be waited for; "" for nothing."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "a pipe, a socket or a device, not a file"
        return "" if os.access(path, os.R_OK) else "may not be read; check its permissions"
    except FileNotFoundError:
        return "a link that leads nowhere; restore what it leads to"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _without_masks(found: list[tuple[Path, str]], given: set[Path]) -> list[tuple[Path, str]]:
    """Without another one's mask, unless given itself: `scan_mask.png` beside `scan.png`, `masks/scan.png` where there is one."""
    beside = defaultdict(set)
    for path, _ in found:
        beside[path.parent].add(path.stem)
    elsewhere = {path.stem for path, _ in found if not _in_masks(path)}

    def is_mask(path: Path) -> bool:
        if _in_masks(path) and {path.stem, *masked_images(path.stem)} & elsewhere:
            return True
        return is_mask_beside(path, path.stem, beside[path.parent])

    return [(path, why) for path, why in found if why or path in given or not is_mask(path)]


def _in_masks(path: Path) -> bool:
    return path.parent.name.lower() in ("mask", "masks")


def case_images(sources: Sequence[Source], spacing: float | None, progress: Progress) -> Iterator[CaseImage]:
    """The frames of the files one after another, or the error of a file that cannot be read; `progress` counts files."""
    for number, (case, path, why) in enumerate(sources, 1):
        try:
            if why:
                raise ImageError(why)
            if is_dicom(path):
                yield from _dicom_frames(case, path, spacing)
            else:
                yield _case_image(case, read_image(path), spacing)
        except ImageError as error:
            yield CaseImage(case, ImageError(anonymous(error, path)))
        progress(number, len(sources))


def _dicom_frames(case: str, path: File, spacing: float | None) -> Iterator[CaseImage]:
    image = read_dicom(path)
    scale = None if image.scales_differ else image.spacing or spacing
    told = (BURNED_IN,) * bool(image.burned_in) + (SCALES_DIFFER,) * image.scales_differ + (NOT_SQUARE,) * (not image.square)
    for number, frame in enumerate(image.iter_frames(), 1):
        name = f"{case}-frame-{number:04d}" if image.frame_count > 1 else case
        yield _case_image(name, frame, scale, told, image.says_colour_doppler)


def _case_image(case: str, frame: np.ndarray, spacing: Any, told: tuple[str, ...] = (), doppler: bool = False) -> CaseImage:
    """told: warnings of the file; those of the frame follow. doppler: the file says that there is colour flow."""
    if frame.shape[0] * frame.shape[1] > MOST_PIXELS:
        return CaseImage(case, ImageError(TOO_LARGE), spacing)
    seen = (COLOUR,) * (doppler or shows_colour(frame)) + (LITTLE_RANGE,) * uses_little_range(frame)
    return CaseImage(case, frame, spacing, told + seen)


def anonymous(error: ImageError, path: File) -> str:
    """What is wrong and what to do, without the file's name and without what stands in brackets, which may quote its content."""
    text = str(error).removeprefix(f"{path}: ")
    before, bracket, rest = text.partition(" (")
    text = before + rest.rpartition(")")[2] if bracket else text
    names = "|".join(re.escape(name) for name in (str(path), path.name))
    return re.sub(rf"(?<![\w-])(?:{names})(?![\w-])", "the file", text)
