"""From tissue to B-mode: scatterers × echo amplitude, convolved with the point spread function, envelope, log compression.

The echo is simulated as the complex (IQ) signal that a scanner has after demodulation, so the carrier needs no finer grid:
scatterers carry the random phase, the point spread function is the pulse's envelope along depth (its length a few half
wavelengths) and the beam's profile across (diffraction-limited at the focus, wider away from it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thyroid_utils.data.phantom.draws import SCATTER_SD, Draws
from thyroid_utils.data.phantom.exact import amplitude, bell, decibels, filter_columns, filter_rows, smoothstep, whole
from thyroid_utils.data.phantom.scanners import Scanner

SOUND_SPEED = 1.54  # mm/µs in soft tissue
USUAL_ATTENUATION = 0.55  # dB/cm/MHz that time gain compensation assumes (thyroid and muscle: 0.5 to 0.7)
GLAND_LEVEL = 0.40  # gray (of 1) at which an average gland is shown with gain 0
CLUTTER = -23.0  # dB of the haze at the skin, relative to the gland
CLUTTER_FALL = 2.5  # dB/cm that it fades with depth
_FWHM = 2.3548  # of a Gaussian, in standard deviations
_ZONES = 5  # depth zones of the beam width, blended linearly


@dataclass(frozen=True)
class Tissue:
    """What the beam meets, arrays (height, width) float32 of one pixel spacing.

    `echo` backscatter in dB relative to the gland; `attenuation` dB/cm/MHz; `shadow` additional dB lost in the pixel (two-way);
    `specular` amplitude of smooth interfaces, relative to the gland's scatterers.
    """

    echo: np.ndarray
    attenuation: np.ndarray
    shadow: np.ndarray
    specular: np.ndarray


def pulse_sd(scanner: Scanner, spacing: float) -> float:
    """Standard deviation in pixels of the pulse's envelope along depth."""
    return scanner.cycles * SOUND_SPEED / scanner.frequency / _FWHM / spacing


def beam_sd(scanner: Scanner, spacing: float, depth: float, focus: float) -> float:
    """Standard deviation in pixels of the beam's profile across at a depth (mm), its focus at another."""
    wavelength = SOUND_SPEED / scanner.frequency
    waist = wavelength * scanner.f_number
    reach = 7 * wavelength * scanner.f_number**2  # half the depth of field
    return waist * math.sqrt(1 + ((depth - focus) / reach) ** 2) / _FWHM / spacing


def _zone_rows(height: int) -> list[tuple[int, int, int]]:
    """(start, centre, stop) of each zone: neighbours share the rows between their centres."""
    centres = [round(k * (height - 1) / (_ZONES - 1)) for k in range(_ZONES)]
    return [(centres[max(k - 1, 0)], centres[k], centres[min(k + 1, _ZONES - 1)] + 1) for k in range(_ZONES)]


def _across(scatter: np.ndarray, scanner: Scanner, spacing: float, focus: float) -> np.ndarray:
    """Convolve rows with the beam profile of their depth, energy kept: whole numbers in, float32 out."""
    blended = np.zeros_like(scatter)
    for start, centre, stop in _zone_rows(len(scatter)):
        kernel = bell(beam_sd(scanner, spacing, centre * spacing, focus))
        # Two neighbouring beams are nearly in step, so the linear blend of their sums keeps the energy.
        band = filter_rows(scatter[start:stop], kernel) * np.float32(1 / math.sqrt(float((kernel**2).sum())))
        rows = np.arange(start, stop, dtype=np.float32)
        rising = (rows - start) / np.float32(centre - start) if centre > start else np.ones_like(rows)
        falling = (stop - 1 - rows) / np.float32(stop - 1 - centre) if stop > centre + 1 else np.ones_like(rows)
        weight = np.minimum(rising, falling)
        blended[start:stop] += band * weight[:, None]
    return blended


def total_attenuation(tissue: Tissue, scanner: Scanner, spacing: float) -> np.ndarray:
    """Two-way attenuation above what time gain compensates, in dB (height, width): positive is darker (shadow), negative
    brighter (enhancement behind fluid). Blurred across by the beam, which is why shadows have soft sides."""
    two_way = np.float32(2 * scanner.frequency * spacing / 10)
    excess = (tissue.attenuation - np.float32(USUAL_ATTENUATION)) * two_way + tissue.shadow
    summed = np.cumsum(excess, axis=0, dtype=np.float32)
    kernel = bell(max(0.8, 0.6 / spacing))
    summed = filter_rows(whole(np.clip(summed, -30, 90) * 64), kernel) * np.float32(1 / 64 / float(kernel.sum()))
    depth = np.arange(1, len(summed) + 1, dtype=np.float32)[:, None]
    beyond = np.maximum(depth * (np.float32(USUAL_ATTENUATION) * two_way) - np.float32(scanner.tgc), 0)
    return np.clip(summed, -9, 60) + beyond


def speckle(patient: Draws, view: Draws, shape: tuple[int, int], shift: tuple[int, int], share: float, reach: int) -> np.ndarray:
    """Scatterers of one view, float32 whole numbers (2, height, width): real and imaginary part.

    Args:
        patient: draws of the tissue's scatterers, the same for each view of a patient.
        view: draws of what is new in this view (the slice has moved out of plane).
        shape: (height, width).
        shift: (down, right) pixels the probe has moved, each within ±`reach`.
        share: correlation of the tissue's scatterers with those of the view, in [0, 1].
        reach: greatest shift.
    """
    height, width = shape
    tissue = patient.scatterers((2, height + 2 * reach, width + 2 * reach)).astype(np.float32)
    down, right = reach + shift[0], reach + shift[1]
    own = view.scatterers((2, height, width)).astype(np.float32)
    kept = tissue[:, down : down + height, right : right + width]
    return np.rint(kept * np.float32(share) + own * np.float32(math.sqrt(1 - share**2)))


def echo_signal(
    scatter: np.ndarray, tissue: Tissue, scanner: Scanner, spacing: float, focus: float, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Demodulated echo, real and imaginary part, float32 (height, width) each.

    Args:
        scatter: (2, height, width) as `speckle` gives it.
        tissue: what is imaged.
        scanner: preset.
        spacing: mm a pixel.
        focus: depth in mm.
        noise: (2, height, width) like `scatter`, of the receiver: white across, band-limited by the pulse along depth.
    """
    lost = total_attenuation(tissue, scanner, spacing)
    depth = np.arange(len(lost), dtype=np.float32)[:, None] * np.float32(spacing / 10)
    # Reverberation and side lobes lay a faint haze over fluid and shadows, so they are never quite black near the probe.
    strength = amplitude(tissue.echo - lost) + amplitude(np.float32(CLUTTER) - np.float32(CLUTTER_FALL) * depth)
    mirror = tissue.specular * amplitude(-lost)
    gained = np.minimum(depth * np.float32(2 * scanner.frequency * USUAL_ATTENUATION), np.float32(scanner.tgc))
    floor = amplitude(gained + np.float32(scanner.noise))
    pulse = bell(pulse_sd(scanner, spacing))
    scan_lines = bell(0.7)
    parts = []
    for part in (0, 1):
        # A real interface is smooth in places only: part of its echo keeps one phase, part is scattered like the rest.
        coherent = np.float32(0.5 * SCATTER_SD) if part == 0 else np.float32(0)
        source = scatter[part] * (strength + np.float32(0.75) * mirror) + coherent * mirror
        across = _across(whole(source), scanner, spacing, focus)
        hiss = filter_rows(noise[part], scan_lines) * np.float32(1 / math.sqrt(float((scan_lines**2).sum())))
        received = whole((across + hiss * floor) * 4)
        parts.append(filter_columns(received, pulse) * np.float32(1 / 4 / math.sqrt(float((pulse**2).sum()))))
    return parts[0], parts[1]


def envelope_of(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """|echo|, float32 ≥ 0 (height, width), 1 for the average power of a gland in focus without attenuation."""
    return np.sqrt(real * real + imaginary * imaginary) * np.float32(1 / (SCATTER_SD * math.sqrt(2)))


def log_compress(envelope: np.ndarray, dynamic_range: float = 60.0, gain: float = 0.0) -> np.ndarray:
    """Gray image of an envelope: 20·log10 of it, `dynamic_range` dB from black to white.

    Args:
        envelope: ≥ 0, 1 for an average gland.
        dynamic_range: dB, as a scanner's "DR"; usual are 50 to 60.
        gain: dB added; with 0 an average gland is shown at 40 % of white.

    Returns:
        uint8 in [0, 255], of the shape of `envelope`.
    """
    power = envelope.astype(np.float32)
    level = (decibels(power * power) + np.float32(gain)) * np.float32(1 / dynamic_range) + np.float32(GLAND_LEVEL)
    return np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8)


def smooth_display(gray: np.ndarray) -> np.ndarray:
    """Scan conversion's interpolation: a light smoothing of the gray image, uint8 to uint8.

    Weights 1, 2, 1 between scan lines and 1, 6, 1 along them, where samples lie closer.
    """
    summed = filter_rows(gray.astype(np.float32), np.array([1, 2, 1], np.float32))
    summed = filter_columns(summed, np.array([1, 6, 1], np.float32))
    return np.rint(summed * np.float32(1 / 32)).astype(np.uint8)


def dropout(width: int, side: int, reach: float) -> np.ndarray:
    """Loss in dB (1, width) where a probe lifts off the skin at its left (`side` -1) or right (1) edge, over `reach` of it."""
    position = (np.arange(width, dtype=np.float32) + 0.5) / np.float32(width)
    distance = position if side < 0 else 1 - position
    return (1 - smoothstep(distance / np.float32(max(reach, 1e-3))))[None] * np.float32(32)
