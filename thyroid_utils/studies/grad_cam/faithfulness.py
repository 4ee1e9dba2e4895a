"""Whether a network depends on what a map shows: its answer while the image is taken away or built up in the map's order, and
maps of the trained network beside those of partly random ones.

A map that stays as it is when the weights become random is a picture of the image and the architecture, not an explanation.

References:
    Petsiuk, Das and Saenko, RISE, BMVC 2018 (deletion and insertion); Adebayo et al., Sanity checks for saliency maps, NeurIPS
    2018.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import nn

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.cam import as_images, image_targets, trial
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.networks import Classifier, Segmenter
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.scores.estimates import patient_estimate
from thyroid_utils.studies.grad_cam import MapStudy
from thyroid_utils.studies.grad_cam.attention import centre_prior
from thyroid_utils.training.ledger import Run

ORDERS = ("map", "random", "centre")
DIRECTIONS = ("deletion", "insertion")
SIMILARITIES = ("spearman", "ssim")
_STEPS, _BLUR = 10, 0.1  # parts in which the pixels are exchanged; σ of the blur as a share of the image's smaller side
_PIECE = 1 / 8  # share of a network's tensors above which a module is looked into
_MOST_STAGES = 8


def deletion_insertion_curves(study: MapStudy) -> pd.DataFrame:
    """The target's probability while pixels are blurred, or put into a blurred image, the most important ones first.

    Orders: `map`; `centre`, from the middle outwards; `random`, the same map shifted cyclically to a random place, one for each
    image. Pixels drawn one by one would be no fair rival: networks answer to scattered holes wherever they are. Equal values of a
    map come in a random order. Of a segmenter the probability is the mean of the pixels that it calls nodule in the whole image.

    Returns:
        Columns image (the case), direction (deletion, insertion), order (map, random, centre), share (of the pixels exchanged, 0
        to 1) and probability. Blank maps have no rows.
    """
    bar, parts = progress_bar("Deleting and inserting"), []
    for number, (case, image, values) in enumerate(zip(study.images.index, study.inputs, study.maps.maps, strict=True)):
        if values.max() > 0:  # neither blank nor NaN
            random = np.random.default_rng((0, number))
            found = _curves_of(study.predictor.network, image, values.astype(float), study.target, random)
            parts.append(found.assign(image=case))
        bar(number + 1, len(study.inputs))
    columns = ["image", "direction", "order", "share", "probability"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _curves_of(
    network: nn.Module, image: np.ndarray, values: np.ndarray, target: int | str, random: np.random.Generator
) -> pd.DataFrame:
    (of_class,), _ = image_targets(network, as_images(network, image[None]), target, probability=True)
    height, width = values.shape
    blurred = gaussian_filter(image, (0, *[_BLUR * min(height, width)] * 2), mode="nearest")
    shifted = np.roll(values, (random.integers(height), random.integers(width)), axis=(0, 1))
    maps = {"map": values, "random": shifted, "centre": centre_prior(values.shape)}
    shares = np.linspace(0, 1, _STEPS + 1)
    parts = []
    for order in ORDERS:
        flat = maps[order].ravel()
        rank = np.empty(len(flat), int)
        rank[np.lexsort((random.permutation(len(flat)), -flat))] = np.arange(len(flat))  # 0: the highest
        exchanged = (rank < np.rint(shares * len(flat))[:, None]).reshape(-1, 1, height, width)  # (steps + 1, 1, …)
        for direction, before, after in (("deletion", image, blurred), ("insertion", blurred, image)):
            with torch.no_grad():
                outputs = network(as_images(network, np.where(exchanged, after, before)))
            found = [float(of_class(output)) for output in outputs]
            parts.append(pd.DataFrame({"direction": direction, "order": order, "share": shares, "probability": found}))
    return pd.concat(parts)


def area_table(curves: pd.DataFrame, study: MapStudy) -> pd.DataFrame:
    """Areas under the curves, by the trapezoidal rule, of the map's order beside the others', over patients.

    Args:
        curves: of `deletion_insertion_curves`; images without any are left out.
        study: that they are of.

    Returns:
        A row each for deletion and insertion, `map − random place` and `map − middle` (`Comparison`). In deletion below 0, and in
        insertion above 0, says that the map's places matter more.
    """
    areas = pd.DataFrame(np.nan, index=study.images.index, columns=pd.MultiIndex.from_product([DIRECTIONS, ORDERS]))
    for (image, direction, order), curve in curves.groupby(["image", "direction", "order"], sort=False):
        areas.loc[image, (direction, order)] = np.trapezoid(curve["probability"], curve["share"])
    names = {"map − random place": "random", "map − middle": "centre"}
    return pd.DataFrame(
        {
            name: {way: compare_means(areas[way, "map"], areas[way, order], study.patients) for way in DIRECTIONS}
            for name, order in names.items()
        }
    )


def stages(network: Classifier | Segmenter) -> list[tuple[str, tuple[str, ...]]]:
    """A network's modules in the order in which they are used, in eight neighbouring groups or as many as it has parts; the last
    one (the head) is a group alone.

    Returns:
        (name of the first module, names of the tensors of the state dict) of each group, first to last. Together they hold every
        parameter and every statistic of a normalisation.
    """
    keys = list(network.network.state_dict())
    pieces = _pieces(network.network, "", keys, _PIECE * len(keys))
    calls = _calls(network, [name for name, _ in pieces])
    order: list[int] = []
    for name, _ in pieces:  # with its predecessor where it is never called
        order.append(calls.get(name, order[-1] if order else -1))
    *body, head = [pieces[at] for at in np.argsort(order, kind="stable")]
    places = np.array_split(np.arange(len(body)), min(_MOST_STAGES - 1, len(body)))
    groups = [*([body[at] for at in place] for place in places), [head]]
    named = []
    for group in groups:
        first = next((name for name, _ in group if name in calls), group[0][0])
        named.append((first, tuple(key for _, held in group for key in held)))
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
    for module, _ in trial(network):
        path = paths.get(module)
        holders = [name for name in names if path is not None and f"{path}.".startswith(f"{name}.")]
        holder = max(holders, key=len, default=None)  # the innermost
        if holder is not None and next(module.parameters(recurse=False), None) is not None:
            calls.setdefault(holder, len(calls))
    return calls


def randomised(network: Classifier | Segmenter, seed: int) -> Iterator[tuple[str, Classifier | Segmenter]]:
    """The network with its last stage made random, then the last two, and so on to the first: the cascade of Adebayo et al.

    Random are the values that the same architecture begins training from scratch with, and its normalisations' statistics.

    Args:
        network: stays as it is.
        seed: of the random values; PyTorch's own generators are not touched.

    Returns:
        Iterator of (name of the first random module, network in evaluation mode). It is one and the same copy, changed between
        the steps: use it before the next is asked for.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        fresh = network.architecture.network(network.in_channels, network.classes, network.options).state_dict()
    changed = copy.deepcopy(network).eval()
    state = changed.network.state_dict()
    for name, keys in reversed(stages(network)):
        for key in keys:
            state[key].copy_(fresh[key])
        yield name, changed


def compare_maps(first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    """How alike two networks' maps of the same images are.

    Args:
        first, second: (n, height, width) in [0, 1]; 7 pixels a side or more.

    Returns:
        A row an image: `spearman`, the correlation of ranks over the pixels, and `ssim`, the structural similarity (Wang et al.
        2004), both in [-1, 1] and 1 for equal maps; `blank` (bool), one of the two is zero everywhere, or one and the same value
        everywhere, and both are NaN.
    """
    rows = []
    for one, two in zip(np.asarray(first, float), np.asarray(second, float), strict=True):
        blank = not (np.ptp(one) > 0 and np.ptp(two) > 0)
        ranks = np.nan if blank else np.corrcoef(rankdata(one), rankdata(two))[0, 1]
        structure = np.nan if blank else structural_similarity(one, two, data_range=1.0)
        rows.append((float(ranks), float(structure), blank))
    return pd.DataFrame(rows, columns=[*SIMILARITIES, "blank"])


def randomisation_table(study: MapStudy, seeds: Sequence[int]) -> pd.DataFrame:
    """How alike the maps stay while the network is made random from its head on, with intervals over patients.

    Args:
        seeds: of the random weights; each makes a cascade of its own.

    Returns:
        A row a stage, in the order of the cascade, index `stage` (name of the first random module; "as trained" is compared with
        itself): `spearman` and `ssim` (`Estimate` of the mean over images, of each image's mean over seeds), `blank` (maps
        without a value, over images and seeds) and `maps` (in all).
    """
    network, trained, bar = study.predictor.network, study.maps.maps, progress_bar("Randomising")
    found, steps = {"as trained": [compare_maps(trained, trained)] * len(seeds)}, len(stages(network))
    for number, seed in enumerate(seeds):
        for position, (stage, other) in enumerate(randomised(network, seed), start=1):
            found.setdefault(stage, []).append(compare_maps(trained, study.maps_of(other).maps))
            bar(number * steps + position, len(seeds) * steps)
    rows = {}
    for stage, several in found.items():
        together = pd.concat(several)
        means = together[list(SIMILARITIES)].groupby(level=0).mean()
        estimates = {name: patient_estimate(means[name], study.patients) for name in SIMILARITIES}
        rows[stage] = {**estimates, "blank": int(together["blank"].sum()), "maps": len(together)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")


def likeness_table(study: MapStudy, others: Mapping[str, Run]) -> pd.DataFrame:
    """How alike the maps are to those of other runs of the same architecture, over patients.

    Args:
        others: name of a row → run, one trained on permuted labels for instance.

    Returns:
        a row a run: `spearman` and `ssim` (`Estimate` of the mean over images whose maps are both not blank), `images`.
    """
    rows = {}
    for name, run in others.items():
        found = compare_maps(study.maps.maps, study.maps_of(Predictor(run).network).maps)
        rows[name] = {measure: patient_estimate(found[measure], study.patients) for measure in SIMILARITIES}
        rows[name]["images"] = int((~found["blank"]).sum())
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("compared with the network of")
