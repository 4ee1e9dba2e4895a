"""What the input pipeline costs: training from the real pipeline beside the same step on one fixed batch in memory.

    python benchmarks/bench_training.py [--model resnet18] [--size 224] [--batch 16] [--batches 2] [--rounds 25]

Both train the same kind of network by the same optimiser, in turn and in one process: an epoch from the pipeline
(memory-mapped arrays, gathered and augmented), an epoch of as many steps on one batch that is neither, and again. The ratio is
the median over the rounds of pipeline images/s to fixed images/s; epochs are short, so that whatever else the machine does
meets both sides alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.training.data import assemble, split_data
from thyroid_utils.training.loop import Training
from thyroid_utils.training.state import choose_device, repeatable
from thyroid_utils.training.tasks import Batches


class Fixed(Training):
    """The same batch at every step, unchanged."""

    def __init__(self, *given):
        super().__init__(*given)
        self.augmentation = build_augmentation("none")

    def batches(self) -> Batches:
        real = super().batches()
        if not hasattr(self, "batch"):
            self.batch = next(iter(real)).to(self.device)
        return [self.batch] * len(real)


def images_per_second(training: Training) -> float:
    """One epoch of training, without validation and states."""
    seen, began = training.state.images, time.perf_counter()
    training.train()
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return (training.state.images - seen) / (time.perf_counter() - began)


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
        kinds = {"pipeline": Training, "fixed batch": Fixed}
        rates: dict[str, list[float]] = {"pipeline": [], "fixed batch": []}
        with repeatable(device):
            assembly = assemble(config, data, Path(folder), device)
            train = assembly.positions["train"][: arguments.batch * arguments.batches]
            assembly.positions["train"] = train
            trainings = {name: kind(assembly, None, device, lambda done, total: None) for name, kind in kinds.items()}
            for number in range(arguments.rounds + 1):
                for name, training in trainings.items():
                    rate = images_per_second(training)
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
