"""Figures about classifiers: curves with bands, decisions, calibration, cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.plots.pictures import case_panel, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, bare, integer_ticks, model_colours, new_figure, styled
from thyroid_utils.scores.labels import confusion_counts
from thyroid_utils.scores.probabilities import reliability_table
from thyroid_utils.studies.classifier_comparison import ClassifierComparison


@styled
def roc_and_pr(comparison: ClassifierComparison, shaded: int = 2, resamples: int = 500) -> Figure:
    """ROC and precision-recall curves on test, means over runs; the best `shaded` models with 95 % bands.

    Args:
        comparison: runs on one split, or on random subsets.
        shaded: how many bands are drawn: more would hide one another.
        resamples: of the bootstrap behind a band.
    """
    figure, axes = new_figure(1, 2, 4.3)
    colours = model_colours(comparison.models)
    held = pd.concat(comparison.predictions(comparison.models[0]))
    order = comparison.estimates(["auc"], resamples=resamples)["auc"]
    for rank, (model, estimate) in enumerate(order.items()):
        for place, kind in zip(axes[0], ("roc", "pr"), strict=True):
            band = comparison.curve(model, kind, resamples)
            x, y = band.columns[:2]
            label = f"{model}, AUC {estimate.text(2)}" if kind == "roc" else None
            place.plot(band[x], band[y], color=colours[model], linewidth=1.8, label=label)
            if rank < shaded:
                place.fill_between(band[x], band["low"], band["high"], color=colours[model], alpha=0.15, linewidth=0)
    axes[0, 0].plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1)
    axes[0, 1].axhline(held["label"].mean(), color=NEUTRAL, linestyle=":", linewidth=1)
    axes[0, 0].set(
        xlabel="1 − specificity", ylabel="sensitivity", title=f"ROC ({comparison.tested})", xlim=(0, 1), ylim=(0, 1.01)
    )
    title = f"Precision-recall (dotted: chance, {held['label'].mean():.2f})"
    axes[0, 1].set(xlabel="sensitivity (recall)", ylabel="precision", title=title, xlim=(0, 1), ylim=(0, 1.01))
    figure.legend(loc="outside lower left", ncols=2)
    return figure


@styled
def training_curves(comparison: ClassifierComparison) -> Figure:
    """Training (dashed) and validation (solid) loss, and validation AUC, by epoch; one line a run, a dot at the epoch kept."""
    models = comparison.models
    figure, axes = new_figure(2, len(models), 4.2, sharex="col", sharey="row")
    colours = model_colours(models)
    for column, model in enumerate(models):
        for run in comparison.runs[model]:
            history = run.history
            axes[0, column].plot(history.index, history["train_loss"], "--", color=NEUTRAL, linewidth=1, alpha=0.8)
            axes[0, column].plot(history.index, history["val_loss"], color=colours[model], linewidth=1.5)
            axes[1, column].plot(history.index, history["val_auc"], color=colours[model], linewidth=1.5)
            axes[1, column].plot([run.best_epoch], [history["val_auc"].loc[run.best_epoch]], "o", color=colours[model])
        axes[0, column].set_title(model)
        axes[1, column].set_xlabel("epoch")
        axes[1, column].axhline(0.5, color=NEUTRAL, linestyle=":", linewidth=1)
        integer_ticks(axes[1, column], "x")
    axes[0, 0].set_ylabel("loss\n(dashed: training)")
    axes[1, 0].set_ylabel("validation AUC")
    return figure


@styled
def confusion_matrices(comparison: ClassifierComparison) -> Figure:
    """Counts on test of each model's first run, at the threshold chosen on validation."""
    models = comparison.models
    figure, axes = new_figure(1, len(models), 2.9)
    for place, model in zip(axes[0], models, strict=True):
        found = comparison.decisions(model)
        threshold = float(found["threshold"].iloc[0])
        counts = confusion_counts(found["label"], found["probability"], threshold)
        table = np.array(
            [[counts["true_negatives"], counts["false_positives"]], [counts["false_negatives"], counts["true_positives"]]]
        )
        bare(place).imshow(table / table.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.4)
        for (row, column), count in np.ndenumerate(table):
            place.text(column, row, count, ha="center", va="center", fontsize=13)
        place.set_xticks([0, 1], ["benign", "malignant"], fontsize=8.5)
        place.set_yticks(
            [0, 1], ["benign", "malignant"] if place is axes[0, 0] else ["", ""], fontsize=8.5, rotation=90, va="center"
        )
        place.set(xlabel="called", title=f"{model}\nthreshold {threshold:.2f}")
    axes[0, 0].set_ylabel("truth")
    return figure


@styled
def reliability(comparison: ClassifierComparison, bins: int = 8) -> Figure:
    """Predicted probability against the share that is malignant on test, before and after temperature scaling."""
    models = comparison.models
    figure, axes = new_figure(1, len(models), 3.0, sharey=True)
    for place, model in zip(axes[0], models, strict=True):
        for found, colour, name in zip(comparison.calibrated(model), (NEUTRAL, ACCENT), ("as trained", "scaled"), strict=True):
            table = reliability_table(found["label"], found["probability"], bins)
            place.plot(table["predicted"], table["observed"], "o-", color=colour, markersize=4, linewidth=1.3, label=name)
        place.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1)
        temperatures = ", ".join(f"{value:.2g}" for value in comparison.temperatures[model])
        place.set(xlabel="predicted probability", title=f"{model}\nT = {temperatures}", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].set_ylabel("share malignant")
    axes[0, 0].legend(loc="upper left")
    return figure


def decided_cases(cases: pd.DataFrame, decisions: pd.DataFrame, *, right: bool, count: int = 8) -> Figure | None:
    """Test images that were called rightly or wrongly, the surest first, each with its probability; None where there is none.

    Args:
        cases: case table.
        decisions: of `ClassifierComparison.decisions`.
        right: which of them.
        count: pictures at most; errors are all shown where they are fewer.
    """
    chosen = decisions[decisions["right"] == right]
    surest = (chosen["probability"] - chosen["threshold"]).abs().sort_values(ascending=False, kind="stable").index[:count]
    panels = []
    for case in surest:
        row = decisions.loc[case]
        truth, called = ("malignant" if row[name] else "benign" for name in ("label", "called"))
        panels.append(case_panel(cases, case, f"{case}: {truth}\ncalled {called}, p = {row['probability']:.2f}"))
    return panel_grid(panels, 4) if panels else None
