"""Readers of TN3K, TG3K, TN-SCUI 2020, TN5000, ThyroidXL and BUSI, and what all published sets have in common."""

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import gt
from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import image_size
from thyroid_utils.data.readers import listing
from thyroid_utils.data.readers.own import images_and_masks
from thyroid_utils.data.table import SPLITS

FOLDS = range(5)


@dataclass(frozen=True)
class PublishedSet:
    """Where a set is published, the tree that is expected, the folder or file in it that it is known by, and what its labels say
    of which organ."""

    name: str
    source: str
    expected: str
    known_by: str
    labels: str
    organ: str = "thyroid"

    def folder(self, root: Path, or_by: Callable[[Path], object] = lambda _: False) -> Path:
        """`root`, or the folder below it that bears the set's name, whichever holds the set; DataError where neither does.

        or_by: whether a folder holds the set in another layout.
        """
        named = listing.subfolder(root, self.name)
        for folder in filter(None, (root, named)):
            if folder.is_dir() and (below(folder, self.known_by) or (folder / self.known_by).is_file() or or_by(folder)):
                return folder
        raise self.missing(named or root, self.expected)

    def missing(self, folder: Path, expected: str, found: str = "") -> DataError:
        """The error for a set, or a part of it, that is not there."""
        return listing.missing_data(self.name, folder, expected, self.source, found)

    def files(self, folder: Path, images: str, masks: str = "") -> tuple[dict[str, Path], dict[str, Path]]:
        """The images and masks of two folders of the set by key; DataError where there is no image."""
        found = listing.images_by_stem(below(folder, images))
        if not found:
            raise self.missing(folder, f"images in {images}/")
        return found, listing.images_by_stem(below(folder, masks))

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


_TOLD = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
SETS = {name: PublishedSet(name, **told) for name, told in _TOLD.items()}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
BOX = ("box_left", "box_top", "box_right", "box_bottom")


def meaning(dataset: str) -> tuple[str, str]:
    """What the labels of a reader's set say, and which organ it shows."""
    if dataset in SETS:
        return SETS[dataset].labels, SETS[dataset].organ
    return "the simulation's truth" if dataset == "phantom" else "as they were given", "thyroid"


def read_tnscui(root: Path) -> pd.DataFrame:
    """TN-SCUI 2020: `image/`, `mask/` and a CSV with columns ID and CATE (0 benign, 1 malignant); case ids `tnscui/12`.

    No patient ids are published. Images without a row have no label, images without a mask file have no mask.
    """
    published = SETS["tnscui"]
    folder = published.folder(root)
    images, masks = published.files(folder, "image", "mask")
    listed = published.listed(published.table(folder), images, "cate", ("id", "cate"))
    return listing.case_table([listing.image_rows("tnscui", "tnscui/", images, masks, label=listed["label"].to_dict())])


def read_tg3k(root: Path) -> pd.DataFrame:
    """TG3K: `thyroid-image/` and `thyroid-mask/`, masks of the thyroid gland; case ids `tg3k/0007`, column `frame` (number).

    The frames come from 16 videos whose bounds are not published: until they are recovered (`recover_videos`) each frame
    counts as its own patient, and a split of this table leaks.
    """
    published = SETS["tg3k"]
    folder = published.folder(root)
    images, masks = published.files(folder, "thyroid-image", "thyroid-mask")
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
    published = SETS["tn3k"]
    folder = published.folder(root)
    parts = []
    for part in ("trainval", "test"):
        images, masks = published.files(folder, f"{part}-image", f"{part}-mask")
        names = ("name", "label")
        labels = published.listed(folder / f"label4{part}.csv", images, "label", names, header=names)["label"].to_dict()
        split = "test" if part == "test" else "train"
        if part == "trainval" and fold is not None:
            split = _tn3k_sides(folder, list(images), fold)
        parts.append(listing.image_rows("tn3k", f"tn3k/{part}/", images, masks, label=labels, split=split))
    return listing.case_table(parts)


def read_tn5000(root: Path) -> pd.DataFrame:
    """TN5000 with its official split; case ids `tn5000/000001`. No masks and no patient ids are published.

    Columns of the annotations, all of whose numbers are Int32: `label`, of biopsies; `nodules` (boxes drawn); `box_left`,
    `box_top`, `box_right`, `box_bottom`, in pixels as published, of the box around all of them. An image whose annotation is
    missing or tells no class or two has none of these, one with a box that cannot be has no box, and a note says so.
    """
    published = SETS["tn5000"]
    folder = published.folder(root)
    images, _ = published.files(folder, "JPEGImages")
    annotations, sides = below(folder, "Annotations"), {}
    for side in SPLITS:
        path = folder / "ImageSets" / "Main" / f"{side}.txt"
        if annotations is None or not path.is_file():
            raise published.missing(folder, published.expected)
        keys = [listing.stem_key(name) for name in path.read_bytes().decode("utf-8", "replace").split()]
        wrong = [key for key in keys if key not in images or key in sides]
        if wrong:
            raise DataError(f"{path}: {listing.first_few(wrong)} in two lists or not in JPEGImages/; restore either")
        sides |= dict.fromkeys(keys, side)
    told, notes = {}, []
    for key, image in images.items():
        path = annotations / f"{key}.xml"
        told[key], problem = _boxes(path, image)
        if problem:
            lost = "no box" if told[key] else "no label and no box"
            notes.append({"file": str(path), "problem": f"{problem}: {lost}", "remedy": "download it again"})
    columns = pd.DataFrame.from_dict(told, orient="index", columns=["label", "nodules", *BOX])
    rows, _ = listing.image_rows("tn5000", "tn5000/", images, {}, split=sides, **columns.to_dict())
    return listing.case_table([(rows, notes)]).astype(dict.fromkeys(("nodules", *BOX), "Int32"))


def _boxes(path: Path, image: Path) -> tuple[dict[str, int], str]:
    """What an annotation of Pascal VOC's format tells of the nodules, as columns; and what is wrong where not all is told."""
    annotation = listing.read_xml(path) if path.is_file() else None
    if annotation is None:
        return {}, "no annotation that can be read"
    objects = list(annotation.iter("object"))
    classes = sorted({listing.text_of(nodule, "name") for nodule in objects})
    if len(classes) != 1 or classes[0] not in listing.LABELS:
        return {}, f"nodules of class {' and '.join(classes)}, expected 0 or 1" if objects else "no nodule in the annotation"
    told = {"label": listing.LABELS[classes[0]], "nodules": len(objects)}
    corners = [[listing.text_of(nodule, f"bndbox/{corner}") for corner in CORNERS] for nodule in objects]
    if not all(number.isdecimal() for box in corners for number in box):
        return told, "a box without four whole numbers"
    left, top, right, bottom = zip(*[map(int, box) for box in corners], strict=True)
    width, height = image_size(image) or (max(right), max(bottom))
    if max(right) > width or max(bottom) > height or any(map(gt, left + top, right + bottom)):
        return told, "a box that ends beyond the image or before it begins"
    return told | dict(zip(BOX, (min(left), min(top), max(right), max(bottom)), strict=True)), ""


def read_thyroidxl(root: Path) -> pd.DataFrame:
    """ThyroidXL with its official split, which is by patient; case ids `thyroidxl/train/00000058_2201CE11_0`.

    The digits in front of a name are the patient; one without any stands for its own. No labels: they lie in tables beside these
    folders, in a form that is not public; `manifest` takes them.
    """
    published, parts = SETS["thyroidxl"], []
    folder = published.folder(root)
    for side in ("train", "test"):
        here = below(folder, side)
        if here is None:
            raise published.missing(folder, published.expected)
        images, masks = published.files(here, "images", "masks")
        prefix, number = f"thyroidxl/{side}/", re.compile(r"(\d+)_.*")
        known = {key: number.fullmatch(key) is not None for key in images}
        patients = {key: number.sub(r"thyroidxl-\1", key) if known[key] else prefix + key for key in images}
        told = {"split": side, "patient": patients, "patient_known": known}
        parts.append(listing.image_rows("thyroidxl", prefix, images, masks, **told))
    return listing.case_table(parts)


def read_busi(root: Path) -> pd.DataFrame:
    """BUSI, of the breast; case ids `busi/benign (7)`. No patient ids are published.

    The masks of one image (`_mask`, `_mask_1`, …) are joined. What is `normal` (a bool column) has no label, and the empty mask
    that is published with it: a nodule found there is a false one.
    """
    published, parts = SETS["busi"], []
    folder = published.folder(root)
    for name, label in (("benign", 0), ("malignant", 1), ("normal", pd.NA)):
        here = below(folder, name)
        images, masks, _ = images_and_masks(folder, here) if here else ({}, {}, None)
        if not images:
            raise published.missing(here or folder, published.expected)
        parts.append(listing.image_rows("busi", "busi/", images, masks, label=label, normal=name == "normal"))
    return listing.case_table(parts)


def below(folder: Path, name: str) -> Path | None:
    """The folder of this name, or of its plural, in a folder."""
    return listing.subfolder(folder, name, f"{name}s")


def _tn3k_sides(folder: Path, names: list[str], fold: int) -> dict[str, str]:
    """Image → "train" or "val" of an official fold."""
    if fold not in FOLDS:
        raise DataError(f"tn3k: fold is {fold!r}; expected 0 to {max(FOLDS)}, or None for all of trainval")
    path = folder / f"tn3k-trainval-fold{fold}.json"
    if not path.is_file():
        raise SETS["tn3k"].missing(folder, f"{path.name} (or fold=None)")
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
