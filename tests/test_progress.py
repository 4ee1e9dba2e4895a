"""The progress bar: seen by a person, silent in an unattended run."""

from __future__ import annotations

import pytest

from thyroid_utils.common.progress import progress_bar


@pytest.mark.parametrize("folder", [None, "somewhere"])
def test_a_person_sees_the_label_and_the_count_and_an_unattended_run_is_silent(monkeypatch, capsys, folder):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    if folder:
        monkeypatch.setenv("THYROID_REPORT_DIR", folder)
    progress = progress_bar("Reading")
    progress(2, 2)
    shown = capsys.readouterr().err
    assert shown == "" if folder else "Reading" in shown and "/2" in shown
