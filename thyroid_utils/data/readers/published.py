"""Readers of the published sets: DDTI, TN3K, TG3K and TN-SCUI 2020.

DDTI's original release draws nodules as polygons. Their masks are made below `paths.cache_dir()`; nothing is written beside the
data. What is wrong with an outline stands in the column `mask_problem`; a frame without a usable one has no mask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import cv2
import numpy as np
import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError, readable
from thyroid_utils.common.files import cached_folder, content_key
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.data.readers import listing

FOLDS = range(5)
TIRADS_LABEL = {"2": 0, "3": 0, "4a": 1, "4b": 1, "4c": 1, "5": 1}
TRAITS = ("sex", "composition", "echogenicity", "margins", "calcifications")
_RASTER_VERSION = 1  # part of the masks' address: raise it when `rasterise` draws differently


@dataclass(frozen=True)
class PublishedSet:
    """Where a set is published, the tree that is expected, and the folder of images by which it is known."""

    name: str
    source: str
    expected: str
    images: str

    def folder(self, root: Path) -> Path:
        """`root`, or the folder below it that bears the set's name, whichever holds the set; DataError where neither does."""
        named = listing.subfolder(root, self.name)
        for folder in filter(None, (root, named)):
            if folder.is_dir() and (_below(folder, self.images) or (self is DDTI and _case_files(folder))):
                return folder
        raise self.missing(named or root, self.expected)

    def missing(self, folder: Path, expected: str) -> DataError:
        """The error for a set, or a part of it, that is not there."""
        return listing.missing_data(self.name, folder, expected, self.source)

    def files(self, folder: Path, images: str, masks: str) -> tuple[dict[str, Path], dict[str, Path]]:
        """The images and masks of two folders of the set by key; DataError where there is no image."""
        found = listing.images_by_stem(_below(folder, images))
        if not found:
            raise self.missing(folder, f"images in {images}/")
        return found, listing.images_by_stem(_below(folder, masks))

    def listed(
        self, path: Path, images: dict[str, Path], label: str, required: Sequence[str], known: Sequence[str] = (), header=()
    ) -> pd.DataFrame:
        """The rows of a table by the key of the image that their first column names; `label` is read as 0, 1 or NA.

        Raises:
            DataError: an image listed twice, or a row without an image.
        """
        if not path.is_file():
            raise self.missing(path.parent, f"{path.name} ({','.join(required)})")
        rows = listing.read_table(path, required, known, header)
        rows = rows.reindex(columns=[*required, *known]).astype("string")
        if header and str(rows[label].iloc[0]).lower() == label:  # published without a header; copies sometimes have one
            rows = rows.iloc[1:]
        keys = rows[required[0]].fillna("").map(listing.stem_key)
        if keys.duplicated().any():
            place = keys.index[keys.duplicated()][0]
            raise DataError(f"{place}: {rows.at[place, required[0]]} is listed a second time; keep one row")
        absent = keys[~keys.isin(list(images))]
        if len(absent):
            remedy = "restore the files or drop the rows"
            raise DataError(f"{path}: {len(absent)} rows have no image file ({listing.first_few(absent)}); {remedy}")
        return rows.assign(label=listing.looked_up(rows[label], listing.LABELS)).set_index(pd.Index(keys))

    def table(self, folder: Path) -> Path:
        """The CSV file of a folder; of several `labels.csv` or `train.csv`. Raises DataError where that leaves several."""
        tables = [path for path in listing.entries(folder) if path.suffix.lower() == ".csv"]
        named = [path for path in tables if path.stem.lower() in ("labels", "train")]
        found = named or tables or [folder / "labels.csv"]
        if len(found) > 1:
            raise DataError(f"{folder}: {len(found)} CSV files ({listing.first_few(path.name for path in found)}); keep one")
        return found[0]


DDTI = PublishedSet(
    "ddti",
    "cimalab.unal.edu.co (Pedraza et al. 2015, doi 10.1117/12.2073532)",
    "image/, mask/ and labels.csv, or NNN.xml beside NNN_K.jpg (the original release)",
    "image",
)
_TRFE = "github haifangong/TRFE-Net-for-thyroid-nodule-segmentation (Gong et al., TRFE-Net and TRFE+)"
_TN3K_TREE = "trainval-image/, trainval-mask/, test-image/, test-mask/, label4trainval.csv and label4test.csv"
TN3K = PublishedSet("tn3k", _TRFE, _TN3K_TREE, "trainval-image")
TG3K = PublishedSet("tg3k", _TRFE, "thyroid-image/ and thyroid-mask/", "thyroid-image")
TNSCUI = PublishedSet(
    "tnscui",
    "tn-scui2020.grand-challenge.org (TN-SCUI 2020 challenge, MICCAI 2020)",
    "image/, mask/ and a CSV with columns ID and CATE",
    "image",
)


def read_ddti(root: Path) -> pd.DataFrame:
    """DDTI, in either of its layouts; case ids `ddti/NAME`, patient `ddti-CASE`.

    Frames with a table: `image/`, `mask/` and `labels.csv` with columns file, case, frame, pane, tirads, label. The original
    release: one `NNN.xml` a case beside its frames `NNN_K.jpg`; its table has also age (years, Int16), sex, composition,
    echogenicity, margins, calcifications, nodules (outlines drawn, Int16) and mask_problem.

    Raises:
        DataError: also for an XML file that defines entities (never needed, and a way to exhaust memory), or a cache folder that
            cannot be written.
    """
    folder, texts = DDTI.folder(root), ("frame", "pane", "tirads")
    if not _below(folder, DDTI.images):
        return _read_release(folder)
    (images, masks), path = DDTI.files(folder, "image", "mask"), DDTI.table(folder)
    listed = DDTI.listed(path, images, "label", ("file", "case"), (*texts, "label"))
    columns = listed[["label", *texts]].to_dict()
    patients = ("ddti-" + listed["case"]).to_dict()
    rows = listing.image_rows("ddti", "ddti/", images, masks, **columns, patient=patients, patient_known=True)
    return listing.case_table([rows], texts)


def read_tnscui(root: Path) -> pd.DataFrame:
    """TN-SCUI 2020: `image/`, `mask/` and a CSV with columns ID and CATE (0 benign, 1 malignant); case ids `tnscui/12`.

    No patient ids are published. Images without a row have no label, images without a mask file have no mask.
    """
    folder = TNSCUI.folder(root)
    images, masks = TNSCUI.files(folder, "image", "mask")
    listed = TNSCUI.listed(TNSCUI.table(folder), images, "cate", ("id", "cate"))
    return listing.case_table([listing.image_rows("tnscui", "tnscui/", images, masks, label=listed["label"].to_dict())])


def read_tg3k(root: Path) -> pd.DataFrame:
    """TG3K: `thyroid-image/` and `thyroid-mask/`, masks of the thyroid gland; case ids `tg3k/0007`, column `frame` (number).

    The frames come from 16 videos whose bounds are not published: until they are recovered (`recover_videos`) each frame
    counts as its own patient, and a split of this table leaks.
    """
    folder = TG3K.folder(root)
    images, masks = TG3K.files(folder, "thyroid-image", "thyroid-mask")
    frames = [int(key) if key.isdecimal() else pd.NA for key in images]
    cases = listing.case_table([listing.image_rows("tg3k", "tg3k/", images, masks, target="gland")])
    return cases.assign(frame=pd.array(frames, "Int64"))


def read_tn3k(root: Path, fold: int | None = None) -> pd.DataFrame:
    """TN3K with its official split and labels; case ids `tn3k/trainval/0001`, `tn3k/test/0001`. No patient ids are published.

    Args:
        root: the folder of `trainval-image/`, `trainval-mask/`, `test-image/`, `test-mask/`, `label4trainval.csv`,
            `label4test.csv` and `tn3k-trainval-fold0.json` … `fold4.json`, or its parent.
        fold: 0 to 4 takes `train` and `val` from that file; None makes all of trainval `train`.
    """
    folder = TN3K.folder(root)
    parts = []
    for part in ("trainval", "test"):
        images, masks = TN3K.files(folder, f"{part}-image", f"{part}-mask")
        names = ("name", "label")
        labels = TN3K.listed(folder / f"label4{part}.csv", images, "label", names, header=names)["label"].to_dict()
        split = "test" if part == "test" else "train"
        if part == "trainval" and fold is not None:
            split = _tn3k_sides(folder, list(images), fold)
        parts.append(listing.image_rows("tn3k", f"tn3k/{part}/", images, masks, label=labels, split=split))
    return listing.case_table(parts)


def _below(folder: Path, name: str) -> Path | None:
    return listing.subfolder(folder, name, f"{name}s")


def _tn3k_sides(folder: Path, names: list[str], fold: int) -> dict[str, str]:
    """Image → "train" or "val" of an official fold."""
    if fold not in FOLDS:
        raise DataError(f"tn3k: fold is {fold!r}; expected 0 to {max(FOLDS)}, or None for all of trainval")
    path = folder / f"tn3k-trainval-fold{fold}.json"
    if not path.is_file():
        raise TN3K.missing(folder, f"{path.name} (or fold=None)")
    position = dict(enumerate(names))  # a fold's entry is a position in the sorted file list, or a file's name
    try:
        content = json.loads(path.read_bytes())
        train, val = (
            {position[entry] if isinstance(entry, int) else listing.stem_key(entry) for entry in content[side]}
            for side in ("train", "val")
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: not {{"train": [names], "val": [names]}} ({error!r}); download it again') from None
    wrong = sorted((train & val) | (train | val).difference(names))
    if wrong:
        raise DataError(f"{path}: {listing.first_few(wrong)} on both sides or not in trainval-image/; restore either")
    return dict.fromkeys(train, "train") | dict.fromkeys(val, "val")


def _case_files(folder: Path) -> dict[str, Path]:
    """The files `NNN.xml` of a folder by NNN."""
    return {path.stem: path for path in listing.entries(folder) if path.suffix.lower() == ".xml" and path.stem.isdecimal()}


def _read_release(folder: Path) -> pd.DataFrame:
    """The case table of DDTI's original release; case ids `ddti/NNN_K`, patient `ddti-NNN`."""
    cases = {number: _read_xml(path) for number, path in _case_files(folder).items()}
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
            outlines = [_text(mark, "svg") for mark in case.iter("mark") if _text(mark, "image") == frame]
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


def _read_xml(path: Path) -> Element | None:
    """The root of a case's file; None where it is not well-formed."""
    with readable(path):
        content = path.read_bytes()
    try:
        return fromstring(content)
    except DefusedXmlException:
        raise DataError(f"{path}: defines XML entities, which no DDTI file needs; download it again") from None
    except (ParseError, ValueError, LookupError):
        return None


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _described(case: Element) -> dict[str, object]:
    """What a case's file says of the patient and the nodule, as columns of the case table."""
    tirads, age = _text(case, "tirads").lower(), _text(case, "age")
    found = {"tirads": tirads, **{name: _text(case, name) for name in TRAITS}}
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
