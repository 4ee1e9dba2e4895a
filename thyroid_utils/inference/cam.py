"""Class activation maps: made by pytorch-grad-cam, with what it does to a map and to a network behind one's back undone.

The library subtracts a map's minimum, divides by the maximum plus 10⁻⁷ and does so twice; it sets the network to evaluation
mode, fills the gradients of its parameters, and swallows an IndexError in a `with` block. Here maps are taken as the methods
define them, and the network is given back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM, score_cam
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn

from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.layers import Covered, TargetLayer, covered, named_layer, restore_modes, target_layer
from thyroid_utils.models.networks import Segmenter
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
_WITHOUT_GRADIENT = ("score_cam", "eigen_cam")
_MOST_PLACES = 4096  # of Eigen-CAM, whose decomposition holds places² numbers


@dataclass(frozen=True)
class CamMaps:
    """Maps of n images.

    maps: float32 (n, height, width) in [0, 1], each divided by its own maximum. blank: bool (n,), no place speaks for the target
    (zero everywhere after the ReLU; the map stays 0), or the network's values are no numbers (then `peak` is NaN). peak: float
    (n,), the maximum before division: small ones tell that a map was made visible from little. none_called: bool (n,), a
    segmenter that calls no pixel nodule, whose map then explains the mean logit of all pixels. grid: (rows, columns) of the maps
    before they were enlarged; where they are few, say below 7×7, the maximum is far from the middle for that reason alone.
    """

    maps: np.ndarray
    blank: np.ndarray
    peak: np.ndarray
    none_called: np.ndarray
    grid: tuple[int, int]

    def summary(self) -> str:
        """`200 maps of 7×7 places, 3 of them blank`."""
        missed = f"; {int(self.none_called.sum())} of images in which nothing is called nodule" if self.none_called.any() else ""
        return f"{len(self.maps)} maps of {self.grid[0]}×{self.grid[1]} places, {int(self.blank.sum())} of them blank{missed}"


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
        ValueError: an unknown method, target or layer, inputs of another form, or a map too fine for Eigen-CAM.
    """
    if method not in CAM_METHODS:
        raise ValueError(f"method {method!r} is unknown; known: {', '.join(CAM_METHODS)}")
    inputs = checked_inputs(inputs)
    size = inputs.shape[-2:]
    chosen = _chosen_layer(network, layer, size)
    step = 1 if method == "score_cam" else batch_size
    maps = np.zeros((len(inputs), *size), np.float32)
    none_called = np.zeros(len(inputs), bool)
    with _borrowed(network), _maker(network, chosen, method, batch_size) as maker:
        for start in range(0, len(inputs), step):
            batch = slice(start, start + step)
            images = as_images(network, inputs[batch])
            targets, none_called[batch] = image_targets(network, images, target)
            found = maker(images, targets)
            area = covered(network, size, found.shape[1:])
            maps[batch] = [_enlarged(values, area, size) for values in found]
            if progress is not None:
                progress(min(start + step, len(inputs)), len(inputs))
    return _scaled(maps, none_called, found.shape[1:])


def checked_inputs(inputs: np.ndarray) -> np.ndarray:
    """Raise ValueError unless these are images (n, channels, height, width), of which there is one or more."""
    inputs = np.asarray(inputs, np.float32)
    if inputs.ndim != 4 or not inputs.size:
        raise ValueError(f"inputs have shape {inputs.shape}; expected (n, channels, height, width) of one image or more")
    return inputs


def as_images(network: nn.Module, inputs: np.ndarray) -> torch.Tensor:
    """A batch on the network's device."""
    return torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(next(network.parameters()).device)


def _chosen_layer(network: nn.Module, layer: TargetLayer | str | None, size: tuple[int, int]) -> TargetLayer:
    if isinstance(layer, str):
        return TargetLayer(named_layer(getattr(network, "network", network), layer))
    return target_layer(network, size) if layer is None else TargetLayer(*layer)


@contextmanager
def _borrowed(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients of its parameters; afterwards as it was."""
    modes = {module: module.training for module in network.modules()}
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    try:
        network.eval()
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        restore_modes(modes)
        for parameter, needed, gradient in parameters:
            parameter.requires_grad_(needed)
            parameter.grad = gradient


class _Maker:
    """Raw maps (batch, rows, columns) after the ReLU, at the layer's own resolution, by a method of the library."""

    def __init__(self, network: nn.Module, layer: TargetLayer, method: str, batch_size: int):
        cam = CAM_METHODS[method](model=network, target_layers=[layer.module], reshape_transform=self._as_map)
        cam.compute_input_gradient = True  # the parameters have none
        cam.batch_size = batch_size  # of Score-CAM
        self.cam, self.layer, self.method = cam, layer, method
        self.found: np.ndarray | None = None
        self.seen = False
        library = cam.get_cam_image

        def kept(*arguments, **named):
            self.found = library(*arguments, **named)
            return self.found

        cam.get_cam_image = kept

    def _as_map(self, output: torch.Tensor) -> torch.Tensor:
        """A layer's output, or its gradient, as the library is to keep it."""
        if self.method == "score_cam" and self.seen:
            return output.new_empty(0)  # of a masked image: the library would keep the maps of one for each channel
        self.seen = True
        # A copy: what follows may change the layer's output in place.
        found = (output if self.layer.reshape is None else self.layer.reshape(output)).clone()
        if found.ndim != 4:
            raise ValueError(
                f"layer {type(self.layer.module).__name__} gives {tuple(found.shape)}; expected (batch, channels, rows, columns)"
            )
        if self.method == "eigen_cam" and found.shape[2] * found.shape[3] > _MOST_PLACES:
            raise ValueError(f"eigen_cam: a map of {found.shape[2]}×{found.shape[3]} is too fine; choose a coarser layer")
        return found

    def __call__(self, images: torch.Tensor, targets: Sequence[Target]) -> np.ndarray:
        self.seen = False
        with torch.no_grad() if self.method in _WITHOUT_GRADIENT else nullcontext():
            self.cam(images, targets)
        self.cam.outputs = None  # which hold the graph of the batch
        self.cam.activations_and_grads.clear()
        found = np.asarray(self.found, np.float32)
        if self.method == "eigen_cam":
            negative = np.abs(found.min(axis=(1, 2))) > np.abs(found.max(axis=(1, 2)))
            found = np.where(negative[:, None, None], -found, found)
        return np.maximum(found, 0)


@contextmanager
def _maker(network: nn.Module, layer: TargetLayer, method: str, batch_size: int) -> Iterator[_Maker]:
    maker = _Maker(network, layer, method, batch_size)
    progress_bars = score_cam.tqdm
    try:
        score_cam.tqdm = SimpleNamespace(tqdm=iter)  # one bar an image on the error stream
        yield maker
    finally:
        score_cam.tqdm = progress_bars
        maker.cam.activations_and_grads.release()
        maker.cam.get_cam_image = maker.cam = None  # cycles that would keep the network until the next collection of garbage


def _enlarged(values: np.ndarray, area: Covered, size: tuple[int, int]) -> np.ndarray:
    """A raw map on the pixels of its image, by linear interpolation as the library has it."""
    full = cv2.resize(values, (area.width, area.height), interpolation=cv2.INTER_LINEAR)
    return full[-area.top : -area.top + size[0], -area.left : -area.left + size[1]]


def _scaled(maps: np.ndarray, none_called: np.ndarray, grid: tuple[int, int]) -> CamMaps:
    """Each map divided by its maximum, in place, except where that is 0 or no number."""
    peak = maps.max(axis=(1, 2)).astype(float)
    peak[~np.isfinite(maps).all(axis=(1, 2))] = np.nan
    blank = ~(peak > 0)
    maps[blank] = 0
    maps[~blank] /= peak[~blank, None, None].astype(np.float32)
    return CamMaps(maps, blank, peak, none_called, grid)


class ClassLogit:
    """The logit of a class (number from 0) of a classifier's output (classes,)."""

    def __init__(self, number: int):
        self.number = number

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return output[self.number]


class ClassProbability(ClassLogit):
    """The same as a probability in [0, 1], by softmax."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return torch.softmax(output, dim=0)[self.number]


class PixelLogits:
    """The mean nodule logit of chosen pixels, bool (height, width), of a segmenter's output (classes, height, width)."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels = pixels

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return output[min(1, len(output) - 1)][self.pixels].mean()


class PixelProbability(PixelLogits):
    """Their mean probability of nodule, in [0, 1]."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return nodule_probability(output[None])[0][self.pixels].mean()


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
        kind = ClassProbability if probability else ClassLogit
        return [kind(target)] * len(images), np.zeros(len(images), bool)
    if target not in (1, NODULE) or network.classes > 2:
        raise ValueError(
            f"target is {target!r} of {network.classes} classes; a segmenter is explained for its nodule pixels only"
        )
    with torch.no_grad():
        called = nodule_probability(network(images)) >= THRESHOLD  # (batch, height, width)
    none_called = ~called.flatten(1).any(dim=1)
    called[none_called] = True
    kind = PixelProbability if probability else PixelLogits
    return [kind(pixels) for pixels in called], none_called.cpu().numpy()
