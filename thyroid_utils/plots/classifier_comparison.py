"""Figures of the classifier comparison: curves with bands, decisions, calibration, cases."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_curve

from thyroid_utils.common.words import listed, number
from thyroid_utils.data.table import LABEL_NAMES
from thyroid_utils.plots.charts import band
from thyroid_utils.plots.pictures import case_panel, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, below, integer_ticks, model_colours, new_figure, new_panels, styled
from thyroid_utils.scores.labels import predictive_values
from thyroid_utils.scores.probabilities import at_bound, reliability_table
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis.subgroups import of_each_class

COSTS = {"parameters": "parameters, millions", "images_per_second": "training, images/s"}
_DOTTED = {"color": NEUTRAL, "linestyle": ":", "linewidth": 1}


def _in_lines(model: str) -> str:
    """A recipe's name with its start and its options on a line of their own."""
    return model.replace(" (", "\n(")


@styled
def roc_and_pr(comparison: ClassifierComparison, resamples: int = 500) -> Figure:
    """ROC and precision-recall curves on test, means over runs; the two best models with 95 % bands, as more would hide one
    another."""
    figure, axes = new_panels(2, 4.3)
    colours = model_colours(comparison.models)
    malignant = pd.concat(comparison.predictions(comparison.models[0]))["label"].mean()
    order = comparison.estimates(["auc"])["auc"]
    for rank, (model, estimate) in enumerate(order.items()):
        for place, kind in zip(axes, ("roc", "pr"), strict=True):
            found = comparison.curve(model, kind, resamples).to_numpy().T
            x, y, low, high = found if rank < 2 else (*found[:2], found[1], found[1])
            band(place, x, y, low, high, colours[model], label=f"{model}, AUC {estimate.text(2)}")
    axes[0].plot([0, 1], [0, 1], **_DOTTED)
    axes[1].axhline(malignant, **_DOTTED)
    axes[0].set(xlabel="1 − specificity", ylabel="sensitivity", title=f"ROC ({comparison.tested})")
    title = f"Precision-recall (dotted: chance, {malignant:.2f})"
    axes[1].set(xlabel="sensitivity (recall)", ylabel="precision", title=title)
    for place in axes:
        place.set(xlim=(0, 1), ylim=(0, 1.01))
    below(figure, axes[0], ncols=2)
    return figure


@styled
def training_curves(comparison: ClassifierComparison) -> Figure:
    """Training (dashed) and validation (solid) loss, and validation AUC, by epoch; one line a run, a dot at the epoch kept."""
    figure, axes = new_figure(2, len(comparison.models), 4.2, sharex="col", sharey="row")
    colours = model_colours(comparison.models)
    for (loss, auc), (model, runs) in zip(axes.T, comparison.runs.items(), strict=True):
        for run in (fold for training in runs for fold in training.folds):
            history, best = run.history, run.best_epoch
            loss.plot(history.index, history["train_loss"], "--", color=NEUTRAL, linewidth=1, alpha=0.8)
            loss.plot(history.index, history["val_loss"], color=colours[model], linewidth=1.5)
            auc.plot(history.index, history["val_auc"], color=colours[model], linewidth=1.5)
            auc.plot([best], [history["val_auc"].loc[best]], "o", color=colours[model])
        loss.set_title(_in_lines(model), fontsize=9)
        auc.set_xlabel("epoch")
        auc.axhline(0.5, **_DOTTED)
        integer_ticks(auc, "x")
    axes[0, 0].set_ylabel("loss\n(dashed: training)")
    axes[1, 0].set_ylabel("validation AUC")
    return figure


@styled
def confusion_matrices(comparison: ClassifierComparison) -> Figure:
    """Counts on test of each model's first run, at the threshold chosen on validation."""
    figure, axes = new_panels(len(comparison.models), 2.9)
    for place, model in zip(axes, comparison.models, strict=True):
        found = comparison.decisions(model)
        counts = confusion_matrix(found["label"], found["called"], labels=[0, 1])
        cuts = " to ".join(dict.fromkeys(f"{cut:.2f}" for cut in (found["threshold"].min(), found["threshold"].max())))
        _matrix(place, counts, f"{_in_lines(model)}\nthreshold {cuts}")
    axes[0].set_ylabel("truth")
    return figure


@styled
def threshold_moved(decisions: pd.DataFrame, threshold: float = 0.5, prevalence: float = 0.1) -> Figure:
    """What a threshold does: its point on the ROC curve, the counts on test, and what becomes of 1000 images of which the share
    `prevalence` is malignant, with the predictive values.

    Args:
        decisions: of `ClassifierComparison.decisions`.
    """
    truth, called = decisions["label"].astype(int), (decisions["probability"] >= threshold).astype(int)
    counts = confusion_matrix(truth, called, labels=[0, 1])
    specificity, sensitivity = counts.diagonal() / counts.sum(axis=1)
    figure, (curve, matrix, people) = new_panels(3, 3.4)
    curve.plot(*roc_curve(truth, decisions["probability"])[:2], color=NEUTRAL)
    curve.plot([0, 1], [0, 1], **_DOTTED)
    curve.plot([1 - specificity], [sensitivity], "o", color=ACCENT, markersize=9)
    curve.set(xlabel="1 − specificity", ylabel="sensitivity")
    curve.set_title(f"sensitivity {sensitivity:.2f}, specificity {specificity:.2f}", fontsize=9)
    _matrix(matrix, counts, f"on test, threshold {threshold:.2f}")
    thousand = 1000 * counts / counts.sum(axis=1, keepdims=True) * [[1 - prevalence], [prevalence]]
    positive, negative = predictive_values(sensitivity, specificity, prevalence)
    title = f"of 1000, {100 * prevalence:.0f} % malignant:\nPPV {number(positive, 2)}, NPV {number(negative, 2)}"
    _matrix(people, thousand.round().astype(int), title)
    matrix.set_ylabel("truth")
    return figure


def _matrix(place: Axes, counts: np.ndarray, title: str) -> None:
    """Counts [[benign called benign, …], …], coloured by their share of the row's class."""
    classes, look = ("benign", "malignant"), {"cmap": "Blues", "cbar": False, "square": True}
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    sns.heatmap(shares, annot=counts, fmt="d", vmin=0, vmax=1.4, xticklabels=classes, yticklabels=classes, ax=place, **look)
    place.set(xlabel="called")
    place.set_title(title, fontsize=9)


@styled
def reliability(comparison: ClassifierComparison) -> Figure:
    """Predicted probability against the share that is malignant on test, before and after temperature scaling, or that of each
    fold by slope and intercept."""
    figure, axes = new_panels(len(comparison.models), 3.0, sharey=True)
    for place, model in zip(axes, comparison.models, strict=True):
        for found, colour, name in zip(comparison.calibrated(model), (NEUTRAL, ACCENT), ("as trained", "scaled"), strict=True):
            table = reliability_table(found["label"], found["probability"], 8).dropna()
            place.plot(table["predicted"], table["observed"], "o-", color=colour, markersize=4, linewidth=1.3, label=name)
        place.plot([0, 1], [0, 1], **_DOTTED)
        found = comparison.temperatures.get(model, [])
        temperatures = listed(f"{value:.2g}{' (its bound)' * at_bound(value)}" for value in found)
        how = f"T = {temperatures}" if found else "each fold's own slope and intercept"
        place.set(xlabel="predicted probability", xlim=(0, 1), ylim=(0, 1))
        place.set_title(f"{_in_lines(model)}\n{how}", fontsize=9)
    axes[0].set_ylabel("share malignant")
    axes[0].legend(loc="upper left")
    return figure


def decided_cases(cases: pd.DataFrame, decisions: pd.DataFrame, *, right: bool, count: int = 8) -> Figure | None:
    """Test images that were called rightly or wrongly, of both classes in turn, each with its probability: of the right ones the
    truth most probable first, of the wrong ones least; None where there is none.

    Args:
        cases: case table.
        decisions: of `ClassifierComparison.decisions`.
        right: which of them.
        count: pictures at most.
    """
    panels = []
    for case, row in of_each_class(decisions[decisions["right"] == right], count, surest=right).iterrows():
        truth, called = (LABEL_NAMES[int(row[name])] for name in ("label", "called"))
        panels.append(case_panel(cases, case, f"{case}: {truth}\ncalled {called}, p = {row['probability']:.2f}"))
    return panel_grid(panels)
