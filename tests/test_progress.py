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


def test_long_work_in_a_report_says_now_and_then_what_it_waits_for(monkeypatch, capsys):
    monkeypatch.setenv("THYROID_REPORT_DIR", "somewhere")
    clock = iter([0.0, 19.0, 20.5, 50.0, 81.0, 200.0])
    monkeypatch.setattr("thyroid_utils.common.progress.time.monotonic", lambda: next(clock))
    progress = progress_bar("Reading")
    for done in range(1, 6):
        progress(done, 5)
    assert capsys.readouterr().out == "Reading: 2 of 5 after 20 s\nReading: 4 of 5 after 81 s\n"
    silent = progress_bar("Reading", lines=False)
    silent(1, 2)
    assert capsys.readouterr().out == ""
