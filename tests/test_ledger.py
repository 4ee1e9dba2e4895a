"""The ledger of runs: what names a run, what a finished one must be, and the commands that list, show and prune."""

import errno
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_project import register_tiny, tiny_config

from thyroid_utils.common import files
from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.common.files import seal
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.training import ledger
from thyroid_utils.training.state import environment_stamp
from thyroid_utils.workbook import cli

NAMES = {"whole": "a" * 32, "other": "ab" + "c" * 30, "old": "d" * 32, "begun": "e" * 32, "broken": "f" * 32}


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    return tmp_path / "runs"


def made(name: str, code: str | None = None, complete: bool = True, leaky: bool = False, **changes) -> ledger.Run:
    """A run folder as training leaves it, with numbers made up."""
    folder = runs_dir() / name
    folder.mkdir(parents=True)
    metrics = {"best_epoch": 2, "epochs": 3, "val": {"auc": 0.75, "loss": 0.5}, "test": {"auc": 0.625, "loss": 0.6}}
    data = {"recipe": code or ledger.RECIPE, "input": [3, 64, 64], "leaky": leaky}
    contents = {
        "config.json": tiny_config(**changes).to_json(),
        "data.json": json.dumps(data),
        "history.csv": "epoch,train_loss,val_loss,val_auc\n1,0.7,0.1,0.5\n2,0.30000000000000004,0.2,0.75\n",
        "predictions.csv": "case,patient,split,label,probability,log_odds\n"
        "0001,007,val,1,0.1,-2.1972245773362196\nNA,8,test,0,0.5,0.0\n",
        "metrics.json": json.dumps(metrics),
        "environment.json": json.dumps({"device": "cpu", "versions": {"torch": "2"}}),
        "weights.safetensors": "tensors",
    }
    for file, text in contents.items():
        (folder / file).write_text(text)
    return ledger.mark_complete(folder) if complete else ledger.Run(folder)


def hashed(**changes) -> str:
    return ledger.run_hash(tiny_config(**changes), "fingerprint", "split")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1}, {"size": 96}, {"preprocessing": "plain"}, {"augmentation": "none"}, {"loss__name": "focal"},
        {"loss__options": {"label_smoothing": 0.1}}, {"model__weights": "imagenet"}, {"model__options": {"dropout": 0.3}},
        {"optimiser__learning_rate": 0.02}, {"optimiser__schedule": "cosine"}, {"split__seed": 1}, {"split__repeat": 0},
        {"training__epochs": 4}, {"training__batch_size": 8}, {"training__patience": 2}, {"training__class_balance": "weights"},
        {"training__monitor": "auc"}, {"training__precision": "bf16"}, {"training__devices": 2},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_the_result_is_in_the_name(changes):
    assert hashed(**changes) != hashed()


def test_the_code_of_ones_own_network_is_in_the_name_and_no_other_networks(monkeypatch):
    def names() -> dict[str, str]:
        segmenter = {"task": "segmentation", "loss__name": "dice", "training__monitor": "loss"}
        segmenters = {name: hashed(model__name=name, **segmenter) for name in ("unet", "transunet", "unet_resnet18")}
        return segmenters | {name: hashed(model__name=name) for name in ("vgg16", "timm:resnet18")}

    before, read = names(), Path.read_bytes
    for line, changed in (("# a comment", set()), ("WIDER = 2", {"unet"})):
        added = functools.partial(lambda line, path: read(path) + line.encode() * (path.name == "unet.py"), line)
        monkeypatch.setattr(Path, "read_bytes", lambda path, added=added: added(path))
        after = names()
        assert {name for name in after if after[name] != before[name]} == changed


def test_weights_and_data_count_by_their_content_and_not_folder_and_device(tmp_path, monkeypatch):
    one, same, other = (
        files.write_text(tmp_path / name, name[0]) for name in ("1.safetensors", "1b.safetensors", "2.safetensors")
    )
    assert hashed(model__weights=one) == hashed(model__weights=same) != hashed(model__weights=other)
    with pytest.raises(ConfigError, match=r"config: model\.weights must be imagenet, none or a file; .*gone.* cannot be read"):
        hashed(model__weights=tmp_path / "gone.safetensors")
    assert hashed(training={"device": "auto", "deterministic": True, "cuda_graph": True}) == hashed(training={"device": "cpu"})
    assert hashed(data={"dataset": "folders", "root": "/one"}) == hashed(data={"dataset": "folders", "root": "/two"})
    config, before = tiny_config(), hashed()
    assert len({ledger.run_hash(config, "a", "b"), ledger.run_hash(config, "a", "c"), ledger.run_hash(config, "d", "b")}) == 3
    monkeypatch.setattr(ledger, "RECIPE", ledger.RECIPE + 1)
    assert hashed() != before


def test_numbers_and_ids_are_read_as_they_were_written():
    run = made(NAMES["whole"])
    assert run.history.loc[2, "train_loss"] == 0.30000000000000004 and list(run.history.index) == [1, 2]
    assert list(run.predictions.index) == ["0001", "NA"] and run.predictions["patient"].tolist() == ["007", "8"]
    assert run.predictions["log_odds"].iloc[0] == -2.1972245773362196 and run.predictions["label"].tolist() == [1, 0]
    assert repr(run) == f"Run({NAMES['whole']}: tiny, seed 0)" and run.hashes["metrics.json"]
    assert run.best_epoch == 2 and run.metrics["test"]["auc"] == 0.625 and run.config == tiny_config()


def test_a_run_is_found_only_when_it_is_finished(monkeypatch):
    made(NAMES["begun"], complete=False)
    assert ledger.find_run(NAMES["begun"]) is None and ledger.find_run("0" * 32) is None
    assert ledger.find_run(made(NAMES["whole"]).name).folder.name == NAMES["whole"]
    assert ledger.find_run(NAMES["whole"][:6]).name == NAMES["whole"], "as much of a name as runs list shows"
    shutil.copytree(runs_dir() / NAMES["whole"], runs_dir() / (NAMES["whole"][:6] + "another"))
    with pytest.raises(ParameterError, match=r"2 runs begin so: \w+ and \w+$"):
        ledger.find_run(NAMES["whole"][:6])
    monkeypatch.delenv("THYROID_WORKBOOK_RUNS")
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", "/project")
    assert runs_dir() == Path("/project/runs")
    assert environment_stamp("cpu", "32-true", 1)["commit"] is None, "no checkout"


@pytest.mark.parametrize("mark", ["", "[]", "{}", '{"run": "x"}', '{"run": "x", "files": 3}'])
def test_a_missing_file_and_a_mark_that_makes_no_sense_or_is_anothers_are_noticed(mark):
    run = made(NAMES["whole"])
    (run.folder / "history.csv").rename(run.folder / "elsewhere")
    with pytest.raises(ledger.RunDamaged, match=f"run {run.name}: history.csv is missing"):
        ledger.find_run(run.name)
    (run.folder / "elsewhere").rename(run.folder / "history.csv")
    (run.folder / "complete.json").write_text(mark)
    with pytest.raises(ledger.RunDamaged, match=r"complete\.json"):
        ledger.find_run(run.name)
    for names in (["weights.safetensors"], ledger.RUN_FILES):
        seal(run.folder, names, run=run.name if len(names) == 1 else NAMES["other"])
        with pytest.raises(ledger.RunDamaged, match=r"complete\.json belongs to another run"):
            ledger.find_run(run.name)


def test_a_lock_is_freed_by_death_and_what_a_killed_writer_leaves_is_removed(own_runs, monkeypatch):
    with ledger.run_lock("x"):
        code = "from thyroid_utils.training.ledger import run_lock; run_lock('x', wait=False).__enter__()"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "RunBusy: run x: another process is training it" in result.stderr
    code = "import os\nfrom thyroid_utils.training.ledger import run_lock\nrun_lock('x').__enter__()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with ledger.run_lock("x", wait=False):
        pass
    folder = own_runs / "run"
    folder.mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
        with files.atomic_path(folder / "weights.safetensors"):
            raise KeyboardInterrupt
    (folder / "resume").mkdir(), (folder / ".ipynb_checkpoints").mkdir(), (folder / "notes.txt").write_text("mine")
    files.remove_temporaries(folder)
    assert sorted(os.listdir(folder)) == [".ipynb_checkpoints", "notes.txt", "resume"]


@pytest.fixture
def several() -> None:
    """One of every state."""
    made(NAMES["whole"], model__name="tiny")
    made(NAMES["old"], code=ledger.RECIPE + 1, leaky=True, seed=1)
    begun = made(NAMES["begun"], complete=False, seed=2)
    (begun.folder / "resume").mkdir()
    (begun.folder / "resume" / "state.pt").write_text(json.dumps({"epoch": 2}))
    (made(NAMES["broken"], seed=3).folder / "metrics.json").write_text("{}")
    for age, name in enumerate(("whole", "old", "begun", "broken")):
        os.utime(runs_dir() / NAMES[name], (1e9 - age, 1e9 - age))


def test_every_run_is_listed_with_its_state_and_only_what_is_named_is_pruned(several):
    listed = ledger.list_runs()
    assert listed.index.tolist() == [NAMES[name] for name in ("whole", "old", "begun", "broken")]
    assert listed["state"].tolist() == ["finished", "finished", "unfinished", "damaged"]
    assert listed["code"].tolist() == ["current", "older", "current", "current"] and listed["seed"].tolist() == [0, 1, 2, 3]
    assert listed["epochs"].iloc[:3].tolist() == [3, 3, 2] and listed["test_score"].iloc[0] == 0.625
    assert listed["note"].tolist()[:3] == ["", "its split leaks", ""]
    assert "metrics.json was changed" in listed["note"].iloc[3] and listed["megabytes"].gt(0).all()
    with ledger.run_lock(NAMES["begun"]):
        assert ledger.list_runs().loc[NAMES["begun"], "state"] == "training"
    (runs_dir() / NAMES["begun"] / "resume" / "state.pt").unlink()
    assert ledger.list_runs().loc[NAMES["begun"], "epochs"] == 0
    (runs_dir() / NAMES["whole"] / "weights.safetensors").write_text("tensorz")  # seen only when the weights are read
    assert set(ledger.prune_runs(dry_run=True)) == {NAMES["broken"], NAMES["whole"]} and len(ledger.list_runs()) == 4
    assert set(ledger.prune_runs()) == {NAMES["broken"], NAMES["whole"]}
    assert set(ledger.list_runs().index) == {NAMES["old"], NAMES["begun"]}
    with ledger.run_lock(NAMES["begun"]):
        assert ledger.prune_runs(unfinished=True) == [], "a run that is being trained is left alone"
    assert ledger.prune_runs(unfinished=True) == [NAMES["begun"]] and ledger.prune_runs(outdated=True) == [NAMES["old"]]


@pytest.mark.parametrize("seen", [0, 1], ids=["at once", "after being seen"])
def test_runs_are_listed_while_others_write_and_remove(seen, several, monkeypatch):
    """A weights file and a folder vanish before they are asked about."""
    stat, asked, expected = os.stat, [], set(ledger.list_runs().index)

    def vanished(path, *arguments, **options):
        asked.append(str(path))
        if Path(path).name in ("weights.safetensors", NAMES["old"]) and asked.count(str(path)) > seen:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return stat(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", vanished)
        listed = ledger.list_runs()
    assert set(listed.index) == expected - {NAMES["old"]} and listed["megabytes"].gt(0).all()


def test_commands_list_show_and_prune(several, capsys):
    assert cli.main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "run state model loss data prepared seed epochs best score val test MB"
    expected = "aaaaaaaa finished tiny cross_entropy phantom paper_001 0 3 2 AUC 0.750 0.625 0.0"
    assert " ".join(lines[1].split()) == expected
    assert "finished, older code, leaks" in lines[2] and lines[3].split()[:2] == ["eeeeeeee", "unfinished"]
    assert lines[-1].startswith(
        f"run {NAMES['broken']}: metrics.json was changed after it had been finished; it is trained again"
    )
    assert cli.main(["runs", "show", "aa"]) == 0
    shown = capsys.readouterr().out
    for text in (NAMES["whole"], "finished", "model:", "name: tiny", "auc: 0.625", "torch:", "0.3", "history"):
        assert text in shown
    assert cli.main(["runs", "show", "f"]) == 1 and "damaged" in capsys.readouterr().out
    assert cli.main(["runs", "show", "e"]) == 1 and "unfinished" in capsys.readouterr().out
    made(NAMES["other"])
    assert cli.main(["runs", "show", "a"]) == 2 and "2 runs begin so" in capsys.readouterr().err
    assert cli.main(["runs", "show", "b"]) == 2 and "there is no such run" in capsys.readouterr().err
    assert cli.main(["runs", "prune", "--outdated", "--dry-run"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["would remove dddddddd (0.0 MB)", "would remove ffffffff (0.0 MB)"]
    assert cli.main(["runs", "prune"]) == 0 and capsys.readouterr().out == "removed ffffffff (0.0 MB)\n"
    assert cli.main(["runs", "prune"]) == 0 and capsys.readouterr().out == "nothing to remove\n"


def test_an_empty_list_says_where_it_looked_and_a_run_whose_first_files_are_written_is_training(capsys, own_runs):
    assert ledger.list_runs().empty and ledger.prune_runs() == []
    assert cli.main(["runs", "list"]) == 0
    assert capsys.readouterr().out == f"no runs in {runs_dir()}\n"
    (own_runs / NAMES["begun"]).mkdir(parents=True)
    with ledger.run_lock(NAMES["begun"]):
        assert ledger.list_runs()["state"].tolist() == ["training"]
    assert ledger.list_runs()["state"].tolist() == ["damaged"]


@pytest.mark.parametrize(
    "modules, without",
    [
        ("training.ledger workbook.cli", "torch scipy.stats"),
        ("plots.segmenter_comparison studies.papers training.engine workbook.record", "scipy.stats seaborn lightning timm monai"),
    ],
)
def test_slow_libraries_are_loaded_where_they_are_used(modules, without):
    imports = "; ".join(f"import thyroid_utils.{module}" for module in modules.split())
    code = f"{imports}; import sys; sys.exit(', '.join({set(without.split())} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


def test_a_ledger_that_cannot_be_written_or_is_removed_is_one_line_with_the_remedy(own_runs, monkeypatch, capsys):
    with pytest.raises(RunError, match=r"removed while run x was trained .*; leave it in place"), ledger.run_lock("x"):
        shutil.rmtree(own_runs)
        (own_runs / "x" / "config.json").read_text()
    made(NAMES["begun"], complete=False)
    shutil.rmtree(own_runs / ".locks", ignore_errors=True)
    (own_runs / ".locks").write_text("in the way")
    assert ledger.list_runs()["state"].tolist() == ["unfinished"], "it can be looked at"
    for refused in (ledger.check_ledger, ledger.run_lock("x").__enter__):
        with pytest.raises(RunError, match=r"cannot be kept there .*set THYROID_WORKBOOK_RUNS"):
            refused()
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "No", str(path))))
    (own_runs / ".locks").unlink()
    assert cli.main(["runs", "prune", "--unfinished"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
