"""Figures of the deployment study: score against time and size, one image in float32 and int8."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.plots.pictures import Panel, panel_grid
from thyroid_utils.plots.style import PROBLEM, TRUTH, model_colours, new_panels, styled
from thyroid_utils.studies.deployment import FLOAT, STATIC, Deployed


@styled
def size_score_time(
    costs: pd.DataFrame, times: pd.DataFrame, scores: Mapping[str, Sequence[str]], sides: Mapping[str, int]
) -> Figure:
    """Score on test against the time of an image, one thread, each network at its own size; the area is that of the file. An
    arrow leads from float32 to static int8.

    Args:
        costs, times: of `cost_table` and `timed`.
        scores: "AUC" and "Dice" → their models; one without any has no panel.
        sides: model → side of its own images, pixels.
    """
    shown = {score: models for score, models in scores.items() if len(models)}
    figure, axes = new_panels(len(shown), 4.0)
    colours = model_colours(list(sides))
    for place, (score, models) in zip(axes, shown.items(), strict=True):
        spent = []
        for model in models:
            at = times.query("model == @model and side == @sides[@model] and threads == threads.min()").set_index("variant")["ms"]
            ends = [(at[variant], costs.at[(model, variant), "score"].value) for variant in (FLOAT, STATIC)]
            spent += [end[0] for end in ends]
            look = {"edgecolor": colours[model], "linewidth": 1.6, "alpha": 0.85}
            for end, variant, fill in zip(ends, (FLOAT, STATIC), (colours[model], "white"), strict=True):
                place.scatter(*end, s=40 * costs.at[(model, variant), "MB"], facecolor=fill, **look)
            place.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": colours[model], "linewidth": 1.6})
            before, after = (f"{costs.at[(model, variant), 'MB']:.1f}" for variant in (FLOAT, STATIC))
            text, above = f"{model}\n{before} → {after} MB", max(ends, key=lambda end: end[1])
            place.annotate(text, above, (0, 18), textcoords="offset points", ha="center", fontsize=9, color=colours[model])
        place.set(xscale="log", xlabel="one image on this CPU, one thread, ms (log scale)", ylabel=f"{score} on test")
        ends = min(spent) / 1.6, max(spent) * 1.6  # wide enough for one of the ticks
        place.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
        low, high = place.get_ylim()
        middle, reach = (low + high) / 2, max(0.1, high - low)  # so that what is next to nothing looks like it
        place.set(xlim=ends, ylim=(middle - reach, middle + reach))
    return figure


def followed(network: Deployed) -> Figure:
    """The image that int8 moves farthest by a segmenter: its frame with the truth, both maps, and in red the pixels that change
    sides."""
    case, said = network.followed()
    image, mask = network.predictor.cases.loc[case, ["image", "mask"]]
    maps = {name: network.predictor.on_frame(case, found) for name, found in said.items()}
    panels = [Panel(read_image(image), f"{case}\ntruth", outlines={TRUTH: read_mask(mask)})]
    panels += [Panel(np.round(255 * found).astype(np.uint8), f"{name}\nprobability") for name, found in maps.items()]
    changed = (maps[FLOAT] >= 0.5) != (maps[STATIC] >= 0.5)
    panels.append(Panel(read_image(image), "pixels that\nchange sides", filled={PROBLEM: changed}))
    return panel_grid(panels, 4)
