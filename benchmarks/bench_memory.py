"""Memory of notebook 03 on 100,000 images of 224², and the time of a batch against 1,000 images. Linux.

    python benchmarks/bench_memory.py [--images 100000] [--few 1000] [--size 224] [--batches 40]

The store is an array file without content (sparse, so that it takes no disk) and the predictions are drawn; the rest is what 03
runs: split and assembly, a part of an epoch with a small network, and every table and curve of two networks by two seeds on the
test images. Anonymous memory is what a process needs; pages of mapped files are given back where another process wants them.
Exit code 1 where their sum passes 4 GB, or a batch takes longer by a fifth.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from thyroid_utils.common.config import RunConfig
from thyroid_utils.data.splits import split_cases, split_hash
from thyroid_utils.data.table import make_cases
from thyroid_utils.plots import classifier_comparison as plots
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.store import ArrayStore
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.training.data import SplitData, assemble
from thyroid_utils.training.loop import Training
from thyroid_utils.training.tasks import Batches, score_batches

GIGABYTES, LONGER = 4.0, 1.2
BATCH = 16


class Part(Training):
    """Some batches of an epoch."""

    most = 40

    def batches(self) -> Batches:
        whole = super().batches()
        return replace(whole, parts=whole.parts[: self.most])


def resident() -> np.ndarray:
    """Gigabytes of this process now: anonymous, and of mapped files."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return np.array([int(told[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile")])


@contextmanager
def watched(stage: str) -> Iterator[None]:
    """Print the most that a block holds, and its processor time."""
    most, done = resident(), Event()

    def look() -> None:
        while not done.wait(0.02):
            np.maximum(most, resident(), out=most)

    thread, began = Thread(target=look), time.process_time()
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    np.maximum(peak, most, out=peak)
    print(f"  {stage:34} {most[0]:5.2f} GB anonymous {most[1]:6.2f} GB mapped {time.process_time() - began:8.1f} s", flush=True)


peak = np.zeros(2)


def made_cases(images: int) -> pd.DataFrame:
    """Four images a patient; no file is read."""
    numbers = np.arange(images)
    names, patients = (pd.Series(found).astype("string") for found in (numbers, numbers // 4))
    rows = {"case": "c" + names.str.zfill(7), "image": "made/" + names, "patient": "p" + patients, "label": numbers // 4 % 2}
    return make_cases(pd.DataFrame(rows).assign(dataset="made"))


def made_store(cases: pd.DataFrame, size: int, folder: Path) -> ArrayStore:
    path = folder / "images.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (len(cases), 1, size, size))
    images = np.broadcast_to(np.load(path, mmap_mode="r"), (len(cases), 3, size, size), subok=True)
    return ArrayStore(images, None, cases, (Geometry((size, size), (size, size)),) * len(cases), folder)


def begun(config: RunConfig, data: SplitData, store: ArrayStore, folder: Path, batches: int) -> Part:
    """Assembled; an epoch of it is so many batches."""
    device = torch.device("cpu")
    with patch("thyroid_utils.training.data.preprocessed", lambda *_: store):
        training = Part(assemble(config, data, folder, device), None, device, lambda done, total: None)
    training.most = batches
    return training


def made_run(config: RunConfig, data: SplitData) -> SimpleNamespace:
    """What a finished run offers, its predictions drawn."""
    cases = data.cases[data.cases["split"].isin(["val", "test"])]
    random = np.random.default_rng(config.seed)
    found = cases[["patient", "split", "label"]].assign(log_odds=cases["label"].astype(float) + random.normal(size=len(cases)))
    run = SimpleNamespace(
        config=config,
        data={"split_hash": data.split_hash, "fingerprint": "", "weights": "none", "leaky": False, "input": (3,),
              "patients": data.patients, "images": data.cases["split"].value_counts().to_dict()},
        metrics={"val": {"auc": 0.76}},
        predictions=found.assign(probability=expit(found["log_odds"])),
        history=pd.DataFrame({"train_loss": [0.7], "val_loss": [0.7], "val_auc": [0.76]}, index=pd.Index([1])),
        best_epoch=1,
        environment={"images_per_second": 10.0},
        load_model=lambda: torch.nn.Linear(3, 1),
    )  # fmt: skip
    run.folds = (run,)
    return run


def statistics(configs: list[RunConfig], data: SplitData) -> None:
    """What 03 computes and draws of predictions."""
    comparison = ClassifierComparison.of([made_run(config, data) for config in configs])
    comparison.estimates(), comparison.estimates(["accuracy"], fixed=True), comparison.spread()
    comparison.pairs(), comparison.pairs("accuracy")
    for draw in (plots.roc_and_pr, plots.confusion_matrices, plots.reliability):
        draw(comparison)
    comparison.decisions(comparison.chosen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1_000, help="images whose batches are the measure")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batches", type=int, default=40, help="of 16 images, in a part of an epoch; ten parts of each")
    options = parser.parse_args()
    torch.set_num_threads(1)

    steps = ["gray", "resize", "scale", "three_channels"]
    shared = {"size": options.size, "preprocessing": steps, "training": {"batch_size": BATCH, "device": "cpu"}}
    names = ("timm:test_resnet", "timm:test_vit")
    configs = [RunConfig(model={"name": name}, seed=seed, **shared) for name in names for seed in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for images in (options.few, options.images):
            print(f"{images:,} images of {options.size}²")
            own = Path(folder) / str(images)
            own.mkdir()
            with watched("split"):
                cases = split_cases(made_cases(images), (0.6, 0.15, 0.25), check_pixels=False)
                data = SplitData(cases, "", split_hash(cases), 0, "made")
            with watched("assembly"):
                parts.append(begun(configs[0], data, made_store(cases, options.size, own), own, options.batches))
        for part in parts:
            charged(part)
        with watched("ten parts of an epoch of each"):
            times = np.array([[charged(part) / options.batches for part in parts] for _ in range(10)])
        with watched("validation images"):
            part, task = parts[1], parts[1].task
            rows = part.assembly.positions["val"][: options.batches * BATCH].reshape(-1, BATCH)
            score_batches(part.network.eval(), task.scores(part.criterion), Batches(part.assembly.arrays, rows), part.device)
        with watched("tables and curves of four runs"):
            statistics(configs, data)
    ratio = float(np.median(times[:, 1] / times[:, 0]))
    few, many = np.median(times, axis=0) * 1000
    print(f"a batch: {few:.1f} ms of {options.few:,} images, {many:.1f} ms of {options.images:,}: {ratio:.2f}   limit {LONGER}")
    print(f"most at once: {peak[0]:.2f} GB anonymous, {peak[1]:.2f} GB of mapped files   limit {GIGABYTES:g} GB together")
    return int(peak.sum() > GIGABYTES or ratio > LONGER)


def charged(part: Part) -> float:
    began = time.process_time()
    part.train()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
