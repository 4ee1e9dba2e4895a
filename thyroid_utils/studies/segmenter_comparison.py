"""Several segmenters, or one with several losses, on the same patients: what their maps say together.

Every score is there twice: at the network's resolution, where the maps were made, and at each image's own, where the maps are
brought back and meet the mask file. The test split is only ever scored; what is chosen is chosen on validation.

Scores are means over the images whose truth has a nodule, whatever a network outlines there: a missed nodule has Dice 0. Images
without a nodule are apart, as false alarms or none (`presence`), so that all networks are scored on the same images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.predictor import Predictor, map_scores, spacings
from thyroid_utils.scores.checks import COUNTS, patient_codes
from thyroid_utils.scores.estimates import NO_LIMITS, Comparison, Estimate, estimate, patient_estimate
from thyroid_utils.scores.masks import OVERLAP_SCORES, SEGMENTATION_LIMITS, SEGMENTATION_SCORES, binarise, overlap_scores
from thyroid_utils.scores.patients import leave_out
from thyroid_utils.scores.recipes import compare_recipes, mean_influence
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.tables import counted_patients, names_patients
from thyroid_utils.training.ledger import Run

# How one and the same masks can be scored.
PROTOCOLS = {
    "per image, own": {"resolution": "own", "pooled": False},
    "pooled, own": {"resolution": "own", "pooled": True},
    "per image, network": {"resolution": "network", "pooled": False},
    "pooled, network": {"resolution": "network", "pooled": True},
}


@dataclass(frozen=True)
class SegmenterComparison(ComparedRuns):
    """Runs of segmenters by model or loss, on one split or in folds. `root`: the data's folder, where it is another than in
    training."""

    root: str | Path | None = None

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    score: ClassVar[str] = "dice"
    blind: ClassVar[str] = "calling the whole frame nodule"
    subsets: ClassVar[bool] = False

    def asked(self, run: Run) -> Predictor:
        """Of one of `runs`, or of a fold of one, on the data as they are now."""
        predictor = Predictor(run, self.root)
        predictor.cases = self._splits[run.config.split.fold]  # read once for all runs
        return predictor

    @cached_property
    def _splits(self) -> list[pd.DataFrame]:
        """The case table that the runs were split from, by fold."""
        return [Predictor(run, self.root).cases for run in self.first.folds]

    @cached_property
    def truth(self) -> pd.DataFrame:
        """The test images, index `case`: patient, label, `area` (pixels of the mask at the image's own resolution), `share` (of
        the frame), and `diameter_mm` of a disc of that area (NaN where the pixels' spacing is unknown)."""
        table = self.tables[self.models[0]][0]
        own = table[table["resolution"] == "own"]
        area = own["true_positives"] + own["false_negatives"]
        cases = pd.concat(self._splits)  # of a leak each fold has put other images aside
        cases = cases[~cases.index.duplicated()].loc[own.index]
        diameter = 2 * np.sqrt(area / np.pi) * np.array(spacings(cases), float)
        columns = {"patient": cases["patient"], "label": cases["label"], "area": area, "diameter_mm": diameter}
        return pd.DataFrame({**columns, "share": area / own[list(COUNTS)].sum(axis=1)})

    @cached_property
    def tables(self) -> dict[str, list[pd.DataFrame]]:
        """Model → a table a run, as `map_scores` gives it."""
        bar, count, found = progress_bar("Measuring maps"), sum(map(len, self.runs.values())), {}
        for model, runs in self.runs.items():
            found[model] = []
            for run in runs:
                parts = [map_scores(self.asked(fold)) for fold in run.folds]
                found[model].append(pd.concat(parts) if len(parts) > 1 else parts[0])
                bar(sum(map(len, found.values())), count)
        return found

    def values(
        self, model: str, scores: Sequence[str], resolution: str = "own", cases: Sequence[str] | None = None
    ) -> np.ndarray:
        """float (seeds, n, scores) of test images (None: all); NaN where a score is undefined, or the image has no nodule."""
        tables = [table[table["resolution"] == resolution] for table in self.tables[model]]
        chosen = self.truth if cases is None else self.truth.loc[list(cases)]
        values = np.stack([table.loc[chosen.index, list(scores)].to_numpy(float) for table in tables])
        return np.where((chosen["area"] > 0).to_numpy()[:, None], values, np.nan)

    @cached_property
    def untrained(self) -> list[str]:
        """The models whose mean Dice on validation is at most that of calling the whole frame nodule; means over folds."""
        blind = np.mean([_whole_frame(run.predictions.query("split == 'val'")) for run in self.first.folds])
        return [model for model, runs in self.runs.items() if not np.mean([run.metrics["val"]["dice"] for run in runs]) > blind]

    def estimates(
        self,
        scores: Sequence[str],
        *,
        resolution: str = "own",
        pooled: bool = False,
        cases: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Each score of each model on test, an `Estimate` over patients of the mean over seeds; best Dice first.

        Args:
            scores: names of `scores.masks.SEGMENTATION_SCORES`; with `pooled` those of `scores.masks.OVERLAP_SCORES`.
            resolution: "own" or "network"; the latter is one and the same only for models trained at one size.
            pooled: False is the mean over images with a nodule; True scores all their pixels together.
            cases: only these test images, such as `smallest()`.
        """
        names = list(dict.fromkeys([*scores, "dice"]))
        patients = self.truth["patient"] if cases is None else self.truth.loc[list(cases), "patient"]
        codes, _ = patient_codes(patients, len(patients), "estimates")
        rows = {}
        for model in self.models:
            values = self.values(model, COUNTS if pooled else names, resolution, cases)
            defined = ~np.isnan(values).all(axis=0)
            score = partial(_pooled, np.nan_to_num(values), names) if pooled else partial(_per_image, values)
            value, moves = leave_out(score, codes)
            rows[model] = {}
            for at, name in enumerate(names):
                images = np.bincount(codes[defined[:, 0 if pooled else at]], minlength=codes.max() + 1)
                rows[model][name] = estimate(value[at], moves[at], images, limits=SEGMENTATION_LIMITS.get(name, NO_LIMITS))
        best = sorted(rows, key=lambda model: -rows[model]["dice"].value)
        return pd.DataFrame.from_dict(rows, orient="index")[list(scores)].loc[best].rename_axis("model")

    def pairs(self, score: str = "dice") -> pd.DataFrame:
        """Every pair of models by a score of the test images with a nodule, as `ComparedRuns.paired`, by `compare_recipes`, and
        over folds where `fold_by_fold`. An image on which any training leaves the score undefined, as an empty outline does
        precision, is left out of all pairs."""
        return self.paired(self.compared(score))

    def compared(self, score: str) -> Callable[[str, str], Comparison]:
        """What `pairs` compares two models by."""
        if self.fold_by_fold:
            return self.over_folds(score, 1 if score in OVERLAP_SCORES else np.inf)
        values = {model: self.values(model, [score])[..., 0] for model in self.runs}
        known = np.isfinite(list(values.values())).all(axis=(0, 1))
        influences = {model: mean_influence(rows[:, known]) for model, rows in values.items()}
        patients, most = self.truth["patient"][known], 1 if score in OVERLAP_SCORES else np.inf
        return lambda one, two: compare_recipes(influences[one], influences[two], patients, most)

    def nested(self) -> Estimate:
        """As `ComparedRuns.nested`: Dice of the images with a nodule."""
        dice = self._by_preferred(lambda model: self.values(model, ["dice"])[..., 0])
        return patient_estimate(dice.mean(axis=0), self.truth["patient"], share=True)

    def by_fold(self, model: str, score: str) -> np.ndarray:
        """As `ComparedRuns.by_fold`: means over the images of a fold that have a nodule."""
        fold = self.first.predictions.loc[self.truth.index, "fold"].to_numpy()
        values = self.values(model, [score])[..., 0]
        return np.stack([np.nanmean(values[:, fold == at], axis=1) for at in range(self.folds)], axis=1)

    def every_score(self, model: str) -> pd.DataFrame:
        """All that is measured of a model: a row a score of `scores.masks.SEGMENTATION_SCORES`, a column of `Estimate`s over
        patients a protocol.

        Outlines, area and counts of nodules have no pooled form, and lengths in millimetres none at the network's resolution or
        where the spacing is unknown: NaN.
        """
        alone, columns = replace(self, runs={model: self.runs[model]}), {}
        for name, how in PROTOCOLS.items():
            column = alone.estimates(list(OVERLAP_SCORES if how["pooled"] else SEGMENTATION_SCORES), **how).loc[model]
            columns[name] = column[column.map(lambda estimate: estimate.images > 0)]
        return pd.DataFrame(columns).reindex(list(SEGMENTATION_SCORES)).rename_axis("score")

    def protocols(self, score: str = "dice") -> pd.DataFrame:
        """How far the protocol alone moves a score of `OVERLAP_SCORES`: model → an `Estimate` a protocol, in the order of the
        mean per image at the images' own resolution."""
        columns = {name: self.estimates([score], **how)[score] for name, how in PROTOCOLS.items()}
        return pd.DataFrame(columns).loc[next(iter(columns.values())).index]

    def protocol_shift(self, score: str = "dice") -> float:
        """How far a score of one and the same masks moves between the four of `protocols`: the most over models."""
        values = self.protocols(score).map(lambda estimate: estimate.value)
        return float((values.max(axis=1) - values.min(axis=1)).max())

    def by_run(self, scores: Sequence[str]) -> pd.DataFrame:
        """Each score of each run, the mean over its test images: `model`, `seed` and the scores."""
        rows = []
        for model, found in self.runs.items():
            for run, values in zip(found, self.values(model, scores), strict=True):
                rows.append({"model": model, "seed": run.config.seed, **dict(zip(scores, _nanmean(values), strict=True))})
        return pd.DataFrame(rows)

    def by_image(self, scores: Sequence[str]) -> pd.DataFrame:
        """Each score of each test image, the mean over seeds: `model`, `case`, the columns of `truth` and the scores."""
        tables = []
        for model in self.models:
            values = _nanmean(self.values(model, scores))
            tables.append(self.truth.assign(model=model, **dict(zip(scores, values.T, strict=True))).reset_index())
        return pd.concat(tables, ignore_index=True)

    def smallest(self) -> list[str]:
        """The third of the outlined test images with the smallest nodules: in mm where all spacings are known, else by share of
        the frame."""
        outlined = self.truth[self.truth["area"] > 0]
        size = outlined["diameter_mm"] if outlined["diameter_mm"].notna().all() else outlined["share"]
        return list(size.sort_values(kind="stable").index[: max(1, round(len(size) / 3))])

    @property
    def tested_on(self) -> str:
        """The test images with a nodule, on which scores rest, as `counted_patients`."""
        there = self.truth[self.truth["area"] > 0]
        return counted_patients(self.first, len(there), there["patient"].nunique())

    @property
    def fewest(self) -> tuple[int, str, str]:
        """Test patients with a nodule, for `few_told`; images, where the set names no patients."""
        there = self.truth[self.truth["area"] > 0]
        patients, unit = (there["patient"].nunique(), "patient") if names_patients(self.first) else (len(there), "image")
        return patients, f"test {unit} with a nodule", f"test {unit}s with a nodule"

    def presence(self) -> pd.DataFrame:
        """Test images, each counted once however many trainings there are; a row a model: `with nodule`; `missed`, those of them
        in which at least one training outlines nothing, and `missed by all`; `without nodule`; `false alarms`, those of them in
        which at least one training outlines something, and their `share`, the mean over trainings (NaN without such images)."""
        there, rows = (self.truth["area"] > 0).to_numpy(), {}
        for model, tables in self.tables.items():
            own = [table.query("resolution == 'own'").loc[self.truth.index] for table in tables]
            empty = np.stack([(table["true_positives"] + table["false_positives"] == 0).to_numpy() for table in own])
            missed, alarms = empty[:, there], ~empty[:, ~there]
            rows[model] = {
                "with nodule": int(there.sum()),
                "missed": int(missed.any(axis=0).sum()),
                "missed by all": int(missed.all(axis=0).sum()),
                "without nodule": int((~there).sum()),
                "false alarms": int(alarms.any(axis=0).sum()),
                "share": float(alarms.mean()) if alarms.size else np.nan,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def missed_told(self, model: str) -> str:
        """What a model's row of `presence` says, as a sentence."""
        row = self.presence().loc[model]
        told = f"Nodules of which nothing was outlined: {row['missed']:.0f} of {row['with nodule']:.0f}"
        if self.trainings > 1 and row["missed"]:
            told = f"{told}, {row['missed by all']:.0f} of them by all of {self.trainings} trainings"
        if row["without nodule"]:
            alarms = f"{row['false alarms']:.0f} of {row['without nodule']:.0f}"
            told = f"{told}; images without a nodule in which something was: {alarms}"
        return f"{told}."

    def stability(self) -> pd.DataFrame:
        """How much chance and time move a model: `test_dice` (mean over seeds), `seed_sd`, its standard deviation over `seeds`
        (NaN for one), and `epoch_change`, the mean absolute change of validation Dice from epoch to epoch in the last third of
        the epochs."""
        test = self.by_run(["dice"]).groupby("model")["dice"]
        rows = {}
        for model, found in self.runs.items():
            dice_of_seeds, changes = test.get_group(model), []
            for run in found:
                for dice in (fold.history["val_dice"].to_numpy() for fold in run.folds):
                    changes += list(np.abs(np.diff(dice[-1 - max(1, round(len(dice) / 3)) :])))  # from the epoch before on
            rows[model] = {"test_dice": dice_of_seeds.mean(), "seed_sd": dice_of_seeds.std(), "seeds": dice_of_seeds.count(),
                           "epoch_change": np.mean(changes) if changes else np.nan}  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def examples(self, model: str, count: int = 3) -> pd.DataFrame:
        """The `count` best, median and worst test images of a model's first run by Dice at their own resolution.

        Returns:
            index `case`: `kind` ("best", "median", "worst"), dice, iou, hd95; each image once, worst first among the worst.
        """
        table = self.tables[model][0].query("resolution == 'own'")
        table = table[self.truth["area"].loc[table.index] > 0]
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
        asked = {fold.name: self.asked(fold) for fold in run.folds}
        for case in self.truth.index if cases is None else cases:
            yield from asked[run.of_case(case).name].pictures([case])

    def picture(self, model: str, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One of `pictures`."""
        return next(self.pictures(model, [case]))

    def masks(self, model: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """True masks and those of a model's first run (bool) of all test images, each at the image's own resolution."""
        pairs = [(truth, binarise(found)) for _, truth, found in self.pictures(model)]
        return [truth for truth, _ in pairs], [found for _, found in pairs]


def _whole_frame(table: pd.DataFrame) -> float:
    """Mean Dice of calling the whole frame nodule, over the images of a table of predictions that have one."""
    share = (table["true_positives"] + table["false_negatives"]) / table[list(COUNTS)].sum(axis=1)
    return float((2 * share / (1 + share))[share > 0].mean())


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def _per_image(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means over images and seeds of values (seeds, n, scores) for weights (n, m): (scores, m)."""
    totals, counts = (np.tensordot(found, weights, (1, 0)) for found in (np.nan_to_num(values), ~np.isnan(values)))
    with np.errstate(invalid="ignore"):
        return (totals / counts).mean(axis=0)


def _pooled(counts: np.ndarray, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Scores of all pixels together, means over seeds, from pixel counts (seeds, n, 4) for weights (n, m): (scores, m)."""
    found = overlap_scores(*np.moveaxis(np.tensordot(counts, weights, (1, 0)), 1, 0))
    return np.stack([found[name].mean(axis=0) for name in names])
