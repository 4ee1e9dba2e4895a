"""One frame from first draw to last overlay, and the same with each step kept for teaching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom import patients
from thyroid_utils.data.phantom.anatomy import build_scene
from thyroid_utils.data.phantom.draws import Draws
from thyroid_utils.data.phantom.physics import echo_signal, envelope_of, log_compress, smooth_display, speckle, total_attenuation
from thyroid_utils.data.phantom.scanners import SCANNERS, draw_callipers, echo_area, find_scanners, lay_out

SIZES = (64, 1024)
_REACH = 3.2  # mm that a probe moves at most between views


@dataclass(frozen=True)
class Frame:
    """A simulated frame: `image` uint8 (size, size), masks boolean of that size, `spacing` mm a pixel, and what it shows."""

    image: np.ndarray
    nodule: np.ndarray
    gland: np.ndarray
    spacing: float
    patient: patients.Patient
    view: patients.View


def check_settings(size: int, seed: int, malignant_share: float, calliper_bias: float, views: tuple[int, int]) -> None:
    """Raise DataError where a setting of a phantom is outside its range."""
    if not (isinstance(size, int | np.integer) and SIZES[0] <= size <= SIZES[1]):
        raise DataError(f"phantom: size is {size}, expected a whole number of pixels from {SIZES[0]} to {SIZES[1]}")
    if not (isinstance(seed, int | np.integer) and seed >= 0):
        raise DataError(f"phantom: seed is {seed}, expected a whole number from 0")
    if not 0 <= malignant_share <= 1:
        raise DataError(f"phantom: malignant_share is {malignant_share}, expected 0 to 1")
    if not -0.6 <= calliper_bias <= 0.6:
        raise DataError(f"phantom: calliper_bias is {calliper_bias}, expected -0.6 to 0.6")
    pair = tuple(views) if isinstance(views, Sequence) else (views,)
    if len(pair) != 2 or not 1 <= pair[0] <= pair[1] <= 6:
        raise DataError(f"phantom: views is {views}, expected (fewest, most) from 1 to 6")


def simulate_view(
    patient: int = 0,
    view: int = 0,
    *,
    size: int = 256,
    seed: int = 0,
    scanners: Sequence[str] = tuple(SCANNERS),
    malignant_share: float = 0.4,
    calliper_bias: float = 0.0,
    views: tuple[int, int] = (1, 6),
) -> Frame:
    """Simulate one view of one patient, as `phantom_cases` writes it.

    Args:
        patient: number of the patient, from 0.
        view: number of the view, from 0; more views than the patient has in the table may be asked for.
        size, seed, scanners, malignant_share, calliper_bias, views: as in `phantom_cases`.

    Raises:
        DataError: a setting outside its range.
    """
    check_settings(size, seed, malignant_share, calliper_bias, views)
    person = patients.sample_patient(patient, seed, find_scanners(scanners), malignant_share, calliper_bias, views)
    return frame_of(person, patients.sample_view(person, view, seed), size, seed)


def frame_of(patient: patients.Patient, view: patients.View, size: int, seed: int) -> Frame:
    """The frame of a described patient and view."""
    return _simulate(patient, view, size, seed)[0]


def simulation_stages(patient: int = 0, view: int = 0, *, size: int = 256, seed: int = 0, **settings) -> dict[str, np.ndarray]:
    """The steps from tissue to frame, for a teaching figure.

    Takes the arguments of `simulate_view`. The last frame carries callipers whether or not the patient's views do.

    Returns:
        in order, each (height, width) of the echo area except the last two, (size, size):
        "echogenicity" dB relative to an average gland; "attenuation" dB/cm/MHz; "loss" dB above what time gain compensates;
        "scatterers" real part, whole numbers, the same strength everywhere; "echo" real part after the point spread function;
        "envelope" ≥ 0;
        "log-compressed" uint8; "frame" uint8 with border and text; "callipers" uint8.
    """
    person = simulate_view(patient, view, size=size, seed=seed, **settings)
    frame, stages = _simulate(person.patient, person.view, size, seed)
    area = echo_area(frame.patient.scanner, size)
    stages["callipers"] = draw_callipers(stages["frame"], frame.patient.scanner, frame.nodule, size, frame.spacing, area)
    return stages


def _simulate(patient: patients.Patient, view: patients.View, size: int, seed: int) -> tuple[Frame, dict[str, np.ndarray]]:
    scanner = patient.scanner
    top, bottom, left, right = area = echo_area(scanner, size)
    spacing = patients.spacing_of(patient, size)
    scene = build_scene(patient, view, (bottom - top, right - left), spacing, seed)
    tissue_draws = Draws(seed, patients.TISSUE, patient.number)
    new_draws = Draws(seed, patients.NEW_SCATTER, patient.number, view.number)
    reach = int(_REACH / spacing)
    shift = tuple(min(max(round(move / spacing), -reach), reach) for move in reversed(view.shift))
    shape = (bottom - top, right - left)
    scatter = speckle(tissue_draws, new_draws, shape, shift, view.same_scatter, reach)
    noise = Draws(seed, patients.NOISE, patient.number, view.number).scatterers(scatter.shape).astype(np.float32)
    real, imaginary = echo_signal(scatter, scene.tissue, scanner, spacing, view.focus, noise)
    envelope = envelope_of(real, imaginary)
    gray = smooth_display(log_compress(envelope, scanner.dynamic_range, scanner.gain + view.gain))
    image = framed = lay_out(scanner, gray, size, spacing, patient.side)
    nodule, gland = np.zeros((2, size, size), bool)
    nodule[top:bottom, left:right], gland[top:bottom, left:right] = scene.nodule, scene.gland
    if view.callipers:
        image = draw_callipers(framed, scanner, nodule, size, spacing, area)
    stages = {
        "echogenicity": scene.tissue.echo,
        "attenuation": scene.tissue.attenuation,
        "loss": total_attenuation(scene.tissue, scanner, spacing),
        "scatterers": scatter[0],
        "echo": real,
        "envelope": envelope,
        "log-compressed": gray,
        "frame": framed,
    }
    return Frame(image, nodule, gland, spacing, patient, view), stages
