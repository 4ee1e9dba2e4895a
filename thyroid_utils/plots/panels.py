"""Ultrasound frames in a grid, each with its id and what is to be compared drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import label_names
from thyroid_utils.plots.style import TRUTH, WIDTH, bare, new_figure, styled


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


def gallery(cases: pd.DataFrame, columns: int = 4, each: int = 4, seed: int = 0) -> Figure:
    """A grid of cases drawn at random, one row of classes each: at most `each` cases a class, one a patient where possible.

    Args:
        cases: case table, not empty.
        columns: panels a row.
        each: cases of each class.
        seed: same seed, same cases.
    """
    classes = label_names(cases)
    chosen: list[str] = []
    for name in ("benign", "malignant", "unlabelled"):
        members = cases[classes == name].sample(frac=1, random_state=seed)
        members = members.loc[members["patient"].duplicated().sort_values(kind="stable").index]  # new patients come first
        chosen += list(members.index[:each])
    if classes[chosen].nunique() > 1:  # the unlabelled fill up only where one class is missing
        chosen = [case for case in chosen if classes[case] != "unlabelled"]
    return panel_grid([case_panel(cases, case) for case in chosen], columns)
