"""Where a model's first values come from: ImageNet, a file, or chance, and never another one than was asked for.

ImageNet files lie in PyTorch's own folder, `torch.hub.get_dir()/checkpoints`, which TORCH_HOME moves. torchvision's carry the
first digits of their SHA-256 in their names, as in resnet18-f37072fd.pth; timm's are called after the model, as in
resnet18.a1_in1k.safetensors. A segmenter's encoder takes torchvision's file where it is torchvision's network, else smp's or
timm's, such as mit_b0.imagenet.safetensors, from there or from the cache of Hugging Face's hub.
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

from thyroid_utils.common import paths
from thyroid_utils.common.files import atomic_path, file_hash
from thyroid_utils.models import segmentation_libraries
from thyroid_utils.models.architectures import architecture, timm_module
from thyroid_utils.models.segmenter_architectures import Encoder, SegmenterArchitecture, any_architecture

Progress = Callable[[int, int], None]

DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer or without further bytes
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")  # what DDP, compile, Lightning and Classifier put in front of names
_NAMED = 4  # parameter names of one kind in an error message


class WeightsError(ValueError):
    """Weights that are missing, damaged or made for another model. One line: which, where, what to do."""


@dataclass(frozen=True)
class ImageNetFile:
    """A published weights file. digits: first digits of its SHA-256, empty where its name does not tell. cached: where else it
    lies already, None for nowhere."""

    filename: str
    url: str
    digits: str = ""
    cached: Path | None = None

    @property
    def path(self) -> Path:
        return checkpoints_dir() / self.filename


def checkpoints_dir() -> Path:
    """The folder in which torch.hub, and so torchvision, keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def imagenet_file(name: str, options: Mapping[str, Any] | None = None) -> ImageNetFile:
    """The published ImageNet weights of a classifier or of a segmenter's encoder: torchvision's IMAGENET1K_V1, or what smp or
    timm names. options: the model's own; one of them may choose the encoder.

    Raises:
        ValueError: no such model.
        WeightsError: a timm model without published weights, or a segmenter without an encoder that has some.
    """
    facts = any_architecture(name)
    if isinstance(facts, SegmenterArchitecture):
        return _encoder_file(name, facts.encoder_of(options))
    if facts.imagenet is not None:
        return _torchvision_file(facts.imagenet.url)
    return _timm_file(name, name.removeprefix("timm:"))


def _encoder_file(name: str, part: Encoder | None) -> ImageNetFile:
    if part is None:
        raise WeightsError(f"{name}: has no encoder with published ImageNet weights; use weights: none or a file")
    encoder = part.name
    if encoder.startswith("tu-"):
        return _timm_file(name, encoder.removeprefix("tu-"), hub_cache=True)
    url = segmentation_libraries.torchvision_weights_url(encoder)
    if url is not None:
        return _torchvision_file(url)
    published = segmentation_libraries.hub_weights(encoder)
    if published is None:
        raise WeightsError(f"{name}: smp has no ImageNet weights of {encoder}; use weights: none")
    repository, revision, filename = published
    return _hub_file(filename, repository, "model.safetensors", revision, hub_cache=True)


def _hub_file(filename: str, repository: str, hub_name: str, revision: str | None, hub_cache: bool) -> ImageNetFile:
    from huggingface_hub import hf_hub_url, try_to_load_from_cache  # slow to import, and few models need it

    cached = try_to_load_from_cache(repository, hub_name, revision=revision) if hub_cache else None
    url = hf_hub_url(repository, hub_name, revision=revision)
    return ImageNetFile(filename, url, cached=Path(cached) if isinstance(cached, str) else None)


def _timm_file(name: str, own_name: str, hub_cache: bool = False) -> ImageNetFile:
    facts = timm_module().models.get_pretrained_cfg(own_name)
    if facts is None or facts.custom_load or not (facts.hf_hub_id or facts.url):
        raise WeightsError(f"{name}: timm has no pretrained weights of this model in a form read here; use weights: none")
    if not facts.hf_hub_id:
        return _torchvision_file(facts.url)
    hub_name = facts.hf_hub_filename or "model.safetensors"
    filename = f"{facts.architecture}.{facts.tag}{Path(hub_name).suffix}"
    return _hub_file(filename, facts.hf_hub_id, hub_name, None, hub_cache)


def _torchvision_file(url: str) -> ImageNetFile:
    filename = url.rpartition("/")[2]
    digits = re.search(r"-([a-f0-9]{8,})\.", filename)
    return ImageNetFile(filename, url, digits[1] if digits else "")


def check_weights(
    name: str, weights: str | Path, progress: Progress | None = None, options: Mapping[str, Any] | None = None
) -> Path | None:
    """Make sure that a model's weights are at hand, before anything slow begins.

    An ImageNet file that is not there yet is downloaded; without a connection that fails within seconds.

    Args:
        name: a classifier's or segmenter's name.
        weights: "imagenet", "none" or a file; a relative path is seen from the project root.
        progress: called with (bytes done, bytes in all) during a download.
        options: the model's own, where one of them chooses the encoder (`backbone` of mobile_deeplab).

    Returns:
        the file, None for "none".

    Raises:
        ValueError: no such model.
        WeightsError: a file that is absent, damaged or cannot be downloaded; says its name and the folder to put it in.
    """
    any_architecture(name)
    if str(weights) == "none":
        return None
    if str(weights) != "imagenet":
        return _own_file(weights)
    wanted = imagenet_file(name, options)
    if not wanted.path.is_file():
        if wanted.cached is not None:
            return wanted.cached
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


def weights_tag(weights: str | Path, name: str | None = None, options: Mapping[str, Any] | None = None) -> str:
    """What a model started from, short enough for a table.

    Args:
        weights: "imagenet", "none" or a file, as for `check_weights`.
        name: the model's name; needed to tell timm's many pretrainings from torchvision's ImageNet one.
        options: the model's own, as for `check_weights`.

    Returns:
        "ImageNet", "from scratch", "timm a1_in1k", the first and third with "encoder" behind for a segmenter's, or the file's
        name and the first eight digits of its SHA-256.
    """
    if str(weights) == "none":
        return "from scratch"
    if str(weights) != "imagenet":
        path = _own_file(weights)
        return f"{path.name} {file_hash(path)[:8]}"
    facts = None if name is None else any_architecture(name)
    segmenter = isinstance(facts, SegmenterArchitecture)
    encoder = facts.encoder_of(options) if segmenter else None
    of_timm = encoder.name.startswith("tu-") if encoder else bool(name) and name.startswith("timm:")
    tag = f"timm {imagenet_file(name, options).filename.partition('.')[2].rpartition('.')[0]}" if of_timm else "ImageNet"
    return f"{tag} encoder" if segmenter else tag


def load_weights(model: nn.Module, weights: str | Path, name: str) -> None:
    """Give a model from `build_classifier` or `build_segmenter` the values it is to start from.

    ImageNet weights replace everything but the head; resnet18_transformer takes ResNet18's for its backbone and keeps its
    encoder; a segmenter takes them for its encoder alone. For other than three input channels the first convolution takes, in
    each channel, the mean of the three colours' filters times 3 / channels, so that a gray image repeated over the channels
    gives what it gives in three (timm models: timm's own rule). A file must hold every parameter and buffer in its shape; only
    a head for another number of classes, or none, is let through, with a warning, and begins at random.

    Args:
        model: a `Classifier` or `Segmenter`; its `weights` becomes `weights_tag`, with ", new head" where a file's head was
            left out.
        weights: "imagenet", "none" or a file: safetensors, or a state dict saved by `torch.save`, possibly under the key
            "state_dict" or "model".
        name: the model's name.

    Raises:
        WeightsError: as `check_weights`; a file that holds more than tensors; names or shapes of another architecture.
    """
    path = check_weights(name, weights, options=model.options)
    if path is None:
        return
    facts = any_architecture(name)
    segmenter = isinstance(facts, SegmenterArchitecture)
    if str(weights) == "imagenet":
        state = _encoder_state(model, facts, path) if segmenter else _imagenet_state(model, name, path)
        taken = (*state, "encoder.") if segmenter else facts.backbone
        kept = {key for key in model.network.state_dict() if key.startswith(facts.head) or not key.startswith(taken)}
    else:
        state = _read_state(path, name)
        kept = _unfit_head(model.network, state, facts.head)
    if kept:
        state = {key: value for key, value in state.items() if not key.startswith(facts.head)}
    tag = weights_tag(weights, name, model.options)
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
        state[first] = _for_channels(state[first], model.in_channels)
    return state


def _for_channels(filters: torch.Tensor, channels: int) -> torch.Tensor:
    """Filters (out, 3, height, width) for a gray image repeated over `channels`."""
    return filters.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)


def _encoder_state(model: nn.Module, facts: SegmenterArchitecture, path: Path) -> dict[str, torch.Tensor]:
    """Published values of a segmenter's encoder under the names of the segmenter's own parameters."""
    encoder = facts.encoder_of(model.options)
    timm_name = encoder.name.removeprefix("tu-") if encoder.name.startswith("tu-") else None
    source = None if timm_name is None else _timm_source(model.name, timm_name, path)
    if source is not None and not encoder.own:
        # smp has timm read the file once more, by a loader that overlooks what is missing, but not what was checked above.
        state = facts.build(model.in_channels, model.classes, weights=path, **model.options).state_dict()
        return {key: value for key, value in state.items() if key.startswith("encoder.")}
    try:
        if encoder.own:
            state = model.network.encoder_values(_read_state(path, model.name) if source is None else source.state_dict())
        else:
            published = segmentation_libraries.published_encoder(encoder.name)
            published.load_state_dict(_read_state(path, model.name))
            state = {f"encoder.{k}": v for k, v in published.state_dict().items() if not k.startswith(encoder.left_out)}
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{model.name}: {path} does not fit {encoder.name} ({reason}); delete it and run again") from None
    if model.in_channels != 3:
        first = next(key for key, value in state.items() if value.ndim == 4 and value.shape[1] == 3)
        state[first] = _for_channels(state[first], model.in_channels)
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
    sizes = {key: value for key, value in model.options.items() if key == "img_size"}
    return _timm_source(name, name.removeprefix("timm:"), path, in_chans=model.in_channels, **sizes).state_dict()


def _timm_source(name: str, own_name: str, path: Path, **options: Any) -> nn.Module:
    """timm reads its own files: it renames old parameters and resizes position embeddings. Its loader is strict only while
    the number of classes is the published one."""
    timm = timm_module()
    try:
        return timm.create_model(
            own_name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path)},
            num_classes=timm.models.get_pretrained_cfg(own_name).num_classes,
            **options,
        )
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, KeyError) as error:
        raise WeightsError(f"{name}: {path} cannot be loaded ({_first_line(error)}); delete it and run again") from None


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
    other_classes = all(key in state and _alike(state[key].shape, value.shape) for key, value in own.items()) and any(
        state[key].shape != value.shape for key, value in own.items()
    )
    return set(own) if own and (absent or other_classes) else set()


def _alike(shape: torch.Size, other: torch.Size) -> bool:
    """Whether two shapes differ by the number of classes alone: the first size, or in FCN's enlargements the first two."""
    square = shape[:1] == shape[1:2] and other[:1] == other[1:2]
    return len(shape) == len(other) and shape[2 if square else 1 :] == other[2 if square else 1 :]


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
