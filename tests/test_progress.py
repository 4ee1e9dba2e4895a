"""The progress bar: seen by a person, silent in an unattended run."""

from __future__ import annotations

from thyroid_utils.common.progress import progress_bar


def test_a_person_sees_the_label_and_the_count(monkeypatch, capsys):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    progress = progress_bar("Reading")
    progress(1, 2)
    progress(2, 2)
    shown = capsys.readouterr().err
    assert "Reading" in shown and "/2" in shown


def test_an_unattended_run_is_silent(monkeypatch, capsys):
    monkeypatch.setenv("THYROID_REPORT_DIR", "somewhere")
    progress = progress_bar("Reading")
    progress(1, 2)
    progress(2, 2)
    assert capsys.readouterr() == ("", "")
