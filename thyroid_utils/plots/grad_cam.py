"""Figures about explanations: maps on pictures, what they are worth in numbers, whether random weights change them, shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.inference.cam import CamMaps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.plots.pictures import Explained, draw_examples
from thyroid_utils.plots.rows import counted, defined, interval
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, SPLIT_COLOURS, TRUTH, model_colours, new_figure, styled
from thyroid_utils.scores.estimates import p_told
from thyroid_utils.studies.grad_cam.marks import mark_pairs
from thyroid_utils.studies.grad_cam.shape import FEATURES
from thyroid_utils.studies.grad_cam.study import MapStudy

# Measure of `explain.attention_table` → label of its axis.
MEASURES = {
    "energy_inside": "share of the map's sum\ninside the nodule",
    "pointing_game": "peak inside the nodule,\nshare of images",
    "iou": "IoU of the thresholded\nmap with the nodule",
    "peak_distance": "peak to nodule, pixels\n(0: inside)",
}
_SOURCES = {"map": ACCENT, "other patients": SPLIT_COLOURS["val"], "centre prior": SPLIT_COLOURS["test"], "chance": NEUTRAL}
_SIMILARITIES = {
    "spearman": "rank correlation with\nthe trained network's map",
    "ssim": "structural similarity to\nthe trained network's map",
}
_ORDERS = {"map": ("the map's order", ACCENT), "random": ("the map at a random place", NEUTRAL),
           "centre": ("from the middle", SPLIT_COLOURS["test"])}  # fmt: skip


def example(
    case: str, row: pd.Series, image: np.ndarray, values: np.ndarray, truth: np.ndarray | None = None, facts: Sequence[str] = ()
) -> Explained:
    """A row of `ClassifierComparison.decisions` with its map, for `cam_panels`.

    Args:
        case: id.
        row: `label`, `called`, `right`, `probability`, `threshold`.
        image: uint8 or float (height, width).
        values: map (height, width) in [0, 1]; all zero where blank.
        truth: bool mask (height, width).
        facts: lines below the probability, such as the share of the map inside the nodule.
    """
    truth_name, called = LABEL_NAMES[int(row["label"])], LABEL_NAMES[int(row["called"])]
    title = f"{case}\n{truth_name}, called {called} ({'right' if row['right'] else 'wrong'})"
    outlines = {} if truth is None else {TRUTH: truth}
    return Explained(image, values, title, float(row["probability"]), float(row["threshold"]), facts, outlines)


def study_examples(study: MapStudy, count: int = 1) -> list[Explained]:
    """Of each class the `count` surest right and the `count` surest wrong images of a study of decisions, for `cam_panels`; a
    blank map only where there is no other."""
    images = study.images
    sure = (images["probability"] - images["threshold"]).abs() - study.maps.blank
    chosen = []
    for label in (0, 1):
        for right in (True, False):
            kind = images["label"].eq(label) & images["right"].eq(right)
            chosen += list(sure[kind].nlargest(count).index)
    found = []
    for case in chosen:
        at = images.index.get_loc(case)
        inside = study.scores.at[case, "energy_inside"]
        fact = "map is blank" if study.maps.blank[at] else f"{100 * inside:.0f} % of the map inside"
        truth = study.masks[at] if study.masks[at].any() else None
        facts = [fact] if study.maps.blank[at] or np.isfinite(inside) else []
        found.append(example(case, images.loc[case], study.grays[at], study.maps.maps[at], truth, facts))
    return found


@styled
def cam_panels(examples: Sequence[Explained]) -> Figure | None:
    """Image with its outlines, map, map on the image, probability and facts: a row an image; None for no image.

    Raises:
        ValueError: an example has no map.
    """
    if any(example.map is None for example in examples):
        raise ValueError("cam_panels: an example has no map; give one of zeros where it is blank")
    return draw_examples(examples, ("image", "map", "overlay")) if examples else None


@styled
def attention_dots(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Where maps point, with 95 % intervals over patients, beside other patients' maps, a centre prior and chance.

    None where no image has a value.

    Args:
        tables: model, or group of images such as "right" and "wrong" → `explain.attention_table`.
    """
    tables = {name: table for name, table in defined(tables).items() if any(value.images for value in table["map"])}
    if not tables:
        return None
    step = 0.18
    sources = {name: colour for name, colour in _SOURCES.items() if all(name in table for table in tables.values())}
    figure, axes = new_figure(1, len(MEASURES), 1.35 + 0.9 * len(tables), sharey=True)
    for place, (measure, label) in zip(axes[0], MEASURES.items(), strict=True):
        for position, table in enumerate(tables.values()):
            for number, (source, colour) in enumerate(sources.items()):
                interval(place, table.at[measure, source], position + (number - (len(sources) - 1) / 2) * step, colour)
        place.set_xlabel(label, fontsize=9)
        right = 1.06 * place.get_xlim()[1]
        place.set_xlim(-0.03 * right, right)
        place.grid(axis="x", visible=True)
        place.grid(axis="y", visible=False)
    names = []
    for name, table in tables.items():
        blank = int(table["blank"].max())
        names.append("\n".join([name, *counted(table["map"]).split(", "), *[f"{blank} blank left out"] * (blank > 0)]))
    axes[0, 0].set_yticks(range(len(tables)), names, fontsize=9)
    axes[0, 0].set_ylim(len(tables) - 0.5, -0.5)
    handles = [Line2D([], [], color=colour, marker="o", label=source) for source, colour in sources.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure


@styled
def sanity_curve(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """How alike maps stay when stages of the network get random weights, the last one first, with 95 % bands; None for no table.

    Args:
        tables: model or method → `explain.randomisation_table`. Stages are named where all tables have the same, else counted.
    """
    tables = defined(tables)
    if not tables:
        return None
    stages = [list(table.index) for table in tables.values()]
    named = all(found == stages[0] for found in stages)
    figure, axes = new_figure(1, 2, 4.0 if named else 3.5, sharey=True)
    colours = model_colours(list(tables))
    for place, (measure, label) in zip(axes[0], _SIMILARITIES.items(), strict=True):
        for name, table in tables.items():
            values = np.array([[estimate.value, estimate.low, estimate.high] for estimate in table[measure]])
            blank = f" ({table['blank'].sum()} of {table['maps'].sum()} maps blank)" if table["blank"].any() else ""
            steps = np.arange(len(table))
            place.plot(steps, values[:, 0], "o-", color=colours[name], markersize=4, linewidth=1.7, label=f"{name}{blank}")
            place.fill_between(steps, values[:, 1], values[:, 2], color=colours[name], alpha=0.15, linewidth=0)
        place.axhline(0, color=NEUTRAL, linestyle=":", linewidth=1.2)
        place.set_ylabel(label)
        longest = max(stages, key=len)
        texts = longest if named else range(len(longest))
        place.set_xticks(range(len(longest)), texts, **({"rotation": 40, "ha": "right", "fontsize": 8.5} if named else {}))
        place.set_xlabel("random from the head to here" if named else "stages with random weights, from the head on")
    rests = counted([value for table in tables.values() for value in table["spearman"]])
    axes[0, 0].set_title(rests)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


@styled
def shape_plots(table: pd.DataFrame, labels: pd.Series, compared: pd.DataFrame | None = None) -> Figure | None:
    """Each shape feature by class: a box (quartiles, median) and every region as a point; None where nothing was measured.

    Args:
        table: of `explain.shape.shape_table`; features that are NaN throughout are left out.
        labels: 0 or 1 by case, as the table's index.
        compared: of `explain.shape.compare_shapes`, whose effect and p after Holm stand above.
    """
    features = [name for name in FEATURES if name in table and table[name].notna().any()]
    if not features:
        return None
    columns = min(4, len(features))
    rows = -(-len(features) // columns)
    figure, axes = new_figure(rows, columns, 2.9 * rows, 2.4 * columns)
    random = np.random.default_rng(0)
    labels = labels.reindex(table.index)
    for place, feature in zip(axes.flat, features, strict=False):
        names = []
        for position, (label, name) in enumerate((label, LABEL_NAMES[label]) for label in (0, 1)):
            values = table.loc[(labels == label).fillna(False).to_numpy(bool), feature].dropna().to_numpy()
            names.append(f"{name}\n{len(values)} regions")
            if not len(values):
                continue
            place.boxplot(
                values, positions=[position - 0.16], widths=0.3, manage_ticks=False, showfliers=False, patch_artist=True,
                boxprops={"facecolor": CLASS_COLOURS[name], "alpha": 0.45, "linewidth": 0},
                medianprops={"color": CLASS_COLOURS[name], "linewidth": 2.2},
                whiskerprops={"color": NEUTRAL}, capprops={"color": NEUTRAL},
            )  # fmt: skip
            across = position + 0.12 + random.uniform(0, 0.2, len(values))
            place.plot(across, values, ".", color=CLASS_COLOURS[name], markersize=3.5, alpha=0.6)
        place.set_xticks([0, 1], names, fontsize=8.5)
        place.set_xlim(-0.5, 1.5)
        place.set_title(_shape_title(feature, compared), fontsize=8.5, fontweight="normal")
    for place in axes.flat[len(features) :]:
        place.set_visible(False)
    return figure


def _shape_title(feature: str, compared: pd.DataFrame | None) -> str:
    if compared is None or feature not in compared.index:
        return FEATURES[feature]
    found = compared.loc[feature]
    said = "no test" if pd.isna(found["p_holm"]) else f"effect {found['effect']:+.2f}, {p_told(found['p_holm'])} (Holm)"
    return f"{FEATURES[feature]}\n{said}"


@styled
def shape_sweep(sweep: pd.DataFrame, level: float = 0.95) -> Figure | None:
    """How the difference of shapes, benign against malignant, depends on the threshold that makes a region of a map.

    Args:
        sweep: of `explain.shape.threshold_sweep`. None is returned where nothing could be tested.
        level: 1 − level is the dashed line.
    """
    tested = sweep[sweep["p_holm"].notna()]
    if tested.empty:
        return None
    figure, axes = new_figure(1, 2, 3.8)
    colours = model_colours(list(FEATURES))
    for feature, found in tested.groupby("feature", sort=False):
        for place, column in zip(axes[0], ("effect", "p_holm"), strict=True):
            place.plot(100 * found["threshold"], found[column], "o-", color=colours[feature], markersize=4, linewidth=1.6,
                       label=FEATURES[feature].split(",")[0])  # fmt: skip
    axes[0, 0].axhline(0, color=NEUTRAL, linestyle=":", linewidth=1.2)
    axes[0, 1].axhline(1 - level, color=INK, linestyle="--", linewidth=1.2)
    patients = (tested["benign_patients"] + tested["malignant_patients"]).max()
    axes[0, 0].set(ylabel="rank-biserial effect\n(above 0: malignant larger)", title=f"n = {patients} patients")
    reach = max(0.3, 1.15 * tested["effect"].abs().max())
    axes[0, 0].set_ylim(-reach, reach)
    axes[0, 1].set(ylabel="p after Holm (log scale)", yscale="log", title=f"Dashed: {1 - level:.2g}")
    axes[0, 1].yaxis.set_major_formatter("{x:g}")
    for place in axes[0]:
        place.set_xlabel("threshold, % of the map's maximum")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


@styled
def deletion_insertion_curves(curves: pd.DataFrame) -> Figure | None:
    """The probability while pixels are blurred, or put into a blurred image, in a map's order and in others; None for no image.

    Means over images; the band is the middle half of the images in the map's order; numbers are mean areas under the curves.

    Args:
        curves: of `explain.deletion_insertion_curves`.
    """
    if curves.empty:
        return None
    figure, axes = new_figure(1, 2, 3.7, sharey=True)
    texts = {"deletion": ("Deletion (steep is good)", "blurred"), "insertion": ("Insertion (steep is good)", "shown sharp")}
    for place, (direction, (title, done)) in zip(axes[0], texts.items(), strict=True):
        for order, (label, colour) in _ORDERS.items():
            members = curves[(curves["direction"] == direction) & (curves["order"] == order)]
            by_share = members.groupby("share")["probability"]
            mean = by_share.mean()
            area = np.trapezoid(mean, mean.index)
            place.plot(100 * mean.index, mean, color=colour, linewidth=1.8, label=f"{label}: {area:.2f}")
            if order == "map":
                place.fill_between(
                    100 * mean.index, by_share.quantile(0.25), by_share.quantile(0.75), color=colour, alpha=0.15, linewidth=0
                )
        place.set(title=title, xlabel=f"% of the pixels {done}", xlim=(0, 100), ylim=(0, 1.02))
        place.legend(loc="best", title="mean area under the curve", title_fontsize=9, alignment="left")
    axes[0, 0].set_ylabel(f"probability of the target,\nmean of n = {curves['image'].nunique()} images")
    return figure


@styled
def shortcut_pairs(scores: pd.DataFrame) -> Figure | None:
    """Each image with its burned-in marks against the same image without: map energy on them, and probability.

    Below the diagonal of the first panel the marks themselves attracted the map. Painting elsewhere (placebo) tells how far paint
    alone moves the probability. None is returned where no image shows a mark.

    Args:
        scores: of `explain.shortcut.shortcut_scores`.
    """
    shown = scores[scores["marks"] > 0]
    if shown.empty:
        return None
    panels = {
        "Map energy on the marks": ("energy_kept", "energy_removed", "marks kept", "marks painted over"),
        "p(malignant)": ("probability_kept", "probability_removed", "marks kept", "marks painted over"),
        "p(malignant), placebo": ("probability_kept", "probability_placebo", "as it is", "painted elsewhere"),
    }
    figure, axes = new_figure(1, 3, 3.9)
    callipers = (shown["callipers"] > 0).to_numpy()
    kinds = (("text and ticks", ~callipers, NEUTRAL), ("with callipers", callipers, CLASS_COLOURS["malignant"]))
    for place, (title, (first, second, across, up)) in zip(axes[0], panels.items(), strict=True):
        known = (shown[first].notna() & shown[second].notna()).to_numpy()
        for label, members, colour in kinds:
            chosen = shown[known & members]
            place.plot(chosen[first], chosen[second], ".", color=colour, markersize=6, alpha=0.6, label=label)
        if not known.any():
            said = "all maps are blank" if "energy" in first else "nothing to paint"
            place.text(0.05, 0.9, said, transform=place.transAxes, fontsize=9)
        top = 1.0 if "probability" in first else max(0.05, 1.08 * np.nanmax(shown[[first, second]].to_numpy(), initial=0))
        place.plot([0, top], [0, top], color=INK, linestyle=":", linewidth=1.1)
        place.set(
            xlabel=f"{across} (n = {known.sum()} images)", ylabel=up, title=title, xlim=(0, top), ylim=(0, top), box_aspect=1
        )
        place.grid(axis="x", visible=True)
    area = shown["chance"].mean()
    if not np.isnan(area):
        axes[0, 0].axvline(
            area, color=ACCENT, linestyle="--", linewidth=1.2, label=f"the marks' share of the area, mean {area:.3f}"
        )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def shortcut_examples(
    predictor: Predictor,
    scores: pd.DataFrame,
    make_maps: Callable[[nn.Module, np.ndarray], CamMaps],
    threshold: float = 0.5,
    count: int = 2,
) -> list[Explained]:
    """Two cards an image: with its marks, and with them painted over. Draw them by `plots.error_analysis.cards`.

    Args:
        predictor, make_maps: as for `explain.shortcut.shortcut_scores`.
        scores: of it.
        threshold: at or above this probability an image is called malignant.
        count: images shown at most, those with the largest marks.
    """
    shown = scores.loc[scores["marks"] > 0, "marks"].sort_values(ascending=False, kind="stable").index[:count]
    if not len(shown):
        return []
    pairs = mark_pairs(predictor.pipeline, predictor.cases.loc[shown])
    kept, removed = (make_maps(predictor.network, images).maps for images in (pairs.kept, pairs.removed))
    found = []
    for number, case in enumerate(pairs.table.index):
        row = scores.loc[case]
        ways = (("kept", "as it is", pairs.kept, kept), ("removed", "marks painted over", pairs.removed, removed))
        for way, said, images, maps in ways:
            energy, p = row[f"energy_{way}"], float(row[f"probability_{way}"])
            share = f"{100 * energy:.1f} % of the map on the marks (area {100 * row['chance']:.1f} %)"
            facts = [] if np.isnan(energy) else [share]
            found.append(Explained(images[number].mean(axis=0), maps[number], f"{case}\n{said}", p, threshold, facts))
    return found
