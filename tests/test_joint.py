"""One network for both questions: its heads, its loss, its training, and what can be asked of a finished run."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional
from training_project import joint_config, one_cache, own_runs  # noqa: F401

from thyroid_utils.inference.cam import cam_maps, target_layer
from thyroid_utils.inference.dropout import mc_dropout
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import augmented_views
from thyroid_utils.models.losses import build_loss
from thyroid_utils.models.networks import JOINT_MODELS, JointLogits, build_joint, build_segmenter
from thyroid_utils.scores.labels import classification_scores
from thyroid_utils.training.data import derived_seed, open_arrays, split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import list_runs
from thyroid_utils.training.tasks import TASKS, Arrays


def test_the_second_head_reads_the_deepest_map_holds_no_batch_and_the_loss_is_weighted(tmp_path):
    torch.manual_seed(0)
    network = build_joint("tiny_joint", in_channels=1).eval()
    images = torch.rand(2, 1, 32, 48)
    found = network(images)
    assert found.image.shape == (2, 2) and found.pixels.shape == (2, 1, 32, 48)
    deepest = network.network.encoder(images)[-1]
    by_hand = functional.linear(deepest.mean(dim=(2, 3)), network.head[-1].weight, network.head[-1].bias)
    torch.testing.assert_close(found.image, by_hand)
    torch.testing.assert_close(found.pixels, network.network(images))
    torch.manual_seed(0)
    logits = JointLogits(torch.randn(3, 2), torch.randn(3, 1, 8, 8))
    masks, labels = torch.rand(3, 8, 8) > 0.5, torch.tensor([0, 1, 1])
    loss = build_loss("joint", "tversky", alpha=0.4, beta=0.6, classification_weight=0.5, class_weights=[1.5, 0.75])
    expected = build_loss("segmentation", "tversky", alpha=0.4, beta=0.6)(logits.pixels, masks)
    entropy = functional.cross_entropy(logits.image, labels, weight=torch.tensor([1.5, 0.75]))
    torch.testing.assert_close(loss(logits, (masks, labels)), expected + 0.5 * entropy)
    assert build_loss("joint", "dice").classification_weight == 1
    torch.manual_seed(1)
    source = build_segmenter("tiny_joint")
    torch.save(source.network.state_dict(), tmp_path / "whole.pt")
    network = build_joint("tiny_joint", weights=tmp_path / "whole.pt").eval()
    for name, value in source.network.state_dict().items():
        torch.testing.assert_close(network.network.state_dict()[name], value)
    twin, images = copy.deepcopy(network), torch.rand(1, 3, 16, 16)
    expected = network(images).image
    torch.nn.init.zeros_(network.head[-1].weight)
    torch.testing.assert_close(twin(images).image, expected)
    assert network._deepest is None and twin._deepest is None and network.weights.startswith("whole.pt")


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenet", "segformer", "smp:fpn:resnet18"])
def test_segmenters_on_smps_encoders_become_joint(name):
    """The pixels are those of the segmenter alone, and a size that the network does not take is mirrored as ever."""
    torch.manual_seed(0)
    joint = build_joint(name, in_channels=1)
    torch.manual_seed(0)
    alone = build_segmenter(name, in_channels=1)
    images = torch.rand(2, 1, 64, 50)
    with torch.no_grad():
        found, expected = joint.eval()(images), alone.eval()(images)
    torch.testing.assert_close(found.pixels, expected)
    assert found.image.shape == (2, 2) and name in (*JOINT_MODELS, "smp:fpn:resnet18")
    assert len(joint.state_dict()) == len(alone.state_dict()) + 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("unet", {}, "unet: has no encoder .*unet_resnet18"),
        ("tiny_segmenter", {}, "tiny_segmenter: has no encoder"),
        ("vgg16", {}, "model 'vgg16' is unknown"),
        ("tiny_joint", {"head_dropout": 1}, "head_dropout must be"),
        ("tiny_joint", {"widht": 3}, "no option 'widht'; did you mean width"),
    ],
)
def test_networks_without_such_an_encoder_and_impossible_options_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_joint(name, **settings)


def test_a_finished_run_holds_both_tasks_and_a_weight_of_0_leaves_the_class_head():
    run = fit_or_load(joint_config(training__class_balance="weights", loss__options={"classification_weight": 0.5}))
    assert {"val_auc", "val_dice", "val_iou", "val_pixel_accuracy"} <= set(run.history)
    assert run.data["left_out"] == 0
    table, scores = run.predictions, run.metrics["test"]
    test = table[table["split"] == "test"]
    assert scores["auc"] == pytest.approx(classification_scores(test["label"], test["probability"])["auc"])
    hit, missed = test["true_positives"], test["false_positives"] + test["false_negatives"]
    assert scores["dice"] == pytest.approx(float((2 * hit / (2 * hit + missed)).mean()))
    names, maps = run.maps("test")
    assert list(names) == list(test.index) and maps.shape == (len(test), 64, 64)
    np.testing.assert_array_equal((maps >= 0.5).sum(axis=(1, 2)), test["true_positives"] + test["false_positives"])
    listed = list_runs().loc[run.name]
    assert (listed["task"], listed["score"], listed["state"]) == ("joint", "Dice", "finished")
    assert listed["test_score"] == scores["dice"]
    config = joint_config(loss__options={"classification_weight": 0.0}, training__monitor="dice")
    run = fit_or_load(config)
    assert run.best_epoch == run.history["val_dice"].idxmax()
    torch.manual_seed(derived_seed(config.seed))
    began = TASKS["joint"].network(config, 1, "none").head[-1].weight
    torch.testing.assert_close(run.load_model().head[-1].weight, began, rtol=0, atol=0)


def test_it_learns_both(monkeypatch):
    """The nodule is what is bright, and malignant is where the rest is dark: found on patients it has not seen."""
    config = joint_config(training__epochs=12, optimiser__learning_rate=0.03, augmentation=["horizontal_flip"])
    data = split_data(config)
    arrays = Arrays(open_arrays(config, data.cases), with_masks=True)
    noise = np.random.default_rng(0).normal(size=arrays.images.shape).astype(np.float32)
    arrays.images = 0.2 * noise + np.where(arrays.masks[:, None], 2, -arrays.labels[:, None, None, None]).astype(np.float32)
    monkeypatch.setattr("thyroid_utils.training.data.Arrays", lambda *_, **__: arrays)
    run = fit_or_load(config)
    assert run.metrics["test"]["dice"] > 0.7
    assert classification_scores(run.predictions["label"], run.predictions["probability"])["auc"] > 0.99


def test_a_joint_run_answers_both_questions():
    run = fit_or_load(joint_config(training__epochs=1))
    predictor, test = Predictor(run, batch_size=3), run.predictions[run.predictions["split"] == "test"]
    inputs = predictor.inputs(test.index)
    np.testing.assert_allclose(predictor.log_odds(inputs), test["log_odds"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(predictor.maps(inputs), run.maps("test")[1], rtol=0, atol=0.51 / 255)
    assert test["log_odds"].std() > 1e-4
    assert augmented_views(predictor.probabilities, inputs).shape == (10, len(test))
    network = predictor.network
    for task, shape in (("classification", ()), ("segmentation", (64, 64))):
        assert mc_dropout(predictor.answering(task), inputs[:2], 3).shape == (3, 2, *shape)
    found = cam_maps(predictor.answering("classification"), inputs[:2], layer=target_layer(network))
    assert found.maps.shape == (2, 64, 64) and found.grid == (16, 16)
    with pytest.raises(ValueError, match="is one of joint; this needs one of detection"):
        predictor.answering("detection")
