"""Several segmenters, or one with several losses, on the same patients: which runs are needed, and what their maps say together.

Every score is there twice: at the network's resolution, where the maps were made, and at each image's own, where the maps are
brought back and meet the mask file. The test split is only ever scored; what is chosen is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.map_scores import COUNTS, RESOLUTIONS, map_scores, pictures, spacing_of
from thyroid_utils.models import parameter_count
from thyroid_utils.scores.checks import patient_codes
from thyroid_utils.scores.comparisons import holm, wilcoxon_test
from thyroid_utils.scores.estimates import Estimate, drawn_patients, patient_bootstrap, seed_summary
from thyroid_utils.scores.masks import OVERLAP_SCORES, PRESENCE, SEGMENTATION_SCORES, binarise, overlap_scores
from thyroid_utils.studies.compare import check_recipes, latency, leak_mark, options_of, short_labels, started_from
from thyroid_utils.training.data import split_data
from thyroid_utils.training.ledger import Run

MAIN_SCORES = ("dice", "iou", "sensitivity", "specificity", "precision", "hd95", "assd", "nsd")
_MOST_UNDEFINED = 0.1  # share of resamples without a value above which there is no interval


def segmentation_configs(
    models: Sequence[str],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    scratch: Sequence[str] = (),
    losses: Mapping[str, Mapping[str, Any]] | Sequence[tuple[str, Mapping[str, Any]]] | None = None,
) -> list[RunConfig]:
    """One config a model, loss and seed, equal in all else.

    Args:
        models: names of `models.SEGMENTERS` or `smp:ARCH:ENCODER`.
        seeds: of the training.
        common: the other fields of `RunConfig`, `loss` among them unless `losses` are given.
        weights: what every model's encoder starts from.
        options: model → options of its builder.
        scratch: models that start at random whatever `weights` says, such as those that have no published encoder.
        losses: loss → its options, or pairs of both where a loss occurs several times (a sweep).

    Raises:
        ConfigError: a field that cannot be, or options of a model that is not compared.
    """
    named = [
        {"name": name, "weights": "none" if name in scratch else weights, "options": own}
        for name, own in options_of(models, options).items()
    ]
    pairs = losses.items() if isinstance(losses, Mapping) else losses
    changes = [{}] if pairs is None else [{"loss": {"name": name, "options": dict(options)}} for name, options in pairs]
    return [
        RunConfig(**{**common, "task": "segmentation", "model": model, **change, "seed": seed})
        for model in named
        for change in changes
        for seed in seeds
    ]


@dataclass(frozen=True)
class SegmenterComparison:
    """The runs of a comparison, by model or by loss; "model" below means either.

    `runs`: model → its runs, with the same seeds in the same order for each model. `root`: the data's folder, where it is
    another than when the runs were trained.
    """

    runs: dict[str, list[Run]]
    root: str | None = None

    @classmethod
    def of(cls, runs: Sequence[Run], key: str = "model", root: str | Path | None = None) -> SegmenterComparison:
        """Group finished runs by `key`, "model" or "loss".

        Raises:
            DataError: no runs, runs of classifiers, of several splits, or of other seeds for one model than for another.
        """
        if key not in ("model", "loss"):
            raise ValueError(f"comparison: key must be model or loss; found {key!r}")
        grouped: dict[str, list[Run]] = {}
        for run in runs:
            grouped.setdefault(getattr(run.config, key).label, []).append(run)
        if not grouped or any(run.config.task != "segmentation" for run in runs):
            raise DataError("comparison: needs one or more runs, all of task segmentation")
        if len({run.data["split_hash"] for run in runs}) > 1:
            raise DataError("comparison: the runs were trained on different splits, so their images cannot be paired")
        seeds = {tuple(run.config.seed for run in found) for found in grouped.values()}
        if len(seeds) > 1 or len(set(next(iter(seeds)))) < len(next(iter(seeds))):
            raise DataError(f"comparison: give every {key} the same seeds, each once; found {sorted(seeds)}")
        check_recipes(grouped)
        return cls(short_labels(grouped), None if root is None else str(root))

    @property
    def models(self) -> list[str]:
        return list(self.runs)

    @property
    def started(self) -> str:
        """What the models' encoders started from, as text for a caption: `all from scratch`, or each by its name."""
        return started_from(self.runs)

    @property
    def plan(self) -> str:
        """What the runs of a model differ in, as text for a caption: `3 training seeds`."""
        count = len(self.runs[self.models[0]])
        return f"{count} training seed{'' if count == 1 else 's'}{leak_mark(self.runs)}"

    @cached_property
    def validation(self) -> pd.Series:
        """Model → mean Dice on validation over seeds, best first."""
        scores = {model: np.mean([run.metrics["val"]["dice"] for run in found]) for model, found in self.runs.items()}
        return pd.Series(scores, name="val_dice").rename_axis("model").sort_values(ascending=False, kind="stable")

    @property
    def chosen(self) -> str:
        """The model with the highest mean Dice on validation: test images have no say in it."""
        return self.validation.index[0]

    @cached_property
    def _cases(self) -> pd.DataFrame:
        """The case table that the runs were split from."""
        run = self._first
        data = split_data(self._here(run))
        if data.split_hash != run.data["split_hash"] or data.fingerprint != run.data["fingerprint"]:
            raise DataError(f"comparison: the data are not those that run {run.name} was trained on; give their folder as root")
        return data.cases

    @property
    def _first(self) -> Run:
        return next(iter(self.runs.values()))[0]

    def _here(self, run: Run) -> RunConfig:
        if self.root is None:
            return run.config
        return run.config.model_copy(update={"data": run.config.data.model_copy(update={"root": self.root})})

    @cached_property
    def truth(self) -> pd.DataFrame:
        """The test images, index `case`: patient, label, `area` (pixels of the mask at the image's own resolution), `share` (of
        the frame), and `diameter_mm` of a disc of that area (NaN where the pixels' spacing is unknown)."""
        table = self.tables[self.models[0]][0]
        own = table[table["resolution"] == "own"]
        area = own["true_positives"] + own["false_negatives"]
        cases = self._cases.loc[own.index]
        diameter = 2 * np.sqrt(area / np.pi) * spacing_of(cases)
        columns = {"patient": cases["patient"], "label": cases["label"], "area": area, "diameter_mm": diameter}
        return pd.DataFrame({**columns, "share": area / own[list(COUNTS)].sum(axis=1)})

    @cached_property
    def tables(self) -> dict[str, list[pd.DataFrame]]:
        """Model → a table a run, as `map_scores.map_scores` gives it."""
        runs = [run for found in self.runs.values() for run in found]
        images = [2 * run.metrics["test"]["images"] for run in runs]
        bar, scored, before, total = progress_bar("Measuring maps"), {}, 0, sum(images)
        for run, share in zip(runs, images, strict=True):
            told = lambda done, _, before=before: bar(before + done, total)  # noqa: E731
            scored[run.name] = map_scores(run, self._here(run), self._cases, told)
            before += share
            bar(before, total)
        return {model: [scored[run.name] for run in found] for model, found in self.runs.items()}

    def _values(self, model: str, scores: Sequence[str], resolution: str, cases: Sequence[str] | None = None) -> np.ndarray:
        """float (seeds, n, scores), NaN where a score is undefined."""
        tables = [table[table["resolution"] == resolution] for table in self.tables[model]]
        return np.stack([(table if cases is None else table.loc[list(cases)])[list(scores)].to_numpy(float) for table in tables])

    def estimates(
        self,
        scores: Sequence[str] = MAIN_SCORES,
        *,
        resolution: str = "own",
        pooled: bool = False,
        cases: Sequence[str] | None = None,
        resamples: int = 2000,
    ) -> pd.DataFrame:
        """Each score of each model on test, an `Estimate` over patients of the mean over seeds; best Dice first.

        Args:
            scores: names of `scores.masks.SEGMENTATION_SCORES`; with `pooled` those of `scores.masks.OVERLAP_SCORES`.
            resolution: "own" or "network"; the latter is one and the same only for models trained at one size.
            pooled: False is the mean over images (those with an empty truth and an empty prediction left out); True scores all
                pixels together.
            cases: only these test images, such as `smallest()`.
            resamples: of the bootstrap over patients.
        """
        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution must be one of {', '.join(RESOLUTIONS)}; found {resolution!r}")
        names = list(dict.fromkeys([*scores, "dice"]))
        rows = {}
        for model in self.runs:
            drawn, value, defined = self._drawn(model, names, resolution, pooled, cases, resamples)
            patients = self.truth["patient"] if cases is None else self.truth.loc[list(cases), "patient"]
            known = [patients[defined[:, at]] for at in range(len(names))]
            rows[model] = {
                name: _estimate(value[at], drawn[:, at], len(known[at]), known[at].nunique()) for at, name in enumerate(names)
            }
        best = sorted(rows, key=lambda model: -rows[model]["dice"].value)
        return pd.DataFrame.from_dict(rows, orient="index")[list(scores)].loc[best].rename_axis("model")

    def _drawn(
        self, model: str, names: Sequence[str], resolution: str, pooled: bool, cases: Sequence[str] | None, resamples: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores in resamples of patients (resamples, scores), scores of all patients (scores,), and which images define a score,
        bool (n, scores). Equal patients give equal resamples, so that models can be subtracted."""
        patients = (self.truth if cases is None else self.truth.loc[list(cases)])["patient"]
        codes, count = patient_codes(patients, len(patients), "estimates")
        values = self._values(model, COUNTS if pooled else names, resolution, cases)
        defined = ~np.isnan(values)
        columns = values if pooled else np.concatenate([np.nan_to_num(values), defined], axis=2)
        sums = np.zeros((len(values), count, columns.shape[2]))
        for of_seed, of_images in zip(sums, columns, strict=True):
            np.add.at(of_seed, codes, of_images)

        def scored(weights: np.ndarray) -> np.ndarray:
            """Mean over seeds for weights (patients, m): (m, scores)."""
            totals = np.einsum("pm,spk->kms", weights, sums)
            if pooled:
                found = overlap_scores(*totals)
                return np.stack([found[name].mean(axis=1) for name in names], axis=1)
            with np.errstate(invalid="ignore"):
                return (totals[: len(names)] / totals[len(names) :]).mean(axis=2).T

        drawn = [scored(weights) for weights in drawn_patients(count, resamples, len(patients), seed=0)] if count > 1 else []
        seen = np.ones((len(patients), len(names)), bool) if pooled else defined.any(axis=0)
        return np.concatenate(drawn) if drawn else np.empty((0, len(names))), scored(np.ones((count, 1)))[0], seen

    def pairs(self, score: str = "dice", *, resolution: str = "own", resamples: int = 2000) -> pd.DataFrame:
        """Every pair of models on the test images that define the score for both, each image with its mean over seeds.

        An image that one model rightly leaves empty and the other raises a false alarm on is among them for neither; `presence`
        counts such images.

        Returns:
            a row a pair: `first`, `second`; `difference` of their means (first − second) with `low` and `high`, its 95 %
            interval by resampling patients; `p` of Wilcoxon's test over patients (each with the mean over its images), `p_holm`
            adjusted for all pairs, `differs`: adjusted p below 0.05; `images` that it rests on.
        """
        by_image = {model: _nanmean(self._values(model, [score], resolution))[:, 0] for model in self.runs}
        rows = []
        for first, second in combinations(self.runs, 2):
            one, two = by_image[first], by_image[second]
            both = ~np.isnan(one) & ~np.isnan(two)
            patients = self.truth["patient"][both]
            found = patient_bootstrap(one[both] - two[both], patients, resamples=resamples)
            test = wilcoxon_test(one[both], two[both], patients)
            rows.append({"first": first, "second": second, "difference": found.value, "low": found.low, "high": found.high,
                         "p": test.p_value, "images": int(both.sum())})  # fmt: skip
        table = pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "p", "images"])
        adjusted = holm(table["p"]) if len(table) else np.empty(0)
        return table.assign(p_holm=adjusted, differs=adjusted < 0.05)

    def every_score(self, model: str) -> pd.DataFrame:
        """All that is measured of a model: a row a score of `masks.SEGMENTATION_SCORES`, `Estimate`s over patients of the mean
        over seeds in four columns, per image and pooled at the images' own resolution and at the network's.

        Outlines, area and counts of nodules have no pooled form, and lengths in millimetres none at the network's resolution or
        where the spacing is unknown: NaN.
        """
        columns = {}
        for resolution in RESOLUTIONS[::-1]:
            for pooled, how in ((False, "per image"), (True, "pooled")):
                names = list(OVERLAP_SCORES if pooled else SEGMENTATION_SCORES)
                found = replace(self, runs={model: self.runs[model]}).estimates(names, resolution=resolution, pooled=pooled)
                column = found.loc[model]
                columns[f"{how}, {resolution}"] = column[column.map(lambda estimate: estimate.images > 0)]
        return pd.DataFrame(columns).reindex(list(SEGMENTATION_SCORES)).rename_axis("score")

    def protocols(self, score: str = "dice") -> pd.DataFrame:
        """How far the protocol alone moves a score of `OVERLAP_SCORES`: per image and pooled, at both resolutions; model → four
        `Estimate`s, in the order of the mean per image at the images' own resolution."""
        columns = {}
        for resolution in ("own", "network"):
            for pooled in (False, True):
                name = f"{'pooled' if pooled else 'per image'}, {resolution}"
                columns[name] = self.estimates([score], resolution=resolution, pooled=pooled)[score]
        first = next(iter(columns.values()))
        return pd.DataFrame({name: column[first.index] for name, column in columns.items()})

    def protocol_shift(self, score: str = "dice") -> float:
        """How far a score of one and the same masks moves between the four of `protocols`: the most over models."""
        values = np.array([[estimate.value for estimate in row] for row in self.protocols(score).to_numpy()])
        return float((values.max(axis=1) - values.min(axis=1)).max())

    def by_run(self, scores: Sequence[str] = MAIN_SCORES, *, resolution: str = "own") -> pd.DataFrame:
        """Each score of each run, the mean over its test images: `model`, `seed` and the scores."""
        rows = []
        for model, found in self.runs.items():
            for run, values in zip(found, self._values(model, scores, resolution), strict=True):
                rows.append({"model": model, "seed": run.config.seed, **dict(zip(scores, _nanmean(values), strict=True))})
        return pd.DataFrame(rows)

    def by_image(self, scores: Sequence[str] = ("dice",), *, resolution: str = "own") -> pd.DataFrame:
        """Each score of each test image, the mean over seeds: `model`, `case`, the columns of `truth` and the scores."""
        tables = []
        for model in self.runs:
            values = _nanmean(self._values(model, scores, resolution))
            tables.append(self.truth.assign(model=model, **dict(zip(scores, values.T, strict=True))).reset_index())
        return pd.concat(tables, ignore_index=True)

    def smallest(self, share: float = 1 / 3) -> list[str]:
        """The outlined test images with the smallest nodules: in mm where every spacing is known, else by share of the frame."""
        outlined = self.truth[self.truth["area"] > 0]
        size = outlined["diameter_mm"] if outlined["diameter_mm"].notna().all() else outlined["share"]
        return list(size.sort_values(kind="stable").index[: max(1, round(share * len(size)))])

    def presence(self, resolution: str = "own") -> pd.DataFrame:
        """How many test images, summed over seeds, have a nodule in truth and prediction ("both"), in one of them ("missed",
        "false alarm") or in "neither", which are left out of all means; a row a model."""
        counts = {}
        for model, tables in self.tables.items():
            table = pd.concat(tables)
            counts[model] = table.loc[table["resolution"] == resolution, "presence"].value_counts()
        table = pd.DataFrame.from_dict(counts, orient="index").reindex(columns=list(PRESENCE)).fillna(0).astype(int)
        return table.rename_axis("model")

    def history(self) -> pd.DataFrame:
        """The histories of all runs: `model`, `seed`, `epoch` and their columns."""
        runs = [(model, run) for model, found in self.runs.items() for run in found]
        tables = [run.history.reset_index().assign(model=model, seed=run.config.seed) for model, run in runs]
        return pd.concat(tables, ignore_index=True)

    def stability(self) -> pd.DataFrame:
        """How much chance and time move a model: `test_dice` (mean over seeds), `seed_sd`, its standard deviation over `seeds`
        (NaN for one), and `epoch_change`, the mean absolute change of validation Dice from epoch to epoch in the last third of
        the epochs."""
        test = self.by_run(["dice"]).groupby("model")["dice"]
        rows = {}
        for model, found in self.runs.items():
            summary = seed_summary(test.get_group(model))
            changes = [np.abs(np.diff(run.history["val_dice"].to_numpy()[-_last_third(len(run.history)) :])) for run in found]
            changes = np.concatenate(changes)
            rows[model] = {"test_dice": summary.mean, "seed_sd": summary.sd, "seeds": summary.seeds,
                           "epoch_change": float(changes.mean()) if len(changes) else np.nan}  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    @cached_property
    def costs(self) -> pd.DataFrame:
        """`parameters` (millions), `latency_ms` (median of a forward pass of one image of the run's input on this machine's CPU),
        `images_per_second` in training, `weights` it started from; a row a model."""
        rows = {}
        for model, found in self.runs.items():
            network = found[0].load_model()
            rates = [run.environment["images_per_second"] or np.nan for run in found]
            rows[model] = {
                "parameters": parameter_count(network) / 1e6,
                "latency_ms": latency(network, found[0].data["input"]),
                "images_per_second": float(np.mean(rates)),
                "weights": found[0].data["weights"],
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def examples(self, model: str, count: int = 3) -> pd.DataFrame:
        """The `count` best, median and worst test images of a model's first run by Dice at their own resolution.

        Returns:
            index `case`: `kind` ("best", "median", "worst"), dice, iou, hd95; each image once, worst first among the worst.
        """
        table = self.tables[model][0].query("resolution == 'own'").dropna(subset="dice")
        order = table.sort_values("dice", kind="stable")
        count = min(count, len(order) // 3) or 1
        middle = (len(order) - count) // 2
        chosen = {"best": order.iloc[::-1][:count], "median": order[middle : middle + count], "worst": order[:count]}
        parts = [part[["dice", "iou", "hd95"]].assign(kind=kind) for kind, part in chosen.items()]
        return pd.concat(parts).pipe(lambda found: found[~found.index.duplicated()])

    def pictures(self, model: str, cases: Sequence[str] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Test images (None: all, in the order of `truth`) one by one: the frame, its true mask (bool) and the probability map of
        a model's first run (float32), each at the image's own resolution."""
        run = self.runs[model][0]
        return pictures(run, self._here(run), self._cases, list(self.truth.index if cases is None else cases))

    def picture(self, model: str, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One of `pictures`."""
        return next(self.pictures(model, [case]))

    def masks(self, model: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """True masks and those of a model's first run (bool) of all test images, each at the image's own resolution."""
        pairs = [(truth, binarise(found)) for _, truth, found in self.pictures(model)]
        return [truth for truth, _ in pairs], [found for _, found in pairs]


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined; NaN, and no warning, where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(values).sum(axis=0) / defined.sum(axis=0)


def _estimate(value: float, drawn: np.ndarray, images: int, patients: int) -> Estimate:
    """95 % percentile interval of what was drawn, none where too little of it is defined."""
    known = drawn[~np.isnan(drawn)]
    undefined = 1 - len(known) / len(drawn) if len(drawn) else 0.0
    if not len(known) or undefined > _MOST_UNDEFINED:
        note = f"undefined in {undefined:.0%} of resamples" if len(drawn) else "1 patient"
        return Estimate(float(value), np.nan, np.nan, images, patients, undefined, note)
    if np.ptp(known) < 1e-12:  # the bootstrap knows nothing about a spread that it never meets
        return Estimate(float(value), np.nan, np.nan, images, patients, undefined, "all resamples agree")
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), images, patients, undefined)


def _last_third(epochs: int) -> int:
    """How many epochs the last third has, with the one before it, from which the first change is counted."""
    return min(epochs, max(1, round(epochs / 3)) + 1)
