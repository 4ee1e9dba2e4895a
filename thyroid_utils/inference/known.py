"""What is known of networks that answer together, besides their answers: by runs, or in a file that was made of them.

Numbers only, of no single patient, so that they may go along with a network that is given away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from thyroid_utils.inference.conformal import conformal_sets
from thyroid_utils.inference.doubts import familiar, own_scores
from thyroid_utils.inference.ensemble import held_out
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.probabilities import Platt
from thyroid_utils.training.folds import calibrations_of

if TYPE_CHECKING:
    from thyroid_utils.inference.predictor import Predictor

SCORES = {"classifier": "AUC", "segmenter": "Dice"}  # by which the networks of a role are believed
TASKS = {"classifier": "classification", "segmenter": "segmentation"}


@dataclass(frozen=True)
class Known:
    """Of the networks of one role.

    score: on their own test images. ranges: as of `doubts.Familiar`. The rest is the classifiers' alone: calibrations of the
    log-odds, one a network; threshold of the calibrated probability; alpha, quantiles and note as of `conformal_sets`.
    """

    score: Estimate
    ranges: dict[str, tuple[float, float, int]]
    calibrations: tuple[Platt, ...] = ()
    threshold: float = math.nan
    alpha: float = math.nan
    quantiles: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; what is no finite number is None."""
        return finite(asdict(self))

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Known:
        """What `to_json` has made: None is NaN again, of a quantile infinity."""
        numbers = {name: math.nan if told[name] is None else told[name] for name in ("threshold", "alpha")}
        quantiles = {name: math.inf if value is None else value for name, value in told["quantiles"].items()}
        ranges = {name: tuple(values) for name, values in told["ranges"].items()}
        scales = tuple(Platt(**scale) for scale in told["calibrations"])
        return cls(estimate_of_json(told["score"]), ranges, scales, quantiles=quantiles, note=told["note"], **numbers)


def estimate_of_json(told: Mapping[str, Any]) -> Estimate:
    """What `finite` has made of an `Estimate`'s fields."""
    return Estimate(**{name: math.nan if value is None else value for name, value in told.items()})


def finite(value: Any) -> Any:
    """A value as JSON has it: what is no finite number is None, tuples are lists."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def known_of(role: str, predictors: Sequence[Predictor], alpha: float = 0.1) -> Known:
    """What the runs of a role hold.

    Args:
        role: of `SCORES`.
        predictors: of finished runs that `ensemble.check_ensemble` accepts.
        alpha: share of conformal sets that may miss the truth, in (0, 1).
    """
    runs = [predictor.run for predictor in predictors]
    found = Known(own_scores(*runs)[SCORES[role]], familiar(predictors[0]).ranges)
    if role != "classifier":
        return found
    held = held_out(runs)
    truth, probabilities = held["label"].to_numpy(int), expit(held["log_odds"].to_numpy(float))
    sets = conformal_sets(probabilities, truth, np.array([0.5]), alpha, val_patients=held["patient"].to_numpy(object))
    return Known(found.score, found.ranges, tuple(calibrations_of(runs)), choose_threshold(truth, probabilities), **sets.attrs)
