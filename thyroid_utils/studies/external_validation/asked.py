"""Who is asked what: networks of several data sets, the images of another set that they can be asked about, and their answers.

On their own set networks are scored by what their runs have kept of the test images, so that its data need not be at hand. On
another set all images are asked that share no picture with training, prepared as in training, with that set's µ and σ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, listed
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.readers.published import meaning
from thyroid_utils.data.table import LABEL_NAMES, known_patients
from thyroid_utils.data.videos import recover_patients
from thyroid_utils.inference.ensemble import held_out
from thyroid_utils.inference.predictor import Predictor, predictors_of
from thyroid_utils.preprocess.store import preprocessed
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.estimates import Estimate, patient_estimate, patient_scores
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import binarise
from thyroid_utils.scores.probabilities import logit
from thyroid_utils.scores.recipes import RecipeComparison, auc_influence, compare_apart, mean_influence
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compare import comparison_configs, shared_settings
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.folds import calibrations_of
from thyroid_utils.training.ledger import Run, find_run

# Score → what has it, and how the notebook's parameters call it: its network, and the prefix of what belongs to it alone.
KINDS = {"AUC": (ClassifierComparison, "CLASSIFIER", ""), "Dice": (SegmenterComparison, "SEGMENTER", "SEGMENTER_")}
_AT_ONCE = 256  # images in memory
_LISTED = 8  # cases that an error names


def configs_of(source: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[RunConfig]:
    """Of the notebook's classifier and segmenter on one data set (`load_set`); parameters: the notebook's names, `globals()`."""
    data = {"DATASET": source["dataset"], "DATA_ROOT": source.get("root", ""), "DATA_OPTIONS": source.get("options", {})}
    configs = []
    for kind, role, prefix in KINDS.values():
        if model := parameters[role]:
            common = shared_settings(parameters, kind.tasks[0], prefix, **data)
            how = {"weights": parameters["WEIGHTS"], "options": {model: parameters[f"{role}_OPTIONS"]}}
            configs += comparison_configs([model], parameters["SEEDS"], common, **how)
    return configs


def runs_of(names: Sequence[str]) -> list[Run]:
    """Finished runs by name, or as much of it as tells one apart. Raises DataError for a name that none has."""
    found = {name: find_run(name) for name in names}
    if absent := [name for name, run in found.items() if run is None]:
        raise DataError(f"RUNS: no finished run is called {listed(absent)}; `thyroid-workbook runs list` names those there are")
    return list(found.values())


def trainings(runs: Sequence[Run]) -> dict[str, ComparedRuns]:
    """Runs by what they are scored by, "AUC" or "Dice". Raises DataError where those of one are of several recipes or splits."""
    own = {score: [run for run in runs if run.config.task in kind.tasks] for score, (kind, *_) in KINDS.items()}
    found = {score: KINDS[score][0].of(members) for score, members in own.items() if members}
    for score, members in found.items():
        if len(members.models) > 1 or not members.one_split:
            why = f"{listed(members.models)} are scored by {score}" if members.one_split else "they were split differently"
            raise DataError(f"RUNS: {why}; give those of one network and split, by seed or fold")
    return found


def load_set(name: str, source: Mapping[str, Any]) -> pd.DataFrame:
    """The case table of a set: `dataset`, its reader, and `root` and `options` where that needs them. Patients whom it does not
    name are recovered as for a training."""
    for key in {*source} - {"dataset", "root", "options"}:
        raise DataError(f"EXTERNAL: {name} has {key!r}; {nearest(key, ('dataset', 'root', 'options'))}")
    cases = load_cases(source.get("dataset", ""), source.get("root") or None, **source.get("options", {}))
    return cases if known_patients(cases).all() else recover_patients(cases, audit_cases(cases)).cases


def home_cases(trained: Iterable[ComparedRuns], root: str | None = None) -> tuple[pd.DataFrame | None, str]:
    """All images that trainings were split from, and ""; or None, and what keeps them from being read. root: their folder."""
    try:
        cases = pd.concat([Predictor(found.first.folds[0], root).cases for found in trained])
    except DataError as error:
        return None, str(error)
    return cases[~cases.index.duplicated()], ""


def apart(sets: Mapping[str, pd.DataFrame], trained: Sequence[str], leave_out: bool) -> dict[str, pd.DataFrame]:
    """The sets, those that only test without the images that a set of `trained` networks has too, the same or nearly the same
    (`data.audit`), and without all others of these patients.

    Raises:
        DataError: there are such images, and they are not to be left out.
    """
    both = pd.concat(sets, names=["set"]).reset_index()
    both = both.assign(patient=both["set"] + " " + both["patient"]).set_index(both["set"] + " " + both["case"])
    clusters, kept = audit_cases(both, progress=progress_bar("Comparing images")).clusters, dict(sets)
    for name in [name for name in sets if name != trained[0]]:
        met = clusters[both["set"].isin(set(trained) - {name})]
        shared = sets[name].index[clusters[both["set"] == name].isin(met).to_numpy()]
        if len(shared) and not leave_out:
            shown = ", ".join(shared[:_LISTED]) + f" and {len(shared) - _LISTED} more" * (len(shared) > _LISTED)
            told = f"{count(len(shared), 'image')} ({shown}) are, or nearly are, images that networks were trained on"
            raise DataError(f'{name}: {told}; SHARED = "leave out" asks of its other patients alone')
        kept[name] = sets[name][~sets[name]["patient"].isin(sets[name].loc[shared, "patient"])]
    return kept


def asked_cases(run: Run, target: str, dataset: str, cases: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The images of another set that a network can be asked about, and why there is none, "" where there are.

    Args:
        run: the network's.
        target: what was outlined where it was trained, "nodule" or "gland".
        dataset: reader of the case table `cases`.
    """
    own, there = (meaning(name)[1] for name in (run.config.data.dataset, dataset))
    cases, outlining = (cases if own == there else cases[:0]), run.config.task == "segmentation"
    why = "no image is left" if own == there else f"it shows the {there}, training the {own}"
    if outlining or Predictor(run).pipeline.needs_mask:
        outlined = cases.dropna(subset="mask")
        cases = outlined[outlined["target"] == target]
        if len(outlined) and cases.empty:
            why = f"it outlines the {outlined['target'].iloc[0]}, training the {target}"
        why = why if len(outlined) or own != there else "it has no outlines"
    if not outlining and len(cases):
        classes = cases["label"].dropna().unique()
        why = f"all its labels are {LABEL_NAMES[classes[0]]}" if len(classes) else "it has no labels"
        cases = cases.dropna(subset="label") if len(classes) > 1 else cases[:0]
    return cases, "" if len(cases) else why


@dataclass(frozen=True)
class Tested:
    """What the trainings of one recipe say of one data set.

    Attributes:
        table: index `case`; `patient`, `label`; of classifiers `log_odds` and `probability` of malignant, of all together: the
            mean of their log-odds, each calibrated by its own validation.
        values: (seeds, n), what each says: log-odds of malignant, or Dice (NaN where the truth has no nodule).
        cuts: of classifiers, the log-odds from which each calls malignant, (seeds, 1); None of segmenters.
    """

    table: pd.DataFrame
    values: np.ndarray
    cuts: np.ndarray | None = None

    @cached_property
    def right(self) -> np.ndarray:
        """What is averaged over images: whether each training's call is right, or its Dice, (seeds, n)."""
        if self.cuts is None:
            return self.values
        return ((self.values >= self.cuts) == self.table["label"].to_numpy(int)).astype(float)

    def score(self) -> Estimate:
        """AUC or Dice, mean over trainings, with its interval over patients."""
        if self.cuts is None:
            return patient_estimate(self.values.mean(axis=0), self.table["patient"], share=True)
        return patient_scores(self.table["label"], expit(self.values), self.table["patient"], "auc")["auc"]

    def less(self, other: "Tested", chosen: Sequence[np.ndarray] | None = None) -> RecipeComparison:
        """The score here less that of the same trainings on another set; or, of images `chosen` (bool) here and there, accuracy
        or Dice."""
        parts, patients = [], []
        for found, rows in zip((self, other), chosen or (None, None), strict=True):
            if rows is None and self.cuts is not None:
                parts.append(auc_influence(found.table["label"], found.values))
                patients.append(found.table["patient"])
            else:
                known = np.isfinite(found.right).all(axis=0) & (True if rows is None else rows)
                parts.append(mean_influence(found.right[:, known]))
                patients.append(found.table["patient"][known])
        return compare_apart(*parts, *patients, most=1)


def on_own_test(found: ComparedRuns) -> Tested:
    """What trainings said of their own test images, as their runs have kept it."""
    (runs,) = found.runs.values()
    tests = [run.predictions[run.predictions["split"] == "test"] for run in runs]
    tests = [table.loc[tests[0].index] for table in tests]
    if isinstance(found, SegmenterComparison):
        hits, false, missed = np.moveaxis(np.stack([table[list(COUNTS[:3])] for table in tests]), 2, 0)
        return Tested(tests[0][["patient", "label"]], _dice(hits, hits + false, hits + missed))
    together = held_out([fold for run in runs for fold in run.folds], "test").loc[tests[0].index]
    return _of_labels(found, together, np.stack([table["log_odds"] for table in tests]))


def on_other_set(found: ComparedRuns, cases: pd.DataFrame) -> Tested:
    """What trainings say of another set's images (`asked_cases`); of folds it is the mean of their networks' answers."""
    (runs,) = found.runs.values()
    outlining, answers = isinstance(found, SegmenterComparison), []
    for predictor in predictors_of(runs):
        needed = cases if outlining or predictor.pipeline.needs_mask else cases.assign(mask=pd.NA)
        store = preprocessed(needed, predictor.pipeline, progress_bar("Preprocessing"))
        ask = predictor.maps if outlining else predictor.log_odds
        blocks = (np.array(store.images[at : at + _AT_ONCE]) for at in range(0, len(cases), _AT_ONCE))
        answers.append(np.concatenate([ask(block) for block in blocks]))
    table, of_folds = cases[["patient", "label"]], (len(runs), -1, *answers[0].shape)
    if outlining:
        called, truth = binarise(np.reshape(answers, of_folds).mean(axis=1)), np.asarray(store.masks)
        return Tested(table, _dice(*(pixels.sum(axis=(-2, -1)) for pixels in (called & truth, called, truth))))
    scales = calibrations_of([fold for run in runs for fold in run.folds])
    scaled = np.stack([scale.log_odds(own) for scale, own in zip(scales, answers, strict=True)])
    values = scaled.reshape(of_folds).mean(axis=1) if found.folds else np.stack(answers)
    return _of_labels(found, table.assign(log_odds=scaled.mean(axis=0)), values)


def _dice(hits: np.ndarray, called: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """From counts of pixels; NaN where the truth has none."""
    return np.where(truth > 0, 2 * hits / np.maximum(called + truth, 1), np.nan)


def _of_labels(found: ComparedRuns, table: pd.DataFrame, values: np.ndarray) -> Tested:
    """What classifiers say; each calls by Youden's threshold on its own validation, on the scale of its `values`."""
    (runs,), cuts = found.runs.values(), []
    for run in runs:
        known = held_out(run.folds, "val") if found.folds else run.predictions[run.predictions["split"] == "val"]
        cuts.append(logit([choose_threshold(known["label"], expit(known["log_odds"]))]))
    return Tested(table.assign(probability=expit(table["log_odds"])), values, np.array(cuts))
