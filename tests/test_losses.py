"""Losses against values by hand, scikit-learn, torchvision and segmentation_models_pytorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torchvision.ops import sigmoid_focal_loss

from thyroid_utils.models.losses import CLASSIFICATION_LOSSES, SEGMENTATION_LOSSES, build_loss

# Probabilities 0.8/0.2 and 0.4/0.6: the first image is benign (p_y = 0.8), the second malignant (p_y = 0.6).
LOGITS = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
LABELS = torch.tensor([0, 1])


def loss(name: str, logits=LOGITS, labels=LABELS, **options) -> float:
    return build_loss("classification", name, **options)(logits, labels).item()


def random_batch(seed: int, classes: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(size, classes, generator=generator), torch.randint(classes, (size,), generator=generator)


def test_registries():
    assert set(CLASSIFICATION_LOSSES) == {"cross_entropy", "focal"}
    assert set(SEGMENTATION_LOSSES) == {
        "bce", "dice", "bce_dice", "tversky", "focal", "focal_tversky", "border_cross_entropy", "lovasz", "hausdorff_dt",
    }  # fmt: skip


def test_cross_entropy_by_hand():
    assert loss("cross_entropy") == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2, rel=1e-6)


def test_cross_entropy_with_both_by_hand():
    """Each class's term carries that class's weight; the sum is divided by the labels' weights."""
    first = 0.9 * 1 * math.log(0.8) + 0.1 * 3 * math.log(0.2)
    second = 0.9 * 3 * math.log(0.6) + 0.1 * 1 * math.log(0.4)
    expected = -(first + second) / (1 + 3)
    assert loss("cross_entropy", class_weights=[1.0, 3.0], label_smoothing=0.2) == pytest.approx(expected, rel=1e-6)


def test_focal_by_hand():
    """α = 0.25 of the malignant class and 0.75 of the benign one; γ = 2."""
    benign = 0.75 * (1 - 0.8) ** 2 * -math.log(0.8)
    malignant = 0.25 * (1 - 0.6) ** 2 * -math.log(0.6)
    assert loss("focal") == pytest.approx((benign + malignant) / 2, rel=1e-6)
    assert loss("focal", alpha=0.25, gamma=2) == loss("focal") == loss("focal", alpha=[0.75, 0.25])


def test_focal_without_alpha_and_with_class_weights_by_hand():
    benign, malignant = 0.2 * -math.log(0.8), 0.4 * -math.log(0.6)
    assert loss("focal", alpha=None, gamma=1) == pytest.approx((benign + malignant) / 2, rel=1e-6)
    expected = (benign + 3 * malignant) / (1 + 3)
    assert loss("focal", alpha=None, gamma=1, class_weights=[1.0, 3.0]) == pytest.approx(expected, rel=1e-6)


def test_focal_with_an_alpha_for_each_of_three_classes_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    expected = 0.6 * (1 - 0.2) ** 3 * -math.log(0.2)
    assert loss("focal", logits, torch.tensor([2]), alpha=[0.1, 0.3, 0.6], gamma=3) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_cross_entropy_is_scikit_learns_log_loss(classes):
    logits, labels = random_batch(0, classes)
    weights = np.array([1.0, 2.5, 0.5])[:classes]
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    # float32 against float64 over 64 images
    assert loss("cross_entropy", logits, labels) == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    weighted = log_loss(labels, probabilities, sample_weight=weights[labels.numpy()])
    assert loss("cross_entropy", logits, labels, class_weights=weights.tolist()) == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.8, 0.0), (0.5, 5.0), (0.9, 0.5), (None, 1.0)])
def test_focal_on_two_classes_is_torchvisions_sigmoid_form(alpha, gamma):
    logits, labels = random_batch(1)
    margin = logits[:, 1] - logits[:, 0]
    theirs = sigmoid_focal_loss(margin, labels.float(), -1 if alpha is None else alpha, gamma, reduction="mean")
    assert loss("focal", logits, labels, alpha=alpha, gamma=gamma) == pytest.approx(theirs.item(), rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
def test_focal_with_gamma_zero_is_cross_entropy(seed, classes, weighted):
    logits, labels = random_batch(seed, classes, size=8)
    weights = [0.5 + number for number in range(classes)] if weighted else None
    focal = loss("focal", logits, labels, alpha=None, gamma=0, class_weights=weights)
    assert focal == pytest.approx(loss("cross_entropy", logits, labels, class_weights=weights), rel=1e-5, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 5), st.floats(0.1, 3))
def test_focal_falls_as_gamma_grows(seed, gamma, more):
    logits, labels = random_batch(seed, size=8)
    assert 0 <= loss("focal", logits, labels, gamma=gamma + more) <= loss("focal", logits, labels, gamma=gamma)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_the_gradient_is_that_of_finite_differences(name):
    module = build_loss("classification", name, class_weights=[1.0, 2.0])
    logits, labels = random_batch(3, size=4)
    logits.requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(logits, labels), logits)
    step = 1e-2
    for image, label in [(0, 0), (1, 1), (3, 0)]:
        moved = torch.zeros_like(logits)
        moved[image, label] = step
        with torch.no_grad():
            slope = (module(logits + moved, labels) - module(logits - moved, labels)) / (2 * step)
        # float32 differences over 2e-2 are good to about 1e-5
        assert gradient[image, label].item() == pytest.approx(slope.item(), abs=3e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_logits_leave_value_and_gradient_finite(gamma):
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    value = build_loss("classification", "focal", gamma=gamma)(logits, torch.tensor([0, 1, 0]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    assert gradient[1, 1] < -0.01, "a surely wrong image still pulls"


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_half_precision_logits_are_computed_in_float32(name):
    logits, labels = random_batch(4)
    halved = logits.bfloat16()
    assert loss(name, halved, labels) == loss(name, halved.float(), labels)


def test_a_loss_moves_with_its_weights_and_saves_none():
    module = build_loss("classification", "focal", class_weights=[1.0, 2.0])
    assert not module.state_dict() and not list(module.parameters())
    assert {name for name, _ in module.named_buffers()} == {"class_weights", "alpha"}


@pytest.mark.parametrize(
    ("task", "name", "options", "message"),
    [
        ("classification", "crossentropy", {}, "classification loss 'crossentropy' is unknown; did you mean cross_entropy"),
        ("regression", "focal", {}, "task 'regression' has no losses"),
        ("segmentation", "dise", {}, "segmentation loss 'dise' is unknown; did you mean dice"),
        ("classification", "focal", {"gama": 2}, "loss focal: no option 'gama'; did you mean gamma"),
        ("classification", "cross_entropy", {"label_smoothing": 1.0}, "label_smoothing must be a number from 0 to below 1"),
        ("classification", "cross_entropy", {"label_smoothing": "0.1"}, "label_smoothing must be a number"),
        ("classification", "focal", {"gamma": -1}, "gamma must be a number 0 or more; found -1"),
        ("classification", "focal", {"gamma": math.nan}, "gamma must be a number 0 or more; found nan"),
        ("classification", "focal", {"alpha": 1.5}, "alpha must be a number from 0 to 1; found 1.5"),
        ("classification", "focal", {"class_weights": [1.0, 0.0]}, "class_weights must be one positive number a class"),
        ("classification", "focal", {"class_weights": [1.0, math.inf]}, "class_weights must be one positive number a class"),
    ],
)
def test_impossible_losses_are_refused(task, name, options, message):
    with pytest.raises(ValueError, match=message):
        build_loss(task, name, **options)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_wrong_shapes_are_refused(name):
    module = build_loss("classification", name)
    for logits, labels in [
        (LOGITS, LABELS.float()),
        (LOGITS, LABELS[:1]),
        (LOGITS[:, 0], LABELS),
        (LOGITS[:0], LABELS[:0]),
    ]:
        with pytest.raises(ValueError, match=r"expected logits \(batch, classes\) and labels \(batch,\) of type int64"):
            module(logits, labels)
    three = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="class_weights has 2 values for 3 classes"):
        build_loss("classification", "cross_entropy", class_weights=[1.0, 2.0])(three, LABELS)
    with pytest.raises(ValueError, match="alpha has 2 values for 3 classes"):
        build_loss("classification", "focal")(three, LABELS)
