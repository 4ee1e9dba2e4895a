"""Whether to believe a finding: how a run did on its own test images, and whether an image and an outline are like those it was
trained on.

An image is described by a few numbers that anybody can check by eye, an outline by its area, circularity and parts. What lies
beyond the training images' own range, widened the more the fewer they are, is told with the number and that range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import cached, content_key, source_hash
from thyroid_utils.common.progress import in_threads, progress_bar
from thyroid_utils.common.words import number, share
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.inference import nodule_measures as measuring
from thyroid_utils.inference.ensemble import held_out
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.estimates import Estimate, patient_estimate, patient_scores
from thyroid_utils.scores.masks import overlap_scores
from thyroid_utils.training.ledger import Run

if TYPE_CHECKING:
    from thyroid_utils.inference.predictor import Predictor

CHANCE = 0.5  # AUC of a classifier that knows nothing
FAIR_DICE = 0.5  # below it a segmenter's outline and the truth have less in common than not
_SIDE = 128  # pixels; frames are described at this size, so that theirs does not count
_BLACK = 16  # gray level below which a pixel is black
_SAMPLED = 300  # training images that are described
_FEWEST = 5  # of them, below which they have no range


class _Fact(NamedTuple):
    """How a number is told, and by how much it may leave the range of the training images at least."""

    name: str
    margin: float
    is_share: bool = False
    digits: int = 0
    low: bool = True  # whether too little is told
    high: bool = True


_IMAGE = {
    "brightness": _Fact("mean gray level", 5),
    "contrast": _Fact("standard deviation of gray levels", 5),
    "black": _Fact("black", 0.05, is_share=True),
    "detail": _Fact("fine detail against coarse", 0.03, digits=2),
    "depth": _Fact("upper half brighter than the lower by", 10),
}
_OUTLINE = {
    "area": _Fact("area", 0.01, is_share=True),
    "circularity": _Fact("circularity", 0.1, digits=2, high=False),
    "nodules": _Fact("parts", 2, low=False),
    "specks": _Fact("specks", 2, low=False),
}


def image_facts(frame: np.ndarray) -> dict[str, float]:
    """Brightness and contrast (mean and SD of gray levels), the share of black pixels, fine detail (mean absolute difference to
    the frame blurred by 1.5 pixels, over the SD) and how much brighter the upper half is than the lower, at 128×128 pixels.

    frame: uint8 (height, width) or RGB.
    """
    gray = cv2.resize(luma(frame), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(float)
    spread = gray.std()
    fine = np.abs(gray - cv2.GaussianBlur(gray, (0, 0), 1.5)).mean()
    halves = gray[: _SIDE // 2].mean() - gray[_SIDE // 2 :].mean()
    values = (gray.mean(), spread, (gray < _BLACK).mean(), fine / max(spread, 1.0), halves)
    return dict(zip(_IMAGE, map(float, values), strict=True))


def outline_facts(measures: dict[str, float], shape: tuple[int, int]) -> dict[str, float]:
    """Area as a share of the frame, circularity, parts and specks of the `nodule_measures` of a mask of that shape."""
    area = measures["area_px"] / (shape[0] * shape[1])
    return {"area": area, **{name: measures[name] for name in ("circularity", "nodules", "specks")}}


@dataclass(frozen=True)
class Familiar:
    """What the training images of a run are like.

    ranges: fact → (lowest, highest, how many images have it), the 0.5 % and 99.5 % quantiles; {} where nothing is known.
    """

    ranges: dict[str, tuple[float, float, int]]

    def odd_image(self, frame: np.ndarray) -> str:
        """What of a frame is unlike the training images: `mean gray level 228 (theirs 19 to 58)`; "" for nothing."""
        return self._odd(image_facts(frame), _IMAGE)

    def odd_outline(self, measures: dict[str, float], shape: tuple[int, int]) -> str:
        """What of an outline is unlike those of the training images; "" for nothing, and for an empty mask."""
        return self._odd(outline_facts(measures, shape), _OUTLINE)

    def _odd(self, found: dict[str, float], facts: dict[str, _Fact]) -> str:
        return ", ".join(
            f"{fact.name} {_told(found[name], fact)} (theirs {_span(fact, *self.ranges[name][:2])})"
            for name, fact in facts.items()
            if name in self.ranges and _is_beyond(found[name], fact, *self.ranges[name])
        )


def _span(fact: _Fact, low: float, high: float) -> str:
    return " to ".join(dict.fromkeys(_told(end, fact) for end in (low, high)))


def _told(value: float, fact: _Fact) -> str:
    return share(value) if fact.is_share else number(value, fact.digits)


def _is_beyond(value: float, fact: _Fact, low: float, high: float, images: int) -> bool:
    """Whether a value is out of the range by more than images that were not sampled are.

    The range of n values is widened by 2 / √n of itself: of new images of the same set 1 to 3 % are then beyond in any of five
    facts, with 20 to 250 images of DDTI, TG3K or phantoms.
    """
    if images < _FEWEST:
        return False
    margin = max(2 / np.sqrt(images) * (high - low), fact.margin)
    lowest = max(low - margin, low / 2) if low > 0 else low - margin
    return bool((fact.low and value < lowest) or (fact.high and value > high + margin))


def familiar(predictor: Predictor) -> Familiar:
    """What a run's training images are like: up to 300 of them, read once and remembered in the cache folder.

    Where they are not at hand, only the areas of the nodules are known, of the validation and test images whose counts a
    segmenter's run holds.
    """
    data = predictor.run.data
    key = content_key(data["fingerprint"], data["split_hash"], source_hash([__file__, measuring.__file__]))
    try:
        return Familiar(cached("familiar", key, lambda: _ranges(_described(predictor.cases))))
    except DataError:
        return Familiar(_ranges(_held_areas(predictor.run)))


def _described(cases: pd.DataFrame) -> pd.DataFrame:
    """The facts of training images, evenly spaced where there are many; NaN where an image has none of them."""
    rows = cases[cases["split"] == "train"]
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED)).round().astype(int))]
    files = list(zip(rows["image"], rows["mask"], strict=True))
    return pd.DataFrame(in_threads(_facts, files, progress=progress_bar("Looking at training images")))


def _facts(files: tuple[str, str]) -> dict[str, float]:
    image, mask = files
    found = image_facts(read_image(image))
    if not pd.isna(mask):
        outline = read_mask(mask)
        found |= outline_facts(nodule_measures(outline), outline.shape)
    return found


def _held_areas(run: Run) -> pd.DataFrame:
    if run.config.task == "classification":
        return pd.DataFrame()
    counts = run.predictions[list(COUNTS)]
    truth = counts["true_positives"] + counts["false_negatives"]
    return pd.DataFrame({"area": (truth / counts.sum(axis=1)).where(truth > 0)})


def _ranges(facts: pd.DataFrame) -> dict[str, tuple[float, float, int]]:
    known = {name: column.dropna() for name, column in facts.items()}
    return {name: (*map(float, values.quantile([0.005, 0.995])), len(values)) for name, values in known.items() if len(values)}


def own_scores(*runs: Run) -> dict[str, Estimate]:
    """How runs did on their own test images, with intervals over patients: "AUC" of classifiers, "Dice" of segmenters, or both.

    Dice is the mean over images with a nodule, at the network's resolution. Of several runs of one recipe, every image counts
    once: with the AUC of what those that were tested on it say together, and the mean of the Dice of each by itself.
    """
    table, found = pd.concat([run.predictions.query("split == 'test'") for run in runs]), {}
    if "probability" in table:
        told = held_out(runs, "test") if len(runs) > 1 else table
        answers = expit(told["log_odds"]) if len(runs) > 1 else told["probability"]
        found["AUC"] = patient_scores(told["label"].astype(int), answers, told["patient"], "auc")["auc"]
    if COUNTS[0] in table:
        own = table[table["true_positives"] + table["false_negatives"] > 0]
        own = own.assign(dice=overlap_scores(**{name: own[name].to_numpy(float) for name in COUNTS})["dice"])
        own = own.groupby(level="case", sort=False).agg({"dice": "mean", "patient": "first"})
        found["Dice"] = patient_estimate(own["dice"], own["patient"], share=True)
    return found
