"""The shape of highlighted regions, of masks and of predicted masks, and whether it differs between benign and malignant.

Paper 001 says that the regions highlighted by Grad-CAM differ in "shape features" between benign and malignant nodules, P < 0.05.
It names no feature, no test and no threshold at which a map becomes a region. So every feature is tested here at every threshold,
adjusted for their number, and `shape_claim.claim_answer` says where the claim holds and where it stops.

What to keep in mind when reading a difference:

- A map is as fine as the layer that it comes from: 7 × 7 cells for ResNet18 at 224 pixels. At high thresholds the outline is that
  of the interpolation between cells; at low ones that of the image (`at_edge` counts these).
- Maps of the predicted class have different targets for benign and malignant images, so that their shapes differ for that reason
  alone. Maps of one class, malignant, for every image are free of it.
- Shapes are those on the network's pixel grid: preprocessing that stretches frames stretches shapes.
- Nodules differ in shape themselves: the same table of truth masks says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.measure import label, regionprops

from thyroid_utils.common.progress import Progress
from thyroid_utils.scores.checks import check_level
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.groups import GroupComparison, mann_whitney_patients

# Below it outlines are made of pixels: of discs of 50 pixels and more, measured circularity is within 0.12 of 1.
MIN_PIXELS = 50
GRAY_BINS = 32  # few enough that a region of 50 pixels can fill them
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# Feature → what it is called, with its unit.
FEATURES: dict[str, str] = {
    "area": "area, share of image",
    "perimeter": "perimeter, √(image area)",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "circularity": "circularity",
    "aspect_ratio": "height / width",
    "entropy": "gray-level entropy, bits",
}


def highlighted(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Where each map reaches a share of its own maximum: bool, the shape of `maps`.

    Args:
        maps: at least 0, (n, height, width) or (height, width). A map of zeros (blank after ReLU) highlights nothing.
        threshold: share of the maximum, in (0, 1].

    Raises:
        ValueError: NaN or negative values among the maps, or a threshold outside (0, 1].
    """
    values = np.asarray(maps)
    if values.ndim not in (2, 3):
        raise ValueError(f"highlighted: maps have shape {values.shape}; expected (n, height, width) or (height, width)")
    if not 0 < threshold <= 1:
        raise ValueError(f"highlighted: threshold is {threshold}; expected a share of the maximum, above 0 and at most 1")
    if not (values >= 0).all():
        raise ValueError("highlighted: maps hold NaN or values below 0; expected maps after ReLU")
    peaks = values.max(axis=(-2, -1), keepdims=True)
    return (values >= threshold * peaks) & (peaks > 0)


def region_shape(region: np.ndarray, gray: np.ndarray | None = None) -> dict[str, float | str | bool]:
    """Shape of the largest connected part (8 neighbours) of a region.

    Lengths are in units of √(height · width), so that shapes at different resolutions compare.

    - `area`: share of the image, in (0, 1];
    - `perimeter`: P, by Crofton's formula in four directions, holes included;
    - `eccentricity`: of the ellipse with the same second moments, in [0, 1): 0 for a disc and for a square;
    - `solidity`: area over that of the convex hull, in (0, 1];
    - `circularity`: 4πA / P², 1 for a disc, less the more ragged;
    - `aspect_ratio`: height over width of the bounding box, above 0: over 1 is taller than wide. (The ratio of the ellipse's axes
      would be eccentricity again, as 1 / √(1 − e²).)
    - `entropy`: Shannon's, in bits, of the gray levels inside, in 32 equal bins from the image's darkest to its brightest pixel,
      in [0, 5]; free of gain and offset. NaN without `gray`.

    Perimeters of pixel sets are estimates. Crofton's is within 7 % for discs of at least 50 pixels, and up to 9 % too short for
    upright squares (circularity 0.94 at a side of 8 and 0.88 at 64, where π/4 = 0.79 is true). The other one that skimage has,
    `perimeter`, follows the centres of border pixels: 12 % too short for a disc of radius 3 and 5 % too long for one of radius
    80, so that circularity would fall from 1.3 to 0.9 by size alone. Circularity of a small region can exceed 1 by a little, and
    a small disc's eccentricity reach 0.4 by the place of its centre between pixels.

    Args:
        region: bool (height, width).
        gray: any numbers (height, width), affine in gray level: a frame, or a network's input.

    Returns:
        the features above, and `pixels` of the part measured, `parts` of the region, `at_edge` (whether the part reaches the
        image's border, where its outline is the image's) and `status`: "measured", "empty", or "small" for a part of fewer than
        `MIN_PIXELS` pixels. Features of an empty and of a small region are NaN.

    Raises:
        ValueError: not a bool mask, or gray of another size or with NaN.

    Reference:
        skimage.measure.regionprops; Crofton's formula as in Serra, Image Analysis and Mathematical Morphology (1982).
    """
    region = np.asarray(region)
    if region.dtype != bool or region.ndim != 2 or not region.size:
        raise ValueError(f"region_shape: region is {region.dtype} {region.shape}; expected bool (height, width)")
    if gray is not None:
        gray = np.asarray(gray)
        if gray.shape != region.shape or np.isnan(gray).any():
            raise ValueError(f"region_shape: gray has shape {gray.shape} or NaN; expected numbers, {region.shape} as the region")
    found = dict.fromkeys(FEATURES, np.nan) | {"pixels": 0, "parts": 0, "at_edge": False, "status": "empty"}
    parts = regionprops(label(region))
    if not parts:
        return found
    part = max(parts, key=lambda part: part.area)
    top, left, bottom, right = part.bbox
    height, width = region.shape
    found |= {"pixels": int(part.area), "parts": len(parts), "status": "small"}
    found["at_edge"] = top == 0 or left == 0 or bottom == height or right == width
    if part.area < MIN_PIXELS:
        return found
    found |= {
        "area": float(part.area) / region.size,
        "perimeter": float(part.perimeter_crofton) / np.sqrt(region.size),
        "eccentricity": float(part.eccentricity),
        "solidity": float(part.solidity),
        "circularity": 4 * np.pi * float(part.area) / float(part.perimeter_crofton) ** 2,
        "aspect_ratio": (bottom - top) / (right - left),
        "status": "measured",
    }
    if gray is not None:
        found["entropy"] = _entropy(gray, tuple(part.coords.T))
    return found


def _entropy(gray: np.ndarray, inside: tuple[np.ndarray, np.ndarray]) -> float:
    low, high = float(gray.min()), float(gray.max())
    counts, _ = np.histogram(gray[inside], bins=GRAY_BINS, range=(low, high if high > low else low + 1))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0


def shape_table(
    regions: Sequence[np.ndarray], grays: Sequence[np.ndarray] | None = None, cases: Sequence[str] | None = None
) -> pd.DataFrame:
    """`region_shape` of each region.

    Args:
        regions: bool (n, height, width), or n masks of any sizes: thresholded maps (`highlighted`), masks or predicted masks.
        grays: as many images of the regions' sizes; None leaves the entropy NaN.
        cases: ids for the index; None numbers the rows.

    Returns:
        DataFrame, index `case`: the columns `FEATURES`, `pixels`, `parts`, `at_edge` and `status`.

    Raises:
        ValueError: different numbers of regions, grays and cases, or as `region_shape`.
    """
    for name, given in (("grays", grays), ("cases", cases)):
        if given is not None and len(given) != len(regions):
            raise ValueError(f"shape_table: {len(regions)} regions and {len(given)} {name}; expected as many of each")
    rows = [region_shape(region, None if grays is None else grays[row]) for row, region in enumerate(regions)]
    columns = [*FEATURES, "pixels", "parts", "at_edge", "status"]
    index = pd.Index(range(len(rows)) if cases is None else list(cases), name="case")
    return pd.DataFrame(rows, columns=columns, index=index)


def compare_shapes(
    table: pd.DataFrame,
    labels: Sequence[int],
    patients: Sequence[str],
    *,
    features: Sequence[str] = tuple(FEATURES),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Benign against malignant in each feature, over patients, adjusted by Holm for the number of features.

    Args:
        table: of `shape_table`, perhaps with further columns to hold shape against; any numeric column can be compared.
        labels: 0 benign, 1 malignant, in the order of the table's rows.
        patients: the patient of each row. Their images are averaged (`mann_whitney_patients`).
        features: columns to compare.
        level: of the intervals; 1 − level is the significance level of the family of features.
        resamples, seed: of the intervals.

    Returns:
        DataFrame, index `feature`: `benign`, `malignant` (medians over patients), `effect` (rank-biserial, positive where
        malignant is larger) with its interval `low`, `high`, `p`, `p_holm`, `differs` (p_holm below 1 − level), `detectable`
        (effect found with a power of 80 % by one such test), `images`, `benign_patients`, `malignant_patients`, `left_out`
        (images without the feature: empty or small regions), `mixed` (benign images of patients who count as malignant) and
        `note`. Where a class has no patient with a value, numbers are NaN, `differs` is False and `note` says so.

    Raises:
        ValueError: a feature that is no column, labels other than 0 and 1, a patient missing, or lengths that differ.
    """
    check_level(level, "compare_shapes")
    absent = [name for name in features if name not in table]
    if absent or not len(features):
        raise ValueError(f"compare_shapes: no column {absent or 'named'}; expected some of {', '.join(table.columns)}")
    found = {
        name: mann_whitney_patients(
            table[name].to_numpy(float), labels, patients, level=level, resamples=resamples, seed=seed
        )
        for name in features
    }  # fmt: skip
    adjusted = holm([test.p_value for test in found.values()])
    rows = [
        {
            "feature": name,
            "benign": test.first,
            "malignant": test.second,
            "effect": test.effect,
            "low": test.low,
            "high": test.high,
            "p": test.p_value,
            "p_holm": p_holm,
            "differs": bool(p_holm < 1 - level),
            "detectable": test.detectable,
            "images": test.images,
            "benign_patients": test.first_patients,
            "malignant_patients": test.second_patients,
            "left_out": test.left_out,
            "mixed": test.mixed,
            "note": _note(test),
        }
        for (name, test), p_holm in zip(found.items(), adjusted, strict=True)
    ]
    return pd.DataFrame(rows).set_index("feature")


def _note(test: GroupComparison) -> str:
    absent = [name for name, count in (("benign", test.first_patients), ("malignant", test.second_patients)) if not count]
    return f"no {' or '.join(absent)} patient has a value" if absent else test.note


def mask_shapes(masks: Sequence[np.ndarray], cases: pd.DataFrame, **settings) -> pd.DataFrame:
    """`compare_shapes` of predicted masks, for the cases that have a label.

    Args:
        masks: bool (height, width) each, of any sizes.
        cases: a row a mask: `patient`, and `label` (0, 1 or NA).
        settings: as for `compare_shapes`.

    Returns:
        of `compare_shapes`; no row where the labelled cases are not of both classes.
    """
    known = cases["label"].notna().to_numpy(bool)
    labels = cases["label"][known].astype(int)
    if labels.nunique() < 2:
        return pd.DataFrame()
    kept = [mask for mask, there in zip(masks, known, strict=True) if there]
    features = [name for name in FEATURES if name != "entropy"]  # which is of the image
    return compare_shapes(
        shape_table(kept), labels.tolist(), cases["patient"][known].tolist(), **{"features": features, **settings}
    )


def threshold_sweep(
    maps: np.ndarray,
    labels: Sequence[int],
    patients: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    grays: Sequence[np.ndarray] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """`compare_shapes` of the regions that each threshold cuts out of the maps.

    Args:
        maps: at least 0, (n, height, width); blank ones have no region and are counted in `left_out`.
        labels, patients: one a map.
        thresholds: shares of each map's maximum, in (0, 1].
        grays: images of the maps' size for the entropy, which is left out of the family without them.
        level, resamples, seed: as in `compare_shapes`.
        progress: called with (thresholds done, thresholds in all).

    Returns:
        one row a threshold and feature, thresholds ascending: `threshold`, `feature`, the columns of `compare_shapes` (`p_holm`
        for the features at that threshold, as if no other had been tried), `p_sweep` (Holm for all features at all
        thresholds) and `at_edge` (share of the regions measured whose outline is partly the image's).

    Raises:
        ValueError: no threshold, or as `highlighted`, `shape_table` and `compare_shapes`.
    """
    cuts = sorted(set(thresholds))
    if not cuts:
        raise ValueError("threshold_sweep: no thresholds; expected at least one in (0, 1]")
    features = [name for name in FEATURES if grays is not None or name != "entropy"]
    tables = []
    for done, threshold in enumerate(cuts, start=1):
        shapes = shape_table(highlighted(maps, threshold), grays)
        compared = compare_shapes(
            shapes, labels, patients, features=features, level=level, resamples=resamples, seed=seed
        ).reset_index()  # fmt: skip
        measured = shapes[shapes["status"] == "measured"]
        compared["at_edge"] = measured["at_edge"].mean() if len(measured) else np.nan
        compared.insert(0, "threshold", threshold)
        tables.append(compared)
        if progress is not None:
            progress(done, len(cuts))
    table = pd.concat(tables, ignore_index=True)
    table.insert(table.columns.get_loc("p_holm") + 1, "p_sweep", holm(table["p"]))
    return table
