"""Where a predicted mask differs from its truth: which pixels are wrong, and in which part of the nodule.

Every wrong pixel belongs to one part of `LOST_PARTS`. A nodule counts as found and a called region as false by the rule of
`scores.masks.lesion_scores`: an 8-connected part of which at least a tenth lies on the other mask is found, or not false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import checked_masks
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap
from thyroid_utils.scores.masks import OVERLAP
from thyroid_utils.scores.surface import surface_scores

# Name in code → name in a table.
LOST_PARTS = {
    "boundary": "boundary ring",
    "core": "core of a found nodule, missed",
    "spill": "spilt beyond the ring",
    "missed": "missed nodules",
    "extra": "extra regions",
}
# What goes wrong in an image: name in code → name in a table.
MODES = {
    "missed": "nodule missed",
    "wrong place": "wrong place",
    "extra": "extra regions",
    "core": "under-segmented",
    "spill": "over-segmented",
    "boundary": "boundary only",
}
_RING_SHARE = 0.1  # of the diameter of a disc of the nodules' area: shrinking a disc by so much leaves a Dice of 0.78
_SMALLEST_RING = 2.0
WHISKER = 1.5  # interquartile ranges above the third quartile, as a box plot's
_BY_RULE = {"missed": MODES["missed"], "false alarm": "false alarm"}


class FrameErrors(NamedTuple):
    """maps: float (2, side, side), missed and falsely called; NaN in a cell that no image reaches. images: how many they rest on.
    left_out: images without a nodule, which have no such frame."""

    maps: np.ndarray
    images: int
    left_out: int


def where_lost(truth: np.ndarray, found: np.ndarray, ring: float | None = None) -> dict[str, float]:
    """How the wrong pixels of one image are shared out.

    Args:
        truth, found: bool (height, width).
        ring: how far the boundary reaches to either side of the outline of a found nodule, in pixels; None takes a tenth of the
            diameter of a disc of the area of the truth, at least 2.

    Returns:
        `wrong`, the pixels in one mask alone, and name of `LOST_PARTS` → its share of them, in [0, 1], summing to 1; NaN where
        no pixel is wrong.

        - missed: of nodules that are not found; extra: of called regions that are false, wherever they lie;
        - boundary: of the rest those within `ring` of the outline;
        - core: missed further inside a found nodule; spill: called further outside.

        `ring` in pixels as used, NaN where the truth is empty.

    Raises:
        ValueError: masks of different shapes or of more than two levels, or a ring below 0.
    """
    truth, found = checked_masks(truth, found, "where_lost")
    if ring is not None and not 0 <= ring < np.inf:
        raise ValueError(f"where_lost: ring is {ring}; expected a number of pixels from 0, or None")
    area = int(truth.sum())
    if ring is None:
        ring = max(_SMALLEST_RING, _RING_SHARE * np.sqrt(4 * area / np.pi))
    wrong = truth ^ found
    total = int(wrong.sum())
    missed, extra = _unmatched(truth, found), _unmatched(found, truth)
    rest = wrong & ~missed & ~extra
    near = _within(truth & ~missed, ring)
    parts = {
        "boundary": rest & near,
        "core": rest & truth & ~near,
        "spill": rest & ~truth & ~near,
        # Pixels of a missed nodule that were called all the same are not wrong.
        "missed": wrong & missed,
        "extra": wrong & extra,
    }
    shares = {name: int(part.sum()) / total if total else np.nan for name, part in parts.items()}
    return {"wrong": total, **shares, "ring": ring if area else np.nan}


def failure_mode(truth: np.ndarray, found: np.ndarray, ring: float | None = None) -> str | None:
    """The one mode of `MODES` that an image's wrong pixels amount to; None where no pixel is wrong.

    - "missed": no nodule is found and nothing else is called, or missed nodules hold most of the wrong pixels;
    - "wrong place": no nodule is found, and a region elsewhere is called;
    - else the part of `LOST_PARTS` with the most wrong pixels, the first of `MODES` where parts are equal.

    Arguments and errors as for `where_lost`.
    """
    lost = where_lost(truth, found, ring)
    truth, found = checked_masks(truth, found, "failure_mode")
    if not lost["wrong"]:
        return None
    if truth.any() and not (truth & ~_unmatched(truth, found)).any():
        return "wrong place" if lost["extra"] > 0 else "missed"
    return max((name for name in MODES if name in LOST_PARTS), key=lost.get)


def without_extra(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The called mask without its false regions, bool (height, width)."""
    truth, found = checked_masks(truth, found, "without_extra")
    return found & ~_unmatched(found, truth)


def _unmatched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pixels of the mask's 8-connected parts of which less than a tenth lies on the other mask, bool."""
    if not mask.any():
        return np.zeros(mask.shape, bool)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)
    shared = np.bincount(labels[mask & other], minlength=count)
    alone = shared < OVERLAP * areas - 1e-9
    alone[0] = False
    return alone[labels]


def _within(mask: np.ndarray, distance: float) -> np.ndarray:
    """Pixels at most `distance` from the mask's outline, to either side, bool; a pixel beside the outline is at distance 1."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, bool)
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (mask, ~mask))
    return np.where(mask, inside, outside) <= distance + 1e-4  # single precision


def lost_dice(table: pd.DataFrame) -> pd.DataFrame:
    """How many points of Dice each part of `LOST_PARTS` costs: the mean over images of (1 − Dice) · its share of wrong pixels.

    1 − Dice = (FP + FN) / (2TP + FP + FN) grows with the wrong pixels, so that an image's loss is shared out as they are.

    Args:
        table: a row an image: `patient`, `dice` and the columns of `where_lost`; images without Dice are left out.

    Returns:
        index part (labels of `LOST_PARTS`, then "all"): `lost`, an `Estimate` over patients, in [0, 1], the parts summing to 1 −
        mean Dice; `share` of all that is lost, an `Estimate`, the ratio of the sums, NaN where nothing is.
    """
    known = table[table["dice"].notna()]
    loss = 1 - known["dice"].to_numpy(float)
    rows = {}
    for name, label in LOST_PARTS.items():
        part = loss * np.nan_to_num(known[name].to_numpy(float))
        rows[label] = {"lost": patient_bootstrap(part, known["patient"]), "share": _ratio(part, loss, known["patient"])}
    rows["all"] = {"lost": patient_bootstrap(loss, known["patient"]), "share": _ratio(loss, loss, known["patient"])}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def _ratio(part: np.ndarray, whole: np.ndarray, patients: pd.Series) -> Estimate:
    """Σ part / Σ whole with its interval over patients; resamples that lose nothing count as none lost to this part."""
    if not whole.sum() > 0:
        return Estimate(np.nan, np.nan, np.nan, len(whole), patients.nunique())

    def ratio(drawn: np.ndarray) -> float:
        lost, total = drawn.sum(axis=0)
        return lost / total if total else 0.0

    return patient_bootstrap(np.column_stack([part, whole]), patients, ratio)


def nodule_frame_errors(truths: Iterable[np.ndarray], founds: Iterable[np.ndarray], side: int = 64) -> FrameErrors:
    """Where in and around a nodule pixels are missed and falsely called, on average, in a frame that every nodule fills alike.

    The frame is centred on the bounding box of the image's largest nodule and twice as wide and as high; the box is its inner
    half. Each axis is scaled on its own, and a cell takes the pixel at its centre. Cells beyond the image count for nothing.

    Args:
        truths, founds: bool (height, width) each, a pair an image, of any sizes; may be generators, one pair is held at a time.
        side: cells.

    Returns:
        FrameErrors: share of the images that reach a cell whose pixel there is missed, and falsely called.

    Raises:
        ValueError: `side` below 2, masks that are refused, or not as many of one as of the other.
    """
    if isinstance(side, bool) or not isinstance(side, int) or side < 2:
        raise ValueError(f"nodule_frame_errors: side is {side!r}; expected a whole number of cells from 2")
    sums, reached = np.zeros((2, side, side)), np.zeros((side, side), int)
    images = left_out = 0
    for truth, found in zip(truths, founds, strict=True):
        truth, found = checked_masks(truth, found, "nodule_frame_errors")
        if not truth.any():
            left_out += 1
            continue
        rows, columns = (_cells(*bounds, side) for bounds in _box(truth))
        inside = [(cells >= 0) & (cells < length) for cells, length in zip((rows, columns), truth.shape, strict=True)]
        there = np.ix_(*inside)
        here = np.ix_(rows[inside[0]], columns[inside[1]])
        for number, wrong in enumerate((truth & ~found, found & ~truth)):
            sums[number][there] += wrong[here]
        reached[there] += 1
        images += 1
    with np.errstate(invalid="ignore"):
        return FrameErrors(sums / reached, images, left_out)


def _box(mask: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(first row, rows) and (first column, columns) of the mask's largest part."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top, width, height, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()].tolist()
    return (top, height), (left, width)


def _cells(first: int, length: int, side: int) -> np.ndarray:
    """The pixel under the centre of each cell of an axis that is twice as long as the box and centred on it; may lie outside."""
    centres = first - length / 2 + (np.arange(side) + 0.5) * 2 * length / side
    return np.floor(centres).astype(int)


def outliers_of(
    scores: pd.DataFrame, masks: Callable[[str], tuple[np.ndarray, np.ndarray]], whisker: float = WHISKER
) -> pd.DataFrame:
    """The images whose outline is far off somewhere, and why.

    Args:
        scores: index case; `patient`, `dice`, `hd95` (pixels) and `presence` (of `scores.masks.segmentation_table`).
        masks: gives a case's truth and called mask, bool (height, width); asked for outliers alone.
        whisker: outliers lie above the third quartile by more than so many interquartile ranges, both of the images that have a
            nodule in truth and prediction.

    Returns:
        index `case`, the largest first: `patient`, `dice`, `hd95` and `limit` (pixels; the limit NaN where no image has both),
        `without_extra`, HD95 with false regions taken away, and `cause`: "extra regions" where that falls to the limit, else
        "outline"; or "nodule missed" and "false alarm", whose HD95 is the image's diagonal by rule.
    """
    both = scores.loc[scores["presence"] == "both", "hd95"]
    limit = np.nan
    if len(both):
        low, high = np.quantile(both, [0.25, 0.75])
        limit = float(high + whisker * (high - low))
    chosen = scores[scores["presence"].isin(list(_BY_RULE)) | ((scores["presence"] == "both") & (scores["hd95"] > limit))]
    rows = [_outlier(row, masks(row.Index), limit) for row in chosen.itertuples()]
    table = chosen[["patient", "dice", "hd95"]].assign(limit=limit)
    table["without_extra"] = [row[0] for row in rows]
    table["cause"] = pd.Series([row[1] for row in rows], table.index, dtype="string")
    return table.sort_values("hd95", ascending=False, kind="stable").rename_axis("case")


def _outlier(row, pair: tuple[np.ndarray, np.ndarray], limit: float) -> tuple[float, str]:
    truth, found = pair
    if row.presence in _BY_RULE:
        return np.nan, _BY_RULE[row.presence]
    left = without_extra(truth, found)
    without = surface_scores(truth, left)["hd95"] if left.any() else np.nan
    return without, "extra regions" if without <= limit else "outline"
