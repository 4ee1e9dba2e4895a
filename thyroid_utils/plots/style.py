"""The one figure style, and captions: a figure function is `@styled`, takes data and returns a `Figure` not shown by itself."""

import re
import string
import tomllib
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from types import UnionType
from typing import TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryFormatter
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter, MaxNLocator

from thyroid_utils.common.words import count

# Okabe and Ito's colours stay apart for the colour-blind and in gray print.
CLASS_COLOURS = {"benign": "#0072B2", "malignant": "#D55E00", "unlabelled": "#8c8c8c"}
SPLIT_COLOURS = {"train": "#5b7fa3", "val": "#e0a030", "test": "#7a4d8f"}
TRUTH, ACCENT, NEUTRAL, INK = "#ffd60a", "#009E73", "#4d5763", "#2b323a"
PROBLEM, BOX = "#ff3b6b", "#37d67a"  # on pictures: what is wrong, and where something lies
_BRIGHT = [*list(CLASS_COLOURS.values())[:2], ACCENT, SPLIT_COLOURS["test"], SPLIT_COLOURS["val"], "#56B4E9", NEUTRAL]
# Where there are more models than these, darker and paler ones of each.
_COLOURS = _BRIGHT + [to_hex(pale + 0.5 * np.array(to_rgb(colour))) for pale in (0, 0.5) for colour in _BRIGHT]
WIDTH = 9.6  # inches of a figure that fills the text column
# DejaVu comes with matplotlib; the others, where one is installed, have the letters of names that it lacks.
_WIDER = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans",
          "Malgun Gothic", "Arial Unicode MS")  # fmt: skip
FONTS = ["DejaVu Sans", *(name for name in _WIDER if name in fontManager.get_font_names())]

_STYLE = mpl.rc_params_from_file(Path(__file__).with_name("workbook.mplstyle"), use_default_template=False)

Draw = TypeVar("Draw", bound=Callable[..., Figure])


def styled(draw: Draw) -> Draw:
    """Run a figure function under the workbook's style, whatever style the session has; its texts are `plain`."""

    @wraps(draw)
    def with_style(*args, **kwargs):
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "font.family": FONTS, "backend": mpl.rcParams["backend"]}):
            figure = draw(*args, **kwargs)
        if figure is not None:
            retell(figure, plain, FuncFormatter | FixedFormatter | StrCategoryFormatter)
        return figure

    return with_style


class Retold(Formatter):
    """The labels of another formatter, changed by `tell`."""

    def __init__(self, formatter: Formatter, tell: Callable[[str], str]):
        self.formatter, self.tell = formatter, tell

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        return [self.tell(label) for label in self.formatter.format_ticks(values)]


def retell(figure: Figure, tell: Callable[[str], str], kinds: type | UnionType = Formatter) -> None:
    """Change all texts of a figure by `tell`, labels of ticks included where their formatter is of `kinds`."""
    for text in figure.findobj(Text):
        text.set_text(tell(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), kinds):
                axis.set_major_formatter(Retold(axis.get_major_formatter(), tell))


def plain(text: str) -> str:
    """Text that a figure shows as it is: a dollar sign opens no formula, and a letter that no font at hand has is told by its
    code, such as [7532], instead of an empty box."""
    text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return "".join(letter if letter.isspace() or _drawn(letter) else f"[{ord(letter):04X}]" for letter in text)


@cache
def _drawn(letter: str) -> bool:
    return any(get_font(findfont(name)).get_char_index(ord(letter)) for name in FONTS)


def captions(notebook: str, **known: object) -> Callable[..., str]:
    """`says(name, **more)`: what stands below a figure or table of a notebook, from `captions.toml`.

    notebook: section of the file, such as "grad_cam". known, more: what its `{…}` are filled with; `{n:test image}` counts.
    """
    texts = tomllib.loads(Path(__file__).with_name("captions.toml").read_text(encoding="utf-8"))[notebook]

    def says(name: str, /, **more: object) -> str:
        return _Counting().format(texts[name], **known, **more)

    return says


class _Counting(string.Formatter):
    """Fills `{n:image}` with "3 images" or "1 image"."""

    def format_field(self, value: object, spec: str) -> str:
        return count(value, spec) if re.fullmatch(r"[a-z ]{3,}", spec) else super().format_field(value, spec)


def new_figure(rows: int, columns: int, height: float, width: float = WIDTH, **grid) -> tuple[Figure, np.ndarray]:
    """A figure outside pyplot's list (so it is shown once and never leaks) and its axes, always as a (rows, columns) array."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def new_panels(count: int, height: float, width: float = WIDTH, columns: int | None = None, **grid) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels and their axes in reading order, in one row or `columns` a row, each `height` inches high."""
    columns = columns or count
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, height * rows, width, **grid)
    for place in axes.flat[count:]:
        place.set_visible(False)
    return figure, list(axes.flat[:count])


def bare(axes: Axes) -> Axes:
    """Axes for a picture: no ticks, grid or frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def integer_ticks(axes: Axes, axis: str = "y") -> None:
    """Counts have no halves."""
    getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(integer=True, nbins=6))


def across(axes: Axes) -> Axes:
    """Axes whose values run from left to right, so that their grid stands upright."""
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    return axes


def below(figure: Figure, axes: Axes | None = None, **more) -> None:
    """The legend below the panels: of what is labelled on `axes`, else of `handles`."""
    if axes is not None:
        more["handles"], more["labels"] = axes.get_legend_handles_labels()
    figure.legend(**{"loc": "outside lower left", "ncols": 4, **more})


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """The colour of each model, the same in every figure whatever the order it shows them in."""
    return {model: _COLOURS[number % len(_COLOURS)] for number, model in enumerate(sorted(models))}
