"""Tiny networks and configs of the three tasks, a ledger of their own and forked processes, for tests of training and runs."""

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from thyroid_utils.common.config import RunConfig
from thyroid_utils.models import Architecture
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.models.weights import for_channels
from thyroid_utils.training import loop
from thyroid_utils.training.data import open_arrays, split_data
from thyroid_utils.training.tasks import Arrays, epoch_batches


def normalised(*sizes: int, **options: int) -> tuple[nn.Module, ...]:
    """A convolution without biases, normalised and rectified."""
    return nn.Conv2d(*sizes, **options, bias=False), nn.BatchNorm2d(sizes[1]), nn.ReLU()


def tiny_network(in_channels: int, classes: int, dropout: float = 0.2, width: int = 6) -> nn.Module:
    """Two convolutions with batch normalisation and dropout: all that a resumed run could get wrong, in a thousand weights."""
    features = *normalised(3, width, 3, stride=4), *normalised(width, 2 * width, 3, stride=2)
    network = nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width, classes))
    for_channels(network, in_channels)
    return network


def register_tiny(registry: Callable[[str, Architecture], None] = CLASSIFIERS.__setitem__) -> None:
    """Enter it as `tiny`."""
    registry("tiny", Architecture(tiny_network, size=64, minimum=16, explained="5"))


def tiny_config(**changes) -> RunConfig:
    """Three epochs of `tiny` on some twenty phantoms of 64 pixels. changes: "section__field" or a field of the config."""
    values: dict = {
        "data": {"options": {"patients": 14, "size": 64, "views": [1, 2], "malignant_share": 0.5}},
        "size": 64,
        "model": {"name": "tiny"},
        "optimiser": {"learning_rate": 0.01},
        "training": {"epochs": 3, "batch_size": 4, "device": "cpu"},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            values.setdefault(section, {})[field] = value
        else:
            values[section] = value
    return RunConfig(**values)


def same_results(one: Path, other: Path) -> None:
    """Assert that two finished run folders hold the same files and numbers, to the last bit, and nothing is left behind."""
    assert set(os.listdir(one)) == set(os.listdir(other))
    for name in set(os.listdir(one)) - {"environment.json", "complete.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a fork of this process, which has everything imported; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Killed(BaseException):
    """Stands for the death of a process: nothing catches it."""


def elsewhere(monkeypatch, folder: Path) -> None:
    """From here on runs are kept in another folder."""
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(folder))


def with_cases(monkeypatch, cases: pd.DataFrame) -> None:
    """From here on every data set is this table."""
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)


def with_arrays(monkeypatch, config: RunConfig, change: Callable[[Arrays], np.ndarray]) -> Arrays:
    """From here on every run sees these images in place of the preprocessed ones."""
    arrays = Arrays(open_arrays(config, split_data(config).cases), with_masks=config.task != "classification")
    arrays.images = change(arrays)
    monkeypatch.setattr("thyroid_utils.training.data.Arrays", lambda *_, **__: arrays)
    return arrays


def killed_at(batch: int):
    """A progress callback that dies when this many batches are done."""

    def progress(done: int, total: int) -> None:
        if done == batch:
            raise Killed

    return progress


def batches_of(config: RunConfig) -> int:
    positions = split_data(config).positions("train")
    size = config.training.batch_size
    return len(epoch_batches(positions, positions, batch_size=size, seed=0, epoch=1, balance="none"))


class WithAuxiliary(nn.Module):
    """Returns two heads in training, as Inception v3 does."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=8)
        self.AuxLogits, self.head = nn.Linear(4, classes), nn.Linear(4, classes)
        for_channels(self, in_channels)

    def forward(self, images):
        features = self.stem(images).mean(dim=(2, 3))
        return (self.head(features), self.AuxLogits(features)) if self.training else self.head(features)


def tiny_segmenter(in_channels: int, classes: int, width: int = 6, dropout: float = 0.2) -> nn.Module:
    """A stride, batch normalisation, dropout and interpolation: all that a resumed run could get wrong."""
    features = *normalised(in_channels, width, 3, stride=2, padding=1), *normalised(width, width, 3, padding=2, dilation=2)
    enlarged = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, classes, 1)
    network = nn.Sequential(*features, nn.Dropout2d(dropout), *enlarged)
    network.multiple = 2
    return network


def register_tiny_segmenter(registry: Callable[[str, Architecture], None] = SEGMENTERS.__setitem__) -> None:
    """Enter it as `tiny_segmenter`."""
    registry("tiny_segmenter", Architecture(tiny_segmenter, size=64))


def segmentation_config(**changes) -> RunConfig:
    """Three epochs of the tiny segmenter on some twenty phantoms of 64 pixels; changes as for `tiny_config`."""
    values = {"task": "segmentation", "model__name": "tiny_segmenter", "loss__name": "bce_dice", "preprocessing": "plain"}
    return tiny_config(**{**values, "training__monitor": "dice", **changes})


def _block(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(*normalised(in_channels, width, 3, stride=2, padding=1))


class TinyEncoder(nn.Module):
    """Maps at full, half and quarter size in a list, the deepest last."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.out_channels = [in_channels, width, 2 * width]
        self.to_half, self.to_quarter = _block(in_channels, width), _block(width, 2 * width)

    def forward(self, images):
        half = self.to_half(images)
        return [images, half, self.to_quarter(half)]


class TinyJoinable(nn.Module):
    """A segmenter on that encoder's last map."""

    multiple = 4

    def __init__(self, in_channels: int, classes: int, width: int = 6):
        super().__init__()
        self.encoder = TinyEncoder(in_channels, width)
        self.head = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(2 * width, classes, 1), nn.Upsample(scale_factor=4))

    def forward(self, images):
        return self.head(self.encoder(images)[-1])


def register_tiny_joint(registry: Callable[[str, Architecture], None] = SEGMENTERS.__setitem__) -> None:
    """Enter it as `tiny_joint`, a segmenter that `build_joint` takes."""
    registry("tiny_joint", Architecture(TinyJoinable, size=64))


def joint_config(**changes) -> RunConfig:
    """Three epochs of the tiny joint network on some twenty phantoms of 64 pixels; changes as for `tiny_config`."""
    values = {"task": "joint", "model__name": "tiny_joint", "training__monitor": "loss"}
    return segmentation_config(**{**values, **changes})


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
    monkeypatch.setattr(loop, "KEPT_EVERY", 0.0)  # a state an epoch, however short
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))
    register_tiny_joint(functools.partial(monkeypatch.setitem, SEGMENTERS))
    return tmp_path / "runs"
