"""Opening every file of a data set and saying what was found and what is wrong."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.files import file_of
from thyroid_utils.common.progress import in_threads
from thyroid_utils.common.words import count
from thyroid_utils.data.audit import clean_mask
from thyroid_utils.data.images import IMAGE_SUFFIXES, read_image, read_mask
from thyroid_utils.data.readers import OWN, load_cases
from thyroid_utils.data.readers.listing import entries, first_few
from thyroid_utils.data.splits import shared_groups
from thyroid_utils.data.table import LABEL_NAMES, known_patients, label_names

COLUMNS = ("severity", "case", "file", "problem", "remedy")
SEVERITIES = ("error", "warning", "info")
PROMISE_MASKS = ("phantom", "ddti", "tn3k", "tg3k", "stanford", "thyroidxl", "busi")  # published with a mask for every image
_PASSED_OVER = (*IMAGE_SUFFIXES, ".csv", ".hdf5", ".xml", ".json", ".txt", ".md", ".pdf")
_DARK = 32  # no gray level reaches it in 12 bits that were written into 16
_TINY, _FULL = 0.0005, 0.98  # shares of the frame below or above which a mask is hardly an outline
_NO_PATIENTS = {
    "folders": "if the file names tell: --set \"DATA_OPTIONS={patient_pattern: '^(.+)_'}\" (the group is the patient)",
    "manifest": "add a column patient",
}
Finding = tuple[str, str, str, str, str]  # as COLUMNS


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found.

    Attributes:
        table: one row a finding, most severe first: severity ("error", "warning", "info"), case, file (relative to the
            checked folder), problem, remedy.
        summary: what the set holds, in words and counts, in the order to be shown.
    """

    table: pd.DataFrame
    summary: dict[str, str | int]

    @property
    def ok(self) -> bool:
        """True where nothing is an error."""
        return not (self.table["severity"] == "error").any()


def check_dataset(
    dataset: str, root: str | Path | None, progress: Callable[[int, int], None] | None = None, **options
) -> CheckReport:
    """Open every image and mask of a data set and report what is wrong; a set that cannot be read at all is one error row.

    Errors: unreadable files, masks of another size, masks missing from a set that promises them, a patient in two official
    splits. Warnings: nearly black images, other missing masks, empty or full masks, one class only, what the reader could not
    use. Info: images without a label, unknown patients.

    Args:
        dataset, root, options: as in `load_cases`.
        progress: called with (images read, images in all).
    """
    base = None if root is None else paths.resolve_in_project(root)
    try:
        # The one who looks has the files before them, and must find what is wrong by its name.
        cases = load_cases(dataset, root, **{**options, **({"keep_names": True} if dataset in OWN else {})})
    except DataError as error:
        return CheckReport(_table([("error", "", *_parts(error))], base), {"data set": dataset, "images": 0})
    checked = in_threads(_check_row, list(cases.itertuples()), progress=progress)
    findings = [finding for _, found in checked for finding in found]
    findings += [("warning", "", note["file"], note["problem"], note["remedy"]) for note in cases.attrs.get("notes", [])]
    findings += [*_missing_masks(cases, dataset in PROMISE_MASKS), *_about_the_whole(cases), *_other_files(cases)]
    sizes = Counter(f"{shape[1]}×{shape[0]}" for shape, _ in checked if shape)
    return CheckReport(_table(findings, base), _summary(dataset, cases, sizes))


def _check_row(row) -> tuple[tuple[int, int] | None, list[Finding]]:
    """(height, width) of a case's image, None where it cannot be read, and the findings on image and mask."""
    shape, found = None, []
    try:
        pixels = read_image(row.image)
        shape, brightest = pixels.shape[:2], int(pixels.max())
        if len(np.unique(pixels)) == 2 and brightest >= _DARK:
            problem = "two gray levels, as a mask has"
            found.append(("warning", row.Index, row.image, problem, "name it IMAGE_mask beside its image, or move it"))
        if brightest < _DARK:
            problem = f"nearly black: the brightest gray level is {brightest} of 255"
            found.append(("warning", row.Index, row.image, problem, "12 bits in a 16-bit file? Use the full range"))
    except ImageError as error:
        found.append(("error", row.Index, *_parts(error)))
    outline = getattr(row, "mask_problem", pd.NA)
    if pd.notna(outline):
        found.append(("warning", row.Index, row.image, f"mask: {outline}", "correct the outline or leave the case out"))
    if pd.isna(row.mask):
        return shape, found
    try:
        mask = read_mask(row.mask, shape, row.image if shape else None)
        share = mask.mean()
        if clean_mask(mask).sum() > 2 * mask.sum():
            problem = "mask is a line around an area"
            found.append(("warning", row.Index, row.mask, problem, "fill it if the nodule is what it surrounds"))
        if not _TINY < share < _FULL and not (share == 0 and getattr(row, "normal", False)):
            problem = f"mask covers {share:.2%} of the frame"
            found.append(("warning", row.Index, row.mask, problem, "draw it anew, or leave the case out"))
    except ImageError as error:
        found.append(("error", row.Index, *_parts(error)))
    return shape, found


def _missing_masks(cases: pd.DataFrame, promised: bool) -> Iterator[Finding]:
    missing = cases["mask"].isna()
    if "mask_problem" in cases:
        missing &= cases["mask_problem"].isna()
    if missing.all() and not promised:
        yield "info", "", "", "no masks", "add masks for segmentation"
        return
    for case, image in cases.loc[missing, "image"].items():
        yield "error" if promised else "warning", case, image, "mask missing", "restore or add its mask file"


def _about_the_whole(cases: pd.DataFrame) -> Iterator[Finding]:
    unlabelled, unknown = int(cases["label"].isna().sum()), int((~known_patients(cases)).sum())
    if unlabelled:
        yield "info", "", "", f"{count(unlabelled, 'image')} without a label", "they serve segmentation alone"
    classes = cases["label"].dropna().unique()
    if len(classes) == 1:
        yield "warning", "", "", f"every label is {LABEL_NAMES[classes[0]]}", "a classifier needs both classes"
    if unknown:
        problem = f"{count(unknown, 'image')} without a patient id: each counts as a patient"
        remedy = _NO_PATIENTS.get(cases["dataset"].iloc[0], "near-identical images are grouped before splitting")
        yield "info", "", "", problem, remedy
    for shared in shared_groups(cases, check_pixels=False).itertuples():
        problem = f"one patient is in {shared.splits} ({count(shared.images, 'image')})"
        yield "error", shared.cases[0], "", problem, "correct the split, or split by patient"


def _other_files(cases: pd.DataFrame) -> Iterator[Finding]:
    """What lies beside the images and cannot be read as one, DICOM files for example."""
    for folder in sorted({Path(image).parent for image in cases["image"]}):
        files = [path for path in entries(folder) if path.suffix.lower() not in _PASSED_OVER and path.is_file()]
        if files:
            told = f"{count(len(files), 'file')} {'is' if len(files) == 1 else 'are'} no PNG, JPEG, TIFF, BMP or GIF"
            problem = f"{told} ({first_few(path.name for path in files)}); left out"
            yield "info", "", str(folder), problem, "convert them if they are images"


def _summary(dataset: str, cases: pd.DataFrame, sizes: Counter) -> dict[str, str | int]:
    known = cases.loc[known_patients(cases), "patient"]
    suffixes = cases["image"].map(lambda image: Path(file_of(image)).suffix[1:].upper().replace("JPG", "JPEG"))
    return {
        "data set": dataset,
        "images": len(cases),
        "patients": known.nunique() or "not known",
        "masks": int(cases["mask"].notna().sum()),
        "target": ", ".join(sorted(cases["target"].unique())),
        **label_names(cases).value_counts().reindex(LABEL_NAMES.values(), fill_value=0).to_dict(),
        "splits": _counted(Counter(cases["split"].dropna())) or "none",
        "sizes (width×height)": _counted(sizes),
        "formats": _counted(Counter(suffixes)),
    }


def _counted(counter: Counter, shown: int = 6) -> str:
    common = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    more = f", {len(common) - shown} more" if len(common) > shown else ""
    return ", ".join(f"{name} ({count})" for name, count in common[:shown]) + more


def _parts(error: DataError) -> tuple[str, str, str]:
    """File, problem and remedy of an error's one line "FILE: problem; remedy"."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    file, rest = (head, rest) if colon and ("/" in head or "\\" in head) else ("", text)
    problem, _, remedy = rest.rpartition("; ")
    return (file, problem, remedy) if problem else (file, remedy, "")


def _table(findings: list[Finding], base: Path | None) -> pd.DataFrame:
    """The findings, most severe first, their files as seen from the checked folder."""
    table = pd.DataFrame(findings, columns=list(COLUMNS)).astype("string")
    if base is not None:
        folder = str(base if base.is_dir() else base.parent)
        table["file"] = table["file"].where(table["file"] != folder, ".").str.removeprefix(folder + os.sep)
    return table.sort_values("severity", key=lambda column: column.map(SEVERITIES.index), kind="stable", ignore_index=True)
