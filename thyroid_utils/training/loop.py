"""The epochs of a run, from the first batch to the state that is kept. What differs by task is asked of it."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler

from thyroid_utils.common.config import OptimiserConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.machine import keep_freed_memory
from thyroid_utils.common.progress import Progress
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.training.data import Assembly, derived_seed
from thyroid_utils.training.state import State, choose_precision, write_state
from thyroid_utils.training.tasks import SCORE_NAMES, TASKS, Batch, Batches, epoch_batches, in_order, network_input, score_batches

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Schedule = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau | None

KEPT_EVERY = 10.0  # seconds between two states: writing one, four times the weights, may take longer than an epoch

# Of PyTorch's CPU allocator on Linux and Windows, and of the GPU libraries that take memory themselves.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def build_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over the parameters that can be trained; on a GPU one kernel for all of them."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if trained and trained[0].is_cuda:
        shared["fused"] = True
    if config.name == "sgd":
        return torch.optim.SGD(trained, momentum=config.momentum, **shared)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](trained, **shared)


def build_schedule(config: OptimiserConfig, optimiser: torch.optim.Optimizer, epochs: int, steps: int, mode: str) -> Schedule:
    """The schedule of the learning rate, None for a constant one.

    Args:
        epochs: of the whole run.
        steps: of one epoch.
        mode: "min" or "max": what is better in the monitored value (plateau).
    """
    if config.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    if config.schedule == "one_cycle":
        # Momentum stays what the config says; cycling it as well would train with a number that no one wrote down.
        return lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=epochs * steps, cycle_momentum=False)
    if config.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimiser, mode=mode, factor=0.1, patience=2, threshold=0.0)
    return None


class OneDevice:
    """What a training asks of Fabric, for one that has nobody to share with: Lightning takes over a second to import."""

    is_global_zero, global_rank, world_size = True, 0, 1

    def __init__(self, device: torch.device):
        self.device, self.strategy = device, self

    def same(self, value: Any, **_: Any) -> Any:
        """What all of one device agree on."""
        return value

    setup_module = broadcast = all_reduce = same


def join(devices: int, kind: str) -> Fabric:
    """This process and those that it starts, a device of a kind ("cuda", "cpu") each, by DDP."""
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # its advice on GPUs would stand in every report
    # Its environment is never that of a scheduler whose job this process happens to be.
    fabric = Fabric(accelerator=kind, devices=devices, strategy="ddp", plugins=[LightningEnvironment()])
    fabric.launch()
    return fabric


class BatchLoss(nn.Module):
    """From a batch to its loss, random changes included: one module, that a CUDA graph can be recorded of the whole.

    Args:
        network: as trained, of `assembly.network`.
        precision: the context that the network is asked in.
    """

    def __init__(self, assembly: Assembly, network: nn.Module, precision: torch.autocast):
        super().__init__()
        self.network, self.criterion, self.precision = network, assembly.criterion, precision
        self.task, self.augmentation = TASKS[assembly.config.task], build_augmentation(assembly.config.augmentation)
        self.channels, self.auxiliary_weight = assembly.arrays.channels, assembly.network.auxiliary_weight

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor | None = None,
        seed: Sequence[int] | None = None, share: tuple[int, int] = (0, 1),
    ) -> torch.Tensor:  # fmt: skip
        """The parts of a `Batch` → its loss, a scalar. seed: None draws from torch's own generator, as a recording has to."""
        images, masks = self.augmentation(images, masks, seed=seed, share=share)
        targets = self.task.targets(Batch(images, labels, masks))
        with self.precision:
            logits, extra = self.network(network_input(images, self.channels)), 0.0
            if isinstance(logits, tuple):
                logits, auxiliary = logits
                extra = self.auxiliary_weight * self.criterion(auxiliary.float(), targets)
            return self.criterion(logits.float(), targets) + extra


class Training:
    """Trains the network of a run from its beginning or from a state, on one device or, in processes of their own, on several.

    Everything random is drawn from (seed, epoch): dropout from torch's generator, which every epoch seeds anew, the order from
    one of its own, augmentation from one a batch. So training that is taken up after an epoch goes on exactly as it would have.
    """

    def __init__(self, assembly: Assembly, start: State | None, device: torch.device, progress: Progress):
        config = assembly.config
        self.assembly, self.config, self.progress = assembly, config, progress
        self.task, self.state = TASKS[config.task], start or State()
        self.kept, self.kept_at = self.state.epoch, -math.inf  # the last epoch whose state was kept, and when
        self.fabric = join(config.training.devices, device.type) if config.training.devices > 1 else OneDevice(device)
        self.device, self.first = self.fabric.device, self.fabric.is_global_zero
        bf16 = choose_precision(config.training.precision, device) == "bf16-mixed"
        # Without a cache of weights in bf16, which could not be recorded.
        self.precision = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)
        if start is not None:
            assembly.network.load_state_dict(start.network)
        # Not by `Fabric.setup_module`, whose wrapper takes no network that answers with a dataclass.
        self.network = self.fabric.strategy.setup_module(assembly.network.to(self.device))
        self.criterion = assembly.criterion.to(self.device)
        self.optimiser = build_optimiser(config.optimiser, assembly.network.parameters())
        mode = "min" if config.training.monitor == "loss" else "max"
        steps = len(self.batches())  # the same for every epoch
        self.schedule = build_schedule(config.optimiser, self.optimiser, config.training.epochs, steps, mode)
        if start is not None:
            self.optimiser.load_state_dict(start.optimiser)
            for group in self.optimiser.param_groups:
                group["fused"] = self.optimiser.defaults["fused"]  # by where it is resumed, not by where it was begun
            if self.schedule is not None:
                self.schedule.load_state_dict(start.schedule)
        self.loss = BatchLoss(assembly, self.network, self.precision)
        self.recorded = self.record() if config.training.cuda_graph and self.device.type == "cuda" else None

    def record(self) -> nn.Module:
        """The loss of a whole batch, and its gradients, as CUDA graphs: a step then costs the GPU's time and not Python's."""
        arrays, size = self.assembly.arrays, self.config.training.batch_size
        sample = [part for part in arrays.batch(np.zeros(size, np.int64)).to(self.device).parts if part is not None]
        loss = BatchLoss(self.assembly, self.network, self.precision).train()
        before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        try:
            loss = torch.cuda.make_graphed_callables(loss, tuple(sample), allow_unused_input=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            told = f"{self.config.model.name}: its training cannot be a CUDA graph; set training.cuda_graph (COMPILE) to False"
            raise TrainingError(f"{told} ({error})") from error
        self.network.load_state_dict(before)  # warming up has moved the running means of batch normalisation
        return loss

    def run(self) -> None:
        """All epochs that are left."""
        while not self.state.stopped and self.state.epoch < self.config.training.epochs:
            started = time.perf_counter()
            row = {"epoch": self.epoch, **self.train(), **self.validate()}
            self.finish(self.fabric.broadcast(row), started)  # running means differ between devices; the first one's count

    @property
    def epoch(self) -> int:
        """The number of the epoch at work, from 1."""
        return self.state.epoch + 1

    def batches(self) -> Batches:
        """What this device gets of the epoch at work."""
        training, arrays, seed = self.config.training, self.assembly.arrays, self.config.seed
        positions = self.assembly.positions["train"]
        parts = epoch_batches(
            positions,
            arrays.labels[positions],
            batch_size=training.batch_size,
            seed=seed,
            epoch=self.epoch,
            balance=training.class_balance,
            devices=training.devices,
        )
        return Batches(arrays, parts, (seed, self.epoch), (self.fabric.global_rank, self.fabric.world_size))

    def train(self) -> dict[str, float]:
        """An epoch of training: its learning rate and mean loss."""
        torch.manual_seed(derived_seed(self.config.seed, self.epoch, self.fabric.global_rank))
        self.network.train()
        batches, losses, counts = self.batches(), [], []
        total = self.config.training.epochs * len(batches)
        for number, batch in enumerate(batches, 1):
            losses.append(self.step(batch.to(self.device), number))
            counts.append(len(batch.labels))
            rate = self.optimiser.param_groups[0]["lr"]
            # The last step of all has been taken when the last batch ends; one more is not in the cycle.
            if isinstance(self.schedule, lr_scheduler.OneCycleLR) and self.schedule.last_epoch + 1 < self.schedule.total_steps:
                self.schedule.step()
            if self.first:  # the last batch is kept for the end of the run, where a bar is taken away
                self.progress(min(self.state.epoch * len(batches) + number, total - 1), total)
        self.state.images += sum(counts) * self.fabric.world_size
        values, sizes = torch.stack(losses).double().cpu(), torch.tensor(counts, dtype=torch.float64)
        for number, loss in enumerate(values, 1):
            self.check(loss, f"batch {number}")
        mean = ((values * sizes).sum() / sizes.sum()).to(self.device)  # where NCCL takes it, which knows no CPU
        return {"learning_rate": rate, "train_loss": float(self.fabric.all_reduce(mean, reduce_op="mean"))}

    def step(self, batch: Batch, number: int) -> torch.Tensor:
        """One step of the optimiser; the loss of the batch."""
        if self.recorded is not None and len(batch.labels) == self.config.training.batch_size:
            loss = self.recorded(*(part for part in batch.parts if part is not None))
        else:
            loss = self.loss(*batch.parts, batch.seed, batch.share)
        if self.device.type == "cpu":  # asking a GPU for each number would make it wait; there it is asked once an epoch
            self.check(loss.detach(), f"batch {number}")
        self.optimiser.zero_grad()
        loss.backward()
        if self.config.optimiser.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip_norm)
        self.optimiser.step()
        return loss.detach().clone()  # what was recorded writes each loss to the same place

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss and scores of the whole validation set on every device, so that all of them judge an epoch by the same images."""
        self.network.eval()
        scores = self.task.scores(self.criterion)
        positions = in_order(self.assembly.positions["val"], self.config.training.batch_size)
        with self.precision:
            score_batches(self.assembly.network, scores, Batches(self.assembly.arrays, positions), self.device)
        loss, values = scores.loss(), scores.values()
        self.check(loss, "validation")
        return {"val_loss": loss, **{f"val_{name}": values[name] for name in self.task.history}}

    def finish(self, row: dict[str, float], started: float) -> None:
        """Judge the epoch, go on with the schedule, keep the state, stop where it is time."""
        monitor, patience = self.config.training.monitor, self.config.training.patience
        state, value = self.state, row[f"val_{monitor}"]
        state.epoch += 1
        state.history.append(row)
        state.seconds += time.perf_counter() - started
        state.waited += 1
        state.network = self.assembly.network.state_dict()
        if state.best_value is None or (value < state.best_value if monitor == "loss" else value > state.best_value):
            state.best_epoch, state.best_value, state.waited = state.epoch, value, 0
            state.best = {name: tensor.detach().clone() for name, tensor in state.network.items()}
        state.stopped = patience is not None and state.waited >= patience
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(value)
        elif isinstance(self.schedule, lr_scheduler.CosineAnnealingLR):
            self.schedule.step()
        state.optimiser = self.optimiser.state_dict()
        state.schedule = None if self.schedule is None else self.schedule.state_dict()
        ended = state.stopped or state.epoch == self.config.training.epochs
        if self.first:
            if ended or time.monotonic() - self.kept_at >= KEPT_EVERY:
                write_state(self.assembly.resume, state)
                self.kept, self.kept_at = state.epoch, time.monotonic()
            if os.environ.get("THYROID_REPORT_DIR"):
                print(self.line(row), flush=True)

    def check(self, loss: torch.Tensor | float, where: str) -> None:
        """Raise TrainingError for a loss that is no number."""
        if math.isfinite(loss):
            return
        kept = f"epoch {self.kept} is kept in {self.assembly.resume}" if self.kept else "no epoch was finished"
        optimiser = self.config.optimiser
        clip = "" if optimiser.clip_norm else ", or set optimiser.clip_norm (for example 1)"
        raise TrainingError(
            f"{self.config.model.name}: the loss is {float(loss):g} in epoch {self.epoch}, {where}; {kept}; "
            f"lower optimiser.learning_rate (now {optimiser.learning_rate:g}){clip}"
        )

    def line(self, row: dict[str, float]) -> str:
        """What a report is told of an epoch."""
        state, name = self.state, self.task.score
        best = " (best so far)" if state.best_epoch == state.epoch else ""
        stop = f"; stopped: {state.waited} epochs without a better one" if state.stopped else ""
        return (
            f"{self.config.label}: epoch {state.epoch} of {self.config.training.epochs}: "
            f"loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}, "
            f"{SCORE_NAMES[name]} {row[f'val_{name}']:.3f}{best}{stop}"
        )


def fit_epochs(assembly: Assembly, start: State | None, device: torch.device, progress: Progress) -> None:
    """Train from `start`, or from the beginning, to the last epoch or an early stop; states are kept in the resume folder.

    Raises:
        TrainingError: the loss is no number, or memory ran out.
    """
    training = None
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            training = Training(assembly, start, device, progress)
            training.run()
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        told = any(sign in str(error) for sign in _OUT_OF_MEMORY)
        if not told and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        torch.cuda.empty_cache()
        epoch = (training.state if training else start or State()).epoch + 1
        size, (height, width) = assembly.config.training.batch_size, assembly.input_shape[1:]
        raise TrainingError(
            f"{assembly.config.model.name}: out of memory in epoch {epoch} with batches of {size} images of "
            f"{height}×{width}; lower training.batch_size (to {max(1, size // 2)}) or size, or choose precision bf16; "
            "what was trained so far is kept"
        ) from None
