"""Pictures: frames in a grid with what is to be compared drawn on them, and images with a network's map, decision and facts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import ScaledTranslation

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import label_names
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, TRUTH, WIDTH, bare, new_figure, styled

# Blue is low and red is high, as in the papers; the dark ends of "turbo", which read as neither, are cut off.
MAP_COLOURS = ListedColormap(mpl.colormaps["turbo"](np.linspace(0.07, 0.93, 256)), "map_blue_to_red")
MAP_LABEL = "map, share of its own maximum"
FOUND, FALSE, MISSED = ACCENT, CLASS_COLOURS["malignant"], CLASS_COLOURS["benign"]  # pixels of a predicted mask
_MASK_LABELS = {"found": FOUND, "falsely called nodule": FALSE, "missed": MISSED}

# Inches: at the left, between pictures, a line of text, text beside pictures.
_EDGE, _GAP, _LINE, _TEXT_WIDTH = 0.04, 0.12, 0.165, 2.3


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    Attributes:
        image: uint8 or float (height, width); a float image is shown from its minimum to its maximum.
        title: the text above it, at most two short lines.
        outlines: colour → bool mask (height, width) whose contour is drawn.
        filled: colour → bool mask (height, width) that is laid over the picture, half transparent.
        boxes: colour → (top, bottom, left, right) in pixels, half open.
    """

    image: np.ndarray
    title: str = ""
    outlines: dict[str, np.ndarray] = field(default_factory=dict)
    filled: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)


def case_title(case: str, row: pd.Series) -> str:
    """Id, class and TI-RADS of a case: what stands above its picture. Never the patient."""
    words = [] if pd.isna(row["label"]) else ["malignant" if row["label"] else "benign"]
    if "tirads" in row and pd.notna(row["tirads"]):
        words.append(f"TI-RADS {str(row['tirads']).removeprefix('TR')}")
    return f"{case}\n{', '.join(words)}" if words else str(case)


def case_panel(cases: pd.DataFrame, case: str, title: str | None = None) -> Panel:
    """The frame of one case with the outline of its mask, where it has one.

    Raises:
        ImageError: the image or the mask cannot be read.
    """
    row = cases.loc[case]
    image = read_gray(row["image"])
    outlines = {} if pd.isna(row["mask"]) else {TRUTH: read_mask(row["mask"], image.shape)}
    return Panel(image, case_title(case, row) if title is None else title, outlines)


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a panel on axes; pixels stay square."""
    bare(axes)
    limits = {"vmin": 0, "vmax": 255} if panel.image.dtype == np.uint8 else {}
    axes.imshow(panel.image, cmap="gray", interpolation="antialiased", **limits)
    for colour, mask in panel.filled.items():
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = to_rgba(colour, 0.75)
        axes.imshow(layer, interpolation="nearest")
    for colour, mask in panel.outlines.items():
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    for colour, (top, bottom, left, right) in panel.boxes.items():
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.6)
        )
    axes.set_title(panel.title, fontsize=8.5, fontweight="normal", linespacing=1.25)


@styled
def panel_grid(panels: Sequence[Panel], columns: int = 4, rows: Sequence[str] = ()) -> Figure:
    """Panels in reading order.

    Args:
        panels: at least one.
        columns: panels a row.
        rows: labels written at the left of the rows.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("panel_grid: no panel to draw; check the selection of cases before drawing it")
    columns = min(columns, len(panels))
    count = -(-len(panels) // columns)
    shape = np.median([panel.image.shape[0] / panel.image.shape[1] for panel in panels])
    width = WIDTH if columns > 2 else 3.4 * columns
    height = count * (min(float(shape), 1.6) * width / columns + 0.45)
    figure, axes = new_figure(count, columns, height, width)
    for place in axes.flat:
        bare(place)
    for place, panel in zip(axes.flat, panels, strict=False):
        draw_panel(place, panel)
    for place, label in zip(axes[:, 0], rows, strict=False):
        place.set_ylabel(label, fontsize=9.5, fontweight="bold")
    return figure


def gallery(cases: pd.DataFrame, each: int = 4) -> Figure:
    """Cases drawn at random, four a row: at most `each` cases a class, one a patient where possible."""
    classes = label_names(cases)
    chosen: list[str] = []
    for name in CLASS_COLOURS:
        members = cases[classes == name].sample(frac=1, random_state=0)
        members = members.loc[members["patient"].duplicated().sort_values(kind="stable").index]  # new patients come first
        chosen += list(members.index[:each])
    if classes[chosen].nunique() > 1:  # the unlabelled fill up only where one class is missing
        chosen = [case for case in chosen if classes[case] != "unlabelled"]
    return panel_grid([case_panel(cases, case) for case in chosen])


@dataclass(frozen=True)
class Explained:
    """An image with what a network made of it.

    Attributes:
        image: uint8 or float (height, width).
        map: (height, width) in [0, 1]; all zero or NaN where it is blank. May be coarser than the image. None: there is none.
        title: case and decision, at most two short lines.
        probability: of malignancy, in [0, 1]; NaN: not shown, as for a segmenter.
        threshold: from which on it is called malignant.
        facts: further lines of text, such as Dice or TI-RADS.
        outlines: colour → bool mask (height, width): the truth in `style.TRUTH`.
        filled: colour → bool mask of a second picture, such as what was found, missed and falsely called (`mask_colours`).
    """

    image: np.ndarray
    map: np.ndarray | None
    title: str
    probability: float = np.nan
    threshold: float = 0.5
    facts: Sequence[str] = ()
    outlines: dict[str, np.ndarray] = field(default_factory=dict)
    filled: dict[str, np.ndarray] = field(default_factory=dict)


def mask_colours(truth: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """`Explained.filled` of two bool masks (height, width): found in green, falsely called in red, missed in blue."""
    return {FOUND: truth & found, FALSE: found & ~truth, MISSED: truth & ~found}


def draw_map(axes: Axes, values: np.ndarray, image: np.ndarray, *, alone: bool = False) -> None:
    """Draw a map (height, width) in [0, 1] on its one scale at the place of its image, which is drawn below it or left out.

    A blank map is said in words instead of coloured: blue would read as "nothing of interest here".
    """
    height, width = image.shape
    place = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5), "vmin": 0, "vmax": 1}  # a map may be coarser than its image
    if alone:
        bare(axes)
    else:
        draw_panel(axes, Panel(image))
    if np.nan_to_num(values).any():
        axes.imshow(values, cmap=MAP_COLOURS, alpha=1 if alone else 0.5, **place)
        return
    if alone:
        axes.imshow(np.full((1, 1), 0.75), cmap="gray", **place)
    axes.text(0.5, 0.03, "blank map", transform=axes.transAxes, ha="center", va="bottom", fontsize=9,
              bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0})  # fmt: skip


def _draw_bar(axes: Axes, label: str) -> None:
    """The scale of all maps of a figure."""
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), MAP_COLOURS)
    bar = axes.figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.set_xticklabels(["0 (low)", "0.5", "1 (high)"], fontsize=8.5)
    axes.set_title(label, fontsize=9, fontweight="normal", pad=3)


def _draw_text(axes: Axes, example: Explained, lines: Sequence[str]) -> None:
    """A bar from 0 to 1 in the colour of the class called, a tick at the threshold, and lines of text below it."""
    bare(axes).set(xlim=(0, 1), ylim=(0, 1))
    p, threshold, room = example.probability, example.threshold, 0
    if not np.isnan(p):
        shift = ScaledTranslation(0, -6 / 72, axes.figure.dpi_scale_trans)  # the bar is as high whatever the axes are
        at_top = {"transform": axes.transData + shift, "solid_capstyle": "butt", "clip_on": False}
        axes.plot([0, 1], [1, 1], color="#e3e6ea", linewidth=8, **at_top)
        axes.plot([0, p], [1, 1], color=CLASS_COLOURS["malignant" if p >= threshold else "benign"], linewidth=8, **at_top)
        axes.plot([threshold - 0.004, threshold + 0.004], [1, 1], color=INK, linewidth=13, **at_top)
        room = 16
    axes.annotate("\n".join(lines), (0, 1), (0, -room), textcoords="offset points", fontsize=8.5, va="top", linespacing=1.3)


def _lines(example: Explained, characters: int, apart: bool) -> list[str]:
    """What is said of an example, in lines: each fact on its own, or all in a row."""
    p = example.probability
    said = [] if np.isnan(p) else [f"p(malignant) {p:.2f}, threshold {example.threshold:.2f}"]
    facts = list(example.facts) if apart else [", ".join(example.facts)]
    return [part for line in [*said, *facts] for part in textwrap.wrap(line, characters)]


def _draw_picture(axes: Axes, example: Explained, kind: str) -> None:
    if kind == "image":
        draw_panel(axes, Panel(example.image, outlines=example.outlines))
    elif kind == "filled":
        draw_panel(axes, Panel(example.image, filled=example.filled))
    elif example.map is None:
        bare(axes)
    else:
        draw_map(axes, example.map, example.image, alone=kind == "map")
        for mask in example.outlines.values():  # white and dashed, which no colour of the map is
            if mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=["white"], linewidths=1.2, linestyles="--")
    axes.set_anchor("NW")


def draw_examples(examples: Sequence[Explained], kinds: Sequence[str], map_label: str = MAP_LABEL) -> Figure:
    """Examples with their pictures, each with its text: beside three pictures, below one or two.

    Four pictures, or three and their text, stand in a row. Everything is placed in inches, so that many rows look as few do.

    Args:
        examples: at least one, in reading order.
        kinds: one to three of "image" (with outlines), "filled", "map" and "overlay" (the map on the image).
        map_label: what the scale of the maps is of.
    """
    beside = len(kinds) > 2
    across = min(1 if beside else 4 // len(kinds), len(examples))
    side = (WIDTH - _EDGE - _TEXT_WIDTH - 3 * _GAP) / 3 if beside else (WIDTH - _EDGE) / 4 - _GAP
    card = WIDTH - _EDGE if beside else len(kinds) * (side + _GAP)
    characters = int((_TEXT_WIDTH if beside else card - _GAP) * 15)
    said = [_lines(example, characters, beside) for example in examples]
    titles = ["\n".join(textwrap.fill(line, int(card * 15)) for line in example.title.split("\n")) for example in examples]
    scale = 0.6 if {"map", "overlay"} & set(kinds) else 0.35 if "filled" in kinds else 0
    places, height = _stacked(examples, titles, said, side, across, beside, scale)
    width = across * card + _EDGE
    figure = Figure((width, height))

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    for number, (example, title) in enumerate(zip(examples, titles, strict=True)):
        left, (top, picture, text) = _EDGE + number % across * card, places[number]
        for column, kind in enumerate(kinds):
            _draw_picture(place(left + column * (side + _GAP), top, side, picture), example, kind)
        figure.axes[-len(kinds)].set_title(title, fontsize=8.5, fontweight="normal", linespacing=1.25)
        at = (left + 3 * (side + _GAP), top, _TEXT_WIDTH - _GAP) if beside else (left, top + picture + 0.08, card - _GAP)
        _draw_text(place(*at, max(picture, text) if beside else text), example, said[number])
    if {"map", "overlay"} & set(kinds):
        _draw_bar(place(0.25, 0.22, min(3.4, width - 0.5), 0.1), map_label)
    if "filled" in kinds:
        patches = [Patch(color=colour, label=label) for label, colour in _MASK_LABELS.items()]
        figure.legend(handles=patches, loc="upper right", ncols=3, borderaxespad=0.2)
    return figure


def _stacked(
    examples: Sequence[Explained],
    titles: Sequence[str],
    said: Sequence[Sequence[str]],
    side: float,
    across: int,
    beside: bool,
    scale: float,
) -> tuple[list[tuple[float, float, float]], float]:
    """Where the pictures of each example begin, how high they and the text are, and the height of all, in inches; `across`
    examples share a row, which is as high as the highest of them needs."""
    places, height = [], scale
    for start in range(0, len(examples), across):
        row = slice(start, start + across)
        heading = 0.12 + _LINE * max(title.count("\n") + 1 for title in titles[row])
        picture = side * min(1.3, max(example.image.shape[0] / example.image.shape[1] for example in examples[row]))
        bar = 0.22 * any(not np.isnan(example.probability) for example in examples[row])
        text = 0.15 + _LINE * max(map(len, said[row])) + bar
        places += [(height + heading, picture, text)] * across
        height += heading + 0.08 + (max(picture, text) if beside else picture + text)
    return places, height
