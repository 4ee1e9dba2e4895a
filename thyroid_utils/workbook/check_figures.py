"""The command `check-figures`: could the figures of a paper, or of a table of one's own, come from so many images?"""

from pathlib import Path
from typing import Annotated

import typer

from thyroid_utils.common.errors import DataError

_Figure = Annotated[str | None, typer.Option(metavar="FIGURE", show_default=False)]
_SHOWN = 10  # tables of counts


def check_figures(
    table: Annotated[
        Path | None, typer.Argument(help="A CSV with a row a model: model, n, accuracy, recall …", show_default=False)
    ] = None,
    n: Annotated[str | None, typer.Option("--n", metavar="N", help="Images tested: 151, or 600-719 where not told.")] = None,
    positives: Annotated[str | None, typer.Option(metavar="N", help="How many of them are malignant.")] = None,
    prevalence: Annotated[str | None, typer.Option(metavar="LOW-HIGH", help="Else their share: 0.35-0.65.")] = None,
    accuracy: _Figure = None,
    precision: _Figure = None,
    sensitivity: Annotated[str | None, typer.Option("--sensitivity", "--recall", metavar="FIGURE")] = None,
    specificity: _Figure = None,
    f1: _Figure = None,
    auc: _Figure = None,
    cut: Annotated[bool, typer.Option("--truncated", help="Decimals were cut off instead of rounded.")] = False,
) -> None:
    """Say which tables of counts can give figures as they are printed (98.4 or 0.984); exit code 1 where none can, 2 where one
    cannot be read.

    What an option gives holds for each row of the table that leaves it empty.
    """
    given = {name: value for name, value in locals().items() if name not in ("table", "cut")}
    from thyroid_utils.data.readers.listing import read_table
    from thyroid_utils.scores.figures import OF_COUNTS, FigureCheck, figure_name

    rows, code = {"check-figures": given}, 0
    if table is not None:
        known = ("model", "n", "positives", "prevalence", *OF_COUNTS)
        read = read_table(table, (), known)
        if unknown := [name for name in read if figure_name(name) not in known]:
            typer.echo(f"left aside: {', '.join(unknown)}")
        rows = {}
        for place, row in read.iterrows():
            told = {figure_name(name): name for name in row.dropna().index}
            rows[place] = {**{name: given[name] for name in given if name not in told}, **row.dropna()}
    for place, row in rows.items():
        try:
            check = FigureCheck.of(row, cut)
            name = "".join(letter for letter in row.get("model", place) if letter.isprintable())
            typer.echo(f"{name}: {check.told}")
        except DataError as error:
            typer.echo(f"thyroid-workbook: {place}: {error}", err=True)
            code = 2
            continue
        if check.tables.empty:
            code = max(code, 1)
        else:
            typer.echo(check.tables.head(_SHOWN).to_string(index=False))
    raise typer.Exit(code)
