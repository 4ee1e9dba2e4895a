"""DICOM frames as a screen shows them, their scale, and errors that name no value of the file."""

import io
import logging
import os
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from dicom_files import (
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    LOSSLESS_JPEG,
    MPEG4,
    element,
    encoded_jpeg,
    palette,
    region,
    write_dicom,
)
from PIL import Image

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.dicom import is_dicom, read_dicom, shows_colour

RAMP = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


@pytest.fixture
def shown(tmp_path):
    """The frames that a file of these values shows, as one array."""

    def show(stored, *arguments, **options) -> np.ndarray:
        stored = np.asarray(stored) if isinstance(stored, np.ndarray) else np.array([[stored]], np.uint16)
        return np.stack([*read_dicom(write_dicom(tmp_path / "a.dcm", stored, *arguments, **options)).iter_frames()])

    return show


def window(centre: str, width: str, function: str = "") -> list:
    return [(0x28, 0x1050, "DS", centre), (0x28, 0x1051, "DS", width)] + [(0x28, 0x1056, "CS", function)] * bool(function)


def rescale(slope: str, intercept: str) -> list:
    return [(0x28, 0x1052, "DS", intercept), (0x28, 0x1053, "DS", slope)]


def extremes(low: int, high: int) -> list:
    return [(0x28, 0x106, "US", low), (0x28, 0x107, "US", high)]


@pytest.mark.parametrize(
    ("stored", "photometric", "bits", "more", "levels"),
    [
        ([0, 32896, 65535], "MONOCHROME2", 16, [], [0, 128, 255]),
        ([0, 2048, 4095], "MONOCHROME2", 12, [], [0, 128, 255]),
        ([0, 2048, 4095], "MONOCHROME1", 12, [], [255, 127, 0]),
        # C 1000, W 401 shows 800 to 1200 by PS3.3 C.11.2.1.2: x ≤ 999.5 − 200 is black, x > 999.5 + 200 white
        ([799, 800, 900, 1000, 1199, 1200], "MONOCHROME2", 16, window("1000", "401"), [0, 0, 64, 128, 255, 255]),
        ([900, 950, 1000, 1100], "MONOCHROME2", 16, window("1000", "401") + rescale("2", "-1000"), [0, 64, 128, 255]),
        ([0, 25, 50, 75, 100], "MONOCHROME2", 16, window("50", "100", "LINEAR_EXACT"), [0, 64, 128, 191, 255]),
        ([0, 50, 100], "MONOCHROME2", 16, window("50", "100", "SIGMOID"), [30, 128, 225]),  # 255 / (1 + e^2) = 30.4
        ([0, 49, 50, 99], "MONOCHROME2", 16, window("50", "1"), [0, 0, 255, 255]),
        ([0, 65535], "MONOCHROME2", 16, window("\\1000", "401\\80"), [0, 255]),
        ([0, 65535], "MONOCHROME2", 16, window("1000", "0"), [0, 255]),
        ([0, 65535], "MONOCHROME2", 16, rescale("-1", "255"), [255, 0]),
        ([100, 2100, 4100], "MONOCHROME2", 16, extremes(100, 4100), [0, 128, 255]),
        ([0, 32896, 65535], "MONOCHROME2", 16, extremes(100, 4100), [0, 128, 255]),
        ([0, 65535], "MONOCHROME2", 16, extremes(0, 0), [0, 255]),
    ],
)
def test_gray_levels_through_rescale_window_and_extremes(shown, stored, photometric, bits, more, levels):
    assert shown(stored, photometric, bits=bits, more=more)[0, 0].tolist() == levels


def test_frames_of_gray_signed_equal_and_coloured_values_are_shown_as_they_are(shown):
    stored = np.array([[[0, 4100]], [[4100, 65535]]], np.uint16)  # beyond the header's extremes in the second frame
    assert shown(stored, more=extremes(0, 4100)).tolist() == [[[0, 16]], [[16, 255]]]
    np.testing.assert_array_equal(shown(RAMP, more=extremes(0, 20)), RAMP)
    np.testing.assert_array_equal(shown(RAMP, "MONOCHROME1"), 255 - RAMP)
    assert shown(np.array([[[-2048, 0, 2047]]], np.int16), bits=12).tolist() == [[[0, 128, 255]]]
    noisy = np.full((1, 32, 32, 3), 100, np.uint8) + np.array([0, 3, 6], np.uint8)
    assert (shown(noisy, "RGB") == 102).all() and shown(noisy, "RGB").shape == (1, 32, 32)
    noisy[0, 8:24, 8:24] = (220, 30, 20)
    np.testing.assert_array_equal(shown(noisy, "RGB"), noisy)
    # Pure red is (76, 85, 255) in YCbCr (PS3.3 C.7.6.3.1.2).
    stored = np.tile(np.array([76, 85, 255], np.uint8), (1, 16, 16, 1))
    assert np.abs(shown(stored, "YBR_FULL").astype(int) - (254, 0, 0)).max() <= 2, "three roundings"
    tables = [np.arange(256)] * 3
    np.testing.assert_array_equal(shown(RAMP, "PALETTE COLOR", more=palette(tables, 16)), RAMP)


@pytest.mark.parametrize(("bits", "high"), [(12, 15), (8, 15), (10, 12)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_samples_above_the_low_bits_are_shifted_down(shown, bits, high, dtype):
    low = -(2 ** (bits - 1)) if dtype is np.int16 else 0
    values = np.linspace(low, low + 2**bits - 1, 256).round().astype(dtype).reshape(1, 16, 16)
    told = {(0x28, 0x102): element(0x28, 0x102, "US", high)}
    np.testing.assert_array_equal(shown(values << high + 1 - bits, bits=bits, change=told), shown(values, bits=bits))


@pytest.mark.parametrize(
    ("regions", "more", "spacing", "differ"),
    [
        ([], [], None, False),
        ([region(0.005, -0.006)], [], (0.06, 0.05), False),
        ([region(0.5, 0.5, data_type=3, spatial=3), region(0.005, 0.005)], [], (0.05, 0.05), False),
        ([region(0.005, 0.005), region(0.007, 0.007), region(0.005, 0)], [], None, True),
        ([region(0.005, 0), region(0.005, 0.005)], [], None, False),
        ([region(0.005, 0.005, units=4)], [], None, False),
        ([], [(0x28, 0x30, "DS", "0.1\\0.2")], (0.1, 0.2), False),
    ],
)
def test_the_scale_of_regions_else_of_the_pixels(tmp_path, regions, more, spacing, differ):
    image = read_dicom(write_dicom(tmp_path / "a", RAMP, regions=regions, more=more))
    assert image.spacing == (spacing and pytest.approx(spacing)) and image.scales_differ == differ and image.square


@pytest.mark.parametrize(("more", "square"), [([], False), ([(0x28, 0x30, "DS", "0.2\\0.1")], True)])
def test_pixels_that_are_not_square_are_told_where_no_scale_is_known(tmp_path, more, square):
    assert read_dicom(write_dicom(tmp_path / "a", RAMP, more=[(0x28, 0x34, "IS", "2\\1"), *more])).square is square


def test_files_are_known_by_name_or_mark_and_colour_flow_from_coloured_letters(tmp_path):
    assert is_dicom(write_dicom(tmp_path / "IM0001", RAMP)) and is_dicom("any.DCM")
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    assert not is_dicom(tmp_path / "scan.png") and not is_dicom(tmp_path / "none") and not is_dicom(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe"), "and is not waited for"
    frame = np.full((100, 100, 3), 90, np.uint8)
    assert not shows_colour(frame[..., 0])
    frame[:9, :10] = (255, 200, 0)
    assert not shows_colour(frame), "90 of 10,000 pixels"
    frame[:10, :10] = (255, 0, 0)
    assert shows_colour(frame)
    assert read_dicom(write_dicom(tmp_path / "b", RAMP, regions=[region(0.005, 0.006, data_type=2)])).says_colour_doppler
    image = read_dicom(write_dicom(tmp_path / "c", RAMP, more=[(0x28, 0x301, "CS", "YES")]))
    assert image.burned_in is True and not image.says_colour_doppler


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_file_of_three_frames(tmp_path, syntax):
    frames = np.stack([RAMP[0], RAMP[0] // 2, RAMP[0] // 3])
    image = read_dicom(write_dicom(tmp_path / "a.dcm", frames, syntax=syntax))
    assert (image.frame_count, image.shape, image.spacing, image.burned_in) == (3, (16, 16), None, None)
    np.testing.assert_array_equal([*image.iter_frames()], frames)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("segmented", [False, True])
def test_a_palette_gives_colours(shown, bits, segmented):
    """Value v is shown as (v, 255 − v, 0) by a table of 256 entries."""
    wide = np.arange(256) * (257 if bits == 16 else 1)
    np.testing.assert_array_equal(
        shown(RAMP, "PALETTE COLOR", more=palette((wide, wide[::-1], 0 * wide), bits, segmented)),
        np.stack([RAMP, 255 - RAMP, 0 * RAMP], axis=-1),
    )


@pytest.mark.parametrize("label", ["YBR_FULL_422", "YBR_FULL", "RGB", "YBR_RCT"])
def test_colours_that_a_jpeg_2000_stream_transforms_are_taken_back_once(shown, label):
    frame, stream = np.dstack([RAMP[0], 255 - RAMP[0], RAMP[0].T]), io.BytesIO()
    Image.fromarray(frame).save(stream, "jpeg2000", no_jp2=True, mct=1, irreversible=False)
    found = shown(frame[None], label, syntax="1.2.840.10008.1.2.4.90", fragments=[stream.getvalue()])
    np.testing.assert_array_equal(found[0], frame)


def test_run_lengths_hold_shifted_words_and_a_jpeg_its_headers_size(shown, tmp_path):
    """PS3.5 G: a segment for each byte of a word, the upper one first, here of literal runs alone."""
    values = np.arange(256, dtype=np.uint16).reshape(1, 16, 16) * 16
    segments = [b"".join(b"\x7f" + content[at : at + 128] for at in (0, 128)) for content in
                ((values << 4 >> shift & 255).astype(np.uint8).tobytes() for shift in (8, 0))]  # fmt: skip
    content = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)
    options = {"syntax": "1.2.840.10008.1.2.5", "fragments": [content], "change": us(0x102, 15)}
    np.testing.assert_array_equal(shown(values, bits=12, **options), shown(values, bits=12))
    smooth = np.repeat(np.repeat(RAMP, 2, 1), 2, 2)
    assert np.abs(shown(smooth, syntax=JPEG).astype(int) - smooth).max() <= 12
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "jpeg")
    with pytest.raises(ImageError, match="another size"):
        shown(np.zeros((1, 32, 32, 3), np.uint8), "YBR_FULL_422", syntax=JPEG, fragments=[stream.getvalue()])


@pytest.mark.parametrize("label", ["YBR_FULL_422", "YBR_FULL", "RGB", "YBR_ICT"])
@pytest.mark.parametrize("marker", ["JFIF", "none", "Adobe", "ids"])
def test_the_colours_of_a_jpeg_are_those_of_its_own_markers_whatever_the_header_says(shown, label, marker):
    frames = np.full((2, 32, 32, 3), 80, np.uint8)
    frames[1, :, 16:] = (220, 30, 20)
    parts = [encoded_jpeg(frame, marker) for frame in frames]
    levels = shown(frames, label, syntax=JPEG, fragments=parts[:1] * 2)
    assert levels.shape == (2, 32, 32) and np.abs(levels.astype(int) - 80).max() <= 2, "gray"
    red = shown(frames, label, syntax=JPEG, fragments=parts[1:] * 2)[0, :, 24:].astype(int)
    assert np.abs(red - (220, 30, 20)).max() <= 8, "quality 95, away from the edge"


@pytest.mark.parametrize(
    ("syntax", "told"), [(LOSSLESS_JPEG, r"JPEG Lossless.*pip install 'pylibjpeg"), (MPEG4, r"MPEG-4.*export its frames")]
)
def test_a_missing_codec_is_named_with_what_to_install(tmp_path, monkeypatch, syntax, told):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda decoder: False))  # whatever is installed here
    with pytest.raises(ImageError, match=told):
        read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, syntax=syntax, fragments=[b"\xff\xd8"]))


SECRET = "DOE^JANE"
COLOUR = np.zeros((2, 8, 8, 3), np.uint8)


def us(number: int, value: int) -> dict:
    return {(0x28, number): element(0x28, number, "US", value)}


@pytest.mark.parametrize(
    ("pixels", "photometric", "options", "told"),
    [
        (RAMP, "HSV", {}, "a kind that is not shown"),
        (COLOUR.astype(np.uint16), "RGB", {}, "colour of 16 bits"),
        (RAMP, "MONOCHROME2", {"more": [(0x28, 0x3010, "SQ", region(1, 1))]}, "table of gray levels"),
        *((RAMP, "MONOCHROME2", {"more": rescale(slope, "0")}, "rescaled by no") for slope in ("inf", "nan", "0", "1e308")),
        *((RAMP, "MONOCHROME2", {"more": window(*pair)}, "window is no number") for pair in (("nan", "9"), ("9", "inf"))),
        *((RAMP, "MONOCHROME2", {"change": us(0x102, high)}, "contradict each other") for high in (5, 8, 99)),
        (COLOUR.astype(np.uint16), "RGB", {"bits": 8, "change": us(0x102, 15)}, "8 bits up to bit 15 of 16"),
        (RAMP, "MONOCHROME2", {"syntax": JPEG, "bits": 7, "change": us(0x102, 7)}, "7 bits up to bit 7 of 8"),
        (COLOUR, "MONOCHROME1", {}, "3 samples a pixel"),
        (RAMP, "RGB", {}, "1 samples a pixel"),
        (COLOUR, "RGB", {"change": {(0x28, 0x06): None}}, "how its colours are laid out"),
        (RAMP, "MONOCHROME2", {"syntax": JPEG, "fragments": [encoded_jpeg(RAMP[0])] * 2}, "more frames than its header says, 1"),
        (RAMP, "MONOCHROME2", {"change": {(0x7FE0, 0x08): b"\xe0\x7f\x08\0OF\0\0\0\0\0\0"}}, "floating-point"),
        (RAMP, "MONOCHROME2", {"change": {(0x28, 0x10): element(0x28, 0x10, "US", 9000)}}, "bytes of pixels where"),
        (RAMP, "MONOCHROME2", {"change": {(0x28, 0x10): element(0x28, 0x10, "US", 0)}}, "its header says 0"),
        (COLOUR, "YBR_FULL_422", {}, "384 bytes of pixels where its header says 256"),
        (RAMP, "MONOCHROME2", {"change": {(0x7FE0, 0x10): None}}, "without a picture"),
        (RAMP, "MONOCHROME2", {"change": {(0x28, 0x10): element(0x28, 0x10, "UL", 2**28)}}, "more than"),
        (RAMP, "MONOCHROME2", {"syntax": DEFLATED}, "deflated"),
    ],
)  # fmt: skip
def test_what_is_not_shown_is_called_by_its_name(tmp_path, pixels, photometric, options, told):
    with pytest.raises(ImageError, match=told) as raised:
        read_dicom(write_dicom(tmp_path / "a.dcm", pixels, photometric, **options))
    assert "damaged" not in str(raised.value) and "; " in str(raised.value)


DAMAGED = {
    "no rows": {(0x28, 0x10): None},
    "few pixels": {(0x7FE0, 0x10): element(0x7FE0, 0x10, "OB", SECRET)},
    "window": {(0x28, number): element(0x28, number, "DS", SECRET) for number in (0x1050, 0x1051)},
    **{name: {(0x28, number): element(0x28, number, vr, SECRET)} for name, number, vr in (
        ("rows", 0x10, "IS"), ("photometric", 0x04, "CS"), ("frames", 0x08, "IS"), ("bits", 0x101, "LO"))},
}  # fmt: skip


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line_that_quotes_nothing(tmp_path, change, caplog, capsys):
    path = write_dicom(tmp_path / "a.dcm", RAMP, change=change)
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG), pytest.raises(ImageError) as raised:
        warnings.simplefilter("always")
        list(read_dicom(path).iter_frames())
    told = str(raised.value)
    assert told.startswith(f"{path}: ") and "\n" not in told
    everything = told + caplog.text + "".join(capsys.readouterr()) + "".join(str(one.message) for one in warned)
    assert "DOE" not in everything and "JANE" not in everything


def test_a_file_that_is_cut_off_missing_or_another_is_refused(tmp_path):
    whole = write_dicom(tmp_path / "a.dcm", np.repeat(RAMP, 4, 0)).read_bytes()
    (tmp_path / "b.dcm").write_bytes(b"no image at all")
    for name, told in [("b.dcm", "not a DICOM file"), ("none.dcm", "no such file")]:
        with pytest.raises(ImageError, match=told):
            read_dicom(tmp_path / name)
    for length in (0, 200, len(whole) - 300):
        (tmp_path / "d.dcm").write_bytes(whole[:length])
        with pytest.raises(ImageError):
            list(read_dicom(tmp_path / "d.dcm").iter_frames())
    parts = [encoded_jpeg(np.zeros((32, 32, 3), np.uint8))] * 3
    for name, count in (("fewer", 4), ("more", 2)):
        declared = np.zeros((count, 32, 32, 3), np.uint8)
        with pytest.raises(ImageError):
            list(read_dicom(write_dicom(tmp_path / name, declared, "RGB", syntax=JPEG, fragments=parts)).iter_frames())


def test_nothing_of_the_patient_is_kept_and_memory_does_not_grow_with_the_frames(tmp_path):
    planted = [(0x10, 0x10, "PN", SECRET), (0x08, 0x50, "SH", SECRET), (0x09, 0x10, "LO", SECRET), (0x09, 0x1001, "LO", SECRET)]
    image = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, more=planted))
    assert SECRET not in repr(image) + repr(vars(image)) and str(tmp_path) not in repr(image)
    path = write_dicom(tmp_path / "a.dcm", np.zeros((200, 256, 256), np.uint8))
    next(read_dicom(path).iter_frames())  # what is imported once
    tracemalloc.start()
    count = sum(1 for _ in read_dicom(path).iter_frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200 and peak < 50 * 256 * 256, "what one frame takes on its way, not 200 of them"
