from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import threading

import pytest

from thyroid_utils.common import files
from thyroid_utils.common.files import atomic_path, file_hash, source_hash, write_bytes, write_text


def test_text_and_bytes_are_written_as_open_to_others_as_any_and_the_path_returned(tmp_path):
    assert write_text(tmp_path / "new" / "é ü.txt", "αβγ\n") == tmp_path / "new" / "é ü.txt"
    assert (tmp_path / "new" / "é ü.txt").read_bytes() == "αβγ\n".encode()
    assert write_bytes(tmp_path / "a", b"\0\1").read_bytes() == b"\0\1"
    (tmp_path / "b").write_bytes(b"1")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_what_was_there_stays_when_the_block_fails(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_found_out_late_names_the_file_and_leaves_it_as_it_was(tmp_path, monkeypatch, code):
    target = write_bytes(tmp_path / "results.csv", b"old")

    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as error:
        write_bytes(target, b"new")
    text = str(error.value)
    assert error.value.errno == code and str(target) in text and "free some" in text and "\n" not in text
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


WRITER = """
import sys
from thyroid_utils.common.files import write_bytes
try:
    write_bytes(sys.argv[1], bytes(3_000_000))
except OSError as error:
    print(error)
    sys.exit(28)
"""


def test_running_out_of_space_while_writing(tmp_path):
    target = write_bytes(tmp_path / "masks.npy", b"old")

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run = subprocess.run([sys.executable, "-c", WRITER, str(target)], capture_output=True, text=True, preexec_fn=small_files_only)
    assert run.returncode == 28, run.stderr
    assert str(target) in run.stdout and "no space" in run.stdout and len(run.stdout.splitlines()) == 1
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(OSError):
        write_bytes(tmp_path / "file" / "below", b"2")
    assert (tmp_path / "file").read_bytes() == b"1"


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


def test_the_umask_is_kept_and_never_lifted_for_other_threads(tmp_path, monkeypatch):
    lifted = []
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "umask", lambda mask: lifted.append(mask) or 0o027)
            write_bytes(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640 and not lifted


def test_file_hash_is_sha_256(tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_source_hash_changes_with_code_and_not_with_words(tmp_path):
    def hashed(text: str) -> str:
        (tmp_path / "a.py").write_text(text)
        return source_hash([tmp_path / "a.py"])

    plain = hashed("def double(x):\n    return 2 * x\n")
    assert hashed('"""Twice."""\n\ndef double(x):\n    """2 x."""\n    return (2 * x)  # said\n') == plain
    assert hashed("def double(x):\n    return 3 * x\n") != plain
