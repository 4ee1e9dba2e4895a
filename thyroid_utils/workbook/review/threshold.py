"""What another threshold would change."""

import ipywidgets as widgets

from thyroid_utils.workbook.review.shown import Shown


def threshold_panel(shown: Shown) -> widgets.Widget:
    """Sliders of threshold and prevalence, with what follows from them."""
    return widgets.HTML("")
