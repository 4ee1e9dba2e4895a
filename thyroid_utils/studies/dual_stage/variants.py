"""Paper 000's order of stages against others, on the same test images, and what its two answers say together.

The paper classifies the whole frame and segments beside it. Compared with that: the classifier on a crop around the nodule, by
the true mask (which nobody has in use: the best that segmenting first could do) and by the predicted one (what it would do), and
one network with a shared encoder and two heads. All are trained with the same seeds on the same split; test images are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.inference.findings import left_whole
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import PRESETS
from thyroid_utils.scores.comparisons import compare_means, delong_test, holm
from thyroid_utils.scores.estimates import Comparison, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts
from thyroid_utils.studies.compare import check_recipes
from thyroid_utils.training.ledger import Run

# Name in code → name in a table.
VARIANTS = {
    "frame": "whole frame (the paper)",
    "crop_true": "crop by the true mask",
    "crop_predicted": "crop by the predicted mask",
    "joint": "one network, two heads",
}
SCORES = ("auc", "accuracy", "sensitivity", "specificity")
_BLOCK = 16  # crops in memory at once
_QUESTIONS = (("crop_true", "frame"), ("crop_predicted", "frame"), ("crop_predicted", "crop_true"), ("joint", "frame"))


def with_crop(spec: str | Sequence, margin: float = 0.2) -> list:
    """A preprocessing with a crop around the nodule in front of its `resize`.

    Args:
        spec: a preset's name or a list of steps.
        margin: added on each side, as a share of the nodule's longer side.

    Raises:
        DataError: no such preset, or no resize among the steps.
    """
    if isinstance(spec, str) and spec not in PRESETS:
        raise DataError(f"preprocessing {spec!r} is no preset; known: {', '.join(PRESETS)}")
    steps = list(PRESETS[spec].steps if isinstance(spec, str) else spec)
    names = [step if isinstance(step, str) else next(iter(step)) for step in steps]
    if "resize" not in names:
        raise DataError("preprocessing: no resize among the steps; a crop needs one behind it")
    steps.insert(names.index("resize"), {"nodule_crop": {"margin": margin}})
    return steps


def variant_configs(
    seeds: Sequence[int],
    classifier: Mapping[str, Any],
    segmenter: Mapping[str, Any],
    joint: Mapping[str, Any] | None = None,
    margin: float = 0.2,
) -> dict[str, list[RunConfig]]:
    """The runs that the variants need, one a seed.

    Args:
        seeds: of the training.
        classifier, segmenter, joint: fields of `RunConfig` but the seed, with one data set and one split for all; joint None
            leaves that network out. Each image should have a label and a mask: a classifier leaves out images without a label
            and a segmenter those without a mask, so that their splits differ otherwise, and few test images are common to all.
        margin: of the crops, as for `with_crop`.

    Returns:
        "frame", "crop", "segmenter" and, where wanted, "joint" → configs in the order of the seeds.
    """
    cropped = with_crop(classifier.get("preprocessing", RunConfig.model_fields["preprocessing"].default), margin)
    wanted = {"frame": classifier, "crop": {**classifier, "preprocessing": cropped}, "segmenter": segmenter, "joint": joint}
    return {role: [RunConfig(**{**fields, "seed": seed}) for seed in seeds] for role, fields in wanted.items() if fields}


@dataclass(frozen=True)
class DualStageStudy:
    """The runs of the variants, each with the same seeds. Made by `DualStageStudy.of`.

    runs: "frame", "crop", "segmenter" and perhaps "joint" → runs. root: the data's folder, where it is another than in training.
    """

    runs: dict[str, list[Run]]
    root: str | None = None

    @classmethod
    def of(cls, runs: Mapping[str, Sequence[Run]], root: str | None = None) -> DualStageStudy:
        """Check that the runs can be compared: the roles of `variant_configs`, equal seeds, and no patient of the common test
        images among those that any network was trained or validated on.

        Raises:
            DataError: they cannot; says why.
        """
        found = {role: list(several) for role, several in runs.items()}
        if not {"frame", "crop", "segmenter"} <= set(found) <= {"frame", "crop", "segmenter", "joint"}:
            raise DataError(f"dual-stage study: runs of {', '.join(found)}; expected frame, crop, segmenter and perhaps joint")
        check_recipes(found)
        if len({tuple(run.config.seed for run in several) for several in found.values()}) > 1 or not found["frame"]:
            raise DataError("dual-stage study: the variants were trained with different seeds; give each the same ones")
        study = cls(found, root)
        study._check_patients()
        return study

    @property
    def variants(self) -> list[str]:
        """Keys of `VARIANTS` that there are runs of."""
        return [variant for variant in VARIANTS if variant != "joint" or "joint" in self.runs]

    @cached_property
    def truth(self) -> pd.DataFrame:
        """`patient` and `label` of the images that every run has on its test side."""
        return self._common("test")

    @property
    def left_out(self) -> int:
        """Labelled test images of the whole-frame classifier that another run does not have on its test side."""
        return int((self.runs["frame"][0].predictions["split"] == "test").sum()) - len(self.truth)

    @cached_property
    def probabilities(self) -> dict[str, np.ndarray]:
        """Variant → probabilities of malignancy of the images of `truth`, (seeds, n)."""
        found = {name: self._told(role, self.truth.index) for name, role in self._stored.items()}
        return {name: self._cropped["test"] if name == "crop_predicted" else found[name] for name in self.variants}

    @cached_property
    def thresholds(self) -> dict[str, list[float]]:
        """Variant → the threshold of each seed by Youden's rule on validation, where crops are by predicted masks too."""
        known = self._common("val")
        found = {name: self._told(role, known.index) for name, role in self._stored.items()} | {
            "crop_predicted": self._cropped["val"]
        }
        return {name: [choose_threshold(known["label"], each) for each in found[name]] for name in self.variants}

    def estimates(self, scores: Sequence[str] = SCORES, *, resamples: int = 2000) -> pd.DataFrame:
        """Each variant's scores on test, the mean over seeds with its interval over patients.

        Returns:
            index `variant`; `what` (its name for a reader), an `Estimate` a score (names of `scores.labels.SCORES`), `seeds`, and
            `without_nodule`: images, the mean over seeds, in which the segmenter found nothing to crop to, so that the classifier
            saw the whole frame (NaN for the other variants).
        """
        rows = {}
        for name in self.variants:
            found = patient_bootstrap_scores(
                self.truth["label"], self.probabilities[name], self.truth["patient"], scores, self.thresholds[name],
                resamples=resamples,
            )  # fmt: skip
            empty = self._cropped["empty"] if name == "crop_predicted" else np.nan
            rows[name] = {"what": VARIANTS[name], **found, "seeds": len(self.runs["frame"]), "without_nodule": empty}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")

    def comparisons(self, level: float = 0.95) -> pd.DataFrame:
        """Paired differences in AUC: every variant less the paper's, and predicted less true crops, which is what an imperfect
        mask costs.

        Returns:
            `first`, `second` (variants), `auc` (`Comparison`, first − second, over patients by `delong_test`), `p_holm` over
            these rows, `differs` (below 1 − level).
        """
        rows = []
        for first, second in _QUESTIONS:
            if first in self.variants:
                pair = self.probabilities[first], self.probabilities[second]
                found = delong_test(self.truth["label"], *pair, self.truth["patient"], level=level)
                rows.append({"first": first, "second": second, "auc": found})
        table = pd.DataFrame(rows)
        table["p_holm"] = holm([found.p_value for found in table["auc"]])
        return table.assign(differs=table["p_holm"] < 1 - level)

    @cached_property
    def dice(self) -> pd.DataFrame:
        """Dice of each test image on its frame, the mean over seeds: columns `segmenter` and, where there is one, `joint`."""
        return pd.DataFrame({role: self._dice(role) for role in ("segmenter", "joint") if role in self.runs})

    def dice_table(self) -> pd.DataFrame:
        """Whether sharing an encoder costs the mask anything: `dice` (`Estimate`) and `difference` to the segmenter's
        (`Comparison`, None for itself), a row a role."""
        patients, rows = self.truth["patient"], {}
        for role, values in self.dice.items():
            difference: Comparison | None = None
            if role != "segmenter":
                difference = compare_means(values, self.dice["segmenter"], patients)
            rows[role] = {"dice": patient_bootstrap(values, patients), "difference": difference}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("role")

    @property
    def _stored(self) -> dict[str, str]:
        """Variant → role, of those whose probabilities the runs themselves hold."""
        return {name: role for name, role in (("frame", "frame"), ("crop_true", "crop"), ("joint", "joint")) if role in self.runs}

    def _told(self, role: str, cases: pd.Index) -> np.ndarray:
        return np.stack([run.predictions.loc[cases, "probability"].to_numpy(float) for run in self.runs[role]])

    def _common(self, split: str) -> pd.DataFrame:
        """`patient` and `label` of the images that every run has on a side."""
        table = self.runs["frame"][0].predictions
        found = table[table["split"] == split]
        for several in self.runs.values():
            for run in several:
                found = found[found.index.isin(run.predictions.index[run.predictions["split"] == split])]
        if found.empty:
            raise DataError(f"dual-stage study: the runs share no {split} image; train all on one data set with one split")
        return found[["patient", "label"]]

    def _check_patients(self) -> None:
        tested = set(self.truth["patient"])
        for role, several in self.runs.items():
            for run in {run.data["split_hash"]: run for run in several}.values():
                cases = Predictor(run, self.root).cases
                met = tested & set(cases.loc[cases["split"] != "test", "patient"])
                if met and not run.data["leaky"]:
                    raise DataError(
                        f"dual-stage study: {len(met)} of {len(tested)} test patients are on the training or validation side "
                        f"of the runs of {role}; give images that have both a label and a mask, so that all runs get one split"
                    )

    @cached_property
    def _cropped(self) -> dict[str, Any]:
        """`val` and `test`: probabilities of crops by predicted masks, (seeds, n); `empty`: test images without one."""
        found: dict[str, list[np.ndarray]] = {"val": [], "test": []}
        empty, tables = [], {split: self._common(split).index for split in found}
        bar, done = progress_bar("Classifying crops"), 0
        total = len(self.runs["crop"]) * sum(map(len, tables.values()))
        for run, segmenter in zip(self.runs["crop"], self.runs["segmenter"], strict=True):
            asked, outlined = Predictor(run, self.root), Predictor(segmenter, self.root)
            pipeline = left_whole(asked.pipeline)
            for split, names in tables.items():
                odds, missing = [], 0
                for start in range(0, len(names), _BLOCK):
                    seen = []
                    for case in names[start : start + _BLOCK]:
                        mask = predicted_mask(outlined, split, case)
                        sample = pipeline(read_image(asked.cases.at[case, "image"]), mask)
                        seen.append(sample.image)
                        missing += not sample.mask.any()
                    odds.append(asked.log_odds(np.stack(seen)))
                    done += len(seen)
                    bar(done, total)
                found[split].append(expit(np.concatenate(odds)))
            empty.append(missing)
        return {split: np.stack(seeds) for split, seeds in found.items()} | {"empty": float(np.mean(empty))}

    def _dice(self, role: str) -> pd.Series:
        """Mean over the seeds that define it."""
        seeds = []
        for run in self.runs[role]:
            predictor = Predictor(run, self.root)
            seeds.append(
                [dice_of(predictor.cases.at[case, "mask"], predicted_mask(predictor, "test", case)) for case in self.truth.index]
            )
        return pd.DataFrame(seeds, columns=self.truth.index).mean()


def predicted_mask(predictor: Predictor, split: str, case: str) -> np.ndarray:
    """The mask that a segmenter's or joint run holds of a validation or test image, on its frame: bool (height, width)."""
    return binarise(predictor.held_map(split, case))


def dice_of(path: str, found: np.ndarray) -> float:
    """Dice of a mask on its frame with the mask file; NaN where both are empty."""
    return float(overlap_scores(**pixel_counts(read_mask(path, found.shape), found))["dice"])
