"""From preprocessed arrays to the batches of an epoch.

No worker processes: the arrays are memory-mapped and already preprocessed, so that gathering a batch is a copy, and the
random changes are made for the whole batch on the device that trains. On a GPU the copy overlaps with the kernels in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thyroid_utils.preprocess.store import ArrayStore


@dataclass(frozen=True)
class Batch:
    """images: float32 (batch, stored channels, height, width); labels: int64 (batch,), -1 for an unknown one; masks: bool (batch,
    height, width) or None; seed: whole numbers that decide the random changes; share: which part this is, as in `Batches`."""

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None
    seed: tuple[int, ...]
    share: tuple[int, int] = (0, 1)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = [None if part is None else part.to(device, non_blocking=True) for part in (self.images, self.labels, self.masks)]
        return Batch(*moved, self.seed, self.share)


class Arrays:
    """Images and labels of a run, by position in its case table.

    channels: what the network gets. One channel is stored where all are the same, and made into so many on the device.
    """

    def __init__(self, store: ArrayStore, with_masks: bool = False, pin: bool = False):
        images = np.asarray(store.images)
        self.channels = images.shape[1]
        self.images = images[:, :1] if images.strides[1] == 0 else images
        self.masks = np.asarray(store.masks) if with_masks and store.masks is not None else None
        self.labels = store.cases["label"].fillna(-1).to_numpy(np.int64)
        self.pin = pin

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = (), share: tuple[int, int] = (0, 1)) -> Batch:
        """Copies of the images at these positions, in page-locked memory where `pin`."""
        images, labels = torch.from_numpy(self.images[positions]), torch.from_numpy(self.labels[positions])
        masks = None if self.masks is None else torch.from_numpy(self.masks[positions])
        if self.pin:
            images, labels, masks = (None if part is None else part.pin_memory() for part in (images, labels, masks))
        return Batch(images, labels, masks, seed, share)


@dataclass(frozen=True)
class Batches:
    """One pass over some positions in their order.

    seed: of the pass; that of a batch has its number behind. share: (number, of how many) for one of several devices.
    """

    arrays: Arrays
    parts: Sequence[np.ndarray]
    seed: tuple[int, ...] = ()
    share: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        first, step = self.share
        for number, positions in enumerate(self.parts):
            yield self.arrays.batch(positions[first::step], (*self.seed, number), self.share)


def network_input(images: torch.Tensor, channels: int) -> torch.Tensor:
    """(batch, stored channels, height, width) → (batch, channels, height, width), channels last in memory: faster."""
    return images.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)


def in_order(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of evaluation: every position once, as it comes; the last batch may be smaller."""
    return [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]


def batch_starts(images: int, batch_size: int, devices: int) -> list[int]:
    """Where the batches of an epoch begin; which are left out is told in `epoch_batches`."""
    smallest = batch_size if devices > 1 else min(2, batch_size)
    return [start for start in range(0, images, batch_size) if images - start >= smallest]


def epoch_batches(
    positions: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int, epoch: int, balance: str, devices: int = 1
) -> list[np.ndarray]:
    """The batches of one epoch of training, decided by seed and epoch alone.

    Args:
        positions: of the training images.
        labels: their labels, in the same order.
        batch_size: images of a batch over all devices.
        balance: "sampling" draws as many images as there are, each class equally often on average, with repetition; otherwise
            every image occurs once.
        devices: among how many each batch is shared out.

    Returns:
        positions, an array a batch. On one device the last batch may be smaller, but one of a single image is left out: batch
        normalisation has no variance to divide by. Several devices get full batches only, because their gradients are averaged
        with equal weight.
    """
    # A stream of its own (spawn_key), so that the order shares no numbers with dropout or augmentation.
    random = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(1,)))
    if balance == "sampling":
        classes = [positions[labels == label] for label in np.unique(labels)]
        drawn = random.integers(len(classes), size=len(positions))
        order = np.array([random.choice(classes[number]) for number in drawn])
    else:
        order = random.permutation(positions)
    return [order[start : start + batch_size] for start in batch_starts(len(order), batch_size, devices)]
