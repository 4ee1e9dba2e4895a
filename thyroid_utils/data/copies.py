"""Copies of images and what they tie together: the same pixels by a hash, nearly the same picture by correlation.

For near-identical images a perceptual hash proposes pairs, and the correlation of small pictures decides.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray

SIDE = 32  # side of the thumbnail in pixels
HASH_BITS = 64
# Every pair of DDTI and TG3K frames that correlates at 0.9 or more differs in at most 16 of the 64 bits.
HASH_DISTANCE = 16
# At 0.9 images of different DDTI patients (at most 0.8) stay apart and four of five neighbouring TG3K frames are paired.
NEAR_CORRELATION = 0.9
_BLOCK = 256

Result = TypeVar("Result")


def kept_for_file(look: Callable[[np.ndarray], Result], files: int) -> Callable[[str], Result]:
    """`look(gray)` of an image file by its path, kept in memory for as long as the file's date and size stay the same.

    Args:
        look: what is made of the image, uint8 (height, width).
        files: of how many files at most the results are kept.
    """

    @lru_cache(maxsize=files)
    def kept(path: str, modified_ns: int, size: int) -> Result:
        return look(read_gray(path))

    def looked_at(path: str) -> Result:
        try:
            state = os.stat(path)
        except OSError:
            return look(read_gray(path))  # raises the ImageError that says what is wrong with the path
        return kept(path, state.st_mtime_ns, state.st_size)

    return looked_at


def pixel_hash(gray: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of a decoded gray image: its height, its width and its uint8 pixels.

    Two files with the same hash show the same picture, whatever their names, formats, compression or embedded dates.
    """
    digest = hashlib.sha256(f"{gray.shape[0]}x{gray.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(gray, dtype=np.uint8))
    return digest.hexdigest()


_hash_of_file = kept_for_file(pixel_hash, 200_000)


def _hash_or_error(path: str) -> str | ImageError:
    try:
        return _hash_of_file(path)
    except ImageError as error:
        return error


def pixel_hashes(cases: pd.DataFrame, progress: Progress | None = None) -> pd.Series:
    """Pixel hash of every image of a case table: Series of hexadecimal text, index `case`.

    Args:
        cases: case table; only its column `image` is read.
        progress: called with (images done, images in all).

    Raises:
        DataError: at least one image cannot be read; the message counts them and names the first.
    """
    results = in_threads(_hash_or_error, cases["image"].astype(str).tolist(), progress=progress)
    failed = {case: result for case, result in zip(cases.index, results, strict=True) if isinstance(result, ImageError)}
    if failed:
        first = min(failed)
        raise DataError(f"{len(failed)} of {len(cases)} images cannot be read (first: case {first}: {failed[first]})")
    return pd.Series(results, index=cases.index, dtype="string", name="pixel_hash")


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


def pixel_groups(cases: pd.DataFrame, progress: Progress | None = None) -> pd.Series:
    """The unit of a leak-proof split: patients, merged where they share a pixel-identical image.

    Args:
        cases: case table.
        progress: as in `pixel_hashes`.

    Returns:
        string Series, index `case`: the name of the group, which is the first (in sorting order) of its patients.

    Raises:
        DataError: an image cannot be read.
    """
    patients = patient_groups(cases)
    numbers = components(len(cases), links(patients), links(pixel_hashes(cases, progress)))
    return patients.groupby(numbers).transform("min") if len(cases) else patients


def patient_groups(cases: pd.DataFrame) -> pd.Series:
    """The patients as they are named in the table, in the form of `pixel_groups`; no image is read."""
    return cases["patient"].astype("string").rename("group")


def groups_on_both_sides(cases: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """The groups with images on more than one side of a split.

    Args:
        cases: case table with `split`; cases without one are passed over.
        groups: Series case → group.

    Returns:
        one row a group, in the order of the first case: `splits` ("test, train"), `images` (how many) and `cases` (sorted list).
        No group is named: it may carry a patient's name.
    """
    placed = cases[cases["split"].notna()]
    rows = []
    for _, members in placed.groupby(groups[placed.index], sort=False):
        sides = sorted(members["split"].unique())
        if len(sides) > 1:
            rows.append({"splits": ", ".join(sides), "images": len(members), "cases": sorted(members.index)})
    return pd.DataFrame(sorted(rows, key=lambda row: row["cases"]), columns=["splits", "images", "cases"])


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


def perceptual_hash(thumb: np.ndarray) -> np.ndarray:
    """64 bits as -1 and +1: whether each of the 8 × 8 lowest cosine coefficients exceeds their median (pHash).

    Args:
        thumb: float32 (1024,), as `thumbnail` makes it.

    Returns:
        int8 (64,). The number of differing bits of two hashes is (64 - a·b) / 2.
    """
    low = cv2.dct(thumb.reshape(SIDE, SIDE))[:8, :8].ravel()
    return np.where(low > np.median(low), 1, -1).astype(np.int8)


def near_pairs(thumbs: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images that look the same in at least one of their views (whole frame, echo image alone).

    Args:
        thumbs: float32 (views, n, 1024), of `thumbnail`; an image that cannot be read is all 0.
        hashes: int8 (views, n, 64), of `perceptual_hash`.

    Returns:
        pairs, int (m, 2) with first < second, in order; correlation, float (m,) rounded to 4 digits (the better view's);
        distance, int (m,), differing bits of that view's hashes.
    """
    views, count, _ = thumbs.shape
    signs = hashes.astype(np.float32)
    found = [(np.zeros((0, 2), int), np.zeros(0), np.zeros(0, int))]
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        best = np.zeros((rows.stop - start, count - start), np.float32)
        bits = np.zeros(best.shape, np.int16)
        for view in range(views):
            distance = (HASH_BITS - signs[view, rows] @ signs[view, start:].T) / 2
            proposed = np.triu(distance <= HASH_DISTANCE, 1)
            columns = np.flatnonzero(proposed.any(0))
            correlation = thumbs[view, rows] @ thumbs[view, start + columns].T
            better = proposed[:, columns] & (correlation > best[:, columns])
            row, column = np.nonzero(better)
            best[row, columns[column]] = correlation[row, column]
            bits[row, columns[column]] = distance[row, columns[column]]
        # Rounding before the comparison keeps the answer independent of the order in which threads add up.
        best = best.round(4)
        row, column = np.nonzero(best >= NEAR_CORRELATION)
        found.append((np.stack([row + start, column + start], 1), best[row, column].astype(float), bits[row, column].astype(int)))
    pairs, correlation, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    return pairs, correlation, distance
