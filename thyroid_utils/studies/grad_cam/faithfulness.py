"""Whether a network depends on what a map shows: its answer while the image is taken away or built up in the map's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from scipy.ndimage import gaussian_filter
from torch import nn

from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.cam import as_images, checked_inputs
from thyroid_utils.inference.layers import restore_modes
from thyroid_utils.inference.targets import Target, image_targets
from thyroid_utils.studies.grad_cam.attention import centre_prior

ORDERS = ("map", "random", "centre")
DIRECTIONS = ("deletion", "insertion")


def deletion_insertion_curves(
    network: nn.Module,
    inputs: np.ndarray,
    maps: np.ndarray,
    target: int | str = 1,
    steps: int = 20,
    *,
    blur: float = 0.1,
    batch_size: int = 16,
    seed: int = 0,
    cases: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The target's probability while pixels are blurred, or put into a blurred image, the most important ones first.

    Orders: `map`; `centre`, from the middle outwards; `random`, the same map shifted cyclically to a random place, one for each
    image. Pixels drawn one by one would be no fair rival: networks answer to scattered holes wherever they are. Equal values of a
    map come in a random order.

    Args:
        network: `Classifier` or `Segmenter`.
        inputs: float32 (n, channels, height, width).
        maps: (n, height, width), 0 or above; blank ones are left out.
        target: as for `cam_maps`. Of a segmenter it is the mean nodule probability of the pixels that it calls nodule in
            the whole image.
        steps: in how many equal parts the pixels are exchanged.
        blur: σ of the Gaussian that makes the image to exchange with, as a share of the image's smaller side.
        batch_size: images a forward pass; no result depends on it.
        seed: of the random places and of equal values.
        cases: names of the images; None numbers them.
        progress: called with (images done, images in all).

    Returns:
        Columns image (a case or a number), direction (deletion, insertion), order (map, random, centre), share (of the pixels
        exchanged, 0 to 1) and probability. Blank maps have no rows.

    Raises:
        ValueError: shapes that do not fit, or fewer than one step.

    Reference:
        Petsiuk, Das and Saenko, RISE, BMVC 2018.
    """
    inputs, maps = checked_inputs(inputs), np.asarray(maps, dtype=float)
    if maps.shape != (len(inputs), *inputs.shape[2:]):
        raise ValueError(f"maps have shape {maps.shape}; expected {(len(inputs), *inputs.shape[2:])}, one for each of the inputs")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number from 1; found {steps!r}")
    names = list(range(len(inputs))) if cases is None else list(cases)
    parts = []
    with _asked(network):
        for number, (image, values) in enumerate(zip(inputs, maps, strict=True)):
            if not _blank(values):
                parts.append(
                    _curves_of(network, image, values, target, steps, blur, batch_size, (seed, number)).assign(
                        image=names[number]
                    )
                )
            if progress is not None:
                progress(number + 1, len(inputs))
    columns = ["image", "direction", "order", "share", "probability"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def deletion_insertion(
    network: nn.Module,
    inputs: np.ndarray,
    maps: np.ndarray,
    target: int | str = 1,
    steps: int = 20,
    *,
    cases: Sequence[str] | None = None,
    **options,
) -> pd.DataFrame:
    """Areas under the curves of `deletion_insertion_curves`, whose arguments these are, in [0, 1].

    Deletion is the better the smaller, insertion the better the larger; both only beside their references on the same images.

    Returns:
        A row an image: `deletion_auc`, `deletion_random`, `deletion_centre`, and the same of insertion, by the trapezoidal rule;
        `blank` (bool), whose areas are NaN.
    """
    curves = deletion_insertion_curves(network, inputs, maps, target, steps, cases=cases, **options)
    return curve_areas(curves, maps, cases)


def curve_areas(curves: pd.DataFrame, maps: np.ndarray, cases: Sequence[str] | None = None) -> pd.DataFrame:
    """What `deletion_insertion` returns, from the curves of the same maps."""
    index = pd.RangeIndex(len(maps)) if cases is None else pd.Index(list(cases), name="case", dtype="string")
    areas = pd.DataFrame(np.nan, index=index, columns=[_column(way, order) for way in DIRECTIONS for order in ORDERS])
    for (image, direction, order), curve in curves.groupby(["image", "direction", "order"], sort=False):
        areas.loc[image, _column(direction, order)] = float(np.trapezoid(curve["probability"], curve["share"]))
    return areas.assign(blank=[_blank(np.asarray(values, float)) for values in maps])


def road(
    network: nn.Module,
    inputs: np.ndarray,
    maps: np.ndarray,
    target: int | str = 1,
    *,
    percentiles: Sequence[int] = (20, 40, 60, 80),
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """ROAD of each map, in [-1/2, 1/2], by pytorch-grad-cam; above 0 where the order of the pixels matters.

    It is half the difference of the target's probability without the least important pixels and without the most important ones.
    What is taken away is filled in by noisy linear interpolation, which leaves no outline of the hole to be recognised. The
    library is given ranks (equal values in a random order), as thresholds at equal values take away more than the share asked
    for. Each filling solves as many equations as pixels are missing: about a second an image and percentile at 224 pixels.

    Args:
        network, inputs, maps, target, seed, progress: as for `deletion_insertion_curves`.
        percentiles: shares of pixels that are taken away, in percent, averaged over.

    Returns:
        float64 (n,), NaN for a blank map.

    Reference:
        Rong et al., A consistent and efficient evaluation strategy for attribution methods, ICML 2022.
    """
    inputs, maps = checked_inputs(inputs), np.asarray(maps, dtype=float)
    if maps.shape != (len(inputs), *inputs.shape[2:]):
        raise ValueError(f"maps have shape {maps.shape}; expected {(len(inputs), *inputs.shape[2:])}, one for each of the inputs")
    measure = ROADCombined(percentiles=list(percentiles))
    found = np.full(len(inputs), np.nan)
    with _asked(network), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for number, (image, values) in enumerate(zip(inputs, maps, strict=True)):
            if not _blank(values):
                torch.manual_seed(seed + number)  # of the noise in the filling
                order = _falling(values, np.random.default_rng((seed, number)))
                ranks = np.empty(len(order), np.float32)
                ranks[order] = np.arange(len(order), 0, -1) / len(order)
                images = as_images(network, image[None])
                targets, _ = image_targets(network, images, target, probability=True)
                found[number] = float(measure(images, ranks.reshape(1, *values.shape), targets, network)[0])
            if progress is not None:
                progress(number + 1, len(inputs))
    return found


def _column(direction: str, order: str) -> str:
    return f"{direction}_{'auc' if order == 'map' else order}"


def _blank(values: np.ndarray) -> bool:
    return bool(np.isnan(values).any()) or not values.max() > 0


@contextmanager
def _asked(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients; afterwards in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            yield
    finally:
        restore_modes(modes)


def _curves_of(
    network: nn.Module,
    image: np.ndarray,
    values: np.ndarray,
    target: int | str,
    steps: int,
    blur: float,
    batch_size: int,
    seed: tuple[int, int],
) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    (of_class,), _ = image_targets(network, as_images(network, image[None]), target, probability=True)
    height, width = values.shape
    blurred = gaussian_filter(image, (0, *[blur * min(height, width)] * 2), mode="nearest")
    shifted = np.roll(values, (random.integers(height), random.integers(width)), axis=(0, 1))
    maps = {"map": values, "random": shifted, "centre": centre_prior(values.shape)}
    shares = np.linspace(0, 1, steps + 1)
    parts = []
    for order in ORDERS:
        exchanged = _exchanged(_falling(maps[order], random), shares).reshape(-1, 1, height, width)  # (steps + 1, 1, …)
        for direction, before, after in (("deletion", image, blurred), ("insertion", blurred, image)):
            found = _answers(network, np.where(exchanged, after, before), of_class, batch_size)
            parts.append(pd.DataFrame({"direction": direction, "order": order, "share": shares, "probability": found}))
    return pd.concat(parts)


def _falling(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Places of a flattened map by falling value, equal ones in a random order."""
    flat = values.ravel()
    return np.lexsort((random.permutation(len(flat)), -flat))


def _exchanged(order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Which pixels are exchanged at each share, bool (shares, pixels)."""
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return rank < np.rint(shares * len(order))[:, None]


def _answers(network: nn.Module, images: np.ndarray, target: Target, batch_size: int) -> np.ndarray:
    found = []
    for start in range(0, len(images), batch_size):
        outputs = network(as_images(network, images[start : start + batch_size]))
        found += [float(target(output)) for output in outputs]
    return np.array(found)
