"""An executed notebook as one self-contained HTML page, and the index of an output folder: no script, nothing to be loaded."""

import base64
import io
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import bs4
import nbformat
from markupsafe import Markup
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from thyroid_utils.common import paths
from thyroid_utils.workbook.markdown import inline_markdown, markdown, safe_tree
from thyroid_utils.workbook.pages import embedded_jpeg, render_page

PROVENANCE = ("data_", "split_", "trained_")
"""Recorded names that start with one of these are shown with the provenance, not among the key numbers."""

_KEY_NUMBERS = 6
_THUMBNAIL_SIZE = (640, 400)  # pixels: twice the width of a card, for sharp screens
_THUMBNAIL_BYTES = 45_000  # as base64 this is 60 kB
_LARGE_PICTURE = 270_000  # letters of base64 PNG above which a page embeds WebP, which is a fifth of the size for speckle
_PAGE_WIDTH, _PHONE_WIDTH, _PADDING, _LETTER = 940, 340, 27, 7.5  # pixels: of a table's room, and of a cell and a letter in it
_NUMBER = re.compile(r"\s*[-−+]?[\d.,\u202f ]*\d(e[-+]?\d+)?\s*%?\s*|\s*(NaN|nan|–|inf)\s*")
_TITLE = re.compile(r"^#\s+(.+?)\s*#*$", re.MULTILINE)


def story(notebook: nbformat.NotebookNode, stem: str) -> dict[str, str]:
    """`title` (text of the first heading, else the file's name) and `question` (HTML of the first paragraph after it)."""
    source = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    found = _TITLE.search(source)
    title = inline_markdown(found.group(1)).striptags() if found else stem[3:].replace("_", " ").capitalize()
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", source[found.end() if found else 0 :])]
    question = next((part for part in paragraphs if part and not part.startswith("#")), "")
    return {"title": re.sub(r"^\d+\s*[.:–—-]?\s+", "", title), "question": str(inline_markdown(question))}


def recorded_answer(notebook: nbformat.NotebookNode) -> str | None:
    """The markdown of `record_answer`; None where the notebook has not come so far."""
    return next((note["answer"] for note in _notes(notebook) if note.get("answer")), None)


def mentioned_runs(notebook: nbformat.NotebookNode) -> list[str]:
    """The short names of the runs that `run_all` told of, each once."""
    text = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    return list(dict.fromkeys(re.findall(r", run ([0-9a-f]{8})$", "\n".join(text), re.MULTILINE)))


def recorded_outputs(notebook: nbformat.NotebookNode, kind: str) -> list[dict[str, Any]]:
    """What `record_figure` (kind "figure") or `record_table` (kind "table") noted in the outputs, in their order."""
    found = [note for note in _notes(notebook) if kind in note]
    return [{"file": note[kind], "caption": note["caption"], "cover": note.get("cover", False)} for note in found]


def _notes(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    """What `workbook.record` noted beside each output."""
    return [output.get("metadata", {}).get("thyroid", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


def told_cells(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells without the sections (## and ###) whose code shows nothing: those that the parameters did not ask for."""
    for level in (2, 3):
        parts: list[list[nbformat.NotebookNode]] = [[]]
        for cell in cells:
            if 0 < _level(cell) <= level:
                parts.append([])
            parts[-1].append(cell)
        cells = [cell for part in parts if not (part and _level(part[0]) == level and _shows_nothing(part)) for cell in part]
    return cells


def _level(cell: nbformat.NotebookNode) -> int:
    """Of the first heading of a cell of prose; 0 where there is none."""
    found = re.search(r"^(#{1,6})\s", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
    return len(found.group(1)) if found else 0


def _shows_nothing(cells: list[nbformat.NotebookNode]) -> bool:
    """Whether there is code among these cells, and none that shows anything."""
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    return bool(code) and not any(_is_to_be_seen(output) for cell in code for output in cell.outputs)


def _is_to_be_seen(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    data = output.get("data", {"error": "error"})
    text = [data[kind] for kind in ("text/html", "text/markdown") if kind in data]  # an empty one has words as plain text
    return any(text) if text else bool(data)


def provenance(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What was recorded of data, splits and where networks were trained, by label."""
    chosen = {name: entry for name, entry in recorded.items() if name.startswith(PROVENANCE) and entry["value"] is not None}
    return {entry["label"] or name.replace("_", " "): entry["value"] for name, entry in chosen.items()}


def render_report(
    notebook: nbformat.NotebookNode,
    record: Mapping[str, Any],
    run: Mapping[str, Any],
    neighbours: Mapping[str, Mapping[str, Any] | None],
    provenance: Mapping[str, str],
) -> str:
    """The HTML page of an executed, scrubbed notebook.

    record: the notebook's entry of run.json. run: run.json. neighbours: `previous` and `next`, each None or a dict with stem and
    title. provenance: recorded fingerprints and hashes by label.
    """
    headings: list[dict] = []
    taken = {"error", "contents", "answer"}  # ids that the template uses itself

    def prose(source: str, attachments: Mapping[str, Any] | None = None) -> Markup:
        source = source if headings else _TITLE.sub("", source, count=1)  # the page's header shows it
        body, found = markdown(source, attachments, paths.notebooks_dir(), taken)
        headings.extend(heading for heading in found if heading["level"] <= 3)
        return body

    return render_page(
        "report.html.j2",
        cells=notebook.cells if record["error"] else told_cells(notebook.cells),
        record=record,
        run=run,
        neighbours=neighbours,
        provenance=provenance,
        answer=recorded_answer(notebook),
        headings=headings,
        prose=prose,
        code=_highlighted,
        embedded=_embedded,
        displayed=_displayed,
    )


def _highlighted(source: str) -> Markup:
    return Markup(highlight(source, get_lexer_by_name("ipython3"), HtmlFormatter(nowrap=True)))


def _embedded(data: Mapping[str, str], kind: str) -> str:
    """A data address of a displayed picture, PNG made smaller where it is large."""
    if kind == "image/svg+xml":
        return f"data:{kind};base64,{base64.b64encode(data[kind].encode()).decode()}"
    content = "".join(data[kind].split())
    if kind == "image/png" and len(content) > _LARGE_PICTURE:
        smaller = _as_webp(base64.b64decode(content))
        if 0 < len(smaller) < len(content):
            return f"data:image/webp;base64,{smaller}"
    return f"data:{kind};base64,{content}"


def _as_webp(content: bytes) -> str:
    """A PNG as base64 WebP; "" where it would lose depth or transparency, is too large for WebP, or is no picture."""
    stream = io.BytesIO()
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.mode in ("RGB", "RGBA", "L", "P") and picture.convert("RGBA").getchannel("A").getextrema()[0] == 255:
            picture.convert("RGB").save(stream, "webp", quality=88, method=4)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    return base64.b64encode(stream.getvalue()).decode()


def _displayed(source: str) -> Markup:
    """What a cell displayed as HTML, made safe, its tables in the page's style."""
    tree = safe_tree(source)
    for table in tree.find_all("table"):
        if "dataframe" in table.get("class", []):
            for style in tree.find_all("style"):
                style.decompose()
        for element in (table, *table.find_all("tr")):
            del element["border"], element["style"]
        least = _align_numbers(table)
        wide = "wide" if least > _PAGE_WIDTH else "middling" if least > _PHONE_WIDTH else ""
        table.insert_before(
            bs4.BeautifulSoup(f'<p class="more {wide}">More columns on the right →</p>' * bool(wide), "html.parser")
        )
    return Markup(str(tree))


def _align_numbers(table: bs4.Tag) -> float:
    """Mark the columns of numbers; counted from the right, as the row names of several levels differ in number.

    Returns the width in pixels, as well as can be told, below which columns are hidden: text breaks between words."""
    least = 0.0
    rows = [reversed(row.find_all(["th", "td"], recursive=False)) for row in table.find_all("tr")]
    for column in zip_longest(*rows):
        cells = [cell for cell in column if cell is not None]
        values = [cell.get_text() for cell in cells if cell.name == "td"]
        if values and all(_NUMBER.fullmatch(value) for value in values):
            for cell in cells:
                cell["class"] = [*cell.get("class", []), "number"]
            words = [cell.get_text() for cell in cells]
        else:
            words = [word for cell in cells for word in cell.get_text().split()]
        least += _PADDING + _LETTER * max(map(len, words), default=0)
    return least


def render_index(run: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """The HTML of `index.html`. run: run.json; metrics: metrics.json; folder: where the figures lie."""
    cards = []
    for stem, record in run["notebooks"].items():
        shown = {"numbers": key_numbers(metrics.get(stem, {})), "provenance": provenance(metrics.get(stem, {}))}
        shown |= {"answer": inline_markdown(record["answer"] or ""), "question": Markup(record["question"])}
        shown |= {"thumbnail": thumbnail(record["figures"], folder)}
        cards.append({**record, **shown})
    return render_page("index.html.j2", run=run, cards=cards)


def key_numbers(recorded: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first recorded values that are defined and not provenance, those with a label first; `low` is None without interval."""
    kept = {name: entry for name, entry in recorded.items() if not name.startswith(PROVENANCE)}
    parts = [entry["value"] if isinstance(entry["value"], Mapping) else {"value": entry["value"]} for entry in kept.values()]
    shown = [{"name": name, "low": None, **kept[name], **part} for name, part in zip(kept, parts, strict=True)]
    defined = [entry for entry in shown if entry["value"] is not None]
    return sorted(defined, key=lambda entry: entry["label"] is None)[:_KEY_NUMBERS]


def thumbnail(figures: list[dict[str, Any]], folder: Path) -> dict[str, str] | None:
    """The cover, else the first figure, as an embedded JPEG of at most 60 kB: a dict with source and alt, or None."""
    chosen = next((figure for figure in figures if figure["cover"]), figures[0] if figures else None)
    if chosen is None or not (folder / f"{chosen['file']}.png").is_file():
        return None
    with Image.open(folder / f"{chosen['file']}.png") as opened:
        picture = opened.convert("RGB")
    return {"source": embedded_jpeg(picture, _THUMBNAIL_SIZE, _THUMBNAIL_BYTES), "alt": chosen["caption"]}
