"""What a config asks for and training does: schedules, balance, devices, lines; and what it says when it cannot go on."""

import json
import math
import os
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import training_project
from torch import nn
from training_project import WithAuxiliary, batches_of, elsewhere, forked, one_cache, own_runs, same_results, tiny_config  # noqa: F401  (fixtures of every test here)

from thyroid_utils.common.config import ConfigError, OptimiserConfig, TrainingConfig
from thyroid_utils.common.errors import DataError, TrainingError
from thyroid_utils.common.files import content_key
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.data.readers import load_cases
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models import Architecture
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.losses import CrossEntropy
from thyroid_utils.training import fit
from thyroid_utils.training.data import split_data
from thyroid_utils.training.engine import run_all
from thyroid_utils.training.fit import fit_on_several, fit_or_load
from thyroid_utils.training.ledger import run_hash
from thyroid_utils.training.loop import build_optimiser, build_schedule
from thyroid_utils.training.state import choose_device, choose_precision, read_state
from thyroid_utils.training.tasks import class_weights, epoch_batches


def test_early_stopping_the_best_epoch_and_schedules_by_their_formulas():
    config = tiny_config(training__epochs=30, training__patience=2, optimiser__learning_rate=0.05)
    run = fit_or_load(config)
    losses = run.history["val_loss"].to_numpy()
    assert len(losses) < 30 and run.best_epoch == int(losses.argmin()) + 1
    assert len(losses) == run.best_epoch + 2, "two epochs without a better one"
    for epoch in range(1, len(losses)):
        assert epoch - (losses[:epoch].argmin() + 1) < 2, "not later than it should have"
    rate, epochs = 0.01, 4
    cosine = fit_or_load(tiny_config(training__epochs=epochs, optimiser__schedule="cosine")).history["learning_rate"]
    assert np.allclose(cosine, [rate * (1 + math.cos(math.pi * number / epochs)) / 2 for number in range(epochs)])
    config = tiny_config(training__epochs=epochs, optimiser__schedule="one_cycle")
    cycle = fit_or_load(config).history["learning_rate"]
    assert cycle.iloc[-1] == pytest.approx(rate / 25 / 1e4, rel=1e-3) and cycle.idxmax() in (1, 2) and cycle.max() <= rate
    optimiser = build_optimiser(OptimiserConfig(learning_rate=0.01), [nn.Parameter(torch.zeros(1))])
    schedule = build_schedule(OptimiserConfig(schedule="plateau"), optimiser, 10, 5, "max")
    rates = []
    for value in (0.5, 0.6, 0.6, 0.6, 0.6, 0.7):
        schedule.step(value)
        rates.append(optimiser.param_groups[0]["lr"])
    assert np.allclose(rates, [0.01] * 4 + [0.001] * 2)


def test_classes_are_balanced_by_weights_in_the_loss_or_by_sampling():
    assert class_weights(np.array([0, 0, 0, 1])).tolist() == pytest.approx([4 / 6, 4 / 2])
    config = tiny_config(training__epochs=1, training__class_balance="weights")
    run, data = fit_or_load(config), split_data(config)
    train = data.cases.loc[data.cases["split"] == "train", "label"].to_numpy(int)
    weights = len(train) / (2 * np.bincount(train))
    rows = run.predictions[run.predictions["split"] == "val"]
    losses = -np.log(np.where(rows["label"] == 1, rows["probability"], 1 - rows["probability"]))
    expected = (losses * weights[rows["label"]]).sum() / weights[rows["label"]].sum()
    assert run.metrics["val"]["loss"] == pytest.approx(expected, rel=1e-5)
    labels = np.array([0] * 90 + [1] * 10)
    parts = epoch(range(100), labels, balance="sampling", batch_size=100)
    many = np.concatenate([epoch(range(100), labels, balance="sampling", epoch=number)[0] for number in range(300)])
    assert len(parts[0]) == 100 and abs(labels[many].mean() - 0.5) < 0.05  # 1200 draws: standard error 0.014


def epoch(positions, labels, *, seed=0, epoch=1, batch_size=4, balance="none", devices=1):
    return epoch_batches(
        np.asarray(positions), np.asarray(labels), batch_size=batch_size, seed=seed, epoch=epoch, balance=balance, devices=devices
    )


@pytest.mark.parametrize(
    "images, devices, sizes", [(12, 1, [4, 4, 4]), (9, 1, [4, 4]), (10, 1, [4, 4, 2]), (3, 1, [3]), (11, 2, [4, 4])]
)
def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(images, devices, sizes):
    """A last batch of one is left out."""
    positions = np.arange(10, 10 + images)
    parts = epoch(positions, positions % 2, devices=devices)
    shown = np.concatenate(parts)
    assert [len(part) for part in parts] == sizes and len(set(shown)) == sum(sizes) and set(shown) <= set(positions)
    assert np.array_equal(np.concatenate(epoch(positions, positions % 2, devices=devices)), shown)
    others = [epoch(positions, positions % 2, devices=devices, epoch=number, seed=number) for number in range(2, 6)]
    assert any(np.concatenate(other).tolist() != shown.tolist() for other in others)


def test_devices_and_precision_with_bf16_where_it_is_asked_for(monkeypatch):
    full, half = (fit_or_load(tiny_config(training__epochs=1, training__precision=kind)) for kind in ("auto", "bf16"))
    assert half.environment["precision"] == "bf16-mixed" and half.name != full.name
    difference = (half.history["train_loss"] - full.history["train_loss"]).abs().iloc[0]
    assert 0 < difference < 0.05  # eight bits of mantissa: 0.4 % a number
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(TrainingConfig()).type == "cpu"
    with pytest.raises(ConfigError, match=r"training\.device must be auto or cpu on a machine without a GPU"):
        choose_device(TrainingConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(TrainingConfig(devices=2)).type == "cuda" and choose_device(TrainingConfig(device="cpu")).type == "cpu"
    with pytest.raises(ConfigError, match=r"training\.devices must be a whole number from 1 to 2, the GPUs here; found 4"):
        choose_device(TrainingConfig(devices=4))
    for has_bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has_bf16: has)
        assert choose_precision("auto", torch.device("cuda")) == expected
    assert choose_precision("auto", torch.device("cpu")) == "32-true"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16-mixed"


def test_an_auxiliary_head_is_weighed_into_the_loss(monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "tiny", Architecture(WithAuxiliary, minimum=16))
    seen = []

    class Spy(CrossEntropy):
        def forward(self, logits, labels):
            loss = super().forward(logits, labels)
            seen.append((torch.is_grad_enabled(), float(loss.detach())))
            return loss

    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Spy())
    config = tiny_config(training__epochs=1, training__batch_size=64)  # one batch: the epoch's loss is that batch's
    run = fit_or_load(config)
    auxiliary, main = [loss for training, loss in seen if training][:2]
    assert run.history["train_loss"].iloc[0] == pytest.approx(main + 0.4 * auxiliary, rel=1e-6)


def test_a_report_gets_a_line_an_epoch_and_no_bar_and_progress_counts_up(capsys):
    seen = []
    run = fit_or_load(tiny_config(), lambda done, total: seen.append((done, total)))
    total = 3 * batches_of(tiny_config())
    assert [done for done, _ in seen[:-1]] == [*range(1, total), total - 1] and seen[-1] == (total, total)
    out, err = capsys.readouterr()
    row, lines = run.history.loc[2], out.splitlines()
    assert len(lines) == 3 and err == ""
    assert lines[1].startswith(f"tiny, seed 0: epoch 2 of 3: loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}")


def test_a_terminal_gets_one_bar_and_no_lines(monkeypatch, capfd):
    monkeypatch.delenv("THYROID_REPORT_DIR")
    fit_or_load(tiny_config(training__epochs=1))
    out, err = capfd.readouterr()
    assert out == "" and "Training tiny" in err and "Warning" not in err and "rank" not in err


def same_split(one, other) -> None:
    pd.testing.assert_frame_equal(one.cases, other.cases)
    assert (one.fingerprint, one.split_hash) == (other.fingerprint, other.split_hash)


@pytest.mark.parametrize("by", ["patient", "official"])
def test_an_edited_record_of_a_split_is_not_believed(by, monkeypatch, tmp_path):
    training_project.with_cases(monkeypatch, split_data(tiny_config()).cases)
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    config = tiny_config(split__by=by)
    first = split_data(config)
    (record,) = (tmp_path / "splits").iterdir()
    whole, content = record.read_bytes(), json.loads(record.read_bytes())
    tested = first.cases[first.cases["split"] == "test"]
    place = first.cases.index.get_loc(tested.index[tested["patient"].duplicated()][0])
    content["value"]["splits"][0][place] = "train"  # one of two images of a test patient
    record.write_text(json.dumps(content))
    same_split(split_data(config), first)
    assert record.read_bytes() == whole
    record.write_text(json.dumps({**content, "sha256": content_key(content["value"])}))
    with pytest.raises(DataError, match="patient"):
        split_data(config)


def test_two_processes_train_one_run_by_ddp_and_end_with_a_killed_caller(monkeypatch, capfd):
    """Two CPU processes with gloo; a small network of timm's, which fresh processes know too. The run is taken up by two others.

    The mean of two halves' gradients is the gradient of the whole, so it is the training of one process up to rounding.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = {"model": {"name": "timm:test_vit"}, "size": 160, "training__epochs": 3, "optimiser__learning_rate": 1e-4}
    config = tiny_config(**changes, training__devices=2)
    assert len(split_data(config).positions("train")) % 4 == 1, "so that one process leaves out the last batch as well"
    caller = forked(lambda: fit_or_load(config))
    try:
        until = time.monotonic() + 120
        while not (begun := list(runs_dir().glob("*/resume/state.pt"))) and time.monotonic() < until:
            time.sleep(0.02)
        processes = psutil.Process(caller).children(recursive=True)
        # Someone still reads what they print, so that no broken pipe ends them.
        reader = os.open(f"/proc/{psutil.Process(caller).children()[0].pid}/fd/1", os.O_RDONLY)
    finally:
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
    gone, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    os.close(reader)
    assert begun and len(gone) == 2 and not alive
    run = fit_or_load(config)
    assert "epoch 3 of 3" in capfd.readouterr().out and run.environment["devices"] == 2
    alone = fit_or_load(tiny_config(**changes))
    assert alone.name != run.name and np.allclose(run.history, alone.history, rtol=1e-2)


def test_several_devices_are_told_from_outside_and_each_chooses_its_own_first(monkeypatch, tmp_path, capsys):
    """What the calling process makes of lines, failures and deaths of the processes that train."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\nprintf "epoch 1\\n\\x1eprogress 3 8\\n"\n'
        'case "$3" in *told) printf "\\x1efailure the loss is nan\\n"; exit 1;; *dead) kill -9 $$;; esac\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    seen = []
    fit_on_several(tmp_path / "fine", lambda *numbers: seen.append(numbers))
    assert seen == [(3, 8)] and capsys.readouterr().out == "epoch 1\n"
    with pytest.raises(TrainingError, match=r"^the loss is nan$"):
        fit_on_several(tmp_path / "told", lambda *_: None)
    with pytest.raises(TrainingError, match=r"ended with code -9; .* run again to go on, or set training.devices to 1"):
        fit_on_several(tmp_path / "dead", lambda *_: None)
    (tmp_path / "config.json").write_text(tiny_config(size=12).to_json())
    assert fit._one_of_several(tmp_path) == 1
    assert "\x1efailure tiny: images of 12×12 pixels are too small" in capsys.readouterr().out
    order = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(fit, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(fit, "repeatable", lambda *_: order.append("repeatable") or nullcontext())
    monkeypatch.setattr(torch.cuda, "set_device", order.append)
    assert fit._one_of_several(tmp_path) == 1 and order == [3, "repeatable"]


def test_permuted_labels_are_trainings_alone_and_the_split_is_remembered(monkeypatch):
    plain, noise = tiny_config(), tiny_config(data__permute_labels=3)
    told, found = split_data(plain), split_data(noise)
    train = told.cases["split"].eq("train").to_numpy(bool)
    labels, permuted = told.cases["label"], found.cases["label"]
    assert (told.fingerprint, told.split_hash) == (found.fingerprint, found.split_hash)
    assert permuted[~train].equals(labels[~train]) and sorted(permuted[train]) == sorted(labels[train])
    assert not permuted[train].equals(labels[train]) and split_data(noise).cases["label"].equals(permuted)
    assert run_hash(plain, "", "") != run_hash(noise, "", "")
    config = tiny_config()
    first = split_data(config)
    with monkeypatch.context() as patch:
        patch.setattr("thyroid_utils.training.data.data_fingerprint", lambda _: pytest.fail("read again"))
        same_split(split_data(config), first)
        with pytest.raises(pytest.fail.Exception, match="read again"):
            split_data(tiny_config(split__seed=1))
    training_project.with_cases(monkeypatch, load_cases("phantom", **config.data.options).iloc[::-1])
    same_split(split_data(config), first)  # rows in another order are the same data


@pytest.mark.parametrize(
    ("made", "lacking", "told"),
    [
        (tiny_config, {"label": [0, 1, 2]}, "has a label"),
        (training_project.segmentation_config, {"mask": [0, 1]}, "has a mask; add masks"),
        (training_project.joint_config, {"label": [0], "mask": [5]}, "has both a label .* and a mask"),
    ],
)
def test_cases_without_a_truth_are_left_out_and_counted(made, lacking, told, monkeypatch):
    config = made(training__epochs=1)
    cases = load_cases("phantom", **config.data.options)
    for column, rows in lacking.items():
        cases.loc[cases.index[rows], column] = pd.NA
    without = cases.index[sorted({row for rows in lacking.values() for row in rows})]
    if made is training_project.segmentation_config:
        cases["label"] = cases["label"].where(np.arange(len(cases)) % 3 > 0)  # which a segmenter does not need
    training_project.with_cases(monkeypatch, cases)
    run = fit_or_load(config)
    assert run.data["left_out"] == len(without) and sum(run.data["images"].values()) == len(cases) - len(without)
    assert not set(Predictor(run).cases.index) & set(without)
    labels = run.predictions["label"]
    assert labels.isna().equals(cases.loc[labels.index, "label"].isna())
    assert labels.isna().any() == (labels.dtype == "Int8") == (made is training_project.segmentation_config)
    training_project.with_cases(
        monkeypatch, cases.assign(**{column: cases[column].mask(cases[column].notna()) for column in lacking})
    )
    with pytest.raises(DataError, match=rf"phantom: none of {len(cases)} cases {told}"):
        fit_or_load(config)


@pytest.mark.parametrize("split, side", [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_side_that_is_empty_or_of_one_class_is_refused(split, side, monkeypatch):
    config = tiny_config(split__by="official")
    cases = split_data(tiny_config()).cases.copy()
    for label, name in enumerate(("benign", "malignant")):
        cases.loc[cases["split"] == split, "label"] = label
        training_project.with_cases(monkeypatch, cases)
        with pytest.raises(DataError, match=rf"split: all \d+ {side} images are {name}; .* each need both classes"):
            fit_or_load(config)
    training_project.with_cases(monkeypatch, cases[cases["split"] != split])
    with pytest.raises(DataError, match=f"split: no {side} images"):
        fit_or_load(config)
    assert not runs_dir().exists(), "nothing was begun"


def test_a_table_without_patients_is_split_by_what_belongs_together(tmp_path, monkeypatch):
    """A manifest with images and labels alone: copies of an image stand for a patient, and the run says so."""
    cases = load_cases("phantom", **tiny_config().data.options)
    for path in cases["image"]:
        shutil.copy(path, tmp_path)
    manifest = tmp_path / "manifest.csv"
    pd.DataFrame({"image": [Path(path).name for path in cases["image"]], "label": cases["label"]}).to_csv(manifest, index=False)
    changes = {"data": {"dataset": "manifest", "root": manifest}, "training__epochs": 1}
    run, data = fit_or_load(tiny_config(**changes)), split_data(tiny_config(**changes))
    said = f"not given for {len(cases)} images; in their place {data.cases['patient'].nunique()} clusters of near-identical"
    assert run.data["patients"].startswith(said) and not run.data["leaky"]
    assert data.cases["patient"].str.fullmatch(r"manifest-cluster-\d+").all()
    monkeypatch.setattr("thyroid_utils.training.data.audit_cases", lambda *_, **__: pytest.fail("audited again"))
    again = split_data(tiny_config(**changes))
    pd.testing.assert_frame_equal(again.cases, data.cases)
    assert (again.patients, again.fingerprint, again.split_hash) == (data.patients, data.fingerprint, data.split_hash)
    run = fit_or_load(tiny_config(**changes, split__by="image"))
    assert run.data["leaky"] and np.isfinite(run.metrics["test"]["auc"])
    assert (
        run.data["patients"] == f"not given for {len(cases)} of {len(cases)} images, each of which counts as a patient of its own"
    )


def test_a_batch_of_one_trains_a_network_without_batch_normalisation(monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "tiny", Architecture(WithAuxiliary, minimum=16))
    run = fit_or_load(tiny_config(training__epochs=1, training__batch_size=1))
    assert np.isfinite(run.history["val_loss"]).all()


SIZES = [
    ({"training__devices": 2}, "batch_size must be smaller, as no batch is filled by 13 .* for 2 devices; found 64"),
    ({"optimiser__schedule": "one_cycle", "training__epochs": 1}, "schedule must not be one_cycle for a training of one step"),
]


@pytest.mark.parametrize("changes, message", SIZES, ids=["batches larger than the set", "a cycle of one step"])
def test_sizes_that_do_not_go_together_are_told_before_anything_is_preprocessed(changes, message, monkeypatch):
    monkeypatch.setattr("thyroid_utils.training.data.preprocessed", lambda *_: pytest.fail("preprocessed"))
    for train in (fit_or_load, lambda config: run_all([config])):
        with pytest.raises(ConfigError, match=message):
            train(tiny_config(**changes, training__batch_size=64))
    assert not list(runs_dir().glob("*/config.json"))


class Failing(CrossEntropy):
    """Goes wrong at a call: from `after` training batches on the loss is no number, or memory is out."""

    def __init__(self, after: int, error: Exception | None = None, validation: bool = False):
        super().__init__()
        self.left, self.error, self.validation = after, error, validation

    def forward(self, logits, labels):
        loss = super().forward(logits, labels)
        if torch.is_grad_enabled() == self.validation:
            return loss
        self.left -= 1
        if self.left >= 0:
            return loss
        if self.error is not None:
            raise self.error
        return loss * float("nan")


def test_a_loss_that_is_no_number_stops_and_the_last_good_epoch_is_kept(monkeypatch, tmp_path):
    config = tiny_config()
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Failing(batches_of(config) + 1))
        with pytest.raises(TrainingError) as caught:
            fit_or_load(config)
    folder = tmp_path / "other" / straight.name
    assert str(caught.value) == (
        f"tiny: the loss is nan in epoch 2, batch 2; epoch 1 is kept in {folder / 'resume'}; "
        "lower optimiser.learning_rate (now 0.01), or set optimiser.clip_norm (for example 1)"
    )
    assert read_state(folder / "resume").epoch == 1
    same_results(straight.folder, fit_or_load(config).folder)


def test_a_validation_loss_that_is_no_number_stops_and_another_error_stays_what_it_is(monkeypatch):
    failing = Failing(0, validation=True)
    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: failing)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, validation; no epoch was finished"):
        fit_or_load(tiny_config())
    failing = Failing(1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        fit_or_load(tiny_config())


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_says_what_to_lower(error, monkeypatch):
    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Failing(1, error))
    with pytest.raises(TrainingError) as caught:
        fit_or_load(tiny_config())
    assert str(caught.value) == (
        "tiny: out of memory in epoch 1 with batches of 4 images of 64×64; "
        "lower training.batch_size (to 2) or size, or choose precision bf16; what was trained so far is kept"
    )
