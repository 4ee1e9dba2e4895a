"""The audit of a case table: copies, leaks, mask noise, burned-in marks, in one pass over the files; and the groups of copies.

Copies are images of the same pixels, by a hash, or of nearly the same picture, by correlation.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import ImageError
from thyroid_utils.common.files import file_of
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.overlays import echo_mask, find_overlays, mask_box
from thyroid_utils.data.table import known_patients

SIDE = 32  # side of the thumbnail in pixels
# At 0.9 images of different DDTI patients (at most 0.8) stay apart and four of five neighbouring TG3K frames are paired.
NEAR_CORRELATION = 0.9
_BLOCK = 256  # images that are compared with all others at once
MASK_PROBLEMS = (
    "unreadable", "size mismatch", "empty", "full", "holes", "specks", "several parts", "touches border",
)  # fmt: skip
_IMAGE_COLUMNS = {
    "width": "Int64", "height": "Int64", "pixel_hash": "string", "mask_share": "Float64", "text_regions": "Int64",
    "callipers": "Int64", "problem": "string",
}  # fmt: skip
# In a 256 × 256 frame 16 pixels are a square of 4 × 4, a letter of burned-in text; no nodule or gland is drawn that small.
SPECK_PIXELS = 16
SPECK_SHARE = 0.01
_VIEWS = 2  # whole frame; echo image alone, which finds the same picture in another frame


@dataclass(frozen=True)
class Audit:
    """What an audit found. Tables name cases, never patients.

    Attributes:
        images: one row a case: `width`, `height` (pixels), `pixel_hash`, `mask_share` (mask area over frame area),
            `text_regions`, `callipers` (counts), `readable` and `problem` (one line, NA for a readable image).
        identical: one row a set of pixel-identical images: `cases` (sorted list, two or more), `images` (how many), `patients`
            (how many names they carry; more than one means that the same picture was filed under several patients).
        near: one row a pair that looks the same but is not pixel-identical: `a`, `b`, `correlation` (of local contrast, 0 to 1),
            `same_patient` (NA where the set gives no patients); best pairs first.
        clusters: case → cluster number, by union-find over both kinds of copies; an image without a copy is alone in its cluster.
        masks: one row a case and problem: `case`, `problem`, `count`, `pixels`; see `mask_problems`, and "unreadable" and
            "size mismatch".
    """

    images: pd.DataFrame
    identical: pd.DataFrame
    near: pd.DataFrame
    clusters: pd.Series
    masks: pd.DataFrame

    def leaks(self, cases: pd.DataFrame) -> pd.DataFrame:
        """What lies on more than one side of a split.

        Args:
            cases: the audited case table, or rows of it, with `split` filled; cases without a split are passed over.

        Returns:
            one row a leak: `kind` ("identical images", "near-identical images", "patient"), `splits`, `images` and `cases`.
            A cluster that holds pixel-identical images on two sides is listed as such and not again as near-identical.
        """
        hashes = self.images.loc[cases.index, "pixel_hash"]
        same_pixels = groups_on_both_sides(cases[hashes.notna()], hashes.dropna())
        same_cluster = groups_on_both_sides(cases, self.clusters[cases.index])
        already = {case for members in same_pixels["cases"] for case in members}
        new = [not already.intersection(members) for members in same_cluster["cases"]]
        parts = {
            "identical images": same_pixels,
            "near-identical images": same_cluster[np.array(new, bool)],
            "patient": groups_on_both_sides(cases, cases["patient"]),
        }
        rows = [part.assign(kind=kind) for kind, part in parts.items()]
        return pd.concat(rows, ignore_index=True)[["kind", "splits", "images", "cases"]]

    def summary(self) -> pd.DataFrame:
        """One row a kind of finding, for display: `what`, `count` (sets, pairs, regions), `images` concerned, their `share`."""
        sizes, unreadable = self.clusters.value_counts(), int((~self.images["readable"]).sum())
        across = self.identical[self.identical["patients"] > 1]
        of_others = self.near[~self.near["same_patient"].fillna(True).astype(bool)]
        rows = [("images", len(self.images), len(self.images)), ("unreadable images", unreadable, unreadable)]
        for what, sets in (("sets of pixel-identical images", self.identical), ("… filed under several patients", across)):
            rows.append((what, len(sets), int(sets["images"].sum())))
        for what, pairs in (("pairs of near-identical images", self.near), ("… of different patients", of_others)):
            rows.append((what, len(pairs), len({*pairs["a"], *pairs["b"]})))
        rows.append(("clusters of copies", int((sizes > 1).sum()), int(sizes[sizes > 1].sum())))
        for problem in MASK_PROBLEMS:
            found = self.masks[self.masks["problem"] == problem]
            if len(found):
                rows.append((f"masks: {problem}", int(found["count"].sum()), len(found)))
        for column, name in (("text_regions", "burned-in text regions"), ("callipers", "callipers")):
            counts = self.images[column].fillna(0)
            rows.append((name, int(counts.sum()), int((counts > 0).sum())))
        table = pd.DataFrame(rows, columns=["what", "count", "images"])
        return table.assign(share=table["images"] / max(len(self.images), 1))


def audit_cases(cases: pd.DataFrame, *, workers: int | None = None, progress: Progress | None = None) -> Audit:
    """Look at every image and mask of a case table once.

    Args:
        cases: case table.
        workers: reading threads; None takes one a core, at most four. The result does not depend on it.
        progress: called with (images done, images in all).

    Returns:
        Audit, in the order of `cases`. Unreadable files are listed in it; they do not stop the audit.
    """
    thumbs = np.zeros((_VIEWS, len(cases), SIDE * SIDE), np.float32)
    files = [(image, None if pd.isna(mask) else mask) for image, mask in zip(cases["image"], cases["mask"], strict=True)]

    def look(position: int) -> tuple[dict, list[MaskProblem]]:
        image, mask = files[position]
        row, views = _look_at_image(image, cases.index[position])
        for view, picture in enumerate(views):
            thumbs[view, position] = thumbnail(picture)
        if mask is None:
            return row, []
        share, problems = _look_at_mask(mask, views[0].shape if views else None)
        return row | {"mask_share": share}, problems

    looked = in_threads(look, range(len(cases)), workers, progress)
    rows = pd.DataFrame([row for row, _ in looked], cases.index, columns=list(_IMAGE_COLUMNS), dtype=object)
    images = rows.astype(_IMAGE_COLUMNS)
    images.insert(6, "readable", images["problem"].isna())
    pairs, correlation = near_pairs(thumbs)
    clusters = components(len(cases), pairs, links(images["pixel_hash"]))
    sets = described_groups(cases, images["pixel_hash"])
    masks = [(case, *problem) for case, (_, problems) in zip(cases.index, looked, strict=True) for problem in problems]
    return Audit(
        images=images,
        identical=sets.loc[sets["images"] > 1, ["cases", "images", "patients"]].reset_index(drop=True),
        near=_near(cases, images["pixel_hash"], pairs, correlation),
        clusters=pd.Series(clusters, index=cases.index, name="cluster"),
        masks=pd.DataFrame(masks, columns=["case", "problem", "count", "pixels"]).astype({"case": "string"}),
    )


def _look_at_image(path: str, case: str) -> tuple[dict, list[np.ndarray]]:
    """The image's row of `Audit.images`, and its views: the whole frame and the echo image. One that cannot be read is a finding,
    not an error: `problem` says why (one line, which names the case and no file), and there are no views."""
    try:
        gray = read_gray(path)
    except ImageError as error:
        return {"problem": str(error).replace(str(Path(path)), case)}, []
    echo = echo_mask(gray)
    overlays = find_overlays(gray, echo=echo)
    row = {
        "height": gray.shape[0],
        "width": gray.shape[1],
        "pixel_hash": pixel_hash(gray),
        "text_regions": overlays.text_regions,
        "callipers": overlays.callipers,
    }
    return row, [gray, mask_box(echo).crop(gray)]


def _look_at_mask(path: str, shape: tuple[int, int] | None) -> tuple[float | None, list[MaskProblem]]:
    """Its share of the frame, None where it cannot be read, and its problems; `shape` is its image's, where that is known."""
    try:
        mask = read_mask(path)
    except ImageError:
        return None, [MaskProblem("unreadable", 1, 0)]
    other = [MaskProblem("size mismatch", 1, mask.size)] if shape is not None and mask.shape != shape else []
    return float(mask.mean()), other + mask_problems(mask)


def _near(cases: pd.DataFrame, hashes: pd.Series, pairs: np.ndarray, correlation: np.ndarray) -> pd.DataFrame:
    a, b = (cases.index[side] for side in pairs.T)
    patients = cases["patient"].where(known_patients(cases))
    table = {"a": a, "b": b, "correlation": correlation, "same_patient": patients[a].array == patients[b].array}
    near = pd.DataFrame(table)[hashes[a].to_numpy() != hashes[b].to_numpy()]
    return near.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)


class MaskProblem(NamedTuple):
    """One finding. `count`: how many regions (for "touches border" and "full" 1); `pixels`: how many pixels they hold."""

    problem: str
    count: int
    pixels: int


def mask_problems(mask: np.ndarray) -> list[MaskProblem]:
    """Everything about a mask that deserves a look.

    empty: nothing is marked. full: everything is. holes: background enclosed by the mask. specks: with holes filled, parts
    smaller than `SPECK_PIXELS` or `SPECK_SHARE` of the largest part. several parts: more than one part that is no speck (right
    where there are two nodules; `pixels` counts those outside the largest). touches border: a part that is no speck reaches the
    outermost rows or columns (`pixels` counts those there).

    Args:
        mask: bool (height, width). Parts are 8-connected, holes 4-connected.

    Returns:
        the problems found, in the order above; an empty list for a clean mask.
    """
    if not mask.any():
        return [MaskProblem("empty", 1, 0)]
    if mask.all():
        return [MaskProblem("full", 1, mask.size)]
    found = []
    holes = _holes(mask)
    if holes.any():
        count = cv2.connectedComponents(holes.astype(np.uint8), connectivity=4)[0] - 1
        found.append(MaskProblem("holes", count, int(holes.sum())))
    labels, areas, speck = _parts(mask | holes)
    if speck.any():
        found.append(MaskProblem("specks", int(speck.sum()), int(areas[speck].sum())))
    if (~speck).sum() > 1:
        found.append(MaskProblem("several parts", int((~speck).sum()), int(areas[~speck].sum() - areas.max())))
    edge = np.ones(mask.shape, bool)
    edge[1:-1, 1:-1] = False
    if border := int(np.isin(labels[edge], 1 + np.flatnonzero(~speck)).sum()):
        found.append(MaskProblem("touches border", 1, border))
    return found


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes filled and without its specks, bool (height, width); nothing else is added or removed.

    Holes are filled first, so that cleaning twice is the same as cleaning once. The largest part always stays.
    """
    filled = mask | _holes(mask)
    labels, _, speck = _parts(filled)
    return filled & ~np.isin(labels, 1 + np.flatnonzero(speck))


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, int (height, width), 0 for background; areas of parts 1, 2, … in pixels; which of these are specks."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    speck = areas < max(SPECK_PIXELS, SPECK_SHARE * areas.max(initial=0))
    if len(areas):  # never the largest part, which is the topmost and leftmost of equals
        left, top = stats[1:, cv2.CC_STAT_LEFT], stats[1:, cv2.CC_STAT_TOP]
        speck[np.lexsort((left, top, -areas))[0]] = False
    return labels, areas, speck


def _holes(mask: np.ndarray) -> np.ndarray:
    """Background that no 4-connected path joins to the outside of the frame."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 0, flags=4)
    return outside[1:-1, 1:-1].astype(bool)


def pixel_hash(gray: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of a decoded gray image: its height, its width and its uint8 pixels.

    Two files with the same hash show the same picture, whatever their names, formats, compression or embedded dates.
    """
    digest = hashlib.sha256(f"{gray.shape[0]}x{gray.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(gray, dtype=np.uint8))
    return digest.hexdigest()


@lru_cache(maxsize=200_000)
def _kept_hash(path: str, state: tuple[int, int] | None) -> str:
    return pixel_hash(read_gray(path))


def _hash_of_file(path: str) -> str:
    """The pixel hash of an image file, kept in memory for as long as the file's date and size stay the same."""
    file = file_of(path)
    status = os.stat(file) if os.path.isfile(file) else None
    return _kept_hash(path, status and (status.st_mtime_ns, status.st_size))


def pixel_hashes(cases: pd.DataFrame) -> pd.Series:
    """Pixel hash of every image of a case table: Series of hexadecimal text, index `case`. ImageError as of `read_gray`."""
    return pd.Series(
        in_threads(_hash_of_file, cases["image"].astype(str).tolist()), index=cases.index, dtype="string", name="pixel_hash"
    )


def links(values: pd.Series) -> np.ndarray:
    """Pairs of positions, int (m, 2), that chain equal values together; NA equals nothing."""
    codes = pd.factorize(values)[0]  # NA becomes -1
    order = np.argsort(codes, kind="stable")
    equal = (codes[order][1:] == codes[order][:-1]) & (codes[order][1:] >= 0)
    return np.stack([order[:-1][equal], order[1:][equal]], 1)


def components(count: int, *pairs: np.ndarray) -> np.ndarray:
    """Union-find: the connected components of `count` things under pairs, each int (m, 2).

    Returns:
        int (count,), components numbered from 0 in the order of their first member.

    >>> components(5, np.array([[3, 4], [1, 4]])).tolist()
    [0, 1, 2, 1, 1]
    """
    from scipy.sparse import coo_array  # a tenth of a second to load
    from scipy.sparse.csgraph import connected_components

    first, second = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]


def pixel_groups(cases: pd.DataFrame) -> pd.Series:
    """The unit of a leak-proof split: patients, merged where they share a pixel-identical image.

    Returns:
        string Series, index `case`: the name of the group, which is the first (in sorting order) of its patients.

    Raises:
        ImageError: an image cannot be read.
    """
    patients = cases["patient"]
    numbers = components(len(cases), links(patients), links(pixel_hashes(cases)))
    return patients.groupby(numbers).transform("min") if len(cases) else patients


def described_groups(cases: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """What the groups of a case table hold, one row a group, in the order of the first case.

    Args:
        cases: case table.
        groups: Series case → group; NA is in none.

    Returns:
        `cases` (sorted list), `images` and `patients` (how many), `splits` ("test, train"; "" where none is filled). No group is
        named: it may carry a patient's name.
    """
    rows = []
    for _, members in cases.groupby(groups, sort=False):
        splits = ", ".join(sorted(members["split"].dropna().unique()))
        row = {"cases": sorted(members.index), "images": len(members), "patients": members["patient"].nunique(), "splits": splits}
        rows.append(row)
    return pd.DataFrame(sorted(rows, key=lambda row: row["cases"]), columns=["cases", "images", "patients", "splits"])


def groups_on_both_sides(cases: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Of `described_groups` those with images on more than one side of a split; cases without one are passed over."""
    found = described_groups(cases[cases["split"].notna()], groups)
    return found.loc[found["splits"].str.contains(","), ["splits", "images", "cases"]].reset_index(drop=True)


def thumbnail(gray: np.ndarray) -> np.ndarray:
    """A small picture of local contrast whose scalar product with another one is their correlation.

    The frame is reduced to 32 × 32 by area, each pixel is set against the mean and the spread of its surroundings (Gaussian,
    3 pixels), and the result has mean 0 and length 1. Without the local contrast the bright top and the dark bottom that
    every ultrasound frame has make frames of different patients correlate at up to 0.93; with it they stay below 0.81.

    Args:
        gray: uint8 (height, width).

    Returns:
        float32 (1024,); all 0 for a flat frame, which then correlates with nothing.
    """
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    centred = small - cv2.GaussianBlur(small, (0, 0), 3)
    spread = np.sqrt(cv2.GaussianBlur(centred * centred, (0, 0), 3))
    contrast = (centred / (spread + 6)).ravel()  # 6 gray levels keep the noise of black regions small
    contrast -= contrast.mean()
    length = np.linalg.norm(contrast)
    return contrast / length if length > 1e-3 else np.zeros_like(contrast)


def near_pairs(thumbs: np.ndarray, least: float = NEAR_CORRELATION) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of images that look the same in at least one of their views (whole frame, echo image alone).

    Args:
        thumbs: float32 (views, n, 1024), of `thumbnail`; an image that cannot be read is all 0.
        least: correlation from which they do.

    Returns:
        pairs, int (m, 2) with first < second, in order; correlation, float (m,) rounded to 4 digits (the better view's).
    """
    pairs, correlation = [np.zeros((0, 2), int)], [np.zeros(0)]
    for start in range(0, thumbs.shape[1], _BLOCK):
        best = np.max([view[start : start + _BLOCK] @ view[start:].T for view in thumbs], axis=0)
        # Rounding before the comparison keeps the answer independent of the order in which threads add up.
        row, column = np.nonzero(np.triu(best.round(4) >= least, 1))
        pairs.append(np.stack([row, column], 1) + start)
        correlation.append(best[row, column].round(4).astype(float))
    return np.concatenate(pairs), np.concatenate(correlation)
