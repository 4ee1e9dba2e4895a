"""Random changes of a batch: by hand, against torchvision, image and mask together, what decides them; and stored copies."""

import numpy as np
import pytest
import torch
from made_pictures import picture, stored
from scipy import ndimage
from torchvision.transforms.v2 import functional

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, read_mask, write_png
from thyroid_utils.preprocess.augment import (
    AUGMENTATION_PRESETS,
    Draws,
    affine_sources,
    augmented_copies,
    build_augmentation,
    moved,
)


def batch(count: int = 4, channels: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 3 - 1


def discs(count: int, side: int = 96) -> torch.Tensor:
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - 0.4 * side) ** 2 + (columns - 0.57 * side) ** 2 < (0.2 * side) ** 2
    return torch.from_numpy(disc).expand(count, -1, -1)


def test_flips_shifts_and_what_a_turn_uncovers_by_hand():
    image = torch.arange(6, dtype=torch.float32).reshape(1, 1, 2, 3)
    mask = torch.tensor([[[True, False, False], [False, False, True]]])
    for name, p, axes in (("horizontal_flip", 1, -1), ("vertical_flip", 1, -2), ("horizontal_flip", 0, [])):
        flipped, outline = build_augmentation([{name: {"p": p}}])(image, mask, seed=(0,))
        torch.testing.assert_close(flipped, image.flip(axes))
        assert torch.equal(outline, mask.flip(axes))
    shifted = affine_sources(torch.zeros(1), torch.tensor([[-1.0, 0.0]]), torch.ones(1))
    pixels, outline = moved(image, mask, shifted)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([[1.0, 2.0, 0.0], [4.0, 5.0, 0.0]]))
    assert outline.tolist() == [[[False, False, False], [False, True, False]]]
    image = torch.full((1, 1, 40, 40), 5.0)
    image[0, 0, 20, 20] = -3.0
    turned, _ = build_augmentation([{"affine": {"degrees": 180}}])(image.expand(8, -1, -1, -1), seed=(1,))
    assert (turned[:, 0, 0, 0] == -3).any() and (turned[:, 0, 12, 20] == 5).all()


@pytest.mark.parametrize("angle, shift, scale", [(11, (0, 0), 1.0), (-170, (3, -2), 1.3), (8, (-5, 4), 0.8)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_move_is_torchvisions(angle, shift, scale, mirrored):
    """A mirror in front of the affine change is composed with it; torchvision makes one after the other."""
    images = batch().abs()
    sources = affine_sources(
        torch.full((4,), float(angle)), torch.tensor([shift] * 4, dtype=torch.float32), torch.full((4,), scale)
    )
    if mirrored:
        sources = torch.diag(torch.tensor([-1.0, 1.0, 1.0])) @ sources
    mine, mask = moved(images, images[:, 0] > 2, sources)
    shown = images.flip(-1) if mirrored else images
    bilinear, nearest = functional.InterpolationMode.BILINEAR, functional.InterpolationMode.NEAREST
    theirs = functional.affine(shown, angle, list(shift), scale, [0.0, 0.0], interpolation=bilinear)
    # Both compute in float32; a sample that falls on the edge of a pixel may be rounded to either side.
    assert torch.isclose(mine, theirs, atol=1e-3).float().mean() > 0.995
    theirs = functional.affine((shown[:, 0] > 2).float(), angle, list(shift), scale, [0.0, 0.0], interpolation=nearest) > 0.5
    assert (mask == theirs).float().mean() > 0.99


@pytest.mark.parametrize("at_once", [1, 32], ids=["as a CPU draws", "as a GPU draws"])
def test_changes_keep_their_order_and_shared_batches_any_scale_and_equal_channels_change_nothing(at_once, monkeypatch):
    """Mirror and turn as one resampling are what the mirror and then the turn are one after the other."""
    monkeypatch.setitem(Draws.AT_ONCE, "cpu", at_once)
    images = torch.from_numpy(ndimage.gaussian_filter(batch(6).numpy(), (0, 0, 2, 2)))
    both, turn = ([{"horizontal_flip": {"p": p}}, {"affine": {"degrees": 30}}] for p in (1, 0))
    together, turned = build_augmentation(both)(images, seed=(7,))[0], build_augmentation(turn)(images.flip(-1), seed=(7,))[0]
    torch.testing.assert_close(together, turned, atol=1e-4, rtol=0)
    images = batch(6)
    whole, masks = build_augmentation("default")(images, images[:, 0] > 0, seed=(1, 2))
    for first in (0, 1):
        part = images[first::2]
        shared, outlines = build_augmentation("default")(part, part[:, 0] > 0, seed=(1, 2), share=(first, 2))
        torch.testing.assert_close(shared, whole[first::2])
        assert torch.equal(outlines, masks[first::2])
    # A z-scored image is changed as its scaled twin, and gray in three channels stays gray.
    scaled = 0.2 + 0.6 * discs(5)[:, None].float()
    augmentation = build_augmentation("default")
    one, three = augmentation(scaled, seed=(0,))[0], augmentation(((scaled - 0.3) / 0.17).expand(-1, 3, -1, -1), seed=(0,))[0]
    torch.testing.assert_close(three * 0.17 + 0.3, one.expand(-1, 3, -1, -1), atol=1e-5, rtol=0)
    assert torch.equal(three[:, 0], three[:, 2])


@pytest.mark.parametrize("preset", sorted(set(AUGMENTATION_PRESETS) - {"none"}))
def test_the_seed_alone_decides_and_every_image_has_its_own_draw(preset):
    """Training that is taken up again relies on it; torch's own generator is neither asked nor moved."""
    augmentation, images = build_augmentation(preset), batch(1).expand(6, -1, -1, -1)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, masks = augmentation(images, images[:, 0] > 0, seed=(5, 1, 0))
    assert torch.equal(torch.rand(1), expected)
    again, masks_again = augmentation(images, images[:, 0] > 0, seed=(5, 1, 0))
    assert torch.equal(first, again) and torch.equal(masks, masks_again)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 6 or preset in ("paper_001", "paper_003")
    for seed in ((6, 1, 0), (5, 2, 0), (5, 1, 1)):
        assert not torch.equal(augmentation(images, seed=seed)[0], first)


@pytest.mark.parametrize("at_once", [1, 32], ids=["as a CPU draws", "as a GPU draws"])
def test_draws_fill_the_range_of_the_parameters(at_once, monkeypatch):
    """Shift of a dot, share of flips, gain of a ramp, strength of the noise: over many images, up to the stated ends."""
    monkeypatch.setitem(Draws.AT_ONCE, "cpu", at_once)
    side, many = 65, 400

    def changed(spec: dict, image: torch.Tensor) -> torch.Tensor:
        return build_augmentation([spec])(image.expand(many, -1, -1, -1), seed=(5,))[0]

    dot = torch.zeros(1, 1, side, side)
    dot[0, 0, 32, 32] = 1.0
    places = changed({"affine": {"translate": 0.2}}, dot)[:, 0].flatten(1).argmax(1)
    shifts = torch.stack([places // side, places % side], 1) - 32
    assert shifts.abs().max() == 13 and shifts.min() == -13 and abs(shifts.float().mean()) < 1  # 0.2 · 65 pixels

    flips = changed({"horizontal_flip": {"p": 0.25}}, batch(1))
    share = float(((flips - batch(1)).abs() > 1e-3).flatten(1).any(1).float().mean())
    assert abs(share - 0.25) < 0.07  # three standard errors of 400 draws

    ramp = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
    offsets = changed({"gain": {"brightness": 0.1, "contrast": 0.0}}, ramp)[:, 0, 5, 0] - ramp[0, 0, 5, 0]
    assert 0.095 < offsets.max() <= 0.1001 and -0.1001 <= offsets.min() < -0.095
    factors = changed({"gain": {"brightness": 0.0, "contrast": 0.2}}, ramp)[:, 0, 5, 0] / ramp[0, 0, 5, 0]
    assert 1.19 < factors.max() <= 1.2001 and 0.7999 <= factors.min() < 0.81

    gray = torch.full((1, 1, 16, 16), 150.0)
    gray[0, 0, 0, 0], gray[0, 0, 0, 1] = 100.0, 300.0  # black is 100, the range 200
    assert float((changed({"noise": {"sigma": 0.03}}, gray) - gray)[:, 0, 1:].std()) == pytest.approx(6, rel=0.02)
    assert float((changed({"speckle": {"sigma": 0.08}}, gray) - gray)[:, 0, 1:].std()) == pytest.approx(4, rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_seed_decides_and_a_move_is_the_cpus():
    images, augmentation = batch(), build_augmentation("default")
    first, again = (augmentation(images.cuda(), images[:, 0].cuda() > 0, seed=(1,)) for _ in range(2))
    assert first[0].is_cuda and torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    sources = affine_sources(torch.full((4,), 8.0), torch.full((4, 2), 2.0), torch.full((4,), 1.1))
    on_cpu, on_gpu = moved(images, None, sources)[0], moved(images.cuda(), None, sources.cuda())[0]
    assert torch.isclose(on_gpu.cpu(), on_cpu, atol=1e-3).float().mean() > 0.99


@pytest.mark.parametrize(
    ("spec", "message"), [("paper_02", "did you mean paper_002"), (["horizontal_filp"], "did you mean hori")]
)
def test_a_wrong_spec_names_the_nearest(spec, message):
    with pytest.raises(DataError, match=message):
        build_augmentation(spec)


@pytest.fixture()
def cases(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    images = [np.uint8(picture(seed, 64)[:48]) for seed in range(6)]
    masks = [str(write_png(tmp_path / f"ä {seed}-mask.png", image > 170)) for seed, image in enumerate(images)]
    columns = {"mask": [None, *masks[1:]], "label": [0, 1] * 3, "split": "train", "tirads": "3"}
    return stored(tmp_path / "ä", images, **columns)


def test_copies_carry_source_and_patient_and_do_not_depend_on_the_order(cases):
    copies = augmented_copies(cases, "paper_003", copies=3, seed=1)
    assert len(copies) == 4 * len(cases) and copies["split"].isna().all() and copies["mask"].isna().sum() == 4
    carried = copies.loc["made/0004+2"]
    assert (carried["source_case"], carried["patient"], carried["label"], carried["copy"]) == ("made/0004", "4", 0, 2)
    assert carried["tirads"] == "3"
    assert copies.loc["made/0004", ["source_case", "image", "copy"]].tolist() == ["made/0004", cases.loc["made/0004", "image"], 0]
    pictures = [read_gray(copies.loc[case, "image"]) for case in ("made/0004", "made/0004+1", "made/0004+2")]
    assert pictures[2].shape == (48, 64) and len({picture.tobytes() for picture in pictures}) == 3
    assert read_mask(copies.loc["made/0004+2", "mask"], shape=(48, 64)).any()
    calls = []
    first = augmented_copies(cases, "paper_002", seed=3, progress=lambda done, total: calls.append(done))
    assert calls[-1] == len(cases)
    again = augmented_copies(cases.iloc[::-1], "paper_002", seed=3, progress=lambda done, total: calls.append(done))
    assert len(calls) == len(cases) and again.loc["made/0003+1", "image"] == first.loc["made/0003+1", "image"]
    alone = augmented_copies(cases.iloc[3:4], "paper_002", seed=3)
    assert (read_gray(alone.loc["made/0003+1", "image"]) == read_gray(first.loc["made/0003+1", "image"])).all()
    other = augmented_copies(cases, "paper_002", seed=4)
    assert (read_gray(other.loc["made/0003+1", "image"]) != read_gray(first.loc["made/0003+1", "image"])).any()
