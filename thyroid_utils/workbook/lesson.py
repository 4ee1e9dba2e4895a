"""What a reader of a notebook does with it: move a figure's values, answer an exercise. In a report nothing of it is left."""

import io
import os
from collections.abc import Callable, Mapping
from html import escape
from inspect import Parameter, signature
from math import isnan
from numbers import Real
from time import perf_counter
from typing import Any

from IPython.display import Markdown
from ipywidgets import HTML, Image, Layout, VBox, Widget, interactive
from matplotlib.figure import Figure

from thyroid_utils.workbook.record import record_figure

Draw = Callable[..., Figure]

_AT_ONCE = 0.1  # seconds: a figure that takes longer follows a slider when it is let go, not while it moves
_WORDS = {"alpha": "α", "beta": "β", "gamma": "γ", "clahe": "CLAHE"}


def play(
    draw: Draw, *given: Any, caption: str, at: Mapping[str, Any] | None = None, otherwise: str | None = None, **controls: Any
) -> VBox | None:
    """The figure `draw(*given, **values)` below a control for each of its values, drawn anew as they are moved.

    In a report, where nothing can be moved, the figure of the first values is recorded under `draw`'s name, without controls.

    Args:
        controls: by value of `draw`, as `ipywidgets.interactive` takes them: (lowest, highest) or (lowest, highest, step), a list
            of choices, a dict of label → choice, or True or False. The value's name, with spaces for underscores, is the label.
        at: first values by name; else `draw`'s own default is taken, or the first that the control offers.
        otherwise: the sentence shown where there is nothing to draw and `draw` returns None.
    """
    values = {name: _first(draw, name, control) for name, control in controls.items()} | dict(at or {})
    figure = draw(*given, **values)
    if figure is None or "THYROID_REPORT_DIR" in os.environ:
        record_figure(figure, draw.__name__, caption, otherwise=otherwise)
        return None
    words = {name: _WORDS.get(name, name.replace("_", " ")) for name in controls}
    wide = f"{0.6 * max(map(len, words.values())) + 1}em"
    moved = {name: interactive.widget_from_abbrev(control, values[name]) for name, control in controls.items()}
    picture = Image(format="png", layout=Layout(max_width="100%", object_fit="contain"))  # with a tooltip JupyterLab shows none

    def redraw(_: Any = None) -> None:
        begun, stream = perf_counter(), io.BytesIO()
        figure = draw(*given, **{name: control.value for name, control in moved.items()})
        figure.savefig(stream, format="png", dpi=144, facecolor="white")  # not cut to its content, or it would jump
        picture.layout.width, picture.value = f"{96 * figure.get_figwidth():.0f}px", stream.getvalue()
        for control in moved.values():
            if control.has_trait("continuous_update"):
                control.continuous_update = perf_counter() - begun < _AT_ONCE

    for name, control in moved.items():
        control.set_trait("description", words[name])
        control.style.description_width, control.layout.width = wide, "36em"
        control.layout.max_width = "100%"
        control.observe(redraw, "value")
    redraw()
    told: Widget = HTML(f"<em>{escape(caption)}</em>")
    return VBox([*moved.values(), picture, told])


def check_answer(answer: float | None, right: float, hint: str, within: float = 0) -> Markdown | None:
    """Says whether the answer to an exercise is right, else a hint, and never what would be right; nothing in a report.

    answer: the reader's; None as long as there is none. right: computed by the notebook. within: how far the answer may be off.
    """
    if "THYROID_REPORT_DIR" in os.environ:
        return None
    if answer is None:
        return Markdown("Put your answer in place of `None`, and run the cell.")
    if isnan(right):
        return Markdown("This run has no such number: there is nothing to check.")
    if not isinstance(answer, Real):
        return Markdown("**Not yet.** A number is asked for, written like `0.5`.")
    found = abs(answer - right) <= within + 1e-9  # what is typed in decimals is not exact
    return Markdown("**Right.**" if found else f"**Not yet.** {hint}")


def _first(draw: Draw, name: str, control: Any) -> Any:
    """What a value starts from: `draw`'s default, else the first that its control offers."""
    own = signature(draw).parameters.get(name)
    if own is not None and own.default is not Parameter.empty:
        return own.default
    if isinstance(control, bool):
        return control
    return next(iter(control.values() if isinstance(control, Mapping) else control))
