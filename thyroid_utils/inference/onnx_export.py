"""A finished run's network as one ONNX file that tells what it needs to be used: for `onnx_network`, or any other program."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import atomic_path
from thyroid_utils.inference.doubts import own_scores
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.inference.known import TASKS, Known, finite, known_of
from thyroid_utils.inference.onnx_network import FORMAT, OUTPUTS
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.networks import JointLogits
from thyroid_utils.models.weights import one_line
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import Resize, Step
from thyroid_utils.training.ledger import Run

OPSET = 18  # of ONNX; onnxruntime 1.14 and later, and onnxruntime-web, run it
INSIDE = ("scale", "zscore", "three_channels")
_FLAT = 1e-6  # σ as a share of µ, below which an image in float32 has no contrast
_OPERATOR = re.compile(r"target=torch\.ops\.([\w.]+)")


def export_network(
    run: Run,
    path: str | Path,
    size: tuple[int, int] | None = None,
    *,
    known: dict[str, Known] | None = None,
    card: str = "",
) -> Path:
    """Write a run's network with its last preprocessing steps as ONNX, float32, weights inside the file, any batch size.

    The graph begins where gray levels at the network's size are left to do: input `levels`, uint8 (n, 1, height, width) in
    [0, 255]. Steps in front of that stay outside: they look at the whole frame or sort its pixels, and need OpenCV. Where a
    pipeline scales or normalises before it resizes, `levels` are float32, as those steps leave them. Outputs are log-odds,
    float32: `malignant` (n,) of a classifier, `nodule` (n, height, width) of a segmenter, both of a joint network.

    Args:
        run: finished, of any task.
        path: file to write; replaced where it is there.
        size: (height, width) in pixels; None takes that of training.
        known: role → `Known` of all the networks that will answer together; None takes the run's alone.
        card: a model card, Markdown, that goes along.

    Returns:
        the path. What the file tells of itself is described at `onnx_network.OnnxNetwork.facts`.

    Raises:
        DataError: a network with an operator that ONNX or this exporter does not have, or a size that it does not take.
    """
    predictor = Predictor(run)
    outside, inside = divided(predictor.pipeline, size)
    graph = graph_module(predictor, size)
    height, width = size or run.data["input"][1:]
    levels = torch.zeros(2, 1, height, width, dtype=torch.uint8 if _keeps_levels(outside) else torch.float32)
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"root": None, "options": {}})})
    roles = [role for role, task in TASKS.items() if run.config.task in (task, "joint")]
    known = known or {role: known_of(role, [predictor]) for role in roles}
    told = {
        "format": FORMAT,
        "research_only": RESEARCH_ONLY,
        "run": run.name,
        "task": run.config.task,
        "model": run.config.model.name,
        "opset": OPSET,
        "input": [height, width],
        "outside": steps_told(outside),
        "inside": steps_told(inside),
        "mean": predictor.pipeline.mean,
        "deviation": predictor.pipeline.deviation,
        "own_scores": {name: asdict(score) for name, score in own_scores(run).items()},
        "known": {role: known[role].to_json() for role in roles},
        "config": json.loads(config.to_json()),
        "data": run.data,
        "card": card,
    }
    return write_graph(graph, (levels,), ({0: torch.export.Dim("batch")},), (["levels"], OUTPUTS[run.config.task]), path, told)


def graph_module(predictor: Predictor, size: tuple[int, int] | None = None) -> nn.Module:
    """What `export_network` writes down, on the CPU: `levels` → the outputs of the run's task, in a tuple."""
    return nn.Sequential(Levels(divided(predictor.pipeline, size)[1], predictor.pipeline), LogOdds(predictor.network.cpu()))


def divided(pipeline: Pipeline, size: tuple[int, int] | None = None) -> tuple[list[Step], list[Step]]:
    """The steps that stay outside of a graph and those that are part of it; size: instead of that of its `resize`."""
    steps = [step.model_copy(update={"size": size}) if size and isinstance(step, Resize) else step for step in pipeline.steps]
    repeated = [step for step in steps if step.name == "three_channels"]  # commutes with all that may stand behind it
    steps = [step for step in steps if step not in repeated]
    begin = 1 + max(at for at, step in enumerate(steps) if step.name not in INSIDE)
    return steps[:begin], steps[begin:] + repeated


def _keeps_levels(steps: Sequence[Step]) -> bool:
    return not any(step.name in INSIDE for step in steps)


def steps_told(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Steps as `preprocess.pipeline.build_pipeline` reads them."""
    return [{step.name: step.model_dump(mode="json")} for step in steps]


class Levels(nn.Module):
    """The last steps of a pipeline: (n, 1, height, width) → what the network is given, float32 (n, channels, height, width)."""

    def __init__(self, steps: Sequence[Step], fitted: Pipeline):
        super().__init__()
        self.steps, self.mean, self.deviation = steps, fitted.mean, fitted.deviation

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        values = levels.to(torch.float32)
        for step in self.steps:
            if step.name == "scale":
                values = values / 255
            elif step.name == "three_channels":
                values = values.expand(-1, 3, -1, -1)
            elif step.by == "train":
                values = (values - self.mean) / self.deviation
            else:
                mean = values.mean(dim=(1, 2, 3), keepdim=True)
                deviation = (values - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
                values = torch.where(deviation > _FLAT * mean.abs(), (values - mean) / deviation, 0.0)
        return values


class LogOdds(nn.Module):
    """A network's answers as one tensor for each of its tasks."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.network(images)
        if isinstance(logits, JointLogits):
            return _log_odds(logits.image), _log_odds(logits.pixels)
        return (_log_odds(logits),)


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """(n, 1 or 2, …) → (n, …): the logit of the second against the first, or the only one."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def write_graph(
    graph: nn.Module,
    example: tuple[torch.Tensor, ...],
    dynamic: tuple[dict[int, Any], ...],
    names: tuple[Sequence[str], Sequence[str]],
    path: str | Path,
    told: dict[str, Any],
) -> Path:
    """A module as an ONNX file.

    Args:
        graph: in evaluation mode.
        example: its arguments; dynamic: the axes of each that may have any length.
        names: of arguments and results.
        path: of the file.
        told: metadata, name → value that JSON has.

    Raises:
        DataError: an operator that cannot be exported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _exported(graph.eval(), example, dynamic)
            written = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=names[0], output_names=names[1], verbose=False
            )
    except (RuntimeError, torch.onnx.OnnxExporterError, NotImplementedError, ValueError) as error:
        found = _OPERATOR.search(str(error))
        why = f"the operator {found[1]} has no form there" if found else one_line(error)
        raise DataError(f"{told['model']}: cannot be written as ONNX (opset {OPSET}): {why}") from None
    written.model.graph.metadata_props.clear()
    for node in written.model.graph:  # what only the exporter's own messages need, half a megabyte of thirteen
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None
    written.model.metadata_props.update({name: json.dumps(finite(value), allow_nan=False) for name, value in told.items()})
    with atomic_path(path) as temporary:
        written.save(temporary, external_data=False)
    return Path(path)


def _exported(graph: nn.Module, example: tuple[torch.Tensor, ...], dynamic: tuple[dict[int, Any], ...]) -> Any:
    """Traced, with gradients on, as else a transformer's layer is one operator; where Python's `len` has made a number of the
    batch, which a trace holds fixed, from the byte code."""
    try:
        return torch.export.export(graph, example, dynamic_shapes=dynamic)
    except torch._dynamo.exc.UserError:
        return torch.export.export(graph, example, dynamic_shapes=dynamic, strict=True)
