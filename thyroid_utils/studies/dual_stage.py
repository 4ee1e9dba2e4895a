"""Paper 000's framework on the test split: its order of stages against others, and what its two answers say together.

The paper classifies the whole frame and segments beside it. Compared with that: the classifier on a crop around the nodule, by
the true mask (which nobody has in use: the best that segmenting first could do) and by the predicted one (what it would do), and
one network with a shared encoder and two heads. All are trained with the same seeds on the same split; test images are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.inference.doubts import CHANCE
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import PRESETS, build_pipeline
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import patient_estimate, patient_scores
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts
from thyroid_utils.scores.recipes import auc_influence, compare_recipes, mean_influence
from thyroid_utils.studies.compared_runs import check_recipes
from thyroid_utils.training.ledger import Run

# Name in code → name in a table.
VARIANTS = {
    "frame": "whole frame (the paper)",
    "crop_true": "crop by the true mask",
    "crop_predicted": "crop by the predicted mask",
    "joint": "one network, two heads",
}
_STORED = {"frame": "frame", "crop_true": "crop", "joint": "joint"}  # variant → role whose runs hold its probabilities
_QUESTIONS = (("crop_true", "frame"), ("crop_predicted", "frame"), ("crop_predicted", "crop_true"), ("joint", "frame"))
_BLOCK = 16  # crops in memory at once


def with_crop(spec: str | Sequence, margin: float = 0.2) -> list:
    """A preprocessing with a crop around the nodule in front of its `resize`.

    Args:
        spec: a preset's name or a list of steps.
        margin: added on each side, as a share of the nodule's longer side.

    Raises:
        DataError: no such preset, or no resize among the steps.
    """
    build_pipeline(spec)
    steps = list(PRESETS[spec].steps if isinstance(spec, str) else spec)
    names = [step if isinstance(step, str) else next(iter(step)) for step in steps]
    steps.insert(names.index("resize"), {"nodule_crop": {"margin": margin}})
    return steps


def check_one_split(runs: Sequence[Run]) -> None:
    """Raise DataError where runs have more than one split: a test image of one could be a training image of another.

    A classifier leaves out images without a label and a segmenter those without a mask, so that their splits differ wherever
    some images lack one of both.
    """
    if len({(run.data["split_hash"], run.data["fingerprint"]) for run in runs}) > 1:
        told = ", ".join(f"{run.config.task} {run.name} {sum(run.data['images'].values())} images" for run in runs)
        raise DataError(
            f"dual-stage: the runs have different splits ({told}); train all on images that have both a label and a mask "
            "(DATA_OPTIONS having: [label, mask])"
        )


@dataclass(frozen=True)
class DualStageStudy:
    """The runs of the variants, each with the same seeds and on one split. Made by `DualStageStudy.of`.

    runs: "frame", "crop", "segmenter" and perhaps "joint" → runs. root: the data's folder, where it is another than in training.
    """

    runs: dict[str, list[Run]]
    root: str | None = None

    @classmethod
    def of(cls, runs: Mapping[str, Sequence[Run]], root: str | None = None) -> DualStageStudy:
        """The study of the runs of "frame", "crop" (`with_crop`), "segmenter" and, where wanted, "joint", one a seed each.

        Raises:
            DataError: runs of one role that differ in more than the seed, roles of different seeds, or runs of different splits.
        """
        found = {role: list(several) for role, several in runs.items()}
        check_recipes(found)
        if len({tuple(run.config.seed for run in several) for several in found.values()}) > 1:
            raise DataError("dual-stage study: the variants were trained with different seeds; give each the same ones")
        check_one_split([run for several in found.values() for run in several])
        return cls(found, root)

    @property
    def variants(self) -> list[str]:
        """Keys of `VARIANTS` that there are runs of."""
        return [variant for variant in VARIANTS if variant != "joint" or "joint" in self.runs]

    @property
    def truth(self) -> pd.DataFrame:
        """`patient` and `label` of the test images."""
        return self._side("test")

    def _side(self, split: str) -> pd.DataFrame:
        table = self.runs["frame"][0].predictions
        return table.loc[table["split"] == split, ["patient", "label"]]

    def _told(self, variant: str, split: str) -> np.ndarray:
        """Probabilities of malignancy of a side's images, (seeds, n)."""
        if variant == "crop_predicted":
            return self._cropped[split]
        cases = self._side(split).index
        return np.stack([run.predictions.loc[cases, "probability"].to_numpy(float) for run in self.runs[_STORED[variant]]])

    @cached_property
    def probabilities(self) -> dict[str, np.ndarray]:
        """Variant → probabilities of malignancy of the images of `truth`, (seeds, n)."""
        return {variant: self._told(variant, "test") for variant in self.variants}

    @cached_property
    def thresholds(self) -> dict[str, list[float]]:
        """Variant → the threshold of each seed by Youden's rule on validation, where crops are by predicted masks too."""
        labels = self._side("val")["label"]
        return {variant: [choose_threshold(labels, seed) for seed in self._told(variant, "val")] for variant in self.variants}

    def estimates(self, scores: Sequence[str]) -> pd.DataFrame:
        """Each variant's scores on test, the mean over seeds with its interval over patients.

        Returns:
            index `variant`; `what` (its name for a reader), an `Estimate` a score (names of `scores.labels.SCORES`), and
            `without_nodule`: images, the mean over seeds, in which the segmenter found nothing to crop to, so that the classifier
            saw the whole frame (NaN for the other variants).
        """
        rows, (patients, labels) = {}, (self.truth[name] for name in ("patient", "label"))
        for name in self.variants:
            found = patient_scores(labels, self.probabilities[name], patients, scores, self.thresholds[name])
            empty = self._cropped["empty"] if name == "crop_predicted" else np.nan
            rows[name] = {"what": VARIANTS[name], **found, "without_nodule": empty}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")

    @cached_property
    def untrained(self) -> list[str]:
        """The variants whose AUC on validation is not shown to be above chance."""
        side = self._side("val")
        found = {
            name: patient_scores(side["label"], self._told(name, "val"), side["patient"], "auc")["auc"] for name in self.variants
        }
        return [name for name, auc in found.items() if not auc.low > CHANCE]

    def comparisons(self) -> pd.DataFrame:
        """Differences in AUC: every variant less the paper's, and predicted less true crops, which is what an imperfect mask
        costs.

        Returns:
            `first`, `second` (variants), `difference` (`RecipeComparison`, first − second; no verdict on two variants that are
            both `untrained`), `p_holm` over these rows, `differs` (below 0.05).
        """
        patients, label = (self.truth[name] for name in ("patient", "label"))
        moved = {name: auc_influence(label, told) for name, told in self.probabilities.items()}
        rows = []
        for first, second in [pair for pair in _QUESTIONS if pair[0] in self.variants]:
            found = compare_recipes(moved[first], moved[second], patients, most=1)
            if {first, second} <= set(self.untrained):
                found = replace(found, low=np.nan, high=np.nan, p_value=np.nan, note="validation shows neither above chance")
            rows.append({"first": first, "second": second, "difference": found})
        table = pd.DataFrame(rows)
        table["p_holm"] = holm([found.p_value for found in table["difference"]])
        return table.assign(differs=table["p_holm"] < 0.05)

    @cached_property
    def dice(self) -> dict[str, pd.DataFrame]:
        """Dice of the test images on their frames by the segmenter and, where there is one, the joint network: a row a seed, a
        column an image."""
        cases, found = self.truth.index, {}
        for role in [role for role in ("segmenter", "joint") if role in self.runs]:
            predictors = [Predictor(run, self.root) for run in self.runs[role]]
            paths = predictors[0].cases["mask"]
            seeds = [[dice_of(paths[case], predicted_mask(seed, "test", case)) for case in cases] for seed in predictors]
            found[role] = pd.DataFrame(seeds, columns=cases)
        return found

    def dice_table(self) -> pd.DataFrame:
        """Whether sharing an encoder costs the mask anything: `dice` (`Estimate`, mean over seeds) and `difference` to the
        segmenter's (`RecipeComparison`, None for itself) on the images that have a Dice in every training; a row a role."""
        known = pd.concat(self.dice.values()).notna().all()
        own, rows = self.dice["segmenter"].loc[:, known], {}
        patients = self.truth.loc[known, "patient"]
        for role, values in self.dice.items():
            values = values.loc[:, known]
            found = compare_recipes(mean_influence(values), mean_influence(own), patients, most=1)
            dice = patient_estimate(values.mean(), patients, share=True)
            rows[role] = {"dice": dice, "difference": None if role == "segmenter" else found}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("role")

    @cached_property
    def _cropped(self) -> dict[str, Any]:
        """`val` and `test`: probabilities of crops by predicted masks, (seeds, n); `empty`: test images without one."""
        found: dict[str, list[np.ndarray]] = {"val": [], "test": []}
        empty = 0
        for run, segmenter in zip(self.runs["crop"], self.runs["segmenter"], strict=True):
            asked, outlined = Predictor(run, self.root), Predictor(segmenter, self.root)
            for split, seeds in found.items():
                names, odds = self._side(split).index, []
                for start in range(0, len(names), _BLOCK):
                    samples = [
                        asked.pipeline(read_image(asked.cases.at[case, "image"]), predicted_mask(outlined, split, case))
                        for case in names[start : start + _BLOCK]
                    ]
                    odds.append(asked.log_odds(np.stack([sample.image for sample in samples])))
                    empty += sum(not sample.mask.any() for sample in samples) * (split == "test")
                seeds.append(expit(np.concatenate(odds)))
        return {split: np.stack(seeds) for split, seeds in found.items()} | {"empty": empty / len(self.runs["crop"])}


def predicted_mask(predictor: Predictor, split: str, case: str) -> np.ndarray:
    """The mask that a segmenter's or joint run holds of a validation or test image, on its frame: bool (height, width)."""
    return binarise(predictor.held_map(split, case))


def dice_of(path: str, found: np.ndarray) -> float:
    """Dice of a mask on its frame with the mask file; NaN where both are empty."""
    return float(overlap_scores(**pixel_counts(read_mask(path, found.shape), found))["dice"])
