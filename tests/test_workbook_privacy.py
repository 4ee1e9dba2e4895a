"""No path of the machine in a report."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from thyroid_utils.workbook.pages import Scrubber


@pytest.fixture
def scrubber(monkeypatch, tmp_path):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("HOME", "/home/alice")
    return Scrubber([Path("/mnt/clinic/scans")])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open('/mnt/clinic/scans/a b/1.png')", "open('…/scans/a b/1.png')"),
        ("/mnt/clinic/scans", "…/scans"),
        ("/mnt/clinic/scans.", "…/scans."),
        ("/mnt/clinic/scans-2/x and /mnt/clinic/scansion", "/mnt/clinic/scans-2/x and /mnt/clinic/scansion"),
        ("/elsewhere/mnt/clinic/scans/x", "/elsewhere/mnt/clinic/scans/x"),
        ("/home/alice/notes.txt", "~/notes.txt"),
        ("file:///home/alice/x", "file://~/x"),
        ("\x1b[32m/home/alice/x.py\x1b[39m:12", "\x1b[32m~/x.py\x1b[39m:12"),
        ("no path at all", "no path at all"),
    ],
)
def test_known_folders_are_shortened_and_others_left(scrubber, text, shown):
    assert scrubber.text(text) == shown


def test_files_of_the_project_are_seen_from_its_root(scrubber, tmp_path):
    assert scrubber.text(f'File "{tmp_path}/project/notebooks/x.py", line 3') == 'File "notebooks/x.py", line 3'
    assert scrubber.text(f"in {tmp_path}/project") == "in …/project"


def test_the_environment_is_shortened(scrubber):
    assert sys.prefix not in scrubber.text(f"{sys.prefix}/lib/python3/site-packages/torch/x.py: warning")


def test_every_string_of_a_notebook_is_scrubbed_but_pictures(scrubber):
    picture = "iVBOR/home/alice/w0KGgo"
    output = nbformat.v4.new_output("display_data", {"text/plain": "/home/alice/x", "image/png": picture})
    cell = nbformat.v4.new_code_cell("open('/mnt/clinic/scans/1')", outputs=[output])
    node = scrubber.anything(nbformat.v4.new_notebook(cells=[cell], metadata={"path": {"/home/alice": ["/home/alice", 1, None]}}))
    assert isinstance(node.cells[0], nbformat.NotebookNode) and node.cells[0].source == "open('…/scans/1')"
    assert node.cells[0].outputs[0].data == {"text/plain": "~/x", "image/png": picture}
    assert node.metadata.path == {"~": ["~", 1, None]}
