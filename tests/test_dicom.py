"""DICOM frames as a screen shows them, their scale, and errors that name no value of the file."""

from __future__ import annotations

import logging
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from dicom_files import EXPLICIT, IMPLICIT, JPEG, LOSSLESS_JPEG, MPEG4, element, region, write_dicom

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.dicom import _Pixels, is_dicom, read_dicom, scales_differ, shows_colour, spacing_of, window_share

RAMP = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def gray(stored, photometric="MONOCHROME2", bits=8, **header):
    header = {"PhotometricInterpretation": photometric, "BitsStored": bits, "PixelRepresentation": 0, **header}
    return _Pixels.of(Header(header)).shown(np.atleast_2d(stored), "x.dcm")[0].tolist()


class Header(dict):
    """Elements by keyword, as pydicom's data sets give them."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def flat_region(delta_x, delta_y, **changes):
    values = {"RegionSpatialFormat": 1, "RegionDataType": 1, "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}
    return Header({**values, "PhysicalDeltaX": delta_x, "PhysicalDeltaY": delta_y, **changes})


def test_eight_bits_are_shown_as_they_are_and_monochrome1_upside_down():
    assert gray([0, 1, 128, 255]) == [0, 1, 128, 255]
    assert gray([0, 1, 128, 255], "MONOCHROME1") == [255, 254, 127, 0]


def test_more_bits_are_shown_over_the_range_they_can_hold():
    assert gray([0, 32896, 65535], bits=16) == [0, 128, 255]
    assert gray([0, 2048, 4095], bits=12) == [0, 128, 255]
    assert gray(np.array([-2048, 0, 2047], np.int16), bits=12, PixelRepresentation=1) == [0, 128, 255]


def test_the_window_comes_behind_the_rescale():
    """C 1000, W 401 shows 800 to 1200 by PS3.3 C.11.2.1.2: x ≤ 999.5 − 200 is black, x > 999.5 + 200 white."""
    assert gray([799, 800, 900, 1000, 1199, 1200], bits=16, WindowCenter=1000, WindowWidth=401) == [0, 0, 64, 128, 255, 255]
    shifted = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 401}
    assert gray([900, 950, 1000, 1100], bits=16, **shifted) == [0, 64, 128, 255]
    assert gray([900, 1000], bits=16, WindowCenter=[1000, 40], WindowWidth=[401, 80]) == [64, 128], "the first of two"
    assert gray([0, 77, 255], WindowCenter=128, WindowWidth=256) == [0, 77, 255], "the whole range changes nothing"


def test_the_headers_extremes_are_black_and_white_where_they_hold():
    told = {"SmallestImagePixelValue": 100, "LargestImagePixelValue": 4100}
    assert gray([100, 2100, 4100], bits=16, **told) == [0, 128, 255]
    assert gray([100, 2100, 4100], "MONOCHROME1", bits=16, **told) == [255, 128, 0]
    assert gray([100, 2100, 4100], bits=16, RescaleSlope=-2, RescaleIntercept=7, **told) == [255, 128, 0]
    assert gray([0, 32896, 65535], bits=16, **told) == [0, 128, 255], "the frame goes beyond them: they are wrong"
    assert gray([800, 1000], bits=16, WindowCenter=1000, WindowWidth=401, **told) == [0, 128], "a window comes first"
    assert gray([0, 10, 20], SmallestImagePixelValue=0, LargestImagePixelValue=20) == [0, 10, 20], "8 bits as they are"
    assert gray([0, 65535], bits=16, SmallestImagePixelValue=0, LargestImagePixelValue=0) == [0, 255]


def test_a_window_without_a_first_number_is_none():
    for centre, width in (("", 400), (["", 40], [400, 80]), ([], []), (None, 400), ([None, 40], [400, 80])):
        assert gray([0, 32896, 65535], bits=16, WindowCenter=centre, WindowWidth=width) == [0, 128, 255], (centre, width)


def test_a_negative_slope_turns_the_range_over():
    assert gray([0, 255], RescaleSlope=-1, RescaleIntercept=255) == [255, 0]


def test_window_functions():
    values = np.array([-50.0, 0, 50, 100, 150])
    np.testing.assert_allclose(window_share(values, 50, 100, "LINEAR_EXACT"), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(window_share(values, 50, 100, "SIGMOID"), 1 / (1 + np.exp(-4 * (values - 50) / 100)))
    assert window_share(values, 50, 1).tolist() == [0, 0, 1, 1, 1], "a width of 1 is a threshold at centre − 0.5"


def test_scale_of_ultrasound_regions():
    assert spacing_of(Header(SequenceOfUltrasoundRegions=[flat_region(0.005, -0.006)])) == pytest.approx((0.06, 0.05))
    spectrum = flat_region(0.5, 0.5, RegionDataType=3, RegionSpatialFormat=3)
    assert spacing_of(Header(SequenceOfUltrasoundRegions=[spectrum, flat_region(0.005, 0.005)])) == pytest.approx((0.05, 0.05))


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"SequenceOfUltrasoundRegions": [flat_region(0.005, 0.005), flat_region(0.007, 0.007)]},
        {"SequenceOfUltrasoundRegions": [flat_region(0.005, 0)]},
        {"SequenceOfUltrasoundRegions": [flat_region(0.005, None)]},
        {"SequenceOfUltrasoundRegions": [flat_region(0.005, 0.005, PhysicalUnitsXDirection=4)]},
    ],
    ids=["none", "two scales", "zero", "missing", "other unit"],
)
def test_no_scale_where_none_is_sure(header):
    assert spacing_of(Header(header)) is None


def test_scales_that_differ_are_told_from_none():
    two = [flat_region(0.005, 0.005), flat_region(0.007, 0.007)]
    assert scales_differ(Header(SequenceOfUltrasoundRegions=two))
    assert scales_differ(Header(SequenceOfUltrasoundRegions=[*two, flat_region(0.005, 0)]))
    for regions in (
        (),
        two[:1],
        [two[0], two[0]],
        [flat_region(0.005, 0), two[0]],
        [two[0], flat_region(0.5, 0.5, RegionDataType=3)],
    ):
        assert not scales_differ(Header(SequenceOfUltrasoundRegions=regions)), regions
    assert not scales_differ(Header(PixelSpacing=[0.1, 0.2]))


def test_pixel_spacing_serves_where_there_are_no_regions():
    assert spacing_of(Header(PixelSpacing=[0.1, 0.2])) == (0.1, 0.2)
    assert spacing_of(Header(PixelSpacing=[0.1, 0.2], SequenceOfUltrasoundRegions=[flat_region(0.005, 0.005)])) == pytest.approx(
        (0.05, 0.05)
    )


def test_colour_flow_is_told_from_coloured_letters():
    frame = np.full((100, 100, 3), 90, np.uint8)
    assert not shows_colour(frame) and not shows_colour(frame[..., 0])
    frame[:9, :10] = (255, 200, 0)
    assert not shows_colour(frame), "90 of 10,000 pixels"
    frame[:10, :10] = (255, 0, 0)
    assert shows_colour(frame)


def test_frames_of_equal_channels_are_gray():
    header = Header(PhotometricInterpretation="RGB", BitsStored=8)
    noisy = np.full((4, 4, 3), 100, np.uint8) + np.array([0, 3, 6], np.uint8)
    assert _Pixels.of(header).shown(noisy, "x").tolist() == np.full((4, 4), 102).tolist()
    assert _Pixels.of(header).shown(noisy + np.array([0, 0, 1], np.uint8), "x").shape == (4, 4, 3)


def test_a_file_is_known_by_its_name_or_its_mark(tmp_path):
    assert is_dicom(write_dicom(tmp_path / "IM0001", RAMP)) and is_dicom("any.DCM")
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    assert not is_dicom(tmp_path / "scan.png") and not is_dicom(tmp_path / "none") and not is_dicom(tmp_path)


def test_without_pydicom_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"pip install pydicom$"):
        read_dicom(write_dicom(tmp_path / "a.dcm", RAMP))


def test_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_dicom(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_file_of_three_frames(tmp_path, syntax):
    frames = np.stack([RAMP[0], RAMP[0] // 2, RAMP[0] // 3])
    image = read_dicom(write_dicom(tmp_path / "a.dcm", frames, syntax=syntax))
    assert (image.frame_count, image.shape, image.photometric, image.spacing) == (3, (16, 16), "MONOCHROME2", None)
    np.testing.assert_array_equal(image.frames, frames)
    np.testing.assert_array_equal(next(image.iter_frames()), frames[0])
    assert image.burned_in is None and not image.has_colour_doppler


def test_monochrome1_sixteen_bits_and_a_window_of_a_file(tmp_path):
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "a", RAMP, "MONOCHROME1")).frames, 255 - RAMP)
    wide = RAMP.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "b", wide)).frames, RAMP)
    twelve = np.array([[[0, 2048, 4095, 4095]]], np.uint16)
    assert read_dicom(write_dicom(tmp_path / "c", twelve, bits=12)).frames.tolist() == [[[0, 128, 255, 255]]]
    empty = [(0x28, 0x1050, "DS", "\\1000"), (0x28, 0x1051, "DS", "401\\80")]
    assert read_dicom(write_dicom(tmp_path / "e", wide, more=empty)).frames.tolist() == RAMP.tolist()
    extremes = [(0x28, 0x106, "US", 0), (0x28, 0x107, "US", 4095)]
    assert read_dicom(write_dicom(tmp_path / "f", twelve, more=extremes)).frames.tolist() == [[[0, 128, 255, 255]]]
    window = [(0x28, 0x1050, "DS", "1000"), (0x28, 0x1051, "DS", "401")]
    stored = np.array([[[800, 900, 1000, 1200]]], np.uint16)
    assert read_dicom(write_dicom(tmp_path / "d", stored, more=window)).frames.tolist() == [[[0, 64, 128, 255]]]


def test_scale_and_colour_flow_of_a_file(tmp_path):
    image = read_dicom(write_dicom(tmp_path / "a", RAMP, regions=[region(0.005, 0.006), region(0.3, 0.3, 3, 3)]))
    assert image.spacing == pytest.approx((0.06, 0.05)) and not image.has_colour_doppler
    assert read_dicom(write_dicom(tmp_path / "b", RAMP, regions=[region(0.005, 0.006, data_type=2)])).has_colour_doppler
    told = [(0x28, 0x301, "CS", "YES"), (0x28, 0x30, "DS", "0.1\\0.2")]
    image = read_dicom(write_dicom(tmp_path / "c", RAMP, more=told))
    assert image.burned_in is True and image.spacing == (0.1, 0.2)


def test_colour_frames(tmp_path):
    frame = np.full((1, 32, 32, 3), 80, np.uint8)
    assert read_dicom(write_dicom(tmp_path / "a", frame, "RGB")).frames.tolist() == frame[..., 0].tolist(), (
        "gray in three channels"
    )
    frame[0, 8:24, 8:24] = (220, 30, 20)
    image = read_dicom(write_dicom(tmp_path / "b", frame, "RGB"))
    np.testing.assert_array_equal(image.frames, frame)
    assert image.has_colour_doppler


def test_a_palette_gives_colours(tmp_path):
    """Value v is shown as (v, 255 − v, 0) by a table of 256 entries of 16 bits."""
    levels = np.arange(256, dtype=np.uint16) * 257
    tables = zip((1, 2, 3), (levels, levels[::-1], 0 * levels), strict=True)
    palette = [
        (0x28, 0x1100 + number + 0x100 * data, *(("OW", table.tobytes()) if data else ("US", [256, 0, 16])))
        for number, table in tables
        for data in (0, 1)
    ]
    shown = read_dicom(write_dicom(tmp_path / "a", RAMP, "PALETTE COLOR", more=palette)).frames
    np.testing.assert_array_equal(shown, np.stack([RAMP, 255 - RAMP, 0 * RAMP], axis=-1))


def test_a_table_of_gray_levels_is_refused(tmp_path):
    item = region(1, 1)  # any item: what it holds is not read
    with pytest.raises(ImageError, match="table of gray levels"):
        read_dicom(write_dicom(tmp_path / "a", RAMP, more=[(0x28, 0x3010, "SQ", item)]))


def test_ycbcr_becomes_rgb(tmp_path):
    """Pure red is (76, 85, 255) in YCbCr (PS3.3 C.7.6.3.1.2)."""
    stored = np.tile(np.array([76, 85, 255], np.uint8), (1, 16, 16, 1))
    shown = read_dicom(write_dicom(tmp_path / "a", stored, "YBR_FULL")).frames
    assert np.abs(shown.astype(int) - (254, 0, 0)).max() <= 2, "three roundings"


def test_jpeg_in_colour_and_in_gray(tmp_path):
    frames = np.full((2, 32, 32, 3), 80, np.uint8)
    frames[1, :, 16:] = (220, 30, 20)
    first, second = read_dicom(write_dicom(tmp_path / "a", frames, "YBR_FULL_422", syntax=JPEG)).iter_frames()
    assert first.shape == (32, 32) and np.abs(first.astype(int) - 80).max() <= 2
    assert np.abs(second[:, 24:].astype(int) - (220, 30, 20)).max() <= 8, "quality 95, away from the edge"
    smooth = np.repeat(np.repeat(RAMP, 2, 1), 2, 2)
    shown = read_dicom(write_dicom(tmp_path / "b", smooth, syntax=JPEG)).frames
    assert np.abs(shown.astype(int) - smooth).max() <= 12


@pytest.mark.parametrize(
    ("syntax", "told"),
    [(LOSSLESS_JPEG, r"JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg$"), (MPEG4, r"MPEG-4.*export its frames")],
)
def test_a_missing_codec_is_named_with_what_to_install(tmp_path, monkeypatch, syntax, told):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda decoder: False))  # whatever is installed here
    path = write_dicom(tmp_path / "a.dcm", RAMP, syntax=syntax, fragments=[b"\xff\xd8"])
    with pytest.raises(ImageError, match=told):
        read_dicom(path)


SECRET = "DOE^JANE"


@pytest.mark.parametrize(
    "change",
    [
        {(0x28, 0x10): None},
        {(0x28, 0x10): element(0x28, 0x10, "IS", SECRET)},
        {(0x28, 0x04): element(0x28, 0x04, "CS", SECRET)},
        {(0x28, 0x08): element(0x28, 0x08, "IS", SECRET)},
        {(0x28, 0x101): element(0x28, 0x101, "LO", SECRET)},
        {(0x28, 0x1050): element(0x28, 0x1050, "DS", SECRET), (0x28, 0x1051): element(0x28, 0x1051, "DS", SECRET)},
        {(0x7FE0, 0x10): None},
        {(0x7FE0, 0x10): element(0x7FE0, 0x10, "OB", SECRET)},
    ],
    ids=["no rows", "rows", "photometric", "frames", "bits", "window", "no pixels", "few pixels"],
)
def test_a_damaged_file_is_one_line_that_quotes_nothing(tmp_path, change, caplog, capsys):
    path = write_dicom(tmp_path / "a.dcm", RAMP, change=change)
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG), pytest.raises(ImageError) as raised:
        warnings.simplefilter("always")
        read_dicom(path).frames  # noqa: B018
    told = str(raised.value)
    assert told.startswith(f"{path}: ") and "\n" not in told
    everything = told + caplog.text + "".join(capsys.readouterr()) + "".join(str(one.message) for one in warned)
    assert "DOE" not in everything and "JANE" not in everything


def test_a_file_that_is_cut_off_or_another_is_refused(tmp_path):
    whole = write_dicom(tmp_path / "a.dcm", np.repeat(RAMP, 4, 0)).read_bytes()
    (tmp_path / "b.dcm").write_bytes(b"no image at all")
    with pytest.raises(ImageError, match="not a DICOM file"):
        read_dicom(tmp_path / "b.dcm")
    (tmp_path / "c.dcm").write_bytes(b"")
    with pytest.raises(ImageError):
        read_dicom(tmp_path / "c.dcm")
    for length in (200, len(whole) - 300):
        (tmp_path / "d.dcm").write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_dicom(tmp_path / "d.dcm").frames  # noqa: B018


def test_nothing_of_the_patient_is_kept(tmp_path):
    planted = [(0x10, 0x10, "PN", SECRET), (0x08, 0x50, "SH", SECRET), (0x09, 0x10, "LO", SECRET), (0x09, 0x1001, "LO", SECRET)]
    image = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, more=planted))
    assert SECRET not in repr(image) + repr(vars(image)) and str(tmp_path) not in repr(image)


def test_memory_does_not_grow_with_the_frames(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((200, 256, 256), np.uint8))
    next(read_dicom(path).iter_frames())  # what is imported once
    tracemalloc.start()
    count = sum(1 for _ in read_dicom(path).iter_frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200 and peak < 50 * 256 * 256, "what one frame takes on its way, not 200 of them"
