"""Explanations that are measured: a network's maps of its test images, where they point and what shape they have.

They are measured against the nodule's outline, against chance and against a map that always points to the middle. Whether the
network depends on what they show and whether they survive random weights is asked in `faithfulness`, and whether burned-in marks
attract them in `shortcut`.

Chance is the same map put at a random place of its image: shifted cyclically by any number of rows and columns, all equally
likely. It keeps the map's form, so that a large region does not beat a small one by its size. For the share of the energy and for
the peak this is the share of the image that the nodule takes; for the distance the mean distance of all pixels.

A coarse map cannot point everywhere: one of 2×2 places has its maximum in a corner, whatever it shows, and so less often on
nodules in the middle than at random places. Whether a map follows its own image is therefore asked of the maps of other patients:
the same network, the same grid and the same habits, laid on this image's nodule.

Paper 001 says that the regions highlighted by Grad-CAM differ in "shape features" between benign and malignant nodules, P < 0.05.
It names no feature, no test and no threshold at which a map becomes a region. So every feature is tested here at every threshold,
adjusted for their number, and `claim_answer` says where the claim holds and where it stops. What to keep in mind when reading a
difference:

- A map is as fine as the layer that it comes from: 7 × 7 cells for ResNet18 at 224 pixels. At high thresholds the outline is that
  of the interpolation between cells; at low ones that of the image (`at_edge` counts these).
- Maps of the predicted class have different targets for benign and malignant images, so that their shapes differ for that reason
  alone. Maps of one class, malignant, for every image are free of it.
- Shapes are those on the network's pixel grid: preprocessing that stretches frames stretches shapes.
- Nodules differ in shape themselves: the same table of truth masks says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfft2
from scipy.ndimage import distance_transform_edt
from skimage.measure import label, regionprops
from torch import nn

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.cam import CamMaps, cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.comparisons import compare_means, holm
from thyroid_utils.scores.estimates import patient_estimate
from thyroid_utils.scores.groups import mann_whitney_patients

# name → whether more is better
MEASURES = {"energy_inside": True, "pointing_game": True, "iou": True, "peak_distance": False}
# What a map is held against, as a table says it → end of its columns.
BASELINES = {"other patients": "other", "centre prior": "centre", "chance": "chance"}
_REGION = 0.5  # share of a map's maximum from which on a place belongs to its region
# Below it outlines are made of pixels: of discs of 50 pixels and more, measured circularity is within 0.12 of 1.
MIN_PIXELS = 50
GRAY_BINS = 32  # few enough that a region of 50 pixels can fill them
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALPHA = 0.05  # the P of the paper's claim
_ADJUSTED = {
    "p": "without adjustment",
    "p_holm": "after Holm over the features",
    "p_sweep": "after Holm over all features and thresholds",
}

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


def centre_prior(shape: tuple[int, int]) -> np.ndarray:
    """A map that knows nothing but that nodules are put in the middle: a Gaussian with σ a quarter of each side.

    Returns:
        float64 (height, width) in (0, 1], its maximum 1 at the centre.
    """
    rows, columns = (np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 4)) ** 2) for side in shape)
    prior = np.outer(rows, columns)
    return prior / prior.max()


def attention_scores(maps: np.ndarray, masks: np.ndarray, cases: Sequence[str], patients: Sequence[str]) -> pd.DataFrame:
    """How well each map points to its nodule.

    - `energy_inside`: share of the map's sum inside the mask, in [0, 1] (Wang et al. 2020).
    - `pointing_game`: 1 where the map's maximum lies inside, else 0 (Zhang et al. 2018, here without tolerance); of several equal
      maxima the share inside.
    - `iou`: of the places with at least half the maximum with the mask, in [0, 1].
    - `peak_distance`: from the maximum to the nearest pixel of the mask, in pixels, 0 inside; of several the mean.

    Args:
        maps: (n, height, width), 0 or above; a map that is zero everywhere, or holds NaN, is blank.
        masks: bool, the same shape; may be empty.
        cases, patients: of each image, (n,).

    Returns:
        A row an image, index `case`. For each measure four columns: its own name, `…_other` (the mean over the maps of other
        patients; NaN where there are none), `…_centre` (the centre prior's) and `…_chance`. `blank` and `no_mask` (bool) tell
        why values are NaN: a blank map has no measure and no chance level, an empty mask has nothing.

    References:
        Wang et al., Score-CAM, CVPR Workshops 2020; Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084-1102.
    """
    maps, masks, patients = np.asarray(maps, float), np.asarray(masks, bool), np.asarray(patients, object)
    shown, outlined = np.flatnonzero(maps.max(axis=(1, 2)) > 0), masks.any(axis=(1, 2))  # NaN is not above 0
    away = np.stack([distance_transform_edt(~mask) for mask in masks])
    pairs = _pairs(np.concatenate([maps[shown], centre_prior(maps.shape[1:])[None]]), masks, away)
    area = masks.mean(axis=(1, 2))
    chance = {"energy_inside": area, "pointing_game": area, "peak_distance": away.mean(axis=(1, 2))}
    chance["iou"] = np.array([_shifted_iou(*pair) for pair in zip(maps, masks, strict=True)])
    other = patients[shown][:, None] != patients  # (maps, images)
    columns = {}
    for name in MEASURES:
        *of_maps, of_centre = pairs[name]
        of_maps = np.reshape(of_maps, other.shape)
        columns[name], columns[f"{name}_chance"] = np.full((2, len(maps)), np.nan)
        columns[name][shown] = of_maps[np.arange(len(shown)), shown]
        columns[f"{name}_chance"][shown] = chance[name][shown]
        columns[f"{name}_centre"] = of_centre
        columns[f"{name}_other"] = (of_maps * other).sum(axis=0) / np.where(other.any(axis=0), other.sum(axis=0), np.nan)
    scores = pd.DataFrame(columns, index=pd.Index(list(cases), name="case", dtype="string"))
    scores[~outlined] = np.nan
    return scores.assign(blank=~np.isin(np.arange(len(maps)), shown), no_mask=~outlined)


def _pairs(maps: np.ndarray, masks: np.ndarray, away: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure of every map (m, height, width) on every mask (n, height, width), (m, n); of empty masks without meaning."""
    values, nodules = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1).T.astype(float)  # (m, pixels), (pixels, n)
    top = values.max(axis=1, keepdims=True)
    peaks = (values == top) / (values == top).sum(axis=1, keepdims=True)
    called = (values >= _REGION * top).astype(float)
    shared = called @ nodules
    return {
        "energy_inside": values @ nodules / values.sum(axis=1, keepdims=True),
        "pointing_game": peaks @ nodules,
        "iou": shared / (called.sum(axis=1)[:, None] + nodules.sum(axis=0) - shared),
        "peak_distance": peaks @ away.reshape(len(masks), -1).T,
    }


def _shifted_iou(values: np.ndarray, mask: np.ndarray) -> float:
    """The mean IoU over all cyclic shifts of a map's region. What overlaps at each shift is a correlation, here by Fourier."""
    called = values >= _REGION * values.max()
    shared = np.rint(irfft2(rfft2(mask.astype(float)) * np.conj(rfft2(called.astype(float))), s=mask.shape))
    return float((shared / np.maximum(called.sum() + mask.sum() - shared, 1)).mean())


def attention_table(scores: pd.DataFrame, patients: Sequence[str]) -> pd.DataFrame:
    """The measures over images with intervals over patients, beside the baselines on the same images.

    Args:
        scores: of `attention_scores`.
        patients: of each row, (n,).

    Returns:
        A row a measure. Columns `map` and those of `BASELINES` (`Estimate`); `− other patients`, `− centre prior` and `− chance`
        (`Comparison` of the map with each: first − second), the first of which answers whether a map follows its own image;
        `blank` and `no mask`: images left out for that, of all columns alike, so that all rest on the same images. Without any
        image left every value is NaN.
    """
    kept = ~(scores["blank"] | scores["no_mask"]).to_numpy(bool)
    patients = np.asarray(patients, dtype=object)[kept]
    lost = {"blank": int((scores["blank"] & ~scores["no_mask"]).sum()), "no mask": int(scores["no_mask"].sum())}
    rows = {}
    for name in MEASURES:
        own = scores.loc[kept, name]
        others = {baseline: scores.loc[kept, f"{name}_{end}"] for baseline, end in BASELINES.items()}
        settings = {"share": name == "pointing_game", "resamples": 2000}
        means = {of: patient_estimate(values, patients, **settings) for of, values in {"map": own, **others}.items()}
        against = {f"− {baseline}": compare_means(own, values, patients) for baseline, values in others.items()}
        rows[name] = means | against | lost
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


def attention_answer(table: pd.DataFrame) -> str:
    """Whether maps follow their own images' nodules, in words: how much of them lies inside, beside other patients' maps.

    table: of `attention_table`.
    """
    energy = table.loc["energy_inside"]
    against, share = energy["− other patients"], energy["map"].value
    if np.isnan(share):
        return "No image has both a map and an outline."
    beats = "more" if against.low > 0 else "less" if against.high < 0 else "not more"
    return (
        f"Of a map {100 * share:.0f} % lie inside the nodule, {beats} than of other patients' maps laid there "
        f"({against.text(3)}); a blob in the middle has {100 * energy['centre prior'].value:.0f} %."
    )


@dataclass(frozen=True)
class MapStudy:
    """The maps of some images and what they are measured by. Made by `study_maps`.

    predictor: of the run. images: index `case`, with `patient` and whatever decisions were given. inputs: float32 (n, channels,
    height, width). masks: bool (n, height, width), empty where an image has none. maps: of the method, target and layer named.
    """

    predictor: Predictor
    images: pd.DataFrame
    inputs: np.ndarray
    masks: np.ndarray
    maps: CamMaps
    method: str
    target: int | str
    layer: str | None

    @property
    def patients(self) -> np.ndarray:
        return self.images["patient"].to_numpy(object)

    @property
    def grays(self) -> np.ndarray:
        """The images as they went in, in gray, float32 (n, height, width)."""
        return self.inputs[:, 0]

    def maps_of(self, network: nn.Module, inputs: np.ndarray | None = None) -> CamMaps:
        """Maps by another network of the same architecture, or of other inputs, made as the study's are."""
        inputs = self.inputs if inputs is None else inputs
        return cam_maps(network, inputs, method=self.method, target=self.target, layer=self.layer)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """`attention_scores` of the maps, other patients' maps among the references."""
        return attention_scores(self.maps.maps, self.masks, self.images.index, self.patients)

    def attention(self, kept: Sequence[bool] | None = None) -> pd.DataFrame:
        """`attention_table` of all images, or of those kept (bool (n,))."""
        rows = np.ones(len(self.images), bool) if kept is None else np.asarray(kept, bool)
        return attention_table(self.scores[rows], self.patients[rows])

    def attention_by_decision(self) -> dict[str, pd.DataFrame]:
        """`attention` of the images called rightly and of those called wrongly (column `right`), where there are any."""
        right = self.images["right"].to_numpy(bool)
        return {name: self.attention(kept) for name, kept in (("right", right), ("wrong", ~right)) if kept.any()}

    def some(self, count: int, seed: int = 0) -> MapStudy:
        """So many of the images whose map is not blank (where every map is, of all), drawn at random and in their order; all of
        them where there are fewer."""
        shown = np.flatnonzero(~self.maps.blank)
        shown = shown if len(shown) else np.arange(len(self.images))
        rows = np.sort(np.random.default_rng(seed).permutation(shown)[:count])
        kept = {name: getattr(self.maps, name)[rows] for name in ("maps", "blank", "peak", "none_called")}
        return replace(
            self, images=self.images.iloc[rows], inputs=self.inputs[rows], masks=self.masks[rows], maps=replace(self.maps, **kept)
        )


def study_maps(
    predictor: Predictor, images: pd.DataFrame, *, method: str = "grad_cam", target: int | str = 1, layer: str | None = None
) -> MapStudy:
    """The maps of a run's images.

    Args:
        predictor: of a finished run of either task.
        images: index `case`, of its case table; `patient`; decisions (`ClassifierComparison.decisions`) where there are any.
        method, target: as for `cam_maps`.
        layer: path of a module; None or "" takes the network's declared one.
    """
    inputs = predictor.inputs(list(images.index))
    if predictor.store.masks is None:
        masks = np.zeros((len(images), *inputs.shape[2:]), bool)
    else:
        masks = np.stack([np.asarray(predictor.store.masks[at]) for at in predictor.cases.index.get_indexer(images.index)])
    settings = {"method": method, "target": target, "layer": layer or None}
    maps = cam_maps(predictor.network, inputs, progress=progress_bar("Explaining"), **settings)
    return MapStudy(predictor, images, inputs, masks, maps, **settings)


def highlighted(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Where each map reaches a share of its own maximum: bool, the shape of `maps`.

    Args:
        maps: at least 0, (n, height, width). A map of zeros (blank after ReLU) highlights nothing.
        threshold: share of the maximum, in (0, 1].
    """
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return (maps >= threshold * peaks) & (peaks > 0)


def region_shape(region: np.ndarray, gray: np.ndarray | None = None) -> dict[str, float | bool]:
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
      in [0, 5]; free of gain and offset. Absent without `gray`.

    Perimeters of pixel sets are estimates. Crofton's is within 7 % for discs of at least 50 pixels, and up to 9 % too short for
    upright squares (circularity 0.94 at a side of 8 and 0.88 at 64, where π/4 = 0.79 is true). The other one that skimage has,
    `perimeter`, follows the centres of border pixels: 12 % too short for a disc of radius 3 and 5 % too long for one of radius
    80, so that circularity would fall from 1.3 to 0.9 by size alone. Circularity of a small region can exceed 1 by a little, and
    a small disc's eccentricity reach 0.4 by the place of its centre between pixels.

    Args:
        region: bool (height, width).
        gray: any numbers (height, width), affine in gray level: a frame, or a network's input.

    Returns:
        the features above, NaN where there is no part of `MIN_PIXELS` pixels or more, and `at_edge`: whether the part reaches the
        image's border, where its outline is the image's.

    Reference:
        skimage.measure.regionprops; Crofton's formula as in Serra, Image Analysis and Mathematical Morphology (1982).
    """
    features = [name for name in FEATURES if gray is not None or name != "entropy"]
    part = max(regionprops(label(region)), key=lambda part: part.area, default=None)
    if part is None or part.area < MIN_PIXELS:
        return dict.fromkeys(features, np.nan) | {"at_edge": False}
    top, left, bottom, right = part.bbox
    area, perimeter = float(part.area), float(part.perimeter_crofton)
    found = {
        "area": area / region.size,
        "perimeter": perimeter / np.sqrt(region.size),
        "eccentricity": float(part.eccentricity),
        "solidity": float(part.solidity),
        "circularity": 4 * np.pi * area / perimeter**2,
        "aspect_ratio": (bottom - top) / (right - left),
        "at_edge": min(top, left, region.shape[0] - bottom, region.shape[1] - right) == 0,
    }
    return found if gray is None else found | {"entropy": _entropy(gray, tuple(part.coords.T))}


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
        grays: as many images of the regions' sizes; None leaves the entropy out.
        cases: ids for the index; None numbers the rows.
    """
    grays = [None] * len(regions) if grays is None else grays
    rows = [region_shape(region, gray) for region, gray in zip(regions, grays, strict=True)]
    return pd.DataFrame(rows, index=pd.Index(range(len(rows)) if cases is None else list(cases), name="case"))


def compare_shapes(table: pd.DataFrame, labels: Sequence[int], patients: Sequence[str]) -> pd.DataFrame:
    """Benign against malignant in each feature, over patients, adjusted by Holm for the number of features.

    Args:
        table: of `shape_table`.
        labels: 0 benign, 1 malignant, in the order of the table's rows.
        patients: the patient of each row. Their images are averaged (`mann_whitney_patients`).

    Returns:
        DataFrame, index `feature`: `benign`, `malignant` (medians over patients), `effect` (rank-biserial, positive where
        malignant is larger) with its 95 % interval `low`, `high`, `p`, `p_holm`, `detectable` (effect found with a power of 80 %
        by one such test), `benign_patients`, `malignant_patients` and `left_out` (images without the feature: empty or small
        regions). Where a class has no patient with a value, numbers are NaN.
    """
    rows = {}
    for name in [name for name in FEATURES if name in table]:
        test = mann_whitney_patients(table[name], labels, patients, resamples=1000)
        rows[name] = {
            "benign": test.first,
            "malignant": test.second,
            "effect": test.effect,
            "low": test.low,
            "high": test.high,
            "p": test.p_value,
            "detectable": test.detectable,
            "benign_patients": test.first_patients,
            "malignant_patients": test.second_patients,
            "left_out": test.left_out,
        }
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")
    found.insert(6, "p_holm", holm(found["p"]))
    return found


def mask_shapes(masks: Sequence[np.ndarray], cases: pd.DataFrame) -> pd.DataFrame:
    """`compare_shapes` of predicted masks, for the cases that have a label.

    Args:
        masks: bool (height, width) each, of any sizes.
        cases: a row a mask: `patient`, and `label` (0, 1 or NA).

    Returns:
        of `compare_shapes`; no row where the labelled cases are not of both classes.
    """
    known = cases["label"].notna().to_numpy(bool)
    labels = cases["label"][known].astype(int)
    if labels.nunique() < 2:
        return pd.DataFrame()
    kept = [mask for mask, there in zip(masks, known, strict=True) if there]
    return compare_shapes(shape_table(kept), labels.tolist(), cases["patient"][known].tolist())


def threshold_sweep(
    maps: np.ndarray,
    labels: Sequence[int],
    patients: Sequence[str],
    grays: Sequence[np.ndarray],
    thresholds: Sequence[float] = THRESHOLDS,
) -> pd.DataFrame:
    """`compare_shapes` of the regions that each threshold cuts out of the maps.

    Args:
        maps: at least 0, (n, height, width); blank ones have no region and are counted in `left_out`.
        labels, patients, grays: one a map, the images of the maps' size.
        thresholds: shares of each map's maximum, in (0, 1], ascending.

    Returns:
        one row a threshold and feature: `threshold`, `feature`, the columns of `compare_shapes` (`p_holm` for the features at
        that threshold, as if no other had been tried), `at_edge` (share of the regions measured whose outline is partly the
        image's) and `p_sweep` (Holm for all features at all thresholds).
    """
    bar, tables = progress_bar("Comparing shapes"), []
    for done, threshold in enumerate(thresholds, start=1):
        shapes = shape_table(highlighted(maps, threshold), grays)
        at_edge = shapes.loc[shapes["area"].notna(), "at_edge"].mean()
        tables.append(compare_shapes(shapes, labels, patients).reset_index().assign(threshold=threshold, at_edge=at_edge))
        bar(done, len(thresholds))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(p_sweep=holm(table["p"]))


class ClaimAnswer(NamedTuple):
    """sweep_holds: some feature has P < 0.05 after Holm over all features and thresholds. text: where the claim holds and where
    it stops, in a few sentences, with what the patients at hand could have shown."""

    sweep_holds: bool
    text: str


def claim_answer(sweep: pd.DataFrame) -> ClaimAnswer:
    """Does paper 001's "P < 0.05" for the shape of highlighted regions hold here, and at which thresholds.

    sweep: of `threshold_sweep`.
    """
    if sweep["p"].isna().all():
        return ClaimAnswer(False, "No test: one class has no patient with a region.")
    parts = []
    for column, adjusted in _ADJUSTED.items():
        holding = sorted(sweep.loc[sweep[column] < ALPHA, "threshold"].unique())
        listed = f" ({', '.join(f'{threshold:.3g}' for threshold in holding)})" if holding else ""
        parts.append(f"at {len(holding)}{listed} {adjusted}")
    claim = f"P < {ALPHA} holds for some feature, of {sweep['threshold'].nunique()} thresholds, {', '.join(parts)}."
    return ClaimAnswer(bool((sweep["p_sweep"] < ALPHA).any()), f"{claim} {_limits(sweep)}")


def _limits(sweep: pd.DataFrame) -> str:
    """What these patients could have shown, and whether outlines are the map's own."""
    best, most = sweep.loc[sweep["detectable"].idxmin()], sweep["left_out"].max()
    found = f"rank-biserial effects from {best['detectable']:.2f} on" if best["detectable"] <= 1 else "no effect, however large,"
    lost = f"up to {most} images have no region large enough and are left out" if most else "no image is left out"
    edges = dict.fromkeys(f"{share:.0%}" for share in (sweep["at_edge"].min(), sweep["at_edge"].max()))
    return (
        f"With {best['benign_patients']} benign and {best['malignant_patients']} malignant patients a single test finds "
        f"{found} with a power of 80 %; {lost}; {' to '.join(edges)} of the regions reach the image's border."
    )
