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

from thyroid_utils.common import paths
from thyroid_utils.common.cache import file_hashes
from thyroid_utils.common.config import ConfigError, RunConfig, SplitConfig
from thyroid_utils.common.files import file_hash, write_text
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.data import audit, copies, splits, videos
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.table import data_fingerprint
from thyroid_utils.data.videos import recover_patients
from thyroid_utils.models.networks import input_size
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline, for_each_case
from thyroid_utils.preprocess.store import ArrayStore, preprocessed
from thyroid_utils.training.checkpoint import text_hash
from thyroid_utils.training.tasks import TASKS


@dataclass(frozen=True)
class SplitData:
    """What a run is trained and tested on.

    cases: those that count for the task, in the order of their ids, with their split. left_out: how many do not count.
    patients: where they come from, as a phrase. empty: bool (n,), whether a mask is empty; None for a task without masks.
    """

    cases: pd.DataFrame
    fingerprint: str
    split_hash: str
    left_out: int
    patients: str
    empty: np.ndarray | None = None

    def positions(self, split: str) -> np.ndarray:
        """Rows of a split, ascending."""
        return np.flatnonzero(self.cases["split"].eq(split).to_numpy(bool))


def split_data(config: RunConfig) -> SplitData:
    """Read the case table that a config names, leave out what does not count for its task, and split it.

    Where the set names no patients and the split is by patient, `data.videos` finds what takes their place; `patients` of the
    result says what. Reading every file for its hash and its pixels is done once for the same files and settings, and remembered
    in the cache folder.

    Raises:
        DataError: the data cannot be read; a side without images, with one class only (classification, joint) or with empty masks
            only (segmentation, joint).
    """
    task = TASKS[config.task]
    # Rows in the order of their ids: the draws of a run must not depend on the order of a manifest or a folder.
    table = load_cases(config.data.dataset, config.data.root, **config.data.options).sort_index()
    cases = task.cases(table, config.data.dataset)
    unknown = 0 if "patient_known" not in cases else int((~cases["patient_known"].astype(bool)).sum())
    recovered = bool(unknown) and config.split.by == "patient"
    record = paths.cache_dir() / "splits" / f"{_split_key(table if recovered else cases, config)}.json"
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        known = kept["body"]
        if text_hash(known) != kept["sha256"]:
            raise ValueError
        fingerprint, how, empty = known["fingerprint"], known["patients"], known["empty"]
        if len(known["split"]) != len(cases):
            raise ValueError
        columns = {name: pd.array(known[name], dtype="string") for name in ("split", "split_by", "patient") if name in known}
        placed = cases.assign(**columns)
        splits.assert_disjoint(placed, check_pixels=False, allow_leaky=True)
        cases = placed
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged or edited
        how = "as the data set names them"
        if unknown:
            how = f"not given for {unknown} of {len(cases)} images, each of which counts as a patient of its own"
        if recovered:
            found = recover_patients(table, audit_cases(table, progress=progress_bar("Comparing images")))
            cases, how = found.cases.loc[cases.index], found.how
        cases, fingerprint = _split(cases, config.split, task.needs_classes), data_fingerprint(cases)
        empty = _empty_masks(cases) if task.with_masks else None
        content = {"fingerprint": fingerprint, "patients": how, "empty": empty, "split": cases["split"].tolist()}
        content["split_by"] = cases["split_by"].tolist()
        if recovered:
            content["patient"] = cases["patient"].tolist()
        with contextlib.suppress(OSError):  # the record only saves time
            write_text(record, json.dumps({"body": content, "sha256": text_hash(content)}))
    empty = None if empty is None else np.array(empty, bool)
    if config.data.permute_labels is not None:
        cases = _permuted(cases, config.data.permute_labels)
    task.check(cases, empty)
    return SplitData(cases, fingerprint, splits.split_hash(cases), len(table) - len(cases), how, empty)


def _permuted(cases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The labels of the training images dealt out anew among them; validation and test keep theirs."""
    side, labels = cases["split"].eq("train").to_numpy(bool), cases["label"].copy()
    labels[side] = np.random.default_rng(seed).permutation(labels[side].to_numpy())
    return cases.assign(label=labels)


def _split(cases: pd.DataFrame, config: SplitConfig, needs_classes: bool) -> pd.DataFrame:
    settings = {"repeat": config.repeat, "require_classes": needs_classes, "progress": progress_bar("Comparing images")}
    split = splits.split_cases(cases, config.ratios, config.by, config.seed, **settings)
    splits.assert_disjoint(split, check_pixels=False, allow_leaky=True)
    return split


def _empty_masks(cases: pd.DataFrame) -> list[bool]:
    return for_each_case(lambda case: not read_mask(case["mask"]).any(), cases, progress=progress_bar("Reading masks"))


def _split_key(cases: pd.DataFrame, config: RunConfig) -> str:
    """SHA-256 over what the fingerprint and the split depend on, the code that splits and recovers patients included."""
    hashes = file_hashes([*cases["image"], *cases["mask"].dropna()])
    frames = cases["frame"] if "frame" in cases else [None] * len(cases)
    known = cases["patient_known"] if "patient_known" in cases else [True] * len(cases)
    rows = [
        [case, patient, bool(given), None if pd.isna(frame) else str(frame), None if pd.isna(label) else int(label),
         None if pd.isna(split) else split, hashes[image], None if pd.isna(mask) else hashes[mask]]
        for case, patient, given, frame, label, split, image, mask in zip(
            cases.index, cases["patient"], known, frames, cases["label"], cases["split"], cases["image"], cases["mask"],
            strict=True,
        )
    ]  # fmt: skip
    sources = [module.__file__ for module in (audit, copies, splits, videos)]
    code = [file_hash(path) for path in sources]
    content = [rows, config.task, config.split.model_dump(mode="json"), code]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def input_pipeline(config: RunConfig) -> Pipeline:
    """The preprocessing of a config, to the size of the network's input; not fitted.

    Raises:
        ConfigError: a network or loss of another task, or images cut to the mask that the network is to find.
        ValueError: an unknown network or preprocessing.
    """
    task = TASKS[config.task]
    task.check_names(config)
    pipeline = build_pipeline(config.preprocessing, config.size or input_size(config.model.name))
    if pipeline.needs_mask and task.with_masks:
        raise ConfigError("preprocessing", f"must be without nodule_crop with task {config.task}, whose answer is that mask")
    return pipeline


def open_arrays(config: RunConfig, cases: pd.DataFrame, progress: Progress | None = None) -> ArrayStore:
    """The preprocessed images of a split case table, at the network's input size.

    Raises:
        DataError: unknown preprocessing or model, or an unreadable image.
    """
    fitting = None if progress is None else progress_bar("Fitting the preprocessing")
    return preprocessed(cases, input_pipeline(config).fit(cases, fitting), progress)


@dataclass(frozen=True)
class Batch:
    """images: float32 (batch, stored channels, height, width); labels: int64 (batch,), -1 for an unknown one; masks: bool (batch,
    height, width) or None; keys: a row of whole numbers an image, which decides its random changes."""

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
        self.labels = store.cases["label"].fillna(-1).to_numpy(np.int64)
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
