"""Notebook 13: finished networks on data sets that they were not trained on: what they lose, in whom, and what mends it.

AUC and Dice (at the network's resolution, of images with a nodule) are means over trainings. What depends on a probability, as
thresholds, calibration and prediction sets do, is asked of all trainings together, as the command predict does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count, listed, p_value, share
from thyroid_utils.data.images import read_gray, read_image, read_mask
from thyroid_utils.data.readers.published import meaning
from thyroid_utils.data.table import LABEL_NAMES, malignant_share, measure_cases
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.inference.ensemble import Ensemble, held_out
from thyroid_utils.inference.predictor import predictors_of
from thyroid_utils.scores.comparisons import compare_answers, holm
from thyroid_utils.scores.estimates import Estimate, patient_median, patient_scores
from thyroid_utils.scores.labels import choose_threshold, classification_scores
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.scores.recipes import RecipeComparison, compare_apart
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.error_analysis.subgroups import FEWEST_PATIENTS, subgroup_columns
from thyroid_utils.studies.external_validation.asked import Tested, asked_cases, given, on_other_set, on_own_test
from thyroid_utils.studies.followed import inputs_of, steps_to_call
from thyroid_utils.studies.predictions import read_predictions
from thyroid_utils.studies.preprocessing import MEASURES, quality
from thyroid_utils.studies.tables import told_difference

MENDED = ("sensitivity", "specificity", "calibration_slope", "calibration_intercept", "brier")
# Column of `ExternalValidation.measured` → how a table names it.
MEASURED = {
    "gray": "brightness, gray levels", "inside": "nodule, gray levels", "around": "around it, gray levels", **MEASURES,
    "area_share": "nodule, share of the frame", "width": "width of the frame, pixels", "spacing_mm": "spacing, mm/pixel",
}  # fmt: skip
GONE = "not at hand, or changed: so what others share with it, its statistics and subgroups are not known"
_LOOKED_AT = 100  # outlined images of a set, one a patient, whose `quality` is measured


@dataclass(frozen=True)
class ExternalValidation:
    """Networks trained on some sets, and asked on all of them.

    Attributes:
        trained: set → "AUC" and "Dice" → its trainings; the first set is `home`.
        sets: set → its case table (`asked.apart`); that of `home` may be lacking.
        readers: set → its reader, home's first.
    """

    trained: dict[str, dict[str, ComparedRuns]]
    sets: dict[str, pd.DataFrame]
    readers: dict[str, str]

    @property
    def home(self) -> str:
        return next(iter(self.trained))

    def answered(self, score: str) -> list[str]:
        """The sets of which home's networks have a score, home first; none where it has no such networks."""
        return [column for kind, row, column in self.tested if (kind, row) == (score, self.home)]

    @cached_property
    def asked(self) -> dict[tuple[str, str, str], tuple[pd.DataFrame, str]]:
        """Score, training set and other set → `asked_cases`. Raises DataError where nothing can be asked."""
        found = {}
        for name, kinds in self.trained.items():
            target = self.sets[name]["target"].iloc[0] if name in self.sets else "nodule"
            for other, cases in self.sets.items():
                if other != name:
                    for score, trained in kinds.items():
                        found[score, name, other] = asked_cases(trained.first.folds[0], target, self.readers[other], cases)
        if found and all(why for _, why in found.values()):
            told = listed(dict.fromkeys(f"{other} ({why})" for (_, _, other), (_, why) in found.items()))
            raise DataError(f"EXTERNAL: these networks answer another question than {told} asks; give another set")
        return found

    @cached_property
    def tested(self) -> dict[tuple[str, str, str], Tested]:
        """Score, training set and tested set → what its trainings say."""
        found = {(score, name, name): on_own_test(own) for name, kinds in self.trained.items() for score, own in kinds.items()}
        asked = {key: cases for key, (cases, why) in self.asked.items() if not why}
        return found | {key: on_other_set(self.trained[key[1]][key[0]], cases) for key, cases in asked.items()}

    def questions(self) -> pd.DataFrame:
        """A row a set: what it holds, what its labels say, and whether home's networks are asked about it, or why not."""
        rows = {}
        for name, reader in self.readers.items():
            rows[name] = {"reader": reader, "labels": meaning(reader)[0], "outlined": GONE}
            if (cases := self.sets.get(name)) is not None:
                rows[name] |= {"outlined": listed(cases["target"][cases["mask"].notna()].unique()), "images": len(cases)}
                rows[name] |= {"patients": cases["patient"].nunique(), "malignant": share(malignant_share(cases))}
                rows[name]["left out"] = cases.attrs.get("left out", 0) if self.home in self.sets else "not known"
            for score in self.trained[self.home]:
                why = self.asked.get((score, self.home, name), (None, ""))[1]
                rows[name][score] = f"not asked: {why}" if why else "test images" if name == self.home else "all images"
        return pd.DataFrame.from_dict(rows, orient="index").convert_dtypes().rename_axis("set")

    def matrix(self, score: str) -> pd.DataFrame:
        """`Estimate`s, a row a training set, a column a tested one: of its own the test images, of another all; without a value
        where none was asked."""
        nothing = Estimate(np.nan, np.nan, np.nan, 0, 0, "not asked")
        found = [[self.tested.get((score, row, column)) for column in self.readers] for row in self.trained]
        scores = [[nothing if each is None else each.score() for each in row] for row in found]
        return pd.DataFrame(scores, list(self.trained), list(self.readers))

    def drops(self, score: str) -> pd.DataFrame:
        """Each other set (`first`) less home (`second`), as `ComparedRuns.paired`: the same trainings, other patients."""
        names = self.answered(score)
        here, *others = [self.tested[score, self.home, name].part() for name in names]
        return self._paired(score, {name: compare_apart(part, here, 1) for name, part in zip(names[1:], others, strict=True)})

    def _paired(self, score: str, found: dict[str, RecipeComparison]) -> pd.DataFrame:
        own = self.trained[self.home][score]
        return own.paired(lambda name, _: own.withheld(found[name], own.models), [(name, self.home) for name in found])

    def beside(self, predictions: Mapping[str, Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
        """Answers made elsewhere beside home's networks, on the images that both answer: a row a set, score and source, and
        sentences of who is answered. predictions: set → as of `read_predictions`; names of no set are left to other notebooks.

        The test is `compare_answers`, of these answers alone; Holm over all rows."""
        rows, said = [], []
        asked = {(score, name) for score, row, name in self.tested if row == self.home and name in {*predictions} & {*self.sets}}
        for score, name in sorted(asked):
            ours = self.tested[score, self.home, name]
            cases = self.sets[name].assign(split=np.where(self.sets[name].index.isin(ours.table.index), "test", None))
            for source, answers in read_predictions(predictions[name], cases, masks=score == "Dice").items():
                theirs = given(answers, cases, self.trained[self.home][score])
                at = ours.table.index.get_indexer(theirs.table.index)
                (one, patients), (two, _) = theirs.part(), Tested(ours.table.iloc[at], ours.values[:, at]).part()
                found = compare_answers(one, two, patients)
                told = {"set": name, "source": source, "score": score, "images": found.images, "theirs": theirs.score()}
                rows.append({**told, "ours": found.second, "difference": told_difference(found), "p (Holm)": found.p_value})
                said.append(f"{name}: {answers.told}")
        table = pd.DataFrame(rows)
        return table.assign(**{"p (Holm)": holm(table["p (Holm)"])}) if rows else table, said

    def subgroups(self, score: str) -> pd.DataFrame:
        """`drops` within what both sets tell of their images, where each has ten patients or more, and for an AUC both classes;
        no row where home's data are gone."""
        found = {}
        for name in self.answered(score)[1:] if self.home in self.sets else ():
            sides = {"test": name, "train": self.home}  # whose tertiles cut: those of all its images
            pair = [self.tested[score, self.home, other] for other in sides.values()]
            both = pd.concat([self.sets[other].assign(split=side) for side, other in sides.items()], keys=sides)
            groups = subgroup_columns(both, pd.concat([self.measured[other] for other in sides.values()], keys=sides))
            for factor, levels in groups.items():
                own = [levels[side].reindex(tested.table.index) for side, tested in zip(sides, pair, strict=True)]
                for level in levels.cat.categories:
                    chosen = [(values == level).to_numpy(bool) for values in own]
                    sizes = [tested.table[rows].nunique() for tested, rows in zip(pair, chosen, strict=True)]
                    if all(size["patient"] >= FEWEST_PATIENTS and (score != "AUC" or size["label"] == 2) for size in sizes):
                        parts = [tested.part(rows) for tested, rows in zip(pair, chosen, strict=True)]
                        found[f"{name}, {factor}: {level}"] = compare_apart(*parts, 1)
        return self._paired(score, found)

    def judged(self, name: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        """Home's validation images, and those of a set that they judge, as its classifiers together answer both. In folds home is
        judged fold by fold: what one tests the others have trained or validated with."""
        own = self.trained[self.home]["AUC"]
        networks = [fold for runs in own.runs.values() for run in runs for fold in run.folds]
        if name == self.home:
            return [(held_out(networks, "val", fold), held_out(networks, "test", fold)) for fold in range(max(own.folds, 1))]
        return [(held_out(networks, "val"), self.tested["AUC", self.home, name].table)]

    def mended(self, name: str, sizes: Sequence[int] = (), draws: int = 0) -> pd.DataFrame:
        """`MENDED` of a set as home's networks answer it, and after some of its patients have helped; of home as they are alone.

        So many patients are drawn, of both classes as they occur; slope and intercept (`fit_platt`) and Youden's threshold are
        fitted to their images, and the other patients are tested.

        Returns:
            index `patients`: 0, as it is with home's threshold, an `Estimate` over patients; then the `sizes` that leave half
            of the patients to test: the median of the draws, with the range of 95 % of them.
        """
        table = pd.concat([tested.assign(limit=_threshold(known)) for known, tested in self.judged(name)])
        rows = {0: patient_scores(table["label"], expit(table["log_odds"]), table["patient"], MENDED, table[["limit"]].T)}
        people = table.groupby("patient")["label"].max().astype(int)
        for size in [size for size in sizes if 2 <= size <= len(people) / 2 and name != self.home]:
            malignant, found = int(np.clip(round(size * people.mean()), 1, size - 1)), []
            for draw in range(draws):
                mixed = people.sample(frac=1, random_state=draw)
                helping = pd.concat([mixed[mixed == 1][:malignant], mixed[mixed == 0][: size - malignant]]).index
                known, others = (table[table["patient"].isin(helping) == helps] for helps in (True, False))
                scale = fit_platt(known["label"], known["log_odds"])
                cut = _threshold(known, scale)
                found.append(classification_scores(others["label"], scale(others["log_odds"]), cut))
            ranges = pd.DataFrame(found)[list(MENDED)].quantile([0.5, 0.025, 0.975])
            rows[size] = {score: Estimate(*ranges[score], len(others), len(people) - size) for score in MENDED}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patients")

    def followed(self, name: str) -> pd.DataFrame:
        """The first image of another set, by name, from its pixels to a call, a row a step: by home's calibration and threshold,
        and then with those fitted anew to the mean log-odds of the other patients there, where these are of both classes."""
        ((known, table),), own = self.judged(name), self.trained[self.home]["AUC"]
        case, networks = table.index.min(), Ensemble(predictors_of(next(iter(own.runs.values()))))
        row, fitted = self.sets[name].loc[case], networks.runs[0].data["fitted"]
        samples = networks.prepare(read_image(row["image"]), None if pd.isna(row["mask"]) else read_mask(row["mask"]))
        steps = {"home's µ and σ": f"{fitted[0]:.3g} and {fitted[1]:.3g}"} if fitted else {}
        steps |= inputs_of(networks.predictors[0], row)
        steps |= steps_to_call(networks.answers("log_odds", [samples])[:, 0], networks.calibrations, _threshold(known))
        columns, others = {"by home": steps}, table[table["patient"] != table.at[case, "patient"]]
        if others["label"].nunique() == 2:
            scale = fit_platt(others["label"], others["log_odds"])
            helped = f"with the help of {count(others['patient'].nunique(), 'other patient')}"
            columns[helped] = steps_to_call([table.at[case, "log_odds"]], [scale], _threshold(others, scale))
        truth = {"truth": LABEL_NAMES[int(table.at[case, "label"])]}
        return pd.DataFrame({column: rows | truth for column, rows in columns.items()}).fillna("").rename_axis(case)

    def coverage(self, alpha: float) -> pd.DataFrame:
        """How often prediction sets of labels made with home's validation hold the truth, an `Estimate` a set and class, and how
        many labels they name (`inference.conformal`)."""
        rows = {}
        for name in self.answered("AUC"):
            sets = []
            for known, tested in self.judged(name):
                asked = expit(known["log_odds"]), known["label"], expit(tested["log_odds"])
                sets.append(conformal_sets(*asked, alpha, val_patients=known["patient"], by_class=True).join(tested))
            table = pd.concat(sets)
            held = coverage(table, table["label"], table["patient"])
            rows[name] = {**held["coverage"], "labels in a set": held.at["all", "size"]}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set")

    @cached_property
    def measured(self) -> dict[str, pd.DataFrame]:
        """Set → `measure_cases` of its images, and `quality` of some."""
        found = {}
        for name, cases in self.sets.items():
            some = cases.dropna(subset="mask").sample(frac=1, random_state=0).drop_duplicates("patient")[:_LOOKED_AT]
            looks = {case: quality(read_gray(row["image"]), read_mask(row["mask"])) for case, row in some.iterrows()}
            table = measure_cases(cases, progress_bar("Measuring images")).table.join(cases.reindex(columns=["spacing_mm"]))
            found[name] = table.join(pd.DataFrame.from_dict(looks, orient="index", columns=list(MEASURES)))
        return found

    def statistics(self) -> pd.DataFrame:
        """Medians over images, `Estimate`s over patients: a row a measure, a column a set whose data are at hand."""
        tables = {name: table[list(MEASURED)].rename(columns=MEASURED) for name, table in self.measured.items()}
        medians = {name: table.apply(patient_median, patients=self.sets[name]["patient"]) for name, table in tables.items()}
        return pd.DataFrame(medians).rename_axis("median")

    @property
    def plan(self) -> str:
        """What the trainings differ in, as text for a caption (`ComparedRuns.plan`)."""
        return listed(dict.fromkeys(own.plan for own in self.trained[self.home].values()))

    def told(self) -> str:
        """What home's networks reach at home and on the other sets, as sentences in markdown."""
        labels, told, notes = {name: meaning(of)[0] for name, of in self.readers.items()}, [], []
        for score, own in self.trained[self.home].items():
            reached = {name: self.tested[score, self.home, name].score().text(2) for name in self.answered(score)}
            at_home = f"reaches {score} {reached.pop(self.home)} on test images of its own set"
            leaky = ", LEAKY: split by image, which flatters it and what is lost" * bool(own.first.data["leaky"])
            told.append(f"**{own.models[0]}**, trained on {self.home}, {at_home}{leaky}.")
            for name, _, found, p, differs in self.drops(score).itertuples(index=False):
                chance = f", {'' if differs else 'not '}more than chance can give ({p_value(p)} after Holm)"
                told.append(f"On {name} {reached[name]}: {told_difference(found)} against home{chance * (not np.isnan(p))}.")
                notes += [found.note] * bool(np.isnan(p))
                if score == "AUC" and labels[name] != labels[self.home]:
                    told[-1] += f" Its labels say: {labels[name]}; home's: {labels[self.home]}."
            told[-1] += " It was asked about no other set; `EXTERNAL` names them." * (not reached)
        if notes:
            which = "where chance is not named" if any("after Holm" in each for each in told) else "on any difference"
            told.append(f"No verdict {which}: {listed(dict.fromkeys(notes))}.")
        return " ".join(told)


def _threshold(known: pd.DataFrame, scale: Callable[[pd.Series], np.ndarray] = expit) -> float:
    """Youden's, of images with `label` and `log_odds`."""
    return choose_threshold(known["label"], scale(known["log_odds"]))
