"""What an audit found, as pictures: copies, mask problems, burned-in marks, and what a split lets through."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.data.audit import Audit
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.mask_audit import clean_mask
from thyroid_utils.data.overlays import find_echo_area, find_overlays
from thyroid_utils.plots.pictures import Panel, case_panel, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, TRUTH, new_figure, styled

PROBLEM, BOX = "#ff3b6b", "#37d67a"


def identical_images(cases: pd.DataFrame, audit: Audit, sets: int = 4, each: int = 5) -> Figure | None:
    """Sets of pixel-identical images, one row a set, those filed under several patients first; None where there is none.

    Args:
        cases: the audited case table.
        audit: of `audit_cases`.
        sets: rows at most.
        each: pictures a row at most.
    """
    found = audit.identical.sort_values(["patients", "images"], ascending=False, kind="stable").head(sets)
    if found.empty:
        return None
    columns = min(each, int(found["images"].max()))
    panels = []
    for row in found.itertuples():
        shown = [case_panel(cases, case) for case in row.cases[:columns]]
        blank = Panel(np.full((2, 2), 255, np.uint8))
        panels += shown + [blank] * (columns - len(shown))
    patients = [f"{row.images} images\n{row.patients} patient{'s' * (row.patients > 1)}" for row in found.itertuples()]
    return panel_grid(panels, columns, patients)


def near_identical_images(cases: pd.DataFrame, audit: Audit, pairs: int = 4) -> Figure | None:
    """Pairs of images that look the same, two pairs a row: first those of different patients, then the closest; None where none.

    Args:
        cases: the audited case table.
        audit: of `audit_cases`.
        pairs: pairs at most; they are spread over the range of correlations and take each image once.
    """
    near = audit.near.assign(other=~audit.near["same_patient"].fillna(True).astype(bool))
    near = near[~near["a"].duplicated() & ~near["b"].duplicated() & ~near["b"].isin(near["a"])]
    if near.empty:
        return None
    near = near.sort_values(["other", "correlation"], ascending=[False, False], kind="stable")
    chosen = near.iloc[np.unique(np.linspace(0, len(near) - 1, min(pairs, len(near))).astype(int))]
    panels = []
    for pair in chosen.itertuples():
        whose = {True: "same patient", False: "different patients"}.get(pair.same_patient, "patients unknown")
        panels.append(case_panel(cases, pair.a, f"{pair.a}\n{whose}"))
        panels.append(case_panel(cases, pair.b, f"{pair.b}\ncorrelation {pair.correlation:.3f}"))
    return panel_grid(panels, 4)


def mask_problems(
    cases: pd.DataFrame, audit: Audit, problems: tuple[str, ...] = ("specks", "holes", "touches border", "several parts")
) -> Figure | None:
    """The worst cases of each problem: the outline, and in a red box what cleaning would change; None where there is none."""
    panels = []
    for problem in problems:
        found = audit.masks[audit.masks["problem"] == problem].sort_values("pixels", ascending=False, kind="stable")
        for case in found["case"].head(2 if len(problems) > 2 else 4):
            image = read_gray(cases.at[case, "image"])
            mask = read_mask(cases.at[case, "mask"], image.shape)
            changed = clean_mask(mask) ^ mask
            title = f"{case}\n{problem}" + (f", {changed.sum()} pixels to mend" if changed.any() else "")
            panels.append(Panel(image, title, {TRUTH: mask}, {PROBLEM: changed}, _around(changed)))
    return panel_grid(panels, 4) if panels else None


def _around(changed: np.ndarray, margin: int = 6) -> dict[str, tuple[int, int, int, int]]:
    """A box with some room around the pixels that differ, which can be too few to be seen; none where nothing differs."""
    if not changed.any():
        return {}
    sides = []
    for axis, length in ((1, changed.shape[0]), (0, changed.shape[1])):
        places = np.flatnonzero(changed.any(axis=axis))
        sides += [max(0, int(places[0]) - margin), min(length, int(places[-1]) + 1 + margin)]
    return {PROBLEM: tuple(sides)}


def burned_in_marks(cases: pd.DataFrame, audit: Audit, count: int = 4) -> Figure | None:
    """The frames with most text and callipers: echo image (green) and marks (red); None where none has any."""
    marks = (audit.images["text_regions"].fillna(0) + 3 * audit.images["callipers"].fillna(0)).astype(int)
    worst = marks[marks > 0].sort_values(ascending=False, kind="stable").index[:count]
    panels = []
    for case in worst:
        image = read_gray(cases.at[case, "image"])
        box = find_echo_area(image)
        found = find_overlays(image)
        title = f"{case}\n{found.text_regions} text regions, {found.callipers} callipers"
        panels.append(Panel(image, title, filled={PROBLEM: found.mask}, boxes={BOX: tuple(box)}))
    return panel_grid(panels, 4) if panels else None


@styled
def exposure_bars(table: pd.DataFrame) -> Figure:
    """How much of the test set training has already met, by the rule of the split; whiskers go from lowest to highest seed.

    Args:
        table: `tables.exposure`.
    """
    rules, kinds = list(table["split by"].unique()), list(table["training holds"].unique())
    figure, axes = new_figure(1, 1, 1.1 + 0.36 * len(table), 8.0)
    height = 0.8 / len(rules)
    for number, (rule, colour) in enumerate(zip(rules, [ACCENT, PROBLEM, NEUTRAL], strict=False)):
        rows = table[table["split by"] == rule].set_index("training holds").loc[kinds]
        positions = np.arange(len(kinds)) + number * height
        mean, low, high = (100 * rows[name].to_numpy() for name in ("mean", "lowest", "highest"))
        whiskers = {"xerr": [mean - low, high - mean], "error_kw": {"ecolor": "#2b323a", "elinewidth": 1.2}}
        axes[0, 0].barh(positions, mean, height=0.9 * height, color=colour, label=f"split by {rule}", **whiskers)
        for position, share, end in zip(positions, mean, high, strict=True):
            axes[0, 0].text(end + 1, position, f"{share:.0f} %", va="center", fontsize=9)
    axes[0, 0].set_yticks(np.arange(len(kinds)) + 0.4 - height / 2, kinds)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel="% of the test images", xlim=(0, 112), title="Test images that training has already met")
    axes[0, 0].grid(axis="y", visible=False)
    axes[0, 0].grid(axis="x", visible=True)
    figure.legend(loc="outside lower left", ncols=len(rules))
    return figure
