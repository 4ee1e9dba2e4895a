"""The list of cases, its filters, and the case that is looked at."""

from html import escape
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, number, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.studies.case_review import CaseSet, Review
from thyroid_utils.studies.case_review.choices import ORDERS, OUTCOMES, filtered
from thyroid_utils.workbook.record import html_table
from thyroid_utils.workbook.review.shown import Shown
from thyroid_utils.workbook.review.viewer import Viewer, picture

# Column of a case's numbers → what it is called.
_NUMBERS = {"probability": "probability of malignant", "threshold": "threshold", "kind": "wrong call",
            "runs_wrong": "trainings wrong", "runs": "of trainings", "between_runs": "SD between them",
            "uncertainty": "uncertainty", "label_error": "rank as label error", "dice": "Dice", "iou": "IoU",
            "hd95": "HD95, pixels", "mode": "where the mask fails"}  # fmt: skip
_MEANING = (
    "Uncertainty of a call: how near it is to the threshold, in log-odds below 0; of a mask: 1 − the Dice that its probabilities "
    "promise. Filters take its rank among the cases. Numbers and maps are of a network's first training, as in notebook 07."
)
_WIDE = {"description_width": "104px"}


def notice() -> widgets.HTML:
    """How the app looks, and what is always in sight: in a strip of the page itself, as a notebook's outputs scroll."""
    style = Path(__file__).with_name("review.css").read_text(encoding="utf-8")
    return widgets.HTML(f'<style>{style} body::after {{ content: "{RESEARCH_ONLY}"; }}</style>', layout={"display": "none"})


def told(review: Review) -> widgets.HTML:
    """Whose cases are shown, and what is missing."""
    of = f"Of the report <b>{escape(review.report.name)}</b>. Choose several networks with Ctrl." if review.report else ""
    return widgets.HTML(f'<p class="review-told">{" ".join([of, *map(escape, review.missing)])}</p>')


def browse(shown: Shown) -> widgets.Widget:
    """Filters and list of the cases beside the pictures and numbers of the one that is looked at."""
    return _Browser(shown).box if shown.chosen else widgets.HTML("")


class _Browser:
    """Holds the controls; a filter changes `shown.cases`, the list or an arrow `shown.case`."""

    def __init__(self, shown: Shown) -> None:
        self.shown, self.viewer, self.changing = shown, Viewer(shown.step), False
        self.sets = _dropdown("Tested on", [(found.title, found) for found in shown.review.sets])
        self.networks = widgets.SelectMultiple(description="Networks", rows=4, style=_WIDE, layout={"width": "auto"})
        self.judged, self.outcome = _dropdown("Judged by", []), _dropdown("Outcome", _choices(OUTCOMES))
        self.label = _dropdown("Truth", [("all", ""), *((LABEL_NAMES[label], label) for label in (0, 1))])
        self.group = _dropdown("Subgroup", [("all", "")])
        self.order = _dropdown("Order", [("as in the data set", "")])
        self.suspects = widgets.Checkbox(description="likely label errors only", indent=False)
        self.ranges = {"uncertainty": _range("Uncertainty", ".0%"), "dice": _range("Dice", ".2f")}
        self.list = widgets.Select(rows=16, layout={"width": "auto"}, tooltip="Cases")
        self.found, self.numbers, self.trouble = (widgets.HTML() for _ in range(3))
        self.table = pd.DataFrame()
        filters = [self.judged, self.outcome, self.label, self.group, *self.ranges.values(), self.suspects, self.order]
        left = widgets.VBox([*filters, self.found, self.list]).add_class("review-left")
        right = widgets.VBox([self.trouble, self.viewer, self.numbers]).add_class("review-right")
        asked = widgets.VBox([self.sets, self.networks]).add_class("review-asked")
        self.box = widgets.Box([asked, left, right]).add_class("review-browse")
        self.sets.observe(lambda _: self._choose(self.sets.value), "value")
        self.networks.observe(lambda _: self._beside(), "value")
        self.judged.observe(lambda _: self._judge(), "value")
        for control in filters[1:]:
            control.observe(lambda _: self._filter(), "value")
        self.list.observe(lambda _: setattr(shown, "case", self.list.value or ""), "value")
        self.viewer.observe(self._fade, "opacity")
        shown.observe(self._show, "case")
        self._choose(shown.chosen)

    def _choose(self, chosen: CaseSet) -> None:
        """Show other test images: the best classifier and the best segmenter on validation."""
        calls, masks = chosen.of_task("classification", "joint"), chosen.of_task("segmentation")
        self.shown.case = ""
        self.shown.chosen = chosen
        self.networks.options = self.judged.options = [*calls, *masks]
        self.networks.value = chosen.best
        self.judged.value = self.networks.options[0]

    def _beside(self) -> None:
        self.shown.networks = list(self.networks.value)
        self._show()

    def _judge(self) -> None:
        """Filter by what another network says, as far as it says it."""
        chosen = self.shown.chosen
        if self.judged.value is None:  # between two sets
            return
        self.changing = True  # each control would filter on its own
        try:
            self.table = chosen.table(self.judged.value).join(chosen.cases.drop(columns=["patient", "label"]))
        except DataError as error:
            self.found.value, self.changing = escape(str(error)), False
            return
        groups = [(factor, level) for factor, levels in chosen.cases.attrs["groups"].items() for level in levels]
        orders = [(text, key) for key, text in ORDERS.items() if key[0] in self.table]
        self.group.options = [("all", ""), *((": ".join(group), group) for group in groups)]
        self.order.options = [("as in the data set", ""), *orders]
        self.suspects.disabled = "suspect" not in self.table
        self.ranges["dice"].disabled = "dice" not in self.table
        self.changing = False
        self._filter()

    def _filter(self) -> None:
        if self.changing:
            return
        moved = {name: control.value for name, control in self.ranges.items() if control.value != (0, 1)}
        ranges = {name: limits for name, limits in moved.items() if not self.ranges[name].disabled}
        controls = {"outcome": self.outcome, "label": self.label, "group": self.group, "order": self.order}
        asked = {name: control.value for name, control in controls.items() if control.value != ""}  # None would be no choice
        names = filtered(self.table, **asked, **ranges, suspects=self.suspects.value and not self.suspects.disabled)
        kept = self.shown.case
        self.shown.cases = names
        self.found.value = f"{count(len(names), 'case')} of {len(self.table)}"
        self.list.options = [(_line(case, row), case) for case, row in self.table.loc[names].iterrows()]
        self.list.value = kept if kept in names else names[0] if names else None

    def _fade(self, change: dict) -> None:
        if change["new"].get("attention", 0) > 0 and not change["old"].get("attention", 0) > 0:
            self._show()

    def _show(self, _: object = None) -> None:
        """The pictures and numbers of the case, of each network that is shown; of one whose files are gone, why not."""
        case, chosen, shown, tables, troubles = self.shown.case, self.shown.chosen, [], {}, []
        self.list.value = case if case in self.shown.cases else None
        place = f"{self.shown.cases.index(case) + 1} of {len(self.shown.cases)}" if case in self.shown.cases else ""
        attention = self.viewer.opacity.get("attention", 0) > 0
        self.viewer.position = f"{place} …"
        for name in self.shown.networks if case else ():
            try:
                tables[name] = chosen.table(name).loc[case]
                shown.append(picture(name, chosen.layers(name, case, attention=attention), _note(tables[name])))
            except (DataError, ValueError) as error:
                troubles.append(str(error))
        told = (f'<p class="review-trouble" role="alert">{escape(error)}</p>' for error in dict.fromkeys(troubles))
        self.trouble.value = "".join(told)
        self.numbers.value = _numbers(chosen.cases.loc[case], tables) if case else ""
        spacing = chosen.cases.loc[case].get("spacing_mm") if case else None
        self.viewer.spacing = float(spacing) if pd.notna(spacing) else 0.0
        self.viewer.pictures, self.viewer.position = shown, place


def _choices(named: dict) -> list[tuple[str, object]]:
    return [(text, value) for value, text in named.items()]


def _dropdown(text: str, options: list) -> widgets.Dropdown:
    return widgets.Dropdown(description=text, options=options, style=_WIDE, layout={"width": "auto"})


def _range(text: str, told: str) -> widgets.FloatRangeSlider:
    looks = {"style": _WIDE, "layout": {"width": "auto"}, "readout_format": told, "continuous_update": False}
    return widgets.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.01, description=text, **looks)


def _line(case: str, row: pd.Series) -> str:
    """A case in the list: its outcome, id, truth and the number that is judged."""
    said = share(row["probability"]) if "probability" in row else f"Dice {number(row['dice'])}"
    return f"{'✗' if row['wrong'] else '✓'} {case} · {_truth(row)} · {said}"


def _truth(row: pd.Series) -> str:
    return LABEL_NAMES[None if pd.isna(row["label"]) else int(row["label"])]


def _note(row: pd.Series) -> str:
    """What a network says of a case, in a line."""
    parts = []
    if "probability" in row:
        side = "≥" if row["probability"] >= row["threshold"] else "<"
        said = f"{row['prediction']}, {share(row['probability'])} {side} {share(row['threshold'])}"
        parts.append(f"{said} ({row['kind'] or 'right'})")
    if "dice" in row:
        parts.append(f"Dice {number(row['dice'])}")
    return ", ".join(parts)


def _numbers(case: pd.Series, tables: dict[str, pd.Series]) -> str:
    """What is known of a case, and each network's numbers of it, as HTML."""
    groups = {name.removeprefix("group "): value for name, value in case.items() if name.startswith("group ")}
    told = [f"{escape(name)}: {escape(str(value))}" for name, value in groups.items() if pd.notna(value)]
    table = pd.DataFrame(tables).reindex(list(_NUMBERS)).rename(index=_NUMBERS).dropna(how="all")
    table = table.rename_axis(columns="model")  # whose names keep their underscores
    body = f'<div class="review-table">{html_table(table)}</div><p class="review-told">{_MEANING}</p>' if len(table) else ""
    return f'<p class="review-told">Truth: {_truth(case)}. {"; ".join(told)}</p>{body}'
