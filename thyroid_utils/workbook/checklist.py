"""A finished report held to two reporting guidelines: what its own records answer, and what is left to the author.

The guidelines' items, in our words, and the records that answer each stand in `checklist.toml`.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partialmethod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from thyroid_utils.common.errors import ParameterError
from thyroid_utils.common.files import write_text
from thyroid_utils.common.words import listed, literal
from thyroid_utils.workbook.folder import ReportFolder
from thyroid_utils.workbook.markdown import markdown
from thyroid_utils.workbook.pages import Scrubber, number_text, render_page
from thyroid_utils.workbook.parameters import declared_parameters

_DAMAGED = "its run.json is damaged or of another version"


def write_checklist(report: Path, out: Path | None = None) -> list[Path]:
    """Write `checklist.md` and `checklist.html` into `out`, else beside the report; links lead to the report's files.

    Raises:
        ParameterError: there is no report, or it is unfinished, changed since it was written, or without records.
        OSError: `out` cannot be written.
    """
    out = report if out is None else out
    records = Records(report, out)
    guidelines = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for guideline in guidelines.values():
        for item in guideline["items"].values():
            item["found"] = [told for source in item.get("from", []) for told in records.find(source)]
    text = render_page("checklist.md.j2", run=records.document, guidelines=guidelines)
    out.mkdir(parents=True, exist_ok=True)
    page = render_page("checklist.html.j2", title=records.document["title"], body=markdown(text)[0])
    return [write_text(out / "checklist.md", text), write_text(out / "checklist.html", page)]


def _problem(folder: ReportFolder) -> str:
    """Why a report cannot answer for itself; "" where it can."""
    if not folder.document:
        return _DAMAGED if (folder.path / "run.json").exists() else "there is no run.json"
    for stem, record in folder.records.items():
        if record["status"] != "finished":
            return f"{stem} is not finished ({record['status']})"
        if not folder.is_whole(record):
            return f"{stem}: files are missing or changed since the report was written, or a later run of it failed"
    if folder.document["status"] != "finished":
        return f"its run is not finished ({folder.document['status']})"
    recorded = any(folder.metrics.get(stem) or record["tables"] for stem, record in folder.records.items())
    return "" if recorded else "no number and no table was recorded in it"


class Records:
    """What a finished report holds, as markdown; `find` takes the names that `checklist.toml` has for it.

    Args:
        report: the folder of the report.
        out: the folder from which links to its files are seen.
    """

    def __init__(self, report: Path, out: Path) -> None:
        folder = ReportFolder(report, Scrubber())
        self.document, self.notebooks, self.metrics = folder.document, folder.records.values(), folder.metrics
        self.report, self.seen = report, quote(os.path.relpath(report, out))
        try:
            problem = _problem(folder)
        except (LookupError, TypeError, AttributeError):
            problem = _DAMAGED
        if problem:
            raise ParameterError(f"checklist {report}: {problem}; give the folder of a finished report, or run it again")
        self.parameters = {record["stem"]: self._in_force(record) for record in self.notebooks}

    def find(self, source: str) -> list[str]:
        """What `source`, as `table:03_scores`, leads to, each with the numbers of the notebooks that have it; [] for nothing.

        `parameter:NAME`, as it was in force; `value:NAME` of metrics.json; `table:NN_NAME`, `figure:NN_NAME`, its caption;
        `rows:NN_NAME`, a small table itself; `answer:NN`; `made:NAME`, with what a notebook was made. * in a name stands for
        anything.
        """
        kind, _, name = source.partition(":")
        numbers: dict[str, list[str]] = {}
        for record in self.notebooks:
            for told in getattr(self, f"_{kind}")(record, name):
                numbers.setdefault(told, []).append(record["number"])
        lines = [f"{told} ({listed(dict.fromkeys(found))})" for told, found in numbers.items()]
        return [", ".join(lines)] if lines and kind == "parameter" else lines

    def _in_force(self, record: dict[str, Any]) -> dict[str, Any]:
        declared = declared_parameters(self.report / f"{record['stem']}.ipynb")
        return {name: record["parameters"].get(name, found.default) for name, found in declared.items()}

    def _parameter(self, record: dict[str, Any], name: str) -> Iterator[str]:
        value = self.parameters[record["stem"]].get(name)
        if value not in (None, "", [], {}):
            yield f"`{name} = {json.dumps(value, ensure_ascii=False)}`"

    def _value(self, record: dict[str, Any], name: str) -> Iterator[str]:
        for known, entry in self.metrics.get(record["stem"], {}).items():
            if fnmatchcase(known, name) and entry["value"] is not None:
                parts = entry["value"] if isinstance(entry["value"], dict) else {"value": entry["value"]}
                value, *ends = map(number_text, parts.values())
                told = f"{value} {entry['unit'] or ''}".strip() + f" [{', '.join(ends)}]" * (parts.get("low") is not None)
                yield literal(f"{entry['label'] or known.replace('_', ' ')}: {told}")

    def _table(self, record: dict[str, Any], name: str, kind: str = "tables", end: str = "csv", rows: int = 0) -> Iterator[str]:
        for entry in record[kind]:
            if fnmatchcase(entry["file"], f"{kind}/{name}"):
                file = f"{entry['file']}.{end}"
                caption = re.match(r".{20,}?(?=\. |\.?$)|.*", entry["caption"]).group()  # the first sentence is enough
                yield f"[{literal(caption)}]({self.seen}/{quote(file)})"
                options = {"index_col": 0, "dtype": str, "keep_default_na": False, "nrows": rows}
                for first, cells in pd.read_csv(self.report / file, **options).iterrows() if rows else ():
                    yield literal(f"{first}: {', '.join(f'{head} {cell}' for head, cell in cells.items())}")

    _figure = partialmethod(_table, kind="figures", end="pdf")
    _rows = partialmethod(_table, rows=8)

    def _made(self, record: dict[str, Any], name: str) -> Iterator[str]:
        found = record[name] or {}
        told = found if isinstance(found, str) else ", ".join(f"{key} {value}" for key, value in found.items())
        yield from [literal(f"{name.replace('_', ' ')}: {told}")] if told else []

    def _answer(self, record: dict[str, Any], number: str) -> Iterator[str]:
        if record["number"] == number and record["answer"]:
            yield record["answer"]
