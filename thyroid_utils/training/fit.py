"""`fit_or_load`: the finished run of a config, trained now where it is not there yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from thyroid_utils.config import RunConfig
from thyroid_utils.files import write_bytes, write_text
from thyroid_utils.progress import progress_bar
from thyroid_utils.runs import (
    Run,
    RunBusy,
    RunDamaged,
    code_version,
    find_run,
    left_behind,
    mark_complete,
    run_hash,
    run_lock,
    runs_dir,
)
from thyroid_utils.threads import Progress
from thyroid_utils.training.checkpoint import Checkpoint, CheckpointDamaged, read_checkpoint
from thyroid_utils.training.data import Batches, SplitData, in_order, split_data
from thyroid_utils.training.device import choose_device, choose_precision, repeatable
from thyroid_utils.training.distributed import fit_on_several
from thyroid_utils.training.loop import Assembly, assemble, fit_epochs
from thyroid_utils.training.module import log_odds, network_input
from thyroid_utils.training.stamp import environment_stamp


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
        write_text(folder / "data.json", json.dumps(_described(data, assembly), indent=2))
        bar, total = progress or progress_bar(f"Training {config.model.name}"), 1

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


def _described(data: SplitData, assembly: Assembly) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "split_hash": data.split_hash,
        "code_version": code_version(),
        "leaky": bool(data.cases["split_by"].eq("image").any()),
        "images": {split: len(positions) for split, positions in assembly.fit.positions.items()},
        "unlabelled": data.unlabelled,
        "input": list(assembly.input_shape),
        "weights": assembly.network.weights,
    }


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
    predictions, losses = _predict(assembly, data, state, device)
    metrics: dict[str, Any] = {"best_epoch": progress.best_epoch, "epochs": progress.epoch, "monitor": training.monitor}
    for split, rows in predictions.groupby("split"):
        metrics[split] = {
            "loss": losses[split],
            "log_loss": float(log_loss(rows["label"], rows["probability"], labels=[0, 1])),
            "auc": float(roc_auc_score(rows["label"], rows["log_odds"])),
            "images": len(rows),
        }
    precision = choose_precision(training.precision, device)
    stamp = environment_stamp(device, precision, training.devices, progress)
    write_text(folder / "history.csv", pd.DataFrame(progress.history).to_csv(index=False))
    write_text(folder / "predictions.csv", predictions.to_csv())
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2))
    write_text(folder / "environment.json", json.dumps(stamp, indent=2))


def _predict(
    assembly: Assembly, data: SplitData, state: Checkpoint, device: torch.device
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predictions of the best weights for validation and test, and the loss of each.

    In float32 whatever the training's precision, as everyone who loads the weights will compute them.
    """
    fit, channels_last = assembly.fit, assembly.fit.config.training.channels_last
    network, criterion = assembly.network, assembly.criterion.to(device)
    network.load_state_dict(state.best)
    network.to(device).eval()
    tables, losses = [], {}
    for split in ("val", "test"):
        positions = fit.positions[split]
        with torch.inference_mode():
            batches = Batches(fit.arrays, in_order(positions, fit.config.training.batch_size))
            inputs = (network_input(batch.to(device).images, fit.arrays.channels, channels_last) for batch in batches)
            logits = torch.cat([network(images) for images in inputs]).float()
            losses[split] = float(criterion(logits, torch.from_numpy(fit.arrays.labels[positions]).to(device)))
        odds = log_odds(logits)
        rows = data.cases.iloc[positions]
        table = {"patient": rows["patient"], "split": split, "label": rows["label"].to_numpy(np.int64)}
        tables.append(pd.DataFrame({**table, "probability": expit(odds), "log_odds": odds}, index=rows.index))
    return pd.concat(tables), losses
