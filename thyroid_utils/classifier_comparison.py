"""Several classifiers on the same patients: which runs a comparison needs, and what their predictions say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.config import RunConfig
from thyroid_utils.data.errors import DataError
from thyroid_utils.metrics import apply_temperature, choose_threshold, classification_scores, fit_temperature
from thyroid_utils.models import parameter_count
from thyroid_utils.runs import Run
from thyroid_utils.statistics import Estimate, compare_models, patient_bootstrap_scores, seed_summary

MAIN_SCORES = ("auc", "accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy", "mcc")


def comparison_configs(
    models: Sequence[str], seeds: Sequence[int], common: Mapping[str, Any], *, weights: str = "none", subsets: int = 0
) -> list[RunConfig]:
    """One config a model and seed, equal in all else.

    Args:
        models: names of `models.CLASSIFIERS` or `timm:NAME`.
        seeds: of the training; with `subsets` only the first is used.
        common: the other fields of `RunConfig`.
        weights: what every model starts from.
        subsets: 0 for one fixed split; else so many repeated random subsets, each trained once.

    Raises:
        ConfigError: a field that cannot be.
    """
    split = dict(common.get("split", {}))
    if subsets:
        plans = [(seeds[0], {**split, "repeat": repeat}) for repeat in range(subsets)]
    else:
        plans = [(seed, split) for seed in seeds]
    return [
        RunConfig(**{**common, "model": {"name": name, "weights": weights}, "split": plan, "seed": seed})
        for name in models
        for seed, plan in plans
    ]


@dataclass(frozen=True)
class ClassifierComparison:
    """The runs of a comparison, by model. Thresholds and temperatures come from validation; test is only ever scored.

    `runs`: model → its runs, as many for each model and in the same order of seeds or subsets.
    """

    runs: dict[str, list[Run]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> ClassifierComparison:
        """Group finished runs by their model. Raises DataError where models were not trained on the same splits."""
        grouped: dict[str, list[Run]] = {}
        for run in runs:
            grouped.setdefault(run.config.model.name, []).append(run)
        splits = {tuple(run.data["split_hash"] for run in found) for found in grouped.values()}
        if len(splits) > 1:
            raise DataError(
                "comparison: the models were trained on different splits; give every model the same seeds and subsets"
            )
        return cls(grouped)

    @property
    def models(self) -> list[str]:
        return list(self.runs)

    @cached_property
    def chosen(self) -> str:
        """The model with the highest mean AUC on validation: test images have no say in it."""
        scores = {
            model: np.mean([classification_scores(found["label"], found["probability"])["auc"] for found in tables])
            for model, tables in ((model, self.predictions(model, "val")) for model in self.runs)
        }
        return max(scores, key=scores.get)

    @property
    def one_split(self) -> bool:
        """Whether all runs share one split, so that their test images are the same."""
        return len({run.data["split_hash"] for found in self.runs.values() for run in found}) == 1

    def predictions(self, model: str, split: str = "test") -> list[pd.DataFrame]:
        """One table a run: index `case`; `patient`, `label`, `probability` of malignancy, `log_odds`."""
        return [run.predictions[run.predictions["split"] == split] for run in self.runs[model]]

    @cached_property
    def thresholds(self) -> dict[str, list[float]]:
        """Model → the threshold of each run, by Youden's rule on validation."""
        return {
            model: [choose_threshold(found["label"], found["probability"]) for found in self.predictions(model, "val")]
            for model in self.runs
        }

    @cached_property
    def temperatures(self) -> dict[str, list[float]]:
        """Model → the temperature of each run, fitted on validation."""
        return {
            model: [fit_temperature(found["label"], found["log_odds"].to_numpy()) for found in self.predictions(model, "val")]
            for model in self.runs
        }

    def truth(self) -> pd.DataFrame:
        """`patient` and `label` of the common test images. Raises DataError where the runs have different ones."""
        if not self.one_split:
            raise DataError("comparison: the runs were tested on different subsets, so their images cannot be paired")
        return self.predictions(self.models[0])[0][["patient", "label"]]

    def probabilities(self, model: str) -> np.ndarray:
        """Probabilities of malignancy of the common test images, (seeds, n), in the order of `truth`."""
        order = self.truth().index
        return np.stack([found.loc[order, "probability"] for found in self.predictions(model)])

    def estimates(self, scores: Sequence[str] = MAIN_SCORES, *, fixed: bool = False, resamples: int = 2000) -> pd.DataFrame:
        """Each score of each model on test, an `Estimate` over patients of the mean over seeds; best AUC first.

        Args:
            scores: names of `metrics.SCORES`.
            fixed: True scores decisions at 0.5 instead of the threshold chosen on validation.
            resamples: of the bootstrap.
        """
        truth = self.truth()
        rows = {
            model: patient_bootstrap_scores(
                truth["label"], self.probabilities(model), truth["patient"], ["auc", *(name for name in scores if name != "auc")],
                0.5 if fixed else self.thresholds[model], resamples=resamples,
            )
            for model in self.runs
        }  # fmt: skip
        table = pd.DataFrame.from_dict(rows, orient="index")[list(scores)]
        best = sorted(rows, key=lambda model: rows[model]["auc"].value, reverse=True)
        return table.loc[best].rename_axis("model")

    def by_run(self, scores: Sequence[str] = MAIN_SCORES) -> pd.DataFrame:
        """Each score of each run on its own test images: `model`, `run` (seed or subset) and the scores."""
        rows = []
        for model in self.runs:
            for number, (found, threshold) in enumerate(zip(self.predictions(model), self.thresholds[model], strict=True)):
                values = classification_scores(found["label"], found["probability"], threshold)
                rows.append({"model": model, "run": number, **{name: values[name] for name in scores}})
        return pd.DataFrame(rows)

    def spread(self, scores: Sequence[str] = MAIN_SCORES) -> pd.DataFrame:
        """Mean ± SD of each score over the runs of each model, as text, best AUC first."""
        table = self.by_run(tuple(dict.fromkeys(["auc", *scores])))
        order = table.groupby("model")["auc"].mean().sort_values(ascending=False).index
        rows = {
            model: {name: seed_summary(table.loc[table["model"] == model, name]).text(3) for name in scores} for model in order
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def pairs(self) -> pd.DataFrame:
        """Every pair of models compared over patients, after Holm: `statistics.compare_models`."""
        truth = self.truth()
        probabilities = {model: self.probabilities(model) for model in self.runs}
        return compare_models(truth["label"], probabilities, truth["patient"], self.thresholds)

    def calibrated(self, model: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Test labels and probabilities of all runs of a model, before and after the temperature fitted on validation."""
        before = pd.concat(self.predictions(model))
        scaled = [
            found.assign(probability=apply_temperature(found["probability"], temperature))
            for found, temperature in zip(self.predictions(model), self.temperatures[model], strict=True)
        ]
        return before, pd.concat(scaled)

    def decisions(self, model: str) -> pd.DataFrame:
        """The first run's test images: `patient`, `label`, `probability`, `called` (1 malignant), `right`, and the threshold."""
        found, threshold = self.predictions(model)[0], self.thresholds[model][0]
        called = (found["probability"] >= threshold).astype(int)
        return found.assign(called=called, right=called == found["label"], threshold=threshold)

    def costs(self) -> pd.DataFrame:
        """`parameters` (millions), `images_per_second` in training, `weights` it started from; a row a model."""
        rows = {}
        for model, found in self.runs.items():
            rates = [run.environment.get("images_per_second", np.nan) for run in found]
            rows[model] = {
                "parameters": parameter_count(found[0].load_model()) / 1e6,
                "images_per_second": float(np.mean(rates)),
                "weights": found[0].data["weights"],
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def estimate_table(estimates: pd.DataFrame, names: Mapping[str, str], digits: int = 3) -> pd.DataFrame:
    """A table of `Estimate`s as text, `value [low, high]`, its columns named by `names`."""
    return estimates.map(lambda value: value.text(digits) if isinstance(value, Estimate) else value).rename(columns=dict(names))
