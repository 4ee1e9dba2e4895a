"""From a parameter file to a folder of reports.

Every notebook is worked on in a hidden folder beside its report and moved into place when it has ended, so that an interruption,
a full disk or a second process never leaves half a report, and what an earlier run finished stays until it is replaced.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import nbformat

from thyroid_utils.common import paths
from thyroid_utils.common.errors import RunError
from thyroid_utils.common.files import write_text
from thyroid_utils.workbook import environment
from thyroid_utils.workbook.display import Display
from thyroid_utils.workbook.environment import Scrubber
from thyroid_utils.workbook.execute import Failure, Interruption, execute_notebook
from thyroid_utils.workbook.pages import provenance, render_index
from thyroid_utils.workbook.parameters import numbered_notebooks, parameters_by_notebook, read_parameter_file, select_notebooks
from thyroid_utils.workbook.report import recorded_outputs, render_report, story

_FORMAT = 2  # of run.json; raised when its entries change

FINE, NOTEBOOK_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_SUFFIXES = {"figures": (".png", ".pdf"), "tables": (".csv", ".tex")}


@dataclass(frozen=True)
class Request:
    """What `thyroid-workbook run` was asked for. params: the parameter file; out: the output folder, else reports/NAME."""

    params: Path
    only: Sequence[str] = ()
    settings: Sequence[str] = ()
    data_root: Path | None = None
    out: Path | None = None
    show_code: bool = False


def run_workbook(request: Request, display: Display) -> int:
    """Run the notebooks and write their reports; returns the exit code (0 fine, 1 a notebook failed, 130 interrupted).

    Raises ParameterError before anything runs for what the parameters cannot mean, RunError for a folder that cannot be written,
    that another process writes, or whose disk is full.
    """
    file = read_parameter_file(request.params)
    notebooks = select_notebooks(request.only or file.notebooks)
    given = parameters_by_notebook(file, request.settings, request.data_root)
    folder = (request.out or paths.reports_dir() / request.params.stem).absolute()
    _check_folder(folder, [notebook.stem for notebook in notebooks])
    with _only_process(folder), Interruption() as interruption:
        run = _Run(request, folder, file.title, file.description, notebooks, given)
        try:
            return run.execute(display, interruption)
        except OSError as error:
            run.clear_unfinished()
            with suppress(OSError):  # the last word of the index, where clearing up has made room for it
                run.close("interrupted")
            remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "put that right"
            raise RunError(
                f"{folder}: {os.strerror(error.errno) if error.errno else error} while writing; "
                f"what was finished is kept, {remedy} and run again"
            ) from error


class _Run:
    """The state of one run: `document` is what run.json holds."""

    def __init__(self, request: Request, folder: Path, title: str, description: str, notebooks: list[Path], given: dict) -> None:
        self.folder = folder
        self.notebooks = notebooks
        self.given = given
        self.show_code = request.show_code
        roots = [values["DATA_ROOT"] for values in given.values() if values.get("DATA_ROOT")]
        self.scrubber = Scrubber([folder, *roots])
        self.made_with = {"parameter_file": request.params.name, **environment.describe()}
        self.started = time.monotonic()
        self.earlier = self._earlier_records()
        known = [notebook.stem for notebook in numbered_notebooks()]
        records = {stem: self.earlier[stem] for stem in known if stem in self.earlier and (folder / f"{stem}.html").is_file()}
        for record in records.values():
            record["earlier"] = True
        for notebook in notebooks:
            records.setdefault(notebook.stem, self._new_record(notebook, "waiting"))
        self.document: dict[str, Any] = {
            "format": _FORMAT,
            "title": title,
            "description": description,
            "status": "running",
            "started": _now(),
            "duration": None,
            **self.made_with,
            "notebooks": {stem: records[stem] for stem in known if stem in records},
        }

    def _earlier_records(self) -> dict[str, Any]:
        """What earlier runs of this folder finished, where this version of the runner wrote it."""
        earlier = self._read("run.json")
        return earlier.get("notebooks", {}) if earlier.get("format") == _FORMAT else {}

    def execute(self, display: Display, interruption: Interruption) -> int:
        self.clear_unfinished()
        self._write_index()
        with display.running([notebook.stem for notebook in self.notebooks], self.folder):
            for notebook in self.notebooks:
                if interruption.requested or not self._execute_one(notebook, display, interruption):
                    return self._end("interrupted", INTERRUPTED, display)
        executed = [self.document["notebooks"][notebook.stem]["status"] for notebook in self.notebooks]
        return self._end(*(("failed", NOTEBOOK_FAILED) if "failed" in executed else ("finished", FINE)), display)

    def _execute_one(self, notebook: Path, display: Display, interruption: Interruption) -> bool:
        """False when it was interrupted; its earlier report, if there is one, is then untouched."""
        stem = notebook.stem
        staging = self.folder / f".unfinished-{stem}"
        staging.mkdir()
        variables = {
            "THYROID_REPORT_DIR": str(staging),
            "THYROID_NOTEBOOK": stem,
            "THYROID_WORKBOOK_ROOT": str(paths.project_root()),
        }
        display.started(stem)
        started = time.monotonic()
        executed, failure = execute_notebook(
            notebook, self.given[stem], variables=variables, progress=display.cell, interruption=interruption
        )
        if failure and interruption.requested:
            if self.document["notebooks"][stem]["status"] == "waiting":
                self.document["notebooks"][stem]["status"] = "interrupted"
            display.ended(stem, "interrupted", time.monotonic() - started)
            return False
        record = self._new_record(notebook, "failed" if failure else "finished", executed, failure)
        record["duration"] = round(time.monotonic() - started, 2)
        self._stage(executed, record, staging)
        self._install(stem, staging)
        self.document["notebooks"][stem] = record
        self._write_index()
        display.ended(stem, record["status"], record["duration"], record["error"]["line"] if failure else None)
        return True

    def _new_record(
        self, notebook: Path, status: str, executed: nbformat.NotebookNode | None = None, failure: Failure | None = None
    ) -> dict[str, Any]:
        node = executed or nbformat.read(notebook, as_version=4)
        error = {"line": failure.line, "cell": failure.cell} if failure else None
        record = {
            "stem": notebook.stem,
            "number": notebook.stem[:2],
            **story(node, notebook.stem),
            "status": status,
            "started": _now(),
            "duration": None,
            "parameters": self.given[notebook.stem],
            **self.made_with,
            "commit": environment.commit(),  # as it is now: a run may take hours
            "error": error,
            "figures": recorded_outputs(node, "figure"),
            "tables": recorded_outputs(node, "table"),
            "show_code": self.show_code,
            "earlier": False,
        }
        return self.scrubber.anything(record)

    def _stage(self, executed: nbformat.NotebookNode, record: dict[str, Any], staging: Path) -> None:
        """Complete the files of one notebook in its hidden folder."""
        for text in [*staging.glob("tables/*.csv"), *staging.glob("tables/*.tex"), *staging.glob("metrics.json")]:
            content = text.read_text(encoding="utf-8")
            scrubbed = self.scrubber.text(content)
            if scrubbed != content:
                write_text(text, scrubbed)
        node = self.scrubber.anything(executed)
        _show_only_last_folder(node, record["parameters"].get("DATA_ROOT"))
        write_text(staging / f"{record['stem']}.ipynb", nbformat.writes(node) + "\n")
        recorded = self._read_from(staging / "metrics.json").get(record["stem"], {})
        self._write_report(record, node, recorded, staging)

    def _write_report(self, record: dict[str, Any], node: nbformat.NotebookNode, recorded: dict[str, Any], target: Path) -> None:
        record["neighbours"] = self._neighbours(record["stem"])
        run = {key: value for key, value in self.document.items() if key != "notebooks"}
        page = render_report(node, record, run, record["neighbours"], provenance(recorded))
        write_text(target / f"{record['stem']}.html", page)

    def _neighbours(self, stem: str) -> dict[str, dict[str, str] | None]:
        """The reports before and after, those that this run is still to make included."""
        records = self.document["notebooks"]
        linked = [
            other for other, record in records.items() if record["status"] in ("finished", "failed", "waiting") or other == stem
        ]
        place = linked.index(stem)
        before, after = linked[place - 1 : place] if place else [], linked[place + 1 : place + 2]
        return {
            "previous": {"stem": before[0], "title": records[before[0]]["title"]} if before else None,
            "next": {"stem": after[0], "title": records[after[0]]["title"]} if after else None,
        }

    def _install(self, stem: str, staging: Path) -> None:
        """Move the finished files into place and remove what an earlier run of this notebook left."""
        kept = set()
        for kind, suffixes in _SUFFIXES.items():
            (self.folder / kind).mkdir(exist_ok=True)
            for file in sorted(staging.glob(f"{kind}/{stem[:2]}_*")):
                if file.suffix in suffixes:
                    os.replace(file, self.folder / kind / file.name)
                    kept.add(self.folder / kind / file.name)
        metrics = self._read("metrics.json")
        metrics[stem] = self._read_from(staging / "metrics.json").get(stem, {})
        self._write_json("metrics.json", metrics)
        for suffix in ("ipynb", "html"):
            os.replace(staging / f"{stem}.{suffix}", self.folder / f"{stem}.{suffix}")
            kept.add(self.folder / f"{stem}.{suffix}")
        for file in self._left_by_earlier_runs(stem):
            if file not in kept:
                file.unlink(missing_ok=True)
        shutil.rmtree(staging)

    def _left_by_earlier_runs(self, stem: str) -> Iterator[Path]:
        """What earlier runs wrote of this notebook, or of one with its number that is no more; nobody else's files."""
        known = {notebook.stem for notebook in numbered_notebooks()} - {stem}
        for earlier, record in self.earlier.items():
            if earlier[:2] == stem[:2] and earlier not in known:
                yield from (self.folder / f"{earlier}{suffix}" for suffix in (".ipynb", ".html"))
                for kind, suffixes in _SUFFIXES.items():
                    for entry in record[kind]:
                        name = Path(entry["file"]).name
                        yield from (self.folder / kind / f"{name}{suffix}" for suffix in suffixes)

    def _end(self, status: str, code: int, display: Display) -> int:
        self.clear_unfinished()
        self.close(status)
        display.summary(status, time.monotonic() - self.started, self.folder / "index.html")
        return code

    def close(self, status: str) -> None:
        """Write what is said of the run as a whole, and mend the links between reports where one did not come to be."""
        for record in self.document["notebooks"].values():
            if record["status"] == "waiting":
                record["status"] = "not run"
        self.document["status"] = status
        metrics = self._read("metrics.json")
        for stem, record in self.document["notebooks"].items():
            if record["status"] in ("finished", "failed") and record.get("neighbours") != self._neighbours(stem):
                node = nbformat.read(self.folder / f"{stem}.ipynb", as_version=4)
                self._write_report(record, node, metrics.get(stem, {}), self.folder)
        self._write_index()

    def _write_index(self) -> None:
        self.document["duration"] = round(time.monotonic() - self.started, 2)
        metrics = self._read("metrics.json")
        self._write_json("run.json", self.document)  # first: it marks the folder as one of this workbook
        write_text(self.folder / "index.html", render_index(self.document, metrics, self.folder))

    def clear_unfinished(self) -> None:
        for folder in self.folder.glob(".unfinished-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any]:
        return self._read_from(self.folder / name)

    @staticmethod
    def _read_from(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or spoilt by another program: what can be made again is
            return {}
        return content if isinstance(content, dict) else {}

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(self.scrubber.anything(content), indent=1, ensure_ascii=False) + "\n")


def _check_folder(folder: Path, stems: Sequence[str]) -> None:
    """Raises RunError where writing would replace what is no report."""
    notebooks = paths.notebooks_dir().resolve()
    if folder.resolve() == notebooks or notebooks in folder.resolve().parents:
        raise RunError(f"{folder}: reports would lie among the notebooks that they are made of; name another folder with --out")
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
        reason = os.strerror(error.errno) if error.errno else error
        raise RunError(f"{folder}: the output folder cannot be written ({reason}); name another one with --out") from None
    try:
        yield
    finally:
        lock.release()


def _show_only_last_folder(node: nbformat.NotebookNode, data_root: str | None) -> None:
    """In the injected cell, where papermill escapes letters of a path so that no scrubber knows it."""
    for cell in node.cells:
        if data_root and "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"^DATA_ROOT = .*$", lambda _: f"DATA_ROOT = {data_root!r}", cell.source, flags=re.MULTILINE)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
