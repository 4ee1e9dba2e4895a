"""Figures of the segmenter comparison: spread over images, size of the nodule, outlines beside the truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import ndimage

from thyroid_utils.common.words import count
from thyroid_utils.plots.charts import box_and_points, few_ticks, named_rows
from thyroid_utils.plots.pictures import Panel, mask_colours, panel_grid
from thyroid_utils.plots.style import PROBLEM, TRUTH, below, model_colours, new_panels, styled
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

COSTS = {"parameters": "parameters, millions", "latency_ms": "one image on this CPU, ms"}


@styled
def score_spread(by_image: pd.DataFrame, order: Sequence[str]) -> Figure:
    """The distribution of Dice over test images: a box (quartiles, median) and every image as a point, a row a model.

    An image rightly left empty has none.

    Args:
        by_image: of `SegmenterComparison.by_image`.
        order: models from top to bottom.
    """
    figure, (place,) = new_panels(1, 1.0 + 0.55 * len(order))
    colours, names = model_colours(order), []
    for position, model in enumerate(order):
        values = by_image.loc[by_image["model"] == model, "dice"].dropna()
        box_and_points(place, values, position, colours[model])
        names.append(f"{model}\n{count(len(values), 'image')}")
    named_rows(place, names).set_xlabel("Dice")
    return figure


@styled
def score_by_size(by_image: pd.DataFrame, chosen: str) -> Figure:
    """Dice against the size of the nodule: medians of five equally filled bins, a line a model; points are one model's images.

    Args:
        by_image: of `SegmenterComparison.by_image`; outlined images only are drawn.
        chosen: the model whose images are drawn as points.
    """
    figure, (place,) = new_panels(1, 3.6)
    outlined = by_image[by_image["area"] > 0]
    known = outlined["diameter_mm"].notna().all()
    outlined = outlined.assign(size=outlined["diameter_mm"] if known else 100 * outlined["share"])
    colours = model_colours(list(outlined["model"].unique()))
    points = outlined[outlined["model"] == chosen]
    place.plot(points["size"], points["dice"], ".", color=colours[chosen], alpha=0.45, markersize=5)
    for model, own in outlined.groupby("model", sort=False):
        parts = pd.qcut(own["size"].rank(method="first"), min(5, len(own)))
        middle = own.groupby(parts, observed=True)[["size", "dice"]].median()
        place.plot(middle["size"], middle["dice"], "o-", color=colours[model], linewidth=1.7, markersize=4, label=model)
    name = "diameter of a disc of the nodule's area, mm" if known else "nodule, % of the frame"
    place.set(xscale="log", xlabel=f"{name} (log scale)", ylabel="Dice on test")
    few_ticks(place, outlined["size"])
    below(figure, place)
    return figure


def outlines(comparison: SegmenterComparison, model: str, count: int = 2) -> Figure:
    """Best, median and worst test images of a model's first run: image, truth, probability and both laid over each other.

    In the last picture green is found, red is called nodule though it is none, blue is missed. A row an image, with its case,
    Dice and HD95 in pixels of the image's own resolution; `count` of each kind.
    """
    panels = []
    for case, row in comparison.examples(model, count).iterrows():
        image, truth, probability = comparison.picture(model, case)
        told = f"Dice {row['dice']:.2f}, HD95 {row['hd95']:.0f} px"
        panels += [
            Panel(image, f"{row['kind']}: {case}"),
            Panel(image, "truth", outlines={TRUTH: truth}),
            Panel(np.round(255 * probability).astype(np.uint8), "probability"),
            Panel(image, told, filled=mask_colours(truth, probability >= 0.5)),
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


def dragged_apart(image: np.ndarray, truth: np.ndarray, to_the_right: int = 0, down: int = 0, wider_by: int = 0) -> Figure:
    """An outline, and the same moved by so many pixels and grown, or shrunk below 0: the pixels that agree, and the scores worked
    out from their counts.

    Args:
        image: gray (height, width); truth: bool of its shape, not empty.
    """
    moved = ndimage.shift(truth.astype(np.uint8), (down, to_the_right), order=0).astype(bool)
    change = ndimage.binary_dilation if wider_by > 0 else ndimage.binary_erosion
    moved = change(moved, iterations=abs(wider_by)) if wider_by else moved
    tp, fp, fn = (int(both.sum()) for both in (truth & moved, moved & ~truth, truth & ~moved))
    told = [f"TP {tp}, FP {fp}, FN {fn} pixels"]
    told += ["Dice = 2TP / (2TP + FP + FN)", f"= {2 * tp} / {2 * tp + fp + fn} = {2 * tp / (2 * tp + fp + fn):.2f}"]
    told += ["IoU = TP / (TP + FP + FN)", f"= {tp} / {tp + fp + fn} = {tp / (tp + fp + fn):.2f}"]
    pair = Panel(image, "truth, and the moved outline", {TRUTH: truth, PROBLEM: moved})
    counted = Panel(image, "green TP, red FP, blue FN", filled=mask_colours(truth, moved), below=told)
    return panel_grid([pair, counted])
