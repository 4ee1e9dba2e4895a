"""Runs on the workers of a dask.distributed scheduler, and what such a worker does."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from thyroid_utils.common import paths
from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.engine.outcome import Done, Failure, attempt, torch_threads
from thyroid_utils.training.engine.workers import local_workers, plan_workers
from thyroid_utils.training.ledger import RECIPE, Run, RunDamaged, find_run, runs_dir

if TYPE_CHECKING:
    from distributed import Client

_BUSY_PAUSE = 10.0  # seconds until a run that another process trains is asked for again
_SHARED_FOLDER_PATIENCE = 60.0  # seconds that a network file system may take to show what another machine has written


def train_on_dask(
    missing: dict[str, RunConfig], address: str | None, workers: int | None, threads: int | None, done: Done
) -> None:
    """Train runs, by name, on the workers of a scheduler or on ones started here; arguments as of `run_all`."""
    from distributed import Client

    if address is None:
        environments, threads = plan_workers(list(missing.values()), workers, threads)
        with local_workers(environments, threads) as (client, are_alive):
            _hand_out(client, missing, {"threads": threads}, done, are_alive)
        return
    task = {"threads": threads} if threads else {"most_threads": torch.get_num_threads()}
    with Client(address, set_as_default=False) as client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            print(f"{address}: no workers yet; waiting for the first", flush=True)
        _hand_out(client, missing, task, done, lambda: True)


def _hand_out(
    client: Client, missing: dict[str, RunConfig], task: dict[str, Any], done: Done, are_alive: Callable[[], bool]
) -> None:
    """Have every run trained by the workers of a client.

    Args:
        task: further arguments of `_train_here`.
        are_alive: whether there is still a worker to wait for.
    """
    from distributed import Future, KilledWorker
    from distributed import wait as wait_for

    variables = {
        "THYROID_WORKBOOK_ROOT": str(paths.project_root()),
        "THYROID_WORKBOOK_RUNS": str(runs_dir()),
        "THYROID_WORKBOOK_CACHE": str(paths.cache_dir()),
    }
    task = {**task, "variables": variables, "recipe": RECIPE}
    again: set[str] = set()
    pending: dict[Future, str] = {}
    busy: dict[str, float] = {}  # runs that another process trains, and when to ask again: no worker waits for them

    def submit(name: str) -> None:
        pending[client.submit(_train_here, missing[name].to_json(), **task, pure=False)] = name

    def settle(name: str, future: Future) -> None:
        if future.status == "finished":
            state, *told = future.result()
            if state == "busy":
                busy[name] = time.monotonic() + _BUSY_PAUSE
            else:
                done(name, _seen(told[0], missing[name]) if state == "finished" else Failure(missing[name], *told))
            return
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker) and name not in again:
            # Dask counts a death against every task that the worker had been given, at work or not.
            again.add(name)
            submit(name)
        elif isinstance(error, KilledWorker):
            done(name, Failure(missing[name], "its workers died again and again; they may be short of memory"))
        else:
            done(name, Failure(missing[name], f"{type(error).__name__}: {error}" if error else "the scheduler lost it"))

    try:
        for name in missing:
            submit(name)
        while pending or busy:
            for name in [name for name, due in busy.items() if due < time.monotonic()]:
                del busy[name]
                submit(name)
            if not pending:
                time.sleep(0.1)
                continue
            try:
                with client.as_current():
                    finished = wait_for(list(pending), timeout=2, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if not are_alive():
                    break
                continue
            for future in finished:
                settle(pending.pop(future), future)
        for name in [*pending.values(), *busy]:
            done(name, Failure(missing[name], "all workers have ended; their messages are above"))
    finally:
        client.cancel(list(pending))


def _seen(name: str, config: RunConfig) -> Run | Failure:
    """The run that a worker has finished, as this process sees it."""
    until = time.monotonic() + _SHARED_FOLDER_PATIENCE
    while True:
        try:
            if (run := find_run(name)) is not None:
                return run
            problem = f"run {name} was finished by a worker, but is not in {runs_dir()} here; share that folder with the workers"
        except RunDamaged as damage:
            problem = str(damage)
        if time.monotonic() > until:
            return Failure(config, problem)
        time.sleep(1)


# PyTorch's random state and settings are the process's: a worker with several threads trains one run at a time all the same.
_ALONE = threading.Lock()


def _train_here(
    config: str, *, variables: dict[str, str], recipe: int, threads: int | None = None, most_threads: int = 1
) -> tuple[str, ...]:
    """What a worker does: train one run. Plain text goes back, as an exception may not survive the way.

    Args:
        config: as JSON.
        variables: of the environment, which say where the folders are.
        recipe: `RECIPE` of the caller's code.
        threads: of PyTorch; None takes what this machine has, up to `most_threads`.

    Returns:
        ("finished", name of the run), ("busy",) or ("failed", message, trace).
    """
    from dask.system import CPU_COUNT

    if recipe != RECIPE:
        return "failed", "the worker has other sources of thyroid_utils; install the same and start it again", ""
    with _ALONE, _environment(variables), torch_threads(threads or min(CPU_COUNT, most_threads)):
        outcome = attempt(RunConfig.from_json(config), wait=False, progress=lambda done, total: None)
    if outcome is None:
        return ("busy",)
    return ("failed", outcome.message, outcome.trace) if isinstance(outcome, Failure) else ("finished", outcome.name)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables inside; without THYROID_REPORT_DIR, as a worker prints to nobody's report."""
    changed = (*variables, "THYROID_REPORT_DIR")
    before = {name: os.environ.pop(name) for name in changed if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in changed:
            os.environ.pop(name, None)
        os.environ.update(before)
