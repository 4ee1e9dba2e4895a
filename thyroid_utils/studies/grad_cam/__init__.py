"""Explanations that are measured: a network's maps of its test images, and where they point.

They are measured against the nodule's outline, against chance and against a map that always points to the middle. Whether the
network depends on what they show and whether they survive random weights is asked in `faithfulness`, their shapes in `shape`, and
whether burned-in marks attract them in `shortcut`.

Chance is the same map put at a random place of its image: shifted cyclically by any number of rows and columns, all equally
likely. It keeps the map's form, so that a large region does not beat a small one by its size. For the share of the energy and for
the peak this is the share of the image that the nodule takes; for the distance the mean distance of all pixels.

A coarse map cannot point everywhere: one of 2×2 places has its maximum in a corner, whatever it shows, and so less often on
nodules in the middle than at random places. Whether a map follows its own image is therefore asked of the maps of other patients:
the same network, the same grid and the same habits, laid on this image's nodule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfft2
from scipy.ndimage import distance_transform_edt
from torch import nn

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.cam import CamMaps, cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.scores.estimates import patient_bootstrap

# name → whether more is better
MEASURES = {"energy_inside": True, "pointing_game": True, "iou": True, "peak_distance": False}
# What a map is held against, as a table says it → end of its columns.
BASELINES = {"other patients": "other", "centre prior": "centre", "chance": "chance"}
_REGION = 0.5  # share of a map's maximum from which on a place belongs to its region


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
        means = {of: patient_bootstrap(values, patients, **settings) for of, values in {"map": own, **others}.items()}
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
