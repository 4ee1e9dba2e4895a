"""Preprocessed images on disk, made once: memory-mapped, named by their content, complete or absent.

A store's name stands for the pipeline (its hash), the code that computes and the bytes of every image and mask file in row order.
So a changed file, step, parameter or fitted number leads to another store, and equal content leads to the same one from whatever
folder.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import cached_folder, content_key, write_text
from thyroid_utils.common.progress import Progress
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import Pipeline, code_hash, contents, for_each_case


@dataclass(frozen=True)
class ArrayStore:
    """Preprocessed images of a case table, read from disk page by page as they are used.

    images: float32 (n, channels, height, width), a read-only memory map. masks: bool (n, height, width), a read-only memory map,
    empty for a case without one, or None where no case has one. cases: the case table, row i belonging to images[i]. geometries:
    the way back to the frame of each. folder: where it lies.
    """

    images: np.ndarray
    masks: np.ndarray | None
    cases: pd.DataFrame
    geometries: tuple[Geometry, ...]
    folder: Path


def preprocessed(
    cases: pd.DataFrame, pipeline: Pipeline, progress: Progress | None = None, workers: int | None = None
) -> ArrayStore:
    """The preprocessed images of a case table, computed now or taken from an earlier time.

    Two processes that ask for the same store at once: one computes, the other waits and opens. A process that is killed leaves
    no store, and the next one begins again. A store that is damaged is computed again.

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
    name = content_key(pipeline.hash, code_hash(), contents(cases))
    make = partial(_write, cases, pipeline, progress, workers)
    folder = cached_folder(paths.cache_dir() / "preprocessed" / name, make)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r")
    images = np.broadcast_to(images, (len(cases), meta["channels"], *images.shape[2:]), subok=True)
    masks = np.load(folder / "masks.npy", mmap_mode="r") if (folder / "masks.npy").is_file() else None
    geometries = tuple(Geometry(**{name: tuple(pair) for name, pair in entry.items()}) for entry in meta["geometries"])
    return ArrayStore(images, masks, cases, geometries, folder)


def _write(cases: pd.DataFrame, pipeline: Pipeline, progress: Progress | None, workers: int | None, folder: Path) -> None:
    side = pipeline.load(cases.iloc[0]).image.shape[1:]
    any_mask = bool(cases["mask"].notna().any())
    images = _Rows(folder / "images.npy", (len(cases), 1, *side), np.dtype(np.float32))
    masks = _Rows(folder / "masks.npy", (len(cases), *side), np.dtype(bool)) if any_mask else None
    positions = {case: position for position, case in enumerate(cases.index)}

    def work(case: pd.Series) -> dict:
        sample = pipeline.load(case)
        # Three channels are three times the same one
        images.write(positions[case.name], sample.image[:1])
        if masks is not None:
            masks.write(positions[case.name], np.zeros(side, bool) if sample.mask is None else sample.mask)
        return asdict(sample.geometry)

    meta = {"pipeline": repr(pipeline), "channels": pipeline.channels}
    meta["geometries"] = for_each_case(work, cases, workers, progress)
    write_text(folder / "meta.json", json.dumps(meta))


class _Rows:
    """A .npy file written row by row with ordinary writes: on a full disk a memory map would kill the process (SIGBUS)."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype, self.lock = path, shape, dtype, Lock()
        with open(path, "wb") as stream:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            self.start = stream.tell()

    def write(self, row: int, values: np.ndarray) -> None:
        if values.shape != self.shape[1:]:
            raise DataError(f"preprocessed to {values.shape}, the first image to {self.shape[1:]}; give resize a fixed size")
        content = values.astype(self.dtype).tobytes()
        with self.lock, open(self.path, "r+b") as stream:
            stream.seek(self.start + row * len(content))
            stream.write(content)
