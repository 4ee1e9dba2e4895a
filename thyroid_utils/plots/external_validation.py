"""Figures of the external validation: who is tested by whom, what is lost, what a few patients mend."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.special import expit

from thyroid_utils.common.words import number
from thyroid_utils.plots.charts import estimate_line, named_rows, tested_row
from thyroid_utils.plots.style import CLASS_COLOURS, INK, NEUTRAL, below, model_colours, new_panels, styled
from thyroid_utils.scores.labels import SCORES, predictive_values

_RIGHT = {"calibration_slope": 1, "calibration_intercept": 0}


@styled
def train_test(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Heat maps of score → `ExternalValidation.matrix`, each number with its interval."""
    figure, axes = new_panels(len(matrices), 1.3 + 0.75 * max(map(len, matrices.values())))
    for place, (score, matrix) in zip(axes, matrices.items(), strict=True):
        values = matrix.map(lambda found: found.value)
        texts = matrix.map(lambda found: found.text().replace(" ", "\n", 1))
        sns.heatmap(values, annot=texts, fmt="", cmap="Blues", vmin=0.4, vmax=1.1, cbar=False, ax=place, linewidths=1)
        place.set(title=score, xlabel="tested on", ylabel="trained on")
        place.tick_params(axis="y", rotation=0)
    return figure


@styled
def lost(pairs: pd.DataFrame, label: str) -> Figure | None:
    """Differences to home with their intervals, a row a set or a subgroup; None for no row. pairs: of `ComparedRuns.paired`."""
    if pairs.empty:
        return None
    figure, (place,) = new_panels(1, 1 + 0.27 * len(pairs))
    named_rows(place, pairs["first"]).set_xlabel(label)
    place.axvline(0, color=NEUTRAL, linewidth=1)
    for height, row in enumerate(pairs.itertuples()):
        tested_row(place, row, height)
    return figure


@styled
def mended(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Decisions and calibration of each set by the number of its patients that have helped; None for no set. tables: set →
    `ExternalValidation.mended`."""
    if not tables:
        return None
    colours, columns = model_colours(tables), next(iter(tables.values())).columns
    figure, axes = new_panels(len(columns), 2.6, columns=3)
    for place, score in zip(axes, columns, strict=True):
        for name, table in tables.items():
            estimate_line(place, table.index, table[score], colours[name], label=name)
        place.axhline(_RIGHT.get(score, np.nan), color=NEUTRAL, linestyle=":", linewidth=1)
        place.set(xlabel="patients that helped", ylabel=SCORES[score])
        if score == "calibration_slope":  # of helpers that show hardly a ranking it has no limit
            place.set_yscale("symlog", linthresh=2)
    below(figure, axes[0])
    return figure


@styled
def used_there(
    tables: Mapping[str, pd.DataFrame], hospital: str, threshold: float = 0.5, prevalence: float = 0.4
) -> Figure | None:
    """What a threshold would be worth in another hospital, if the share `prevalence` of images there were malignant: predictive
    values by prevalence, and net benefit by threshold beside acting on all and on nobody; None for no set.

    tables: set → its `label`, and `log_odds` of malignant (`Tested.table`); sensitivity and specificity are of these images.
    """
    if not tables:
        return None
    table, limits = tables[hospital], np.append(np.arange(1, 100) / 100, threshold)
    called = expit(table["log_odds"].to_numpy()) >= limits[:, None]
    classes = ((table["label"] == label).to_numpy(bool) for label in (1, 0))
    hits, alarms = (called[:, own].mean(axis=1) if own.any() else np.full(len(limits), np.nan) for own in classes)
    needless = (1 - prevalence) * limits / (1 - limits)
    benefits = {"these calls": prevalence * hits - needless * alarms, "all": prevalence - needless, "nobody": 0 * limits}
    figure, (values, worth) = new_panels(2, 3.6)
    shares = np.append(limits[:-1], prevalence)
    right = zip(*(predictive_values(hits[-1], 1 - alarms[-1], share) for share in shares), strict=True)
    for name, kind, row in zip(("PPV", "NPV"), ("malignant", "benign"), right, strict=True):
        values.plot(shares[:-1], row[:-1], color=CLASS_COLOURS[kind], label=f"{name} {number(row[-1])}")
        values.plot(prevalence, row[-1], "o", color=CLASS_COLOURS[kind])
    for (name, row), line in zip(benefits.items(), ("-", ":", "--"), strict=True):
        worth.plot(limits[:-1], row[:-1], line, color=INK, label=f"acting on {name} {number(row[-1], 3)}")
    low = -0.5 * prevalence
    worth.plot(threshold, max(benefits["these calls"][-1], low), "o", color=INK)  # at the lower edge where it lies below
    values.set(xlabel="prevalence", ylabel="predictive value", ylim=(-0.03, 1.03))
    worth.set(xlabel="threshold", ylabel="net benefit", ylim=(low, 1.1 * prevalence))
    values.set_title(f"{hospital}: sensitivity {number(hits[-1])},\nspecificity {number(1 - alarms[-1])}")
    worth.set_title(f"threshold {number(threshold)},\nprevalence {number(prevalence)}")
    for place in (values, worth):
        place.legend()
    return figure
