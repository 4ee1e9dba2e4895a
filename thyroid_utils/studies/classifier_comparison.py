"""Several classifiers on the same patients: which runs a comparison needs, and what their predictions say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import t as student

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.models import parameter_count
from thyroid_utils.scores.comparisons import compare_models, corrected_error, holm, subset_comparison, subset_estimate
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap_scores, pr_band, roc_band, seed_summary
from thyroid_utils.scores.labels import choose_threshold, classification_scores
from thyroid_utils.scores.probabilities import fit_platt, fit_temperature
from thyroid_utils.studies.compare import check_recipes, leak_mark, options_of, short_labels, started_from
from thyroid_utils.training.ledger import Run

MAIN_SCORES = ("auc", "accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy", "mcc")


def comparison_configs(
    models: Sequence[str],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    subsets: int = 0,
) -> list[RunConfig]:
    """One config a model and seed, equal in all else.

    Args:
        models: names of `models.CLASSIFIERS` or `timm:NAME`.
        seeds: of the training; with `subsets` only the first is used.
        common: the other fields of `RunConfig`.
        weights: what every model starts from.
        options: model → options of its builder.
        subsets: 0 for one fixed split; else so many repeated random subsets, each trained once.

    Raises:
        ConfigError: a field that cannot be, or options of a model that is not compared.
    """
    split = dict(common.get("split", {}))
    if subsets:
        plans = [(seeds[0], {**split, "repeat": repeat}) for repeat in range(subsets)]
    else:
        plans = [(seed, split) for seed in seeds]
    return [
        RunConfig(
            **{
                **common,
                "model": {"name": name, "weights": weights, "options": own},
                "split": plan,
                "seed": seed,
            }
        )
        for name, own in options_of(models, options).items()
        for seed, plan in plans
    ]


@dataclass(frozen=True)
class ClassifierComparison:
    """The runs of a comparison, by model. Thresholds and temperatures come from validation; test is only ever scored.

    `runs`: model → its runs, as many for each model and in the same order of seeds or subsets.
    """

    runs: dict[str, list[Run]]

    @classmethod
    def of(cls, runs: Sequence[Run], key: str = "model") -> ClassifierComparison:
        """Group finished runs by `key`, "model" or "loss"; what is called model below is then a loss.

        Raises:
            DataError: models that were not trained on the same splits with the same seeds, or runs of one model that differ in
                more than seed and split.
        """
        grouped: dict[str, list[Run]] = {}
        for run in runs:
            grouped.setdefault(getattr(run.config, key).label, []).append(run)
        check_recipes(grouped)
        if len({tuple(run.config.seed for run in found) for found in grouped.values()}) > 1:
            raise DataError("comparison: the models were trained with different seeds; give every model the same ones")
        splits = {tuple(run.data["split_hash"] for run in found) for found in grouped.values()}
        if len(splits) > 1:
            raise DataError(
                "comparison: the models were trained on different splits; give every model the same seeds and subsets"
            )
        return cls(short_labels(grouped))

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

    @property
    def plan(self) -> str:
        """What the runs of a model differ in, as text for a caption: `3 training seeds` or `10 random subsets`."""
        count = len(self.runs[self.models[0]])
        kind = "training seed" if self.one_split else "random subset"
        return f"{count} {kind}{'' if count == 1 else 's'}{leak_mark(self.runs)}"

    @property
    def started(self) -> str:
        """What the models started from, as text for a caption: `all from scratch`, or each by its name."""
        return started_from(self.runs)

    def class_sizes(self) -> pd.DataFrame:
        """`images` and `patients` of each class (index: benign, malignant) on the first run's test side."""
        found = (
            self.predictions(self.models[0])[0].groupby("label").agg(images=("label", "size"), patients=("patient", "nunique"))
        )
        return found.set_axis(["benign", "malignant"])

    @property
    def tested(self) -> str:
        """What scores rest on, as text for a caption: `n = 110 images`, or that of each of several subsets."""
        each = "" if self.one_split else f" in each of {len(self.runs[self.models[0]])} subsets"
        return f"n = {self._sizes['test']} images{each}"

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
        """Each score of each model on test, an `Estimate`; best AUC first.

        On one split it is the mean over seeds with a bootstrap interval over patients, on random subsets the mean over subsets
        with Nadeau and Bengio's interval.

        Args:
            scores: names of `scores.labels.SCORES`.
            fixed: True scores decisions at 0.5 instead of the threshold chosen on validation.
            resamples: of the bootstrap.
        """
        wanted = ["auc", *(name for name in scores if name != "auc")]
        rows = self._over_patients(wanted, fixed, resamples) if self.one_split else self._over_subsets(wanted, fixed)
        table = pd.DataFrame.from_dict(rows, orient="index")[list(scores)]
        best = sorted(rows, key=lambda model: rows[model]["auc"].value, reverse=True)
        return table.loc[best].rename_axis("model")

    def _over_patients(self, scores: Sequence[str], fixed: bool, resamples: int) -> dict[str, dict[str, Estimate]]:
        truth = self.truth()
        return {
            model: patient_bootstrap_scores(
                truth["label"], self.probabilities(model), truth["patient"], scores,
                0.5 if fixed else self.thresholds[model], resamples=resamples,
            )
            for model in self.runs
        }  # fmt: skip

    def _over_subsets(self, scores: Sequence[str], fixed: bool) -> dict[str, dict[str, Estimate]]:
        table = self.by_run(scores, fixed=fixed).groupby("model")
        return {
            model: {
                name: subset_estimate(table.get_group(model)[name], **self._sizes, patients=self._patients) for name in scores
            }
            for model in self.runs
        }

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Images that a run is trained and tested on, the mean over subsets."""
        images = pd.DataFrame([run.data["images"] for run in self.runs[self.models[0]]]).mean().round().astype(int)
        return {side: int(images[side]) for side in ("train", "test")}

    @cached_property
    def _patients(self) -> int:
        """Patients tested in a run, the mean over subsets."""
        return round(np.mean([found["patient"].nunique() for found in self.predictions(self.models[0])]))

    def by_run(self, scores: Sequence[str] = MAIN_SCORES, *, fixed: bool = False) -> pd.DataFrame:
        """Each score of each run on its own test images: `model`, `run` (seed or subset, from 0) and the scores; `fixed` as in
        `estimates`."""
        rows = []
        for model in self.runs:
            for number, (found, threshold) in enumerate(zip(self.predictions(model), self.thresholds[model], strict=True)):
                values = classification_scores(found["label"], found["probability"], 0.5 if fixed else threshold)
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
        """Every pair of models compared, after Holm: over patients as `compare_models` describes, on random subsets
        by the corrected resampled t-test (the same columns, without counts of images). No row for a single model."""
        if len(self.runs) < 2:
            return pd.DataFrame()
        if not self.one_split:
            return self._pairs_over_subsets()
        truth = self.truth()
        probabilities = {model: self.probabilities(model) for model in self.runs}
        return compare_models(truth["label"], probabilities, truth["patient"], self.thresholds)

    def _pairs_over_subsets(self, level: float = 0.95) -> pd.DataFrame:
        table = self.by_run(["auc", "accuracy"]).groupby("model")
        rows = []
        for first, second in combinations(self.runs, 2):
            one, two = table.get_group(first), table.get_group(second)
            sizes = {**self._sizes, "patients": self._patients, "level": level}
            area, detectable = subset_comparison(one["auc"], two["auc"], **sizes)
            calls, _ = subset_comparison(one["accuracy"], two["accuracy"], **sizes)
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "auc_difference": area.difference,
                    "low": area.low,
                    "high": area.high,
                    "detectable": detectable,
                    "p_auc": area.p_value,
                    "accuracy_difference": calls.difference,
                    "p_accuracy": calls.p_value,
                }
            )
        found = pd.DataFrame(rows)
        for score in ("auc", "accuracy"):
            found[f"p_{score}_holm"] = holm(found[f"p_{score}"])
            found[f"{score}_differs"] = found[f"p_{score}_holm"] < 1 - level
        return found

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
            truth = self.truth()
            return band(truth["label"], self.probabilities(model), truth["patient"], resamples=resamples)
        tables = [band(found["label"], found["probability"], found["patient"], resamples=1) for found in self.predictions(model)]
        x, y = tables[0].columns[:2]
        curves = np.stack([table[y] for table in tables])
        value = curves.mean(axis=0)
        reach = student.ppf(0.975, len(curves) - 1) * corrected_error(curves, **self._sizes)
        low, high = np.clip(value - reach, 0, 1), np.clip(value + reach, 0, 1)
        return pd.DataFrame({x: tables[0][x], y: value, "low": low, "high": high})

    def calibrated(self, model: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Test labels and probabilities of all runs of a model, before and after the temperature fitted on validation."""
        before = pd.concat(self.predictions(model))
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
        known = self.predictions(model, "val")[0]
        calibrated = fit_platt(known["label"], known["log_odds"])(found["log_odds"])
        return found.assign(called=called, right=called == found["label"], threshold=threshold, calibrated=calibrated)

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
