"""Reader of DDTI: the frames with a table, and the original release.

The release draws nodules as polygons. Their masks are made below `paths.cache_dir()`; nothing is written beside the
data. What is wrong with an outline stands in the column `mask_problem`; a frame without a usable one has no mask.
"""

import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.files import cached_folder, content_key
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.data.readers import listing
from thyroid_utils.data.readers.published import SETS, below

TIRADS_LABEL = {"2": 0, "3": 0, "4a": 1, "4b": 1, "4c": 1, "5": 1}
TRAITS = ("sex", "composition", "echogenicity", "margins", "calcifications")
_RASTER_VERSION = 1  # part of the masks' address: raise it when `rasterise` draws differently
DDTI = SETS["ddti"]


def read_ddti(root: Path) -> pd.DataFrame:
    """DDTI, in either of its layouts; case ids `ddti/NAME`, patient `ddti-CASE`.

    Frames with a table: `image/`, `mask/` and `labels.csv` with columns file, case, frame, pane, tirads, label. The original
    release: one `NNN.xml` a case beside its frames `NNN_K.jpg`; its table has also age (years, Int16), sex, composition,
    echogenicity, margins, calcifications, nodules (outlines drawn, Int16) and mask_problem.

    Raises:
        DataError: also for an XML file that defines entities (never needed, and a way to exhaust memory), or a cache folder that
            cannot be written.
    """
    folder, texts = DDTI.folder(root, _case_files), ("frame", "pane", "tirads")
    if not below(folder, "image"):
        return _read_release(folder)
    (images, masks), path = DDTI.files(folder, "image", "mask"), DDTI.table(folder)
    listed = DDTI.listed(path, images, "label", ("file", "case"), (*texts, "label"))
    columns = listed[["label", *texts]].to_dict()
    patients = ("ddti-" + listed["case"]).to_dict()
    rows = listing.image_rows("ddti", "ddti/", images, masks, **columns, patient=patients, patient_known=True)
    return listing.case_table([rows], texts)


def _case_files(folder: Path) -> dict[str, Path]:
    """The files `NNN.xml` of a folder by NNN."""
    return {path.stem: path for path in listing.entries(folder) if path.suffix.lower() == ".xml" and path.stem.isdecimal()}


def _read_release(folder: Path) -> pd.DataFrame:
    """The case table of DDTI's original release; case ids `ddti/NNN_K`, patient `ddti-NNN`."""
    cases = {number: listing.read_xml(path) for number, path in _case_files(folder).items()}
    images = listing.images_by_stem(folder)
    frames = {stem: path for stem, path in images.items() if re.fullmatch(r"\d+_\d+", stem)}
    if not frames:
        raise DataError(f"ddti: {folder} holds {len(cases)} XML files but no NNN_K.jpg; put the frames beside them")
    rows, drawings = {}, {}
    for stem, image in frames.items():
        number, frame = stem.split("_")
        case, polygons = cases.get(number), []
        row = {"frame": stem, "patient": f"ddti-{number}", "mask_problem": f"no {number}.xml that can be read"}
        if case is not None:
            outlines = [listing.text_of(mark, "svg") for mark in case.iter("mark") if listing.text_of(mark, "image") == frame]
            shape, polygons, problems = _polygons(outlines, image)
            row |= {**_described(case), "nodules": len(polygons), "mask_problem": "; ".join(dict.fromkeys(problems)) or pd.NA}
        if polygons:
            drawings[stem] = (shape, polygons)
        rows[stem] = row
    names = ("label", "age", "nodules", "frame", "tirads", *TRAITS, "mask_problem", "patient")
    columns = pd.DataFrame.from_dict(rows, orient="index", columns=names).to_dict()
    rows = listing.image_rows("ddti", "ddti/", frames, _drawn(drawings), pane="full", patient_known=True, **columns)
    table = listing.case_table([rows], ("frame", "pane", "tirads", *TRAITS, "mask_problem"))
    table[["nodules", "age"]] = table[["nodules", "age"]].astype("Int16")
    others = [path for stem, path in images.items() if stem not in frames]
    table.attrs["notes"] = [{"file": str(path), "problem": "not named NNN_K; left out", "remedy": "rename it"} for path in others]
    return table


def _described(case: Element) -> dict[str, object]:
    """What a case's file says of the patient and the nodule, as columns of the case table."""
    tirads, age = listing.text_of(case, "tirads").lower(), listing.text_of(case, "age")
    found = {"tirads": tirads, **{name: listing.text_of(case, name) for name in TRAITS}}
    known_age = age.isdecimal() and len(age) < 4
    numbers = {"label": TIRADS_LABEL.get(tirads, pd.NA), "age": int(age) if known_age else pd.NA}
    return {name: text or pd.NA for name, text in found.items()} | numbers


def _polygons(outlines: list[str], image: Path) -> tuple[tuple[int, int], list[np.ndarray], list[str]]:
    """The frame's (height, width), usable polygons, int32 (points, 2) as x, y, and what is wrong with the others."""
    try:
        height, width = read_image(image).shape[:2]
    except ImageError as error:
        return (0, 0), [], [f"the frame cannot be read ({error})".replace(str(image), image.name)]
    polygons, problems = [], []
    for svg in filter(None, outlines):
        try:
            drawn = [_points(region) for region in json.loads(svg)]
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            problems.append("svg is no list of outlines with points x and y; left out")
            continue
        for points in drawn:
            if len(points) < 3 or not rasterise([points], (height, width)).any():
                problems.append(f"an outline of {len(points)} points marks nothing in the frame; left out")
                continue
            polygons.append(points)
            if (points < 0).any() or (points >= (width, height)).any():
                problems.append("an outline leaves the frame; cut at its edge")
    return (height, width), polygons, problems or ([] if polygons else ["no outline drawn"])


def _points(region: dict) -> np.ndarray:
    """Whole-pixel points, int32 (points, 2) as x, y. ValueError, TypeError and the like where they are none."""
    points = np.array([(float(point["x"]), float(point["y"])) for point in region["points"]]).reshape(-1, 2).round()
    if not (np.abs(points) < 32768).all():  # beyond, OpenCV's fixed point overflows; what is no number is not smaller either
        raise ValueError
    return points.astype(np.int32)


def rasterise(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Boolean mask (height, width) of the union of polygons, int32 (points, 2) as x, y; the outline itself is inside."""
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:  # one at a time: together, overlapping polygons would cut holes into each other
        cv2.fillPoly(canvas, [polygon], 1)
    return canvas.astype(bool)


def _drawn(drawings: dict[str, tuple[tuple[int, int], list[np.ndarray]]]) -> dict[str, Path]:
    """Mask files by frame, in a cache folder named by what is drawn, so that a changed outline never meets an old mask."""

    def draw(folder: Path) -> None:
        for stem, (shape, polygons) in drawings.items():
            write_png(folder / f"{stem}.png", rasterise(polygons, shape))

    told = {stem: [shape, [polygon.tolist() for polygon in polygons]] for stem, (shape, polygons) in drawings.items()}
    folder = cached_folder(paths.cache_dir() / "ddti-masks" / content_key(_RASTER_VERSION, told), draw)
    return {stem: folder / f"{stem}.png" for stem in drawings}
