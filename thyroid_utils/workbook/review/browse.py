"""The list of cases, its filters, and the case that is looked at."""

import ipywidgets as widgets

from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.studies.case_review import Review
from thyroid_utils.workbook.review.shown import Shown


def notice() -> widgets.HTML:
    """What is always in sight."""
    return widgets.HTML(f'<p class="review-notice" role="note">{RESEARCH_ONLY}</p>')


def told(review: Review) -> widgets.HTML:
    """What is shown, and what is missing."""
    return widgets.HTML("<br>".join(review.missing))


def browse(shown: Shown) -> widgets.Widget:
    """Move through the cases."""
    shown.cases = shown.chosen.cases if shown.chosen else []
    listed = widgets.Select(options=shown.cases, rows=12)
    listed.observe(lambda change: setattr(shown, "case", change["new"] or ""), "value")
    return listed
