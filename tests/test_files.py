"""Files whole or absent: interrupted writers, full disks, several processes, and what is made once and found again."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from thyroid_utils.common import files, paths
from thyroid_utils.common.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))


def test_files_are_written_as_open_to_others_as_any_and_the_umask_is_never_lifted(tmp_path, monkeypatch):
    assert files.write_text(tmp_path / "new" / "é ü.txt", "αβγ\n").read_bytes() == "αβγ\n".encode()
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "umask", lambda mask: pytest.fail("lifted for other threads"))
            files.write_bytes(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_block_that_fails_leaves_what_was_there_and_two_writers_one_whole_file(tmp_path):
    files.write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=files.write_bytes, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_found_out_late_names_the_file_and_leaves_it_as_it_was(tmp_path, monkeypatch, code):
    target = files.write_bytes(tmp_path / "results.csv", b"old")

    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"free some.*results\.csv") as error:
        files.write_bytes(target, b"new")
    assert error.value.errno == code and target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_no_cell_of_a_csv_is_a_formula():
    """Numbers and intervals stay as they are, whatever their sign."""
    bad = ["=HYPERLINK(1)", "+A1", "-1+cmd|' /C calc'!A0", "-SUM(1)", "@SUM(1)", "\t=1", " =1", "\r=1"]
    good = ["a=1", "-0.02 [-0.04, 0.01], p = 0.03", "+3.5 %", "", "mail@home", "–"]
    table = pd.DataFrame(
        {"name": bad + good, "=column": -1.5, "n": pd.array([-1] * 13 + [None], dtype="Int64")}, index=bad + good
    )
    read = pd.read_csv(io.StringIO(files.csv_text(table, float_format="%.3g")), index_col=0, keep_default_na=False)
    assert list(read.columns) == ["name", "'=column", "n"] and set(read["'=column"]) == {-1.5}
    assert list(read["name"]) == list(read.index) == [f"'{text}".replace("\r", "\n") for text in bad] + good
    assert list(read["n"]) == ["-1"] * 13 + [""]
    assert files.csv_text(pd.DataFrame({"a": []}), index=False) == "a\n"
    table = pd.DataFrame({"a": ["+0.1 [−0.2, 0.3]", "x − y", "−1+cmd|x"]})
    assert files.csv_text(table, hyphens=True, index=False) == 'a\n"+0.1 [-0.2, 0.3]"\nx − y\n\'-1+cmd|x\n'
    assert "−0.2" in files.csv_text(table), "names stay as they are"


def test_hashes_of_code_and_of_values_tell_apart_what_differs(tmp_path):
    def hashed(text: str) -> str:
        return files.source_hash([files.write_text(tmp_path / "a.py", text)])

    plain = hashed("def double(x):\n    return 2 * x\n")
    assert hashed('"""Twice."""\n\ndef double(x):\n    """2 x."""\n    return (2 * x)  # said\n') == plain
    assert hashed("def double(x):\n    return 3 * x\n") != plain
    assert files.content_key("a", {"x": 1, "y": [2, None]}) == files.content_key("a", {"y": [2, None], "x": 1})
    assert len({files.content_key(*some) for some in [("a",), ("a", 1), ("a", 1.5), ("a", "1"), (["a", 1],)]}) == 5


def never():
    raise AssertionError("made a second time")


def fill(folder):
    (folder / "below").mkdir()
    (folder / "below" / "a.bin").write_bytes(b"12")
    (folder / "b.txt").write_text("3")


@pytest.mark.parametrize("value", [{"a": [1, 0.1, None, "é"]}, [], 0.30000000000000004, {"score": float("inf")}], ids=str)
def test_a_value_is_made_once(value):
    assert files.cached("things", "k", lambda: value) == value == files.cached("things", "k", never)
    assert files.cached("things", "other", lambda: (1, 2)) == [1, 2] == files.cached("things", "other", never)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"value": 3}', '{"value": 3, "sha256": "0"}', "\xff\xfe", None])
def test_a_damaged_value_is_made_again(damage):
    files.cached("things", "k", lambda: 7)
    path = paths.cache_dir() / "things" / "k.json"
    edited = path.read_text().replace("7", "9", 1)
    path.write_bytes((edited if damage is None else damage).encode("latin1"))
    assert files.cached("things", "k", lambda: 8) == 8 == files.cached("things", "k", never)
    path.unlink(), path.mkdir()
    assert files.cached("things", "k", lambda: 8) == 8 and path.is_dir(), "a folder in its place does no harm"


def turn_a_bit(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def set_back(path):
    before = path.stat()
    turn_a_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def become_a_folder(path):
    path.unlink(), path.mkdir()


@pytest.mark.parametrize("name", ["below/a.bin", "b.txt", "complete.json"])
@pytest.mark.parametrize("damage", [turn_a_bit, set_back, become_a_folder, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_damaged_folder_is_made_again(tmp_path, name, damage):
    folder = files.cached_folder(tmp_path / "set", fill)
    time.sleep(0.01)  # the grain of the file system's clock
    damage(folder / name)
    assert files.broken_seal(folder).startswith(name)
    files.cached_folder(folder, fill)
    assert files.broken_seal(folder) is None and (folder / "b.txt").read_text() == "3"


def test_a_folder_is_made_once_then_only_read_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fails(folder):
        fill(folder)
        raise ValueError("no such step")

    with pytest.raises(ValueError, match="no such step"):
        files.cached_folder(tmp_path / "sets" / "set", fails)
    assert [path.name for path in (tmp_path / "sets").iterdir()] == [".set.lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the cache folder cannot be written"):
        files.cached_folder(tmp_path / "file" / "set", fill)
    folder = files.cached_folder(tmp_path / "set", fill)
    subprocess.run(["cp", "-r", folder, tmp_path / "copy"], check=True)
    assert files.broken_seal(tmp_path / "copy") is None, "a copy is whole"
    assert (folder / "below" / "a.bin").read_bytes() == b"12"
    monkeypatch.setattr(files, "FileLock", never)
    monkeypatch.setattr(files, "file_hash", never)
    assert files.cached_folder(tmp_path / "set", never) == folder


@pytest.mark.parametrize(
    "code, error, told", [(errno.ENOSPC, DataError, "the disk is full"), (errno.EIO, OSError, "Input/output")]
)
def test_a_full_disk_is_told_and_another_fault_stays_what_it_is(tmp_path, code, error, told):
    def fails(folder):
        raise OSError(code, os.strerror(code))

    with pytest.raises(error, match=told):
        files.cached_folder(tmp_path / "set", fails)


SLOW = """
import sys, time
from pathlib import Path
from thyroid_utils.common.files import cached_folder
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
    assert files.broken_seal(tmp_path / "set") == "complete.json cannot be read"
    first = start("1", "first")
    assert first.stdout.readline() == "begun\n"
    second = start("0", "second")
    assert (first.wait(), second.wait(), second.stdout.read()) == (0, 0, "")
    assert (tmp_path / "set" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".set-")] == []


def test_hashes_of_files_are_remembered_and_a_disguised_change_is_still_seen(tmp_path, monkeypatch):
    names = [str(files.write_text(tmp_path / name, f"content of {name}")) for name in "abc"]
    record = paths.cache_dir() / "file_hashes.json"
    hashes = files.file_hashes(names)
    assert hashes == {name: files.file_hash(name) for name in names}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a pipe or a device"):
        files.file_hashes([str(tmp_path / "pipe")])
    assert not record.exists(), "just written: not to be trusted yet"
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    files.file_hashes(names)
    read = []
    monkeypatch.setattr(files, "file_hash", lambda path, real=files.file_hash: read.append(path) or real(path))
    assert files.file_hashes(names) == hashes and not read
    set_back(Path(names[0]))  # same inode, same length, same date of modification
    assert files.file_hashes(names)[names[0]] != hashes[names[0]] and read == [names[0]]
    record.write_text(record.read_text().replace(hashes[names[1]], "0" * 64))
    assert files.file_hashes(names[1:]) == {name: hashes[name] for name in names[1:]}, "an edited record is not believed"
    with pytest.raises(DataError, match=r"cannot be read .*; restore it or drop its row"):
        files.file_hashes([*names, str(tmp_path / "nowhere")])
