"""Training: what a run holds, that it is repeatable and resumed exactly, and what damage does."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from training_fixtures import one_cache, own_runs  # noqa: F401  (fixtures of every test here)
from training_project import Killed, batches_of, elsewhere, killed_at, same_results, tiny_config

from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.training.checkpoint import read_checkpoint
from thyroid_utils.training.data import Arrays, open_arrays, split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import runs_dir

# A finished run


def test_a_run_holds_what_it_should():
    config = tiny_config(training__epochs=4)
    run = fit_or_load(config)
    data = split_data(config)
    assert run.config == config and run.data["fingerprint"] == data.fingerprint and run.data["split_hash"] == data.split_hash
    assert run.data["input"] == [3, 64, 64] and run.data["weights"] == "from scratch" and not run.data["leaky"]
    assert list(run.history.index) == [1, 2, 3, 4] and (run.history["learning_rate"] == 0.01).all()
    assert run.best_epoch == run.history["val_loss"].idxmin()
    held = data.cases[data.cases["split"].isin(["val", "test"])]
    assert sorted(run.predictions.index) == list(held.index)
    joined = run.predictions.loc[held.index]
    assert (joined["label"] == held["label"]).all() and (joined["patient"] == held["patient"]).all()
    assert (joined["split"] == held["split"]).all()
    assert run.environment["device"] == "cpu" and run.environment["threads"] == 1
    assert run.environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(os.listdir(run.folder)) == {
        "config.json", "data.json", "history.csv", "weights.safetensors", "predictions.csv", "metrics.json", "environment.json",
        "complete.json",
    }  # fmt: skip


def test_predictions_metrics_and_history_are_those_of_the_best_weights():
    """Computed anew from the weights file, image by image, without the training's own batches."""
    config = tiny_config(training__epochs=4)
    run, data = fit_or_load(config), split_data(config)
    pipeline, network = build_pipeline("paper_001", 64).fit(data.cases), run.load_model()
    assert not network.training
    for split in ("val", "test"):
        rows = data.cases[data.cases["split"] == split]
        images = torch.stack([torch.from_numpy(pipeline.load(row).image) for _, row in rows.iterrows()])
        with torch.inference_mode():
            logits = network(images)
        probabilities = logits.softmax(1)[:, 1].numpy()
        predicted = run.predictions.loc[rows.index]
        assert np.allclose(predicted["probability"], probabilities, atol=1e-6)
        labels = rows["label"].to_numpy(int)
        assert run.metrics[split]["auc"] == roc_auc_score(labels, predicted["probability"])
        by_hand = -np.log(np.where(labels == 1, probabilities, 1 - probabilities)).mean()
        assert run.metrics[split]["loss"] == pytest.approx(by_hand, rel=1e-5)
        assert run.metrics[split]["log_loss"] == pytest.approx(by_hand, rel=1e-5)
    best = run.history.loc[run.best_epoch]
    assert best["val_loss"] == run.metrics["val"]["loss"] and best["val_auc"] == run.metrics["val"]["auc"]


def test_a_finished_run_is_loaded_and_not_trained(monkeypatch):
    first = fit_or_load(tiny_config())
    monkeypatch.setattr("thyroid_utils.training.fit.assemble", lambda *_: pytest.fail("trained again"))
    again = fit_or_load(tiny_config(training__channels_last=False))  # decides how fast, not what
    assert again.folder == first.folder and again.metrics == first.metrics


def test_the_same_run_twice_is_the_same_to_the_last_bit(monkeypatch, tmp_path):
    one = fit_or_load(tiny_config())
    elsewhere(monkeypatch, tmp_path / "other")
    torch.manual_seed(123)  # whatever was drawn before does not count
    same_results(one.folder, fit_or_load(tiny_config()).folder)


def test_another_seed_is_another_run():
    one, other = fit_or_load(tiny_config()), fit_or_load(tiny_config(seed=1))
    assert one.name != other.name and not one.history.equals(other.history)


def test_it_learns():
    """Bright against dark discs on noise: a network that trains at all tells them apart on patients it has not seen."""
    config = tiny_config(
        data={"options": {"patients": 40, "size": 64, "views": [1, 2], "malignant_share": 0.5}}, training__epochs=1
    )
    data = split_data(config)
    store = open_arrays(config, data.cases)
    arrays = Arrays(store)
    signal_of = arrays.labels[:, None, None, None].astype(np.float32)
    arrays.images = 0.3 * np.random.default_rng(0).normal(size=arrays.images.shape).astype(np.float32) + signal_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thyroid_utils.training.loop.Arrays", lambda *_, **__: arrays)
        run = fit_or_load(config.model_copy(update={"training": config.training.model_copy(update={"epochs": 12})}))
    assert run.metrics["test"]["auc"] == 1 and run.metrics["test"]["loss"] < 0.4


def test_torchs_state_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_or_load(tiny_config(training__epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_nothing_is_unpickled(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    config = tiny_config()
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(2 * batches_of(config)))
    run = fit_or_load(config)
    run.load_model()
    assert fit_or_load(config).metrics == run.metrics


# Taken up again


WAYS = {
    "adam": {},
    "sgd, cosine, clipped": {
        "optimiser": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.05, "schedule": "cosine", "clip_norm": 0.5}
    },
    "adamw, one cycle, sampling": {
        "optimiser": {"name": "adamw", "weight_decay": 0.1, "learning_rate": 0.02, "schedule": "one_cycle"},
        "training__class_balance": "sampling",
    },
    "plateau, weights, auc, patience": {
        "optimiser__schedule": "plateau", "training__class_balance": "weights", "training__monitor": "auc",
        "training__patience": 3,
    },
    "one channel, ordinary layout": {"preprocessing": "plain", "training__channels_last": False},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_died_ends_as_it_would_have(way, monkeypatch, tmp_path):
    config = tiny_config(training__epochs=4, **WAYS[way])
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    batches = batches_of(config)
    for batch in (2 * batches + 1, 3 * batches - 1):  # in the third epoch, at its beginning and its end
        with pytest.raises(Killed):
            fit_or_load(config, killed_at(batch))
        (folder,) = [path for path in runs_dir().iterdir() if path.name != ".locks"]
        assert read_checkpoint(folder / "resume").progress.epoch == 2
    begun = []
    resumed = fit_or_load(config, lambda done, total: begun.append(done))
    assert begun[0] == 2 * batches + 1, "went on from its second epoch"
    same_results(straight.folder, resumed.folder)


def test_death_at_any_write_leaves_a_run_that_ends_as_it_would_have(monkeypatch, tmp_path):
    """Every replacement of a file is a moment: die in front of the first, the second, … and go on."""
    config = tiny_config(training__epochs=2)
    straight = fit_or_load(config)
    replace = os.replace
    for moment in range(100):
        elsewhere(monkeypatch, tmp_path / f"died-{moment}")
        written = []

        def dying(source, target, written=written, moment=moment):
            if len(written) == moment:
                raise Killed
            written.append(Path(target).name)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("thyroid_utils.common.files.os.replace", dying)
            try:
                fit_or_load(config)
            except Killed:
                pass
            else:
                break
        run = fit_or_load(config)
        same_results(straight.folder, run.folder)
        assert set(os.listdir(run.folder)) == set(os.listdir(straight.folder)), "nothing is left behind"
    assert written[-1] == "complete.json" and written.count("last.json") == 2 and moment == len(written) >= 12


def test_an_interrupt_stays_one(monkeypatch):
    config, handler = tiny_config(), signal.getsignal(signal.SIGINT)

    def press(done: int, total: int) -> None:
        if done == batches_of(config) + 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_or_load(config, press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert list(fit_or_load(config).history.index) == [1, 2, 3]


@pytest.mark.parametrize("file", ["epoch-*.safetensors", "best-*.safetensors", "last.json"])
def test_a_damaged_state_is_told_and_not_used(file, monkeypatch, tmp_path, capsys):
    config = tiny_config()
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(2 * batches_of(config) + 1))
    (path,) = runs_dir().glob(f"*/resume/{file}")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # a number's last digits, which reads as well as before
    path.write_bytes(content)
    capsys.readouterr()
    resumed = fit_or_load(config)
    assert "; this run is trained from its beginning" in capsys.readouterr().out
    same_results(straight.folder, resumed.folder)


def test_what_is_not_the_runs_does_not_hinder_it(monkeypatch, tmp_path):
    """File browsers and notebooks leave folders and files of their own wherever they look."""
    config = tiny_config()
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(2 * batches_of(config) + 1))
    folder = tmp_path / "resumed" / straight.name
    strangers = folder / ".ipynb_checkpoints", folder / "notes.txt"
    strangers[0].mkdir(), strangers[1].write_text("mine"), (folder / "resume" / ".ipynb_checkpoints").mkdir()
    same_results(straight.folder, fit_or_load(config).folder)
    assert all(path.exists() for path in strangers) and not (folder / "resume").exists()


def test_a_run_resumed_elsewhere_says_what_each_epoch_was_trained_on(monkeypatch, tmp_path):
    config = tiny_config(training__epochs=4)
    straight = fit_or_load(config)
    here = {"device": "cpu", "torch": torch.__version__}
    assert straight.environment["stretches"] == [{**here, "epochs": [1, 4]}]
    elsewhere(monkeypatch, tmp_path / "resumed")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("thyroid_utils.training.module.device_name", lambda device: f"GPU, not {device.type}")
        fit_or_load(config, killed_at(2 * batches_of(config) + 1))
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(3 * batches_of(config) + 1))
    resumed = fit_or_load(config)
    assert resumed.environment["stretches"] == [
        {**here, "device": "GPU, not cpu", "epochs": [1, 2]},
        {**here, "epochs": [3, 4]},
    ]
    same_results(straight.folder, resumed.folder)


def test_killed_at_random_moments_twenty_times(tmp_path):
    """SIGKILL by a seeded clock, wherever it strikes; what comes out in the end is what would have come out at once."""
    config = tiny_config(training__epochs=8)
    script = f"""
import os, random, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
from training_project import forked, register_tiny
from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.fit import fit_or_load

register_tiny()
config = RunConfig.from_json({config.to_json()!r})
started = time.monotonic()
assert os.waitpid(forked(lambda: fit_or_load(config)), 0)[1] == 0
took = time.monotonic() - started
os.environ["THYROID_WORKBOOK_RUNS"] = {str(tmp_path / "killed")!r}
clock, kills, finished = random.Random(7), 0, 0
while kills < 20:
    child = forked(lambda: fit_or_load(config))
    time.sleep(clock.uniform(0.02, 0.6) * min(took, 3))
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        assert status == 0, status
        finished += 1  # done before the clock struck: die in another run of the same kind
        config = config.model_copy(update={{"seed": finished}})
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
for seed in range(finished + 1):
    again = config.model_copy(update={{"seed": seed}})
    assert os.waitpid(forked(lambda: fit_or_load(again)), 0)[1] == 0
    os.environ["THYROID_WORKBOOK_RUNS"] = {str(runs_dir())!r}
    assert os.waitpid(forked(lambda: fit_or_load(again)), 0)[1] == 0
    os.environ["THYROID_WORKBOOK_RUNS"] = {str(tmp_path / "killed")!r}
print("kills", kills, "runs", finished + 1)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "kills 20" in result.stdout, result.stdout + result.stderr
    straight = [path for path in runs_dir().iterdir() if path.name != ".locks"]
    assert straight
    for folder in straight:
        same_results(folder, tmp_path / "killed" / folder.name)
        assert set(os.listdir(folder)) == set(os.listdir(tmp_path / "killed" / folder.name)), "nothing is left behind"


# Two processes


def test_one_process_trains_and_the_other_waits_and_loads():
    config = tiny_config(training__epochs=6)
    split_data(config)
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
from training_project import forked, register_tiny
from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.ledger import RunBusy
from thyroid_utils.training import fit
from thyroid_utils.training.fit import fit_or_load

register_tiny()
config = RunConfig.from_json({config.to_json()!r})
begun, release = os.pipe(), os.pipe()

def hold(done, total):
    if done == 3:  # in the middle of the first epoch
        os.write(begun[1], b"x")
        os.read(release[0], 1)

def tell(line, flush):
    print(line, flush=flush)
    os.write(release[1], b"x")  # the first goes on only when the second waits

first = forked(lambda: fit_or_load(config, hold))
os.read(begun[0], 1)
try:
    fit_or_load(config, wait=False)
except RunBusy as busy:
    print(busy)
fit.print = tell
second = forked(lambda: print("second:", fit_or_load(config).metrics["epochs"], flush=True))
assert os.waitpid(first, 0)[1] == 0 and os.waitpid(second, 0)[1] == 0
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum("another process is training it; wait for it or go on with the next" in line for line in lines) == 1
    assert sum("another process is training it; waiting" in line for line in lines) == 1 and "second: 6" in lines
    assert sum("epoch 1 of 6" in line for line in lines) == 1, "trained once"


# Damage


@pytest.mark.parametrize("file", ["config.json", "weights.safetensors", "predictions.csv", "history.csv", "complete.json"])
@pytest.mark.parametrize("how", ["edited", "missing", "cut"])
def test_a_damaged_run_is_told_and_trained_again(file, how, capsys):
    config = tiny_config(training__epochs=1)
    run = fit_or_load(config)
    path = run.folder / file
    before = {name: (run.folder / name).read_bytes() for name in os.listdir(run.folder) if name != "environment.json"}
    if how == "edited":
        content = bytearray(before[file])
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(before[file][:-7])
    else:
        path.unlink()
    capsys.readouterr()
    again = fit_or_load(config)
    said = capsys.readouterr().out
    if (file, how) != ("complete.json", "missing"):  # without its mark a run is one that was not finished
        assert said.splitlines()[0].startswith(f"run {run.name}: {file} ")
        assert said.splitlines()[0].endswith("; it is trained again")
    assert "epoch 1 of 1" in said
    same_results(again.folder, again.folder)
    for name in set(before) - {"complete.json"}:
        assert (again.folder / name).read_bytes() == before[name], name


def test_an_edited_config_in_a_finished_run_is_not_believed(capsys):
    config = tiny_config(training__epochs=1)
    run = fit_or_load(config)
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.01', '"learning_rate": 0.5'))
    again = fit_or_load(config)
    assert f"run {run.name}: config.json was changed after the run had finished; it is trained again" in capsys.readouterr().out
    assert again.config.optimiser.learning_rate == 0.01
