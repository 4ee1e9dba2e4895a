"""Figures of the loss ablation: a worked example, weights of pixels, two scores against each other, a sweep."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from thyroid_utils.plots.charts import estimate_line, interval
from thyroid_utils.plots.pictures import Panel, draw_panel, mask_colours, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, TRUTH, bare, model_colours, new_panels, styled
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.masks import SEGMENTATION_SCORES, binarise
from thyroid_utils.studies.loss_ablation import pixel_sums

EPOCHS = {"train_loss": "loss on training", "val_loss": "loss on validation", "val_dice": "Dice on validation",
          "val_pixel_accuracy": "pixel accuracy on validation"}  # fmt: skip


@styled
def plane(estimates: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Two scores against each other, a point a row with both 95 % intervals as bars.

    Args:
        estimates: `Estimate`s; index: the names in the legend.
        labels: the two columns → axis label, across and up.
    """
    figure, (place,) = new_panels(1, 4.4, 7.6)
    colours = model_colours(estimates.index)
    for name, row in estimates.iterrows():
        across, up = row[list(labels)]
        interval(place, across, up.value, colours[name], width=1.3)
        interval(place, up, across.value, colours[name], upright=True, width=1.3)
        place.plot([], [], "o", color=colours[name], label=name)
    xlabel, ylabel = labels.values()
    place.set(xlabel=xlabel, ylabel=ylabel)
    place.grid(visible=True)
    figure.legend(loc="outside right upper")
    return figure


@styled
def sweep(estimates: pd.DataFrame, betas: Sequence[float], reference: pd.Series) -> Figure:
    """Scores by Tversky's β (α = 1 − β) with 95 % bands; dashed: another loss as reference.

    Args:
        estimates: `Estimate`s, a row a β in their order, a column a score.
        betas: ascending, in (0, 1).
        reference: score → `Estimate` of the reference.
    """
    figure, axes = new_panels(len(estimates.columns), 3.2, sharey=True)
    for place, score in zip(axes, estimates, strict=True):
        estimate_line(place, betas, estimates[score], ACCENT)
        place.axhline(reference[score].value, color=NEUTRAL, linestyle="--", linewidth=1.2)
        place.set(xlabel="β: weight of missed pixels", title=SEGMENTATION_SCORES[score], xticks=list(betas))
    axes[0].set_ylabel("score on test")
    return figure


@styled
def worked_example(truth: np.ndarray, probabilities: np.ndarray) -> Figure:
    """A small mask and the probabilities predicted for it, with every number written in its pixel.

    Args:
        truth: bool (height, width), a few pixels a side.
        probabilities: (height, width) in [0, 1].
    """
    figure, axes = new_panels(2, 2.7, 6.0)
    for place, values, title in zip(axes, (truth.astype(float), probabilities), ("truth", "probability"), strict=True):
        sns.heatmap(values, annot=True, fmt="g", cmap="Blues", vmin=0, vmax=1.4, cbar=False, square=True, ax=place)
        bare(place)
        place.set_title(title)
    return figure


@styled
def border_weights(image: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Figure:
    """A frame with its outline beside the weight that each pixel has in the loss.

    Args:
        image: uint8 (height, width). truth: bool (height, width). weights: float (height, width).
    """
    figure, (left, right) = new_panels(2, 3.4, 8.0)
    draw_panel(left, Panel(image, "truth", {TRUTH: truth}))
    drawn = bare(right).imshow(weights, cmap="magma")
    right.set_title("weight of each pixel")
    figure.colorbar(drawn, ax=right, shrink=0.8)
    return figure


def tversky_case(
    image: np.ndarray, truth: np.ndarray, probabilities: np.ndarray, alpha: float = 0.3, beta: float = 0.7
) -> Figure:
    """One answer and what each of its pixels costs in Tversky's loss, with the numbers in its formula.

    Args:
        image: uint8 (height, width) or RGB. truth: bool (height, width). probabilities: of nodule, the same shape.
        alpha, beta: the weight of false and of missed pixels, above 0.
    """
    gray, (tp, fp, fn) = luma(image), pixel_sums(truth, probabilities)
    filled = mask_colours(truth, binarise(probabilities))
    cost = np.where(truth, beta * (1 - probabilities), alpha * probabilities)
    panels = [Panel(gray, "mask", filled=filled), Panel(gray, "what a pixel costs", {TRUTH: truth}, map=cost, opacity=1)]
    figure = panel_grid(panels, map_label="β (1 − p) inside the outline, α p outside")
    loss = 1 - (tp + 1) / (tp + alpha * fp + beta * fn + 1)
    told = f"1 − ({tp:.1f} + 1) / ({tp:.1f} + {alpha:.2f} · {fp:.1f} + {beta:.2f} · {fn:.1f} + 1) = {loss:.3f}"
    weighed = f"A missed pixel weighs as much as {beta / alpha:.2g} false ones."
    figure.suptitle(f"loss = {told}\n{weighed}", fontsize=8.5)
    return figure
