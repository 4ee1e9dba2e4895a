"""Figures about errors: the cases themselves, where they happen, whether they are foreseen, and what they cost."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from thyroid_utils.common.words import count, p_value, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.plots.charts import band, beside, counted, estimate_line, grouped_rows, interval, named_rows, score_dots
from thyroid_utils.plots.grad_cam import card
from thyroid_utils.plots.pictures import MAP_LABEL, Panel, card_grid, case_panel, mask_colours, panel_grid
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, TRUTH, across, below, model_colours, new_panels, styled
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.probabilities import risk_coverage as risk_of
from thyroid_utils.studies.error_analysis import KINDS, MODES, Errors, FrameErrors
from thyroid_utils.studies.error_analysis.trust import PERTURBATIONS
from thyroid_utils.studies.grad_cam import MapStudy
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

_DIFFERS, _FAINT = CLASS_COLOURS["malignant"], "#767d86"
_PAGE = 20  # cards of a figure, which cannot hold any number of them
_FEWEST_KEPT = 0.05  # coverage from which a risk is drawn: the first images swing between 0 and 1
_TICKS = (-1, -0.5, 0, 0.5, 1)


def classifier_cards(rows: pd.DataFrame, study: MapStudy, factors: Sequence[str]) -> list[list[Panel]]:
    """Pictures of some images of a classifier as the network saw them, with their maps.

    Args:
        rows: of `Errors.shown`.
        study: of the same run's test images (`study_maps`).
        factors: columns of the rows to tell.
    """
    cards = []
    for case, row in rows.iterrows():
        runs = [f"wrong in {row['runs_wrong']} of {row['runs']} runs"] if row["runs"] > 1 else []
        cards.append(card(study, case, f"{row['truth']}, called {row['prediction']}", runs + _facts(row, factors)))
    return cards


def segmenter_cards(rows: pd.DataFrame, comparison: SegmenterComparison, model: str, factors: Sequence[str]) -> list[list[Panel]]:
    """Pictures of some images of a segmenter at their own resolution, with what was found, falsely called and missed, and its
    probabilities; arguments as for `classifier_cards`."""
    cards = []
    pictures = comparison.pictures(model, list(rows.index))
    for (case, row), (image, truth, values) in zip(rows.iterrows(), pictures, strict=True):
        scored = f"Dice {row['dice']:.2f}, HD95 {row['hd95']:.0f} px" if pd.notna(row["dice"]) else "no nodule, none called"
        title, gray = f"{case}\n{MODES.get(row['mode'], 'no pixel wrong')}", luma(image)
        outlined = Panel(gray, title, {TRUTH: truth}, below=[scored, *_facts(row, factors)])
        wrong = Panel(gray, "found, falsely called, missed", filled=mask_colours(truth, values >= 0.5))
        cards.append([outlined, wrong, Panel(gray, "probability", {TRUTH: truth}, map=values)])
    return cards


def _facts(row: pd.Series, factors: Sequence[str]) -> list[str]:
    doubt = [f"uncertainty {row['uncertainty']:.2g}"] if pd.notna(row["uncertainty"]) else []
    return doubt + [f"{name}: {row[name]}" for name in factors if name in row and pd.notna(row[name])]


def card_pages(errors: Errors, cards: Sequence[Sequence[Panel]], map_label: str = MAP_LABEL) -> Iterator[tuple[int, Figure, str]]:
    """Cards of `errors.shown` in figures of twenty: number of the page, figure, and what is shown, of which model."""
    wrong = int(errors.images["wrong"].sum())
    first = "both classes in turn, the truth least probable" if errors.task == "classification" else "the most confident"
    kind = f"Errors, {first} first" if wrong else "No error: the least certain images"
    pages = [cards[start : start + _PAGE] for start in range(0, len(cards), _PAGE)]
    for page, shown in enumerate(pages, 1):
        count = f"{len(cards)} of {max(wrong, len(cards))}, page {page} of {len(pages)}"
        yield page, card_grid(shown, map_label), f"{errors.model}. {kind} ({count})"


@styled
def forest(table: pd.DataFrame, label: str, overall: Estimate | None = None) -> Figure | None:
    """A score of every subgroup with its 95 % interval, images / patients at the left, estimate and adjusted p at the right; None
    for no subgroup.

    Args:
        table: of `subgroups.subgroup_table`; or of `subgroup_calibration`, whose dots are the share observed and bars the mean
            probability predicted, with their difference at the right.
        label: of the axis, with the unit.
        overall: of all images (`patient_estimate`): the dashed line, with its interval as a band.
    """
    if table.empty:
        return None
    figure, (place,) = new_panels(1, 1.35 + 0.235 * (len(table) + table["factor"].nunique()))
    calibrated = "predicted" in table
    names = [f"{row.level} ({row.images} / {row.patients})" for row in table.itertuples()]
    heights = grouped_rows(place, table["factor"], names)
    for height, row in zip(heights, table.itertuples(), strict=True):
        colour = _FAINT if row.marked else _DIFFERS if row.differs else NEUTRAL
        interval(place, row.observed if calibrated else row.estimate, height, colour, hollow=row.marked)
        beside(place, f"{row.estimate.text()}, {'too few' if row.marked else p_value(row.p_holm)}", height, colour)
        if calibrated:
            place.plot([row.predicted.value], [height], "|", color=INK, markersize=13, markeredgewidth=2)
    if overall is not None and not np.isnan(overall.value):
        ends = np.nan_to_num([overall.low, overall.high], nan=overall.value)
        place.axvline(overall.value, color=ACCENT, linestyle="--", linewidth=1.2, zorder=0)
        place.axvspan(*ends, color=ACCENT, alpha=0.12, linewidth=0, zorder=0)
        label += f"\n(dashed: all, {overall.text()}, {count(overall.images, 'image')} of {count(overall.patients, 'patient')})"
    place.set_xlabel(label)
    kinds = {"differs from the rest (p < 0.05 after Holm)": _DIFFERS, "fewer than 10 patients: not tested": _FAINT}
    below(figure, handles=[Line2D([], [], color=colour, marker="o", label=name) for name, colour in kinds.items()])
    return figure


def lost_dots(table: pd.DataFrame) -> Figure:
    """What each part of a nodule costs of Dice. table: of `error_analysis.lost_dice`."""
    return score_dots(table, {"lost": "Dice lost, 0 to 1"})


@styled
def nodule_frame(found: FrameErrors) -> Figure | None:
    """Where pixels are missed and where they are falsely called, in a frame in which every nodule has one place and size.

    Args:
        found: of `error_analysis.nodule_frame_errors`; None is returned where it rests on no image.
    """
    if not found.images:
        return None
    figure, places = new_panels(2, 4.1, 8.6, sharey=True)
    top = max(0.01, float(np.nanmax(found.maps)))
    for place, values, title in zip(places, found.maps, ("Missed", "Falsely called nodule"), strict=True):
        place.set_facecolor("#d5d9de")  # cells that no image reaches
        drawn = place.imshow(100 * values, cmap="magma", vmin=0, vmax=100 * top, extent=(-1, 1, 1, -1))
        place.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor="white", linestyle="--", linewidth=1.2))
        place.set(title=title, xlabel="across, widths of the nodule")
        place.set(xticks=_TICKS, yticks=_TICKS)
        place.grid(False)
    places[0].set_ylabel("down, heights of the nodule")
    figure.colorbar(drawn, ax=places, shrink=0.8, label=f"% of {count(found.images, 'image')}")
    return figure


@styled
def risk_coverage(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Errors among the images that are kept when the least certain are handed on, a line an uncertainty.

    Drawn from a coverage of 5 % on; the areas in the legend are of whole curves.

    Args:
        curves: name in the legend → `scores.probabilities.risk_coverage`, of the same errors.
    """
    figure, (place,) = new_panels(1, 3.8)
    colours = model_colours(list(curves))
    for name, curve in curves.items():
        label, steady = f"{name}: {curve['risk'].mean():.3f}", curve[curve["coverage"] >= _FEWEST_KEPT]
        place.plot(100 * steady["coverage"], steady["risk"], color=colours[name], linewidth=1.7, label=label)
    longest = max(curves.values(), key=len)
    risk = longest["risk"].iloc[-1]
    place.axhline(risk, color=NEUTRAL, linestyle=":", linewidth=1.3, label=f"order by chance: {risk:.3f}")
    place.set(xlabel="images kept, the most certain first, %", ylabel="share of errors among them", xlim=(0, 100))
    place.set_title(count(len(longest), "image"))
    place.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", title="area under the curve", title_fontsize=9, alignment="left")
    return figure


@styled
def handed_on(uncertainty: pd.Series, images: pd.DataFrame, kept: int = 80) -> Figure:
    """Who is missed where the least certain images are handed to a person: the point of the risk-coverage curve, and the calls on
    either side of it.

    Args:
        uncertainty: case → the higher the less certain.
        images: of `Errors` of a classifier.
        kept: percent of the images that the network answers, 1 to 100.
    """
    figure, (left, right) = new_panels(2, 3.4, width_ratios=[1.3, 1])
    wrong, order = images["wrong"][uncertainty.index], uncertainty.sort_values(kind="stable").index
    curve, most = risk_of(uncertainty, wrong), max(1, round(kept / 100 * len(order)))
    point = curve.iloc[most - 1]
    left.plot(100 * curve["coverage"], curve["risk"], color=NEUTRAL, linewidth=1.7)
    left.plot([100 * point["coverage"]], [point["risk"]], "o", color=ACCENT, markersize=9)
    left.set(xlabel="images kept, the most certain first, %", ylabel="share of errors among them")
    left.set(xlim=(0, 102), ylim=(0, None), title=f"{most} of {count(len(order), 'image')} kept: {share(point['risk'], 1)} wrong")
    kinds = images["kind"].replace("", "right").loc[order]
    sides = {"handed on": kinds.iloc[most:], "kept": kinds.iloc[:most]}
    counts = pd.DataFrame({side: found.value_counts() for side, found in sides.items()}).reindex(_CALLS).fillna(0)
    counts.T.plot.barh(stacked=True, ax=right, color=_CALLS, width=0.6, legend=False)
    for bars in right.containers:
        right.bar_label(bars, [f"{value:.0f}" if value else "" for value in bars.datavalues], label_type="center", color="white")
    across(right).set(xlabel="images")
    below(figure, right)
    return figure


@styled
def decision_curve(curves: Mapping[str, pd.DataFrame], tested: str) -> Figure:
    """Net benefit of acting on a classifier, on all and on nobody, by the threshold probability.

    Args:
        curves: model → `scores.estimates.benefit_curve`, all of the same images; intervals are drawn as bands.
        tested: stands above, such as `ClassifierComparison.tested`.
    """
    figure, (place,) = new_panels(1, 3.8)
    colours = model_colours(list(curves))
    for name, curve in curves.items():
        x = 100 * curve["threshold"]
        band(place, x, curve["net_benefit"], curve["low"], curve["high"], colours[name], label=name)
    first = next(iter(curves.values()))
    for column, name, dashes in (("treat_all", "act on all", "--"), ("treat_none", "act on nobody", ":")):
        place.plot(100 * first["threshold"], first[column], color=INK, linestyle=dashes, linewidth=1.3, label=name)
    top = max(0.02, first["treat_all"].max(), *(curve["net_benefit"].max() for curve in curves.values()))
    place.set(xlabel="threshold probability of malignancy, %", ylabel="net benefit,\ntrue positives an image", title=tested)
    place.set(xlim=(0, 100), ylim=(-0.3 * top, 1.08 * top))  # "act on all" falls without end
    figure.legend(loc="outside right upper")
    return figure


@styled
def robustness(curve: pd.DataFrame, model: str, label: str) -> Figure:
    """A score by the strength of each disturbance, with 95 % bands over patients; dotted: undisturbed.

    Args:
        curve: of `trust.robustness_curve`.
        label: of the score.
    """
    kinds = [kind for kind in PERTURBATIONS if (curve["perturbation"] == kind).any()]
    columns, colour = min(3, len(kinds)), model_colours([model])[model]
    figure, places = new_panels(len(kinds), 2.9, 1.6 + 2.7 * columns, columns, sharey=True)
    for place, kind in zip(places, kinds, strict=True):
        found = curve[curve["perturbation"] == kind].sort_values("level")
        values = estimate_line(place, found["level"], found["score"], colour, label=model)
        for untouched in values[found["level"] == 0, 0]:
            place.axhline(untouched, color=colour, linestyle=":", linewidth=1)
        place.set_xlabel(PERTURBATIONS[kind].label, fontsize=9)
    for place in places[::columns]:
        place.set_ylabel(label)
    below(figure, places[0], title=counted(list(curve["score"])), title_fontsize=9, alignment="left")
    return figure


_CALLS = {"right": ACCENT, KINDS[1]: "#9aa3ad", KINDS[0]: CLASS_COLOURS["malignant"]}
_SETS = {
    "the right class alone": ACCENT,
    "both classes": "#9aa3ad",
    "the wrong class alone": CLASS_COLOURS["malignant"],
    "neither": NEUTRAL,
}


@styled
def conformal_bars(table: pd.DataFrame, alpha: float) -> Figure:
    """What prediction sets hold (bars), and how often the truth is among it, with 95 % intervals.

    Args:
        table: of `conformal.coverage`.
        alpha: of the sets: the dashed line is the coverage that was promised.
    """
    table, promised = table[table["images"] > 0], 100 * (1 - alpha)
    alone = table["single_right"].fillna(0) * table["single"]
    parts = pd.DataFrame(dict(zip(_SETS, (alone, table["both"], table["single"] - alone, table["empty"]), strict=True)))
    figure, (bars, dots) = new_panels(2, 1.5 + 0.42 * len(table), sharey=True, width_ratios=[1.5, 1])
    (100 * parts).plot.barh(stacked=True, ax=bars, color=_SETS, width=0.62, legend=False)
    for drawn in bars.containers:
        texts = [f"{value:.0f}" if value >= 5 else "" for value in drawn.datavalues]
        bars.bar_label(drawn, texts, label_type="center", fontsize=8.5, color="white")
    for height, found in enumerate(table["coverage"]):
        interval(dots, found, height, INK, scale=100)
    dots.axvline(promised, color=ACCENT, linestyle="--", linewidth=1.3)
    names = [f"{name}\n{count(row.images, 'image')} of\n{count(row.patients, 'patient')}" for name, row in table.iterrows()]
    named_rows(bars, names, fontsize=8.5).set(xlabel="% of the sets", xlim=(0, 100), title="The set holds")
    across(dots).set(xlabel=f"% (dashed: {promised:g} % promised)", title="The truth is in the set")
    below(figure, bars)
    return figure


def label_suspects(cases: pd.DataFrame, ranked: pd.DataFrame, count: int) -> Figure | None:
    """The images whose label is likeliest wrong, with outline, label and probability; None where none is suspect.

    Args:
        cases: case table.
        ranked: of `trust.rank_label_errors`.
        count: pictures at most.
    """
    panels = []
    for case, row in ranked[ranked["suspect"]].head(count).iterrows():
        said = f"labelled {LABEL_NAMES[row['label']]}, p(malignant) {row['probability']:.2f}"
        panels.append(case_panel(cases, case, f"{row['rank']}. {case}\n{said}"))
    return panel_grid(panels)
