"""Many runs at once: order, failures, runs that others train, and a worker process killed in the middle of a run."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster
from torch import nn
from training_project import one_cache, own_runs, same_results, tiny_config  # noqa: F401  (fixtures of every test here)

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.training import engine
from thyroid_utils.training.data import gpu_bytes, longest_first, split_data
from thyroid_utils.training.engine import ENGINES, Failure, RunsFailed, plan_workers, run_all
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import list_runs, run_hash, run_lock


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


@pytest.fixture
def ticks(monkeypatch) -> list[tuple[int, int]]:
    """What the bar of runs is told."""
    told = []
    monkeypatch.setattr(engine, "progress_bar", lambda *_, **__: lambda *numbers: told.append(numbers))
    return told


def test_runs_come_in_the_order_of_the_configs_and_equal_ones_are_trained_once(ticks, monkeypatch):
    two, one = seeds(2, 1)
    anywhere = two.model_copy(update={"training": two.training.model_copy(update={"device": "auto"})})  # where is not what
    runs = run_all([two, one, anywhere])
    assert [run.config.seed for run in runs] == [2, 1, 2] and runs[0] is runs[2]
    assert ticks == [(1, 2), (2, 2)] and list_runs()["state"].tolist() == ["finished"] * 2
    assert runs[1].name == fit_or_load(one).name
    for name in ("_attempt", "_dask"):
        monkeypatch.setattr(engine, name, lambda *_: pytest.fail("trained again"))
    for name in ENGINES:
        assert [run.folder for run in run_all([two, one], name)] == [run.folder for run in runs[:2]]
        assert run_all([], name) == []


def test_a_damaged_run_is_mended_and_each_prints_a_line_in_a_report(capsys):
    (config,) = seeds(5)
    (run,) = run_all([config], threads=2)
    expected = (run.folder / "metrics.json").read_bytes()
    (run.folder / "metrics.json").write_text("{}")
    (mended,) = run_all([config], threads=2)
    assert (mended.folder / "metrics.json").read_bytes() == expected
    assert mended.environment["threads"] == 2 and torch.get_num_threads() == 1
    capsys.readouterr()
    run_all([config])
    assert capsys.readouterr().out == (
        f"tiny, seed 5: 1 epoch, best 1, {mended.environment['seconds']:.0f} s (loaded), run {mended.name[:8]}\n"
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model__options": {"dropuot": 0.1}}, ValueError, "dropuot"),
        ({"size": 8}, ValueError, "8×8 pixels are too small"),
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
    assert raised.value.__notes__ == [f"in config 2 of 2: {bad.label}"]
    assert not runs_dir().exists() or list_runs().empty


@pytest.mark.parametrize(("arguments", "message"), [({"engine": "ray"}, "serial, dask"), ({"address": "tcp://x:1"}, "dask")])
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_all(seeds(1), **arguments)


def test_a_failed_run_does_not_stop_the_others(ticks):
    first, last = seeds(1, 3)
    with pytest.raises(RunsFailed, match=r"1 failed, 2 of 3 are finished: tiny, seed 2: TrainingError: tiny: the loss") as raised:
        run_all([first, diverging(2), last])
    assert [run and run.config.seed for run in raised.value.runs] == [1, None, 3]
    (failure,) = raised.value.failures
    assert failure.config.seed == 2 and "TrainingError" in failure.trace
    assert ticks[-1] == (3, 3)


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_that_another_process_trains_is_left_for_the_end(name, scheduler, monkeypatch):
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

    monkeypatch.setattr(engine, "progress_bar", lambda *_, **__: progress)
    try:
        runs = run_all([first, second], name, scheduler if name == "dask" else None)
    finally:
        let_go.set()
        other.join()
    assert finished[0] == [2] and [run.config.seed for run in runs] == [1, 2]


def test_an_own_scheduler_gives_what_the_serial_engine_gives(scheduler, tmp_path, monkeypatch):
    configs = seeds(1, 2, 3)
    expected = run_all(configs)
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "others"))
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    with pytest.raises(RunsFailed, match="tiny, seed 9: TrainingError") as raised:
        run_all([configs[0], diverging(9), *configs[1:]], "dask", scheduler)
    assert raised.value.runs[1] is None
    for one, other in zip(expected, [run for run in raised.value.runs if run], strict=True):
        assert other.folder.parent == tmp_path / "others"
        same_results(one.folder, other.folder)


def test_a_worker_that_dies_or_is_of_another_recipe_or_folder_is_told(monkeypatch, scheduler):
    monkeypatch.setattr(engine, "_SHARED_FOLDER_PATIENCE", 0.0)
    (config,) = seeds(1)
    told = {"wait": False, "variables": {}, "recipe": engine.RECIPE + 1, "threads": 1, "most_threads": 1}
    assert "other sources of thyroid_utils" in engine._train_here(config.to_json(), **told)[1]
    future = SimpleNamespace(status="finished", result=lambda: ("finished", "0" * 32))
    outcome = engine._outcome(future, "0" * 32, config)
    assert isinstance(outcome, Failure) and "share that folder" in outcome.message

    def deadly(*_, **__):
        raise KilledWorker("train", SimpleNamespace(address="tcp://127.0.0.1:1"), 3)

    monkeypatch.setattr(engine, "_train_here", deadly)
    with pytest.raises(RunsFailed, match=r"its worker died .*; run again: finished runs are kept, this one is resumed"):
        run_all(seeds(1), "dask", scheduler)


def plan(configs: list[RunConfig], monkeypatch, gpus: str | int, cores: int = 8, threads: int | None = None, free: int = 4):
    """gpus: how many there are, or which are visible; free: GiB of each."""
    listed = gpus if isinstance(gpus, str) else ""
    count = len(listed.split(",")) if listed else gpus
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    return plan_workers(configs, threads)


def test_one_gpu_a_worker_and_cpu_workers_that_share_the_cores(monkeypatch, capsys):
    configs = [RunConfig(seed=seed) for seed in range(6)]
    assert plan(configs, monkeypatch, 4) == (["0", "1", "2", "3"], 4, 2)  # eight cores among four workers
    assert plan(configs[:2], monkeypatch, 4) == (["0", "1", "2", "3"], 2, 4)
    assert plan(configs, monkeypatch, "5,GPU-7a") == (["5", "GPU-7a"], 2, 4)
    assert plan(configs, monkeypatch, 4, threads=3) == (["0", "1", "2", "3"], 4, 3)
    # A run takes 2.1 of half the GiB: two fit into 9, and of 80 four are taken, or one a core.
    assert plan(configs, monkeypatch, 1, free=9) == (["0", "0"], 2, 4)
    assert plan(configs, monkeypatch, 2, free=80) == (["0", "1"] * 4, 6, 1)
    assert plan(configs, monkeypatch, 2, free=80, cores=4) == (["0", "1"] * 2, 4, 1)
    pairs = [RunConfig(training={"devices": 2}, seed=seed) for seed in range(6)]
    assert plan(pairs, monkeypatch, 5) == (["0,1", "2,3"], 2, 4)
    configs = [RunConfig(training={"device": "cpu"}, seed=seed) for seed in range(6)]
    assert plan(configs, monkeypatch, 4) == ([], 2, 4) and plan(configs, monkeypatch, 0, threads=1) == ([], 6, 1)
    assert not capsys.readouterr().out
    assert plan(configs, monkeypatch, 0, cores=2) == ([], 1, 4)
    assert "one worker of 4 threads on 2 cores" in capsys.readouterr().out


def test_what_a_run_takes_of_a_gpu_by_hand():
    """Twice what the layers give out: (1536 + 588) · 3 of convolutions, normalisations and rectifiers, 12 · 3 and 2."""
    weights = 162 + 12 + 648 + 24 + 26
    assert gpu_bytes(tiny_config()) == 2**30 + 4 * (5 * weights + 2 * 4 * (3 * (1536 + 588) + 3 * 12 + 2))


def test_many_workers_begin_with_what_takes_longest():
    """Ten times as wide counts for more than three times as many epochs."""
    wide = tiny_config(model={"name": "tiny", "options": {"width": 60}}, training__epochs=1)
    configs = {"short": tiny_config(training__epochs=1), "long": tiny_config(training__epochs=3), "wide": wide}
    assert list(longest_first(configs)) == ["wide", "long", "short"]


def test_a_network_that_looks_at_its_numbers_is_trained_all_the_same(monkeypatch):
    class Looks(nn.Sequential):
        in_channels = 1

        def forward(self, images):
            return super().forward(images) * float(images.max())

    monkeypatch.setattr("thyroid_utils.training.data.check_config", lambda config: Looks(nn.Flatten(), nn.Linear(32 * 32, 2)))
    configs = {"short": tiny_config(training__epochs=1), "wide": tiny_config(model={"name": "tiny", "options": {"width": 6}})}
    assert set(longest_first(configs)) == set(configs)
    assert gpu_bytes(configs["wide"]) > 1e18, "one on a GPU"


_CALLER = """
import time
from thyroid_utils.training.engine import local_workers
with local_workers(1) as client:
    client.wait_for_workers(1, timeout=60)
    print(client.scheduler.address, flush=True)
    time.sleep(600)
"""


def test_local_workers_are_closed_to_strangers_and_end_when_their_caller_is_killed():
    caller = subprocess.Popen([sys.executable, "-c", _CALLER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = caller.stdout.readline().strip()
    processes = [psutil.Process(caller.pid), *psutil.Process(caller.pid).children(recursive=True)]
    ports = [found.laddr for process in processes for found in process.net_connections("inet") if found.status == "LISTEN"]
    assert len(ports) >= 4 and {port.ip for port in ports} == {"127.0.0.1"}, "nothing listens to other machines"
    assert address.startswith("tls://127.0.0.1:")
    assert not any("MALLOC_TRIM_THRESHOLD_" in process.environ() for process in processes), "which makes every step slower"
    with pytest.raises((TypeError, OSError)):  # without the keys
        Client(address, timeout=2)
    with pytest.raises(OSError):
        Client(address.replace("tls", "tcp"), timeout=2)
    for port in ports:
        with socket.create_connection(port, timeout=5) as stranger, contextlib.suppress(ConnectionError):
            stranger.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            assert b" 200 " not in stranger.recv(100), "no page tells of the runs"
    caller.kill()
    caller.communicate()
    gone, alive = psutil.wait_procs(processes[1:], timeout=20)
    assert gone and not alive


def kill_a_trainer(runs: Path, over: threading.Event, killed: list[str]) -> None:
    """SIGKILL for the first worker whose run has an epoch kept."""
    while not killed and not over.wait(0.01):
        for state in runs.glob("*/resume/state.pt"):
            run = state.parents[1].name
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                with state.open("rb") as stream:
                    epochs = json.loads(stream.readline())["epoch"]
                holders = [process for process in psutil.Process().children() if holds(process, run)]
                if epochs and holders and not killed:
                    holders[0].kill()
                    killed.append(run)


def holds(process: psutil.Process, run: str) -> bool:
    return any(file.path.endswith(f"{run}.lock") for file in process.open_files())


def small_config(seed: int) -> RunConfig:
    """A network that worker processes know, on few and small images."""
    data = {"options": {"patients": 8, "size": 64, "views": [1, 1], "malignant_share": 0.5}}
    split, training = {"ratios": (0.5, 0.25, 0.25)}, {"epochs": 8, "batch_size": 2, "device": "cpu"}
    return RunConfig(data=data, split=split, size=32, model={"name": "timm:test_resnet"}, training=training, seed=seed)


def test_a_killed_worker_loses_nothing_and_changes_nothing(ticks, tmp_path, monkeypatch):
    configs = [small_config(seed) for seed in (1, 2)]
    monkeypatch.setattr("dask.system.CPU_COUNT", 2)
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "serial"))
    expected = run_all(configs)
    ticks.clear()
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "dask"))
    over, killed = threading.Event(), []
    killer = threading.Thread(target=kill_a_trainer, args=(tmp_path / "dask", over, killed))
    killer.start()
    try:
        runs = run_all(configs, "dask")
    finally:
        over.set()
        killer.join()
    assert killed and killed[0] in [run.name for run in runs] and ticks == [(1, 2), (2, 2)]
    for one, other in zip(expected, runs, strict=True):
        same_results(one.folder, other.folder)
        assert other.environment["threads"] == 1
    left = [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert not left, "a worker outlives its use"
