"""From a parameter file to a folder of reports.

Every notebook is worked on in a hidden folder beside its report and moved into place when it has ended, so that an interruption,
a full disk or a second process never leaves half a report, and what an earlier run finished stays until it is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import nbformat
from rich.console import Console
from rich.status import Status
from rich.text import Text

from thyroid_utils.common import paths
from thyroid_utils.common.errors import RunError
from thyroid_utils.common.files import write_text
from thyroid_utils.workbook.notebooks import Failure, Interruption, execute_notebook, read_notebook
from thyroid_utils.workbook.pages import Scrubber, commit, describe, duration_text, seen_from_here
from thyroid_utils.workbook.parameters import (
    ParameterFile,
    numbered_notebooks,
    parameters_by_notebook,
    read_parameter_file,
    select_notebooks,
)
from thyroid_utils.workbook.report import provenance, recorded_answer, recorded_outputs, render_index, render_report, story

_FORMAT = 4  # of run.json; raised when its entries change

# How a run ends: what it is called in run.json → exit code, and what is printed. The first that holds of any notebook counts.
_ENDS = {"interrupted": (130, "Interrupted"), "failed": (1, "Done, with a notebook that failed"), "finished": (0, "Done")}
_SUFFIXES = {"figures": (".png", ".pdf"), "tables": (".csv", ".tex")}


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
    file = read_parameter_file(params)
    notebooks = select_notebooks(only or file.notebooks)
    given = parameters_by_notebook(file, settings, data_root)
    folder = (out or paths.reports_dir() / params.stem).absolute()
    _check_folder(folder, [notebook.stem for notebook in notebooks])
    with _only_process(folder), Interruption() as interruption:
        run = _Run(folder, file, notebooks, given, show_code)
        try:
            return run.execute(interruption)
        except OSError as error:
            with suppress(OSError):  # the last word of the index, where clearing up has made room for it
                run.close("interrupted")
            told = f"{folder}: {error.strerror or error} while writing"
            raise RunError(f"{told}; what was finished is kept, put that right and run again") from error


class _Run:
    """The state of one run: `document` is what run.json holds, `records` its entry a notebook, in their order."""

    def __init__(self, folder: Path, file: ParameterFile, notebooks: list[Path], given: dict, show_code: bool) -> None:
        self.folder, self.notebooks, self.given, self.show_code = folder, notebooks, given, show_code
        roots = [values["DATA_ROOT"] for values in given.values() if values.get("DATA_ROOT")]
        self.scrubber = Scrubber([folder, *roots])
        self.made_with = {"parameter_file": file.path.name, **describe()}
        self.started = time.monotonic()
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.known = [notebook.stem for notebook in numbered_notebooks()]
        earlier = _read_json(folder / "run.json")
        self.earlier: dict[str, Any] = earlier.get("notebooks", {}) if earlier.get("format") == _FORMAT else {}
        kept = {
            stem: record | {"earlier": True}
            for stem, record in self.earlier.items()
            if (folder / f"{stem}.html").is_file() and (folder / f"{stem}.ipynb").is_file()
        }
        new = {notebook.stem: self._new_record(notebook, "waiting") for notebook in notebooks}
        self.records: dict[str, Any] = {stem: (new | kept)[stem] for stem in self.known if stem in new | kept}
        self.document: dict[str, Any] = {
            "format": _FORMAT,
            "title": file.title,
            "description": file.description,
            "status": "running",
            "started": _now(),
            "duration": None,
            **self.made_with,
            "notebooks": self.records,
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
        self.close(result)
        code, told = _ENDS[result]
        self.console.print(f"{told} in {duration_text(self.document['duration'])}: {seen_from_here(self.folder / 'index.html')}")
        return code

    def _execute_one(self, notebook: Path, status: Status, interruption: Interruption) -> str:
        """How it ended. Where it was interrupted, its earlier report, if there is one, is untouched."""
        stem, started = notebook.stem, time.monotonic()
        staging = self.folder / f".unfinished-{stem}"
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        staging.mkdir()
        status.update(Text(stem))
        executed, failure = execute_notebook(
            notebook,
            self.given[stem],
            variables={"THYROID_REPORT_DIR": str(staging), "THYROID_NOTEBOOK": stem},
            progress=lambda heading: status.update(Text(f"{stem}: {heading}")),
            interruption=interruption,
        )
        if failure and interruption.requested:
            if self.records[stem]["status"] == "waiting":
                self.records[stem]["status"] = "interrupted"
            return "interrupted"
        record = self._new_record(notebook, "failed" if failure else "finished", executed, failure)
        record["duration"] = round(time.monotonic() - started, 2)
        self._stage(executed, record, staging)
        self._install(record, staging)
        self._write_index()
        self.console.print(f"{stem}: {record['status']} in {duration_text(record['duration'])}")
        if failure:
            self.console.print(f"  {record['error']['line']}")
        return record["status"]

    def _new_record(
        self, notebook: Path, status: str, executed: nbformat.NotebookNode | None = None, failure: Failure | None = None
    ) -> dict[str, Any]:
        node = executed or read_notebook(notebook)
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
            "error": {"line": failure.line, "cell": failure.cell} if failure else None,
            "answer": recorded_answer(node),
            "figures": recorded_outputs(node, "figure"),
            "tables": recorded_outputs(node, "table"),
            "show_code": self.show_code,
            "earlier": False,
        }
        return self.scrubber.anything(record)

    def _stage(self, executed: nbformat.NotebookNode, record: dict[str, Any], staging: Path) -> None:
        """Complete the files of one notebook in its hidden folder."""
        for text in [*staging.glob("tables/*.csv"), *staging.glob("tables/*.tex"), *staging.glob("metrics.json")]:
            write_text(text, self.scrubber.text(text.read_text(encoding="utf-8")))
        node = self.scrubber.anything(executed)
        write_text(staging / f"{record['stem']}.ipynb", nbformat.writes(node) + "\n")
        metrics = _read_json(staging / "metrics.json").get(record["stem"], {})
        write_text(staging / f"{record['stem']}.html", self._page(record, node, metrics))

    def _page(self, record: dict[str, Any], node: nbformat.NotebookNode, metrics: dict[str, Any]) -> str:
        return render_report(node, record, self.document, self._neighbours(record["stem"]), provenance(metrics))

    def _neighbours(self, stem: str) -> dict[str, Any]:
        """The records of the reports before and after one."""
        made = [other for other, record in self.records.items() if record["status"] in ("finished", "failed") or other == stem]
        place = made.index(stem)
        before, after = made[place - 1 : place] if place else [], made[place + 1 : place + 2]
        return {"previous": self.records[before[0]] if before else None, "next": self.records[after[0]] if after else None}

    def _install(self, record: dict[str, Any], staging: Path) -> None:
        """Move the finished files into place, remove what an earlier run of this notebook left, and link its neighbours to it."""
        stem, files = record["stem"], _files(record)
        metrics = _read_json(self.folder / "metrics.json") | {stem: _read_json(staging / "metrics.json").get(stem, {})}
        self._write_json("metrics.json", metrics)
        for file in files:
            (self.folder / file).parent.mkdir(exist_ok=True)
            os.replace(staging / file, self.folder / file)
        for other, earlier in self.earlier.items():
            if other == stem or (other[:2] == stem[:2] and other not in self.known):  # it was renamed
                for file in set(_files(earlier)) - set(files):
                    (self.folder / file).unlink(missing_ok=True)
        shutil.rmtree(staging)
        self.records[stem] = record
        for neighbour in self._neighbours(stem).values():
            if neighbour:
                path = self.folder / f"{neighbour['stem']}.ipynb"
                page = self._page(neighbour, nbformat.read(path, as_version=4), metrics.get(neighbour["stem"], {}))
                write_text(path.with_suffix(".html"), page)

    def close(self, status: str) -> None:
        """Clear up and write what is said of the run as a whole."""
        for folder in self.folder.glob(".unfinished-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for record in self.records.values():
            if record["status"] == "waiting":
                record["status"] = "not run"
        self.document["status"] = status
        self._write_index()

    def _write_index(self) -> None:
        self.document["duration"] = round(time.monotonic() - self.started, 2)
        self._write_json("run.json", self.document)  # first: it marks the folder as one of this workbook
        write_text(self.folder / "index.html", render_index(self.document, _read_json(self.folder / "metrics.json"), self.folder))

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(self.scrubber.anything(content), indent=1, ensure_ascii=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or spoilt by another program: what can be made again is
        return {}
    return content if isinstance(content, dict) else {}


def _files(record: dict[str, Any]) -> list[str]:
    """What a record's notebook leaves in the output folder, seen from there; never a file elsewhere, whatever the record says."""
    recorded = [
        f"{kind}/{Path(entry['file']).name}{suffix}"
        for kind, suffixes in _SUFFIXES.items()
        for entry in record[kind]
        for suffix in suffixes
    ]
    return [*dict.fromkeys(recorded), f"{record['stem']}.ipynb", f"{record['stem']}.html"]


def _check_folder(folder: Path, stems: Sequence[str]) -> None:
    """Raises RunError where writing would replace what is no report."""
    names = ["index.html", *(f"{stem}.{suffix}" for stem in stems for suffix in ("ipynb", "html"))]
    foreign = [name for name in names if (folder / name).exists()]
    if foreign and not (folder / "run.json").exists():
        raise RunError(f"{folder}: {', '.join(foreign)} would be replaced, and no run wrote it; name another folder with --out")


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Make the output folder and hold it. Raises RunError where it cannot be written or another process holds it."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"{folder}: another run is writing this folder; wait for it or name another one with --out") from None
    except OSError as error:
        raise RunError(f"{folder}: the output folder cannot be written ({error.strerror}); name another one with --out") from None
    try:
        yield
    finally:
        lock.release()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
