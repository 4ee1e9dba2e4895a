"""Keeps the notebooks as files clean: no outputs but the ones that tests compare, no traces of editors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nbformat

from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.common.files import write_text
from thyroid_utils.workbook.execute import execute_notebook

CHECKED = "nbval-check-output"
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_CELL_METADATA = ("tags", "jupyter", "slideshow")
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")


def clean_notebooks(write: bool = True) -> list[Path]:
    """Clean every notebook of `notebooks/`; returns those that changed (or, with write=False, would)."""
    changed = []
    for path in sorted(paths.notebooks_dir().glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        cleaned = cleaned_text(text, path.name)
        if cleaned != text:
            changed.append(path)
            if write:
                write_text(path, cleaned)
    return changed


def cleaned_text(text: str, name: str = "notebook") -> str:
    """A notebook's JSON without outputs, counts and editors' metadata; the cells tagged nbval-check-output keep their outputs."""
    try:
        document = json.loads(text)
        cells = document["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{name}: not a Jupyter notebook ({error}); restore it from version control") from None
    for place, cell in enumerate(cells):
        # nbformat would invent a random id, and the file would differ from run to run
        cell.setdefault("id", hashlib.sha256(f"{place} {cell['source']}".encode()).hexdigest()[:8])
    document["nbformat"], document["nbformat_minor"] = 4, 5
    node = nbformat.from_dict(document)
    for cell in node.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in _CELL_METADATA and value}
        if cell.cell_type != "code":
            continue
        if CHECKED in cell.metadata.get("tags", []):
            cell.outputs = [_comparable(output) for output in cell.outputs if output.output_type != "error"]
        else:
            cell.outputs, cell.execution_count = [], None
    node.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    return nbformat.writes(node) + "\n"


def refresh_notebook(path: Path) -> bool:
    """Execute a copy with the default parameters and store what its checked cells show; whether the file changed.

    Raises RunError where the notebook fails, or where a checked cell shows nothing or writes to standard error, which no test
    could compare.
    """
    variables = {"THYROID_REPORT_DIR": None, "THYROID_NOTEBOOK": path.stem, "THYROID_WORKBOOK_ROOT": str(paths.project_root())}
    executed, failure = execute_notebook(path, {}, variables=variables)
    if failure:
        raise RunError(f"{path.name}: cell {failure.cell + 1} failed ({failure.line}); nothing was stored")
    for place, cell in enumerate(executed.cells, start=1):
        if CHECKED not in cell.metadata.get("tags", []):
            continue
        if not cell.outputs:
            raise RunError(f"{path.name}: cell {place} is tagged {CHECKED} but shows nothing; print something or drop the tag")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            raise RunError(
                f"{path.name}: cell {place} is tagged {CHECKED} but writes warnings; silence their cause or drop the tag"
            )
    text = path.read_text(encoding="utf-8")
    refreshed = cleaned_text(nbformat.writes(executed), path.name)
    if refreshed != text:
        write_text(path, refreshed)
    return refreshed != text


def _comparable(output: Any) -> Any:
    """An output without pictures (nbval compares none) and without metadata."""
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind not in _PICTURES}
        output.metadata = {}
    if output.output_type == "execute_result":
        output.execution_count = output.get("execution_count")
    return output
