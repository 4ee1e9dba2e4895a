"""Fixtures that a test file of training has for every test by importing them: one cache, a ledger a test, the tiny networks."""

from __future__ import annotations

import functools

import pytest
import torch
from segmentation_project import register_tiny_segmenter
from training_project import register_tiny

from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Phantoms and arrays are made once for the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the networks are too small to share
        yield
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """Every test has its own folder of runs, and the tiny networks."""
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    return tmp_path / "runs"
