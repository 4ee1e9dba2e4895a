"""Readers of one's own images: sorted into folders, or listed in a CSV file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers.listing import (
    BLANK,
    Row,
    entries,
    first_few,
    images_by_stem,
    masks_without_image,
    missing_data,
    path_or_na,
    read_rows,
    require_columns,
    subfolder,
)
from thyroid_utils.data.table import SPLITS, make_cases

TARGETS = ("nodule", "gland")
CLASS_FOLDERS = {
    "benign": ("benign", "benigns", "benign_nodule", "benign_nodules", "benigno", "benigne", "b", "0"),
    "malignant": (
        "malignant",
        "malignants",
        "malignant_nodule",
        "malignant_nodules",
        "maligno",
        "maligne",
        "malign",
        "malignancy",
        "cancer",
        "m",
        "1",
    ),
}
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_MASK_WORDS = ("mask", "masks")
_MASK_NAME = re.compile(r"(?P<image>.+)[_\-. ]mask(?:[_\-]?\d+)?", re.IGNORECASE)
_MANIFEST_COLUMNS = ("case", "mask", "label", "patient", "split", "target")


def read_folders(root: Path, patient_pattern: str | None = None, target: str = "nodule") -> pd.DataFrame:
    """Images sorted into `benign/` and `malignant/`, or into `train/benign/`, … `test/malignant/`, which fills `split`.

    Case ids `benign/img_7` (`train/benign/img_7`). The usual spellings of the classes are known in upper and lower case.
    The images lie in the class folder or in `images/` below it. A mask has its image's name, or that name and `_mask`; it
    lies beside its image, in `benign/masks/`, in `benign_masks/` or in `masks/benign/`.

    Args:
        root: the folder that holds the class folders.
        patient_pattern: regular expression with one group, searched in the file name without suffix; the group is the
            patient, for example `^(\\d+)_`. None counts each image as its own patient and sets `patient_known` to False.
        target: "nodule" or "gland", what the masks outline.
    """
    if target not in TARGETS:
        raise DataError(f"folders: target is {target!r}; expected nodule or gland")
    pattern = _patient_pattern(patient_pattern)
    expected = "benign/ and malignant/ (or train/, val/, test/ with these two in each)"
    if not root.is_dir():
        raise missing_data("folders", root, expected)
    found = {split: _only_folder([root], split, spellings) for split, spellings in SPLIT_FOLDERS.items()}
    parents = {split: here for split, here in found.items() if here is not None}
    if parents and any(_word(here.name) in spellings for here in entries(root) for spellings in CLASS_FOLDERS.values()):
        raise DataError(f"{root}: class folders beside {first_few(parents)}/; move them into one of these, or these elsewhere")
    rows, notes = [], _left_out([root], parents.values()) if parents else []
    for split, parent in parents.items() if parents else [(None, root)]:
        classes = _class_folders(parent, expected)
        read = [place for folder in classes.values() for place in _folders_of_class(parent, folder)]
        notes += _left_out([parent, *read], read)
        for label, (name, folder) in enumerate(classes.items()):
            images, masks = _images_and_masks(parent, folder)
            notes += masks_without_image(masks, images)
            prefix = f"{split}/{name}" if split else name
            for stem, image in images.items():
                case = f"{prefix}/{stem}"
                rows.append(
                    {
                        "case": case,
                        "image": str(image),
                        "mask": path_or_na(masks.get(stem)),
                        "label": label,
                        "patient": _patient(pattern, image) if pattern else case,
                        "dataset": "folders",
                        "split": split or pd.NA,
                        "patient_known": pattern is not None,
                        "target": target,
                    }
                )
    if not rows:
        raise missing_data("folders", root, f"images in {expected}")
    cases = make_cases(rows).astype({"target": "string"})
    cases.attrs["notes"] = notes
    return cases


def read_manifest(root: Path) -> pd.DataFrame:
    """A CSV of one's own, one row an image.

    Column `image` is required; `mask`, `label` (0, 1, benign, malignant or nothing), `patient`, `split`, `case`, `target` and
    `spacing_mm` (the side of a pixel in millimetres) are known, and NA, NaN, null and the like stand for nothing in them. All
    others that have a name are kept, their names in lower case, as numbers where every value is one. Paths are seen from the
    CSV's folder and may not leave it. Case ids: the column `case`, else `row-0001`. Without `patient` each image is its own
    patient and `patient_known` is False.

    Args:
        root: the CSV file, or the folder that holds `manifest.csv`.
    """
    path = root
    if root.is_dir():
        path = next((here for here in entries(root) if here.name.lower() == "manifest.csv"), root / "manifest.csv")
    if not path.is_file():
        expected = "manifest.csv with a column image (and mask, label, patient, split, case, target as there are)"
        raise missing_data("manifest", path.parent if root.is_dir() else root, expected)
    listed = read_rows(path)
    require_columns(path, listed, ("image",), _MANIFEST_COLUMNS)
    patients = [bool(row.given("patient")) for row in listed]
    rows, seen, ids = [], {}, {}
    for position, (row, patient_known) in enumerate(zip(listed, patients, strict=True), start=1):
        image = _listed_file(path.parent, row, "image")
        if image is None:
            raise DataError(f"{row.place}: no image named; fill in the column image")
        if image in seen:
            raise DataError(f"{row.place}: {row.values['image']} is listed a second time (first in {seen[image]}); keep one row")
        seen[image] = f"line {row.line}"
        case = row.given("case") or f"row-{position:04d}"
        if case in ids:
            raise DataError(f"{row.place}: case {case} is there already (line {ids[case]}); give every image an id of its own")
        ids[case] = row.line
        rows.append(
            {
                "case": case,
                "image": str(image),
                "mask": path_or_na(_listed_file(path.parent, row, "mask")),
                "label": row.label("label"),
                "patient": row.values["patient"] if patient_known else case,
                "dataset": "manifest",
                "split": _one_of(row, "split", SPLITS, pd.NA),
                "patient_known": patient_known,
                "target": _one_of(row, "target", TARGETS, "nodule"),
            }
        )
    table = pd.DataFrame(rows)
    if "spacing_mm" in listed[0].values:
        table["spacing_mm"] = pd.Series([row.given("spacing_mm") or pd.NA for row in listed], dtype="string")
    for name in listed[0].values:
        if name in ("dataset", "patient_known"):
            raise DataError(f"{path}: column {name!r} has a fixed meaning in the case table; rename it")
        if name and name not in table and name not in _MANIFEST_COLUMNS:
            table[name] = _as_numbers(pd.Series([row.text(name) for row in listed], dtype="string"))
    return make_cases(table).astype({"target": "string"})


def _class_folders(parent: Path, expected: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, spellings in CLASS_FOLDERS.items():
        places = [place for place in (parent, subfolder(parent, "images", "image")) if place is not None]
        folder = _only_folder(places, name, spellings)
        if folder is None:
            raise missing_data("folders", parent, expected)
        found[name] = folder
    return found


def _only_folder(places: list[Path], name: str, spellings: tuple[str, ...]) -> Path | None:
    """The folder in `places` that bears one of the spellings, None where there is none."""
    matches = [here for place in places for here in entries(place) if here.is_dir() and _word(here.name) in spellings]
    if len(matches) > 1:
        raise DataError(f"{places[0]}: two folders for {name}, {matches[0].name}/ and {matches[1].name}/; put them together")
    return matches[0] if matches else None


def _word(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def _images_and_masks(parent: Path, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    inner = subfolder(folder, "images", "image")
    files = images_by_stem(inner or folder)
    masks: dict[str, Path] = {}

    def add(stem: str, mask: Path) -> None:
        named = _MASK_NAME.fullmatch(stem)
        key = stem if stem in images or not named else named["image"]
        if key in masks:
            raise DataError(f"{folder}: two masks for {key}, {masks[key].name} and {mask.name}; merge them into one file")
        masks[key] = mask

    beside = {stem for stem in files if (named := _MASK_NAME.fullmatch(stem)) and named["image"] in files}
    images = {stem: path for stem, path in files.items() if stem not in beside}
    for stem in files:
        if stem in beside:
            add(stem, files[stem])
    for place in _mask_folders(parent, folder):
        for stem, mask in images_by_stem(place).items():
            add(stem, mask)
    return images, masks


def _mask_folders(parent: Path, folder: Path) -> list[Path]:
    shared = [subfolder(place, *_MASK_WORDS) for place in {parent, folder.parent}]
    candidates = [
        subfolder(folder, *_MASK_WORDS),
        *(subfolder(parent, f"{folder.name}{gap}{word}") for gap in "_- " for word in _MASK_WORDS),
        *(subfolder(place, folder.name) for place in shared if place is not None),
    ]
    return [place for place in candidates if place is not None]


def _folders_of_class(parent: Path, folder: Path) -> list[Path]:
    """Every folder from which the images and masks of one class are read, or which only holds such folders."""
    inner = subfolder(folder, "images", "image")
    masks = _mask_folders(parent, folder)
    return [folder, *([inner] if inner else []), *masks, *(place.parent for place in (folder, *masks))]


def _left_out(folders: list[Path], read: Iterable[Path]) -> list[dict[str, str]]:
    """Notes on images that lie loose in the first of `folders`, or in a folder within any of them that is not `read`."""
    notes = []
    unread = {place for folder in folders for place in entries(folder) if place.is_dir()} - {*read}
    for place in sorted({folders[0], *unread}):
        images = len(images_by_stem(place))
        if images:
            problem = f"{images} images outside the folders of benign and malignant ones; left out"
            notes.append({"file": str(place), "problem": problem, "remedy": "move them, or list them in a manifest"})
    return notes


def _patient_pattern(text: str | None) -> re.Pattern | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except (re.error, TypeError) as error:
        raise DataError(f"folders: patient_pattern {text!r} is no regular expression ({error}); example: ^(\\d+)_") from None
    if pattern.groups != 1:
        raise DataError(f"folders: patient_pattern {text!r} has {pattern.groups} groups, expected one; example: ^(\\d+)_")
    return pattern


def _patient(pattern: re.Pattern, image: Path) -> str:
    found = pattern.search(image.stem)
    if found is None or not found[1]:
        raise DataError(f"{image}: patient_pattern {pattern.pattern!r} finds no patient in this name; correct either")
    return found[1]


def _listed_file(folder: Path, row: Row, column: str) -> Path | None:
    """The file that a row names, below `folder`; None where the column is blank."""
    text = row.given(column)
    if not text:
        return None
    relative = text.replace("\\", "/")
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(text).drive:
        raise DataError(f"{row.place}: {column} {text!r} is an absolute path; write it as seen from the CSV's folder")
    try:
        top = folder.resolve()
        forms = [relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD"))]
        path = next((here for form in forms if (here := (folder / form)).is_file()), folder / relative)
        inside = path.resolve().is_relative_to(top)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{row.place}: {column} {text!r} cannot be followed ({error}); correct the path") from None
    if not inside:
        raise DataError(f"{row.place}: {column} {text!r} leads out of {folder}; move the CSV to the folder that holds all files")
    if not path.is_file():
        raise DataError(f"{row.place}: no file {text!r} in {folder}; correct the {column}'s path or restore the file")
    return path


def _one_of(row: Row, column: str, allowed: tuple[str, ...], blank):
    value = row.given(column)
    if value and value.lower() not in allowed:
        raise DataError(f"{row.place}: {column} is {value!r}; expected {', '.join(allowed)} or nothing: correct it")
    return value.lower() if value else blank


def _as_numbers(column: pd.Series) -> pd.Series:
    """Numbers where every value is one or NA and the like; a leading zero (007) or 16 digits mark an identifier: text."""
    values = column[~column.str.lower().isin(BLANK)].dropna()
    if values.empty or values.str.fullmatch(r"0\d+|\d{16,}").any():
        return column
    numbers = pd.to_numeric(values, errors="coerce")
    return column if numbers.isna().any() else pd.to_numeric(column.where(column.index.isin(values.index)))
