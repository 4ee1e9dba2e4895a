"""Segmentation through the one training path: what a run holds, that it is repeatable and resumed exactly, bad input."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional
from training_project import batches_of, one_cache, own_runs, segmentation_config, tiny_config, with_arrays, with_cases  # noqa: F401  (fixtures of every test here)

from thyroid_utils.common.errors import DataError, TrainingError
from thyroid_utils.common.paths import runs_dir
from thyroid_utils.data.images import write_png
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.scores.masks import segmentation_table
from thyroid_utils.training.data import split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import RUN_FILES
from thyroid_utils.training.tasks import COUNTS, TASKS, Batch, nodule_probability


def test_predictions_maps_and_metrics_are_those_of_the_best_weights():
    """Computed anew from the weights file, image by image, without the training's own batches."""
    config = segmentation_config(training__epochs=4)
    run, data = fit_or_load(config), split_data(config)
    assert set(os.listdir(run.folder)) == {*RUN_FILES, "maps.safetensors", "complete.json"}
    assert run.best_epoch == run.history["val_dice"].idxmax() and run.data["input"] == [1, 64, 64]
    pipeline, network = build_pipeline("plain", 64).fit(data.cases), run.load_model()
    assert not network.training
    for split in ("val", "test"):
        rows = data.cases[data.cases["split"] == split]
        samples = [pipeline.load(row) for _, row in rows.iterrows()]
        truth = np.stack([sample.mask for sample in samples])
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.stack([sample.image for sample in samples])))
        probability = torch.sigmoid(logits[:, 0]).numpy()
        names, maps = run.maps(split)
        assert list(names) == list(rows.index) and maps.dtype == np.float32 and maps.shape == (len(rows), 64, 64)
        assert np.abs(maps - probability).max() <= 0.5 / 255 + 1e-5  # a step of 1/255, and batches of another size
        called, predicted = maps >= 0.5, run.predictions.loc[names]
        by_hand = [called & truth, called & ~truth, ~called & truth, ~called & ~truth]
        for name, pixels in zip(COUNTS, by_hand, strict=True):
            assert predicted[name].tolist() == pixels.sum(axis=(1, 2)).tolist(), name
        dice = [2 * (c & t).sum() / (c.sum() + t.sum()) for c, t in zip(called, truth, strict=True) if (c | t).any()]
        iou = [(c & t).sum() / (c | t).sum() for c, t in zip(called, truth, strict=True) if (c | t).any()]
        metrics = run.metrics[split]
        assert metrics["dice"] == pytest.approx(np.mean(dice)) and metrics["iou"] == pytest.approx(np.mean(iou))
        assert metrics["pixel_accuracy"] == pytest.approx((called == truth).mean())
        assert metrics["images"] == len(rows) and metrics["scored"] == len(dice)
        assert predicted["label"].tolist() == rows["label"].tolist() and (predicted["patient"] == rows["patient"]).all()
    best = run.history.loc[run.best_epoch]
    assert list(run.history) == ["learning_rate", "train_loss", "val_loss", "val_dice", "val_iou", "val_pixel_accuracy"]
    for name in ("loss", "dice", "iou", "pixel_accuracy"):
        assert best[f"val_{name}"] == run.metrics["val"][name]


def test_counts_maps_and_validation_agree_and_false_alarms_cost_as_they_do_on_test():
    """At every float32 around one half, as many as there are between steps of a map."""
    centre = np.float32(0.5).view(np.int32)
    near = np.concatenate([np.arange(centre - 2000, centre + 2000, dtype=np.int32).view(np.float32), np.linspace(0, 1, 4001)])
    probabilities = torch.from_numpy(near.astype(np.float32))
    steps = torch.round(probabilities * 255).to(torch.uint8).numpy()
    assert (((steps / np.float32(255)) >= 0.5) == (probabilities.numpy() >= 0.5)).all()
    logits = torch.tensor([0.3, 1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(nodule_probability(logits), torch.sigmoid(logits[:, 1] - logits[:, 0]))
    # Scores batch by batch against all images at once; two truths are empty, one of them rightly left so.
    random = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(7, 1, 9, 5, generator=random), torch.rand(7, 9, 5, generator=random) > 0.6
    truth[3] = truth[4] = False
    logits[4] = -1

    def scored(*starts: int):
        scores = TASKS["segmentation"].scores(lambda found, masks: bce(found[:, 0], masks.float()))
        for first, last in zip(starts, (*starts[1:], 7), strict=True):
            scores.add(logits[first:last], Batch(logits[first:last], None, truth[first:last], None))
        return scores

    bce = functional.binary_cross_entropy_with_logits
    batches, whole = scored(0, 2, 4, 6), scored(0)
    assert batches.values() == whole.values() and whole.values()["scored"] == 6
    assert batches.loss() == pytest.approx(float(bce(logits[:, 0], truth.float())), rel=1e-6)
    # Images of one row of pixels: two nodules found exactly, two false alarms, and one rightly left empty.
    truth = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)[:, None]
    found = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)[:, None]

    def values(chosen: slice) -> dict[str, float]:
        logits, masks = torch.from_numpy(found[chosen])[:, None] * 2.0 - 1, torch.from_numpy(truth[chosen])
        scores = TASKS["segmentation"].scores(lambda *_: torch.zeros(()))
        scores.add(logits, Batch(logits, None, masks, None))
        return scores.values()

    assert values(slice(5)) == {"dice": 0.5, "iou": 0.5, "pixel_accuracy": (1 + 1 + 3 / 4 + 0 + 1) / 5, "scored": 4}
    table = segmentation_table(zip(truth, found, strict=True), range(5), [None] * 5)
    assert table["dice"].mean() == table["iou"].mean() == 0.5
    empty = values(slice(4, 5))
    assert np.isnan([empty["dice"], empty["iou"]]).all() and empty["pixel_accuracy"] == 1 and empty["scored"] == 0


def test_masks_follow_their_images(monkeypatch):
    """Every batch that is trained on: an image that is its own mask still is after augmentation, up to interpolation."""
    config = segmentation_config(training__epochs=1, augmentation="default")
    arrays = with_arrays(monkeypatch, config, lambda arrays: arrays.masks[:, None].astype(np.float32))
    seen, inputs = [], []

    class Watching(torch.nn.Module):
        def forward(self, logits, masks):
            if torch.is_grad_enabled():
                seen.append(masks)
            return (logits[:, 0] - masks.float()).square().mean()

    monkeypatch.setattr("thyroid_utils.models.losses.build_loss", lambda *_, **__: Watching())
    monkeypatch.setattr("thyroid_utils.training.loop.network_input", lambda images, *_: inputs.append(images) or images)
    fit_or_load(config)
    originals = torch.from_numpy(np.array(arrays.masks))
    assert len(seen) == batches_of(config)
    for masks, images in zip(seen, inputs, strict=False):  # the inputs of validation come behind
        assert masks.dtype == torch.bool and ((images[:, 0] > 0.5 * images.max()) == masks).float().mean() > 0.97
        assert not any((masks[0] == original).all() for original in originals), "and was changed"


def test_maps_are_asked_for_by_split_and_case():
    run = fit_or_load(segmentation_config(training__epochs=1))
    names, maps = run.maps("val")
    some, few = run.maps("val", names[[1, 0]])
    assert list(some) == [names[1], names[0]] and np.array_equal(few, maps[[1, 0]])
    with pytest.raises(KeyError, match=r"not all of .* are of test"):
        run.maps("test", names[:1])
    with pytest.raises(ValueError, match="for val and test; asked for 'train'"):
        run.maps("train")
    with pytest.raises(ValueError, match="maps are kept of segmentation runs"):
        fit_or_load(tiny_config(training__epochs=1)).maps()


def with_empty_masks(cases: pd.DataFrame, chosen: pd.Series, folder: Path) -> pd.DataFrame:
    blank = write_png(folder / "blank.png", np.zeros((64, 64), bool))
    return cases.assign(mask=cases["mask"].mask(chosen, str(blank)))


@pytest.mark.parametrize("split, side", [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_side_whose_masks_are_empty_at_the_networks_resolution_is_refused(split, side, monkeypatch, tmp_path):
    cases = split_data(segmentation_config()).cases
    dot = np.zeros((64, 64), bool)
    dot[31, 31] = True
    tiny = write_png(tmp_path / "dot.png", dot)
    with_cases(monkeypatch, cases.assign(mask=cases["mask"].mask(cases["split"] == split, str(tiny))))
    with pytest.raises(DataError, match=rf"preprocessing: all \d+ {side} masks are empty at 16×16 pixels; check the masks"):
        fit_or_load(segmentation_config(split__by="official", size=16))
    assert not list(runs_dir().glob("*/config.json")), "nothing was begun"


def test_a_batch_with_empty_masks_only_trains(monkeypatch, tmp_path):
    """Four of five training masks and one test mask are empty, in batches of two: some batches hold nothing to find."""
    cases = split_data(segmentation_config()).cases
    train, first = cases["split"] == "train", cases.index[cases["split"] == "test"][0]
    with_cases(monkeypatch, with_empty_masks(cases, (train & (train.cumsum() % 5 != 0)) | (cases.index == first), tmp_path))
    run = fit_or_load(segmentation_config(split__by="official", training__batch_size=2, training__epochs=1))
    assert np.isfinite(run.history).all(axis=None)
    blank, metrics = run.predictions.loc[first], run.metrics["test"]
    assert blank["true_positives"] == blank["false_negatives"] == 0
    assert metrics["scored"] == metrics["images"] - int(blank["false_positives"] == 0)


def test_maps_that_are_no_numbers_stop_the_run(monkeypatch):
    """A network that gives NaN on test images alone, and a loss that hides it."""
    config = segmentation_config(training__epochs=1)
    first = int(split_data(config).positions("test")[0])

    def spoilt(arrays):
        images = np.array(arrays.images)
        images[first] = np.nan
        return images

    with_arrays(monkeypatch, config, spoilt)
    with pytest.raises(TrainingError, match="tiny_segmenter: the loss on test is nan with the weights of epoch 1; lower"):
        fit_or_load(config)
    assert not list(runs_dir().glob("*/complete.json"))
