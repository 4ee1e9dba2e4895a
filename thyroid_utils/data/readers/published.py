"""Readers of the published sets: DDTI, TN3K, TG3K and TN-SCUI 2020."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError, readable
from thyroid_utils.data.readers.ddti_release import case_files, read_release
from thyroid_utils.data.readers.listing import (
    LABELS,
    case_table,
    entries,
    first_few,
    image_rows,
    images_by_stem,
    looked_up,
    missing_data,
    read_table,
    stem_key,
    subfolder,
)

FOLDS = range(5)


@dataclass(frozen=True)
class PublishedSet:
    """Where a set is published, the tree that is expected, and the folder of images by which it is known."""

    name: str
    source: str
    expected: str
    images: str

    def folder(self, root: Path, or_holding: Callable[[Path], Sized] | None = None) -> Path:
        """`root`, or the folder below it that bears the set's name, whichever holds the set; DataError where neither does."""
        named = subfolder(root, self.name)
        for folder in filter(None, (root, named)):
            if folder.is_dir() and (_below(folder, self.images) or (or_holding and or_holding(folder))):
                return folder
        raise self.missing(named or root, self.expected)

    def missing(self, folder: Path, expected: str) -> DataError:
        """The error for a set, or a part of it, that is not there."""
        return missing_data(self.name, folder, expected, self.source)

    def files(self, folder: Path, images: str, masks: str) -> tuple[dict[str, Path], dict[str, Path]]:
        """The images and masks of two folders of the set by key; DataError where there is no image."""
        found = images_by_stem(_below(folder, images))
        if not found:
            raise self.missing(folder, f"images in {images}/")
        return found, images_by_stem(_below(folder, masks))

    def listed(
        self, path: Path, images: dict[str, Path], label: str, required: Sequence[str], known: Sequence[str] = (), header=()
    ) -> pd.DataFrame:
        """The rows of a table by the key of the image that their first column names; `label` is read as 0, 1 or NA.

        Raises:
            DataError: an image listed twice, or a row without an image.
        """
        if not path.is_file():
            raise self.missing(path.parent, f"{path.name} ({','.join(required)})")
        rows = read_table(path, required, known, header)
        rows = rows.reindex(columns=[*required, *known]).astype("string")
        if header and str(rows[label].iloc[0]).lower() == label:  # published without a header; copies sometimes have one
            rows = rows.iloc[1:]
        keys = rows[required[0]].fillna("").map(stem_key)
        if keys.duplicated().any():
            place = keys.index[keys.duplicated()][0]
            raise DataError(f"{place}: {rows.at[place, required[0]]} is listed a second time; keep one row")
        absent = keys[~keys.isin(list(images))]
        if len(absent):
            remedy = "restore the files or drop the rows"
            raise DataError(f"{path}: {len(absent)} rows have no image file ({first_few(absent)}); {remedy}")
        return rows.assign(label=looked_up(rows[label], LABELS), place=rows.index).set_index(pd.Index(keys))

    def table(self, folder: Path) -> Path:
        """The one CSV file of a folder; `labels.csv` or `train.csv` where there are several."""
        tables = {path.name.lower(): path for path in entries(folder) if path.suffix.lower() == ".csv"}
        named = [path for name, path in tables.items() if name in ("labels.csv", "train.csv")] or [*tables.values()]
        if len(named) != 1:
            shown = f" ({first_few(path.name for path in named)})" if named else ""
            raise DataError(f"{self.name}: {len(named)} CSV files in {folder}{shown}, expected {self.expected}; keep one")
        return named[0]


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
    release: `NNN.xml` beside `NNN_K.jpg` (see `thyroid_utils.data.readers.ddti_release`).
    """
    folder, texts = DDTI.folder(root, or_holding=case_files), ("frame", "pane", "tirads")
    if not _below(folder, DDTI.images):
        return read_release(folder)
    (images, masks), path = DDTI.files(folder, "image", "mask"), DDTI.table(folder)
    listed = DDTI.listed(path, images, "label", ("file", "case"), (*texts, "label"))
    unlisted = [image.name for key, image in images.items() if key not in listed.index]
    if unlisted:
        raise DataError(f"{path}: no row for {len(unlisted)} images ({first_few(unlisted)}); add their rows or remove the files")
    unknown = listed["place"][listed["case"].isna()]
    if len(unknown):
        raise DataError(f"{unknown.iloc[0]}: no case number; a split by patient needs it: fill it in")
    columns = listed[["label", *texts]].to_dict()
    patients = ("ddti-" + listed["case"]).to_dict()
    return case_table([image_rows("ddti", "ddti/", images, masks, **columns, patient=patients, patient_known=True)], texts)


def read_tnscui(root: Path) -> pd.DataFrame:
    """TN-SCUI 2020: `image/`, `mask/` and a CSV with columns ID and CATE (0 benign, 1 malignant); case ids `tnscui/12`.

    No patient ids are published. Images without a row have no label, images without a mask file have no mask.
    """
    folder = TNSCUI.folder(root)
    images, masks = TNSCUI.files(folder, "image", "mask")
    listed = TNSCUI.listed(TNSCUI.table(folder), images, "cate", ("id", "cate"))
    return case_table([image_rows("tnscui", "tnscui/", images, masks, label=listed["label"].to_dict())])


def read_tg3k(root: Path) -> pd.DataFrame:
    """TG3K: `thyroid-image/` and `thyroid-mask/`, masks of the thyroid gland; case ids `tg3k/0007`, column `frame` (number).

    The frames come from 16 videos whose bounds are not published: until they are recovered (`recover_videos`) each frame
    counts as its own patient, and a split of this table leaks.
    """
    folder = TG3K.folder(root)
    images, masks = TG3K.files(folder, "thyroid-image", "thyroid-mask")
    frames = [int(key) if key.isdecimal() else pd.NA for key in images]
    cases = case_table([image_rows("tg3k", "tg3k/", images, masks, target="gland")])
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
        parts.append(image_rows("tn3k", f"tn3k/{part}/", images, masks, label=labels, split=split))
    return case_table(parts)


def _below(folder: Path, name: str) -> Path | None:
    return subfolder(folder, name, f"{name}s")


def _tn3k_sides(folder: Path, names: list[str], fold: int) -> dict[str, str]:
    """Image → "train" or "val" of an official fold."""
    if fold not in FOLDS:
        raise DataError(f"tn3k: fold is {fold!r}; expected 0 to {max(FOLDS)}, or None for all of trainval")
    path = folder / f"tn3k-trainval-fold{fold}.json"
    if not path.is_file():
        raise TN3K.missing(folder, f"{path.name} (or fold=None)")
    with readable(path):
        content = path.read_bytes()
    try:
        content = json.loads(content)
        train, val = ({_frame_name(entry, names) for entry in content[side]} for side in ("train", "val"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path}: not {{"train": [names], "val": [names]}} ({error!r}); download it again') from None
    if train & val:
        both = sorted(train & val)
        raise DataError(f"{path}: {len(both)} images are in train and in val ({first_few(both)}); correct the file")
    absent = sorted((train | val) - set(names))
    if absent:
        raise DataError(f"{path}: {len(absent)} names have no image in trainval-image/ ({first_few(absent)}); restore the images")
    return dict.fromkeys(train, "train") | dict.fromkeys(val, "val")


def _frame_name(entry: object, names: list[str]) -> str:
    """The image that a fold's entry stands for: a number is a position in the sorted file list, a text a file name."""
    if isinstance(entry, int):
        return names[entry] if 0 <= entry < len(names) else f"position {entry}"
    return stem_key(str(entry))
