"""Batches, and what classifiers, segmenters and networks that are both do differently with them: which cases count, what is
compared, how a set is scored.

Everything else (splits, epochs, states, the ledger) is one path for all and asks the task here. No worker processes: the arrays
are memory-mapped and already preprocessed, so that gathering a batch is a copy, and the random changes are made for the whole
batch on the device that trains. A GPU holds arrays that it has room for; of others the copy overlaps with kernels in flight.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.models import losses, networks
from thyroid_utils.preprocess.store import ArrayStore

SIDES = {"train": "training", "val": "validation", "test": "test"}
SCORE_NAMES = {"auc": "AUC", "dice": "Dice"}
THRESHOLD = 0.5  # at or above it a pixel is called nodule
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")

# Takes the maps of a batch, uint8 (batch, height, width).
WriteMaps = Callable[[np.ndarray], None]
MAPPED = 2**30  # bytes read from mapped files, after which their pages are given back


@dataclass(frozen=True)
class Batch:
    """images: float32 (batch, stored channels, height, width); labels: int64 (batch,), -1 for an unknown one; masks: bool (batch,
    height, width) or None; seed: whole numbers that decide the random changes; share: which part this is, as in `Batches`."""

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None
    seed: tuple[int, ...] = ()
    share: tuple[int, int] = (0, 1)

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return self.images, self.labels, self.masks

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = [None if part is None else part.to(device, non_blocking=True) for part in self.parts]
        return Batch(*moved, self.seed, self.share)


class Arrays:
    """Images and labels of a run, by position in its case table.

    channels: what the network gets. One channel is stored where all are the same, and made into so many on the device. A GPU
    with eight times the room that they take gets them all at once, and gathers its batches itself.
    """

    def __init__(self, store: ArrayStore, with_masks: bool = False, device: torch.device | None = None):
        images = np.asarray(store.images)
        self.channels = images.shape[1]
        self.images = images[:, :1] if images.strides[1] == 0 else images
        self.masks = np.asarray(store.masks) if with_masks and store.masks is not None else None
        self.labels = store.cases["label"].fillna(-1).to_numpy(np.int64)
        self.pin, self.held = device is not None and device.type == "cuda", None
        self.files, self.mapped = [found for found in map(_file, (self.images, self.masks)) if found is not None], 0
        size = self.images.nbytes + (0 if self.masks is None else self.masks.nbytes)
        if self.pin and size <= torch.cuda.mem_get_info()[0] / 8:  # other runs may want to share it
            with suppress(torch.OutOfMemoryError):  # and may have been faster
                self.hold(device)

    def hold(self, device: torch.device) -> None:
        """Keep everything on a device, from where batches are gathered then."""
        self.held = [whole if whole is None else _sent(whole, device) for whole in (self.images, self.labels, self.masks)]

    def places(self, parts: Sequence[np.ndarray]) -> Sequence[np.ndarray | torch.Tensor]:
        """The positions of batches where those are gathered: sent together, as a GPU would be waited for at each."""
        if self.held is None:
            return parts
        order = torch.from_numpy(np.concatenate(parts)).to(self.held[0].device)
        return order.split([len(part) for part in parts])

    def batch(self, positions: np.ndarray | torch.Tensor, seed: tuple[int, ...] = (), share: tuple[int, int] = (0, 1)) -> Batch:
        """Copies of the images at these positions, on the device or in memory, page-locked where a GPU is to have them."""
        if self.held is not None:
            return Batch(*(whole if whole is None else whole[positions] for whole in self.held), seed, share)
        images, labels = torch.from_numpy(self.images[positions]), torch.from_numpy(self.labels[positions])
        masks = None if self.masks is None else torch.from_numpy(self.masks[positions])
        self.mapped += images.nbytes
        if self.mapped > MAPPED:  # else a set larger than memory would count as this process's
            self.mapped = 0
            for file in self.files:
                file.madvise(mmap.MADV_DONTNEED)
        if self.pin:
            images, labels, masks = (None if part is None else part.pin_memory() for part in (images, labels, masks))
        return Batch(images, labels, masks, seed, share)


def _file(array: np.ndarray | None) -> mmap.mmap | None:
    """The mapped file that an array shows, where the system can be told that its pages are not needed."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array if hasattr(array, "madvise") else None


def _sent(whole: np.ndarray, device: torch.device, rows: int = 1024) -> torch.Tensor:
    """A copy on a device, some rows at a time: the array may be a file larger than memory."""
    sent = torch.from_numpy(whole[:1].copy()).new_empty(whole.shape, device=device)
    for start in range(0, len(whole), rows):
        sent[start : start + rows] = torch.from_numpy(whole[start : start + rows].copy())
    return sent


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
        for number, positions in enumerate(self.arrays.places([part[first::step] for part in self.parts])):
            yield self.arrays.batch(positions, (*self.seed, number), self.share)


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


@dataclass(frozen=True)
class Task:
    """One kind of training.

    labels, masks: what is learnt; labels: each side of a split has to hold both classes; masks: probability maps are kept.
    asked: what a case needs, and what to do without.
    """

    name: str
    labels: bool
    masks: bool
    asked: str
    build: Callable[..., nn.Module]

    @property
    def score(self) -> str:
        """What is followed from epoch to epoch beside the loss; the higher the better."""
        return "dice" if self.masks else "auc"

    @property
    def history(self) -> list[str]:
        """Scores in a row of the history."""
        return ["auc"] * self.labels + ["dice", "iou", "pixel_accuracy"] * self.masks

    def cases(self, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """The rows that count. Raises DataError where there is none."""
        needed = ["label"] * self.labels + ["mask"] * self.masks
        cases = table[table[needed].notna().all(axis=1)]
        if cases.empty:
            raise DataError(f"{dataset}: none of {len(table)} cases has {self.asked}")
        return cases

    def check(self, cases: pd.DataFrame) -> None:
        """Raise DataError for a split that cannot be trained or tested."""
        for split, side in SIDES.items():
            labels = cases.loc[cases["split"].eq(split).fillna(False), "label"]
            advice = "training, validation and test each need"
            if labels.empty:
                raise DataError(f"split: no {side} images; {advice} some: use split.by = patient")
            if self.labels and labels.nunique() < 2:
                found = f"all {len(labels)} {side} images are {'malignant' if labels.iloc[0] else 'benign'}"
                raise DataError(f"split: {found}; {advice} both classes: use another seed or ratios, or add cases")

    def network(self, config: RunConfig, in_channels: int, weights: str) -> nn.Module:
        """The network of a config, its random values from torch's generator."""
        return self.build(config.model.name, in_channels=in_channels, weights=weights, **config.model.options)

    def criterion(self, config: RunConfig, labels: np.ndarray | None) -> nn.Module:
        """The loss of a config; `labels` of the training images decide class weights, None leaves them out."""
        balanced = config.training.class_balance == "weights" and labels is not None
        weights = class_weights(labels) if balanced else None
        return losses.build_loss(self.name, config.loss.name, class_weights=weights, **config.loss.options)

    def targets(self, batch: Batch) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the logits of a batch are compared with."""
        if self.labels and self.masks:
            return batch.masks, batch.labels
        return batch.masks if self.masks else batch.labels

    def scores(self, criterion: nn.Module, write_maps: WriteMaps | None = None) -> Scores:
        """An empty collection. write_maps: gets the maps of each batch, of a task that has any."""
        if self.labels and self.masks:
            return JointScores(criterion, write_maps)
        return SegmentationScores(criterion, write_maps) if self.masks else ClassificationScores(criterion)


_LABEL = "a label (0 benign, 1 malignant)"
TASKS = {
    task.name: task
    for task in (
        Task("classification", True, False, f"{_LABEL}; add labels", networks.build_classifier),
        Task("segmentation", False, True, "a mask; add masks", networks.build_segmenter),
        Task("joint", True, True, f"both {_LABEL} and a mask; add what is missing, or train task classification or segmentation",
             networks.build_joint),
    )
}  # fmt: skip


@torch.inference_mode()
def score_batches(network: nn.Module, scores: Scores, batches: Batches, device: torch.device) -> None:
    """Ask a network about batches, and add its answers to the scores."""
    for batch in batches:
        batch = batch.to(device)
        scores.add(network(network_input(batch.images, batches.arrays.channels)), batch)


class ClassificationScores:
    """What a network says about the images of a set, gathered batch after batch and in their order.

    `loss`: of the whole set, NaN where an output is no number; `values`: score → value, as `metrics.json` has it; `columns`: what
    `predictions.csv` tells of each image, column → (n,).

    The loss is that of all logits at once, as class weights make it no mean over batches.
    """

    def __init__(self, criterion: nn.Module):
        self.criterion = criterion
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, batch: Batch) -> None:
        self._logits.append(logits.float())
        self._labels.append(batch.labels)

    def loss(self) -> float:
        return float(self.criterion(torch.cat(self._logits), torch.cat(self._labels)))

    def values(self) -> dict[str, float]:
        from sklearn.metrics import log_loss, roc_auc_score  # a second, which who only reads runs need not wait

        labels, found = torch.cat(self._labels).cpu().numpy(), self.columns()
        return {
            "log_loss": float(log_loss(labels, found["probability"], labels=[0, 1])),
            "auc": float(roc_auc_score(labels, found["log_odds"])),
        }

    def columns(self) -> dict[str, np.ndarray]:
        odds = log_odds(torch.cat(self._logits))
        return {"probability": expit(odds), "log_odds": odds}


class SegmentationScores:
    """Counts of pixels an image, so that a set of any size fits in memory; they stay on the device until they are asked for.

    The loss is the mean over batches, each weighing as much as it has images. Dice and IoU are means over the images that have a
    nodule in truth or prediction, as in `scores.masks.segmentation_table`: a false alarm scores 0, and only images that are
    rightly left empty count for nothing. Pixel accuracy is the mean over all images. All at the network's resolution.
    """

    def __init__(self, criterion: nn.Module, write_maps: WriteMaps | None = None):
        self.criterion, self.write_maps = criterion, write_maps
        self._losses: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []  # (batch, 4) each, as COUNTS
        self._undefined: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, batch: Batch) -> None:
        logits, truth = logits.float(), batch.masks
        probabilities = nodule_probability(logits)
        called = probabilities >= THRESHOLD
        pixels = [called & truth, called & ~truth, ~called & truth, ~called & ~truth]
        self._counts.append(torch.stack([found.sum(dim=(1, 2)) for found in pixels], dim=1))
        self._losses.append(self.criterion(logits, truth).detach() * len(truth))
        self._undefined.append(torch.isnan(probabilities).any())
        if self.write_maps is not None:
            self.write_maps(torch.round(probabilities.nan_to_num() * 255).to(torch.uint8).cpu().numpy())

    def loss(self) -> float:
        if bool(torch.stack(self._undefined).any()):
            return float("nan")
        return float(torch.stack(self._losses).double().sum()) / sum(map(len, self._counts))

    def values(self) -> dict[str, float]:
        true_positives, false_positives, false_negatives, true_negatives = self._table().T
        wrong, correct = false_positives + false_negatives, true_positives + true_negatives
        scored = true_positives + wrong > 0
        hit, missed = true_positives[scored], wrong[scored]
        dice, iou = 2 * hit / (2 * hit + missed), hit / (hit + missed)
        return {
            "dice": float(dice.mean()) if len(hit) else float("nan"),
            "iou": float(iou.mean()) if len(hit) else float("nan"),
            "pixel_accuracy": float((correct / (correct + wrong)).mean()),
            "scored": int(scored.sum()),
        }

    def columns(self) -> dict[str, np.ndarray]:
        return dict(zip(COUNTS, self._table().T, strict=True))

    def _table(self) -> np.ndarray:
        return torch.cat(self._counts).cpu().numpy()


class JointScores:
    """Those of both tasks; the loss is their losses' weighted sum."""

    def __init__(self, criterion: losses.JointLoss, write_maps: WriteMaps | None = None):
        self.image = ClassificationScores(criterion.classification)
        self.pixels = SegmentationScores(criterion.segmentation, write_maps)
        self.weight = criterion.classification_weight

    def add(self, logits: networks.JointLogits, batch: Batch) -> None:
        self.image.add(logits.image, batch)
        self.pixels.add(logits.pixels, batch)

    def loss(self) -> float:
        return self.pixels.loss() + self.weight * self.image.loss()

    def values(self) -> dict[str, float]:
        return self.image.values() | self.pixels.values()

    def columns(self) -> dict[str, np.ndarray]:
        return self.image.columns() | self.pixels.columns()


Scores = ClassificationScores | SegmentationScores | JointScores


def class_weights(labels: np.ndarray) -> torch.Tensor:
    """n / (2 · n of the class): float32 (2,), so that both classes weigh the same in the sum."""
    return torch.tensor(len(labels) / (2 * np.bincount(labels, minlength=2)), dtype=torch.float32)


def nodule_probability(logits: torch.Tensor) -> torch.Tensor:
    """Logits (batch, 1, height, width), or (batch, 2, height, width) with channel 1 the nodule → probability in [0, 1],
    float (batch, height, width)."""
    return torch.sigmoid(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])


def log_odds(logits: torch.Tensor) -> np.ndarray:
    """Logits (batch, 2) → logit of class 1 against class 0, float64 (batch,)."""
    logits = logits.double().cpu()
    return (logits[:, 1] - logits[:, 0]).numpy()
