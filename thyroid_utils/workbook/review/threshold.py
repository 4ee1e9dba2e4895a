"""What another threshold would change: calls, predictive values, the ROC point and net benefit."""

import ipywidgets as widgets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import number, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.scores.curves import benefit_curve, roc_band
from thyroid_utils.studies.case_review import CaseSet
from thyroid_utils.studies.case_review.choices import at_threshold
from thyroid_utils.workbook.record import html_table
from thyroid_utils.workbook.review.shown import Shown

_SIDE = 200  # of a chart between its axes, in the units of its SVG
_LEGEND = (
    "Brackets and bands: 95 % intervals over patients. Dot: the threshold. Left, dashed: chance. Right: net benefit in true "
    "positives an image, of probabilities calibrated on validation, at the share of malignant images among these; dashed: act on "
    "all, dotted: on nobody. Predictive values hold where images of a class are like these."
)


def threshold_panel(shown: Shown) -> widgets.Widget:
    """Sliders of threshold and prevalence of one classifier, with what follows from them."""
    return _Panel(shown).box


class _Panel:
    def __init__(self, shown: Shown) -> None:
        looks = {"style": {"description_width": "104px"}, "layout": {"width": "min(100%, 560px)"}}
        ranges = {"min": 0.0, "max": 1.0, "step": 0.005, "readout_format": ".3f", **looks}
        self.network = widgets.Dropdown(description="Classifier", **looks)
        self.threshold, self.prevalence = (
            widgets.FloatSlider(description=name, **ranges) for name in ("Threshold", "Prevalence")
        )
        self.back = widgets.Button(description="Back to validation's", tooltip="The threshold that was chosen on validation")
        self.asked = widgets.VBox([self.network, self.threshold, self.prevalence, self.back])
        self.shown = widgets.HTML()
        self.box = widgets.VBox([self.asked, self.shown])
        self.network.observe(lambda change: change["new"] and self._ask(), "value")
        for slider in (self.threshold, self.prevalence):
            slider.observe(lambda _: self._show(), "value")
        self.back.on_click(lambda _: self._reset())
        shown.observe(lambda change: self._choose(change["new"]), "chosen")
        self._choose(shown.chosen)

    def _choose(self, chosen: CaseSet | None) -> None:
        self.chosen, names = chosen, chosen.of_task("classification", "joint") if chosen else []
        self.asked.layout.display = None if names else "none"
        self.shown.value = "<p>No classifier was tested on these images.</p>" * (not names)
        self.network.options, self.network.value = names, next(iter(names), None)

    def _ask(self) -> None:
        """Read another classifier's answers; its curves are drawn once."""
        self.table = table = self.chosen.table(self.network.value)
        truth, top = table["label"].astype(int), max(0.05, table["label"].mean())
        try:
            roc = roc_band(truth, table["probability"], table["patient"])
        except DataError:  # one class only
            roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity", "low", "high"], dtype=float)
        benefit = benefit_curve(truth, table["calibrated"], table["patient"])
        self.roc = _Chart("1 − specificity", "sensitivity", 0, 1)
        self.roc.line(*roc.to_numpy().T)
        self.roc.line([0, 1], [0, 1], kind="dashed")
        self.benefit = _Chart("probability from which one acts", "net benefit", -0.3 * top, 1.05 * top)
        self.benefit.line(*benefit[["threshold", "net_benefit", "low", "high"]].to_numpy().T)
        self.benefit.line(benefit["threshold"], benefit["treat_all"], kind="dashed")
        self.benefit.line([0, 1], [0, 0], kind="dotted")
        self.prevalence.value = truth.mean()
        self._reset()

    def _reset(self) -> None:
        """Of folds, which have a threshold each, their mean."""
        self.threshold.value = self.table["threshold"].mean()
        self._show()

    def _show(self) -> None:
        calibrated = self.chosen.calibrate(self.network.value, self.threshold.value)
        found = at_threshold(self.table, self.threshold.value, self.prevalence.value, calibrated)
        names = [LABEL_NAMES[label] for label in (0, 1)]
        matrix = pd.DataFrame(found.matrix, pd.Index(names, name="images"), [f"called {name}" for name in names])
        told = {"sensitivity": found.sensitivity.text(2), "specificity": found.specificity.text(2)}
        told |= {"PPV at the prevalence": share(found.ppv), "NPV at the prevalence": share(found.npv)}
        told |= {"threshold, calibrated": share(calibrated), "net benefit": number(found.net_benefit, 3)}
        values = pd.DataFrame({"score": told.keys(), "value": told.values()})
        charts = (
            self.roc.svg(1 - found.specificity.value, found.sensitivity.value),
            self.benefit.svg(calibrated, found.net_benefit),
        )
        shown = "".join([html_table(matrix), html_table(values, index=False), *charts])
        self.shown.value = f'<div class="review-table review-threshold">{shown}</div><p class="review-told">{_LEGEND}</p>'


class _Chart:
    """A line chart over [0, 1] as SVG, whose point moves without drawing the rest anew."""

    def __init__(self, x: str, y: str, low: float, high: float) -> None:
        self.names, self.low, self.high = (x, y), low, high
        self.drawn = (
            f'<path class="axes" d="M0 0V{_SIDE}H{_SIDE}"/><text x="{_SIDE / 2}" y="{_SIDE + 30}">{x}</text>'
            f'<text x="0" y="{_SIDE + 15}">0</text><text x="{_SIDE}" y="{_SIDE + 15}">1</text>'
            f'<text x="-18" y="8">{number(high)}</text><text x="-18" y="{_SIDE}">{number(low)}</text>'
            f'<text transform="translate(-26 {_SIDE / 2}) rotate(-90)">{y}</text>'
        )

    def line(self, x: ArrayLike, y: ArrayLike, low: ArrayLike = (), high: ArrayLike = (), kind: str = "curve") -> None:
        """A line where both numbers are known; low, high: its band. kind: a class of the style."""
        if band := [*self._points(x, low), *self._points(x, high)[::-1]]:
            self.drawn += f'<polygon class="band" points="{" ".join(band)}"/>'
        self.drawn += f'<polyline class="{kind}" points="{" ".join(self._points(x, y))}"/>'

    def svg(self, x: float, y: float) -> str:
        """The chart with its point, where that is a number."""
        told = f"{self.names[0]} {number(x)}, {self.names[1]} {number(y, 3)}"
        dot = "".join(f'<circle r="5" transform="translate({point})"/>' for point in self._points([x], [y]))
        size = f'viewBox="-40 -6 {_SIDE + 50} {_SIDE + 44}" role="img" aria-label="{told}"'
        return f'<svg class="review-chart" {size}>{self.drawn}{dot}</svg>'

    def _points(self, x: ArrayLike, y: ArrayLike) -> list[str]:
        down = (self.high - np.clip(np.asarray(y, float), self.low, self.high)) / (self.high - self.low)
        return [f"{_SIDE * a:.1f},{_SIDE * b:.1f}" for a, b in zip(x, down, strict=False) if np.isfinite(a + b)]
