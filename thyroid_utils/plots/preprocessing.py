"""Figures about preprocessing: stages with histograms, what they do in numbers, overlay removal, augmentation, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.data.images import read_gray, read_image, read_mask
from thyroid_utils.data.overlays import find_echo_area, find_overlays
from thyroid_utils.plots.pictures import Panel, case_panel, draw_panel, panel_grid
from thyroid_utils.plots.style import (
    ACCENT,
    BOX,
    CLASS_COLOURS,
    NEUTRAL,
    PROBLEM,
    SPLIT_COLOURS,
    TRUTH,
    WIDTH,
    new_figure,
    styled,
)
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.scores.estimates import Estimate

if TYPE_CHECKING:
    from thyroid_utils.preprocess.augment import Augmentation

MEASURE_LABELS = {
    "cnr": "contrast-to-noise ratio\nof nodule and ring",
    "gcnr": "generalised CNR\n(0 = alike, 1 = apart)",
    "speckle_snr": "speckle SNR\n(mean / SD)",
    "edge": "edge strength,\ngray levels / pixel",
}
_PIPELINE_COLOURS = [
    CLASS_COLOURS["benign"],
    CLASS_COLOURS["malignant"],
    ACCENT,
    SPLIT_COLOURS["test"],
    SPLIT_COLOURS["val"],
    NEUTRAL,
]


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
    found = pipeline.stages(image, mask)
    found = [stage for stage in found if stage[0] not in ("gray", "three_channels")] or found
    figure, axes = new_figure(2, len(found), 1.25 + 1.05 * WIDTH / max(len(found), 4), height_ratios=[2.6, 1])
    for column, (name, pixels, outline) in enumerate(found):
        gray = pixels if pixels.ndim == 2 else pixels[..., 0]
        title = f"{case}\ninput" if column == 0 else f"{column}.\n{name}"
        size = f"{gray.shape[1]}×{gray.shape[0]}"
        draw_panel(axes[0, column], Panel(gray, title, {} if outline is None else {TRUTH: outline}))
        axes[0, column].set_xlabel(size, fontsize=8)
        _histogram(axes[1, column], gray)
    axes[1, 0].set_ylabel("share\nof pixels", fontsize=8.5)
    return figure


def _histogram(axes, gray: np.ndarray) -> None:
    levels = gray.dtype == np.uint8
    bins = np.arange(0, 257, 4) if levels else np.linspace(float(gray.min()), float(gray.max()) + 1e-6, 65)
    axes.hist(gray.ravel(), bins=bins, weights=np.full(gray.size, 1 / gray.size), color=NEUTRAL)
    shares = np.histogram(gray, bins=bins)[0] / gray.size
    axes.set_ylim(0, 1.15 * np.sort(shares)[-2])  # the border's peak at black would flatten all the rest
    axes.set_yticks([])
    axes.grid(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("gray level" if levels else "value", fontsize=8)


@styled
def stage_measures(estimates: pd.DataFrame) -> Figure:
    """Each quality measure after each step: dots with 95 % intervals, one colour a pipeline, one row a step.

    Args:
        estimates: columns `pipeline`, `position`, `step` and one column an entry of `MEASURE_LABELS`, holding `Estimate`s.
    """
    names = [name for name in MEASURE_LABELS if name in estimates]
    figure, axes = new_figure(1, len(names), 0.9 + 0.235 * len(estimates), sharey=True)
    pipelines = list(dict.fromkeys(estimates["pipeline"]))
    colours = dict(zip(pipelines, _PIPELINE_COLOURS * len(pipelines), strict=False))
    gaps = np.cumsum([0, *(0.6 * (a != b) for a, b in zip(estimates["pipeline"], estimates["pipeline"][1:], strict=False))])
    heights = np.arange(len(estimates)) + gaps
    for place, name in zip(axes[0], names, strict=True):
        for height, (_, row) in zip(heights, estimates.iterrows(), strict=True):
            value: Estimate = row[name]
            colour = colours[row["pipeline"]]
            place.plot([value.low, value.high], [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
            place.plot([value.value], [height], "o", color=colour, markersize=4.5)
        place.set_xlabel(MEASURE_LABELS[name], fontsize=9)
        place.grid(axis="x", visible=True)
        place.margins(x=0.1)
    labels = [f"{row['pipeline']}: {row['step']}" if row["position"] == 0 else row["step"] for _, row in estimates.iterrows()]
    axes[0, 0].set_yticks(heights, labels, fontsize=9)
    for label, pipeline in zip(axes[0, 0].get_yticklabels(), estimates["pipeline"], strict=True):
        label.set_color(colours[pipeline])
    axes[0, 0].invert_yaxis()
    return figure


def removal(cases: pd.DataFrame, chosen: Sequence[str]) -> Figure:
    """Crop and removal of marks, one row a case: frame with what was found, cropped, inpainted.

    Args:
        cases: case table.
        chosen: case ids, at least one.
    """
    crop, removal = (
        build_pipeline(["crop_echo", {"resize": {"size": 256}}]),
        build_pipeline(["crop_echo", "remove_overlays", {"resize": {"size": 256}}]),
    )
    panels = []
    for case in chosen:
        image = read_gray(cases.at[case, "image"])
        box = find_echo_area(image)
        marks = find_overlays(image)
        cropped = crop.stages(image)[2][1]
        cleaned = removal.stages(image)[3][1]
        kept = f"{100 * cropped.size / image.size:.0f} % of the frame kept"
        panels += [
            Panel(image, f"{case}\nfound: echo image, marks", filled={PROBLEM: marks.mask}, boxes={BOX: tuple(box)}),
            Panel(cropped, f"cropped\n{kept}"),
            Panel(cleaned, f"inpainted\n{marks.callipers} callipers, {marks.text_regions} text regions found"),
        ]
    return panel_grid(panels, 3)


def augmentations(cases: pd.DataFrame, case: str, augmentation: Augmentation, count: int = 7, size: int = 224) -> Figure:
    """One image and `count` draws of an augmentation, image and mask changed together.

    Args:
        cases: case table; case: its row; augmentation: of `build_augmentation`; size: side in pixels.
    """
    image = read_image(cases.at[case, "image"])
    mask = read_mask(cases.at[case, "mask"], image.shape[:2])
    sample = build_pipeline("plain", size)(image, mask)
    panels = [Panel(sample.image[0], f"{case}\noriginal", {TRUTH: sample.mask})]
    for draw in range(count):
        changed, outline = augmentation(sample.image, sample.mask, seed=draw)
        panels.append(Panel(changed[0], f"{augmentation.name}\ndraw {draw + 1}", {TRUTH: outline}))
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
        panels += [Panel(np.full((2, 2), 255, np.uint8))] * (3 - len(related))
    return panel_grid(panels, 4)


@styled
def costs(table: pd.DataFrame) -> Figure:
    """Milliseconds an image of every step, one bar a step, one group a pipeline.

    Args:
        table: columns `pipeline`, `step`, `ms` (median over images).
    """
    table = table[table["ms"] > 0]
    figure, axes = new_figure(1, 2, 0.9 + 0.22 * len(table), width_ratios=[2.2, 1])
    pipelines = list(dict.fromkeys(table["pipeline"]))
    colours = dict(zip(pipelines, _PIPELINE_COLOURS * len(pipelines), strict=False))
    labels = [f"{row.pipeline}: {row.step}" for row in table.itertuples()]
    positions = np.arange(len(table))
    axes[0, 0].barh(positions, table["ms"], color=[colours[name] for name in table["pipeline"]], height=0.72)
    axes[0, 0].set_yticks(positions, labels, fontsize=8.5)
    axes[0, 0].set(xscale="log", xlabel="ms an image (log scale)", title="Each step")
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    totals = table.groupby("pipeline", sort=False)["ms"].sum()
    axes[0, 1].barh(totals.index, totals, color=[colours[name] for name in totals.index], height=0.6)
    for position, value in enumerate(totals):
        axes[0, 1].text(value, position, f" {value:.1f}", va="center", fontsize=9)
    axes[0, 1].set(xlabel="ms an image", title="Sum of the steps")
    axes[0, 1].margins(x=0.2)
    for place in axes[0]:
        place.invert_yaxis()
        place.grid(axis="y", visible=False)
        place.grid(axis="x", visible=True)
    return figure
