"""How a network's score falls as its frames are disturbed by what clinics, scanners and archives do to images.

Each disturbance works on the frame as it was read, in front of preprocessing, which may undo it: that is part of the answer. At
level 0 a frame is untouched. Curves of one seed disturb an image by the same draw at every level, so that they differ by strength
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.checks import checked_labels, patient_codes
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.masks import OVERLAP_SCORES, binarise, overlap_scores, pixel_counts

DYNAMIC_RANGE_DB = 60.0  # that a scanner is taken to show in 255 gray levels


@dataclass(frozen=True)
class Perturbation:
    """A disturbance of a gray frame.

    levels: by default, rising, 0 among them. label: of a figure's axis, with the unit. low, high: levels that can be.
    change: (gray uint8, level, generator) → gray uint8, never called with level 0. turns: whether the mask moves along.
    """

    levels: tuple[float, ...]
    label: str
    low: float
    high: float
    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    turns: bool = False


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
    "gain": Perturbation((-12, -6, -3, 0, 3, 6, 12), "gain, dB", -DYNAMIC_RANGE_DB, DYNAMIC_RANGE_DB, _gain),
    "speckle": Perturbation((0, 0.05, 0.1, 0.2, 0.4), "multiplied noise, SD", 0, 10, _speckle),
    "blur": Perturbation((0, 0.25, 0.5, 1, 2), "Gaussian blur, σ in % of the shorter side", 0, 50, _blur),
    "jpeg": Perturbation((0, 10, 30, 50, 70, 90), "JPEG, 100 − quality", 0, 100, _jpeg),
    "rotation": Perturbation((-20, -10, -5, 0, 5, 10, 20), "rotation clockwise, degrees", -180, 180, _rotation, turns=True),
    "clahe": Perturbation((0, 1, 2, 4, 8), "CLAHE, clip limit (8 × 8 tiles)", 0, 1000, _clahe),
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

    Raises:
        ValueError: an unknown name, a level out of range, or a frame that is not uint8 (height, width).
    """
    kind = _kind(name, level)
    if gray.dtype != np.uint8 or gray.ndim != 2 or not gray.size:
        raise ValueError(f"perturb: frame is {gray.dtype} {gray.shape}; expected gray uint8 (height, width)")
    return gray.copy() if level == 0 else kind.change(gray, level, np.random.default_rng(seed))


def perturb_mask(mask: np.ndarray, name: str, level: float) -> np.ndarray:
    """The mask, bool (height, width), of a disturbed frame: turned with it, by the nearest pixel, and otherwise the same."""
    if not _kind(name, level).turns or level == 0:
        return mask.copy()
    return _turned(mask.astype(np.uint8), level, cv2.INTER_NEAREST).astype(bool)


def _kind(name: str, level: float) -> Perturbation:
    if name not in PERTURBATIONS:
        raise ValueError(f"perturbation {name!r} is unknown; known: {', '.join(PERTURBATIONS)}")
    kind = PERTURBATIONS[name]
    if not kind.low <= level <= kind.high:
        raise ValueError(f"perturbation {name}: level is {level}; expected {kind.low:g} to {kind.high:g} ({kind.label})")
    return kind


def _turned(pixels: np.ndarray, degrees: float, interpolation: int) -> np.ndarray:
    height, width = pixels.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)  # OpenCV turns anticlockwise
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def robustness_curve(
    predictor: Predictor,
    frames: Sequence[np.ndarray],
    truth: Sequence[int] | Sequence[np.ndarray],
    patients: Sequence[str],
    *,
    perturbations: Sequence[str] | Mapping[str, Sequence[float]] | None = None,
    measures: Sequence[str] | None = None,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Scores of one network on frames disturbed in several ways and strengths, with their change from the undisturbed ones.

    Args:
        predictor: of a classifier or a segmenter.
        frames: gray uint8 (height, width) each, as they were read.
        truth: labels (0 benign, 1 malignant) of a classifier; masks of a segmenter, bool, each of its frame's size.
        patients: the patient of each, shape (n,).
        perturbations: names of `PERTURBATIONS`, or name → levels; None takes all. Level 0 is always among them, and asked once.
        measures: of a classifier, names of `scores.labels.SCORES`, by default auc; of a segmenter, of `masks.OVERLAP_SCORES`,
            by default dice, at the network's resolution.
        threshold: at or above it an image is called malignant, or a pixel nodule.
        resamples, seed: of the bootstrap over patients; `seed` also draws the speckle.
        progress: called with (images asked, images in all).

    Returns:
        a row a perturbation, level and measure: `perturbation`, `level`, `measure`, `score` (`Estimate`) and `change` (`Estimate`
        of score − score at level 0, paired). A segmenter's score is the mean over the images whose score is defined: those with a
        nodule in truth or prediction, counted in `Estimate.images`.

    Raises:
        ValueError: an unknown name, a level out of range, lengths that differ, or a mask of another size than its frame.
    """
    wanted = _wanted(perturbations)
    segmenting = predictor.run.config.task == "segmentation"
    measures = [*(("dice",) if segmenting else ("auc",))] if measures is None else list(measures)
    if segmenting and not set(measures) <= set(OVERLAP_SCORES):
        raise ValueError(f"robustness_curve: measures {measures}; expected some of {', '.join(OVERLAP_SCORES)}")
    if len(frames) != len(truth) or not len(frames):
        raise ValueError(f"robustness_curve: {len(frames)} frames and {len(truth)} truths; expected one for each, and some")
    patient_codes(patients, len(frames), "robustness_curve")
    labels = None if segmenting else checked_labels(truth, "robustness_curve")
    asked = sum(len(levels) - 1 for levels in wanted.values()) + 1
    done = 0

    def ask(name: str, level: float) -> np.ndarray:
        nonlocal done
        found = _answers(predictor, frames, truth if segmenting else None, name, level, threshold, seed)
        done += 1
        if progress is not None:
            progress(done * len(frames), asked * len(frames))
        return found

    untouched = ask(next(iter(wanted)), 0)
    rows = []
    for name, levels in wanted.items():
        for level in levels:
            found = untouched if level == 0 else ask(name, level)
            for measure in measures:
                settings = {"resamples": resamples, "seed": seed}
                if segmenting:
                    estimates = _of_maps(found, untouched, measure, patients, settings)
                else:
                    estimates = _of_labels(labels, found, untouched, measure, patients, threshold, settings)
                rows.append({"perturbation": name, "level": float(level), "measure": measure, **estimates})
    return pd.DataFrame(rows)


def change_table(curve: pd.DataFrame) -> pd.DataFrame:
    """`robustness_curve` as a table of the disturbed images: `disturbance` (its label), `strength`, `score`, `change`."""
    disturbed = curve[curve["level"] != 0]
    labels = [PERTURBATIONS[name].label for name in disturbed["perturbation"]]
    return pd.DataFrame({"disturbance": labels, "strength": disturbed["level"].to_numpy(),
                         "score": disturbed["score"].to_numpy(), "change": disturbed["change"].to_numpy()})  # fmt: skip


def _wanted(perturbations: Sequence[str] | Mapping[str, Sequence[float]] | None) -> dict[str, list[float]]:
    names = list(PERTURBATIONS) if perturbations is None else perturbations
    if not isinstance(names, Mapping):
        for name in names:
            _kind(name, 0)
        names = {name: PERTURBATIONS[name].levels for name in names}
    if not names:
        raise ValueError(f"robustness_curve: no perturbation; expected some of {', '.join(PERTURBATIONS)}")
    wanted = {name: sorted({0.0, *map(float, levels)}) for name, levels in names.items()}
    for name, levels in wanted.items():
        for level in levels:
            _kind(name, level)
    return wanted


def _answers(
    predictor: Predictor,
    frames: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] | None,
    name: str,
    level: float,
    threshold: float,
    seed: int,
) -> np.ndarray:
    """Probabilities of malignancy (n,), or pixel counts (n, 4) of a segmenter, a batch of frames in memory at a time."""

    def prepared(position: int):
        mask = None if masks is None else perturb_mask(masks[position], name, level)
        return predictor.pipeline(perturb(frames[position], name, level, (seed, position)), mask)

    found = []
    for start in range(0, len(frames), predictor.batch_size):
        samples = in_threads(prepared, range(start, min(start + predictor.batch_size, len(frames))))
        inputs = np.stack([sample.image for sample in samples])
        if masks is None:
            found.append(expit(predictor.log_odds(inputs)))
        else:
            called = binarise(predictor.maps(inputs), threshold)
            counts = [pixel_counts(sample.mask, mask) for sample, mask in zip(samples, called, strict=True)]
            found.append(np.array([list(count.values()) for count in counts]))
    return np.concatenate(found)


def _of_labels(
    labels: np.ndarray,
    found: np.ndarray,
    untouched: np.ndarray,
    measure: str,
    patients: Sequence[str],
    threshold: float,
    settings: Mapping[str, int],
) -> dict[str, Estimate]:
    return {
        name: patient_bootstrap_scores(labels, found, patients, measure, threshold, less=less, **settings)[measure]
        for name, less in (("score", None), ("change", untouched))
    }


def _of_maps(
    found: np.ndarray, untouched: np.ndarray, measure: str, patients: Sequence[str], settings: Mapping[str, int]
) -> dict[str, Estimate]:
    now, before = (overlap_scores(*counts.T)[measure] for counts in (found, untouched))
    return {
        "score": patient_bootstrap(now, patients, **settings),
        "change": patient_bootstrap(now - before, patients, **settings),
    }
