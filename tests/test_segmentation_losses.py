"""Segmentation losses by hand on a 4 × 4 mask, against the libraries they do not come from, and by their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from scipy import ndimage

from thyroid_utils.models.losses import SEGMENTATION_LOSSES, border_weights, build_loss

# The nodule is the middle; the prediction, 0.8 where marked and 0.2 elsewhere, is one column too far to the right:
# . . . .        . . . .      right: 2 of the nodule, 10 of the background
# . N N .        . . X X      wrong: 2 of the nodule (left), 2 of the background (right)
# . N N .        . . X X      Σ p·y = 2·0.8 + 2·0.2 = 2, Σ p = 4·0.8 + 12·0.2 = 5.6, Σ y = 4
# . . . .        . . . .      so that TP = 2, FP = 3.6, FN = 2
TRUTH = torch.zeros(1, 4, 4, dtype=torch.bool)
TRUTH[:, 1:3, 1:3] = True
MARKED = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
MARKED[..., 1:3, 2:] = True
MARGIN = math.log(4)  # the log-odds of 0.8
LOGITS = torch.where(MARKED, MARGIN, -MARGIN)
RIGHT, WRONG = -math.log(0.8), -math.log(0.2)
BCE = (12 * RIGHT + 4 * WRONG) / 16
DICE = 1 - (2 * 2 + 1) / (5.6 + 4 + 1)
TVERSKY = 1 - (2 + 1) / (2 + 0.3 * 3.6 + 0.7 * 2 + 1)


def loss(name: str, logits=LOGITS, masks=TRUTH, **options) -> float:
    return build_loss("segmentation", name, **options)(logits, masks).item()


def batch(seed: int = 0, images: int = 3, side: int = 9, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with no value near 0, where a prediction flips, and a round nodule, a random mask and a one-pixel nodule."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 1, side, side, generator=generator, dtype=dtype)
    masks = torch.rand(images, side, side, generator=generator) < 0.3
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks[0] = (rows - side // 2) ** 2 + (columns - side // 2) ** 2 < (side / 3) ** 2
    masks[-1] = False
    masks[-1, 0, 0] = True
    return logits + 0.1 * logits.sign(), masks


def as_two_classes(logits: torch.Tensor) -> torch.Tensor:
    """The same probabilities from a softmax: any common shift of both logits is allowed."""
    shift = torch.linspace(-3, 3, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
    return torch.cat([shift, shift + logits], dim=1)


def test_bce_by_hand():
    assert loss("bce") == pytest.approx(BCE, rel=1e-6)
    weighted = (3 * (2 * RIGHT + 2 * WRONG) + 10 * RIGHT + 2 * WRONG) / 16
    assert loss("bce", nodule_weight=3.0) == pytest.approx(weighted, rel=1e-6)


def test_dice_by_hand():
    assert loss("dice") == pytest.approx(DICE, rel=1e-6)
    assert loss("dice", smooth=0.001) == pytest.approx(1 - 4.001 / 9.601, rel=1e-6)


def test_bce_dice_by_hand():
    assert loss("bce_dice") == pytest.approx(BCE + DICE, rel=1e-6)
    assert loss("bce_dice", dice_weight=0.5) == pytest.approx(BCE + DICE / 2, rel=1e-6)


def test_tversky_by_hand():
    """α weighs the false positives: 0.3 of 3.6, and 0.7 of the 2 false negatives."""
    assert loss("tversky") == pytest.approx(TVERSKY, rel=1e-6)
    assert loss("tversky", alpha=0.7, beta=0.3) == pytest.approx(1 - 3 / (2 + 0.7 * 3.6 + 0.3 * 2 + 1), rel=1e-6)


def test_focal_by_hand():
    nodule = 0.25 * (2 * 0.2**2 * RIGHT + 2 * 0.8**2 * WRONG)
    background = 0.75 * (10 * 0.2**2 * RIGHT + 2 * 0.8**2 * WRONG)
    assert loss("focal") == pytest.approx((nodule + background) / 16, rel=1e-6)
    assert loss("focal", alpha=None, gamma=0) == pytest.approx(BCE, rel=1e-6)


def test_focal_tversky_by_hand():
    assert loss("focal_tversky") == pytest.approx(TVERSKY**0.75, rel=1e-6)
    assert loss("focal_tversky", gamma=1.0) == pytest.approx(TVERSKY, rel=1e-6)


def test_border_cross_entropy_by_hand():
    """All four pixels of the nodule are border, d = 0; their eight neighbours have d = 1, the corners √2; d2 = d1."""
    at = {0: 1 + 10, 1: 1 + 10 * math.exp(-4 / 50), 2: 1 + 10 * math.exp(-8 / 50)}
    # The neighbours: six right, two wrong (right of the nodule); the corners all right.
    weighted = at[0] * (2 * RIGHT + 2 * WRONG) + at[1] * (6 * RIGHT + 2 * WRONG) + at[2] * 4 * RIGHT
    assert loss("border_cross_entropy") == pytest.approx(weighted / (4 * at[0] + 8 * at[1] + 4 * at[2]), rel=1e-6)
    assert loss("border_cross_entropy", weight=0.0) == pytest.approx(BCE, rel=1e-6)


def test_lovasz_by_hand():
    """Hinge 1 + log 4 at the four wrong pixels, 0 at the others; wrong there, the IoU loss is 1 − (4 − 2) / (4 + 2)."""
    assert loss("lovasz") == pytest.approx((1 + MARGIN) * 2 / 3, rel=1e-6)


def test_hausdorff_dt_by_hand():
    """Squared distances to the border, prediction + truth, at each pixel:

    5+2 2+1 1+1 1+2
    4+1 1+1 1+1 1+1
    4+1 1+1 1+1 1+1
    5+2 2+1 1+1 1+2
    """
    wrong = 4 * 0.8**2 * 2
    right = 0.2**2 * (2 * 7 + 2 * 3 + 2 * 2 + 2 * 3 + 2 * 5 + 2 * 2)
    assert loss("hausdorff_dt") == pytest.approx(math.log(1 + (wrong + right) / 16) + DICE, rel=1e-6)
    assert loss("hausdorff_dt", dice_weight=0.0) == pytest.approx(math.log(1 + (wrong + right) / 16), rel=1e-6)


def test_border_weights_against_scipys_distances():
    """Three nodules, one of them at the image's edge; inside a nodule the weight falls with the distance to its border."""
    mask = np.zeros((40, 50), bool)
    mask[3:17, 5:21], mask[20:38, 8:20], mask[10:30, 35:50] = True, True, True
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    assert count == 3
    distances = []
    for number in range(1, 4):
        nodule = labels == number
        distances.append(ndimage.distance_transform_edt(~(nodule & ~ndimage.binary_erosion(nodule))))
    first, second, _ = np.sort(distances, axis=0)
    expected = np.where(mask, 2, 1) + 4 * np.exp(-((first + second) ** 2) / (2 * 3**2))
    # Distances are float32 in OpenCV.
    found = border_weights(mask, weight=4, sigma=3, nodule_weight=2, separation_only=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alone = np.where(mask, 2, 1) + 4 * np.exp(-((2 * first) ** 2) / (2 * 3**2))
    np.testing.assert_allclose(border_weights(mask, weight=4, sigma=3, nodule_weight=2), alone, rtol=1e-5)
    assert (alone >= expected).all()
    weights = border_weights(labels == labels[20, 8])
    assert weights[20, 8] == 11 and weights[29, 14] < 3 < weights[22, 10] < 11, "the edge counts, not the inside"


def test_a_speck_takes_no_weight_from_an_outline():
    """Paper 002 weighs outlines: the nodule's must count as much with a second part far off as without."""
    rows, columns = np.mgrid[:64, :160]
    disc = (rows - 32) ** 2 + (columns - 32) ** 2 < 20**2
    with_speck = disc.copy()
    with_speck[32, 150] = True
    here = (slice(None), slice(0, 100))
    np.testing.assert_array_equal(border_weights(with_speck)[here], border_weights(disc)[here])
    outline = disc & ~ndimage.binary_erosion(disc)
    assert (border_weights(with_speck)[outline] == 11).all()
    assert (border_weights(with_speck, separation_only=True)[outline] < 1.001).all()
    assert (border_weights(disc, separation_only=True) == 1).all(), "a nodule alone has nothing to be kept apart from"


def test_border_weights_of_nothing_and_of_everything():
    assert (border_weights(np.zeros((5, 6), bool)) == 1).all()
    full = border_weights(np.ones((5, 6), bool))
    assert full[0, 0] == full[4, 3] == 11 and 1 < full[2, 2] < 11, "the image's edge is the nodule's border"


def test_dice_and_tversky_over_the_batch_are_smps():
    logits, masks = batch()
    for smooth in (0.5, 3.0):
        theirs = smp.losses.DiceLoss("binary", smooth=2 * smooth)(logits, masks[:, None].float())
        # smp adds smooth to Σ p·y and to half of Σ p + Σ y: that is twice as much in the usual form.
        assert loss("dice", logits, masks, smooth=4 * smooth, per_image=False) == pytest.approx(theirs.item(), rel=1e-5)
        theirs = smp.losses.TverskyLoss("binary", smooth=smooth, alpha=0.3, beta=0.7)(logits, masks[:, None].float())
        ours = loss("tversky", logits, masks, smooth=smooth, per_image=False)
        assert ours == pytest.approx(theirs.item(), rel=1e-5)


def test_bce_of_two_classes_is_pytorchs_cross_entropy():
    logits, masks = batch()
    two = as_two_classes(logits)
    theirs = torch.nn.functional.cross_entropy(two, masks.long())
    assert loss("bce", two, masks) == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "tversky", "focal_tversky", "lovasz", "bce_dice"])
def test_region_losses_are_means_over_images(name):
    logits, masks = batch()
    alone = [loss(name, logits[[image]], masks[[image]]) for image in range(len(masks))]
    assert loss(name, logits, masks) == pytest.approx(np.mean(alone), rel=1e-5)
    assert loss(name, logits, masks) != pytest.approx(loss(name, logits, masks, per_image=False), rel=1e-3)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_one_class_and_two_are_one_loss(name):
    logits, masks = batch()
    # The shift rounds the logits by about 1e-7.
    assert loss(name, as_two_classes(logits), masks) == pytest.approx(loss(name, logits, masks), rel=1e-5)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("name", [name for name in SEGMENTATION_LOSSES if name != "lovasz"])
def test_the_gradient_is_that_of_finite_differences(name, classes):
    logits, masks = batch(side=5, dtype=torch.float64)
    logits = (logits if classes == 1 else as_two_classes(logits)).requires_grad_(True)
    module = build_loss("segmentation", name)
    assert torch.autograd.gradcheck(lambda values: module(values, masks), (logits,))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_a_batch_of_empty_or_full_masks_pulls_the_right_way(name, full):
    logits, _ = batch()
    logits.requires_grad_(True)
    value = build_loss("segmentation", name)(logits, torch.full((3, 9, 9), full))
    (gradient,) = torch.autograd.grad(value, logits)
    towards = -gradient if full else gradient
    assert torch.isfinite(value) and value > 0
    assert torch.isfinite(gradient).all() and (towards >= 0).all() and (towards > 0).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_empty_and_full_masks_predicted_right_cost_nothing(name, full):
    sure = torch.full((2, 1, 6, 6), 50.0 if full else -50.0)
    # 1e-6 is the floor of the focal Tversky loss, before its power.
    assert loss(name, sure, torch.full((2, 6, 6), full)) <= (1e-6) ** 0.75 * 1.001
    assert loss(name, -sure, torch.full((2, 6, 6), full)) > (0.1 if name != "border_cross_entropy" else 40)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_certain_logits_leave_value_and_gradient_finite(name):
    _, masks = batch()
    right = torch.where(masks[:, None], 200.0, -200.0)
    for logits in (right, -right):
        logits.requires_grad_(True)
        value = build_loss("segmentation", name)(logits, masks)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value) and torch.isfinite(gradient).all()
        logits.requires_grad_(False)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_half_precision_logits_are_computed_in_float32(name):
    logits, masks = batch()
    halved = logits.bfloat16()
    value = build_loss("segmentation", name)(halved, masks)
    assert value.dtype == torch.float32 and value.shape == ()
    assert value.item() == loss(name, halved.float(), masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build_loss("segmentation", name)(halved, masks).item() == value.item()


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_following_the_gradient_finds_the_nodule(name):
    """From 0.5 everywhere, on a nodule, one of a single pixel at the edge, and an image of odd size without any."""
    rows, columns = torch.meshgrid(torch.arange(13), torch.arange(17), indexing="ij")
    masks = torch.stack([(rows - 6) ** 2 + (columns - 7) ** 2 < 20, (rows == 0) & (columns == 16), rows > 99])
    logits = torch.zeros(3, 1, 13, 17, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    module = build_loss("segmentation", name)
    for _ in range(60):
        optimiser.zero_grad()
        module(logits, masks).backward()
        optimiser.step()
    assert torch.equal(logits[:, 0] > 0, masks)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dise", {}, "segmentation loss 'dise' is unknown; did you mean dice"),
        ("dice", {"alpha": 0.3}, "loss dice: no option 'alpha'"),
        ("dice", {"smooth": 0}, "smooth must be a number above 0; found 0"),
        ("tversky", {"alpha": -0.1}, "alpha must be a number 0 or more; found -0.1"),
        ("tversky", {"smooth": 0.0}, "smooth must be a number above 0"),
        ("focal_tversky", {"gamma": 0.75}, "gamma must be a number 1 or more; found 0.75"),
        ("focal", {"gamma": 0.5}, "gamma must be 0 or at least 1"),
        ("focal", {"alpha": 2}, "alpha must be a number from 0 to 1; found 2"),
        ("border_cross_entropy", {"sigma": 0}, "sigma must be a number above 0"),
        ("border_cross_entropy", {"separation_only": 1}, "separation_only must be true or false; found 1"),
        ("border_cross_entropy", {"weight": math.nan}, "weight must be a number 0 or more; found nan"),
        ("bce", {"nodule_weight": 0}, "nodule_weight must be a number above 0"),
        ("hausdorff_dt", {"alpha": 0.5}, "alpha must be a number 1 or more; found 0.5"),
        ("bce", {"class_weights": [1.0, 3.0]}, "loss bce takes no class_weights; nodule and background are weighed by"),
    ],
)
def test_impossible_losses_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_loss("segmentation", name, **options)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_wrong_shapes_are_refused(name):
    module = build_loss("segmentation", name)
    for logits, masks in [
        (LOGITS, TRUTH.float()),
        (LOGITS, TRUTH[:, None]),
        (LOGITS[:, 0], TRUTH),
        (LOGITS.expand(1, 3, 4, 4), TRUTH),
        (LOGITS, TRUTH[:, 1:]),
        (LOGITS[:0], TRUTH[:0]),
        (LOGITS.long(), TRUTH),
    ]:
        with pytest.raises(ValueError, match=r"expected logits \(batch, 1 or 2, height, width\) and masks bool"):
            module(logits, masks)
