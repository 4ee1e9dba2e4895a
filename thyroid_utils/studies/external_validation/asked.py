"""Who is asked what: networks of several data sets, the images of another set that they can be asked about, and their answers.

On their own set networks are scored by what their runs have kept of the test images, so that its data need not be at hand. On
another set all images are asked that share no picture with training, prepared as in training, with that set's µ and σ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from thyroid_utils.common.config import ConfigError, DataConfig, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, listed
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.readers.published import meaning
from thyroid_utils.data.table import LABEL_NAMES, known_patients
from thyroid_utils.data.videos import recover_patients
from thyroid_utils.inference.ensemble import check_ensemble, held_out
from thyroid_utils.inference.predictor import Predictor, predictors_of
from thyroid_utils.preprocess.store import preprocessed
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.estimates import Estimate, patient_estimate, patient_scores
from thyroid_utils.scores.masks import binarise
from thyroid_utils.scores.recipes import Influence, auc_influence, mean_influence
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.predictions import Answers
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.folds import calibrations_of
from thyroid_utils.training.ledger import Run, find_run

KINDS: dict[str, type[ComparedRuns]] = {"AUC": ClassifierComparison, "Dice": SegmenterComparison}
_AT_ONCE = 256  # images in memory
_LISTED = 8  # cases that an error names


def runs_of(names: Sequence[str]) -> list[Run]:
    """Finished runs by name, or as much of it as tells one apart. Raises DataError for a name that none has."""
    found = [find_run(name) for name in names]
    if None in found:
        told = f"no finished run is called {names[found.index(None)]}"
        raise DataError(f"RUNS: {told}; `thyroid-workbook runs list` names those there are")
    return found


def trainings(runs: Sequence[Run]) -> dict[str, ComparedRuns]:
    """Runs by what they are scored by, "AUC" or "Dice". Raises DataError where those of one are of several recipes or splits, or
    all of several data sets."""
    found, data = {}, [run.config.data for run in runs]
    if len({str((each.dataset, each.options | {"having": None})) for each in data}) > 1:
        raise DataError("RUNS: the runs were trained on several data sets; give those of one")
    for score, kind in KINDS.items():
        if own := [run for run in runs if run.config.task in kind.tasks]:
            check_ensemble(own)
            found[score] = kind.of(own)
            if not found[score].one_split:
                raise DataError("RUNS: the runs have several splits, and other test images in each; give those of one")
    return found


def other_sets(external: Mapping[str, Any], home: str) -> dict[str, DataConfig]:
    """The sets that `EXTERNAL` names. Raises DataError for one called as `home`, or that tells no data set."""
    found = {}
    for name, source in external.items():
        if name == home:
            raise DataError(f"EXTERNAL: {name} is what the set of the training is called; give one of them another name")
        try:
            found[name] = RunConfig(data=source).data
        except ConfigError as error:
            expected = "expected a mapping with dataset, and root and options where needed"
            raise DataError(f"EXTERNAL, {name}: {str(error).removeprefix('config: ')}; {expected}") from None
    return found


def trainable(runs: Sequence[Run], cases: pd.DataFrame) -> list[Run]:
    """The runs whose recipes another set can train: it has labels of both classes, or outlines, whichever they need."""
    return [run for run in runs if not asked_cases(run, cases["target"].iloc[0], run.config.data.dataset, cases)[1]]


def load_set(data: DataConfig) -> pd.DataFrame:
    """The case table of another set; patients whom it does not name are recovered as for a training."""
    cases = load_cases(data.dataset, data.root, **data.options)
    return cases if known_patients(cases).all() else recover_patients(cases, audit_cases(cases)).cases


def home_cases(runs: Sequence[Run], root: str | None = None) -> pd.DataFrame | None:
    """All images that runs were split from; None where these are gone or changed. root: their folder, where it is another now."""
    try:
        of_tasks = {run.config.task: run for run in runs if not run.config.split.fold}
        cases = pd.concat([Predictor(run, root).cases for run in of_tasks.values()])
    except DataError:
        return None
    return cases[~cases.index.duplicated()]


def apart(sets: Mapping[str, pd.DataFrame], trained: Sequence[str], leave_out: bool) -> dict[str, pd.DataFrame]:
    """The sets, each without the images that another set, of `trained` networks, has too, the same or nearly the same
    (`data.audit`), and without all others of these patients; `attrs["left out"]` counts them.

    Raises:
        DataError: there are such images, and they are not to be left out.
    """
    both = pd.concat(sets, names=["set"]).reset_index()
    both = both.assign(patient=both["set"] + " " + both["patient"]).set_index(both["set"] + " " + both["case"])
    clusters, kept = audit_cases(both, progress=progress_bar("Comparing images")).clusters, dict(sets)
    for name in [name for name in sets if set(trained) - {name}]:
        met = clusters[both["set"].isin(set(trained) - {name})]
        shared = sets[name].index[clusters[both["set"] == name].isin(met).to_numpy()]
        if len(shared) and not leave_out:
            shown = f"{', '.join(shared[:_LISTED])}{' …' * (len(shared) > _LISTED)}"
            told = f"{name} shares {count(len(shared), 'image')}, the same or nearly, with those trained on ({shown})"
            raise DataError(f'{told}; SHARED = "leave out" asks of its other patients alone')
        kept[name] = sets[name][~sets[name]["patient"].isin(sets[name].loc[shared, "patient"])]
        kept[name].attrs["left out"] = len(sets[name]) - len(kept[name])
    return kept


def asked_cases(run: Run, target: str, dataset: str, cases: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The images of another set that a network can be asked about, and why there is none, "" where there are.

    Args:
        run: the network's.
        target: what was outlined where it was trained, "nodule" or "gland".
        dataset: reader of the case table `cases`.
    """
    own, there = (meaning(name)[1] for name in (run.config.data.dataset, dataset))
    if own != there:
        return cases[:0], f"its images are of the {there}, in training of the {own}"
    outlining = run.config.task == "segmentation"
    if outlining or Predictor(run).pipeline.needs_mask:
        cases = cases.dropna(subset="mask")
        outlined, cases = cases["target"].unique(), cases[cases["target"] == target]
        if cases.empty:
            return cases, f"outlined there: {listed(outlined, 'nothing')}, in training: {target}"
    if not outlining:
        cases = cases.dropna(subset="label")
        if len(classes := cases["label"].unique()) < 2:
            return cases[:0], f"classes there: {listed((LABEL_NAMES[label] for label in classes), 'none')}"
    return cases, ""


@dataclass(frozen=True)
class Tested:
    """What the trainings of one recipe say of one data set.

    Attributes:
        table: index `case`; `patient`, `label`; of classifiers `log_odds` of malignant, of all together: the mean of their
            log-odds, each calibrated by its own validation.
        values: (seeds, n), what each says: log-odds of malignant, or Dice (NaN where the truth has no nodule).
    """

    table: pd.DataFrame
    values: np.ndarray

    def score(self) -> Estimate:
        """AUC or Dice, mean over trainings, with its interval over patients."""
        if "log_odds" in self.table:
            return patient_scores(self.table["label"], expit(self.values), self.table["patient"], "auc")["auc"]
        return patient_estimate(self.values.mean(axis=0), self.table["patient"], share=True)

    def part(self, chosen: np.ndarray | bool = True) -> tuple[Influence, pd.Series]:
        """The score of `chosen` images (bool) with what each moves it by, and the patient of each."""
        known = np.isfinite(self.values).all(axis=0) & chosen
        table, values = self.table[known], self.values[:, known]
        return auc_influence(table["label"], values) if "log_odds" in table else mean_influence(values), table["patient"]


def on_own_test(found: ComparedRuns) -> Tested:
    """What trainings said of their own test images, as their runs have kept it."""
    (runs,) = found.runs.values()
    tests = [run.predictions[run.predictions["split"] == "test"] for run in runs]
    tests = [table.loc[tests[0].index] for table in tests]
    if isinstance(found, SegmenterComparison):
        hits, false, missed = np.moveaxis(np.stack([table[list(COUNTS[:3])] for table in tests]), 2, 0)
        return Tested(tests[0][["patient", "label"]], _dice(hits, hits + false, hits + missed))
    together = held_out([fold for run in runs for fold in run.folds], "test").loc[tests[0].index]
    return Tested(together, np.stack([table["log_odds"] for table in tests]))


def on_other_set(found: ComparedRuns, cases: pd.DataFrame) -> Tested:
    """What trainings say of another set's images (`asked_cases`); of folds it is the mean of their networks' answers."""
    (runs,), outlining = found.runs.values(), isinstance(found, SegmenterComparison)
    values, together = [], []
    for run in runs:
        answers = []
        for predictor in predictors_of([run]):
            needed = cases if outlining or predictor.pipeline.needs_mask else cases.assign(mask=pd.NA)
            store = preprocessed(needed, predictor.pipeline, progress_bar("Preprocessing"))
            ask = predictor.maps if outlining else predictor.log_odds
            blocks = (np.array(store.images[at : at + _AT_ONCE]) for at in range(0, len(cases), _AT_ONCE))
            answers.append(np.concatenate([ask(block) for block in blocks]))
        if outlining:
            called, truth = binarise(np.mean(answers, axis=0)), np.asarray(store.masks)
            values.append(_dice(*(pixels.sum(axis=(1, 2)) for pixels in (called & truth, called, truth))))
        else:
            scaled = [scale.log_odds(own) for scale, own in zip(calibrations_of(run.folds), answers, strict=True)]
            together.append(np.mean(scaled, axis=0))
            values.append(together[-1] if found.folds else answers[0])
    table = cases[["patient", "label"]]
    return Tested(table if outlining else table.assign(log_odds=np.mean(together, axis=0)), np.stack(values))


def given(answers: Answers, cases: pd.DataFrame, found: ComparedRuns) -> Tested:
    """What a source says of the cases that it answers; masks are scored at the resolution of the networks `found`."""
    cases = cases.loc[answers.given.index]
    if isinstance(found, ClassifierComparison):
        values = logit(answers.given.to_numpy(float).clip(np.finfo(float).tiny, 1 - np.finfo(float).epsneg))
        return Tested(cases[["patient", "label"]].assign(log_odds=values), values[None])
    pipeline, counts = Predictor(found.first.folds[0]).pipeline, []
    for case, row in cases.iterrows():
        frame, truth = read_image(row["image"]), read_mask(row["mask"])
        called, true = (pipeline(frame, mask).mask for mask in (answers.mask(case, truth.shape), truth))
        counts.append([(called & true).sum(), called.sum(), true.sum()])
    return Tested(cases[["patient", "label"]], _dice(*np.transpose(counts))[None])


def _dice(hits: np.ndarray, called: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """From counts of pixels; NaN where the truth has none."""
    return np.where(truth > 0, 2 * hits / np.maximum(called + truth, 1), np.nan)
