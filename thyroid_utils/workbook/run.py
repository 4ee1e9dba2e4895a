"""From a parameter file to a folder of reports: notebooks side by side, and what became of each."""

import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import psutil
import torch
from dask.system import CPU_COUNT  # what this process may use, in a container too
from rich.console import Console
from rich.text import Text

from thyroid_utils.common import paths
from thyroid_utils.common.errors import RunError
from thyroid_utils.common.machine import answer, commit
from thyroid_utils.data.readers import OWN
from thyroid_utils.training.ledger import check_ledger
from thyroid_utils.workbook.checks import check_notebooks
from thyroid_utils.workbook.folder import FORMAT, ReportFolder, only_process, recover_folders
from thyroid_utils.workbook.kept import made_of, sources, surroundings
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
_MEMORY, _GPU_MEMORY = 4e9, 8e9  # bytes that a notebook may take


def run_workbook(
    params: Path,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    data_root: Path | None = None,
    out: Path | None = None,
    show_code: bool = False,
    jobs: int | None = None,
    again: bool = False,
) -> int:
    """Run the notebooks and write their reports; returns the exit code (0 fine, 1 a notebook failed, 130 interrupted).

    Args:
        params: the parameter file.
        only: numbers of the notebooks to run; those that the file names, else all, when empty.
        settings: `KEY=VALUE` that win over the file.
        data_root: DATA_ROOT of every notebook.
        out: the output folder, else reports/NAME.
        show_code: show code unfolded.
        jobs: how many notebooks at a time; None takes what this machine has room for (`default_jobs`). Results do not depend on
            it: PyTorch has as many threads as the notebook's THREADS says.
        again: run also those whose finished report nothing has changed for, which are kept otherwise (`kept.sources`).

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
        run = _Run(path, file, notebooks, given, show_code, again)
        try:
            return run.execute(interruption, jobs)
        except OSError as error:
            with suppress(OSError):  # the last word of the index, where clearing up has made room for it
                run.folder.close("interrupted")
            told = f"{path}: {error.strerror or error} while writing"
            raise RunError(f"{told}; what was finished is kept, put that right and run again") from error


def default_jobs(notebooks: Iterable[Mapping[str, Any]]) -> int:
    """How many notebooks with these parameters have room side by side: cores for PyTorch's threads in each (on a GPU two),
    memory, and a GPU's. One where a notebook shares the machine out among workers of its own."""
    notebooks = list(notebooks)
    if any(values.get("ENGINE") == "dask" for values in notebooks):
        return 1
    room = [_free_memory() / _MEMORY]
    if torch.cuda.is_available():
        free = re.findall(r"^\d+$", answer("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits") or "", re.M)
        room += [CPU_COUNT / 2, min(map(int, free), default=0) * 2**20 / _GPU_MEMORY]
    else:
        room += [CPU_COUNT / max((values.get("THREADS", 1) or CPU_COUNT for values in notebooks), default=1)]
    return max(1, int(min(room)))


def _free_memory() -> float:
    """Bytes that are free and that this process may use, in a container too."""
    from distributed.system import MEMORY_LIMIT

    return min(MEMORY_LIMIT, psutil.virtual_memory().available)


class _Run:
    """The state of one run. Its notebooks are executed by threads, of which one at a time writes."""

    def __init__(self, path: Path, file: ParameterFile, notebooks: list[Path], given: dict, show_code: bool, again: bool) -> None:
        self.given, self.show_code = given, show_code
        self.values = {notebook.stem: _defaults(notebook) | given[notebook.stem] for notebook in notebooks}
        roots = [source["root"] for values in given.values() for source in _data_of(values) if source.get("root")]
        self.scrubber = Scrubber([path], roots)
        self.named = any(map(_may_name_patients, self.values.values()))
        self.folder = ReportFolder(path, self.scrubber)
        self.made_with = {"parameter_file": file.path.name, **describe()}
        self.started = time.monotonic()
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.status, self.at_work = self.console.status(""), dict.fromkeys(given, "")
        self.writing = threading.Lock()
        self.told, around = [file.path.name, file.title, show_code], surroundings()
        self.sources = {notebook.stem: self._sources(notebook, around) for notebook in notebooks}
        known = [notebook.stem for notebook in numbered_notebooks()]
        records = {notebook.stem: self._new_record(notebook, "waiting") for notebook in notebooks}
        for stem, record in self.folder.records.items():
            if all((path / f"{stem}.{kind}").is_file() for kind in ("html", "ipynb")):
                records[stem] = record | {"earlier": True, "kept": False}
                if stem in self.sources:
                    made = None if again else made_of(self.sources[stem], record["runs"])
                    records[stem]["kept"] = made is not None and record["made_of"] == made and self.folder.is_whole(record)
                if stem in self.sources and not records[stem]["kept"]:
                    waiting = {"status": "waiting", "started": _now(), "error": None, "page": None}
                    records[stem]["rerun"] = waiting | {"before": record["rerun"]}
        self.notebooks = [notebook for notebook in notebooks if not records[notebook.stem]["kept"]]
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

    def execute(self, interruption: Interruption, jobs: int | None) -> int:
        self._write_index()
        for stem, record in self.folder.records.items():
            if record["kept"]:
                self.console.print(f"{stem}: kept, nothing has changed since {record['started'][:16].replace('T', ' ')}")
        ended = ["finished"]
        jobs = jobs or default_jobs(self.values[notebook.stem] for notebook in self.notebooks)
        with self.status, ThreadPoolExecutor(jobs) as pool:
            ended += pool.map(lambda notebook: self._execute_one(notebook, interruption), self.notebooks)
        result = next(word for word in _ENDS if word in ended)
        self._write_index()
        self.folder.close(result)
        code, told = _ENDS[result]
        duration = duration_text(self.folder.document["duration"])
        self.console.print(f"{told} in {duration}: {seen_from_here(self.folder.path / 'index.html')}")
        return code

    def _execute_one(self, notebook: Path, interruption: Interruption) -> str:
        """How it ended, the record and the index saying so. One that cannot be written ends the others."""
        if interruption.requested:
            return "interrupted"
        stem, started, last = notebook.stem, time.monotonic(), self.folder.records[notebook.stem]
        state, threads = last["rerun"] or last, self.values[stem].get("THREADS")
        try:
            with self.writing:
                state["status"] = "running"
                self._write_index()
            self._show(stem, stem)
            staging = self.folder.staging(stem)
            variables = {"THYROID_REPORT_DIR": str(staging), "THYROID_NOTEBOOK": stem}
            executed, failure = execute_notebook(
                notebook,
                self.given[stem],
                variables=variables | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
                progress=lambda heading: self._show(stem, f"{stem}: {heading}"),
                interruption=interruption,
            )
            if failure and interruption.requested:
                return "interrupted"
            with self.writing:
                return self._keep(notebook, executed, failure, staging, time.monotonic() - started)
        except BaseException:
            state["status"] = "waiting"  # what an earlier run left is still so
            interruption.request()
            raise
        finally:
            self._show(stem, "")

    def _show(self, stem: str, doing: str) -> None:
        """In the terminal, a line a notebook at work."""
        self.at_work[stem] = doing
        self.status.update(Text("\n".join(filter(None, self.at_work.values()))))

    def _keep(
        self, notebook: Path, executed: nbformat.NotebookNode, failure: Failure | None, staging: Path, duration: float
    ) -> str:
        """How it ended. A good report of an earlier run is replaced by that of a run that finishes, and by no other."""
        stem, folder = notebook.stem, self.folder
        if self.named:
            without_messages(executed)
        record = self._new_record(notebook, "failed" if failure else "finished", executed, failure)
        record["duration"] = round(duration, 2)
        if self._sources(notebook, surroundings()) == self.sources[stem]:  # else nobody knows which of both it is from
            record["made_of"] = made_of(self.sources[stem], record["runs"])
        folder.stage(executed, record, staging)
        stays = failure is not None and folder.records[stem]["status"] == "finished"
        self.folder.document["duration"] = round(time.monotonic() - self.started, 2)
        if stays:
            folder.keep_beside(staging, record)
        else:
            folder.install(staging, stem)
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
            "kept": False,
            "rerun": None,
            "made_of": None,
            "files": {},
        }
        return self.scrubber.anything(record)

    def _sources(self, notebook: Path, around: str) -> str:
        return sources(notebook, self.values[notebook.stem], around, *self.told)

    def _write_index(self) -> None:
        self.folder.document["duration"] = round(time.monotonic() - self.started, 2)
        self.folder.write_index()


def _defaults(notebook: Path) -> dict[str, Any]:
    return {name: found.default for name, found in declared_parameters(notebook).items()}


def _may_name_patients(values: Mapping[str, Any]) -> bool:
    """Whether a notebook reads a user's own images, whose files may be called by patients, and nobody said that they are not."""
    return any(found.get("dataset") in OWN and not (found.get("options") or {}).get("keep_names") for found in _data_of(values))


def _data_of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data sets that a notebook reads: `dataset`, `root` and `options` of each."""
    own = {"dataset": values.get("DATASET"), "root": values.get("DATA_ROOT"), "options": values.get("DATA_OPTIONS")}
    others = [source for source in values.get("EXTERNAL", {}).values() if isinstance(source, dict)]
    return [own, *(source | {"root": source.get("root") and paths.resolve_in_project(source["root"])} for source in others)]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
