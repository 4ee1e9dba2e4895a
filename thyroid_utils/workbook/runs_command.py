"""`thyroid-workbook runs`: the ledger of training runs as tables."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thyroid_utils.training.ledger import Run, RunDamaged, list_runs, prune_runs, runs_dir
from thyroid_utils.workbook.errors import ParameterError

_COLOURS = {"damaged": "red", "training": "cyan", "unfinished": "yellow"}
_SHORT = 8  # digits of a run's name that are shown; any beginning that fits one run is understood


def show_list(console: Console | None = None) -> int:
    """Print a row a run, the newest first; returns the exit code 0."""
    console = console or Console(highlight=False)
    runs = list_runs()
    if runs.empty:
        console.print(f"no runs in {runs_dir()}", soft_wrap=True)
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "state", "model", "loss", "data", "seed", "epochs", "best", "score", "val", "test", "MB"):
        number = column in ("seed", "epochs", "best", "val", "test", "MB")
        table.add_column(column, justify="right" if number else "left", no_wrap=True, overflow="fold" if number else "ellipsis")
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


def show_run(name: str, console: Console | None = None) -> int:
    """Print what a run was told, what it found and where; returns the exit code, 1 for a run that is not whole.

    Args:
        name: of the run, or the beginning of it.

    Raises:
        ParameterError: no run of that name, or more than one.
    """
    console = console or Console(highlight=False)
    listed = list_runs()
    fitting = [run for run in listed.index if run.startswith(name)]
    if len(fitting) != 1:
        found = f"{len(fitting)} runs begin so" if fitting else "there is none"
        raise ParameterError(f"runs show {name}: {found}; thyroid-workbook runs list shows them all")
    run, row = Run(runs_dir() / fitting[0]), listed.loc[fitting[0]]
    state, code = row["state"], 0
    if state == "finished":
        try:
            run.check()
        except RunDamaged as damage:
            state, code = f"damaged: {damage}", 1
    else:
        state, code = f"{state}: {row['note']}" if row["note"] else state, 1
    _print_pairs(console, {"run": run.name, "folder": run.folder, "state": state})
    if code:
        return code
    for title, values in (
        ("config", run.config.model_dump(mode="json")),
        ("data", run.data),
        ("metrics", run.metrics),
        ("environment", run.environment),
    ):
        console.print(Text(f"\n{title}", "bold"))
        _print_pairs(console, _flat(values))
    console.print(Text("\nhistory", "bold"))
    console.print(Text(run.history.to_string(float_format=lambda value: f"{value:.6g}")))
    return 0


def prune(*, unfinished: bool, outdated: bool, dry_run: bool, console: Console | None = None) -> int:
    """Remove runs that are of no use, as `runs.prune_runs`, and print which; returns the exit code 0."""
    console = console or Console(highlight=False)
    sizes = list_runs()["megabytes"]
    removed = prune_runs(unfinished=unfinished, outdated=outdated, dry_run=dry_run)
    for name in removed:
        console.print(f"{'would remove' if dry_run else 'removed'} {name[:_SHORT]} ({sizes[name]:.1f} MB)")
    if not removed:
        console.print("nothing to remove")
    return 0


def _print_pairs(console: Console, values: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(_shown(value)))
    console.print(table)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any, digits: int | None = None) -> str:
    if _absent(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
