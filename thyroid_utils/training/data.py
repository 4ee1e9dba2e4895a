"""From a config to batches: the split case table, the preprocessed arrays, the order of an epoch.

No worker processes: the arrays are memory-mapped and already preprocessed, so that gathering a batch is a copy, and the
random changes are made for the whole batch on the device that trains. On a GPU the copy overlaps with the kernels in flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from thyroid_utils import paths
from thyroid_utils.config import RunConfig, SplitConfig
from thyroid_utils.data import splits
from thyroid_utils.data.audit import pixels
from thyroid_utils.data.errors import DataError
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.table import SPLITS, data_fingerprint
from thyroid_utils.files import file_hash, write_text
from thyroid_utils.models import input_size
from thyroid_utils.preprocess import ArrayStore, build_pipeline, preprocessed
from thyroid_utils.preprocess.content import file_hashes
from thyroid_utils.progress import progress_bar
from thyroid_utils.threads import Progress
from thyroid_utils.training.checkpoint import text_hash

SIDES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class SplitData:
    """What a run is trained and tested on. cases: the labelled ones, in the order of their ids, with their split."""

    cases: pd.DataFrame
    fingerprint: str
    split_hash: str
    unlabelled: int

    def positions(self, split: str) -> np.ndarray:
        """Rows of a split, ascending."""
        return np.flatnonzero(self.cases["split"].eq(split).to_numpy(bool))


def split_data(config: RunConfig) -> SplitData:
    """Read the case table that a config names, leave out what has no label, and split it.

    Reading every file for its hash and its pixels is done once for the same files and settings, and remembered in the cache
    folder.

    Raises:
        DataError: the data cannot be read, no patients are known for a split by patient, a side without images or with one
            class only.
    """
    table = load_cases(config.data.dataset, config.data.root, **config.data.options)
    # Rows in the order of their ids: the draws of a run must not depend on the order of a manifest or a folder.
    cases = table[table["label"].notna()].sort_index()
    if cases.empty:
        raise DataError(f"{config.data.dataset}: none of {len(table)} cases has a label (0 benign, 1 malignant); add labels")
    _check_patients(cases, config)
    record = paths.cache_dir() / "splits" / f"{_split_key(cases, config.split)}.json"
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        known = kept["body"]
        if text_hash(known) != kept["sha256"]:
            raise ValueError
        fingerprint, split, mark = known["fingerprint"], known["split"], known["split_by"]
        if len(split) != len(cases):
            raise ValueError
        placed = cases.assign(split=pd.array(split, dtype="string"), split_by=pd.array([mark] * len(cases), dtype="string"))
        splits.assert_disjoint(placed, check_pixels=False, allow_leaky=True)
        cases = placed
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged or edited
        cases, fingerprint = _split(cases, config.split), data_fingerprint(cases)
        content = {"fingerprint": fingerprint, "split": cases["split"].tolist(), "split_by": cases["split_by"].iloc[0]}
        with contextlib.suppress(OSError):  # the record only saves time
            write_text(record, json.dumps({"body": content, "sha256": text_hash(content)}))
    _check_classes(cases)
    return SplitData(cases, fingerprint, splits.split_hash(cases), len(table) - len(cases))


def _check_patients(cases: pd.DataFrame, config: RunConfig) -> None:
    if config.split.by != "patient" or "patient_known" not in cases:
        return
    unknown = int((~cases["patient_known"].astype(bool)).sum())
    if unknown:
        raise DataError(
            f"{config.data.dataset}: {unknown} of {len(cases)} cases name no patient, so a split by patient could put images "
            "of one on both sides; add the patients, or choose split.by = official, or image (results are then marked leaky)"
        )


def _split(cases: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    progress = progress_bar("Comparing images")
    if config.by == "official" or config.repeat is None:
        split = splits.split_cases(cases, config.ratios, config.by, config.seed, progress=progress)
    else:
        repeats = config.repeat + 1
        split = splits.repeated_splits(cases, config.ratios, repeats, config.by, config.seed, progress=progress)[-1]
    splits.assert_disjoint(split, check_pixels=False, allow_leaky=True)
    return split


def _split_key(cases: pd.DataFrame, config: SplitConfig) -> str:
    """SHA-256 over what the fingerprint and the split depend on, the code that splits included."""
    hashes = file_hashes([*cases["image"], *cases["mask"].dropna()])
    rows = [
        [case, patient, int(label), None if pd.isna(split) else split, hashes[image], None if pd.isna(mask) else hashes[mask]]
        for case, patient, label, split, image, mask in zip(
            cases.index, cases["patient"], cases["label"], cases["split"], cases["image"], cases["mask"], strict=True
        )
    ]
    code = [file_hash(module.__file__) for module in (splits, pixels)]
    return hashlib.sha256(json.dumps([rows, config.model_dump(mode="json"), code]).encode()).hexdigest()[:32]


def _check_classes(cases: pd.DataFrame) -> None:
    for split in SPLITS:
        labels = cases.loc[cases["split"].eq(split).fillna(False), "label"]
        if labels.empty:
            raise DataError(
                f"split: no {SIDES[split]} images; a run needs training, validation and test images: use split.by = patient"
            )
        if labels.nunique() < 2:
            name = "benign" if labels.iloc[0] == 0 else "malignant"
            raise DataError(
                f"split: all {len(labels)} {SIDES[split]} images are {name}; training, validation and test each need both "
                "classes: use another seed or ratios, or add cases"
            )


def open_arrays(config: RunConfig, cases: pd.DataFrame, progress: Progress | None = None) -> ArrayStore:
    """The preprocessed images of a split case table, at the network's input size.

    Raises:
        DataError: unknown preprocessing or model, or an unreadable image.
    """
    pipeline = build_pipeline(config.preprocessing, config.size or input_size(config.model.name))
    return preprocessed(cases, pipeline.fit(cases), progress)


@dataclass(frozen=True)
class Batch:
    """images: float32 (batch, stored channels, height, width); labels: int64 (batch,); masks: bool (batch, height, width) or
    None; keys: a row of whole numbers an image, which decides its random changes."""

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None
    keys: np.ndarray

    def to(self, device: torch.device, **_) -> Batch:
        """The batch on a device; Lightning calls this."""
        moved = [None if part is None else part.to(device, non_blocking=True) for part in (self.images, self.labels, self.masks)]
        return Batch(*moved, self.keys)


class Arrays:
    """Images and labels of a run, by position in its case table.

    channels: what the network gets. One channel is stored where all are the same, and made into so many on the device.
    """

    def __init__(self, store: ArrayStore, with_masks: bool = False, pin: bool = False):
        images = np.asarray(store.images)
        self.channels = images.shape[1]
        self.images = images[:, :1] if images.strides[1] == 0 else images
        self.masks = np.asarray(store.masks) if with_masks and store.masks is not None else None
        self.labels = store.cases["label"].to_numpy(np.int64)
        self.pin = pin

    def batch(self, positions: np.ndarray, keys: np.ndarray | None = None) -> Batch:
        """Copies of the images at these positions, in page-locked memory where `pin`."""
        images, labels = torch.from_numpy(self.images[positions]), torch.from_numpy(self.labels[positions])
        masks = None if self.masks is None else torch.from_numpy(self.masks[positions])
        if self.pin:
            images, labels, masks = (None if part is None else part.pin_memory() for part in (images, labels, masks))
        return Batch(images, labels, masks, np.empty((len(positions), 0), np.int64) if keys is None else keys)


class Batches:
    """One pass over some positions in their order. `share`: (number, of how many) for one of several devices."""

    def __init__(
        self,
        arrays: Arrays,
        parts: Sequence[np.ndarray],
        keys: Sequence[np.ndarray] | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        self.arrays, self.parts, self.keys, self.share = arrays, parts, keys, share

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        first, step = self.share
        for number, positions in enumerate(self.parts):
            keys = None if self.keys is None else self.keys[number][first::step]
            yield self.arrays.batch(positions[first::step], keys)


def in_order(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of evaluation: every position once, as it comes; the last batch may be smaller."""
    return [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]


def batch_starts(images: int, batch_size: int, devices: int) -> list[int]:
    """Where the batches of an epoch begin; which are left out is told in `epoch_batches`."""
    smallest = batch_size if devices > 1 else min(2, batch_size)
    return [start for start in range(0, images, batch_size) if images - start >= smallest]


def epoch_batches(
    positions: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int, epoch: int, balance: str, devices: int = 1
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The batches of one epoch of training, decided by seed and epoch alone.

    Args:
        positions: of the training images.
        labels: their labels, in the same order.
        batch_size: images of a batch over all devices.
        balance: "sampling" draws as many images as there are, each class equally often on average, with repetition; otherwise
            every image occurs once.
        devices: among how many each batch is shared out.

    Returns:
        positions and keys, an array a batch. A key is (seed, epoch, position, which occurrence of it). On one device the last
        batch may be smaller, but one of a single image is left out: batch normalisation has no variance to divide by. Several
        devices get full batches only, because their gradients are averaged with equal weight.
    """
    # A stream of its own (spawn_key), so that the order shares no numbers with the changes of any image.
    random = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(1,)))
    if balance == "sampling":
        classes = [positions[labels == label] for label in np.unique(labels)]
        drawn = random.integers(len(classes), size=len(positions))
        order = np.array([random.choice(classes[number]) for number in drawn])
    else:
        order = random.permutation(positions)
    occurrence = pd.Series(order).groupby(order).cumcount().to_numpy()
    keys = np.column_stack([np.full(len(order), seed), np.full(len(order), epoch), order, occurrence]).astype(np.int64)
    starts = batch_starts(len(order), batch_size, devices)
    return ([order[start : start + batch_size] for start in starts], [keys[start : start + batch_size] for start in starts])
