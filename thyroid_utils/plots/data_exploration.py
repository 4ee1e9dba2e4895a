"""Notebook 01: a data set in numbers and pictures, what its audit found, how it was split, and phantoms beside real frames."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thyroid_utils.data.audit import Audit, clean_mask
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.overlays import find_echo_area, find_overlays
from thyroid_utils.data.phantom.imaging import RAYLEIGH_SNR, RayleighFit
from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import SPLITS, Measures, label_names
from thyroid_utils.plots import style
from thyroid_utils.plots.pictures import Panel, case_panel, panel_grid
from thyroid_utils.plots.style import across, bare, below, integer_ticks, new_figure, styled

CLASSES = tuple(style.CLASS_COLOURS)


def _stacked(axes: Axes, counts: pd.DataFrame, total: str, title: str) -> None:
    """Horizontal bars, one a row of `counts`, made of its columns (classes); the sum stands at the end."""
    left = np.zeros(len(counts))
    for name in [name for name in CLASSES if name in counts]:
        bars = axes.barh(range(len(counts)), counts[name], left=left, color=style.CLASS_COLOURS[name], label=name, height=0.68)
        left += counts[name].to_numpy()
    axes.bar_label(bars, [f"{value:.0f}" for value in left], padding=3, fontsize=9)
    axes.set_yticks(range(len(counts)), [str(name) for name in counts.index])
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set(xlabel=total, title=title)
    integer_ticks(across(axes), "x")


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
    _stacked(axes[0, 0], table, "count", "Images and patients by class")
    below(figure, axes[0, 0])
    views = cases["patient"].value_counts().value_counts().sort_index()
    axes[0, 1].bar(views.index.astype(str), views, color=style.NEUTRAL, width=0.7)
    axes[0, 1].set(title="Images a patient", xlabel="images of the patient", ylabel="patients")
    integer_ticks(axes[0, 1])
    if by:
        _stacked(axes[0, 2], pd.crosstab(cases[by].astype("object").fillna("none given"), classes), "images", f"Images by {by}")
    return figure


@styled
def frame_sizes(table: pd.DataFrame, classes: pd.Series) -> Figure:
    """How many frames have which size: bars for up to a dozen sizes, else every frame as a dot.

    Args:
        table: columns `width` and `height` in pixels (`Measures.table`).
        classes: class name of each case (`label_names`).
    """
    sizes = table["width"].astype(str) + " × " + table["height"].astype(str)
    few, title = sizes.nunique() <= 12, f"Frame sizes (n = {len(table)} images)"
    figure, axes = new_figure(1, 1, 1.2 + 0.32 * sizes.nunique() if few else 3.4, 6.4)
    if few:
        _stacked(axes[0, 0], pd.crosstab(sizes, classes), "images", title)
        axes[0, 0].set_ylabel("width × height, pixels")
    else:
        axes[0, 0].scatter(table["width"], table["height"], s=18, color=style.NEUTRAL, alpha=0.5)
        axes[0, 0].set(xlabel="width, pixels", ylabel="height, pixels", title=title)
    return figure


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
        look = {"color": style.CLASS_COLOURS[name], "linewidth": 1.8, "label": f"{name} (n = {len(values)})"}
        sns.histplot(x=values, bins=bins, stat="percent", element="step", fill=False, ax=axes[0, 0], **look)
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
        place.fill_between(centres, inside, step="mid", color=style.CLASS_COLOURS[name], alpha=0.35, label=f"inside the {target}")
        place.step(centres, around, where="mid", color=style.NEUTRAL, linewidth=1.6, label="ring around it")
        place.set(xlabel="gray level, 0 to 255", title=name.capitalize(), xlim=(0, 255))
        place.legend(loc="upper right")
    axes[0, 0].set(ylabel="% of pixels\n(bins of 8 levels)", ylim=(0, None))
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
    _stacked(axes[0, 0], pd.crosstab(levels, classes).sort_index(), "images", f"Images (n = {len(cases)})")
    axes[0, 0].set_ylabel("TI-RADS")
    first = pd.DataFrame({"level": levels, "class": classes, "patient": cases["patient"]}).sort_values("level", kind="stable")
    first = first[first["level"] != "none given"].drop_duplicates("patient", keep="last")
    _stacked(axes[0, 1], pd.crosstab(first["level"], first["class"]), "patients", f"Patients with a level (n = {len(first)})")
    below(figure, axes[0, 0])
    return figure


@styled
def split_bars(cases: pd.DataFrame) -> Figure:
    """Images and patients of each split by class: the shares of the classes should look alike.

    Args:
        cases: case table with `split` filled.
    """
    figure, axes = new_figure(1, 2, 2.6, sharey=True)
    sides = [name for name in SPLITS if (cases["split"] == name).any()]
    images = pd.crosstab(cases["split"], label_names(cases)).reindex(sides)
    patients = pd.DataFrame({side: patient_class(cases[cases["split"] == side]).value_counts() for side in sides}).T.fillna(0)
    _stacked(axes[0, 0], images, "images", f"Images (n = {len(cases)})")
    _stacked(axes[0, 1], patients, "patients", f"Patients (n = {cases['patient'].nunique()})")
    below(figure, axes[0, 0])
    return figure


def gallery(cases: pd.DataFrame, each: int = 4) -> Figure:
    """Cases drawn at random, four a row: at most `each` cases a class, one a patient where possible."""
    shuffled = cases.sample(frac=1, random_state=0)
    shuffled = shuffled.loc[shuffled["patient"].duplicated().sort_values(kind="stable").index]  # new patients come first
    chosen = shuffled.groupby(label_names(shuffled)).head(each).sort_values("label", kind="stable")
    return panel_grid([case_panel(cases, case) for case in chosen.index])


def identical_images(cases: pd.DataFrame, audit: Audit) -> Figure | None:
    """Up to four sets of pixel-identical images, a row each, those of several patients first; None where there is none."""
    found = audit.identical.sort_values(["patients", "images"], ascending=False, kind="stable").head(4)
    if found.empty:
        return None
    columns = min(5, int(found["images"].max()))
    panels, names = [], []
    for row in found.itertuples():
        shown = [case_panel(cases, case) for case in row.cases[:columns]]
        panels += shown + [Panel()] * (columns - len(shown))
        names.append(f"{row.images} images\n{row.patients} patient{'s' * (row.patients > 1)}")
    return panel_grid(panels, columns, names)


def near_identical_images(cases: pd.DataFrame, audit: Audit) -> Figure | None:
    """Up to four pairs of images that look the same, two a row: first those of different patients, then the closest.

    They are spread over the range of correlations and take each image once. None where there is no pair.
    """
    near = audit.near.assign(other=~audit.near["same_patient"].fillna(True).astype(bool))
    near = near[~near["a"].duplicated() & ~near["b"].duplicated() & ~near["b"].isin(near["a"])]
    near = near.sort_values(["other", "correlation"], ascending=[False, False], kind="stable")
    panels = []
    for position in np.unique(np.linspace(0, len(near) - 1, min(4, len(near))).astype(int)):
        pair = near.iloc[position]
        whose = "patients unknown" if pd.isna(pair["same_patient"]) else "different patients" if pair["other"] else "same patient"
        panels.append(case_panel(cases, pair["a"], f"{pair['a']}\n{whose}"))
        panels.append(case_panel(cases, pair["b"], f"{pair['b']}\ncorrelation {pair['correlation']:.3f}"))
    return panel_grid(panels)


def mask_problems(cases: pd.DataFrame, audit: Audit) -> Figure | None:
    """The two worst cases of each problem: the outline, and in a red box what cleaning would change; None where there is none."""
    panels = []
    for problem in ("specks", "holes", "touches border", "several parts"):
        found = audit.masks[audit.masks["problem"] == problem].sort_values("pixels", ascending=False, kind="stable")
        for case in found["case"].head(2):
            mask = read_mask(cases.at[case, "mask"])
            title, changed, boxes = f"{case}\n{problem}", clean_mask(mask) ^ mask, {}
            if changed.any():  # perhaps too few pixels to be seen without a box
                title += f", {changed.sum()} pixels to mend"
                left, top, width, height = cv2.boundingRect(changed.astype(np.uint8))
                boxes = {style.PROBLEM: (max(0, top - 6), top + height + 6, max(0, left - 6), left + width + 6)}
            panels.append(replace(case_panel(cases, case, title), filled={style.PROBLEM: changed}, boxes=boxes))
    return panel_grid(panels)


def burned_in_marks(cases: pd.DataFrame, audit: Audit) -> Figure | None:
    """The four frames with most text and callipers: echo image (green) and marks (red); None where none has any."""
    marks = (audit.images["text_regions"].fillna(0) + 3 * audit.images["callipers"].fillna(0)).astype(int)
    panels = []
    for case in marks[marks > 0].sort_values(ascending=False, kind="stable").index[:4]:
        image = read_gray(cases.at[case, "image"])
        found = find_overlays(image)
        title = f"{case}\n{found.text_regions} text regions, {found.callipers} callipers"
        panels.append(Panel(image, title, filled={style.PROBLEM: found.mask}, boxes={style.BOX: tuple(find_echo_area(image))}))
    return panel_grid(panels)


@styled
def exposure_bars(table: pd.DataFrame) -> Figure:
    """How much of the test set training has already met, by the rule of the split; whiskers go from lowest to highest seed.

    Args:
        table: `exposure` of the study.
    """
    rules, kinds = table["split by"].unique(), table["training holds"].unique()
    figure, axes = new_figure(1, 1, 1.1 + 0.36 * len(table), 8.0)
    by_rule = table.set_index(["split by", "training holds"])[["mean", "lowest", "highest"]] * 100
    height = 0.8 / len(rules)
    for number, (rule, colour) in enumerate(zip(rules, [style.ACCENT, style.PROBLEM, style.NEUTRAL], strict=False)):
        mean, low, high = by_rule.loc[rule].loc[kinds].to_numpy().T
        heights = np.arange(len(kinds)) + number * height
        bars = axes[0, 0].barh(heights, mean, 0.9 * height, xerr=[mean - low, high - mean], color=colour, label=rule)
        axes[0, 0].bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
    axes[0, 0].set_yticks(np.arange(len(kinds)) + 0.4 - height / 2, kinds)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel="% of the test images", xlim=(0, 112), title="Test images that training has met, by rule of splitting")
    below(figure, across(axes[0, 0]))
    return figure


@styled
def simulation(stages: dict[str, np.ndarray]) -> Figure:
    """From tissue to frame, one panel a stage, each quantity with its unit.

    Args:
        stages: name → array (height, width), of `simulation_stages`.
    """
    rows = len(stages) // 3
    figure, axes = new_figure(rows, 3, 2.9 * rows)
    units = dict(zip(stages, ("dB", "dB/cm/MHz", "dB", "real part", "real part", "amplitude"), strict=False))
    for number, (place, (name, values)) in enumerate(zip(axes.flat, stages.items(), strict=True), start=1):
        unit = units.get(name, "")
        low, high = (0, 255) if values.dtype == np.uint8 else np.quantile(values, [0.005, 0.995])
        colours = "cividis" if "dB" in unit else "gray"
        drawn = bare(place).imshow(values, cmap=colours, vmin=low, vmax=max(high, low + 1e-3))
        place.set_title(f"{number}. {name}")
        if unit:
            figure.colorbar(drawn, ax=place, shrink=0.8, pad=0.02).set_label(unit, fontsize=8.5)
    return figure


def beside_real(phantoms: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Four phantoms above four real frames of the case tables, cut to the echo image so that only tissue is compared."""
    panels = []
    for cases in (phantoms, real):
        one_each = cases.sample(frac=1, random_state=0).drop_duplicates("patient")
        for case in sorted(one_each.index[:4]):
            whole = case_panel(cases, case)
            box = find_echo_area(whole.image)
            outlines = {colour: box.crop(mask) for colour, mask in whole.outlines.items()}
            panels.append(Panel(box.crop(whole.image), whole.title, outlines))
    return panel_grid(panels, 4, ["simulated", "real"])


@styled
def speckle(envelope: np.ndarray, fit: RayleighFit, patches: dict[str, np.ndarray]) -> Figure:
    """First-order speckle statistics: the envelope of a homogeneous phantom against Rayleigh, and the SNR of patches of frames.

    Args:
        envelope: (height, width) of a homogeneous phantom.
        fit: of `rayleigh_fit`.
        patches: name of a set of frames → SNR (mean/SD of the decompressed envelope) of its homogeneous patches, (n,).
    """
    figure, axes = new_figure(1, 2, 3.1, width_ratios=[1.15, 1])
    values = np.asarray(envelope).ravel() / fit.scale
    levels, bins = np.linspace(0, 4.5, 200), np.linspace(0, 4.5, 46)
    simulated, theory = f"simulated, SNR {fit.snr:.2f}", f"Rayleigh, SNR {RAYLEIGH_SNR:.2f}"
    axes[0, 0].hist(values, bins, density=True, color=style.ACCENT, alpha=0.45, label=simulated)
    axes[0, 0].plot(levels, levels * np.exp(-(levels**2) / 2), color=style.NEUTRAL, linewidth=1.6, label=theory)
    axes[0, 0].set(xlabel="envelope / Rayleigh scale", ylabel="probability density", title="Homogeneous phantom")
    axes[0, 0].legend(loc="upper right")
    names = [f"{name}\n(n = {len(snr)} patches)" for name, snr in patches.items()]
    axes[0, 1].boxplot(
        list(patches.values()), positions=range(len(names)), widths=0.5, sym=".", medianprops={"color": style.ACCENT}
    )
    axes[0, 1].axhline(RAYLEIGH_SNR, color=style.NEUTRAL, linestyle="--", linewidth=1.2)
    axes[0, 1].set_xticks(range(len(names)), names)
    axes[0, 1].set(ylabel="speckle SNR, mean / SD", title=f"Patches of frames (dashed: {RAYLEIGH_SNR:.2f})", ylim=(0, None))
    return figure
