"""Figures about preprocessing: stages with histograms, what they do in numbers, overlay removal, augmentation, cost."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thyroid_utils.common.words import listed
from thyroid_utils.data.images import read_gray, read_image, read_mask
from thyroid_utils.data.overlays import echo_mask, find_overlays, mask_box
from thyroid_utils.plots.charts import grouped_rows, interval
from thyroid_utils.plots.pictures import Panel, case_panel, draw_panel, panel_grid
from thyroid_utils.plots.style import BOX, NEUTRAL, PROBLEM, TRUTH, WIDTH, across, model_colours, new_figure, new_panels, styled
from thyroid_utils.preprocess.augment import Augmentation
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.studies.preprocessing import quality

MEASURE_LABELS = {
    "cnr": "contrast-to-noise ratio\nof nodule and ring",
    "gcnr": "generalised CNR\n(0 = alike, 1 = apart)",
    "speckle_snr": "speckle SNR\n(mean / SD)",
    "edge": "edge strength,\ngray levels / pixel",
}


@styled
def stages(pipeline: Pipeline, case: str, row: pd.Series) -> Figure:
    """What every step leaves of one image, above the histogram of its values.

    Args:
        pipeline: fitted where it needs it.
        case: id, for the first title.
        row: of the case table.

    Raises:
        ImageError: a file cannot be read.
    """
    image = read_image(row["image"])
    mask = None if pd.isna(row["mask"]) else read_mask(row["mask"], image.shape[:2])
    found = [stage for stage in pipeline.stages(image, mask) if stage[0] not in ("gray", "three_channels")]
    figure, axes = new_figure(2, len(found), 1.25 + 1.05 * WIDTH / max(len(found), 4), height_ratios=[2.6, 1])
    for column, (name, pixels, outline) in enumerate(found):
        gray = pixels if pixels.ndim == 2 else pixels[..., 0]
        title = f"{case}\ninput" if column == 0 else f"{column}.\n{name}"
        draw_panel(axes[0, column], Panel(gray, title, {} if outline is None else {TRUTH: outline}))
        axes[0, column].set_xlabel(f"{gray.shape[1]}×{gray.shape[0]}", fontsize=8)
        _histogram(axes[1, column], gray)
    axes[1, 0].set_ylabel("share\nof pixels", fontsize=8.5)
    return figure


@styled
def steps_on_and_off(row: pd.Series, **on: bool) -> Figure:
    """One frame before and after the steps that are on, each above its histogram, with its contrast of nodule and ring.

    Args:
        row: of the case table, with a mask.
        on: steps by name, in their order, that leave gray levels.
    """
    steps = [name for name, wanted in on.items() if wanted]
    image = read_image(row["image"])
    found = build_pipeline([*steps, {"resize": {"size": 256}}]).stages(image, read_mask(row["mask"], image.shape[:2]))
    figure, axes = new_figure(2, 2, 5, 7, height_ratios=[2.6, 1])
    after = fill(f"after {listed(steps, 'no step')}".replace("_", " "), 44)
    pictures = {"as it is": found[1], after: found[-2]}  # behind gray, and before resize
    for (picture, levels), (title, (_, gray, mask)) in zip(axes.T, pictures.items(), strict=True):
        told = quality(gray, mask)
        title = f"{title}\nCNR {told['cnr']:.2f}, generalised CNR {told['gcnr']:.2f}"
        draw_panel(picture, Panel(gray, title, {TRUTH: mask}))
        _histogram(levels, gray)
    return figure


def _histogram(axes: Axes, gray: np.ndarray) -> None:
    levels = gray.dtype == np.uint8
    bins = np.arange(0, 257, 4) if levels else _bins(gray)
    shares, _, _ = axes.hist(gray.ravel(), bins=bins, weights=np.full(gray.size, 1 / gray.size), color=NEUTRAL)
    axes.set_ylim(0, 1.15 * np.sort(shares)[-2])  # the border's peak at black would flatten all the rest
    axes.set_yticks([])
    axes.grid(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("gray level" if levels else "value", fontsize=8)


def _bins(values: np.ndarray) -> np.ndarray:
    """Edges of some 64 bins, each of as many of the steps in which the values come (gray levels, scaled): other bins would hold
    now three levels, now five, and draw a comb that is not in the image."""
    low, high = float(values.min()), float(values.max())
    step = np.diff(np.unique(values.astype(np.float64).round(6))).min(initial=max(high - low, 1e-6))
    width = step * max(1, np.ceil((high - low) / step / 64)) if high - low <= 256 * step else (high - low) / 64
    return np.arange(low - step / 2, high + width, width)


@styled
def stage_measures(estimates: pd.DataFrame) -> Figure:
    """Each quality measure after each step: dots with 95 % intervals, one colour a pipeline, one row a step.

    Args:
        estimates: columns `pipeline`, `position`, `step` and one column an entry of `MEASURE_LABELS`, holding `Estimate`s.
    """
    pipelines = estimates["pipeline"]
    figure, axes = new_panels(len(MEASURE_LABELS), 0.9 + 0.235 * (len(estimates) + pipelines.nunique()), sharey=True)
    colours = model_colours(pipelines.unique())
    heights = grouped_rows(axes[0], pipelines, estimates["step"])
    for place, (name, label) in zip(axes, MEASURE_LABELS.items(), strict=True):
        for height, pipeline, value in zip(heights, pipelines, estimates[name], strict=True):
            interval(place, value, height, colours[pipeline])
        across(place).set_xlabel(label, fontsize=9)
        place.margins(x=0.1)
    return figure


def removal(cases: pd.DataFrame, chosen: Sequence[str]) -> Figure:
    """Crop and removal of marks, one row a case: frame with what was found, cropped, inpainted.

    Args:
        cases: case table.
        chosen: case ids, at least one.
    """
    cleaning = build_pipeline(["crop_echo", "remove_overlays", {"resize": {"size": 256}}])
    cropping = build_pipeline(["crop_echo", {"resize": {"size": 256}}])
    panels = []
    for case in chosen:
        image = read_gray(cases.at[case, "image"])
        echo = echo_mask(image)
        marks = find_overlays(image, echo)
        cropped, cleaned = cropping.stages(image)[2][1], cleaning.stages(image)[3][1]
        kept = f"{100 * cropped.size / image.size:.0f} % of the frame kept"
        panels += [
            Panel(image, f"{case}\nfound: echo image, marks", filled={PROBLEM: marks.mask}, boxes={BOX: tuple(mask_box(echo))}),
            Panel(cropped, f"cropped\n{kept}"),
            Panel(cleaned, f"inpainted\n{marks.callipers} callipers, {marks.text_regions} text regions found"),
        ]
    return panel_grid(panels, 3)


def augmentations(cases: pd.DataFrame, case: str, augmentation: Augmentation, count: int = 7, size: int = 224) -> Figure:
    """One image and `count` draws of an augmentation as training makes them, image and mask changed together.

    Args:
        cases: case table; case: its row; augmentation: of `build_augmentation`; size: side in pixels.
    """
    sample = build_pipeline("plain", size).load(cases.loc[case])
    images, masks = (torch.from_numpy(array).expand(count, *sample.image.shape) for array in (sample.image, sample.mask[None]))
    changed, outlines = augmentation(images, masks[:, 0], seed=(0,))
    panels = [Panel(sample.image[0], f"{case}\noriginal", {TRUTH: sample.mask})]
    for draw, (image, outline) in enumerate(zip(changed, outlines, strict=True), start=1):
        panels.append(Panel(image[0].numpy(), f"{augmentation.name}\ndraw {draw}", {TRUTH: outline.numpy()}))
    return panel_grid(panels, 4)


def siblings(table: pd.DataFrame) -> Figure:
    """A test image beside the training images that were made from the same original.

    Args:
        table: originals and augmented copies with their split filled (`augmented_copies`, `split_cases`).
    """
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    counts = train["source_case"].value_counts()
    ranked = test["source_case"].map(counts).fillna(0).sort_values(ascending=False, kind="stable")
    panels = []
    for case in ranked.index[:2]:
        related = train.index[train["source_case"] == test.at[case, "source_case"]][:3]
        panels.append(case_panel(table, case, f"{case}\nTEST"))
        panels += [case_panel(table, other, f"{other}\nin training") for other in related]
        panels += [Panel()] * (3 - len(related))
    return panel_grid(panels, 4)


@styled
def costs(table: pd.DataFrame) -> Figure:
    """Milliseconds an image of every step, one bar a step, one group a pipeline, and the sum of each pipeline.

    Args:
        table: columns `pipeline`, `step`, `ms` (median over images).
    """
    table = table[table["ms"] > 0]
    totals = table.groupby("pipeline", sort=False)["ms"].sum()
    figure, (each, whole) = new_panels(2, 0.9 + 0.22 * (len(table) + len(totals)), width_ratios=[2.2, 1])
    colours = model_colours(totals.index)
    heights = grouped_rows(each, table["pipeline"], table["step"])
    each.barh(heights, table["ms"], color=[colours[name] for name in table["pipeline"]], height=0.72)
    each.set(xscale="log", xlabel="ms an image (log scale)", title="Each step")
    each.xaxis.set_major_formatter("{x:g}")
    bars = whole.barh(totals.index, totals, color=[colours[name] for name in totals.index], height=0.6)
    whole.bar_label(bars, fmt=" {:.1f}", fontsize=9)
    across(whole).set(xlabel="ms an image", title="Sum of the steps")
    whole.margins(x=0.2)
    whole.invert_yaxis()
    return figure
