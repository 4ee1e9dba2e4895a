"""The case table: one row an image, the same columns whatever the data set.

| column | type | meaning |
|---|---|---|
| index `case` | str, unique | short id of the image, the one shown in figures and tables |
| `image` | str | absolute path of the image file, or of an HDF5 file's entry: `/…/dataset.hdf5::image[12]` |
| `mask` | str or NA | absolute path of its mask file |
| `label` | Int8 or NA | 0 benign, 1 malignant, NA unknown |
| `patient` | str | the unit of every split, interval and test |
| `dataset` | str | name of the reader |
| `split` | `train`, `val`, `test` or NA | filled by `split_cases` or by an official split |

Readers add what their set offers (`tirads`, `pane`, `scanner`, …); `spacing_mm`, the side of a pixel in millimetres, is a number
above 0 or missing.
"""

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hashes
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray, read_mask, ring_around

SPLITS = ("train", "val", "test")
LABEL_NAMES = {0: "benign", 1: "malignant", None: "unlabelled"}
REQUIRED_COLUMNS = ("image", "mask", "label", "patient", "dataset", "split")
GRID = 64  # side of the position maps, in cells


def make_cases(rows: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """Build and validate a case table from rows that each carry `case` and at least image, patient and dataset.

    Missing `mask`, `label` and `split` become NA. Raises DataError as `validate_cases` does.

    >>> make_cases([{"case": "a", "image": "a.png", "patient": "p1", "dataset": "own", "label": 1}])["label"].to_list()
    [1]
    """
    table = pd.DataFrame(rows)
    if table.empty:
        table = pd.DataFrame(columns=["case", *REQUIRED_COLUMNS])
    for column in {"mask", "label", "split"}.difference(table):
        table[column] = pd.NA
    return validate_cases(table.set_index("case"))


def validate_cases(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its required columns first and typed; raise DataError naming the first offending rows.

    Case ids and patients that come from file names which are not UTF-8 have the odd bytes written out, `M\\udcfcller`.

    Raises:
        DataError: a case id occurs twice, or a value is outside its domain (label not in {0, 1, NA},
            spacing_mm not a number above 0).
    """
    cases = cases.copy()
    cases.index = _as_utf8(cases.index).rename("case")
    doubled = cases.index[cases.index.duplicated()].unique()
    if len(doubled):
        raise DataError(f"case table: {len(doubled)} case ids occur more than once (first: {doubled[0]}); rename or drop them")
    for column in ("image", "mask", "patient", "dataset", "split"):
        cases[column] = _as_utf8(cases[column]) if column == "patient" else cases[column].astype("string")
    for name, texts in {"case": cases.index.to_series(), **cases[["image", "patient", "dataset"]]}.items():
        _refuse(texts, texts.fillna("").str.strip() == "", f"values of {name} are missing", "every case needs one")
    _refuse(cases["split"], cases["split"].notna() & ~cases["split"].isin(SPLITS), "splits are not train, val, test or empty")
    labels = pd.to_numeric(cases["label"], errors="coerce")
    wrong = cases["label"].notna() & ~labels.isin([0, 1])
    _refuse(cases["label"], wrong, "labels are not 0 (benign), 1 (malignant) or empty")
    cases["label"] = labels.astype("Int8")
    if "spacing_mm" in cases:
        spacing = pd.to_numeric(cases["spacing_mm"], errors="coerce").astype("Float64").astype(float)
        wrong = cases["spacing_mm"].notna() & ~(np.isfinite(spacing) & (spacing > 0))
        remedy = "give the side of a pixel in millimetres, or leave it missing (NA) where it is unknown"
        _refuse(cases["spacing_mm"], wrong, "values of spacing_mm are not a number above 0", remedy)
        cases["spacing_mm"] = spacing
    return cases[[*REQUIRED_COLUMNS, *cases.columns.difference(REQUIRED_COLUMNS, sort=False)]]


def _as_utf8(names: pd.Index | pd.Series) -> pd.Index | pd.Series:
    written = names.astype("string").map(lambda name: name.encode("utf-8", "backslashreplace").decode(), na_action="ignore")
    return written.astype("string")


def _refuse(values: pd.Series, wrong: pd.Series, what: str, remedy: str = "correct them") -> None:
    """Raise DataError naming the first of the wrong values, where there are any."""
    if wrong.any():
        shown = ", ".join(f"{case}: {value!r}" for case, value in values[wrong].head(3).items())
        raise DataError(f"case table: {wrong.sum()} {what} ({shown}); {remedy}")


def data_fingerprint(cases: pd.DataFrame) -> str:
    """SHA-256 over case ids, labels, patients and the bytes of every image and mask file; independent of row order and folder.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digest, hashes = hashlib.sha256(), file_hashes([*cases["image"], *cases["mask"].dropna()])
    for case, row in cases.sort_index().iterrows():
        mask = "" if pd.isna(row["mask"]) else hashes[row["mask"]]
        label = "" if pd.isna(row["label"]) else int(row["label"])
        digest.update(f"{case}\0{row['patient']}\0{label}\0{hashes[row['image']]}\0{mask}\n".encode())
    return digest.hexdigest()


def label_names(cases: pd.DataFrame) -> pd.Series:
    """`benign`, `malignant` or `unlabelled` for every case: string Series, index `case`."""
    names = cases["label"].map({label: name for label, name in LABEL_NAMES.items() if label is not None})
    return names.astype("string").fillna(LABEL_NAMES[None]).rename("class")


def known_patients(cases: pd.DataFrame) -> pd.Series:
    """Whether the data set names the patient of each case (column `patient_known`, else all): bool Series, index `case`."""
    return cases["patient_known"].astype(bool) if "patient_known" in cases else pd.Series(True, cases.index)


def malignant_share(cases: pd.DataFrame) -> float:
    """Share of malignant images among the labelled ones, in [0, 1]; NaN where none is labelled."""
    labels = cases["label"].dropna()
    return float(labels.mean()) if len(labels) else float(np.nan)


@dataclass(frozen=True)
class Measures:
    """What `measure_cases` found.

    Attributes:
        table: one row a case (index `case`): `width`, `height` (pixels), `area_share` (mask area over frame area, 0 to 1; NaN
            without a mask), `x`, `y` (centre of the mask over frame width and height, 0 to 1 from the left and the top),
            `taller` (height over width of the mask's bounding box), `parts` (connected components of the mask),
            `gray` (mean gray level of the frame), `inside`, `around` (mean gray level in the mask and in a ring around it).
        positions: class name → float array (GRID, GRID): share of that class's masks that cover each cell of the frame.
        histograms: class name → float array (2, 256): shares of gray levels inside the mask and in the ring around it,
            every image counted alike.
    """

    table: pd.DataFrame
    positions: dict[str, np.ndarray]
    histograms: dict[str, np.ndarray]


def measure_cases(cases: pd.DataFrame, progress: Progress | None = None) -> Measures:
    """Read every image and mask of a case table once and measure them.

    Args:
        cases: case table.
        progress: called with (images done, images in all).

    Raises:
        ImageError: an image or a mask cannot be read, or their sizes differ.
    """
    found = in_threads(_measure, list(zip(cases["image"], cases["mask"], strict=True)), progress=progress)
    table = pd.DataFrame([row for row, _, _ in found], cases.index)
    classes, positions, histograms = label_names(cases), {}, {}
    for name in LABEL_NAMES.values():
        members = np.flatnonzero((classes == name) & (table["area_share"] > 0))
        if len(members):
            positions[name] = np.mean([found[member][1] for member in members], axis=0)
            histograms[name] = np.mean([found[member][2] for member in members], axis=0)
    return Measures(table, positions, histograms)


def _measure(pair: tuple[str, str | None]) -> tuple[dict, np.ndarray, np.ndarray]:
    image, mask = pair
    gray = read_gray(image)
    height, width = gray.shape
    row = {"width": width, "height": height, "area_share": np.nan, "x": np.nan, "y": np.nan, "taller": np.nan}
    row |= {"parts": 0, "gray": float(gray.mean()), "inside": np.nan, "around": np.nan}
    covered, histogram = np.zeros((GRID, GRID)), np.zeros((2, 256))
    if pd.isna(mask):
        return row, covered, histogram
    truth = read_mask(mask, gray.shape)
    row["area_share"] = float(truth.mean())
    if not truth.any():
        return row, covered, histogram
    ys, xs = np.nonzero(truth)
    row |= {"x": (xs.mean() + 0.5) / width, "y": (ys.mean() + 0.5) / height}
    row["taller"] = float(np.ptp(ys) + 1) / float(np.ptp(xs) + 1)
    row["parts"] = cv2.connectedComponents(truth.astype(np.uint8))[0] - 1
    covered = cv2.resize(truth.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA).astype(float)
    for position, (name, region) in enumerate([("inside", truth), ("around", ring_around(truth))]):
        counts = np.bincount(gray[region], minlength=256)
        histogram[position] = counts / max(counts.sum(), 1)
        row[name] = float(gray[region].mean()) if region.any() else np.nan
    return row, covered, histogram
