"""What was drawn into a figure, read back from it."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def dots(axes: Axes) -> list[float]:
    """Where estimates lie, across."""
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]


def points(axes: Axes) -> list[float]:
    """The heights of all points, ascending."""
    return sorted(np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "."]))


def bars(axes: Axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def texts(figure: Figure) -> str:
    """Everything that is written in a figure but names of ticks."""
    found = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    return " ".join([*titles(figure), *(text.get_text() for text in (*found, *figure.texts))])


def ticks(axes: Axes, side: str = "y") -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{side}ticklabels")()]
