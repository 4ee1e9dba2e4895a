"""Distances between outlines by hand, against MONAI and against scipy's distance transform, and by what must always hold."""

from __future__ import annotations

import math
import tracemalloc
import warnings

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies
from scipy import ndimage

from thyroid_utils.scores import surface
from thyroid_utils.scores.surface import surface_distances, surface_scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
    from monai.metrics.utils import get_edge_surface_distance

SPACINGS = [None, (1.0, 1.0), (0.07, 0.07), (0.05, 0.13), (3.0, 0.5)]


def box(rows: slice, columns: slice, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def blobs(seed: int, shape: tuple[int, int] = (40, 55), share: float = 0.25, smooth: float = 3) -> np.ndarray:
    """Smooth random parts: several of them, often at the border, at times with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 1 - share)


def pairs() -> list[tuple[str, np.ndarray, np.ndarray]]:
    one = box(slice(4, 5), slice(7, 8))
    whole = np.ones((20, 30), bool)
    hole = box(slice(3, 15), slice(3, 15)) & ~box(slice(7, 10), slice(7, 10))
    edge = box(slice(0, 6), slice(24, 30))
    made = [
        ("one pixel each", one, box(slice(9, 10), slice(2, 3))),
        ("the same pixel", one, one),
        ("one pixel and a nodule", one, box(slice(2, 15), slice(5, 22))),
        ("at the border", edge, box(slice(0, 9), slice(20, 28))),
        ("in two corners", edge, box(slice(15, 20), slice(0, 4))),
        ("everything", whole, edge),
        ("with a hole", hole, box(slice(3, 15), slice(5, 18))),
        ("a line and two parts", box(slice(5, 6), slice(0, 30)), hole | edge),
    ]
    for seed in range(12):
        share = 0.02 + 0.05 * seed
        made.append((f"blobs {seed}", blobs(seed, share=share), np.roll(blobs(seed, share=share + 0.03), 2, axis=seed % 2)))
    made.append(("unrelated blobs", blobs(20), blobs(21)))
    made.append(("noise", np.random.default_rng(0).random((30, 30)) < 0.5, np.random.default_rng(1).random((30, 30)) < 0.2))
    return made


PAIRS = [pytest.param(truth, prediction, id=name) for name, truth, prediction in pairs()]


def batched(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None]


def by_distance_transform(truth: np.ndarray, prediction: np.ndarray, spacing) -> list[np.ndarray]:
    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction)]
    spacing = (1, 1) if spacing is None else spacing
    return [ndimage.distance_transform_edt(~there, sampling=spacing)[here] for here, there in (outlines, outlines[::-1])]


def test_two_squares_by_hand():
    """3 × 3 pixels moved down by one row: of 8 outline pixels each, 5 lie on the other outline.

    Truth's upper row is 1 above the other outline's upper row; its middle pixels lie on it, and of its lower row the outer two
    do, while the inner one is 1 above the outline below it.
    """
    truth, prediction = box(slice(1, 4), slice(1, 4)), box(slice(2, 5), slice(1, 4))
    there, back = surface_distances(truth, prediction)
    assert there.tolist() == [1, 1, 1, 0, 0, 0, 1, 0]
    assert back.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    # Position 0.95 · 7 = 6.65 lies between two ones.
    assert surface_scores(truth, prediction, tolerance=0.5) == {"hd95": 1.0, "assd": 8 / 16, "nsd": 8 / 16}
    assert surface_scores(truth, prediction)["nsd"] == 1
    # A row is 0.5 mm and a column 0.1: the four pixels that were 1 row off, of each, are now 0.5, but for the one in the middle
    # of a row whose ends lie on the other outline, 0.1 beside it.
    in_mm = surface_scores(truth, prediction, (0.5, 0.1))
    assert in_mm["hd95"] == pytest.approx(0.5) and in_mm["assd"] == pytest.approx((3 * 0.5 + 0.1) * 2 / 16)


def test_the_percentile_is_taken_in_each_direction():
    """A false spot far away is 1 of 13 outline pixels of the prediction and none of the truth's: the larger percentile counts."""
    truth = box(slice(2, 6), slice(2, 6))
    prediction = truth | box(slice(3, 4), slice(20, 21))
    there, back = surface_distances(truth, prediction)
    assert not there.any() and sorted(back)[-2:] == [0, 15]
    # Position 0.95 · 12 = 11.4 of 0 … 12 lies 0.4 of the way from 0 to 15.
    assert surface_scores(truth, prediction)["hd95"] == pytest.approx(0.4 * 15)
    assert surface_scores(truth, prediction)["assd"] == pytest.approx(15 / 25)


def test_a_distance_at_the_tolerance_is_within_it():
    """Three rows of 0.1 mm are 0.30000000000000004 mm."""
    truth, prediction = box(slice(4, 5), slice(7, 8)), box(slice(7, 8), slice(7, 8))
    assert surface_scores(truth, prediction, (0.1, 0.2), tolerance=0.3)["nsd"] == 1
    assert surface_scores(truth, prediction, (0.1, 0.2), tolerance=0.299)["nsd"] == 0


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_scores_are_monais(truth, prediction, spacing):
    tolerance = 2.0 if spacing is None else 2.5 * spacing[0]
    ours = surface_scores(truth, prediction, spacing, tolerance)
    y, y_pred, theirs = batched(truth), batched(prediction), {}
    options = {"include_background": True, "spacing": spacing}
    theirs["hd95"] = compute_hausdorff_distance(y_pred, y, percentile=95, **options).item()
    theirs["assd"] = compute_average_surface_distance(y_pred, y, symmetric=True, **options).item()
    # The tolerance lies between two distances by more than MONAI's float32 loses.
    theirs["nsd"] = compute_surface_dice(y_pred.float(), y.float(), [tolerance * (1 + 1e-6)], **options).item()
    # MONAI's percentile lies between two distances at a position that it rounds to float32, 1e-5 of a step at most. In pixels
    # steps are small enough; for any spacing the percentile of its distances is the same without this rounding.
    assert ours["hd95"] == pytest.approx(theirs.pop("hd95"), rel=1e-6, abs=1e-6 if spacing is None else 1e-5 * max(spacing))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    directions = get_edge_surface_distance(y_pred[0, 0], y[0, 0], spacing=spacing, symmetric=True)[1]
    expected = max(np.percentile(distances.double().numpy(), 95) for distances in directions)
    assert ours["hd95"] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_distances_are_those_of_scipys_transform(truth, prediction, spacing):
    ours, theirs = surface_distances(truth, prediction, spacing), by_distance_transform(truth, prediction, spacing)
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)
    scores = surface_scores(truth, prediction, spacing)
    assert scores["hd95"] == pytest.approx(max(np.percentile(distances, 95) for distances in theirs), rel=1e-12)
    assert scores["assd"] == pytest.approx(np.concatenate(theirs).mean(), rel=1e-12)


@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_trees_give_what_all_pairs_give(truth, prediction, monkeypatch):
    by_pairs = surface_distances(truth, prediction)
    monkeypatch.setattr(surface, "_PAIRS", 0)
    for mine, reference in zip(surface_distances(truth, prediction), by_pairs, strict=True):
        np.testing.assert_array_equal(mine, reference)


@pytest.mark.parametrize("side", [181, 182, 256, 400])
def test_distances_at_the_limit_of_16_bits(side):
    """Two corners of a square are as far apart as two pixels get."""
    truth, prediction = np.zeros((2, side, side), bool)
    truth[0, 0] = prediction[-1, -1] = True
    assert surface_scores(truth, prediction)["hd95"] == pytest.approx(math.hypot(side - 1, side - 1), rel=1e-12)


def test_the_limit_is_as_high_as_16_bits_allow():
    side = surface._LARGEST
    assert 2 * (side - 1) ** 2 < 2**16 <= 2 * (side + 1) ** 2


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (True, False, {"hd95": math.hypot(20, 30), "assd": math.hypot(20, 30), "nsd": 0}),
        (False, True, {"hd95": math.hypot(20, 30), "assd": math.hypot(20, 30), "nsd": 0}),
        (False, False, {"hd95": math.nan, "assd": math.nan, "nsd": math.nan}),
        (True, True, {"hd95": 0, "assd": 0, "nsd": 1}),
    ],
    ids=["missed", "false alarm", "both empty", "both there"],
)
def test_the_four_cases(truth, prediction, expected):
    nodule = box(slice(3, 9), slice(4, 12))
    masks = nodule & truth, nodule & prediction
    assert surface_scores(*masks) == pytest.approx(expected, nan_ok=True)
    if truth != prediction:
        in_mm = surface_scores(*masks, (0.1, 0.2))
        assert in_mm["hd95"] == in_mm["assd"] == pytest.approx(math.hypot(20 * 0.1, 30 * 0.2)) and in_mm["nsd"] == 0


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(strategies.integers(0, 10**6), strategies.floats(0.01, 0.9), strategies.sampled_from(SPACINGS[:4]))
def test_what_holds_for_any_masks(seed, share, spacing):
    random = np.random.default_rng(seed)
    truth, prediction = blobs(seed, (24, 31), share, 2), random.random((24, 31)) < share
    truth[0, 0] = prediction[-1, -1] = True
    scores = surface_scores(truth, prediction, spacing)
    swapped, same = surface_scores(prediction, truth, spacing), surface_scores(truth, truth, spacing)
    assert scores == pytest.approx(swapped, rel=1e-12) and same == {"hd95": 0, "assd": 0, "nsd": 1}
    turned = surface_scores(truth.T, prediction.T, None if spacing is None else spacing[::-1])
    assert scores == pytest.approx(turned, rel=1e-9)
    wider = surface_scores(np.pad(truth, 5), np.pad(prediction, 5), spacing)
    assert scores == pytest.approx(wider, rel=1e-12), "what lies around the masks does not matter"
    assert 0 <= scores["nsd"] <= 1 and scores["assd"] >= 0 and scores["hd95"] <= math.hypot(24, 31) * max(spacing or [1])


def test_large_masks_stay_within_memory():
    """Two 2048² masks with outlines of 5,000 and 4,000 pixels: 20 million pairs would take hundreds of megabytes."""
    rows, columns = np.ogrid[:2048, :2048]
    truth = (rows - 1000) ** 2 + (columns - 1000) ** 2 <= 900**2
    prediction = (rows - 1010) ** 2 + (columns - 1000) ** 2 <= 700**2
    tracemalloc.start()
    scores = surface_scores(truth, prediction)
    megabytes = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    # The farthest point of the outer circle is 210 above the inner one; 190 below.
    assert 205 < scores["hd95"] < 211 and 195 < scores["assd"] < 205 and scores["nsd"] == 0
    assert megabytes < 60


def test_masks_need_not_be_contiguous_or_bool():
    truth, prediction = blobs(3), blobs(4)
    expected = surface_scores(truth, prediction, (0.1, 0.2))
    wide = np.zeros((40, 110), bool)
    wide[:, ::2] = truth
    assert surface_scores(wide[:, ::2], np.asfortranarray(prediction), (0.1, 0.2)) == expected
    assert surface_scores(truth.astype(np.uint8), prediction.astype(float), (0.1, 0.2)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (0.1, 0)}, r"spacing is \(0.1, 0\); expected \(row, column\) in mm"),
        ({"spacing": math.nan}, "spacing is nan"),
        ({"spacing": (1, 1, 1)}, r"spacing is \(1, 1, 1\)"),
        ({"tolerance": -1}, "tolerance is -1; expected a length, 0 or more"),
        ({"tolerance": math.nan}, "tolerance is nan"),
    ],
)
def test_impossible_lengths_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        surface_scores(np.ones((4, 5), bool), np.ones((4, 5), bool), **options)


def test_distances_to_an_empty_mask_are_infinite():
    nodule, nothing = box(slice(3, 9), slice(4, 12)), np.zeros((20, 30), bool)
    there, back = surface_distances(nodule, nothing)
    assert len(there) == 2 * 8 + 2 * 4 and np.isinf(there).all() and not len(back)
    assert [len(side) for side in surface_distances(nothing, nodule)] == [0, 24]
