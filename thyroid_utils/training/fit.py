"""`fit_or_load`: the finished run of a config, trained now where it is not there yet."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.files import atomic_path, remove_temporaries, write_bytes, write_text
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.data import splits
from thyroid_utils.data.table import label_names
from thyroid_utils.training.data import Assembly, SplitData, assemble, split_data
from thyroid_utils.training.ledger import MAPS, MAPS_TENSOR, RECIPE, Run, RunDamaged, find_run, mark_complete, run_hash, run_lock
from thyroid_utils.training.loop import fit_epochs
from thyroid_utils.training.state import (
    State,
    StateDamaged,
    choose_device,
    choose_precision,
    device_name,
    environment_stamp,
    read_state,
    repeatable,
)
from thyroid_utils.training.tasks import SIDES, TASKS, Batches, WriteMaps, in_order, score_batches

# What begins a line of a process of several that is for this one alone.
_PROGRESS, _FAILURE = "\x1eprogress ", "\x1efailure "


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
    with repeatable(device, config.training.deterministic):
        assembly = assemble(config, data, folder, device)
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder)  # of a process that was killed
        write_text(folder / "config.json", config.to_json())
        write_text(folder / "data.json", json.dumps(_described(data, assembly), indent=2))
        bar, total = progress_bar(f"Training {config.model.name}", lines=False) if progress is None else progress, 1

        def tell(done: int, batches: int) -> None:
            nonlocal total
            total = batches
            bar(done, batches)

        state = _kept_state(assembly.resume)
        if state is None or not (state.stopped or state.epoch >= config.training.epochs):
            if config.training.devices > 1:
                fit_on_several(folder, tell)
            else:
                fit_epochs(assembly, state, device, tell)
            state = read_state(assembly.resume)
        bar(total, total)
        _write_results(folder, assembly, data, state, device)
    return mark_complete(folder)


def _kept_state(resume: Path) -> State | None:
    """The state to go on from; a damaged one is told and removed."""
    try:
        return read_state(resume)
    except StateDamaged as damage:
        print(f"{damage}; this run is trained from its beginning", flush=True)
        shutil.rmtree(resume)
        return None


def fit_on_several(folder: Path, progress: Progress) -> None:
    """Train the run of a folder that holds its `config.json`, on as many devices as that says, by DDP in processes of their own.

    This process may be a notebook, which cannot be started again as a script, and may already use a GPU, which it could not
    share with a fork. So a fresh process is started for the epochs, which starts the others; the folder is what passes between
    them, config in, states out, and their output tells of progress and of what stopped them.

    Raises:
        TrainingError: training stopped; the message is that of the process in which it did.
    """
    command = [sys.executable, "-m", "thyroid_utils.training.fit", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    failure = ""
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            for line in process.stdout:
                if line.startswith(_PROGRESS):
                    progress(*map(int, line.split()[1:]))
                elif line.startswith(_FAILURE):
                    failure = failure or line.removeprefix(_FAILURE).strip()
                else:
                    print(line, end="", flush=True)
            process.wait()
        finally:  # leave none of the group behind: one that failed may have left the others waiting for it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise TrainingError(
            failure
            or f"{folder}: a process of the training on several devices ended with code {process.returncode}; "
            "its messages are above; run again to go on, or set training.devices to 1"
        )


def _one_of_several(folder: Path) -> int:
    """What each of the processes does. Returns the exit code."""
    config = Run(folder).config
    device = choose_device(config.training)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # else every process would take memory of the first GPU
    try:
        with repeatable(device, config.training.deterministic):
            assembly = assemble(config, split_data(config), folder, device)
            fit_epochs(assembly, read_state(assembly.resume), device, _tell)
    except (TrainingError, ValueError) as error:
        print(f"{_FAILURE}{error}", flush=True)
        return 1
    return 0


def _tell(done: int, total: int) -> None:
    print(f"{_PROGRESS}{done} {total}", flush=True)


def _end_with_caller() -> None:
    """The calling process holds the other end of the standard input, which all processes share; it closes however that ends."""
    while os.read(0, 1):  # not by sys.stdin, whose lock this thread would hold when Python ends
        pass
    os._exit(1)


def _described(data: SplitData, assembly: Assembly) -> dict[str, Any]:
    kinds = pd.concat([data.cases.assign(kind=kind) for kind in ("all", label_names(data.cases))])
    counted = kinds.groupby(["split", "kind"], sort=False)["patient"].agg(["size", "nunique"])
    return {
        "fingerprint": data.fingerprint,
        "split_hash": data.split_hash,
        "recipe": RECIPE,
        "leaky": bool(data.cases["split_by"].isin(splits.LEAKY).any()),
        "patients": data.patients,
        "sides": {split: {kind: counted.loc[(split, kind)].tolist() for kind in counted.loc[split].index} for split in SIDES},
        "images": {split: len(positions) for split, positions in assembly.positions.items()},
        "left_out": data.left_out,
        "input": list(assembly.input_shape),
        "fitted": assembly.fitted,
        "weights": assembly.network.weights,
    }


def _write_results(folder: Path, assembly: Assembly, data: SplitData, state: State, device: torch.device) -> None:
    training = assembly.config.training
    write_bytes(folder / "weights.safetensors", save({name: tensor.contiguous() for name, tensor in state.best.items()}))
    metrics: dict[str, Any] = {"best_epoch": state.best_epoch, "epochs": state.epoch, "monitor": training.monitor}
    predictions, scores = _predict(folder, assembly, data, state, device)
    stamp = environment_stamp(device_name(device), choose_precision(training.precision, device), training.devices)
    speed = round(state.images / state.seconds, 2) if state.seconds else None
    stamp |= {"seconds": round(state.seconds, 3), "images_per_second": speed}
    write_text(folder / "history.csv", pd.DataFrame(state.history).to_csv(index=False))
    write_text(folder / "predictions.csv", predictions.to_csv())
    write_text(folder / "metrics.json", json.dumps(metrics | scores, indent=2))
    write_text(folder / "environment.json", json.dumps(stamp, indent=2))


def _predict(
    folder: Path, assembly: Assembly, data: SplitData, state: State, device: torch.device
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
            score_batches(network, scores, Batches(assembly.arrays, in_order(positions, config.training.batch_size)), device)
            if not math.isfinite(scores.loss()):
                raise TrainingError(
                    f"{config.model.name}: the loss on {SIDES[split]} is {scores.loss():g} with the weights of epoch "
                    f"{state.best_epoch}; lower optimiser.learning_rate (now {config.optimiser.learning_rate:g})"
                )
            rows = data.cases.iloc[positions]
            table = {"patient": rows["patient"], "split": split, "label": rows["label"], **scores.columns()}
            tables.append(pd.DataFrame(table, index=rows.index))
            metrics[split] = {"loss": scores.loss(), **scores.values(), "images": len(rows)}
    return pd.concat(tables), metrics


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


if __name__ == "__main__":
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.exit(_one_of_several(Path(sys.argv[1])))
