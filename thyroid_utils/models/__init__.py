"""Networks by name, from images to the logits of their classes or pixels; what they minimise is in `losses`.

A network of one's own is a class or function in a file of its own here, and a line with an `Architecture` in `CLASSIFIERS`
(`classifiers.py`) or `SEGMENTERS` (`segmenters.py`). Everything else knows it by that name from then on.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from thyroid_utils.common.errors import nearest

# What `build` takes beside a network's own options
_SETTLED = ("in_channels", "classes", "pretrained")


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what has to be known about it. `build` is enough; the rest has defaults.

    build: (in_channels, classes, options of its own) → module from float (batch, in_channels, height, width) to logits, (batch,
        classes) of a classifier or (batch, classes, height, width) of a segmenter. A segmenter's attributes `multiple` and
        `minimum` tell which sides in pixels it takes; without them any.
    imagenet: whose published values it can begin with: "torchvision:NAME", "timm:NAME", "smp:ENCODER" or "installed:NAME" (of
        a package), or a function of the options that says so; `build` then takes pretrained=True, too.
    options: its options' names → those that `build` takes them by; None: all of `build`'s own, by their names.
    size: side in pixels of the square images that it gets where a run names none.
    minimum: the smallest side in pixels that a classifier takes.
    explained: where Grad-CAM looks: the path of the module with the last map of a classifier, or with the coarsest one of a
        segmenter, at the end of the encoder or behind what follows it there without a way around (-1: a module's last child);
        a layer close to a segmenter's output would repeat the predicted mask. "": found by a trial.
    patch: side in pixels of what a token stands for, where that module puts out tokens, the class token first, and no map. It
        lies in front of the last block's attention: behind it only the class token is read, all other gradients are zero.
    """

    build: Callable[..., nn.Module]
    imagenet: str | Callable[[Mapping[str, Any]], str] = ""
    options: Mapping[str, str] | None = None
    size: int = 256
    minimum: int = 32
    explained: str = ""
    patch: int = 0

    def source(self, options: Mapping[str, Any] | None = None) -> str:
        """`imagenet` of a network built with these options."""
        return self.imagenet(options or {}) if callable(self.imagenet) else self.imagenet

    def known_options(self) -> list[str]:
        """The names of its options."""
        return own_options(self.build, _SETTLED) if self.options is None else list(self.options)

    def network(self, in_channels: int, classes: int, options: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
        """The network itself, with published values where `pretrained`."""
        names = self.options or {}
        given = {names.get(name, name): value for name, value in options.items()}
        return self.build(in_channels, classes, **given, **({"pretrained": True} if pretrained else {}))


def own_options(build: Callable, settled: Iterable[str]) -> list[str]:
    """The parameters of what builds a network or a loss, without those that are settled elsewhere."""
    return [name for name in inspect.signature(build).parameters if name not in settled]


def check_options(owner: str, options: Iterable[str], known: list[str]) -> None:
    """Raise a ValueError with the nearest name unless all options are known. A builder of a library's, with any `options`, looks
    for itself."""
    for option in options:
        if option not in known and "options" not in known:
            raise ValueError(f"{owner}: no option {option!r}; {nearest(option, known, 'it has no options')}")


def number(name: str, value: Any, low: float = 0, high: float = math.inf, above: bool = False, below: bool = False) -> float:
    """The value as float. Raises ValueError unless it is a finite number from low to high; above low, below high where asked."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (above and value == low) or (below and value == high):
        least = f"above {low}" if above else f"{low} or more"
        allowed = least if high == math.inf else f"from {low} to {'below ' if below else ''}{high}"
        raise ValueError(f"{name} must be a number {allowed}; found {value!r}")
    return float(value)
