"""Class activation maps: where in a network they look, and maps made by pytorch-grad-cam as the methods' papers define them.

The library itself subtracts a map's minimum, divides by the maximum plus 10⁻⁷ and does so twice; it fills the gradients of the
network's parameters, and keeps a layer's output without a copy though what follows may change it in place. So only its hooks and
its formulas are taken here.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import NamedTuple

import cv2
import numpy as np
import torch
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from thyroid_utils.common.progress import Progress
from thyroid_utils.common.words import count
from thyroid_utils.inference.predictor import evaluating
from thyroid_utils.models.networks import Classifier, Network, Segmenter
from thyroid_utils.models.unet import UNet
from thyroid_utils.training.tasks import THRESHOLD, nodule_probability

Target = Callable[[torch.Tensor], torch.Tensor]
NODULE = "nodule"
# Selvaraju et al. 2017; Chattopadhay et al. 2018; Wang et al. 2020; Muhammad and Yeasin 2020; Jiang et al. 2021.
CAM_METHODS: dict[str, type[BaseCAM]] = {
    "grad_cam": GradCAM,
    "grad_cam_pp": GradCAMPlusPlus,
    "score_cam": ScoreCAM,
    "eigen_cam": EigenCAM,
    "layer_cam": LayerCAM,
}
_MOST_PLACES = 4096  # of Eigen-CAM, whose decomposition holds places² numbers


class TargetLayer(NamedTuple):
    """A layer to explain, and what makes of its output a copy of the form (batch, channels, rows, columns)."""

    module: nn.Module
    reshape: Callable[[torch.Tensor], torch.Tensor] = torch.clone


@dataclass(frozen=True)
class CamMaps:
    """Maps of n images.

    maps: float32 (n, height, width) in [0, 1], each divided by its own maximum. blank: bool (n,), no place speaks for the target
    (zero everywhere after the ReLU; the map stays 0), or the network's values are no numbers. none_called: bool (n,), a segmenter
    that calls no pixel nodule, whose map then explains the mean logit of all pixels. grid: (rows, columns) of the maps before
    they were enlarged; where they are few, say below 7×7, the maximum is far from the middle for that reason alone.
    """

    maps: np.ndarray
    blank: np.ndarray
    none_called: np.ndarray
    grid: tuple[int, int]

    def summary(self) -> str:
        """`200 maps of 7×7 places, 3 of them blank`, or none."""
        missed = f"; {int(self.none_called.sum())} of images in which nothing is called nodule" if self.none_called.any() else ""
        maps = f"{count(len(self.maps), 'map')} of {self.grid[0]}×{self.grid[1]} places"
        return f"{maps}, {int(self.blank.sum()) or 'none'} of them blank{missed}"


def cam_maps(
    network: nn.Module,
    inputs: np.ndarray,
    *,
    method: str = "grad_cam",
    target: int | str = 1,
    layer: TargetLayer | str | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> CamMaps:
    """Which places of each image speak for the target.

    Memory is that of one batch, whatever the number of images. The network keeps its mode, its gradients and its hooks, and the
    random generators are not touched. Score-CAM goes image by image and needs channels · height · width · 16 bytes (0.4 GB for
    ResNet18 at 224 pixels), and as many forward passes an image as the layer has channels. Eigen-CAM knows no target; the sign of
    a principal component being arbitrary, the one with the larger absolute values is taken for positive.

    Args:
        network: `Classifier` or `Segmenter` (`Predictor.network`), or any module where `layer` is given as a `TargetLayer`.
        inputs: float32 (n, channels, height, width), as `Predictor.inputs` gives them.
        method: one of `CAM_METHODS`.
        target: class of a classifier (1 malignant), whose logit is explained; for a segmenter 1 or "nodule": the mean logit of
            the pixels that it calls nodule.
        layer: None for `target_layer`; the path of a module inside `network.network` with a map as output; or a `TargetLayer`.
        batch_size: images at a time.
        progress: called with (images done, images in all).

    Raises:
        ValueError: an unknown method, target or layer, or a map too fine for Eigen-CAM.
    """
    if method not in CAM_METHODS:
        raise ValueError(f"method {method!r} is unknown; known: {', '.join(CAM_METHODS)}")
    size = inputs.shape[-2:]
    chosen = chosen_layer(network, layer, size)
    step = 1 if method == "score_cam" else batch_size
    maps = np.zeros((len(inputs), *size), np.float32)
    none_called = np.zeros(len(inputs), bool)
    with evaluating(network):
        for start in range(0, len(inputs), step):
            batch = slice(start, start + step)
            images = as_images(network, inputs[batch])
            targets, none_called[batch] = image_targets(network, images, target)
            found = _raw_maps(network, chosen, method, images, targets, batch_size)
            maps[batch] = [_enlarged(network, values, size) for values in found]
            if progress is not None:
                progress(min(start + step, len(inputs)), len(inputs))
    peak = maps.max(axis=(1, 2), keepdims=True)
    blank = ~(np.isfinite(maps) & (peak > 0)).all(axis=(1, 2))
    maps[blank] = 0
    maps[~blank] /= peak[~blank]
    return CamMaps(maps, blank, none_called, found.shape[1:])


def as_images(network: nn.Module, inputs: np.ndarray) -> torch.Tensor:
    """A batch on the network's device."""
    images = torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
    return images.to(next(network.parameters()).device, memory_format=torch.channels_last)


def chosen_layer(network: nn.Module, layer: TargetLayer | str | None, size: tuple[int, int] | None = None) -> TargetLayer:
    """A layer as it is, that of a path, or, where none is named, the `target_layer` for inputs of that size."""
    if layer and isinstance(layer, str):
        return TargetLayer(named_layer(getattr(network, "network", network), layer))
    return layer or target_layer(network, size)


def _raw_maps(
    network: nn.Module, layer: TargetLayer, method: str, images: torch.Tensor, targets: Sequence[Target], batch_size: int
) -> np.ndarray:
    """Maps (batch, rows, columns) after the ReLU, at the layer's own resolution."""
    cam = CAM_METHODS[method](network, [layer.module], layer.reshape)
    cam.batch_size = batch_size
    activations, *gradients = _layer_values(cam, layer, images, targets)
    rows, columns = activations.shape[2:]
    if method == "eigen_cam" and rows * columns > _MOST_PLACES:
        raise ValueError(f"eigen_cam: a map of {rows}×{columns} is too fine; choose a coarser layer")
    with redirect_stderr(StringIO()):  # Score-CAM draws one bar an image
        found = cam.get_cam_image(images, layer.module, targets, activations, *gradients or [None], eigen_smooth=False)
    if method == "eigen_cam":
        negative = np.abs(found.min(axis=(1, 2))) > np.abs(found.max(axis=(1, 2)))
        found = np.where(negative[:, None, None], -found, found)
    return np.maximum(found, 0).astype(np.float32)


def _layer_values(cam: BaseCAM, layer: TargetLayer, images: torch.Tensor, targets: Sequence[Target]) -> list[np.ndarray]:
    """The layer's output and, where the method uses them, the targets' gradients there, each (batch, channels, rows, columns)."""
    edges: list[GradientEdge] = []
    note = layer.module.register_forward_hook(lambda _, given, output: edges.append(get_gradient_edge(output)))
    held = cam.activations_and_grads
    try:
        outputs = held(images.requires_grad_())
        if cam.uses_gradients:  # those of the layer are kept on the way, which ends there; parameters get none
            torch.autograd.grad(sum(target(output) for target, output in zip(targets, outputs, strict=True)), edges)
        values = [value.numpy() for value in (*held.activations, *held.gradients)]
    finally:
        note.remove()
        held.release()
    if values[0].ndim != 4:
        kind = type(layer.module).__name__
        raise ValueError(f"layer {kind} gives {values[0].shape}; expected (batch, channels, rows, columns)")
    return values


def cam_parts(
    network: nn.Module, image: np.ndarray, *, target: int | str = 1, layer: TargetLayer | str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What Grad-CAM makes a map of, ReLU(Σ α_k A_k): the layer's maps A_k, (channels, rows, columns), and their weights α_k,
    (channels,), the mean gradient of the target's logit over a map's places.

    image: float32 (channels, height, width). network, target, layer: as for `cam_maps`.
    """
    chosen = chosen_layer(network, layer, image.shape[-2:])
    with evaluating(network):
        images = as_images(network, image[None])
        targets, _ = image_targets(network, images, target)
        (maps,), (gradients,) = _layer_values(GradCAM(network, [chosen.module], chosen.reshape), chosen, images, targets)
    return maps, gradients.mean(axis=(1, 2))


def map_layers(network: Network, side: int) -> dict[str, str]:
    """The layers that can be explained on the way through a network, name with size → path, coarsest first: for each size of map
    the last module that puts one out. None of a network that works on tokens.

    side: of its input, in pixels.
    """
    paths, last = {module: path for path, module in network.network.named_modules() if path}, {}
    for module, shape in trial(network, side):
        if module in paths and isinstance(shape, tuple) and len(shape) == 4 and shape[2] * shape[3] > 1:
            last[shape[2:]] = paths[module]
    return {f"{path}, {rows}×{columns}": path for (rows, columns), path in sorted(last.items())}


def _enlarged(network: nn.Module, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A raw map on the pixels of its image, by linear interpolation as the library has it."""
    height, width, above, left = covered(network, size, values.shape)
    full = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return full[above : above + size[0], left : left + size[1]]


def image_targets(
    network: nn.Module, images: torch.Tensor, target: int | str, *, probability: bool = False
) -> tuple[Sequence[Target], np.ndarray]:
    """A target for each image.

    Args:
        network: in evaluation mode.
        images: (batch, channels, height, width), on the network's device.
        target: the number of a class; for a segmenter 1 or "nodule", the pixels that it calls nodule in that image, once and
            for all versions of the image (Seg-Grad-CAM), and all pixels where it calls none.
        probability: of the class or pixels instead of the logit.

    Returns:
        targets, and bool (batch,): the segmenter calls no pixel nodule.

    Raises:
        ValueError: a class or target that the network does not have.

    Reference:
        Vinogradova, Dibrov and Myers, AAAI 2020 (Seg-Grad-CAM), who take the sum over the pixels: the same map, but in
        Score-CAM's softmax a sum over thousands leaves a single channel.
    """
    if not isinstance(network, Segmenter):
        classes = getattr(network, "classes", None)
        if isinstance(target, bool) or not isinstance(target, int) or target < 0 or (classes is not None and target >= classes):
            raise ValueError(f"target is {target!r}; a classifier needs a class, 0 to {'…' if classes is None else classes - 1}")

        def of_class(output: torch.Tensor) -> torch.Tensor:
            return (torch.softmax(output, dim=0) if probability else output)[target]

        return [of_class] * len(images), np.zeros(len(images), bool)
    if target not in (1, NODULE) or network.classes > 2:
        raise ValueError(
            f"target is {target!r} of {network.classes} classes; a segmenter is explained for its nodule pixels only"
        )
    with torch.no_grad():
        called = nodule_probability(network(images)) >= THRESHOLD  # (batch, height, width)
    none_called = ~called.flatten(1).any(dim=1)
    called[none_called] = True

    def of_pixels(pixels: torch.Tensor) -> Target:
        def mean(output: torch.Tensor) -> torch.Tensor:  # (classes, height, width)
            values = nodule_probability(output[None])[0] if probability else output[min(1, len(output) - 1)]
            return values[pixels].mean()

        return mean

    return [of_pixels(pixels) for pixels in called], none_called.cpu().numpy()


def target_layer(network: nn.Module, shape: tuple[int, int] | None = None) -> TargetLayer:
    """The layer whose map explains a network: the last before the places are pooled, or a segmenter's coarsest one.

    Args:
        network: a `Classifier` or `Segmenter`.
        shape: (height, width) of the images in pixels; needed for transformers on images that are not square.

    Returns:
        (module, reshape): what `reshape` makes of the module's output is float (batch, channels, rows, columns).

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
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)).clone()


def _timms_map(network: Classifier) -> nn.Module:
    """timm names its last stage, but whether that puts out a map with the channels in front only a trial shows."""
    stage = network.network.feature_info[-1] if getattr(network.network, "feature_info", None) else {"module": "", "num_chs": 0}
    last = network.network.get_submodule(stage["module"])
    shape = dict(trial(network, network.architecture.size))[last]
    if not (len(shape) == 4 and shape[1] == stage["num_chs"]):
        raise ValueError(f"{network.name}: works on tokens; name one of its modules with a map as layer")
    return last


def _coarsest_map(network: Network) -> nn.Module:
    """Found by a trial: the last module to put out a map as an encoder's last one, or else the coarsest map that is no 1×1.

    Raises:
        ValueError: no module puts out a map.
    """
    encoder, seen = getattr(network.network, "encoder", None), trial(network)
    ends = dict(seen).get(encoder)
    maps = [(module, shape) for module, shape in seen if len(shape) == 4 and shape[2] * shape[3] > 1]
    if ends and isinstance(ends, list):
        inside = set(encoder.modules())
        maps = [(module, shape) for module, shape in maps if module in inside and shape == ends[-1]]
    if not maps:
        raise ValueError(f"{network.name}: no layer with a coarse map was found; name one of its modules as layer")
    coarsest = min(shape[2] * shape[3] for _, shape in maps)
    return [module for module, shape in maps if shape[2] * shape[3] == coarsest][-1]


def trial(network: Network, side: int = 128) -> list[tuple[nn.Module, tuple[int, ...] | list]]:
    """Every module that is called for one black image, in that order, and the shape of its output; of several outputs, a list."""
    calls = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        calls.append((module, _shape(output)))

    side = getattr(network, "fixed_size", None) or max(side, network.minimum_size)
    parameter = next(network.parameters())
    with evaluating(network), ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        network(torch.zeros(1, network.in_channels, side, side, device=parameter.device, dtype=parameter.dtype))
    return calls


def _shape(output: object) -> tuple[int, ...] | list:
    if isinstance(output, list | tuple):
        return [_shape(one) for one in output]
    return tuple(getattr(output, "shape", ()))


def covered(network: nn.Module, shape: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """What a map of the target layer covers of images that the network fills up or mirrors to a size that it takes.

    Args:
        shape: (height, width) of the images.
        grid: (rows, columns) of the map.

    Returns:
        height and width in pixels, and how many of these lie above and left of the image.
    """
    height, width = shape
    if isinstance(network, Segmenter):
        inner = network.network
        if isinstance(inner, UNet) and inner.valid:  # unpadded convolutions: places keep their distance, and their centre
            taken = grid[0] * 2**inner.poolings, grid[1] * 2**inner.poolings
        else:
            taken = network.taken(height), network.taken(width)
        return *taken, (taken[0] - height) // 2, (taken[1] - width) // 2
    if isinstance(network, Classifier) and network.name == "vit_b_16":  # filled up to whole patches at the bottom and right
        patch = network.architecture.patch
        return height + -height % patch, width + -width % patch, 0, 0
    return height, width, 0, 0
