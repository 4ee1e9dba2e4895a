"""What the parts of a network put out, as seen by forward hooks: for tables and diagrams drawn from the network itself."""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
import torch
from torch import nn

from thyroid_utils.models.classifiers import parameter_count


def network_stages(network: nn.Module, size: int = 256) -> pd.DataFrame:
    """The parts of a network in the order in which they finish, on one black image in evaluation mode; it is left as it was.

    The parts are those of the network's method `stages` where it has one (`mobile_deeplab`), else its direct submodules.

    Args:
        network: a `Segmenter`, `Classifier` or what these wrap, with `in_channels` or three.
        size: side of the square image in pixels, one that the network takes.

    Returns:
        DataFrame, a row a part: `stage` (its name), `kind` (its class), `channels`, `height` and `width` of its output (the last
        one where it puts out several; 1×1 for vectors), `parameters` (number), and `inputs`: tuples (name of the part whose
        output it reads, "image", or "" where something else lies between; channels, height, width). Last the row "logits", the
        network's own output, without parameters of its own.
    """
    inner = getattr(network, "network", network)
    parts = inner.stages() if hasattr(inner, "stages") else dict(inner.named_children())
    parameter = next(network.parameters())
    image = torch.zeros(1, getattr(network, "in_channels", 3), size, size, device=parameter.device, dtype=parameter.dtype)
    rows: list[dict] = []
    seen: dict[int, tuple[str, torch.Tensor]] = {id(image): ("image", image)}  # holds the tensors, so that no id comes twice

    def hook(name: str):
        def note(module: nn.Module, given: tuple, output: object) -> None:
            outputs = list(output) if isinstance(output, list | tuple) else [output]
            read = [tensor for tensor in given if isinstance(tensor, torch.Tensor)]
            inputs = tuple((seen.get(id(tensor), ("", None))[0], *_shape(tensor)) for tensor in read)
            for tensor in outputs:
                seen.setdefault(id(tensor), (name, tensor))
            rows.append(_row(name, type(module).__name__, outputs[-1], parameter_count(module), inputs))

        return note

    modes = {module: module.training for module in inner.modules()}
    with ExitStack() as after, torch.no_grad():
        for name, module in parts.items():
            after.callback(module.register_forward_hook(hook(name)).remove)
        for module, mode in modes.items():
            after.callback(setattr, module, "training", mode)
        logits = inner.eval()(image)
    last = rows[-1]
    source = ((last["stage"], last["channels"], last["height"], last["width"]),)
    rows.append(_row("logits", type(inner).__name__, logits, 0, source))
    return pd.DataFrame(rows)


def _row(name: str, kind: str, output: torch.Tensor, parameters: int, inputs: tuple) -> dict:
    channels, height, width = _shape(output)
    return {"stage": name, "kind": kind, "channels": channels, "height": height, "width": width, "parameters": parameters,
            "inputs": inputs}  # fmt: skip


def _shape(tensor: torch.Tensor) -> tuple[int, int, int]:
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return int(channels), int(height), int(width)
