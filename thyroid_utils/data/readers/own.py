"""Readers of one's own images: sorted into folders, or listed in a CSV file."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.files import cached_folder, content_key, file_hashes
from thyroid_utils.common.paths import cache_dir
from thyroid_utils.common.words import count
from thyroid_utils.data.images import DICOM_SUFFIXES, IMAGE_SUFFIXES, read_mask, write_png
from thyroid_utils.data.readers import listing
from thyroid_utils.data.table import make_cases

TARGETS = {"nodule": "nodule", "gland": "gland"}
CLASS_FOLDERS = {
    "benign": ("benign", "benigns", "benign_nodule", "benign_nodules", "b", "0"),
    "malignant": ("malignant", "malignants", "malignant_nodule", "malignant_nodules", "cancer", "m", "1"),
}
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_EXPECTED = "benign/ and malignant/ (or train/, val/, test/ with these two in each)"
_MASK = (
    "masks?|masked|segs?|segm|segment|segmentations?|segmented|gts?|ground[_-]?truth|truth|annot|annotations?|anno|labels?|"
    "outlines?|contours?"
)
_MASK_OR_PICTURE = "rois?|tumou?rs?|lesions?|nodules?|manual|binary"
_WORD = rf"(?:{_MASK}|(?P<doubtful>{_MASK_OR_PICTURE}))"
_MASK_LAST = re.compile(rf"(?P<image>.+?)[_\-. ]?(?:(?<=[_\-. ]){_WORD}|mask)(?P<number>[_\- ]?\(?\d+\)?)?", re.IGNORECASE)
_MASK_FIRST = re.compile(rf"{_WORD}[_\-. ](?P<image>.+)", re.IGNORECASE)
_NOBODY = re.compile(r"0+|x+|anonym\w*|anon|test|dummy|removed|patient|de-?identified", re.IGNORECASE)
_MANIFEST_COLUMNS = ("case", "mask", "label", "patient", "split", "target")


def read_folders(
    root: Path,
    patient_pattern: str | None = None,
    target: str = "nodule",
    benign: str | None = None,
    malignant: str | None = None,
) -> pd.DataFrame:
    """Images sorted into `benign/` and `malignant/`, or into `train/benign/`, … `test/malignant/`, which fills `split`.

    Case ids `benign/img_7` (`train/benign/img_7`). The images lie in the class folder or in `images/` below or above it. A mask
    has its image's name, or that name and `_mask`, `_seg`, `_gt` or the like (`_mask_1` for a second nodule); it lies beside its
    image, in `benign/masks/`, in `benign_masks/` or in `masks/benign/`. Beside its image, `_nodule`, `_lesion`, `_tumor`, `_roi`,
    `_manual` and `_binary` make masks of black and white files only.

    Args:
        root: the folder that holds the class folders.
        patient_pattern: regular expression with one group, searched in the file name without suffix; the group is the
            patient, for example `^(\\d+)_`. None counts each image as its own patient and sets `patient_known` to False.
        target: "nodule" or "gland", what the masks outline.
        benign, malignant: what the class folders are called, where it is none of the usual spellings (`CLASS_FOLDERS`), in
            upper or lower case.
    """
    if target not in TARGETS:
        raise DataError(f"folders: target is {target!r}; expected nodule or gland")
    if not root.is_dir():
        raise listing.missing_data("folders", root, _EXPECTED)
    given = {"benign": benign, "malignant": malignant}
    classes = {name: (_word(given[name]),) if given[name] else usual for name, usual in CLASS_FOLDERS.items()}
    found = {split: _only_folder([root], split, spellings) for split, spellings in SPLIT_FOLDERS.items()}
    parents = {split: folder for split, folder in found.items() if folder}
    if parents and any(_word(here.name) in sum(classes.values(), ()) for here in listing.entries(root)):
        raise DataError(f"{root}: class folders beside {listing.first_few(parents)}/; move them into one of these")
    parts, read, blank = [], set(), Counter()
    for split, parent in parents.items() or [("", root)]:
        for label, (name, spellings) in enumerate(classes.items()):
            places = [place for place in (parent, listing.subfolder(parent, "images", "image")) if place]
            folder = _only_folder(places, name, spellings)
            if folder is None:
                raise listing.missing_data("folders", parent, _EXPECTED)
            images, masks, folders = images_and_masks(parent, folder)
            read |= folders
            columns = {"label": label, "split": split or pd.NA, "target": target}
            prefix = f"{split}/{name}/".lstrip("/")
            if patient_pattern is not None:
                patients = _patients(patient_pattern, images)
                named = {key: patient.lower() not in listing.BLANK for key, patient in patients.items()}
                blank.update(patient for key, patient in patients.items() if not named[key])
                patients = {key: patient if named[key] else prefix + key for key, patient in patients.items()}
                columns |= {"patient": patients, "patient_known": named}
            parts.append(listing.image_rows("folders", prefix, images, masks, **columns))
    left_out = _left_out(root, read)
    if all(rows.empty for rows, _ in parts):
        found = ", ".join(note["problem"] for note in left_out)
        raise listing.missing_data("folders", folder, "images in it", found=found)
    cases = listing.case_table(parts)
    cases.attrs["notes"] += left_out + _doubtful_patients(cases.loc[cases["patient_known"].astype(bool), "patient"], blank)
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
        path = next((here for here in listing.entries(root) if here.name.lower() == "manifest.csv"), root / "manifest.csv")
    if not path.is_file():
        expected = "manifest.csv with a column image (and mask, label, patient, split, case, target as there are)"
        raise listing.missing_data("manifest", path.parent if root.is_dir() else root, expected)
    listed = listing.read_table(path, ("image",), _MANIFEST_COLUMNS)
    told = listed.reindex(columns=["image", *_MANIFEST_COLUMNS]).astype("string")
    images, masks = (
        pd.Series([_listed_file(path.parent, place, name, text) for place, text in told[name].items()], told.index, "string")
        for name in ("image", "mask")
    )
    again = told["image"][images.duplicated()]
    if len(again):
        raise DataError(f"{again.index[0]}: {again.iloc[0]} is listed a second time; keep one row")
    case = told["case"].fillna(pd.Series([f"row-{number:04d}" for number in range(1, len(told) + 1)], told.index))
    columns = {
        "case": case,
        "image": images,
        "mask": masks,
        "label": listing.looked_up(told["label"], listing.LABELS),
        "patient": told["patient"].map(_one_form, na_action="ignore").fillna(case),
        "dataset": "manifest",
        "split": told["split"].str.lower(),
        "patient_known": told["patient"].notna(),
        "target": listing.looked_up(told["target"], TARGETS).fillna("nodule"),
    }
    for name in listed.columns.difference(["image", *_MANIFEST_COLUMNS], sort=False):
        if name in columns:
            raise DataError(f"{path}: column {name!r} has a fixed meaning in the case table; rename it")
        columns[name] = listing.without_blanks(listed[name]) if name == "spacing_mm" else listing.as_numbers(listed[name])
    cases = make_cases(pd.DataFrame(columns)).astype({"target": "string"})
    blank = listed.attrs["blank"].get("patient", {})
    cases.attrs["notes"] = _doubtful_patients(cases.loc[cases["patient_known"].astype(bool), "patient"], blank)
    return cases


def _only_folder(places: list[Path], name: str, spellings: Iterable[str]) -> Path | None:
    """The folder in `places` that bears one of the spellings, None where there is none."""
    matches = [here for place in places for here in listing.entries(place) if _word(here.name) in spellings and here.is_dir()]
    if len(matches) > 1:
        raise DataError(f"{places[0]}: two folders for {name}, {matches[0].name}/ and {matches[1].name}/; put them together")
    return matches[0] if matches else None


def _word(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def images_and_masks(parent: Path, folder: Path) -> tuple[dict[str, Path], dict[str, Path], set[Path]]:
    """The images and masks of one class by key, and the folders that they were read from."""
    place = listing.subfolder(folder, "images", "image") or folder
    words = ("mask", "masks")
    shared = [listing.subfolder(above, *words) for above in {parent, folder.parent}]
    mask_folders = [
        listing.subfolder(folder, *words),
        *(listing.subfolder(parent, f"{folder.name}{gap}{word}") for gap in "_- " for word in words),
        *(listing.subfolder(above, folder.name) for above in shared if above),
    ]
    mask_folders = [here for here in mask_folders if here]
    files = listing.images_by_stem(place)
    images = {stem: path for stem, path in files.items() if not is_mask_beside(path, stem, files.keys())}
    found = [(stem, path) for stem, path in files.items() if stem not in images]
    found += [item for here in mask_folders for item in listing.images_by_stem(here).items()]
    masks: dict[str, list[Path]] = {}
    for stem, path in found:
        named = [stem] if stem in images else sorted(masked_images(stem).keys() & images.keys(), key=len)
        masks.setdefault(named[-1] if named else stem, []).append(path)
    return (
        images,
        {key: paths[0] if len(paths) == 1 else _merged(folder, key, paths) for key, paths in masks.items()},
        {place, *mask_folders},
    )


def masked_images(stem: str) -> dict[str, bool]:
    """The images that a name such as img_7_mask, mask_img_7, img_mask_7 or img_7_mask_1 may belong to, each with whether it may
    be a picture's name as well; none for other names."""
    images = {}
    if named := _MASK_FIRST.fullmatch(stem):
        images[named["image"]] = bool(named["doubtful"])
    if named := _MASK_LAST.fullmatch(stem):
        images |= dict.fromkeys((named["image"], named["image"] + (named["number"] or "")), bool(named["doubtful"]))
    return images


def is_mask_beside(path: Path, stem: str, beside: Collection[str]) -> bool:
    """Whether a file is the mask of one of those beside it: by its name, and where that may be a picture's, by its pixels."""
    doubts = [doubtful for image, doubtful in masked_images(stem).items() if image in beside]
    if not all(doubts) or not doubts:
        return bool(doubts)
    try:
        read_mask(path)
    except ImageError:
        return False
    return True


def _merged(folder: Path, key: str, paths: list[Path]) -> Path:
    """The union of the masks of one image, numbered as NAME_mask and NAME_mask_1 (as in BUSI, one a nodule), in the cache."""
    drawn = [re.sub(r"[_\- ]?\(?\d+\)?$", "", path.stem.lower()) for path in paths]
    if len({(path.parent, name) for path, name in zip(paths, drawn, strict=True)}) > 1:
        raise DataError(f"{folder}: two masks for {key}, {paths[0].name} and {paths[1].name}; merge them into one file")

    def draw(target: Path) -> None:
        first = read_mask(paths[0])
        write_png(target / "mask.png", np.any([first, *(read_mask(path, first.shape) for path in paths[1:])], axis=0))

    hashes = file_hashes(map(str, paths))
    return cached_folder(cache_dir() / "merged-masks" / content_key(sorted(hashes.values())), draw) / "mask.png"


def _left_out(root: Path, read: set[Path]) -> list[dict[str, str]]:
    """Notes on images that lie in folders, however deep, which were not read, and on DICOM files wherever they lie."""
    images, dicom = Counter(), Counter()
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith((".", "__MACOSX")))
        suffixes = [Path(name).suffix.lower() for name in names if not name.startswith(".")]
        images[folder] = sum(suffix in IMAGE_SUFFIXES for suffix in suffixes) * (Path(folder) not in read)
        dicom[folder] = sum(suffix in DICOM_SUFFIXES for suffix in suffixes)
    found = [(+images, "image", "move them, or list them in a manifest"), (+dicom, "DICOM file", "export their frames as PNG")]
    notes = []
    for counts, noun, remedy in found:
        if counts:
            places = listing.first_few(os.path.relpath(folder, root) for folder in counts)
            where = " outside the folders of benign and malignant ones" * (noun == "image")
            problem = f"{count(counts.total(), noun)}{where} left out ({places})"
            notes.append({"file": next(iter(counts)), "problem": problem, "remedy": remedy})
    return notes


def _doubtful_patients(patients: pd.Series, blank: Mapping[str, int]) -> list[dict[str, str]]:
    """Notes on known patients (one an image) who may be one or none: in several writings, or with a large share of the images;
    and on words for nobody (each with its number of images) that may be one's initials."""
    counts, notes = patients.value_counts(), []
    for _, alike in counts.groupby(counts.index.map(_rough_form)):
        if len(alike) > 1:
            problem = f"{len(alike)} patients differ in case, zeros or spaces alone ({', '.join(sorted(alike.index))})"
            notes.append({"file": "", "problem": problem, "remedy": "write one patient in one way, or leakage is not seen"})
    for name, images in counts.items():
        usual = counts.drop(name).median() if len(counts) > 1 else 0
        many = images >= max(4, 0.25 * len(patients), 2 * usual)
        if many or (images > 1 and _NOBODY.fullmatch(name)):
            problem = f"one patient has {images} of {len(patients)} images ({name})"
            notes.append({"file": "", "problem": problem, "remedy": "leave the patient empty where it is not known"})
    for word, images in blank.items():
        if images > 1:
            problem = f"{images} images have a patient that is taken for unknown ({word})"
            notes.append({"file": "", "problem": problem, "remedy": "rename the patient if it is one"})
    return notes


def _rough_form(patient: str) -> str:
    text = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", patient).casefold()).strip("-")
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _patients(pattern: str, images: dict[str, Path]) -> dict[str, str]:
    """The patient of each image by its key: what the pattern's group finds in its name."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError):
        compiled = None
    if compiled is None or compiled.groups != 1:
        raise DataError(f"folders: patient_pattern {pattern!r} is no regular expression with one group; example: ^(\\d+)_")
    found = {key: compiled.search(image.stem) for key, image in images.items()}
    without = [images[key].name for key, match in found.items() if not (match and match[1])]
    if without:
        raise DataError(f"folders: patient_pattern {pattern!r} finds no patient in {listing.first_few(without)}; correct either")
    return {key: _one_form(match[1]) for key, match in found.items()}


def _one_form(patient: str) -> str:
    """One spelling of a patient's id: letters composed, and 7.0, which programs make of 7 beside an empty field, as 7."""
    return re.sub(r"^(\d+)\.0+$", r"\1", unicodedata.normalize("NFC", patient))


def _listed_file(folder: Path, place: str, column: str, text: str) -> str:
    """The file that a row names, below `folder`; NA where it names none."""
    if pd.isna(text):
        return pd.NA
    relative = text.replace("\\", "/")
    forms = [relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD"))]
    path = next((here for form in forms if os.path.isfile(here := folder / form)), None)
    if path is None:
        raise DataError(f"{place}: no file {text!r} in {folder}; correct the {column}'s path or restore the file")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        remedy = "move the CSV to the folder that holds all files"
        raise DataError(f"{place}: {column} {text!r} leads out of {folder}, by itself or by a link; {remedy}")
    return str(path)
