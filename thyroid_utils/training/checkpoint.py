"""Where training stands after an epoch, on disk: tensors as safetensors, everything else as JSON, nothing pickled.

`last.json` names the tensor files that belong together and their SHA-256. It is replaced in one step when they are all
written, and what it no longer names is removed after: a process killed at any moment leaves one whole state.
Random numbers need no state: they are drawn from (seed, epoch), not from what was drawn before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from thyroid_utils.common.files import write_bytes, write_text
from thyroid_utils.training.optimisers import Schedule

LAST = "last.json"


@dataclass
class TrainingProgress:
    """How far a run is. epoch: epochs finished; history: a row each; waited: epochs since the best one; best_value: the
    monitored value at `best_epoch`; stopped: by early stopping; seconds, images: spent on and seen in training; stretches:
    device, version of torch, and the first and last epoch trained with them."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    waited: int = 0
    stopped: bool = False
    seconds: float = 0.0
    images: int = 0
    stretches: list[dict[str, Any]] = field(default_factory=list)

    def note_stretch(self, device: str, version: str) -> None:
        """Count the epoch just finished to the last stretch, or begin one where the device or the version has changed."""
        last = self.stretches[-1] if self.stretches else {}
        if (last.get("device"), last.get("torch")) == (device, version):
            last["epochs"] = [last["epochs"][0], self.epoch]
        else:
            self.stretches.append({"device": device, "torch": version, "epochs": [self.epoch, self.epoch]})


@dataclass(frozen=True)
class Checkpoint:
    """What `read_checkpoint` found."""

    progress: TrainingProgress
    network: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any] | None


class CheckpointDamaged(RuntimeError):
    """A state to resume from that is there and cannot be used."""


def write_checkpoint(
    folder: Path,
    network: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    progress: TrainingProgress,
) -> None:
    """Keep the state after `progress.epoch`; also as the best weights where it is the best epoch."""
    weights = plain_tensors(network.state_dict())
    tensors, settings = _flattened(optimiser.state_dict())
    tensors |= {f"network.{name}": tensor for name, tensor in weights.items()}
    previous = _read_last(folder)
    files = {"state": _written(folder, f"epoch-{progress.epoch:05d}.safetensors", tensors)}
    if progress.best_epoch == progress.epoch:
        files["best"] = _written(folder, f"best-{progress.epoch:05d}.safetensors", weights)
    else:
        files["best"] = previous["files"]["best"]
    body = {
        "progress": asdict(progress),
        "files": files,
        "optimiser": settings,
        "schedule": None if schedule is None else schedule.state_dict(),
    }
    write_text(folder / LAST, json.dumps({"body": body, "sha256": text_hash(body)}))
    named = {LAST, *(entry["name"] for entry in files.values())}
    for path in folder.iterdir():
        if path.name not in named and not path.is_dir():  # a folder is another program's
            path.unlink()


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The state that was kept last, or None where there is none.

    Raises:
        CheckpointDamaged: a file is missing, or not the one that was written.
    """
    if not (folder / LAST).is_file():
        return None
    try:
        last = _read_last(folder)
        state = load(_verified(folder, last["files"]["state"]))
        best = load(_verified(folder, last["files"]["best"]))
        progress = TrainingProgress(**last["progress"])
        prefix = "network."
        network = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        optimiser = _unflattened({k: v for k, v in state.items() if not k.startswith(prefix)}, last["optimiser"])
        return Checkpoint(progress, network, best, optimiser, last["schedule"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointDamaged(f"{folder}: {error}") from None


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state as `read_checkpoint` gives it, each tensor in the memory layout of its parameter.

    The layout matters: arithmetic over another one may round the last bit differently.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, entries in state["state"].items():
        parameter = parameters[number]
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    optimiser.load_state_dict(state)


def plain_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU in the ordinary layout, none sharing memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def _flattened(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors, and the rest as plain values."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        values[str(number)] = {}
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimiser.{number}.{name}"] = value
            else:
                values[str(number)][name] = value
    return plain_tensors(tensors), {"values": values, "param_groups": state["param_groups"]}


def _unflattened(tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in settings["values"].items()}
    for key, tensor in tensors.items():
        _, number, name = key.split(".", 2)
        state[int(number)][name] = tensor
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in settings["param_groups"]]
    return {"state": state, "param_groups": groups}


def _written(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    content = save(tensors)
    write_bytes(folder / name, content)
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest()}


def _verified(folder: Path, entry: dict[str, str]) -> bytes:
    content = (folder / entry["name"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['name']} is not what was written")
    return content


def _read_last(folder: Path) -> dict[str, Any]:
    if not (folder / LAST).is_file():
        return {}
    last = json.loads((folder / LAST).read_text(encoding="utf-8"))
    if text_hash(last["body"]) != last["sha256"]:
        raise ValueError(f"{LAST} is not what was written")
    return last["body"]


def text_hash(body: dict[str, Any]) -> str:
    """SHA-256 of a mapping as JSON, by which a changed file is noticed."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
