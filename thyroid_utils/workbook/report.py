"""One executed notebook as one self-contained HTML page: no script, no address that a browser would load."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import bs4
import nbformat
from markupsafe import Markup
from nbconvert.filters import ansi2html
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from thyroid_utils.common import paths
from thyroid_utils.workbook.pages import formula, inline_markdown, markdown, render_page, safe_tree

_LARGE_PICTURE = 200_000  # bytes of PNG above which a page embeds WebP, which is a fifth of the size for speckle
_NUMBER = re.compile(r"\s*[-−+]?[\d.,\u202f ]*\d(e[-+]?\d+)?\s*%?\s*|\s*(NaN|nan|–|inf)\s*")


def story(notebook: nbformat.NotebookNode, stem: str) -> dict[str, Any]:
    """`title` (text of the first heading, else the file's name) and `question` (HTML of the first paragraph after it)."""
    title, question = stem[3:].replace("_", " ").capitalize(), ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        found = re.search(r"^#\s+(.+?)\s*#*$", cell.source, re.MULTILINE)
        rest = cell.source[found.end() :] if found else cell.source
        if found:
            heading = markdown(f"# {found.group(1)}")[1]
            title = re.sub(r"^\d+\s*[.:–—-]?\s+", "", heading[0]["plain"])
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", rest) if part.strip() and not part.lstrip().startswith("#")]
        question = str(inline_markdown(paragraphs[0])) if paragraphs else ""
        break
    return {"title": title, "question": question}


def recorded_outputs(notebook: nbformat.NotebookNode, kind: str) -> list[dict[str, Any]]:
    """What `record_figure` (kind "figure") or `record_table` (kind "table") noted in the outputs, in their order."""
    notes = [output.get("metadata", {}).get("thyroid", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [{"file": note[kind], "caption": note["caption"], "cover": note.get("cover", False)} for note in notes if kind in note]


def render_report(
    notebook: nbformat.NotebookNode,
    record: Mapping[str, Any],
    run: Mapping[str, Any],
    neighbours: Mapping[str, Mapping[str, Any] | None],
    provenance: Mapping[str, str],
) -> str:
    """The HTML page of an executed, scrubbed notebook.

    record: the notebook's entry of run.json. run: the other entries of run.json. neighbours: `previous` and `next`, each None or
    a dict with stem and title. provenance: recorded fingerprints and hashes by label.
    """
    page = _Page(notebook, record)
    return render_page(
        "report.html.j2",
        record=record,
        run=run,
        blocks=page.blocks,
        contents=page.contents,
        neighbours=neighbours,
        provenance=provenance,
        show_code=record["show_code"],
    )


class _Page:
    """Goes through the cells in order and collects `blocks` (what the template lays out) and `contents` (the headings)."""

    def __init__(self, notebook: nbformat.NotebookNode, record: Mapping[str, Any]) -> None:
        self.blocks: list[dict[str, Any]] = []
        self.contents: list[dict[str, Any]] = []
        self._identifiers = {"error", "contents"}  # what the template uses itself
        self._section = record["title"]
        self._title_seen = False
        self._failed_cell = record["error"]["cell"] if record.get("error") else None
        for position, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                self._add_prose(cell)
            elif cell.cell_type == "code" and cell.source.strip():
                failed = position == self._failed_cell
                outputs = [block for output in cell.outputs if (block := self._output(output))]
                lines = cell.source.rstrip().count("\n") + 1
                self.blocks.append({"kind": "code", "code": _highlighted(cell.source), "lines": lines, "failed": failed})
                self.blocks += outputs

    def _add_prose(self, cell: nbformat.NotebookNode) -> None:
        body, headings = markdown(cell.source, cell.get("attachments"), paths.notebooks_dir(), self._identifiers)
        for heading in headings:
            self._section = heading["plain"]
            if heading["level"] == 1 and not self._title_seen:  # the page's header shows it
                self._title_seen = True
                body = Markup(re.sub(r"<h1\b.*?</h1>", "", body, count=1, flags=re.DOTALL))
            elif heading["level"] <= 3:
                self.contents.append(heading)
        if body.strip():
            self.blocks.append({"kind": "prose", "html": body})

    def _output(self, output: nbformat.NotebookNode) -> dict[str, Any] | None:
        if output.output_type == "stream":
            kind = "messages" if output.name == "stderr" else "text"
            return {
                "kind": kind,
                "html": Markup(ansi2html(output.text.rstrip("\n"))),
                "lines": output.text.rstrip("\n").count("\n") + 1,
            }
        if output.output_type == "error":
            return {"kind": "error", "html": Markup(ansi2html("\n".join(output.traceback)))}
        note, data = output.metadata.get("thyroid", {}), output.data
        if note.get("repeats_caption"):
            return None
        if "figure" in note or "image/png" in data or "image/jpeg" in data or "image/svg+xml" in data:
            return self._figure(output, note)
        if "text/html" in data:
            return {
                "kind": "table",
                "html": _displayed_html(data["text/html"]),
                "caption": note.get("caption"),
                "file": note.get("table"),
            }
        if "text/markdown" in data:
            return {"kind": "prose", "html": markdown(data["text/markdown"], taken=self._identifiers)[0]}
        if "text/latex" in data:
            return {
                "kind": "prose",
                "html": Markup(f'<p class="scroll">{formula(data["text/latex"].strip().strip("$"), "block")}</p>'),
            }
        if "text/plain" in data:
            return {"kind": "text", "html": Markup(ansi2html(data["text/plain"])), "lines": data["text/plain"].count("\n") + 1}
        return None

    def _figure(self, output: nbformat.NotebookNode, note: Mapping[str, Any]) -> dict[str, Any]:
        data = output.data
        kind = next(kind for kind in ("image/png", "image/jpeg", "image/svg+xml") if kind in data)
        shape = output.metadata.get(kind, {})
        return {
            "kind": "figure",
            "source": Markup(html.escape(_embedded(data[kind], kind))),
            "alt": shape.get("alt") or note.get("caption") or f"Picture in the section {self._section}",
            "caption": note.get("caption"),
            "file": note.get("figure"),
            "width": shape.get("width"),
            "height": shape.get("height"),
        }


def _highlighted(source: str) -> Markup:
    return Markup(highlight(source, get_lexer_by_name("ipython3"), HtmlFormatter(nowrap=True)))


def _embedded(content: str, kind: str) -> str:
    """A data address of a picture, PNG made smaller where it is large."""
    if kind == "image/svg+xml":
        return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"
    content = "".join(content.split())
    if kind == "image/png" and len(content) * 3 / 4 > _LARGE_PICTURE:
        smaller = _as_webp(content)
        if smaller and len(smaller) < len(content):
            return f"data:image/webp;base64,{smaller}"
    return f"data:{kind};base64,{content}"


def _as_webp(content: str) -> str | None:
    """A base64 PNG as base64 WebP; None where it would lose depth or transparency, is too large for WebP, or is no picture."""
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            if picture.mode not in ("RGB", "RGBA", "L", "P"):
                return None
            whole = picture.convert("RGBA")
        if whole.getchannel("A").getextrema()[0] < 255:
            return None
        whole.convert("RGB").save(stream, "webp", quality=88, method=4)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return base64.b64encode(stream.getvalue()).decode()


def _displayed_html(source: str) -> Markup:
    """What a cell displayed as HTML, made safe, its tables in the page's style."""
    tree = safe_tree(source)
    for table in tree.find_all("table"):
        _tidy_table(table)
    return Markup(str(tree))


def _tidy_table(table: bs4.Tag) -> None:
    for name in ("border", "style"):
        del table[name]
    if "dataframe" in table.get("class", []):
        for style in table.find_parent().find_all("style") if table.find_parent() else []:
            style.decompose()
        for row in table.find_all("tr"):
            del row["style"]
    numeric_columns: dict[int, bool] = {}
    body_rows = table.select("tbody tr")
    for row in body_rows:
        cells = row.find_all(["th", "td"], recursive=False)
        for from_right, cell in enumerate(reversed(cells)):
            if cell.name == "td":
                is_number = _NUMBER.fullmatch(cell.get_text()) is not None
                numeric_columns[from_right] = numeric_columns.get(from_right, True) and is_number
    for row in [*table.select("thead tr"), *body_rows]:
        for from_right, cell in enumerate(reversed(row.find_all(["th", "td"], recursive=False))):
            if numeric_columns.get(from_right):
                cell["class"] = [*{*cell.get("class", []), "number"}]
