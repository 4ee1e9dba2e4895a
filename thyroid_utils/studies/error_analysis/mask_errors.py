"""Where a predicted mask differs from its truth: which pixels are wrong, and in which part of the nodule.

Every wrong pixel belongs to one part of `LOST_PARTS`. A nodule counts as found and a called region as false by the rule of
`scores.masks.lesion_scores`: an 8-connected part of which at least a tenth lies on the other mask is found, or not false.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import checked_masks
from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.scores.masks import OVERLAP, binarise, surface_scores
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

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
_WHISKER = 1.5  # interquartile ranges above the third quartile, as a box plot's
_SIDE = 64  # cells of a nodule's frame
_BY_RULE = {"missed": MODES["missed"], "false alarm": "false alarm"}


def where_lost(truth: np.ndarray, found: np.ndarray) -> dict[str, float | str]:
    """How the wrong pixels of one image are shared out, and the one mode that they amount to.

    Args:
        truth, found: bool (height, width).

    Returns:
        `wrong_pixels`, those in one mask alone, and name of `LOST_PARTS` → its share of them, in [0, 1], summing to 1; NaN where
        no pixel is wrong.

        - missed: of nodules that are not found; extra: of called regions that are false, wherever they lie;
        - boundary: of the rest those within a ring of the outline of a found nodule, to either side: as wide as a tenth of the
          diameter of a disc of the area of the truth, and at least 2 pixels;
        - core: missed further inside a found nodule; spill: called further outside.

        `mode`, of `MODES`; "" where no pixel is wrong:

        - "missed": no nodule is found and nothing else is called, or missed nodules hold most of the wrong pixels;
        - "wrong place": no nodule is found, and a region elsewhere is called;
        - else the part with the most wrong pixels, the first of `MODES` where parts are equal.

    Raises:
        ValueError: masks of different shapes or of more than two levels.
    """
    truth, found = checked_masks(truth, found, "where_lost")
    wrong = truth ^ found
    total = int(wrong.sum())
    missed, extra = _unmatched(truth, found), _unmatched(found, truth)
    rest = wrong & ~missed & ~extra
    near = _within(truth & ~missed, max(_SMALLEST_RING, _RING_SHARE * np.sqrt(4 * truth.sum() / np.pi)))
    parts = {
        "boundary": rest & near,
        "core": rest & truth & ~near,
        "spill": rest & ~truth & ~near,
        # Pixels of a missed nodule that were called all the same are not wrong.
        "missed": wrong & missed,
        "extra": wrong & extra,
    }
    shares = {name: int(part.sum()) / total if total else np.nan for name, part in parts.items()}
    mode = max((name for name in MODES if name in LOST_PARTS), key=shares.get) if total else ""
    if total and truth.any() and not (truth & ~missed).any():
        mode = "wrong place" if extra.any() else "missed"
    return {"wrong_pixels": total, **shares, "mode": mode}


def mask_row(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float | str]:
    """`where_lost` of one map, called nodule from 0.5, and `confidence`.

    The confidence is the mean probability of the called pixels; where none is called, 1 − the highest probability. Both in
    [0.5, 1].

    Args:
        truth: bool (height, width). probabilities: (height, width), in [0, 1].
    """
    called = binarise(probabilities)
    confidence = float(probabilities[called].mean()) if called.any() else 1 - float(probabilities.max())
    return {"confidence": confidence, **where_lost(truth, called)}


def _unmatched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pixels of the mask's 8-connected parts of which less than a tenth lies on the other mask, bool."""
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
        mean Dice.
    """
    known = table[table["dice"].notna()]
    loss = 1 - known["dice"]
    parts = {label: loss * known[name].fillna(0) for name, label in LOST_PARTS.items()} | {"all": loss}
    rows = {label: {"lost": patient_bootstrap(part, known["patient"])} for label, part in parts.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


class FrameErrors(NamedTuple):
    """maps: float (2, 64, 64), missed and falsely called; NaN in a cell that no image reaches. images: how many they rest on;
    those without a nodule have no such frame."""

    maps: np.ndarray
    images: int


def nodule_frame_errors(truths: Iterable[np.ndarray], founds: Iterable[np.ndarray]) -> FrameErrors:
    """Where in and around a nodule pixels are missed and falsely called, on average, in a frame that every nodule fills alike.

    The frame is centred on the bounding box of the image's largest nodule and twice as wide and as high; the box is its inner
    half. Each axis is scaled on its own, and a cell takes the pixel at its centre. Cells beyond the image count for nothing.

    Args:
        truths, founds: bool (height, width) each, a pair an image, of any sizes; may be generators, one pair is held at a time.

    Returns:
        FrameErrors: share of the images that reach a cell whose pixel there is missed, and falsely called.
    """
    sums, reached, images = np.zeros((2, _SIDE, _SIDE)), np.zeros((_SIDE, _SIDE), int), 0
    for truth, found in zip(truths, founds, strict=True):
        if not truth.any():
            continue
        _, _, parts, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
        left, top, width, height, _ = parts[1 + parts[1:, cv2.CC_STAT_AREA].argmax()].tolist()
        rows, columns = _cells(top, height), _cells(left, width)
        inside = [(cells >= 0) & (cells < length) for cells, length in zip((rows, columns), truth.shape, strict=True)]
        there, here = np.ix_(*inside), np.ix_(rows[inside[0]], columns[inside[1]])
        for number, wrong in enumerate((truth & ~found, found & ~truth)):
            sums[number][there] += wrong[here]
        reached[there] += 1
        images += 1
    with np.errstate(invalid="ignore"):
        return FrameErrors(sums / reached, images)


def _cells(first: int, length: int) -> np.ndarray:
    """The pixel under the centre of each cell of an axis that is twice as long as the box and centred on it; may lie outside."""
    centres = first - length / 2 + (np.arange(_SIDE) + 0.5) * 2 * length / _SIDE
    return np.floor(centres).astype(int)


def hd95_outliers(comparison: SegmenterComparison, model: str) -> pd.DataFrame:
    """The test images of a model's first run whose outline is far off somewhere at their own resolution, and why.

    Outliers lie above the third quartile by more than 1.5 interquartile ranges, both of the images that have a nodule in truth
    and prediction.

    Returns:
        index `case`, the largest first: `dice`, `hd95` and `limit` (pixels; the limit NaN where no image has both),
        `without_extra`, HD95 with false regions taken away, and `cause`: "extra regions" where that falls to the limit, else
        "outline"; or "nodule missed" and "false alarm", whose HD95 is the image's diagonal by rule.
    """
    scores = comparison.tables[model][0].query("resolution == 'own'")
    both = scores["presence"] == "both"
    limit = np.nan
    if both.any():
        low, high = np.quantile(scores.loc[both, "hd95"], [0.25, 0.75])
        limit = float(high + _WHISKER * (high - low))
    table = scores[scores["presence"].isin(list(_BY_RULE)) | (both & (scores["hd95"] > limit))]
    rows = []
    for case, presence in table["presence"].items():
        without, cause = np.nan, _BY_RULE.get(presence)
        if cause is None:
            _, truth, probabilities = comparison.picture(model, case)
            found = binarise(probabilities)
            kept = found & ~_unmatched(found, truth)
            without = surface_scores(truth, kept)["hd95"] if kept.any() else np.nan
            cause = "extra regions" if without <= limit else "outline"
        rows.append((without, cause))
    table = table[["dice", "hd95"]].assign(limit=limit)
    table[["without_extra", "cause"]] = pd.DataFrame(rows, table.index, columns=["without_extra", "cause"])
    return table.sort_values("hd95", ascending=False, kind="stable").rename_axis("case")
