"""Where runs execute: one after the other here, or several at once on workers of dask.distributed.

Nothing is kept beside the ledger. A run is named by what decides its result and locked while it is trained, a killed one is
resumed from the epoch kept last by whoever takes it up next: so an engine only hands out configs until every run is there.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from thyroid_utils.common import paths
from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.files import scratch_folder
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.common.progress import Progress, notebook_shell, progress_bar
from thyroid_utils.common.words import count
from thyroid_utils.training.data import SplitData, built_of, check_config, check_steps, gpu_bytes, longest_first, split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import RECIPE, SHORT, Run, RunBusy, RunDamaged, find_run, run_hash
from thyroid_utils.training.state import choose_device

if TYPE_CHECKING:
    from distributed import Client, Future

ENGINES = ("serial", "dask")
_AT_ONCE = 4  # runs on a GPU at most: what one leaves idle, a few others fill
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


# What became of each run by name, None where another process is at it and `wait` is false.
Outcomes = Iterator[tuple[str, Run | Failure | None]]
Train = Callable[[dict[str, RunConfig], bool], Outcomes]


def run_all(
    configs: Iterable[RunConfig], engine: str = "serial", address: str | None = None, threads: int | None = None
) -> list[Run]:
    """The finished runs of many configs, each trained at most once, whatever dies in between.

    Finished runs are loaded, begun ones resumed; what another process is training is left for the end. Every config is
    checked before the first epoch. In a notebook each run prints a line as it is finished. An interrupt
    ends the workers that were started here; what runs on a scheduler of one's own is finished there.

    Args:
        configs: what to train; equal ones are trained once.
        engine: "serial", or "dask" for several at once. A script that asks for dask without an address needs the usual
            `if __name__ == "__main__":`, as its workers are started from it.
        address: with "dask": of a scheduler whose workers see the same folders, such as tcp://HOST:8786. None starts workers on
            this machine, which nobody else can reach, and ends them: up to four a GPU, as its free memory and the cores allow
            (one for `training.devices` GPUs), without GPUs as many as have cores for their threads.
        threads: of PyTorch in a run; None takes `torch.get_num_threads()` of this process, on workers that share GPUs no
            more than there are cores. On the CPU, equal numbers of threads give equal results to the last bit, on any engine
            and any number of workers; so with "dask" on the CPU set it to 1 or a few, that several workers have room.

    Returns:
        the runs, in the order of the configs.

    Raises:
        ConfigError, DataError, ValueError: a config that cannot work; nothing is trained then. A note says which.
        RunsFailed: after all others were finished.
    """
    if engine not in ENGINES or (address is not None and engine == "serial"):
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, and dask with an address; found {engine!r}")
    configs = list(configs)
    names, outcomes = _prepared(configs, here=address is None)
    progress = progress_bar("Runs", lines=False)
    for number, run in enumerate(outcomes.values(), 1):
        _tell(run, " (loaded)")
        progress(number, len(set(names)))
    missing = {name: config for name, config in zip(names, configs, strict=True) if name not in outcomes}
    if missing:
        serial = nullcontext(partial(_in_turn, threads=threads or torch.get_num_threads()))
        with serial if engine == "serial" else _dask(list(missing.values()), address, threads) as train:
            for wait in (False, True):
                left = {name: config for name, config in missing.items() if name not in outcomes}
                for name, outcome in train(left, wait):
                    if outcome is not None:
                        outcomes[name] = outcome
                        _tell(outcome)
                        progress(len(outcomes), len(set(names)))
    found = [outcomes[name] for name in names]
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    if failures:
        raise RunsFailed([None if isinstance(outcome, Failure) else outcome for outcome in found], failures)
    return found


def _tell(outcome: Run | Failure, how: str = "") -> None:
    if not os.environ.get("THYROID_REPORT_DIR") and notebook_shell() is None:
        return
    if isinstance(outcome, Failure):
        print(f"{outcome.config.label}: failed: {outcome.message}", flush=True)
        return
    metrics, seconds = outcome.metrics, outcome.environment["seconds"]
    told = f"{count(metrics['epochs'], 'epoch')}, best {metrics['best_epoch']}, {seconds:.0f} s{how}"
    print(f"{outcome.config.label}: {told}, run {outcome.name[:SHORT]}", flush=True)  # which the report gathers


def _finished(name: str) -> Run | None:
    """The run, where it is there and whole; a damaged one is mended by `fit_or_load`, under its lock."""
    try:
        return find_run(name)
    except RunDamaged:
        return None


def _prepared(configs: list[RunConfig], here: bool) -> tuple[list[str], dict[str, Run | Failure]]:
    """Each config's run by name, and the finished runs; the same data and split are read once.

    Raises for a config that cannot be trained. here: the devices that are to train are this machine's.
    """
    read: dict[str, SplitData] = {}
    built: set[str] = set()
    names, finished = [], {}
    for number, config in enumerate(configs, 1):
        try:
            key = config.task + config.data.model_dump_json() + config.split.model_dump_json()
            data = read[key] = read.get(key) or split_data(config)
            check_steps(config, len(data.positions("train")))
            names.append(run_hash(config, data.fingerprint, data.split_hash))
            run = _finished(names[-1])
            if run is None:
                _check(config, built, here)
            else:
                finished.setdefault(names[-1], run)
        except Exception as error:
            error.add_note(f"in config {number} of {len(configs)}: {config.label}")
            raise
    return names, finished


def _check(config: RunConfig, built: set[str], here: bool) -> None:
    if here:
        choose_device(config.training)
    key = built_of(config)
    if key not in built:
        built.add(key)
        check_config(config)


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


def _in_turn(configs: dict[str, RunConfig], wait: bool, threads: int) -> Outcomes:
    for name, config in configs.items():
        yield name, _attempt(config, wait, threads)


@contextmanager
def _dask(configs: list[RunConfig], address: str | None, threads: int | None) -> Iterator[Train]:
    from distributed import Client

    variables = {
        "THYROID_WORKBOOK_ROOT": str(paths.project_root()),
        "THYROID_WORKBOOK_RUNS": str(runs_dir()),
        "THYROID_WORKBOOK_CACHE": str(paths.cache_dir()),
    }
    told = {"variables": variables, "recipe": RECIPE, "threads": threads, "most_threads": torch.get_num_threads()}
    if address is None:
        told["gpus"], number, told["threads"] = plan_workers(configs, threads)
        opened = local_workers(number)
    else:
        opened = Client(address, set_as_default=False)
    with opened as client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            print(f"{address}: no workers yet; waiting for the first", flush=True)
        yield partial(_at_once, client, told)


def _at_once(client: Client, told: dict, configs: dict[str, RunConfig], wait: bool) -> Outcomes:
    from distributed import as_completed

    futures = {}
    for name, config in longest_first(configs).items():
        futures[client.submit(_train_here, config.to_json(), wait=wait, **told, pure=False)] = name
    try:
        for future in as_completed(futures, loop=client.loop):
            name = futures[future]
            yield name, _outcome(future, name, configs[name])
    finally:
        client.cancel(list(futures))


def _outcome(future: Future, name: str, config: RunConfig) -> Run | Failure | None:
    """What became of a run on a worker, as this process sees it."""
    if future.status != "finished":
        error = future.exception() if future.status == "error" else RuntimeError("the scheduler lost it")
        told = f"its worker died ({type(error).__name__}: {error}); often memory"
        return Failure(config, f"{told}; run again: finished runs are kept, this one is resumed")
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
        ("finished",), ("busy",) or ("failed", message, trace).
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
    return ("failed", outcome.message, outcome.trace) if isinstance(outcome, Failure) else ("finished",)


def plan_workers(configs: list[RunConfig], threads: int | None) -> tuple[list[str], int, int]:
    """GPUs of each worker on this machine as `CUDA_VISIBLE_DEVICES` names them (none: empty), how many workers, and PyTorch's
    threads in each; `threads` as of `run_all`."""
    from dask.system import CPU_COUNT  # what this process may use, in a container too

    on_gpu = any(config.training.device != "cpu" for config in configs) and torch.cuda.is_available()
    asked = [config.training.devices for config in configs if config.training.device != "cpu" or not on_gpu]
    each, chosen = max(asked), threads or torch.get_num_threads()
    if not on_gpu:
        share = chosen * each  # a run on several devices has a process for each
        number = max(1, min(len(configs), CPU_COUNT // share))
        if number == 1 < len(configs):
            told = f"one worker of {share} threads on {CPU_COUNT} cores"
            print(f"{told}; set threads, to the same number for every engine, to share the cores out", flush=True)
        return [], number, chosen
    count, listed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = listed.split(",")[:count] if listed else [str(number) for number in range(count)]
    groups = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    if each == 1 and len(configs) > len(groups):
        kinds = {built_of(config): config for config in configs if config.training.device != "cpu"}
        room = torch.cuda.mem_get_info(0)[0] // 2 // max(map(gpu_bytes, kinds.values()))  # the other half for their arrays
        groups *= max(1, min(_AT_ONCE, room, CPU_COUNT // len(groups)))
    number = min(len(groups), len(configs))
    return groups, number, threads or max(1, min(chosen, CPU_COUNT // number))


@contextmanager
def local_workers(number: int) -> Iterator[Client]:
    """So many workers on this machine, each started again when it dies, and all gone afterwards, however this process ends.

    What passes between them is encrypted by keys that only they have, and every port is closed to other machines.
    """
    import dask
    from distributed import Client, LocalCluster, Security

    settings = {
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.http.routes": [],  # no pages: they would tell of the runs to whoever asks
        "distributed.worker.http.routes": [],
        # Without dask's own MALLOC_TRIM_THRESHOLD_, which gives memory back at every step and takes half as long again.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1},
    }
    with dask.config.set(settings), scratch_folder() as scratch:
        cluster = LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            memory_limit=0,
            host="127.0.0.1",
            protocol="tls",
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address="127.0.0.1:0",
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,  # deaths and moves of tasks are expected; failures are told by RunsFailed
            env={"TQDM_DISABLE": "1"},
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client
