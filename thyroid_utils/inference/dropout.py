"""Several answers of one network, by the dropout that it was trained with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from thyroid_utils.inference.predictor import evaluating
from thyroid_utils.training.tasks import log_odds, nodule_probability

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_PASSES_AT_ONCE = 16


def mc_dropout(
    network: nn.Module,
    inputs: np.ndarray,
    passes: int = 20,
    seed: int = 0,
    *,
    keys: Sequence[int] | None = None,
) -> np.ndarray:
    """Answers of a network whose dropout layers stay random while all else (batch normalisation, stochastic depth) is as in use.

    Args:
        network: (batch, channels, height, width) → logits (batch, 2), or (batch, 1 or 2, height, width) of a segmenter, on any
            device. It is left as it was, each module in the mode that it had.
        inputs: float32 (n, channels, height, width).
        passes: answers to each image.
        seed: same seed, same numbers, whatever other images are asked along; torch's own generator is left as it was.
        keys: whole numbers from 0, one an image, which decide its draws; None takes 0, 1, …: give them where images are asked in
            several calls.

    Returns:
        samples (passes, n), or float32 (passes, n, height, width): 4 · passes · n · pixels bytes.

    Raises:
        ValueError: a network without a dropout layer of a rate above 0, or whose dropout is not reached.

    Reference:
        Gal and Ghahramani, Dropout as a Bayesian approximation, ICML (2016) 1050-1059.
    """
    keys = range(len(inputs)) if keys is None else keys
    parameter = next(network.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    samples = []
    with _random_dropout(network), torch.random.fork_rng(devices), torch.inference_mode():
        for image, key in zip(inputs, keys, strict=True):
            torch.manual_seed(int(np.random.SeedSequence([seed, key]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
            one = torch.from_numpy(np.ascontiguousarray(image)).to(parameter.device)[None]
            parts = [*range(0, passes, _PASSES_AT_ONCE), passes]
            samples.append(np.concatenate([_read(network(one.expand(to - at, -1, -1, -1))) for at, to in pairwise(parts)]))
    return np.stack(samples, axis=1)


def _read(logits: torch.Tensor) -> np.ndarray:
    if logits.ndim == 2:
        return expit(log_odds(logits))
    return nodule_probability(logits.float()).cpu().numpy()


def has_dropout(network: nn.Module) -> bool:
    """Whether a network has a dropout layer of a rate above 0."""
    return bool(_dropout_layers(network))


def _dropout_layers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _DROPOUT) and module.p > 0]


@contextmanager
def _random_dropout(network: nn.Module) -> Iterator[None]:
    """Evaluation mode but for dropout, and every module's mode as it was afterwards."""
    layers = _dropout_layers(network)
    if not layers:
        raise ValueError(
            "mc_dropout: the network has no dropout layer of a rate above 0; train it with dropout, or leave this out"
        )
    reached: list[bool] = []
    hooks = [layer.register_forward_hook(lambda *_: reached.append(True)) for layer in layers]
    # In evaluation PyTorch runs a transformer layer as one kernel, which knows nothing of the dropout inside.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(network):
            for layer in layers:
                layer.train()
            yield
        if not reached:
            raise ValueError("mc_dropout: no dropout layer is reached in evaluation; leave this network out")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
