"""Tiny trained runs of every kind on discs: the smooth bright ones benign, the darker jagged ones malignant."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_project import register_tiny, register_tiny_joint, register_tiny_segmenter

from thyroid_utils.common.config import RunConfig
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.inference.dual_stage import DualStage
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.studies.dual_stage import with_crop
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import Run

STEPS = ["gray", "resize", "scale"]


def disc(random: np.random.Generator, shape: tuple[int, int], malignant: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8, and its mask."""
    row, column, radius = random.uniform(30, 50), random.uniform(30, 60), random.uniform(10, 20)
    y, x = np.mgrid[: shape[0], : shape[1]]
    bumps = 1 + 0.25 * malignant * np.cos(7 * np.arctan2(y - row, x - column))
    mask = np.hypot(y - row, x - column) <= radius * bumps
    gray = random.normal(80, 20, shape) + (70 - 25 * malignant) * mask
    return np.clip(gray, 0, 255).astype(np.uint8), mask


def disc_cases(folder: Path, images: int = 64) -> pd.DataFrame:
    """Two frames of two sizes a patient."""
    random, rows = np.random.default_rng(0), []
    for number in range(images):
        label = (number // 2) % 2
        for kind, pixels in zip(("image", "mask"), disc(random, (80, 112) if number % 2 else (96, 96), label), strict=True):
            write_png(folder / f"{number}-{kind}.png", pixels)
        paths = {kind: str(folder / f"{number}-{kind}.png") for kind in ("image", "mask")}
        rows.append({"case": f"{number:03d}", **paths, "patient": f"p{number // 2}", "label": label, "dataset": "discs",
                     "spacing_mm": 0.1 + 0.001 * number})  # fmt: skip
    return make_cases(rows)


def stage_of(classifier: Run, segmenter: Run, **options) -> DualStage:
    return DualStage(Predictor(classifier), Predictor(segmenter), **options)


@contextmanager
def ledger(folder: Path) -> Iterator[Path]:
    """A ledger and a cache there, the tiny networks, one thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(folder / name.lower()))
        patch.setenv("THYROID_REPORT_DIR", str(folder))
        register_tiny(functools.partial(patch.setitem, CLASSIFIERS))
        for register in (register_tiny_segmenter, register_tiny_joint):
            register(functools.partial(patch.setitem, SEGMENTERS))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


@contextmanager
def discs(temporary: pytest.TempPathFactory) -> Iterator[None]:
    """Every data set is discs; ledger and cache are those that the test files of a session share."""
    with ledger(temporary.getbasetemp() / "dual_stage") as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "discs").mkdir(parents=True, exist_ok=True)
        cases = disc_cases(folder / "discs")
        patch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
        yield


def configs_of(seeds: list[int], epochs: int = 4) -> dict[str, list[RunConfig]]:
    """Of every role in the framework."""
    training = {"batch_size": 8, "device": "cpu", "epochs": epochs}
    common = {"size": 64, "optimiser": {"learning_rate": 0.02}, "training": training, "split": {"ratios": (0.5, 0.25, 0.25)}}
    tiny = {"name": "tiny", "options": {"dropout": 0.0}}
    outlining = {**common, "loss": {"name": "bce_dice"}, "preprocessing": STEPS}
    classifier = {**common, "task": "classification", "model": tiny, "preprocessing": [*STEPS, "three_channels"]}
    fields = {
        "frame": classifier,
        "crop": {**classifier, "preprocessing": with_crop(classifier["preprocessing"])},
        "segmenter": {**outlining, "task": "segmentation", "model": {"name": "tiny_segmenter"}},
        "joint": {**outlining, "task": "joint", "model": {"name": "tiny_joint"}},
    }
    return {role: [RunConfig(**own, seed=seed) for seed in seeds] for role, own in fields.items()}


@contextmanager
def project(temporary: pytest.TempPathFactory, seeds: list[int], epochs: int = 4) -> Iterator[dict[str, list[Run]]]:
    """Runs of these."""
    with discs(temporary):
        yield {role: [fit_or_load(config) for config in several] for role, several in configs_of(seeds, epochs).items()}
