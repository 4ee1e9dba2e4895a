"""Figures about explanations: maps on pictures, what they are worth in numbers, whether random weights change them, shortcuts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.common.words import count, p_value, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.plots.charts import band, box_and_points, counted, estimate_line, interval, named_rows
from thyroid_utils.plots.pictures import Panel, card_grid, panel_grid
from thyroid_utils.plots.style import (
    ACCENT,
    CLASS_COLOURS,
    NEUTRAL,
    SPLIT_COLOURS,
    TRUTH,
    below,
    model_colours,
    new_panels,
    styled,
)
from thyroid_utils.studies.grad_cam import ALPHA, FEATURES, MapStudy
from thyroid_utils.studies.grad_cam.shortcut import mark_pairs

# Measure of `attention_table` → label of its axis.
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
# Title, what is kept and what is changed, and where the axes end (None: where the numbers do).
_PAIRS = (
    ("Map energy on the marks", "energy_kept", "energy_removed", None),
    ("p(malignant)", "probability_kept", "probability_removed", 1.0),
    ("p(malignant), placebo", "probability_kept", "probability_placebo", 1.0),
)
_ORDERS = {"map": ("the map's order", ACCENT), "random": ("the map at a random place", NEUTRAL),
           "centre": ("from the middle", SPLIT_COLOURS["test"])}  # fmt: skip


def card(study: MapStudy, case: str, said: str, facts: Sequence[str], *, alone: bool = False) -> list[Panel]:
    """An image of a study of decisions with its outline and probability, and its map on it.

    Args:
        case: id.
        said: stands below it in the title.
        facts: lines below the probability, such as the share of the map inside the nodule.
        alone: between both, the map by itself.
    """
    at, row = study.images.index.get_loc(case), study.images.loc[case]
    below = [f"p(malignant) {row['probability']:.2f}, threshold {row['threshold']:.2f}", *facts]
    outlines, values = {TRUTH: study.masks[at]}, study.maps.maps[at]
    image = Panel(study.grays[at], f"{case}\n{said}", outlines, below=below)
    mapped = Panel(study.grays[at], "map on the image", outlines, map=values)
    return [image, *[replace(mapped, title="map", opacity=1)] * alone, mapped]


def cam_panels(study: MapStudy) -> Figure | None:
    """Of each class the right image whose truth is most probable and the wrong one whose is least, of a study of decisions: image
    with outline, map, and map on the image. A blank map is shown only where there is no other."""
    images, cards = study.images, []
    sure = (images["called"] * 2 - 1) * images["probability"] - study.maps.blank
    inside = study.scores["energy_inside"]
    for _, members in images.assign(wrong=~images["right"].astype(bool)).groupby(["label", "wrong"]):
        case = sure[members.index].idxmax()
        truth, called = (LABEL_NAMES[int(members.at[case, name])] for name in ("label", "called"))
        facts = [] if np.isnan(inside[case]) else [f"{100 * inside[case]:.0f} % of the map inside"]
        cards.append(card(study, case, f"{truth}, called {called}", facts, alone=True))
    return card_grid(cards)


def layer_panels(study: MapStudy, case: str, layer: str | None) -> Figure:
    """One image of a study of decisions, its map at a layer (None: its declared one), and how much of that lies inside."""
    one = study.at_layer(case, layer)
    (rows, columns), inside = one.maps.grid, share(one.scores["energy_inside"].iloc[0])
    said = f"{layer or 'last layer'}: {rows}×{columns} places"
    return card_grid([card(one, case, said, [f"{inside} of the map inside"], alone=True)])


@styled
def attention_dots(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Where maps point, with 95 % intervals over patients, beside other patients' maps, a centre prior and chance.

    None where no image has a value.

    Args:
        tables: model, or group of images such as "right" and "wrong" → `attention_table`.
    """
    tables = {name: table for name, table in tables.items() if any(value.images for value in table["map"])}
    if not tables:
        return None
    names = []
    for name, table in tables.items():
        blank = int(table["blank"].max())
        names.append(
            "\n".join([name, counted(table["map"]).replace(" of ", "\nof "), *[f"{blank} blank left out"] * (blank > 0)])
        )
    figure, axes = new_panels(len(MEASURES), 1.35 + 0.9 * len(tables), sharey=True)
    for place, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for position, table in enumerate(tables.values()):
            for shift, (source, colour) in zip((-0.27, -0.09, 0.09, 0.27), _SOURCES.items(), strict=True):
                interval(place, table.at[measure, source], position + shift, colour)
        named_rows(place, names, fontsize=9).set_xlabel(label, fontsize=9)
        right = 1.06 * place.get_xlim()[1]
        place.set_xlim(-0.03 * right, right)
    below(figure, handles=[Line2D([], [], color=colour, marker="o", label=source) for source, colour in _SOURCES.items()])
    return figure


@styled
def sanity_curve(table: pd.DataFrame, method: str) -> Figure:
    """How alike maps stay when stages of the network get random weights, the last one first, with 95 % bands.

    table: of `randomisation_table`. method: of the maps, for the legend.
    """
    figure, axes = new_panels(2, 4.0, sharey=True)
    steps, colour = range(len(table)), model_colours([method])[method]
    blank = f" ({table['blank'].sum()} of {table['maps'].sum()} maps blank)" if table["blank"].any() else ""
    for place, (measure, label) in zip(axes, _SIMILARITIES.items(), strict=True):
        estimate_line(place, steps, table[measure], colour, label=f"{method}{blank}")
        place.axhline(0, color=NEUTRAL, linestyle=":", linewidth=1.2)
        place.set(ylabel=label, xlabel="random from the head to here")
        place.set_xticks(steps, table.index, rotation=40, ha="right", fontsize=8.5)
    axes[0].set_title(counted(list(table["spearman"])))
    below(figure, axes[0])
    return figure


@styled
def shape_plots(table: pd.DataFrame, labels: pd.Series, compared: pd.DataFrame) -> Figure | None:
    """Each shape feature by class: a box (quartiles, median) and every region as a point; None where nothing was measured.

    Args:
        table: of `shape_table`; features that are NaN throughout are left out.
        labels: 0 or 1 by case, as the table's index.
        compared: of `compare_shapes`, whose effect and p after Holm stand above.
    """
    features = [name for name in FEATURES if name in table and table[name].notna().any()]
    if not features:
        return None
    columns = min(4, len(features))
    figure, places = new_panels(len(features), 2.9, 2.4 * columns, columns)
    known = labels.reindex(table.index).map(LABEL_NAMES)
    for place, feature in zip(places, features, strict=True):
        values = {name: table.loc[known == name, feature].dropna() for name in ("benign", "malignant")}
        for position, (name, found) in enumerate(values.items()):
            box_and_points(place, found, position, CLASS_COLOURS[name], upright=True)
        place.set_xticks([0, 1], [f"{name}\n{len(found)} regions" for name, found in values.items()], fontsize=8.5)
        effect, p_holm = compared.loc[feature, ["effect", "p_holm"]]
        said = "no test" if pd.isna(p_holm) else f"effect {effect:+.2f}, {p_value(p_holm)} (Holm)"
        place.set_title(f"{FEATURES[feature]}\n{said}", fontsize=8.5, fontweight="normal")
    return figure


@styled
def shape_sweep(sweep: pd.DataFrame) -> Figure | None:
    """How the difference of shapes, benign against malignant, depends on the threshold that makes a region of a map.

    Args:
        sweep: of `threshold_sweep`. None is returned where nothing could be tested.
    """
    tested = sweep[sweep["p_holm"].notna()]
    if tested.empty:
        return None
    figure, (effects, chance) = new_panels(2, 3.8)
    named = tested.assign(percent=100 * tested["threshold"], feature=tested["feature"].map(FEATURES).str.partition(",")[0])
    look = {"hue": "feature", "palette": model_colours(named["feature"].unique()), "marker": "o", "errorbar": None}
    for place, column in ((effects, "effect"), (chance, "p_holm")):
        sns.lineplot(named, x="percent", y=column, **look, ax=place, legend=place is effects)
        place.set_xlabel("threshold, % of the map's maximum")
    effects.axhline(0, color=NEUTRAL, linestyle=":", linewidth=1.2)
    chance.axhline(ALPHA, color=NEUTRAL, linestyle="--", linewidth=1.2)
    patients = (tested["benign_patients"] + tested["malignant_patients"]).max()
    effects.set(ylabel="rank-biserial effect\n(above 0: malignant larger)", title=count(patients, "patient"))
    chance.set(ylabel="p after Holm (log scale)", yscale="log", title=f"Dashed: {ALPHA}")
    chance.yaxis.set_major_formatter("{x:g}")
    effects.get_legend().remove()
    below(figure, effects)
    return figure


@styled
def deletion_insertion_curves(curves: pd.DataFrame) -> Figure | None:
    """The probability while pixels are blurred, or put into a blurred image, in a map's order and in others; None for no image.

    Means over images; bands are the middle half of the images; numbers are mean areas under the curves.

    Args:
        curves: of `faithfulness.deletion_insertion_curves`.
    """
    if curves.empty:
        return None
    figure, axes = new_panels(2, 3.7, sharey=True)
    texts = {"deletion": ("Deletion (steep is good)", "blurred"), "insertion": ("Insertion (steep is good)", "shown sharp")}
    for place, (direction, (title, done)) in zip(axes, texts.items(), strict=True):
        for order, (label, colour) in _ORDERS.items():
            members = curves[(curves["direction"] == direction) & (curves["order"] == order)]
            by_share = members.groupby("share")["probability"]
            mean, low, high = by_share.mean(), by_share.quantile(0.25), by_share.quantile(0.75)
            area = np.trapezoid(mean, mean.index)
            band(place, 100 * mean.index, mean, low, high, colour, label=f"{label}: {area:.2f}")
        place.set(title=title, xlabel=f"% of the pixels {done}", xlim=(0, 100), ylim=(0, 1.02))
        place.legend(loc="best", title="mean area under the curve", title_fontsize=9, alignment="left")
    axes[0].set_ylabel(f"probability of the target,\nmean of {count(curves['image'].nunique(), 'image')}")
    return figure


@styled
def shortcut_pairs(scores: pd.DataFrame) -> Figure | None:
    """Each image with its burned-in marks against the same image without: map energy on them, and probability.

    Below the diagonal of the first panel the marks themselves attracted the map. Painting elsewhere (placebo) tells how far paint
    alone moves the probability. None is returned where no image shows a mark.

    Args:
        scores: of `shortcut_scores`.
    """
    shown = scores[scores["marks"] > 0]
    if shown.empty:
        return None
    figure, axes = new_panels(3, 3.9)
    for place, (title, first, second, top) in zip(axes, _PAIRS, strict=True):
        known = shown[shown[first].notna() & shown[second].notna()]
        for label, colour in (("text and ticks", NEUTRAL), ("with callipers", CLASS_COLOURS["malignant"])):
            members = known[(known["callipers"] > 0) == (label == "with callipers")]
            place.plot(members[first], members[second], ".", color=colour, markersize=6, alpha=0.6, label=label)
        top = top or max(1.08 * known[[first, second]].to_numpy().max(initial=0), 0.05)
        place.plot([0, top], [0, top], color=NEUTRAL, linestyle=":", linewidth=1.1)
        place.set(xlabel=f"as it is ({count(len(known), 'image')})", xlim=(0, top), ylim=(0, top), box_aspect=1, title=title)
    axes[0].set_ylabel("marks painted over")
    axes[2].set_ylabel("painted elsewhere")
    area = shown["chance"].mean()
    label = f"the marks' share of the area, mean {area:.3f}"
    axes[0].axvline(area, color=ACCENT, linestyle="--", linewidth=1.2, label=label)
    below(figure, axes[0], ncols=3)
    return figure


def shortcut_panels(study: MapStudy, scores: pd.DataFrame) -> Figure | None:
    """The two images with the largest marks and their maps, as they are and with the marks painted over; None without marks.

    Args:
        study: of decisions of the images.
        scores: of `shortcut_scores`.
    """
    shown = scores[scores["marks"] > 0].nlargest(2, "marks")
    if shown.empty:
        return None
    panels: list[Panel] = []
    for case, row in shown.iterrows():
        ((predictor, _),) = study.predictor.by_fold([case])
        pairs = mark_pairs(predictor.pipeline, predictor.cases.loc[[case]])
        for way, said, images in (("kept", "as it is", pairs.kept), ("removed", "marks painted over", pairs.removed)):
            energy, picture = row[f"energy_{way}"], images[0].mean(axis=0)
            share = f"{100 * energy:.1f} % of the map on the marks (area {100 * row['chance']:.1f} %)"
            below = [f"p(malignant) {row[f'probability_{way}']:.2f}", *[share] * pd.notna(energy)]
            values = study.maps_of(predictor.network, images).maps[0]
            panels += [Panel(picture, f"{case}\n{said}", below=below), Panel(picture, "map on the image", map=values)]
    return panel_grid(panels)
