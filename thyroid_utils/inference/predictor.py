"""A finished run's network on images: those it was split from, or any others, preprocessed as it was trained.

Everything that asks a network something after training goes through here, so that preprocessing, device and the meaning of
an output are decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.models.networks import OneAnswer
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.store import ArrayStore
from thyroid_utils.training.data import input_pipeline, open_arrays, split_data
from thyroid_utils.training.ledger import Run
from thyroid_utils.training.state import choose_device
from thyroid_utils.training.tasks import log_odds, nodule_probability

ANSWERS = {"classification": "image", "segmentation": "pixels"}  # of a joint network


class Predictor:
    """A run's network in evaluation mode, with its preprocessing.

    Args:
        run: finished, of any task.
        root: folder of its data as it is now; None takes the one it was trained with.
        batch_size: images a forward pass; memory grows with it, results do not depend on it beyond the last digits.
    """

    def __init__(self, run: Run, root: str | None = None, batch_size: int = 32):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number from 1; found {batch_size!r}")
        self.run, self.batch_size = run, batch_size
        self.device = choose_device(run.config.training)
        self._root = root

    @cached_property
    def config(self) -> RunConfig:
        """Of the run, with the data where they are now."""
        if self._root is None:
            return self.run.config
        return self.run.config.model_copy(update={"data": self.run.config.data.model_copy(update={"root": self._root})})

    @cached_property
    def network(self) -> torch.nn.Module:
        """On the device and in evaluation mode. Who changes it gives it back as it was."""
        return self.run.load_model().to(self.device)

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
        return open_arrays(self.config, self.cases, progress_bar("Preprocessing"))

    @cached_property
    def pipeline(self) -> Pipeline:
        """Its preprocessing, with µ and σ of its training images where it takes them, which need not be at hand."""
        pipeline = input_pipeline(self.config)
        if not pipeline.needs_fit:
            return pipeline
        known = self.run.data.get("fitted")  # runs of older versions hold none
        return pipeline.refitted(*known) if known else pipeline.fit(self.cases)

    def inputs(self, cases: Sequence[str]) -> np.ndarray:
        """What the network sees of some of its cases, float32 (n, channels, height, width)."""
        positions = self.cases.index.get_indexer(list(cases))
        if (positions < 0).any():
            absent = next(case for case, at in zip(cases, positions, strict=True) if at < 0)
            raise KeyError(f"run {self.run.name} has no case {absent}")
        return np.stack([np.asarray(self.store.images[at]) for at in positions])

    def prepare(self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """What the network sees of other frames, as `inputs` gives it.

        Args:
            frames: gray uint8 (height, width) or colour, of any size.
            masks: where its preprocessing cuts to the nodule (`pipeline.needs_mask`), the nodule of each frame as somebody or a
                segmenter outlined it, bool (height, width) at the frame's own size; else they change nothing. `inputs` cuts to
                the true ones.

        Raises:
            DataError: no mask where one is needed, an empty one (unless the step says what to do then), or another size.
        """
        masks = [None] * len(frames) if masks is None else masks
        return np.stack([self.pipeline(frame, mask).image for frame, mask in zip(frames, masks, strict=True)])

    def log_odds(self, inputs: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """The logit of malignant by a classifier or joint network, float64 (n,), of inputs (n, channels, height, width)."""
        return self._batches(self.answering("classification"), inputs, log_odds, progress)

    def maps(self, inputs: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Probabilities of nodule by a segmenter or joint network, at its resolution, float32 (n, height, width)."""
        network = self.answering("segmentation")
        return self._batches(network, inputs, lambda logits: nodule_probability(logits.float()).cpu().numpy(), progress)

    def answering(self, task: str) -> torch.nn.Module:
        """`network` as a module whose output is the logits of one task, "classification" or "segmentation"; of a joint run a
        `models.OneAnswer`. For what takes a network, such as `explain.cam_maps` and `uncertainty.mc_dropout`.

        Raises:
            ValueError: a run of the other task.
        """
        if self.run.config.task == "joint" and task in ANSWERS:
            return OneAnswer(self.network, ANSWERS[task])
        if self.run.config.task != task:
            raise ValueError(f"run {self.run.name} is one of {self.run.config.task}; this needs one of {task}")
        return self.network

    def _batches(
        self,
        network: torch.nn.Module,
        inputs: np.ndarray,
        read: Callable[[torch.Tensor], np.ndarray],
        progress: Progress | None,
    ) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(inputs), self.batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(inputs[start : start + self.batch_size]))
                found.append(read(network(batch.to(self.device))))
                if progress is not None:
                    progress(min(start + self.batch_size, len(inputs)), len(inputs))
        return np.concatenate(found)
