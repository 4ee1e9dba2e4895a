"""Figures of the leakage study: the ladder, points by share of patients met, and what training saw of one image."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.common.words import number
from thyroid_utils.data.images import read_gray
from thyroid_utils.plots.charts import band, named_rows, tested_row
from thyroid_utils.plots.pictures import Panel, panel_grid
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, below, new_panels, styled
from thyroid_utils.studies.leakage_study import Ladder, Plan
from thyroid_utils.studies.tables import shown_interval


@styled
def ladders(found: Sequence[Ladder]) -> Figure:
    """Points that each leak is worth with 95 % intervals, a row a rung, a panel a task; the honest run is at 0."""
    rungs = list(dict.fromkeys(rung for ladder in found for rung in ladder.rungs))
    figure, places = new_panels(len(found), 1.5 + 0.42 * len(rungs), sharey=True)
    for place, ladder in zip(places, found, strict=True):
        named_rows(place, rungs).set_xlabel(f"points of {ladder.name}")
        place.axvline(0, color=INK, linewidth=1, linestyle="--")
        for row in ladder.worth.itertuples():
            tested_row(place, row, rungs.index(row.first), scale=100)
    handles = [
        Line2D([], [], color=NEUTRAL, marker="o", label="here, 95 %"),
        Line2D([], [], color=CLASS_COLOURS["malignant"], marker="o", label="here, p < 0.05 after Holm"),
        Line2D([], [], color=INK, linestyle="--", label="by patient"),
    ]
    below(figure, handles=handles)
    return figure


@styled
def doses(found: Sequence[Ladder], plans: Sequence[Plan], percent_met: int = 25) -> Figure | None:
    """Points by the share of test patients that training has met, a panel a task, with the band of their 95 % intervals, and what
    the score is at a share, `percent_met`, on the straight line between those that were trained; None where nothing was asked
    in several shares."""
    curves = [(ladder, ladder.doses(plan)) for ladder, plan in zip(found, plans, strict=True)]
    shown = [(ladder, curve) for ladder, curve in curves if len(curve)]
    if not shown:
        return None
    figure, places = new_panels(len(shown), 3.2)
    for place, (ladder, curve) in zip(places, shown, strict=True):
        points = np.array([(one.difference, *shown_interval(one)) for one in curve])
        shares, points = [0, *(100 * curve.index)], 100 * np.vstack([np.zeros(3), points])
        band(place, shares, *points.T, ACCENT, "o-")
        place.axhline(0, color=INK, linewidth=1, linestyle="--")
        worth, honest = np.interp(percent_met, shares, points[:, 0]), curve.iloc[0].second
        place.plot([percent_met] * 2, [0, worth], "D-", color=CLASS_COLOURS["malignant"], zorder=3)
        trained = "trained" if np.isclose(shares, percent_met).any() else "between what was trained"
        reached = f"{number(honest, 3)} and {number(worth, 1, sign=True)} points are {number(honest + worth / 100, 3)}"
        place.set_title(f"{percent_met} % met ({trained}):\n{reached}")
        place.set(xlabel="test patients that training has met, %", ylabel=f"points of {ladder.name}")
    return figure


def met(shown: Mapping[str, tuple[pd.Series, float]]) -> Figure | None:
    """The scored image, and beside it what training has seen in each rung, with the answer that came of it: of `met_case`."""
    panels = [Panel(read_gray(row["image"]), f"{rung}\n{answer:.2f}") for rung, (row, answer) in shown.items()]
    return panel_grid(panels, 4)
