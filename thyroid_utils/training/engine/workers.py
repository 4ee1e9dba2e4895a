"""Workers of dask.distributed on this machine: how many, with which GPUs and threads, and that none outlives its use."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from thyroid_utils.common.config import RunConfig

if TYPE_CHECKING:
    from distributed import Client


def plan_workers(configs: list[RunConfig], workers: int | None, threads: int | None) -> tuple[list[dict[str, str]], int]:
    """Environment variables of each worker on this machine, and PyTorch's threads in each; arguments as of `run_all`."""
    from dask.system import CPU_COUNT  # what this process may use, in a container too

    given, threads = threads, threads or torch.get_num_threads()
    on_gpu = [config.training for config in configs if config.training.device != "cpu"]
    gpus = _visible_gpus() if on_gpu else []
    if not gpus:
        # A run on several CPU devices has a process for each.
        share = threads * max(config.training.devices for config in configs)
        number = workers or max(1, min(len(configs), CPU_COUNT // share))
        if number * share > CPU_COUNT or (number == 1 and len(configs) > 1 and workers is None):
            print(
                f"{number} workers of {share} threads on {CPU_COUNT} cores; "
                "set threads, to the same number for every engine, to share the cores out",
                flush=True,
            )
        return [{}] * number, threads
    each = max(training.devices for training in on_gpu)
    groups = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    number = workers or min(len(groups), len(configs))
    if given is None and len(on_gpu) == len(configs):  # the arithmetic is on the GPUs
        threads = max(1, min(threads, CPU_COUNT // number))
    return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(number)], threads


def _visible_gpus() -> list[str]:
    """As `CUDA_VISIBLE_DEVICES` names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (listed.split(",") if listed else [str(number) for number in range(count)])[:count]


@contextlib.contextmanager
def local_workers(environments: list[dict[str, str]], threads: int) -> Iterator[tuple[Client, Callable[[], bool]]]:
    """A scheduler in this process and a worker for each environment, all gone afterwards.

    The workers are started as programs, not by multiprocessing, which would execute the caller's script once more in each.
    Each has a supervisor that starts it again when it dies.
    """
    from distributed import Client, LocalCluster

    settings = {
        "DASK_LOGGING__DISTRIBUTED": "critical",  # deaths and moves of tasks are expected; failures are told by RunsFailed
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TQDM_DISABLE": "1",
    }
    processes: list[subprocess.Popen] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        LocalCluster(
            n_workers=0,
            processes=True,
            host="127.0.0.1",
            scheduler_port=0,
            dashboard_address="127.0.0.1:0",  # None still takes Dask's fixed port, for its pages of measurements
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        command = [sys.executable, "-m", "dask", "worker", cluster.scheduler_address, "--nthreads", "1", "--memory-limit", "0",
                   "--no-dashboard", "--host", "127.0.0.1", "--death-timeout", "60", "--local-directory", scratch,
                   "--preload-nanny", str(Path(__file__).with_name("leash.py"))]  # fmt: skip
        try:
            for environment in environments:
                variables = {**os.environ, **settings, **environment}
                # In a session of their own, an interrupt from the terminal reaches this process only, which ends them.
                processes.append(subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, start_new_session=True))
            yield client, lambda: any(process.poll() is None for process in processes)
        finally:
            _end(processes)


def _end(processes: list[subprocess.Popen]) -> None:
    """Kill them and all that they started; a run in the middle is resumed when it is asked for again."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.stdin.close()
        process.wait()
