"""Runs an hour by workers on this machine beside one run after the other, and how well many workers would be used.

    python benchmarks/bench_engine.py [--runs 4] [--epochs 6] [--model resnet18] [--size 96] [--batch 16] [--patients 60]
                                      [--device cpu] [--cuda-graph] [--only-dask]
    python benchmarks/bench_engine.py --ledger RUNS

The same runs (seeds 1, 2, …) are trained one after the other, by as many plain processes as the engine takes workers (what this
machine can give: two of its processors may share a core) and by dask; on a thread each and in ledgers of their own. Starts and
imports count, so short runs tell of these; on a busy machine only dask beside the plain processes tells anything. --ledger puts
the finished runs of a ledger, by the seconds that they took, on 64 workers that are not there: in the order of their names, which
knows nothing, and the longest first.
"""

from __future__ import annotations

import argparse
import heapq
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from thyroid_utils.common.config import RunConfig
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.training.engine import plan_workers, run_all
from thyroid_utils.training.ledger import Run


def makespan(seconds: list[float], workers: int) -> float:
    """When the last run ends, each begun by the first worker that is free."""
    free = [0.0] * workers
    for needed in seconds:
        heapq.heapreplace(free, free[0] + needed)
    return max(free)


def tell_schedule(ledger: Path, workers: int = 64) -> None:
    """What part of `workers` a plan uses: 1 where the last run ends as early as it can."""
    seconds = [Run(mark.parent).environment["seconds"] for mark in sorted(ledger.glob("*/complete.json"))]
    bound = max(sum(seconds) / workers, *seconds)
    orders = {"in no order": seconds, "longest first": sorted(seconds, reverse=True)}
    told = [f"{name} {bound / makespan(order, workers):.3f}" for name, order in orders.items()]
    runs = f"{len(seconds)} runs of {min(seconds):.0f} to {max(seconds):.0f} s on {workers} workers"
    print(f"| {runs}, part of the best possible | {' | '.join(told)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 4), ("epochs", 6), ("size", 96), ("batch", 16), ("patients", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="resnet18", help="a classifier or a segmenter")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--only-dask", action="store_true")
    parser.add_argument("--ledger", type=Path)
    asked = parser.parse_args()
    if asked.ledger:
        tell_schedule(asked.ledger)
    else:
        measure(asked)


def train_alone(config: RunConfig) -> None:
    run_all([config], threads=1)


def measure(asked: argparse.Namespace) -> None:
    told = {"task": "segmentation", "loss": {"name": "bce_dice"}} if asked.model in SEGMENTERS else {}

    def config(seed: int, epochs: int) -> RunConfig:
        data = {"options": {"patients": asked.patients, "size": 256, "views": [1, 2]}}
        training = {"epochs": epochs, "batch_size": asked.batch, "device": asked.device, "cuda_graph": asked.cuda_graph}
        return RunConfig(data=data, size=asked.size, model={"name": asked.model}, training=training, seed=seed, **told)

    configs = [config(seed, asked.epochs) for seed in range(1, asked.runs + 1)]
    workers, seconds = plan_workers(configs, 1)[1], {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in ["dask"] if asked.only_dask else ["serial", "processes", "dask"]:
            os.environ["THYROID_WORKBOOK_RUNS"] = f"{folder}/{engine}"
            run_all([config(0, 1)], threads=1)  # what both share is imported and preprocessed by a run that does not count
            began = time.perf_counter()
            if engine == "processes":
                with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                    list(pool.map(train_alone, configs))
            runs = run_all(configs, "dask" if engine == "dask" else "serial", threads=1)  # those of processes are read
            seconds[engine] = time.perf_counter() - began
        images, device = asked.runs * asked.epochs * runs[0].data["images"]["train"], runs[0].environment["device"]
    rows = [f"{name} {taken:.1f} s, {images / taken:.0f} images/s" for name, taken in seconds.items()]
    if not asked.only_dask:
        times = {engine: seconds["serial"] / taken for engine, taken in seconds.items()}
        told = f"dask {times['dask']:.2f} times the runs an hour, {times['dask'] / workers:.2f} a worker"
        rows.append(f"{told}; plain processes {times['processes']:.2f} times")
    shape = f"{asked.runs} runs of {asked.model}, {asked.size}×{asked.size}, {asked.epochs} epochs"
    print(f"| {shape}, {device}, {workers} workers | {' | '.join(rows)} |")


if __name__ == "__main__":
    main()
