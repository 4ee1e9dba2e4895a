"""`thyroid-workbook data check` and `thyroid-workbook runs`: what was found, as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thyroid_utils.common.errors import ParameterError
from thyroid_utils.training.ledger import Run, RunDamaged, list_runs, prune_runs, runs_dir

_COLOURS = {"error": "red", "warning": "yellow", "damaged": "red", "training": "cyan", "unfinished": "yellow"}
_SHORT = 8  # digits of a run's name that are shown; any beginning that fits one run is understood


def show_check(dataset: str, root: Path) -> int:
    """Check a data set and print what was found; returns the exit code, 1 where something is an error and 0 otherwise."""
    from thyroid_utils.data.check import check_dataset
    from thyroid_utils.data.readers import READERS

    if dataset not in READERS:
        raise ParameterError(f"data check {dataset}: no such reader; there are {', '.join(READERS)}")
    console = Console(highlight=False)
    with console.status(f"Reading {dataset} …") if console.is_terminal else nullcontext() as status:

        def progress(done: int, total: int) -> None:
            if status:
                status.update(f"Reading {dataset}: {done} of {total}")

        report = check_dataset(dataset, root.absolute(), progress=progress)
    console.print(_pairs(report.summary))
    if report.table.empty:
        console.print("nothing wrong")
        return 0
    findings = _table(report.table.columns)
    for severity, *others in report.table.itertuples(index=False):
        findings.add_row(Text(severity, _COLOURS.get(severity, "default")), *(Text(str(other)) for other in others))
    console.print(findings)
    return 0 if report.ok else 1


def full_name(beginning: str, where: str) -> str:
    """The name of the only run that begins so; `where` opens the message.

    Raises:
        ParameterError: no run of that name, or more than one.
    """
    folders = [path.name for path in runs_dir().glob("[!.]*") if path.is_dir()]
    fitting = [name for name in folders if beginning and name.startswith(beginning)]
    if len(fitting) != 1:
        found = f"{len(fitting)} runs begin so" if fitting else "there is no such run"
        raise ParameterError(f"{where}: {found}; thyroid-workbook runs list shows them all")
    return fitting[0]


def show_list() -> int:
    """Print a row a run, the newest first; returns the exit code 0."""
    console = Console(highlight=False)
    runs = list_runs()
    if runs.empty:
        console.print(f"no runs in {runs_dir()}", soft_wrap=True)
        return 0
    numbers = ("seed", "epochs", "best", "val", "test", "MB")
    table = _table(("run", "state", "model", "loss", "data", "seed", "epochs", "best", "score", "val", "test", "MB"), numbers)
    for name, row in runs.iterrows():
        state = row["state"] + (", older code" if row["code"] == "older" else "")
        table.add_row(
            name[:_SHORT],
            Text(state, _COLOURS.get(row["state"], "default")),
            *(Text(_shown(row[column])) for column in ("model", "loss", "dataset", "seed", "epochs", "best_epoch", "score")),
            _shown(row["val_score"], 3),
            _shown(row["test_score"], 3),
            f"{row['megabytes']:.1f}",
        )
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)
    for note in runs.loc[runs["state"] == "damaged", "note"]:
        console.print(Text(f"{note}; it is trained again when it is asked for"), soft_wrap=True)
    return 0


def show_run(name: str) -> int:
    """Print what a run was told, what it found and where; returns the exit code, 1 for a run that is not whole.

    Args:
        name: of the run, or the beginning of it.

    Raises:
        ParameterError: no run of that name, or more than one.
    """
    console = Console(highlight=False)
    run = Run(runs_dir() / full_name(name, f"runs show {name}"))
    row = list_runs().loc[run.name]
    state = row["state"] + (f": {row['note']}" if row["note"] else "")
    if row["state"] == "finished":
        try:
            run.check()
        except RunDamaged as damage:
            state = f"damaged: {damage}"
    console.print(_pairs({"run": run.name, "folder": run.folder, "state": state}))
    if state != "finished":
        return 1
    config = run.config.model_dump(mode="json")
    for title, values in (("config", config), ("data", run.data), ("metrics", run.metrics), ("environment", run.environment)):
        console.print(Text(f"\n{title}", "bold"))
        console.print(Text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()))
    console.print(Text("\nhistory", "bold"))
    console.print(Text(run.history.to_string(float_format=lambda value: f"{value:.6g}")))
    return 0


def prune(*, unfinished: bool, outdated: bool, dry_run: bool) -> int:
    """Remove runs that are of no use, as `ledger.prune_runs`, and print which; returns the exit code 0."""
    console = Console(highlight=False)
    sizes = list_runs()["megabytes"]
    removed = prune_runs(unfinished=unfinished, outdated=outdated, dry_run=dry_run)
    for name in removed:
        console.print(f"{'would remove' if dry_run else 'removed'} {name[:_SHORT]} ({sizes[name]:.1f} MB)")
    if not removed:
        console.print("nothing to remove")
    return 0


def _table(columns: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def _pairs(values: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(str(value)))
    return table


def _shown(value: Any, digits: int | None = None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
