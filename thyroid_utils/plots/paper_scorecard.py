"""The figure of the scorecard: what papers claim beside what is reached."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.plots.charts import grouped_rows, interval
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, SPLIT_COLOURS, below, new_panels, styled
from thyroid_utils.studies.paper_scorecard import VERDICTS
from thyroid_utils.studies.papers import PAPERS

COLOURS = dict(zip(VERDICTS, (ACCENT, SPLIT_COLOURS["val"], CLASS_COLOURS["malignant"], "#8fa3b5"), strict=True))


@styled
def claims_and_reached(card: pd.DataFrame, label: str) -> Figure | None:
    """A row a claim: what is reported as a diamond in the colour of its verdict, beside the 95 % interval of what is reached.

    Args:
        card: rows of `scorecard` with a number; None is drawn of none. Where the network itself has no run, the interval is that
            of another network of the task, hollow.
        label: of the axis.
    """
    if card.empty:
        return None
    figure, (place,) = new_panels(1, 1.2 + 0.25 * (len(card) + card["paper"].nunique()))
    heights = grouped_rows(place, [PAPERS[paper].name for paper in card["paper"]], list(card["claim"]))
    for height, row in zip(heights, card.itertuples(), strict=True):
        if found := row.reached or row.beside:
            interval(place, found, height, INK if row.reached else NEUTRAL, hollow=not row.reached, width=1.6)
        place.plot(np.mean(row.claimed), height, "D", color=COLOURS[row.verdict], markersize=6)
    place.set_xlabel(label)
    handles = [Line2D([], [], color=colour, marker="D", linestyle="none", label=name) for name, colour in COLOURS.items()]
    handles += [Line2D([], [], color=INK, marker="o", label="reached here"),
                Line2D([], [], color=NEUTRAL, marker="o", markerfacecolor="white", label="another network")]  # fmt: skip
    below(figure, handles=handles, ncols=3)
    return figure
