"""Reader of Stanford's thyroid cine-clips, whose frames stay in their HDF5 file until they are looked at."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers import listing
from thyroid_utils.data.readers.published import SETS

_ARRAYS = ("image", "mask", "annot_id", "frame_num")
STANFORD = SETS["stanford"]
# Column of the metadata → column of the case table
_TEXTS = {"sex": "sex", "location": "location", "ti-rads_level": "tirads", "ti-rads_echogenicfoci": "foci"}
_TEXTS |= {f"ti-rads_{trait}": trait for trait in ("composition", "echogenicity", "shape", "margin")}
_NUMBERS = ("age", "size_x", "size_y", "size_z")


def read_stanford(root: Path, every: int = 1) -> pd.DataFrame:
    """Stanford's thyroid cine-clips, a case a frame; case ids `stanford/12_/00340`, of clip and position in the file.

    `image` and `mask` name entries of the HDF5 file, `dataset.hdf5::image[340]`, which `read_image` and `read_mask` read one at a
    time. A clip is the unit: `patient` is what its `annot_id` has in front of the first `_` (all of it where that is nothing), so
    that clips of one patient which are numbered alike stay together. `label` is of histopathology; a note tells of clips without
    a row in the metadata, which have none. Further columns: `clip`, `frame` (its number in the clip),
    and of the metadata, as published, `age`, `sex`, `location`, `size_x`, `size_y`, `size_z`, `tirads`, `composition`,
    `echogenicity`, `shape`, `margin` and `foci`.

    Args:
        root: the folder of `dataset.hdf5` and `metadata.csv`, or its parent.
        every: of each clip its first frame and every so many-th after it; neighbouring frames say nearly the same.

    Raises:
        DataError: also for an HDF5 file that is damaged, or whose arrays do not fit together.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise DataError(f"stanford: every is {every!r}; expected a whole number from 1")
    folder = STANFORD.folder(root)
    path = folder / "dataset.hdf5"
    frames = _frames(path)
    clips, label = dict.fromkeys(frames["clip"], path), "histopath_diagnosis"
    told = STANFORD.listed(folder / "metadata.csv", clips, label, ("annot_id", label), (*_TEXTS, *_NUMBERS))
    told = told.assign(**{name: listing.as_numbers(told[name]) for name in _NUMBERS}).rename(columns=_TEXTS)
    told["tirads"] = told["tirads"].str.removesuffix(".0")  # which programs write beside an empty field
    rows = frames[frames.groupby("clip").cumcount() % every == 0].join(told[["label", *_NUMBERS, *_TEXTS.values()]], on="clip")
    position = rows.index.to_series()
    columns = {
        "case": "stanford/" + rows["clip"] + position.map("/{:05d}".format),
        **{name: position.map(lambda at, name=name: f"{path}::{name}[{at}]") for name in ("image", "mask")},
        "patient": "stanford-" + rows["clip"].where(rows["clip"].str.startswith("_"), rows["clip"].str.partition("_")[0]),
    }
    rows = rows.assign(**columns, dataset="stanford", patient_known=True, target="nodule")
    absent, notes = [clip for clip in clips if clip not in told.index], []
    if absent:
        problem = f"no row for {len(absent)} of {len(clips)} clips ({listing.first_few(absent)}): no label"
        notes = [{"file": str(folder / "metadata.csv"), "problem": problem, "remedy": "download it again"}]
    return listing.case_table([(rows, notes)], ("clip", *_TEXTS.values()))


def _frames(path: Path) -> pd.DataFrame:
    """`clip` and `frame` of every frame, in the order of the file; its pictures are not read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            absent = [name for name in _ARRAYS if name not in file]
            if absent:
                raise STANFORD.missing(path.parent, STANFORD.expected, f"dataset.hdf5 without {', '.join(absent)}")
            shapes = [file[name].shape for name in _ARRAYS]
            alike = shapes[0] == shapes[1] and len(shapes[0]) == 3 and shapes[2:] == [shapes[0][:1]] * 2
            if not alike or {file[name].dtype for name in _ARRAYS[:2]} != {np.dtype("uint8")}:
                told = "images and masks, uint8 (frames, height, width), with an annot_id and a frame_num each"
                raise DataError(f"{path}: its arrays are not as published, {told}; download it again")
            texts = {name: [value.decode() for value in file[name][:]] for name in _ARRAYS[2:]}
    except (OSError, AttributeError, UnicodeError) as error:
        raise DataError(f"{path}: damaged or truncated ({error}); download it again") from None
    frame = listing.as_numbers(pd.Series(texts["frame_num"], dtype="string"))
    return pd.DataFrame({"clip": pd.Series(texts["annot_id"], dtype="string"), "frame": frame})
