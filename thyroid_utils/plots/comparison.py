"""Figures that compare models, whatever they predict: scores with intervals, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, NEUTRAL, SPLIT_COLOURS, new_figure, styled
from thyroid_utils.scores.estimates import Estimate

_BRIGHT = [
    CLASS_COLOURS["benign"], CLASS_COLOURS["malignant"], ACCENT, SPLIT_COLOURS["test"], SPLIT_COLOURS["val"], "#56B4E9", NEUTRAL,
]  # fmt: skip
# Where there are more models than these, darker and paler ones of each.
_COLOURS = [
    *_BRIGHT,
    *(to_hex(0.5 * np.array(to_rgb(colour))) for colour in _BRIGHT),
    *(to_hex(0.5 + 0.5 * np.array(to_rgb(colour))) for colour in _BRIGHT),
]


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """The colour of each model, the same in every figure whatever the order it shows them in."""
    return {model: _COLOURS[number % len(_COLOURS)] for number, model in enumerate(sorted(models))}


@styled
def score_dots(estimates: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Scores with their 95 % intervals, a row a model (best first), a panel a score.

    Args:
        estimates: `Estimate`s, a row a model, a column a score.
        names: score → axis label, for the columns to show.
    """
    figure, axes = new_figure(1, len(names), 1.1 + 0.34 * len(estimates), sharey=True)
    colours = model_colours(estimates.index)
    for place, (score, label) in zip(axes[0], names.items(), strict=True):
        for position, (model, value) in enumerate(estimates[score].items()):
            value: Estimate
            place.plot([value.low, value.high], [position, position], color=colours[model], linewidth=2)
            place.plot([value.value], [position], "o", color=colours[model])
        place.set_xlabel(label)
        place.grid(axis="x", visible=True)
    axes[0, 0].set_yticks(range(len(estimates)), estimates.index)
    axes[0, 0].set_ylim(len(estimates) - 0.5, -0.5)
    return figure


@styled
def cost_and_score(costs: pd.DataFrame, score: pd.Series, label: str, against: Mapping[str, str]) -> Figure:
    """A score on test against what it costs, a panel a cost on a logarithmic axis; bars are 95 % intervals.

    Args:
        costs: a row a model, positive numbers.
        score: model → `Estimate`.
        label: of the score's axis.
        against: column of `costs` → label of its axis, with the unit.
    """
    figure, axes = new_figure(1, len(against), 3.1, sharey=True)
    colours = model_colours(costs.index)
    for place, (column, name) in zip(axes[0], against.items(), strict=True):
        for model, row in costs.iterrows():
            value: Estimate = score[model]
            place.plot([row[column]] * 2, [value.low, value.high], color=colours[model], linewidth=1.6)
            place.plot([row[column]], [value.value], "o", color=colours[model])
            place.annotate(model, (row[column], value.value), xytext=(5, 4), textcoords="offset points", fontsize=8.5)
        place.set(xscale="log", xlabel=f"{name} (log scale)")
        place.xaxis.set_minor_locator(NullLocator())
        ticks = _apart(costs[column])
        place.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
        place.margins(x=0.3)
    axes[0, 0].set_ylabel(label)
    return figure


def _apart(values: pd.Series, ratio: float = 1.3) -> list[float]:
    """Of positive numbers those that can stand beside each other on a logarithmic axis, from the smallest on."""
    kept: list[float] = []
    for value in np.sort(values):
        if not kept or value >= ratio * kept[-1]:
            kept.append(float(value))
    return kept
