"""What another threshold would change: calls, predictive values, the ROC point and net benefit."""

from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count, number, share
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.scores.curves import benefit_curve, roc_band
from thyroid_utils.studies.case_review import CaseSet
from thyroid_utils.studies.case_review.choices import AtThreshold, at_threshold
from thyroid_utils.workbook.review.shown import Shown

_WIDE = {"description_width": "104px"}
_WIDTH, _HEIGHT, _LEFT, _BELOW = 320, 250, 46, 36  # of a chart, and what its axes take of it


def threshold_panel(shown: Shown) -> widgets.Widget:
    """Sliders of threshold and prevalence of one classifier, with what follows from them."""
    return _Panel(shown).box


class _Panel:
    def __init__(self, shown: Shown) -> None:
        self.chosen: CaseSet | None = None
        layout = {"width": "min(100%, 560px)"}
        self.network = widgets.Dropdown(description="Classifier", style=_WIDE, layout=layout)
        ranges = {"min": 0.0, "max": 1.0, "step": 0.005, "readout_format": ".3f", "style": _WIDE, "layout": layout}
        self.threshold = widgets.FloatSlider(description="Threshold", **ranges)
        self.prevalence = widgets.FloatSlider(description="Prevalence", **ranges)
        self.back = widgets.Button(description="Back to validation's", tooltip="The threshold that was chosen on validation")
        self.shown = widgets.HTML()
        self.box = widgets.VBox([self.network, self.threshold, self.prevalence, self.back, self.shown])
        self.network.observe(lambda _: self._ask(), "value")
        for slider in (self.threshold, self.prevalence):
            slider.observe(lambda _: self._show(), "value")
        self.back.on_click(lambda _: self._reset())
        shown.observe(lambda _: self._choose(shown.chosen), "chosen")
        self._choose(shown.chosen)

    def _choose(self, chosen: CaseSet | None) -> None:
        self.chosen = chosen
        names = chosen.of_task("classification", "joint") if chosen else []
        for control in self.box.children[:-1]:
            control.layout.display = None if names else "none"
        self.shown.value = "" if names else "<p>No classifier was tested on these images.</p>" * bool(chosen)
        self.network.options, self.network.value = names, next(iter(names), None)

    def _ask(self) -> None:
        """Read another classifier's answers; its curves are drawn once."""
        if self.network.value is None:
            return
        self.table = self.chosen.table(self.network.value)
        truth, patients = self.table["label"].astype(int), self.table["patient"]
        try:
            roc = roc_band(truth, self.table["probability"], patients)
        except DataError:  # one class only
            roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity", "low", "high"], dtype=float)
        benefit = benefit_curve(truth, self.table["calibrated"], patients)
        self.roc = _Chart("1 − specificity", "sensitivity", (0, 1), (0, 1))
        self.roc.line(roc["false_positive_rate"], roc["sensitivity"], "curve", roc["low"], roc["high"])
        self.roc.line([0, 1], [0, 1], "dashed")
        top = max(0.05, float(truth.mean()))
        self.benefit = _Chart("probability from which one acts", "net benefit", (0, 1), (-0.3 * top, 1.05 * top))
        self.benefit.line(benefit["threshold"], benefit["net_benefit"], "curve", benefit["low"], benefit["high"])
        self.benefit.line(benefit["threshold"], benefit["treat_all"], "dashed")
        self.benefit.line([0, 1], [0, 0], "dotted")
        self.prevalence.value = float(truth.mean())
        self._reset()

    def _reset(self) -> None:
        """Of folds, which have a threshold each, their mean."""
        self.threshold.value = float(self.table["threshold"].mean())
        self._show()

    def _show(self) -> None:
        threshold = self.threshold.value
        calibrated = self.chosen.calibrate(self.network.value, threshold)
        found = at_threshold(self.table, threshold, self.prevalence.value, calibrated)
        roc = self.roc.svg(1 - found.specificity.value, found.sensitivity.value)
        benefit = self.benefit.svg(calibrated, found.net_benefit)
        self.shown.value = (
            f'<div class="review-threshold">{_matrix(found)}{_values(found, calibrated)}{roc}{benefit}</div>{_LEGEND}'
        )


def _matrix(found: AtThreshold) -> str:
    names = [LABEL_NAMES[label] for label in (0, 1)]
    head = "".join(f"<th scope=col>called {name}</th>" for name in names)
    cells = ["".join(f"<td>{images}</td>" for images in row) for row in found.matrix.tolist()]
    rows = "".join(f"<tr><th scope=row>{name}</th>{row}</tr>" for name, row in zip(names, cells, strict=True))
    caption = f"<caption>Confusion matrix, {count(found.matrix.sum(), 'image')}</caption>"
    return f'<table class="review-matrix">{caption}<tr><td></td>{head}</tr>{rows}</table>'


def _values(found: AtThreshold, calibrated: float) -> str:
    told = {
        "sensitivity": found.sensitivity.text(2),
        "specificity": found.specificity.text(2),
        "PPV at the prevalence": share(found.ppv),
        "NPV at the prevalence": share(found.npv),
        "calibrated threshold": share(calibrated),
        "net benefit": number(found.net_benefit, 3),
    }
    rows = "".join(f"<tr><th scope=row>{name}</th><td>{escape(value)}</td></tr>" for name, value in told.items())
    return f'<table class="review-values">{rows}</table>'


_LEGEND = (
    '<p class="review-told">Brackets and bands: 95 % intervals over patients. Dot: the threshold. Left, dashed: chance. Right: '
    "net benefit in true positives an image, of probabilities calibrated on validation, at the share of malignant images among "
    "these; dashed: act on all, dotted: on nobody. Predictive values hold where images of a class are like these.</p>"
)


class _Chart:
    """A line chart as SVG whose point moves without drawing the rest anew."""

    def __init__(self, x: str, y: str, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
        self.names, self.limits, self.parts = (x, y), (x_limits, y_limits), []

    def line(self, x: object, y: object, kind: str, low: object = (), high: object = ()) -> None:
        """Points where both numbers are known; kind: a class of the style; low, high: of a band."""
        known = ~np.isnan(np.asarray(low, float))
        if known.any():
            x_known = np.asarray(x, float)[known]
            there, back = (self._points(x_known, np.asarray(side, float)[known]) for side in (low, high))
            self.parts.append(f'<polygon class="band" points="{" ".join([*there, *back[::-1]])}"/>')
        self.parts.append(f'<polyline class="{kind}" points="{" ".join(self._points(x, y))}"/>')

    def svg(self, x: float, y: float) -> str:
        """The chart with its point, where that is a number."""
        (left, right), (low, high) = self.limits
        told = f"{self.names[0]} {number(x)}, {self.names[1]} {number(y, 3)}"
        point = self._points([x], [y])
        dot = "".join(f'<circle r="5" cx="{at.split(",")[0]}" cy="{at.split(",")[1]}"/>' for at in point)
        bottom, middle = _HEIGHT - _BELOW, (_HEIGHT - _BELOW) / 2
        ticks = "".join(
            f'<text x="{at.split(",")[0]}" y="{bottom + 14}" text-anchor="middle">{value:g}</text>'
            for value in (left, (left + right) / 2, right)
            for at in self._points([value], [low])
        )
        ticks += "".join(
            f'<text x="{_LEFT - 5}" y="{float(at.split(",")[1]) + 4:.1f}" text-anchor="end">{number(value)}</text>'
            for value in (low, (low + high) / 2, high)
            for at in self._points([left], [value])
        )
        names = f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{self.names[0]}</text>'
        names += f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{self.names[1]}</text>'
        frame = f'<path class="axes" d="M{_LEFT} 6V{bottom}H{_WIDTH - 8}"/>'
        size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{told}"'
        return f'<svg class="review-chart" {size}><title>{told}</title>{frame}{ticks}{names}{"".join(self.parts)}{dot}</svg>'

    def _points(self, x: object, y: object) -> list[str]:
        (left, right), (low, high) = self.limits
        across = _LEFT + (np.asarray(x, float) - left) / (right - left) * (_WIDTH - 8 - _LEFT)
        down = 6 + (high - np.clip(np.asarray(y, float), low, high)) / (high - low) * (_HEIGHT - _BELOW - 6)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True) if np.isfinite(a) and np.isfinite(b)]
