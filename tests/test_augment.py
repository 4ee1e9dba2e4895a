"""Joint augmentation of image and mask, its presets, stored copies and the leak they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_gray, read_mask, write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess.augment import (
    AUGMENTATION_PRESETS,
    AUGMENTATIONS,
    augmented_copies,
    build_augmentation,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))


def disc(side: int = 64, row: int = 24, column: int = 36, radius: int = 12) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def picture(mask: np.ndarray) -> np.ndarray:
    """The mask as a bright disc: float32 (1, height, width)."""
    return np.where(mask, 0.8, 0.2).astype(np.float32)[None]


def test_flips_by_hand():
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    mask = np.array([[True, False, False], [False, False, True]])
    flipped, flipped_mask = build_augmentation([{"horizontal_flip": {"p": 1}}])(image, mask)
    assert flipped.tolist() == [[[2, 1, 0], [5, 4, 3]]] and flipped_mask.tolist() == [[False, False, True], [True, False, False]]
    turned, turned_mask = build_augmentation([{"vertical_flip": {"p": 1}}])(image, mask)
    assert turned.tolist() == [[[3, 4, 5], [0, 1, 2]]] and (turned_mask == mask[::-1]).all()


@pytest.mark.parametrize("name", sorted(AUGMENTATION_PRESETS))
def test_image_and_mask_move_together(name):
    mask = disc()
    augmentation = build_augmentation(name)
    for seed in range(12):
        image, moved = augmentation(picture(mask), mask, seed)
        assert image.shape == (1, 64, 64) and image.dtype == np.float32 and moved.shape == (64, 64) and moved.dtype == bool
        assert image.min() >= 0.2 - 1e-6 and image.max() <= 0.8 + 1e-6
        # the bright disc of the smoothed image is where the mask is, but for its rim (linear and nearest resampling differ)
        smooth = ndimage.gaussian_filter(image[0], 1.5)
        bright = smooth > (smooth[moved].mean() + 0.2) / 2
        dice = 2 * (bright & moved).sum() / (bright.sum() + moved.sum())
        assert dice > 0.85, (name, seed, dice)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not():
    mask = disc()
    augmentation = build_augmentation("default")
    torch.manual_seed(1)
    first = augmentation(picture(mask), mask, (3, 0, 7))
    torch.manual_seed(2)
    torch.rand(5)
    again = augmentation(picture(mask), mask, (3, 0, 7))
    other = augmentation(picture(mask), mask, (3, 0, 8))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_augmentation("default")(picture(disc()), disc(), 5)
    assert (torch.rand(3) == expected).all()


def test_a_zscored_image_is_changed_as_its_scaled_twin():
    mask = disc()
    scaled = picture(mask)
    scores = (scaled - 0.3) / 0.17
    for seed in range(5):
        a, _ = build_augmentation("default")(scaled, mask, seed)
        b, _ = build_augmentation("default")(scores, mask, seed)
        np.testing.assert_allclose((a - 0.3) / 0.17, b, atol=1e-5)


def test_what_rotation_uncovers_is_black():
    image = np.full((1, 40, 40), 5.0, np.float32)
    image[0, 20, 20] = -3.0
    turned, _ = build_augmentation([{"affine": {"degrees": 45}}])(image, None, 1)
    assert turned[0, 0, 0] == -3.0 and turned[0, 12, 20] == 5.0


def test_the_noise_has_the_strength_asked_for():
    image = np.full((3, 200, 200), 100.0, np.float32)
    image[:, 0, 0], image[:, 0, 1] = 0.0, 300.0
    added, _ = build_augmentation([{"noise": {"sigma": 0.02}}])(image)
    multiplied, _ = build_augmentation([{"speckle": {"sigma": 0.1}}])(image)
    assert added[0, 1:].std() == pytest.approx(0.02 * 300, rel=0.02)  # 40,000 draws: 0.35 % standard error
    assert multiplied[0, 1:].std() == pytest.approx(0.1 * 100, rel=0.02)
    assert (added[0] == added[2]).all(), "gray in three channels stays gray"


def test_without_a_mask_and_without_channels():
    image, mask = build_augmentation("default")(picture(disc())[0], None, 1)
    assert image.shape == (64, 64) and mask is None
    same, same_mask = build_augmentation(None)(picture(disc()), disc())
    assert (same == picture(disc())).all() and (same_mask == disc()).all()


def test_masks_are_never_dilated():
    """A one-pixel speck may vanish or move under nearest resampling; it must not grow into a blot."""
    speck = np.zeros((64, 64), bool)
    speck[30, 30] = True
    sizes = [build_augmentation("default")(picture(speck), speck, seed)[1].sum() for seed in range(30)]
    assert max(sizes) <= 2 and np.mean(sizes) == pytest.approx(1, abs=0.4)


def test_default_never_turns_depth_upside_down():
    assert all(step != "vertical_flip" for step, _ in build_augmentation("default").steps)
    assert any(step == "vertical_flip" for step, _ in build_augmentation("paper_003").steps)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("paper_02", "did you mean paper_002"),
        (["horizontal_filp"], "did you mean horizontal_flip"),
        ([{"affine": {"degree": 3}}], "did you mean degrees"),
        ([{"affine": {"degrees": -3}}], "degrees must be a number from 0 to 180; found -3"),
        ([{"noise": {"sigma": "big"}}], "sigma must be a number"),
        ([{"noise": {}, "gain": {}}], "must be a name or"),
    ],
)
def test_a_wrong_spec_names_the_nearest(spec, message):
    with pytest.raises(DataError, match=message):
        build_augmentation(spec)


def test_the_hash_follows_the_parameters():
    names = [build_augmentation(name).hash for name in AUGMENTATION_PRESETS]
    assert len(set(names)) == len(names)
    assert (
        build_augmentation(["noise"]).hash
        == build_augmentation([{"noise": {"sigma": AUGMENTATIONS["noise"][1]["sigma"][0]}}]).hash
    )


def table(folder, count=12):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        image = ndimage.gaussian_filter(rng.normal(size=(48, 60)), 4)
        image = np.uint8(255 * (image - image.min()) / np.ptp(image))
        rows.append(
            {
                "case": f"set/{number}",
                "image": str(write_png(folder / f"ä {number}.png", image)),
                "mask": str(write_png(folder / f"ä {number}-mask.png", image > 150)) if number else None,
                "label": number % 2,
                "patient": f"p{number}",
                "dataset": "test",
                "split": "train",
                "tirads": "3",
            }
        )
    return make_cases(rows)


def test_copies_carry_their_source_and_their_patient(tmp_path):
    cases = table(tmp_path)
    copies = augmented_copies(cases, "paper_003", copies=3, seed=1)
    assert len(copies) == 4 * len(cases) and copies["split"].isna().all()
    assert copies.loc["set/4+2", ["source_case", "patient", "label", "tirads", "copy"]].tolist() == ["set/4", "p4", 0, "3", 2]
    assert copies.loc["set/4", ["source_case", "image", "copy"]].tolist() == ["set/4", cases.loc["set/4", "image"], 0]
    assert copies["mask"].isna().sum() == 4
    row = copies.loc["set/4+2"]
    image = read_gray(row["image"])
    assert image.shape == (48, 60) and read_mask(row["mask"], shape=(48, 60)).any()
    assert (image != read_gray(cases.loc["set/4", "image"])).any()


def test_copies_do_not_depend_on_the_order_and_are_used_again(tmp_path):
    cases = table(tmp_path)
    calls = []
    first = augmented_copies(cases, "paper_002", seed=3, progress=lambda done, total: calls.append(done))
    assert calls[-1] == len(cases)
    again = augmented_copies(cases.iloc[::-1], "paper_002", seed=3, progress=lambda done, total: calls.append(done))
    assert len(calls) == len(cases) and again.loc["set/3+1", "image"] == first.loc["set/3+1", "image"]
    elsewhere = augmented_copies(cases.iloc[::-1], "paper_002", seed=3, folder=tmp_path / "copies")
    assert (read_gray(elsewhere.loc["set/3+1", "image"]) == read_gray(first.loc["set/3+1", "image"])).all()
    other = augmented_copies(cases, "paper_002", seed=4)
    assert (read_gray(other.loc["set/3+1", "image"]) != read_gray(first.loc["set/3+1", "image"])).any()


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    cases = table(tmp_path)
    with pytest.raises(DataError, match="holds other files"):
        augmented_copies(cases, "paper_002", folder=tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 23
    with pytest.raises(DataError, match="at least 1"):
        augmented_copies(cases, "paper_002", copies=0)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    cases = table(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written"):
        augmented_copies(cases, "paper_002", folder=tmp_path / "file" / "copies")


def test_a_broken_image_leaves_no_half_set_of_copies(tmp_path):
    cases = table(tmp_path)
    (tmp_path / "ä 5.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="case set/5"):
        augmented_copies(cases, "paper_002")
    assert not list((tmp_path / "cache" / "augmented").glob("*/*.png"))
