"""What a pixel is worth as an identity: exact hashes of decoded images, and the patients that share one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray


def pixel_hash(gray: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of a decoded gray image: its height, its width and its uint8 pixels.

    Two files with the same hash show the same picture, whatever their names, formats, compression or embedded dates.
    """
    digest = hashlib.sha256(f"{gray.shape[0]}x{gray.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(gray, dtype=np.uint8))
    return digest.hexdigest()


@lru_cache(maxsize=200_000)
def _hash_of_file(path: str, modified_ns: int, size: int) -> str:
    return pixel_hash(read_gray(path))


def file_pixel_hash(path: str | Path) -> str:
    """Pixel hash of an image file, kept in memory for as long as the file's date and size stay the same.

    Raises:
        ImageError: the file is missing or cannot be read as an image.
    """
    try:
        state = os.stat(path)
    except OSError:
        return pixel_hash(read_gray(path))  # raises the ImageError that says what is wrong with the path
    return _hash_of_file(str(path), state.st_mtime_ns, state.st_size)


def pixel_hashes(cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None) -> pd.Series:
    """Pixel hash of every image of a case table: Series of hexadecimal text, index `case`.

    Args:
        cases: case table; only its column `image` is read.
        workers: decoding threads; None takes one a core, at most four.
        progress: called with (images done, images in all).

    Raises:
        DataError: at least one image cannot be read; the message counts them and names the first.
    """
    paths = cases["image"].astype(str).tolist()
    results = in_threads(_hash_or_error, paths, workers, progress)
    failed = [(case, result) for case, result in zip(cases.index, results, strict=True) if isinstance(result, ImageError)]
    if failed:
        case, error = min(failed, key=lambda failure: failure[0])
        raise DataError(f"{len(failed)} of {len(paths)} images cannot be read (first: case {case}: {error})")
    return pd.Series(results, index=cases.index, dtype="string", name="pixel_hash")


def _hash_or_error(path: str) -> str | ImageError:
    try:
        return file_pixel_hash(path)
    except ImageError as error:
        return error


def connected_groups(*keys: Iterable[Hashable]) -> np.ndarray:
    """Union-find: rows that agree in any of the keys, directly or through other rows, get the same number.

    Args:
        keys: sequences of equal length n; None and NA never agree with anything.

    Returns:
        int array (n,), groups numbered from 0 in the order of their first row.
    """
    columns = [pd.Series(list(key), dtype="object") for key in keys]
    rows, nodes, offset = [], [], 0
    count = len(columns[0])
    for column in columns:
        codes, values = pd.factorize(column)  # NA becomes -1
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        nodes.append(count + offset + codes[known])
        offset += len(values)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    size = count + offset
    graph = coo_array((np.ones(len(row), np.int8), (row, node)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][:count]
    return pd.factorize(labels)[0]


def pixel_groups(cases: pd.DataFrame, workers: int | None = None, progress: Progress | None = None) -> pd.Series:
    """The unit of a leak-proof split: patients, merged where they share a pixel-identical image.

    Args:
        cases: case table.
        workers, progress: as in `pixel_hashes`.

    Returns:
        string Series, index `case`: the name of the group, which is the first (in sorting order) of its patients.

    Raises:
        DataError: an image cannot be read.
    """
    hashes = pixel_hashes(cases, workers, progress)
    return _named_groups(cases, connected_groups(cases["patient"], hashes))


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


def _named_groups(cases: pd.DataFrame, numbers: np.ndarray) -> pd.Series:
    patients = cases["patient"].astype("string")
    names = patients.groupby(numbers).transform("min") if len(cases) else patients
    return names.rename("group")
