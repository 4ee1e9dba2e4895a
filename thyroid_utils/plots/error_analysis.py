"""Figures about errors: the cases themselves, where they happen, whether they are foreseen, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.plots.pictures import MAP_LABEL, Explained, case_panel, draw_examples, mask_colours, panel_grid
from thyroid_utils.plots.rows import counted, defined, interval, row_colour, row_legend, share_bars, subgroup_axes
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, TRUTH, model_colours, new_figure, styled
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.error_analysis.mask_errors import MODES, FrameErrors
from thyroid_utils.studies.error_analysis.robustness import PERTURBATIONS
from thyroid_utils.studies.grad_cam.study import MapStudy
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

_FEWEST_KEPT = 0.05  # coverage from which a risk is drawn: the first images swing between 0 and 1
_TICKS = (-1, -0.5, 0, 0.5, 1)


def card(
    case: str,
    row: pd.Series,
    image: np.ndarray,
    truth: np.ndarray | None = None,
    *,
    found: np.ndarray | None = None,
    values: np.ndarray | None = None,
    factors: Sequence[str] = (),
) -> Explained:
    """A row of `error_analysis.Errors.images` as a card: the case, how it was called, and what is known of it.

    Args:
        case: id.
        row: of a classifier or a segmenter.
        image: uint8 or float (height, width).
        truth, found: bool masks (height, width); None where there is none. `found` makes the picture of a segmenter's mask.
        values: map (height, width) in [0, 1]; all zero where blank.
        factors: columns of the row to tell.
    """
    facts = [f"{name}: {row[name]}" for name in factors if name in row and pd.notna(row[name])]
    if pd.notna(row.get("uncertainty")):
        facts.insert(0, f"uncertainty {row['uncertainty']:.2g}")
    if "probability" in row:
        title = f"{case}\n{row['truth']}, called {row['prediction']}"
        if row["runs"] > 1:
            facts.insert(0, f"wrong in {row['runs_wrong']} of {row['runs']} runs")
    else:
        title = f"{case}\n{MODES.get(row['mode'], 'no pixel wrong')}"
        facts.insert(
            0, f"Dice {row['dice']:.2f}, HD95 {row['hd95']:.0f} px" if pd.notna(row["dice"]) else "no nodule, none called"
        )
    return Explained(
        image, values, title, float(row.get("probability", np.nan)), float(row.get("threshold", 0.5)), facts,
        {} if truth is None else {TRUTH: truth},
        {} if truth is None or found is None else mask_colours(truth, found),
    )  # fmt: skip


def classifier_cards(rows: pd.DataFrame, study: MapStudy, factors: Sequence[str] = ()) -> list[Explained]:
    """Cards of some images of a classifier, with their maps, as the network saw them.

    Args:
        rows: of `Errors.table` or `Errors.least_certain()`.
        study: of the same run's test images (`explain.study_maps`).
        factors: as for `card`.
    """
    found = []
    for case, row in rows.iterrows():
        at = study.images.index.get_loc(case)
        truth = study.masks[at] if study.masks[at].any() else None
        found.append(card(case, row, study.grays[at], truth, values=study.maps.maps[at], factors=factors))
    return found


def segmenter_cards(
    rows: pd.DataFrame, comparison: SegmenterComparison, model: str, factors: Sequence[str] = ()
) -> list[Explained]:
    """Cards of some images of a segmenter, at their own resolution; arguments as for `classifier_cards`."""
    pictures = zip(rows.iterrows(), comparison.pictures(model, list(rows.index)), strict=True)
    return [
        card(case, row, luma(image), truth, found=values >= 0.5, values=values, factors=factors)
        for (case, row), (image, truth, values) in pictures
    ]


@styled
def cards(examples: Sequence[Explained]) -> Figure | None:
    """The image with its outlines, what was found, falsely called and missed of it, the map on the image, probability and facts;
    None for no case.

    Two cards stand side by side where they have two pictures, as a classifier's have, and one a row where they have three.
    """
    if not examples:
        return None
    kinds = ["image"]
    kinds += ["filled"] * any(example.filled for example in examples)
    kinds += ["overlay"] * any(example.map is not None for example in examples)
    return draw_examples(examples, kinds, "probability of nodule" if "filled" in kinds else MAP_LABEL)


def card_pages(examples: Sequence[Explained], each: int = 20) -> list[Sequence[Explained]]:
    """Cards in groups of so many, as one figure cannot hold any number of them."""
    return [examples[start : start + each] for start in range(0, len(examples), each)]


@styled
def forest(table: pd.DataFrame, overall: Estimate, label: str) -> Figure | None:
    """A score of every subgroup with its 95 % interval, number of images and patients and adjusted p; None for no subgroup.

    Args:
        table: of `subgroups.subgroup_table`.
        overall: of all images (`subgroups.overall_estimate`): the dashed line, with its interval as a band.
        label: of the score, with its unit.
    """
    if table.empty:
        return None
    figure, place, heights = subgroup_axes(table, "estimate [95 %]")
    for height, row in zip(heights, table.itertuples(), strict=True):
        interval(place, row.estimate, height, row_colour(row), hollow=row.marked)
    if not np.isnan(overall.value):
        place.axvline(overall.value, color=ACCENT, linestyle="--", linewidth=1.2, zorder=0)
        place.axvspan(
            *np.nan_to_num([overall.low, overall.high], nan=overall.value), color=ACCENT, alpha=0.12, linewidth=0, zorder=0
        )
    place.set_xlabel(f"{label}\n(dashed: all, {overall.text()}, n = {overall.images} images, {overall.patients} patients)")
    figure.legend(handles=row_legend(table), loc="outside lower left", ncols=2)
    return figure


@styled
def calibration_by_subgroup(table: pd.DataFrame) -> Figure | None:
    """Mean probability of malignancy (bar) against the share that is malignant (dot, 95 % interval) in every subgroup.

    Args:
        table: of `subgroups.subgroup_calibration`. None is returned for one without rows.
    """
    if table.empty:
        return None
    figure, place, heights = subgroup_axes(table, "observed − predicted")
    for height, row in zip(heights, table.itertuples(), strict=True):
        interval(place, row.observed, height, row_colour(row), hollow=row.marked)
        place.plot([row.predicted.value], [height], "|", color=INK, markersize=13, markeredgewidth=2)
    place.set(xlabel="share of images, dot: malignant, bar: mean probability predicted", xlim=(-0.02, 1.02))
    bar = Line2D([], [], color=INK, marker="|", markersize=12, markeredgewidth=2, linestyle="", label="predicted")
    dot = Line2D([], [], color=NEUTRAL, marker="o", label="observed")
    figure.legend(handles=[dot, bar, *row_legend(table)], loc="outside lower left", ncols=2)
    return figure


def loss_of_dice(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """What each part of a nodule costs of Dice, in points, by model; None for no table.

    Args:
        tables: model → `mask_errors.lost_dice`.
    """
    tables = defined(tables)
    known = [value for table in tables.values() for value in table["lost"]]
    return share_bars(tables, f"points of Dice lost (of 100), {counted(known)}", "lost", "") if tables else None


@styled
def nodule_frame(found: FrameErrors) -> Figure | None:
    """Where pixels are missed and where they are falsely called, in a frame in which every nodule has one place and size.

    Args:
        found: of `mask_errors.nodule_frame_errors`; None is returned where it rests on no image.
    """
    if not found.images:
        return None
    figure, axes = new_figure(1, 2, 4.1, 8.6)
    top = max(0.01, float(np.nanmax(found.maps)))
    for place, values, title in zip(axes[0], found.maps, ("Missed", "Falsely called nodule"), strict=True):
        place.set_facecolor("#d5d9de")  # cells that no image reaches
        drawn = place.imshow(100 * values, cmap="magma", vmin=0, vmax=100 * top, extent=(-1, 1, 1, -1))
        place.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor="white", linestyle="--", linewidth=1.2))
        place.set(title=title, xlabel="across, widths of the nodule", xticks=_TICKS, yticks=_TICKS)
        place.set_xticklabels([f"{tick:g}" for tick in _TICKS])
        place.set_yticklabels([f"{tick:g}" for tick in _TICKS])
        place.grid(False)
    axes[0, 0].set_ylabel("down, heights of the nodule")
    axes[0, 1].set_yticklabels([])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(f"% of {found.images} images")
    bar.outline.set_visible(False)
    return figure


@styled
def risk_coverage(curves: Mapping[str, pd.DataFrame], risk: str = "share of errors") -> Figure | None:
    """Errors among the images that are kept when the least certain are handed on, a line an uncertainty; None for no curve.

    Drawn from a coverage of 5 % on; the areas in the legend are of whole curves.

    Args:
        curves: name in the legend → `scores.probabilities.risk_coverage`.
        risk: label of what `risk` is the mean of.
    """
    curves = defined(curves)
    if not curves:
        return None
    figure, axes = new_figure(1, 1, 3.8)
    place, colours = axes[0, 0], model_colours(list(curves))
    for name, curve in curves.items():
        label, steady = f"{name}: {curve['risk'].mean():.3f}", curve[curve["coverage"] >= _FEWEST_KEPT]
        place.plot(100 * steady["coverage"], steady["risk"], color=colours[name], linewidth=1.7, label=label)
    longest, whole = max(curves.values(), key=len), {round(curve["risk"].iloc[-1], 9) for curve in curves.values()}
    if len(whole) == 1:  # one model asked in several ways, not several models
        risk_of_all = whole.pop()
        place.axhline(risk_of_all, color=NEUTRAL, linestyle=":", linewidth=1.3, label=f"order by chance: {risk_of_all:.3f}")
    place.set(xlabel="images kept, the most certain first, %", ylabel=f"{risk} among them", xlim=(0, 100))
    place.set_title(f"n = {len(longest)} images")
    place.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", title="area under the curve", title_fontsize=9, alignment="left")
    return figure


@styled
def decision_curve(curves: Mapping[str, pd.DataFrame], tested: str = "") -> Figure | None:
    """Net benefit of acting on a classifier, on all and on nobody, by the threshold probability; None for no curve.

    Args:
        curves: model → `scores.estimates.benefit_curve`, all of the same images; intervals are drawn as bands.
        tested: stands above, such as `ClassifierComparison.tested`.
    """
    curves = defined(curves)
    if not curves:
        return None
    figure, axes = new_figure(1, 1, 3.8)
    place, colours = axes[0, 0], model_colours(list(curves))
    for name, curve in curves.items():
        place.plot(100 * curve["threshold"], curve["net_benefit"], color=colours[name], linewidth=1.8, label=name)
        if "low" in curve:
            place.fill_between(
                100 * curve["threshold"], curve["low"], curve["high"], color=colours[name], alpha=0.15, linewidth=0
            )
    first = next(iter(curves.values()))
    for column, name, dashes in (("treat_all", "act on all", "--"), ("treat_none", "act on nobody", ":")):
        place.plot(100 * first["threshold"], first[column], color=INK, linestyle=dashes, linewidth=1.3, label=name)
    top = max(0.02, first["treat_all"].max(), *(curve["net_benefit"].max() for curve in curves.values()))
    place.set(xlabel="threshold probability of malignancy, %", ylabel="net benefit,\ntrue positives an image", title=tested)
    place.set(xlim=(0, 100), ylim=(-0.3 * top, 1.08 * top))  # "act on all" falls without end
    figure.legend(loc="outside right upper")
    return figure


@styled
def robustness(curves: Mapping[str, pd.DataFrame], measure: str, label: str) -> Figure | None:
    """A score by the strength of each disturbance, with 95 % bands over patients; dotted: undisturbed; None for no row.

    Args:
        curves: model → `robustness.robustness_curve`.
        measure: of its column.
        label: of the score.
    """
    curves = defined({name: table[table["measure"] == measure] for name, table in curves.items() if len(table)})
    if not curves:
        return None
    kinds = [kind for kind in PERTURBATIONS if any((table["perturbation"] == kind).any() for table in curves.values())]
    columns, colours = min(3, len(kinds)), model_colours(list(curves))
    rows = -(-len(kinds) // columns)
    figure, axes = new_figure(rows, columns, 2.3 * rows + 0.5, 3.2 * columns if len(kinds) > 1 else 5.5, sharey=True)
    for place, kind in zip(axes.flat, kinds, strict=False):
        for name, table in curves.items():
            found = table[table["perturbation"] == kind].sort_values("level")
            values = np.array([[score.value, score.low, score.high] for score in found["score"]]).reshape(-1, 3)
            place.plot(found["level"], values[:, 0], "o-", color=colours[name], markersize=4, linewidth=1.6, label=name)
            place.fill_between(found["level"], values[:, 1], values[:, 2], color=colours[name], alpha=0.15, linewidth=0)
            for untouched in values[found["level"] == 0, 0]:
                place.axhline(untouched, color=colours[name], linestyle=":", linewidth=1)
        place.set_xlabel(PERTURBATIONS[kind].label, fontsize=9)
    for place in axes.flat[len(kinds) :]:
        place.set_visible(False)
    for place in axes[:, 0]:
        place.set_ylabel(label)
    rests = counted([score for table in curves.values() for score in table["score"]])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=4, title=rests, title_fontsize=9,
                  alignment="left")  # fmt: skip
    return figure


_SETS = {
    "right alone": ("the right class alone", ACCENT),
    "both": ("both classes", "#c5cbd2"),
    "wrong alone": ("the wrong class alone", CLASS_COLOURS["malignant"]),
    "empty": ("neither", "#4d5763"),
}


@styled
def conformal_bars(table: pd.DataFrame, alpha: float) -> Figure | None:
    """What prediction sets hold (bars), and how often the truth is among it, with 95 % intervals; None for no image.

    Args:
        table: of `conformal.coverage`.
        alpha: of the sets: the dashed line is the coverage that was promised.
    """
    table = table[table["images"] > 0]
    if table.empty:
        return None
    alone = table["single_right"].fillna(0) * table["single"]
    parts = {"right alone": alone, "both": table["both"], "wrong alone": table["single"] - alone, "empty": table["empty"]}
    figure, axes = new_figure(1, 2, 1.5 + 0.42 * len(table), sharey=True, width_ratios=[1.5, 1])
    bars, dots = axes[0]
    heights, left = np.arange(len(table)), np.zeros(len(table))
    for name, values in parts.items():
        if not (values > 1e-9).any():
            continue
        label, colour = _SETS[name]
        bars.barh(heights, 100 * values, 0.62, left=left, color=colour, label=label)
        for height, value, start in zip(heights, 100 * values, left, strict=True):
            if value >= 5:
                bars.text(start + value / 2, height, f"{value:.0f}", ha="center", va="center", fontsize=8.5,
                          color=INK if name == "both" else "white")  # fmt: skip
        left += 100 * values.to_numpy()
    for height, row in zip(heights, table.itertuples(), strict=True):
        percent = [100 * end for end in (row.coverage.value, row.coverage.low, row.coverage.high)]
        interval(dots, Estimate(*percent, row.images, row.patients), height, INK)
    dots.axvline(100 * (1 - alpha), color=ACCENT, linestyle="--", linewidth=1.3)
    names = [f"{name}\nn = {row.images} images,\n{row.patients} patients" for name, row in table.iterrows()]
    bars.set_yticks(heights, names, fontsize=8.5)
    bars.set(xlabel="% of the sets", ylim=(len(table) - 0.5, -0.5), xlim=(0, 100), title="The set holds")
    dots.set(xlabel=f"% (dashed: {100 * (1 - alpha):g} % promised)", title="The truth is in the set")
    for place in axes[0]:
        place.grid(axis="y", visible=False)
        place.grid(axis="x", visible=True)
    handles, labels = bars.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4)
    return figure


def label_suspects(cases: pd.DataFrame, ranked: pd.DataFrame, count: int = 8) -> Figure | None:
    """The images whose label is likeliest wrong, with outline, label and probability; None where none is suspect.

    Args:
        cases: case table.
        ranked: of `label_errors.rank_label_errors`.
        count: pictures at most.
    """
    panels = []
    for case, row in ranked[ranked["suspect"]].head(count).iterrows():
        said = f"labelled {LABEL_NAMES[row['label']]}, p(malignant) {row['probability']:.2f}"
        panels.append(case_panel(cases, case, f"{row['rank']}. {case}\n{said}"))
    return panel_grid(panels, 4) if panels else None
