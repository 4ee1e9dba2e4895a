"""The store of preprocessed images: right, free the second time, whole or absent, made once."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_pictures import stored

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.preprocess.store import preprocessed

SPEC = ["gray", {"resize": {"size": 32}}, "scale"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "preprocessed"


def table(folder: Path, count: int = 5, masks: bool = True) -> pd.DataFrame:
    """Noise of 40×50 pixels; the second image has no mask."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50), np.uint8) for _ in range(count)]
    columns = {}
    if masks:
        outlines = [str(write_png(folder / f"{number}-mask.png", image > 127)) for number, image in enumerate(images)]
        columns["mask"] = [outlines[0], None, *outlines[2:]]
    return stored(folder, images, split="train", **columns)


def test_rows_are_what_the_pipeline_makes_and_equal_channels_stored_once(tmp_path):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    made = preprocessed(cases, pipeline)
    assert made.images.shape == (5, 1, 32, 32) and made.images.dtype == np.float32 and isinstance(made.images, np.memmap)
    assert made.masks.shape == (5, 32, 32) and made.masks.dtype == bool
    for position, (_, case) in enumerate(cases.iterrows()):
        sample = pipeline.load(case)
        assert (made.images[position] == sample.image).all() and made.geometries[position] == sample.geometry
        assert not made.masks[position].any() if sample.mask is None else (made.masks[position] == sample.mask).all()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0
    made = preprocessed(table(tmp_path, masks=False), build_pipeline([*SPEC, "three_channels"]))
    assert made.images.shape == (5, 3, 32, 32) and (made.images[:, 0] == made.images[:, 2]).all()
    assert (made.folder / "images.npy").stat().st_size < 5 * 32 * 32 * 4 * 1.1
    assert made.masks is None and not (made.folder / "masks.npy").exists()


def test_name_and_bytes_follow_the_content_alone_and_a_second_use_computes_nothing(tmp_path, own_cache, monkeypatch):
    pipeline = build_pipeline(SPEC)
    here, there = table(tmp_path / "a"), table(tmp_path / "b")
    assert preprocessed(here, pipeline).folder == preprocessed(there, pipeline).folder
    names = {preprocessed(here, pipeline).folder, preprocessed(here, build_pipeline(SPEC, size=16)).folder}
    write_png(tmp_path / "a" / "0002.png", np.zeros((40, 50), np.uint8))
    names.add(preprocessed(here, pipeline).folder)
    write_png(tmp_path / "a" / "3-mask.png", np.ones((40, 50), bool))
    changed = preprocessed(here, pipeline)
    assert len(names | {changed.folder}) == 4 and changed.images[2].max() == 0 and changed.masks[3].all()
    assert preprocessed(here.iloc[::-1], pipeline).folder != changed.folder, "rows belong to positions"
    cases, pipeline, hashes = table(tmp_path, 9), build_pipeline(SPEC), set()
    for workers in (1, 4):
        shutil.rmtree(own_cache, ignore_errors=True)
        made = preprocessed(cases, pipeline, workers=workers)
        hashes.add((made.folder.name, file_hash(made.folder / "images.npy"), file_hash(made.folder / "masks.npy")))
    assert len(hashes) == 1
    calls = []
    monkeypatch.setattr(Pipeline, "load", lambda *_: calls.append(1))
    again = preprocessed(cases, pipeline, progress=lambda *_: calls.append(2))
    assert not calls and again.folder == made.folder and (again.images == made.images).all()


def test_an_empty_table_an_unreadable_image_and_several_sizes_are_refused(tmp_path, own_cache):
    with pytest.raises(DataError, match="the case table is empty"):
        preprocessed(table(tmp_path).iloc[:0], build_pipeline(SPEC))
    cases = table(tmp_path)
    (tmp_path / "0003.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"case made/0003: .*<html>"):
        preprocessed(cases, build_pipeline(SPEC))
    assert not [path for path in own_cache.iterdir() if path.is_dir()]
    # Speckle that fills the frame, and one with a black border that is cut off behind the resize.
    cases = table(tmp_path)
    image = np.zeros((40, 50), np.uint8)
    image[10:30, 10:40] = read_image(cases["image"].iloc[0])[10:30, 10:40]
    write_png(tmp_path / "0002.png", image)
    with pytest.raises(DataError, match=r"the first image to .*; give resize a fixed size"):
        preprocessed(cases, build_pipeline([{"resize": {"size": (40, 50)}}, "crop_echo"]))
