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
from thyroid_utils.common.errors import DataError, ImageError, cache_errors
from thyroid_utils.data.images import image_size, write_png
from thyroid_utils.data.readers.listing import entries, images_by_stem, natural_order
from thyroid_utils.data.table import make_cases

TIRADS_LABEL = {"2": 0, "3": 0, "4a": 1, "4b": 1, "4c": 1, "5": 1}
TRAITS = ("sex", "composition", "echogenicity", "margins", "calcifications")
_RASTER_VERSION = "1"  # part of the masks' address: raise it when `rasterise` draws differently
_FRAME_NAME = re.compile(r"(\d+)_(\d+)")


@dataclass
class _Case:
    """What one XML file says: `outlines` maps the number of a frame to the raw `svg` texts of its marks."""

    values: dict[str, object] = field(default_factory=dict)
    outlines: dict[int, list[str]] = field(default_factory=dict)
    broken: str = ""


def holds_release(folder: Path) -> bool:
    """Whether a folder holds at least one `NNN.xml`."""
    return any(path.suffix.lower() == ".xml" and path.stem.isdecimal() for path in entries(folder))


def read_release(folder: Path) -> pd.DataFrame:
    """The case table of the original release; case ids `ddti/NNN_K`, patient `ddti-NNN`.

    Columns beyond the required ones: `frame` (NNN_K), `pane` ("full"), `tirads`, `age` (years, Int16), `sex`,
    `composition`, `echogenicity`, `margins`, `calcifications`, `nodules` (outlines drawn, Int16) and `mask_problem`.

    Raises:
        DataError: an XML file that defines entities (never needed, and a way to exhaust memory), no frames, or a cache folder
            that cannot be written.
    """
    cases: dict[str, _Case] = {}
    notes: list[dict[str, str]] = []
    for path in entries(folder):
        if path.suffix.lower() == ".xml" and path.stem.isdecimal():
            if path.stem in cases:
                raise DataError(f"{folder}: two files for case {path.stem}, the second is {path.name}; keep one")
            cases[path.stem] = _read_xml(path, notes)
    frames, others = {}, []
    for stem, path in images_by_stem(folder).items():
        if _FRAME_NAME.fullmatch(stem):
            frames[stem] = path
        else:
            others.append(path)
    notes += [{"file": str(path), "problem": "not named NNN_K; left out", "remedy": "rename it"} for path in others]
    if not frames:
        raise DataError(f"ddti: {folder} holds {len(cases)} XML files but no NNN_K.jpg; put the frames beside them")
    used: set[str] = set()
    rows, drawings = [], {}
    for stem, image in frames.items():
        number, frame = _FRAME_NAME.fullmatch(stem).groups()
        used.add(number)
        row, polygons = _frame_row(stem, image, number, int(frame), cases.get(number))
        rows.append(row)
        if polygons:
            drawings[stem] = polygons
    _note_frames_without_image(folder, cases, frames, used, notes)
    masks = _draw_masks(frames, drawings)
    for row in rows:
        row["mask"] = masks.get(row["frame"], pd.NA)
    table = make_cases(rows).astype(
        {**dict.fromkeys(["frame", "pane", "tirads", *TRAITS, "mask_problem", "target"], "string"), "nodules": "Int16"}
    )
    table["age"] = table["age"].astype("Int16")
    table.attrs["notes"] = notes
    return table


def _frame_row(stem: str, image: Path, number: str, frame: int, case: _Case | None) -> tuple[dict, list[np.ndarray]]:
    problems, polygons = [], []
    if case is None:
        problems.append(f"no {number}.xml")
    elif case.broken:
        problems.append(f"{number}.xml: {case.broken}")
    else:
        polygons, problems = _polygons(case.outlines.get(frame, []), image)
    values = {} if case is None else case.values
    tirads = values.get("tirads", pd.NA)
    row = {
        "case": f"ddti/{stem}",
        "image": str(image),
        "label": pd.NA if tirads is pd.NA else TIRADS_LABEL[tirads],
        "patient": f"ddti-{number}",
        "dataset": "ddti",
        "frame": stem,
        "pane": "full",
        "tirads": tirads,
        "age": values.get("age", pd.NA),
        **{name: values.get(name, pd.NA) for name in TRAITS},
        "nodules": len(polygons) if case is not None and not case.broken else pd.NA,
        "mask_problem": "; ".join(dict.fromkeys(problems)) or pd.NA,
        "patient_known": True,
        "target": "nodule",
    }
    return row, polygons


def _read_xml(path: Path, notes: list[dict[str, str]]) -> _Case:
    try:
        root = fromstring(path.read_bytes())
    except DefusedXmlException:
        raise DataError(f"{path}: defines XML entities, which no DDTI file needs; download it again") from None
    except (ParseError, ValueError, LookupError) as error:
        return _Case(broken=f"not well-formed XML ({error})")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None

    def note(problem: str, remedy: str) -> None:
        notes.append({"file": str(path), "problem": problem, "remedy": remedy})

    case = _Case({name: value for name in TRAITS if (value := _text(root, name))})
    number = _text(root, "number")
    if number and number != path.stem:
        note(f"names case {number}; the file's name is used", "correct <number> or the file's name")
    age = _text(root, "age")
    if _is_whole(age) and int(age) <= 120:
        case.values["age"] = int(age)
    elif age:
        note(f"age is {age!r}; left empty", "write whole years, or nothing")
    tirads = _text(root, "tirads").lower()
    if tirads in TIRADS_LABEL:
        case.values["tirads"] = tirads
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
    polygons, problems = [], []
    for text in outlines:
        if not text:
            continue
        try:
            regions = json.loads(text)
        except (ValueError, RecursionError):
            problems.append("svg is broken JSON")
            continue
        for region in regions if isinstance(regions, list) else [regions]:
            points, unreadable = _points(region)
            if unreadable:
                problems.append(f"{unreadable} points of an outline have no x and y; drawn without them")
            if len(points) < 3:
                problems.append(f"an outline has {len(points)} points, at least 3 are needed; left out")
                continue
            outside = (points < 0).any(axis=1) | (points[:, 0] >= width) | (points[:, 1] >= height)
            if not rasterise([points], (height, width)).any():
                problems.append("an outline lies outside the frame; left out")
                continue
            if outside.any():
                problems.append(f"{int(outside.sum())} points of an outline lie outside the frame; cut at its edge")
            polygons.append(points)
    if not polygons and not problems:
        problems.append("no outline drawn")
    return polygons, problems


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


def _draw_masks(frames: dict[str, Path], drawings: dict[str, list[np.ndarray]]) -> dict[str, str]:
    """Mask files by frame, in a cache folder named by what is drawn, so that a changed outline never meets an old mask."""
    shapes = {stem: image_size(frames[stem]) for stem in drawings}
    digest = hashlib.sha256(_RASTER_VERSION.encode())
    for stem in sorted(drawings):
        digest.update(f"{stem} {shapes[stem]} {[polygon.tolist() for polygon in drawings[stem]]}\n".encode())
    folder = paths.cache_dir() / "ddti-masks" / digest.hexdigest()[:16]
    masks = {}
    for stem, polygons in drawings.items():
        path = folder / f"{stem}.png"
        if not path.is_file():
            with cache_errors(folder.parent):
                write_png(path, rasterise(polygons, shapes[stem]))
        masks[stem] = str(path)
    return masks


def _note_frames_without_image(
    folder: Path, cases: dict[str, _Case], frames: dict[str, Path], used: set[str], notes: list[dict[str, str]]
) -> None:
    for number in sorted(cases, key=natural_order):
        path = str(folder / f"{number}.xml")
        if number not in used:
            notes.append({"file": path, "problem": "no frame of this case is there", "remedy": f"restore {number}_1.jpg"})
            continue
        for frame in sorted(cases[number].outlines):
            if f"{number}_{frame}" not in frames and any(cases[number].outlines[frame]):
                notes.append(
                    {
                        "file": path,
                        "problem": f"outlines frame {frame}, which is not there",
                        "remedy": f"restore {number}_{frame}.jpg",
                    }
                )
