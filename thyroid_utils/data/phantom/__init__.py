"""Phantoms: simulated thyroid ultrasound with known truth, the workbook's built-in data set.

Labels come first, TI-RADS traits from the label (`patients`), and pixels from the traits alone. Tissue maps of a neck
(`anatomy`, painted on a `canvas`) are filled with scatterers and imaged by one of three scanners (`imaging`). Here they become
single frames, the steps of their making, and a data set on disk: PNG files and their case table. Whoever reads the traits
perfectly reaches an AUC of 0.95.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import cached_folder, content_key
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom import imaging
from thyroid_utils.data.phantom.anatomy import build_scene
from thyroid_utils.data.phantom.patients import NODULE, TISSUE, Patient, Settings, View, malignancy_posterior, tirads_level
from thyroid_utils.data.table import make_cases

_REACH = 3.2  # mm that a probe moves at most between views


@dataclass(frozen=True)
class Frame:
    """A simulated frame: `image` uint8 (size, size), `nodule` its mask, bool of that size, `spacing` mm a pixel, what it shows,
    and the `stages` of its making (`simulation_stages`)."""

    image: np.ndarray
    nodule: np.ndarray
    spacing: float
    patient: Patient
    view: View
    stages: dict[str, np.ndarray]


def simulate_view(
    patient: int = 0, view: int = 0, *, traits: Mapping[str, str] | None = None, gain: float = 0, **settings
) -> Frame:
    """Simulate one view of one patient, as `phantom_cases` writes it, or with other traits in the same neck.

    Args:
        patient: number of the patient, from 0.
        view: number of the view, from 0; more views than the patient has in the table may be asked for.
        traits: echogenicity, margin and foci in place of the patient's, where named, such as {"margin": "lobulated"}.
        gain: of the scanner, dB above that of this examination.
        settings: size, seed, scanners, malignant_share, calliper_bias and views as in `phantom_cases`.

    Raises:
        DataError: a setting outside its range.
    """
    chosen = Settings(**settings)
    person = Patient(patient, chosen)
    person.change(chosen.random(NODULE, patient, 1), traits or {}, gain)
    return _simulate(person, View(person, view, chosen), chosen)


def simulation_stages(patient: int = 0, view: int = 0, **settings) -> dict[str, np.ndarray]:
    """The steps from tissue to frame, for a teaching figure.

    Takes the arguments of `simulate_view`. The last frame carries callipers whether or not the patient's views do.

    Returns:
        in order, each (height, width) of the echo area except the last two, (size, size):
        "echogenicity" dB relative to an average gland; "attenuation" dB/cm/MHz; "loss" dB above what time gain compensates;
        "scatterers" real part, the same strength everywhere; "echo" real part after the point spread function; "envelope" ≥ 0;
        "log-compressed" uint8; "frame" uint8 with border and text; "callipers" uint8.
    """
    frame = simulate_view(patient, view, **settings)
    marked = imaging.draw_callipers(frame.stages["frame"], frame.patient.scanner, frame.nodule, frame.spacing)
    return frame.stages | {"callipers": marked}


def _simulate(patient: Patient, view: View, settings: Settings) -> Frame:
    scanner, size = patient.scanner, int(settings.size)
    top, bottom, left, right = scanner.echo_area(size)
    height, width = shape = bottom - top, right - left
    spacing = patient.spacing(size)
    tissue, outline = build_scene(patient, view, shape, spacing, settings)
    # Some ten scatterers in a resolution cell. Those of the patient move with the probe; some are new, out of the old plane.
    reach = int(_REACH / spacing)
    right, down = (reach + min(max(round(move / spacing), -reach), reach) for move in view.shift)
    field = settings.random(TISSUE, patient.number).standard_normal((2, height + 2 * reach, width + 2 * reach), np.float32)
    new, noise = settings.random(TISSUE, patient.number, view.number).standard_normal((2, 2, *shape), np.float32)
    share = view.same_scatter
    scatter = share * field[:, down : down + height, right : right + width] + (1 - share**2) ** 0.5 * new
    lost = imaging.total_attenuation(tissue, scanner, spacing)
    real, imaginary = imaging.echo_signal(scatter, tissue, lost, scanner, spacing, view.focus, noise)
    envelope = imaging.envelope_of(real, imaginary)
    gray = imaging.smooth_display(imaging.log_compress(envelope, scanner.dynamic_range, scanner.gain + view.gain))
    framed = imaging.lay_out(scanner, gray, size, spacing, patient.side)
    nodule = np.zeros((size, size), bool)
    nodule[top:bottom, left : left + width] = outline
    image = imaging.draw_callipers(framed, scanner, nodule, spacing) if view.callipers else framed
    stages = {
        "echogenicity": tissue.echo,
        "attenuation": tissue.attenuation,
        "loss": lost,
        "scatterers": scatter[0],
        "echo": real,
        "envelope": envelope,
        "log-compressed": gray,
        "frame": framed,
    }
    return Frame(image, nodule, spacing, patient, view, stages)


def phantom_cases(
    root: str | Path | None = None,
    *,
    patients: int = 40,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    scanners: Sequence[str] = tuple(imaging.SCANNERS),
    malignant_share: float = 0.4,
    calliper_bias: float = 0.0,
    views: tuple[int, int] = (1, 6),
) -> pd.DataFrame:
    """Case table of simulated thyroid ultrasound, its files made where they are missing.

    Every image shows exactly one nodule. The first n patients are the same whatever the number of patients; on one platform
    the pixels depend on the settings alone, not on the number of workers or what was made before. Files lie in a folder named
    by the settings and this package's code and tables, which is made once and found again (`common.files`).

    Args:
        root: folder to write below; None takes `phantoms` in the cache folder.
        patients: number of patients, 1 or more, each with `views` frames.
        size: side of the square frames in pixels, 64 to 1024.
        seed: whole number from 0.
        workers: threads; None takes one a core, at most four.
        progress: called with (frames ready, frames in all) while they are made.
        scanners: names of presets in `SCANNERS`; each patient is examined with one of them.
        malignant_share: share of malignant patients, in [0, 1].
        calliper_bias: how much more probable callipers are in malignant patients than in benign ones, in [-0.6, 0.6]: a
            shortcut for a study to find. A patient has callipers with probability 0.3 ± half of it, in three of four views.
        views: fewest and most views of a patient, within 1 to 6.

    Returns:
        case table (`data.table`) with the further columns patient_known, target, scanner, frequency_mhz,
        view, plane, side, composition, echogenicity, shape, margin, foci, tirads (TR1 to TR5), callipers (boolean), age, sex,
        spacing_mm, nodule_width_mm, nodule_height_mm and malignancy_posterior: P(malignant | traits), the perfect reader.

    Raises:
        DataError: a setting outside its range, an unknown scanner, or a folder that cannot be written.
    """
    if not (isinstance(patients, Integral) and patients >= 1):
        raise DataError(f"phantom: patients is {patients}, expected a whole number from 1")
    settings = Settings(size, seed, scanners, malignant_share, calliper_bias, views)
    people = (Patient(number, settings) for number in range(patients))
    described = [(person, View(person, view, settings)) for person in people for view in range(person.views)]

    def fill(folder: Path) -> None:
        def make(item: tuple[Patient, View]) -> None:
            frame = _simulate(*item, settings)
            for kind, path in _files(folder, *item).items():
                write_png(path, getattr(frame, kind))

        in_threads(make, described, workers, progress)

    place = Path(root) if root is not None else paths.cache_dir() / "phantoms"
    folder = cached_folder(place.absolute() / _name(settings, patients), fill)
    return make_cases([_row(_files(folder, patient, view), patient, view, settings) for patient, view in described])


def _name(settings: Settings, patients: int) -> str:
    here = Path(__file__).parent
    code = [file.read_text(encoding="utf-8") for kind in ("py", "toml") for file in sorted(here.glob(f"[!.]*.{kind}"))]
    return content_key(json.dumps([asdict(settings), patients], default=np.generic.item), code)


def _files(folder: Path, patient: Patient, view: View) -> dict[str, Path]:
    return {kind: folder / kind / f"{patient.number:04d}-{view.number + 1}.png" for kind in ("image", "nodule")}


def _row(files: dict[str, Path], patient: Patient, view: View, settings: Settings) -> dict:
    return {
        "case": f"phantom/{files['image'].stem}",
        "image": str(files["image"]),
        "mask": str(files["nodule"]),
        "label": patient.label,
        "patient": f"phantom-{patient.number:04d}",
        "dataset": "phantom",
        "patient_known": True,
        "target": "nodule",
        "scanner": patient.scanner.name,
        "frequency_mhz": patient.scanner.frequency,
        "view": view.number + 1,
        "plane": patient.plane,
        "side": patient.side,
        **asdict(patient.traits),
        "tirads": tirads_level(patient.traits),
        "callipers": view.callipers,
        "age": patient.age,
        "sex": patient.sex,
        "spacing_mm": patient.spacing(settings.size),
        "nodule_width_mm": round(2 * patient.nodule.across, 1),
        "nodule_height_mm": round(2 * patient.nodule.deep, 1),
        "malignancy_posterior": malignancy_posterior(patient.traits, settings.malignant_share),
    }
