"""k folds as one run: every patient tested once, by the network that was trained without them.

The k networks answer on k scales. To stand in one table, the log-odds of each are calibrated by its own validation (Platt's slope
and intercept), and moved from the share of malignant images there to the share in all: by chance it is high in the validation of
a fold where it is low on its test side. What is fitted is fitted fold by fold: every patient that one fold tests is trained on,
or validated with, by the others, so that no number may be chosen on validation images of several folds together.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import content_key
from thyroid_utils.common.words import listed
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.probabilities import Platt, fit_platt
from thyroid_utils.training.ledger import Run


class FoldedRun:
    """The finished runs of one recipe and seed on all folds, read as one `ledger.Run` whose test side is every case once.

    It has no validation side of its own: ask each of `folds` for that.

    Args:
        folds: the runs, in any order.

    Raises:
        DataError: a fold missing, given twice, or of other data or another recipe than the rest.
    """

    def __init__(self, folds: Sequence[Run]):
        self.folds = tuple(sorted(folds, key=lambda run: run.config.split.fold))
        places, wanted = [run.config.split.fold for run in self.folds], self.config.split.folds
        recipes = {(_training(run), run.data["fingerprint"]) for run in self.folds}
        if places != list(range(wanted)) or len(recipes) > 1:
            found = "several recipes or data sets" if len(recipes) > 1 else listed(f"fold {place + 1}" for place in places)
            raise DataError(f"folds: expected the {wanted} folds of {self.config.label}, each once; found runs of {found}")

    @property
    def name(self) -> str:
        return content_key([run.name for run in self.folds])

    @property
    def config(self) -> RunConfig:
        """Of the first fold."""
        return self.folds[0].config

    @cached_property
    def data(self) -> dict[str, Any]:
        """As that of a run; `split_hash` is over those of the folds, `images` counts train and val of a fold (mean) and all that
        are tested."""
        sides = pd.DataFrame([run.data["images"] for run in self.folds])
        images = {"train": round(sides["train"].mean()), "val": round(sides["val"].mean()), "test": int(sides["test"].sum())}
        return self.folds[0].data | {"split_hash": content_key([run.data["split_hash"] for run in self.folds]), "images": images}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The test rows of all folds in the order of their cases, with the columns of a run's and `fold`, from 0. Where there are
        labels to predict, `probability` and `log_odds` are calibrated as this module says, `own_log_odds` are the network's own,
        which rank within a fold, and `threshold` is Youden's on the fold's validation, on the scale of `probability`."""
        sides = [run.predictions[run.predictions["split"] == "test"].assign(fold=at) for at, run in enumerate(self.folds)]
        if "log_odds" in sides[0]:
            sides = [_calibrated(*parts) for parts in zip(sides, self.folds, calibrations_of(self.folds), strict=True)]
        found = pd.concat(sides).sort_index()
        if found.index.has_duplicates:
            raise DataError(f"folds: {found.index[found.index.duplicated()][0]} is tested by two folds of {self.config.label}")
        return found

    def of_case(self, case: str) -> Run:
        """The fold that tests a case."""
        return self.folds[self.predictions.at[case, "fold"]]

    def maps(self, split: str = "test", cases: Sequence[str] | None = None) -> tuple[pd.Index, np.ndarray]:
        """As `ledger.Run.maps`, of test cases: each from the fold that tests it."""
        if split != "test":
            raise ValueError(f"folds: maps of all cases are those of test; asked for {split!r}, which each of `folds` has")
        names = self.predictions.index if cases is None else pd.Index(cases)
        return names, np.concatenate([self.of_case(case).maps("test", [case])[1] for case in names])

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`val` and `test`: the mean over folds of each score of a fold's own."""
        return {side: pd.DataFrame([run.metrics[side] for run in self.folds]).mean().to_dict() for side in ("val", "test")}


def _training(run: Run) -> str:
    """What the folds of one recipe and seed have in common."""
    return f"{run.config.recipe} {run.config.seed} {run.config.split.model_copy(update={'fold': 0})}"


def _calibrated(side: pd.DataFrame, run: Run, platt: Platt) -> pd.DataFrame:
    known = run.predictions[run.predictions["split"] == "val"]
    return side.assign(
        own_log_odds=side["log_odds"],
        log_odds=platt.log_odds(side["log_odds"]),
        probability=platt(side["log_odds"]),
        threshold=choose_threshold(known["label"], platt(known["log_odds"])),
    )


def calibrations_of(runs: Sequence[Run]) -> list[Platt]:
    """Of classifiers or joint runs, each by its own validation images; of folds at the base rate of all that they test, as a
    fold's validation has another one by chance.

    That base rate is one number of the test labels. It moves all folds alike and no ranking, but probabilities that are too high
    or low on the whole do not show: of folds the calibration intercept, and net benefit, are judged with it known. Of the other
    folds alone it would be lowest where most are malignant, and put networks that know nothing below chance."""
    sides = pd.concat([run.predictions for run in runs])
    tested = sides[sides["split"] == "test"]["label"].groupby(level="case").first()
    known = [run.predictions[run.predictions["split"] == "val"] for run in runs]
    base_rate = None if of_one_split(runs) else float(tested.mean())
    return [fit_platt(side["label"], side["log_odds"], base_rate) for side in known]


def of_one_split(runs: Sequence[Run]) -> bool:
    """Whether all runs have the same images on each side."""
    return len({run.data["split_hash"] for run in runs}) == 1


def by_folds(runs: Iterable[Run | FoldedRun]) -> list[Run | FoldedRun]:
    """Runs with those of the folds of one recipe and seed put together, each where its first one was.

    Raises:
        DataError: as `FoldedRun`.
    """
    groups: dict[str, list[Run]] = {}
    for number, run in enumerate(fold for training in runs for fold in training.folds):
        groups.setdefault(_training(run) if run.config.split.folds else str(number), []).append(run)
    return [FoldedRun(found) if found[0].config.split.folds else found[0] for found in groups.values()]
