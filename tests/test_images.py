"""Images and masks of every format as arrays, and one line about each file that is none."""

import os
import re

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import disc
from PIL import Image
from skimage.transform import resize_local_mean

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data import images

GRAY = (np.arange(6 * 8).reshape(6, 8) * 5).astype(np.uint8)
COLOUR = np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]])
MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:5] = True


def saved(path, pixels: np.ndarray | Image.Image, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def refusal(reader, path, *arguments) -> str:
    """The message, after checking that it is one line which names the file and a remedy."""
    with pytest.raises(ImageError) as error:
        reader(path, *arguments)
    text = str(error.value)
    assert isinstance(error.value, DataError) and "\n" not in text and str(path) in text and "; " in text
    return text


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "gif", "PNG"])
def test_lossless_formats_give_the_very_pixels_and_colour_where_there_is_colour(tmp_path, suffix):
    read = images.read_image(saved(tmp_path / f"a.{suffix}", GRAY))
    assert read.dtype == np.uint8 and np.array_equal(read, GRAY)
    if suffix != "gif":
        assert np.array_equal(images.read_image(saved(tmp_path / f"colour.{suffix}", COLOUR)), COLOUR)
        assert np.array_equal(images.read_image(saved(tmp_path / f"gray.{suffix}", np.dstack([GRAY] * 3))), GRAY)


def test_palettes_give_their_colours_and_deep_tiffs_what_their_tags_say(tmp_path):
    image = Image.fromarray(MASK.astype(np.uint8))
    image.putpalette([0, 0, 0, 200, 200, 200])
    for suffix in ("png", "gif", "tif", "bmp"):
        image.save(tmp_path / f"p.{suffix}")
        assert np.array_equal(images.read_image(tmp_path / f"p.{suffix}"), MASK * np.uint8(200)), suffix
    image.putpalette([90, 90, 90, 200, 200, 200])
    image.save(tmp_path / "p.png", transparency=0)
    assert np.array_equal(images.read_image(tmp_path / "p.png"), MASK * np.uint8(200))
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[:, 4:] = 0
    for layers in ([GRAY, GRAY, GRAY, alpha], [GRAY, alpha]):
        assert np.array_equal(images.read_image(saved(tmp_path / "a.png", np.dstack(layers))), np.where(alpha > 0, GRAY, 0))
    for suffix in ("png", "tif"):
        clear = saved(tmp_path / f"clear.{suffix}", np.dstack([GRAY, GRAY, GRAY, 0 * alpha]))
        assert "drawn by transparency alone" in refusal(images.read_image, clear)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    white = images.read_image(saved(tmp_path / "white.tif", 65535 - deep, tiffinfo={262: 0}))
    assert np.abs(white.astype(int) - deep // 257).max() <= 1
    assert "with a sign" in refusal(images.read_image, saved(tmp_path / "signed.tif", deep.astype(np.int32)))
    tifffile.imwrite(tmp_path / "32.tif", deep.astype(np.uint32) * 2)
    assert "of 32 bits have no fixed range" in refusal(images.read_image, tmp_path / "32.tif")
    assert "floating-point" in refusal(images.read_image, saved(tmp_path / "float.tif", GRAY.astype(np.float32)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path, suffix):
    deep = saved(tmp_path / f"deep.{suffix}", np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16))
    assert images.read_image(deep).tolist() == [[0, 0, 1], [1, 128, 255]]  # value / 257, rounded
    assert [images.uses_little_range(np.array([[100, high]], np.uint8)) for high in (131, 132)] == [True, False]


TURNED = {1: GRAY, 2: GRAY[:, ::-1], 3: np.rot90(GRAY, 2), 4: GRAY[::-1], 5: GRAY.T, 6: np.rot90(GRAY, -1),
          7: np.rot90(GRAY, 2).T, 8: np.rot90(GRAY, 1)}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("jpg", {})])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected, read = TURNED[orientation], images.read_image(saved(tmp_path / f"turned.{suffix}", GRAY, exif=exif, **options))
    # JPEG at quality 75 on a ramp of 5 levels a pixel; another turn differs by 35 and more
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= (12 if suffix == "jpg" else 0)


ZERO = MASK * np.uint8(0)
TWO_LEVELS = [
    *((MASK.astype(np.uint8) * high, suffix) for suffix in ("png", "tif", "bmp", "gif") for high in (1, 255)),
    *((MASK.astype(np.uint16) * high, suffix) for suffix in ("png", "tif") for high in (1, 255, 256, 4095, 65535)),
    *((MASK, suffix) for suffix in ("png", "tif", "bmp")),
    (np.dstack([MASK * np.uint8(128), ZERO, ZERO]), "png"),  # Pascal VOC's first colour
    (np.dstack([MASK * np.uint8(255)] * 3 + [ZERO + 255]), "png"),
]


@pytest.mark.parametrize(("pixels", "suffix"), TWO_LEVELS)
def test_masks_of_two_levels_keep_their_foreground(tmp_path, pixels, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(images.read_mask(saved(tmp_path / f"m.{suffix}", pixels)), MASK)
    if suffix == "png":
        turned = saved(tmp_path / "turned.png", pixels, exif=exif)
        assert np.array_equal(images.read_mask(turned, (8, 6)), np.rot90(MASK, -1))


@pytest.mark.parametrize("quality", [20, 90])
def test_a_jpeg_mask_is_cut_at_half_range_and_not_dilated(tmp_path, quality):
    truth, path = disc(), saved(tmp_path / "m.jpg", disc().astype(np.uint8) * 255, quality=quality)
    assert abs(int(images.read_mask(path).sum()) - int(truth.sum())) <= 0.01 * truth.sum()
    assert (images.read_gray(path) != 0).sum() > 1.05 * truth.sum()  # what the noise would have added


@pytest.mark.parametrize(("level", "png", "jpeg"), [(0, False, False), (1, True, False), (128, True, True), (255, True, True)])
def test_masks_of_one_level_where_a_jpeg_takes_the_lowest_for_noise(tmp_path, level, png, jpeg):
    for suffix, full in (("png", png), ("jpg", jpeg)):
        path = saved(tmp_path / f"m.{suffix}", np.full((8, 8), level, np.uint8), quality=100)
        assert (images.read_gray(path) == level).all() and (images.read_mask(path) == full).all()


ONE, TWO = np.zeros((64, 64), np.uint16), np.zeros((64, 64), np.uint16)
ONE[8:24, 8:40], TWO[40:56, 30:60] = 1, 1
NONE, BOTH = ONE * 0, ONE + TWO


def coloured(ground, one, two=(0, 0, 0)) -> np.ndarray:
    return np.where(ONE[..., None] == 1, one, np.where(TWO[..., None] == 1, two, ground))


def nodule_in_gland(gland, nodule) -> np.ndarray:
    return np.where(disc(radius=6)[..., None], nodule, np.where(disc(radius=40)[..., None], gland, BLACK))


def indexed(*colours, **options) -> Image.Image:
    picture = Image.fromarray((ONE + 2 * TWO).astype(np.uint8), "P")
    picture.putpalette([level for colour in colours for level in colour])
    picture.info.update(options)
    return picture


WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)
GRAYS = [[7], [38], [0, 30, 60], [150, 200, 250], [1, 2], [200, 255]]
LABELS = {
    **{f"{levels}.png": np.resize(np.array(levels), (64, 64)) for levels in GRAYS},
    "100 and 200.png": ONE * 100 + TWO * 200,
    "1 and 255.png": ONE + 255 * TWO,
    "deep 1 and 300.png": ONE + 300 * TWO,
    "picture.png": np.random.default_rng(0).normal(110, 40, (64, 64)).clip(0, 255),
    "alpha.png": np.dstack([NONE, NONE, NONE, 255 * BOTH]),
    "hole.png": np.dstack([255 * BOTH] * 3 + [255 * (1 - BOTH)]),
    "clear, black and white.png": np.dstack([255 * ONE] * 3 + [255 * BOTH]),
    "0 and 1.jpg": BOTH,
    **{f"{level} and 255.jpg": ONE * level + 255 * TWO for level in (1, 20, 100)},
    "20.jpg": 20 * BOTH,
    "small.jpg": np.pad(np.full((6, 6), 90), 29) + 255 * ONE,
    **{f"inverted {level}.{suffix}": (1 - BOTH) * level for level, suffix in ((1, "png"), (255, "png"), (255, "jpg"))},
    **{f"on white.{suffix}": coloured(WHITE, RED, GREEN) for suffix in ("png", "jpg")},
    "on blue.png": coloured((0, 0, 255), (255, 255, 0)),
    "on dark blue.png": coloured((0, 0, 128), (128, 0, 0)),
    "palette on white.png": indexed(WHITE, RED, RED),
    "palette on white.gif": indexed(WHITE, BLACK, BLACK),
    "palette without colours.png": indexed(BLACK, BLACK, BLACK),
    "palette with a black label.png": indexed(BLACK, RED, BLACK),
    "palette with a clear label.png": indexed(BLACK, RED, GREEN, transparency=2),
    **{f"inverted at corner {turn}.png": np.rot90(255 * (1 - np.roll(ONE, (-8, -8), (0, 1))), turn) for turn in range(4)},
    **{f"in its gland.{suffix}": nodule_in_gland(GREEN, RED) for suffix in ("png", "jpg")},
    "in its gland, VOC.png": nodule_in_gland((0, 128, 0), (128, 0, 0)),
    "read: palette.png": indexed(BLACK, RED, (128, 255, 0)),
    "read: palette with a clear ground.png": indexed(WHITE, RED, GREEN, transparency=0),
    "read: red and green.png": coloured(BLACK, RED, GREEN),
    "read: blue.jpg": 255 * np.dstack([NONE, NONE, BOTH]),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_mask_of_several_labels_or_a_picture_is_read_whole_or_refused(tmp_path, name):
    drawn = LABELS[name]
    if isinstance(drawn, np.ndarray):
        drawn = drawn.astype(np.uint16 if "deep" in name else np.uint8)
    path = saved(tmp_path / name, drawn, quality=100)
    if name.startswith("read"):
        assert (images.read_mask(path) != (BOTH > 0)).sum() < 0.05 * BOTH.sum()
    else:
        text = refusal(images.read_mask, path)
        assert re.search("do not tell foreground|transparen|white outside|several labels|two labels in one dark colour", text), (
            text
        )


def test_a_mask_of_another_size_or_of_deep_colours_is_refused(tmp_path):
    assert "6×4" in refusal(images.read_mask, saved(tmp_path / "m.png", GRAY[:4, :6]), (12, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which no size tells
    turned, mask = saved(tmp_path / "i.jpg", GRAY, exif=exif), saved(tmp_path / "t.png", MASK)
    assert "EXIF turns" in refusal(images.read_mask, mask, (6, 8), turned)
    assert (images.read_mask(saved(mask, MASK, exif=exif), (6, 8), turned) == MASK[::-1, ::-1]).all()
    for suffix in ("png", "tif"):  # 16 bits a channel, of which Pillow would keep the upper 8: {0, 1} would be empty
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), np.dstack([BOTH] * 3))
        assert "more than 8 bits" in refusal(images.read_mask, tmp_path / f"deep.{suffix}")


@pytest.mark.parametrize("quality", [10, 50, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_outlines_of_any_size_survive_compression(tmp_path, quality, channels):
    for radius in (4, 13, 30):
        drawn = np.dstack([disc(radius=radius).astype(np.uint8) * 255] + [np.zeros((96, 96), np.uint8)] * (channels - 1))
        path = saved(tmp_path / "m.jpg", drawn.squeeze(), quality=quality)
        assert (images.read_mask(path) != disc(radius=radius)).sum() < 0.25 * disc(radius=radius).sum()


FORMATS = ["png", "jpg", "gif", "bmp", "tif"]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("reader", [images.read_image, images.read_mask])
def test_truncated_images(tmp_path, suffix, reader):
    path = saved(tmp_path / f"cut.{suffix}", NOISE)
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        refusal(reader, path)


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), suffix=st.sampled_from(FORMATS))
def test_a_damaged_byte_gives_an_image_or_an_image_error(tmp_path_factory, position, value, suffix):
    path = saved(tmp_path_factory.getbasetemp() / f"damaged.{suffix}", NOISE)
    content = bytearray(path.read_bytes())
    content[position % min(len(content), 700)] = value  # the headers, where damage does most
    path.write_bytes(bytes(content))
    try:
        read = images.read_image(path)
    except ImageError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert read.dtype == np.uint8 and read.ndim in (2, 3)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"%PDF-1.7 something", b"\x89PNG\r\n\x1a\nXXXX"])
def test_files_that_are_no_images(tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    told = refusal(images.read_image, path)
    assert "not a PNG" in told and repr(content[:16]) in told


def test_what_is_no_file_has_several_frames_or_too_many_pixels_is_refused(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    names, told = (
        ("folder", "pipe", "loop", "dangling", "absent"),
        ("a folder, a pipe", "a pipe or", "link", *["no such file"] * 2),
    )
    for name, words in zip(names, told, strict=True):
        assert words in refusal(images.read_image, tmp_path / f"{name}.png")
    for name in ("two.gif", "two.tif", "two.png"):
        saved(tmp_path / name, GRAY, save_all=True, append_images=[Image.fromarray(GRAY[::-1].copy())])
        assert "2 frames" in refusal(images.read_image, tmp_path / name)
    path = saved(tmp_path / "large.png", NOISE)
    path.write_bytes(path.read_bytes()[:60])  # a header is all that is read
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    assert "more than 4,095 pixels" in refusal(images.read_image, path)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    assert "more than 4,095 pixels" in refusal(images.read_image, path), "Pillow's own limit, told as ours"


def test_shrinking_enlarging_and_the_ring_by_hand():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True  # a whole output pixel
    mask[0, 2] = True  # a quarter of the next
    mask[2:, 2] = True  # half of the last
    assert images.resize_mask(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    mask[2, 3] = True  # three quarters of the last
    assert images.resize_mask(mask, (2, 2)).tolist() == [[True, False], [False, True]]
    assert np.array_equal(images.resize_mask(MASK, (18, 16)), MASK.repeat(3, axis=0).repeat(2, axis=1))
    mask = np.zeros((200, 200), bool)
    mask[80:120, 80:120] = True  # equivalent diameter 45.1 px, so the ring is 11.3 px wide, 2 px away
    ring = images.ring_around(mask)
    assert not (ring & mask).any()
    assert ring[100, 120:140].tolist() == [False] * 2 + [True] * 11 + [False] * 7
    assert not images.ring_around(np.zeros((5, 5), bool)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(3, 60), st.integers(3, 60), st.integers(0, 999))
def test_no_resize_adds_foreground(height, width, rows, columns, seed):
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    top, left = random.integers(0, height - 3), random.integers(0, width - 3)
    mask[top : top + random.integers(2, height), left : left + random.integers(2, width)] = True
    resized = images.resize_mask(mask, (rows, columns))
    if rows <= height and columns <= width:
        covered = resize_local_mean(mask.astype(float), (rows, columns), preserve_range=True)
        assert not (resized & (covered < 0.5 - 1e-4)).any() and resized[covered > 0.5 + 1e-4].all()
    # A rectangle may grow by the rounding of each edge alone: half a pixel of either grid on each side.
    tall, wide = np.flatnonzero(mask.any(axis=1)).size, np.flatnonzero(mask.any(axis=0)).size
    most_rows, most_columns = tall * rows / height + 1, wide * columns / width + 1
    assert resized.any(axis=1).sum() <= most_rows and resized.any(axis=0).sum() <= most_columns
