"""What the input pipeline costs: training from the real pipeline beside the same step on one fixed batch in memory.

    python benchmarks/bench_training.py [--model resnet18] [--size 224] [--batch 16] [--batches 2] [--rounds 25]

Both train the same kind of network by the same optimiser under Lightning, in turn and in one process: an epoch from the
pipeline (memory-mapped arrays, gathered, augmented, laid out), an epoch of as many steps on one batch that is already in its
final layout, and again. The ratio is the median over the rounds of pipeline images/s to fixed images/s; epochs are short, so
that whatever else the machine does meets both sides alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.batch import Batch
from thyroid_utils.training.data import assemble, split_data
from thyroid_utils.training.loop import NetworkTraining, quiet
from thyroid_utils.training.state import choose_device, choose_precision, repeatable


class Timed(NetworkTraining):
    """Training without validation and states: the steps alone, with their time."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._synchronise()
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self._synchronise()
        self.seconds = time.perf_counter() - self.began

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Repeated:
    """One batch, again and again. (Lightning takes a list for several loaders.)"""

    batch: Batch
    times: int

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.times)


class Fixed(Timed):
    """The same batch at every step, as the network gets it."""

    def train_dataloader(self) -> Repeated:
        if not hasattr(self, "repeated"):
            real = super().train_dataloader()
            batch = super().on_after_batch_transfer(next(iter(real)).to(self.device), 0)
            self.repeated = Repeated(batch, len(real))
        return self.repeated

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch


def images_per_second(module: Timed, config: RunConfig, device: torch.device) -> float:
    """One epoch of training."""
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=choose_precision(config.training.precision, device),
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return sum(module._counts) / module.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--batches", type=int, default=2, help="batches an epoch")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["THYROID_WORKBOOK_RUNS"] = folder
        config = RunConfig(
            data={"options": {"patients": max(20, arguments.batch * arguments.batches), "size": 256, "views": [2, 2]}},
            size=arguments.size,
            model={"name": arguments.model},
            training={"batch_size": arguments.batch, "device": arguments.device},
        )
        device = choose_device(config.training)
        data = split_data(config)
        rates: dict[str, list[float]] = {"pipeline": [], "fixed batch": []}
        with repeatable(device), quiet():
            assembly = assemble(config, data, Path(folder), device)
            train = assembly.positions["train"][: arguments.batch * arguments.batches]
            assembly.positions["train"] = train
            modules = {
                "pipeline": Timed(assembly),
                "fixed batch": Fixed(assembly),
            }
            for number in range(arguments.rounds + 1):
                for name, module in modules.items():
                    rate = images_per_second(module, config, device)
                    if number:  # the first round warms up
                        rates[name].append(rate)
    shape = f"{arguments.model}, {len(train)} images an epoch, {arguments.size}×{arguments.size}, batches of {arguments.batch}"
    print(f"{shape}, {device.type}, {torch.get_num_threads()} threads, augmentation {config.augmentation}")
    for name, values in rates.items():
        print(f"{name:12} {statistics.median(values):8.2f} images/s  ({min(values):.2f} to {max(values):.2f})")
    ratios = np.divide(rates["pipeline"], rates["fixed batch"])
    print(f"ratio        {np.median(ratios):8.3f}           ({ratios.min():.3f} to {ratios.max():.3f})")


if __name__ == "__main__":
    main()
