"""The epochs of a run: what they need is put together, checked, and handed to Lightning."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError, TrainingError
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.models.networks import check_weights
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.training.checkpoint import Checkpoint
from thyroid_utils.training.data import Arrays, SplitData, batch_starts, input_pipeline, open_arrays
from thyroid_utils.training.device import choose_precision
from thyroid_utils.training.ledger import RESUME
from thyroid_utils.training.module import Fit, NetworkTraining, derived_seed
from thyroid_utils.training.tasks import SIDES, TASKS

# Of PyTorch's CPU allocator on Linux and Windows, and of the GPU libraries that take memory themselves.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Assembly:
    """What is trained: the data, the network with its first weights, the loss."""

    fit: Fit
    network: nn.Module
    criterion: nn.Module
    input_shape: tuple[int, int, int]


def assemble(config: RunConfig, data: SplitData, folder: Path, device: torch.device) -> Assembly:
    """Build everything that a run needs; what costs nothing to check is checked first.

    Args:
        folder: of the run.

    Raises:
        ConfigError, DataError, ValueError: names, options, weights or sizes that do not go together.
    """
    task, pipeline = TASKS[config.task], input_pipeline(config)
    model = config.model
    check_weights(model.name, model.weights, model.options)
    check_steps(config, len(data.positions("train")))
    build_augmentation(config.augmentation)
    positions = {split: data.positions(split) for split in ("train", "val", "test")}
    labels = data.cases["label"].fillna(-1).to_numpy("int64")[positions["train"]]
    criterion = task.criterion(config, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed))
        network = task.network(config, pipeline.channels, config.model.weights)
    check_batches(config, network)
    store = open_arrays(config, data.cases, progress_bar("Preprocessing"))
    arrays = Arrays(store, with_masks=task.with_masks, pin=device.type == "cuda")
    network.check_size(*store.images.shape[-2:])
    if task.with_masks:
        _check_masks(arrays, positions)
    if config.training.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Assembly(Fit(config, arrays, positions, folder / RESUME), network, criterion, tuple(store.images.shape[1:]))


def _check_masks(arrays: Arrays, positions: dict[str, np.ndarray]) -> None:
    """Raise where no mask of a side has survived the preprocessing, as tiny ones may not."""
    for split, chosen in positions.items():
        if not any(arrays.masks[position].any() for position in chosen):
            height, width = arrays.masks.shape[1:]
            raise DataError(
                f"preprocessing: all {len(chosen)} {SIDES[split]} masks are empty at {height}×{width} pixels; raise size, or "
                "leave out the step that cuts the nodules off"
            )


def check_batches(config: RunConfig, network: nn.Module) -> None:
    """Raise ConfigError for batches of one image where the network normalises over a batch."""
    training = config.training
    if training.batch_size == training.devices and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ConfigError(
            "training.batch_size",
            f"must be {2 * training.devices} or more with {config.model.name}, whose batch normalisation needs two images "
            f"on each device; found {training.batch_size}",
        )


def check_steps(config: RunConfig, images: int) -> None:
    """Raise ConfigError where so many training images make no batch, or fewer steps than the schedule needs."""
    training = config.training
    batches = len(batch_starts(images, training.batch_size, training.devices))
    if images < training.devices:
        raise ConfigError("training.devices", f"must be at most {images}, the training images; found {training.devices}")
    if not batches:
        most = images - images % training.devices
        raise ConfigError(
            "training.batch_size",
            f"must be at most {most}, as {images} training images fill no larger batch (training.devices is {training.devices}); "
            f"found {training.batch_size}",
        )
    if config.optimiser.schedule == "one_cycle" and training.epochs * batches < 2:
        raise ConfigError(
            "optimiser.schedule",
            "must be another than one_cycle for a training of one step, in which nothing can rise and fall; "
            f"found {training.epochs} epoch of {batches} batch: raise training.epochs or lower training.batch_size",
        )


def fit_epochs(assembly: Assembly, start: Checkpoint | None, device: torch.device, progress: Progress | None) -> None:
    """Train from `start`, or from the beginning, to the last epoch or an early stop; states are kept in the resume folder.

    Raises:
        TrainingError: the loss is no number, or memory ran out.
    """
    config = assembly.fit.config
    module = NetworkTraining(assembly.fit, assembly.network, assembly.criterion, start, progress)
    several = config.training.devices > 1
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=config.training.devices,
            strategy="ddp" if several else "auto",
            plugins=[LightningEnvironment()],  # never that of a scheduler whose job this process happens to be
            precision=choose_precision(config.training.precision, device),
            max_epochs=config.training.epochs - module.standing.epoch,
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
            _fit(trainer, module)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            size, (height, width) = config.training.batch_size, assembly.input_shape[1:]
            raise TrainingError(
                f"{config.model.name}: out of memory in epoch {module.epoch} with batches of {size} images of {height}×{width}; "
                f"lower training.batch_size (to {max(1, size // 2)}) or size, or choose precision bf16; "
                "what was trained so far is kept"
            ) from None


def _fit(trainer: pl.Trainer, module: NetworkTraining) -> None:
    """Lightning turns an interrupt into the end of the process and turns a deaf ear to further ones; here it stays one."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module)
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if in_main and signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


@contextmanager
def _quiet() -> Iterator[None]:
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
