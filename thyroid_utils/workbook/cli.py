"""The command `thyroid-workbook`.

What a command needs is imported when it runs, so that help comes at once and only what trains or asks networks loads PyTorch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from thyroid_utils.common.errors import DataError, ParameterError, RunError
from thyroid_utils.workbook.check_figures import check_figures
from thyroid_utils.workbook.terminal import print_table, printable

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
app.command("check-figures")(check_figures)

_SET = "A parameter that wins over the file; NOTEBOOK.KEY=VALUE for one notebook."
_Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET)]


@app.command()
def run(
    params: Annotated[Path, typer.Argument(help="The parameter file, params/NAME.yaml.", show_default=False)],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NN...", help="Only these notebooks, by number: --only 01 02.")
    ] = None,
    settings: _Settings = None,
    data_root: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the data set: DATA_ROOT.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The output folder, reports/NAME unless given.")] = None,
    show_code: Annotated[bool, typer.Option("--show-code", help="Show the code unfolded in the reports.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default=False,
            help="Notebooks side by side; no result depends on it. Unless given, as many as there are cores for (THREADS each, "
            "0 taking all, or two on a GPU) and memory (4 GB, and 8 GB on the GPU); one with ENGINE=dask.",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what nothing has changed for since its last report.")] = False,
) -> None:
    """Execute the notebooks with the parameters of a file and write their reports and an index.

    A notebook stays as it is where file, parameters, package and libraries, data and training runs are those of its report.
    """
    from thyroid_utils.workbook.run import run_workbook

    raise typer.Exit(run_workbook(params, only or (), settings or (), data_root, out, show_code, jobs, again))


@app.command()
def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="Files and folders: PNG, JPEG, TIFF, BMP, GIF, DICOM, up to 4096×4096.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The output folder: new or empty.")],
    classifier: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="A classifier's finished run, or a joint; repeatable.")
    ] = None,
    segmenter: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="A segmenter's finished run, or a joint; repeatable.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Instead of runs, what `export` has written: needs no PyTorch.")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(metavar="MM", help="Millimetres a pixel, for images whose file gives none.")
    ] = None,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Name results as the files; they must not be named after patients.")
    ] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Take the mean over each image and its mirror image.")] = False,
) -> None:
    """Find and judge the nodules of images: a table, masks, a page of cards. For research only, not a medical device."""
    from thyroid_utils.workbook.named_runs import networks_asked

    stage_of = networks_asked(classifier or (), segmenter or (), onnx, mirror)
    from thyroid_utils.workbook.predict import predict as predict_images

    raise typer.Exit(predict_images(images, stage_of, out, spacing, keep_names))


@app.command("export")
def export_networks(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Finished runs: classifiers, segmenters, or joint.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The output folder: new or empty.")],
    page: Annotated[
        bool, typer.Option("--page", help="Also page.html, which runs both networks in a browser, without a server or network.")
    ] = False,
) -> None:
    """Write networks as ONNX files with a card, and a classifier with a segmenter as one graph. For research only."""
    from thyroid_utils.workbook.named_runs import finished_run

    found = [finished_run(name, f"export: {name}") for name in runs]
    from thyroid_utils.workbook.export_onnx import export_onnx

    for line in export_onnx(found, out, page):
        typer.echo(line)


@app.command("app")
def review_cases(
    report: Annotated[
        Path | None,
        typer.Argument(help="The folder of a finished report, as reports/quick; else the newest.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where on this machine it listens; 0 takes a free port.")] = 8866,
) -> None:
    """Serve the cases of a report to a browser on this machine: look, filter, mark, upload. For research only."""
    from thyroid_utils.workbook.app import serve

    serve(report, port)


@app.command()
def checklist(
    report: Annotated[Path, typer.Argument(help="The folder of a finished report, as reports/quick.", show_default=False)],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The output folder, the report's own unless given.")] = None,
) -> None:
    """Hold a report to CLAIM 2024 and TRIPOD+AI: what its records answer, and what is left to the author."""
    from thyroid_utils.workbook.checklist import write_checklist
    from thyroid_utils.workbook.pages import seen_from_here

    for path in write_checklist(report, out):
        typer.echo(seen_from_here(path))


@data_app.command("check")
def check_data(
    dataset: Annotated[
        str,
        typer.Argument(help="The reader: folders, manifest, phantom or a published set's, as ddti.", show_default=False),
    ],
    root: Annotated[Path, typer.Argument(help="The data set's folder.", show_default=False)],
    setting: Annotated[
        str, typer.Option("--set", metavar="DATA_OPTIONS={…}", help="The reader's options, as `run` takes them.")
    ] = "DATA_OPTIONS={}",
) -> None:
    """Say what was found in a data set and what is wrong with it; exit code 1 where something is."""
    from thyroid_utils.common.progress import progress_bar
    from thyroid_utils.data.check import check_dataset
    from thyroid_utils.workbook.parameters import parse_setting

    name, options, _ = parse_setting(setting, [])
    if name != "DATA_OPTIONS" or not isinstance(options, dict):
        raise ParameterError(f"--set {setting}: data check takes DATA_OPTIONS={{NAME: VALUE, …}} alone")
    report = check_dataset(dataset, root.absolute(), progress=progress_bar(f"Reading {dataset}"), **options)
    print_table(("what", "found"), report.summary.items())
    if report.table.empty:
        typer.echo("nothing wrong")
    else:
        print_table(report.table.columns, report.table.itertuples(index=False))
    raise typer.Exit(0 if report.ok else 1)


@app.command("export-dataset")
def export(
    dataset: Annotated[str, typer.Argument(help="The reader, as of `data check`.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The output folder: new or empty.")],
    root: Annotated[Path | None, typer.Argument(help="The data set's folder; none of phantoms.", show_default=False)] = None,
    kind: Annotated[str, typer.Option("--format", help="nnunet or coco.")] = "nnunet",
    settings: _Settings = None,
    params: Annotated[Path | None, typer.Option(help="A parameter file, whose notebook 04 makes the same split.")] = None,
    review: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A review.csv: write its cases alone, to be labelled anew.")
    ] = None,
) -> None:
    """Write a data set with its split for nnU-Net or as COCO; what they answer comes back by the parameter PREDICTIONS."""
    from thyroid_utils.workbook.export import export_dataset

    typer.echo(export_dataset(dataset, root, kind, out.absolute(), settings or (), params, review))


@runs_app.command("list")
def show_runs() -> None:
    """List every run with its state, model and AUC, the newest first."""
    from thyroid_utils.common.paths import runs_dir
    from thyroid_utils.training.ledger import SHORT, list_runs

    runs = list_runs()
    if runs.empty:
        typer.echo(f"no runs in {runs_dir()}")
        return
    shown = runs[["state", "model", "loss", "dataset", "preprocessing", "seed", "epochs", "best_epoch", "score"]]
    shown.insert(0, "run", runs.index.str[:SHORT])
    shown.loc[runs["code"] == "older", "state"] += ", older code"
    shown.loc[runs["note"].ne("") & runs["state"].ne("damaged"), "state"] += ", leaks"
    for name in ("val", "test"):
        shown[name] = runs[f"{name}_score"].map("{:.3f}".format, na_action="ignore")
    shown["MB"] = runs["megabytes"].map("{:.1f}".format)
    shown = shown.rename(columns={"dataset": "data", "preprocessing": "prepared", "best_epoch": "best"})
    print_table(shown.columns, shown.itertuples(index=False), ("seed", "epochs", "best", "val", "test", "MB"))
    for note in runs.loc[runs["state"] == "damaged", "note"]:
        typer.echo(f"{note}; it is trained again when it is asked for")


@runs_app.command("show")
def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or the beginning of it.", show_default=False)],
    card: Annotated[bool, typer.Option("--card", help="A model card, in Markdown, for who is given the network.")] = False,
) -> None:
    """Show one run: config, data, metrics, environment, history; exit code 1 where it is not whole."""
    import yaml

    from thyroid_utils.training.ledger import list_runs
    from thyroid_utils.workbook.named_runs import named_run

    run = named_run(name, f"runs show {name}")
    row = list_runs().loc[run.name]
    if card and row["state"] == "finished":
        from thyroid_utils.workbook.model_card import model_card

        typer.echo(model_card(run), nl=False)
        return
    typer.echo(f"run {run.name}\nfolder {run.folder}\nstate {row['state']} {row['note']}")
    if row["state"] != "finished":
        raise typer.Exit(1)
    config = run.config.model_dump(mode="json")
    told = {"config": config, "data": run.data, "metrics": run.metrics, "environment": run.environment}
    typer.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    typer.echo("history\n" + run.history.to_string(float_format="{:.6g}".format))


@runs_app.command("prune")
def prune(
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also runs that could be resumed.")] = False,
    outdated: Annotated[bool, typer.Option("--outdated", help="Also runs made by another version of the code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be.")] = False,
) -> None:
    """Remove damaged runs, and what the options name; one that is being trained is never touched."""
    from thyroid_utils.training.ledger import SHORT, list_runs, prune_runs

    sizes = list_runs()["megabytes"]
    removed = prune_runs(unfinished=unfinished, outdated=outdated, dry_run=dry_run)
    for name in removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {name[:SHORT]} ({sizes[name]:.1f} MB)")
    if not removed:
        typer.echo("nothing to remove")


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
    """Execute notebooks with params/smoke.yaml, as the tests do, and store the outputs of the cells tagged nbval-check-output."""
    from thyroid_utils.common import paths
    from thyroid_utils.workbook.notebooks import refresh_notebook, select_notebooks
    from thyroid_utils.workbook.parameters import parameters_by_notebook, read_parameter_file

    given = parameters_by_notebook(read_parameter_file(paths.params_dir() / "smoke.yaml"))
    for path in select_notebooks(numbers or ()):
        typer.echo(f"notebooks/{path.name}: {'refreshed' if refresh_notebook(path, given[path.stem]) else 'unchanged'}")


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
            print(f"thyroid-workbook: {printable(line)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = "predict" if error.name == "onnxruntime" else "workbook"
        remedy = f"pip install 'thyroid-utils[{extra}]'"
        print(f"thyroid-workbook: this command needs the package {error.name}: {remedy}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"thyroid-workbook: {printable(str(error))}; the command did not end", file=sys.stderr)
        return 2


def _spread_only(arguments: Sequence[str]) -> list[str]:
    """`--only 01 02` as `--only 01 --only 02`, which is what the option parser takes."""
    spread: list[str] = []
    for argument in arguments:
        if spread[-2:-1] == ["--only"] and re.fullmatch(r"\d+(_\w+)?", argument):
            spread.append("--only")
        spread.append(argument)
    return spread


if __name__ == "__main__":
    sys.exit(main())
