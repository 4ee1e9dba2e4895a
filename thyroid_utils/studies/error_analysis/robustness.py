"""How a network's score falls as its frames are disturbed by what clinics, scanners and archives do to images.

Each disturbance works on the frame as it was read, in front of preprocessing, which may undo it: that is part of the answer. At
level 0 a frame is untouched. Curves of one seed disturb an image by the same draw at every level, so that they differ by strength
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.progress import in_threads, progress_bar
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts

DYNAMIC_RANGE_DB = 60.0  # that a scanner is taken to show in 255 gray levels


class Perturbation(NamedTuple):
    """A disturbance of a gray frame.

    label: of a figure's axis, with the unit. low, high: levels that can be. change: (gray uint8, level, generator) → gray uint8,
    never called with level 0.
    """

    label: str
    low: float
    high: float
    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _gain(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    """A frame holds decibels: gain adds. What is black has no echo and stays black."""
    return np.where(gray == 0, 0, _levels(gray + level / DYNAMIC_RANGE_DB * 255.0)).astype(np.uint8)


def _speckle(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _levels(gray * (1 + level * random.standard_normal(gray.shape)))


def _blur(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(gray, (0, 0), level / 100 * min(gray.shape))


def _jpeg(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    written, data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, round(100 - level)])
    if not written:
        raise ValueError(f"jpeg: OpenCV cannot write a frame of {gray.shape} as JPEG")
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def _rotation(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _turned(gray, level, cv2.INTER_LINEAR)


def _clahe(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return cv2.createCLAHE(float(level), (8, 8)).apply(gray)


PERTURBATIONS = {
    "gain": Perturbation("gain, dB", -DYNAMIC_RANGE_DB, DYNAMIC_RANGE_DB, _gain),
    "speckle": Perturbation("multiplied noise, SD", 0, 10, _speckle),
    "blur": Perturbation("Gaussian blur, σ in % of the shorter side", 0, 50, _blur),
    "jpeg": Perturbation("JPEG, 100 − quality", 0, 100, _jpeg),
    "rotation": Perturbation("rotation clockwise, degrees", -180, 180, _rotation),
    "clahe": Perturbation("CLAHE, clip limit (8 × 8 tiles)", 0, 1000, _clahe),
}


def perturb(gray: np.ndarray, name: str, level: float, seed: int | Sequence[int] = 0) -> np.ndarray:
    """A disturbed copy of a frame.

    Args:
        gray: uint8 (height, width).
        name: of `PERTURBATIONS`.
        level: strength, in the unit of its label; 0 changes nothing.
        seed: of what is random; the same for every level gives the same draw.

    Returns:
        uint8 (height, width). What a rotation brings in from outside is black.
    """
    return gray.copy() if level == 0 else PERTURBATIONS[name].change(gray, level, np.random.default_rng(seed))


def perturb_mask(mask: np.ndarray, name: str, level: float) -> np.ndarray:
    """The mask, bool (height, width), of a disturbed frame: turned with it, by the nearest pixel, and otherwise the same."""
    return _turned(mask.astype(np.uint8), level, cv2.INTER_NEAREST).astype(bool) if name == "rotation" else mask


def _turned(pixels: np.ndarray, degrees: float, interpolation: int) -> np.ndarray:
    height, width = pixels.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)  # OpenCV turns anticlockwise
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def robustness_curve(
    predictor: Predictor, images: pd.DataFrame, perturbations: Mapping[str, Sequence[float]], most: int
) -> pd.DataFrame:
    """Scores of one network on frames disturbed in several ways and strengths, with their change from the undisturbed ones.

    Args:
        predictor: of a classifier, whose AUC is asked, or of a segmenter, whose Dice is, at its own resolution.
        images: index `case`, of its case table; `patient` and, for a classifier, `label`.
        perturbations: name of `PERTURBATIONS` → levels. Level 0 is always among them, and asked once.
        most: images; of more so many are taken at equal steps.

    Returns:
        a row a perturbation and level: `perturbation`, `level`, `score` (`Estimate`) and `change` (`Estimate` of score − score at
        level 0, paired). A segmenter's score is the mean over the images whose score is defined: those with a nodule in truth or
        prediction, counted in `Estimate.images`.

    Raises:
        ValueError: an unknown name, or a level out of range.
    """
    wanted = _wanted(perturbations)
    images = images.iloc[:: max(1, len(images) // most)][:most]
    files, segmenting = predictor.cases.loc[images.index], predictor.run.config.task == "segmentation"
    frames = [read_gray(image) for image in files["image"]]
    masks = [read_mask(mask) for mask in files["mask"]] if segmenting else None
    steps = [(name, level) for name, levels in wanted.items() for level in levels]
    untouched, bar, rows = _answers(predictor, frames, masks, steps[0][0], 0.0), progress_bar("Disturbing"), []
    for done, (name, level) in enumerate(steps, 1):
        found = _answers(predictor, frames, masks, name, level) if level else untouched
        estimates = _of_maps(found, untouched, images) if segmenting else _of_labels(found, untouched, images)
        rows.append({"perturbation": name, "level": level, **estimates})
        bar(done, len(steps))
    return pd.DataFrame(rows)


def _wanted(perturbations: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    if not perturbations or not set(perturbations) <= set(PERTURBATIONS):
        raise ValueError(f"disturbances: {list(perturbations)}; expected some of {', '.join(PERTURBATIONS)}")
    wanted = {name: sorted({0.0, *map(float, levels)}) for name, levels in perturbations.items()}
    for name, levels in wanted.items():
        kind = PERTURBATIONS[name]
        if not kind.low <= levels[0] <= levels[-1] <= kind.high:
            raise ValueError(f"disturbance {name}: levels are {levels}; expected {kind.low:g} to {kind.high:g} ({kind.label})")
    return wanted


def _answers(
    predictor: Predictor, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None, name: str, level: float
) -> np.ndarray:
    """Probabilities of malignancy (n,), or pixel counts (n, 4) of a segmenter, a batch of frames in memory at a time."""

    def prepared(position: int):
        mask = None if masks is None else perturb_mask(masks[position], name, level)
        return predictor.pipeline(perturb(frames[position], name, level, (0, position)), mask)

    found = []
    for start in range(0, len(frames), predictor.batch_size):
        samples = in_threads(prepared, range(start, min(start + predictor.batch_size, len(frames))))
        inputs = np.stack([sample.image for sample in samples])
        if masks is None:
            found.append(expit(predictor.log_odds(inputs)))
        else:
            counts = map(pixel_counts, [sample.mask for sample in samples], binarise(predictor.maps(inputs)))
            found.append(np.array([list(count.values()) for count in counts]))
    return np.concatenate(found)


def _of_labels(found: np.ndarray, untouched: np.ndarray, images: pd.DataFrame) -> dict[str, Estimate]:
    labels, patients = images["label"].astype(int), images["patient"]
    return {
        name: patient_bootstrap_scores(labels, found, patients, "auc", less=less, resamples=1000)["auc"]
        for name, less in (("score", None), ("change", untouched))
    }


def _of_maps(found: np.ndarray, untouched: np.ndarray, images: pd.DataFrame) -> dict[str, Estimate]:
    now, before = (overlap_scores(*counts.T)["dice"] for counts in (found, untouched))
    return {
        "score": patient_bootstrap(now, images["patient"]),
        "change": patient_bootstrap(now - before, images["patient"]),
    }


def change_table(curve: pd.DataFrame) -> pd.DataFrame:
    """`robustness_curve` as a table of the disturbed images: `disturbance` (its label), `strength`, `score`, `change`."""
    table = curve[curve["level"] != 0].rename(columns={"perturbation": "disturbance", "level": "strength"})
    return table.assign(disturbance=[PERTURBATIONS[name].label for name in table["disturbance"]])
