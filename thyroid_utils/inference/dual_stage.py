"""Paper 000's framework on any images: a classifier and a segmenter, and what both say of an image as one finding.

Images come and go a batch at a time, so that memory does not grow with their number; an image that cannot be used becomes a
finding with an `error`, and the others go on. For research only: nothing here is a medical device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import length_hint
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.cam import cam_maps
from thyroid_utils.inference.conformal import CLASSES, conformal_sets
from thyroid_utils.inference.findings import Clock, Finding, Findings, Item, left_whole, read_item
from thyroid_utils.inference.layers import TargetLayer, named_layer, target_layer
from thyroid_utils.inference.nodule_measures import nodule_measures
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import augmented_views, binary_entropy, label_uncertainty, map_uncertainty
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import Resize, luma
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import binarise
from thyroid_utils.scores.probabilities import fit_platt, logit
from thyroid_utils.training.data import input_pipeline
from thyroid_utils.training.ledger import RECIPE, Run

CLASSIFIER, SEGMENTER = "classifier", "segmenter"
NO_NODULE = "no nodule found"
OUTSIDE = "attention outside the predicted nodule"
_TASKS = {CLASSIFIER: "classification", SEGMENTER: "segmentation"}
_SERVES = {role: (task, "joint") for role, task in _TASKS.items()}
_SHIFT = 4  # pixels of a network's input that views are shifted by, for the uncertainty


class DualStage:
    """A classifier and a segmenter that look at the same images.

    The classifier sees whole frames, as in the paper; one that was trained on crops around the nodule (step `nodule_crop`) sees
    crops around the segmenter's mask, and the whole frame where that is empty. Both may be the same joint run. Each prepares its
    own input, in its own size and channels. Calibration, threshold and conformal sets come from the classifier's validation
    images, whose predictions its run holds; the calibration is the slope and intercept of the log-odds that fit them best.

    Args:
        classifier: finished run of task classification or joint.
        segmenter: finished run of task segmentation or joint.
        alpha: share of conformal sets that may miss the truth, in (0, 1).
        batch_size: images in memory at once.
        layer: path of the classifier's module whose map is its attention, such as "layer3" of a ResNet; None or "" takes the last
            one, which has few places on small images.

    Raises:
        DataError: runs given the other way round or of another task; a run trained on images of another form than
            its preprocessing gives; training images that are not there, where a run of an older version
            holds no µ and σ of them.
        ValueError: an impossible alpha or batch_size, no module of that path, or a classifier that has no layer known to
            Grad-CAM.
    """

    def __init__(
        self,
        classifier: Run | Predictor,
        segmenter: Run | Predictor,
        alpha: float = 0.1,
        *,
        batch_size: int = 8,
        layer: str | None = None,
    ):
        runs = [given.run if isinstance(given, Predictor) else given for given in (classifier, segmenter)]
        check_roles(*runs)
        for role, run in zip((CLASSIFIER, SEGMENTER), runs, strict=True):
            check_input(role, run)
        self.classifier, self.segmenter = (
            given if isinstance(given, Predictor) else Predictor(given, batch_size=batch_size)
            for given in (classifier, segmenter)
        )
        # Fitted now, so that what is missing is said before the first image.
        self.pipelines = {CLASSIFIER: left_whole(self.classifier.pipeline), SEGMENTER: self.segmenter.pipeline}
        network = self.classifier.network
        own = TargetLayer(named_layer(network.network, layer)) if layer else None
        self._layer = own or target_layer(network, tuple(runs[0].data["input"][1:]))
        self.alpha, self.batch_size = alpha, batch_size
        known = runs[0].predictions.query("split == 'val'")
        odds, self._truth = known["log_odds"].to_numpy(float), known["label"].to_numpy(int)
        self.calibration = fit_platt(self._truth, odds)
        self._known, self._patients = self.calibration(odds), known["patient"].to_numpy(object)
        self.threshold = choose_threshold(self._truth, self._known)
        few = self._sets(np.array([0.5])).attrs["note"]
        self.notes = (*run_notes(self.classifier, self.segmenter), *self._calibration_note(), *([few] if few else []))

    @property
    def crops(self) -> bool:
        """Whether the classifier sees the nodule that the segmenter found, instead of the whole frame."""
        return self.classifier.pipeline.needs_mask

    def predict(self, images: Iterable, progress: Progress | None = None, *, keep: int | Sequence[str] = 0) -> Findings:
        """`findings` as a table.

        Args:
            images, progress: as for `findings`.
            keep: how many findings, from the first on, or which cases are kept whole, with their arrays.
        """
        rows, kept = [], {}
        for number, finding in enumerate(self.findings(images, progress)):
            rows.append(finding.row())
            if number < keep if isinstance(keep, int) else finding.case in keep:
                kept[finding.case] = finding
        table = pd.DataFrame(rows, columns=list(Finding("").row())).astype({"height": "Int64", "width": "Int64"})
        return Findings(table.set_index("case"), kept, self.notes)

    def findings(self, images: Iterable, progress: Progress | None = None) -> Iterator[Finding]:
        """One finding an image, in their order, a batch of them in memory at a time.

        Args:
            images: any number of frames (uint8, (height, width) or RGB), paths or `CaseImage`s. Frames and paths are called
                image-0001, image-0002, … by their place: a file's name may be a patient's.
            progress: called with (images done, images in all), or with (done, done) where their number is not known.
        """
        total, done, numbered = length_hint(images), 0, iter(enumerate(images, 1))
        while True:
            clock = Clock()
            with clock("read"):  # an iterator may read its files as it is asked for them
                items = [read_item(number, image) for number, image in islice(numbered, self.batch_size)]
            if not items:
                return
            for finding in self._found(items, clock):
                done += 1
                yield finding
                if progress is not None:
                    progress(done, max(total, done))

    def _found(self, items: list[Item], clock: Clock) -> list[Finding]:
        """The findings of a batch."""
        good = [item for item in items if not item.error]
        good = self._prepared(SEGMENTER, good, clock)
        good = good if self.crops else self._prepared(CLASSIFIER, good, clock)
        if good:
            self._segment(good, clock)
        good = self._prepared(CLASSIFIER, good, clock) if self.crops else good
        answers = iter(self._answers(good, clock) if good else ())
        findings = [
            Finding(item.case, item.error, item.frame, item.spacing, **({} if item.error else next(answers))) for item in items
        ]
        seconds = {stage: spent / len(items) for stage, spent in clock.spent.items()}
        return [replace(finding, seconds=seconds) for finding in findings]

    def _prepared(self, role: str, items: list[Item], clock: Clock) -> list[Item]:
        """Those items of which a network can be given its input, which they then hold."""
        with clock("preprocess"):
            for item in items:
                try:
                    item.samples[role] = self.pipelines[role](item.frame, item.mask)
                except (DataError, cv2.error) as error:
                    item.error = f"cannot be prepared for the {role}: {' '.join(str(error).split())}"
        return [item for item in items if not item.error]

    def _segment(self, items: list[Item], clock: Clock) -> None:
        with clock("segment"):
            for item, found in zip(items, self.segmenter.maps(_inputs(SEGMENTER, items)), strict=True):
                item.map = item.samples[SEGMENTER].geometry.to_original(found, smooth=True)
                item.mask = binarise(item.map)

    def _answers(self, items: list[Item], clock: Clock) -> list[dict]:
        """The fields of a finding for each item, whose map is there."""
        inputs = _inputs(CLASSIFIER, items)
        with clock("classify"):
            odds = self.classifier.log_odds(inputs)
            probabilities = self.calibration(odds)
            called, sets = probabilities >= self.threshold, self._sets(probabilities)
        with clock("explain"):
            attention = self._attention(inputs, called, items)
        with clock("uncertainty"):
            doubts = self._uncertainty(probabilities, inputs, _inputs(SEGMENTER, items))
        answers = []
        for at, item in enumerate(items):
            with clock("measure"):
                gray = luma(item.frame)
                measures = nodule_measures(item.mask, gray, item.spacing)
            inside, chance = _share_inside(attention[at], item)
            found = {
                "probability": float(probabilities[at]),
                "uncalibrated": float(expit(odds[at])),
                "threshold": self.threshold,
                "called": bool(called[at]),
                "labels": tuple(name for name in CLASSES if sets[name].iloc[at]),
                "map": item.map,
                "mask": item.mask,
                "attention": attention[at],
                "attention_inside": inside,
                "attention_by_chance": chance,
                "uncertainty": doubts[at],
                "measures": measures,
            }
            answers.append(found | {"warnings": self._warnings(found, item)})
        return answers

    def _attention(self, inputs: np.ndarray, called: np.ndarray, items: list[Item]) -> list[np.ndarray]:
        """Grad-CAM of the class that each image is called, on its frame."""
        network = self.classifier.answering(_TASKS[CLASSIFIER])
        maps = np.zeros(inputs[:, 0].shape, np.float32)
        for target in (0, 1):
            rows = called == bool(target)
            if rows.any():
                maps[rows] = cam_maps(network, inputs[rows], target=target, layer=self._layer, batch_size=len(inputs)).maps
        return [item.samples[CLASSIFIER].geometry.to_original(one, smooth=True) for item, one in zip(items, maps, strict=True)]

    def _uncertainty(self, probabilities: np.ndarray, inputs: np.ndarray, pixels: np.ndarray) -> list[dict[str, float]]:
        """Entropy of what is told, and how far mirrored and shifted views of each network's input disagree."""
        views = self.calibration(logit(augmented_views(_as(self.classifier, CLASSIFIER), inputs, _SHIFT)))
        labels = label_uncertainty(views, self.threshold)
        labels["entropy"] = binary_entropy(probabilities)
        maps = map_uncertainty(augmented_views(_as(self.segmenter, SEGMENTER), pixels, _SHIFT))
        joined = labels[["entropy", "sd"]].join(maps[["disagreement", "soft_dice_loss"]].add_prefix("map_"))
        return [{str(name): float(value) for name, value in row.items()} for row in joined.to_dict("records")]

    def _sets(self, probabilities: np.ndarray) -> pd.DataFrame:
        return conformal_sets(self._known, self._truth, probabilities, self.alpha, val_patients=self._patients)

    def _warnings(self, found: dict, item: Item) -> tuple[str, ...]:
        measures, said = found["measures"], []
        if not found["mask"].any():
            said.append(f"{NO_NODULE}, so the classifier saw the whole frame" if self.crops else NO_NODULE)
        elif self.crops and not item.samples[CLASSIFIER].mask.any():
            said.append("the nodule lies outside what the classifier's preprocessing keeps, so it saw all of that")
        elif measures["nodules"] > 1:
            said.append(f"{measures['nodules']:.0f} nodules found, the largest is measured")
        if measures["touches_border"] == 1:
            said.append("the nodule reaches the frame's border, so that its sizes are lower bounds")
        if not found["attention"].any():
            said.append("the attention map is blank")
        elif found["attention_inside"] <= found["attention_by_chance"]:
            said.append(OUTSIDE)
        if not found["labels"]:
            said.append("neither label fits: an image unlike those of validation")
        elif CLASSES[found["called"]] not in found["labels"]:
            said.append("the call is not in the conformal set")
        if item.frame.ndim == 3:
            said.append("colour image, read as gray")
        return tuple(said)

    def _calibration_note(self) -> list[str]:
        if self.calibration.slope > 0:
            return []
        return ["the classifier ranks its validation images no better than chance: all get one probability, and one call"]


def _inputs(role: str, items: Sequence[Item]) -> np.ndarray:
    """float32 (n, channels, height, width)."""
    return np.stack([item.samples[role].image for item in items])


def _as(predictor: Predictor, role: str) -> Predictor | SimpleNamespace:
    """A joint run's predictor as one that answers a single question."""
    if predictor.run.config.task == _TASKS[role]:
        return predictor
    run = SimpleNamespace(config=SimpleNamespace(task=_TASKS[role]))
    return SimpleNamespace(run=run, log_odds=predictor.log_odds, maps=predictor.maps)


def _share_inside(attention: np.ndarray, item: Item) -> tuple[float, float]:
    """Share of the attention's sum inside the mask, and the mask's share of what the classifier looks at."""
    sample = item.samples[CLASSIFIER]
    seen = sample.geometry.to_original(np.ones(sample.image.shape[1:], bool))
    if not (item.mask & seen).any() or not attention.any():
        return float("nan"), float("nan")
    return float(attention[item.mask].sum() / attention.sum()), float((item.mask & seen).sum() / seen.sum())


def check_roles(classifier: Run, segmenter: Run) -> None:
    """Raise DataError where a run is of a task that its stage cannot use, saying so where the two are only exchanged."""
    given = {CLASSIFIER: classifier, SEGMENTER: segmenter}
    wrong = {role: run for role, run in given.items() if run.config.task not in _SERVES[role]}
    if len(wrong) == 2:
        raise DataError(
            f"the classifier is {_shown(classifier)} and the segmenter {_shown(segmenter)}: give them the other way round"
        )
    for role, run in wrong.items():
        raise DataError(f"the {role} is {_shown(run)}; expected a run of task {' or '.join(_SERVES[role])}")


def check_input(role: str, run: Run) -> None:
    """Raise DataError where images would reach a run's network in another form than in its training. role: for the message."""
    own = input_pipeline(run.config)
    trained, now = tuple(run.data["input"]), (own.channels, *_size(own))
    if trained != now:
        raise DataError(
            f"the {role}, {_shown(run)}, was trained on images of {_form(trained)}, and its preprocessing now gives "
            f"{_form(now)}; train it again, or use the version of the workbook that trained it"
        )


def run_notes(classifier: Predictor, segmenter: Predictor) -> list[str]:
    """What a reader should know of two runs, as sentences without a full stop."""
    said = []
    for role, predictor in ((CLASSIFIER, classifier), (SEGMENTER, segmenter)):
        if predictor.run.data["recipe"] != RECIPE:
            said.append(f"the {role} was trained by another version of the code, which may have preprocessed images otherwise")
        if predictor.run.data["leaky"]:
            said.append(f"the {role} was trained on a split by image: its own test scores, and thresholds, are too good")
    if classifier.pipeline.needs_mask:
        said.append(
            "the classifier was trained on crops around true masks, as were its threshold, calibration and conformal sets made; "
            "here it sees crops around predicted ones"
        )
    return said


def _shown(run: Run) -> str:
    return f"run {run.name} ({run.config.model.name}, task {run.config.task})"


def _size(pipeline: Pipeline) -> tuple[int, int]:
    """Height and width of what a pipeline gives."""
    size = next(step.size for step in pipeline.steps if isinstance(step, Resize))
    return (size, size) if isinstance(size, int) else tuple(size)


def _form(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} channel{'s' * (shape[0] != 1)} of {shape[1]}×{shape[2]} pixels"
