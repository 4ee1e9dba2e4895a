"""Where a model's first values come from: ImageNet, a file, or chance, and never another one than was asked for.

ImageNet files lie in PyTorch's own folder, `torch.hub.get_dir()/checkpoints`, which TORCH_HOME moves. torchvision's carry the
first digits of their SHA-256 in their names, as in resnet18-f37072fd.pth; timm's are called after the model, as in
resnet18.a1_in1k.safetensors.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from thyroid_utils import paths
from thyroid_utils.files import atomic_path, file_hash
from thyroid_utils.models.architectures import architecture, timm_module

Progress = Callable[[int, int], None]

DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer or without further bytes
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")  # what DDP, compile, Lightning and Classifier put in front of names
_NAMED = 4  # parameter names of one kind in an error message


class WeightsError(ValueError):
    """Weights that are missing, damaged or made for another model. One line: which, where, what to do."""


@dataclass(frozen=True)
class ImageNetFile:
    """A published weights file. digits: first digits of its SHA-256, empty where its name does not tell."""

    filename: str
    url: str
    digits: str = ""

    @property
    def path(self) -> Path:
        return checkpoints_dir() / self.filename


def checkpoints_dir() -> Path:
    """The folder in which torch.hub, and so torchvision, keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def imagenet_file(name: str) -> ImageNetFile:
    """The published ImageNet weights of a classifier: torchvision's IMAGENET1K_V1, or what timm names for a `timm:NAME`.

    Raises:
        ValueError: no such model.
        WeightsError: a timm model without published weights.
    """
    weights = architecture(name).imagenet
    if weights is not None:
        return _torchvision_file(weights.url)
    facts = timm_module().models.get_pretrained_cfg(name.removeprefix("timm:"))
    if facts is None or facts.custom_load or not (facts.hf_hub_id or facts.url):
        raise WeightsError(f"{name}: timm has no pretrained weights of this model in a form read here; use weights: none")
    if not facts.hf_hub_id:
        return _torchvision_file(facts.url)
    from huggingface_hub import hf_hub_url  # slow to import, and only timm models need it

    filename = facts.hf_hub_filename or "model.safetensors"
    return ImageNetFile(f"{facts.architecture}.{facts.tag}{Path(filename).suffix}", hf_hub_url(facts.hf_hub_id, filename))


def _torchvision_file(url: str) -> ImageNetFile:
    filename = url.rpartition("/")[2]
    digits = re.search(r"-([a-f0-9]{8,})\.", filename)
    return ImageNetFile(filename, url, digits[1] if digits else "")


def check_weights(name: str, weights: str | Path, progress: Progress | None = None) -> Path | None:
    """Make sure that a model's weights are at hand, before anything slow begins.

    An ImageNet file that is not there yet is downloaded; without a connection that fails within seconds.

    Args:
        name: a classifier's name.
        weights: "imagenet", "none" or a file; a relative path is seen from the project root.
        progress: called with (bytes done, bytes in all) during a download.

    Returns:
        the file, None for "none".

    Raises:
        ValueError: no such model.
        WeightsError: a file that is absent, damaged or cannot be downloaded; says its name and the folder to put it in.
    """
    architecture(name)
    if str(weights) == "none":
        return None
    if str(weights) != "imagenet":
        return _own_file(weights)
    wanted = imagenet_file(name)
    if not wanted.path.is_file():
        _download(name, wanted, progress)
    elif not file_hash(wanted.path).startswith(wanted.digits):
        raise WeightsError(
            f"{name}: {wanted.path} is damaged: its SHA-256 does not begin with {wanted.digits}; delete it and run again"
        )
    return wanted.path


def _own_file(weights: str | Path) -> Path:
    path = paths.resolve_in_project(weights)
    if not path.is_file():
        raise WeightsError(f"weights must be imagenet, none or a file; there is no file {path}")
    return path


def _download(name: str, wanted: ImageNetFile, progress: Progress | None) -> None:
    """urllib rather than torch.hub, which waits for a silent server for ever."""
    folder = wanted.path.parent
    by_hand = f"download {wanted.url}, put it into {folder} as {wanted.filename}, and run again; or use weights: none"
    try:
        with (
            urllib.request.urlopen(wanted.url, timeout=DOWNLOAD_TIMEOUT) as answer,
            atomic_path(wanted.path) as temporary,
            temporary.open("wb") as target,
        ):
            total = int(answer.headers.get("Content-Length") or 0)
            digest = hashlib.sha256()
            done = 0
            while chunk := answer.read(1 << 20):
                target.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
            if done < total:
                raise http.client.IncompleteRead(b"", total - done)
            if not digest.hexdigest().startswith(wanted.digits):
                raise WeightsError(f"{name}: what {wanted.url} sent is not {wanted.filename} (another SHA-256); {by_hand}")
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise WeightsError(
            f"{name}: the ImageNet weights {wanted.filename} are not in {folder} and could not be downloaded "
            f"({reason or type(error).__name__}); {by_hand}"
        ) from None


def weights_tag(weights: str | Path, name: str | None = None) -> str:
    """What a model started from, short enough for a table.

    Args:
        weights: "imagenet", "none" or a file, as for `check_weights`.
        name: the model's name; needed to tell timm's many pretrainings from torchvision's ImageNet one.

    Returns:
        "ImageNet", "from scratch", "timm a1_in1k", or the file's name and the first eight digits of its SHA-256.
    """
    if str(weights) == "none":
        return "from scratch"
    if str(weights) != "imagenet":
        path = _own_file(weights)
        return f"{path.name} {file_hash(path)[:8]}"
    if name is not None and name.startswith("timm:"):
        return f"timm {imagenet_file(name).filename.partition('.')[2].rpartition('.')[0]}"
    return "ImageNet"


def load_weights(model: nn.Module, weights: str | Path, name: str) -> None:
    """Give a model from `build_classifier` the values it is to start from.

    ImageNet weights replace everything but the head; resnet18_transformer takes ResNet18's for its backbone and keeps its
    encoder. For other than three input channels the first convolution takes, in each channel, the mean of the three colours'
    filters times 3 / channels, so that a gray image repeated over the channels gives what it gives in three (timm models:
    timm's own rule). A file must hold every parameter and buffer in its shape; only a head for another number of classes, or
    none, is let through, with a warning, and begins at random.

    Args:
        model: a `Classifier`; its `weights` becomes `weights_tag`, with ", new head" where a file's head was left out.
        weights: "imagenet", "none" or a file: safetensors, or a state dict saved by `torch.save`, possibly under the key
            "state_dict" or "model".
        name: the model's name.

    Raises:
        WeightsError: as `check_weights`; a file that holds more than tensors; names or shapes of another architecture.
    """
    path = check_weights(name, weights)
    if path is None:
        return
    facts = architecture(name)
    if str(weights) == "imagenet":
        state = _imagenet_state(model, name, path)
        kept = {key for key in model.network.state_dict() if key.startswith(facts.head) or not key.startswith(facts.backbone)}
    else:
        state = _read_state(path, name)
        kept = _unfit_head(model.network, state, facts.head)
    if kept:
        state = {key: value for key, value in state.items() if not key.startswith(facts.head)}
    tag = weights_tag(weights, name)
    _fill(model.network, state, kept, f"{name}: {path.name} does not fit")
    if kept and str(weights) != "imagenet":
        tag += ", new head"
        warnings.warn(
            f"{name}: the head in {path.name} does not fit {model.classes} classes; a new one begins at random", stacklevel=3
        )
    model.weights = tag


def _imagenet_state(model: nn.Module, name: str, path: Path) -> dict[str, torch.Tensor]:
    """Published values under the names of the model's own parameters, the first convolution for its number of channels."""
    facts = architecture(name)
    if facts.first is None:
        return _timm_state(model, name, path)
    state = {facts.backbone + key: value for key, value in _read_state(path, name).items()}
    if facts.backbone:
        state = {key: value for key, value in state.items() if not key.startswith(f"{facts.backbone}fc.")}
    if not model.auxiliary_weight:
        state = {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}
    # torchvision's vision transformers were saved with the names that their feed-forward parts had before release 0.13.
    state = {key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): v for key, v in state.items()}
    first = f"{facts.first}.weight"
    if model.in_channels != 3 and name == "inception_v3":
        _fold_rescaling(state, first)
    if model.in_channels != 3 and first in state:
        mean = state[first].mean(dim=1, keepdim=True)
        state[first] = mean.repeat(1, model.in_channels, 1, 1) * (3 / model.in_channels)
    return state


def _fold_rescaling(state: dict[str, torch.Tensor], first: str) -> None:
    """Move Inception's own rescaling of red, green and blue, which other channels do not go through, into its first layer.

    It maps a colour to (σ x + µ - 0.5) / 0.5. The factor goes into the filters; what the constant adds is the same everywhere,
    as this convolution does not pad, and the mean of the batch normalisation behind it takes it up.
    """
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    running = f"{first.rpartition('.conv.')[0]}.bn.running_mean"
    if first not in state or running not in state or state[first].shape[1] != 3:
        return  # told by the comparison of names and shapes
    filters = state[first]
    state[running] = state[running] - (filters * ((mean - 0.5) / 0.5).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    state[first] = filters * (deviation / 0.5).view(1, 3, 1, 1)


def _timm_state(model: nn.Module, name: str, path: Path) -> dict[str, torch.Tensor]:
    """timm reads its own files: it renames old parameters and resizes position embeddings. Its loader is strict only while
    the number of classes is the published one."""
    timm = timm_module()
    own_name = name.removeprefix("timm:")
    sizes = {key: value for key, value in model.options.items() if key == "img_size"}
    try:
        source = timm.create_model(
            own_name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path)},
            in_chans=model.in_channels,
            num_classes=timm.models.get_pretrained_cfg(own_name).num_classes,
            **sizes,
        )
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, KeyError) as error:
        raise WeightsError(f"{name}: {path} cannot be loaded ({_first_line(error)}); delete it and run again") from None
    return source.state_dict()


def _read_state(path: Path, name: str) -> dict[str, torch.Tensor]:
    """Names and tensors of a file, without anything that wrappers put in front of the names. Nothing is ever unpickled."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{name}: {path} is no plain state dict: it is damaged, or holds Python objects, which are not read; "
            "save model.state_dict() with torch.save or as safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{name}: {path} cannot be read ({_first_line(error)}); get or save it again") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise WeightsError(f"{name}: {path} holds no state dict (parameter names with tensors); save model.state_dict()")
    state = dict(state)
    while wrapper := next((prefix for prefix in _WRAPPERS if all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _unfit_head(network: nn.Module, state: Mapping[str, torch.Tensor], head: tuple[str, ...]) -> set[str]:
    """The head's parameters, where the file has none of them or has them for another number of classes."""
    own = {key: value for key, value in network.state_dict().items() if head and key.startswith(head)}
    absent = not any(key in state for key in own)
    other_classes = all(
        key in state and state[key].ndim == value.ndim and state[key].shape[1:] == value.shape[1:] for key, value in own.items()
    ) and any(state[key].shape != value.shape for key, value in own.items())
    return set(own) if own and (absent or other_classes) else set()


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], kept: set[str], failure: str) -> None:
    own = network.state_dict()
    wanted = {key: value for key, value in own.items() if key not in kept}
    # Files from before PyTorch 0.4.1, some of torchvision's among them, lack the counter of batches, which nothing here uses.
    missing = [key for key in wanted if key not in state and not key.endswith(".num_batches_tracked")]
    unknown = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {_shape(state[key])} instead of {_shape(value)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    problems = [f"{len(found)} {kind} ({_listed(found)})" for kind, found in kinds if found]
    if problems:
        raise WeightsError(f"{failure}: {'; '.join(problems)}; name the model, channels and options that it was made for")
    network.load_state_dict(dict(state), strict=False)  # names and shapes have been compared; what is kept is absent


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(os.linesep + ".:") if text else type(error).__name__
