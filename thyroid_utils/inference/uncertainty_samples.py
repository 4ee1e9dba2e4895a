"""Several answers to the same image: from runs of several seeds, from changed images, from random dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import nn

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.training.ledger import Run
from thyroid_utils.training.tasks import log_odds, nodule_probability

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_PASSES_AT_ONCE = 16


def seed_ensemble(runs: Sequence[Run], split: str = "test", cases: Sequence[str] | None = None) -> tuple[pd.Index, np.ndarray]:
    """What runs that differ in their seed say of the same images, read from the ledger.

    Args:
        runs: of one task and one split.
        split: "val" or "test".
        cases: only these, in this order; None takes all of the split.

    Returns:
        case ids (n,), and samples (runs, n) or, of segmenters, float32 (runs, n, height, width).

    Raises:
        DataError: no run, or runs of several splits or tasks.
        KeyError: a case that is not in the split.
    """
    check_ensemble(runs)
    names = cases_of(runs[0], split, cases)
    if runs[0].config.task == "segmentation":
        return names, np.stack([run.maps(split, names)[1] for run in runs])
    return names, np.stack([run.predictions.loc[names, "probability"].to_numpy(float) for run in runs])


def cases_of(run: Run, split: str, cases: Sequence[str] | None = None) -> pd.Index:
    """Case ids of a split, or `cases` themselves. Raises KeyError for one that is not in the split."""
    names = run.predictions.index[run.predictions["split"] == split]
    if cases is None:
        return names
    chosen = pd.Index(cases, dtype=names.dtype, name="case")
    if not chosen.isin(names).all():
        raise KeyError(f"run {run.name} has no {split} case {chosen[~chosen.isin(names)][0]}")
    return chosen


def check_ensemble(runs: Sequence[Run]) -> None:
    """Raises DataError where runs cannot be an ensemble: none, or of several splits or tasks."""
    kinds = {(run.config.task, run.data["split_hash"]) for run in runs}
    if len(kinds) != 1:
        raise DataError(f"ensemble: {len(runs)} runs of {len(kinds)} splits or tasks; give runs of one split that differ in seed")


def augmented_views(
    predictor: Predictor, inputs: np.ndarray, shift: int = 4, mirror: bool = True, progress: Progress | None = None
) -> np.ndarray:
    """What a network says of each image as it is, shifted by some pixels up, down, left and right, and all that mirrored.

    Only left and right are exchanged: depth has a meaning in ultrasound. A shift repeats the border. Maps are brought back; where
    a shifted image has lost a pixel, the map of the unshifted one stands in, which disagrees with nothing.

    Args:
        predictor: of either task.
        inputs: float32 (n, channels, height, width), as `Predictor.inputs` gives them.
        shift: pixels of the network's input; 0 leaves the shifts out.
        mirror: whether each view is also mirrored.
        progress: called with (views done, views in all).

    Returns:
        samples, the image as it is first: (views, n), or float32 (views, n, height, width).
    """
    side = min(inputs.shape[-2:])
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < side:
        raise ValueError(f"augmented_views: shift is {shift!r}; expected a whole number of pixels from 0 to {side - 1}")
    segmenting = predictor.run.config.task == "segmentation"
    shifts = [(0, 0)] if not shift else [(0, 0), (-shift, 0), (shift, 0), (0, -shift), (0, shift)]
    views = [(down, right, flipped) for flipped in ((False, True) if mirror else (False,)) for down, right in shifts]
    samples: list[np.ndarray] = []
    for down, right, flipped in views:
        seen = _shifted(inputs, down, right)
        seen = np.ascontiguousarray(seen[..., ::-1]) if flipped else seen
        if segmenting:
            found = predictor.maps(seen)
            found = _shifted_back(found[..., ::-1] if flipped else found, down, right, samples[0] if samples else found)
        else:
            found = expit(predictor.log_odds(seen))
        samples.append(found)
        if progress is not None:
            progress(len(samples), len(views))
    return np.stack(samples)


def _shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (..., height, width) moved, their border repeated."""
    height, width = images.shape[-2:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return images[..., rows[:, None], columns]


def _shifted_back(maps: np.ndarray, down: int, right: int, fallback: np.ndarray) -> np.ndarray:
    """Maps (n, height, width) of shifted images on the unshifted grid, `fallback` where they have no pixel."""
    height, width = maps.shape[-2:]
    back = _shifted(maps, -down, -right).copy()
    rows, columns = np.arange(height) + down, np.arange(width) + right
    lost = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))
    back[:, lost] = fallback[:, lost]
    return back


def mc_dropout(
    network: nn.Module,
    inputs: np.ndarray,
    passes: int = 20,
    seed: int = 0,
    *,
    keys: Sequence[int] | None = None,
    progress: Progress | None = None,
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
        progress: called with (images done, images in all).

    Returns:
        samples (passes, n), or float32 (passes, n, height, width): 4 · passes · n · pixels bytes.

    Raises:
        ValueError: a network without a dropout layer of a rate above 0, or whose dropout is not reached.

    Reference:
        Gal and Ghahramani, Dropout as a Bayesian approximation, ICML (2016) 1050-1059.
    """
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 2:
        raise ValueError(f"mc_dropout: passes is {passes!r}; expected a whole number from 2")
    keys = range(len(inputs)) if keys is None else keys
    if len(keys) != len(inputs):
        raise ValueError(f"mc_dropout: {len(keys)} keys for {len(inputs)} images; give each image one")
    parameter = next(network.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    samples = []
    with _random_dropout(network), torch.random.fork_rng(devices), torch.inference_mode():
        for done, (image, key) in enumerate(zip(inputs, keys, strict=True), 1):
            torch.manual_seed(int(np.random.SeedSequence([seed, key]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
            one = torch.from_numpy(np.ascontiguousarray(image)).to(parameter.device)[None]
            parts = [*range(0, passes, _PASSES_AT_ONCE), passes]
            samples.append(np.concatenate([_read(network(one.expand(to - at, -1, -1, -1))) for at, to in pairwise(parts)]))
            if progress is not None:
                progress(done, len(inputs))
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
    modes = {module: module.training for module in network.modules()}
    reached: list[bool] = []
    hooks = [layer.register_forward_hook(lambda *_: reached.append(True)) for layer in layers]
    # In evaluation PyTorch runs a transformer layer as one kernel, which knows nothing of the dropout inside.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        network.eval()
        for layer in layers:
            layer.train()
        yield
        if not reached:
            raise ValueError("mc_dropout: no dropout layer is reached in evaluation; leave this network out")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
