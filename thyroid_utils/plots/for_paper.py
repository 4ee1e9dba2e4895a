"""Any figure of the workbook as a paper wants it: its width, font, formats and language, whatever the session's style is."""

import pickle
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from thyroid_utils.common.errors import nearest
from thyroid_utils.plots.style import below, retell

_INCH = 25.4  # mm
_NARROWEST = {False: 45, True: 20}  # mm of a panel with axes, and of a picture
_PLAIN = 10  # points of the text as figures are drawn
_LETTER = 0.55  # of the size: width of a letter on average
_EMBEDDED = {"pdf.fonttype": 42, "svg.fonttype": "none"}  # journals ask for whole fonts; text stays text


def save_for_paper(
    figure: Figure,
    *files: str | Path,
    width: float = 85,
    height: float | None = None,
    size: float = 8,
    font: str | None = None,
    decimal: str = ".",
    words: Mapping[str, str] | None = None,
) -> Figure:
    """Write a figure for a paper; the one given stays as it is.

    Args:
        figure: what a function of `plots` returned.
        files: to write; each one's ending is its format: pdf, svg, png (600 dpi), tiff or eps.
        width: in mm; 85 fills a column of most journals, 175 a page.
        height: in mm; None for what the panels need.
        size: of the text in points; titles and small print keep their proportion to it.
        font: an installed family, such as "Arial"; None for the workbook's.
        decimal: what parts whole numbers from decimals, "." or ","; versions and DOIs stay as they are.
        words: text or part of a text (whole words) → what is to stand for it: labels in another language.

    Returns:
        The figure written, for changes by hand.

    Raises:
        ValueError: the font is not installed.
    """
    if font is not None and font not in mpl.font_manager.fontManager.get_font_names():
        raise ValueError(f"font {font!r} is not installed; {nearest(font, mpl.font_manager.fontManager.get_font_names())}")
    figure = pickle.loads(pickle.dumps(figure))
    old_height, scale = figure.get_figheight(), size / _PLAIN
    for text in figure.findobj(Text):
        text.set_fontsize(scale * text.get_fontsize())
        if font is not None:
            text.set_fontfamily(font)
    retell(figure, _told_by(dict(words or {}), decimal))
    rows, columns, before = _arranged(figure, width)
    figure.set_size_inches(width / _INCH, old_height)
    lines = _wrapped(figure, columns)
    shapes = [axes.images[0].get_array().shape for axes in figure.axes if axes.images and axes.get_subplotspec() is not None]
    if height:
        tall = height / _INCH
    elif shapes:
        picture = max(shape[0] / shape[1] for shape in shapes) * width / _INCH / columns
        tall = rows * (picture + 1.4 * lines * scale * _PLAIN / 72) + 0.6 * scale
    else:
        tall = old_height * scale * rows / before
    figure.set_size_inches(width / _INCH, tall)
    _narrowed(figure, size)
    with mpl.rc_context(_EMBEDDED):
        for file in files:
            figure.savefig(file, dpi=600, facecolor="white")
    return figure


def _told_by(words: dict[str, str], decimal: str) -> Callable[[str], str]:
    ordered = sorted(words, key=len, reverse=True)
    known = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in ordered)) if words else None

    def tell(text: str) -> str:
        text = known.sub(lambda found: words[found[0]], text) if known else text
        return re.sub(r"(?<![\w./])(\d+)\.(\d+)(?![\w/]|\.\w)", rf"\1{decimal}\2", text)

    return tell


def _arranged(figure: Figure, width: float) -> tuple[int, int, int]:
    """Put fewer panels in a row where they would be too narrow: rows and columns now, and the rows there were."""
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is not None]
    grids = {axes.get_subplotspec().get_gridspec() for axes in panels}
    before, columns = (max(size) for size in zip(*(grid.get_geometry() for grid in grids), strict=True))
    pictures = any(axes.images for axes in panels)
    fits = max(1, int(width // _NARROWEST[pictures]))
    shown = [axes for axes in panels if axes.get_visible()]
    if len(grids) > 1 or columns <= fits:
        return before, columns, before
    several = -(-len(shown) // -(-len(shown) // fits))
    if pictures:  # those of one case stay in one row
        several = max(each for each in range(1, fits + 1) if columns % each == 0)
    grid = figure.add_gridspec(-(-len(shown) // several), several)
    for axes in panels:
        if axes not in shown:
            axes.remove()
    for place, axes in enumerate(shown):
        axes.set_subplotspec(grid[divmod(place, several)])
        if not pictures:
            axes.tick_params(labelleft=place % several == 0 or axes._sharey is None, labelbottom=True)
    return grid.nrows, several, before


def _wrapped(figure: Figure, columns: int) -> int:
    """Break titles and labels into lines no longer than their panel is wide; the most lines that stand above and below one."""
    most = 0
    for axes in figure.axes:
        points = 72 * figure.get_figwidth() / (columns if axes.get_subplotspec() is not None else 1)
        lines = 0
        for text in (axes.title, axes._left_title, axes.xaxis.label):
            fits = max(6, int(0.95 * points / (_LETTER * text.get_fontsize())))
            text.set_text("\n".join(textwrap.fill(line, fits) for line in text.get_text().split("\n")))
            lines += len(text.get_text().splitlines())
        most = max(most, lines)
    return most


def _narrowed(figure: Figure, size: float) -> None:
    """Fewer ticks where a panel is narrow, and a legend in as many columns as the figure has room for."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        if isinstance(axes.xaxis.get_major_locator(), mpl.ticker.AutoLocator):
            points = 72 * axes.get_window_extent().width / figure.dpi
            axes.xaxis.set_major_locator(MaxNLocator(max(2, int(points / (5 * size)))))
    for legend in list(figure.legends):
        labels, fonts = [text.get_text() for text in legend.texts], legend.texts[0].get_fontproperties()
        label = fonts.get_size() * (5 + _LETTER * max(map(len, labels)))
        columns = int(72 * figure.get_figwidth() / label)
        legend.remove()
        columns = max(1, min(columns, legend._ncols))
        below(figure, handles=legend.legend_handles, labels=labels, ncols=columns, prop=fonts, frameon=False)
