"""Phantoms as a data set on disk: PNG files and their case table."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path

import pandas as pd
from filelock import FileLock

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import write_bytes, write_text
from thyroid_utils.data.phantom.patients import Patient, View, sample_patient, sample_view, spacing_of
from thyroid_utils.data.phantom.png import stored_png, stored_png_size
from thyroid_utils.data.phantom.scanners import SCANNERS, find_scanners
from thyroid_utils.data.phantom.simulate import check_settings, frame_of
from thyroid_utils.data.phantom.traits import malignancy_posterior, tirads_level
from thyroid_utils.data.table import make_cases

_KINDS = {"image": 8, "nodule": 1, "gland": 1}  # folder → bits a pixel
_WORTH_A_PROCESS = 250  # frames that take longer to make than another process to start


def phantom_cases(
    root: str | Path | None = None,
    *,
    patients: int = 40,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scanners: Sequence[str] = tuple(SCANNERS),
    malignant_share: float = 0.4,
    calliper_bias: float = 0.0,
    views: tuple[int, int] = (1, 6),
) -> pd.DataFrame:
    """Case table of simulated thyroid ultrasound, its files made where they are missing.

    Every image shows exactly one nodule. The first n patients are the same whatever the number of patients; the pixels and
    the file bytes depend on the settings alone, not on machine, worker count or what was made before (`phantom.exact` says
    how). Files lie in a folder named by a hash of the settings and of this package's code; those already there are kept,
    missing or cut-off ones made again, so an interrupted call is continued by the next. Two processes share the work safely.

    Args:
        root: folder to write below; None takes `phantoms` in the cache folder.
        patients: number of patients, 1 or more, each with `views` frames.
        size: side of the square frames in pixels, 64 to 1024.
        seed: whole number from 0.
        workers: processes; None takes as many as pay, which for few frames is one.
        progress: called with (frames ready, frames in all).
        scanners: names of presets in `SCANNERS`; each patient is examined with one of them.
        malignant_share: share of malignant patients, in [0, 1].
        calliper_bias: how much more probable callipers are in malignant patients than in benign ones, in [-0.6, 0.6]: a
            shortcut for a study to find. A patient has callipers with probability 0.3 ± half of it, in three of four views.
        views: fewest and most views of a patient, within 1 to 6.

    Returns:
        case table (`data.table`) with the further columns patient_known, target, gland_mask (path), scanner, frequency_mhz,
        view, plane, side, composition, echogenicity, shape, margin, foci, tirads (TR1 to TR5), callipers (boolean), age, sex,
        spacing_mm, nodule_width_mm, nodule_height_mm and malignancy_posterior: P(malignant | traits), the perfect reader.

    Raises:
        DataError: a setting outside its range, an unknown scanner, or a folder that cannot be written.
    """
    if not (isinstance(patients, Integral) and patients >= 1):
        raise DataError(f"phantom: patients is {patients}, expected a whole number from 1")
    if workers is not None and workers < 1:
        raise DataError(f"phantom: workers is {workers}, expected 1 or more")
    check_settings(size, seed, malignant_share, calliper_bias, views)
    settings = {
        "size": int(size),
        "seed": int(seed),
        "scanners": [scanner.name for scanner in find_scanners(scanners)],
        "malignant_share": float(malignant_share),
        "calliper_bias": float(calliper_bias),
        "views": [int(count) for count in views],
    }
    folder = _folder(root, settings)
    described = list(_described(patients, settings))
    _make_missing(folder, described, settings, workers, progress)
    return make_cases([_row(folder, patient, view, settings) for patient, view in described])


def _folder(root: str | Path | None, settings: dict) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return (Path(root) if root is not None else paths.cache_dir() / "phantoms").absolute() / digest.hexdigest()[:16]


def _described(count: int, settings: dict) -> Iterator[tuple[Patient, View]]:
    scanners = find_scanners(settings["scanners"])
    for number in range(count):
        patient = sample_patient(
            number, settings["seed"], scanners, settings["malignant_share"], settings["calliper_bias"], tuple(settings["views"])
        )
        for view in range(patient.views):
            yield patient, sample_view(patient, view, settings["seed"])


def _name(patient: Patient, view: View) -> str:
    return f"{patient.number:04d}-{view.number + 1}"


def _files(folder: Path, patient: Patient, view: View) -> dict[str, Path]:
    return {kind: folder / kind / f"{_name(patient, view)}.png" for kind in _KINDS}


def _is_complete(files: dict[str, Path], size: int) -> bool:
    """Uncompressed files have one possible length, which a cut-off one has not."""
    for kind, path in files.items():
        try:
            if path.stat().st_size != stored_png_size(size, size, _KINDS[kind]):
                return False
        except OSError:
            return False
    return True


def _make_missing(
    folder: Path,
    described: list[tuple[Patient, View]],
    settings: dict,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    size, total = settings["size"], len(described)

    def missing() -> list[tuple[Patient, View]]:
        return [item for item in described if not _is_complete(_files(folder, *item), size)]

    if not missing():  # a finished set is used without writing, so it may lie in a read-only folder
        if progress:
            progress(total, total)
        return
    try:
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for leftover in folder.glob("*/.*.png"):  # of a write that was killed; under the lock nobody is writing
                leftover.unlink()
            todo = missing()
            done = total - len(todo)
            write_text(folder / "settings.json", json.dumps(settings, indent=2) + "\n")
            for _ in _run(todo, folder, settings, workers):
                done += 1
                if progress:
                    progress(done, total)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"phantom: cannot write below {folder} ({reason}); free space or choose another folder") from None


def _run(todo: list[tuple[Patient, View]], folder: Path, settings: dict, workers: int | None) -> Iterator[None]:
    """Make every frame, each yield one; in processes where that saves time or was asked for."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(todo) // _WORTH_A_PROCESS)
    if workers == 1:
        for item in todo:
            yield _make(folder, *item, settings)
        return
    # joblib's processes start in a notebook and in a script without a main guard alike; bare multiprocessing's do not.
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, batch_size=8, return_as="generator_unordered")
    yield from pool(delayed(_make)(folder, *item, settings) for item in todo)


def _make(folder: Path, patient: Patient, view: View, settings: dict) -> None:
    frame = frame_of(patient, view, settings["size"], settings["seed"])
    files = _files(folder, patient, view)
    for kind, pixels in (("gland", frame.gland), ("nodule", frame.nodule), ("image", frame.image)):
        write_bytes(files[kind], stored_png(pixels))


def _row(folder: Path, patient: Patient, view: View, settings: dict) -> dict:
    files = _files(folder, patient, view)
    return {
        "case": f"phantom/{_name(patient, view)}",
        "image": str(files["image"]),
        "mask": str(files["nodule"]),
        "label": patient.label,
        "patient": f"phantom-{patient.number:04d}",
        "dataset": "phantom",
        "patient_known": True,
        "target": "nodule",
        "gland_mask": str(files["gland"]),
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
        "spacing_mm": spacing_of(patient, settings["size"]),
        "nodule_width_mm": round(2 * patient.nodule.across, 1),
        "nodule_height_mm": round(2 * patient.nodule.deep, 1),
        "malignancy_posterior": malignancy_posterior(patient.traits, settings["malignant_share"]),
    }
