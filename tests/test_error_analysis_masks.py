"""Where masks go wrong, on masks drawn by hand and against scores of the same masks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.scores.masks import lesion_scores, segmentation_table, surface_scores
from thyroid_utils.studies import error_analysis
from thyroid_utils.studies.error_analysis import (
    LOST_PARTS,
    MODES,
    hd95_outliers,
    lost_dice,
    nodule_frame_errors,
    where_lost,
)

SIDE = 60


def block(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of 60 × 60 with filled boxes (first row, last row, first column, last column), ends excluded."""
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


NODULE = (20, 40, 20, 40)  # 400 pixels; a tenth of the diameter of a disc of that area is 2.26


def test_wrong_pixels_are_counted_where_they_lie():
    truth = block(NODULE)
    # Called 4 rows too short below, 5 rows too high above, and 25 pixels far off.
    lost = where_lost(truth, block((15, 36, 20, 40), (50, 55, 50, 55)))
    assert lost["wrong_pixels"] == 4 * 20 + 5 * 20 + 25 and lost["mode"] == "boundary"
    # Missed rows 36 to 39: the outer two and the ends of the inner ones (2 columns a side) are in the ring.
    assert lost["core"] * 205 == pytest.approx(2 * 16) and lost["extra"] * 205 == pytest.approx(25)
    assert lost["spill"] * 205 == pytest.approx(3 * 20) and lost["boundary"] * 205 == pytest.approx(80 - 32 + 2 * 20)
    assert lost["missed"] == 0 and sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)


def test_the_ring_grows_with_the_nodule():
    wide, small = block((0, 60, 10, 50)), block(NODULE)  # a tenth of the diameter: 5.5 and 2.3 pixels
    assert where_lost(wide, block((0, 60, 15, 50)))["boundary"] == 1 > where_lost(wide, block((0, 60, 16, 50)))["boundary"]
    assert where_lost(small, block((20, 40, 22, 40)))["boundary"] == 1 > where_lost(small, block((20, 40, 23, 40)))["boundary"]


def test_parts_agree_with_the_lesion_rule():
    random = np.random.default_rng(0)
    for _ in range(40):
        boxes = [(r, r + h, c, c + w) for r, c, h, w in random.integers([0, 0, 3, 3], [45, 45, 15, 15], (4, 4))]
        truth, found = block(*boxes[:2]), block(*boxes[2:])
        lesions, lost = lesion_scores(truth, found), where_lost(truth, found)
        assert (lost["missed"] > 0) == (lesions["lesions_missed"] > 0)
        assert (lost["extra"] > 0) == (lesions["lesions_false"] > 0)
        assert sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)
        assert lost["wrong_pixels"] == (truth ^ found).sum()


@pytest.mark.parametrize(
    ("truth", "found", "mode"),
    [
        (block(NODULE), block(), "missed"),
        (block(NODULE), block((20, 21, 20, 40)), "missed"),  # one row in twenty: below a tenth
        (block(NODULE), block((5, 15, 45, 55)), "wrong place"),
        (block(NODULE), block((20, 21, 20, 22), (5, 15, 45, 55)), "wrong place"),
        (block(NODULE, (45, 58, 5, 25)), block(NODULE), "missed"),  # one of two nodules
        (block(NODULE), block(NODULE, (45, 58, 45, 58)), "extra"),
        (block(), block((45, 58, 45, 58)), "extra"),
        (block(NODULE), block((20, 28, 20, 40)), "core"),
        (block(NODULE), block((10, 55, 10, 55)), "spill"),
        (block(NODULE), block((21, 41, 21, 41)), "boundary"),
        (block(NODULE), block(NODULE), ""),
        (block(), block(), ""),
    ],
)
def test_every_error_has_the_one_mode_that_a_reader_would_name(truth, found, mode):
    lost = where_lost(truth, found)
    assert lost["mode"] == mode and (mode in MODES or all(np.isnan(lost[name]) for name in LOST_PARTS))
    assert where_lost(truth.astype(int), found.astype(int)) == lost or not mode


def comparison_of(truths: list[np.ndarray], founds: list[np.ndarray], patients: list[str]) -> SimpleNamespace:
    """What a comparison of segmenters offers, with the parts of `where_lost` in its table."""
    pairs = list(zip(truths, founds, strict=True))
    table = segmentation_table(pairs, [f"c{number}" for number in range(len(pairs))], [None] * len(pairs))
    parts = pd.DataFrame([where_lost(*pair) for pair in pairs], table.index)
    own = table[["dice", "hd95", "presence"]].join(parts).assign(patient=patients, resolution="own")
    pictures = dict(zip(table.index, zip(truths, truths, np.asarray(founds, float), strict=True), strict=True))
    return SimpleNamespace(tables={"tiny": [own]}, picture=lambda model, case: pictures[case])


def test_lost_points_of_dice_add_up_to_what_is_lost():
    truths = [block(NODULE)] * 4 + [block()]
    founds = [block(), block((21, 41, 21, 41)), block((20, 28, 20, 40)), block(NODULE), block()]
    table = comparison_of(truths, founds, ["a", "a", "b", "c", "d"]).tables["tiny"][0]
    lost = lost_dice(table)["lost"]
    assert list(lost.index) == [*LOST_PARTS.values(), "all"]
    whole = 1 - table["dice"].dropna().mean()
    assert lost["all"].value == pytest.approx(whole) == pytest.approx(sum(found.value for found in lost[:-1]))
    assert lost["missed nodules"].value == pytest.approx(1 / 4) and lost["all"].images == 4
    perfect = lost_dice(comparison_of([block(NODULE)] * 2, [block(NODULE)] * 2, ["a", "b"]).tables["tiny"][0])
    assert {found.text() for found in perfect["lost"]} == {"0.00 [no interval: all resamples agree]"}


def test_a_segmenter_that_predicts_nothing_loses_all_to_missed_nodules(monkeypatch):
    monkeypatch.setattr(error_analysis, "_SIDE", 8)
    truths, founds = [block(NODULE), block((5, 50, 5, 30))], [block(), block()]
    comparison = comparison_of(truths, founds, ["a", "b"])
    lost = lost_dice(comparison.tables["tiny"][0])
    assert lost.at["missed nodules", "lost"].value == 1 and lost.at["boundary ring", "lost"].value == 0
    frame = nodule_frame_errors(truths, founds)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(np.nan_to_num(frame.maps), [expected, 0 * expected])
    outliers = hd95_outliers(comparison, "tiny")
    assert outliers["cause"].tolist() == ["nodule missed"] * 2 and outliers["limit"].isna().all()
    assert (outliers["hd95"] == np.hypot(SIDE, SIDE)).all() and outliers["without_extra"].isna().all()


def test_the_nodule_fills_the_inner_half_of_its_frame(monkeypatch):
    """A wide nodule and a high one, each with its upper half missed and a strip called left of it."""
    monkeypatch.setattr(error_analysis, "_SIDE", 16)
    truths = [block((20, 28, 20, 44)), block((10, 50, 30, 38)), block()]
    founds = [block((24, 28, 20, 44), (20, 28, 14, 20)), block((30, 50, 30, 38), (10, 50, 28, 30)), block((3, 9, 3, 9))]
    frame = nodule_frame_errors(iter(truths), iter(founds))
    missed, called = np.zeros((16, 16)), np.zeros((16, 16))
    missed[4:8, 4:12] = 1
    called[4:12, 2:4] = 1
    np.testing.assert_array_equal(frame.maps, [missed, called])
    assert frame.images == 2


def test_cells_beyond_the_image_count_for_nothing_and_the_largest_nodule_sets_the_frame(monkeypatch):
    monkeypatch.setattr(error_analysis, "_SIDE", 8)
    frame = nodule_frame_errors([block((0, 20, 0, 20), (50, 55, 50, 55))], [block()])
    assert np.isnan(frame.maps[:, :2]).all() and np.isnan(frame.maps[:, :, :2]).all()
    np.testing.assert_array_equal(frame.maps[0, 2:6, 2:6], 1)
    assert frame.maps[0, 6:, 6:].max() == 0
    nothing = nodule_frame_errors([block()], [block()])
    assert np.isnan(nothing.maps).all() and nothing.images == 0


def test_outliers_say_why_their_outline_is_far_off(monkeypatch):
    monkeypatch.setattr(error_analysis, "_WHISKER", 0.1)
    truths = [block(NODULE)] * 8 + [block()]
    near = [block((20 + shift, 40 + shift, 20, 40)) for shift in (0, 0, 1, 1, 1)]
    founds = [*near, block(NODULE, (0, 12, 50, 60)), block((20, 40, 20, 60)), block(), block((0, 5, 0, 5))]
    comparison = comparison_of(truths, founds, list("abcdefghi"))
    table, outliers = comparison.tables["tiny"][0], hd95_outliers(comparison, "tiny")
    assert dict(outliers["cause"]) == {"c5": "extra regions", "c6": "outline", "c7": "nodule missed", "c8": "false alarm"}
    assert outliers["hd95"].is_monotonic_decreasing
    low, high = np.quantile(table.loc[table["presence"] == "both", "hd95"], [0.25, 0.75])
    assert outliers["limit"].iloc[0] == pytest.approx(high + 0.1 * (high - low))
    assert outliers.at["c5", "without_extra"] == 0
    assert outliers.at["c6", "without_extra"] == surface_scores(truths[6], founds[6])["hd95"]
    monkeypatch.setattr(error_analysis, "_WHISKER", 100)
    comparison.tables["tiny"][0] = table[:5]
    assert hd95_outliers(comparison, "tiny").empty
