"""Numbers for what a filter does to an ultrasound image: contrast, speckle, edges.

| measure | unit | after gray levels are changed by a·x + b |
|---|---|---|
| `contrast_to_noise`, `generalised_cnr` | none | the same |
| `edge_strength` | gray levels per pixel | |a| times as large |
| `speckle_snr` of an envelope | none | the same for b = 0 only: zero must mean no echo |

`quality` brings an image to gray levels first, so that its numbers can be compared across the stages of a pipeline.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from thyroid_utils.data.images import ring_around
from thyroid_utils.data.overlays import Box, echo_mask


def decompress(gray: np.ndarray, dynamic_range_db: float = 60.0) -> np.ndarray:
    """Undo a scanner's log compression.

    Args:
        gray: gray levels in [0, 255], any shape.
        dynamic_range_db: decibels that the scanner spread over 0 to 255. Real scanners add gray maps of their own, so that a
            statistic of the result holds for the assumed range only.

    Returns:
        float64 of the same shape: the echo's amplitude relative to level 255, 10^(range/20 · (gray/255 - 1)).
    """
    return 10 ** (dynamic_range_db / 20 * (np.asarray(gray, np.float64) / 255 - 1))


def speckle_snr(envelope: np.ndarray) -> float:
    """Mean over standard deviation of an envelope's amplitudes in a homogeneous patch; 1.91 for fully developed speckle.

    inf for a constant patch; NaN for an empty one. Reference: C. B. Burckhardt, IEEE Trans. Sonics Ultrason. 25 (1978) 1-6.
    """
    values = np.asarray(envelope, np.float64)
    if values.size == 0:
        return float("nan")
    deviation = values.std()
    return float(values.mean() / deviation) if deviation > 0 else float("inf")


def contrast_to_noise(inside: np.ndarray, outside: np.ndarray) -> float:
    """|µ₁ - µ₂| / √(σ₁² + σ₂²) of two groups of pixels, population variances. inf or 0 without noise; NaN for an empty group."""
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if inside.size == 0 or outside.size == 0:
        return float("nan")
    difference = abs(inside.mean() - outside.mean())
    noise = np.sqrt(inside.var() + outside.var())
    if noise == 0:
        return float("inf") if difference > 0 else 0.0
    return float(difference / noise)


def generalised_cnr(inside: np.ndarray, outside: np.ndarray, bins: int = 64) -> float:
    """One minus the overlap of two groups' histograms: 0 where no threshold tells them apart, 1 where one does so fully.

    Unlike the CNR it cannot be raised by a mere change of the gray map. Groups of few pixels per bin overlap too little by
    chance. NaN for an empty group.

    Args:
        inside, outside: pixel values.
        bins: equal bins between the lowest and the highest value of both.

    Reference:
        A. Rodriguez-Molares et al., The generalized contrast-to-noise ratio, IEEE TUFFC 67 (2020) 745-759.
    """
    inside, outside = np.asarray(inside, np.float64).ravel(), np.asarray(outside, np.float64).ravel()
    if inside.size == 0 or outside.size == 0:
        return float("nan")
    low, high = min(inside.min(), outside.min()), max(inside.max(), outside.max())
    if low == high:
        return 0.0
    first = np.histogram(inside, bins, (low, high))[0] / inside.size
    second = np.histogram(outside, bins, (low, high))[0] / outside.size
    return float(1 - np.minimum(first, second).sum())


def edge_strength(image: np.ndarray, mask: np.ndarray, sigma: float = 1.0) -> float:
    """Mean over a mask's contour of how steeply the image changes across it.

    Args:
        image: (height, width), any real type.
        mask: bool (height, width).
        sigma: width in pixels of the Gaussian whose derivative is taken.

    Returns:
        mean absolute directional derivative along the contour's normal, in units of the image per pixel; NaN where the mask
        has no contour inside the image. A ramp of slope s across the contour gives s, a step of height h about h/(σ√(2π)).
    """
    mask = np.asarray(mask, bool)
    if mask.all() or not mask.any():
        return float("nan")
    contour = mask & ~ndimage.binary_erosion(mask, border_value=1)
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    normal = np.stack([ndimage.gaussian_filter(signed, 2.0, order) for order in ((1, 0), (0, 1))])
    length = np.hypot(*normal)
    values = np.asarray(image, np.float64)
    slope = np.stack([ndimage.gaussian_filter(values, sigma, order) for order in ((1, 0), (0, 1))])
    usable = contour & (length > 1e-6)
    if not usable.any():
        return float("nan")
    across = np.abs((slope * normal).sum(axis=0)[usable]) / length[usable]
    return float(across.mean())


def homogeneous_patches(gray: np.ndarray, count: int = 5, size: int = 24, within: np.ndarray | None = None) -> list[Box]:
    """The most even patches of speckle in an image, found automatically, most even first, without overlap.

    A patch qualifies where hardly a pixel is black or saturated, the gray levels vary, and it is as bright as tissue: its mean
    lies between the 40th and the 95th percentile of the image, so that shadows and noise do not pass for speckle. Its
    unevenness is the standard deviation of the means of its 16 parts over that of its pixels: structure raises the former,
    speckle the latter.

    Args:
        gray: gray levels in [0, 255], (height, width).
        count: how many at most.
        size: side in pixels, brought to a multiple of 4 and at least 8.
        within: bool (height, width); patches lie wholly inside it. None takes the whole image.

    Returns:
        list of `Box`, fewer than `count` or none where the image has no more room.
    """
    gray = np.asarray(gray, np.float64)
    usable = (gray > 4) & (gray < 251)
    if within is not None:
        usable &= np.asarray(within, bool)
    part = max(size // 4, 2)
    rows, columns = gray.shape[0] // part, gray.shape[1] // part
    if min(rows, columns) < 4 or not usable.any():
        return []

    def windows(values: np.ndarray) -> np.ndarray:
        """Means of the parts, seen by windows of 4 × 4 parts: (rows - 3, columns - 3, 16)."""
        means = values[: rows * part, : columns * part].reshape(rows, part, columns, part).mean(axis=(1, 3))
        return np.lib.stride_tricks.sliding_window_view(means, (4, 4)).reshape(rows - 3, columns - 3, 16)

    means = windows(gray)
    mean = means.mean(axis=2)
    deviation = np.sqrt(np.maximum(windows(gray**2).mean(axis=2) - mean**2, 0))
    low, high = np.percentile(gray[usable], (40, 95))
    good = (windows(usable).mean(axis=2) >= 0.99) & (deviation >= 1) & (mean >= low) & (mean <= high)
    unevenness = np.where(good, means.std(axis=2) / np.maximum(deviation, 1), np.inf)
    chosen: list[Box] = []
    for flat in np.argsort(unevenness, axis=None, kind="stable")[: int(good.sum())]:
        row, column = np.unravel_index(flat, unevenness.shape)
        box = Box(int(row) * part, int(row + 4) * part, int(column) * part, int(column + 4) * part)
        if all(abs(box.top - other.top) >= 4 * part or abs(box.left - other.left) >= 4 * part for other in chosen):
            chosen.append(box)
        if len(chosen) == count:
            break
    return chosen


def quality(
    image: np.ndarray, mask: np.ndarray, dynamic_range_db: float = 60.0, patches: list[Box] | None = None
) -> dict[str, float]:
    """Contrast, speckle and edges of one image and its nodule.

    Args:
        image: (height, width), or with equal channels in front or behind. uint8 is taken as gray levels; float in [0, 1] is
            multiplied by 255; any other float is brought to 0 to 255 by its own minimum and maximum, and its speckle's SNR
            then holds for an image that used the whole range.
        mask: bool (height, width), the nodule.
        dynamic_range_db: for the envelope that the speckle's SNR is taken of.
        patches: where the speckle is measured; None takes `homogeneous_patches`. Give the same ones to compare filters, or
            each filter is measured where it left the image most even.

    Returns:
        `cnr` and `gcnr` between the nodule and the ring around it inside the echo image; `edge` in gray levels per pixel;
        `speckle_snr`, median over the patches. NaN where the mask is empty or full, or no patch is even enough.
    """
    return _measured(_levels(image), np.asarray(mask, bool), dynamic_range_db, patches)


def _measured(levels: np.ndarray, mask: np.ndarray, dynamic_range_db: float, patches: list[Box] | None) -> dict[str, float]:
    echo = _echo(levels)
    inside, outside = levels[mask & echo], levels[ring_around(mask) & echo]
    patches = homogeneous_patches(levels, within=echo) if patches is None else patches
    snr = [speckle_snr(decompress(box.crop(levels), dynamic_range_db)) for box in patches]
    return {
        "cnr": contrast_to_noise(inside, outside),
        "gcnr": generalised_cnr(inside, outside),
        "edge": edge_strength(levels, mask),
        "speckle_snr": float(np.median(snr)) if snr else float("nan"),
    }


def _echo(levels: np.ndarray) -> np.ndarray:
    return echo_mask(np.clip(np.round(levels), 0, 255).astype(np.uint8))


def _one_channel(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3:
        return image[..., 0] if image.shape[-1] == 3 else image[0]
    return image


def _levels(image: np.ndarray) -> np.ndarray:
    """float64 (height, width) in [0, 255] by the rule of `quality`; 0 throughout where a z-scored image is constant."""
    values = _one_channel(np.asarray(image)).astype(np.float64)
    if np.asarray(image).dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return 255 * values
    return np.zeros(values.shape) if high == low else (values - low) * (255 / (high - low))
