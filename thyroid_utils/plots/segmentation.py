"""Figures about segmenters: epochs, spread over images, size, outlines beside the truth, losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.plots.pictures import Panel, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, TRUTH, bare, model_colours, new_figure, styled
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

_FALSE, _MISSED = "#D55E00", "#0072B2"


@styled
def score_spread(by_image: pd.DataFrame, score: str, label: str, order: Sequence[str]) -> Figure:
    """The distribution of a score over test images: a box (quartiles, median) and every image as a point, a row a model.

    The axis tells how many images have the score: a missed nodule has no distance, an image rightly left empty no Dice.

    Args:
        by_image: of `SegmenterComparison.by_image`.
        score: its column.
        label: of the axis, with the unit.
        order: models from top to bottom.
    """
    figure, axes = new_figure(1, 1, 1.0 + 0.55 * len(order))
    place, colours = axes[0, 0], model_colours(order)
    random = np.random.default_rng(0)
    for position, model in enumerate(order):
        values = by_image.loc[by_image["model"] == model, score].dropna().to_numpy()
        place.boxplot(
            values, positions=[position - 0.12], orientation="horizontal", widths=0.3, manage_ticks=False,
            showfliers=False, patch_artist=True,
            boxprops={"facecolor": colours[model], "alpha": 0.45, "linewidth": 0},
            medianprops={"color": colours[model], "linewidth": 2.2}, whiskerprops={"color": NEUTRAL}, capprops={"color": NEUTRAL},
        )  # fmt: skip
        place.plot(
            values, position + 0.2 + random.uniform(0, 0.16, len(values)), ".", color=colours[model], markersize=3.5, alpha=0.7
        )
    place.set_yticks(range(len(order)), order)
    place.set_ylim(len(order) - 0.4, -0.5)
    place.grid(axis="x", visible=True)
    place.grid(axis="y", visible=False)
    images = [int(by_image.loc[by_image["model"] == model, score].notna().sum()) for model in order]
    count = f"{images[0]} images" if len(set(images)) == 1 else f"{min(images)} to {max(images)} images, by model"
    place.set_xlabel(f"{label}, n = {count}")
    return figure


@styled
def score_by_size(by_image: pd.DataFrame, score: str, label: str, chosen: str, bins: int = 5) -> Figure:
    """A score against the size of the nodule: medians of equally filled bins, a line a model; points are one model's images.

    Args:
        by_image: of `SegmenterComparison.by_image`; outlined images only are drawn.
        score: its column.
        label: of the score's axis.
        chosen: the model whose images are drawn as points.
        bins: how many, each with equally many images.
    """
    figure, axes = new_figure(1, 1, 3.6)
    place = axes[0, 0]
    outlined = by_image[by_image["area"] > 0]
    known = outlined["diameter_mm"].notna().all()
    size = outlined["diameter_mm"] if known else 100 * outlined["share"]
    models = list(dict.fromkeys(outlined["model"]))
    colours = model_colours(models)
    points = outlined["model"] == chosen
    place.plot(size[points], outlined.loc[points, score], ".", color=colours[chosen], alpha=0.45, markersize=5)
    for model in models:
        own = outlined["model"] == model
        parts = np.array_split(np.argsort(size[own].to_numpy(), kind="stable"), min(bins, int(own.sum())))
        middle = [np.median(size[own].to_numpy()[part]) for part in parts]
        medians = [np.nanmedian(outlined.loc[own, score].to_numpy()[part]) for part in parts]
        place.plot(middle, medians, "o-", color=colours[model], linewidth=1.7, markersize=4, label=model)
    name = "diameter of a disc of the nodule's area, mm" if known else "nodule, % of the frame"
    place.set(xscale="log", xlabel=f"{name} (log scale)", ylabel=label)
    # Three digits, as sizes span decades: one decimal would call the smallest nodules 0, which a log axis does not have.
    ticks = dict.fromkeys(f"{value:.3g}" for value in np.quantile(size, [0, 0.25, 0.5, 0.75, 1]))
    place.set_xticks([float(tick) for tick in ticks], [f"{float(tick):g}" for tick in ticks])
    place.minorticks_off()
    figure.legend(loc="outside lower left", ncols=4)
    return figure


def outlines(comparison: SegmenterComparison, model: str, count: int = 2) -> Figure:
    """Best, median and worst test images of a model's first run: image, truth, probability and both laid over each other.

    In the last picture green is found, red is called nodule though it is none, blue is missed. A row an image, with its case,
    Dice and HD95 in pixels of the image's own resolution.

    Args:
        comparison: the runs.
        model: whose images.
        count: of each kind.
    """
    examples = comparison.examples(model, count)
    panels = []
    for case, row in examples.iterrows():
        image, truth, probability = comparison.picture(model, case)
        called = probability >= 0.5
        panels += [
            Panel(image, f"{row['kind']}: {case}"),
            Panel(image, "truth", outlines={TRUTH: truth}),
            Panel(np.round(255 * probability).astype(np.uint8), "probability"),
            Panel(
                image,
                f"Dice {row['dice']:.2f}, HD95 {row['hd95']:.0f} px",
                filled={ACCENT: truth & called, _FALSE: called & ~truth, _MISSED: truth & ~called},
            ),
        ]
    return panel_grid(panels, 4)


def side_by_side(comparison: SegmenterComparison, models: Sequence[str], cases: Sequence[str]) -> Figure:
    """The same test images by several models (first runs), a row an image: truth in yellow, each model's outline in its colour.

    Args:
        comparison: the runs.
        models: at most five fit beside each other.
        cases: test images.
    """
    colours = model_colours(comparison.models)
    panels = []
    for case in cases:
        for number, model in enumerate(models):
            image, truth, probability = comparison.picture(model, case)
            dice = comparison.tables[model][0].query("resolution == 'own'").at[case, "dice"]
            title = f"{model}\n{f'{case}, ' if number == 0 else ''}Dice {dice:.2f}"
            panels.append(Panel(image, title, outlines={TRUTH: truth, colours[model]: probability >= 0.5}))
    return panel_grid(panels, len(models))


@styled
def plane(estimates: pd.DataFrame, x: str, y: str, labels: dict[str, str]) -> Figure:
    """Two scores against each other, a point a row with both 95 % intervals as bars.

    Args:
        estimates: `Estimate`s; index: the names written beside the points.
        x, y: columns.
        labels: column → axis label.
    """
    figure, axes = new_figure(1, 1, 4.4, 7.6)
    place, colours = axes[0, 0], model_colours(estimates.index)
    for name, row in estimates.iterrows():
        across: Estimate = row[x]
        up: Estimate = row[y]
        place.plot([across.low, across.high], [up.value] * 2, color=colours[name], linewidth=1.3, alpha=0.7)
        place.plot([across.value] * 2, [up.low, up.high], color=colours[name], linewidth=1.3, alpha=0.7)
        place.plot([across.value], [up.value], "o", color=colours[name], label=name)
    place.set(xlabel=labels[x], ylabel=labels[y])
    place.grid(visible=True)
    figure.legend(loc="outside right upper")
    return figure


@styled
def sweep(estimates: pd.DataFrame, betas: Sequence[float], reference: pd.Series, names: dict[str, str]) -> Figure:
    """Scores by Tversky's β (α = 1 − β) with 95 % bands; dashed: another loss as reference.

    Args:
        estimates: `Estimate`s, a row a β in their order, a column a score.
        betas: ascending, in (0, 1).
        reference: score → `Estimate` of the reference.
        names: score → label, for the columns to draw.
    """
    figure, axes = new_figure(1, len(names), 3.2, sharey=True)
    for place, (score, label) in zip(axes[0], names.items(), strict=True):
        values = estimates[score]
        place.plot(betas, [value.value for value in values], "o-", color=ACCENT)
        place.fill_between(
            betas, [value.low for value in values], [value.high for value in values], color=ACCENT, alpha=0.15, linewidth=0
        )
        place.axhline(reference[score].value, color=NEUTRAL, linestyle="--", linewidth=1.2)
        place.set(xlabel="β: weight of missed pixels", title=label, xticks=list(betas))
    axes[0, 0].set_ylabel("score on test")
    return figure


@styled
def worked_example(truth: np.ndarray, probabilities: np.ndarray) -> Figure:
    """A small mask and the probabilities predicted for it, with every number written in its pixel.

    Args:
        truth: bool (height, width), a few pixels a side.
        probabilities: (height, width) in [0, 1].
    """
    figure, axes = new_figure(1, 2, 2.7, 6.0)
    for place, values, title in zip(axes[0], (truth.astype(float), probabilities), ("truth", "probability"), strict=True):
        bare(place).imshow(values, cmap="Blues", vmin=0, vmax=1.4)
        for (row, column), value in np.ndenumerate(values):
            place.text(column, row, f"{value:g}", ha="center", va="center", fontsize=11)
        place.set_title(title)
    return figure


@styled
def border_weights(image: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Figure:
    """A frame with its outline beside the weight that each pixel has in the loss.

    Args:
        image: uint8 (height, width). truth: bool (height, width). weights: float (height, width).
    """
    figure, axes = new_figure(1, 2, 3.4, 8.0)
    bare(axes[0, 0]).imshow(image, cmap="gray", vmin=0, vmax=255)
    axes[0, 0].contour(truth, levels=[0.5], colors=[TRUTH], linewidths=1.2)
    axes[0, 0].set_title("truth")
    drawn = bare(axes[0, 1]).imshow(weights, cmap="magma")
    axes[0, 1].set_title("weight of each pixel")
    figure.colorbar(drawn, ax=axes[0, 1], shrink=0.8)
    return figure
