"""Losses by hand, against the libraries they do not come from, and by their gradients."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from scipy import ndimage
from torch.nn.functional import cross_entropy
from torchvision.ops import sigmoid_focal_loss

from thyroid_utils.models.losses import CLASSIFICATION_LOSSES, SEGMENTATION_LOSSES, border_weights, build_loss

# Probabilities 0.8/0.2 and 0.4/0.6: the first image is benign (p_y = 0.8), the second malignant (p_y = 0.6).
LOGITS = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
LABELS = torch.tensor([0, 1])
BENIGN, MALIGNANT = -math.log(0.8), -math.log(0.6)

# The nodule is the middle; the prediction, 0.8 where marked and 0.2 elsewhere, is one column too far to the right:
# . . . .        . . . .      right: 2 of the nodule, 10 of the background
# . N N .        . . X X      wrong: 2 of the nodule (left), 2 of the background (right)
# . N N .        . . X X      Σ p·y = 2·0.8 + 2·0.2 = 2, Σ p = 4·0.8 + 12·0.2 = 5.6, Σ y = 4
# . . . .        . . . .      so that TP = 2, FP = 3.6, FN = 2
MASK = torch.zeros(1, 4, 4, dtype=torch.bool)
MASK[:, 1:3, 1:3] = True
MARKED = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
MARKED[..., 1:3, 2:] = True
MARGIN = math.log(4)  # the log-odds of 0.8
PIXELS = torch.where(MARKED, MARGIN, -MARGIN)
RIGHT, WRONG = -math.log(0.8), -math.log(0.2)
BCE = (12 * RIGHT + 4 * WRONG) / 16
DICE = 1 - (2 * 2 + 1) / (5.6 + 4 + 1)
TVERSKY = 1 - (2 + 1) / (2 + 0.3 * 3.6 + 0.7 * 2 + 1)
FOCAL = 0.25 * (2 * 0.2**2 * RIGHT + 2 * 0.8**2 * WRONG) + 0.75 * (10 * 0.2**2 * RIGHT + 2 * 0.8**2 * WRONG)
# All four pixels of the nodule are border, d = 0; their eight neighbours have d = 1, the corners √2; d2 = d1.
AT = [1 + 10 * math.exp(-4 * square / 50) for square in (0, 1, 2)]
# The neighbours: six right, two wrong (right of the nodule); the corners all right.
BORDER = AT[0] * (2 * RIGHT + 2 * WRONG) + AT[1] * (6 * RIGHT + 2 * WRONG) + AT[2] * 4 * RIGHT
# Squared distances to the border, prediction + truth, at each pixel:    5+2 2+1 1+1 1+2
#                                                                        4+1 1+1 1+1 1+1  and the same upside down
FAR = math.log(1 + (4 * 0.8**2 * 2 + 0.2**2 * (2 * 7 + 2 * 3 + 2 * 2 + 2 * 3 + 2 * 5 + 2 * 2)) / 16)

every_pixel_loss = pytest.mark.parametrize("name", SEGMENTATION_LOSSES)


def loss(name: str, logits=LOGITS, labels=LABELS, **options) -> float:
    return build_loss("classification", name, **options)(logits, labels).item()


def pixel_loss(name: str, logits=PIXELS, masks=MASK, **options) -> float:
    return build_loss("segmentation", name, **options)(logits, masks).item()


def random_batch(seed: int, classes: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(size, classes, generator=generator), torch.randint(classes, (size,), generator=generator)


def batch(side: int = 9, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with no value near 0, where a prediction flips, and a round nodule, a random mask and a one-pixel nodule."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, side, side, generator=generator, dtype=dtype)
    masks = torch.rand(3, side, side, generator=generator) < 0.3
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks[0] = (rows - side // 2) ** 2 + (columns - side // 2) ** 2 < (side / 3) ** 2
    masks[-1] = (rows == 0) & (columns == 0)
    return logits + 0.1 * logits.sign(), masks


def as_two_classes(logits: torch.Tensor) -> torch.Tensor:
    """The same probabilities from a softmax: any common shift of both logits is allowed."""
    shift = torch.linspace(-3, 3, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
    return torch.cat([shift, shift + logits], dim=1)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cross_entropy", {}, (BENIGN + MALIGNANT) / 2),
        # Each class's term carries that class's weight; the sum is divided by the labels' weights.
        ("cross_entropy", {"class_weights": [1.0, 3.0], "label_smoothing": 0.2},
         -(0.9 * math.log(0.8) + 0.1 * 3 * math.log(0.2) + 0.9 * 3 * math.log(0.6) + 0.1 * math.log(0.4)) / (1 + 3)),
        # α = 0.25 of the malignant class and 0.75 of the benign one; γ = 2.
        ("focal", {}, (0.75 * 0.2**2 * BENIGN + 0.25 * 0.4**2 * MALIGNANT) / 2),
        ("focal", {"alpha": [0.75, 0.25], "gamma": 2}, (0.75 * 0.2**2 * BENIGN + 0.25 * 0.4**2 * MALIGNANT) / 2),
        ("focal", {"alpha": None, "gamma": 1}, (0.2 * BENIGN + 0.4 * MALIGNANT) / 2),
        ("focal", {"alpha": None, "gamma": 0, "class_weights": [1.0, 3.0]}, (BENIGN + 3 * MALIGNANT) / (1 + 3)),
        ("focal", {"alpha": None, "gamma": 1, "class_weights": [1.0, 3.0]}, (0.2 * BENIGN + 3 * 0.4 * MALIGNANT) / (1 + 3)),
    ],
)  # fmt: skip
def test_losses_of_classes_by_hand(name, options, expected):
    assert loss(name, **options) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.8, 0.0), (0.9, 0.5), (None, 1.0)])
def test_focal_on_two_classes_is_torchvisions_sigmoid_form(alpha, gamma):
    logits, labels = random_batch(1)
    margin = logits[:, 1] - logits[:, 0]
    theirs = sigmoid_focal_loss(margin, labels.float(), -1 if alpha is None else alpha, gamma, reduction="mean")
    assert loss("focal", logits, labels, alpha=alpha, gamma=gamma) == pytest.approx(theirs.item(), rel=1e-4)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_losses_of_classes_are_computed_in_float32_and_save_no_weights(name):
    module = build_loss("classification", name, class_weights=[1.0, 2.0])
    logits, labels = random_batch(3, size=4)
    halved = logits.bfloat16()
    assert module(halved, labels) == module(halved.float(), labels)
    assert not module.state_dict() and dict(module.named_buffers())["class_weights"].tolist() == [1, 2]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_logits_leave_focal_and_its_gradient_finite(gamma):
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(build_loss("classification", "focal", gamma=gamma)(logits, torch.tensor([0, 1, 0])), logits)
    assert torch.isfinite(gradient).all() and gradient[1, 1] < -0.01, "a surely wrong image still pulls"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bce", {}, BCE),
        ("bce", {"nodule_weight": 3.0}, (3 * (2 * RIGHT + 2 * WRONG) + 10 * RIGHT + 2 * WRONG) / 16),
        ("dice", {}, DICE),
        ("bce_dice", {}, BCE + DICE),
        ("tversky", {}, TVERSKY),  # α weighs the false positives: 0.3 of 3.6, and 0.7 of the 2 false negatives
        ("tversky", {"alpha": 0.7, "beta": 0.3}, 1 - 3 / (2 + 0.7 * 3.6 + 0.3 * 2 + 1)),
        ("focal", {}, FOCAL / 16),
        ("focal", {"alpha": None, "gamma": 0}, BCE),
        ("focal_tversky", {}, TVERSKY**0.75),
        ("focal_tversky", {"gamma": 1.0}, TVERSKY),
        ("border_cross_entropy", {}, BORDER / (4 * AT[0] + 8 * AT[1] + 4 * AT[2])),
        ("border_cross_entropy", {"weight": 0.0}, BCE),
        # Hinge 1 + log 4 at the four wrong pixels, 0 at the others; wrong there, the IoU loss is 1 − (4 − 2) / (4 + 2).
        ("lovasz", {}, (1 + MARGIN) * 2 / 3),
        ("hausdorff_dt", {}, FAR + DICE),
    ],
)
def test_losses_of_pixels_by_hand(name, options, expected):
    assert pixel_loss(name, **options) == pytest.approx(expected, rel=1e-6)


def test_losses_of_an_image_are_the_libraries_and_border_weights_scipys_distances():
    logits, masks = batch()
    for image in range(len(masks)):
        one, truth = logits[[image]], masks[[image]]
        # smp adds smooth to Σ p·y and to half of Σ p + Σ y: that is twice as much in the usual form.
        theirs = smp.losses.DiceLoss("binary", smooth=0.5)(one, truth[:, None].float())
        assert pixel_loss("dice", one, truth) == pytest.approx(theirs.item(), rel=1e-5)
        theirs = smp.losses.TverskyLoss("binary", smooth=1.0, alpha=0.3, beta=0.7)(one, truth[:, None].float())
        assert pixel_loss("tversky", one, truth) == pytest.approx(theirs.item(), rel=1e-5)
    two = as_two_classes(logits)
    assert pixel_loss("bce", two, masks) == pytest.approx(cross_entropy(two, masks.long()).item(), rel=1e-5)
    # Three nodules, one of them at the image's edge; inside a nodule the weight falls with the distance to its border.
    mask = np.zeros((40, 50), bool)
    mask[3:17, 5:21], mask[20:38, 8:20], mask[10:30, 35:50] = True, True, True
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    nodules = [labels == number for number in (1, 2, 3)]
    distances = [ndimage.distance_transform_edt(~(nodule & ~ndimage.binary_erosion(nodule))) for nodule in nodules]
    first, second, _ = np.sort(distances, axis=0)
    for both, separation in ((first + second, True), (2 * first, False)):
        found = border_weights(mask, weight=4, sigma=3, nodule_weight=2, separation_only=separation)
        expected = np.where(mask, 2, 1) + 4 * np.exp(-(both**2) / (2 * 3**2))
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # distances are float32 in OpenCV
    weights = border_weights(labels == labels[20, 8])
    assert weights[20, 8] == 11 and weights[29, 14] < 3 < weights[22, 10] < 11, "the edge counts, not the inside"
    assert (border_weights(np.zeros((5, 6), bool)) == 1).all()
    full = border_weights(np.ones((5, 6), bool))
    assert full[0, 0] == full[4, 3] == 11 and 1 < full[2, 2] < 11, "the image's edge is the nodule's border"


@pytest.mark.parametrize("name", ["dice", "tversky", "focal_tversky", "lovasz", "bce_dice"])
def test_region_losses_are_means_over_images(name):
    logits, masks = batch()
    alone = [pixel_loss(name, logits[[image]], masks[[image]]) for image in range(len(masks))]
    assert pixel_loss(name, logits, masks) == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SEGMENTATION_LOSSES if name != "lovasz"])
def test_the_gradient_is_that_of_finite_differences(name):
    """Of two classes, and so of their difference: the logits of one."""
    logits, masks = batch(side=5, dtype=torch.float64)
    module = build_loss("segmentation", name)
    assert torch.autograd.gradcheck(lambda values: module(values, masks), (as_two_classes(logits).requires_grad_(True),))


@every_pixel_loss
def test_one_class_and_two_are_one_loss_in_float32_finite_of_certain_logits(name):
    logits, masks = batch()
    # The shift rounds the logits by about 1e-7.
    assert pixel_loss(name, as_two_classes(logits), masks) == pytest.approx(pixel_loss(name, logits, masks), rel=1e-5)
    halved = logits.bfloat16()
    value = build_loss("segmentation", name)(halved, masks)
    assert value.dtype == torch.float32 and value.shape == () and value.item() == pixel_loss(name, halved.float(), masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build_loss("segmentation", name)(halved, masks).item() == value.item()
    _, masks = batch()
    right = torch.where(masks[:, None], 200.0, -200.0)
    for logits in (right.clone().requires_grad_(), (-right).requires_grad_()):
        value = build_loss("segmentation", name)(logits, masks)
        assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


@pytest.mark.parametrize("full", [False, True])
@every_pixel_loss
def test_a_batch_of_empty_or_full_masks_pulls_the_right_way_and_costs_nothing_when_right(name, full):
    logits, _ = batch()
    logits.requires_grad_(True)
    value = build_loss("segmentation", name)(logits, torch.full((3, 9, 9), full))
    (gradient,) = torch.autograd.grad(value, logits)
    towards = -gradient if full else gradient
    assert torch.isfinite(value) and value > 0
    assert torch.isfinite(gradient).all() and (towards >= 0).all() and (towards > 0).flatten(1).any(dim=1).all()
    sure = torch.full((2, 1, 6, 6), 50.0 if full else -50.0)
    # 1e-6 is the floor of the focal Tversky loss, before its power.
    assert pixel_loss(name, sure, torch.full((2, 6, 6), full)) <= (1e-6) ** 0.75 * 1.001
    assert pixel_loss(name, -sure, torch.full((2, 6, 6), full)) > (0.1 if name != "border_cross_entropy" else 40)


@pytest.mark.parametrize(
    ("task", "name", "options", "message"),
    [
        ("classification", "crossentropy", {}, "classification loss 'crossentropy' is unknown; did you mean cross_entropy"),
        ("classification", "cross_entropy", {"label_smoothing": 1.0}, "label_smoothing must be a number from 0 to below 1"),
        ("classification", "focal", {"gamma": math.nan}, "gamma must be a number 0 or more; found nan"),
        ("classification", "focal", {"class_weights": [1.0, 0.0]}, "class_weights must be one positive number a class"),
        ("segmentation", "bce", {"nodule_weight": 0}, "nodule_weight must be a number above 0; found 0"),
        ("segmentation", "focal", {"gamma": 0.5}, "gamma must be 0 or at least 1"),
        ("segmentation", "bce", {"class_weights": [1.0, 3.0]}, "loss bce takes no class_weights; nodule and background"),
        (
            "segmentation",
            "dice",
            {"per_image": False},
            "no option 'per_image'; it was removed; train with the loss's fixed value",
        ),
        ("segmentation", "dice", {"alpha": 1}, "no option 'alpha'; it has no options"),
        ("joint", "dice", {"classification_weight": -1}, "classification_weight must be"),
        ("joint", "dice", {"clasification_weight": 1}, "no option 'clasification_weight'; did you mean classification_weight"),
    ],
)
def test_impossible_losses_are_refused(task, name, options, message):
    with pytest.raises(ValueError, match=message):
        build_loss(task, name, **options)


@pytest.mark.parametrize(
    ("logits", "masks"),
    [(PIXELS, MASK.float()), (PIXELS, MASK[:, None]), (PIXELS[:, 0], MASK), (PIXELS.expand(1, 3, 4, 4), MASK),
     (PIXELS, MASK[:, 1:]), (PIXELS[:0], MASK[:0]), (PIXELS.long(), MASK)],
)  # fmt: skip
def test_wrong_shapes_are_refused(logits, masks):
    with pytest.raises(ValueError, match=r"expected logits \(batch, 1 or 2, height, width\) and masks bool"):
        build_loss("segmentation", "dice")(logits, masks)
