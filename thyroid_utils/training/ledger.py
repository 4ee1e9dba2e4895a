"""The ledger of training runs: a folder a run, named by everything that decides its result.

| file | holds |
|---|---|
| `config.json` | the config, every field |
| `data.json` | fingerprint of the data, hash of the split, where the patients come from, images a split, recipe, input |
| `history.csv` | a row an epoch |
| `weights.safetensors` | the weights of the best epoch |
| `predictions.csv` | every validation and test image |
| `maps.safetensors` | probability maps (segmentation, joint), in the order of `predictions.csv` |
| `metrics.json` | loss and AUC, Dice and IoU, or all of these, on validation and test |
| `environment.json` | versions, device, threads, commit, time |
| `complete.json` | written last: the SHA-256 of each file above (`common.files.seal`) |

The name leaves out what says where or how, not what: the data's folder and the device (`environment.json` tells). A run on a
GPU and the same on a CPU are one run, made once.
While it is being trained a folder has `resume/` instead of the mark; locks lie in `.locks/` beside the runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from thyroid_utils.common import paths
from thyroid_utils.common.config import NOT_IN_NAMES, ConfigError, RunConfig
from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.common.files import MARK, broken_seal, content_key, file_hash, seal, write_text
from thyroid_utils.common.words import listed

if TYPE_CHECKING:
    import torch

RUN_FILES = ("config.json", "data.json", "history.csv", "weights.safetensors", "predictions.csv", "metrics.json",
             "environment.json")  # fmt: skip
MAPS = "maps.safetensors"  # of segmentation and joint runs
MAPS_TENSOR = "maps"
NAMED = "as the data set names them"  # patients of a run's data
SHORT = 8  # digits of a run's name that people are shown; any beginning that fits one run is understood
RESUME = "resume"
STATE = "state.pt"  # in it: where training stands
# Raised by hand where a change to networks, losses, training or preprocessing moves the numbers of a run; the runs in
# `tests/test_pinned_numbers.py` notice one. Docstrings, names and moves leave it alone. Versions of libraries are not in a run's
# name either: an update of PyTorch would train every finished run anew for a last digit; `environment.json` names them.
RECIPE = 2


class RunBusy(RuntimeError):
    """Another process is training this run."""


class RunDamaged(RuntimeError):
    """A file of a finished run is missing or is not what was written."""


def identity(config: RunConfig) -> dict[str, Any]:
    """The part of a config that decides the result, as plain values. A weights file counts by its bytes.

    Raises:
        ConfigError: a weights file that cannot be read.
    """
    values = config.model_dump(mode="json")
    del values["data"]["root"]
    for name in NOT_IN_NAMES:
        del values["training"][name]
    if not config.split.folds:  # the name of a run of one split does not depend on what only folds have
        del values["split"]["folds"], values["split"]["fold"]
    if config.split.leak is None:
        del values["split"]["leak"]
    if config.model.weights not in ("none", "imagenet"):
        path = paths.resolve_in_project(config.model.weights)
        try:
            values["model"]["weights"] = file_hash(path)
        except OSError as error:
            problem = f"must be imagenet, none or a file; {path} cannot be read ({error.strerror})"
            raise ConfigError("model.weights", problem) from None
    return values


def run_hash(config: RunConfig, fingerprint: str, split_hash: str) -> str:
    """The name of a run: 32 hexadecimal digits over config, data, split, `RECIPE` and the network's own code.

    Args:
        config: what is to be trained.
        fingerprint: of the data (`data.data_fingerprint`).
        split_hash: of the split (`data.split_hash`).
    """
    from thyroid_utils.models.networks import network_source  # with torch, which reading the ledger does not need

    return content_key(identity(config), fingerprint, split_hash, RECIPE, network_source(config.model.name))


class Run:
    """A finished run, read from its folder as it is asked. Made by `find_run` and `fit_or_load`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({self.name}: {self.config.model.name}, seed {self.config.seed})"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def folds(self) -> tuple[Run, ...]:
        """The runs that its test predictions are from: itself, as `folds.FoldedRun` has several."""
        return (self,)

    def of_case(self, case: str) -> Run:
        """The one of `folds` that tests a case."""
        return self

    @cached_property
    def config(self) -> RunConfig:
        return RunConfig(**self._json("config.json"))

    @cached_property
    def data(self) -> dict[str, Any]:
        """`fingerprint`, `split_hash`, `recipe`, `leaky`, `patients` (where they come from, as a phrase), `images` a split,
        `sides` (split → "all" and each class → number of images, of patients; not in older runs), `left_out` (cases without the
        label or mask that the task needs), `input` (channels, height, width), `weights` it started from."""
        return self._json("data.json")

    @cached_property
    def history(self) -> pd.DataFrame:
        """Index `epoch` (from 1): learning_rate, train_loss, val_loss and val_auc, or val_dice, val_iou and val_pixel_accuracy,
        or all of these (joint).

        Dice and IoU are means over the images with a nodule in truth or prediction (a false alarm scores 0), pixel accuracy,
        (TP + TN) / all, over all images; all in [0, 1] and at the network's resolution."""
        return _read_csv(self.folder / "history.csv").set_index("epoch")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Index `case`: patient, split ("val" or "test"), label (0 or 1) and, by the best weights, probability (of malignant) and
        log_odds (its logit, which does not saturate). Of a segmenter: label (Int8, may be <NA>), true_positives, false_positives,
        false_negatives and true_negatives: pixels at the network's resolution, called nodule from a probability of 0.5. A joint
        run has the columns of both."""
        types = {"case": "string", "patient": "string", "split": "string"}
        if self.config.task != "segmentation":  # every case has a label
            return _read_csv(self.folder / "predictions.csv", **types).set_index("case")
        table = _read_csv(self.folder / "predictions.csv", label="string", **types).set_index("case")
        return table.assign(label=pd.to_numeric(table["label"].replace("", pd.NA)).astype("Int8"))

    def maps(self, split: str = "test", cases: Sequence[str] | None = None) -> tuple[pd.Index, np.ndarray]:
        """Probability maps of a segmentation or joint run, at the network's resolution.

        Args:
            split: "val" or "test".
            cases: only these, in this order; None takes all of the split. Only what is asked for is read.

        Returns:
            case ids (n,), and float32 (n, height, width) in [0, 1], in steps of 1/255 and with the same pixels at or above 0.5 as
            were counted in `predictions`.

        Raises:
            ValueError: a classifier's run, or another split.
            KeyError: a case that is not in the split.
        """
        from safetensors import safe_open

        if MAPS not in run_files(self.config) or split not in ("val", "test"):
            raise ValueError(f"run {self.name}: maps are kept of segmentation runs, for val and test; asked for {split!r}")
        rows = np.flatnonzero(self.predictions["split"].eq(split).to_numpy(bool))  # one run of rows, as they were written
        names = self.predictions.index[rows]
        with safe_open(self.folder / MAPS, framework="numpy") as file:
            kept = file.get_slice(MAPS_TENSOR)
            places = names.get_indexer_for(names if cases is None else cases)
            if (places < 0).any():
                raise KeyError(f"run {self.name}: not all of {list(cases)} are of {split}")
            maps = np.concatenate([kept[at : at + 1] for at in rows[places].tolist()])
        return names[places], maps.astype(np.float32) / np.float32(255)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`best_epoch`, `epochs` trained, and for `val` and `test`: loss (the one trained with), images, and log_loss and auc, or
        dice, iou and pixel_accuracy as in `history`, or all of them (joint), with `scored`, the number of images that dice and
        iou are means over: all but those that are empty in truth and prediction."""
        return self._json("metrics.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device, precision, threads, commit and whether by deterministic algorithms, that the run was finished with,
        seconds of training and images per second."""
        return self._json("environment.json")

    @cached_property
    def hashes(self) -> dict[str, str]:
        """File → SHA-256 of its bytes, as they were when the run had finished."""
        return {name: entry["sha256"] for name, entry in self._json(MARK)["files"].items()}

    @property
    def best_epoch(self) -> int:
        return int(self.metrics["best_epoch"])

    def load_model(self) -> torch.nn.Module:
        """The network with the weights of the best epoch, on the CPU and in evaluation mode."""
        from safetensors.torch import load_file

        from thyroid_utils.training.tasks import TASKS

        network = TASKS[self.config.task].network(self.config, self.data["input"][0], "none")
        network.load_state_dict(load_file(self.folder / "weights.safetensors"))
        return network.eval()

    def check(self) -> None:
        """Raise RunDamaged, naming the file, unless every file is the one that was written."""
        problem = broken_seal(self.folder)
        if problem is None:
            mark = self._json(MARK)
            # By the names first: without its config a folder of other files cannot tell what it should hold.
            known = set(mark["files"]) >= set(RUN_FILES) and set(mark["files"]) == set(run_files(self.config))
            problem = None if known and mark.get("run") == self.name else f"{MARK} belongs to another run"
        if problem is not None:
            raise RunDamaged(f"run {self.name}: {problem}")

    def _json(self, file: str) -> dict[str, Any]:
        return json.loads((self.folder / file).read_text(encoding="utf-8"))


def run_files(config: RunConfig) -> tuple[str, ...]:
    """The files of a finished run, beside its mark."""
    return RUN_FILES if config.task == "classification" else (*RUN_FILES, MAPS)


def _read_csv(path: Path, **types: str) -> pd.DataFrame:
    """By the Python parser, whose numbers are those that were written in every version of pandas."""
    return pd.read_csv(path, dtype=types, engine="python", keep_default_na=False)


def mark_complete(folder: Path) -> Run:
    """Write the mark of a run whose files are all there; what was kept to resume it goes before."""
    run = Run(folder)
    shutil.rmtree(folder / RESUME, ignore_errors=True)
    seal(folder, run_files(run.config), run=run.name)
    return run


def runs_that_begin(name: str) -> list[Run]:
    """The runs, finished or not, whose names begin so: the command `runs list` shows as much of a name as tells it apart."""
    found = [Run(path) for path in _folders() if name and path.name.startswith(name)]
    return [run for run in found if run.name == name] or found


def find_run(name: str) -> Run | None:
    """The finished run of that name, or the only one whose name begins so; None where there is none.

    Raises:
        ParameterError: several runs begin so.
        RunDamaged: it is there and damaged; the message names the file.
    """
    fitting = runs_that_begin(name)
    if len(fitting) > 1:
        raise ParameterError(f"run {name}: {len(fitting)} runs begin so: {listed(run.name for run in fitting)}")
    if not fitting or not (fitting[0].folder / MARK).exists():
        return None
    fitting[0].check()
    return fitting[0]


@contextmanager
def run_lock(name: str, wait: bool = True) -> Iterator[None]:
    """Hold a run for oneself; having to wait is told. The operating system lets go when the process ends, however it ends.

    Raises:
        RunBusy: another process holds it and `wait` is false.
        RunError: the ledger cannot be written, or was removed while the lock was held.
    """
    ledger = paths.runs_dir()
    lock = FileLock(ledger / ".locks" / f"{name}.lock")
    try:
        with _keeping():
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise RunBusy(f"run {name}: another process is training it; wait for it or go on with the next") from None
        print(f"run {name}: another process is training it; waiting", flush=True)
        lock.acquire()
    try:
        yield
    except FileNotFoundError as error:
        if (ledger / ".locks").is_dir():
            raise
        told = f"{ledger}: the folder of the runs was removed while run {name} was trained ({error.filename})"
        raise RunError(f"{told}; leave it in place and run again") from None
    finally:
        lock.release()


def check_ledger() -> None:
    """Make the folder of the runs. Raises RunError where nothing can be written to it."""
    with _keeping():
        write_text(paths.runs_dir() / ".locks" / "written", "").unlink()


@contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        told = f"{paths.runs_dir()}: trained runs cannot be kept there ({error.strerror})"
        raise RunError(f"{told}; set THYROID_WORKBOOK_RUNS to a folder that can be written") from None


_LISTED = ["run", "state", "task", "model", "weights", "loss", "dataset", "preprocessing", "seed", "epochs", "best_epoch",
           "score", "val_score", "test_score", "code", "megabytes", "note"]  # fmt: skip
_SCORES = {"classification": ("auc", "AUC"), "segmentation": ("dice", "Dice"), "joint": ("dice", "Dice")}


def list_runs() -> pd.DataFrame:
    """Every run that is there, the newest first.

    Returns:
        index `run` (the folder's name); `state`: "finished", "training" (by another process), "unfinished" (resumed when it is
        asked for again) or "damaged"; task, model, weights, loss, dataset; preprocessing, a preset or "own steps"; seed; `epochs`
        trained; best_epoch; `score` ("AUC" or "Dice") and its value on validation and test, `val_score` and `test_score` (NaN
        where not finished); `code`: "current", or "older" where `RECIPE` has been raised since and the run will not be used
        again; megabytes; `note`: what is wrong with a damaged one, or that the split leaks.
    """
    rows = [row for folder in _folders() if (row := _listed(folder)) is not None]
    rows.sort(key=lambda row: row["changed"], reverse=True)
    return pd.DataFrame(rows, columns=_LISTED).set_index("run")


def _folders() -> list[Path]:
    return sorted(path for path in paths.runs_dir().glob("[!.]*") if path.is_dir())


def _listed(folder: Path, held: bool = False) -> dict[str, Any] | None:
    """The row of a run; None where others have removed it. held: this process holds its lock, so that no other one trains it."""
    run, finished = Run(folder), (folder / MARK).exists()
    busy = not finished and not held and _is_busy(run.name)
    state = "finished" if finished else "training" if busy else "unfinished"
    row: dict[str, Any] = {"run": run.name, "note": "", "megabytes": _megabytes(folder), "state": state}
    try:
        row["changed"] = folder.stat().st_mtime
        config = run.config
        score, row["score"] = _SCORES[config.task]
        row |= {"task": config.task, "model": config.model.name, "weights": config.model.weights, "loss": config.loss.name}
        prepared = config.preprocessing if isinstance(config.preprocessing, str) else "own steps"
        row |= {"dataset": config.data.dataset, "preprocessing": prepared, "seed": config.seed}
        row["code"] = "current" if run.data["recipe"] == RECIPE else "older"
        row["note"] = "its split leaks" if run.data.get("leaky") else ""
        if not finished:
            return row | {"epochs": _epochs_so_far(folder)}
        run.check()
        metrics = run.metrics
        row |= {"epochs": metrics["epochs"], "best_epoch": metrics["best_epoch"]}
        return row | {"val_score": metrics["val"][score], "test_score": metrics["test"][score]}
    except (RunDamaged, OSError, ValueError, KeyError, TypeError) as error:
        if not folder.is_dir():
            return None
        if busy:  # its first files are being written
            return row
        note = str(error) if isinstance(error, RunDamaged) else f"run {run.name}: cannot be read"
        return row | {"state": "damaged", "note": note}


def _megabytes(folder: Path) -> float:
    """Of the files below a folder; those that a training process replaces meanwhile do not count."""
    size = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                size += os.stat(os.path.join(parent, file)).st_size
    return size / 1e6


def _epochs_so_far(folder: Path) -> int:
    try:
        with (folder / RESUME / STATE).open("rb") as stream:
            return int(json.loads(stream.readline())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _is_busy(name: str) -> bool:
    try:
        with run_lock(name, wait=False):
            return False
    except RunBusy:
        return True
    except RunError:  # a ledger that is only read
        return False


def prune_runs(*, unfinished: bool = False, outdated: bool = False, dry_run: bool = False) -> list[str]:
    """Remove runs that are of no use: damaged ones, and what else is named. A run being trained is never touched.

    Args:
        unfinished: also runs that could be resumed.
        outdated: also runs made by another version of the code, which are not used again.
        dry_run: remove nothing.

    Returns:
        names of the runs removed, or that would be.
    """
    chosen = []
    for folder in _folders():
        with suppress(RunBusy), run_lock(folder.name, wait=False):
            row = _listed(folder, held=True)
            if row is None:
                continue
            useless = row["state"] == "damaged" or (unfinished and row["state"] == "unfinished")
            if useless or (outdated and row.get("code") == "older"):
                chosen.append(folder.name)
                if not dry_run:
                    shutil.rmtree(folder)
    return chosen
