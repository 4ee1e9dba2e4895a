"""Pictures: frames in a grid with what is to be compared drawn on them: outlines, boxes, maps, and what is said of them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, TRUTH, WIDTH, bare, new_figure, styled

# Blue is low and red is high, as in the papers; the dark ends of "turbo", which read as neither, are cut off.
MAP_COLOURS = ListedColormap(mpl.colormaps["turbo"](np.linspace(0.07, 0.93, 256)), "map_blue_to_red")
MAP_LABEL = "map, share of its own maximum"
FOUND, FALSE, MISSED = ACCENT, CLASS_COLOURS["malignant"], CLASS_COLOURS["benign"]  # pixels of a predicted mask
_SMALL = {"fontsize": 8.5, "fontweight": "normal", "linespacing": 1.25}


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    Attributes:
        image: uint8 or float (height, width); a float image is shown from its minimum to its maximum. None: an empty place.
        title: the text above it, at most two short lines.
        outlines: colour → bool mask (height, width) whose contour is drawn; white and dashed on a map, which no colour of it is.
        filled: colour → bool mask (height, width) that is laid over the picture, half transparent.
        boxes: colour → (top, bottom, left, right) in pixels, half open.
        map: in [0, 1], laid over the picture on the one scale of all maps; it may be coarser. All zero or NaN: said to be blank.
        opacity: of the map; 1 hides the picture.
        below: lines of text beneath it.
    """

    image: np.ndarray | None = None
    title: str = ""
    outlines: dict[str, np.ndarray] = field(default_factory=dict)
    filled: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    map: np.ndarray | None = None
    opacity: float = 0.5
    below: Sequence[str] = ()


def mask_colours(truth: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """`Panel.filled` of two bool masks (height, width): found in green, falsely called in red, missed in blue."""
    return {FOUND: truth & found, FALSE: found & ~truth, MISSED: truth & ~found}


def case_panel(cases: pd.DataFrame, case: str, title: str = "") -> Panel:
    """The frame of one case with the outline of its mask, where it has one; titled `title`, else by id, class and TI-RADS of the
    case, never by the patient.

    Raises:
        ImageError: the image or the mask cannot be read.
    """
    row = cases.loc[case]
    image = read_gray(row["image"])
    outlines = {} if pd.isna(row["mask"]) else {TRUTH: read_mask(row["mask"], image.shape)}
    words = [] if pd.isna(row["label"]) else [LABEL_NAMES[row["label"]]]
    if pd.notna(row.get("tirads")):
        words.append(f"TI-RADS {str(row['tirads']).removeprefix('TR')}")
    return Panel(image, title or f"{case}\n{', '.join(words)}".strip(), outlines)


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a panel on axes; pixels stay square."""
    bare(axes).set_title(panel.title, **_SMALL)
    axes.set_xlabel("\n".join(panel.below), loc="left", **_SMALL)
    if panel.image is None:
        return
    limits = {"vmin": 0, "vmax": 255} if panel.image.dtype == np.uint8 else {}
    axes.imshow(panel.image, cmap="gray", interpolation="antialiased", **limits)
    for colour, mask in panel.filled.items():
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = to_rgba(colour, 0.75)
        axes.imshow(layer, interpolation="nearest")
    if panel.map is not None:
        _draw_map(axes, panel)
    for colour, mask in panel.outlines.items():
        if mask.any() and not mask.all():
            line = ("white", "--") if panel.map is not None else (colour, "-")
            axes.contour(mask, levels=[0.5], colors=line[0], linestyles=line[1], linewidths=1.2)
    for colour, (top, bottom, left, right) in panel.boxes.items():
        corner, height, width = (left - 0.5, top - 0.5), bottom - top, right - left
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.6))


def _draw_map(axes: Axes, panel: Panel) -> None:
    """A blank map is said in words instead of coloured: blue would read as "nothing of interest here"."""
    if np.nan_to_num(panel.map).any():
        place = axes.images[0].get_extent()
        axes.imshow(panel.map, cmap=MAP_COLOURS, alpha=panel.opacity, extent=place, vmin=0, vmax=1)
        return
    box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0}
    axes.text(0.5, 0.03, "blank map", transform=axes.transAxes, ha="center", fontsize=9, bbox=box)


@styled
def panel_grid(panels: Sequence[Panel], columns: int = 4, rows: Sequence[str] = (), map_label: str = MAP_LABEL) -> Figure | None:
    """Panels in reading order, with the scale of their maps; None where there is no panel.

    Args:
        panels: their pictures, titles and texts.
        columns: panels a row.
        rows: labels written at the left of the rows.
        map_label: what the maps are of.
    """
    if not panels:
        return None
    columns = min(columns, len(panels))
    count = -(-len(panels) // columns)
    width = WIDTH if columns > 3 else 2.6 * columns
    panels = [_wrapped(panel, int(14 * width / columns)) for panel in panels]
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    sides = [[np.divide(*panel.image.shape) for panel in line if panel.image is not None] for line in lines]
    shapes = [min(max(line or [0.7]), 1.6) for line in sides]
    texts = [max(len(panel.below) for panel in line) for line in lines]
    titles = max(panel.title.count("\n") for panel in panels)
    mapped = any(panel.map is not None for panel in panels)
    height = sum(shapes) * width / columns + count * (0.3 + 0.15 * titles) + 0.15 * sum(texts) + 0.5 * mapped
    figure, axes = new_figure(count, columns, height, width)
    axes[0, 0].get_gridspec().set_height_ratios(shapes)  # a row too low for its pictures would make columns too narrow for texts
    figure.set_layout_engine("compressed")
    for place, panel in zip(axes.flat, [*panels, *[Panel()] * (count * columns - len(panels))], strict=True):
        draw_panel(place, panel)
        place.set_anchor("NW")  # a title may be as wide as the column, its picture narrower
    for place, label in zip(axes[:, 0], rows, strict=False):
        place.set_ylabel(label, fontsize=9.5, fontweight="bold")
    if mapped:
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), MAP_COLOURS)
        bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.35, aspect=40, ticks=[0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.set_label(map_label, fontsize=8.5)
    return figure


def _wrapped(panel: Panel, characters: int) -> Panel:
    """The panel with its texts in lines that are no longer than it is wide."""
    title = "\n".join(textwrap.fill(line, characters) for line in panel.title.split("\n"))
    below = [part for line in panel.below for part in textwrap.wrap(line, characters)]
    return replace(panel, title=title, below=below)


def card_grid(cards: Sequence[Sequence[Panel]], map_label: str = MAP_LABEL) -> Figure | None:
    """Cases of two or three pictures each: two cases a row, or one; None for no case."""
    wide = len(cards[0]) if cards else 1
    return panel_grid([panel for card in cards for panel in card], wide * max(1, 4 // wide), map_label=map_label)
