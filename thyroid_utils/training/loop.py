"""The epochs of a run as Lightning sees them: steps, validation, and what happens when an epoch ends. What differs by task is
asked of it."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.progress import Progress
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.training.batch import Batch, Batches, epoch_batches, in_order, network_input
from thyroid_utils.training.data import Assembly, derived_seed
from thyroid_utils.training.state import (
    Checkpoint,
    Standing,
    build_optimiser,
    build_schedule,
    choose_precision,
    device_name,
    step_after_batch,
    step_after_epoch,
    write_checkpoint,
)
from thyroid_utils.training.tasks import SCORE_NAMES, TASKS, Scores

# Of PyTorch's CPU allocator on Linux and Windows, and of the GPU libraries that take memory themselves.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class NetworkTraining(pl.LightningModule):
    """Trains a network from the beginning or from a checkpoint.

    Everything random is drawn from (seed, epoch): dropout from torch's generator, which every epoch seeds anew, the order from
    one of its own, augmentation from one a batch. So training that is taken up after an epoch goes on exactly as it would have.
    """

    def __init__(self, assembly: Assembly, start: Checkpoint | None = None, progress: Progress | None = None):
        super().__init__()
        self.assembly, self.start, self.report_progress = assembly, start, progress
        self.network, self.criterion = assembly.network, assembly.criterion
        self.config, self.task = assembly.config, TASKS[assembly.config.task]
        self.augmentation = build_augmentation(self.config.augmentation)
        self.standing = Standing() if start is None else start.standing
        self.best = None if start is None else start.best
        self.schedule = None
        self._losses: list[torch.Tensor] = []
        self._counts: list[int] = []
        self._scores: Scores | None = None
        self._started = self._learning_rate = 0.0

    @property
    def epoch(self) -> int:
        """The number of the epoch at work, from 1."""
        return self.standing.epoch + 1

    def train_dataloader(self) -> Batches:
        training, arrays = self.config.training, self.assembly.arrays
        positions = self.assembly.positions["train"]
        parts = epoch_batches(
            positions,
            arrays.labels[positions],
            batch_size=training.batch_size,
            seed=self.config.seed,
            epoch=self.epoch,
            balance=training.class_balance,
            devices=training.devices,
        )
        return Batches(arrays, parts, (self.config.seed, self.epoch), (self.trainer.global_rank, self.trainer.world_size))

    def val_dataloader(self) -> Batches:
        """The whole validation set on every device, so that all of them judge an epoch by the same images."""
        return Batches(self.assembly.arrays, in_order(self.assembly.positions["val"], self.config.training.batch_size))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config, steps = self.config.optimiser, len(self.train_dataloader())  # the same for every epoch
        optimiser = build_optimiser(config, self.network.parameters())
        mode = "min" if self.config.training.monitor == "loss" else "max"
        self.schedule = build_schedule(config, optimiser, self.config.training.epochs, steps, mode)
        return optimiser

    def on_fit_start(self) -> None:
        if self.start is not None:
            self.network.load_state_dict(self.start.network)
            self.trainer.optimizers[0].load_state_dict(self.start.optimiser)
            if self.schedule is not None:
                self.schedule.load_state_dict(self.start.schedule)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, masks = batch.images, batch.masks
        if self.trainer.training:
            images, masks = self.augmentation(images, masks, seed=batch.seed, share=batch.share)
        return Batch(network_input(images, self.assembly.arrays.channels), batch.labels, masks, batch.seed, batch.share)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(derived_seed(self.config.seed, self.epoch, self.trainer.global_rank))
        self._losses, self._counts, self._started = [], [], time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        logits, targets = self.network(batch.images), self.task.targets(batch)
        extra = 0.0
        if isinstance(logits, tuple):
            logits, auxiliary = logits
            extra = self.network.auxiliary_weight * self.criterion(auxiliary.float(), targets)
        loss = self.criterion(logits.float(), targets) + extra
        self._losses.append(loss.detach())
        self._counts.append(len(batch.labels))
        if loss.device.type == "cpu":  # asking a GPU for each number would make it wait; there it is asked once an epoch
            self._check(self._losses[-1], f"batch {len(self._losses)}")
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
        self._scores.add(self.network(batch.images), batch)

    def on_train_epoch_end(self) -> None:
        """Judge the epoch, go on with the schedule, keep the state, stop where it is time."""
        row = self.trainer.strategy.broadcast(self._row())  # running means differ between devices; the first one's count
        monitor, patience = self.config.training.monitor, self.config.training.patience
        state, value = self.standing, row[f"val_{monitor}"]
        state.epoch += 1
        state.note_stretch(device_name(self.device))
        state.history.append(row)
        state.seconds += time.perf_counter() - self._started
        state.images += sum(self._counts) * self.trainer.world_size
        state.waited += 1
        if state.best_value is None or (value < state.best_value if monitor == "loss" else value > state.best_value):
            state.best_epoch, state.best_value, state.waited = state.epoch, value, 0
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        state.stopped = patience is not None and state.waited >= patience
        step_after_epoch(self.schedule, value)
        if self.trainer.is_global_zero:
            optimiser = self.trainer.optimizers[0].state_dict()
            schedule = None if self.schedule is None else self.schedule.state_dict()
            kept = Checkpoint(state, dict(self.network.state_dict()), self.best, optimiser, schedule)
            write_checkpoint(self.assembly.resume, kept)
            if os.environ.get("THYROID_REPORT_DIR"):
                print(self._line(row), flush=True)
        self.trainer.should_stop = state.stopped

    @torch.no_grad()
    def _row(self) -> dict[str, float]:
        """The epoch's line of the history. Raises TrainingError for a loss that is no number."""
        losses, counts = torch.stack(self._losses).double().cpu(), torch.tensor(self._counts, dtype=torch.float64)
        for number, loss in enumerate(losses, 1):
            self._check(loss, f"batch {number}")
        mean = ((losses * counts).sum() / counts.sum()).to(self.device)  # where NCCL takes it, which knows no CPU
        val_loss = self._scores.loss()
        self._check(val_loss, "validation")
        values = self._scores.values()
        return {
            "epoch": self.epoch,
            "learning_rate": self._learning_rate,
            "train_loss": float(self.trainer.strategy.reduce(mean, reduce_op="mean")),
            "val_loss": val_loss,
            **{f"val_{name}": values[name] for name in self.task.history},
        }

    def _check(self, loss: torch.Tensor | float, where: str) -> None:
        """Raise TrainingError for a loss that is no number."""
        if math.isfinite(loss):
            return
        kept = (
            f"epoch {self.standing.epoch} is kept in {self.assembly.resume}" if self.standing.epoch else "no epoch was finished"
        )
        optimiser = self.config.optimiser
        clip = "" if optimiser.clip_norm else ", or set optimiser.clip_norm (for example 1)"
        raise TrainingError(
            f"{self.config.model.name}: the loss is {float(loss):g} in epoch {self.epoch}, {where}; {kept}; "
            f"lower optimiser.learning_rate (now {optimiser.learning_rate:g}){clip}"
        )

    def _line(self, row: dict[str, float]) -> str:
        state, score = self.standing, self.task.score
        best = " (best so far)" if state.best_epoch == state.epoch else ""
        stop = f"; stopped: {state.waited} epochs without a better one" if state.stopped else ""
        return (
            f"{self.config.label}: epoch {state.epoch} of {self.config.training.epochs}: "
            f"loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}, "
            f"{SCORE_NAMES[score]} {row[f'val_{score}']:.3f}{best}{stop}"
        )


def fit_epochs(assembly: Assembly, start: Checkpoint | None, device: torch.device, progress: Progress | None) -> None:
    """Train from `start`, or from the beginning, to the last epoch or an early stop; states are kept in the resume folder.

    Raises:
        TrainingError: the loss is no number, or memory ran out.
    """
    config, training = assembly.config, assembly.config.training
    module = NetworkTraining(assembly, start, progress)
    with quiet(), interrupts_stay():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=training.devices,
            strategy="ddp" if training.devices > 1 else "auto",
            plugins=[LightningEnvironment()],  # never that of a scheduler whose job this process happens to be
            precision=choose_precision(training.precision, device),
            max_epochs=training.epochs - module.standing.epoch,
            gradient_clip_val=config.optimiser.clip_norm,
            reload_dataloaders_every_n_epochs=1,  # the order of an epoch is drawn from its number
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            told = any(sign in str(error) for sign in _OUT_OF_MEMORY)
            if not told and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                raise
            torch.cuda.empty_cache()
            size, (height, width) = training.batch_size, assembly.input_shape[1:]
            raise TrainingError(
                f"{config.model.name}: out of memory in epoch {module.epoch} with batches of {size} images of {height}×{width}; "
                f"lower training.batch_size (to {max(1, size // 2)}) or size, or choose precision bf16; "
                "what was trained so far is kept"
            ) from None


@contextmanager
def interrupts_stay() -> Iterator[None]:
    """Lightning turns an interrupt into the end of the process and turns a deaf ear to further ones; here it stays one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks about loaders and hardware, which a reader of a report can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
