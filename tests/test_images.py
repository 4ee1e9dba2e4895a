from __future__ import annotations

import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import downscale_local_mean, resize_local_mean

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data import images
from thyroid_utils.data.images import (
    MAX_PIXELS,
    image_size,
    is_deep,
    read_gray,
    read_image,
    read_mask,
    resize_mask,
    ring_around,
    uses_little_range,
    write_png,
)

GRAY = (np.arange(6 * 8).reshape(6, 8) * 5).astype(np.uint8)
MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:5] = True


def one_line_about(error, path) -> str:
    """The message, after checking that it is one line which names the file and a remedy."""
    text = str(error.value)
    assert isinstance(error.value, DataError)
    assert "\n" not in text and str(path) in text and "; " in text
    return text


def disc(size: int = 96, radius: float = 30) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (rows - size / 2) ** 2 + (columns - size / 2) ** 2 <= radius**2


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "gif", "PNG"])
def test_lossless_formats_give_the_very_pixels(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(GRAY).save(path)
    read = read_image(path)
    assert read.dtype == np.uint8 and np.array_equal(read, GRAY)
    assert image_size(path) == (6, 8)


def test_jpeg_is_read_to_within_its_noise(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 3  # quality 95 quantises by 1 to 5 levels


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_colour_is_kept_only_where_there_is_colour(tmp_path, suffix):
    colour = np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]])
    Image.fromarray(colour).save(tmp_path / f"colour.{suffix}")
    Image.fromarray(np.dstack([GRAY] * 3)).save(tmp_path / f"gray.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"colour.{suffix}"), colour)
    assert np.array_equal(read_image(tmp_path / f"gray.{suffix}"), GRAY)


def test_gray_is_luma(tmp_path):
    Image.fromarray(np.full((2, 2, 3), (255, 0, 0), np.uint8)).save(tmp_path / "red.png")
    assert (read_gray(tmp_path / "red.png") == 76).all()  # 0.299 · 255


def test_palettes_give_their_colours_and_transparency_is_laid_on_black(tmp_path):
    image = Image.fromarray(MASK.astype(np.uint8))
    image.putpalette([0, 0, 0, 200, 200, 200])
    for suffix in ("png", "gif", "tif", "bmp"):
        image.save(tmp_path / f"p.{suffix}")
        assert np.array_equal(read_image(tmp_path / f"p.{suffix}"), MASK * np.uint8(200)), suffix
    image.putpalette([90, 90, 90, 200, 200, 200])
    image.save(tmp_path / "p.png", transparency=0)
    assert np.array_equal(read_image(tmp_path / "p.png"), MASK * np.uint8(200))
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[:, 4:] = 0
    for layers in ([GRAY, GRAY, GRAY, alpha], [GRAY, alpha]):
        Image.fromarray(np.dstack(layers)).save(tmp_path / "a.png")
        assert np.array_equal(read_image(tmp_path / "a.png"), np.where(alpha > 0, GRAY, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path, suffix):
    deep = np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    assert read_image(tmp_path / f"deep.{suffix}").tolist() == [[0, 0, 1], [1, 128, 255]]  # value / 257, rounded


TURNED = {
    1: GRAY,
    2: GRAY[:, ::-1],
    3: np.rot90(GRAY, 2),
    4: GRAY[::-1],
    5: GRAY.T,
    6: np.rot90(GRAY, -1),
    7: np.rot90(GRAY, 2).T,
    8: np.rot90(GRAY, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix, compression", [("png", None), ("tif", None), ("tif", "tiff_lzw"), ("jpg", None)])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix, compression):
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": compression} if compression else {}
    Image.fromarray(GRAY).save(path, exif=exif, **options)
    expected, read = TURNED[orientation], read_image(path)
    assert read.shape == expected.shape == image_size(path)
    tolerance = (
        12 if suffix == "jpg" else 0
    )  # JPEG at quality 75 on a ramp of 5 levels a pixel; another turn differs by 35 and more
    assert np.abs(read.astype(int) - expected).max() <= tolerance


TWO_LEVELS = [
    *((MASK.astype(np.uint8) * high, suffix) for suffix in ("png", "tif", "bmp", "gif") for high in (1, 255)),
    *((MASK.astype(np.uint16) * high, suffix) for suffix in ("png", "tif") for high in (1, 255, 256, 4095, 65535)),
    *((MASK, suffix) for suffix in ("png", "tif", "bmp")),
    (np.dstack([MASK * np.uint8(128), 0 * MASK.astype(np.uint8), 0 * MASK.astype(np.uint8)]), "png"),  # Pascal VOC's first colour
    (np.dstack([MASK * np.uint8(255)] * 3 + [np.full((6, 8), 255, np.uint8)]), "png"),
]


@pytest.mark.parametrize("pixels, suffix", TWO_LEVELS)
def test_masks_of_two_levels_keep_their_foreground(tmp_path, pixels, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / f"m.{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"m.{suffix}"), MASK)
    if suffix == "png":
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(read_mask(tmp_path / "turned.png", (8, 6)), np.rot90(MASK, -1))


@pytest.mark.parametrize("quality", [20, 90])
def test_a_jpeg_mask_is_cut_at_half_range_and_not_dilated(tmp_path, quality):
    truth = disc()
    Image.fromarray(truth).convert("L").save(tmp_path / "m.jpg", quality=quality)
    read = read_mask(tmp_path / "m.jpg")
    assert abs(int(read.sum()) - int(truth.sum())) <= 0.01 * truth.sum()
    assert (read_gray(tmp_path / "m.jpg") != 0).sum() > 1.05 * truth.sum()  # what the noise would have added


def test_an_empty_jpeg_mask_stays_empty(tmp_path):
    noisy = np.zeros((64, 64), np.uint8)
    noisy[10:12, 10:50] = 12
    Image.fromarray(noisy).save(tmp_path / "m.jpg", quality=60)
    assert read_gray(tmp_path / "m.jpg").any() and not read_mask(tmp_path / "m.jpg").any()


@pytest.mark.parametrize("level, png, jpeg", [(0, False, False), (1, True, False), (128, True, True), (255, True, True)])
def test_masks_of_one_level_where_a_jpeg_takes_the_lowest_for_noise(tmp_path, level, png, jpeg):
    for suffix, full in (("png", png), ("jpg", jpeg)):
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / f"m.{suffix}", quality=100)
        assert (read_gray(tmp_path / f"m.{suffix}") == level).all()
        assert (read_mask(tmp_path / f"m.{suffix}") == full).all()


@pytest.mark.parametrize("levels", [[7], [38], [0, 30, 60], [150, 200, 250]])
def test_levels_that_do_not_tell_foreground_are_refused(tmp_path, levels):
    path = tmp_path / "m.png"
    Image.fromarray(np.resize(np.array(levels, np.uint8), (4, 6))).save(path)
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert "0 and 255" in one_line_about(error, path)
    with pytest.raises(ImageError) as error:
        read_mask(path, (12, 16))
    assert "6×4" in one_line_about(error, path) and "16×12" in str(error.value)


def encoded(path, **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif"])
@pytest.mark.parametrize("reader", [read_image, read_mask])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_images(tmp_path, suffix, reader, share):
    path = tmp_path / f"cut.{suffix}"
    content = encoded(path)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError) as error:
        reader(path)
    one_line_about(error, path)


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "tif"]))
def test_a_damaged_byte_gives_an_image_or_an_image_error(tmp_path_factory, position, value, suffix):
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    content = bytearray(encoded(path))
    content[position % min(len(content), 700)] = value  # the headers, where damage does most
    path.write_bytes(bytes(content))
    try:
        read = read_image(path)
    except ImageError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert read.dtype == np.uint8 and read.ndim in (2, 3)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"),
        (b"\xef\xbb\xbf\n <html>\n<head></head>", "HTML"),
        (b"just some text", "not a PNG"),
        (b"%PDF-1.7 something", "not a PNG"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, words):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for reader in (read_image, read_mask, image_size):
        with pytest.raises(ImageError) as error:
            reader(path)
        assert words in one_line_about(error, path)
    assert path.read_bytes() == content


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    for name, words in [("folder", "a folder"), ("loop", "link"), ("dangling", "no such file"), ("absent", "no such file")]:
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / f"{name}.png")
        assert words in one_line_about(error, tmp_path / f"{name}.png")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_png(tmp_path / "a.png", MASK)

    def refused(*arguments):  # taking the permission away would not stop the superuser, as whom tests often run
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images, "open", refused, raising=False)
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert "permissions" in one_line_about(error, path)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises width × height gray pixels and whose data are a few compressed zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8193, 11_000, 20_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side))
    tracemalloc.start()
    with pytest.raises(ImageError) as error:
        read_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{MAX_PIXELS:,}" in one_line_about(error, path)
    assert peak < 10_000_000


def test_several_frames_and_floating_point_are_refused(tmp_path):
    first, second = Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())
    for name in ("two.gif", "two.tif", "two.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / name)
        assert "2 frames" in one_line_about(error, tmp_path / name)
    Image.fromarray(GRAY.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / "float.tif")
    assert "floating-point" in one_line_about(error, tmp_path / "float.tif")


def test_neither_suffix_nor_letters_of_a_name_matter(tmp_path):
    path = tmp_path / "Ultraschall März – 甲状腺" / "nódulo 1 (β).png"
    write_png(path, GRAY)
    assert np.array_equal(read_image(path), GRAY)
    assert np.array_equal(read_image(path.rename(path.with_suffix(".jpg"))), GRAY)


def test_shrinking_by_hand():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True  # a whole output pixel
    mask[0, 2] = True  # a quarter of the next
    mask[2:, 2] = True  # half of the last
    assert resize_mask(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    mask[2, 3] = True  # three quarters of the last
    assert resize_mask(mask, (2, 2)).tolist() == [[True, False], [False, True]]


def test_enlarging_by_a_whole_factor_repeats_pixels_and_the_same_size_is_a_copy():
    assert np.array_equal(resize_mask(MASK, (18, 16)), MASK.repeat(3, axis=0).repeat(2, axis=1))
    same = resize_mask(MASK, MASK.shape)
    assert np.array_equal(same, MASK) and same is not MASK


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.integers(2, 5), share=st.floats(0.05, 0.95))
def test_shrinking_by_a_whole_factor_agrees_with_scikit_image(seed, factor, share):
    mask = np.random.default_rng(seed).random((12 * factor, 9 * factor)) < share
    covered = downscale_local_mean(mask.astype(float), (factor, factor))
    assert np.array_equal(resize_mask(mask, (12, 9)), covered > 0.5 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    rows=st.integers(3, 60),
    columns=st.integers(3, 60),
    seed=st.integers(0, 999),
)
def test_no_resize_adds_foreground(height, width, rows, columns, seed):
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    top, left = random.integers(0, height - 3), random.integers(0, width - 3)
    mask[top : top + random.integers(2, height), left : left + random.integers(2, width)] = True
    resized = resize_mask(mask, (rows, columns))
    if rows <= height and columns <= width:
        covered = resize_local_mean(mask.astype(float), (rows, columns), preserve_range=True)
        assert not (resized & (covered < 0.5 - 1e-4)).any() and resized[covered > 0.5 + 1e-4].all()
    # A rectangle may grow by the rounding of each edge alone: half a pixel of either grid on each side.
    tall, wide = np.flatnonzero(mask.any(axis=1)).size, np.flatnonzero(mask.any(axis=0)).size
    most_rows, most_columns = tall * rows / height + 1, wide * columns / width + 1
    assert resized.any(axis=1).sum() <= most_rows and resized.any(axis=0).sum() <= most_columns


def test_depth_and_used_range_of_a_file(tmp_path):
    wide = GRAY.astype(np.uint16) * 257
    for suffix in ("png", "tiff"):
        Image.fromarray(wide).save(tmp_path / f"wide.{suffix}")
        Image.fromarray(GRAY).save(tmp_path / f"narrow.{suffix}")
        assert is_deep(tmp_path / f"wide.{suffix}") and not is_deep(tmp_path / f"narrow.{suffix}")
    with pytest.raises(ImageError, match="no such file"):
        is_deep(tmp_path / "none.png")
    assert uses_little_range(np.array([[100, 131]], np.uint8)) and not uses_little_range(np.array([[100, 132]], np.uint8))


def test_written_masks_and_images_come_back(tmp_path):
    assert write_png(tmp_path / "new" / "m.png", MASK) == tmp_path / "new" / "m.png"
    assert np.array_equal(read_mask(tmp_path / "new" / "m.png"), MASK)
    assert set(np.unique(read_gray(tmp_path / "new" / "m.png"))) == {0, 255}
    colour = np.dstack([GRAY, GRAY[::-1], GRAY])
    assert np.array_equal(read_image(write_png(tmp_path / "c.png", colour)), colour)


def test_the_ring_lies_outside_and_has_the_stated_width():
    mask = np.zeros((200, 200), bool)
    mask[80:120, 80:120] = True  # equivalent diameter 45.1 px, so the ring is 11.3 px wide, 2 px away
    ring = ring_around(mask)
    assert not (ring & mask).any()
    assert ring[100, 120:140].tolist() == [False] * 2 + [True] * 11 + [False] * 7
    assert not ring_around(np.zeros((5, 5), bool)).any()


@pytest.mark.parametrize(
    "name", ["100 and 200", "1 and 255", "1 and 300", "picture", "alpha", "0/1 in a JPEG", "red and green", "blue JPEG"]
)
def test_a_mask_of_several_labels_or_a_picture_is_read_whole_or_refused(tmp_path, name):
    one, two = np.zeros((64, 64), np.uint16), np.zeros((64, 64), np.uint16)
    one[8:24, 8:40], two[40:56, 30:60] = 1, 1
    both, zero = (one + two > 0), one * 0
    files = {
        "100 and 200": one * 100 + two * 200,
        "1 and 255": one + 255 * two,
        "1 and 300": (one + 300 * two).astype(np.uint16),
        "picture": np.random.default_rng(0).normal(110, 40, (64, 64)).clip(0, 255),
        "alpha": np.dstack([zero, zero, zero, 255 * both]),
        "0/1 in a JPEG": 1 * both,
        "red and green": 255 * np.dstack([one, two, zero]),
        "blue JPEG": 255 * np.dstack([zero, zero, both]),
    }
    path = tmp_path / f"m.{'jpg' if 'JPEG' in name else 'png'}"
    deep = np.uint16 if name == "1 and 300" else np.uint8
    Image.fromarray(files[name].astype(deep)).save(path, **({"quality": 100} if "JPEG" in name else {}))
    if name in ("red and green", "blue JPEG"):
        assert (read_mask(path) != both).sum() < 0.02 * both.sum()
    else:
        with pytest.raises(ImageError, match=r"do not tell foreground|transparency alone"):
            read_mask(path)


@pytest.mark.parametrize("sigma", [0.7, 2.0, 3.0])
def test_smoothed_outlines_are_no_labels(tmp_path, sigma):
    write_png(tmp_path / "m.png", cv2.GaussianBlur(disc().astype(np.uint8) * 255, (0, 0), sigma))
    assert abs(int(read_mask(tmp_path / "m.png").sum()) - disc().sum()) < 0.05 * disc().sum()


def test_a_deep_tiff_is_shown_as_its_tags_say(tmp_path):
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(65535 - deep).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert np.abs(read_image(tmp_path / "white.tif").astype(int) - deep // 257).max() <= 1
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "signed.tif")
    with pytest.raises(ImageError, match="with a sign"):
        read_image(tmp_path / "signed.tif")
