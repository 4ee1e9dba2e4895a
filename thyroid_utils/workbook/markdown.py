"""Markdown with formulas, and HTML that is safe to show, for pages made of notebooks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bs4
from latex2mathml.converter import convert as latex_to_mathml
from markupsafe import Markup
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from thyroid_utils.workbook.pages import environment


def markdown(
    source: str, attachments: Mapping[str, Any] | None = None, folder: Path | None = None, taken: set[str] | None = None
) -> tuple[Markup, list[dict]]:
    """HTML of markdown with its formulas as MathML, and its headings as dicts with level, text and id.

    Pictures that lie below `folder` are embedded. `taken`: the ids that the page already has; new ones are added to it.
    """
    options = {"escape": False, "embed_images": folder is not None, "path": str(folder or ""), "attachments": attachments}
    renderer = _Renderer(set() if taken is None else taken, **options)
    body = MarkdownWithMath(renderer=renderer).render(source)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return Markup(str(safe_tree(body))), renderer.headings


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
    return Markup(re.sub(r"</?p>|</?a\b[^>]*>", "", markdown(source)[0]).strip())


def formula(latex: str, display: str = "inline") -> Markup:
    """MathML of a LaTeX formula; where it cannot be read, its source, visibly marked."""
    # The one of the three that is converted to rows.
    known = re.sub(r"\\(begin|end)\{(aligned|gathered)\}", r"\\\1{split}", latex)
    try:
        converted = latex_to_mathml(known.strip(), display=display)
    except Exception:  # the converter raises many kinds for LaTeX that it does not know, some of them bare
        converted = None
    if converted is None or re.search(r">(\\[a-zA-Z]+|[&}])<", converted):  # what it does not know is passed on as text
        return Markup('<code class="formula-source" title="This formula could not be set">{}</code>').format(latex)
    return Markup(converted)


def _block_formula(latex: str) -> Markup:
    return Markup('<span class="formula scroll">{}</span>').format(formula(latex.strip().strip("$"), "block"))


def _terminal_html(text: str) -> Markup:
    return Markup(ansi2html(text.rstrip("\n")))


class _Renderer(IPythonRenderer):
    """nbconvert's markdown with formulas set ahead (browsers show MathML without a script) and headings collected."""

    def __init__(self, taken: set[str], **options: Any) -> None:
        super().__init__(**options)
        self.headings: list[dict] = []
        self._taken = taken

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        plain = Markup(text).striptags()
        slug = re.sub(r"\W+", "-", plain.lower()).strip("-") or "section"
        identifier = f"{slug}-{len(self._taken)}" if slug in self._taken else slug
        self._taken.add(identifier)
        self.headings.append({"level": level, "text": plain, "id": identifier})
        return f'<h{level} id="{identifier}">{text}</h{level}>\n'

    def block_math(self, body: str) -> str:
        return _block_formula(body)

    def inline_math(self, body: str) -> str:
        return formula(body)

    def latex_environment(self, name: str, body: str) -> str:
        return _block_formula(f"\\begin{{{name}}}{body}\\end{{{name}}}")


environment().filters.update(ansi=_terminal_html, formula=_block_formula)
