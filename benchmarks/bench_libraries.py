"""Training beside the field's libraries: images per second of processor, ours, smp with albumentations, and MONAI.

    python benchmarks/bench_libraries.py [--size 128] [--batch 8] [--batches 4] [--rounds 5] [--model resnet18]
                                         [--device cpu]

All three train smp's U-Net on ResNet18, from random weights, on the same phantom files, in batches of one size, by Adam and a
Dice loss, with random flips, moves, gain and noise on the CPU, one thread and one process each. Theirs are written as the
libraries' examples are: a data set that reads and changes file by file behind torch's `DataLoader`, and a `CacheDataset` of
dictionaries. No worker processes on a CPU: these spread work over cores and save none. An epoch of each follows the other's and
is charged its processor time; a ratio is the median over rounds. On a GPU it is charged the clock's, theirs have four workers as
in their examples, and all compute in float32. albumentations is not among the
workbook's packages; without it its line is left out:

    pip install "albumentations<2.1"

Nearly all of an image's time is the network's, which is the same: what can be saved is how it lies in memory, and the reading and
changing of images. The larger the network, the nearer to 1 the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from monai import data, transforms
from monai.losses import DiceLoss
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.machine import keep_freed_memory
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.training.data import assemble, split_data
from thyroid_utils.training.loop import Training

ASKED = 1.2
RATE = 1e-4


def ours(config: RunConfig, images: int) -> Callable[[], object]:
    keep_freed_memory()  # as every training does
    device = torch.device(config.training.device)
    assembly = assemble(config, split_data(config), runs_dir(), device)
    assembly.positions["train"] = assembly.positions["train"][:images]
    return Training(assembly, None, device, lambda done, total: None).train


def epoch_of(
    loader: Iterable, read: Callable[[object], tuple[torch.Tensor, torch.Tensor]], loss: nn.Module, model: str, device: str
):
    """An epoch of a plain loop over a library's loader."""
    network = smp.Unet(model, encoder_weights=None, in_channels=1, classes=1).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)

    def train() -> None:
        network.train()
        for batch in loader:
            images, masks = (part.to(device) for part in read(batch))
            optimiser.zero_grad()
            found = loss(network(images), masks)
            found.backward()
            optimiser.step()
            found.item()

    return train


class Files(torch.utils.data.Dataset):
    """Pictures and masks, read and changed one by one by albumentations."""

    def __init__(self, cases: pd.DataFrame, size: int):
        import albumentations

        self.rows = list(zip(cases["image"], cases["mask"], strict=True))
        self.change = albumentations.Compose(
            [
                albumentations.Resize(size, size),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.Affine(rotate=(-8, 8), translate_percent=(-0.05, 0.05), scale=(0.9, 1.1), p=1),
                albumentations.RandomBrightnessContrast(0.1, 0.2, p=1),
                albumentations.GaussNoise(std_range=(0.05, 0.05), p=1),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in self.rows[place])
        changed = self.change(image=image, mask=(mask > 0).astype(np.float32))
        return torch.from_numpy(changed["image"]).float()[None] / 255, torch.from_numpy(changed["mask"])[None]


def reading(batch: int, device: str) -> dict[str, object]:
    """How a `DataLoader` reads."""
    on_gpu = device == "cuda"
    return {"batch_size": batch, "shuffle": True, "num_workers": 4 * on_gpu, "persistent_workers": on_gpu, "pin_memory": on_gpu}


def smps(cases: pd.DataFrame, size: int, batch: int, model: str, device: str) -> Callable[[], None]:
    loader = torch.utils.data.DataLoader(Files(cases, size), **reading(batch, device))
    return epoch_of(loader, tuple, smp.losses.DiceLoss("binary"), model, device)


def monais(cases: pd.DataFrame, size: int, batch: int, model: str, device: str) -> Callable[[], None]:
    both = ["image", "mask"]
    change = transforms.Compose(
        [
            transforms.LoadImaged(both, ensure_channel_first=True),
            transforms.ScaleIntensityd(both),
            transforms.Resized(both, (size, size), mode=("area", "nearest")),
            transforms.RandFlipd(both, 0.5, spatial_axis=0),
            transforms.RandAffined(
                both,
                prob=1.0,
                rotate_range=np.pi * 8 / 180,
                translate_range=0.05 * size,
                scale_range=0.1,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            transforms.RandScaleIntensityd("image", 0.2, 1.0),
            transforms.RandShiftIntensityd("image", 0.1, prob=1.0),
            transforms.RandGaussianNoised("image", 1.0, std=0.05),
        ]
    )
    files = cases[both].to_dict("records")
    loader = data.DataLoader(data.CacheDataset(files, change, progress=False), **reading(batch, device))
    return epoch_of(loader, lambda found: (found["image"], found["mask"]), DiceLoss(sigmoid=True), model, device)


def charged(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def serve(asked: Connection, name: str, config: RunConfig, images: int) -> None:
    """Train an epoch whenever it is asked for and tell its time, in a process of its own, as ours sets up how memory is kept."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if name == "ours":
        epoch = ours(config, images)
    else:
        split, training = split_data(config), config.training
        cases = split.cases.iloc[split.positions("train")[:images]]
        shape = cases, config.size, training.batch_size, config.model.name.removeprefix("unet_"), training.device
        epoch = LIBRARIES[name](*shape)
    while True:
        asked.send(charged(epoch, config.training.device))
        if not asked.recv():
            return


LIBRARIES = {"MONAI, CacheDataset": monais, "smp, albumentations": smps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="the encoder of smp's U-Net")
    parser.add_argument("--size", type=int, default=128, help="side of the network's input in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()

    images, found = options.batch * options.batches, bool(importlib.util.find_spec("albumentations"))
    names, context = ["ours", *[name for name in LIBRARIES if found or "albumentations" not in name]], get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THYROID_WORKBOOK_RUNS"] = folder
        config = RunConfig(
            task="segmentation",
            data={"options": {"patients": 3 * images // 2, "size": 256, "views": [1, 1]}},
            size=options.size,
            preprocessing=["gray", "resize", "scale"],
            model={"name": f"unet_{options.model}"},
            loss={"name": "dice"},
            optimiser={"learning_rate": RATE},
            training={"batch_size": options.batch, "device": options.device, "precision": "32"},
        )
        pipes = {}
        for name in names:
            pipes[name], theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, name, config, images), daemon=True).start()
            theirs.close()
            pipes[name].recv()  # the first epoch warms up
        rounds = [{name: asked_of(pipe) for name, pipe in pipes.items()} for _ in range(options.rounds)]
        for pipe in pipes.values():
            pipe.send("")
    shape = f"{images} images an epoch of {options.size}², batches of {options.batch}, {options.device}"
    print(f"U-Net on {options.model}, {shape}, one thread; images/s{' of processor' if options.device == 'cpu' else ''}")
    for name in names:
        seconds = np.array([times[name] for times in rounds])
        ratios = seconds / [times["ours"] for times in rounds]
        told = f"{np.median(ratios):.2f} times as long ({ratios.min():.2f} to {ratios.max():.2f}), asked {ASKED}"
        print(f"| {name} | {images / np.median(seconds):.2f} images/s | {'' if name == 'ours' else told} |")
    if not found:
        print('smp with albumentations was left out; to compare with it: pip install "albumentations<2.1"')


def asked_of(pipe: Connection) -> float:
    """The time of one more epoch."""
    pipe.send("next")
    return pipe.recv()


if __name__ == "__main__":
    main()
