"""A network from a file of `onnx_export`, asked with onnxruntime: no PyTorch is loaded here or below."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.known import estimate_of_json
from thyroid_utils.preprocess.named import parsed
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import STEPS
from thyroid_utils.scores.estimates import Estimate

FORMAT = 1  # raised where older programs would read a file wrong
# Task → results of a graph
OUTPUTS = {"classification": ["malignant"], "segmentation": ["nodule"], "joint": ["malignant", "nodule"]}
_NEEDED = {"run", "task", "input", "outside", "mean", "deviation", "own_scores", "known", "config", "data"}
_AGAIN = "write it again with thyroid-workbook export"


class OnnxNetwork:
    """An exported network; one that answers takes the place of a `Predictor`.

    Args:
        path: a file of `onnx_export.export_network`.
        threads: of onnxruntime; 0 takes one a core.
        batch_size: images a forward pass.

    Raises:
        DataError: no such file, one that is damaged or that something else has written, or one of a newer format.
    """

    def __init__(self, path: str | Path, threads: int = 1, batch_size: int = 32):
        self.path, self.threads, self.batch_size = Path(path), threads, batch_size
        self.session, self.facts = opened(self.path, threads)
        if not self.facts.keys() >= _NEEDED:
            raise DataError(f"{self.path}: holds {self.facts.get('task')}, not one network with all that is to be told; {_AGAIN}")
        if self.session.get_inputs()[0].shape[1:] != [1, *self.facts["input"]]:
            raise DataError(f"{self.path}: its graph is not for the {self.facts['input']} pixels that it tells of; {_AGAIN}")

    @property
    def run(self) -> OnnxRun:
        """What the file tells of the run it was made of."""
        return OnnxRun(self.facts)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The steps from a frame to `levels`: those that are outside of the graph."""
        steps = [parsed(entry, STEPS, "step") for entry in self.facts["outside"]]
        return Pipeline(steps, self.facts["run"], self.facts["mean"], self.facts["deviation"])

    @property
    def own_scores(self) -> dict[str, Estimate]:
        """As `doubts.own_scores` of the run."""
        return {name: estimate_of_json(told) for name, told in self.facts["own_scores"].items()}

    def log_odds(self, levels: np.ndarray) -> np.ndarray:
        """The logit of malignant by a classifier or joint network, float64 (n,).

        Args:
            levels: (n, 1, height, width), gray levels in [0, 255] as `pipeline` leaves them.

        Raises:
            ValueError: a network of another task, or images of another size.
        """
        return self._answers("malignant", levels).astype(float)

    def maps(self, levels: np.ndarray) -> np.ndarray:
        """Probabilities of nodule by a segmenter or joint network, float32 (n, height, width). As `log_odds`."""
        return expit(self._answers("nodule", levels))

    def _answers(self, output: str, levels: np.ndarray) -> np.ndarray:
        expected = (1, *self.facts["input"])
        if output not in OUTPUTS[self.facts["task"]]:
            raise ValueError(f"{self.path.name}: a network of {self.facts['task']} has no output {output}")
        if levels.ndim != 4 or levels.shape[1:] != expected:
            wanted = "×".join(map(str, expected))
            raise ValueError(f"{self.path.name}: takes (n, {wanted}), found {levels.shape}; prepare frames with `pipeline`")
        (given,) = self.session.get_inputs()
        levels = np.ascontiguousarray(levels, np.uint8 if given.type == "tensor(uint8)" else np.float32)
        parts = [levels[start : start + self.batch_size] for start in range(0, len(levels), self.batch_size)]
        return np.concatenate([self.session.run([output], {given.name: part})[0] for part in parts])


class OnnxRun:
    """Of the run that a file was made of: `name`, `config` and `data`, as of a `ledger.Run`. The folder of its data, the options
    of its reader and its predictions stayed behind."""

    def __init__(self, facts: Mapping[str, Any]):
        self.name, self.data = facts["run"], facts["data"]
        self.config = RunConfig(**facts["config"])


def opened(path: Path, threads: int = 1) -> tuple[Any, dict[str, Any]]:
    """An `onnxruntime.InferenceSession` of a file of ours and what it tells of itself: `format`, `research_only`, `task`,
    `model`, `opset` and more (see `onnx_export`)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone
    if not path.is_file():
        raise DataError(f"{path}: is no file; expected one of thyroid-workbook export")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds have no common one of their own
        raise DataError(f"{path}: onnxruntime cannot read it ({type(error).__name__}); expected an ONNX file; {_AGAIN}") from None
    told = session.get_modelmeta().custom_metadata_map
    facts = {name: _value(text) for name, text in told.items()}
    if not isinstance(facts.get("format"), int) or "research_only" not in facts:
        raise DataError(f"{path}: an ONNX file without what thyroid-workbook export tells of a network; {_AGAIN}")
    if facts["format"] > FORMAT:
        raise DataError(f"{path}: of format {facts['format']}, this version reads up to {FORMAT}; update thyroid-utils")
    return session, facts


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # of a tool that has changed the file since
        return text
