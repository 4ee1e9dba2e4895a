"""A segmenter's maps against the truth, image by image, at two resolutions: computed once for a run, then read from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pandas as pd

from thyroid_utils.common.cache import cached, content_key
from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import source_hash
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.data import images
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.preprocess.store import ArrayStore
from thyroid_utils.scores import checks, masks, surface
from thyroid_utils.scores.masks import binarise, segmentation_table
from thyroid_utils.training.data import open_arrays
from thyroid_utils.training.ledger import MAPS, Run

RESOLUTIONS = ("network", "own")
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
_BLOCK = 32  # images whose masks at their own resolution are in memory at once


def map_scores(run: Run, config: RunConfig, cases: pd.DataFrame) -> pd.DataFrame:
    """Scores of the test maps of a segmentation run, called nodule from a probability of 0.5.

    At the "network" resolution a map meets the preprocessed mask. At the image's "own" the map is brought back to the frame,
    interpolated between its pixels (`Geometry.to_original`, smooth; what preprocessing cut off is called background), and meets
    the mask file.

    Args:
        run: of task segmentation.
        config: its config, with the data's root as it is now.
        cases: the split case table of that config (`training.data.split_data`).

    Returns:
        index `case`; `resolution` ("network", then "own"); the columns of `masks.segmentation_table`. Lengths in millimetres
        are given at the image's own resolution where the set tells the spacing (column `spacing_mm`), and NaN elsewhere.

    Raises:
        DataError: an unreadable image, or masks that are not those the run was scored with.
    """
    names = run.predictions.index[run.predictions["split"] == "test"]
    # A run that was made again may have other maps. The way back to the frame is in the run's name.
    spacings = [None if np.isnan(value) else value for value in spacing_of(cases.loc[names])]
    key = content_key(run.name, run.hashes[MAPS], spacings, _code())
    kept = cached("map_scores", key, lambda: _measured(run, config, cases).reset_index().to_dict("list"))
    types = dict.fromkeys(("case", "resolution", "presence"), "string")
    return pd.DataFrame(kept).astype(types).set_index("case")


def _measured(run: Run, config: RunConfig, cases: pd.DataFrame) -> pd.DataFrame:
    names = run.predictions.index[run.predictions["split"] == "test"]
    progress = progress_bar("Scoring masks")
    positions, store = cases.index.get_indexer(names), stored(config, cases)
    tables = []
    for number, resolution in enumerate(RESOLUTIONS):
        for start in range(0, len(names), _BLOCK):
            chosen = slice(start, start + _BLOCK)
            rows, done = cases.loc[names[chosen]], number * len(names) + start
            maps = run.maps("test", rows.index)[1]
            if resolution == "network":
                truths, found, spacings = [store.masks[at] for at in positions[chosen]], binarise(maps), None
            else:
                truths = [read_mask(path) for path in rows["mask"]]
                there = [store.geometries[at] for at in positions[chosen]]
                found = [binarise(geometry.to_original(map_, smooth=True)) for geometry, map_ in zip(there, maps, strict=True)]
                spacings = [None if np.isnan(value) else value for value in spacing_of(rows)]
            table = segmentation_table(
                truths,
                found,
                cases=list(rows.index),
                spacings=spacings,
                progress=lambda image, _, done=done: progress(done + image, len(RESOLUTIONS) * len(names)),
            )
            tables.append(table.assign(resolution=resolution))
    table = pd.concat(tables)
    counted = run.predictions.loc[names, list(COUNTS)].to_numpy()
    if (table.loc[table["resolution"] == "network", list(COUNTS)].to_numpy() != counted).any():
        raise DataError(f"run {run.name}: the masks are not those that it was scored with; give the folder of its data as root")
    return table


def pictures(
    run: Run, config: RunConfig, cases: pd.DataFrame, chosen: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Test images one by one: the frame, its true mask (bool) and its probability map (float32), each at the image's own
    resolution.

    Arguments as for `map_scores`; `chosen` are some of the run's test images.
    """
    store = stored(config, cases)
    for case, position in zip(chosen, cases.index.get_indexer(list(chosen)), strict=True):
        found = store.geometries[position].to_original(run.maps("test", [case])[1][0], smooth=True)
        yield read_image(cases.at[case, "image"]), read_mask(cases.at[case, "mask"]), found


def stored(config: RunConfig, cases: pd.DataFrame) -> ArrayStore:
    """The preprocessed arrays of a run, made again where the cache was emptied."""
    return open_arrays(config, cases, progress_bar("Preprocessing"))


def spacing_of(cases: pd.DataFrame) -> np.ndarray:
    """Millimetres a pixel of each image, float (n,), NaN where unknown."""
    if "spacing_mm" not in cases:
        return np.full(len(cases), np.nan)
    return pd.to_numeric(cases["spacing_mm"]).to_numpy(float, na_value=np.nan)


@cache
def _code() -> str:
    """Of the modules that turn a run's maps into a table."""
    return source_hash([checks.__file__, masks.__file__, surface.__file__, images.__file__, __file__])
