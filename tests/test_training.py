"""Training: what a run holds, that it is repeatable and resumed exactly, and what damage does."""

import hashlib
import json
import os
import pickle
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import training_project
from sklearn.metrics import roc_auc_score
from training_project import Killed, batches_of, elsewhere, forked, killed_at, one_cache, own_runs, same_results, tiny_config  # noqa: F401  (fixtures of every test here)

from thyroid_utils.common.paths import runs_dir
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.training import ledger, tasks
from thyroid_utils.training.data import split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import RUN_FILES, RunBusy
from thyroid_utils.training.state import read_state


def test_a_run_holds_predictions_metrics_and_history_of_the_best_weights():
    """Computed anew from the weights file, image by image, without the training's own batches."""
    config = tiny_config(training__epochs=4)
    run, data = fit_or_load(config), split_data(config)
    assert set(os.listdir(run.folder)) == {*RUN_FILES, "complete.json"} and run.config == config
    assert run.data["fingerprint"] == data.fingerprint and run.data["split_hash"] == data.split_hash
    assert run.data["input"] == [3, 64, 64] and run.data["weights"] == "from scratch" and not run.data["leaky"]
    assert run.environment["device"] == "cpu" and run.environment["threads"] == 1
    assert run.environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert list(run.history.index) == [1, 2, 3, 4] and (run.history["learning_rate"] == 0.01).all()
    pipeline, network = build_pipeline("paper_001", 64).fit(data.cases), run.load_model()
    assert not network.training
    for split in ("val", "test"):
        rows = data.cases[data.cases["split"] == split]
        images = torch.stack([torch.from_numpy(pipeline.load(row).image) for _, row in rows.iterrows()])
        with torch.inference_mode():
            probabilities = network(images).softmax(1)[:, 1].numpy()
        predicted, labels = run.predictions.query("split == @split"), rows["label"].to_numpy(int)
        assert list(predicted.index) == list(rows.index) and (predicted["label"] == rows["label"]).all()
        assert (predicted["patient"] == rows["patient"]).all()
        assert np.allclose(predicted["probability"], probabilities, atol=1e-6)
        assert run.metrics[split]["auc"] == roc_auc_score(labels, predicted["probability"])
        by_hand = -np.log(np.where(labels == 1, probabilities, 1 - probabilities)).mean()
        assert run.metrics[split]["loss"] == pytest.approx(by_hand, rel=1e-5)
        assert run.metrics[split]["log_loss"] == pytest.approx(by_hand, rel=1e-5)
    best = run.history.loc[run.best_epoch]
    assert run.best_epoch == run.history["val_loss"].idxmin()
    assert best["val_loss"] == run.metrics["val"]["loss"] and best["val_auc"] == run.metrics["val"]["auc"]


@pytest.mark.parametrize("made", [tiny_config, training_project.segmentation_config])
def test_a_run_is_trained_once_and_a_second_time_the_same_to_the_last_bit(made, monkeypatch, tmp_path):
    one = fit_or_load(made())
    with monkeypatch.context() as patch:
        patch.setattr("thyroid_utils.training.fit.assemble", lambda *_: pytest.fail("trained again"))
        again = fit_or_load(made(training__device="auto"))  # decides where, not what
        assert again.folder == one.folder and again.metrics == one.metrics
    elsewhere(monkeypatch, tmp_path / "other")
    torch.manual_seed(123)  # whatever was drawn before does not count
    same_results(one.folder, fit_or_load(made()).folder)
    other = fit_or_load(made(seed=1))
    assert one.name != other.name and not one.history.equals(other.history)
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    fit_or_load(made(seed=2))
    assert torch.equal(torch.rand(3), expected), "torch's state is left as it was"


WAYS = {
    "adam": tiny_config(training__epochs=4),
    "sgd, cosine, clipped": tiny_config(
        training__epochs=4,
        optimiser={"name": "sgd", "momentum": 0.9, "learning_rate": 0.05, "schedule": "cosine", "clip_norm": 0.5},
    ),
    "adamw, one cycle, sampling": tiny_config(
        training__epochs=4, training__class_balance="sampling",
        optimiser={"name": "adamw", "weight_decay": 0.1, "learning_rate": 0.02, "schedule": "one_cycle"},
    ),
    "plateau, weights, auc, patience": tiny_config(
        training__epochs=4, training__class_balance="weights", training__monitor="auc", training__patience=3,
        optimiser__schedule="plateau",
    ),
    "segmentation, plateau, two classes, one channel": training_project.segmentation_config(
        training__epochs=4, training__patience=3, optimiser__schedule="plateau", model__options={"classes": 2},
    ),
}  # fmt: skip


def the_run() -> Path:
    (folder,) = [path for path in runs_dir().iterdir() if path.name != ".locks"]
    return folder


def died(config, batch: int) -> None:
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(batch))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_died_ends_as_it_would_have(way, monkeypatch, tmp_path):
    config = WAYS[way]
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    batches = batches_of(config)
    for batch in (2 * batches + 1, 3 * batches - 1):  # in the third epoch, at its beginning and its end
        died(config, batch)
        assert read_state(the_run() / "resume").epoch == 2
    begun = []
    resumed = fit_or_load(config, lambda done, total: begun.append(done))
    assert begun[0] == 2 * batches + 1, "went on from its second epoch"
    same_results(straight.folder, resumed.folder)


@pytest.mark.parametrize("made", [tiny_config, training_project.segmentation_config])
def test_death_at_any_write_leaves_a_run_that_ends_as_it_would_have(made, monkeypatch, tmp_path):
    """Every replacement of a file is a moment: die in front of the first, the second, … and go on."""
    config = made(training__epochs=2)
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
        same_results(straight.folder, fit_or_load(config).folder)
    assert written[-1] == "complete.json" and written.count("state.pt") == 2 and moment == len(written) >= 10
    assert ("maps.safetensors" in written) == (config.task == "segmentation")


def test_an_interrupt_stays_one():
    config, before = (
        tiny_config(),
        signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # ignored by what runs behind a shell

    def press(done: int, total: int) -> None:
        if done == batches_of(config) + 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            fit_or_load(config, press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(fit_or_load(config).history.index) == [1, 2, 3]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/thyroid-unpickled",)


def evil(path: Path) -> None:
    """A pickle that makes a folder, with the hash that it should have."""
    content = pickle.dumps(Evil(), protocol=2)
    path.write_bytes(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}).encode() + b"\n" + content)


def turned(path: Path) -> None:
    """A number's last digits, which reads as well as before."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def become_a_folder(path: Path) -> None:
    path.unlink(), path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [turned, cut, evil, become_a_folder, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_is_told_and_not_used(damage, monkeypatch, tmp_path, capsys):
    config = tiny_config(training__epochs=2)
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    died(config, batches_of(config) + 1)
    damage(the_run() / "resume" / "state.pt")
    capsys.readouterr()
    resumed = fit_or_load(config)
    assert "; this run is trained from its beginning" in capsys.readouterr().out
    same_results(straight.folder, resumed.folder)
    assert not Path("/tmp/thyroid-unpickled").exists()


def test_a_resumed_run_leaves_strangers_alone():
    """File browsers and notebooks leave folders and files of their own wherever they look."""
    config = tiny_config()
    died(config, 2 * batches_of(config) + 1)
    folder = the_run()
    strangers = folder / ".ipynb_checkpoints", folder / "notes.txt"
    strangers[0].mkdir(), strangers[1].write_text("mine"), (folder / "resume" / ".ipynb_checkpoints").mkdir()
    assert fit_or_load(config).metrics["epochs"] == 3
    assert all(path.exists() for path in strangers) and not (folder / "resume").exists()


def waited(child: int) -> None:
    assert os.waitpid(child, 0)[1] == 0


def test_one_process_trains_and_the_other_waits_and_loads(monkeypatch, capfd):
    config = tiny_config()
    split_data(config)
    (begun, begin), (released, release) = os.pipe(), os.pipe()

    def hold(done: int, total: int) -> None:
        if done == 3:  # in the middle of the first epoch
            os.write(begin, b"x")
            os.read(released, 1)

    def tell(line: str, flush: bool) -> None:
        print(line, flush=flush)
        os.write(release, b"x")  # the first goes on only when the second waits

    first = forked(lambda: fit_or_load(config, hold))
    os.read(begun, 1)
    with pytest.raises(RunBusy, match="another process is training it; wait for it or go on with the next"):
        fit_or_load(config, wait=False)
    monkeypatch.setattr(ledger, "print", tell, raising=False)
    second = forked(lambda: print("second:", fit_or_load(config).metrics["epochs"], flush=True))
    waited(first), waited(second)
    lines = capfd.readouterr().out.splitlines()
    assert sum("another process is training it; waiting" in line for line in lines) == 1 and "second: 3" in lines
    assert sum("epoch 1 of 3" in line for line in lines) == 1, "trained once"


@pytest.mark.parametrize(
    "file, damage",
    [("config.json", turned), ("weights.safetensors", cut), ("maps.safetensors", turned), ("history.csv", Path.unlink),
     ("predictions.csv", become_a_folder), ("complete.json", turned), ("complete.json", become_a_folder),
     ("complete.json", Path.unlink)],
)  # fmt: skip
def test_a_damaged_run_is_told_and_trained_again(file, damage, capsys):
    config = training_project.segmentation_config(training__epochs=1)
    run = fit_or_load(config)
    before = {name: (run.folder / name).read_bytes() for name in os.listdir(run.folder) if name != "environment.json"}
    damage(run.folder / file)
    capsys.readouterr()
    again = fit_or_load(config)
    said = capsys.readouterr().out.splitlines()
    if (file, damage) != ("complete.json", Path.unlink):  # without its mark a run is one that was not finished
        assert said[0].startswith(f"run {run.name}: {file} ") and said[0].endswith("; it is trained again")
    assert "epoch 1 of 1" in said[-1]
    for name in set(before) - {"complete.json"}:
        assert (again.folder / name).read_bytes() == before[name], name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_read_of_a_mapped_file_is_given_back(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "MAPPED", 2**20)
    pixels = np.random.default_rng(0).random((512, 1, 64, 64), np.float32)  # 8 MB
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    images = np.broadcast_to(mapped, (512, 3, 64, 64), subok=True)  # as `preprocessed` gives them
    arrays = tasks.Arrays(SimpleNamespace(images=images, masks=None, cases=pd.DataFrame({"label": [0] * 512})))
    for at in range(0, 512, 16):
        np.testing.assert_array_equal(arrays.batch(np.arange(at, at + 16)).images, pixels[at : at + 16])
    told = Path("/proc/self/smaps").read_text().partition("images.npy")[2]
    assert int(re.search(r"Rss: +(\d+) kB", told)[1]) < 4096
