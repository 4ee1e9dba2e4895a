"""The networks under one interface: what is built by name, and what the rest of the workbook has to know about it."""

from __future__ import annotations

import inspect
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from thyroid_utils.common import paths
from thyroid_utils.common.errors import nearest
from thyroid_utils.common.files import file_hash, source_hash
from thyroid_utils.models import Architecture, check_options, number
from thyroid_utils.models.any_size import cropped, mirrored
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.libraries import LITE0, smp_architecture, timm_architecture
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.models.weights import WeightsError, check_published, load_values, one_line

# Segmenters whose encoder is one of segmentation_models_pytorch's: called with images it gives a list of maps, the deepest last.
JOINT_MODELS = tuple(name for name, facts in SEGMENTERS.items() if facts.source().startswith(("smp:", LITE0)))
# Of the auxiliary head's loss, as in the paper of Inception (Szegedy et al. 2015)
_AUXILIARY_WEIGHT = 0.4
# Many networks in one file, all made by libraries
_SHARED = ("classifiers.py", "segmenters.py", "libraries.py")


class Network(nn.Module):
    """A network and what is known about it.

    name, in_channels, classes, options: as it was built. architecture: its entry in the registry. network: its own module.
    weights: what it started from, as text for tables. minimum_size: smallest height and width in pixels. fixed_size: the only
    height and width it takes, None for nearly all. auxiliary_weight: above 0 where it has an auxiliary head.
    """

    registry: Mapping[str, Architecture]
    least_classes = 1
    minimum_size = 1
    fixed_size: int | None = None
    auxiliary_weight = 0.0

    def __init__(
        self, name: str, facts: Architecture, in_channels: int, classes: int, options: dict[str, Any], pretrained: bool = False
    ):
        super().__init__()
        self.name, self.architecture, self.in_channels, self.classes = name, facts, in_channels, classes
        self.options, self.weights = options, "from scratch"
        self.network = facts.network(in_channels, classes, options, pretrained)

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError that names the limit unless the network takes images of this size in pixels."""
        if self.fixed_size is not None and (height, width) != (self.fixed_size, self.fixed_size):
            raise ValueError(
                f"{self.name}: takes images of {self.fixed_size}×{self.fixed_size} pixels only; found {height}×{width}; "
                "preprocess to that size, or build it with the option img_size"
            )
        if min(height, width) < self.minimum_size:
            raise ValueError(
                f"{self.name}: images of {height}×{width} pixels are too small; its minimum is "
                f"{self.minimum_size}×{self.minimum_size}; raise the size in preprocessing"
            )

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.name}: expected images (batch, {self.in_channels}, height, width); found {tuple(images.shape)}; "
                "build the model with in_channels as the preprocessing gives them"
            )
        self.check_size(images.shape[2], images.shape[3])

    def _run(self, images: torch.Tensor) -> Any:
        try:
            return self.network(images)
        except ValueError as error:
            # PyTorch's batch normalisation; which layer sees a single place depends on the image's size.
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{self.name}: a training batch of one image of {images.shape[2]}×{images.shape[3]} pixels; a batch "
                "normalisation of this network sees a single value a channel there and needs two or more: raise the batch "
                "size, or leave out the last, incomplete batch of an epoch"
            ) from None


class Classifier(Network):
    """Maps float (batch, in_channels, height, width) to logits (batch, classes). Made by `build_classifier`.

    Where `auxiliary_weight` is above 0 (Inception v3) a model in training mode returns (logits, auxiliary logits), and the loss
    is that of the first plus `auxiliary_weight` times that of the second.
    """

    registry = CLASSIFIERS
    least_classes = 2

    def __init__(self, *built: Any):
        super().__init__(*built)
        self.minimum_size, self.fixed_size = self.architecture.minimum, getattr(self.network, "fixed_size", None)
        has_auxiliary_head = getattr(self.network, "AuxLogits", None) is not None
        self.auxiliary_weight = _AUXILIARY_WEIGHT if has_auxiliary_head else 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits.

        Raises:
            ValueError: another number of channels, an image too small for the network, or a training batch of one image where
                the network normalises over a batch of single values.
        """
        self._check(images)
        result = self._run(images)
        return tuple(result) if isinstance(result, tuple) else result


class Segmenter(Network):
    """Maps float (batch, in_channels, height, width) to logits (batch, classes, height, width), any height and width from 1.

    An image of a size that the network does not take is continued on all four sides by mirroring, as often as needed, up to the
    next size that it takes, and the logits are cropped to the image. Made by `build_segmenter`.
    """

    registry = SEGMENTERS

    def taken(self, side: int) -> int:
        """The smallest side in pixels that the network itself takes and that is not below `side`."""
        multiple = getattr(self.network, "multiple", 1)
        return max(side + -side % multiple, getattr(self.network, "minimum", multiple))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits.

        Raises:
            ValueError: another number of channels, an image without pixels, or a training batch of one image where the network
                normalises over a batch of single values.
        """
        self._check(images)
        height, width = images.shape[-2:]
        taken = self.taken(height), self.taken(width)
        if taken != (height, width):
            images = mirrored(images, *taken)
        return cropped(self._run(images), height, width)


@dataclass(frozen=True)
class JointLogits:
    """Both answers of a joint network.

    image: float (batch, 2), logits of benign and malignant. pixels: float (batch, 1 or 2, height, width), a segmenter's logits.
    """

    image: torch.Tensor
    pixels: torch.Tensor

    def float(self) -> JointLogits:
        """Both in float32."""
        return JointLogits(self.image.float(), self.pixels.float())


class JointNetwork(Segmenter):
    """A segmenter with a second head: the mean over the places of its encoder's deepest map, dropout, a linear layer.

    Maps float (batch, in_channels, height, width) to `JointLogits`. All else is as in `Segmenter`; where images are mirrored to a
    size that the network takes, the second head sees the mirrored part too. Made by `build_joint`.
    """

    def __init__(self, *built: Any, head_dropout: float = 0.2):
        super().__init__(*built)
        encoder = getattr(self.network, "encoder", None)
        channels = getattr(encoder, "out_channels", None)
        if not isinstance(channels, list | tuple):
            raise ValueError(
                f"model {self.name}: has no encoder whose deepest map a second head could read; choose one of "
                f"{', '.join(JOINT_MODELS)} or smp:ARCH:ENCODER"
            )
        self.head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(channels[-1], 2))
        self._deepest: torch.Tensor | None = None
        encoder.register_forward_hook(self._keep)

    def _keep(self, encoder: nn.Module, images: Any, maps: Any) -> None:
        self._deepest = maps[-1]

    def forward(self, images: torch.Tensor) -> JointLogits:
        """Both logits. Raises ValueError as `Segmenter.forward`."""
        pixels = super().forward(images)
        # Not held beyond the pass, whose graph it would keep in memory
        deepest, self._deepest = self._deepest, None
        return JointLogits(self.head(deepest.mean(dim=(2, 3))), pixels)


class OneAnswer(nn.Module):
    """A joint network seen as a classifier ("image") or a segmenter ("pixels"): logits of that answer alone, same weights.

    For what explains or samples a network by its output: `cam_maps` (with `layer=target_layer(network)`), `mc_dropout`.
    name, in_channels: the network's. classes: 2 for "image", else the network's.
    """

    def __init__(self, network: JointNetwork, answer: str):
        super().__init__()
        self.joint, self.answer = network, answer
        self.name, self.in_channels = network.name, network.in_channels
        self.classes = 2 if answer == "image" else network.classes
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 2), or (batch, classes, height, width)."""
        return getattr(self.joint(images), self.answer)


def build_classifier(
    name: str, *, in_channels: int = 3, classes: int = 2, weights: str | Path = "none", **options: Any
) -> Classifier:
    """A classifier by its name, with values as `check_weights` knows them.

    Args:
        name: one of `CLASSIFIERS`, or `timm:NAME` with any name that timm knows, such as timm:resnet18.a1_in1k.
        in_channels: channels of the images, 1 or more.
        classes: number of logits, 2 or more.
        weights: "imagenet" (for all but the head; the backbone alone of resnet18_transformer), "none", or a file of the whole
            network or of its encoder alone, as self-supervised pretraining leaves it: the rest begins at random, with a warning.
        options: the architecture's own: hidden (units of the two hidden layers) and dropout for alexnet, vgg16 and vgg19;
            auxiliary (whether there is an auxiliary head) and dropout for inception_v3; layers, heads and dropout for
            resnet18_transformer; dropout and stochastic_depth where the architecture has them; for timm what timm takes.

    Returns:
        `Classifier` in training mode. Random values come from PyTorch's generator: the same seed gives the same model.

    Raises:
        ValueError: an unknown model or option (the nearest name is given), or a number out of range.
        WeightsError: weights that are missing, damaged or of another model.

    >>> build_classifier("resnet18", in_channels=1)(torch.zeros(4, 1, 64, 64)).shape
    torch.Size([4, 2])
    """
    return _built(Classifier, name, in_channels, classes, weights, options)


def build_segmenter(
    name: str, *, in_channels: int = 3, classes: int = 1, weights: str | Path = "none", **options: Any
) -> Segmenter:
    """A segmenter by its name.

    Args:
        name: one of `SEGMENTERS`, or `smp:ARCH:ENCODER` with any architecture and encoder of segmentation_models_pytorch,
            such as smp:fpn:resnet34 or, with an encoder of timm's, smp:unet:tu-convnext_tiny.
        in_channels: channels of the images, 1 or more.
        classes: maps of logits: 1 (nodule, for a sigmoid), 2 (background and nodule, for a softmax) or more.
        weights: "imagenet" (for the encoder alone), "none", or a file of the whole network or of its encoder alone.
        options: the architecture's own; for an `smp:` model smp's, under its names.

    Returns, raises: as `build_classifier`, a `Segmenter`.

    >>> build_segmenter("unet", widths=(4, 8))(torch.zeros(1, 3, 45, 61)).shape
    torch.Size([1, 1, 45, 61])
    """
    return _built(Segmenter, name, in_channels, classes, weights, options)


def build_joint(
    name: str, *, in_channels: int = 3, classes: int = 1, weights: str | Path = "none", head_dropout: float = 0.2, **options: Any
) -> JointNetwork:
    """A segmenter with a class head on its encoder's deepest map.

    Args:
        name: one of `JOINT_MODELS`, or `smp:ARCH:ENCODER`.
        in_channels, classes, options: as for `build_segmenter`; `classes` are those of the pixels, the head has two.
        weights: as for `build_segmenter`; the class head begins at random.
        head_dropout: in [0, 1), in front of the class head's linear layer.

    Returns, raises: as `build_classifier`, a `JointNetwork`; ValueError also for a network without such an encoder.
    """
    head = {"head_dropout": number(f"model {name}: head_dropout", head_dropout, 0, 1, below=True)}
    return _built(JointNetwork, name, in_channels, classes, weights, options, **head)


def _built(
    kind: type[Network], name: str, in_channels: int, classes: int, weights: str | Path, options: dict[str, Any], **head: float
) -> Any:
    facts = architecture(name, kind.registry)
    for what, value, least in (("in_channels", in_channels, 1), ("classes", classes, kind.least_classes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"model {name}: {what} must be a whole number from {least}; found {value!r}")
    check_options(f"model {name}", options, facts.known_options())
    path, published = check_weights(name, weights, options), str(weights) == "imagenet"
    try:
        model = kind(name, facts, in_channels, classes, options, published, **head)
    except (RuntimeError, SafetensorError, KeyError) as error:
        if not published:
            raise
        raise WeightsError(f"{name}: {path} cannot be loaded ({one_line(error)}); delete it and run again") from None
    if published:
        library, _, own = facts.source(options).rpartition(":")
        of_timm = library == "timm" or own.startswith("tu-")
        model.weights = (f"timm {own.rpartition('.')[2]}" if of_timm else "ImageNet") + " encoder" * (kind is not Classifier)
    elif path is not None:
        kind, told = load_values(model.network, path, name, lambda: facts.network(in_channels, classes + 1, options))
        model.weights = f"{path.name} {file_hash(path)[:8]}{kind}"
        if told:
            warnings.warn(f"{name}: {told}", stacklevel=3)
    return model


def architecture(name: str, registry: Mapping[str, Architecture] | None = None) -> Architecture:
    """What is known of a network by its name.

    Args:
        name: one in a registry, `timm:NAME` for a classifier or `smp:ARCH:ENCODER` for a segmenter.
        registry: `CLASSIFIERS` or `SEGMENTERS`; None for either.

    Raises:
        ValueError: no such network; the nearest name is given.
    """
    known = CLASSIFIERS | SEGMENTERS if registry is None else registry
    if name.startswith("timm:") and known is not SEGMENTERS:
        return timm_architecture(name)
    if name.startswith("smp:") and known is not CLASSIFIERS:
        return smp_architecture(name)
    if name not in known:
        hint = "timm:NAME takes any classifier of timm, smp:ARCH:ENCODER any model of segmentation_models_pytorch"
        raise ValueError(f"model {name!r} is unknown; {nearest(name, known)} ({hint})")
    return known[name]


def check_weights(name: str, weights: str | Path, options: Mapping[str, Any] | None = None) -> Path | None:
    """Make sure that what a network is to begin with is at hand, before anything slow begins.

    Published values that are not there yet are fetched; without a connection that fails within seconds.

    Args:
        name: a classifier's or segmenter's name.
        weights: "imagenet", "none" or a file (safetensors, or a state dict saved by `torch.save`); a relative path is seen from
            the project root.
        options: the model's own, where one of them chooses the encoder (`backbone` of mobile_deeplab).

    Returns:
        the file, None for "none".

    Raises:
        ValueError: no such model.
        WeightsError: a file that is absent or damaged, or cannot be fetched; says its name and the folder to put it in.
    """
    facts = architecture(name)
    if str(weights) == "none":
        return None
    if str(weights) == "imagenet":
        return check_published(name, facts.source(options))
    path = paths.resolve_in_project(weights)
    if not path.is_file():
        raise WeightsError(f"weights must be imagenet, none or a file; there is no file {path}")
    return path


def network_source(name: str) -> str:
    """Hash of the code of a network that has a file of its own in this folder; "" where a library builds it.

    It is part of a run's name: who changes a network of their own is not handed the run of the old one. Comments, docstrings and
    layout do not count, nor does what networks share.
    """
    if name.startswith(("smp:", "timm:")):
        return ""
    build = architecture(name).build
    file = Path(inspect.getfile(getattr(build, "func", build)))
    own = file.parent == Path(__file__).parent and file.name not in _SHARED
    return source_hash([file]) if own else ""


def parameter_count(model: nn.Module) -> int:
    """Number of trainable values of a model, auxiliary heads included."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def latency(network: torch.nn.Module, shape: Sequence[int], repeats: int = 7) -> float:
    """Milliseconds of a forward pass of one image (channels, height, width) on the CPU: the median of `repeats`, after one that
    warms up."""
    image = torch.zeros(1, *shape)
    spent = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            network(image)
            spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent[1:])
