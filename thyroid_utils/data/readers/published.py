"""Readers of the published sets: DDTI, TN3K, TG3K and TN-SCUI 2020."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers.ddti_release import holds_release, read_release
from thyroid_utils.data.readers.listing import (
    Row,
    entries,
    first_few,
    images_by_stem,
    masks_without_image,
    missing_data,
    path_or_na,
    read_rows,
    require_columns,
    set_folder,
    stem_key,
    subfolder,
)
from thyroid_utils.data.table import make_cases

DDTI_SOURCE = "cimalab.unal.edu.co (Pedraza et al. 2015, doi 10.1117/12.2073532)"
TRFE_SOURCE = "github haifangong/TRFE-Net-for-thyroid-nodule-segmentation (Gong et al., TRFE-Net and TRFE+)"
TNSCUI_SOURCE = "tn-scui2020.grand-challenge.org (TN-SCUI 2020 challenge, MICCAI 2020)"

FOLDS = range(5)


def read_ddti(root: Path) -> pd.DataFrame:
    """DDTI, in either of its layouts; case ids `ddti/NAME`, patient `ddti-CASE`.

    Frames with a table: `image/`, `mask/` and `labels.csv` with columns file, case, frame, pane, tirads, label. The original
    release: `NNN.xml` beside `NNN_K.jpg` (see `thyroid_utils.data.readers.ddti_release`).
    """
    expected = "image/, mask/ and labels.csv, or NNN.xml beside NNN_K.jpg (the original release)"
    folder = set_folder("ddti", root, lambda here: _has_images_and_csv(here) or holds_release(here), expected, DDTI_SOURCE)
    if not _has_images_and_csv(folder):
        return read_release(folder)
    path = _table_of("ddti", folder, expected, DDTI_SOURCE)
    listed = _listed_rows(path, "file", "case", known=("frame", "pane", "tirads", "label"))
    images = images_by_stem(subfolder(folder, "image", "images"))
    unlisted = [image.name for key, image in images.items() if key not in listed]
    if unlisted:
        raise DataError(f"{path}: no row for {len(unlisted)} images ({first_few(unlisted)}); add their rows or remove the files")
    _require_images(path, listed, images)
    masks = _masks(folder)
    rows = []
    for key, image in images.items():
        row = listed[key]
        if not row.values["case"]:
            raise DataError(f"{row.place}: no case number; a split by patient needs it: fill it in")
        rows.append(
            {
                "case": f"ddti/{key}",
                "image": str(image),
                "mask": path_or_na(masks.get(key)),
                "label": row.label("label"),
                "patient": f"ddti-{row.values['case']}",
                "dataset": "ddti",
                "frame": row.text("frame"),
                "pane": row.text("pane"),
                "tirads": row.text("tirads"),
            }
        )
    return _finished(rows, masks_without_image(masks, images), patient_known=True)


def read_tnscui(root: Path) -> pd.DataFrame:
    """TN-SCUI 2020: `image/`, `mask/` and a CSV with columns ID and CATE (0 benign, 1 malignant); case ids `tnscui/12`.

    No patient ids are published. Images without a row have no label, images without a mask file have no mask.
    """
    expected = "image/, mask/ and a CSV with columns ID and CATE"
    folder = set_folder("tnscui", root, _has_images_and_csv, expected, TNSCUI_SOURCE)
    path = _table_of("tnscui", folder, expected, TNSCUI_SOURCE)
    listed = _listed_rows(path, "id", "cate")
    images = images_by_stem(subfolder(folder, "image", "images"))
    _require_images(path, listed, images)
    masks = _masks(folder)
    rows = [
        {
            "case": f"tnscui/{key}",
            "image": str(image),
            "mask": path_or_na(masks.get(key)),
            "label": listed[key].label("cate") if key in listed else pd.NA,
            "patient": f"tnscui/{key}",
            "dataset": "tnscui",
        }
        for key, image in images.items()
    ]
    return _finished(rows, masks_without_image(masks, images))


def read_tg3k(root: Path) -> pd.DataFrame:
    """TG3K: `thyroid-image/` and `thyroid-mask/`, masks of the thyroid gland; case ids `tg3k/0007`, column `frame` (number).

    The frames come from 16 videos whose bounds are not published: until they are recovered (`recover_videos`) each frame
    counts as its own patient, and a split of this table leaks.
    """
    expected = "thyroid-image/ and thyroid-mask/"
    folder = set_folder("tg3k", root, lambda here: subfolder(here, "thyroid-image") is not None, expected, TRFE_SOURCE)
    images = images_by_stem(subfolder(folder, "thyroid-image"))
    if not images:
        raise missing_data("tg3k", folder / "thyroid-image", "NNNN.jpg in it", TRFE_SOURCE)
    mask_folder = subfolder(folder, "thyroid-mask")
    masks = images_by_stem(mask_folder) if mask_folder else {}
    rows = [
        {
            "case": f"tg3k/{key}",
            "image": str(image),
            "mask": path_or_na(masks.get(key)),
            "patient": f"tg3k/{key}",
            "dataset": "tg3k",
        }
        for key, image in images.items()
    ]
    frames = [int(key) if key.isdecimal() else pd.NA for key in images]
    return _finished(rows, masks_without_image(masks, images), target="gland").assign(frame=pd.array(frames, "Int64"))


def read_tn3k(root: Path, fold: int | None = None) -> pd.DataFrame:
    """TN3K with its official split and labels; case ids `tn3k/trainval/0001`, `tn3k/test/0001`. No patient ids are published.

    Args:
        root: the folder of `trainval-image/`, `trainval-mask/`, `test-image/`, `test-mask/`, `label4trainval.csv`,
            `label4test.csv` and `tn3k-trainval-fold0.json` … `fold4.json`, or its parent.
        fold: 0 to 4 takes `train` and `val` from that file; None makes all of trainval `train`.
    """
    expected = "trainval-image/, trainval-mask/, test-image/, test-mask/, label4trainval.csv and label4test.csv"
    folder = set_folder("tn3k", root, lambda here: subfolder(here, "trainval-image") is not None, expected, TRFE_SOURCE)
    rows, notes = [], []
    for part in ("trainval", "test"):
        image_folder = subfolder(folder, f"{part}-image")
        images = images_by_stem(image_folder) if image_folder else {}
        if not images:
            raise missing_data("tn3k", folder, f"images in {part}-image/", TRFE_SOURCE)
        labels = _tn3k_labels(folder / f"label4{part}.csv", images)
        split = dict.fromkeys(images, "test") if part == "test" else _tn3k_split(folder, images, fold)
        mask_folder = subfolder(folder, f"{part}-mask")
        masks = images_by_stem(mask_folder) if mask_folder else {}
        notes += masks_without_image(masks, images)
        rows += [
            {
                "case": f"tn3k/{part}/{key}",
                "image": str(image),
                "mask": path_or_na(masks.get(key)),
                "label": labels.get(key, pd.NA),
                "patient": f"tn3k/{part}/{key}",
                "dataset": "tn3k",
                "split": split.get(key, pd.NA),
            }
            for key, image in images.items()
        ]
    return _finished(rows, notes)


def _tn3k_labels(path: Path, images: dict[str, Path]) -> dict:
    if not path.is_file():
        raise missing_data("tn3k", path.parent, f"{path.name} (name,label)", TRFE_SOURCE)
    rows = read_rows(path, columns=("name", "label"))
    if rows and rows[0].values["label"].lower() == "label":  # the published files have no header, copies sometimes do
        rows = rows[1:]
    listed = _by_stem(rows, "name")
    _require_images(path, listed, images)
    return {key: row.label("label") for key, row in listed.items()}


def _tn3k_split(folder: Path, images: dict[str, Path], fold: int | None) -> dict[str, str]:
    if fold is None:
        return dict.fromkeys(images, "train")
    if fold not in FOLDS:
        raise DataError(f"tn3k: fold is {fold!r}; expected 0 to {max(FOLDS)}, or None for all of trainval")
    path = folder / f"tn3k-trainval-fold{fold}.json"
    if not path.is_file():
        raise missing_data("tn3k", folder, f"{path.name} (or fold=None)", TRFE_SOURCE)
    names = list(images)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        sides = {name: {_frame_name(entry, names) for entry in content[name]} for name in ("train", "val")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path}: not {{"train": [names], "val": [names]}} ({error!r}); download it again') from None
    both = sides["train"] & sides["val"]
    if both:
        raise DataError(f"{path}: {len(both)} images are in train and in val ({first_few(sorted(both))}); correct the file")
    absent = sorted((sides["train"] | sides["val"]) - set(images))
    if absent:
        raise DataError(f"{path}: {len(absent)} names have no image in trainval-image/ ({first_few(absent)}); restore the images")
    return {name: side for side, frames in sides.items() for name in frames}


def _frame_name(entry: object, names: list[str]) -> str:
    """The image that a fold's entry stands for: a number is a position in the sorted file list, a text a file name."""
    if isinstance(entry, int):
        return names[entry] if 0 <= entry < len(names) else f"position {entry}"
    return stem_key(str(entry))


def _has_images_and_csv(folder: Path) -> bool:
    return subfolder(folder, "image", "images") is not None and any(path.suffix.lower() == ".csv" for path in entries(folder))


def _table_of(dataset: str, folder: Path, expected: str, published: str) -> Path:
    """The one CSV file of a folder; `labels.csv` or `train.csv` where there are several."""
    tables = [path for path in entries(folder) if path.suffix.lower() == ".csv" and path.is_file()]
    named = [path for path in tables if path.name.lower() in ("labels.csv", "train.csv")]
    if len(tables) == 1 or len(named) == 1:
        return (named or tables)[0]
    if not tables:
        raise missing_data(dataset, folder, expected, published)
    raise DataError(f"{dataset}: {len(tables)} CSV files in {folder} ({first_few(path.name for path in tables)}); keep one")


def _listed_rows(path: Path, *required: str, known: tuple[str, ...] = ()) -> dict[str, Row]:
    rows = read_rows(path)
    require_columns(path, rows, required, known)
    return _by_stem(rows, required[0])


def _by_stem(rows: list[Row], column: str) -> dict[str, Row]:
    listed: dict[str, Row] = {}
    for row in rows:
        key = stem_key(row.values[column])
        if key in listed:
            raise DataError(f"{row.place}: {row.values[column]} is listed a second time; keep one row")
        listed[key] = row
    return listed


def _require_images(path: Path, listed: dict[str, Row], images: dict[str, Path]) -> None:
    absent = [key for key in listed if key not in images]
    if absent:
        raise DataError(
            f"{path}: {len(absent)} rows have no image file ({first_few(absent)}); restore the files or drop the rows"
        )


def _masks(folder: Path) -> dict[str, Path]:
    found = subfolder(folder, "mask", "masks")
    return images_by_stem(found) if found else {}


def _finished(
    rows: list[dict], notes: list[dict[str, str]], *, patient_known: bool = False, target: str = "nodule"
) -> pd.DataFrame:
    cases = make_cases([{**row, "patient_known": patient_known, "target": target} for row in rows])
    cases = cases.astype({name: "string" for name in ("frame", "pane", "tirads", "target") if name in cases})
    cases.attrs["notes"] = notes
    return cases
