"""Where masks go wrong, on masks drawn by hand and against scores of the same masks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.scores.masks import lesion_scores, segmentation_table
from thyroid_utils.scores.surface import surface_scores
from thyroid_utils.studies.error_analysis.mask_errors import (
    LOST_PARTS,
    MODES,
    failure_mode,
    lost_dice,
    nodule_frame_errors,
    outliers_of,
    where_lost,
    without_extra,
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
    # Called 3 rows too short below, 4 rows too high above, and 25 pixels far off.
    found = block((16, 37, 20, 40), (50, 55, 50, 55))
    lost = where_lost(truth, found, ring=2)
    assert lost["wrong"] == 3 * 20 + 4 * 20 + 25 and lost["ring"] == 2
    # Missed rows 37 to 39: the outer two and the ends of the inner one (2 columns a side) are in the ring.
    assert lost["core"] * 165 == pytest.approx(16) and lost["extra"] * 165 == pytest.approx(25)
    assert lost["spill"] * 165 == pytest.approx(40) and lost["boundary"] * 165 == pytest.approx(40 + 20 + 20 + 4)
    assert lost["missed"] == 0 and sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)


def test_the_ring_grows_with_the_nodule():
    assert where_lost(block(NODULE), block((21, 41, 20, 40)))["ring"] == pytest.approx(0.1 * np.sqrt(4 * 400 / np.pi))
    assert where_lost(block((20, 25, 20, 25)), block(NODULE))["ring"] == 2
    wide = where_lost(block(NODULE), block((25, 40, 20, 40)), ring=50)
    assert wide["boundary"] == 1
    assert where_lost(block(NODULE), block((25, 40, 20, 40)), ring=0)["core"] == 1


def test_parts_agree_with_the_lesion_rule():
    random = np.random.default_rng(0)
    for _ in range(40):
        boxes = [(r, r + h, c, c + w) for r, c, h, w in random.integers([0, 0, 3, 3], [45, 45, 15, 15], (4, 4))]
        truth, found = block(*boxes[:2]), block(*boxes[2:])
        lesions, lost = lesion_scores(truth, found), where_lost(truth, found)
        assert (lost["missed"] > 0) == (lesions["lesions_missed"] > 0)
        assert (lost["extra"] > 0) == (lesions["lesions_false"] > 0)
        assert sum(lost[name] for name in LOST_PARTS) == pytest.approx(1)
        assert lost["wrong"] == (truth ^ found).sum()
        assert lesion_scores(truth, without_extra(truth, found))["lesions_false"] == 0


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
        (block(NODULE), block(NODULE), None),
        (block(), block(), None),
    ],
)
def test_every_error_has_the_one_mode_that_a_reader_would_name(truth, found, mode):
    assert failure_mode(truth, found) == mode
    assert mode is None or mode in MODES
    if mode is None:
        assert all(np.isnan(where_lost(truth, found)[name]) for name in LOST_PARTS)


def test_masks_of_other_kinds_are_refused():
    for bad, message in ((block()[:5], "pixels"), (2 * block(NODULE).astype(int), "two levels")):
        with pytest.raises(ValueError, match=message):
            where_lost(block(NODULE), bad)
        with pytest.raises(ValueError, match=message):
            nodule_frame_errors([block(NODULE)], [bad])
    with pytest.raises(ValueError, match="ring is -1"):
        where_lost(block(NODULE), block(), ring=-1)
    np.testing.assert_array_equal(
        list(where_lost(block(NODULE), block()).values()),
        list(where_lost(block(NODULE).astype(int), block().astype(int)).values()),
    )


def scored(truths: list[np.ndarray], founds: list[np.ndarray], patients: list[str]) -> pd.DataFrame:
    table = segmentation_table(truths, founds, cases=[f"c{number}" for number in range(len(truths))])
    parts = pd.DataFrame([where_lost(*pair) for pair in zip(truths, founds, strict=True)], table.index)
    return table[["dice", "hd95", "presence"]].join(parts).assign(patient=patients)


def test_lost_points_of_dice_add_up_to_what_is_lost():
    truths = [block(NODULE)] * 4 + [block()]
    founds = [block(), block((21, 41, 21, 41)), block((20, 28, 20, 40)), block(NODULE), block()]
    table = scored(truths, founds, ["a", "a", "b", "c", "d"])
    lost = lost_dice(table)
    assert list(lost.index) == [*LOST_PARTS.values(), "all"]
    whole = 1 - table["dice"].dropna().mean()
    assert lost.at["all", "lost"].value == pytest.approx(whole)
    assert sum(found.value for found in lost["lost"][:-1]) == pytest.approx(whole)
    assert sum(found.value for found in lost["share"][:-1]) == pytest.approx(1)
    assert lost.at["missed nodules", "lost"].value == pytest.approx(1 / 4) and lost.at["all", "lost"].images == 4
    assert lost.at["missed nodules", "share"].value == pytest.approx(1 / 4 / whole)
    perfect = lost_dice(scored([block(NODULE)] * 2, [block(NODULE)] * 2, ["a", "b"]))
    assert perfect["lost"].iloc[0].text() == "0.00 [no interval: all resamples agree]"
    assert all(found.value == 0 for found in perfect["lost"]) and all(np.isnan(found.value) for found in perfect["share"])


def test_a_segmenter_that_predicts_nothing_loses_all_to_missed_nodules():
    truths, founds = [block(NODULE), block((5, 50, 5, 30))], [block(), block()]
    table = scored(truths, founds, ["a", "b"])
    lost = lost_dice(table)
    assert lost.at["missed nodules", "lost"].value == 1 and lost.at["boundary ring", "lost"].value == 0
    frame = nodule_frame_errors(truths, founds, side=8)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(frame.maps[0][2:6, 2:6], 1)
    assert not np.nansum(frame.maps[1]) and (frame.images, frame.left_out) == (2, 0)
    np.testing.assert_array_equal(np.nan_to_num(frame.maps[0]), expected)
    outliers = outliers_of(table, lambda case: (truths[int(case[1:])], founds[int(case[1:])]))
    assert outliers["cause"].tolist() == ["nodule missed"] * 2 and outliers["limit"].isna().all()
    assert (outliers["hd95"] == np.hypot(SIDE, SIDE)).all() and outliers["without_extra"].isna().all()


def test_the_nodule_fills_the_inner_half_of_its_frame():
    """A wide nodule and a high one, each with its upper half missed and a strip called left of it."""
    wide, high = block((20, 28, 20, 44)), block((10, 50, 30, 38))
    truths = [wide, high, block()]
    founds = [block((24, 28, 20, 44), (20, 28, 14, 20)), block((30, 50, 30, 38), (10, 50, 28, 30)), block((3, 9, 3, 9))]
    frame = nodule_frame_errors(iter(truths), iter(founds), side=16)
    missed, called = np.zeros((16, 16)), np.zeros((16, 16))
    missed[4:8, 4:12] = 1
    called[4:12, 2:4] = 1
    np.testing.assert_array_equal(frame.maps, [missed, called])
    assert (frame.images, frame.left_out) == (2, 1)


def test_cells_beyond_the_image_count_for_nothing_and_the_largest_nodule_sets_the_frame():
    corner = block((0, 20, 0, 20), (50, 55, 50, 55))
    frame = nodule_frame_errors([corner], [block()], side=8)
    assert np.isnan(frame.maps[:, :2]).all() and np.isnan(frame.maps[:, :, :2]).all()
    np.testing.assert_array_equal(frame.maps[0, 2:6, 2:6], 1)
    assert frame.maps[0, 6:, 6:].max() == 0
    nothing = nodule_frame_errors([block()], [block()], side=4)
    assert np.isnan(nothing.maps).all() and (nothing.images, nothing.left_out) == (0, 1)
    with pytest.raises(ValueError, match="side is 1"):
        nodule_frame_errors([corner], [corner], side=1)
    with pytest.raises(ValueError, match="zip"):
        nodule_frame_errors([corner], [])


def test_outliers_say_why_their_outline_is_far_off():
    truths = [block(NODULE)] * 8 + [block()]
    near = [block((20 + shift, 40 + shift, 20, 40)) for shift in (0, 0, 1, 1, 1)]
    founds = [*near, block(NODULE, (0, 12, 50, 60)), block((20, 40, 20, 60)), block(), block((0, 5, 0, 5))]
    table = scored(truths, founds, list("abcdefghi"))
    outliers = outliers_of(table, lambda case: (truths[int(case[1:])], founds[int(case[1:])]), whisker=0.1)
    assert dict(outliers["cause"]) == {"c5": "extra regions", "c6": "outline", "c7": "nodule missed", "c8": "false alarm"}
    assert outliers["hd95"].is_monotonic_decreasing
    both = table.loc[table["presence"] == "both", "hd95"]
    low, high = np.quantile(both, [0.25, 0.75])
    assert outliers["limit"].iloc[0] == pytest.approx(high + 0.1 * (high - low))
    assert outliers.at["c5", "without_extra"] == 0
    assert outliers.at["c6", "without_extra"] == surface_scores(truths[6], founds[6])["hd95"]
    assert outliers_of(table[:5], lambda case: pytest.fail(case), whisker=100).empty
