"""`thyroid-workbook data check`: what was found in a data set and what is wrong, as a table."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thyroid_utils.workbook.errors import ParameterError

_COLOURS = {"error": "red", "warning": "yellow"}


def show_check(dataset: str, root: Path, console: Console | None = None) -> int:
    """Check a data set and print what was found; returns the exit code, 1 where something is an error and 0 otherwise."""
    from thyroid_utils.data.check import check_dataset
    from thyroid_utils.data.readers import READERS

    if dataset not in READERS:
        raise ParameterError(f"data check {dataset}: no such reader; there are {', '.join(READERS)}")
    console = console or Console(highlight=False)
    with console.status(f"Reading {dataset} …") if console.is_terminal else nullcontext() as status:

        def progress(done: int, total: int) -> None:
            if status:
                status.update(f"Reading {dataset}: {done} of {total}")

        report = check_dataset(dataset, root.absolute(), progress=progress)
    summary = Table(box=None, show_header=False, pad_edge=False)
    for name, value in report.summary.items():
        summary.add_row(Text(name, "dim"), Text(str(value)))
    console.print(summary)
    if report.table.empty:
        console.print("nothing wrong")
        return 0
    findings = Table(box=None, header_style="bold", pad_edge=False)
    for column in report.table.columns:
        findings.add_column(column, overflow="fold")
    for severity, *others in report.table.itertuples(index=False):
        findings.add_row(Text(severity, _COLOURS.get(severity, "default")), *(Text(str(other)) for other in others))
    console.print(findings)
    return 0 if report.ok else 1
