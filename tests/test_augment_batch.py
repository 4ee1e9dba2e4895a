"""Batched augmentation: the same kinds and ranges as image by image, one draw an image, image and mask together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from thyroid_utils.preprocess.augment import AUGMENTATION_PRESETS, AUGMENTATIONS, build_augmentation
from thyroid_utils.preprocess.augment_batch import BATCHED, affine_batch, augment_batch


def batch(count: int = 4, channels: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 3 - 1


def keys(count: int, epoch: int = 0) -> list[tuple[int, ...]]:
    return [(5, epoch, position) for position in range(count)]


def test_every_augmentation_has_a_batched_form():
    assert set(BATCHED) == set(AUGMENTATIONS)


def test_certain_flips_by_hand():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    mask = torch.tensor([[True, False], [False, False]])[None]
    flipped, mask_flipped = augment_batch(build_augmentation([{"horizontal_flip": {"p": 1.0}}]), image, mask, keys=[(0,)])
    assert flipped[0, 0].tolist() == [[2, 1], [4, 3]] and mask_flipped[0].tolist() == [[False, True], [False, False]]
    flipped, mask_flipped = augment_batch(build_augmentation([{"vertical_flip": {"p": 1.0}}]), image, mask, keys=[(0,)])
    assert flipped[0, 0].tolist() == [[3, 4], [1, 2]] and mask_flipped[0].tolist() == [[False, False], [True, False]]


def test_a_shift_by_hand():
    image = torch.tensor([[1.0, 2.0, 3.0]])[None, None]
    moved, mask = affine_batch(image, image[0] > 2, torch.zeros(1), torch.tensor([[-1.0, 0.0]]), torch.ones(1))
    assert torch.allclose(moved[0, 0], torch.tensor([[2.0, 3.0, 0.0]])) and mask[0].tolist() == [[False, True, False]]


@pytest.mark.parametrize("angle, shift, scale", [(0, (0, 0), 1.0), (11, (0, 0), 1.0), (-170, (3, -2), 1.3), (8, (-5, 4), 0.8)])
def test_affine_equals_torchvisions(angle, shift, scale):
    images = batch().abs()
    mine, mask = affine_batch(
        images,
        images[:, 0] > 2,
        torch.full((4,), float(angle)),
        torch.tensor([shift] * 4, dtype=torch.float32),
        torch.full((4,), scale),
    )
    bilinear, nearest = functional.InterpolationMode.BILINEAR, functional.InterpolationMode.NEAREST
    theirs = functional.affine(images, angle, list(shift), scale, [0.0, 0.0], interpolation=bilinear)
    # Both compute in float32; a sample that falls on the edge of a pixel may be rounded to either side.
    assert torch.isclose(mine, theirs, atol=1e-3).float().mean() > 0.995
    theirs = functional.affine((images[:, 0] > 2).float(), angle, list(shift), scale, [0.0, 0.0], interpolation=nearest) > 0.5
    assert (mask == theirs).float().mean() > 0.99


@pytest.mark.parametrize("preset", AUGMENTATION_PRESETS)
def test_the_result_depends_on_the_key_alone(preset):
    """Not on the other images of the batch, its order or its size: training that is taken up again relies on it."""
    augmentation, images = build_augmentation(preset), batch(5)
    masks = images[:, 0] > 0
    whole, whole_masks = augment_batch(augmentation, images, masks, keys=keys(5))
    order = [3, 0, 4]
    part, part_masks = augment_batch(augmentation, images[order], masks[order], keys=[keys(5)[i] for i in order])
    alone, _ = augment_batch(augmentation, images[2:3], masks[2:3], keys=keys(5)[2:3])
    assert torch.equal(part, whole[order]) and torch.equal(part_masks, whole_masks[order]) and torch.equal(alone[0], whole[2])
    if augmentation.steps:
        other, _ = augment_batch(augmentation, images, masks, keys=keys(5, epoch=1))
        assert not torch.equal(other, whole)


def test_images_of_one_batch_are_changed_differently():
    images = batch(1).expand(6, -1, -1, -1)
    changed, _ = augment_batch(build_augmentation("default"), images, keys=keys(6))
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 6


def test_torchs_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    augment_batch(build_augmentation("default"), batch(), keys=keys(4))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("preset", ["paper_001", "paper_002", "paper_003", "default"])
def test_image_and_mask_move_together(preset):
    """A bright disc and its own mask: after the same change the bright pixels are still those of the mask."""
    rows, columns = np.mgrid[:96, :96]
    disc = torch.tensor((rows - 40) ** 2 + (columns - 55) ** 2 < 20**2)
    images = disc.float()[None, None].expand(8, -1, -1, -1)
    steps = [step for step in AUGMENTATION_PRESETS[preset][0] if "gain" not in step]  # which makes the background gray
    changed, masks = augment_batch(build_augmentation(steps), images, disc[None].expand(8, -1, -1), keys=keys(8))
    for image, mask in zip(changed[:, 0] > 0.5, masks, strict=True):
        dice = 2 * (image & mask).sum() / (image.sum() + mask.sum())
        assert dice > 0.97, "the edge alone may differ: bilinear in the image, nearest pixel in the mask"
    assert any(not torch.equal(mask, disc) for mask in masks)


def test_channels_stay_alike():
    images = batch(3).expand(-1, 3, -1, -1)
    changed, _ = augment_batch(build_augmentation("default"), images, keys=keys(3))
    one, _ = augment_batch(build_augmentation("default"), images[:, :1], keys=keys(3))
    assert torch.equal(changed, one.expand(-1, 3, -1, -1))


def test_draws_fill_the_range_of_the_parameters():
    """Shift and turn of a dot, gain of a flat image, strength of the noise: over many keys, up to the stated ends."""
    side, many = 65, 400
    dot = torch.zeros(1, 1, side, side)
    dot[0, 0, 32, 32] = 1.0
    moved, _ = augment_batch(build_augmentation([{"affine": {"translate": 0.2}}]), dot.expand(many, -1, -1, -1), keys=keys(many))
    places = moved[:, 0].flatten(1).argmax(1)
    shifts = torch.stack([places // side, places % side], 1) - 32
    assert shifts.abs().max() == 13 and shifts.min() == -13 and abs(shifts.float().mean()) < 1  # 0.2 · 65 pixels

    flips, _ = augment_batch(
        build_augmentation([{"horizontal_flip": {"p": 0.25}}]), batch(1).expand(many, -1, -1, -1), keys=keys(many)
    )
    share = float(((flips - batch(1)).abs() > 1e-3).flatten(1).any(1).float().mean())
    assert abs(share - 0.25) < 0.07  # three standard errors of 400 draws

    ramp = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10).expand(many, -1, -1, -1)
    brighter, _ = augment_batch(build_augmentation([{"gain": {"brightness": 0.1, "contrast": 0.0}}]), ramp, keys=keys(many))
    offsets = brighter[:, 0, 5, 0] - ramp[:, 0, 5, 0]
    assert 0.095 < offsets.max() <= 0.1001 and -0.1001 <= offsets.min() < -0.095

    gray = torch.full((many, 1, 16, 16), 0.5)
    gray[:, 0, 0, 0], gray[:, 0, 0, 1] = 0.0, 1.0
    noisy, _ = augment_batch(build_augmentation([{"noise": {"sigma": 0.03}}]), gray, keys=keys(many))
    assert abs(float((noisy - gray)[:, 0, 1:].std()) - 0.03) < 0.001
    speckled, _ = augment_batch(build_augmentation([{"speckle": {"sigma": 0.08}}]), gray, keys=keys(many))
    assert abs(float((speckled - gray)[:, 0, 1:].std()) - 0.04) < 0.001


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(AUGMENTATION_PRESETS)), st.integers(0, 10_000), st.integers(0, 3))
def test_shape_type_and_range_are_kept(preset, seed, epoch):
    images = batch(2, seed=seed)
    changed, masks = augment_batch(
        build_augmentation(preset), images, images[:, 0] > 0, keys=[(seed, epoch, 0), (seed, epoch, 1)]
    )
    assert changed.shape == images.shape and changed.dtype == images.dtype and masks.dtype == torch.bool
    for before, after in zip(images, changed, strict=True):
        rounding = 1e-5  # one subtraction and one addition of the minimum, in float32
        assert before.min() - rounding <= after.min() and after.max() <= before.max() + rounding


def test_a_missing_key_is_refused():
    with pytest.raises(ValueError, match="1 keys for 2 images"):
        augment_batch(build_augmentation("default"), batch(2), keys=[(0,)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_geometry_is_that_of_the_cpu():
    images = batch()
    augmentation = build_augmentation(["horizontal_flip", {"affine": {"degrees": 8, "translate": 0.1, "scale": 0.1}}])
    on_cpu, _ = augment_batch(augmentation, images, keys=keys(4))
    on_gpu, _ = augment_batch(augmentation, images.cuda(), keys=keys(4))
    assert on_gpu.is_cuda and torch.isclose(on_gpu.cpu(), on_cpu, atol=1e-3).float().mean() > 0.99
