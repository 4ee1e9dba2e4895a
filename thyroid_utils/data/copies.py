"""Copies of images and what they tie together: the same pixels by a hash, nearly the same picture by correlation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.progress import in_threads
from thyroid_utils.data.images import read_gray

SIDE = 32  # side of the thumbnail in pixels
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
