"""Do burned-in text, ticks and callipers attract a network: frames with their marks against the same with them painted over.

Where a map lies on the marks proves little: callipers are set where the nodule is. So the same pixels are asked twice, with the
marks kept and with them painted over by the preprocessing step `remove_overlays` (inpainted inside the echo image, blanked
outside). What the map loses there by the painting is what the marks themselves attracted. Whether the network *uses* them shows
in the probability, held against a placebo: as much of the same paint elsewhere, inside the echo image.

Marks are found by `data.overlays`, which can miss faint ones and take bright echoes for letters; a map is as fine as the layer
that it comes from (7 × 7 cells for ResNet18 at 224 pixels), and smears what a thin mark attracts over its neighbours. A map that
ignores the marks therefore does not prove that the network does; the probability is the better witness. Whether the marks are
gone is measured by what is found in the painted frame at twice its size, where small letters are large enough to be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, number, p_value, share
from thyroid_utils.data.images import read_gray
from thyroid_utils.data.overlays import echo_mask, find_overlays
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import Pipeline, for_each_case
from thyroid_utils.preprocess.steps import CropEcho, RemoveOverlays, Sample, Step
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.studies.grad_cam import ALPHA, MapStudy

# What `shortcut_table` compares: row → the two columns, as `_measures` makes them.
COMPARED = {
    "energy on marks, kept − painted over": ("energy_kept", "energy_removed"),
    "energy on marks, kept − area share": ("energy_kept", "chance"),
    "probability, kept − painted over": ("probability_kept", "probability_removed"),
    "probability moved by, marks − placebo": ("moved_by_removal", "moved_by_placebo"),
    "calls changed by, marks − placebo": ("changed_by_removal", "changed_by_placebo"),
    "area painted, marks − placebo": ("area_removal", "area_placebo"),
}
MOST_LEFT = 0.1  # share of the marks that painting may leave; more can still be read
LIKE_AREA = 0.8  # of the marks' area that the placebo must paint
TRIVIAL = 0.02  # of probability: what moves it by less decides nothing
_BLOCK = 32  # images in memory at once, three times each


@dataclass(frozen=True)
class MarkPairs:
    """What a network sees of n frames with their marks and without.

    Attributes:
        kept, removed, placebo: float32 (n, channels, height, width): as they are; with the marks painted over; with as much of
            the echo image painted over instead.
        marks: bool (n, height, width), network pixels of which painting the marks over changes any part; none where preprocessing
            crops, blanks or paints them over itself. Where a frame is enlarged, interpolation carries a mark half a frame pixel
            beyond them.
        table: index `case`: `marks` and `placebo` (shares of the network's pixels that the two ways of painting change), `left`
            (share of the drawn pixels that is still found in the painted frame, NaN without any), `callipers` and `text_regions`
            (counts in the whole frame).
    """

    kept: np.ndarray
    removed: np.ndarray
    placebo: np.ndarray
    marks: np.ndarray
    table: pd.DataFrame


def mark_pairs(pipeline: Pipeline, cases: pd.DataFrame) -> MarkPairs:
    """Preprocess each frame three times: with its marks, with them painted over, and with the placebo.

    All three are cropped alike: the crop is that of the untouched frame, as `crop_echo` finds another box in two of five painted
    frames of DDTI, and what moved with the box would be taken for the marks' doing.

    Args:
        pipeline: of a `Predictor`.
        cases: one or more rows of a case table; each needs memory of three inputs.

    Raises:
        DataError: an image that cannot be read.
    """
    found = for_each_case(lambda case: _pair(pipeline, read_gray(case["image"])), cases)
    inputs, marks, rows = zip(*found, strict=True)
    kept, removed, placebo = (np.stack(images) for images in zip(*inputs, strict=True))
    return MarkPairs(kept, removed, placebo, np.stack(marks), pd.DataFrame(rows, index=cases.index.rename("case")))


def _pair(pipeline: Pipeline, gray: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, dict]:
    """Inputs (kept, removed, placebo), marks on the network's grid and the row of the table, of one frame uint8."""
    echo = echo_mask(gray)
    found, painter = find_overlays(gray, echo=echo), RemoveOverlays()
    crops = [number for number, step in enumerate(pipeline.steps, start=1) if isinstance(step, CropEcho)]
    cut = max(crops, default=0)  # behind the last crop each image goes its own way
    near = cv2.dilate(echo.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0  # what crops leave, by their default margin
    elsewhere = _elsewhere(found.mask & near if crops else found.mask, echo)
    placebo = cv2.inpaint(gray, elsewhere.astype(np.uint8), painter.radius, cv2.INPAINT_TELEA) if elsewhere.any() else gray
    painted = painter.change(gray)
    kept, removed, placebo = _cropped([gray, painted, placebo], pipeline.steps[:cut])
    samples = [replace(pipeline, steps=pipeline.steps[cut:])(image) for image in (kept, removed, placebo)]
    marks = np.zeros(samples[0].image.shape[1:], bool)
    if not any(step.name == "remove_overlays" for step in pipeline.steps):
        marks = any_part(kept != removed, samples[0].geometry)
    row = {
        "marks": float(marks.mean()),
        "placebo": float(any_part(kept != placebo, samples[0].geometry).mean()),
        "left": _still_found(painted, echo) / found.mask.mean() if found.mask.any() else np.nan,
        "callipers": found.callipers,
        "text_regions": found.text_regions,
    }
    return [sample.image for sample in samples], marks, row


def _elsewhere(marks: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """As many pixels as are painted for the marks, in the echo image and not near a mark, bool: the marks mirrored left to right
    and, until there are as many, moved on by quarters of the frame."""
    wide = cv2.dilate(marks.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)  # as wide as the step paints
    free = echo & ~cv2.dilate(wide.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    found, wanted = np.zeros_like(marks), int(wide.sum())
    for down, right in np.ndindex(4, 4):
        by = down * marks.shape[0] // 4, right * marks.shape[1] // 4
        more = np.flatnonzero(np.roll(wide[:, ::-1], by, (0, 1)) & free & ~found)
        found.flat[more[: wanted - int(found.sum())]] = True
    return found


def _still_found(painted: np.ndarray, echo: np.ndarray) -> float:
    """The share of a frame in which marks are found at twice its size."""
    double = cv2.resize(painted, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return float(find_overlays(double, echo.repeat(2, axis=0).repeat(2, axis=1)).mask.mean())


def _cropped(images: list[np.ndarray], steps: Sequence[Step]) -> list[np.ndarray]:
    """Gray frames after some steps, each cropped and blanked as the first one is."""
    for step in steps:
        if isinstance(step, CropEcho):
            places = np.arange(images[0].size).reshape(images[0].shape)  # cut as a mask would be
            first = step(Sample(images[0], places, Geometry.of(images[0])))
            blanked = (first.image == 0) & (images[0].ravel()[first.mask] != 0)
            images = [np.where(blanked, np.uint8(0), image.ravel()[first.mask]) for image in images]
        else:
            images = [step(Sample(image, None, Geometry.of(image))).image for image in images]
    return images


def any_part(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A mask of a frame on the grid of the image made from it: True where any part of the image's pixel is.

    Args:
        mask: bool, `geometry.frame`.
        geometry: of the preprocessed image.

    Returns:
        bool, `geometry.shape`; False where the image reaches beyond the frame.
    """
    bounds = []
    for axis in (0, 1):
        edges = geometry.offset[axis] + geometry.scale[axis] * np.arange(geometry.shape[axis] + 1)
        # 1e-9: an edge that should lie on a whole pixel must not reach into the next by rounding.
        first, last = np.floor(edges[:-1] + 1e-9).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
        bounds.append((np.clip(first, 0, mask.shape[axis]), np.clip(last, 0, mask.shape[axis])))
    (top, bottom), (left, right) = bounds
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    return counts > 0


def text_attention(marks: np.ndarray, kept: np.ndarray, removed: np.ndarray, cases: Sequence[str]) -> pd.DataFrame:
    """Share of each map's sum on the marks' pixels, with the marks kept and with them painted over.

    Args:
        marks: bool (n, height, width), of `MarkPairs`.
        kept, removed: maps of the two, at least 0, (n, height, width).
        cases: ids for the index.

    Returns:
        DataFrame, index `case`: `energy_kept`, `energy_removed` and `chance` (the marks' share of the area: what a uniform map
        has), each in [0, 1]; NaN without marks, and an energy NaN for a blank map.
    """
    found = pd.DataFrame(index=pd.Index(list(cases), name="case"))
    for name, maps in (("energy_kept", kept), ("energy_removed", removed)):
        total = maps.sum(axis=(1, 2), dtype=float)
        found[name] = (maps * marks).sum(axis=(1, 2), dtype=float) / np.where(total > 0, total, np.nan)
    found["chance"] = marks.mean(axis=(1, 2))
    found.loc[~marks.any(axis=(1, 2))] = np.nan
    return found


def shortcut_scores(study: MapStudy) -> pd.DataFrame:
    """Everything the shortcut test asks of a classifier, image by image; memory is that of one block.

    Args:
        study: of a classification run.

    Returns:
        DataFrame, index `case`: the columns of `MarkPairs.table` and of `text_attention`, and `probability_kept`,
        `probability_removed`, `probability_placebo` of malignancy, these two NaN where there was nothing to paint.

    Raises:
        DataError: an image that cannot be read.
    """
    bar, tables, done = progress_bar("Painting marks over"), [], 0
    for part in study.parts():
        predictor, cases = part.predictor, part.predictor.cases.loc[part.images.index]
        for start in range(0, len(cases), _BLOCK):
            pairs = mark_pairs(predictor.pipeline, cases.iloc[start : start + _BLOCK])
            shown = pairs.table["marks"].to_numpy() > 0
            painted = pairs.table["placebo"].to_numpy() > 0
            told = {name: predictor.probabilities(getattr(pairs, name)) for name in ("kept", "removed", "placebo")}
            kept, removed = (part.maps_of(predictor.network, images).maps for images in (pairs.kept, pairs.removed))
            found = pairs.table.join(text_attention(pairs.marks, kept, removed, pairs.table.index))
            found["probability_kept"] = told["kept"]
            found["probability_removed"] = np.where(shown, told["removed"], np.nan)
            found["probability_placebo"] = np.where(shown & painted, told["placebo"], np.nan)
            tables.append(found)
            done += len(found)
            bar(done, len(study.images))
    return pd.concat(tables).loc[study.images.index]


def shortcut_table(scores: pd.DataFrame, patients: Sequence[str], threshold: float | pd.Series) -> pd.DataFrame:
    """The paired comparisons of the shortcut test, over patients. For callipers alone give the rows with `callipers` above 0.

    Args:
        scores: of `shortcut_scores`.
        patients: the patient of each row.
        threshold: at or above this probability an image is called malignant; one of all, or of each row.

    Returns:
        DataFrame, index `measure` (`COMPARED`): `comparison` (`Comparison` of the two means), `images` compared, `patients`, and
        `left_out` (images without marks or placebo, or with a blank map). The probability moved is |difference|.
    """
    measures, kept = scores.copy(), scores["probability_kept"]
    for way, name, area in (("removal", "removed", "marks"), ("placebo", "placebo", "placebo")):
        other = scores[f"probability_{name}"]
        measures[f"moved_by_{way}"] = (kept - other).abs()
        measures[f"changed_by_{way}"] = ((kept >= threshold) != (other >= threshold)).where(other.notna())
        measures[f"area_{way}"] = scores[area].where(scores["probability_placebo"].notna())
    rows = []
    for name, (first, second) in COMPARED.items():
        found = compare_means(measures[first], measures[second], patients)
        counts = {"images": found.images, "patients": found.patients, "left_out": len(scores) - found.images}
        rows.append({"measure": name, "comparison": found, **counts})
    return pd.DataFrame(rows).set_index("measure")


def shortcut_answer(table: pd.DataFrame, scores: pd.DataFrame) -> str:
    """The shortcut test's answer in words: do the marks attract the map, and does the network see them.

    It is said to see them where an image moves by more without its marks than under the placebo (p < 0.05) and by enough to
    matter; not at all where the marks are still to be read or where the placebo is smaller than they are.

    Args:
        table: of `shortcut_table`.
        scores: of `shortcut_scores`, of the same images.
    """
    energy, chance, shift, moved, changed, area = (table.at[name, "comparison"] for name in COMPARED)
    if not shift.images:
        return "No image shows the network a burned-in mark: there is nothing to test."
    held = f"hold {share(energy.first, 1)} of the map's energy and {share(energy.second, 1)} once painted over, on "
    verdict = _verdict(moved, area, scores.loc[scores["marks"] > 0, "left"].mean())
    return (
        f"Marks are visible in {count(shift.images, 'image')}. They {held if energy.images else 'have '}"
        f"{share(chance.second, 1)} of the area. An image moves by {number(moved.first, 3)} in probability without them, by "
        f"{number(moved.second, 3)} under as much paint elsewhere ({p_value(moved.p_value)}); {share(changed.first, 1)} of calls "
        f"change, {share(changed.second, 1)} by the placebo. {verdict}"
    )


def _verdict(moved: Comparison, area: Comparison, left: float) -> str:
    why = ""
    if left > MOST_LEFT:
        why = f"painted over, {share(left)} of them can still be found"
    elif not area.second >= LIKE_AREA * area.first:
        why = f"the placebo covers {share(area.second, 1)} of the area, they {share(area.first, 1)}"
    elif np.isnan(moved.p_value):
        why = moved.note or "there is no test"
    if why:
        return f"This run cannot say whether the network sees them: {why}."
    if moved.p_value >= ALPHA or moved.difference < 0:
        return "The network is not shown to see them."
    return "The network sees them." if moved.difference >= TRIVIAL else "That is too little to matter."
