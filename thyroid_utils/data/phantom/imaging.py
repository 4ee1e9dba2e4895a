"""Three scanners: how each makes B-mode of tissue, and what it burns into the frame (border, gray bar, ticks, text, callipers).

Scatterers × echo amplitude are convolved with the point spread function, attenuated and log-compressed. The echo is simulated
as the complex (IQ) signal that a scanner has after demodulation, so the carrier needs no finer grid: scatterers carry the
random phase, the point spread function is the pulse's envelope along depth (its length a few half wavelengths) and the beam's
profile across (diffraction-limited at the focus, wider away from it).
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from thyroid_utils.common.errors import DataError

RAYLEIGH_SNR = math.sqrt(math.pi / (4 - math.pi))  # 1.913: mean over SD of a Rayleigh-distributed envelope
SOUND_SPEED = 1.54  # mm/µs in soft tissue
USUAL_ATTENUATION = 0.55  # dB/cm/MHz that time gain compensation assumes (thyroid and muscle: 0.5 to 0.7)
_GLAND_LEVEL = 0.40  # gray (of 1) at which an average gland is shown with gain 0
_CLUTTER = -23.0  # dB of the haze at the skin, relative to the gland
_CLUTTER_FALL = 2.5  # dB/cm that it fades with depth
_FWHM = 2.3548  # of a Gaussian, in standard deviations
_ZONES = 5  # depth zones of the beam width, blended linearly
_FRAME = 256  # layouts are in pixels of a 256 × 256 frame and scale with its size
_ONE = np.ones(1)


@dataclass(frozen=True)
class Scanner:
    """A scanner preset.

    `frequency` MHz; `cycles` full width at half maximum of the pulse's echo along depth, in wavelengths;
    `f_number` focal depth over aperture; `dynamic_range` dB from black to white; `gain` dB above the common level;
    `tgc` most that time gain compensates, dB; `noise` of the electronics at the skin, dB relative to the gland;
    `area` top, bottom, left, right of the echo in a 256 × 256 frame; `border` gray level around it; `marks` OpenCV's name of the
    callipers' shape; `text` (x, y, words) burned into a 256 × 256 frame; `sides` (x, y, word for right, word for left);
    `bar` where the gray bar's left edge is, or None; `ticks` -1 where the depth's ticks stand left of the echo, 1 for right.
    """

    name: str
    frequency: float
    cycles: float
    f_number: float
    dynamic_range: float
    gain: float
    tgc: float
    noise: float
    area: Sequence[int]
    border: int
    marks: str
    text: Sequence[tuple[int, int, str]]
    sides: tuple[int, int, str, str]
    ticks: int
    bar: int | None = None

    def echo_area(self, size: int) -> tuple[int, int, int, int]:
        """Top, bottom, left, right (pixels, the second of each pair exclusive) of the echo in a size × size frame."""
        return tuple(edge * size // _FRAME for edge in self.area)


_PRESETS = tomllib.loads(Path(__file__).with_name("scanners.toml").read_text(encoding="utf-8"))
SCANNERS = {name: Scanner(name, **fields) for name, fields in _PRESETS.items()}


def find_scanners(names: Sequence[str] | str) -> tuple[Scanner, ...]:
    """The presets of these names, at least one; DataError names the known ones."""
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not names or not {*names} <= {*SCANNERS}:
        raise DataError(f"phantom: scanners are {', '.join(names) or 'none'}; expected one or more of {', '.join(SCANNERS)}")
    return tuple(SCANNERS[name] for name in names)


class Tissue(NamedTuple):
    """What the beam meets, arrays (height, width) float32 of one pixel spacing.

    `echo` backscatter in dB relative to the gland; `attenuation` dB/cm/MHz; `shadow` additional dB lost in the pixel (two-way);
    `specular` amplitude of smooth interfaces, relative to the gland's scatterers.
    """

    echo: np.ndarray
    attenuation: np.ndarray
    shadow: np.ndarray
    specular: np.ndarray


def _bell(sd: float) -> np.ndarray:
    """A Gaussian kernel of this standard deviation (pixels) that sums to 1: (odd, 1)."""
    return cv2.getGaussianKernel(2 * math.ceil(2.6 * sd) + 1, sd)


def _across(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(values, cv2.CV_32F, kernel, _ONE)


def _along(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(values, cv2.CV_32F, _ONE, kernel)


def _keeping_energy(sd: float) -> np.ndarray:
    """A Gaussian kernel after which white noise has the power it had before."""
    kernel = _bell(sd)
    return kernel / np.linalg.norm(kernel)


def _amplitude(decibels: np.ndarray) -> np.ndarray:
    return np.exp(decibels * (math.log(10) / 20))


def beam_width(scanner: Scanner, depth: float, focus: float) -> float:
    """Full width at half maximum in mm of the beam's profile at a depth (mm), its focus at another."""
    wavelength = SOUND_SPEED / scanner.frequency
    reach = 7 * wavelength * scanner.f_number**2  # half the depth of field
    return wavelength * scanner.f_number * math.sqrt(1 + ((depth - focus) / reach) ** 2)


def _beamformed(source: np.ndarray, scanner: Scanner, spacing: float, focus: float) -> np.ndarray:
    """Convolve rows with the beam's profile at their depth, energy kept."""
    blended = np.zeros_like(source)
    rows = np.arange(len(source))
    centres = np.linspace(0, len(source) - 1, _ZONES)
    for zone, centre in enumerate(centres):
        weight = np.interp(rows, centres, np.eye(_ZONES)[zone]).astype(np.float32)
        within = slice(np.argmax(weight > 0), len(rows) - np.argmax(weight[::-1] > 0))
        kernel = _keeping_energy(beam_width(scanner, centre * spacing, focus) / _FWHM / spacing)
        # Two neighbouring beams are nearly in step, so the linear blend of their sums keeps the energy.
        blended[within] += _across(source[within], kernel) * weight[within, None]
    return blended


def total_attenuation(tissue: Tissue, scanner: Scanner, spacing: float) -> np.ndarray:
    """Two-way attenuation above what time gain compensates, in dB (height, width): positive is darker (shadow), negative
    brighter (enhancement behind fluid). Blurred across by the beam, which is why shadows have soft sides."""
    two_way = 2 * scanner.frequency * spacing / 10
    excess = (tissue.attenuation - USUAL_ATTENUATION) * two_way + tissue.shadow
    lost = _across(np.cumsum(excess, axis=0), _bell(max(0.8, 0.6 / spacing)))
    depth = np.arange(1, len(lost) + 1, dtype=np.float32)[:, None]
    return np.clip(lost, -9, 60) + np.maximum(depth * (USUAL_ATTENUATION * two_way) - scanner.tgc, 0)


def echo_signal(
    scatter: np.ndarray,
    tissue: Tissue,
    lost: np.ndarray,
    scanner: Scanner,
    spacing: float,
    focus: float,
    noise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Demodulated echo, real and imaginary part, float32 (height, width) each.

    Args:
        scatter: (2, height, width), real and imaginary, standard normal.
        tissue: what is imaged.
        lost: its `total_attenuation`.
        scanner: preset.
        spacing: mm a pixel.
        focus: depth in mm.
        noise: (2, height, width) like `scatter`, of the receiver: white across, band-limited by the pulse along depth.
    """
    depth = np.arange(len(lost), dtype=np.float32)[:, None] * (spacing / 10)  # cm
    # Reverberation and side lobes lay a faint haze over fluid and shadows, so they are never quite black near the probe.
    strength = _amplitude(tissue.echo - lost) + _amplitude(_CLUTTER - _CLUTTER_FALL * depth)
    mirror = tissue.specular * _amplitude(-lost)
    gained = np.minimum(depth * (2 * scanner.frequency * USUAL_ATTENUATION), scanner.tgc)
    floor = _amplitude(gained + scanner.noise)
    pulse = _keeping_energy(scanner.cycles * SOUND_SPEED / scanner.frequency / _FWHM / spacing)
    parts = []
    # A real interface is smooth in places only: part of its echo keeps one phase, part is scattered like the rest.
    for part, coherent in ((0, 0.5), (1, 0.0)):
        source = scatter[part] * (strength + 0.75 * mirror) + coherent * mirror
        received = _beamformed(source, scanner, spacing, focus)
        received += _across(noise[part], _keeping_energy(0.7)) * floor
        parts.append(_along(received, pulse))
    return parts[0], parts[1]


def envelope_of(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """|echo|, float32 ≥ 0 (height, width), mean power 1 of an average gland in focus without attenuation."""
    return np.sqrt((real * real + imaginary * imaginary) / 2)


def log_compress(envelope: np.ndarray, dynamic_range: float = 60.0, gain: float = 0.0) -> np.ndarray:
    """Gray image of an envelope: 20·log10 of it, `dynamic_range` dB from black to white.

    Args:
        envelope: ≥ 0, 1 for an average gland.
        dynamic_range: dB, as a scanner's "DR"; usual are 50 to 60.
        gain: dB added; with 0 an average gland is shown at 40 % of white.

    Returns:
        uint8 in [0, 255], of the shape of `envelope`.
    """
    decibels = np.log(np.maximum(envelope, 1e-9)) * (20 / math.log(10)) + gain
    return np.rint(np.clip(decibels / dynamic_range + _GLAND_LEVEL, 0, 1) * 255).astype(np.uint8)


def smooth_display(gray: np.ndarray) -> np.ndarray:
    """Scan conversion's interpolation: a light smoothing of the gray image, less along scan lines, where samples lie closer."""
    return cv2.sepFilter2D(gray, cv2.CV_8U, np.array([1, 2, 1]) / 4, np.array([1, 6, 1]) / 8)


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


def homogeneous_phantom(shape: tuple[int, int] = (512, 512), scanner: str = "linear-10") -> np.ndarray:
    """Envelope of tissue without structure: fully developed speckle, before log compression.

    Args:
        shape: (height, width) in pixels of 0.15 mm, each 32 or more.
        scanner: preset, whose pulse and beam make the speckle; focus in the middle of the depth.

    Returns:
        float32 (height, width), ≥ 0, mean power 1. Attenuation is fully compensated and the receiver adds no noise.
    """
    flat, spacing = np.zeros(shape, np.float32), 0.15
    tissue = Tissue(flat, flat + USUAL_ATTENUATION, flat, flat)
    scatter = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    focus = shape[0] * spacing / 2
    return envelope_of(*echo_signal(scatter, tissue, flat, SCANNERS[scanner], spacing, focus, np.zeros_like(scatter)))


def rayleigh_fit(envelope: np.ndarray) -> RayleighFit:
    """Compare the first-order statistics of an envelope with the Rayleigh distribution.

    Args:
        envelope: (height, width) of one homogeneous region, ≥ 0.

    Reference:
        Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978).
    """
    from scipy import stats  # a third of a second to load, which readers of phantoms need not spend

    envelope = np.asarray(envelope, np.float64)
    scale = math.sqrt(float((envelope**2).mean()) / 2)
    samples = envelope[::12, ::20].ravel()  # several speckle cells apart, so that they are independent
    test = stats.kstest(samples, stats.rayleigh(scale=scale).cdf)
    return RayleighFit(float(envelope.mean() / envelope.std()), scale, samples.size, float(test.statistic), float(test.pvalue))


def _write(frame: np.ndarray, x: float, y: float, text: str, level: int) -> None:
    """Capital letters and digits from the top left corner (x, y), in pixels of a 256 × 256 frame, where they are seven high."""
    unit = len(frame) / _FRAME
    place = round(x * unit), round((y + 7) * unit)
    cv2.putText(frame, text, place, cv2.FONT_HERSHEY_PLAIN, 0.65 * unit, level, 1, cv2.LINE_AA)


def lay_out(scanner: Scanner, echo: np.ndarray, size: int, spacing: float, side: str) -> np.ndarray:
    """The whole frame around an echo image: border, gray bar, depth ticks and text.

    Args:
        scanner: the preset.
        echo: uint8, of the size of the scanner's `echo_area`.
        size: side of the square frame in pixels.
        spacing: mm a pixel.
        side: "right" or "left" lobe, written into the frame.

    Returns:
        uint8 (size, size).
    """
    top, bottom, left, right = scanner.echo_area(size)
    frame = np.full((size, size), scanner.border, np.uint8)
    frame[top:bottom, left:right] = echo
    x, y, *words = scanner.sides
    for text in (*scanner.text, (x, y, words[side == "left"])):
        _write(frame, *text, 205)
    if scanner.bar is not None:
        bar, above, below, width = (edge * size // _FRAME for edge in (scanner.bar, 104, 176, 5))
        frame[above:below, bar : bar + width] = np.linspace(255, 0, below - above)[:, None]
    scale = max(1, round(size / _FRAME))
    for half in range(int((bottom - top) * spacing / 5) + 1):  # a tick every 5 mm of depth, a longer one every 10 mm
        y = top + round(half * 5 / spacing)
        length = (2 if half % 2 else 4) * scale
        x = left - 2 * scale - length if scanner.ticks < 0 else right + 2 * scale
        frame[y : min(y + scale, bottom), x : x + length] = 190
        if scanner.bar is None and half % 4 == 0 and half:
            _write(frame, (right + 8 * scale) * _FRAME / size, y * _FRAME / size - 3, str(half // 2), 170)
    return frame


def draw_callipers(frame: np.ndarray, scanner: Scanner, mask: np.ndarray, spacing: float) -> np.ndarray:
    """Callipers at the ends of a nodule's width and height, joined by dots, and their distances as text.

    Args:
        frame: uint8 (size, size), left as it is.
        scanner: its mark is a plus or a cross.
        mask: nodule, boolean (size, size), not empty.
        spacing: mm a pixel.

    Returns:
        uint8 (size, size), a copy.
    """
    frame = frame.copy()
    above, below, before, behind = scanner.echo_area(len(frame))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    x = int(np.median(np.flatnonzero(mask[top])) + np.median(np.flatnonzero(mask[bottom]))) // 2
    y = int(np.median(np.flatnonzero(mask[:, left])) + np.median(np.flatnonzero(mask[:, right]))) // 2
    scale = max(1, round(len(frame) / _FRAME))
    for step in range(scale):
        frame[y + step, left + step : right : 5 * scale] = 235
        frame[top + step : bottom : 5 * scale, x + step] = 235
    reach = 3 * scale
    for end_x, end_y in ((left, y), (right, y), (x, top), (x, bottom)):
        place = np.clip(end_x, before + reach, behind - reach - scale), np.clip(end_y, above + reach, below - reach - scale)
        cv2.drawMarker(frame, [int(edge) for edge in place], 250, getattr(cv2, scanner.marks), 2 * reach + 1, scale)
    for line, (name, length) in enumerate((("D1", right - left + 1), ("D2", bottom - top + 1))):
        words = f"{name} {length * spacing:.1f}MM"
        _write(frame, scanner.area[3] - 66, scanner.area[1] - 21 + 10 * line, words, 225)
    return frame
