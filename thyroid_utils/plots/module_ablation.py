"""Figures of the module ablation: the network drawn from itself, gains with intervals, power."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from thyroid_utils.common.words import count
from thyroid_utils.plots.charts import band, few_ticks, grouped_rows, tested_row
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, SPLIT_COLOURS, bare, below, new_panels, styled
from thyroid_utils.scores.estimates import POWER

COSTS = {"parameters": "parameters, millions", "latency_ms": "latency of one image on this CPU, ms"}
_KINDS = {
    "ChannelAttention": CLASS_COLOURS["malignant"],
    "SpatialAttention": CLASS_COLOURS["malignant"],
    "ASPP": CLASS_COLOURS["benign"],
    "PPM": SPLIT_COLOURS["test"],
    "Fusion": ACCENT,
}  # other parts are gray
# Part of `mobile_deeplab` → its column and, from the top, its row: one for each size of map, at 1/16 three.
_PLACES = {
    "image": (0, 3.5), "mobilenet_v2": (1, 3.5), "SAM 1/2": (2, 1), "SAM 1/4": (2, 2), "SAM 1/8": (2, 3), "CAM 1/16": (2, 4),
    "ASPP": (2, 5), "PPM": (2, 6), "1×1 at 1/2": (3, 1), "1×1 at 1/4": (3, 2), "vertical 1/8": (3, 3), "1×1 of ASPP": (3, 5),
    "1×1 of PPM": (3, 6), "vertical 1/4 = V": (4, 2), "F": (4, 5), "horizontal": (5, 2), "secondary": (6, 1), "head": (7, 1),
    "logits": (8, 0),
}  # fmt: skip
_ENCODER = "mobilenet_v2"  # one high box, read at every size
_WIDE, _HIGH = 0.84, 0.78  # of a box, where columns and rows are 1 apart


@styled
def network_diagram(stages: pd.DataFrame) -> Figure:
    """`mobile_deeplab` with all modules as boxes, with the sizes and parameters that were found and an arrow for each map read.

    Args:
        stages: of `module_ablation.tables.network_stages`.
    """
    figure, (axes,) = new_panels(1, 4.8, 12.4)
    bare(axes)
    _box(axes, "image", NEUTRAL, "{}×{}×{}".format(*stages["inputs"].iloc[0][0][1:]))
    for stage in stages.itertuples():
        told = f"{stage.parameters / 1e6:.2f} M" if stage.parameters >= 1e4 else f"{stage.parameters:,}"
        shape = f"{stage.channels}×{stage.height}×{stage.width}"
        _box(axes, stage.stage, _KINDS.get(stage.kind, NEUTRAL), f"{shape}\n{told}" if stage.parameters else shape)
        for name, *shape in stage.inputs:
            _arrow(axes, name, "{}×{}×{}".format(*shape), stage.stage)
    for row, told in enumerate(("image size", "1/2", "1/4", "1/8", "1/16")):
        axes.text(-0.62, row - 0.42, told, fontsize=8, color=NEUTRAL, va="top", ha="right")
        axes.axhline(row - 0.5, color="#e3e6ea", linewidth=0.8, zorder=0)
    axes.set(xlim=(-1.05, 8.5), ylim=(6.6, -0.6))
    return figure


def _box(axes: Axes, name: str, colour: str, told: str) -> None:
    (x, y), high = _PLACES[name], 5 + _HIGH if name == _ENCODER else _HIGH
    pale = to_hex(1 - 0.16 * (1 - np.array(to_rgb(colour))))
    corner, style = (x - _WIDE / 2, y - high / 2), "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch(corner, _WIDE, high, boxstyle=style, facecolor=pale, edgecolor="none"))
    middle = {"ha": "center", "va": "center", "color": INK}
    if name == _ENCODER:
        axes.text(x - 0.25, y, f"{name}, {told.split()[-2]} M", rotation=90, fontsize=8.2, fontweight="bold", **middle)
        return
    axes.text(x, y - 0.15 - 0.09 * told.count("\n"), name, fontsize=8.2, fontweight="bold", **middle)
    axes.text(x, y + 0.12, told, fontsize=7.8, linespacing=1.1, **middle)


def _arrow(axes: Axes, source: str, shape: str, target: str) -> None:
    """Level out of the source, down or up in the gap before the target, level into it."""
    (left, begin), (right, end) = _PLACES[source], _PLACES[target]
    left, right = left + _WIDE / 2, right - _WIDE / 2
    if source == _ENCODER:
        begin = end
        axes.text(left - 0.03, end, shape, fontsize=7.8, color=INK, va="center", ha="right")
    turn = right - 0.3 * (1 - _WIDE)
    axes.plot([left, turn, turn, right - 0.02], [begin, begin, end, end], color=NEUTRAL, linewidth=0.9, zorder=1)
    arrow = {"arrowstyle": "-|>", "color": NEUTRAL, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    axes.annotate("", (right, end), (turn, end), arrowprops=arrow)


@styled
def ablation_gains(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Each row's difference of IoU to its table's reference in points with its 95 % interval (`shown_interval`), hollow the
    paper's figure; None where no row is compared.

    Args:
        tables: of `AblationStudy.titled`.
    """
    table = pd.concat({title: table.dropna(subset="difference") for title, table in tables.items()})
    if table.empty:
        return None
    figure, (place,) = new_panels(1, 1.1 + 0.27 * (len(table) + len(tables)))
    place.axvline(0, color=NEUTRAL, linewidth=1)
    place.set_xlabel("points of IoU against the reference row")
    heights = grouped_rows(place, table.index.get_level_values(0), table.index.get_level_values(1))
    for height, row in zip(heights, table.itertuples(), strict=True):
        tested_row(place, row, height, scale=100)
        place.plot([row.reported_points], [height], "D", color=INK, markersize=5.5, markerfacecolor="white")
    handles = [
        Line2D([], [], color=NEUTRAL, marker="o", label="here, 95 %"),
        Line2D([], [], color=CLASS_COLOURS["malignant"], marker="o", label="here, p < 0.05 after Holm"),
        Line2D([], [], color=INK, marker="D", markerfacecolor="white", linestyle="none", label="Yang et al. (2025)"),
    ]
    below(figure, handles=handles)
    return figure


@styled
def power_curves(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Power against the number of patients, a line a number of seeds, a panel an effect; bands are the simulation's error.

    Args:
        tables: title → `scores.power.power_simulation`. None is returned where there is none.
    """
    if not tables:
        return None
    columns = 2 if len(tables) == 4 else min(3, len(tables))
    figure, places = new_panels(len(tables), 3.1, columns=columns, sharey=True)
    seeds = sorted({int(number) for table in tables.values() for number in table.dropna(subset="power")["seeds"]})
    shades = dict(zip(seeds, map(str, np.linspace(0, 0.72, len(seeds))[::-1]), strict=True))
    for place, (title, table) in zip(places, tables.items(), strict=True):
        for number, line in table.dropna(subset="power").sort_values("patients").groupby("seeds"):
            percent = 100 * line[["power", "low", "high"]]
            band(place, line["patients"], *percent.to_numpy().T, shades[number], "o-", linewidth=1.5, markersize=3.5)
        place.axhline(100 * POWER, color=CLASS_COLOURS["malignant"], linewidth=1, linestyle="--")
        place.set(xscale="log", xlabel="patients (log scale)", ylim=(0, 102), title=title)
        few_ticks(place, table["patients"])
    places[0].set_ylabel("power, %")
    handles = [Line2D([], [], color=shade, label=count(number, "seed")) for number, shade in shades.items()]
    handles.append(Line2D([], [], color=CLASS_COLOURS["malignant"], linestyle="--", label=f"{100 * POWER:.0f} %"))
    below(figure, handles=handles, ncols=6)
    return figure
