"""The store of preprocessed images: right, free the second time, whole or absent, made once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common import cache
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess import store
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.preprocess.store import preprocessed

SPEC = ["gray", {"resize": {"size": 32}}, "scale"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "preprocessed"


def table(folder: Path, count: int = 5, masks: bool = True, settled: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        image = write_png(folder / f"{number}.png", rng.integers(0, 256, (40, 50), np.uint8))
        row = {"case": f"c/{number}", "image": str(image), "patient": f"p{number}", "dataset": "test", "split": "train"}
        if masks and number != 1:
            row["mask"] = str(write_png(folder / f"{number}-mask.png", rng.random((40, 50)) > 0.5))
        rows.append(row)
    return make_cases(rows)


def test_rows_are_what_the_pipeline_makes(tmp_path):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    made = preprocessed(cases, pipeline)
    assert made.images.shape == (5, 1, 32, 32) and made.images.dtype == np.float32 and isinstance(made.images, np.memmap)
    assert made.masks.shape == (5, 32, 32) and made.masks.dtype == bool
    assert made.has_mask.tolist() == [True, False, True, True, True] and len(made) == 5
    for position, (_, case) in enumerate(cases.iterrows()):
        sample = pipeline.load(case)
        image, mask = made[position]
        assert (image == sample.image).all() and made.geometries[position] == sample.geometry
        assert mask is None if sample.mask is None else (mask == sample.mask).all()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0


def test_three_channels_are_stored_once(tmp_path):
    made = preprocessed(table(tmp_path), build_pipeline([*SPEC, "three_channels"]))
    assert made.images.shape == (5, 3, 32, 32) and (made.images[:, 0] == made.images[:, 2]).all()
    assert (made.folder / "images.npy").stat().st_size < 5 * 32 * 32 * 4 * 1.1


def test_without_masks_there_is_no_mask_file(tmp_path):
    made = preprocessed(table(tmp_path, masks=False), build_pipeline(SPEC))
    assert made.masks is None and not made.has_mask.any() and made[0][1] is None
    assert not (made.folder / "masks.npy").exists()


def test_the_second_use_computes_nothing(tmp_path, monkeypatch):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    first = preprocessed(cases, pipeline)
    calls = []
    monkeypatch.setattr(type(pipeline), "load", lambda *_: calls.append(1))
    again = preprocessed(cases, pipeline, progress=lambda *_: calls.append(2))
    assert not calls and again.folder == first.folder and (again.images == first.images).all()


def test_bytes_do_not_depend_on_workers(tmp_path, own_cache):
    cases, pipeline = table(tmp_path, 9), build_pipeline(SPEC)
    hashes = set()
    for workers in (1, 4):
        shutil.rmtree(own_cache, ignore_errors=True)
        made = preprocessed(cases, pipeline, workers=workers)
        hashes.add((made.hash, file_hash(made.folder / "images.npy"), file_hash(made.folder / "masks.npy")))
    assert len(hashes) == 1


def test_the_name_follows_the_content_and_not_the_path(tmp_path):
    pipeline = build_pipeline(SPEC)
    here, there = table(tmp_path / "a"), table(tmp_path / "b")
    assert preprocessed(here, pipeline).hash == preprocessed(there, pipeline).hash
    names = {preprocessed(here, pipeline).hash, preprocessed(here, build_pipeline(SPEC, size=16)).hash}
    write_png(tmp_path / "a" / "2.png", np.zeros((40, 50), np.uint8))
    names.add(preprocessed(here, pipeline).hash)
    write_png(tmp_path / "a" / "3-mask.png", np.ones((40, 50), bool))
    changed = preprocessed(here, pipeline)
    assert len(names | {changed.hash}) == 4 and changed.images[2].max() == 0 and changed.masks[3].all()
    assert preprocessed(here.iloc[::-1], pipeline).hash != changed.hash, "rows belong to positions"


def settle(folder: Path) -> None:
    """Wait until the files are older than the grain within which a hash is not remembered."""
    newest = max(path.stat().st_ctime_ns for path in folder.glob("*.png"))
    time.sleep(max(0.0, (newest + cache._SETTLED_NS - time.time_ns()) / 1e9 + 0.05))


def test_hashes_are_remembered_on_disk_and_a_disguised_change_is_still_seen(tmp_path, own_cache, monkeypatch):
    cases = table(tmp_path, 3, masks=False)
    files = cases["image"].tolist()
    cache.file_hashes(files)
    assert not (own_cache.parent / "file_hashes.json").exists(), "just written: not to be trusted yet"
    settle(tmp_path)
    hashes = cache.file_hashes(files)
    read = []
    monkeypatch.setattr(cache, "file_hash", lambda path: read.append(path) or file_hash(path))
    assert cache.file_hashes(files) == hashes and not read

    path = Path(files[0])
    old = path.stat()
    pixels = bytearray(path.read_bytes())
    pixels[-20] ^= 1
    with open(path, "r+b") as stream:  # same inode, same length
        stream.write(pixels)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_mtime_ns == old.st_mtime_ns and path.stat().st_size == old.st_size
    assert cache.file_hashes(files)[files[0]] == file_hash(path) != hashes[files[0]] and read == [files[0]]


def test_a_damaged_record_of_hashes_is_ignored(tmp_path, own_cache):
    cases = table(tmp_path)
    own_cache.parent.mkdir(parents=True)
    for broken in ("", "[1]", '{"a": 3}', '{"a": [[1, 2, 3, 4], "x"]}', '{"a": {"b": 1, "c": 2}}', "\xff"):
        (own_cache.parent / "file_hashes.json").write_bytes(broken.encode("latin1"))
        assert cache.file_hashes(cases["image"])[cases["image"].iloc[0]] == file_hash(cases["image"].iloc[0])


def turn_a_bit(path: Path) -> None:
    with open(path, "r+b") as stream:
        stream.seek(-9, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-9, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-7]),
        lambda folder: (folder / "images.npy").unlink(),
        lambda folder: (folder / "masks.npy").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: np.save(folder / "images.npy", np.zeros((1280, 2, 2), np.float32)),
        lambda folder: (folder / "meta.json").write_text(json.dumps({"channels": 1, "geometries": []})),
        lambda folder: turn_a_bit(folder / "images.npy"),
    ],
)
def test_a_damaged_store_is_made_again(tmp_path, damage):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    first = preprocessed(cases, pipeline)
    expected = np.array(first.images)
    damage(first.folder)
    again = preprocessed(cases, pipeline)
    assert again.folder == first.folder and (again.images == expected).all() and again.masks is not None


def test_an_unreadable_image_leaves_nothing(tmp_path, own_cache):
    cases = table(tmp_path)
    (tmp_path / "3.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"case c/3: .*a web page"):
        preprocessed(cases, build_pipeline(SPEC))
    assert not [path for path in own_cache.iterdir() if path.is_dir()]
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        preprocessed(cases, build_pipeline(SPEC))


def test_a_full_disk_is_said_clearly_and_leaves_nothing(tmp_path, own_cache, monkeypatch):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match="needs 0 MB for 5 images, 0 MB are free; free some space"):
        preprocessed(cases, pipeline)
    monkeypatch.undo()
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(own_cache.parent))
    writes = []

    def failing(self, row, values):
        writes.append(row)
        if len(writes) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store._Rows, "write", failing)
    with pytest.raises(DataError, match="the disk is full; free some space") as caught:
        preprocessed(cases, pipeline)
    assert "\n" not in str(caught.value) and len(writes) > 3
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


def test_an_unwritable_cache_is_said_clearly(tmp_path, monkeypatch):
    cases = table(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cache folder cannot be written .*; set THYROID_WORKBOOK_CACHE"):
        preprocessed(cases, build_pipeline(SPEC))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_said_clearly(tmp_path, monkeypatch):
    cases = table(tmp_path)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "locked" / "cache"))
    with pytest.raises(DataError, match="cache folder cannot be written"):
        preprocessed(cases, build_pipeline(SPEC))


def test_an_empty_table_and_an_unfitted_pipeline_are_refused(tmp_path):
    cases = table(tmp_path)
    with pytest.raises(DataError, match="the case table is empty"):
        preprocessed(cases.iloc[:0], build_pipeline(SPEC))
    with pytest.raises(DataError, match="not fitted"):
        preprocessed(cases, build_pipeline("paper_000"))


class Slow:
    """A pipeline that takes its time with each image and writes down that it was asked."""

    def __init__(self, log: Path, seconds: float):
        self.pipeline, self.log, self.seconds = build_pipeline(SPEC), log, seconds
        self.hash, self.channels = self.pipeline.hash, 1

    def load(self, case):
        with open(self.log, "a") as stream:
            stream.write(f"{case.name}\n")
        time.sleep(self.seconds)
        return self.pipeline.load(case)


def build_in_child(cases, log, seconds, barrier, results):
    barrier.wait()
    made = preprocessed(cases, Slow(log, seconds), workers=1)
    results.put((made.hash, float(made.images.sum())))


def test_two_processes_at_once_do_the_work_once(tmp_path):
    cases, log = table(tmp_path), tmp_path / "log.txt"
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    children = [context.Process(target=build_in_child, args=(cases, log, 0.05, barrier, results)) for _ in range(2)]
    for child in children:
        child.start()
    answers = {results.get(timeout=60) for _ in children}
    for child in children:
        child.join(60)
    assert len(answers) == 1
    assert len(log.read_text().splitlines()) == len(cases) + 1  # the first image is made once more, for its shape


def test_a_process_killed_half_way_leaves_nothing_that_counts(tmp_path, own_cache):
    cases, log = table(tmp_path, 8), tmp_path / "log.txt"
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(1), context.Queue()
    child = context.Process(target=build_in_child, args=(cases, log, 0.2, barrier, results))
    child.start()
    deadline = time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) >= 4):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    left = [path for path in own_cache.iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].name.startswith("."), "the killed process had begun to write"
    made = preprocessed(cases, build_pipeline(SPEC))
    assert [path for path in own_cache.iterdir() if path.is_dir()] == [made.folder]
    expected = build_pipeline(SPEC)(read_image(cases["image"].iloc[7])).image
    assert (made.images[7] == expected).all()
