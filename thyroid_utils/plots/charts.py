"""Estimates with their intervals as rows and lines, what they cost, and boxes with every value as a point."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.common.words import count, p_value
from thyroid_utils.plots.style import CLASS_COLOURS, INK, NEUTRAL, across, below, integer_ticks, model_colours, new_panels, styled
from thyroid_utils.scores.estimates import Comparison, Estimate
from thyroid_utils.studies.tables import shown_interval


def interval(
    axes: Axes,
    found: Estimate | Comparison,
    position: float,
    colour: str,
    *,
    upright: bool = False,
    hollow: bool = False,
    width: float = 1.8,
    scale: float = 1,
) -> None:
    """An estimate or a difference, times `scale`, as a dot with its interval, at a height, or `upright` at a place across.

    Nothing is drawn where it is not defined.
    """
    of_pair = isinstance(found, Comparison)
    value, (low, high) = (found.difference, shown_interval(found)) if of_pair else (found.value, (found.low, found.high))
    if np.isnan(value):
        return
    ends, dot = ([scale * low, scale * high], [position] * 2), ([scale * value], [position])
    axes.plot(*(ends[::-1] if upright else ends), color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot(*(dot[::-1] if upright else dot), "o", color=colour, markersize=5.5, markerfacecolor="white" if hollow else colour)


def named_rows(axes: Axes, names: Sequence[str], **text) -> Axes:
    """Axes with a name at each of the heights 0, 1, …, from top to bottom."""
    axes.set_yticks(range(len(names)), names, **text)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return across(axes)


def beside(axes: Axes, text: str, height: float, colour: str) -> None:
    """Text at the right of a row."""
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(text, (1, height), (6, 0), color=colour, fontsize=8.5, va="center", **place)


def tested_row(axes: Axes, row: Any, height: float, scale: float = 1) -> None:
    """A row of paired recipes (`difference`, `p_holm`, `differs`): the difference with its interval, its p at the right."""
    colour = CLASS_COLOURS["malignant"] if row.differs else NEUTRAL
    interval(axes, row.difference, height, colour, scale=scale)
    beside(axes, "no verdict" if np.isnan(row.p_holm) else p_value(row.p_holm), height, colour)


def counted(estimates: Sequence[Estimate]) -> str:
    """`58 images of 12 patients`: the most that any of the estimates rests on."""
    largest = max(estimates, key=lambda value: value.images)
    return f"{count(largest.images, 'image')} of {count(largest.patients, 'patient')}"


@styled
def score_dots(estimates: pd.DataFrame, names: Mapping[str, str], *, one_scale: bool = False) -> Figure:
    """Scores with their 95 % intervals, a row a model (best first), a panel a score.

    Args:
        estimates: `Estimate`s, a row a model, a column a score.
        names: score → axis label, for the columns to show.
        one_scale: for one and the same score under several conditions, whose shift from panel to panel is then seen.
    """
    figure, axes = new_panels(len(names), 1.1 + 0.34 * len(estimates), sharey=True, sharex=one_scale)
    colours = model_colours(estimates.index)
    for place, (score, label) in zip(axes, names.items(), strict=True):
        named_rows(place, estimates.index).set_xlabel(label)
        for position, (model, value) in enumerate(estimates[score].items()):
            interval(place, value, position, colours[model], width=2)
    return figure


@styled
def cost_and_score(
    costs: pd.DataFrame,
    score: pd.Series,
    label: str,
    against: Mapping[str, str],
    fronts: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """A score on test against what it costs, a panel a cost on a logarithmic axis; bars are 95 % intervals.

    Args:
        costs: a row a model. One without a positive cost or without a score is left out of a panel.
        score: model → `Estimate`.
        label: of the score's axis.
        against: column of `costs` → label of its axis, with the unit.
        fronts: column of `costs` → models that no other beats in both, by rising cost: they are filled and joined by a line.
    """
    figure, axes = new_panels(len(against), 3.4 + 0.2 * -(-len(costs) // 4), sharey=True)
    colours = model_colours(costs.index)
    values = score.map(lambda estimate: estimate.value).astype(float)
    for place, (column, name) in zip(axes, against.items(), strict=True):
        known = costs.index[(costs[column] > 0) & values.notna()]
        front = known if fronts is None else list(fronts[column])
        for model in known:
            hollow, cost = model not in front, costs.at[model, column]
            interval(place, score[model], cost, colours[model], upright=True, hollow=hollow, width=1.6)
        if fronts is not None:
            place.plot(costs.loc[front, column], values[front], color=INK, linewidth=1, linestyle="--", zorder=1)
        place.set(xscale="log", xlabel=f"{name} (log scale)")
        place.margins(x=0.15)
        few_ticks(place, costs.loc[known, column])
    axes[0].set_ylabel(label)
    handles = [Line2D([], [], color=colours[model], marker="o", linestyle="none", label=model) for model in costs.index]
    if fronts is not None:
        handles.append(Line2D([], [], color=INK, linestyle="--", label="front: no row is better and cheaper"))
    below(figure, handles=handles)
    return figure


def few_ticks(axes: Axes, values: pd.Series) -> None:
    """On a logarithmic axis the smallest and largest of the values as ticks, and one midway where they lie apart."""
    apart = values.max() / values.min()
    ticks = np.geomspace(values.min(), values.max(), 3 if apart > 2 else 2 if apart > 1.01 else 1)
    if len(ticks) == 1:
        axes.set_xlim(ticks[0] / 2, ticks[0] * 2)
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{float(f'{tick:.3g}'):g}" for tick in ticks])


def box_and_points(axes: Axes, values: np.ndarray, position: float, colour: str, *, upright: bool = False) -> None:
    """A box (quartiles, median) at a height, or `upright` at a place across, with every value as a point beside it."""
    shift = -1 if upright else 1
    random = np.random.default_rng(0)
    axes.boxplot(
        values, positions=[position - 0.14], orientation="vertical" if upright else "horizontal", widths=0.3,
        manage_ticks=False, showfliers=False, patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.45, "linewidth": 0},
        medianprops={"color": colour, "linewidth": 2.2}, whiskerprops={"color": NEUTRAL}, capprops={"color": NEUTRAL},
    )  # fmt: skip
    points = (values, position + 0.14 + random.uniform(0, 0.2, len(values)))
    axes.plot(*points[::shift], ".", color=colour, markersize=3.5, alpha=0.65)


def grouped_rows(axes: Axes, groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Names at the left of rows, those of a group below its bold heading; the height of each row."""
    first = (~pd.Series(list(groups)).duplicated()).to_numpy()
    heights = np.arange(len(first)) + first.cumsum()
    texts = [*np.asarray(groups, object)[first], *names]
    axes.set_yticks([*(heights[first] - 1), *heights], texts, fontsize=9)
    for text in axes.get_yticklabels()[: first.sum()]:
        text.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    across(axes).set_ylim(max(heights, default=0) + 0.7, -0.7)
    return heights


def band(axes: Axes, x: Sequence[float], y: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str,
         mark: str = "-", **line) -> None:  # fmt: skip
    """A line with a band from `low` to `high`; `mark`: "-", or "o-" with a dot at each value."""
    axes.plot(x, y, mark, **{"color": colour, "linewidth": 1.7, "markersize": 4, **line})
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def estimate_line(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], colour: str, **line) -> np.ndarray:
    """`Estimate`s as dots on a line with the band of their intervals; float (n, 3): value, low, high."""
    values = np.array([[found.value, found.low, found.high] for found in estimates]).reshape(-1, 3)
    band(axes, x, *values.T, colour, "o-", **line)
    return values


@styled
def epochs(history: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """Values by epoch, a line a model (mean over seeds) with a band from the lowest to the highest seed.

    Args:
        history: of `SegmenterComparison.history`: model, seed, epoch and the columns.
        columns: column → axis label; one panel each.
    """
    import seaborn as sns  # half a second to load, with scipy.stats

    figure, axes = new_panels(len(columns), 3.7)
    look = {"hue": "model", "palette": model_colours(history["model"].unique()), "errorbar": ("pi", 100)}
    for place, (column, label) in zip(axes, columns.items(), strict=True):
        sns.lineplot(history, x="epoch", y=column, **look, ax=place, legend=place is axes[0])
        place.set(xlabel="epoch", ylabel=label)
        integer_ticks(place, "x")
    axes[0].get_legend().remove()
    below(figure, axes[0])
    return figure
