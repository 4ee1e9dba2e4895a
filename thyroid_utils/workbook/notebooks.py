"""The notebooks: parameterised by papermill, executed in a kernel that never outlives the call, and kept clean as files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.common.files import scratch_folder, write_text

_START_TIMEOUT = 120  # seconds that a kernel may take to answer; a cold disk or a busy machine takes many
_PATIENCE = 2.0  # seconds between asking a kernel to stop and ending it

ELSEWHERE = "the terminal shows the whole message"
CHECKED = "nbval-check-output"
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_CELL_METADATA = ("tags", "jupyter", "slideshow")
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")


class Interruption:
    """Ctrl-C and its like: while entered, SIGINT, SIGTERM and SIGHUP raise nothing, they set `requested` and end the kernels.

    An exception out of a signal handler could strike between two files that belong together, or in the middle of the event loop
    that talks to a kernel. `managers` are those of the kernels at work, from before they start.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.requested = False
        self.managers: list[KernelManager] = []
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._earlier = {number: signal.signal(number, self.request) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def request(self, *_: object) -> None:
        """Let the cells at work clean up after themselves, and end what is left after a moment."""
        self.requested = True
        self._send(signal.SIGINT)
        timer = threading.Timer(_PATIENCE, self._send, [signal.SIGKILL])
        timer.daemon = True
        timer.start()

    def _send(self, number: int) -> None:
        for manager in list(self.managers):
            _send(manager, number)


def _send(manager: KernelManager, number: int) -> None:
    """A signal to a kernel and its children, if there are any."""
    group = getattr(manager.provisioner, "pgid", None)  # of the kernel and of whatever it started
    if group is not None:
        with suppress(ProcessLookupError, PermissionError):  # all have ended, the usual case
            os.killpg(group, number)


@dataclass(frozen=True)
class Failure:
    """What stopped a notebook: the error with its whole message, its type, and the cell, counted from 0 in the executed one."""

    told: str
    cell: int
    kind: str

    @property
    def line(self) -> str:
        return self.told.splitlines()[0].rstrip(": ")


def execute_notebook(
    notebook: Path,
    parameters: dict[str, Any],
    *,
    variables: dict[str, str | None],
    progress: Callable[[str], None] | None = None,
    interruption: Interruption | None = None,
) -> tuple[nbformat.NotebookNode, Failure | None]:
    """Execute a copy of `notebook` and return it with its outputs, and what stopped it if something did.

    The kernel works in a scratch folder, so that files a notebook writes to its current folder end with it.

    Args:
        parameters: name → value, in a cell of their own behind the one tagged `parameters`.
        variables: environment of the kernel beyond this process's; None removes one.
        progress: called with the heading of the section at work.
        interruption: where it is requested, the kernel ends and the notebook fails.
    """
    node = load_notebook_node(str(notebook))
    if parameters:
        node = parameterize_notebook(node, parameters, kernel_name="python3", language="python")
    for part in (node, *node.cells):
        part.metadata.pop("papermill", None)
    for cell in node.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            # As Python writes them: papermill escapes letters of a path, and no scrubber would know it.
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    return node, _run_cells(node, variables, progress, interruption or Interruption())


def _run_cells(
    node: nbformat.NotebookNode,
    variables: dict[str, str | None],
    progress: Callable[[str], None] | None,
    interruption: Interruption,
) -> Failure | None:
    with scratch_folder() as scratch, (scratch / "kernel.log").open("w+") as log:
        client = _client(node, scratch)
        # What the kernel tells outside of cells is no business of the terminal.
        options = {"cwd": str(scratch), "env": _environment(variables), "stdout": log, "stderr": log}
        manager, place = client.km, 0
        interruption.managers.append(manager)
        try:
            with client.setup_kernel(cleanup_kc=True, **options):
                for place, cell in enumerate(node.cells):
                    if interruption.requested:
                        return Failure("interrupted", place, "KeyboardInterrupt")
                    if progress and _heading(cell):
                        progress(_heading(cell))
                    client.execute_cell(cell, place)
        except CellExecutionError as error:
            return Failure(f"{error.ename}: {error.evalue}", place, error.ename)
        except (RuntimeError, TimeoutError) as error:  # not started; or killed, or crashed in native code
            log.seek(0)
            line = " ".join([f"{error}; often the memory was not enough.", *log.read().splitlines()[-1:]])
            if node.cells[place].cell_type == "code":
                output = nbformat.v4.new_output("error", ename="DeadKernelError", evalue=line, traceback=[line])
                node.cells[place].outputs.append(output)
            return Failure(line, place, "DeadKernelError")
        finally:
            _send(manager, signal.SIGKILL)
            interruption.managers.remove(manager)
    return None


def without_messages(node: nbformat.NotebookNode) -> None:
    """Leave of every error its type: messages, and so tracebacks, may name files, and files of a user's own data a patient."""
    for output in (output for cell in node.cells for output in cell.get("outputs", []) if output.output_type == "error"):
        output.update(evalue=ELSEWHERE, traceback=[f"{output.ename}: {ELSEWHERE}"])


def _client(node: nbformat.NotebookNode, scratch: Path) -> NotebookClient:
    """To a kernel of this very interpreter, whatever kernel is installed as python3 elsewhere, its connection in `scratch`."""
    specs = KernelSpecManager(kernel_dirs=[])
    connection = str(scratch / "connection.json")
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, connection_file=connection)
    options = {"startup_timeout": _START_TIMEOUT, "timeout": None, "extra_arguments": ["--log-level=ERROR"]}
    options |= {"coalesce_streams": True, "record_timing": False}
    return NotebookClient(node, manager, shutdown_kernel="immediate", **options)  # nothing is left to be done: all cells ran


def _environment(variables: dict[str, str | None]) -> dict[str, str]:
    # Threads of a kernel wait without spinning: spinning on a shared machine costs training up to ten times the time.
    root = {"THYROID_WORKBOOK_ROOT": str(paths.project_root())}  # a relative one would be looked up from the kernel's own folder
    given = {"OMP_WAIT_POLICY": "passive", **os.environ, **root, **variables}
    return {name: value for name, value in given.items() if value is not None}


def _heading(cell: nbformat.NotebookNode) -> str:
    lines = cell.source.splitlines() if cell.cell_type == "markdown" else []
    return next((line.lstrip("# ") for line in reversed(lines) if line.startswith("#")), "")


def numbered_notebooks() -> list[Path]:
    """The notebooks that a run executes, `notebooks/NN_name.ipynb`, in order. Raises ParameterError where there is none."""
    found = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ParameterError(f"no notebooks: expected NN_name.ipynb in the folder {paths.notebooks_dir().name}/ of the project")
    return found


def select_notebooks(numbers: Sequence[str]) -> list[Path]:
    """The notebooks with these numbers (`01`, `1` or the whole stem), in their order; all of them when none is named."""
    notebooks = numbered_notebooks()
    if not numbers:
        return notebooks
    wanted = set()
    for number in numbers:
        matching = [path for path in notebooks if number == path.stem or (number.isdigit() and int(number) == int(path.stem[:2]))]
        if not matching:
            raise ParameterError(f"--only {number}: no such notebook; there are {', '.join(path.stem for path in notebooks)}")
        wanted.update(matching)
    return [path for path in notebooks if path in wanted]


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook file. Raises ParameterError where it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        told = str(error).partition("\n")[0][:100]
        raise ParameterError(f"{path.name}: not a Jupyter notebook ({told}); restore it from version control") from None


def clean_notebooks(write: bool = True) -> list[Path]:
    """Strip every notebook of `notebooks/` of outputs, counts and editors' metadata; returns those that changed (or, with
    write=False, would). The cells tagged nbval-check-output keep their outputs."""
    return [path for path in sorted(paths.notebooks_dir().glob("*.ipynb")) if _store(path, read_notebook(path), write)]


def refresh_notebook(path: Path, parameters: dict[str, Any]) -> bool:
    """Execute a copy with these parameters and store what its checked cells show; whether the file changed.

    Raises RunError where the notebook fails, or where a checked cell shows nothing or writes to standard error, which no test
    could compare.
    """
    executed, failure = execute_notebook(path, parameters, variables={"THYROID_REPORT_DIR": None})
    injected = ["injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells]
    if failure:
        place = injected[: failure.cell + 1].count(False)
        raise RunError(f"{path.name}: cell {place} failed ({failure.line}); nothing was stored")
    executed.cells = [cell for cell, ours in zip(executed.cells, injected, strict=True) if not ours]
    for count, cell in enumerate((cell for cell in executed.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    for place, cell in enumerate(executed.cells, start=1):
        if CHECKED in cell.metadata.get("tags", []):
            problem = "" if cell.outputs else "shows nothing; print something or drop the tag"
            if any(output.get("name") == "stderr" for output in cell.outputs):
                problem = "writes warnings; silence their cause or drop the tag"
            if problem:
                raise RunError(f"{path.name}: cell {place} is tagged {CHECKED} but {problem}")
    return _store(path, executed)


def _store(path: Path, node: nbformat.NotebookNode, write: bool = True) -> bool:
    """Write a notebook as it is kept under version control; whether that changes the file."""
    for cell in node.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in _CELL_METADATA and value}
        if cell.cell_type != "code":
            continue
        if CHECKED in cell.metadata.get("tags", []):
            cell.outputs = [_comparable(output) for output in cell.outputs if output.output_type != "error"]
        else:
            cell.outputs, cell.execution_count = [], None
    node.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    text = nbformat.writes(node) + "\n"
    changed = text != path.read_text(encoding="utf-8")
    if changed and write:
        write_text(path, text)
    return changed


def _comparable(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without pictures (nbval compares none) and without metadata."""
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind not in _PICTURES}
        output.metadata = {}
    return output
