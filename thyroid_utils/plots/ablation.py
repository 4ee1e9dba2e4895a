"""Figures of the module ablation: the network drawn from itself, gains with intervals, score against cost, power."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import NullLocator

from thyroid_utils.plots.rows import p_told
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, SPLIT_COLOURS, bare, model_colours, new_figure, styled
from thyroid_utils.scores.estimates import POWER, Comparison, Estimate
from thyroid_utils.studies.module_ablation import pareto_front

_KINDS = {
    "ChannelAttention": CLASS_COLOURS["malignant"],
    "SpatialAttention": CLASS_COLOURS["malignant"],
    "ASPP": CLASS_COLOURS["benign"],
    "PPM": SPLIT_COLOURS["test"],
    "Fusion": ACCENT,
}  # other parts are gray
_STEP, _BOX, _HIGH = 1.0, 0.84, 0.78  # between columns, width of a box, its height where lanes are 1 apart


@styled
def network_diagram(stages: pd.DataFrame) -> Figure:
    """A network as boxes: from left to right what comes first, from top to bottom ever coarser maps; an arrow a map read.

    Args:
        stages: of `models.network_stages`; a part that others read maps of several sizes from becomes one high box.
    """
    places = _Layout(stages)
    figure, axes = new_figure(1, 1, 0.6 + 0.6 * places.lanes, 12.4)
    axes = bare(axes[0, 0])
    for stage in stages.itertuples():
        _box(axes, places, stage)
    _labelled_box(axes, places.column["image"] * _STEP, places.middle, _HIGH, NEUTRAL, "image", _size(*places.image))
    for stage in stages.itertuples():
        for name, *shape in stage.inputs:
            if name:
                _arrow(axes, places, name, tuple(shape), stage.stage)
    for band, lane in places.bands.items():
        told = "image size" if band == 0 else f"1/{2**band}"
        axes.text(-0.62, lane - 0.42, told, fontsize=8, color=NEUTRAL, va="top", ha="right")
        axes.axhline(lane - 0.5, color="#e3e6ea", linewidth=0.8, zorder=0)
    axes.set_xlim(-1.05, max(places.column.values()) * _STEP + 0.5)
    axes.set_ylim(places.lanes - 0.4, -0.6)
    return figure


class _Layout:
    """Where parts stand: `column` by the longest way from the image, `lane` (rows, from the top) within bands of one map size.

    bands: halvings of the image's size → its first lane. high: parts that are read at several sizes → their bands.
    """

    def __init__(self, stages: pd.DataFrame):
        self.image = next(shape[1:] for inputs in stages["inputs"] for shape in inputs if shape[0] == "image")
        self.column = {"image": 0}
        read: dict[str, set[int]] = {}
        for stage in stages.itertuples():
            sources = [entry for entry in stage.inputs if entry[0]]
            self.column[stage.stage] = 1 + max((self.column[entry[0]] for entry in sources), default=0)
            for name, _, height, _ in sources:
                read.setdefault(name, set()).add(self._band(height))
        self.high = {name: sorted(bands) for name, bands in read.items() if len(bands) > 1}
        band_of = {stage.stage: self._band(stage.height) for stage in stages.itertuples()}
        inner = self._inner_lanes(stages, band_of)
        self.bands, self.lanes = {}, 0
        for band in sorted({*band_of.values(), *(band for bands in self.high.values() for band in bands)}):
            self.bands[band] = self.lanes
            self.lanes += 1 + max((lane for name, lane in inner.items() if band_of[name] == band), default=0)
        self.lane = {name: self.bands[band_of[name]] + lane for name, lane in inner.items()}
        self.middle = sum(self.span(next(iter(self.high)))) / 2 if self.high else self.lane[stages["stage"].iloc[0]]

    def _band(self, height: int) -> int:
        return max(0, round(np.log2(self.image[1] / height)))

    def _inner_lanes(self, stages: pd.DataFrame, band_of: Mapping[str, int]) -> dict[str, int]:
        """Within its band a part goes on in the lane of what it reads, where that is free in its column, else in the next. What
        is read at a larger map comes first, so that the way there crosses nothing."""
        goal = {
            name: min(
                (band_of[row.stage] for row in stages.itertuples() if name in [source for source, *_ in row.inputs]), default=0
            )
            for name in stages["stage"]
        }
        order = sorted((row for row in stages.itertuples() if row.stage not in self.high),
                       key=lambda row: (self.column[row.stage], goal[row.stage]))  # fmt: skip
        lanes: dict[str, int] = {}
        taken: set[tuple[int, int, int]] = set()
        for stage in order:
            band, column = band_of[stage.stage], self.column[stage.stage]
            before = [lanes[name] for name, *_ in stage.inputs if name in lanes and band_of[name] == band]
            lane = min(before, default=0)
            while (band, column, lane) in taken:
                lane += 1
            taken.add((band, column, lane))
            lanes[stage.stage] = lane
        return lanes

    def span(self, name: str) -> tuple[float, float]:
        """First and last lane of a high part."""
        bands = self.high[name]
        following = [lane for band, lane in self.bands.items() if band > bands[-1]]
        return self.bands[bands[0]], min(following, default=self.lanes) - 1


def _box(axes: Axes, places: _Layout, stage) -> None:
    colour = _KINDS.get(stage.kind, NEUTRAL)
    told = f"{stage.parameters / 1e6:.2f} M" if stage.parameters >= 1e4 else f"{stage.parameters:,}" if stage.parameters else ""
    centre = places.column[stage.stage] * _STEP
    if stage.stage in places.high:
        first, last = places.span(stage.stage)
        _background(axes, centre, (first + last) / 2, last - first + _HIGH, colour)
        axes.text(centre - 0.3 * _BOX, (first + last) / 2, f"{stage.stage}, {told}", rotation=90, ha="center", va="center",
                  fontsize=8.2, fontweight="bold", color=INK)  # fmt: skip
        return
    shape = _size(stage.channels, stage.height, stage.width)
    _labelled_box(axes, centre, places.lane[stage.stage], _HIGH, colour, stage.stage, shape, told)


def _labelled_box(axes: Axes, x: float, y: float, height: float, colour: str, name: str, *lines: str) -> None:
    _background(axes, x, y, height, colour)
    told = [line for line in lines if line]
    axes.text(x, y - 0.06 - 0.09 * len(told), name, ha="center", va="center", fontsize=8.2, fontweight="bold", color=INK)
    axes.text(x, y + 0.12, "\n".join(told), ha="center", va="center", fontsize=7.8, color=INK, linespacing=1.1)


def _background(axes: Axes, x: float, y: float, height: float, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.05"
    corner = (x - _BOX / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, _BOX, height, boxstyle=style, facecolor=_pale(colour), edgecolor="none"))


def _pale(colour: str) -> str:
    return to_hex(1 - 0.16 * (1 - np.array(to_rgb(colour))))


def _arrow(axes: Axes, places: _Layout, source: str, shape: tuple[int, int, int], target: str) -> None:
    """Level out of the source, down or up in the gap before the target, level into it."""
    left = places.column[source] * _STEP + _BOX / 2
    right = places.column[target] * _STEP - _BOX / 2
    end = places.middle if target in places.high else places.lane[target]
    if source in places.high:
        begin = end
        axes.text(left - 0.03, end, _size(*shape), fontsize=7.8, color=INK, va="center", ha="right")
    else:
        begin = places.middle if source == "image" else places.lane[source]
    turn = right - 0.3 * (_STEP - _BOX)
    axes.plot([left, turn, turn, right - 0.02], [begin, begin, end, end], color=NEUTRAL, linewidth=0.9, zorder=1)
    axes.annotate("", (right, end), (turn, end), arrowprops={"arrowstyle": "-|>", "color": NEUTRAL, "linewidth": 0.9,
                                                            "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7})  # fmt: skip


def _size(channels: int, height: int, width: int) -> str:
    return f"{channels}×{height}×{width}"


@styled
def ablation_gains(tables: Mapping[str, pd.DataFrame], label: str = "points of IoU against the reference row") -> Figure:
    """Each row's difference to its table's reference in points, with its 95 % interval, and the paper's figure as a hollow mark.

    Args:
        tables: title → `module_ablation.ablation_table`, or with the wider intervals of `AblationStudy.titled`, thin lines; one
            without a row beside the reference is left out.
        label: of the axis.
    """
    shown = {title: table[table["difference"].notna()] for title, table in tables.items()}
    shown = {title: table for title, table in shown.items() if len(table)}
    rows = sum(len(table) + 1 for table in shown.values())
    figure, axes = new_figure(1, 1, 1.1 + 0.27 * max(1, rows))
    place, height, ticks = axes[0, 0], 0, []
    place.axvline(0, color=NEUTRAL, linewidth=1)
    for title, table in shown.items():
        ticks.append((height, title, "bold"))
        for row in table.itertuples():
            height += 1
            ticks.append((height, row.Index, "normal"))
            _gain(place, height, row)
        height += 1
    place.set_yticks([at for at, _, _ in ticks], [name for _, name, _ in ticks], fontsize=9)
    for text, (_, _, weight) in zip(place.get_yticklabels(), ticks, strict=True):
        text.set_fontweight(weight)
    place.set(ylim=(max(1, height) - 0.3, -0.7), xlabel=label)
    place.tick_params(axis="y", length=0)
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    handles = [
        Line2D([], [], color=NEUTRAL, marker="o", label="here, 95 % over patients"),
        Line2D([], [], color=CLASS_COLOURS["malignant"], marker="o", label="here, p < 0.05 after Holm"),
        Line2D([], [], color=INK, marker="D", markerfacecolor="white", linestyle="none", label="paper 003"),
    ]
    if any("wide_low" in table for table in shown.values()):
        handles.insert(2, Line2D([], [], color=NEUTRAL, linewidth=0.8, label="95 % over patients and seeds"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure


def _gain(axes: Axes, height: float, row) -> None:
    found: Comparison = row.difference
    colour = CLASS_COLOURS["malignant"] if row.differs else NEUTRAL
    if hasattr(row, "wide_low"):
        axes.plot([100 * row.wide_low, 100 * row.wide_high], [height] * 2, color=colour, linewidth=0.8)
    axes.plot([100 * found.low, 100 * found.high], [height] * 2, color=colour, linewidth=2.6)
    axes.plot([100 * found.difference], [height], "o", color=colour, markersize=5.5)
    axes.plot([row.reported_points], [height], "D", color=INK, markersize=5.5, markerfacecolor="white")
    told = "no test" if np.isnan(row.p_holm) else p_told(row.p_holm)
    axes.annotate(told, (1, height), (6, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", fontsize=8.5,
                  va="center", color=colour, annotation_clip=False)  # fmt: skip


@styled
def pareto(table: pd.DataFrame, score: str = "iou", label: str = "IoU", costs: Mapping[str, str] | None = None) -> Figure:
    """A score against what it costs, a panel a cost (logarithmic), with the front of rows that no other beats in both.

    Args:
        table: of `module_ablation.ablation_table`, or several below each other, each row once.
        score: its column of `Estimate`s; bars are their 95 % intervals over patients.
        label: of the score's axis.
        costs: column → label with unit; None for parameters and latency. A row without a positive cost is left out of a panel.
    """
    costs = costs or {"parameters": "parameters, millions", "latency_ms": "latency of one image on this CPU, ms"}
    table = table[~table.index.duplicated()]
    figure, axes = new_figure(1, len(costs), 3.6 + 0.2 * ((len(table) + 3) // 4), sharey=True)
    colours = model_colours(list(table.index))
    values = table[score].map(lambda estimate: estimate.value).astype(float)
    for place, (column, name) in zip(axes[0], costs.items(), strict=True):
        known = table.index[(table[column] > 0) & values.notna()]
        front = pareto_front(table.loc[known, column].astype(float), values[known])
        place.plot(table.loc[front, column], values[front], color=INK, linewidth=1, linestyle="--", zorder=1)
        for row in known:
            estimate: Estimate = table.at[row, score]
            cost = table.at[row, column]
            place.plot([cost] * 2, [estimate.low, estimate.high], color=colours[row], linewidth=1.6)
            filled = colours[row] if row in front else "white"
            place.plot([cost], [estimate.value], "o", color=colours[row], markerfacecolor=filled, markersize=6.5)
        place.set(xscale="log", xlabel=f"{name} (log scale)")
        place.xaxis.set_minor_locator(NullLocator())
        if len(known):
            low, high = table.loc[known, column].min(), table.loc[known, column].max()
            ticks = np.geomspace(low, high, 4) if high > 1.03 * low else [low]
            digits = 2 if high > 2 * low else 3
            place.set_xticks(ticks, [f"{tick:.{digits}g}" if tick < 100 else f"{tick:.0f}" for tick in ticks])
        place.margins(x=0.12)
    axes[0, 0].set_ylabel(label)
    handles = [Line2D([], [], color=colours[row], marker="o", linestyle="none", label=row) for row in table.index]
    handles.append(Line2D([], [], color=INK, linestyle="--", label="front: no row is better and cheaper"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure


@styled
def power_curves(tables: pd.DataFrame | Mapping[str, pd.DataFrame], power: float = POWER) -> Figure:
    """Power against the number of patients, a line a number of seeds, a panel an effect; bands are the simulation's error.

    Args:
        tables: of `scores.power.power_simulation`; one, or title → table.
        power: the level that is marked.
    """
    named = {"": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    columns = 2 if len(named) == 4 else min(3, max(1, len(named)))
    figure, axes = new_figure(-(-len(named) // columns), columns, 0.4 + 2.9 * -(-len(named) // columns), sharey=True)
    seeds = sorted({int(number) for table in named.values() for number in table["seeds"]})
    shades = [str(shade) for shade in np.linspace(0.72, 0.0, max(2, len(seeds)))] if len(seeds) != 1 else [INK]
    colour_of = dict(zip(seeds, shades, strict=False))
    for place, (title, table) in zip(axes.flat, named.items(), strict=False):
        for number, line in table.groupby("seeds"):
            line = line.sort_values("patients")
            place.plot(line["patients"], 100 * line["power"], "o-", color=colour_of[number], markersize=3.5)
            place.fill_between(line["patients"], 100 * line["low"], 100 * line["high"], color=colour_of[number], alpha=0.15)
        place.axhline(100 * power, color=CLASS_COLOURS["malignant"], linewidth=1, linestyle="--")
        place.set(xscale="log", xlabel="patients (log scale)", ylim=(0, 102), title=title)
        ticks = sorted(table["patients"].unique())
        ticks = ticks[:: max(1, -(-len(ticks) // 6))]
        place.xaxis.set_minor_locator(NullLocator())
        place.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    for place in axes.flat[len(named) :]:
        place.set_visible(False)
    axes[0, 0].set_ylabel("power, %")
    handles = [Line2D([], [], color=colour, label=f"{number} seed{'s' * (number != 1)}") for number, colour in colour_of.items()]
    handles.append(Line2D([], [], color=CLASS_COLOURS["malignant"], linestyle="--", label=f"{100 * power:.0f} %"))
    figure.legend(handles=handles, loc="outside lower left", ncols=6)
    return figure
