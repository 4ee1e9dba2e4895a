"""Notebook 01: a data set in numbers and pictures, what its audit found, how it was split, and phantoms beside real frames."""

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thyroid_utils.common.words import count
from thyroid_utils.data.audit import Audit, clean_mask
from thyroid_utils.data.images import read_gray, read_mask, ring_around
from thyroid_utils.data.overlays import find_echo_area, find_overlays
from thyroid_utils.data.phantom import simulate_view
from thyroid_utils.data.phantom.imaging import RAYLEIGH_SNR, RayleighFit
from thyroid_utils.data.phantom.patients import malignancy_posterior, tirads_level
from thyroid_utils.data.splits import patient_class
from thyroid_utils.data.table import SPLITS, Measures, label_names
from thyroid_utils.plots import style
from thyroid_utils.plots.pictures import Panel, case_panel, draw_panel, panel_grid
from thyroid_utils.plots.style import across, bare, below, integer_ticks, new_panels, styled


def _stacked(axes: Axes, counts: pd.DataFrame, title: str, total: str = "images") -> None:
    """Horizontal bars, one a row of `counts`, made of its columns (classes); the sum stands at the end."""
    names = [name for name in style.CLASS_COLOURS if name in counts]
    counts[names].plot.barh(stacked=True, ax=axes, color=style.CLASS_COLOURS, width=0.68, legend=False)
    axes.bar_label(axes.containers[-1], counts[names].sum(axis=1).astype(int), padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=total, ylabel="", title=title)
    integer_ticks(across(axes), "x")


def _by_class(cases: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Images by group (rows) and class (columns)."""
    return pd.crosstab(groups.astype("string").fillna("none given"), label_names(cases)).rename_axis(None)


@styled
def counts(cases: pd.DataFrame, by: str | None = None) -> Figure:
    """Images and patients by class, images a patient, and images by one more column (`scanner`, `pane`, …) where named.

    Args:
        cases: case table, not empty.
        by: a column of few values.

    Raises:
        KeyError: the table has no column `by`.
    """
    figure, axes = new_panels(3 if by else 2, 2.7)
    table = pd.DataFrame({"images": label_names(cases).value_counts(), "patients": patient_class(cases).value_counts()})
    _stacked(axes[0], table.T.fillna(0), "Images and patients by class", "count")
    below(figure, axes[0])
    views = cases["patient"].value_counts().value_counts().sort_index()
    views.plot.bar(ax=axes[1], color=style.NEUTRAL, width=0.7, rot=0)
    axes[1].set(title="Images a patient", xlabel="images of the patient", ylabel="patients")
    integer_ticks(axes[1])
    if by:
        _stacked(axes[2], _by_class(cases, cases[by]), f"Images by {by}")
    return figure


@styled
def frame_sizes(table: pd.DataFrame, cases: pd.DataFrame) -> Figure:
    """How many frames have which size: the eleven most frequent ones, and all others together.

    Args:
        table: columns `width` and `height` in pixels (`Measures.table`).
        cases: case table of the same frames.
    """
    sizes = table["width"].astype(str) + " × " + table["height"].astype(str)
    frequent = sizes.value_counts().index[:11]
    bars = _by_class(cases, sizes.where(sizes.isin(frequent), "others")).reindex([*frequent, "others"]).dropna()
    figure, (place,) = new_panels(1, 1.2 + 0.32 * len(bars), 6.4)
    _stacked(place, bars, f"Frame sizes, width × height in pixels ({count(len(table), 'image')})")
    return figure


@styled
def areas_and_positions(measures: Measures, classes: pd.Series, target: str = "nodule") -> Figure | None:
    """How large the outlined structure is and where it lies, by class. None where nothing is outlined.

    Args:
        measures: of `measure_cases`.
        classes: class name of each case (`label_names`).
        target: what the masks outline.
    """
    names = [name for name in style.CLASS_COLOURS if name in measures.positions]
    if not names:
        return None
    figure, axes = new_panels(1 + len(names), 3.1, width_ratios=[1.5] + [1] * len(names))
    shares = 100 * measures.table["area_share"]
    known = pd.DataFrame({"share": shares, "class": classes})[shares > 0]
    lines = {"element": "step", "fill": False, "stat": "percent", "common_norm": False, "bins": 26}
    sns.histplot(known, x="share", hue="class", hue_order=names, palette=style.CLASS_COLOURS, ax=axes[0], **lines)
    axes[0].set(
        xlabel=f"{target} area, % of the frame",
        ylabel="% of the class's images",
        title=f"{target.capitalize()} area (n = {len(known)})",
    )
    axes[0].set_xlim(left=0)
    highest = max(measures.positions[name].max() for name in names)
    for place, name in zip(axes[1:], names, strict=True):
        bare(place)
        drawn = place.imshow(100 * measures.positions[name], cmap="magma", vmin=0, vmax=100 * highest, extent=(0, 100, 100, 0))
        place.set_title(f"Position: {name}")
        place.set(xlabel="left – right of the frame", ylabel="deep – skin" if place is axes[1] else "")
    figure.colorbar(drawn, ax=axes[1:], shrink=0.75, label="% of masks\ncovering the point")
    return figure


@styled
def intensities(measures: Measures, target: str = "nodule") -> Figure | None:
    """Gray levels inside the outlined structure and in a ring around it, by class; every image counts alike. None where nothing
    is outlined."""
    names = list(measures.histograms)
    if not names:
        return None
    figure, axes = new_panels(len(names), 2.7, sharey=True)
    centres = np.arange(256).reshape(-1, 8).mean(axis=1)
    for place, name in zip(axes, names, strict=True):
        inside, around = 100 * measures.histograms[name].reshape(2, -1, 8).sum(axis=2)
        place.fill_between(centres, inside, step="mid", color=style.CLASS_COLOURS[name], alpha=0.35, label=f"inside the {target}")
        place.step(centres, around, where="mid", color=style.NEUTRAL, linewidth=1.6, label="ring around it")
        place.set(xlabel="gray level, 0 to 255", title=name.capitalize(), xlim=(0, 255))
        place.legend(loc="upper right")
    axes[0].set(ylabel="% of pixels\n(bins of 8 levels)", ylim=(0, None))
    return figure


@styled
def tirads(cases: pd.DataFrame) -> Figure | None:
    """Images and patients by TI-RADS level, coloured by class; a patient counts at the highest level of its images.

    None where the set gives no levels.
    """
    if "tirads" not in cases or cases["tirads"].isna().all():
        return None
    known = cases.dropna(subset="tirads").sort_values("tirads", kind="stable").drop_duplicates("patient", keep="last")
    return _two(
        {
            f"Images (n = {len(cases)})": _by_class(cases, cases["tirads"]),
            f"Patients with a level (n = {len(known)})": _by_class(known, known["tirads"]),
        },
        "TI-RADS",
    )


@styled
def split_bars(cases: pd.DataFrame) -> Figure:
    """Images and patients of each split by class: the shares of the classes should look alike.

    Args:
        cases: case table with `split` filled.
    """
    sides = [name for name in SPLITS if (cases["split"] == name).any()]
    patients = {side: patient_class(cases[cases["split"] == side]).value_counts() for side in sides}
    return _two(
        {
            f"Images (n = {len(cases)})": _by_class(cases, cases["split"]).reindex(sides),
            f"Patients (n = {cases['patient'].nunique()})": pd.DataFrame(patients).T.fillna(0),
        },
        "side",
    )


def _two(tables: dict[str, pd.DataFrame], rows: str) -> Figure:
    """Bars of images and of patients beside each other: title → counts by class."""
    figure, axes = new_panels(2, 2.8)
    for place, (title, counts), total in zip(axes, tables.items(), ("images", "patients"), strict=True):
        _stacked(place, counts, title, total)
    axes[0].set_ylabel(rows)
    below(figure, axes[0])
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
        names.append(f"{count(row.images, 'image')}\n{count(row.patients, 'patient')}")
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
    figure, (place,) = new_panels(1, 1.1 + 0.36 * len(table), 8.0)
    percent = table.assign(**100 * table[["mean", "lowest", "highest"]])
    kinds, rules = table["training holds"].unique(), table["split by"].unique()
    wide = percent.pivot(index="training holds", columns="split by").loc[kinds]
    low, mean, high = (wide[name][rules] for name in ("lowest", "mean", "highest"))
    reach = np.stack([mean - low, high - mean]).transpose(2, 0, 1)  # (rules, 2, kinds)
    mean.plot.barh(ax=place, xerr=reach, width=0.8, color=[style.ACCENT, style.PROBLEM, style.NEUTRAL], legend=False)
    place.invert_yaxis()
    for bars in place.containers[1::2]:
        place.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
    place.set(
        xlabel="% of the test images", ylabel="", xlim=(0, 112), title="Test images that training has met, by rule of split"
    )
    below(figure, across(place))
    return figure


@styled
def simulation(stages: dict[str, np.ndarray]) -> Figure:
    """From tissue to frame, one panel a stage, each quantity with its unit.

    Args:
        stages: name → array (height, width), of `simulation_stages`.
    """
    figure, axes = new_panels(len(stages), 2.9, columns=3)
    units = dict(zip(stages, ("dB", "dB/cm/MHz", "dB", "real part", "real part", "amplitude"), strict=False))
    for number, (place, (name, values)) in enumerate(zip(axes, stages.items(), strict=True), start=1):
        unit = units.get(name, "")
        low, high = (0, 255) if values.dtype == np.uint8 else np.quantile(values, [0.005, 0.995])
        colours = "cividis" if "dB" in unit else "gray"
        drawn = bare(place).imshow(values, cmap=colours, vmin=low, vmax=max(high, low + 1e-3))
        place.set_title(f"{number}. {name}")
        if unit:
            figure.colorbar(drawn, ax=place, shrink=0.8, pad=0.02).set_label(unit, fontsize=8.5)
    return figure


@styled
def phantom_traits(echogenicity: str = "hypoechoic", margin: str = "smooth", foci: str = "none", gain: float = 0) -> Figure:
    """One phantom with these traits in one and the same neck: its tissue, its frame, and gray levels inside the nodule and in a
    ring around it. gain: dB above that of the examination."""
    frame = simulate_view(3, size=256, gain=gain, traits={"echogenicity": echogenicity, "margin": margin, "foci": foci})
    figure, (tissue, seen, levels) = new_panels(3, 2.9)
    drawn = bare(tissue).imshow(frame.stages["echogenicity"], cmap="cividis", vmin=-30, vmax=15)
    figure.colorbar(drawn, ax=tissue, shrink=0.8).set_label("dB beside an average gland", fontsize=8.5)
    tissue.set_title("Echogenicity of the tissue")
    draw_panel(seen, Panel(frame.image, outlines={style.TRUTH: frame.nodule}))
    seen.set_title("Its frame, outlined")
    for region, colour, name in ((frame.nodule, style.PROBLEM, "inside"), (ring_around(frame.nodule), style.NEUTRAL, "around")):
        gray, look = frame.image[region], {"density": True, "histtype": "step", "linewidth": 1.5}
        levels.hist(gray, np.arange(0, 257, 8), color=colour, label=f"{name}: {gray.mean():.0f}", **look)
    traits = frame.patient.traits
    levels.set_title(f"{tirads_level(traits)}, P = {malignancy_posterior(traits):.2f}")
    levels.set(xlabel="gray level", yticks=[], xlim=(0, 255))
    levels.legend()
    return figure


def beside(sets: Mapping[str, pd.DataFrame]) -> Figure:
    """Four frames of each of several case tables, a row each, cut to the echo image so that only tissue is compared."""
    panels = []
    for cases in sets.values():
        one_each = cases.sample(frac=1, random_state=0).drop_duplicates("patient")
        shown = [case_panel(cases, case) for case in sorted(one_each.index[:4])]
        for whole in shown:
            box = find_echo_area(whole.image)
            outlines = {colour: box.crop(mask) for colour, mask in whole.outlines.items()}
            panels.append(Panel(box.crop(whole.image), whole.title, outlines))
        panels += [Panel()] * (4 - len(shown))
    return panel_grid(panels, 4, list(sets))


@styled
def speckle(envelope: np.ndarray, fit: RayleighFit, patches: dict[str, np.ndarray]) -> Figure:
    """First-order speckle statistics: the envelope of a homogeneous phantom against Rayleigh, and the SNR of patches of frames.

    Args:
        envelope: (height, width) of a homogeneous phantom.
        fit: of `rayleigh_fit`.
        patches: name of a set of frames → SNR (mean/SD of the decompressed envelope) of its homogeneous patches, (n,).
    """
    figure, axes = new_panels(2, 3.1, width_ratios=[1.15, 1])
    values = np.asarray(envelope).ravel() / fit.scale
    levels, bins = np.linspace(0, 4.5, 200), np.linspace(0, 4.5, 46)
    simulated, theory = f"simulated, SNR {fit.snr:.2f}", f"Rayleigh, SNR {RAYLEIGH_SNR:.2f}"
    axes[0].hist(values, bins, density=True, color=style.ACCENT, alpha=0.45, label=simulated)
    axes[0].plot(levels, levels * np.exp(-(levels**2) / 2), color=style.NEUTRAL, linewidth=1.6, label=theory)
    axes[0].set(xlabel="envelope / Rayleigh scale", ylabel="probability density", title="Homogeneous phantom")
    axes[0].legend(loc="upper right")
    named = {f"{name}\n(n = {len(snr)} patches)": snr for name, snr in patches.items()}
    sns.boxplot(named, width=0.5, color=style.ACCENT, ax=axes[1])
    axes[1].axhline(RAYLEIGH_SNR, color=style.NEUTRAL, linestyle="--", linewidth=1.2)
    axes[1].set(ylabel="speckle SNR, mean / SD", title=f"Patches of frames (dashed: {RAYLEIGH_SNR:.2f})", ylim=(0, None))
    return figure
