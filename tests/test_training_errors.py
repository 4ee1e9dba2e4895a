"""What training says when it cannot go on: data, sizes, names, numbers, memory."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import training_project
from training_project import WithAuxiliary, batches_of, elsewhere, one_cache, own_runs, same_results, tiny_config, with_cases  # noqa: F401  (fixtures of every test here)

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError, TrainingError
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.data.readers import load_cases
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models import Architecture
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.losses import CrossEntropy
from thyroid_utils.training.data import split_data
from thyroid_utils.training.engine import run_all
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.state import read_state


@pytest.mark.parametrize(
    ("made", "lacking", "told"),
    [
        (tiny_config, {"label": [0, 1, 2]}, "has a label"),
        (training_project.segmentation_config, {"mask": [0, 1]}, "has a mask; add masks"),
        (training_project.joint_config, {"label": [0], "mask": [5]}, "has both a label .* and a mask"),
    ],
)
def test_cases_without_a_truth_are_left_out_and_counted(made, lacking, told, monkeypatch):
    config = made(training__epochs=1)
    cases = load_cases("phantom", **config.data.options)
    for column, rows in lacking.items():
        cases.loc[cases.index[rows], column] = pd.NA
    without = cases.index[sorted({row for rows in lacking.values() for row in rows})]
    if made is training_project.segmentation_config:
        cases["label"] = cases["label"].where(np.arange(len(cases)) % 3 > 0)  # which a segmenter does not need
    with_cases(monkeypatch, cases)
    run = fit_or_load(config)
    assert run.data["left_out"] == len(without) and sum(run.data["images"].values()) == len(cases) - len(without)
    assert not set(Predictor(run).cases.index) & set(without)
    labels = run.predictions["label"]
    assert labels.isna().equals(cases.loc[labels.index, "label"].isna())
    assert labels.isna().any() == (labels.dtype == "Int8") == (made is training_project.segmentation_config)
    with_cases(monkeypatch, cases.assign(**{column: cases[column].mask(cases[column].notna()) for column in lacking}))
    with pytest.raises(DataError, match=rf"phantom: none of {len(cases)} cases {told}"):
        fit_or_load(config)


@pytest.mark.parametrize("split, side", [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_side_that_is_empty_or_of_one_class_is_refused(split, side, monkeypatch):
    config = tiny_config(split__by="official")
    cases = split_data(tiny_config()).cases.copy()
    for label, name in enumerate(("benign", "malignant")):
        cases.loc[cases["split"] == split, "label"] = label
        with_cases(monkeypatch, cases)
        with pytest.raises(DataError, match=rf"split: all \d+ {side} images are {name}; .* each need both classes"):
            fit_or_load(config)
    with_cases(monkeypatch, cases[cases["split"] != split])
    with pytest.raises(DataError, match=f"split: no {side} images"):
        fit_or_load(config)
    assert not runs_dir().exists(), "nothing was begun"


def test_a_table_without_patients_is_split_by_what_belongs_together(tmp_path, monkeypatch):
    """A manifest with images and labels alone: copies of an image stand for a patient, and the run says so."""
    cases = load_cases("phantom", **tiny_config().data.options)
    for path in cases["image"]:
        shutil.copy(path, tmp_path)
    manifest = tmp_path / "manifest.csv"
    pd.DataFrame({"image": [Path(path).name for path in cases["image"]], "label": cases["label"]}).to_csv(manifest, index=False)
    changes = {"data": {"dataset": "manifest", "root": manifest}, "training__epochs": 1}
    run, data = fit_or_load(tiny_config(**changes)), split_data(tiny_config(**changes))
    said = f"not given for {len(cases)} images; in their place {data.cases['patient'].nunique()} clusters of near-identical"
    assert run.data["patients"].startswith(said) and not run.data["leaky"]
    assert data.cases["patient"].str.fullmatch(r"manifest-cluster-\d+").all()
    monkeypatch.setattr("thyroid_utils.training.data.audit_cases", lambda *_, **__: pytest.fail("audited again"))
    again = split_data(tiny_config(**changes))
    pd.testing.assert_frame_equal(again.cases, data.cases)
    assert (again.patients, again.fingerprint, again.split_hash) == (data.patients, data.fingerprint, data.split_hash)
    run = fit_or_load(tiny_config(**changes, split__by="image"))
    assert run.data["leaky"] and np.isfinite(run.metrics["test"]["auc"])
    assert (
        run.data["patients"] == f"not given for {len(cases)} of {len(cases)} images, each of which counts as a patient of its own"
    )


def test_a_batch_of_one_trains_a_network_without_batch_normalisation(monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "tiny", Architecture(WithAuxiliary, minimum=16))
    run = fit_or_load(tiny_config(training__epochs=1, training__batch_size=1))
    assert np.isfinite(run.history["val_loss"]).all()


SIZES = [
    ({"training__devices": 2}, "batch_size must be smaller, as no batch is filled by 13 .* for 2 devices; found 64"),
    ({"optimiser__schedule": "one_cycle", "training__epochs": 1}, "schedule must not be one_cycle for a training of one step"),
]


@pytest.mark.parametrize("changes, message", SIZES, ids=["batches larger than the set", "a cycle of one step"])
def test_sizes_that_do_not_go_together_are_told_before_anything_is_preprocessed(changes, message, monkeypatch):
    monkeypatch.setattr("thyroid_utils.training.data.preprocessed", lambda *_: pytest.fail("preprocessed"))
    for train in (fit_or_load, lambda config: run_all([config])):
        with pytest.raises(ConfigError, match=message):
            train(tiny_config(**changes, training__batch_size=64))
    assert not list(runs_dir().glob("*/config.json"))


class Failing(CrossEntropy):
    """Goes wrong at a call: from `after` training batches on the loss is no number, or memory is out."""

    def __init__(self, after: int, error: Exception | None = None, validation: bool = False):
        super().__init__()
        self.left, self.error, self.validation = after, error, validation

    def forward(self, logits, labels):
        loss = super().forward(logits, labels)
        if torch.is_grad_enabled() == self.validation:
            return loss
        self.left -= 1
        if self.left >= 0:
            return loss
        if self.error is not None:
            raise self.error
        return loss * float("nan")


def test_a_loss_that_is_no_number_stops_and_the_last_good_epoch_is_kept(monkeypatch, tmp_path):
    config = tiny_config()
    straight = fit_or_load(config)
    elsewhere(monkeypatch, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Failing(batches_of(config) + 1))
        with pytest.raises(TrainingError) as caught:
            fit_or_load(config)
    folder = tmp_path / "other" / straight.name
    assert str(caught.value) == (
        f"tiny: the loss is nan in epoch 2, batch 2; epoch 1 is kept in {folder / 'resume'}; "
        "lower optimiser.learning_rate (now 0.01), or set optimiser.clip_norm (for example 1)"
    )
    assert read_state(folder / "resume").epoch == 1
    same_results(straight.folder, fit_or_load(config).folder)


def test_a_validation_loss_that_is_no_number_stops_and_another_error_stays_what_it_is(monkeypatch):
    failing = Failing(0, validation=True)
    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: failing)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, validation; no epoch was finished"):
        fit_or_load(tiny_config())
    failing = Failing(1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        fit_or_load(tiny_config())


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_says_what_to_lower(error, monkeypatch):
    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Failing(1, error))
    with pytest.raises(TrainingError) as caught:
        fit_or_load(tiny_config())
    assert str(caught.value) == (
        "tiny: out of memory in epoch 1 with batches of 4 images of 64×64; "
        "lower training.batch_size (to 2) or size, or choose precision bf16; what was trained so far is kept"
    )
