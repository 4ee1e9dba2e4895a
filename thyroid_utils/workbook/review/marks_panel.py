"""What a reader says of the case that is looked at, kept in `review.csv`."""

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count
from thyroid_utils.studies.review_marks import DUPLICATE, KINDS, LABELS, OUTLINE, READ, Marks, image_code
from thyroid_utils.workbook.pages import seen_from_here
from thyroid_utils.workbook.review.shown import Shown


def marks_panel(marks: Marks, shown: Shown) -> widgets.Widget:
    """Mark the case that `shown` looks at, read what others have said of it, take one's own mark back."""
    kinds = [kind for kind in KINDS if kind != READ]  # the label stands in sight
    kind = widgets.Dropdown(options=kinds, value=OUTLINE, description="Mark as")
    value, note = widgets.Combobox(description="Value"), widgets.Text(description="Note")
    reader = widgets.Text(description="Reader", placeholder="your initials")
    keep, back = widgets.Button(description="Mark"), widgets.Button(description="Take mine back")
    said, told = widgets.HTML(), widgets.HTML()

    def image() -> str:
        cases = shown.chosen.cases if shown.chosen else ()
        if "image" not in cases:
            raise DataError("the image cannot be read, and a mark belongs to an image")
        return image_code(cases.at[shown.case, "image"])

    def of_kind(_: Any = None) -> None:
        others = [case for case in shown.cases if case != shown.case]
        value.options = others if kind.value == DUPLICATE else list(LABELS) if kind.value.startswith("label") else []
        value.value, value.disabled, value.placeholder = "", not value.options, KINDS[kind.value]

    def look(_: Any = None) -> None:
        told.value = said.value = ""
        if not shown.case:
            return
        table = marks.of(shown.case, image())
        rows = [f"<li>{escape(_sentence(mark))}</li>" for mark in table.to_dict("records")]
        in_all = f"{count(len(marks.table), 'mark')} in {escape(seen_from_here(marks.path))}"
        said.value = f"<p>{escape(shown.case)}: {count(len(table), 'mark')}; {in_all}.</p><ul>{''.join(rows)}</ul>"

    def doing(change: Callable[[], None]) -> Callable[[Any], None]:
        def done(_: Any) -> None:
            try:
                change()
                look()
            except DataError as error:
                told.value = f'<p role="alert">{escape(str(error))}.</p>'

        return done

    def add() -> None:
        marks.add(shown.case, image(), kind.value, reader.value, value.value, note.value)
        value.value = note.value = ""

    keep.on_click(doing(add))
    back.on_click(doing(lambda: marks.undo(shown.case, image(), kind.value, reader.value)))
    kind.observe(of_kind, "value")
    shown.observe(doing(of_kind), "case")
    of_kind()
    doing(look)(None)
    controls = widgets.HBox([kind, value, note, reader, keep, back], layout={"flex_flow": "row wrap"}).add_class("review-marks")
    return widgets.VBox([controls, told, said])


def _sentence(mark: dict[str, str]) -> str:
    note = f"“{mark['note']}”" if mark["note"] else ""
    return " ".join(filter(None, (mark["kind"], mark["value"], note, f"({mark['reader']})")))
