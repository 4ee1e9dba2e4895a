"""From a parameter file to a folder of reports: one notebook after the other, and what became of each."""

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from rich.console import Console
from rich.status import Status
from rich.text import Text

from thyroid_utils.common import paths
from thyroid_utils.common.errors import RunError
from thyroid_utils.common.machine import commit
from thyroid_utils.data.readers import OWN
from thyroid_utils.training.ledger import check_ledger
from thyroid_utils.workbook.checks import check_notebooks
from thyroid_utils.workbook.folder import FORMAT, ReportFolder, only_process, recover_folders
from thyroid_utils.workbook.notebooks import (
    ELSEWHERE,
    Failure,
    Interruption,
    execute_notebook,
    numbered_notebooks,
    read_notebook,
    select_notebooks,
    without_messages,
)
from thyroid_utils.workbook.pages import Scrubber, describe, duration_text, seen_from_here
from thyroid_utils.workbook.parameters import ParameterFile, declared_parameters, parameters_by_notebook, read_parameter_file
from thyroid_utils.workbook.report import mentioned_runs, recorded_answer, recorded_outputs, story

# How a run ends: what it is called in run.json → exit code, and what is printed. The first that holds of any notebook counts.
_ENDS = {"interrupted": (130, "Interrupted"), "failed": (1, "Done, with a notebook that failed"), "finished": (0, "Done")}


def run_workbook(
    params: Path,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    data_root: Path | None = None,
    out: Path | None = None,
    show_code: bool = False,
) -> int:
    """Run the notebooks and write their reports; returns the exit code (0 fine, 1 a notebook failed, 130 interrupted).

    Args:
        params: the parameter file.
        only: numbers of the notebooks to run; those that the file names, else all, when empty.
        settings: `KEY=VALUE` that win over the file.
        data_root: DATA_ROOT of every notebook.
        out: the output folder, else reports/NAME.
        show_code: show code unfolded.

    Raises:
        ParameterError: what the parameters cannot mean, before anything runs.
        RunError: a folder that cannot be written, that another process writes, or whose disk is full.
    """
    path = (out or paths.reports_dir() / params.stem).absolute()
    recover_folders({path, *(found.parent for found in paths.reports_dir().glob("*/run.json"))})
    file = read_parameter_file(params)
    notebooks = select_notebooks(only or file.notebooks)
    given = parameters_by_notebook(file, settings, data_root)
    check_ledger()
    check_notebooks(notebooks, given)
    with only_process(path, [notebook.stem for notebook in notebooks]), Interruption() as interruption:
        run = _Run(path, file, notebooks, given, show_code)
        try:
            return run.execute(interruption)
        except OSError as error:
            with suppress(OSError):  # the last word of the index, where clearing up has made room for it
                run.folder.close("interrupted")
            told = f"{path}: {error.strerror or error} while writing"
            raise RunError(f"{told}; what was finished is kept, put that right and run again") from error


class _Run:
    """The state of one run."""

    def __init__(self, path: Path, file: ParameterFile, notebooks: list[Path], given: dict, show_code: bool) -> None:
        self.notebooks, self.given, self.show_code = notebooks, given, show_code
        roots = [values["DATA_ROOT"] for values in given.values() if values.get("DATA_ROOT")]
        self.scrubber = Scrubber([path], roots)
        self.named = any(_may_name_patients(notebook, given[notebook.stem]) for notebook in notebooks)
        self.folder = ReportFolder(path, self.scrubber)
        self.made_with = {"parameter_file": file.path.name, **describe()}
        self.started = time.monotonic()
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        known = [notebook.stem for notebook in numbered_notebooks()]
        again, earlier = [notebook.stem for notebook in notebooks], self.folder.records
        records = {notebook.stem: self._new_record(notebook, "waiting") for notebook in notebooks}
        for stem, record in earlier.items():
            if all((path / f"{stem}.{kind}").is_file() for kind in ("html", "ipynb")):
                records[stem] = record | {"earlier": True}
                if stem in again:
                    waiting = {"status": "waiting", "started": _now(), "error": None, "page": None}
                    records[stem]["rerun"] = waiting | {"before": record["rerun"]}
        self.folder.document = {
            "format": FORMAT,
            "title": file.title,
            "description": file.description,
            "status": "running",
            "started": _now(),
            "duration": None,
            **self.made_with,
            "known": known,
            "notebooks": {stem: records[stem] for stem in sorted(records)},
        }

    def execute(self, interruption: Interruption) -> int:
        self._write_index()
        ended = []
        with self.console.status("") as status:
            for notebook in self.notebooks:
                ended.append(self._execute_one(notebook, status, interruption))
                if ended[-1] == "interrupted":
                    break
        result = next(word for word in _ENDS if word in ended)
        self._write_index()
        self.folder.close(result)
        code, told = _ENDS[result]
        duration = duration_text(self.folder.document["duration"])
        self.console.print(f"{told} in {duration}: {seen_from_here(self.folder.path / 'index.html')}")
        return code

    def _execute_one(self, notebook: Path, status: Status, interruption: Interruption) -> str:
        """How it ended. A good report of an earlier run is replaced by that of a run that finishes, and by no other."""
        stem, started, folder = notebook.stem, time.monotonic(), self.folder
        staging, last = folder.staging(stem), folder.records[stem]
        status.update(Text(stem))
        executed, failure = execute_notebook(
            notebook,
            self.given[stem],
            variables={"THYROID_REPORT_DIR": str(staging), "THYROID_NOTEBOOK": stem},
            progress=lambda heading: status.update(Text(f"{stem}: {heading}")),
            interruption=interruption,
        )
        if failure and interruption.requested:
            if last["rerun"]:
                folder.mark(stem, "interrupted")
            else:
                last["status"] = "interrupted"
            return "interrupted"
        if self.named:
            without_messages(executed)
        record = self._new_record(notebook, "failed" if failure else "finished", executed, failure)
        record["duration"] = round(time.monotonic() - started, 2)
        folder.stage(executed, record, staging)
        stays = failure is not None and last["status"] == "finished"
        if stays:
            folder.keep_beside(staging, record)
        else:
            folder.install(staging, stem)
        self._write_index()
        self.console.print(f"{stem}: {record['status']} in {duration_text(record['duration'])}")
        if failure:
            told = failure.told if self.named else failure.line
            self.console.print(f"  {told}")  # unlike the pages, the terminal is the user's own
        if stays:
            self.console.print(f"  the last good report stays; the failed one is {stem}-failed.html")
        return record["status"]

    def _new_record(
        self, notebook: Path, status: str, executed: nbformat.NotebookNode | None = None, failure: Failure | None = None
    ) -> dict[str, Any]:
        node = executed or read_notebook(notebook)
        line = failure and (f"{failure.kind}: {ELSEWHERE}" if self.named else failure.line)
        record = {
            "stem": notebook.stem,
            "number": notebook.stem[:2],
            **story(node, notebook.stem),
            "status": status,
            "started": _now(),
            "duration": None,
            "parameters": self.given[notebook.stem],
            **self.made_with,
            "commit": commit(),  # as it is now: a run may take hours
            "error": {"line": line, "cell": failure.cell} if failure else None,
            "answer": recorded_answer(node),
            "runs": mentioned_runs(node),
            "figures": recorded_outputs(node, "figure"),
            "tables": recorded_outputs(node, "table"),
            "show_code": self.show_code,
            "earlier": False,
            "rerun": None,
        }
        return self.scrubber.anything(record)

    def _write_index(self) -> None:
        self.folder.document["duration"] = round(time.monotonic() - self.started, 2)
        self.folder.write_index()


def _may_name_patients(notebook: Path, given: dict[str, Any]) -> bool:
    """Whether a notebook reads a user's own images, whose files may be called by patients, and nobody said that they are not."""
    values = {name: found.default for name, found in declared_parameters(notebook).items()} | given
    return values.get("DATASET") in OWN and not (values.get("DATA_OPTIONS") or {}).get("keep_names")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
