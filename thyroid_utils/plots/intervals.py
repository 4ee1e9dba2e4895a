"""Parts of figures that show estimates: intervals, bars of shares, rows of subgroups with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from thyroid_utils.plots.comparison import model_colours
from thyroid_utils.plots.style import CLASS_COLOURS, NEUTRAL, new_figure, styled
from thyroid_utils.scores.estimates import Estimate

INK = "#2b323a"
_DIFFERS, _FAINT = CLASS_COLOURS["malignant"], "#767d86"
_CELL = {"textcoords": "offset points", "fontsize": 8.5, "va": "center", "annotation_clip": False}


def interval(axes: Axes, value: Estimate, position: float, colour: str, *, hollow: bool = False) -> None:
    """An estimate as a dot with its interval, at a height; nothing where it is not defined."""
    if np.isnan(value.value):
        return
    if not np.isnan(value.low):
        axes.plot([value.low, value.high], [position] * 2, color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot([value.value], [position], "o", color=colour, markersize=5.5, markerfacecolor="white" if hollow else colour)


def counted(estimates: Sequence[Estimate]) -> str:
    """`n = 58 images, 12 patients`: the most that any of the estimates rests on."""
    largest = max(estimates, key=lambda value: value.images)
    images, patients = (
        f"{count} {unit}{'s' * (count != 1)}" for count, unit in ((largest.images, "image"), (largest.patients, "patient"))
    )
    return f"n = {images}, {patients}"


def defined(tables: Mapping) -> dict:
    """Those of several tables, lists or masks that have a row."""
    return {name: table for name, table in tables.items() if len(table)}


def row_heights(table: pd.DataFrame) -> np.ndarray:
    """Of rows, one line each, below a line for the name of their factor."""
    return np.arange(len(table)) + (~table["factor"].duplicated()).cumsum().to_numpy()


def subgroup_axes(table: pd.DataFrame, heading: str) -> tuple[Figure, Axes]:
    """Axes with names of factors and levels at the left and the numbers of each row at the right."""
    heights = row_heights(table)
    figure, axes = new_figure(1, 1, 1.35 + 0.235 * (heights[-1] + 1))
    place = axes[0, 0]
    first = ~table["factor"].duplicated().to_numpy()
    ticks = [*zip(heights[first] - 1, table["factor"][first], strict=True), *zip(heights, table["level"], strict=True)]
    place.set_yticks(*zip(*ticks, strict=True), fontsize=9)
    for text in place.get_yticklabels()[: first.sum()]:
        text.set_fontweight("bold")
    place.tick_params(axis="y", length=0)
    place.set_ylim(heights[-1] + 0.7, -1.4)
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    columns = ((6, "images"), (52, "patients"), (104, heading), (222, "p (Holm)"))
    rows = [(-0.9, INK, [name for _, name in columns], "bold")]
    for height, row in zip(heights, table.itertuples(), strict=True):
        told = "too few" if row.marked else p_text(row.p_holm)
        cells = [f"{row.images}", f"{row.patients}", _short(row.estimate), told]
        rows.append((height, row_colour(row), cells, "normal"))
    for height, colour, cells, weight in rows:
        for (offset, _), cell in zip(columns, cells, strict=True):
            place.annotate(cell, (1, height), (offset, 0), xycoords=place.get_yaxis_transform(), color=colour, fontweight=weight,
                           **_CELL)  # fmt: skip
    return figure, place


def _short(value: Estimate) -> str:
    """Why there is no interval does not fit into a column."""
    return f"{value.value:.2f} [no interval]" if np.isnan(value.low) and not np.isnan(value.value) else value.text()


def row_colour(row) -> str:
    return _FAINT if row.marked else _DIFFERS if row.differs else NEUTRAL


def p_text(value: float) -> str:
    """A p-value as it is read: `0.03`, `< 0.001`, or a dash where there is none."""
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def p_told(value: float) -> str:
    """`p = 0.03` or `p < 0.001`."""
    return f"p {'' if value < 0.001 else '= '}{p_text(value)}"


def row_legend(table: pd.DataFrame) -> list[Line2D]:
    handles = []
    if table["differs"].any():
        handles.append(Line2D([], [], color=_DIFFERS, marker="o", label="differs from the rest (p < 0.05 after Holm)"))
    if table["marked"].any():
        label = "fewer than 10 patients: shown, not tested"
        handles.append(Line2D([], [], color=_FAINT, marker="o", markerfacecolor="white", label=label))
    return handles


@styled
def share_bars(tables: Mapping[str, pd.DataFrame], label: str, column: str, names: str) -> Figure | None:
    """Shares with their 95 % intervals over patients as bars, a group of bars a row, a colour a table; None for no row.

    Args:
        tables: model → table.
        label: of the axis, without the percent sign.
        column: of `Estimate`s in [0, 1].
        names: column of what stands at the left, or "" for the index.
    """
    tables = defined(tables)
    if not tables:
        return None
    rows = list(dict.fromkeys(name for table in tables.values() for name in (table[names] if names else table.index)))
    figure, axes = new_figure(1, 1, 1.3 + len(rows) * (0.16 + 0.26 * len(tables)), 8.6)
    place, colours, thick = axes[0, 0], model_colours(list(tables)), 0.8 / len(tables)
    for number, (model, table) in enumerate(tables.items()):
        for name, value in zip(table[names] if names else table.index, table[column], strict=True):
            value: Estimate
            if np.isnan(value.value):
                continue
            height, ends = rows.index(name) + (number - (len(tables) - 1) / 2) * thick, [value.low, value.high]
            place.barh(height, 100 * value.value, 0.85 * thick, color=colours[model], alpha=0.85)
            place.plot([100 * end for end in ends], [height] * 2, color=INK, linewidth=1.3)
            place.annotate(f"{100 * value.value:.1f}", (100 * np.nanmax([value.value, *ends]), height), (5, 0), **_CELL)
    place.set_yticks(range(len(rows)), rows)
    place.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
    place.set_xlim(0, 1.1 * place.get_xlim()[1])
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    if len(tables) > 1:
        handles = [Rectangle((0, 0), 1, 1, color=colours[model], label=model) for model in tables]
        figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure
