"""`fit_or_load`: the finished run of a config, trained now where it is not there yet."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError, TrainingError
from thyroid_utils.common.files import atomic_path, write_bytes, write_text
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.models.networks import check_weights
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.preprocess.store import preprocessed
from thyroid_utils.training.batch import Arrays, Batches, batch_starts, in_order, network_input
from thyroid_utils.training.data import SplitData, input_pipeline, split_data
from thyroid_utils.training.ledger import (
    MAPS,
    MAPS_TENSOR,
    RECIPE,
    RESUME,
    Run,
    RunDamaged,
    environment_stamp,
    find_run,
    left_behind,
    mark_complete,
    run_hash,
    run_lock,
    runs_dir,
)
from thyroid_utils.training.loop import Assembly, derived_seed, device_name, fit_epochs
from thyroid_utils.training.state import (
    Checkpoint,
    CheckpointDamaged,
    choose_device,
    choose_precision,
    read_checkpoint,
    repeatable,
)
from thyroid_utils.training.tasks import SIDES, TASKS, Scores, WriteMaps


def fit_or_load(config: RunConfig, progress: Progress | None = None, *, wait: bool = True) -> Run:
    """The run of a config: loaded where it is finished, resumed where it was begun, trained where it is not there.

    Two processes that ask for one run: one trains, the other waits and loads. A finished run with a file that is damaged or
    was edited is trained again, which is said in a line. In a report (`THYROID_REPORT_DIR`) each epoch prints a line.

    Args:
        config: what to train, on what.
        progress: called with (batches done, batches in all); None draws a bar in a terminal.
        wait: False raises RunBusy instead of waiting for another process, so that one can go on with the next run.

    Returns:
        `Run`, complete and checked.

    Raises:
        ConfigError, DataError, ValueError: names, data or sizes that do not go together; nothing is trained then.
        TrainingError: the loss is no number, or memory ran out; the last good epoch is kept.
        RunBusy: see `wait`.
    """
    data = split_data(config)
    name = run_hash(config, data.fingerprint, data.split_hash)
    with suppress(RunDamaged):  # told and mended by the process that holds the lock
        if (run := find_run(name)) is not None:
            return run
    with run_lock(name, wait):
        try:
            if (run := find_run(name)) is not None:
                return run
        except RunDamaged as damage:
            print(f"{damage}; it is trained again", flush=True)
            shutil.rmtree(runs_dir() / name)
        return _trained(runs_dir() / name, config, data, progress)


def _trained(folder: Path, config: RunConfig, data: SplitData, progress: Progress | None) -> Run:
    device = choose_device(config.training)
    with repeatable(device):
        assembly = assemble(config, data, folder, device)
        folder.mkdir(parents=True, exist_ok=True)
        for path in left_behind(folder):
            path.unlink()
        write_text(folder / "config.json", config.to_json())
        write_text(folder / "data.json", json.dumps(_described(data, assembly), indent=2))
        bar, total = progress_bar(f"Training {config.model.name}", lines=False) if progress is None else progress, 1

        def tell(done: int, batches: int) -> None:
            nonlocal total
            total = batches
            bar(done, batches)

        state = _kept_state(assembly.resume)
        if state is None or not (state.standing.stopped or state.standing.epoch >= config.training.epochs):
            if config.training.devices > 1:
                from thyroid_utils.training.distributed import fit_on_several

                fit_on_several(folder, tell)
            else:
                fit_epochs(assembly, state, device, tell)
            state = read_checkpoint(assembly.resume)
        bar(total, total)
        _write_results(folder, assembly, data, state, device)
    return mark_complete(folder)


def _kept_state(resume: Path) -> Checkpoint | None:
    """The state to go on from; a damaged one is told and removed."""
    try:
        return read_checkpoint(resume)
    except CheckpointDamaged as damage:
        print(f"{damage}; this run is trained from its beginning", flush=True)
        shutil.rmtree(resume)
        return None


def assemble(config: RunConfig, data: SplitData, folder: Path, device: torch.device) -> Assembly:
    """Build everything that a run needs; what costs nothing to check is checked first.

    Args:
        folder: of the run.

    Raises:
        ConfigError, DataError, ValueError: names, options, weights or sizes that do not go together.
    """
    task, positions = TASKS[config.task], {split: data.positions(split) for split in SIDES}
    check_steps(config, len(positions["train"]))
    labels = data.cases["label"].fillna(-1).to_numpy("int64")[positions["train"]]
    pipeline = input_pipeline(config)
    network, criterion = build(config, pipeline.channels, config.model.weights, labels)
    pipeline.fit(data.cases, progress_bar("Fitting the preprocessing"))
    store = preprocessed(data.cases, pipeline, progress_bar("Preprocessing"))
    shape = tuple(store.images.shape[1:])
    network.check_size(*shape[1:])
    arrays = Arrays(store, with_masks=task.masks, pin=device.type == "cuda")
    for split, chosen in positions.items():  # tiny masks may not survive the preprocessing
        if task.masks and not any(arrays.masks[position].any() for position in chosen):
            raise DataError(
                f"preprocessing: all {len(chosen)} {SIDES[split]} masks are empty at {shape[1]}×{shape[2]} pixels; "
                "raise size, or leave out the step that cuts the nodules off"
            )
    fitted = [pipeline.mean, pipeline.deviation] if pipeline.needs_fit else None
    network = network.to(memory_format=torch.channels_last)
    return Assembly(config, arrays, positions, network, criterion, shape, fitted, folder / RESUME)


def build(config: RunConfig, channels: int, weights: str, labels: np.ndarray | None) -> tuple[nn.Module, nn.Module]:
    """Network and loss of a config, with all that can be checked without data.

    Args:
        channels: of the images.
        weights: what the network starts from; "none" builds it fast, to check the rest.
        labels: int (n,), of the training images, for class weights; None leaves those out.
    """
    model, training = config.model, config.training
    check_weights(model.name, model.weights, model.options)
    build_augmentation(config.augmentation)
    criterion = TASKS[config.task].criterion(config, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed))
        network = TASKS[config.task].network(config, channels, weights)
    if training.batch_size == training.devices and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ConfigError(
            "training.batch_size",
            f"must be {2 * training.devices} or more with {model.name}, whose batch normalisation needs two images "
            f"on each device; found {training.batch_size}",
        )
    return network, criterion


def check_steps(config: RunConfig, images: int) -> None:
    """Raise ConfigError where so many training images make no batch, or fewer steps than the schedule needs."""
    training = config.training
    batches = len(batch_starts(images, training.batch_size, training.devices))
    if images < training.devices:
        raise ConfigError("training.devices", f"must be at most {images}, the training images; found {training.devices}")
    if not batches:
        raise ConfigError(
            "training.batch_size",
            f"must be at most {images - images % training.devices}, as {images} training images fill no larger batch "
            f"(training.devices is {training.devices}); found {training.batch_size}",
        )
    if config.optimiser.schedule == "one_cycle" and training.epochs * batches < 2:
        raise ConfigError(
            "optimiser.schedule",
            "must be another than one_cycle for a training of one step, in which nothing can rise and fall; "
            f"found {training.epochs} epoch of {batches} batch: raise training.epochs or lower training.batch_size",
        )


def _described(data: SplitData, assembly: Assembly) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "split_hash": data.split_hash,
        "recipe": RECIPE,
        "leaky": bool(data.cases["split_by"].eq("image").any()),
        "patients": data.patients,
        "images": {split: len(positions) for split, positions in assembly.positions.items()},
        TASKS[assembly.config.task].left_out: data.left_out,
        "input": list(assembly.input_shape),
        "fitted": assembly.fitted,
        "weights": assembly.network.weights,
    }


def _write_results(folder: Path, assembly: Assembly, data: SplitData, state: Checkpoint, device: torch.device) -> None:
    training, standing = assembly.config.training, state.standing
    write_bytes(folder / "weights.safetensors", save({name: tensor.contiguous() for name, tensor in state.best.items()}))
    metrics: dict[str, Any] = {"best_epoch": standing.best_epoch, "epochs": standing.epoch, "monitor": training.monitor}
    predictions, scores = _predict(folder, assembly, data, state, device)
    stamp = environment_stamp(device_name(device), choose_precision(training.precision, device), training.devices)
    speed = round(standing.images / standing.seconds, 2) if standing.seconds else None
    stamp |= {"stretches": standing.stretches, "seconds": round(standing.seconds, 3), "images_per_second": speed}
    write_text(folder / "history.csv", pd.DataFrame(standing.history).to_csv(index=False))
    write_text(folder / "predictions.csv", predictions.to_csv())
    write_text(folder / "metrics.json", json.dumps(metrics | scores, indent=2))
    write_text(folder / "environment.json", json.dumps(stamp, indent=2))


def _predict(
    folder: Path, assembly: Assembly, data: SplitData, state: Checkpoint, device: torch.device
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Predictions of the best weights for validation and test, and the scores of each; a segmenter's maps go to a file.

    In float32 whatever the training's precision, as everyone who loads the weights will compute them.
    """
    config, task = assembly.config, TASKS[assembly.config.task]
    network, criterion = assembly.network, assembly.criterion.to(device)
    network.load_state_dict(state.best)
    network.to(device).eval()
    tables, metrics = [], {}
    with _maps(folder, assembly) as write_maps:
        for split in ("val", "test"):
            positions, scores = assembly.positions[split], task.scores(criterion, write_maps)
            _score(network, scores, Batches(assembly.arrays, in_order(positions, config.training.batch_size)), device)
            if not math.isfinite(scores.loss()):
                raise TrainingError(
                    f"{config.model.name}: the loss on {SIDES[split]} is {scores.loss():g} with the weights of epoch "
                    f"{state.standing.best_epoch}; lower optimiser.learning_rate (now {config.optimiser.learning_rate:g})"
                )
            rows = data.cases.iloc[positions]
            table = {"patient": rows["patient"], "split": split, "label": rows["label"], **scores.columns()}
            tables.append(pd.DataFrame(table, index=rows.index))
            metrics[split] = {"loss": scores.loss(), **scores.values(), "images": len(rows)}
    return pd.concat(tables), metrics


@torch.inference_mode()
def _score(network: nn.Module, scores: Scores, batches: Batches, device: torch.device) -> None:
    for batch in batches:
        batch = batch.to(device)
        scores.add(network(network_input(batch.images, batches.arrays.channels)), batch)


def _maps(folder: Path, assembly: Assembly) -> AbstractContextManager[WriteMaps | None]:
    if not TASKS[assembly.config.task].masks:
        return nullcontext()
    images = len(assembly.positions["val"]) + len(assembly.positions["test"])
    return maps_file(folder / MAPS, (images, *assembly.input_shape[1:]))


@contextmanager
def maps_file(target: Path, shape: tuple[int, int, int]) -> Iterator[WriteMaps]:
    """Write a safetensors file that holds uint8 `shape` under `MAPS_TENSOR`, by calls that take the maps of a batch in their
    order: however many images there are, one batch is in memory.

    The safetensors library writes whole tensors only; its format is a length (8 bytes), a header in JSON, and the bytes.
    `target` is there when the block has ended well, and not before.
    """
    header = json.dumps({MAPS_TENSOR: {"dtype": "U8", "shape": list(shape), "data_offsets": [0, math.prod(shape)]}}).encode()
    header += b" " * (-len(header) % 8)  # the data begin at a multiple of 8
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        yield lambda maps: stream.write(np.ascontiguousarray(maps))
