"""Opening every file of a data set and saying what was found and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.progress import in_threads
from thyroid_utils.data.images import IMAGE_SUFFIXES, read_image, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.readers.listing import entries, first_few
from thyroid_utils.data.splits import shared_groups

COLUMNS = ("severity", "case", "file", "problem", "remedy")
SEVERITIES = ("error", "warning", "info")
PROMISE_MASKS = ("phantom", "ddti", "tn3k", "tg3k")  # published with a mask for every image
_TEXT_SUFFIXES = (".csv", ".xml", ".json", ".txt", ".md", ".pdf")
_DARK = 32  # no gray level reaches it in 12 bits that were written into 16
_TINY, _FULL = 0.0005, 0.98  # shares of the frame below or above which a mask is hardly an outline


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
        cases = load_cases(dataset, root, **options)
    except DataError as error:
        return CheckReport(_table([_finding("error", "", *_parts(error))], base), {"data set": dataset, "images": 0})
    promised = dataset in PROMISE_MASKS
    checked = in_threads(lambda row: _check_row(row, promised), list(cases.itertuples()), progress=progress)
    sizes = Counter(size for size, _ in checked if size)
    findings = [finding for _, found in checked for finding in found]
    findings += [_finding("warning", "", note["file"], note["problem"], note["remedy"]) for note in cases.attrs.get("notes", [])]
    findings += _about_the_whole(cases, promised)
    return CheckReport(_table(findings, base), _summary(dataset, cases, sizes))


def _check_row(row, promised: bool) -> tuple[str, list[dict]]:
    """Width×height as text ("" where the image cannot be read) and the findings on one case."""
    findings, size, shape = [], "", None
    try:
        pixels = read_image(row.image)
        shape = pixels.shape[:2]
        size = f"{shape[1]}×{shape[0]}"
        if pixels.max() < _DARK:
            problem = f"nearly black: the brightest gray level is {pixels.max()} of 255"
            findings.append(_finding("warning", row.Index, row.image, problem, "12 bits in a 16-bit file? Use the full range"))
    except ImageError as error:
        findings.append(_finding("error", row.Index, *_parts(error)))
    problem = getattr(row, "mask_problem", pd.NA)
    if pd.notna(problem):
        findings.append(
            _finding("warning", row.Index, row.image, f"mask: {problem}", "correct the outline or leave the case out")
        )
    if pd.isna(row.mask):
        if pd.isna(problem) and promised:
            findings.append(_finding("error", row.Index, row.image, "mask missing", "restore its mask file"))
        return size, findings
    try:
        share = read_mask(row.mask, shape).mean()
    except ImageError as error:
        findings.append(_finding("error", row.Index, *_parts(error)))
        return size, findings
    if share == 0:
        findings.append(
            _finding("warning", row.Index, row.mask, "mask is empty", "draw it, or leave the case out of segmentation")
        )
    elif share < _TINY or share > _FULL:
        findings.append(_finding("warning", row.Index, row.mask, f"mask covers {share:.2%} of the frame", "look at it"))
    return size, findings


def _about_the_whole(cases: pd.DataFrame, promised: bool) -> list[dict]:
    findings = []
    without = cases.index[cases["mask"].isna() & ~(cases["mask_problem"].notna() if "mask_problem" in cases else False)]
    if len(without) == len(cases):
        findings += [] if promised else [_finding("info", "", "", "no masks", "add masks for segmentation")]
    elif not promised:
        images = cases.loc[without, "image"]
        findings += [_finding("warning", case, image, "mask missing", "add its mask file") for case, image in images.items()]
    unlabelled = int(cases["label"].isna().sum())
    if unlabelled:
        findings.append(_finding("info", "", "", f"{unlabelled} images have no label", "they serve segmentation alone"))
    classes = cases["label"].dropna().unique()
    if len(classes) == 1:
        name = ("benign", "malignant")[int(classes[0])]
        findings.append(_finding("warning", "", "", f"every label is {name}", "a classifier needs both classes"))
    if not cases["patient_known"].all():
        unknown = int((~cases["patient_known"].astype(bool)).sum())
        remedy = "group near-duplicates or videos with the audit before splitting"
        findings.append(_finding("info", "", "", f"{unknown} images have no patient id: each counts as a patient", remedy))
    findings += _other_files(cases)
    for shared in shared_groups(cases, check_pixels=False).itertuples():
        problem = f"one patient is in {shared.splits} ({shared.images} images)"
        findings.append(_finding("error", shared.cases[0], "", problem, "correct the split, or split by patient"))
    return findings


def _other_files(cases: pd.DataFrame) -> list[dict]:
    """What lies beside the images and cannot be read as one, DICOM files for example."""
    findings = []
    for folder in sorted({Path(image).parent for image in cases["image"]}):
        others = [
            path for path in entries(folder) if path.is_file() and path.suffix.lower() not in (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)
        ]
        if others:
            problem = (
                f"{len(others)} files are no PNG, JPEG, TIFF, BMP or GIF ({first_few(path.name for path in others)}); left out"
            )
            findings.append(_finding("info", "", str(folder), problem, "convert them if they are images"))
    return findings


def _summary(dataset: str, cases: pd.DataFrame, sizes: Counter) -> dict[str, str | int]:
    formats = Counter(Path(image).suffix.lower().lstrip(".").replace("jpg", "jpeg").upper() for image in cases["image"])
    splits = Counter(cases["split"].dropna())
    known = cases["patient_known"].astype(bool)
    return {
        "data set": dataset,
        "images": len(cases),
        "patients": int(cases.loc[known, "patient"].nunique()) if known.any() else "not known",
        "masks": int(cases["mask"].notna().sum()),
        "target": ", ".join(sorted(cases["target"].unique())),
        "benign": int((cases["label"] == 0).sum()),
        "malignant": int((cases["label"] == 1).sum()),
        "unlabelled": int(cases["label"].isna().sum()),
        "splits": _counted(splits) or "none",
        "sizes (width×height)": _counted(sizes),
        "formats": _counted(formats),
    }


def _counted(counter: Counter, shown: int = 6) -> str:
    common = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    more = f", {len(common) - shown} more" if len(common) > shown else ""
    return ", ".join(f"{name} ({count})" for name, count in common[:shown]) + more


def _finding(severity: str, case: str, file: str, problem: str, remedy: str) -> dict[str, str]:
    return dict(zip(COLUMNS, (severity, case, file, problem, remedy), strict=True))


def _parts(error: DataError) -> tuple[str, str, str]:
    """File, problem and remedy of an error's one line "FILE: problem; remedy"."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    file, rest = (head, rest) if colon and ("/" in head or "\\" in head) else ("", text)
    problem, _, remedy = rest.rpartition("; ")
    return (file, problem, remedy) if problem else (file, remedy, "")


def _table(findings: list[dict], base: Path | None) -> pd.DataFrame:
    table = pd.DataFrame(findings, columns=list(COLUMNS)).astype("string")
    if base is not None:
        folder = base if base.is_dir() else base.parent
        table["file"] = [_relative(file, folder) for file in table["file"]]
        table["file"] = table["file"].astype("string")
    order = table["severity"].map(SEVERITIES.index)
    return table.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _relative(file: str, folder: Path) -> str:
    return str(Path(file).relative_to(folder)) if file and Path(file).is_relative_to(folder) else file
