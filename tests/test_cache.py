from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thyroid_utils.common import cache, paths
from thyroid_utils.common.cache import broken_seal, cached, cached_folder, content_key, file_hashes
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))


def never():
    raise AssertionError("made a second time")


def fill(folder):
    (folder / "below").mkdir()
    (folder / "below" / "a.bin").write_bytes(b"12")
    (folder / "b.txt").write_text("3")


def test_a_key_tells_values_apart_and_not_the_order_of_names():
    assert content_key("a", {"x": 1, "y": [2, None]}) == content_key("a", {"y": [2, None], "x": 1})
    assert len({content_key(*some) for some in [("a",), ("a", 1), ("a", 1.5), ("a", "1"), (["a", 1],)]}) == 5


@pytest.mark.parametrize("value", [{"a": [1, 0.1, None, "é"]}, [], 0.30000000000000004, {"score": float("inf")}], ids=str)
def test_a_value_is_made_once(value):
    assert cached("things", "k", lambda: value) == value == cached("things", "k", never)
    assert cached("things", "other", lambda: (1, 2)) == [1, 2] == cached("things", "other", never)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"value": 3}', '{"value": 3, "sha256": "0"}', b"\xff\xfe"])
def test_a_damaged_value_is_made_again(damage):
    cached("things", "k", lambda: 7)
    path = paths.cache_dir() / "things" / "k.json"
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert cached("things", "k", lambda: 8) == 8 == cached("things", "k", never)


def test_an_edited_value_is_made_again_and_a_folder_in_its_place_does_no_harm():
    cached("things", "k", lambda: 7)
    path = paths.cache_dir() / "things" / "k.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"value": 9}))
    assert cached("things", "k", lambda: 7) == 7
    path.unlink(), path.mkdir()
    assert cached("things", "k", lambda: 7) == 7 and path.is_dir()


def test_a_folder_is_made_once_and_then_only_read(tmp_path, monkeypatch):
    folder = cached_folder(tmp_path / "set", fill)
    assert (folder / "below" / "a.bin").read_bytes() == b"12"
    monkeypatch.setattr(cache, "FileLock", never)
    monkeypatch.setattr(cache, "file_hash", never)
    assert cached_folder(tmp_path / "set", never) == folder


def turn_a_bit(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def set_back(path):
    before = path.stat()
    turn_a_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def become_a_folder(path):
    path.unlink(), path.mkdir()


@pytest.mark.parametrize("name", ["below/a.bin", "b.txt", "complete.json"])
@pytest.mark.parametrize("damage", [turn_a_bit, set_back, become_a_folder, lambda p: p.unlink(), lambda p: p.write_bytes(b"")])
def test_a_damaged_folder_is_made_again(tmp_path, name, damage):
    folder = cached_folder(tmp_path / "set", fill)
    time.sleep(0.01)  # the grain of the file system's clock
    damage(folder / name)
    assert broken_seal(folder).startswith(name)
    cached_folder(folder, fill)
    assert broken_seal(folder) is None and (folder / "b.txt").read_text() == "3"


def test_a_copied_folder_is_whole(tmp_path):
    folder = cached_folder(tmp_path / "set", fill)
    subprocess.run(["cp", "-r", folder, tmp_path / "copy"], check=True)
    assert broken_seal(tmp_path / "copy") is None


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    folder = cached_folder(tmp_path / "set", fill)

    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(cache, "_state", fails)
    assert "cannot be read (Input/output error)" in broken_seal(folder)


def test_a_failure_leaves_nothing(tmp_path):
    def fails(folder):
        fill(folder)
        raise ValueError("no such step")

    with pytest.raises(ValueError, match="no such step"):
        cached_folder(tmp_path / "sets" / "set", fails)
    assert [path.name for path in (tmp_path / "sets").iterdir() if not path.name.endswith(".lock")] == []


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the cache folder cannot be written"):
        cached_folder(tmp_path / "file" / "set", fill)


SLOW = """
import sys, time
from pathlib import Path
from thyroid_utils.common.cache import cached_folder
def make(folder):
    (folder / "a").write_text("half")
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "a").write_text(sys.argv[3])
cached_folder(Path(sys.argv[1]), make)
"""


def test_a_killed_process_leaves_no_folder_and_two_make_one(tmp_path):
    def start(seconds, content):
        command = [sys.executable, "-c", SLOW, str(tmp_path / "set"), seconds, content]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start("60", "never")
    assert killed.stdout.readline() == "begun\n"
    killed.send_signal(signal.SIGKILL), killed.wait()
    assert broken_seal(tmp_path / "set") == "complete.json cannot be read"
    first = start("1", "first")
    assert first.stdout.readline() == "begun\n"
    second = start("0", "second")
    assert (first.wait(), second.wait(), second.stdout.read()) == (0, 0, "")
    assert (tmp_path / "set" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".set-")] == []


def test_hashes_of_files_are_remembered_and_a_disguised_change_is_still_seen(tmp_path, monkeypatch):
    files = [str(tmp_path / name) for name in "abc"]
    for name in files:
        Path(name).write_text(f"content of {name}")
    record = paths.cache_dir() / "file_hashes.json"
    hashes = file_hashes(files)
    assert hashes == {name: file_hash(name) for name in files}
    assert not record.exists(), "just written: not to be trusted yet"
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    file_hashes(files)
    read = []
    monkeypatch.setattr(cache, "file_hash", lambda path: read.append(path) or file_hash(path))
    assert file_hashes(files) == hashes and not read
    set_back(Path(files[0]))  # same inode, same length, same date of modification
    assert file_hashes(files)[files[0]] != hashes[files[0]] and read == [files[0]]
    for broken in ("", "[1]", '{"a": 3}', '{"a": [[1, 2, 3, 4], "x"]}', '{"a": {"b": 1, "c": 2}}', "\xff"):
        record.write_bytes(broken.encode("latin1"))
        assert file_hashes(files[1:]) == {name: hashes[name] for name in files[1:]}
    with pytest.raises(DataError, match=r"cannot be read .*; restore it or drop its row"):
        file_hashes([*files, str(tmp_path / "nowhere")])
