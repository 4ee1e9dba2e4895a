"""`fit_or_load`: the finished run of a config, trained now where it is not there yet."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.files import write_bytes, write_text
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.training.checkpoint import Checkpoint, CheckpointDamaged, read_checkpoint
from thyroid_utils.training.data import Batches, SplitData, in_order, input_pipeline, split_data
from thyroid_utils.training.device import choose_device, choose_precision, repeatable
from thyroid_utils.training.distributed import fit_on_several
from thyroid_utils.training.ledger import (
    MAPS,
    RECIPE,
    Run,
    RunBusy,
    RunDamaged,
    find_run,
    left_behind,
    mark_complete,
    run_hash,
    run_lock,
    runs_dir,
)
from thyroid_utils.training.loop import Assembly, assemble, fit_epochs
from thyroid_utils.training.maps import maps_file
from thyroid_utils.training.module import network_input
from thyroid_utils.training.stamp import environment_stamp
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
    try:
        run = find_run(name)
    except RunDamaged:
        run = None  # told and mended below, by the process that holds the lock
    if run is not None:
        return run
    try:
        with run_lock(name, wait=False):
            return _finished(name) or _trained(name, config, data, progress)
    except RunBusy:
        if not wait:
            raise
    print(f"run {name}: another process is training it; waiting", flush=True)
    with run_lock(name):
        return _finished(name) or _trained(name, config, data, progress)


def _finished(name: str) -> Run | None:
    """The finished run; a damaged one is told and removed."""
    try:
        return find_run(name)
    except RunDamaged as damage:
        print(f"{damage}; it is trained again", flush=True)
        shutil.rmtree(runs_dir() / name)
        return None


def _trained(name: str, config: RunConfig, data: SplitData, progress: Progress | None) -> Run:
    folder, device = runs_dir() / name, choose_device(config.training)
    with repeatable(device, config.training.deterministic):
        assembly = assemble(config, data, folder, device)
        folder.mkdir(parents=True, exist_ok=True)
        for path in left_behind(folder):
            path.unlink()
        write_text(folder / "config.json", config.to_json())
        write_text(folder / "data.json", json.dumps(_described(config, data, assembly), indent=2))
        bar, total = progress or progress_bar(f"Training {config.model.name}", lines=False), 1

        def tell(done: int, batches: int) -> None:
            nonlocal total
            total = batches
            bar(done, batches)

        state = _kept_state(assembly.fit.resume)
        if state is None or not (state.progress.stopped or state.progress.epoch >= config.training.epochs):
            if config.training.devices > 1:
                fit_on_several(folder, tell)
            else:
                fit_epochs(assembly, state, device, tell)
            state = read_checkpoint(assembly.fit.resume)
        bar(total, total)
        _write_results(folder, assembly, data, state, device)
    return mark_complete(folder)


def _described(config: RunConfig, data: SplitData, assembly: Assembly) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "split_hash": data.split_hash,
        "recipe": RECIPE,
        "leaky": bool(data.cases["split_by"].eq("image").any()),
        "patients": data.patients,
        "images": {split: len(positions) for split, positions in assembly.fit.positions.items()},
        TASKS[config.task].left_out: data.left_out,
        "input": list(assembly.input_shape),
        "fitted": _fitted_numbers(config, data),
        "weights": assembly.network.weights,
    }


def _fitted_numbers(config: RunConfig, data: SplitData) -> list[float] | None:
    """µ and σ of the training images where the preprocessing has them, so that other images can be asked about without those."""
    pipeline = input_pipeline(config)
    if not pipeline.needs_fit:
        return None
    pipeline.fit(data.cases)
    return [pipeline.mean, pipeline.deviation]


def _kept_state(resume: Path) -> Checkpoint | None:
    """The state to go on from; a damaged one is told and removed."""
    try:
        return read_checkpoint(resume)
    except CheckpointDamaged as damage:
        print(f"{damage}; this run is trained from its beginning", flush=True)
        shutil.rmtree(resume)
        return None


def _write_results(folder: Path, assembly: Assembly, data: SplitData, state: Checkpoint, device: torch.device) -> None:
    training, progress = assembly.fit.config.training, state.progress
    write_bytes(folder / "weights.safetensors", save(state.best))
    metrics: dict[str, Any] = {"best_epoch": progress.best_epoch, "epochs": progress.epoch, "monitor": training.monitor}
    predictions, scores = _predict(folder, assembly, data, state, device)
    precision = choose_precision(training.precision, device)
    stamp = environment_stamp(device, precision, training.devices, progress)
    write_text(folder / "history.csv", pd.DataFrame(progress.history).to_csv(index=False))
    write_text(folder / "predictions.csv", predictions.to_csv())
    write_text(folder / "metrics.json", json.dumps(metrics | scores, indent=2))
    write_text(folder / "environment.json", json.dumps(stamp, indent=2))


def _predict(
    folder: Path, assembly: Assembly, data: SplitData, state: Checkpoint, device: torch.device
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Predictions of the best weights for validation and test, and the scores of each; a segmenter's maps go to a file.

    In float32 whatever the training's precision, as everyone who loads the weights will compute them.
    """
    fit, task = assembly.fit, TASKS[assembly.fit.config.task]
    network, criterion = assembly.network, assembly.criterion.to(device)
    network.load_state_dict(state.best)
    network.to(device).eval()
    tables, metrics = [], {}
    with _maps(folder, assembly) as write_maps:
        for split in ("val", "test"):
            positions, scores = fit.positions[split], task.scores(criterion, write_maps)
            _score(network, scores, Batches(fit.arrays, in_order(positions, fit.config.training.batch_size)), fit.config, device)
            if not math.isfinite(scores.loss()):
                raise TrainingError(
                    f"{fit.config.model.name}: the loss on {SIDES[split]} is {scores.loss():g} with the weights of epoch "
                    f"{state.progress.best_epoch}; lower optimiser.learning_rate (now {fit.config.optimiser.learning_rate:g})"
                )
            rows = data.cases.iloc[positions]
            table = {"patient": rows["patient"], "split": split, "label": rows["label"], **scores.columns()}
            tables.append(pd.DataFrame(table, index=rows.index))
            metrics[split] = {"loss": scores.loss(), **scores.values(), "images": len(rows)}
    return pd.concat(tables), metrics


@torch.inference_mode()
def _score(network: torch.nn.Module, scores: Scores, batches: Batches, config: RunConfig, device: torch.device) -> None:
    for batch in batches:
        batch = batch.to(device)
        scores.add(network(network_input(batch.images, batches.arrays.channels, config.training.channels_last)), batch)


def _maps(folder: Path, assembly: Assembly) -> AbstractContextManager[WriteMaps | None]:
    fit = assembly.fit
    if not TASKS[fit.config.task].with_masks:
        return nullcontext()
    images = len(fit.positions["val"]) + len(fit.positions["test"])
    return maps_file(folder / MAPS, (images, *assembly.input_shape[1:]))
