"""What the predictions of several classifiers on the same patients say together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit, stdtrit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count
from thyroid_utils.scores.comparisons import corrected_error, subset_comparison, subset_estimate
from thyroid_utils.scores.curves import auc_within, pr_band, roc_band
from thyroid_utils.scores.estimates import Comparison, Estimate, few_told, patient_scores, told_over_seeds
from thyroid_utils.scores.labels import LIMITS, choose_threshold, classification_scores
from thyroid_utils.scores.probabilities import fit_platt, fit_temperature
from thyroid_utils.scores.recipes import Influence, auc_influence, compare_recipes, mean_influence
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.tables import counted_patients, names_patients

MAIN_SCORES = ("auc", "accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy", "mcc")


@dataclass(frozen=True)
class ClassifierComparison(ComparedRuns):
    """Runs of classifiers by model or loss, on one split, in folds or on random subsets. Thresholds and temperatures come from
    validation; test is only ever scored."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "joint")
    score: ClassVar[str] = "auc"
    hopeless: ClassVar = all
    blind: ClassVar[str] = "chance"

    def class_sizes(self) -> pd.DataFrame:
        """`images` of each class (index: benign, malignant) on the first run's test side, and `patients` where the set names
        them."""
        classes = self.predictions(self.models[0])[0].groupby("label")
        sizes = classes.agg(images=("label", "size"), patients=("patient", "nunique")).set_axis(["benign", "malignant"])
        return sizes if names_patients(self.first) else sizes[["images"]]

    @property
    def tested_on(self) -> str:
        """What scores rest on, as `counted_patients`; of each of several subsets."""
        each = "" if self.one_split else f", in each of {count(self.trainings, 'subset')}"
        return counted_patients(self.first, self._sizes["test"], self._sizes["patients"]) + each

    @property
    def fewest(self) -> tuple[int, str]:
        """Test patients of the rarer class, for `few_told`; images, where the set names no patients."""
        sizes = self.class_sizes().iloc[:, -1]
        return sizes.min(), f"{sizes.idxmin()} test {sizes.name[:-1]}"

    @property
    def tested(self) -> str:
        """What scores rest on, as text for a caption: `n = 110 images`, or that of each of several subsets."""
        each = "" if self.one_split else f" in each of {count(self.trainings, 'subset')}"
        return f"n = {self._sizes['test']} images{each}"

    def predictions(self, model: str, split: str = "test") -> list[pd.DataFrame]:
        """One table a run: index `case`; `patient`, `label`, `probability` of malignancy, `log_odds`."""
        return [run.predictions[run.predictions["split"] == split] for run in self.runs[model]]

    @cached_property
    def thresholds(self) -> dict[str, list[float] | list[np.ndarray]]:
        """Model → the threshold of each run, by Youden's rule on validation; of folds that of each test image, by its fold's."""
        if self.folds:
            return {model: [found["threshold"].to_numpy() for found in self.predictions(model)] for model in self.runs}
        return {
            model: [choose_threshold(found["label"], found["probability"]) for found in self.predictions(model, "val")]
            for model in self.runs
        }

    @cached_property
    def temperatures(self) -> dict[str, list[float]]:
        """Model → the temperature of each run, fitted on validation; none of folds, whose probabilities are calibrated."""
        return {
            model: [fit_temperature(found["label"], found["log_odds"].to_numpy()) for found in self.predictions(model, "val")]
            for model in [*self.runs] * (not self.folds)
        }

    @cached_property
    def truth(self) -> pd.DataFrame:
        """`patient` and `label` of the common test images. Raises DataError where the runs have different ones."""
        if not self.one_split:
            raise DataError("comparison: the runs were tested on different subsets, so their images cannot be paired")
        return self.predictions(self.models[0])[0][["patient", "label"]]

    def probabilities(self, model: str) -> np.ndarray:
        """Probabilities of malignancy of the common test images, (seeds, n), in the order of `truth`."""
        return np.stack([found.loc[self.truth.index, "probability"] for found in self.predictions(model)])

    def answers(self, model: str) -> tuple[pd.Series, np.ndarray, pd.Series]:
        """Labels (n,), `probabilities` (seeds, n) and patients (n,) of the common test images that a model answers."""
        return self.truth["label"], self.probabilities(model), self.truth["patient"]

    def estimates(self, scores: Sequence[str] = MAIN_SCORES, *, fixed: bool = False) -> pd.DataFrame:
        """Each score of each model on test, an `Estimate`; best AUC first.

        On one split it is the mean over seeds with an interval over patients, on random subsets the mean over subsets
        with Nadeau and Bengio's interval.

        Args:
            scores: names of `scores.labels.SCORES`.
            fixed: True scores decisions at 0.5 instead of the threshold chosen on validation; in folds, whose probabilities are
                calibrated on validation, at 0.5 of what the networks say without that.
        """
        wanted = ["auc", *(name for name in scores if name != "auc")]
        by_run = None if self.one_split else self.by_run(wanted, fixed=fixed).groupby("model")
        rows = {}
        for model in self.models:
            if by_run is None:
                rows[model] = patient_scores(*self.answers(model), wanted, self._cuts(model, fixed))
            else:
                values = by_run.get_group(model)
                rows[model] = {
                    name: subset_estimate(values[name], **self._sizes, limits=LIMITS.get(name, (0, 1))) for name in wanted
                }
        best = sorted(rows, key=lambda model: rows[model]["auc"].value, reverse=True)
        return pd.DataFrame.from_dict(rows, orient="index")[list(scores)].loc[best].rename_axis("model")

    def _cuts(self, model: str, fixed: bool) -> list[float] | list[np.ndarray]:
        """`thresholds` of a model, or what calls images as 0.5 does: in folds by the network's own log-odds, image by image."""
        if not fixed:
            return self.thresholds[model]
        tables = self.predictions(model)
        return [np.where(found["own_log_odds"] >= 0, 0, np.inf) if self.folds else 0.5 for found in tables]

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Images that a run is trained and tested on, and patients that it is tested on; means over subsets."""
        images = pd.DataFrame([run.data["images"] for run in self.runs[self.models[0]]]).mean().round().astype(int)
        patients = np.mean([found["patient"].nunique() for found in self.predictions(self.models[0])])
        return {"train": int(images["train"]), "test": int(images["test"]), "patients": round(patients)}

    def by_run(self, scores: Sequence[str] = MAIN_SCORES, *, fixed: bool = False) -> pd.DataFrame:
        """Each score of each run on its own test images: `model`, `run` (seed or subset, from 0) and the scores; `fixed` as in
        `estimates`."""
        rows = []
        for model in self.runs:
            for number, (found, threshold) in enumerate(zip(self.predictions(model), self._cuts(model, fixed), strict=True)):
                values = classification_scores(found["label"], found["probability"], threshold)
                rows.append({"model": model, "run": number, **{name: values[name] for name in scores}})
        return pd.DataFrame(rows)

    def spread(self) -> pd.DataFrame:
        """Mean ± SD of each score over the runs of each model, as text, best AUC first."""
        runs = self.by_run().set_index("run").groupby("model")
        best = runs["auc"].mean().sort_values(ascending=False).index
        return runs.agg(lambda values: told_over_seeds(values, 3)).loc[best]

    def pairs(self, score: str = "auc") -> pd.DataFrame:
        """Every pair of models by "auc" or "accuracy", as `ComparedRuns.paired`. Two models of which validation shows neither
        above chance get no verdict."""
        return self.paired(self.compared(score))

    def compared(self, score: str = "auc") -> Callable[[str, str], Comparison]:
        """What compares two models by "auc" or "accuracy": on one split `compare_recipes`, on random subsets, and over folds
        where `fold_by_fold`, the corrected resampled t-test."""
        if self.fold_by_fold:
            return self.over_folds(score)
        if not self.one_split:
            values = self.by_run([score]).groupby("model")[score]
            return lambda *pair: subset_comparison(*map(values.get_group, pair), **self._sizes)
        influences = {model: self._influence(model, score) for model in self.runs}
        return lambda one, two: compare_recipes(influences[one], influences[two], self.truth["patient"], most=1)

    def _influence(self, model: str, score: str) -> Influence:
        labels, probabilities = self.truth["label"].to_numpy(int), self.probabilities(model)
        if score == "auc":
            return auc_influence(labels, probabilities)
        return mean_influence((probabilities >= np.reshape(self.thresholds[model], (len(probabilities), -1))) == labels)

    @cached_property
    def untrained(self) -> list[str]:
        """The models whose AUC on validation is not shown to be above chance."""
        return [model for model, auc in self._validated.items() if not auc.low > 0.5]

    @property
    def unclear(self) -> dict[str, Estimate]:
        """As `ComparedRuns.unclear`: an AUC without an interval."""
        return {model: self._validated[model] for model in self.untrained if np.isnan(self._validated[model].low)}

    @cached_property
    def _validated(self) -> dict[str, Estimate]:
        """Model → its AUC on validation."""
        return {model: self._validation_auc(model) for model in self.runs}

    def _validation_auc(self, model: str) -> Estimate:
        tables = self.predictions(model, "val")
        if not self.one_split:
            return subset_estimate([run.metrics["val"]["auc"] for run in self.runs[model]], **self._sizes)
        if self.folds:
            return _within([[run.predictions.query("split == 'val'") for run in whole.folds] for whole in self.runs[model]])
        rows = np.stack([table.loc[tables[0].index, "probability"] for table in tables])
        return patient_scores(tables[0]["label"], rows, tables[0]["patient"], "auc")["auc"]

    def nested(self) -> Estimate:
        """As `ComparedRuns.nested`: the AUC of all, calibrated fold by fold."""
        found = self._by_preferred(self.probabilities)
        return patient_scores(self.truth["label"], found, self.truth["patient"], "auc")["auc"]

    def curve(self, model: str, kind: str, resamples: int = 1000) -> pd.DataFrame:
        """A model's mean curve on test with its pointwise 95 % band: over patients, or on random subsets by the corrected error.

        Args:
            kind: "roc" (false_positive_rate, sensitivity) or "pr" (recall, precision).
            resamples: of the bootstrap over patients.

        Returns:
            DataFrame: the two columns named, then low and high.
        """
        band = {"roc": roc_band, "pr": pr_band}[kind]
        if self.one_split:
            return band(*self.answers(model), resamples=resamples)
        tables = [band(found["label"], found["probability"], found["patient"], resamples=1) for found in self.predictions(model)]
        x, y = tables[0].columns[:2]
        curves = np.stack([table[y] for table in tables])
        value = curves.mean(axis=0)
        reach = stdtrit(len(curves) - 1, 0.975) * corrected_error(curves, self._sizes["train"], self._sizes["test"])
        low, high = np.clip(value - reach, 0, 1), np.clip(value + reach, 0, 1)
        return pd.DataFrame({x: tables[0][x], y: value, "low": low, "high": high})

    def calibrated(self, model: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Test labels and probabilities of all runs of a model, before and after the temperature fitted on validation; of folds
        before and after the calibration of each."""
        before = pd.concat(self.predictions(model))
        if self.folds:
            return before.assign(probability=expit(before["own_log_odds"])), before
        scaled = [
            found.assign(probability=expit(found["log_odds"] / temperature))
            for found, temperature in zip(self.predictions(model), self.temperatures[model], strict=True)
        ]
        return before, pd.concat(scaled)

    def decisions(self, model: str) -> pd.DataFrame:
        """The first run's test images: `patient`, `label`, `probability`, `called` (1 malignant), `right`, the threshold, and
        `calibrated`, the probability by slope and intercept fitted on validation (`fit_platt`), as training may weigh classes."""
        found, threshold = self.predictions(model)[0], self.thresholds[model][0]
        called = (found["probability"] >= threshold).astype(int)
        if self.folds:
            calibrated = found["probability"]
        else:
            known = self.predictions(model, "val")[0]
            calibrated = fit_platt(known["label"], known["log_odds"])(found["log_odds"])
        return found.assign(called=called, right=called == found["label"], threshold=threshold, calibrated=calibrated)

    def auc_of_first(self, model: str) -> Estimate:
        """AUC on test of the first run of a model, whose maps, errors and findings are looked at."""
        found = self.predictions(model)[0]
        return patient_scores(found["label"], found["probability"], found["patient"], "auc")["auc"]

    def banner_of(self, model: str) -> str:
        """Warnings, in markdown, for who looks at the first run of a model: not shown to be above chance, and few patients."""
        return "\n\n".join(filter(None, [banner(model, self.auc_of_first(model)), few_told(*self.fewest, score=self.score)]))

    def by_fold(self, model: str, score: str) -> np.ndarray:
        """As `ComparedRuns.by_fold`; an AUC is that of the fold's network as it is, not calibrated."""
        odds = "own_log_odds" if score == "auc" else "log_odds"
        folds = [[own for _, own in found.groupby("fold")] for found in self.predictions(model)]
        return np.array(
            [[classification_scores(own["label"], expit(own[odds]), own["threshold"])[score] for own in row] for row in folds]
        )

    def within_folds(self, model: str) -> Estimate:
        """The mean over folds of a model's AUC, each of its own network alone, with its interval over patients."""
        return _within([[own for _, own in found.groupby("fold")] for found in self.predictions(model)])

    def pooling(self, estimates: pd.DataFrame) -> str:
        """What a score of all folds takes for granted, with the AUC that does not, as a sentence; empty without folds."""
        if not self.folds:
            return ""
        model = self.chosen
        pooled, within = (found.text(2) for found in (estimates.at[model, "auc"], self.within_folds(model)))
        return (
            f"Every patient is tested once, by a network trained without them. The AUC of all, {pooled} of {model}, rests on one "
            f"scale for the networks of {self.folds} folds, each calibrated by its own validation; the mean of the AUCs within "
            f"folds, which needs none, is {within}."
        )


def _within(tables: Sequence[Sequence[pd.DataFrame]]) -> Estimate:
    """`auc_within` of tables (seeds, folds) of predictions: the same images, ranked by their network's own log-odds."""
    first = pd.concat(tables[0])
    name = "own_log_odds" if "own_log_odds" in first else "log_odds"
    scores = [np.concatenate([own.loc[same.index, name] for own, same in zip(row, tables[0], strict=True)]) for row in tables]
    return auc_within(first["label"], scores, first["patient"], np.repeat(range(len(tables[0])), list(map(len, tables[0]))))


def chance_told(auc: Estimate) -> str:
    """Whether an AUC is above chance, to follow the number in a sentence; withheld where it has no interval."""
    if np.isnan(auc.low):
        return "without an interval, so that this run cannot say whether it is above chance"
    if auc.high < 0.5:
        return "below chance"
    return "above chance" if auc.low > 0.5 else "not shown to be above chance"


def banner(model: str, auc: Estimate) -> str:
    """Why nothing rests on a classifier's maps, errors and findings, in markdown: its AUC on test is not shown to be above
    chance; "" where it is."""
    if auc.low > 0.5:
        return ""
    told = f"> **No verdict on {model}.** Its AUC on test is {auc.text()}, {chance_told(auc)}"
    nothing = "" if np.isnan(auc.low) else ": of a network that has learnt nothing neither maps nor errors show anything"
    return f"{told}{nothing}."
