"""Where runs execute: one after the other here, or several at once on workers of dask.distributed.

Nothing is kept beside the ledger. A run is named by what decides its result and locked while it is trained, a killed one is
resumed from its last epoch by whoever takes it up next: so an engine only hands out configs until every run is there.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from thyroid_utils.common import paths
from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.models.networks import architecture
from thyroid_utils.training.data import build, check_steps, input_pipeline, split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import RECIPE, Run, RunBusy, RunDamaged, find_run, run_hash, runs_dir
from thyroid_utils.training.state import choose_device

if TYPE_CHECKING:
    from distributed import Client, Future

ENGINES = ("serial", "dask")
_SHARED_FOLDER_PATIENCE = 60.0  # seconds that a network file system may take to show what another machine has written


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished. message: kind of error and its text; trace: where, for a report of a fault."""

    config: RunConfig
    message: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.config.label}: {self.message}"


class RunsFailed(RuntimeError):
    """Some runs failed, and all others are finished. runs: in the order of the configs, None for a failed one."""

    def __init__(self, runs: list[Run | None], failures: list[Failure]):
        told = "; ".join(str(failure) for failure in failures)
        finished = sum(run is not None for run in runs)
        super().__init__(f"{len(failures)} failed, {finished} of {len(runs)} are finished: {told}")
        self.runs, self.failures = runs, failures


# Trains runs by name and yields each with what became of it, None where another process is at it and `wait` is false.
Train = Callable[[dict[str, RunConfig], bool], Iterator[tuple[str, Run | Failure | None]]]


def run_all(
    configs: Iterable[RunConfig],
    engine: str = "serial",
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
) -> list[Run]:
    """The finished runs of many configs, each trained at most once, whatever dies in between.

    Finished runs are loaded, begun ones resumed; what another process is training is left for the end. Every config is
    checked before the first epoch. In a report (`THYROID_REPORT_DIR`) each run prints a line as it is finished. An interrupt
    ends the workers that were started here; what runs on a scheduler of one's own is finished there.

    Args:
        configs: what to train; equal ones are trained once.
        engine: "serial", or "dask" for several at once. A script that asks for dask without an address needs the usual
            `if __name__ == "__main__":`, as its workers are started from it.
        address: with "dask": of a scheduler whose workers see the same folders, such as tcp://HOST:8786. None starts workers on
            this machine, which nobody else can reach, and ends them.
        workers: how many to start; None takes one a GPU (one for `training.devices` GPUs), without GPUs as many as have
            cores for their threads.
        threads: of PyTorch in a run; None takes `torch.get_num_threads()` of this process, on workers that share GPUs no
            more than there are cores. On the CPU, equal numbers of threads give equal results to the last bit, on any engine
            and any number of workers; so with "dask" on the CPU set it to 1 or a few, that several workers have room.

    Returns:
        the runs, in the order of the configs.

    Raises:
        ConfigError, DataError, ValueError: a config that cannot work; nothing is trained then. A note says which.
        RunsFailed: after all others were finished.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; found {engine!r}")
    if address is not None and (engine == "serial" or workers is not None):
        raise ValueError('address is of a scheduler with workers of its own: choose engine "dask" and leave out workers')
    configs = list(configs)
    names = _names(configs)
    wanted = dict(zip(names, configs, strict=True))
    outcomes: dict[str, Run | Failure] = {}
    progress = progress_bar("Runs", lines=False)

    def done(name: str, outcome: Run | Failure, loaded: bool = False) -> None:
        outcomes[name] = outcome
        if os.environ.get("THYROID_REPORT_DIR"):
            print(_line(outcome, loaded), flush=True)
        progress(len(outcomes), len(wanted))

    for name in wanted:
        if (run := _finished(name)) is not None:
            done(name, run, loaded=True)
    missing = {name: config for name, config in wanted.items() if name not in outcomes}
    _check(configs, missing, here=address is None)
    if missing:
        chosen = _serial(threads) if engine == "serial" else _dask(missing, address, workers, threads)
        with chosen as train:
            for wait in (False, True):
                left = {name: config for name, config in missing.items() if name not in outcomes}
                for name, outcome in train(left, wait):
                    if outcome is not None:
                        done(name, outcome)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    runs = [None if isinstance(outcomes[name], Failure) else outcomes[name] for name in names]
    if failures:
        raise RunsFailed(runs, failures)
    return runs


def _line(outcome: Run | Failure, loaded: bool) -> str:
    if isinstance(outcome, Failure):
        return f"{outcome.config.label}: failed: {outcome.message}"
    metrics, seconds = outcome.metrics, outcome.environment["seconds"]
    line = f"{outcome.config.label}: {metrics['epochs']} epochs, best {metrics['best_epoch']}, {seconds:.0f} s"
    return f"{line} (loaded)" if loaded else line


def _finished(name: str) -> Run | None:
    """The run, where it is there and whole; a damaged one is mended by `fit_or_load`, under its lock."""
    try:
        return find_run(name)
    except RunDamaged:
        return None


@contextmanager
def _noted(configs: list[RunConfig], config: RunConfig) -> Iterator[None]:
    """An error inside says which of the configs it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in config {configs.index(config) + 1} of {len(configs)}: {config.label}")
        raise


def _names(configs: list[RunConfig]) -> list[str]:
    """Each config's run. The same data and split are read once."""
    known = {}
    names = []
    for config in configs:
        key = config.task + config.data.model_dump_json() + config.split.model_dump_json()
        with _noted(configs, config):
            if key not in known:
                known[key] = split_data(config)
            check_steps(config, len(known[key].positions("train")))
            names.append(run_hash(config, known[key].fingerprint, known[key].split_hash))
    return names


def _check(configs: list[RunConfig], missing: dict[str, RunConfig], here: bool) -> None:
    """Raise for a config that cannot be trained. Networks are built for it, each once, as nothing else knows their options.

    here: the devices that are to train are this machine's.
    """
    built = set()
    for config in missing.values():
        with _noted(configs, config):
            if here:
                choose_device(config.training)
            channels, size = input_pipeline(config).channels, config.size or architecture(config.model.name).size
            training = config.training.batch_size, config.training.devices, config.training.class_balance
            parts = config.task, config.model.model_dump(), config.loss.model_dump(), config.augmentation, size, training
            key = json.dumps(parts, sort_keys=True)
            if key not in built:
                built.add(key)
                network, _ = build(config, channels, "none", None)
                network.check_size(size, size)


def _attempt(config: RunConfig, wait: bool, threads: int, progress: Progress | None = None) -> Run | Failure | None:
    """The run, why there is none, or None where another process is training it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return fit_or_load(config, progress, wait=wait)
    except RunBusy:
        return None
    except Exception as error:
        return Failure(config, f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        torch.set_num_threads(before)


@contextmanager
def _serial(threads: int | None) -> Iterator[Train]:
    def train(missing: dict[str, RunConfig], wait: bool) -> Iterator[tuple[str, Run | Failure | None]]:
        for name, config in missing.items():
            yield name, _attempt(config, wait, threads or torch.get_num_threads())

    yield train


@contextmanager
def _dask(missing: dict[str, RunConfig], address: str | None, workers: int | None, threads: int | None) -> Iterator[Train]:
    from distributed import Client, as_completed

    variables = {
        "THYROID_WORKBOOK_ROOT": str(paths.project_root()),
        "THYROID_WORKBOOK_RUNS": str(runs_dir()),
        "THYROID_WORKBOOK_CACHE": str(paths.cache_dir()),
    }
    told = {"variables": variables, "recipe": RECIPE, "threads": threads, "most_threads": torch.get_num_threads()}
    if address is None:
        gpus, number, told["threads"] = plan_workers(list(missing.values()), workers, threads)
        opened, told["gpus"] = local_workers(number), gpus
    else:
        opened = Client(address, set_as_default=False)
    with opened as client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            print(f"{address}: no workers yet; waiting for the first", flush=True)

        def train(missing: dict[str, RunConfig], wait: bool) -> Iterator[tuple[str, Run | Failure | None]]:
            futures = {}
            for name, config in missing.items():
                futures[client.submit(_train_here, config.to_json(), wait=wait, **told, pure=False)] = name
            try:
                for future in as_completed(futures, loop=client.loop):
                    name = futures[future]
                    yield name, _outcome(future, name, missing[name])
            finally:
                client.cancel(list(futures))

        yield train


def _outcome(future: Future, name: str, config: RunConfig) -> Run | Failure | None:
    """What became of a run on a worker, as this process sees it."""
    if future.status != "finished":
        error = future.exception() if future.status == "error" else "the scheduler lost it"
        told = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
        return Failure(config, f"its worker died ({told}); often memory; run again: finished runs are kept, this one is resumed")
    state, *rest = future.result()
    if state != "finished":
        return Failure(config, *rest) if state == "failed" else None
    until = time.monotonic() + _SHARED_FOLDER_PATIENCE
    while (run := _finished(name)) is None:
        if time.monotonic() > until:
            problem = f"run {name} was finished by a worker, but is not whole in {runs_dir()} here"
            return Failure(config, f"{problem}; share that folder with the workers")
        time.sleep(1)
    return run


# PyTorch's random state and settings are the process's: a worker with several threads trains one run at a time all the same.
_ALONE = threading.Lock()


def _train_here(
    config: str, *, wait: bool, variables: dict[str, str], recipe: int, threads: int | None, most_threads: int,
    gpus: list[str] | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """What a worker does: train one run. Plain text goes back, as an exception may not survive the way.

    Args:
        config: as JSON.
        variables: of the environment, which say where the folders are.
        recipe: `RECIPE` of the caller's code.
        threads: of PyTorch; None takes what this machine has, up to `most_threads`.
        gpus: which of them each local worker sees, by its number.

    Returns:
        ("finished", name of the run), ("busy",) or ("failed", message, trace).
    """
    from dask.system import CPU_COUNT
    from distributed import get_worker

    if recipe != RECIPE:
        return "failed", "the worker has other sources of thyroid_utils; install the same and start it again", ""
    with _ALONE:
        os.environ.update(variables)
        os.environ.pop("THYROID_REPORT_DIR", None)  # a worker prints to nobody's report
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
        threads = threads or min(CPU_COUNT, most_threads)
        outcome = _attempt(RunConfig(**json.loads(config)), wait, threads, progress=lambda done, total: None)
    if outcome is None:
        return ("busy",)
    return ("failed", outcome.message, outcome.trace) if isinstance(outcome, Failure) else ("finished", outcome.name)


def plan_workers(configs: list[RunConfig], workers: int | None, threads: int | None) -> tuple[list[str], int, int]:
    """GPUs of each worker on this machine as `CUDA_VISIBLE_DEVICES` names them (none: empty), how many workers, and PyTorch's
    threads in each; arguments as of `run_all`."""
    from dask.system import CPU_COUNT  # what this process may use, in a container too

    given, threads = threads, threads or torch.get_num_threads()
    on_gpu = [config.training.devices for config in configs if config.training.device != "cpu"]
    count = torch.cuda.device_count() if on_gpu and torch.cuda.is_available() else 0
    if not count:
        share = threads * max(config.training.devices for config in configs)  # a run on several devices has a process for each
        number = workers or max(1, min(len(configs), CPU_COUNT // share))
        if number * share > CPU_COUNT or (number == 1 and len(configs) > 1 and workers is None):
            print(
                f"{number} workers of {share} threads on {CPU_COUNT} cores; "
                "set threads, to the same number for every engine, to share the cores out",
                flush=True,
            )
        return [], number, threads
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus, each = (listed.split(",") if listed else [str(number) for number in range(count)])[:count], max(on_gpu)
    groups = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    number = workers or min(len(groups), len(configs))
    if given is None and len(on_gpu) == len(configs):  # the arithmetic is on the GPUs
        threads = max(1, min(threads, CPU_COUNT // number))
    return groups, number, threads


@contextmanager
def local_workers(number: int) -> Iterator[Client]:
    """So many workers on this machine, each started again when it dies, and all gone afterwards, however this process ends.

    What passes between them is encrypted by keys that only they have, and every port is closed to other machines.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, Security, SpecCluster

    security = Security.temporary()
    shared = {"host": "127.0.0.1", "protocol": "tls", "security": security}
    shared |= {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    settings = {
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.http.routes": [],  # no pages: they would tell of the runs to whoever asks
        "distributed.worker.http.routes": [],
    }
    with dask.config.set(settings), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        own = {"nthreads": 1, "memory_limit": 0, "local_directory": scratch, "silence_logs": logging.CRITICAL}
        worker: dict[str, Any] = {"cls": Nanny, "options": {**shared, **own, "env": {"TQDM_DISABLE": "1"}}}
        scheduler = {"cls": Scheduler, "options": shared}
        with (
            SpecCluster(
                workers=dict.fromkeys(range(number), worker),
                scheduler=scheduler,
                security=security,
                silence_logs=logging.CRITICAL,  # deaths and moves of tasks are expected; failures are told by RunsFailed
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
