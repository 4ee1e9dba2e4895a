"""Speckle-reducing filters that no library of the environment holds, and the resampling that all steps share."""

from __future__ import annotations

import cv2
import numpy as np


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image to (height, width): area average along an axis that shrinks, linear along one that grows."""
    height, width = shape
    shrunk = (min(height, image.shape[0]), min(width, image.shape[1]))
    if shrunk != image.shape[:2]:
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def laid_into(array: np.ndarray, shape: tuple[int, int], top: int, left: int) -> np.ndarray:
    """An array (height, width, ...) at (top, left) of a larger one of `shape`, which is 0 or False elsewhere."""
    whole = np.zeros((*shape, *array.shape[2:]), array.dtype)
    whole[top : top + array.shape[0], left : left + array.shape[1]] = array
    return whole


def lee(gray: np.ndarray, window: int, noise: float | None = None) -> np.ndarray:
    """Lee's local-statistics filter for additive noise.

    out = m + max(v - noise, 0) / v · (gray - m), with the local mean m and variance v. Speckle multiplies the echo, so after
    the scanner's log compression it adds to it: the additive form is the one for stored B-mode images.

    Args:
        gray: (height, width), any real type.
        window: side of the local window in pixels, odd.
        noise: variance of the noise in squared gray levels; None takes the median of the local variances.

    Returns:
        float32 (height, width).

    Reference:
        J.-S. Lee, Digital image enhancement and noise filtering by use of local statistics, IEEE TPAMI 2 (1980) 165-168.
    """
    values = gray.astype(np.float64)
    mean = cv2.blur(values, (window, window), borderType=cv2.BORDER_REFLECT)
    variance = np.maximum(cv2.blur(values * values, (window, window), borderType=cv2.BORDER_REFLECT) - mean**2, 0)
    noise = float(np.median(variance)) if noise is None else noise
    gain = np.divide(np.maximum(variance - noise, 0), variance, out=np.zeros_like(variance), where=variance > 0)
    return (mean + gain * (values - mean)).astype(np.float32)


def srad(intensity: np.ndarray, iterations: int, time_step: float, decay: float = 1 / 6) -> np.ndarray:
    """Speckle-reducing anisotropic diffusion (SRAD).

    ∂I/∂t = div(c(q) ∇I), where q² = (½ |∇I|²/I² - 1/16 (∇²I/I)²) / (1 + ¼ ∇²I/I)² measures local variation and
    c(q) = 1 / (1 + (q² - q0²) / (q0² (1 + q0²))) stops the diffusion where q exceeds the speckle's own q0(t) = exp(-decay·t),
    the paper's value for fully developed speckle.

    Args:
        intensity: (height, width), positive: echo intensity before log compression, any scale.
        iterations: number of time steps.
        time_step: in (0, 0.25], the range in which the scheme is stable.

    Returns:
        float32 (height, width), positive.

    Reference:
        Y. Yu, S. T. Acton, Speckle reducing anisotropic diffusion, IEEE TIP 11 (2002) 1260-1270.
    """
    current = intensity.astype(np.float32)
    for step in range(iterations):
        q0_squared = np.float32(np.exp(-2 * decay * time_step * step))
        padded = np.pad(current, 1, mode="edge")
        north, south = padded[:-2, 1:-1] - current, padded[2:, 1:-1] - current
        west, east = padded[1:-1, :-2] - current, padded[1:-1, 2:] - current
        laplacian = (north + south + west + east) / current
        gradient = (north**2 + south**2 + west**2 + east**2) / (2 * current**2)
        q_squared = np.maximum(gradient / 2 - laplacian**2 / 16, 0) / np.maximum(1 + laplacian / 4, 1e-3) ** 2
        conduction = 1 / (1 + (q_squared - q0_squared) / (q0_squared * (1 + q0_squared)))
        conduction = np.clip(conduction, 0, 1)
        below = np.concatenate([conduction[1:], conduction[-1:]])
        right = np.concatenate([conduction[:, 1:], conduction[:, -1:]], axis=1)
        # With c in [0, 1] and a step of at most 1/4 the update is a convex combination: I stays positive and in its range.
        current = current + time_step * (below * south + conduction * north + right * east + conduction * west)
    return current
