"""What the input pipeline costs: training from the real pipeline beside the same step on one fixed batch in memory.

    python benchmarks/bench_training.py [--model resnet18] [--size 224] [--batch 16] [--batches 2] [--rounds 25]
                                        [--ways plain cuda_graph deterministic]

Both train the same kind of network by the same optimiser, in turn and in one process: an epoch from the pipeline
(memory-mapped arrays, gathered and augmented), an epoch of as many steps on one batch that is neither, and again. The ratio is
the median over the rounds of pipeline images/s to fixed images/s; epochs are short, so that whatever else the machine does
meets both sides alike. A row a way; all but `plain` are for a GPU (`bench_gpu.sh` runs those).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.training.data import Assembly, assemble, split_data
from thyroid_utils.training.loop import Training
from thyroid_utils.training.state import choose_device, device_name, repeatable
from thyroid_utils.training.tasks import Batch


class Fixed(Training):
    """The same batch at every step, unchanged."""

    def __init__(self, assembly: Assembly, *given):
        super().__init__(replace(assembly, config=assembly.config.model_copy(update={"augmentation": "none"})), *given)

    def batches(self) -> list[Batch]:
        real = super().batches()
        if not hasattr(self, "batch"):
            self.batch = next(iter(real)).to(self.device)
        return [self.batch] * len(real)


KINDS = {"pipeline": Training, "fixed batch": Fixed}


def images_per_second(training: Training) -> float:
    """One epoch of training, without validation and states."""
    seen, began = training.state.images, time.perf_counter()
    training.train()
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return (training.state.images - seen) / (time.perf_counter() - began)


def rates(config: RunConfig, folder: Path, images: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of either kind, a number a round."""
    device, found = choose_device(config.training), {name: [] for name in KINDS}
    with repeatable(device, config.training.deterministic):
        assembly = assemble(config, split_data(config), folder, device)
        assembly.positions["train"] = assembly.positions["train"][:images]
        trainings = {name: kind(assembly, None, device, lambda done, total: None) for name, kind in KINDS.items()}
        for number in range(rounds + 1):
            for name, training in trainings.items():
                rate = images_per_second(training)
                if number:  # the first round warms up
                    found[name].append(rate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a classifier or a segmenter")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--batches", type=int, default=2, help="batches an epoch")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--augmentation", default="default")
    parser.add_argument("--ways", nargs="+", default=["plain"], choices=("plain", "cuda_graph", "deterministic"))
    arguments = parser.parse_args()

    images = arguments.batch * arguments.batches
    told = {"task": "segmentation", "loss": {"name": "bce_dice"}} if arguments.model in SEGMENTERS else {}
    shape = f"{arguments.model}, {images} images an epoch, {arguments.size}×{arguments.size}, batches of {arguments.batch}"
    print(f"{shape}, {torch.get_num_threads()} threads, augmentation {arguments.augmentation}; images/s: median (range)")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THYROID_WORKBOOK_RUNS"] = folder
        for way in arguments.ways:
            training = {"batch_size": arguments.batch, "device": arguments.device}
            config = RunConfig(
                data={"options": {"patients": max(20, images), "size": 256, "views": [2, 2]}},
                size=arguments.size,
                model={"name": arguments.model},
                augmentation=arguments.augmentation,
                training=training if way == "plain" else training | {way: True},
                **told,
            )
            found = rates(config, Path(folder), images, arguments.rounds)
            columns = [f"{name} {statistics.median(of):.1f} ({min(of):.1f} to {max(of):.1f})" for name, of in found.items()]
            ratio = np.median(np.divide(found["pipeline"], found["fixed batch"]))
            print(
                f"| {device_name(choose_device(config.training))}, {way} | {' | '.join(columns)} | ratio {ratio:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
