"""Mask problems and the cleaned mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from thyroid_utils.data.audit import MaskProblem, clean_mask, mask_problems
from thyroid_utils.data.images import read_mask


def disc(size: int = 64, radius: int = 20) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return x**2 + y**2 <= radius**2


def test_clean_empty_and_full():
    assert mask_problems(disc()) == [] and (clean_mask(disc()) == disc()).all()
    assert mask_problems(np.zeros((5, 6), bool)) == [MaskProblem("empty", 1, 0)]
    assert mask_problems(np.ones((5, 6), bool)) == [MaskProblem("full", 1, 30)]
    assert not clean_mask(np.zeros((5, 6), bool)).any() and clean_mask(np.ones((5, 6), bool)).all()


def test_specks_and_holes_counted_by_hand():
    mask = disc()
    mask[2:4, 2:4] = True  # a speck of 4 pixels
    mask[60, 60] = True  # and one of 1
    mask[32, 30:33] = False  # a hole of 3
    mask[40, 32] = False  # and one of 1
    assert mask_problems(mask) == [MaskProblem("holes", 2, 4), MaskProblem("specks", 2, 5)]
    assert (clean_mask(mask) == disc()).all()


def test_a_speck_is_small_in_pixels_or_beside_the_largest_part():
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = True  # 10,000 pixels: 1 % is 100
    mask[10:19, 10:21] = True  # 99
    assert mask_problems(mask) == [MaskProblem("specks", 1, 99)]
    mask[10:20, 10:20] = True  # 109 together
    assert mask_problems(mask) == [MaskProblem("several parts", 2, 109)]
    assert (clean_mask(mask) == mask).all()


def test_the_largest_part_is_kept_however_small_and_the_topmost_of_equals():
    mask = np.zeros((20, 20), bool)
    mask[5, 5:8] = True
    mask[10, 10] = True
    assert mask_problems(mask) == [MaskProblem("specks", 1, 1)]
    assert clean_mask(mask).sum() == 3
    assert clean_mask(np.array([[0, 0, 1], [1, 0, 0]], bool)).tolist() == [[False, False, True], [False, False, False]]


def test_touching_the_border_counts_parts_and_not_specks():
    mask = np.zeros((40, 40), bool)
    mask[0:20, 10:30] = True
    mask[39, 39] = True
    assert mask_problems(mask) == [MaskProblem("specks", 1, 1), MaskProblem("touches border", 1, 20)]


def test_a_corner_joins_parts_and_does_not_open_a_hole():
    diagonal = np.zeros((12, 12), bool)
    diagonal[0:6, 0:6] = diagonal[6:12, 6:12] = True
    assert [problem.problem for problem in mask_problems(diagonal)] == ["touches border"]
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    padded = np.pad(ring, 2)
    assert MaskProblem("holes", 1, 1) in mask_problems(padded), "an 8-connected ring encloses its middle"


def test_a_notch_at_the_frame_edge_is_no_hole():
    mask = np.ones((10, 10), bool)
    mask[0:3, 4] = False
    assert "holes" not in {problem.problem for problem in mask_problems(mask)}
    assert (clean_mask(mask) == mask).all()


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_cleaning_against_scipy(mask):
    filled = ndimage.binary_fill_holes(mask)
    labels, parts = ndimage.label(filled, np.ones((3, 3), bool))
    areas = ndimage.sum(filled, labels, range(1, parts + 1))
    kept = [part for part in range(1, parts + 1) if areas[part - 1] >= 16] or [areas.argmax() + 1] if parts else []
    cleaned = clean_mask(mask)
    if parts < 2 or areas.max() >= 16 or (areas == areas.max()).sum() == 1:  # which of small equals stays is tested above
        assert (cleaned == np.isin(labels, kept)).all()
    assert (clean_mask(cleaned) == cleaned).all()
    assert not {"holes", "specks"} & {problem.problem for problem in mask_problems(cleaned)}


def test_670_of_717_gland_masks_hold_specks(real_data):
    masks = [read_mask(path) for path in sorted((real_data / "tg3k" / "thyroid-mask").glob("*.jpg"))]
    found = [{problem.problem for problem in mask_problems(mask)} for mask in masks]
    assert len(found) == 717 and sum("specks" in problems for problems in found) == 670
    cleaned = [clean_mask(mask) for mask in masks]
    assert not any({"specks", "holes"} & {problem.problem for problem in mask_problems(mask)} for mask in cleaned)
    kept = [after.sum() / before.sum() for before, after in zip(masks, cleaned, strict=True)]
    # A gland cut near its end may be marked by 300 pixels, and letters then weigh more.
    assert np.median(kept) > 0.99 and min(kept) > 0.75
