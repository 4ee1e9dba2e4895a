"""A classifier and a segmenter as one ONNX graph, from a gray frame of any size to a probability and a mask of that frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import listed
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.inference.known import TASKS, Known
from thyroid_utils.inference.onnx_export import INSIDE, OPSET, Levels, LogOdds, steps_told, write_graph
from thyroid_utils.inference.onnx_network import FORMAT
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import Resize, Step
from thyroid_utils.scores.probabilities import Platt
from thyroid_utils.training.tasks import THRESHOLD

TASK = "dual stage"
RESULTS = ("probability", "malignant", "map", "mask")


def export_dual_stage(classifier: Predictor, segmenter: Predictor, path: str | Path, known: dict[str, Known], card: str) -> Path:
    """Write both networks as one graph.

    Input `frame`: uint8 (height, width), gray levels of a frame on which the steps that the file names `outside` were done.
    Outputs: `probability` float32 (1,), calibrated, malignant from the classifier's threshold on; `malignant` float32 (1,),
    log-odds before calibration; `map` float32 and `mask` bool (height, width), the probability of nodule on the frame's pixels
    and whether it is at least 0.5.

    Resampling is that of `preprocess.steps.resample`, with rounding to levels where that has uint8. Frames that are shrunk get
    the same levels, but for up to 1 % of pixels, ties, that differ by 1 where both sides are whole multiples; of those that are
    enlarged, for which OpenCV has weights of eleven bits, one pixel in eight differs by 1.

    Args:
        classifier, segmenter: of finished runs; of one joint run, which is then asked once, both the same.
        path: of the file.
        known: role → what is known of the run.
        card: Markdown that goes along.

    Raises:
        DataError: pipelines that differ in front of their resizing, or cannot be part of a graph from there on, as one that
            crops to the nodule; an operator that cannot be exported.
    """
    given, parts = {"classifier": classifier, "segmenter": segmenter}, divided_stages(classifier, segmenter)
    graph = DualStageGraph(given, {role: inside for role, (_, inside) in parts.items()}, known["classifier"].calibrations[0])
    told = {
        "format": FORMAT,
        "research_only": RESEARCH_ONLY,
        "task": TASK,
        "run": {role: predictor.run.name for role, predictor in given.items()},
        "model": {role: predictor.run.config.model.name for role, predictor in given.items()},
        "opset": OPSET,
        "outside": {role: steps_told(before) for role, (before, _) in parts.items()},
        "inside": {role: steps_told(inside) for role, (_, inside) in parts.items()},
        "known": {role: known[role].to_json() for role in TASKS},
        "card": card,
    }
    sides = {axis: torch.export.Dim(name, min=2, max=4096) for axis, name in enumerate(("height", "width"))}
    return write_graph(graph, (torch.zeros(70, 90, dtype=torch.uint8),), (sides,), (["frame"], RESULTS), path, told)


def divided_stages(classifier: Predictor, segmenter: Predictor) -> dict[str, tuple[list[Step], list[Step]]]:
    """Role → its steps in front of the graph and inside it. DataError: as `export_dual_stage`, but for operators."""
    parts = {role: _divided(role, found.pipeline) for role, found in (("classifier", classifier), ("segmenter", segmenter))}
    if len({str(steps_told(before)) for before, _ in parts.values()}) > 1:
        told = " and ".join(f"{role}: {_named(before)}" for role, (before, _) in parts.items())
        raise DataError(f"dual-stage graph: no one frame serves networks that prepare theirs differently ({told}); export each")
    return parts


def _divided(role: str, pipeline: Pipeline) -> tuple[list[Step], list[Step]]:
    """The steps in front of a graph, and those from where on it can do all."""
    steps = pipeline.steps
    outer = [at for at, step in enumerate(steps) if step.name not in INSIDE and not _stretches(step)]
    begin = 1 + max(outer, default=-1)
    before, inside = list(steps[:begin]), list(steps[begin:])
    if not any(isinstance(step, Resize) for step in inside) or pipeline.needs_mask:
        hindrance = "nodule_crop" if pipeline.needs_mask else before[-1].name
        why = "needs the segmenter's mask" if pipeline.needs_mask else "works on the resized image, with OpenCV"
        raise DataError(f"dual-stage graph: the {role}'s step {hindrance} {why}; export the networks each by itself")
    return before, inside


def _stretches(step: Step) -> bool:
    return isinstance(step, Resize) and step.mode == "stretch"


def _named(steps: Sequence[Step]) -> str:
    return listed(step.name for step in steps)


class DualStageGraph(nn.Module):
    """`export_dual_stage`'s graph in PyTorch: uint8 (height, width) → `RESULTS`."""

    def __init__(self, given: dict[str, Predictor], steps: dict[str, list[Step]], scale: Platt):
        super().__init__()
        self.scale, self.joint = scale, given["classifier"].run.name == given["segmenter"].run.name
        asked = ["segmenter"] if self.joint else list(given)
        self.networks = nn.ModuleDict({role: LogOdds(given[role].network.cpu()) for role in asked})
        self.before = nn.ModuleDict({role: Prepared(steps[role], given[role].pipeline) for role in asked})

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answers = [self.networks[role](self.before[role](frame)) for role in self.networks]
        malignant, nodule = answers[0] if self.joint else (answers[0][0], answers[1][0])
        probability = torch.sigmoid(self.scale.intercept + self.scale.slope * malignant)
        # The network's (rows, columns) → the frame's
        spread = torch.sigmoid(nodule[0])
        spread = _linear(frame.shape[0], spread.shape[0]) @ spread @ _linear(frame.shape[1], spread.shape[1]).T
        spread = spread.clamp(0, 1)
        return probability, malignant, spread, spread >= THRESHOLD


class Prepared(nn.Module):
    """The steps of a graph on a frame: (height, width) → (1, channels, rows, columns)."""

    def __init__(self, steps: Sequence[Step], fitted: Pipeline):
        super().__init__()
        at = next(number for number, step in enumerate(steps) if isinstance(step, Resize))
        self.size, self.keeps_levels = steps[at].size, at == 0
        self.first, self.then = Levels(steps[:at], fitted), Levels(steps[at + 1 :], fitted)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        values = self.first(frame[None, None])[:, :1]
        lengths = [torch.scalar_tensor(side, dtype=torch.float32) for side in frame.shape]
        shrunk = [length.clamp(max=side) for length, side in zip(lengths, self.size, strict=True)]
        rows, columns = (_area(*given) for given in zip(self.size, frame.shape, lengths, shrunk, strict=True))
        values = rows @ values @ columns.T
        if self.keeps_levels:  # OpenCV rounds halves of 2×2 pixels up, all others to the even level
            halves = (lengths[0] == 2 * shrunk[0]) & (lengths[1] == 2 * shrunk[1])
            values = torch.round(values + 0.01 * halves)
        rows, columns = (_linear(side, side, old) for side, old in zip(self.size, shrunk, strict=True))
        values = rows @ values @ columns.T
        return self.then(torch.round(values) if self.keeps_levels else values)


def _area(cells: int, pixels: int, length: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(cells, pixels): what each pixel of a row of `length` counts in each of `wanted` equal cells; rows behind those are 0.

    In units of 1 / `wanted` pixels, so that borders of cells and pixels are whole numbers, which float32 has up to 2²⁴."""
    cell, pixel = torch.arange(cells)[:, None].float(), torch.arange(pixels)[None].float()
    end = torch.minimum((cell + 1) * length, (pixel + 1) * wanted)
    return (end - torch.maximum(cell * length, pixel * wanted)).clamp(min=0) / length


def _linear(new: int, columns: int, old: torch.Tensor | None = None) -> torch.Tensor:
    """(new, columns): linear interpolation from the centres of `old` pixels, all columns unless given, to those of `new` ones.

    Places are counted in 1 / (2 `new`) pixels, as in `_area`."""
    old = torch.tensor(float(columns)) if old is None else old
    place, pixel = torch.arange(new)[:, None].float(), torch.arange(columns)[None].float()
    place = torch.minimum(((2 * place + 1) * old - new).clamp(min=0), 2 * new * (old - 1))
    return (1 - (place - 2 * new * pixel).abs() / (2 * new)).clamp(min=0)
