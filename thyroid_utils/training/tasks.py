"""What classifiers, segmenters and networks that are both do differently in training: which cases count, what is compared,
how a set is scored.

Everything else (splits, batches, epochs, states, the ledger) is one path for all and asks the task here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.table import SPLITS
from thyroid_utils.models import losses, networks
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.training.optimisers import class_weights

if TYPE_CHECKING:
    from thyroid_utils.training.data import Batch

SIDES = {"train": "training", "val": "validation", "test": "test"}
THRESHOLD = 0.5  # at or above it a pixel is called nodule
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")

# Takes the maps of a batch, uint8 (batch, height, width).
WriteMaps = Callable[[np.ndarray], None]


class Scores(ABC):
    """What a network says about the images of a set, gathered batch after batch and in their order."""

    @abstractmethod
    def add(self, logits: torch.Tensor | networks.JointLogits, batch: Batch) -> None:
        """Take the logits of a batch, with its truth, on whatever device they are."""

    @abstractmethod
    def loss(self) -> float:
        """Of the whole set; NaN where an output is no number."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Score → value, as `metrics.json` has it."""

    @abstractmethod
    def columns(self) -> dict[str, np.ndarray]:
        """What `predictions.csv` tells of each image, beside the case: column → (n,)."""


class Task(ABC):
    """One kind of training.

    score: what is followed from epoch to epoch beside the loss; the higher the better. score_name: as it is printed.
    history: scores in a row of the history. left_out: what `data.json` calls the number of cases that do not count.
    with_masks: whether masks are learnt, and maps kept. needs_classes: whether each side of a split has to hold both classes.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    score_name: ClassVar[str]
    history: ClassVar[tuple[str, ...]]
    left_out: ClassVar[str]
    with_masks: ClassVar[bool]
    needs_classes: ClassVar[bool]

    @abstractmethod
    def cases(self, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """The rows that count. Raises DataError where there is none."""

    @abstractmethod
    def check(self, cases: pd.DataFrame, empty: np.ndarray | None) -> None:
        """Raise DataError for a split that cannot be trained or tested.

        Args:
            cases: with their split.
            empty: bool (n,), whether a mask is empty; None for a task without masks.
        """

    @abstractmethod
    def has(self, field: str, name: str) -> bool:
        """Whether a name is that of a network (field "model") or a loss ("loss") of this task."""

    def check_names(self, config: RunConfig) -> None:
        """Raise ConfigError for a network or a loss of another task; unknown names are refused where they are looked up."""
        for field, name in (("model", config.model.name), ("loss", config.loss.name)):
            owners = [task.name for task in TASKS.values() if task.has(field, name)]
            if owners and self.name not in owners:
                raise ConfigError(f"{field}.name", f"must be for task {self.name}; found {name!r}, which is for {owners[0]}")

    @abstractmethod
    def network(self, config: RunConfig, in_channels: int, weights: str) -> nn.Module:
        """The network of a config, its random values from torch's generator."""

    @abstractmethod
    def criterion(self, config: RunConfig, labels: np.ndarray | None) -> nn.Module:
        """The loss of a config; `labels` of the training images decide class weights, None leaves them out."""

    @abstractmethod
    def targets(self, batch: Batch) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the logits of a batch are compared with."""

    @abstractmethod
    def scores(self, criterion: nn.Module, write_maps: WriteMaps | None = None) -> Scores:
        """An empty collection. write_maps: gets the maps of each batch, of a task that has any."""

    def mode(self, monitor: str) -> str:
        """ "min" or "max": what is better in the monitored value."""
        return "min" if monitor == "loss" else "max"


class Classification(Task):
    """Labels from logits (batch, 2)."""

    name, score, score_name = "classification", "auc", "AUC"
    history, left_out, with_masks, needs_classes = ("auc",), "unlabelled", False, True

    def cases(self, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
        cases = table[table["label"].notna()]
        if cases.empty:
            raise DataError(f"{dataset}: none of {len(table)} cases has a label (0 benign, 1 malignant); add labels")
        return cases

    def check(self, cases: pd.DataFrame, empty: np.ndarray | None) -> None:
        for split in SPLITS:
            labels = cases.loc[_on_side(cases, split), "label"]
            if labels.nunique() < 2:
                name = "benign" if labels.iloc[0] == 0 else "malignant"
                raise DataError(
                    f"split: all {len(labels)} {SIDES[split]} images are {name}; training, validation and test each need both "
                    "classes: use another seed or ratios, or add cases"
                )

    def has(self, field: str, name: str) -> bool:
        if field == "loss":
            return name in losses.CLASSIFICATION_LOSSES
        return name in CLASSIFIERS or name.startswith("timm:")

    def network(self, config: RunConfig, in_channels: int, weights: str) -> nn.Module:
        model = config.model
        return networks.build_classifier(model.name, in_channels=in_channels, classes=2, weights=weights, **model.options)

    def criterion(self, config: RunConfig, labels: np.ndarray | None) -> nn.Module:
        balanced = config.training.class_balance == "weights" and labels is not None
        weights = class_weights(labels) if balanced else None
        return losses.build_loss(self.name, config.loss.name, class_weights=weights, **config.loss.options)

    def targets(self, batch: Batch) -> torch.Tensor:
        return batch.labels

    def scores(self, criterion: nn.Module, write_maps: WriteMaps | None = None) -> Scores:
        return ClassificationScores(criterion)


class ClassificationScores(Scores):
    """The loss is that of all logits at once, as class weights make it no mean over batches."""

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
        labels, found = torch.cat(self._labels).cpu().numpy(), self.columns()
        return {
            "log_loss": float(log_loss(labels, found["probability"], labels=[0, 1])),
            "auc": float(roc_auc_score(labels, found["log_odds"])),
        }

    def columns(self) -> dict[str, np.ndarray]:
        odds = log_odds(torch.cat(self._logits))
        return {"probability": expit(odds), "log_odds": odds}


class Segmentation(Task):
    """Masks from logits (batch, 1 or 2, height, width)."""

    name, score, score_name = "segmentation", "dice", "Dice"
    history, left_out, with_masks, needs_classes = ("dice", "iou", "pixel_accuracy"), "without_mask", True, False

    def cases(self, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
        cases = table[table["mask"].notna()]
        if cases.empty:
            raise DataError(f"{dataset}: none of {len(table)} cases has a mask; add masks")
        return cases

    def check(self, cases: pd.DataFrame, empty: np.ndarray | None) -> None:
        for split in SPLITS:
            side = _on_side(cases, split)
            if empty[side].all():
                raise DataError(
                    f"split: all {int(side.sum())} {SIDES[split]} masks are empty; training, validation and test each need "
                    "outlined images: check the masks, or use another seed or ratios"
                )

    def has(self, field: str, name: str) -> bool:
        if field == "loss":
            return name in losses.SEGMENTATION_LOSSES
        return name in SEGMENTERS or name.startswith("smp:")

    def network(self, config: RunConfig, in_channels: int, weights: str) -> nn.Module:
        return networks.build_segmenter(config.model.name, in_channels=in_channels, weights=weights, **config.model.options)

    def criterion(self, config: RunConfig, labels: np.ndarray | None) -> nn.Module:
        return losses.build_loss(self.name, config.loss.name, **config.loss.options)

    def targets(self, batch: Batch) -> torch.Tensor:
        return batch.masks

    def scores(self, criterion: nn.Module, write_maps: WriteMaps | None = None) -> Scores:
        return SegmentationScores(criterion, write_maps)


class SegmentationScores(Scores):
    """Counts of pixels an image, so that a set of any size fits in memory; they stay on the device until they are asked for.

    The loss is the mean over batches, each weighing as much as it has images. Dice and IoU are means over the images that have a
    nodule in truth or prediction, as in `masks.segmentation_table`: a false alarm scores 0, and only images that are rightly
    left empty count for nothing. Pixel accuracy is the mean over all images. All at the network's resolution.
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
        wrong = false_positives + false_negatives
        correct = true_positives + true_negatives
        accuracy = float((correct / (correct + wrong)).mean())
        scored = true_positives + wrong > 0
        hit, wrong = true_positives[scored], wrong[scored]
        if not len(hit):
            return {"dice": float("nan"), "iou": float("nan"), "pixel_accuracy": accuracy, "scored": 0}
        dice, iou = 2 * hit / (2 * hit + wrong), hit / (hit + wrong)
        return {
            "dice": float(dice.mean()),
            "iou": float(iou.mean()),
            "pixel_accuracy": accuracy,
            "scored": int(scored.sum()),
        }

    def columns(self) -> dict[str, np.ndarray]:
        return dict(zip(COUNTS, self._table().T, strict=True))

    def _table(self) -> np.ndarray:
        return torch.cat(self._counts).cpu().numpy()


class Joint(Segmentation):
    """Labels and masks from `JointLogits`: a segmenter's network with a second head, and the sum of both losses."""

    name = "joint"
    history, left_out, needs_classes = ("auc", *Segmentation.history), "without_label_or_mask", True

    def cases(self, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
        cases = table[table["mask"].notna() & table["label"].notna()]
        if cases.empty:
            raise DataError(
                f"{dataset}: none of {len(table)} cases has both a label (0 benign, 1 malignant) and a mask; "
                "add what is missing, or train task classification or segmentation"
            )
        return cases

    def check(self, cases: pd.DataFrame, empty: np.ndarray | None) -> None:
        Classification().check(cases, None)
        super().check(cases, empty)

    def network(self, config: RunConfig, in_channels: int, weights: str) -> nn.Module:
        return networks.build_joint(config.model.name, in_channels=in_channels, weights=weights, **config.model.options)

    def criterion(self, config: RunConfig, labels: np.ndarray | None) -> nn.Module:
        balanced = config.training.class_balance == "weights" and labels is not None
        weights = class_weights(labels) if balanced else None
        return losses.build_loss(self.name, config.loss.name, class_weights=weights, **config.loss.options)

    def targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.masks, batch.labels

    def scores(self, criterion: nn.Module, write_maps: WriteMaps | None = None) -> Scores:
        return JointScores(criterion, write_maps)


class JointScores(Scores):
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


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Segmentation(), Joint())}


def nodule_probability(logits: torch.Tensor) -> torch.Tensor:
    """Logits (batch, 1, height, width), or (batch, 2, height, width) with channel 1 the nodule → probability in [0, 1],
    float (batch, height, width)."""
    return torch.sigmoid(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])


def log_odds(logits: torch.Tensor) -> np.ndarray:
    """Logits (batch, 2) → logit of class 1 against class 0, float64 (batch,)."""
    logits = logits.double().cpu()
    return (logits[:, 1] - logits[:, 0]).numpy()


def _on_side(cases: pd.DataFrame, split: str) -> np.ndarray:
    """Which cases are on a side. Raises DataError where none is."""
    side = cases["split"].eq(split).fillna(False).to_numpy(bool)
    if not side.any():
        raise DataError(
            f"split: no {SIDES[split]} images; a run needs training, validation and test images: use split.by = patient"
        )
    return side
