"""Notebook 02: what preprocessing does to an ultrasound image, in numbers: contrast, speckle, edges, time, and leaks.

| measure | unit | after gray levels are changed by a·x + b |
|---|---|---|
| `contrast_to_noise`, `generalised_cnr` | none | the same |
| `edge_strength` | gray levels per pixel | |a| times as large |
| `speckle_snr` of an envelope | none | the same for b = 0 only: zero must mean no echo |
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress
from thyroid_utils.common.words import count, listed, number, share
from thyroid_utils.data.images import read_gray, read_image, read_mask, ring_around
from thyroid_utils.data.overlays import Box, echo_mask
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.estimates import patient_estimate

MEASURES = {  # name → how a table names it
    "cnr": "CNR",
    "gcnr": "generalised CNR",
    "speckle_snr": "speckle SNR",
    "edge": "edge, gray levels/pixel",
}
_SAME_PICTURE = ("gray", "scale", "zscore", "three_channels")


def decompress(gray: np.ndarray) -> np.ndarray:
    """Undo a scanner's log compression, as if 60 dB had been spread over gray levels 0 to 255.

    Real scanners spread other ranges and add gray maps of their own, so that a statistic of the result holds for 60 dB only.

    Returns:
        float64 of the shape of `gray`: the echo's amplitude relative to level 255, 10^(60/20 · (gray/255 - 1)).
    """
    return 10 ** (60 / 20 * (np.asarray(gray, np.float64) / 255 - 1))


def speckle_snr(envelope: np.ndarray) -> float:
    """Mean over standard deviation of an envelope's amplitudes in a homogeneous patch; 1.91 for fully developed speckle.

    inf for a constant patch; NaN for an empty one. Reference: C. B. Burckhardt, IEEE Trans. Sonics Ultrason. 25 (1978) 1-6.
    """
    values = np.asarray(envelope, np.float64)
    if values.size == 0:
        return float("nan")
    deviation = values.std()
    return float(values.mean() / deviation) if deviation > 0 else float("inf")


def contrast_to_noise(inside: np.ndarray, outside: np.ndarray) -> float:
    """|µ₁ - µ₂| / √(σ₁² + σ₂²) of two groups of pixels, population variances. inf or 0 without noise; NaN for an empty group."""
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if inside.size == 0 or outside.size == 0:
        return float("nan")
    difference = abs(inside.mean() - outside.mean())
    noise = np.sqrt(inside.var() + outside.var())
    if noise == 0:
        return float("inf") if difference > 0 else 0.0
    return float(difference / noise)


def generalised_cnr(inside: np.ndarray, outside: np.ndarray, bins: int = 64) -> float:
    """One minus the overlap of two groups' histograms: 0 where no threshold tells them apart, 1 where one does so fully.

    Unlike the CNR it cannot be raised by a mere change of the gray map. Groups of few pixels per bin overlap too little by
    chance. NaN for an empty group.

    Args:
        inside, outside: pixel values.
        bins: equal bins between the lowest and the highest value of both.

    Reference:
        A. Rodriguez-Molares et al., The generalized contrast-to-noise ratio, IEEE TUFFC 67 (2020) 745-759.
    """
    inside, outside = np.asarray(inside, np.float64).ravel(), np.asarray(outside, np.float64).ravel()
    if inside.size == 0 or outside.size == 0:
        return float("nan")
    low, high = min(inside.min(), outside.min()), max(inside.max(), outside.max())
    if low == high:
        return 0.0
    first = np.histogram(inside, bins, (low, high))[0] / inside.size
    second = np.histogram(outside, bins, (low, high))[0] / outside.size
    return float(1 - np.minimum(first, second).sum())


def edge_strength(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean over a mask's contour of how steeply the image changes across it.

    Args:
        image: (height, width), any real type.
        mask: bool (height, width).

    Returns:
        mean absolute directional derivative along the contour's normal, in units of the image per pixel; NaN where the mask
        has no contour inside the image. A ramp of slope s across the contour gives s, a step of
        height h about h/√(2π): slopes are taken by a Gaussian of σ = 1 pixel.
    """
    mask = np.asarray(mask, bool)
    if mask.all() or not mask.any():
        return float("nan")
    contour = mask & ~ndimage.binary_erosion(mask, border_value=1)
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    normal = np.stack([ndimage.gaussian_filter(signed, 2.0, order) for order in ((1, 0), (0, 1))])
    length = np.hypot(*normal)
    values = np.asarray(image, np.float64)
    slope = np.stack([ndimage.gaussian_filter(values, 1.0, order) for order in ((1, 0), (0, 1))])
    usable = contour & (length > 1e-6)
    if not usable.any():
        return float("nan")
    across = np.abs((slope * normal).sum(axis=0)[usable]) / length[usable]
    return float(across.mean())


def homogeneous_patches(gray: np.ndarray, within: np.ndarray | None = None) -> list[Box]:
    """The most even patches of speckle in an image, found automatically, most even first, without overlap.

    A patch qualifies where hardly a pixel is black or saturated, the gray levels vary, and it is as bright as tissue: its mean
    lies between the 40th and the 95th percentile of the image, so that shadows and noise do not pass for speckle. Its
    unevenness is the standard deviation of the means of its 16 parts over that of its pixels: structure raises the former,
    speckle the latter.

    Args:
        gray: gray levels in [0, 255], (height, width).
        within: bool (height, width); patches lie wholly inside it. None takes the whole image.

    Returns:
        at most five `Box`es of 24 × 24 pixels, fewer or none where the image has no more room.
    """
    gray = np.asarray(gray, np.float64)
    usable = (gray > 4) & (gray < 251)
    if within is not None:
        usable &= np.asarray(within, bool)
    part = 6
    rows, columns = gray.shape[0] // part, gray.shape[1] // part
    if min(rows, columns) < 4 or not usable.any():
        return []

    def windows(values: np.ndarray) -> np.ndarray:
        """Means of the parts, seen by windows of 4 × 4 parts: (rows - 3, columns - 3, 16)."""
        means = values[: rows * part, : columns * part].reshape(rows, part, columns, part).mean(axis=(1, 3))
        return np.lib.stride_tricks.sliding_window_view(means, (4, 4)).reshape(rows - 3, columns - 3, 16)

    means = windows(gray)
    mean = means.mean(axis=2)
    deviation = np.sqrt(np.maximum(windows(gray**2).mean(axis=2) - mean**2, 0))
    low, high = np.percentile(gray[usable], (40, 95))
    good = (windows(usable).mean(axis=2) >= 0.99) & (deviation >= 1) & (mean >= low) & (mean <= high)
    unevenness = np.where(good, means.std(axis=2) / np.maximum(deviation, 1), np.inf)
    chosen: list[Box] = []
    for flat in np.argsort(unevenness, axis=None, kind="stable")[: int(good.sum())]:
        row, column = np.unravel_index(flat, unevenness.shape)
        box = Box(int(row) * part, int(row + 4) * part, int(column) * part, int(column + 4) * part)
        if all(abs(box.top - other.top) >= 4 * part or abs(box.left - other.left) >= 4 * part for other in chosen):
            chosen.append(box)
        if len(chosen) == 5:
            break
    return chosen


def quality(gray: np.ndarray, mask: np.ndarray, patches: list[Box] | None = None) -> dict[str, float]:
    """Contrast, speckle and edges of one image and its nodule.

    Args:
        gray: uint8 (height, width).
        mask: bool (height, width), the nodule.
        patches: where the speckle is measured; None takes `homogeneous_patches`. Give the same ones to compare filters, or
            each filter is measured where it left the image most even.

    Returns:
        `cnr` and `gcnr` between the nodule and the ring around it inside the echo image; `edge` in gray levels per pixel;
        `speckle_snr`, median over the patches. NaN where the mask is empty or full, or no patch is even enough.
    """
    echo = echo_mask(gray)
    inside, outside = gray[mask & echo], gray[ring_around(mask) & echo]
    patches = homogeneous_patches(gray, echo) if patches is None else patches
    snr = [speckle_snr(decompress(box.crop(gray))) for box in patches]
    return {
        "cnr": contrast_to_noise(inside, outside),
        "gcnr": generalised_cnr(inside, outside),
        "edge": edge_strength(gray, mask),
        "speckle_snr": float(np.median(snr)) if snr else float("nan"),
    }


def outlined(cases: pd.DataFrame) -> pd.DataFrame:
    """The cases that have a mask. Raises DataError where none has."""
    if cases["mask"].isna().all():
        told = f"none of {count(len(cases), 'image')} has an outline, inside and around which steps are measured"
        raise DataError(f"preprocessing: {told}; add masks, or leave notebook 02 out")
    return cases[cases["mask"].notna()]


def measure_stages(cases: pd.DataFrame, pipelines: Sequence[Pipeline], progress: Progress | None = None) -> pd.DataFrame:
    """Image quality after every step of every pipeline, and the time the step took, image by image.

    Scaling, z-scores and copied channels change numbers, not the picture: their rows carry the time alone, and so does what comes
    behind a z-score. What comes behind `scale` is measured on 255 times its values.

    Args:
        cases: case table with masks.
        pipelines: fitted where they need it.
        progress: called with (images done, images in all).

    Returns:
        one row an image and stage: `case`, `patient`, `pipeline`, `position` (0 is the input), `step`, `ms` (wall time of the
        step, milliseconds; 0 for the input), and `cnr`, `gcnr`, `speckle_snr`, `edge` of `quality`.

    Raises:
        ImageError: a file cannot be read.
    """
    rows = []
    for done, (case, row) in enumerate(cases.iterrows(), start=1):
        image = read_image(row["image"])
        mask = read_mask(row["mask"], image.shape[:2])
        for pipeline in pipelines:
            found = _measured(pipeline, image, mask)
            rows += [{"case": case, "patient": row["patient"], "pipeline": pipeline.name, **stage} for stage in found]
        if progress is not None:
            progress(done, len(cases))
    return pd.DataFrame(rows)


def _measured(pipeline: Pipeline, image: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    patches: dict[tuple[int, int], list[Box]] = {}  # one choice a size: else each filter would be judged where it did best
    started = time.perf_counter()
    for position, (step, sample) in enumerate(pipeline.iterate(image, mask)):
        row = {"position": position, "step": step, "ms": 1000 * (time.perf_counter() - started) if position else 0.0}
        gray = None if step in _SAME_PICTURE else _gray_levels(sample.image, pipeline, position)
        if gray is not None:
            if gray.shape not in patches:
                patches[gray.shape] = homogeneous_patches(gray, echo_mask(gray))
            row |= quality(gray, sample.mask, patches[gray.shape])
        rows.append(row)
        started = time.perf_counter()
    return rows


def _gray_levels(pixels: np.ndarray, pipeline: Pipeline, position: int) -> np.ndarray | None:
    """uint8 (height, width) of the picture behind a step; None where it has none in [0, 255]."""
    if pixels.dtype == np.uint8:
        return luma(pixels)
    before = [step.name for step in pipeline.steps[:position]]
    return None if "zscore" in before or pixels.ndim != 2 else np.rint(255 * pixels).astype(np.uint8)


def stage_estimates(stages: pd.DataFrame) -> pd.DataFrame:
    """Mean of every quality measure after every step, with its 95 % interval over patients.

    Args:
        stages: of `measure_stages`.

    Returns:
        one row a pipeline and step whose result is gray levels: `pipeline`, `position`, `step`, and an `Estimate` a measure.
    """
    measured = stages.dropna(subset=["edge", "cnr"], how="all")
    rows = []
    for (pipeline, position, step), members in measured.groupby(["pipeline", "position", "step"], sort=False):
        row = {"pipeline": pipeline, "position": position, "step": step}
        rows.append(row | {name: patient_estimate(members[name], members["patient"]) for name in MEASURES})
    return pd.DataFrame(rows)


def gains(stages: pd.DataFrame) -> pd.DataFrame:
    """What each pipeline changes between the input and its last picture, image by image, and what it costs.

    Returns:
        DataFrame, index pipeline: an `Estimate` of the difference over patients for every measure but the edge, whose slope
        changes with the size of the picture; `ms an image`, the sum of the steps' medians.
    """
    costs, rows = step_costs(stages).groupby("pipeline")["ms"].sum(), {}
    for pipeline, members in stages.groupby("pipeline", sort=False):
        measured = members.dropna(subset=["edge", "cnr"], how="all").sort_values("position")
        shown = measured.groupby(["patient", "case"])[["cnr", "gcnr", "speckle_snr"]]
        change = (shown.last() - shown.first()).reset_index()
        rows[pipeline] = {MEASURES[name]: patient_estimate(change[name], change["patient"]) for name in change.columns[2:]}
        rows[pipeline]["ms an image"] = costs[pipeline]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("pipeline")


def answer(table: pd.DataFrame, leak: pd.DataFrame) -> str:
    """What the pipelines of `gains` gain, lose and cost, and what augmenting before the split lets through (`leak`), in words."""
    moved = table["generalised CNR"].map(lambda estimate: estimate.value)
    gained, lost = (table["generalised CNR"].map(rule) for rule in (lambda one: one.low > 0, lambda one: one.high < 0))
    told = [f"{word} by {listed(f'{name} ({number(moved[name], sign=True)})' for name in table.index[chosen])}"
            for word, chosen in (("gained", gained), ("lost", lost)) if chosen.any()]  # fmt: skip
    told += [f"not shown to move by {listed(table.index[~gained & ~lost])}"] if not (gained | lost).all() else []
    smooth = listed(table.index[table["speckle SNR"].map(lambda estimate: estimate.low > 0)])
    patients = max(estimate.patients for estimate in table["generalised CNR"])
    cheapest, dearest = (number(table["ms an image"].agg(end), 1) for end in ("min", "max"))
    before, after = (share(leak["copy in training"].iloc[place]) for place in (0, -1))
    contrast = f"Contrast of nodule and ring (generalised CNR, {count(patients, 'patient')})"
    return (
        f"{contrast} is {'; '.join(told)}; speckle is smoothed by {smooth}; an image costs {cheapest} to {dearest} ms. "
        f"Of test images augmented before a split by image, {before} have a copy in training; "
        f"split by patient, with training alone augmented, {after}."
    )


def step_costs(stages: pd.DataFrame) -> pd.DataFrame:
    """Median milliseconds an image of every step: `pipeline`, `step`, `ms`, in the order of the pipelines."""
    medians = stages.groupby(["pipeline", "position", "step"], sort=False)["ms"].median().reset_index()
    return medians[medians["position"] > 0].drop(columns="position").reset_index(drop=True)


def recipes(pipelines: Sequence[Pipeline]) -> pd.DataFrame:
    """One row a pipeline: its name, its steps with their parameters in order, and other pipelines that come to the same."""
    rows = []
    for pipeline in pipelines:
        fitted = f" (µ={pipeline.mean:.4g}, σ={pipeline.deviation:.4g})" if pipeline.needs_fit else ""
        steps = []
        for step in pipeline.steps:
            told = ", ".join(f"{name}={_shown(value)}" for name, value in step.model_dump().items())
            steps.append(f"{step.name} ({told}{fitted if step.name == 'zscore' else ''})" if told else step.name)
        same = [other.name for other in pipelines if other.hash == pipeline.hash and other is not pipeline]
        rows.append({"pipeline": pipeline.name, "steps": " → ".join(steps), "same as": ", ".join(same) or "–"})
    return pd.DataFrame(rows)


def _shown(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def patch_snr(cases: pd.DataFrame) -> np.ndarray:
    """Speckle SNR of the most even patches of 40 frames at most, one a patient, decompressed by `decompress`.

    A real scanner filters and compresses in ways it does not tell, so values of real frames only show an order of magnitude.

    Returns:
        float array (patches,), mean over SD of each patch's amplitude.
    """
    found = []
    for path in cases.sample(frac=1, random_state=0).drop_duplicates("patient").head(40)["image"]:
        gray = read_gray(path)
        found += [speckle_snr(decompress(box.crop(gray))) for box in homogeneous_patches(gray, echo_mask(gray))]
    return np.array(found)


def augmentation_leaks(orders: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How much of the test images training has already seen, by the order in which images were augmented and split.

    Args:
        orders: name of the order → table of originals and copies (`augment.augmented_copies`) with its split filled.

    Returns:
        one row an order: `test images`, their number; `copy in training`, share of them whose original, or a copy of the same
        original, is in the training set; `patient in training`, share whose patient is; `nearest in training, r`, median over the
        test images of the highest Pearson correlation with any training image, mirrored ones included, as 32 × 32 pixels: 1 means
        the same picture.

    Raises:
        DataError: no training or no test image.
    """
    table = pd.DataFrame({order: _leak(cases) for order, cases in orders.items()}).T
    return table.astype({"test images": int}).rename_axis("order of work")


def _leak(cases: pd.DataFrame) -> dict[str, float]:
    train, test = (cases[cases["split"].eq(name).fillna(False)] for name in ("train", "test"))
    if train.empty or test.empty:
        raise DataError(f"augmentation_leaks: {len(train)} training and {len(test)} test images; split the cases first")
    seen, views = _thumbnails(train), _thumbnails(test)
    mirrored = (views, views[:, :, ::-1], views[:, ::-1], views[:, ::-1, ::-1])
    nearest = np.max([np.tensordot(view, seen, ((1, 2), (1, 2))).max(axis=1) for view in mirrored], axis=0)
    return {
        "test images": len(test),
        "copy in training": float(test["source_case"].isin(train["source_case"]).mean()),
        "patient in training": float(test["patient"].isin(train["patient"]).mean()),
        "nearest in training, r": float(np.median(nearest)),
    }


def _thumbnails(cases: pd.DataFrame) -> np.ndarray:
    """(n, 32, 32), each of mean 0 and length 1, so that the product of two is their correlation."""
    small = [cv2.resize(read_gray(path), (32, 32), interpolation=cv2.INTER_AREA) for path in cases["image"]]
    centred = np.stack(small).astype(np.float64)
    centred -= centred.mean(axis=(1, 2), keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=(1, 2), keepdims=True), 1e-12)
