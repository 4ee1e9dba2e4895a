"""Networks of one recipe that answer together: several training seeds, folds or random subsets of one data set.

A new image is answered by all of them, by the mean of their maps and of their log-odds, each calibrated by its own validation. An
image of the data set may be answered only by networks that were not trained on it: of one split those of all seeds, of several
splits those that have it among their test images (`held_out`, `seed_ensemble`, `DualStage.by_split`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, listed
from thyroid_utils.preprocess.steps import Sample
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.probabilities import Platt, fit_platt, logit
from thyroid_utils.training.folds import FoldedRun, calibrations_of, of_one_split
from thyroid_utils.training.ledger import Run

if TYPE_CHECKING:
    from thyroid_utils.inference.predictor import Predictor

# What the runs of an ensemble have in common, by its name in an error.
_SHARED: dict[str, Callable[[Run], object]] = {
    "task": lambda run: run.config.task,
    "options of the data set, which say what its classes are": lambda run: run.config.data.options,
    "images or labels": lambda run: run.data["fingerprint"],
    "size of the input": lambda run: "×".join(map(str, run.data["input"])),
    "unit or leak of the split": lambda run: run.config.split.label,  # by image, test patients are met in training
    "recipe of training": lambda run: run.config.recipe,
}


def check_ensemble(runs: Sequence[Run]) -> None:
    """Raise DataError where runs cannot be an ensemble: none, one given twice, or runs that differ in more than seed and split.
    The message names the first thing that they differ in."""
    if not runs:
        raise DataError("ensemble: no run; give one or more")
    if len({run.name for run in runs}) < len(runs):
        raise DataError(f"ensemble: {len(runs)} runs were given, not all different; give each once")
    for name, of in _SHARED.items():
        if len(found := {str(of(run)) for run in runs}) > 1:
            told = f": {listed(sorted(found))}" if max(map(len, found)) < 60 else ""
            raise DataError(f"ensemble: the runs differ in their {name}{told}; give runs of one recipe, by seed or fold")


def held_out(runs: Sequence[Run], split: str = "", fold: int | None = None) -> pd.DataFrame:
    """What classifiers say of images that they were not trained on, for thresholds, prediction sets and scores of an ensemble.

    Networks of one split share validation images, and all of them answer. Those of folds share none: each image is answered by
    the networks that were tested on it. These are fewer than answer a new image, whose mean strays less, so that prediction sets
    made of them hold the truth more often than was promised (in 93 % for 90 %, of five simulated folds).

    Args:
        runs: that `check_ensemble` accepts.
        split: "val" or "test"; "" takes "val" of one split, and "test" of several.
        fold: whose networks alone are asked, from 0; None asks all.

    Returns:
        index `case`; `patient`, `label`, and `log_odds`, the mean of the calibrated ones.
    """
    side = split or ("val" if of_one_split(runs) else "test")
    tables = []
    for run, calibration in zip(runs, calibrations_of(runs), strict=True):
        if fold in (None, run.config.split.fold):
            table = run.predictions[run.predictions["split"] == side]
            tables.append(table.assign(log_odds=calibration.log_odds(table["log_odds"])))
    columns = {"patient": "first", "label": "first", "log_odds": "mean"}
    return pd.concat(tables).groupby(level="case", sort=False).agg(columns)


def seed_ensemble(runs: Sequence[Run], cases: Sequence[str]) -> np.ndarray:
    """What runs that differ in their seed say of the same test images, read from the ledger.

    Classifiers are brought to one scale first (`at_one_scale`): a seed's probabilities mean what its own threshold and its own
    slope make of them. Raw ones, averaged and called at one seed's threshold, are wrong wherever seeds lie elsewhere.

    Args:
        runs: that `check_ensemble` accepts.
        cases: test images, n.

    Returns:
        samples (runs, n), each to be called malignant from 0.5 on; or, of segmenters, float32 (runs, n, height, width).

    Raises:
        DataError: a run that was not tested on some image: it may have been trained on it.
    """
    for run in runs:
        if met := len(set(cases) - set(run.predictions.index[run.predictions["split"] == "test"])):
            raise DataError(
                f"ensemble: run {run.name} was not tested on {met} of {count(len(cases), 'image')}; of the data set's own images "
                "only networks that were not trained on them may say anything: give runs of one split"
            )
    if runs[0].config.task == "segmentation":
        return np.stack([run.maps("test", cases)[1] for run in runs])
    return np.stack([one_scale_on_test(run)[list(cases)] for run in runs])


def at_one_scale(predictions: pd.DataFrame) -> pd.Series:
    """A classifier's answers as probabilities whose threshold is 0.5, to be averaged with those of others.

    σ(a · (log-odds − those of the threshold)), the threshold by Youden's rule and the slope a by Platt's, both on validation: a
    run that is sure of everything then weighs as much as it is right, and one that ranks validation images no better than chance
    says 0.5 of all. Where every run does, there is no ensemble to ask.

    Args:
        predictions: of a run: index `case`; `split`, `label`, `probability`, `log_odds`.

    Returns:
        by case, in [0, 1].
    """
    known = predictions[predictions["split"] == "val"]
    threshold = choose_threshold(known["label"], known["probability"])
    slope = fit_platt(known["label"], known["log_odds"]).slope
    return expit(slope * (predictions["log_odds"] - logit(threshold)))


def one_scale_on_test(run: Run | FoldedRun) -> pd.Series:
    """`at_one_scale` of a run's test images, of folds each by the validation of its own."""
    tables = [fold.predictions for fold in run.folds]
    return pd.concat([at_one_scale(table)[table["split"].eq("test").to_numpy(bool)] for table in tables])


def mirrored(answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """What a network says of the left-right mirror images of its inputs (n, channels, height, width), maps mirrored back."""
    found = answer(np.ascontiguousarray(inputs[..., ::-1]))
    return found[..., ::-1] if found.ndim == 3 else found


class Ensemble:
    """Networks that answer together, each given the image as it was trained; one network is an ensemble of one.

    Args:
        predictors: of finished runs that `check_ensemble` accepts, or `OnnxNetwork`s made of them.
        mirror: each network answers by the mean over the image and its left-right mirror image; depth has a meaning and stays.

    Raises:
        DataError: of `check_ensemble`.
    """

    def __init__(self, predictors: Sequence[Predictor], mirror: bool = False):
        self.predictors, self.mirror = list(predictors), mirror
        check_ensemble(self.runs)

    @property
    def runs(self) -> list[Run]:
        return [predictor.run for predictor in self.predictors]

    @cached_property
    def calibrations(self) -> list[Platt]:
        """Of the log-odds of classifiers' runs (`calibrations_of`)."""
        return calibrations_of(self.runs)

    def prepare(self, frame: np.ndarray, mask: np.ndarray | None) -> list[Sample]:
        """What each network is given of a frame; arguments and errors as of a `Pipeline`."""
        made: dict[str, Sample] = {}  # folds may scale by numbers of their own training images
        keys = [str(predictor.run.data["fitted"]) for predictor in self.predictors]
        for key, predictor in zip(keys, self.predictors, strict=True):
            if key not in made:
                made[key] = predictor.pipeline(frame, mask)
        return [made[key] for key in keys]

    def answers(self, what: str, samples: Sequence[Sequence[Sample]]) -> np.ndarray:
        """What each network says of what `prepare` made of n images: "log_odds", before calibration, (networks, n), or "maps" at
        its resolution, float32 (networks, n, height, width)."""
        answers = []
        for at, predictor in enumerate(self.predictors):
            inputs, ask = np.stack([own[at].image for own in samples]), getattr(predictor, what)
            found = ask(inputs)
            answers.append((found + mirrored(ask, inputs)) / 2 if self.mirror else found)
        return np.stack(answers)
