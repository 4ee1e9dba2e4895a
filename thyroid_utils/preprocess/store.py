"""Preprocessed images on disk, made once: memory-mapped, named by their content, complete or absent.

A store's name is the SHA-256 of the pipeline (its hash), of the code that computes and of the bytes of every image and mask
file in row order. So a changed file, step, parameter or fitted number leads to another store, and equal content leads to the
same one from whatever folder. How the bytes are known without reading them again is told in `content`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from thyroid_utils.common.errors import DataError, cache_errors
from thyroid_utils.common.files import write_text
from thyroid_utils.common.progress import Progress
from thyroid_utils.preprocess.content import code_hash, file_hashes, store_root
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import Pipeline, for_each_case

_FORMAT = 1


@dataclass(frozen=True)
class ArrayStore:
    """Preprocessed images of a case table, read from disk page by page as they are used.

    images: float32 (n, channels, height, width), a read-only memory map. masks: bool (n, height, width), a read-only memory
    map, or None where no case has a mask. has_mask: bool (n,); where it is False the mask is empty and means nothing.
    cases: the case table, row i belonging to images[i]. folder: where it lies. hash: the store's name.
    """

    images: np.ndarray
    masks: np.ndarray | None
    has_mask: np.ndarray
    cases: pd.DataFrame
    geometries: tuple[Geometry, ...]
    folder: Path
    hash: str

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Copies of one image (channels, height, width) and its mask (height, width), None where there is none."""
        mask = np.array(self.masks[position]) if self.has_mask[position] else None
        return np.array(self.images[position]), mask


def preprocessed(
    cases: pd.DataFrame, pipeline: Pipeline, progress: Progress | None = None, workers: int | None = None
) -> ArrayStore:
    """The preprocessed images of a case table, computed now or taken from an earlier time.

    Two processes that ask for the same store at once: one computes, the other waits and opens. A process that is killed leaves
    no store, and the next one begins again. A store that is damaged (a file missing, cut short or of another shape than its
    record says) is computed again.

    Args:
        cases: case table.
        pipeline: fitted where it needs to be.
        progress: called with (images done, images in all); not called where the store is there already.
        workers: threads; None takes one a core, at most four. The bytes do not depend on it.

    Returns:
        `ArrayStore` below `paths.cache_dir()/preprocessed`.

    Raises:
        DataError: no cases, a pipeline that is not fitted, an image that cannot be read, a cache folder that cannot be written,
            or a full disk. Nothing half-written stays.
    """
    if cases.empty:
        raise DataError("preprocessed: the case table is empty; nothing to preprocess")
    root = store_root()
    name = _store_name(cases, pipeline)
    folder = root / name
    store = _opened(folder, cases)
    if store is not None:
        return store
    with cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with cache_errors(root), FileLock(root / f"{name}.lock"):
        store = _opened(folder, cases)  # made by another process while this one waited
        if store is None:
            for left_behind in [*root.glob(f".{name}-*"), folder]:
                shutil.rmtree(left_behind, ignore_errors=True)
            _build(folder, cases, pipeline, progress, workers)
            store = _opened(folder, cases)
    if store is None:
        raise DataError(f"{folder}: was written but cannot be read back; check the disk")
    return store


def _store_name(cases: pd.DataFrame, pipeline: Pipeline) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\n{pipeline.hash}\n{code_hash()}\n".encode())
    masks = cases["mask"].astype(object).where(cases["mask"].notna(), None)
    hashes = file_hashes([*cases["image"], *(mask for mask in masks if mask is not None)])
    for image, mask in zip(cases["image"], masks, strict=True):
        digest.update(f"{hashes[image]} {'-' if mask is None else hashes[mask]}\n".encode())
    return digest.hexdigest()[:32]


def _build(folder: Path, cases: pd.DataFrame, pipeline: Pipeline, progress: Progress | None, workers: int | None) -> None:
    """Compute into a folder beside `folder`, then rename it: readers see all of the store or nothing."""
    first = pipeline.load(cases.iloc[0]).image
    shape = (len(cases), *(first.shape if pipeline.channels == 1 else (1, *first.shape[1:])))
    any_mask = bool(cases["mask"].notna().any())
    needed = int(np.prod(shape)) * (4 + any_mask)
    free = shutil.disk_usage(folder.parent).free
    if free < needed * 1.02:
        raise DataError(
            f"{folder.parent}: needs {needed / 1e6:,.0f} MB for {len(cases)} images, {free / 1e6:,.0f} MB are free; "
            "free some space or set THYROID_WORKBOOK_CACHE to another disk"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        positions = pd.Series(range(len(cases)), index=cases.index)
        with _ArrayFile(temporary / "images.npy", shape, np.float32) as images, contextlib.ExitStack() as stack:
            masks = None
            if any_mask:
                masks = stack.enter_context(_ArrayFile(temporary / "masks.npy", (shape[0], *shape[2:]), np.bool_))

            def work(case: pd.Series) -> dict:
                sample = pipeline.load(case)
                position = int(positions[case.name])
                images.write(position, sample.image[:1])  # three channels are three times the same one
                if masks is not None:
                    masks.write(position, np.zeros(shape[2:], bool) if sample.mask is None else sample.mask)
                return asdict(sample.geometry)

            geometries = for_each_case(work, cases, workers, progress)
        meta = {
            "format": _FORMAT,
            "pipeline": repr(pipeline),
            "channels": pipeline.channels,
            "shape": shape,
            "has_mask": cases["mask"].notna().astype(int).tolist(),
            "geometries": geometries,
            "bytes": {path.name: path.stat().st_size for path in temporary.glob("*.npy")},
        }
        write_text(temporary / "meta.json", json.dumps(meta))
        temporary.chmod(0o755)  # mkdtemp makes private folders; a cache may be shared
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _ArrayFile:
    """A .npy file written row by row with ordinary writes: on a full disk a memory map would kill the process (SIGBUS)."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.dtype = np.dtype(dtype)
        self.row_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self.shape = shape
        self.stream = open(path, "wb")  # noqa: SIM115
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.stream.flush()
        self.start = self.stream.tell()

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                os.fsync(self.stream.fileno())
        finally:
            self.stream.close()

    def write(self, row: int, values: np.ndarray) -> None:
        if values.shape != self.shape[1:]:
            raise DataError(f"preprocessed to {values.shape}, the first image to {self.shape[1:]}; give resize a fixed size")
        content = memoryview(np.ascontiguousarray(values, self.dtype)).cast("B")
        done = 0
        while done < len(content):
            done += os.pwrite(self.stream.fileno(), content[done:], self.start + row * self.row_bytes + done)


def _opened(folder: Path, cases: pd.DataFrame) -> ArrayStore | None:
    """The store in a folder, or None where it is absent or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, size in meta["bytes"].items():
            if (folder / name).stat().st_size != size:
                return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        masks = None
        if "masks.npy" in meta["bytes"]:
            masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False)
        shape = tuple(meta["shape"])
        whole = images.shape == shape and images.dtype == np.float32 and len(cases) == shape[0] == len(meta["has_mask"])
        if not whole or (masks is not None and (masks.shape != (shape[0], *shape[2:]) or masks.dtype != bool)):
            return None
        geometries = tuple(Geometry(**{k: tuple(v) for k, v in entry.items()}) for entry in meta["geometries"])
        has_mask = np.array(meta["has_mask"], bool)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    images = np.broadcast_to(images, (shape[0], meta["channels"], *shape[2:]), subok=True)
    return ArrayStore(images, masks, has_mask, cases, geometries, folder, folder.name)
