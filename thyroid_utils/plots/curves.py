"""Lines with their bands: values by epoch, by dose, by threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thyroid_utils.plots.style import below, integer_ticks, model_colours, new_figure, styled
from thyroid_utils.scores.estimates import Estimate


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
    figure, axes = new_figure(1, len(columns), 3.7)
    colours = model_colours(list(dict.fromkeys(history["model"])))
    for place, (column, label) in zip(axes[0], columns.items(), strict=True):
        for model, found in history.groupby("model", sort=False):
            seeds = found.pivot(index="epoch", columns="seed", values=column)
            ends = seeds.min(axis=1), seeds.max(axis=1)
            band(place, seeds.index, seeds.mean(axis=1), *ends, colours[model], label=model)
        place.set(xlabel="epoch", ylabel=label)
        integer_ticks(place, "x")
    below(figure, axes[0, 0])
    return figure
