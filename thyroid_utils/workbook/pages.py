"""The index of an output folder, and what all pages share: markdown with formulas, number formats, the Jinja templates."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import bs4
import jinja2
from latex2mathml.converter import convert as latex_to_mathml
from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

PROVENANCE = ("data_fingerprint", "split_hash")
"""Recorded names that start with one of these are shown with the provenance, not among the key numbers."""

KEY_NUMBERS = 6
_THUMBNAIL_SIZE = (640, 400)  # pixels: twice the width of a card, for sharp screens
_THUMBNAIL_BYTES = 45_000  # as base64 this is 60 kB

# Nothing may be fetched and no script may run, whatever a notebook displays.
CONTENT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)


def render_page(template: str, **values: Any) -> str:
    """Fill one of `templates/`; every value is escaped unless it is Markup."""
    return _environment().get_template(template).render(policy=CONTENT_POLICY, **values)


def render_index(run: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """The HTML of `index.html`. run: run.json; metrics: metrics.json; folder: where the figures lie."""
    cards = []
    for stem, record in run["notebooks"].items():
        recorded = metrics.get(stem, {})
        cards.append(
            {
                **record,
                "stem": stem,
                "question": Markup(record["question"]),
                "numbers": key_numbers(recorded),
                "provenance": provenance(recorded),
                "thumbnail": thumbnail(record["figures"], folder),
            }
        )
    shared = _shared_parameters([card["parameters"] for card in cards if card["status"] in ("finished", "failed")])
    return render_page("index.html.j2", run=run, cards=cards, shared=shared)


def key_numbers(recorded: Mapping[str, Mapping[str, Any]], most: int = KEY_NUMBERS) -> list[dict[str, Any]]:
    """The first recorded values that a card can show, those with a label first: dicts with label, text, unit and interval."""
    shown = []
    for name, entry in recorded.items():
        value = entry["value"]
        short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40)
        if (short or is_interval(value)) and not name.startswith(PROVENANCE):
            label, (middle, interval) = entry.get("label"), split_interval(value)
            shown.append(
                {
                    "label": label or name.replace("_", " "),
                    "labelled": label is not None,
                    "text": number_text(middle),
                    "unit": entry.get("unit"),
                    "interval": interval,
                }
            )
    return sorted(shown, key=lambda entry: not entry["labelled"])[:most]


def provenance(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Recorded data fingerprints and split hashes by label."""
    chosen = {name: entry for name, entry in recorded.items() if name.startswith(PROVENANCE) and entry["value"] is not None}
    return {entry.get("label") or name.replace("_", " "): str(entry["value"]) for name, entry in chosen.items()}


def thumbnail(figures: list[dict[str, Any]], folder: Path) -> dict[str, str] | None:
    """The cover, else the first figure, as an embedded JPEG of at most 60 kB: a dict with source and alt, or None."""
    chosen = next((figure for figure in figures if figure["cover"]), figures[0] if figures else None)
    if chosen is None or not (folder / f"{chosen['file']}.png").is_file():
        return None
    with Image.open(folder / f"{chosen['file']}.png") as opened:
        picture = opened.convert("RGB")
    return {"source": embedded_jpeg(picture, _THUMBNAIL_SIZE, _THUMBNAIL_BYTES), "alt": chosen["caption"]}


def _shared_parameters(given: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that every notebook which has them was given alike; the cards list the others."""
    values: dict[str, list[Any]] = {}
    for parameters in given:
        for name, value in parameters.items():
            values.setdefault(name, []).append(value)
    return {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}


def markdown(
    source: str, attachments: Mapping[str, Any] | None = None, folder: Path | None = None, taken: set[str] | None = None
) -> tuple[Markup, list[dict]]:
    """HTML of markdown with its formulas as MathML, and its headings as dicts with level, text (HTML), plain (text) and id.

    Pictures that lie below `folder` are embedded. `taken`: the ids that the page already has; new ones are added to it.
    """
    options = {"escape": False, "embed_images": folder is not None, "path": str(folder or ""), "attachments": attachments}
    renderer = _Renderer(set() if taken is None else taken, **options)
    body = MarkdownWithMath(renderer=renderer).render(source)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    if re.search(r"<(img|script|link|iframe|object|embed|base|meta)\b|\bon\w+=", body, re.IGNORECASE):
        body = str(safe_tree(body))
    return Markup(body), renderer.headings


def safe_tree(source: str) -> bs4.BeautifulSoup:
    """HTML without anything that runs or loads; a picture that is not embedded leaves its words."""
    tree = bs4.BeautifulSoup(source, "html.parser")
    for element in tree.find_all(["script", "link", "iframe", "object", "embed", "base", "meta"]):
        element.decompose()
    for element in tree.find_all(True):
        for name in [name for name in element.attrs if name.lower().startswith("on")]:
            del element[name]
        if element.name == "img":
            element["alt"] = element.get("alt") or "Picture"
            if not str(element.get("src", "")).startswith("data:"):
                element.replace_with(f"[{element['alt']}]")
    return tree


def inline_markdown(source: str) -> Markup:
    """One paragraph of markdown without the paragraph around it and without links, for a card."""
    body = re.sub(r"</?p>|</?a\b[^>]*>", "", str(markdown(source)[0])).strip()
    return Markup(body)


def formula(latex: str, display: str = "inline") -> str:
    """MathML of a LaTeX formula; where it cannot be read, its source, visibly marked."""
    known = re.sub(
        r"\\(begin|end)\{(aligned|gathered)\}", r"\\\1{split}", latex
    )  # the one of the three that is converted to rows
    try:
        converted = latex_to_mathml(known.strip(), display=display)
    except Exception:  # the converter raises many kinds for LaTeX that it does not know, some of them bare
        converted = None
    if converted is None or re.search(r">(\\[a-zA-Z]+|[&}])<", converted):  # what it does not know is passed on as text
        return f'<code class="formula-source" title="This formula could not be set">{html.escape(latex)}</code>'
    return converted


def duration_text(seconds: float | None) -> str:
    """`0.8 s`, `12 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def seen_from_here(path: Path) -> str:
    """A path as it is shortest in the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..")) else relative


def embedded_jpeg(picture: Image.Image, size: tuple[int, int], most: int, **options: Any) -> str:
    """A picture as a data address: a JPEG of at most `size` pixels, and of at most `most` bytes as far as quality allows."""
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    for quality in (85, 75, 60, 45, 30, 15):
        stream = io.BytesIO()
        picture.save(stream, "jpeg", quality=quality, optimize=True, **options)
        if stream.tell() <= most:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def number_text(value: Any) -> str:
    """A recorded value as a card shows it: three significant digits, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:#.3g}".rstrip(".")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def is_interval(value: Any) -> bool:
    """Whether a recorded value is an estimate with its interval: a dict with `low` and `high`."""
    return isinstance(value, Mapping) and {"low", "high"} <= value.keys()


def split_interval(value: Any) -> tuple[Any, str | None]:
    """The estimate and its interval as text (`0.78 – 0.84`); any other value as it is, with None."""
    if not is_interval(value):
        return value, None
    middle = next((value[key] for key in ("value", "mean", "estimate", "median") if key in value), None)
    return middle, f"{number_text(value['low'])} – {number_text(value['high'])}"


class _Renderer(IPythonRenderer):
    """nbconvert's markdown with formulas set ahead (browsers show MathML without a script) and headings collected."""

    def __init__(self, taken: set[str], **options: Any) -> None:
        super().__init__(**options)
        self.headings: list[dict] = []
        self._taken = taken

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        plain = re.sub(r"<[^>]+>", "", text)
        slug = re.sub(r"\W+", "-", html.unescape(plain).lower()).strip("-") or "section"
        identifier = next(name for name in chain([slug], (f"{slug}-{n}" for n in count(2))) if name not in self._taken)
        self._taken.add(identifier)
        self.headings.append({"level": level, "text": Markup(text), "plain": html.unescape(plain), "id": identifier})
        return f'<h{level} id="{identifier}">{text}</h{level}>\n'

    def block_math(self, body: str) -> str:
        return f'<span class="formula scroll">{formula(body, "block")}</span>'

    def inline_math(self, body: str) -> str:
        return formula(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre><code>{html.escape(code)}</code></pre>"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(duration=duration_text)
    return environment
