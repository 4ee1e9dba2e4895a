"""What becomes of a run, and the one step that all engines share."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.progress import Progress
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import Run, RunBusy


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished. message: kind of error and its text; trace: where, for a report of a fault."""

    config: RunConfig
    message: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{label(self.config)}: {self.message}"


class RunsFailed(RuntimeError):
    """Some runs failed, and all others are finished. runs: in the order of the configs, None for a failed one."""

    def __init__(self, runs: list[Run | None], failures: list[Failure]):
        told = "; ".join(str(failure) for failure in failures)
        finished = sum(run is not None for run in runs)
        super().__init__(f"{len(failures)} failed, {finished} of {len(runs)} are finished: {told}")
        self.runs, self.failures = runs, failures


# Called with a run's name and what became of it.
Done = Callable[[str, Run | Failure], None]


def label(config: RunConfig) -> str:
    loss = f" {config.loss.name}" if config.task != "classification" else ""  # segmenters are compared by their losses too
    return f"{config.model.name}{loss} seed {config.seed}"


def attempt(config: RunConfig, wait: bool, progress: Progress | None = None) -> Run | Failure | None:
    """The run, why there is none, or None where another process is training it."""
    try:
        return fit_or_load(config, progress, wait=wait)
    except RunBusy:
        return None
    except Exception as error:
        return Failure(config, f"{type(error).__name__}: {error}", traceback.format_exc())


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
