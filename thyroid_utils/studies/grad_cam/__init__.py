"""Explanations that are measured: a network's maps of its test images, where they point and what shape they have.

Where they point is measured in `attention`. Whether the network depends on what they show and whether they survive random weights
is asked in `faithfulness`, and whether burned-in marks attract them in `shortcut`.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from skimage.measure import label, regionprops
from torch import nn

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, listed, number, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.inference.cam import CamMaps, cam_maps, cam_parts
from thyroid_utils.inference.predictor import FoldedPredictor, Predictor, in_order
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.groups import mann_whitney_patients
from thyroid_utils.studies.grad_cam.attention import attention_scores, attention_table, placement_tests

# Below it outlines are made of pixels: of discs of 50 pixels and more, measured circularity is within 0.12 of 1.
MIN_PIXELS = 50
GRAY_BINS = 32  # few enough that a region of 50 pixels can fill them
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALPHA = 0.05  # the P of the paper's claim
# Field of a test → column of a table.
_OF_TEST = {"first": "benign", "second": "malignant", "p_value": "p"}
_OF_TEST |= {"first_patients": "benign_patients", "second_patients": "malignant_patients"}
_ADJUSTED = {
    "p": "without adjustment",
    "p_holm": "after Holm over the features",
    "p_sweep": "after Holm over all features and thresholds",
}

_BY_IMAGE = ("maps", "blank", "none_called")  # fields of `CamMaps` that have a row an image
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


@dataclass(frozen=True)
class MapStudy:
    """The maps of some images and what they are measured by. Made by `study_maps`.

    predictor: of the run, or of its folds. images: index `case`, with `patient` and whatever decisions were given. inputs:
    float32 (n, channels, height, width). masks: bool (n, height, width), empty where an image has none. maps: of the method,
    target and layer named.
    """

    predictor: Predictor | FoldedPredictor
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

    def placement(self) -> pd.DataFrame:
        """`placement_tests` of all images."""
        return placement_tests(self.maps.maps, self.masks, self.patients)

    def attention_by_decision(self) -> dict[str, pd.DataFrame]:
        """`attention` of the images called rightly and of those called wrongly (column `right`), where there are any."""
        right = self.images["right"].to_numpy(bool)
        return {name: self.attention(kept) for name, kept in (("right", right), ("wrong", ~right)) if kept.any()}

    def some(self, count: int, seed: int = 0) -> MapStudy:
        """So many of the images whose map is not blank (where every map is, of all), drawn at random and in their order; all of
        them where there are fewer."""
        shown = np.flatnonzero(~self.maps.blank)
        shown = shown if len(shown) else np.arange(len(self.images))
        return self._rows(np.sort(np.random.default_rng(seed).permutation(shown)[:count]))

    def at_layer(self, case: str, layer: str | None) -> MapStudy:
        """One of its images with the map at another layer."""
        one = replace(self._rows(self.images.index.get_indexer([case])), layer=layer)
        ((asked, _),) = self.predictor.by_fold([case])
        return replace(one, maps=one.maps_of(asked.network))

    def parts(self) -> Iterator[MapStudy]:
        """A study of each network's images, one after the other."""
        for predictor, rows in self.predictor.by_fold(self.images.index):
            yield replace(self._rows(rows), predictor=predictor)

    def _rows(self, rows: np.ndarray) -> MapStudy:
        maps = replace(self.maps, **{name: getattr(self.maps, name)[rows] for name in _BY_IMAGE})
        return replace(self, images=self.images.iloc[rows], inputs=self.inputs[rows], masks=self.masks[rows], maps=maps)


def study_maps(
    predictor: Predictor | FoldedPredictor,
    images: pd.DataFrame,
    *,
    method: str = "grad_cam",
    target: int | str = 1,
    layer: str | None = None,
) -> MapStudy:
    """The maps of a run's images, each of the network that tests it.

    Args:
        predictor: of a finished run of either task, or of its folds.
        images: index `case`, of its case table; `patient`; decisions (`ClassifierComparison.decisions`) where there are any.
        method, target: as for `cam_maps`.
        layer: path of a module; None or "" takes the network's declared one.
    """
    settings, parts = {"method": method, "target": target, "layer": layer or None}, []
    for asked, rows in predictor.by_fold(images.index):
        cases = list(images.index[rows])
        inputs = asked.inputs(cases)
        if asked.store.masks is None:
            masks = np.zeros((len(cases), *inputs.shape[2:]), bool)
        else:
            masks = np.stack([np.asarray(asked.store.masks[at]) for at in asked.cases.index.get_indexer(cases)])
        parts.append((rows, inputs, masks, cam_maps(asked.network, inputs, progress=progress_bar("Explaining"), **settings)))
    order, inputs, masks, maps = zip(*parts, strict=True)
    joined = {name: in_order([getattr(found, name) for found in maps], order) for name in _BY_IMAGE}
    together = replace(maps[0], **joined)
    return MapStudy(predictor, images, in_order(inputs, order), in_order(masks, order), together, **settings)


def map_by_hand(study: MapStudy, case: str) -> pd.DataFrame:
    """Grad-CAM of one image of a study of decisions, step by step, whatever the study's method.

    Returns:
        DataFrame, index `step`; `how` and `value`, both text.
    """
    one = replace(study, method="grad_cam").at_layer(case, study.layer)
    (row,), image, mask, found = one.images.itertuples(), one.inputs[0], one.masks[0], one.maps.maps[0]
    ((asked, _),) = one.predictor.by_fold([case])
    maps, weights = cam_parts(asked.network, image, target=one.target, layer=one.layer)
    total = np.tensordot(weights, maps, 1)
    strongest, scaled = np.argsort(-np.abs(weights))[:3], ", calibrated by its fold" * ("own_log_odds" in one.images)
    rows = [
        ("input", "what the network sees: channels × height × width", "×".join(map(str, image.shape))),
        ("log-odds", f"logit of malignant less that of benign{scaled}", number(row.log_odds, 3)),
        ("p(malignant)", "1 / (1 + exp(−log-odds))", number(row.probability, 3)),
        ("called", f"malignant from {number(row.threshold, 3)} on", LABEL_NAMES[int(row.called)]),
        ("A_k", "output of the layer", f"{len(maps)} maps of {maps.shape[1]}×{maps.shape[2]} places"),
        *((f"α_{k}", f"mean gradient over A_{k}, whose mean is {maps[k].mean():.3g}", f"{weights[k]:.3g}") for k in strongest),
        ("Σ α_k A_k", "over all maps: lowest and highest place", f"{total.min():.3g} and {total.max():.3g}"),
        ("ReLU", "places above 0 stay", f"{(total > 0).sum()} of {total.size}"),
        ("map", "enlarged to the input, divided by its maximum", f"its sum is {found.sum():.1f}"),
        ("share inside", f"{found[mask].sum():.1f} / {found.sum():.1f}", share(one.scores["energy_inside"].iloc[0], 1)),
        ("chance", "the outline's share of the image", share(mask.mean(), 1)),
    ]
    table = pd.DataFrame(rows, columns=["step", "how", "value"]).set_index("step")
    return table.assign(value=table["value"].str.replace("-", "−"))


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
    tests = {name: vars(mann_whitney_patients(table[name], labels, patients)) for name in FEATURES if name in table}
    found = pd.DataFrame.from_dict(tests, orient="index").rename_axis("feature").rename(columns=_OF_TEST)
    found = found.drop(columns=["images", "mixed", "note"])
    found.insert(6, "p_holm", holm(found["p"]))
    return found


def shown_shapes(compared: pd.DataFrame) -> pd.DataFrame:
    """`compare_shapes` as a narrow table: a row a feature by its name, medians, effect with interval as text, p after Holm, the
    effect that these patients could show (none where it would exceed 1), and their number in each class."""
    effects = [_interval(*row) for row in compared[["effect", "low", "high"]].itertuples(index=False)]
    patients = [f"{row.benign_patients} + {row.malignant_patients}" for row in compared.itertuples()]
    columns = {
        "effect [95 %]": effects,
        "p_holm": compared["p_holm"],
        "detectable": compared["detectable"].where(compared["detectable"] <= 1),
    }
    return compared[["benign", "malignant"]].assign(**columns, patients=patients).rename(FEATURES)


def _interval(value: float, low: float, high: float) -> str:
    bounds = "" if np.isnan(low) else f" [{number(low, sign=True)}, {number(high, sign=True)}]"
    return number(value, sign=True) + bounds


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
        where = f" ({listed(f'{threshold:.3g}' for threshold in holding)})" if holding else ""
        parts.append(f"at {len(holding) or 'none'}{where} {adjusted}")
    tried = count(sweep["threshold"].nunique(), "threshold")
    claim = f"Of {tried} P < {ALPHA} holds for some feature {'; '.join(parts)}."
    return ClaimAnswer(bool((sweep["p_sweep"] < ALPHA).any()), f"{claim} {_limits(sweep)}")


def _limits(sweep: pd.DataFrame) -> str:
    """What these patients could have shown, and whether outlines are the map's own."""
    best, most = sweep.loc[sweep["detectable"].idxmin()], sweep["left_out"].max()
    found = f"rank-biserial effects from {best['detectable']:.2f} on" if best["detectable"] <= 1 else "no effect, however large,"
    lost = f"at most {count(most, 'image')} left out for want of a region large enough" if most else "no image is left out"
    edges = dict.fromkeys(share(value) for value in (sweep["at_edge"].min(), sweep["at_edge"].max()))
    return (
        f"With {best['benign_patients']} benign and {count(best['malignant_patients'], 'malignant patient')} a single test finds "
        f"{found} with a power of 80 %; {lost}; {' to '.join(edges)} of the regions reach the image's border."
    )
