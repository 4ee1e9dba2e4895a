"""Runs that a command is given by the beginnings of their names, and the networks that `predict` is to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thyroid_utils.common.errors import ParameterError
from thyroid_utils.training.ledger import Run, RunDamaged, find_run, runs_that_begin

if TYPE_CHECKING:
    from thyroid_utils.inference.dual_stage import DualStage


def named_run(name: str, where: str) -> Run:
    """The only run whose name begins so, finished or not; `where` opens the message."""
    fitting = runs_that_begin(name)
    if len(fitting) != 1:
        found = f"{len(fitting)} runs begin so" if fitting else "there is no such run"
        raise ParameterError(f"{where}: {found}; thyroid-workbook runs list shows them all")
    return fitting[0]


def finished_run(name: str, where: str) -> Run:
    """The only run whose name begins so, which must be finished and whole."""
    try:
        run = find_run(named_run(name, where).name)
    except RunDamaged as damage:
        raise ParameterError(f"{where}: {damage}; train it again") from None
    if run is None:
        raise ParameterError(f"{where}: the run is not finished; train it to its end first")
    return run


def networks_asked(
    classifiers: Sequence[str], segmenters: Sequence[str], onnx: Path | None, mirror: bool
) -> Callable[[], DualStage]:
    """What makes the `DualStage` of runs by name, or of a folder of ONNX files, without PyTorch.

    Raises:
        ParameterError: both, neither, or runs that are not there or not finished.
    """
    if onnx is not None and (classifiers or segmenters):
        raise ParameterError("predict: --onnx together with --classifier or --segmenter; give the folder or the runs")
    if onnx is not None:
        from thyroid_utils.inference.onnx_stage import onnx_stage

        return partial(onnx_stage, onnx, mirror)
    if not (classifiers and segmenters):
        raise ParameterError("predict: no networks; give --classifier RUN and --segmenter RUN, or --onnx DIR of an export")
    given = {"classifier": classifiers, "segmenter": segmenters}
    runs = [[finished_run(name, f"predict: --{role} {name}") for name in names] for role, names in given.items()]
    from thyroid_utils.inference.dual_stage import DualStage
    from thyroid_utils.inference.predictor import predictors_of

    return lambda: DualStage(*map(predictors_of, runs), mirror=mirror)
