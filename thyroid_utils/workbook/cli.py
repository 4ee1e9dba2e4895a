"""The command `thyroid-workbook`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from thyroid_utils.common.errors import DataError, ParameterError, RunError

app = typer.Typer(
    help="Run the notebooks into HTML reports, check data sets, look after training runs, keep notebooks clean.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets on disk.", no_args_is_help=True)
runs_app = typer.Typer(help="Training runs, finished and begun.", no_args_is_help=True)
notebooks_app = typer.Typer(help="The notebooks as files.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
app.add_typer(notebooks_app, name="notebooks")


@app.command()
def run(
    params: Annotated[Path, typer.Argument(help="The parameter file, params/NAME.yaml.", show_default=False)],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NN...", help="Only these notebooks, by number: --only 01 02.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter that wins over the file; NOTEBOOK.KEY=VALUE for one notebook."
        ),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the data set: DATA_ROOT.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The output folder, reports/NAME unless given.")] = None,
    show_code: Annotated[bool, typer.Option("--show-code", help="Show the code unfolded in the reports.")] = False,
) -> None:
    """Execute the notebooks with the parameters of a file and write their reports and an index."""
    from thyroid_utils.workbook.display import Display
    from thyroid_utils.workbook.run import Request, run_workbook

    request = Request(params, only or (), settings or (), data_root, out, show_code)
    raise typer.Exit(run_workbook(request, Display()))


@app.command()
def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Image files and folders: PNG, JPEG, TIFF, BMP, GIF, DICOM.", show_default=False)
    ],
    classifier: Annotated[str, typer.Option(metavar="RUN", help="A finished run of a classifier, or a joint one.")],
    segmenter: Annotated[str, typer.Option(metavar="RUN", help="A finished run of a segmenter, or a joint one.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The output folder: new or empty.")],
    spacing: Annotated[
        float | None, typer.Option(metavar="MM", help="Millimetres a pixel, for images whose file gives none.")
    ] = None,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Name results as the files; they must not be named after patients.")
    ] = False,
) -> None:
    """Find and judge the nodules of images: a table, masks, a page of cards. For research only, not a medical device."""
    from thyroid_utils.workbook.predict import predict as predict_images

    raise typer.Exit(predict_images(images, classifier, segmenter, out, spacing, keep_names))


@data_app.command("check")
def check_data(
    dataset: Annotated[
        str, typer.Argument(help="The reader: ddti, tn3k, tg3k, tnscui, folders, manifest, phantom.", show_default=False)
    ],
    root: Annotated[Path, typer.Argument(help="The data set's folder.", show_default=False)],
) -> None:
    """Say what was found in a data set and what is wrong with it; exit code 1 where something is."""
    from thyroid_utils.workbook.commands import show_check

    raise typer.Exit(show_check(dataset, root))


@runs_app.command("list")
def list_runs() -> None:
    """List every run with its state, model and AUC, the newest first."""
    from thyroid_utils.workbook.commands import show_list

    raise typer.Exit(show_list())


@runs_app.command("show")
def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or the beginning of it.", show_default=False)],
) -> None:
    """Show one run: config, data, metrics, environment, history; exit code 1 where it is not whole."""
    from thyroid_utils.workbook.commands import show_run as show

    raise typer.Exit(show(name))


@runs_app.command("prune")
def prune_runs(
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also runs that could be resumed.")] = False,
    outdated: Annotated[bool, typer.Option("--outdated", help="Also runs made by another version of the code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be.")] = False,
) -> None:
    """Remove damaged runs, and what the options name; one that is being trained is never touched."""
    from thyroid_utils.workbook.commands import prune

    raise typer.Exit(prune(unfinished=unfinished, outdated=outdated, dry_run=dry_run))


@notebooks_app.command()
def clean(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 where something would.")] = False,
) -> None:
    """Strip outputs (but of cells tagged nbval-check-output), counts and the metadata of editors."""
    from thyroid_utils.workbook.notebooks import clean_notebooks

    changed = clean_notebooks(write=not check)
    for path in changed:
        typer.echo(f"notebooks/{path.name}: {'carries stray outputs or metadata' if check else 'cleaned'}")
    if check and changed:
        typer.echo("run: thyroid-workbook notebooks clean")
        raise typer.Exit(1)


@notebooks_app.command()
def refresh(numbers: Annotated[list[str] | None, typer.Argument(metavar="NN...", show_default=False)] = None) -> None:
    """Execute notebooks with their defaults and store the outputs of the cells tagged nbval-check-output."""
    from thyroid_utils.workbook.notebooks import refresh_notebook
    from thyroid_utils.workbook.parameters import select_notebooks

    for path in select_notebooks(numbers or ()):
        typer.echo(f"notebooks/{path.name}: {'refreshed' if refresh_notebook(path) else 'unchanged'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns the exit code: 0 fine, 1 a notebook failed, data are wrong or an image could not be predicted, 2 wrong use, 130
    interrupted.
    """
    command = typer.main.get_command(app)
    try:
        return command.main(
            _spread_only(sys.argv[1:] if arguments is None else arguments), "thyroid-workbook", standalone_mode=True
        )
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except (DataError, ParameterError, RunError) as error:
        for line in str(error).splitlines():
            print(f"thyroid-workbook: {line}", file=sys.stderr)
        return 2


def _spread_only(arguments: Sequence[str]) -> list[str]:
    """`--only 01 02` as `--only 01 --only 02`, which is what the option parser takes."""
    spread: list[str] = []
    waiting = listing = False
    for argument in arguments:
        listing = listing and not argument.startswith("-") and not argument.endswith((".yaml", ".yml"))
        if argument == "--only":
            listing = waiting = True
        elif listing:
            spread += ["--only", argument]
            waiting = False
        else:
            spread.append(argument)
    return [*spread, "--only"] if waiting else spread  # without a number the parser says what is missing


if __name__ == "__main__":
    sys.exit(main())
