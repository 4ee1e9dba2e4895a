"""The case table: one row an image, the same columns whatever the data set.

| column | type | meaning |
|---|---|---|
| index `case` | str, unique | short id of the image, the one shown in figures and tables |
| `image` | str | absolute path of the image file |
| `mask` | str or NA | absolute path of its mask file |
| `label` | Int8 or NA | 0 benign, 1 malignant, NA unknown |
| `patient` | str | the unit of every split, interval and test |
| `dataset` | str | name of the reader |
| `split` | `train`, `val`, `test` or NA | filled by `split_cases` or by an official split |

Readers add what their set offers (`tirads`, `pane`, `scanner`, …); `spacing_mm`, the side of a pixel in millimetres, is a number
above 0 or missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray, read_mask, ring_around

SPLITS = ("train", "val", "test")
LABEL_NAMES = {0: "benign", 1: "malignant", None: "unlabelled"}
REQUIRED_COLUMNS = ("image", "mask", "label", "patient", "dataset", "split")

_text = pa.Check(lambda series: series.str.strip().str.len() > 0, error="an empty text")

CASE_SCHEMA = pa.DataFrameSchema(
    {
        "image": pa.Column("string", _text),
        "mask": pa.Column("string", nullable=True),
        "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
        "patient": pa.Column("string", _text),
        "dataset": pa.Column("string", _text),
        "split": pa.Column("string", pa.Check.isin(SPLITS), nullable=True),
    },
    index=pa.Index("string", _text, unique=True, name="case"),
    strict=False,
)


def make_cases(rows: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """Build and validate a case table from rows that each carry `case` and at least image, patient and dataset.

    Missing `mask`, `label` and `split` become NA. Raises DataError as `validate_cases` does.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        table = pd.DataFrame(columns=["case", *REQUIRED_COLUMNS])
    for column in ("mask", "label", "split"):
        if column not in table:
            table[column] = pd.NA
    table["case"] = table["case"].astype("string")
    return validate_cases(table.set_index("case"))


def validate_cases(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its required columns first and typed; raise DataError naming the first offending rows.

    Raises:
        DataError: a column is missing, a case id occurs twice, or a value is outside its domain (label not in {0, 1, NA},
            spacing_mm not a number above 0).
    """
    missing = [column for column in REQUIRED_COLUMNS if column not in cases]
    if missing:
        raise DataError(f"case table: no column {', '.join(missing)}; expected {', '.join(REQUIRED_COLUMNS)}")
    cases = cases.copy()
    cases.index = cases.index.astype("string").rename("case")
    doubled = cases.index[cases.index.duplicated()].unique()
    if len(doubled):
        raise DataError(
            f"case table: {len(doubled)} case ids occur more than once (first: {', '.join(map(str, doubled[:3]))}); "
            "every image needs an id of its own: rename the files or drop the repeated rows"
        )
    for column in ("image", "mask", "patient", "dataset", "split"):
        cases[column] = cases[column].astype("string")
    labels = pd.to_numeric(cases["label"], errors="coerce")
    wrong = cases["label"].notna() & ~labels.isin([0, 1])
    if wrong.any():
        shown = ", ".join(f"{case}: {value!r}" for case, value in cases.loc[wrong, "label"].head(3).items())
        raise DataError(f"case table: {wrong.sum()} labels are not 0 (benign), 1 (malignant) or empty ({shown}); correct them")
    cases["label"] = labels.astype("Int8")
    if "spacing_mm" in cases:
        cases["spacing_mm"] = _spacings(cases["spacing_mm"])
    try:
        cases = CASE_SCHEMA.validate(cases, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        raise DataError(
            f"case table: {len(error.failure_cases)} values are not valid "
            f"(first: column {first['column']}, row {first['index']}: {first['failure_case']!r}, {first['check']})"
        ) from None
    others = [column for column in cases if column not in REQUIRED_COLUMNS]
    return cases[[*REQUIRED_COLUMNS, *others]]


def _spacings(given: pd.Series) -> pd.Series:
    """Millimetres a pixel, float64, NaN where missing. Raises DataError naming the first cases with something else."""
    numbers = pd.to_numeric(given, errors="coerce").astype("Float64").to_numpy(float, na_value=np.nan)
    wrong = given.notna().to_numpy() & ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        shown = ", ".join(f"{case}: {value!r}" for case, value in given[wrong].head(3).items())
        raise DataError(
            f"case table: {wrong.sum()} values of spacing_mm are not a number above 0 ({shown}); give the side of a pixel in "
            "millimetres, or leave it missing (NA) where it is unknown"
        )
    return pd.Series(numbers, given.index)


def data_fingerprint(cases: pd.DataFrame) -> str:
    """SHA-256 over case ids, labels, patients and the bytes of every image and mask file; independent of row order and folder.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for case, row in cases.sort_index().iterrows():
        mask = "" if pd.isna(row["mask"]) else _hash_of(case, row["mask"])
        label = "" if pd.isna(row["label"]) else int(row["label"])
        digest.update(f"{case}\0{row['patient']}\0{label}\0{_hash_of(case, row['image'])}\0{mask}\n".encode())
    return digest.hexdigest()


def _hash_of(case: str, path: str) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise DataError(f"case {case}: {path}: {error.strerror or error}; restore the file or drop its row") from None


def label_names(cases: pd.DataFrame) -> pd.Series:
    """`benign`, `malignant` or `unlabelled` for every case: string Series, index `case`."""
    names = cases["label"].map({label: name for label, name in LABEL_NAMES.items() if label is not None})
    return names.astype("string").fillna(LABEL_NAMES[None]).rename("class")


def malignant_share(cases: pd.DataFrame) -> float:
    """Share of malignant images among the labelled ones, in [0, 1]; NaN where none is labelled."""
    labels = cases["label"].dropna()
    return float(labels.mean()) if len(labels) else float(np.nan)


GRID = 64  # side of the position maps, in cells


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


def measure_cases(cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None) -> Measures:
    """Read every image and mask of a case table once and measure them.

    Args:
        cases: case table.
        workers: reading threads; None takes one a core, at most four.
        progress: called with (images done, images in all).

    Raises:
        DataError: the table is empty.
        ImageError: an image or a mask cannot be read, or their sizes differ.
    """
    if cases.empty:
        raise DataError("measure_cases: the case table is empty; nothing to measure")
    pairs = list(zip(cases["image"], cases["mask"], strict=True))
    found = in_threads(lambda pair: _measure(*pair), pairs, workers, progress)
    rows, grids, histograms = (dict(zip(cases.index, part, strict=True)) for part in zip(*found, strict=True))
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(cases.index)
    with_mask = table.index[table["area_share"] > 0]
    members = {name: [case for case in with_mask if _same(cases.at[case, "label"], label)] for label, name in LABEL_NAMES.items()}
    members = {name: found for name, found in members.items() if found}
    return Measures(
        table,
        {name: np.mean([grids[case] for case in found], axis=0) for name, found in members.items()},
        {name: np.mean([histograms[case] for case in found], axis=0) for name, found in members.items()},
    )


def _same(label: object, wanted: int | None) -> bool:
    return bool(pd.isna(label)) if wanted is None else bool(pd.notna(label) and label == wanted)


def _measure(image: str, mask: str | None) -> tuple[dict, np.ndarray, np.ndarray]:
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
