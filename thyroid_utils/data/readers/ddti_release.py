"""The original release of DDTI: one `NNN.xml` a case beside its frames `NNN_K.jpg`, the nodules as polygons.

Masks are made from the polygons and kept below `paths.cache_dir()`; nothing is written beside the data. What is wrong with
an outline stands in the column `mask_problem` and leaves the mask empty (NA) where no outline can be used. What is wrong with
a case as a whole stands in `cases.attrs["notes"]`, a list of {file, problem, remedy}.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import cv2
import numpy as np
import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from thyroid_utils.common import paths
from thyroid_utils.common.cache import cached_folder
from thyroid_utils.common.errors import DataError, ImageError, readable
from thyroid_utils.data.images import image_size, write_png
from thyroid_utils.data.readers.listing import case_table, entries, image_rows, images_by_stem, natural_order

TIRADS_LABEL = {"2": 0, "3": 0, "4a": 1, "4b": 1, "4c": 1, "5": 1}
TRAITS = ("sex", "composition", "echogenicity", "margins", "calcifications")
_RASTER_VERSION = "1"  # part of the masks' address: raise it when `rasterise` draws differently
_FRAME_NAME = re.compile(r"(\d+)_(\d+)")


@dataclass
class _Case:
    """What one XML file says: `outlines` maps the number of a frame to the raw `svg` texts of its marks. Or why nothing."""

    values: dict[str, object] = field(default_factory=dict)
    outlines: dict[int, list[str]] = field(default_factory=dict)
    broken: str = ""


def case_files(folder: Path) -> dict[str, Path]:
    """The files `NNN.xml` of a folder by NNN; DataError where there are two for one case."""
    found: dict[str, Path] = {}
    for path in entries(folder):
        if path.suffix.lower() == ".xml" and path.stem.isdecimal():
            if path.stem in found:
                raise DataError(f"{folder}: two files for case {path.stem}, the second is {path.name}; keep one")
            found[path.stem] = path
    return found


def read_release(folder: Path) -> pd.DataFrame:
    """The case table of the original release; case ids `ddti/NNN_K`, patient `ddti-NNN`.

    Columns beyond the required ones: `frame` (NNN_K), `pane` ("full"), `tirads`, `age` (years, Int16), `sex`,
    `composition`, `echogenicity`, `margins`, `calcifications`, `nodules` (outlines drawn, Int16) and `mask_problem`.

    Raises:
        DataError: an XML file that defines entities (never needed, and a way to exhaust memory), no frames, or a cache folder
            that cannot be written.
    """
    notes: list[dict[str, str]] = []
    cases = {number: _read_xml(path, notes) for number, path in case_files(folder).items()}
    images = images_by_stem(folder)
    frames = {stem: path for stem, path in images.items() if _FRAME_NAME.fullmatch(stem)}
    others = [path for stem, path in images.items() if stem not in frames]
    notes += [{"file": str(path), "problem": "not named NNN_K; left out", "remedy": "rename it"} for path in others]
    if not frames:
        raise DataError(f"ddti: {folder} holds {len(cases)} XML files but no NNN_K.jpg; put the frames beside them")
    rows, drawings = {}, {}
    for stem, image in frames.items():
        number, frame = stem.split("_")
        case = cases.get(number) or _Case(broken=f"no {number}.xml")
        polygons, problems = ([], [case.broken]) if case.broken else _polygons(case.outlines.get(int(frame), []), image)
        if polygons:
            drawings[stem] = polygons
        rows[stem] = {
            "frame": stem,
            "patient": f"ddti-{number}",
            **{name: case.values.get(name, pd.NA) for name in ("label", "tirads", "age", *TRAITS)},
            "nodules": pd.NA if case.broken else len(polygons),
            "mask_problem": "; ".join(dict.fromkeys(problems)) or pd.NA,
        }
    notes += _frames_without_image(folder, cases, frames)
    columns = pd.DataFrame.from_dict(rows, orient="index").to_dict()
    rows = image_rows("ddti", "ddti/", frames, _draw_masks(frames, drawings), pane="full", patient_known=True, **columns)
    table = case_table([rows], ("frame", "pane", "tirads", *TRAITS, "mask_problem"))
    table[["nodules", "age"]] = table[["nodules", "age"]].astype("Int16")
    table.attrs["notes"] = notes
    return table


def _read_xml(path: Path, notes: list[dict[str, str]]) -> _Case:
    with readable(path):
        content = path.read_bytes()
    try:
        root = fromstring(content)
    except DefusedXmlException:
        raise DataError(f"{path}: defines XML entities, which no DDTI file needs; download it again") from None
    except (ParseError, ValueError, LookupError) as error:
        return _Case(broken=f"{path.name}: not well-formed XML ({error})")

    def note(problem: str, remedy: str) -> None:
        notes.append({"file": str(path), "problem": problem, "remedy": remedy})

    case = _Case({name: value for name in TRAITS if (value := _text(root, name))})
    number, age, tirads = _text(root, "number"), _text(root, "age"), _text(root, "tirads").lower()
    if number and number != path.stem:
        note(f"names case {number}; the file's name is used", "correct <number> or the file's name")
    if _is_whole(age) and int(age) <= 120:
        case.values["age"] = int(age)
    elif age:
        note(f"age is {age!r}; left empty", "write whole years, or nothing")
    if tirads in TIRADS_LABEL:
        case.values |= {"tirads": tirads, "label": TIRADS_LABEL[tirads]}
    elif tirads:
        note(f"TI-RADS is {tirads!r}; TI-RADS and label left empty", f"expected one of {', '.join(TIRADS_LABEL)}")
    for mark in root.iter("mark"):
        frame = _text(mark, "image")
        if _is_whole(frame):
            case.outlines.setdefault(int(frame), []).append(_text(mark, "svg"))
        else:
            note(f"a mark names the frame {frame!r}; left out", "write the number K of NNN_K.jpg")
    return case


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9  # Python refuses to read numbers of thousands of digits


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _polygons(outlines: list[str], image: Path) -> tuple[list[np.ndarray], list[str]]:
    """Usable polygons, int32 (points, 2) as x, y, and what is wrong with the others."""
    try:
        height, width = image_size(image)
    except ImageError as error:
        return [], [f"the frame cannot be read ({error})".replace(str(image), image.name)]
    polygons, problems, regions = [], [], []
    for text in filter(None, outlines):
        try:
            found = json.loads(text)
            regions += found if isinstance(found, list) else [found]
        except (ValueError, RecursionError):
            problems.append("svg is broken JSON")
    for region in regions:
        points, unreadable = _points(region)
        outside = (points < 0).any(axis=1) | (points >= (width, height)).any(axis=1)
        if unreadable:
            problems.append(f"{unreadable} points of an outline have no x and y; drawn without them")
        if len(points) < 3:
            problems.append(f"an outline has {len(points)} points, at least 3 are needed; left out")
        elif not rasterise([points], (height, width)).any():
            problems.append("an outline lies outside the frame; left out")
        else:
            polygons.append(points)
            if outside.any():
                problems.append(f"{int(outside.sum())} points of an outline lie outside the frame; cut at its edge")
    return polygons, problems or ([] if polygons else ["no outline drawn"])


def _points(region: object) -> tuple[np.ndarray, int]:
    """Whole-pixel points, int32 (points, 2), and how many entries were none."""
    listed = region.get("points") if isinstance(region, dict) else None
    listed = listed if isinstance(listed, list) else []
    points = []
    for entry in listed:
        try:
            x, y = float(entry["x"]), float(entry["y"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) < 32768:  # beyond, OpenCV's fixed point overflows
            points.append((round(x), round(y)))
    return np.array(points, np.int32).reshape(-1, 2), len(listed) - len(points)


def rasterise(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Boolean mask (height, width) of the union of polygons, int32 (points, 2) as x, y; the outline itself is inside."""
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:  # one at a time: together, overlapping polygons would cut holes into each other
        cv2.fillPoly(canvas, [polygon], 1)
    return canvas.astype(bool)


def _draw_masks(frames: dict[str, Path], drawings: dict[str, list[np.ndarray]]) -> dict[str, Path]:
    """Mask files by frame, in a cache folder named by what is drawn, so that a changed outline never meets an old mask."""
    shapes = {stem: image_size(frames[stem]) for stem in drawings}
    digest = hashlib.sha256(_RASTER_VERSION.encode())
    for stem in sorted(drawings):
        digest.update(f"{stem} {shapes[stem]} {[polygon.tolist() for polygon in drawings[stem]]}\n".encode())

    def draw(folder: Path) -> None:
        for stem, polygons in drawings.items():
            write_png(folder / f"{stem}.png", rasterise(polygons, shapes[stem]))

    folder = cached_folder(paths.cache_dir() / "ddti-masks" / digest.hexdigest()[:16], draw)
    return {stem: folder / f"{stem}.png" for stem in drawings}


def _frames_without_image(folder: Path, cases: dict[str, _Case], frames: dict[str, Path]) -> list[dict[str, str]]:
    """Notes on cases of which no frame is there, and on frames that are outlined but not there."""
    notes, numbers = [], {stem.split("_")[0] for stem in frames}
    for number in sorted(cases, key=natural_order):
        drawn = [frame for frame, outlines in sorted(cases[number].outlines.items()) if any(outlines)]
        missing = {frame: f"outlines frame {frame}, which is not there" for frame in drawn if f"{number}_{frame}" not in frames}
        for frame, problem in missing.items() if number in numbers else [(1, "no frame of this case is there")]:
            file, remedy = str(folder / f"{number}.xml"), f"restore {number}_{frame}.jpg"
            notes.append({"file": file, "problem": problem, "remedy": remedy})
    return notes
