"""Figures of the dual-stage framework: pictures of cases, Dice by decision, variants beside each other, time by stage."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thyroid_utils.data.images import read_mask
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.inference.findings import RESEARCH_ONLY, Finding
from thyroid_utils.inference.nodule_measures import measures_told
from thyroid_utils.plots.charts import beside, interval, named_rows, tested_row
from thyroid_utils.plots.pictures import Panel, card_grid
from thyroid_utils.plots.style import ACCENT, CLASS_COLOURS, INK, NEUTRAL, TRUTH, below, new_panels, styled
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.studies.dual_stage import VARIANTS
from thyroid_utils.studies.dual_stage_tables import DecisionDice, with_both

_STAGE_COLOUR = CLASS_COLOURS["benign"]


@styled
def finding_cards(findings: Sequence[Finding], cases: pd.DataFrame) -> Figure | None:
    """A row a case: the frame with the predicted and the true outline, the probability map, the attention map, and what was found
    below each; None for no finding.

    Args:
        findings: of images of the case table.
        cases: case table with labels and masks.
    """
    cards = [_card(finding, cases.loc[finding.case]) for finding in findings]
    figure = card_grid(cards, "probability, or share of the attention's maximum")
    if figure is not None:
        figure.supxlabel(RESEARCH_ONLY, fontsize=9, fontweight="bold")
    return figure


def _card(finding: Finding, row: pd.Series) -> list[Panel]:
    gray = None if finding.frame is None else luma(finding.frame)
    if finding.error:
        return [Panel(gray, finding.case, below=["could not be used", finding.error]), Panel(), Panel()]
    doubt = finding.uncertainty
    called = [
        f"truth: {LABEL_NAMES[row['label']]}, called {finding.called_name}",
        f"p(malignant) {finding.probability:.2f}, threshold {finding.threshold:.2f}",
        f"set: {finding.labels_text}; entropy {doubt['entropy']:.2f} bit",
        *[f"! {warning.partition(':')[0]}" for warning in finding.warnings],  # the findings' table has the numbers
    ]
    views = f"between views: p ± {doubt['sd']:.2f}, masks' Dice {1 - doubt['map_disagreement']:.2f}"
    measures = [f"{name} {value}" for name, value in measures_told(finding.measures).items()]
    outlines = {TRUTH: read_mask(row["mask"], gray.shape), ACCENT: finding.mask}
    return [
        Panel(gray, f"{finding.case}\nframe and outlines", outlines, below=called),
        Panel(gray, "probability of nodule", map=finding.map, below=measures),
        Panel(gray, "attention for the class called", {ACCENT: finding.mask}, map=finding.attention, below=[views]),
    ]


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Images with a class and a mask, with `truth` (class) and `verdict` (right, wrong)."""
    known = with_both(table)
    return known.assign(truth=known["label"].map(LABEL_NAMES), verdict=np.where(known["wrong"].astype(bool), "wrong", "right"))


@styled
def dice_by_decision(table: pd.DataFrame, found: DecisionDice) -> Figure:
    """Dice of every test image by class and call, with the mean and its interval over patients.

    Args:
        table: of `findings_on_test`.
        found: `dice_by_decision` of it.
    """
    known, shown = _known(table), found.table[found.table["images"] > 0]
    calls = known["truth"] + ", called " + known["called"]
    figure, (place,) = new_panels(1, 1.1 + 0.44 * len(shown), 8.6)
    random = np.random.default_rng(0)
    for height, (name, row) in enumerate(shown.iterrows()):
        own = known[(calls == name) | (known["verdict"] == name)]
        colours = own["truth"].map(CLASS_COLOURS)
        place.scatter(own["dice"], height + random.uniform(-0.2, 0.2, len(own)), s=14, c=colours, alpha=0.45, linewidths=0)
        interval(place, row["dice"], height, INK)
        beside(place, f"{row['images']} images, {row['patients']} patients", height, NEUTRAL)
    names = [f"class {name}" if name in ("right", "wrong") else name for name in shown.index]
    named_rows(place, names).set(xlabel="Dice", xlim=(-0.02, 1.02))
    untested = np.isnan(found.comparison.p_value)
    place.set_title(f"Dice, class wrong − right: {'no test' if untested else found.comparison}", fontsize=9.5)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=CLASS_COLOURS[name], label=f"{name} image")
        for name in known["truth"].unique()
    ]
    below(figure, handles=[*handles, Line2D([], [], marker="o", color=INK, label="mean, 95 % interval over patients")])
    return figure


@styled
def variants_forest(estimates: pd.DataFrame, comparisons: pd.DataFrame) -> Figure:
    """AUC of each variant, and the paired differences with their p-values after Holm.

    Args:
        estimates, comparisons: of `DualStageStudy`.
    """
    figure, (left, right) = new_panels(2, 1.2 + 0.42 * max(len(estimates), len(comparisons)))
    for height, (name, value) in enumerate(estimates["auc"].items()):
        interval(left, value, height, ACCENT if name == "frame" else _STAGE_COLOUR, hollow=name == "crop_true")
        left.annotate(f"{value.value:.3f}", (value.value, height), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
    named_rows(left, list(estimates["what"])).set(xlabel="AUC on test, 95 % over patients", title="Variants")
    for height, row in enumerate(comparisons.itertuples()):
        tested_row(right, row, height)
    names = [f"{_short(row.first)}\n− {_short(row.second)}" for row in comparisons.itertuples()]
    named_rows(right, names, fontsize=8.5).set(xlabel="difference in AUC (p after Holm)", title="Paired differences")
    right.axvline(0, color="#8a929c", linewidth=0.9)
    return figure


def _short(variant: str) -> str:
    return VARIANTS[variant].partition(" (")[0]
