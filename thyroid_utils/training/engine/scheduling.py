"""`run_all`: what is there is loaded, what is missing is checked and handed to an engine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator

import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.models.networks import check_weights, input_size
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.training.data import input_pipeline, split_data
from thyroid_utils.training.device import choose_device
from thyroid_utils.training.engine.dask_cluster import train_on_dask
from thyroid_utils.training.engine.outcome import Done, Failure, RunsFailed, attempt, label, torch_threads
from thyroid_utils.training.ledger import Run, RunDamaged, find_run, run_hash
from thyroid_utils.training.loop import check_batches, check_steps
from thyroid_utils.training.tasks import TASKS

ENGINES = ("serial", "dask")


def run_all(
    configs: Iterable[RunConfig],
    engine: str = "serial",
    address: str | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    threads: int | None = None,
) -> list[Run]:
    """The finished runs of many configs, each trained at most once, whatever dies in between.

    Finished runs are loaded, begun ones resumed; what another process is training is left for the end. Every config is
    checked before the first epoch. In a report (`THYROID_REPORT_DIR`) each run prints a line as it is finished. An interrupt
    ends the workers that were started here; what runs on a scheduler of one's own is finished there.

    Args:
        configs: what to train; equal ones are trained once.
        engine: "serial", or "dask" for several at once.
        address: with "dask": of a scheduler whose workers see the same folders, such as tcp://HOST:8786. None starts workers on
            this machine, and ends them.
        progress: called with (runs done, runs in all); None draws a bar in a terminal.
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
    if engine == "serial" and (address is not None or workers is not None):
        raise ValueError('address and workers are for engine "dask"; leave them out, or choose it')
    if address is not None and workers is not None:
        raise ValueError("workers are started by the scheduler at address; leave out one of the two")
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"{name} must be a whole number from 1 or None; found {number!r}")
    configs = list(configs)
    names = _names(configs)
    wanted = dict(zip(names, configs, strict=True))
    outcomes: dict[str, Run | Failure] = {}
    # A caller who draws a bar of its own wants no second one below it.
    within = None if progress is None else lambda done, total: None
    progress = progress_bar("Runs", lines=False) if progress is None else progress

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
        if engine == "serial":
            _train_serially(missing, threads, done, within)
        else:
            train_on_dask(missing, address, workers, threads, done)
    found = [outcomes[name] for name in names]
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    if failures:
        raise RunsFailed([None if isinstance(outcome, Failure) else outcome for outcome in found], failures)
    return found


def _line(outcome: Run | Failure, loaded: bool) -> str:
    if isinstance(outcome, Failure):
        return f"{label(outcome.config)}: failed: {outcome.message}"
    metrics, seconds = outcome.metrics, outcome.environment["seconds"]
    line = f"{label(outcome.config)}: {metrics['epochs']} epochs, best {metrics['best_epoch']}, {seconds:.0f} s"
    return f"{line} (loaded)" if loaded else line


def _finished(name: str) -> Run | None:
    """The run, where it is there and whole; a damaged one is mended by `fit_or_load`, under its lock."""
    try:
        return find_run(name)
    except RunDamaged:
        return None


@contextlib.contextmanager
def _noted(configs: list[RunConfig], config: RunConfig) -> Iterator[None]:
    """An error inside says which of the configs it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in config {configs.index(config) + 1} of {len(configs)}: {label(config)}")
        raise


def _names(configs: list[RunConfig]) -> list[str]:
    """Each config's run. The same data and split are read once."""
    known: dict[str, tuple[str, str, int]] = {}
    names = []
    for config in configs:
        key = config.task + config.data.model_dump_json() + config.split.model_dump_json()
        with _noted(configs, config):
            if key not in known:
                data = split_data(config)
                known[key] = data.fingerprint, data.split_hash, len(data.positions("train"))
            fingerprint, split_hash, images = known[key]
            check_steps(config, images)
            names.append(run_hash(config, fingerprint, split_hash))
    return names


def _check(configs: list[RunConfig], missing: dict[str, RunConfig], here: bool) -> None:
    """Raise for a config that cannot be trained. Networks are built for it, each once, as nothing else knows their options.

    here: the devices that are to train are this machine's.
    """
    built = set()
    for config in missing.values():
        task, model = TASKS[config.task], config.model
        with _noted(configs, config):
            if here:
                choose_device(config.training)
            check_weights(model.name, model.weights, model.options)
            build_augmentation(config.augmentation)
            task.criterion(config, None)
            channels, size = input_pipeline(config).channels, config.size or input_size(model.name)
            key = json.dumps([task.name, model.name, model.options, size, config.training.batch_size == config.training.devices],
                             sort_keys=True)  # fmt: skip
            if key not in built:
                built.add(key)
                with torch.random.fork_rng(devices=[]):
                    network = task.network(config, channels, "none")
                network.check_size(size, size)
                check_batches(config, network)


def _train_serially(missing: dict[str, RunConfig], threads: int | None, done: Done, progress: Progress | None) -> None:
    busy = {}
    with torch_threads(threads or torch.get_num_threads()):
        for wait in (False, True):
            for name, config in (busy if wait else missing).items():
                outcome = attempt(config, wait, progress)
                if outcome is None:
                    busy[name] = config
                else:
                    done(name, outcome)
