"""Where a map points, measured against the nodule's outline, against chance and against a map that always points to the middle.

Chance is the same map put at a random place of its image: shifted cyclically by any number of rows and columns, all equally
likely. It keeps the map's form, so that a large region does not beat a small one by its size. For the share of the energy and for
the peak this is the share of the image that the nodule takes; for the distance the mean distance of all pixels.

A coarse map cannot point everywhere: one of 2×2 places has its maximum in a corner, whatever it shows, and so less often on
nodules in the middle than at random places. Whether a map follows its own image is therefore asked of the maps of other patients:
the same network, the same grid and the same habits, laid on this image's nodule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfft2
from scipy.ndimage import distance_transform_edt

from thyroid_utils.scores.checks import patient_codes
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.scores.estimates import patient_bootstrap

# name → whether more is better
MEASURES = {"energy_inside": True, "pointing_game": True, "iou": True, "peak_distance": False}
_RESAMPLES = 2000


def centre_prior(shape: tuple[int, int]) -> np.ndarray:
    """A map that knows nothing but that nodules are put in the middle: a Gaussian with σ a quarter of each side.

    Returns:
        float64 (height, width) in (0, 1], its maximum 1 at the centre.
    """
    rows, columns = (np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 4)) ** 2) for side in shape)
    prior = np.outer(rows, columns)
    return prior / prior.max()


def attention_scores(
    maps: np.ndarray,
    masks: np.ndarray,
    threshold: float = 0.5,
    cases: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How well each map points to its nodule.

    - `energy_inside`: share of the map's sum inside the mask, in [0, 1] (Wang et al. 2020).
    - `pointing_game`: 1 where the map's maximum lies inside, else 0 (Zhang et al. 2018, here without tolerance); of several equal
      maxima the share inside.
    - `iou`: of the places with at least `threshold` times the maximum with the mask, in [0, 1].
    - `peak_distance`: from the maximum to the nearest pixel of the mask, in pixels, 0 inside; of several the mean.

    Args:
        maps: (n, height, width), 0 or above; a map that is zero everywhere, or holds NaN, is blank.
        masks: bool, the same shape; may be empty.
        threshold: share of the maximum, in (0, 1].
        cases: index of the result; None numbers the rows.
        patients: of each image, (n,), for the maps of other patients; None leaves these out.

    Returns:
        A row an image. For each measure three columns: its own name, `…_centre` (the centre prior's) and `…_chance`; with
        patients also `…_other`, the mean over the maps of other patients (NaN where there are none). `blank` and
        `no_mask` (bool) tell why values are NaN: a blank map has no measure and no chance level, only the centre prior's; an
        empty mask has nothing.

    Raises:
        ValueError: shapes that differ, values below 0, or a threshold outside (0, 1].

    References:
        Wang et al., Score-CAM, CVPR Workshops 2020; Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084-1102.
    """
    maps, masks = np.asarray(maps, dtype=float), np.asarray(masks).astype(bool)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"attention_scores: maps have shape {maps.shape}, masks {masks.shape}; expected two equal (n, height, width)"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"attention_scores: threshold is {threshold}; expected a share of the maximum above 0, up to 1")
    if (maps < 0).any():
        raise ValueError(f"attention_scores: maps hold values down to {np.nanmin(maps):.3g}; expected 0 or above")
    prior = centre_prior(maps.shape[1:])
    rows = [_scores_of(values, mask, prior, threshold) for values, mask in zip(maps, masks, strict=True)]
    columns = [*(f"{name}{end}" for name in MEASURES for end in ("", "_centre", "_chance")), "blank", "no_mask"]
    index = None if cases is None else pd.Index(list(cases), name="case", dtype="string")
    scores = pd.DataFrame(rows, columns=columns, index=index)
    if patients is None:
        return scores
    patient_codes(patients, len(maps), "attention_scores")
    found = _other_patients(maps, masks, ~scores["blank"].to_numpy(bool), np.asarray(patients, dtype=object), threshold)
    for at, name in enumerate(MEASURES):
        scores.insert(4 * at + 3, f"{name}_other", found[name])
    return scores


def _other_patients(
    maps: np.ndarray, masks: np.ndarray, known: np.ndarray, patients: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """Each measure's mean over the maps (those `known`) of other patients on each image's mask, (n,)."""
    count = len(maps)
    values = maps[known].reshape(-1, maps[0].size)  # (maps, pixels)
    nodules = masks.reshape(count, -1).T.astype(float)  # (pixels, images)
    outlined = masks.any(axis=(1, 2))
    away = np.stack([distance_transform_edt(~mask) for mask in masks]).reshape(count, -1).T
    peak = values.max(axis=1, keepdims=True)
    peaks = (values == peak) / (values == peak).sum(axis=1, keepdims=True)
    called = (values >= threshold * peak).astype(float)
    shared = called @ nodules  # (maps, images)
    union = called.sum(axis=1)[:, None] + nodules.sum(axis=0) - shared
    pairs = {
        "energy_inside": values @ nodules / values.sum(axis=1, keepdims=True),
        "pointing_game": peaks @ nodules,
        "iou": shared / union,
        "peak_distance": peaks @ away,
    }
    other = patients[known][:, None] != patients[None]
    number = np.where(outlined & other.any(axis=0), other.sum(axis=0), np.nan)
    return {name: (pair * other).sum(axis=0) / number for name, pair in pairs.items()}


def _scores_of(values: np.ndarray, mask: np.ndarray, prior: np.ndarray, threshold: float) -> dict[str, float]:
    blank, no_mask = not np.nanmax(values, initial=0) > 0 or bool(np.isnan(values).any()), not mask.any()
    row: dict[str, float] = {"blank": blank, "no_mask": no_mask}
    if no_mask:
        return row
    distances = distance_transform_edt(~mask)
    row |= {f"{name}_centre": value for name, value in _measures(prior, mask, distances, threshold).items()}
    if not blank:
        area = float(mask.mean())
        row |= _measures(values, mask, distances, threshold)
        row |= {"energy_inside_chance": area, "pointing_game_chance": area, "peak_distance_chance": float(distances.mean())}
        row["iou_chance"] = _shifted_iou(values >= threshold * values.max(), mask)
    return row


def _measures(values: np.ndarray, mask: np.ndarray, distances: np.ndarray, threshold: float) -> dict[str, float]:
    peak, called = values == values.max(), values >= threshold * values.max()
    return {
        "energy_inside": float(values[mask].sum() / values.sum()),
        "pointing_game": float(mask[peak].mean()),
        "iou": float((called & mask).sum() / (called | mask).sum()),
        "peak_distance": float(distances[peak].mean()),
    }


def _shifted_iou(called: np.ndarray, mask: np.ndarray) -> float:
    """The mean IoU over all cyclic shifts of a region. What overlaps at each shift is a correlation, here by Fourier."""
    shared = np.rint(irfft2(rfft2(mask.astype(float)) * np.conj(rfft2(called.astype(float))), s=mask.shape))
    return float((shared / (called.sum() + mask.sum() - shared)).mean())


def attention_table(
    scores: pd.DataFrame, patients: Sequence[str], *, resamples: int = _RESAMPLES, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """The measures over images with intervals over patients, beside the centre prior and chance on the same images.

    Args:
        scores: of `attention_scores`.
        patients: of each row, (n,).
        resamples, level, seed: of the bootstrap that draws whole patients.

    Returns:
        A row a measure. Columns `map`, `centre prior`, `chance` (`Estimate`), `difference` and `above chance` (`Comparison` of
        the map with the centre prior and with chance; first − second); where the scores have them, also `other patients` and
        `above other patients`, which answers whether a map follows its own image; `blank` and `no mask`: images left out for
        that, of all columns alike, so that all rest on the same images. Without any image left every value is NaN.

    Raises:
        ValueError: not one patient for each row.
    """
    patients = np.asarray(patients, dtype=object)
    patient_codes(patients, len(scores), "attention_table")
    kept = ~(scores["blank"] | scores["no_mask"]).to_numpy(bool)
    settings = {"resamples": resamples, "level": level, "seed": seed}
    rows = {}
    for name in MEASURES:
        share = name == "pointing_game"
        own, centre, chance = (scores.loc[kept, f"{name}{end}"].to_numpy(float) for end in ("", "_centre", "_chance"))
        rows[name] = {
            "map": patient_bootstrap(own, patients[kept], share=share, **settings),
            "centre prior": patient_bootstrap(centre, patients[kept], share=share, **settings),
            "chance": patient_bootstrap(chance, patients[kept], **settings),
            "difference": compare_means(own, centre, patients[kept], **settings),
            "above chance": compare_means(own, chance, patients[kept], **settings),
        }
        if f"{name}_other" in scores:
            others = scores.loc[kept, f"{name}_other"].to_numpy(float)
            rows[name]["other patients"] = patient_bootstrap(others, patients[kept], share=share, **settings)
            rows[name]["above other patients"] = compare_means(own, others, patients[kept], **settings)
        rows[name] |= {
            "blank": int((scores["blank"] & ~scores["no_mask"]).sum()),
            "no mask": int(scores["no_mask"].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")
