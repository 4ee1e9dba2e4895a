"""Training as Lightning sees it: steps, validation, and what happens when an epoch ends. What differs by task is asked of it."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.progress import Progress
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.preprocess.augment_batch import augment_batch
from thyroid_utils.training.checkpoint import Checkpoint, TrainingProgress, restore_optimiser, write_checkpoint
from thyroid_utils.training.data import Arrays, Batch, Batches, epoch_batches, in_order
from thyroid_utils.training.optimisers import build_optimiser, build_schedule, step_after_batch, step_after_epoch
from thyroid_utils.training.stamp import device_name
from thyroid_utils.training.tasks import TASKS, Scores


@dataclass(frozen=True)
class Fit:
    """What a training works on. positions: "train", "val" and "test" → rows of the arrays; resume: the folder of its states."""

    config: RunConfig
    arrays: Arrays
    positions: dict[str, np.ndarray]
    resume: Path


def network_input(images: torch.Tensor, channels: int, channels_last: bool) -> torch.Tensor:
    """(batch, stored channels, height, width) → (batch, channels, height, width) in the layout that the network runs in."""
    images = images.expand(-1, channels, -1, -1)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def derived_seed(*numbers: int) -> int:
    """One seed for torch out of several numbers, such as seed and epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class NetworkTraining(pl.LightningModule):
    """Trains `network` by `criterion`, from the beginning or from a checkpoint.

    Everything random is drawn from (seed, epoch): dropout from torch's generator, which every epoch seeds anew, order and
    augmentation from keys. So training that is taken up after an epoch goes on exactly as it would have.
    """

    def __init__(self, fit: Fit, network: nn.Module, criterion: nn.Module, start: Checkpoint | None, progress: Progress | None):
        super().__init__()
        self.fit_data, self.network, self.criterion, self.start = fit, network, criterion, start
        self.config, self.task = fit.config, TASKS[fit.config.task]
        self.augmentation = build_augmentation(self.config.augmentation)
        self.standing = TrainingProgress() if start is None else start.progress
        self.report_progress = progress
        self.schedule = None
        # In a tuple, so that the compiled module is not registered: its parameters are the network's own.
        self.forwarded = (torch.compile(network) if self.config.training.compile else network,)
        self._losses: list[torch.Tensor] = []
        self._counts: list[int] = []
        self._scores: Scores | None = None
        self._started = self._learning_rate = 0.0

    @property
    def epoch(self) -> int:
        """The number of the epoch at work, from 1."""
        return self.standing.epoch + 1

    def train_dataloader(self) -> Batches:
        training = self.config.training
        positions = self.fit_data.positions["train"]
        parts, keys = epoch_batches(
            positions,
            self.fit_data.arrays.labels[positions],
            batch_size=training.batch_size,
            seed=self.config.seed,
            epoch=self.epoch,
            balance=training.class_balance,
            devices=training.devices,
        )
        return Batches(self.fit_data.arrays, parts, keys, (self.trainer.global_rank, self.trainer.world_size))

    def val_dataloader(self) -> Batches:
        """The whole validation set on every device, so that all of them judge an epoch by the same images."""
        return Batches(self.fit_data.arrays, in_order(self.fit_data.positions["val"], self.config.training.batch_size))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config.optimiser
        optimiser = build_optimiser(config, self.network.parameters())
        mode = self.task.mode(self.config.training.monitor)
        self.schedule = build_schedule(config, optimiser, self.config.training.epochs, self._batches(), mode)
        return optimiser

    def _batches(self) -> int:
        """Batches of an epoch; the same for every epoch."""
        return len(self.train_dataloader())

    def on_fit_start(self) -> None:
        if self.start is None:
            return
        self.network.load_state_dict(self.start.network)
        restore_optimiser(self.trainer.optimizers[0], self.start.optimiser)
        if self.schedule is not None:
            self.schedule.load_state_dict(self.start.schedule)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, masks = batch.images, batch.masks
        if self.trainer.training:
            images, masks = augment_batch(self.augmentation, images, masks, keys=batch.keys)
        images = network_input(images, self.fit_data.arrays.channels, self.config.training.channels_last)
        return Batch(images, batch.labels, masks, batch.keys)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(derived_seed(self.config.seed, self.epoch, self.trainer.global_rank))
        self._losses, self._counts, self._started = [], [], time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        logits, targets = self.forwarded[0](batch.images), self.task.targets(batch)
        if isinstance(logits, tuple):
            logits, auxiliary = logits
            extra = self.network.auxiliary_weight * self.criterion(auxiliary.float(), targets)
        else:
            extra = 0.0
        loss = self.criterion(logits.float(), targets) + extra
        self._losses.append(loss.detach())
        self._counts.append(len(batch.labels))
        if loss.device.type == "cpu":  # asking a GPU for each number would make it wait; there it is asked once an epoch
            self._check_losses()
        return loss

    def on_train_batch_end(self, outputs: torch.Tensor, batch: Batch, batch_idx: int) -> None:
        self._learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        step_after_batch(self.schedule)
        if self.report_progress is not None and self.trainer.is_global_zero:
            batches = self.trainer.num_training_batches
            total = self.config.training.epochs * batches
            # The last is kept for the end of the run, where a bar is taken away.
            self.report_progress(min(self.standing.epoch * batches + batch_idx + 1, total - 1), total)

    def on_validation_epoch_start(self) -> None:
        self._scores = self.task.scores(self.criterion)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._scores.add(self.forwarded[0](batch.images), batch)

    def on_train_epoch_end(self) -> None:
        """Judge the epoch, go on with the schedule, keep the state, stop where it is time."""
        row = self.trainer.strategy.broadcast(self._row())  # running means differ between devices; the first one's count
        state = self.standing
        state.epoch += 1
        state.note_stretch(device_name(self.device), str(torch.__version__))
        state.history.append(row)
        state.seconds += time.perf_counter() - self._started
        state.images += sum(self._counts) * self.trainer.world_size
        value = row[f"val_{self.config.training.monitor}"]
        if state.best_value is None or self._is_better(value, state.best_value):
            state.best_epoch, state.best_value, state.waited = state.epoch, value, 0
        else:
            state.waited += 1
        patience = self.config.training.patience
        state.stopped = patience is not None and state.waited >= patience
        step_after_epoch(self.schedule, value)
        if self.trainer.is_global_zero:
            write_checkpoint(self.fit_data.resume, self.network, self.trainer.optimizers[0], self.schedule, state)
            if os.environ.get("THYROID_REPORT_DIR"):
                print(self._line(row), flush=True)
        self.trainer.should_stop = state.stopped

    def _is_better(self, value: float, than: float) -> bool:
        return value > than if self.task.mode(self.config.training.monitor) == "max" else value < than

    @torch.no_grad()
    def _row(self) -> dict[str, float]:
        """The epoch's line of the history. Raises TrainingError for a loss that is no number."""
        self._check_losses()
        counts = torch.tensor(self._counts, dtype=torch.float64)
        losses = torch.stack(self._losses).double().cpu()
        mean = ((losses * counts).sum() / counts.sum()).to(self.device)  # where NCCL takes it, which knows no CPU
        val_loss = self._scores.loss()
        if not math.isfinite(val_loss):
            raise TrainingError(self._diverged("validation", val_loss))
        values = self._scores.values()
        return {
            "epoch": self.epoch,
            "learning_rate": self._learning_rate,
            "train_loss": float(self.trainer.strategy.reduce(mean, reduce_op="mean")),
            "val_loss": val_loss,
            **{f"val_{name}": values[name] for name in self.task.history},
        }

    def _check_losses(self) -> None:
        """Raise at the first loss of the epoch that is no number."""
        unchecked = self._losses[-1:] if self._losses[-1].device.type == "cpu" else self._losses
        wrong = torch.nonzero(~torch.isfinite(torch.stack(unchecked)))
        if len(wrong):
            position = len(self._losses) - len(unchecked) + int(wrong[0])
            raise TrainingError(self._diverged(f"batch {position + 1}", float(self._losses[position])))

    def _diverged(self, where: str, loss: float) -> str:
        kept = (
            f"epoch {self.standing.epoch} is kept in {self.fit_data.resume}" if self.standing.epoch else "no epoch was finished"
        )
        optimiser = self.config.optimiser
        clip = "" if optimiser.clip_norm else ", or set optimiser.clip_norm (for example 1)"
        return (
            f"{self.config.model.name}: the loss is {loss:g} in epoch {self.epoch}, {where}; {kept}; "
            f"lower optimiser.learning_rate (now {optimiser.learning_rate:g}){clip}"
        )

    def _line(self, row: dict[str, float]) -> str:
        state = self.standing
        best = " (best so far)" if state.best_epoch == state.epoch else ""
        stop = f"; stopped: {state.waited} epochs without a better one" if state.stopped else ""
        return (
            f"{label(self.config)}: epoch {state.epoch} of {self.config.training.epochs}: "
            f"loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}, "
            f"{self.task.score_name} {row[f'val_{self.task.score}']:.3f}{best}{stop}"
        )


def label(config: RunConfig) -> str:
    """A run's name in a line: network, seed, and the loss of masks, as segmenters are compared by their losses too."""
    loss = f", {config.loss.name}" if config.task != "classification" else ""
    return f"{config.model.name}{loss}, seed {config.seed}"
