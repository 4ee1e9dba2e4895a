"""Figures of the dual-stage framework: cards of cases, Dice by decision, variants beside each other, time by stage."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.inference.findings import RESEARCH_ONLY, Finding
from thyroid_utils.plots.pictures import MAP_COLOURS, Panel, draw_map, draw_panel
from thyroid_utils.plots.rows import interval
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, TRUTH, WIDTH, bare, new_figure, styled
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.estimates import Comparison, Estimate, p_told
from thyroid_utils.studies.dual_stage import VARIANTS, DecisionDice

_PICTURES = ("frame and outlines", "probability of nodule", "attention for the class called")
_STAGE_COLOUR = CLASS_COLOURS["benign"]


@styled
def finding_cards(findings: Sequence[Finding], truths: Mapping[str, tuple[int, np.ndarray | None]] | None = None) -> Figure:
    """A row a case: the frame with the predicted outline, the probability map, the attention map, and what is said in words.

    Args:
        findings: at least one.
        truths: case → label (0 or 1) and true mask, bool (height, width) or None, of those that have any; drawn and said beside.

    Raises:
        ValueError: there is no finding.
    """
    if not findings:
        raise ValueError("finding_cards: no finding to draw; check the selection of cases before drawing it")
    side = 2.15
    heights = [_height(finding, side) for finding in findings]
    figure = Figure((WIDTH, sum(heights) + 0.75))
    top, height = figure.get_figheight() - 0.05, figure.get_figheight()
    for finding, tall in zip(findings, heights, strict=True):
        places = [figure.add_axes((0.05 / WIDTH + at * (side + 0.1) / WIDTH, (top - tall + 0.15) / height, side / WIDTH,
                                   (tall - 0.45) / height)) for at in range(3)]  # fmt: skip
        text = figure.add_axes((3 * (side + 0.1) / WIDTH + 0.12 / WIDTH, (top - tall + 0.15) / height, 2.6 / WIDTH,
                                (tall - 0.45) / height))  # fmt: skip
        _draw_card(places, text, finding, (truths or {}).get(finding.case))
        top -= tall
    handles = [Line2D([], [], color=ACCENT, label="predicted outline")]
    if truths:
        handles.append(Line2D([], [], color=TRUTH, label="true outline"))
    figure.legend(handles=handles, loc="lower left", ncols=2, facecolor="#d9dde2", frameon=True, edgecolor="none")
    figure.text(0.99, 0.08 / height, RESEARCH_ONLY, ha="right", va="bottom", fontsize=9, fontweight="bold")
    _scale(figure.add_axes((0.42, 0.27 / height, 0.2, 0.09 / height)))
    return figure


def _height(finding: Finding, side: float) -> float:
    """Inches of a card, with the line above it."""
    shape = 0 if finding.frame is None else finding.frame.shape[0] / finding.frame.shape[1]
    lines = sum(len(textwrap.wrap(line, 42)) for line, _ in _said(finding, None))
    return max(side * min(shape, 1.3), 0.158 * (lines + 2)) + 0.45


def _draw_card(places: Sequence[Axes], text: Axes, finding: Finding, truth: tuple[int, np.ndarray | None] | None) -> None:
    for place in (*places, text):
        bare(place)
    text.set_facecolor("none")
    if not finding.error:
        gray, outlines = luma(finding.frame), {ACCENT: finding.mask}
        if truth is not None and truth[1] is not None:
            outlines = {TRUTH: truth[1], **outlines}
        draw_panel(places[0], Panel(gray, outlines=outlines))
        draw_map(places[1], finding.map, gray)
        draw_map(places[2], finding.attention, gray)
        if finding.mask.any() and not finding.mask.all():
            places[2].contour(finding.mask, levels=[0.5], colors=["white"], linewidths=1.0, linestyles="--")
        for place, title in zip(places, _PICTURES, strict=True):
            place.set_title(title, fontsize=8.5, fontweight="normal", color=NEUTRAL)
            place.set_anchor("NW")
    elif finding.frame is not None:
        draw_panel(places[0], Panel(luma(finding.frame)))
        places[0].set_anchor("NW")
    text.set_title(finding.case, fontsize=9.5)
    row = 0
    for line, colour in _said(finding, truth):
        for part in textwrap.wrap(line, 42):
            text.annotate(part, (0, 1), (0, -4 - 11.4 * row), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
                          va="top", color=colour, fontweight="bold" if not row else "normal")  # fmt: skip
            row += 1


def _said(finding: Finding, truth: tuple[int, np.ndarray | None] | None) -> list[tuple[str, str]]:
    """Lines of a card with their colours."""
    if finding.error:
        return [("could not be used", CLASS_COLOURS["malignant"]), (finding.error, INK)]
    lines = [(f"p(malignant) {finding.probability:.2f}: called {finding.called_name}", CLASS_COLOURS[finding.called_name]),
             (f"set: {finding.labels_text}; threshold {finding.threshold:.2f}", INK)]  # fmt: skip
    if truth is not None:
        lines.append((f"truth: {'malignant' if truth[0] else 'benign'}", INK))
    lines += [(line, INK) for line in measure_lines(finding)]
    doubt = finding.uncertainty
    lines.append((f"entropy {doubt['entropy']:.2f} bit; between views: p ± {doubt['sd']:.2f}, masks' Dice "
                  f"{1 - doubt['map_disagreement']:.2f}", INK))  # fmt: skip
    return lines + [(f"! {warning}", CLASS_COLOURS["malignant"]) for warning in finding.warnings]


def measure_lines(finding: Finding) -> list[str]:
    """The measures of a nodule for a reader, in millimetres where they are known; none where there is no nodule."""
    found = finding.measures
    if not found or np.isnan(found["area_px"]):
        return []
    known = not np.isnan(found["area_mm2"])
    unit = "mm" if known else "px"
    area = f"{found['area_mm2']:.1f} mm²" if known else f"{found['area_px']:.0f} px"
    digits = 1 if known else 0
    axes = f"{found[f'long_axis_{unit}']:.{digits}f} × {found[f'short_axis_{unit}']:.{digits}f} {unit}"
    taller = "taller than wide" if found["taller_than_wide"] else "not taller than wide"
    lines = [f"{axes}, area {area}", f"height / width {found['height_over_width']:.2f} ({taller})"]
    if not np.isnan(found["circularity"]):
        irregularity = round(found["margin_irregularity"], 2) + 0.0  # no −0.00
        lines.append(f"circularity {found['circularity']:.2f}, irregularity {irregularity:.2f}")
    if not np.isnan(found["echo_difference"]):
        darker = "darker" if found["echo_difference"] < 0 else "brighter"
        lines.append(f"{abs(found['echo_difference']):.0f} gray levels {darker} than around it")
    return lines


def _scale(place: Axes) -> None:
    """Of both maps."""
    place.imshow(np.linspace(0, 1, 256)[None], cmap=MAP_COLOURS, aspect="auto")
    place.set(yticks=[])
    place.set_xticks([0, 128, 255], ["0", "0.5", "1"], fontsize=8)
    place.grid(False)
    place.spines[:].set_visible(False)
    place.set_title("probability, or share of the attention's maximum", fontsize=8, fontweight="normal", loc="center", pad=2)


@styled
def dice_by_decision(table: pd.DataFrame, found: DecisionDice) -> Figure:
    """Dice of every test image by class and call, with the mean and its interval over patients.

    Args:
        table: of `findings_on_test`.
        found: `dice_by_decision` of it.
    """
    known = table[table["wrong"].notna() & table["dice"].notna()]
    rows = [name for name in found.table.index if found.table.at[name, "images"]]
    figure, axes = new_figure(1, 1, 1.1 + 0.44 * len(rows), 8.6)
    place, random = axes[0, 0], np.random.default_rng(0)
    for height, name in enumerate(rows):
        own = known[_members(known, name)]
        colours = [CLASS_COLOURS["malignant" if label else "benign"] for label in own["label"]]
        place.scatter(own["dice"], height + random.uniform(-0.2, 0.2, len(own)), s=14, c=colours, alpha=0.45, linewidths=0)
        interval(place, found.table.at[name, "dice"], height, INK)
        counts = f"{found.table.at[name, 'images']} images, {found.table.at[name, 'patients']} patients"
        place.annotate(counts, (1, height), (8, 0), xycoords=place.get_yaxis_transform(), textcoords="offset points",
                       va="center", fontsize=8.5, color=NEUTRAL, annotation_clip=False)  # fmt: skip
    place.set_yticks(range(len(rows)), [f"class {name}" if name in ("right", "wrong") else name for name in rows])
    place.set(xlabel="Dice", xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.6))
    place.axhline(1.5 if {"right", "wrong"} <= set(rows) else 0.5, color="#c9ced4", linewidth=0.8)
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    place.set_title(f"Dice where the class is wrong against right: {_told(found)}", fontsize=9.5)
    handles = [Line2D([], [], marker="o", linestyle="", color=CLASS_COLOURS[name], label=f"{name} image") for name in
               ("benign", "malignant")]  # fmt: skip
    handles.append(Line2D([], [], marker="o", color=INK, label="mean, 95 % interval over patients"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


@styled
def doubt_and_dice(table: pd.DataFrame, enough: float) -> Figure:
    """Each test image by how sure the class is and how good the mask is; wrong calls are crosses.

    Args:
        table: of `findings_on_test`.
        enough: Dice from which a mask counts as right, drawn as a line.
    """
    known = table[table["wrong"].notna() & table["dice"].notna()]
    figure, axes = new_figure(1, 1, 3.9, 7.6)
    place, wrong = axes[0, 0], known["wrong"].astype(bool)
    for label, name in enumerate(("benign", "malignant")):
        for members, marker in ((~wrong, "o"), (wrong, "x")):
            own = known[members & known["label"].eq(label)]
            size = {"s": 18, "linewidths": 0} if marker == "o" else {"s": 30, "linewidths": 1.4}
            place.scatter(own["probability"], own["dice"], c=CLASS_COLOURS[name], marker=marker, alpha=0.65, **size)
    place.axhline(enough, color=NEUTRAL, linewidth=0.9, linestyle=":")
    place.annotate(f"right from {enough:g}", (1, enough), (4, 0), xycoords=place.get_yaxis_transform(), va="center",
                   textcoords="offset points", fontsize=8.5, color=NEUTRAL, annotation_clip=False)  # fmt: skip
    place.set(xlabel="probability of malignancy, calibrated", ylabel="Dice", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    place.grid(axis="x", visible=True)
    handles = [Line2D([], [], marker="o", linestyle="", color=CLASS_COLOURS[name], label=f"{name} image") for name in
               ("benign", "malignant")]  # fmt: skip
    handles.append(Line2D([], [], marker="x", linestyle="", color=INK, label="class wrong"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


def _told(found: DecisionDice) -> str:
    """The comparison, or why there is none."""
    if np.isnan(found.comparison.p_value):
        return f"no test, every class is {'right' if not found.table.at['wrong', 'images'] else 'wrong'}"
    return str(found.comparison)


def _members(known: pd.DataFrame, name: str) -> pd.Series:
    """Which images a row of `DecisionDice.table` is of."""
    wrong = known["wrong"].astype(bool)
    if name in ("right", "wrong"):
        return wrong == (name == "wrong")
    truth, _, called = name.partition(", called ")
    return known["label"].eq(int(truth == "malignant")) & known["called"].eq(called)


@styled
def variants_forest(estimates: pd.DataFrame, comparisons: pd.DataFrame) -> Figure:
    """AUC of each variant, and the paired differences with their p-values after Holm.

    Args:
        estimates, comparisons: of `DualStageStudy`.
    """
    figure, axes = new_figure(1, 2, 1.2 + 0.42 * max(len(estimates), len(comparisons)), width_ratios=(1, 1.05))
    left, right = axes[0]
    for height, (name, row) in enumerate(estimates.iterrows()):
        value: Estimate = row["auc"]
        interval(left, value, height, ACCENT if name == "frame" else _STAGE_COLOUR, hollow=name == "crop_true")
        left.annotate(f"{value.value:.3f}", (value.value, height), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
    left.set_yticks(range(len(estimates)), estimates["what"])
    left.set(xlabel="AUC on test, 95 % over patients", ylim=(len(estimates) - 0.5, -0.6), title="Variants")
    for height, row in enumerate(comparisons.itertuples()):
        found: Comparison = row.auc
        colour = CLASS_COLOURS["malignant"] if row.differs else NEUTRAL
        if not np.isnan(found.low):
            right.plot([found.low, found.high], [height] * 2, color=colour, linewidth=1.8)
        right.plot([found.difference], [height], "o", color=colour, markersize=5.5)
        told = "no test" if np.isnan(row.p_holm) else p_told(row.p_holm)
        right.annotate(told, (1, height), (4, 0), xycoords=right.get_yaxis_transform(), textcoords="offset points", va="center",
                       fontsize=8.5, color=colour, annotation_clip=False)  # fmt: skip
    names = [f"{_short(row.first)}\n− {_short(row.second)}" for row in comparisons.itertuples()]
    right.set_yticks(range(len(names)), names, fontsize=8.5)
    right.axvline(0, color="#8a929c", linewidth=0.9)
    right.set(xlabel="difference in AUC (p after Holm)", ylim=(len(names) - 0.5, -0.6), title="Paired differences")
    for place in (left, right):
        place.grid(axis="y", visible=False)
        place.grid(axis="x", visible=True)
    return figure


def _short(variant: str) -> str:
    return VARIANTS[variant].partition(" (")[0]


@styled
def stage_bars(seconds: pd.DataFrame) -> Figure:
    """Median wall time an image by stage.

    Args:
        seconds: of `stage_seconds`.
    """
    stages = seconds.drop(index="all")
    figure, axes = new_figure(1, 1, 0.8 + 0.28 * len(stages), 7.0)
    place = axes[0, 0]
    place.barh(range(len(stages)), stages["median_ms"], color=_STAGE_COLOUR, height=0.65)
    for height, row in enumerate(stages.itertuples()):
        place.annotate(f"{row.median_ms:.3g} ms", (row.median_ms, height), (4, 0), textcoords="offset points", va="center",
                       fontsize=8.5)  # fmt: skip
    place.set_yticks(range(len(stages)), stages.index)
    place.set(xlabel="median milliseconds an image", ylim=(len(stages) - 0.4, -0.6))
    place.set_xlim(0, 1.15 * stages["median_ms"].max())
    place.set_title(f"{seconds.at['all', 'median_ms']:.3g} ms an image in all")
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    return figure
