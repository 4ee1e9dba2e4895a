"""Whether a map depends on what the network learnt: maps of the trained network beside those of partly random ones.

A map that stays as it is when the weights become random is a picture of the image and the architecture, not an explanation.

Reference:
    Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import nn

from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.cam import cam_maps, checked_inputs
from thyroid_utils.inference.layers import trial
from thyroid_utils.models.networks import Classifier, Segmenter
from thyroid_utils.scores.estimates import patient_bootstrap

TRAINED = "as trained"
SIMILARITIES = ("spearman", "ssim")
_PIECE = 1 / 8  # share of a network's tensors above which a module is looked into
_MOST_STAGES = 8


def stages(network: Classifier | Segmenter, most: int = _MOST_STAGES) -> list[tuple[str, tuple[str, ...]]]:
    """A network's modules in the order in which they are used, in neighbouring groups; the last one (the head) is a group alone.

    Args:
        network: `Classifier` or `Segmenter`.
        most: groups, 2 or more; a network with fewer parts has fewer.

    Returns:
        (name of the first module, names of the tensors of the state dict) of each group, first to last. Together they hold every
        parameter and every statistic of a normalisation.

    Raises:
        ValueError: another kind of network, or fewer than two groups asked for.
    """
    if not isinstance(network, Classifier | Segmenter):
        raise ValueError(
            f"{type(network).__name__}: expected a Classifier or Segmenter, which can be built again with random weights"
        )
    if isinstance(most, bool) or not isinstance(most, int) or most < 2:
        raise ValueError(f"most must be a whole number from 2; found {most!r}")
    keys = list(network.network.state_dict())
    pieces = _pieces(network.network, "", keys, _PIECE * len(keys))
    calls = _calls(network, [name for name, _ in pieces])
    order: list[int] = []
    for name, _ in pieces:  # with its predecessor where it is never called
        order.append(calls.get(name, order[-1] if order else -1))
    pieces = [pieces[at] for at in np.argsort(order, kind="stable")]
    groups = [list(group) for group in np.array_split(np.arange(len(pieces) - 1), min(most - 1, len(pieces) - 1))]
    groups = [group for group in [*groups, [len(pieces) - 1]] if group]
    named = []
    for group in groups:
        names = [pieces[at][0] for at in group]
        named.append(
            (next((name for name in names if name in calls), names[0]), tuple(key for at in group for key in pieces[at][1]))
        )
    return named


def _pieces(module: nn.Module, path: str, keys: list[str], largest: float) -> list[tuple[str, list[str]]]:
    """A module's tensors by child, and by their children where one has too many; what it holds itself comes first."""
    own = [key for key in keys if "." not in key.removeprefix(path)]
    found = [(path.rstrip(".") or own[0], own)] if own else []
    for name, child in module.named_children():
        inside = [key for key in keys if key.startswith(f"{path}{name}.")]
        if len(inside) > largest and any(child.children()):
            found += _pieces(child, f"{path}{name}.", inside, largest)
        elif inside:
            found.append((f"{path}{name}", inside))
    return found


def _calls(network: Classifier | Segmenter, names: list[str]) -> dict[str, int]:
    """When each of the named modules is first called in a forward pass; without those that never are."""
    paths = {module: path for path, module in network.network.named_modules()}
    calls: dict[str, int] = {}

    def note(module: nn.Module, inputs: object, output: object) -> None:
        path = paths.get(module)
        holders = [name for name in names if path is not None and f"{path}.".startswith(f"{name}.")]
        holder = max(holders, key=len, default=None)  # the innermost
        if holder is not None and next(module.parameters(recurse=False), None) is not None:
            calls.setdefault(holder, len(calls))

    trial(network, note)
    return calls


def randomised(
    network: Classifier | Segmenter, seed: int, most: int = _MOST_STAGES
) -> Iterator[tuple[str, Classifier | Segmenter]]:
    """The network with its last stage made random, then the last two, and so on to the first: the cascade of Adebayo et al.

    Random are the values that the same architecture begins training from scratch with, and its normalisations' statistics.

    Args:
        network: stays as it is.
        seed: of the random values; PyTorch's own generators are not touched.
        most: as for `stages`.

    Returns:
        Iterator of (name of the first random module, network in evaluation mode). It is one and the same copy, changed between
        the steps: use it before the next is asked for.
    """
    groups = stages(network, most)
    changed = copy.deepcopy(network).eval()
    fresh = _built_again(network, seed).state_dict()
    state = changed.network.state_dict(keep_vars=False)
    for name, keys in reversed(groups):
        with torch.no_grad():
            for key in keys:
                state[key].copy_(fresh[key])
        yield name, changed


def _built_again(network: Classifier | Segmenter, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return network.architecture.build(network.in_channels, network.classes, **network.options)


def compare_maps(first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    """How alike two networks' maps of the same images are.

    Args:
        first, second: (n, height, width) in [0, 1]; 7 pixels a side or more.

    Returns:
        A row an image: `spearman`, the correlation of ranks over the pixels, and `ssim`, the structural similarity (Wang et al.
        2004), both in [-1, 1] and 1 for equal maps; `blank` (bool), one of the two is zero everywhere, or one and the same value
        everywhere, and both are NaN.

    Raises:
        ValueError: shapes that differ.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"compare_maps: shapes {first.shape} and {second.shape}; expected two equal (n, height, width)")
    rows = []
    for one, two in zip(first, second, strict=True):
        blank = not (np.ptp(one) > 0 and np.ptp(two) > 0)
        alike = (np.nan, np.nan) if blank else (_spearman(one, two), float(structural_similarity(one, two, data_range=1.0)))
        rows.append((*alike, blank))
    return pd.DataFrame(rows, columns=[*SIMILARITIES, "blank"])


def _spearman(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(one), rankdata(two))[0, 1])


def randomisation_curve(
    network: Classifier | Segmenter,
    inputs: np.ndarray,
    seeds: Sequence[int] = (0,),
    *,
    method: str = "grad_cam",
    target: int | str = 1,
    layer: str | None = None,
    most: int = _MOST_STAGES,
    batch_size: int = 16,
    cases: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How alike the maps of the trained network and of ever more random ones are.

    Args:
        network: stays as it is.
        inputs: float32 (n, channels, height, width).
        seeds: of the random weights; each makes a cascade of its own.
        method, target, layer, batch_size: as for `cam_maps`; the layer by its path.
        most: as for `stages`.
        cases: names of the images; None numbers them.
        progress: called with (sets of maps done, sets in all).

    Returns:
        A row for each seed, step and image: `position` (0: as trained, compared with itself; then ever more random stages),
        `stage` (name of the first random module), `seed`, `image`, `spearman`, `ssim` and `blank`, as in `compare_maps`.

    Raises:
        ValueError: as `cam_maps` and `stages`; or no seed.
    """
    inputs = checked_inputs(inputs)
    if not len(seeds):
        raise ValueError("randomisation_curve: no seed given; expected one or more")
    settings = {"method": method, "target": target, "layer": layer, "batch_size": batch_size}
    names = list(range(len(inputs))) if cases is None else list(cases)
    steps = len(stages(network, most))
    trained = cam_maps(network, inputs, **settings).maps
    tables = []
    for number, seed in enumerate(seeds):
        found = compare_maps(trained, trained)
        tables.append(found.assign(position=0, stage=TRAINED, seed=seed, image=names))
        for position, (stage, other) in enumerate(randomised(network, seed, most), start=1):
            found = compare_maps(trained, cam_maps(other, inputs, **settings).maps)
            tables.append(found.assign(position=position, stage=stage, seed=seed, image=names))
            if progress is not None:
                progress(number * steps + position, len(seeds) * steps)
    return pd.concat(tables, ignore_index=True)[["position", "stage", "seed", "image", *SIMILARITIES, "blank"]]


def randomisation_table(curve: pd.DataFrame, patients: Sequence[str], **settings) -> pd.DataFrame:
    """`randomisation_curve` by stage, with intervals over patients.

    Args:
        curve: its result.
        patients: of each image, in the order of the inputs, (n,).
        settings: resamples, level and seed of `patient_bootstrap`.

    Returns:
        A row a stage, in the order of the cascade, index `stage`: `spearman` and `ssim` (`Estimate` of the mean over images, of
        each image's mean over seeds), `blank` (maps without a value, over images and seeds) and `maps` (in all).
    """
    rows = {}
    for (_, stage), found in curve.groupby(["position", "stage"]):
        means = found.groupby("image", sort=False)[list(SIMILARITIES)].mean()
        estimates = {name: patient_bootstrap(means[name].to_numpy(), patients, **settings) for name in SIMILARITIES}
        rows[stage] = {**estimates, "blank": int(found["blank"].sum()), "maps": len(found)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
