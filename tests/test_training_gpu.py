"""What training does on a GPU, as far as a CPU can tell."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_project import (  # noqa: F401  (fixtures of every test here)
    Killed,
    batches_of,
    elsewhere,
    joint_config,
    killed_at,
    one_cache,
    own_runs,
    same_results,
    segmentation_config,
    tiny_config,
)

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.training import loop
from thyroid_utils.training.data import assemble, open_arrays, split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.state import read_state
from thyroid_utils.training.tasks import Arrays

CPU = torch.device("cpu")
KINDS = pytest.mark.parametrize("made", [tiny_config, segmentation_config, joint_config])


def begun(config: RunConfig) -> loop.Training:
    assembly = assemble(config, split_data(config), Path("nowhere"), CPU)
    return loop.Training(assembly, None, CPU, lambda done, total: None)


class Calls(TorchDispatchMode):
    """The names of the operations inside."""

    def __enter__(self):
        self.names: set[str] = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(str(operation.overloadpacket))
        return operation(*args, **(kwargs or {}))


@KINDS
def test_a_step_neither_asks_for_a_number_nor_makes_a_tensor_of_numbers(made):
    """For either a GPU is waited for. The loss, which a CPU asks for, is left out here; Adam's fused kernel only a GPU has."""
    balance = {} if made is segmentation_config else {"training__class_balance": "weights"}
    training = begun(made(optimiser={"name": "sgd", "learning_rate": 0.01, "clip_norm": 1.0}, **balance))
    training.check = lambda *_: None
    batch = next(iter(training.batches()))
    with Calls() as calls:
        training.step(batch, 1)
    assert len(calls.names) > 40
    assert not calls.names & {"aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.masked_select", "aten.equal"}


@KINDS
def test_arrays_that_a_device_holds_train_the_same_network(made, monkeypatch, tmp_path):
    config = made(training__epochs=2)
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "held")

    def held(*given):
        arrays = Arrays(*given)
        arrays.hold(CPU)
        assert isinstance(arrays.batch(arrays.places([np.array([2, 0])])[0]).images, torch.Tensor)
        return arrays

    monkeypatch.setattr("thyroid_utils.training.data.Arrays", held)
    same_results(straight.folder, fit_or_load(config).folder)


def test_a_gpu_holds_what_fits_into_an_eighth_of_its_free_memory(monkeypatch):
    config = segmentation_config()
    store = open_arrays(config, split_data(config).cases)
    size = store.images[:, :1].nbytes + store.masks.nbytes
    hold = Arrays.hold
    monkeypatch.setattr(Arrays, "hold", lambda arrays, device: held.append(device.type))
    for free, expected in ((8 * size, ["cuda"]), (8 * size - 1, [])):
        held = []
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10 * free))
        Arrays(store, True, torch.device("cuda"))
        assert held == expected
    monkeypatch.setattr(Arrays, "hold", hold)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * size, 8 * size))
    monkeypatch.setattr("thyroid_utils.training.tasks._sent", Mock(side_effect=torch.OutOfMemoryError))
    assert Arrays(store, True, torch.device("cuda")).held is None, "another run was faster"


@KINDS
def test_a_recorded_step_is_warmed_up_without_a_trace_and_takes_whole_batches(made, monkeypatch):
    """In place of CUDA's recorder one that warms up as that does, and writes every loss to one place."""
    seen = []

    def recorder(module, sample, allow_unused_input):
        module(*sample).backward()
        place = torch.zeros(())

        def replayed(*parts):
            seen.append(len(parts[0]))
            loss = module(*parts)
            place.copy_(loss.detach())
            return loss - loss.detach() + place

        return replayed

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    training = begun(made())
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    training.recorded = training.record()
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.network.state_dict().items())
    row, sizes = training.train(), [len(part) for part in training.batches().parts]
    assert seen == [size for size in sizes if size == 4] and np.isfinite(row["train_loss"])

    def unrecordable(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", unrecordable)
    with pytest.raises(TrainingError, match=r"cannot be a CUDA graph; set training\.cuda_graph \(COMPILE\) to False"):
        training.record()


def test_states_of_short_epochs_are_kept_seconds_apart_and_go_on_exactly(monkeypatch, tmp_path):
    config = tiny_config(training__epochs=4)
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "resumed")
    monkeypatch.setattr(loop, "KEPT_EVERY", 1e6)
    with pytest.raises(Killed):
        fit_or_load(config, killed_at(2 * batches_of(config) + 1))
    assert read_state(runs_dir() / straight.name / "resume").epoch == 1, "the first is kept at once"
    same_results(straight.folder, fit_or_load(config).folder)
    training = begun(config)
    training.state.epoch, training.kept = 3, 1
    with pytest.raises(TrainingError, match="in epoch 4, batch 2; epoch 1 is kept"):
        training.check(float("nan"), "batch 2")
