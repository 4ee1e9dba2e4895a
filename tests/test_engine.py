"""Many runs at once: order, failures, runs that others train, and a worker process killed in the middle of a run."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster
from training_project import register_tiny, same_results, tiny_config

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.training.data import split_data
from thyroid_utils.training.engine import RunsFailed, dask_cluster, run_all, scheduling
from thyroid_utils.training.engine.outcome import Failure
from thyroid_utils.training.engine.workers import local_workers, plan_workers
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import MARK, list_runs, run_hash, run_lock, runs_dir


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Phantoms and arrays are made once for the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """Every test has its own folder of runs, and the tiny network."""
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    return tmp_path / "runs"


@pytest.fixture
def scheduler():
    """The address of a scheduler with two workers, as threads of this process, which know the tiny network."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def seeds(*numbers: int, **changes) -> list[RunConfig]:
    return [tiny_config(training__epochs=1, seed=number, **changes) for number in numbers]


def diverging(seed: int) -> RunConfig:
    """Each step multiplies the weights by about 1 - 10 = -9, until they are no numbers."""
    return tiny_config(seed=seed, optimiser={"name": "sgd", "learning_rate": 10.0, "weight_decay": 1.0}, training__epochs=30)


def name_of(config: RunConfig) -> str:
    data = split_data(config)
    return run_hash(config, data.fingerprint, data.split_hash)


class Ticks(list):
    """A progress callback that remembers."""

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


def test_runs_come_in_the_order_of_the_configs_and_equal_ones_are_trained_once(own_runs):
    two, one = seeds(2, 1)
    ticks = Ticks()
    runs = run_all([two, one, two], progress=ticks)
    assert [run.config.seed for run in runs] == [2, 1, 2] and runs[0] is runs[2]
    assert ticks == [(1, 2), (2, 2)]
    assert set(list_runs()["state"]) == {"finished"} and len(list_runs()) == 2
    assert runs[1].name == fit_or_load(one).name


def test_configs_that_name_one_result_are_one_run():
    """Where and how fast is not what: the layout in memory does not make another run."""
    (config,) = seeds(1)
    (other,) = seeds(1, training__channels_last=False)
    first, second = run_all([config, other])
    assert first is second


def test_no_configs_are_no_runs():
    assert run_all([]) == [] == run_all([], "dask")


def test_what_is_finished_is_loaded_without_any_worker(monkeypatch):
    configs = seeds(1, 2)
    before = run_all(configs)
    monkeypatch.setattr(scheduling, "train_on_dask", lambda *_: pytest.fail("workers were asked"))
    monkeypatch.setattr(scheduling, "attempt", lambda *_: pytest.fail("trained again"))
    for engine in scheduling.ENGINES:
        assert [run.folder for run in run_all(configs, engine)] == [run.folder for run in before]


def test_a_damaged_run_is_mended():
    (config,) = seeds(1)
    (run,) = run_all([config])
    expected = (run.folder / "metrics.json").read_bytes()
    (run.folder / "metrics.json").write_text("{}")
    (mended,) = run_all([config])
    assert (mended.folder / "metrics.json").read_bytes() == expected
    mended.check()


def test_each_run_prints_a_line_in_a_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    configs = seeds(5)
    (run,) = run_all(configs)
    run_all(configs)
    seconds = f"{run.environment['seconds']:.0f} s"
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"tiny seed 5: 1 epochs, best 1, {seconds}", f"tiny seed 5: 1 epochs, best 1, {seconds} (loaded)"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model__options": {"dropuot": 0.1}}, ValueError, "dropuot"),
        ({"model__name": "resnet81"}, ValueError, "resnet81"),
        ({"size": 8}, ValueError, "8×8 pixels are too small"),
        ({"preprocessing": "paper_999"}, DataError, "paper_999"),
        ({"augmentation": "wild"}, ValueError, "wild"),
        ({"loss__name": "crossentropy"}, ValueError, "crossentropy"),
        ({"data__dataset": "ddit"}, DataError, "ddit"),
        ({"model__weights": "absent.safetensors"}, ConfigError, "absent.safetensors"),
        ({"training__device": "cuda"}, ConfigError, "training.device"),
    ],
)
def test_a_wrong_config_stops_all_before_anything_is_trained(monkeypatch, changes, error, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (good,) = seeds(1)
    (bad,) = seeds(2, **changes)
    with pytest.raises(error, match=message) as raised:
        run_all([good, bad])
    assert raised.value.__notes__ == [f"in config 2 of 2: {bad.model.name} seed 2"]
    assert not runs_dir().exists() or list_runs().empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "ray"}, "serial, dask"),
        ({"address": "tcp://127.0.0.1:1"}, "dask"),
        ({"workers": 2}, "dask"),
        ({"engine": "dask", "workers": 2, "address": "tcp://127.0.0.1:1"}, "one of the two"),
        ({"engine": "dask", "workers": 0}, "workers must be"),
        ({"threads": 1.5}, "threads must be"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_all(seeds(1), **arguments)


def test_a_failed_run_does_not_stop_the_others():
    first, last = seeds(1, 3)
    ticks = Ticks()
    with pytest.raises(RunsFailed, match=r"1 failed, 2 of 3 are finished: tiny seed 2: TrainingError: tiny: the loss") as raised:
        run_all([first, diverging(2), last], progress=ticks)
    assert [run and run.config.seed for run in raised.value.runs] == [1, None, 3]
    (failure,) = raised.value.failures
    assert failure.config.seed == 2 and "TrainingError" in failure.trace
    assert ticks[-1] == (3, 3)


@pytest.mark.parametrize("engine", scheduling.ENGINES)
def test_a_run_that_another_process_trains_is_left_for_the_end(engine, scheduler, monkeypatch):
    monkeypatch.setattr(dask_cluster, "_BUSY_PAUSE", 0.3)
    first, second = seeds(1, 2)
    held, let_go = threading.Event(), threading.Event()

    def other_process() -> None:
        with run_lock(name_of(first)):
            held.set()
            let_go.wait(30)

    other = threading.Thread(target=other_process)
    other.start()
    held.wait(30)
    finished = []

    def progress(done: int, total: int) -> None:
        finished.append(list(list_runs().query("state == 'finished'")["seed"]))
        let_go.set()

    try:
        runs = run_all([first, second], engine, scheduler if engine == "dask" else None, progress)
    finally:
        let_go.set()
        other.join()
    assert finished[0] == [2] and [run.config.seed for run in runs] == [1, 2]


def test_threads_are_set_for_the_runs_only():
    runs = run_all(seeds(1), threads=2)
    assert runs[0].environment["threads"] == 2 and torch.get_num_threads() == 1


def test_an_own_scheduler_gives_what_the_serial_engine_gives(scheduler, tmp_path, monkeypatch):
    configs = seeds(1, 2, 3)
    expected = run_all(configs)
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "others"))
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    with pytest.raises(RunsFailed, match="tiny seed 9: TrainingError") as raised:
        run_all([configs[0], diverging(9), *configs[1:]], "dask", scheduler)
    assert raised.value.runs[1] is None
    for one, other in zip(expected, [run for run in raised.value.runs if run], strict=True):
        assert other.folder.parent == tmp_path / "others"
        same_results(one.folder, other.folder)


def test_a_worker_of_another_recipe_says_so():
    (config,) = seeds(1)
    state, message, _ = dask_cluster._train_here(config.to_json(), variables={}, recipe=dask_cluster.RECIPE + 1)
    assert state == "failed" and "other sources of thyroid_utils" in message


def test_a_worker_with_another_folder_of_runs_is_told(monkeypatch):
    monkeypatch.setattr(dask_cluster, "_SHARED_FOLDER_PATIENCE", 0.0)
    (config,) = seeds(1)
    outcome = dask_cluster._seen("0" * 32, config)
    assert isinstance(outcome, Failure) and "share that folder" in outcome.message


def test_when_all_workers_have_ended_no_one_waits_for_ever():
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as cluster, Client(cluster) as client:
        failed = {}
        (config,) = seeds(1)
        dask_cluster._hand_out(client, {"a": config}, {}, failed.__setitem__, are_alive=lambda: False)
    assert "all workers have ended" in failed["a"].message


def test_a_run_that_kills_its_workers_is_given_up(scheduler, monkeypatch, tmp_path):
    record = tmp_path / "tries"

    def deadly(*_, **__):
        with record.open("a") as file:
            file.write("x")
        raise KilledWorker("train", SimpleNamespace(address="tcp://127.0.0.1:1"), 3)

    monkeypatch.setattr(dask_cluster, "_train_here", deadly)
    with pytest.raises(RunsFailed, match="its workers died again and again"):
        run_all(seeds(1), "dask", scheduler)
    assert record.read_text() == "xx"


def plan(configs: list[RunConfig], monkeypatch, gpus: str | int, cores: int = 8, **given):
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    if isinstance(gpus, str):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    else:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count = len(gpus.split(",")) if isinstance(gpus, str) else gpus
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    environments, threads = plan_workers(configs, given.get("workers"), given.get("threads"))
    return [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments], threads


def test_one_gpu_a_worker(monkeypatch):
    configs = [RunConfig(seed=seed) for seed in range(6)]
    assert plan(configs, monkeypatch, 4) == (["0", "1", "2", "3"], 2)  # eight cores among four workers
    assert plan(configs[:2], monkeypatch, 4) == (["0", "1"], 4)
    assert plan(configs, monkeypatch, "5,GPU-7a") == (["5", "GPU-7a"], 4)
    assert plan(configs, monkeypatch, 1, workers=2) == (["0", "0"], 4)
    assert plan(configs, monkeypatch, 4, threads=3) == (["0", "1", "2", "3"], 3)
    pairs = [RunConfig(training={"devices": 2}, seed=seed) for seed in range(6)]
    assert plan(pairs, monkeypatch, 5) == (["0,1", "2,3"], 4)


def test_cpu_workers_share_the_cores_and_never_change_the_threads(monkeypatch, capsys):
    configs = [RunConfig(training={"device": "cpu"}, seed=seed) for seed in range(6)]
    assert plan(configs, monkeypatch, 4) == ([None, None], 4)
    assert plan(configs, monkeypatch, 0, threads=1) == ([None] * 6, 1)
    assert not capsys.readouterr().out
    assert plan(configs, monkeypatch, 0, workers=3) == ([None] * 3, 4)
    assert "3 workers of 4 threads on 8 cores" in capsys.readouterr().out


def left_over() -> list[str]:
    """Command lines of the dask workers among this process's children; other tests leave pools of their own."""
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [line for line in lines if "dask" in line]


def test_local_workers_have_their_gpus_and_end_with_an_interrupt():
    with (
        pytest.raises(KeyboardInterrupt),
        local_workers([{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}], threads=3) as (client, are_alive),
    ):
        client.wait_for_workers(2, timeout=60)
        found = client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]))
        assert sorted(found.values()) == [("0", "3"), ("1", "3")] and are_alive()
        raise KeyboardInterrupt
    assert not left_over()


_CALLER = """
import time
from thyroid_utils.training.engine.workers import local_workers
with local_workers([{}], threads=1) as (client, are_alive):
    client.wait_for_workers(1, timeout=60)
    print("ready", flush=True)
    time.sleep(600)
"""


def test_local_workers_end_when_their_caller_is_killed():
    caller = subprocess.Popen([sys.executable, "-c", _CALLER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert caller.stdout.readline() == b"ready\n"
    workers = psutil.Process(caller.pid).children(recursive=True)
    caller.kill()
    caller.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) >= 2 and not alive


class Killer(threading.Thread):
    """Watches the runs of this process's workers and kills the first worker that has finished two epochs of a run.

    holders: run → process ids seen at its training. epochs: run → numbers of the last kept epoch, as they changed.
    """

    def __init__(self, runs: Path):
        super().__init__(daemon=True)
        self.runs, self.over = runs, threading.Event()
        self.victim = self.killed = None
        self.holders: dict[str, set[int]] = {}
        self.epochs: dict[str, list[int]] = {}
        self.marks: dict[str, int] = {}

    def run(self) -> None:
        while not self.over.is_set():
            self.look()
            time.sleep(0.01)

    def look(self) -> None:
        for mark in self.runs.glob(f"*/{MARK}"):
            self.marks.setdefault(mark.parent.name, mark.stat().st_ino)
        for process in psutil.Process().children(recursive=True):
            try:
                if process.parent().ppid() != os.getpid():  # neither a worker's supervisor nor a program that a worker calls
                    continue
                names = {Path(file.path).stem for file in process.open_files() if file.path.endswith(".lock")}
            except (psutil.NoSuchProcess, AttributeError):  # it ended meanwhile
                continue
            for name in names:
                if len(name) == 32 and (self.runs / name).is_dir():
                    self.holders.setdefault(name, set()).add(process.pid)
                    self.strike(name, process.pid)

    def strike(self, name: str, pid: int) -> None:
        try:
            last = json.loads((self.runs / name / "resume" / "last.json").read_text())["body"]["progress"]["epoch"]
        except (OSError, ValueError):
            return
        seen = self.epochs.setdefault(name, [])
        if not seen or seen[-1] != last:
            seen.append(last)
        if self.victim is None and last == 2:
            os.kill(pid, signal.SIGKILL)
            self.victim, self.killed = name, pid


def small_config(seed: int) -> RunConfig:
    """A network that worker processes know, on few and small images."""
    return RunConfig(
        data={"options": {"patients": 8, "size": 64, "views": [1, 1], "malignant_share": 0.5}},
        split={"ratios": (0.5, 0.25, 0.25)},
        size=32,
        model={"name": "timm:test_resnet"},
        training={"epochs": 12, "batch_size": 2, "device": "cpu"},
        seed=seed,
    )


def test_a_killed_worker_loses_nothing_and_changes_nothing(own_runs, tmp_path, monkeypatch):
    configs = [small_config(seed) for seed in (1, 2, 3)]
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "serial"))
    expected = run_all(configs)
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(own_runs))
    killer = Killer(own_runs)
    killer.start()
    ticks = Ticks()
    try:
        runs = run_all(configs, "dask", progress=ticks, workers=2)
    finally:
        killer.over.set()
        killer.join()
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    for one, other in zip(expected, runs, strict=True):
        same_results(one.folder, other.folder)
    # It was in the middle of a run, another process took that up where it was, and each other run had one process.
    assert killer.victim is not None
    assert killer.epochs[killer.victim] == sorted(killer.epochs[killer.victim]) and max(killer.epochs[killer.victim]) > 2
    assert {run: len(pids) for run, pids in killer.holders.items()} == {
        run.name: 2 if run.name == killer.victim else 1 for run in runs
    }
    assert len(set().union(*killer.holders.values())) >= 2
    for run in runs:
        assert killer.marks.get(run.name, (run.folder / MARK).stat().st_ino) == (run.folder / MARK).stat().st_ino
        assert run.environment["threads"] == 1
    assert not left_over(), "a worker outlives its use"
