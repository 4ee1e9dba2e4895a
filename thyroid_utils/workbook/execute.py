"""Executes one notebook with papermill, in a kernel of this very interpreter that never outlives the call."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

_START_TIMEOUT = 120  # seconds that a kernel may take to answer; a cold disk or a busy machine takes many
_PATIENCE = 2.0  # seconds between asking a kernel to stop and ending it

CellProgress = Callable[[int, int, str], None]
"""Called with the number of cells done, the number of cells, and the heading of the section at work."""

_MARKER_TAGS = {"papermill-error-cell-tag"}  # papermill's own red notes; the report has a better place for the error


class Interruption:
    """Ctrl-C and its like: while entered, SIGINT, SIGTERM and SIGHUP raise nothing, they set `requested` and call `end_kernel`.

    An exception out of a signal handler could strike between two files that belong together, or in the middle of the event loop
    that talks to the kernel.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.requested = False
        self.end_kernel: Callable[[], None] | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._earlier = {number: signal.signal(number, self._handle) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        self.requested = True
        if self.end_kernel is not None:
            self.end_kernel()


@dataclass(frozen=True)
class Failure:
    """The exception that stopped a notebook; `cell` counts from 0 in the executed notebook."""

    name: str
    message: str
    cell: int

    @property
    def line(self) -> str:
        """The error in one line, as a traceback ends."""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return f"{self.name}: {lines[0]}" if lines else self.name


def execute_notebook(
    notebook: Path,
    parameters: dict[str, Any],
    *,
    variables: dict[str, str | None],
    progress: CellProgress | None = None,
    interruption: Interruption | None = None,
) -> tuple[nbformat.NotebookNode, Failure | None]:
    """Execute a copy of `notebook` and return it with its outputs, and what stopped it if something did.

    variables: environment of the kernel beyond this process's; None removes one. interruption: where it is requested, the kernel
    ends and the notebook fails. The kernel works in a scratch folder, so that files a notebook writes to its current folder end
    with it.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is told by the report
    papermill_engines.register("workbook", _Engine)
    interruption = interruption or Interruption()
    with tempfile.TemporaryDirectory(prefix="workbook-") as scratch, tempfile.TemporaryDirectory(prefix="workbook-") as cwd:
        executed, log = Path(scratch) / notebook.name, Path(scratch) / "kernel.log"
        processes = _KernelProcesses(interruption, variables, log)
        interruption.end_kernel = processes.interrupt
        failure = None
        try:
            papermill.execute_notebook(
                _literal(notebook),
                _literal(executed),
                parameters,
                engine_name="workbook",
                cwd=cwd,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                request_save_on_cell_execute=False,
                start_timeout=_START_TIMEOUT,
                kernel_manager_class=processes.manager_class(),
                coalesce_streams=True,
                **_hooks(notebook, bool(parameters), progress),
            )
        except PapermillExecutionError as error:
            failure = Failure(error.ename, error.evalue, error.cell_index)
        except (RuntimeError, TimeoutError) as error:  # the kernel did not even start
            told = log.read_text(errors="replace").strip().splitlines()[-1:]
            return nbformat.read(notebook, as_version=4), Failure(type(error).__name__, " ".join([str(error), *told]), 0)
        finally:
            interruption.end_kernel = None
            processes.end()
        notebook_out = _tidied(nbformat.read(executed, as_version=4))
        return notebook_out, failure or _left_early(notebook_out)


def _left_early(notebook: nbformat.NotebookNode) -> Failure | None:
    """`sys.exit(0)` is no error to papermill, though the cells after it did not run."""
    last = max((position for position, cell in enumerate(notebook.cells) if cell.cell_type == "code"), default=0)
    for position, cell in enumerate(notebook.cells[:last]):
        for output in cell.get("outputs", []):
            if output.output_type == "error" and output.ename == "SystemExit":
                return Failure("SystemExit", "a cell ended the notebook; the cells after it did not run", position)
    return None


class _Engine(NBClientEngine):
    """papermill's engine, which else loses the notebook when its kernel is killed (out of memory, a crash in native code)."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        except DeadKernelError:
            started = [cell for cell in nb_man.nb.cells if cell.metadata.papermill.get("start_time") and cell.cell_type == "code"]
            message = "the kernel died while this cell ran; often the memory was not enough"
            error = nbformat.v4.new_output(
                "error", ename="DeadKernelError", evalue=message, traceback=[f"DeadKernelError: {message}"]
            )
            started[-1].outputs.append(error)


def _literal(path: Path) -> str:
    """papermill fills `{name}` in paths; a folder may be called so."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _KernelProcesses:
    """The kernel of one notebook and whatever it starts: they share a process group, and none outlives `end`."""

    def __init__(self, interruption: Interruption, variables: dict[str, str | None], log: Path) -> None:
        self._interruption = interruption
        self._variables = variables
        self._log = log
        self._group: int | None = None
        self._timer = threading.Timer(_PATIENCE, self.end)
        self._timer.daemon = True

    def manager_class(self) -> type[AsyncKernelManager]:
        """A manager of a kernel of `sys.executable`, whatever kernel is installed as python3 elsewhere."""
        arguments = ["-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        spec = KernelSpec(argv=[sys.executable, *arguments], display_name="Python 3 (ipykernel)", language="python")
        processes = self

        class Manager(AsyncKernelManager):
            @property
            def kernel_spec(self) -> KernelSpec:
                return spec

            async def _async_start_kernel(self, **options: Any) -> None:
                if processes._interruption.requested:
                    raise RuntimeError("interrupted before the kernel started")
                with processes._log.open("ab") as log:  # what it tells outside of cells is no business of the terminal
                    streams = {"stdout": log, "stderr": log}
                    await super()._async_start_kernel(**options, **streams, env=processes._environment())
                processes._group = getattr(self.provisioner, "pgid", None)
                if processes._interruption.requested:
                    processes.end()

            start_kernel = _async_start_kernel

        return Manager

    def interrupt(self) -> None:
        """Let the cell at work clean up after itself, and end what is left after a moment."""
        self._signal(signal.SIGINT)
        if not self._timer.is_alive():
            with contextlib.suppress(RuntimeError):  # started by an earlier signal, and over
                self._timer.start()

    def end(self) -> None:
        self._timer.cancel()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended, the usual case
                os.killpg(self._group, number)

    def _environment(self) -> dict[str, str]:
        # Threads of a kernel wait without spinning: spinning on a shared machine costs training up to ten times the time.
        given = {"OMP_WAIT_POLICY": "passive", **os.environ, **self._variables}
        return {name: value for name, value in given.items() if value is not None}


def _hooks(notebook: Path, injected: bool, progress: CellProgress | None) -> dict[str, Callable]:
    if progress is None:
        return {}
    cells = nbformat.read(notebook, as_version=4).cells
    headings, heading = [], ""
    for cell in cells:
        titles = (
            [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            if cell.cell_type == "markdown"
            else []
        )
        heading = titles[-1] if titles else heading
        headings.append(heading)
        if injected and "parameters" in cell.metadata.get("tags", []):
            headings.append(heading)
    total = len(headings)

    def started(cell: Any, cell_index: int) -> None:
        progress(min(cell_index, total), total, headings[min(cell_index, total - 1)])

    return {"on_cell_start": started}


def _tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what papermill notes of paths and times, and with the metadata that every notebook carries."""
    notebook.cells = [cell for cell in notebook.cells if not _MARKER_TAGS & set(cell.metadata.get("tags", []))]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return notebook
