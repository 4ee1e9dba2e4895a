"""Where in a network Grad-CAM looks: the layer, how its output becomes a map, and which part of the image that map covers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn

from thyroid_utils.models.networks import Classifier, Network, Segmenter
from thyroid_utils.models.unet import UNet

Reshape = Callable[[torch.Tensor], torch.Tensor]


class TargetLayer(NamedTuple):
    """A layer to explain, and what brings its output into the form (batch, channels, rows, columns); None: it has it already."""

    module: nn.Module
    reshape: Reshape | None = None


class Covered(NamedTuple):
    """The rectangle that a map covers, in pixels of the image; above and left of 0 where the network extends the image."""

    height: int
    width: int
    top: int
    left: int


def target_layer(network: nn.Module, shape: tuple[int, int] | None = None) -> TargetLayer:
    """The layer whose map explains a network: the last before the places are pooled, or a segmenter's coarsest one.

    Args:
        network: a `Classifier` or `Segmenter`.
        shape: (height, width) of the images in pixels; needed for transformers on images that are not square.

    Returns:
        (module, reshape): the module's output, or what `reshape` makes of it, is float (batch, channels, rows, columns).

    Raises:
        ValueError: a network without such a layer, of which one must be named.
    """
    if not isinstance(network, Network):
        raise ValueError(f"{type(network).__name__}: no layer is known for it; name one of its modules as layer")
    path, patch = network.architecture.explained, network.architecture.patch
    if patch:
        return TargetLayer(named_layer(network.network, path), _Tokens(patch, shape))
    if path:
        try:
            return TargetLayer(named_layer(network.network, path))
        except ValueError:  # built with options that give it other parts
            pass
    return TargetLayer(_timms_map(network) if network.name.startswith("timm:") else _coarsest_map(network))


def named_layer(network: nn.Module, path: str) -> nn.Module:
    """A submodule by its path, in which -1 stands for the last child.

    Raises:
        ValueError: there is none; the names at the point where the path ends are given.
    """
    module, walked = network, ""
    for name in path.split("."):
        children = dict(module.named_children())
        if name == "-1" and children:
            name = next(reversed(children))
        if name not in children:
            known = ", ".join(children) or "none"
            raise ValueError(f"{type(network).__name__}: no layer {path!r}; inside {walked or 'it'} there are: {known}")
        module, walked = children[name], f"{walked}.{name}".removeprefix(".")
    return module


class _Tokens:
    """(batch, 1 + rows · columns, channels), the class token first → (batch, channels, rows, columns)."""

    def __init__(self, patch: int, shape: tuple[int, int] | None):
        self.grid = None if shape is None else (math.ceil(shape[0] / patch), math.ceil(shape[1] / patch))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        places = tokens.shape[1] - 1
        rows, columns = self.grid or (math.isqrt(places), math.isqrt(places))
        if rows * columns != places:
            raise ValueError(f"{places} tokens are no grid of {rows}×{columns}; give the images' height and width as shape")
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))


def _timms_map(network: Classifier) -> nn.Module:
    """timm names its last stage, but whether that puts out a map with the channels in front only a trial shows."""
    stage = network.network.feature_info[-1] if getattr(network.network, "feature_info", None) else {"module": "", "num_chs": 0}
    last, shapes = network.network.get_submodule(stage["module"]), []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if module is last:
            shapes.append(tuple(getattr(output, "shape", ())))

    trial(network, note, network.architecture.size)
    if not (len(shapes[0]) == 4 and shapes[0][1] == stage["num_chs"]):
        raise ValueError(f"{network.name}: works on tokens; name one of its modules with a map as layer")
    return last


def _coarsest_map(network: Network) -> nn.Module:
    """Found by a trial: the last module to put out a map as an encoder's last one, or else the coarsest map that is no 1×1.

    Raises:
        ValueError: no module puts out a map.
    """
    encoder = getattr(network.network, "encoder", None)
    ends: list[tuple[int, ...]] = []
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if module is encoder and isinstance(output, list | tuple) and isinstance(output[-1], torch.Tensor):
            ends.append(tuple(output[-1].shape))
        elif isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            seen.append((module, tuple(output.shape)))

    trial(network, note)
    if ends:
        inside = set(encoder.modules())
        seen = [(module, shape) for module, shape in seen if module in inside and shape == ends[0]]
    if not seen:
        raise ValueError(f"{network.name}: no layer with a coarse map was found; name one of its modules as layer")
    coarsest = min(shape[2] * shape[3] for _, shape in seen)
    return [module for module, shape in seen if shape[2] * shape[3] == coarsest][-1]


def trial(network: Network, note: Callable[[nn.Module, object, object], None], side: int = 128) -> None:
    """Show a network one black image, in evaluation mode, with a forward hook on every module; leaves it as it was."""
    side = getattr(network, "fixed_size", None) or max(side, network.minimum_size)
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters())
    with ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        hooks.callback(restore_modes, modes)
        network.eval()
        network(torch.zeros(1, network.in_channels, side, side, device=parameter.device, dtype=parameter.dtype))


def restore_modes(modes: dict[nn.Module, bool]) -> None:
    """Set every module to the mode (True: training) it had."""
    for module, training in modes.items():
        module.training = training


def covered(network: nn.Module, shape: tuple[int, int], grid: tuple[int, int]) -> Covered:
    """What a map of the target layer covers of images that the network fills up or mirrors to a size that it takes.

    Args:
        shape: (height, width) of the images.
        grid: (rows, columns) of the map.
    """
    height, width = shape
    if isinstance(network, Segmenter):
        inner = network.network
        if isinstance(inner, UNet) and inner.valid:  # unpadded convolutions: places keep their distance, and their centre
            taken = grid[0] * 2**inner.poolings, grid[1] * 2**inner.poolings
        else:
            taken = network.taken(height), network.taken(width)
        return Covered(*taken, -((taken[0] - height) // 2), -((taken[1] - width) // 2))
    if isinstance(network, Classifier) and network.name == "vit_b_16":  # filled up to whole patches at the bottom and right
        patch = network.architecture.patch
        return Covered(height + -height % patch, width + -width % patch, 0, 0)
    return Covered(height, width, 0, 0)
