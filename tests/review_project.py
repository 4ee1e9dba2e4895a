"""A finished report of tiny runs of networks that every process knows, for tests of the app."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import Run

CLASSIFIER = {"task": "classification", "model": {"name": "timm:test_resnet"}}
SEGMENTER = {"task": "segmentation", "model": {"name": "unet", "options": {"widths": [4, 8]}}, "loss": {"name": "bce_dice"}}
FOCAL = {**CLASSIFIER, "loss": {"name": "focal"}}


def review_config(role: dict, seed: int = 0) -> RunConfig:
    """Two epochs on some thirty phantoms of 64 pixels."""
    common = {
        "data": {"options": {"patients": 24, "size": 64, "views": [1, 2], "malignant_share": 0.5}},
        "split": {"ratios": (0.4, 0.25, 0.35)},
        "size": 32,
        "preprocessing": "plain",
        "training": {"epochs": 2, "batch_size": 4, "device": "cpu"},
    }
    return RunConfig(**common, **role, seed=seed)


def write_report(folder: Path, runs: list[Run], **changes) -> Path:
    """What the app reads of a report: its record."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": 5, "status": "finished", "started": "2026-01-01T00:00:00+00:00"}
    notebooks = {"07_error_analysis": {"runs": [run.name[:8] for run in runs]}}
    (folder / "run.json").write_text(json.dumps({**record, "notebooks": notebooks, **changes}))
    return folder


@contextmanager
def reviewed(temporary: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Run]]]:
    """A report, and its runs: a classifier in two seeds, one with another loss, and a segmenter; trained once a session."""
    folder = temporary.getbasetemp() / "reviewed"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(folder / name.lower()))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        roles = [(CLASSIFIER, 0), (CLASSIFIER, 1), (FOCAL, 0), (SEGMENTER, 0)]
        runs = [fit_or_load(review_config(*role)) for role in roles]
        yield write_report(folder / "reports" / "tiny", runs), runs
        torch.set_num_threads(threads)
