"""Paper 000's framework on any images: a classifier and a segmenter, or several of each, and what they say of an image as one
finding.

Images come and go a batch at a time, so that memory does not grow with their number; an image that cannot be used becomes a
finding with an `error`, and the others go on. For research only: nothing here is a medical device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import number
from thyroid_utils.inference.conformal import CLASSES, sets_within
from thyroid_utils.inference.doubts import CHANCE, FAIR_DICE, Familiar
from thyroid_utils.inference.ensemble import Ensemble
from thyroid_utils.inference.findings import STAGES, CaseImage, Finding, begun
from thyroid_utils.inference.known import TASKS, Known, known_of
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.inference.uncertainty import augmented_views, binary_entropy, label_uncertainty, map_uncertainty
from thyroid_utils.preprocess.steps import Sample, luma
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.masks import binarise
from thyroid_utils.training.ledger import RECIPE

if TYPE_CHECKING:
    from thyroid_utils.inference.onnx_network import OnnxNetwork
    from thyroid_utils.inference.predictor import Predictor

    Given = Predictor | OnnxNetwork | Sequence[Predictor] | Sequence[OnnxNetwork]

CLASSIFIER, SEGMENTER = "classifier", "segmenter"
NO_NODULE = "no nodule found"
OUTSIDE = "attention outside the predicted nodule"
BATCH = 8  # images in memory at once, fewer where they are large:
BATCH_PIXELS = 2**22  # an image takes some 25 bytes a pixel


class DualStage:
    """A classifier and a segmenter, or an ensemble of each, that look at the same images.

    The classifier sees whole frames, as in the paper; one that was trained on crops around the nodule (step `nodule_crop`) sees
    crops around the segmenter's mask, and the whole frame where that is empty. Both may be the same joint run. Each prepares its
    own input, in its own size and channels. Calibration, threshold and conformal sets come from the classifier's validation
    images, whose predictions its run holds; the calibration is the slope and intercept of the log-odds that fit them best.

    Of several runs of one recipe (seeds, folds) the answer is the mean of their maps and of their log-odds, each calibrated by
    its own validation; attention is the mean of theirs, and the uncertainty how far they disagree. Threshold and sets are made
    of what they say of images that they were not trained on (`ensemble.held_out`). All of them may answer for new images alone;
    for those of their data set see `by_split`.

    Args:
        classifier: of a finished run, or a file made of it, of task classification or joint; or several of one recipe.
        segmenter: of a finished run of task segmentation or joint; or several of one recipe.
        alpha: share of conformal sets that may miss the truth, in (0, 1).
        mirror: answers are means over the image and its left-right mirror image.
        layer: path of the classifier's module whose map is its attention, such as "layer3" of a ResNet; None or "" takes the last
            one, which has few places on small images.
        scores: role → by which the networks are believed; None takes that of their own test images.
        known: role → what is known of networks from files, which have no gradients for attention; None asks the runs.

    Raises:
        DataError: runs of another task, or several that are no ensemble (`ensemble.check_ensemble`).
        ValueError: an impossible alpha, no module of that path, or a classifier that has no layer known to Grad-CAM.
    """

    def __init__(self, classifier: Given, segmenter: Given, alpha: float = 0.1, layer: str | None = None, mirror: bool = False,
                 scores: Mapping[str, Estimate] | None = None, known: Mapping[str, Known] | None = None):  # fmt: skip
        self.alpha, self._options = alpha, {"layer": layer, "mirror": mirror}
        given = {CLASSIFIER: classifier, SEGMENTER: segmenter}
        several = {role: found if isinstance(found, Sequence) else [found] for role, found in given.items()}
        self.networks = {role: Ensemble(found, mirror) for role, found in several.items()}
        self.classifier, self.segmenter = (found.predictors[0] for found in self.networks.values())  # the first of each
        for role, predictor in self.roles():
            run = predictor.run
            if run.config.task not in (TASKS[role], "joint"):
                raise DataError(
                    f"the {role} is run {run.name} ({run.config.model.name}, task {run.config.task}); expected a run of task "
                    f"{TASKS[role]} or joint; give the two the other way round if you exchanged them"
                )
        self.explains = known is None
        if self.explains:
            from thyroid_utils.inference.cam import chosen_layer

            asked, size = self.networks[CLASSIFIER], tuple(self.classifier.run.data["input"][1:])
            self._layers = [chosen_layer(predictor.network, layer, size) for predictor in asked.predictors]
        self.known = known or {role: known_of(role, found.predictors, alpha) for role, found in self.networks.items()}
        self.threshold, self._calibrations = self.known[CLASSIFIER].threshold, self.known[CLASSIFIER].calibrations
        self.scores = scores or {role: found.score for role, found in self.known.items()}
        self.above_chance = self.scores[CLASSIFIER].low > CHANCE
        self.fair_outlines = self.scores[SEGMENTER].value >= FAIR_DICE
        self._familiar = {role: Familiar(found.ranges) for role, found in self.known.items()}
        self.notes = tuple(dict.fromkeys(self._notes()))

    def roles(self) -> list[tuple[str, Predictor]]:
        """Every network with what it is for."""
        return [(role, predictor) for role, found in self.networks.items() for predictor in found.predictors]

    def by_split(self) -> list[DualStage]:
        """A stage of the networks of each split: of its test images no other network may say anything. Of one split: itself.
        All are believed as far as all of them together.

        Raises:
            DataError: a split of which there are not both, classifiers and segmenters.
        """
        parts: dict[tuple[str, str], dict[str, list[Predictor]]] = {}
        for role, predictor in self.roles():
            split = predictor.run.data["split_hash"], predictor.run.data["fingerprint"]
            parts.setdefault(split, {}).setdefault(role, []).append(predictor)
        if len(parts) == 1:
            return [self]
        if any(len(part) < len(TASKS) for part in parts.values()):
            raise DataError("dual-stage: classifiers and segmenters have different splits; train both on the same images")
        return [DualStage(**part, alpha=self.alpha, scores=self.scores, **self._options) for part in parts.values()]

    def _notes(self) -> Iterator[str]:
        """What a reader should know of the two runs, as sentences without a full stop."""
        if not self.above_chance:
            below = self.scores[CLASSIFIER].high < CHANCE
            told = "below chance on its own test images: its probabilities tell nothing"
            yield f"the classifier is {told if below else 'not shown to be above chance on its own test images'}"
        if np.isnan(self.scores[SEGMENTER].value):
            yield "how well the segmenter outlines was not measured: its own test images have no nodule"
        elif not self.fair_outlines:
            yield f"the segmenter's outlines are poor: on its own test images their Dice is below {FAIR_DICE:g}"
        if self._options["mirror"]:
            yield "answers are means over an image and its mirror image; threshold and sets were made of images as they are"
        for role, predictor in self.roles():
            if predictor.run.data["recipe"] != RECIPE:
                yield f"the {role} was trained by another version of the code, which may have preprocessed images otherwise"
            if predictor.run.data["leaky"]:
                yield f"the {role} was trained on a split that leaks: its own test scores, and thresholds, are too good"
        if self.crops:
            yield (
                "the classifier was trained on crops around true masks, as were its threshold, calibration and conformal sets "
                "made; here it sees crops around predicted ones"
            )
        if all(idle := [calibration.slope == 0 for calibration in self._calibrations]):
            yield "the classifier ranks its validation images no better than chance: all get one probability, and one call"
        elif any(idle):
            yield f"{sum(idle)} of {len(idle)} classifiers rank validation images no better than chance and say one probability"
        if any("brightness" not in known.ranges for known in self._familiar.values()):
            yield "the training images are not at hand, so that images unlike them are not told"
        if few := self.known[CLASSIFIER].note:
            yield few
        if not self.explains:
            yield "where the classifier looks (Grad-CAM) is left out: it takes gradients, so that predict needs runs and PyTorch"

    @property
    def crops(self) -> bool:
        """Whether the classifier sees the nodule that the segmenter found, instead of the whole frame."""
        return self.classifier.pipeline.needs_mask

    def findings(self, images: Iterable[CaseImage]) -> Iterator[Finding]:
        """One finding an image, in their order, a batch of them in memory at a time."""
        images = iter(images)
        while True:
            spent = dict.fromkeys(STAGES, 0.0)
            with _timed(spent, "read"):  # an iterator may read its files as it is asked for them
                batch = _next_batch(images)
            if not batch:
                return
            self._look(batch, spent)
            for finding in batch:
                finding.samples = {}
                finding.seconds = {stage: seconds / len(batch) for stage, seconds in spent.items()}
                yield finding

    def _look(self, batch: list[Finding], spent: dict[str, float]) -> None:
        """Fill in what both networks say."""
        good = self._prepared(SEGMENTER, batch, spent)
        if good:
            self._segment(good, spent)
        good = self._prepared(CLASSIFIER, good, spent)
        if good:
            self._judge(good, spent)

    def _prepared(self, role: str, batch: list[Finding], spent: dict[str, float]) -> list[Finding]:
        """Those of which a network can be given its input, which they then hold."""
        networks = self.networks[role]
        with _timed(spent, "preprocess"):
            for finding in batch:
                try:
                    if not finding.error:
                        finding.samples[role] = networks.prepare(finding.frame, finding.mask)
                except (DataError, cv2.error) as error:
                    finding.error = f"cannot be prepared for the {role}: {' '.join(str(error).split())}"
        return [finding for finding in batch if not finding.error]

    def _segment(self, batch: list[Finding], spent: dict[str, float]) -> None:
        samples = [finding.samples[SEGMENTER] for finding in batch]
        with _timed(spent, "segment"):
            maps = self.networks[SEGMENTER].answers("maps", samples)  # (networks, n, height, width)
            for finding, found in zip(batch, maps.mean(axis=0), strict=True):
                finding.map = finding.samples[SEGMENTER][0].geometry.to_original(found, smooth=True)
                finding.mask = binarise(finding.map)
        with _timed(spent, "uncertainty"):
            views = maps if len(maps) > 1 else self._views(self.segmenter.maps, samples, maps[0])
            doubts = map_uncertainty(views)[["disagreement", "soft_dice_loss"]].add_prefix("map_").to_dict("records")
        for finding, doubt in zip(batch, doubts, strict=True):
            finding.uncertainty = doubt

    def _judge(self, batch: list[Finding], spent: dict[str, float]) -> None:
        """The classifiers' answer, and what the masks, which are there, say of it."""
        networks, samples = self.networks[CLASSIFIER], [finding.samples[CLASSIFIER] for finding in batch]
        with _timed(spent, "classify"):
            odds = networks.answers("log_odds", samples)  # (networks, n)
            calibrated = np.stack([scale.log_odds(row) for scale, row in zip(self._calibrations, odds, strict=True)])
            probabilities, uncalibrated = expit(calibrated.mean(axis=0)), expit(odds.mean(axis=0))
            called, sets = probabilities >= self.threshold, self._sets(probabilities)
        with _timed(spent, "explain"):
            attention = self._attention(samples, called) if self.explains else None
        with _timed(spent, "uncertainty"):
            if len(odds) == 1:
                calibrated = self._calibrations[0].log_odds(self._views(self.classifier.log_odds, samples, odds[0]))
            spread = label_uncertainty(expit(calibrated), self.threshold)["sd"]
        for at, finding in enumerate(batch):
            finding.probability, finding.uncalibrated = float(probabilities[at]), float(uncalibrated[at])
            finding.threshold, finding.called = self.threshold, bool(called[at])
            finding.labels = tuple(name for name in CLASSES if sets[name].iloc[at])
            finding.uncertainty |= {"entropy": float(binary_entropy(probabilities[at])), "sd": float(spread[at])}
            finding.networks = tuple(len(found.predictors) for found in self.networks.values())
            if attention is not None:
                finding.attention = finding.samples[CLASSIFIER][0].geometry.to_original(attention[at], smooth=True)
                finding.attention_inside, finding.attention_by_chance = _share_inside(finding)
            with _timed(spent, "measure"):
                finding.measures = nodule_measures(finding.mask, luma(finding.frame), finding.spacing)
            finding.above_chance = self.above_chance
            finding.warnings = (*self._doubts(finding), *self._warnings(finding), *finding.warnings)

    def _attention(self, samples: list[list[Sample]], called: np.ndarray) -> np.ndarray:
        """Grad-CAM of the class that each image is called, mean over networks, (n, height, width) of the classifiers' input."""
        from thyroid_utils.inference.cam import cam_maps

        maps = []
        for at, predictor in enumerate(self.networks[CLASSIFIER].predictors):
            inputs, network = _inputs(samples, at), predictor.answering(TASKS[CLASSIFIER])
            maps.append(np.zeros(inputs[:, 0].shape, np.float32))
            for target in (0, 1):
                rows = called == bool(target)
                if rows.any():
                    maps[-1][rows] = cam_maps(network, inputs[rows], target=target, layer=self._layers[at]).maps
        return np.mean(maps, axis=0)

    def _views(self, answer: Callable[[np.ndarray], np.ndarray], samples: list[list[Sample]], known: np.ndarray) -> np.ndarray:
        """What the only network of a role says of mirrored and shifted views, (views, n, …); known: its answer."""
        return augmented_views(answer, _inputs(samples), first=None if self._options["mirror"] else known)

    def _sets(self, probabilities: np.ndarray) -> pd.DataFrame:
        return sets_within(self.known[CLASSIFIER].quantiles, probabilities)

    def _doubts(self, finding: Finding) -> list[str]:
        """Why the image, the class or the outline is not to be believed; the last of these is noted on the finding."""
        odd = [known.odd_image(finding.frame) for known in self._familiar.values()]
        told = [f"an image unlike those of training: {facts}" for facts in dict.fromkeys(odd) if facts]
        if not self.above_chance:
            told.append("the classifier is not shown to be above chance on its own test images")
        if not finding.mask.any():
            return told
        if outline := self._familiar[SEGMENTER].odd_outline(finding.measures, finding.mask.shape):
            told.append(f"an outline unlike those of training: {outline}")
        elif not self.fair_outlines:
            dice = self.scores[SEGMENTER].value
            had = "were not measured" if np.isnan(dice) else f"had a Dice of {number(dice)}"
            told.append(f"the segmenter's outlines {had} on its own test images")
        finding.outline_doubtful = bool(outline) or not self.fair_outlines
        return told

    def _warnings(self, finding: Finding) -> Iterator[str]:
        measures = finding.measures
        if not finding.mask.any():
            yield f"{NO_NODULE}, so the classifier saw the whole frame" if self.crops else NO_NODULE
        elif self.crops and not finding.samples[CLASSIFIER][0].mask.any():
            yield "the nodule lies outside what the classifier's preprocessing keeps, so it saw all of that"
        elif measures["nodules"] > 1:
            yield f"{measures['nodules']:.0f} nodules found, the largest is measured"
        if measures["touches_border"] == 1:
            yield "the nodule reaches the border of the frame or of the echo image, so that its sizes are lower bounds"
        if finding.attention is not None and not finding.attention.any():
            yield "the attention map is blank"
        elif finding.attention_inside <= finding.attention_by_chance:
            yield OUTSIDE
        if not finding.labels:
            yield "neither label fits: an image unlike those of validation"
        elif finding.called_name not in finding.labels:
            yield "the call is not in the conformal set"
        if finding.frame.ndim == 3:
            yield "colour image, read as gray"


def _next_batch(images: Iterator[CaseImage]) -> list[Finding]:
    """Up to `BATCH` images, or as many as are needed for `BATCH_PIXELS`; none at the end."""
    batch, pixels = [], 0
    while len(batch) < BATCH and pixels < BATCH_PIXELS and (image := next(images, None)) is not None:
        batch.append(begun(image))
        pixels += 0 if (frame := batch[-1].frame) is None else frame.shape[0] * frame.shape[1]
    return batch


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that pass to those of a stage."""
    began = time.perf_counter()
    yield
    spent[stage] += time.perf_counter() - began


def _inputs(samples: Sequence[Sequence[Sample]], network: int = 0) -> np.ndarray:
    """What a network is given, float32 (n, channels, height, width)."""
    return np.stack([own[network].image for own in samples])


def _share_inside(finding: Finding) -> tuple[float, float]:
    """Share of the attention's sum inside the mask, and the mask's share of what the classifier looks at."""
    sample = finding.samples[CLASSIFIER][0]
    seen = sample.geometry.to_original(np.ones(sample.image.shape[1:], bool))
    inside, attention = finding.mask & seen, finding.attention
    if not inside.any() or not attention.any():
        return float("nan"), float("nan")
    return float(attention[finding.mask].sum() / attention.sum()), float(inside.sum() / seen.sum())
