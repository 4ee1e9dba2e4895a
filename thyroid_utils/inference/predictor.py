"""A finished run's network on images: those it was split from, or any others, preprocessed as it was trained.

Everything that asks a network something after training goes through here, so that preprocessing, device and the meaning of
an output are decided once. So do the maps that a run has kept, and what they score against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import cached, content_key, source_hash
from thyroid_utils.common.machine import keep_freed_memory
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.data import images
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.models.networks import OneAnswer
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import NoduleCrop
from thyroid_utils.preprocess.store import ArrayStore
from thyroid_utils.scores import checks, masks
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.masks import binarise, segmentation_table
from thyroid_utils.training.data import input_pipeline, open_arrays, split_data
from thyroid_utils.training.folds import FoldedRun, calibrations_of
from thyroid_utils.training.ledger import MAPS, Run
from thyroid_utils.training.state import choose_device
from thyroid_utils.training.tasks import log_odds, nodule_probability

ANSWERS = {"classification": "image", "segmentation": "pixels"}  # of a joint network
RESOLUTIONS = ("network", "own")


class Predictor:
    """A run's network in evaluation mode, with its preprocessing.

    Args:
        run: finished, of any task.
        root: folder of its data as it is now; None takes the one it was trained with.
        batch_size: images a forward pass; memory grows with it, results do not depend on it beyond the last digits.
        scale: log-odds of malignant → probability; the network's own where none is given.
    """

    def __init__(
        self,
        run: Run,
        root: str | Path | None = None,
        batch_size: int = 32,
        *,
        scale: Callable[[np.ndarray], np.ndarray] = expit,
    ):
        self.run, self.batch_size, self.scale, self._root = run, batch_size, scale, root

    def by_fold(self, cases: Sequence[str]) -> Iterator[tuple[Predictor, np.ndarray]]:
        """Who answers which cases, as `FoldedPredictor.by_fold`: itself all of them."""
        yield self, np.arange(len(cases))

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.run.config.training)

    @cached_property
    def config(self) -> RunConfig:
        """Of the run, with the data where they are now."""
        if self._root is None:
            return self.run.config
        return self.run.config.model_copy(update={"data": self.run.config.data.model_copy(update={"root": str(self._root)})})

    @cached_property
    def network(self) -> nn.Module:
        """On the device, in evaluation mode and channels last as in training. Who changes it gives it back as it was."""
        keep_freed_memory()
        return self.run.load_model().to(self.device, memory_format=torch.channels_last)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """The split case table that the run was trained from.

        Raises:
            DataError: the data are not those.
        """
        data = split_data(self.config)
        if data.split_hash != self.run.data["split_hash"] or data.fingerprint != self.run.data["fingerprint"]:
            raise DataError(f"run {self.run.name}: the data are not those it was trained on; give their folder as root")
        return data.cases

    @cached_property
    def store(self) -> ArrayStore:
        """The preprocessed images of `cases`, row by row, made again where the cache was emptied."""
        return open_arrays(self.config, self.cases)

    @cached_property
    def pipeline(self) -> Pipeline:
        """Its preprocessing, with µ and σ of its training images where it takes them, which need not be at hand. A `nodule_crop`
        leaves a frame whole where no nodule is found."""
        trained = input_pipeline(self.config)
        steps = [step.model_copy(update={"empty": "frame"}) if isinstance(step, NoduleCrop) else step for step in trained.steps]
        return Pipeline(steps, trained.name, *(self.run.data["fitted"] or ()))

    def held_map(self, split: str, case: str) -> np.ndarray:
        """The map that a segmenter's or joint run has kept of a validation or test image, brought back to its frame: float32
        (height, width), interpolated between pixels; what preprocessing cut off is 0, background."""
        return self.on_frame(case, self.run.maps(split, [case])[1][0])

    def on_frame(self, case: str, found: np.ndarray) -> np.ndarray:
        """A map of one of its cases at the network's resolution, brought back to the frame as `held_map` does."""
        return self.store.geometries[self.cases.index.get_loc(case)].to_original(found, smooth=True)

    def pictures(self, cases: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Test images of a segmenter one by one, each at its own resolution: the frame, its true mask (bool) and the kept map."""
        for case in cases:
            image, mask = self.cases.loc[case, ["image", "mask"]]
            yield read_image(image), read_mask(mask), self.held_map("test", case)

    def inputs(self, cases: Sequence[str]) -> np.ndarray:
        """What the network sees of some of its cases, float32 (n, channels, height, width)."""
        positions = self.cases.index.get_indexer(list(cases))
        if (positions < 0).any():
            absent = next(case for case, at in zip(cases, positions, strict=True) if at < 0)
            raise KeyError(f"run {self.run.name} has no case {absent}")
        return np.stack([np.asarray(self.store.images[at]) for at in positions])

    def log_odds(self, inputs: np.ndarray) -> np.ndarray:
        """The logit of malignant by a classifier or joint network, float64 (n,), of inputs (n, channels, height, width)."""
        return self._batches(self.answering("classification"), inputs, log_odds)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """The probability of malignant on `scale`, as `log_odds`."""
        return self.scale(self.log_odds(inputs))

    def maps(self, inputs: np.ndarray) -> np.ndarray:
        """Probabilities of nodule by a segmenter or joint network, at its resolution, float32 (n, height, width)."""
        network = self.answering("segmentation")
        return self._batches(network, inputs, lambda logits: nodule_probability(logits.float()).cpu().numpy())

    def answering(self, task: str) -> nn.Module:
        """`network` as a module whose output is the logits of one task, "classification" or "segmentation"; of a joint run a
        `models.OneAnswer`. For what takes a network, such as `cam.cam_maps` and `dropout.mc_dropout`.

        Raises:
            ValueError: a run of the other task.
        """
        if self.run.config.task == "joint" and task in ANSWERS:
            return OneAnswer(self.network, ANSWERS[task])
        if self.run.config.task != task:
            raise ValueError(f"run {self.run.name} is one of {self.run.config.task}; this needs one of {task}")
        return self.network

    def _batches(self, network: nn.Module, inputs: np.ndarray, read: Callable[[torch.Tensor], np.ndarray]) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(inputs), self.batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(inputs[start : start + self.batch_size]))
                found.append(read(network(batch.to(self.device, memory_format=torch.channels_last))))
        return np.concatenate(found)


class FoldedPredictor:
    """The networks of all folds: a case is answered by the one that was trained without it, and on the folds' one scale.

    run: read as one. root: as of a `Predictor`.
    """

    def __init__(self, run: FoldedRun, root: str | Path | None = None):
        scales = calibrations_of(run.folds) if "log_odds" in run.predictions else [expit] * len(run.folds)
        self.run = run
        self.folds = [Predictor(fold, root, scale=scale) for fold, scale in zip(run.folds, scales, strict=True)]

    @cached_property
    def cases(self) -> pd.DataFrame:
        """The case table, all of it of the split "test"."""
        cases = self.folds[0].cases
        return cases.assign(split=pd.array(["test"] * len(cases), dtype="string"))

    def by_fold(self, cases: Sequence[str]) -> Iterator[tuple[Predictor, np.ndarray]]:
        """The predictor of each fold that tests some of the cases, with their places among them, ascending."""
        fold = self.run.predictions["fold"].loc[list(cases)].to_numpy()
        yield from ((self.folds[at], np.flatnonzero(fold == at)) for at in np.unique(fold))


def predictor_of(run: Run | FoldedRun, root: str | Path | None = None) -> Predictor | FoldedPredictor:
    """Who answers for the test images of a run, or of folds that are read as one."""
    return (FoldedPredictor if isinstance(run, FoldedRun) else Predictor)(run, root)


def predictors_of(runs: Iterable[Run | FoldedRun], root: str | Path | None = None) -> list[Predictor]:
    """A `Predictor` of each run, of a `FoldedRun` one of each fold; root: as there."""
    return [Predictor(one, root) for run in runs for one in run.folds]


def in_order(parts: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
    """What the folds said of their cases, (n of a fold, …) each, in the order of all; rows: as `by_fold` gives them."""
    return np.concatenate(parts)[np.argsort(np.concatenate(rows))]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode it had."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def map_scores(predictor: Predictor) -> pd.DataFrame:
    """Scores of the test maps of a segmentation run, called nodule from a probability of 0.5; computed once, then read from the
    cache.

    At the "network" resolution a map meets the preprocessed mask. At the image's "own" the map is brought back to the frame
    (`Predictor.held_map`) and meets the mask file.

    Returns:
        index `case`; `resolution` ("network", then "own"); the columns of `masks.segmentation_table`. Lengths in millimetres
        are given at the image's own resolution where the set tells the spacing (column `spacing_mm`), and NaN elsewhere.

    Raises:
        DataError: an unreadable image, or masks that are not those the run was scored with.
    """
    run = predictor.run
    rows = predictor.cases.loc[run.predictions.index[run.predictions["split"] == "test"]]
    # A run that was made again may have other maps. The way back to the frame is in the run's name.
    key = content_key(run.name, run.hashes[MAPS], spacings(rows), _code())
    kept = cached("map_scores", key, lambda: _measured(predictor, rows).reset_index().to_dict("list"))
    return pd.DataFrame(kept).astype(dict.fromkeys(("case", "resolution", "presence"), "string")).set_index("case")


def _measured(predictor: Predictor, rows: pd.DataFrame) -> pd.DataFrame:
    run, bar, tables = predictor.run, progress_bar("Scoring masks"), []
    for number, resolution in enumerate(RESOLUTIONS):
        table = segmentation_table(
            _pairs(predictor, rows, resolution),
            list(rows.index),
            spacings(rows) if resolution == "own" else [None] * len(rows),
            lambda done, total, before=number * len(rows): bar(before + done, len(RESOLUTIONS) * total),
        )
        tables.append(table.assign(resolution=resolution))
    if (tables[0][list(COUNTS)] != run.predictions.loc[rows.index, list(COUNTS)]).any(axis=None):
        raise DataError(f"run {run.name}: the masks are not those that it was scored with; give the folder of its data as root")
    return pd.concat(tables)


def _pairs(predictor: Predictor, rows: pd.DataFrame, resolution: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The true and the predicted mask of each row, one in memory at a time."""
    for case, position in zip(rows.index, predictor.cases.index.get_indexer(rows.index), strict=True):
        if resolution == "network":
            yield predictor.store.masks[position], binarise(predictor.run.maps("test", [case])[1][0])
        else:
            yield read_mask(rows.at[case, "mask"]), binarise(predictor.held_map("test", case))


def spacings(cases: pd.DataFrame) -> list[float | None]:
    """Millimetres a pixel of each image, None where unknown."""
    if "spacing_mm" not in cases:
        return [None] * len(cases)
    return [None if np.isnan(value) else value for value in cases["spacing_mm"].to_numpy(float)]


@cache
def _code() -> str:
    """Of the modules that turn a run's maps into a table."""
    return source_hash([checks.__file__, masks.__file__, images.__file__, __file__])
