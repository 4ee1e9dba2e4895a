"""Figures that describe a data set: who is in it, what the frames look like in numbers, how they were split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import LABEL_NAMES, SPLITS, Measures, label_names
from thyroid_utils.plots.style import CLASS_COLOURS, NEUTRAL, bare, integer_ticks, new_figure, styled

CLASSES = tuple(LABEL_NAMES.values())


def _stacked(axes: Axes, counts: pd.DataFrame, total: str) -> None:
    """Horizontal bars, one a row of `counts`, made of its columns (classes); the sum stands at the end."""
    positions, left = np.arange(len(counts)), np.zeros(len(counts))
    for name in [name for name in CLASSES if name in counts]:
        axes.barh(positions, counts[name], left=left, color=CLASS_COLOURS[name], label=name, height=0.68)
        left += counts[name].to_numpy()
    for position, value in zip(positions, left, strict=True):
        axes.text(value, position, f" {value:.0f}", va="center", fontsize=9)
    axes.set_yticks(positions, [str(name) for name in counts.index])
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel(total)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    integer_ticks(axes, "x")


@styled
def counts(cases: pd.DataFrame, by: str | None = None) -> Figure:
    """Images and patients by class, images a patient, and images by one more column (`scanner`, `pane`, …) where named.

    Args:
        cases: case table, not empty.
        by: a column of few values.

    Raises:
        KeyError: the table has no column `by`.
    """
    figure, axes = new_figure(1, 3 if by else 2, 2.7, width_ratios=[1.15, 1, 1.25][: 3 if by else 2])
    classes = label_names(cases)
    table = pd.DataFrame({"images": classes.value_counts(), "patients": patient_class(cases).value_counts()}).T.fillna(0)
    _stacked(axes[0, 0], table, "count")
    axes[0, 0].set_title("Images and patients by class")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3)
    views = cases["patient"].value_counts().value_counts().sort_index()
    axes[0, 1].bar(views.index.astype(str), views, color=NEUTRAL, width=0.7)
    axes[0, 1].set(title="Images a patient", xlabel="images of the patient", ylabel="patients")
    integer_ticks(axes[0, 1])
    if by:
        _stacked(axes[0, 2], pd.crosstab(cases[by].astype("object").fillna("none given"), classes), "images")
        axes[0, 2].set_title(f"Images by {by}")
    return figure


@styled
def frame_sizes(table: pd.DataFrame) -> Figure:
    """How many frames have which size: bars for up to a dozen sizes, else every frame as a dot.

    Args:
        table: columns `width` and `height` in pixels (`Measures.table`).
    """
    sizes = table.groupby(["width", "height"]).size()
    few = len(sizes) <= 12
    figure, axes = new_figure(1, 1, 1.2 + 0.32 * len(sizes) if few else 3.4, 6.4)
    if few:
        names = [f"{width} × {height}" for width, height in sizes.index]
        axes[0, 0].barh(names, sizes, color=NEUTRAL, height=0.68)
        for position, count in enumerate(sizes):
            axes[0, 0].text(count, position, f" {count}", va="center", fontsize=9)
        axes[0, 0].set(xlabel="images", ylabel="width × height, pixels")
        axes[0, 0].grid(axis="y", visible=False)
        axes[0, 0].margins(x=0.1)
        integer_ticks(axes[0, 0], "x")
    else:
        axes[0, 0].scatter(table["width"], table["height"], s=18, color=NEUTRAL, alpha=0.5)
        axes[0, 0].set(xlabel="width, pixels", ylabel="height, pixels")
    axes[0, 0].set_title(f"Frame sizes (n = {len(table)} images)")
    return figure


def _named(name: str, count: int) -> str:
    return f"{name} (n = {count})"


@styled
def areas_and_positions(measures: Measures, classes: pd.Series, target: str = "nodule") -> Figure:
    """How large the outlined structure is and where it lies, by class.

    Args:
        measures: of `measure_cases`.
        classes: class name of each case (`label_names`).
        target: what the masks outline.
    """
    names = [name for name in CLASSES if name in measures.positions]
    figure, axes = new_figure(1, 1 + len(names), 3.1, width_ratios=[1.5] + [1] * len(names))
    shares = 100 * measures.table["area_share"]
    bins = np.linspace(0, max(1.0, np.nanmax(shares)), 26)
    for name in names:
        values = shares[(classes == name) & (shares > 0)]
        sns.histplot(
            x=values, bins=bins, stat="percent", element="step", fill=False, color=CLASS_COLOURS[name], linewidth=1.8,
            label=_named(name, len(values)), ax=axes[0, 0],
        )  # fmt: skip
    axes[0, 0].set(xlabel=f"{target} area, % of the frame", ylabel="% of the class's images", title=f"{target.capitalize()} area")
    axes[0, 0].legend(loc="upper right")
    highest = max(measures.positions[name].max() for name in names)
    for place, name in zip(axes[0, 1:], names, strict=True):
        bare(place)
        drawn = place.imshow(100 * measures.positions[name], cmap="magma", vmin=0, vmax=100 * highest, extent=(0, 100, 100, 0))
        place.set_title(f"Position: {name}")
        place.set(xlabel="left – right of the frame", ylabel="deep – skin" if place is axes[0, 1] else "")
    figure.colorbar(drawn, ax=list(axes[0, 1:]), shrink=0.75, label="% of masks\ncovering the point")
    return figure


@styled
def intensities(measures: Measures, target: str = "nodule") -> Figure:
    """Gray levels inside the outlined structure and in a ring around it, by class; every image counts alike."""
    names = [name for name in CLASSES if name in measures.histograms]
    figure, axes = new_figure(1, len(names), 2.7, sharey=True)
    centres = np.arange(256).reshape(-1, 8).mean(axis=1)
    for place, name in zip(axes[0], names, strict=True):
        inside, around = 100 * measures.histograms[name].reshape(2, -1, 8).sum(axis=2)
        place.fill_between(centres, inside, step="mid", color=CLASS_COLOURS[name], alpha=0.35, label=f"inside the {target}")
        place.step(centres, around, where="mid", color=NEUTRAL, linewidth=1.6, label="ring around it")
        place.set(xlabel="gray level, 0 to 255", title=name.capitalize(), xlim=(0, 255))
        place.legend(loc="upper right")
    axes[0, 0].set_ylabel("% of pixels\n(bins of 8 levels)")
    axes[0, 0].set_ylim(bottom=0)
    return figure


@styled
def tirads(cases: pd.DataFrame) -> Figure | None:
    """Images and patients by TI-RADS level, coloured by class; a patient counts at the highest level of its images.

    None where the set gives no levels.
    """
    if "tirads" not in cases or cases["tirads"].isna().all():
        return None
    figure, axes = new_figure(1, 2, 2.8)
    levels = cases["tirads"].astype("string").fillna("none given")
    classes = label_names(cases)
    _stacked(axes[0, 0], pd.crosstab(levels, classes).sort_index(), "images")
    axes[0, 0].set(title=f"Images (n = {len(cases)})", ylabel="TI-RADS")
    first = pd.DataFrame({"level": levels, "class": classes, "patient": cases["patient"]}).sort_values("level", kind="stable")
    first = first[first["level"] != "none given"].drop_duplicates("patient", keep="last")
    _stacked(axes[0, 1], pd.crosstab(first["level"], first["class"]), "patients")
    axes[0, 1].set_title(f"Patients with a level (n = {len(first)})")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3)
    return figure


@styled
def split_bars(cases: pd.DataFrame) -> Figure:
    """Images and patients of each split by class: the shares of the classes should look alike.

    Args:
        cases: case table with `split` filled.
    """
    figure, axes = new_figure(1, 2, 2.6, sharey=True)
    sides = [name for name in SPLITS if (cases["split"] == name).any()]
    classes = label_names(cases)
    _stacked(axes[0, 0], pd.crosstab(cases["split"], classes).reindex(sides), "images")
    axes[0, 0].set_title(f"Images (n = {len(cases)})")
    patients = {side: patient_class(cases[cases["split"] == side]).value_counts() for side in sides}
    _stacked(axes[0, 1], pd.DataFrame(patients).T.fillna(0), "patients")
    axes[0, 1].set_title(f"Patients (n = {cases['patient'].nunique()})")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3)
    return figure
