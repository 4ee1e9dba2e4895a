"""Speckle of a homogeneous phantom, and how well it follows the theory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.draws import Draws
from thyroid_utils.data.phantom.physics import USUAL_ATTENUATION, Tissue, echo_signal, envelope_of
from thyroid_utils.data.phantom.scanners import find_scanner

RAYLEIGH_SNR = math.sqrt(math.pi / (4 - math.pi))  # 1.913: mean over SD of a Rayleigh-distributed envelope


@dataclass(frozen=True)
class RayleighFit:
    """How an envelope compares with fully developed speckle.

    `snr` mean/SD of the whole envelope (theory 1.913); `scale` Rayleigh parameter √(mean power / 2); `samples` pixels far enough
    apart to count as independent; `distance`, `p_value` of the Kolmogorov-Smirnov test on those.
    """

    snr: float
    scale: float
    samples: int
    distance: float
    p_value: float


def homogeneous_phantom(
    shape: tuple[int, int] = (512, 512), seed: int = 0, scanner: str = "linear-10", spacing: float = 0.15
) -> np.ndarray:
    """Envelope of tissue without structure: fully developed speckle, before log compression.

    Args:
        shape: (height, width) in pixels, each 32 or more.
        seed: whole number from 0.
        scanner: preset, whose pulse and beam make the speckle; focus in the middle of the depth.
        spacing: mm a pixel.

    Returns:
        float32 (height, width), ≥ 0, mean power 1 per component pair. Attenuation is fully compensated and the receiver
        adds no noise.
    """
    if min(shape) < 32:
        raise DataError(f"homogeneous phantom: shape is {tuple(shape)}, expected at least 32 pixels each way")
    preset = replace(find_scanner(scanner), tgc=math.inf)
    flat = np.zeros(shape, np.float32)
    tissue = Tissue(flat, flat + np.float32(USUAL_ATTENUATION), flat, flat)
    scatter = Draws(seed).scatterers((2, *shape)).astype(np.float32)
    real, imaginary = echo_signal(scatter, tissue, preset, spacing, shape[0] * spacing / 2, np.zeros_like(scatter))
    return envelope_of(real, imaginary)


def rayleigh_fit(envelope: np.ndarray, step: tuple[int, int] = (12, 20)) -> RayleighFit:
    """Compare the first-order statistics of an envelope with the Rayleigh distribution.

    Args:
        envelope: (height, width) of one homogeneous region, ≥ 0.
        step: (down, right) pixels between samples taken as independent: several speckle cells.

    Reference:
        Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978).
    """
    from scipy import stats  # a third of a second to load, which readers of phantoms need not spend

    envelope = np.asarray(envelope, np.float64)
    scale = math.sqrt(float((envelope**2).mean()) / 2)
    samples = envelope[:: step[0], :: step[1]].ravel()
    test = stats.kstest(samples, stats.rayleigh(scale=scale).cdf)
    return RayleighFit(float(envelope.mean() / envelope.std()), scale, samples.size, float(test.statistic), float(test.pvalue))
