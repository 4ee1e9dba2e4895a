"""Paper 000's framework on the test split: its order of stages against others, and what its two answers say together.

The paper classifies the whole frame and segments beside it. Compared with that: the classifier on a crop around the nodule, by
the true mask (which nobody has in use: the best that segmenting first could do) and by the predicted one (what it would do), and
one network with a shared encoder and two heads. All are trained with the same seeds on the same split; test images are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import PRESETS, build_pipeline
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.compared_runs import check_recipes
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import Run

# Name in code → name in a table.
VARIANTS = {
    "frame": "whole frame (the paper)",
    "crop_true": "crop by the true mask",
    "crop_predicted": "crop by the predicted mask",
    "joint": "one network, two heads",
}
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
    """The runs of the variants, each with the same seeds and on one split or the same folds. Made by `DualStageStudy.of`.

    runs: "frame", "crop", "segmenter" and perhaps "joint" → runs. root: the data's folder, where it is another than in training.
    """

    runs: dict[str, list[Run | FoldedRun]]
    root: str | None = None

    @classmethod
    def of(cls, runs: Mapping[str, Sequence[Run | FoldedRun]], root: str | None = None) -> DualStageStudy:
        """The study of the runs of "frame", "crop" (`with_crop`), "segmenter" and, where wanted, "joint", one a seed, or a seed
        and fold, each.

        Raises:
            DataError: runs of one role that differ in more than the seed, roles of different seeds, or runs of different splits.
        """
        found = {role: by_folds(several) for role, several in runs.items()}
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
        return self.runs["frame"][0].predictions.query("split == 'test'")[["patient", "label"]]

    @cached_property
    def classes(self) -> ClassifierComparison:
        """The variants as classifiers, by their keys; on predicted crops thresholds come from predicted crops of validation."""
        pairs = zip(self.runs["crop"], self.runs["segmenter"], strict=True)
        cropped = [by_folds(map(self._on_predicted, crop.folds, outlined.folds))[0] for crop, outlined in pairs]
        found = {**self.runs, "crop_true": self.runs["crop"], "crop_predicted": cropped}
        return ClassifierComparison({variant: found[variant] for variant in self.variants})

    @cached_property
    def masks(self) -> SegmenterComparison:
        """Those whose masks can be compared: "segmenter" and, where there is one, "joint"."""
        return SegmenterComparison({role: self.runs[role] for role in ("segmenter", "joint") if role in self.runs}, self.root)

    def estimates(self, scores: Sequence[str]) -> pd.DataFrame:
        """Each variant's scores on test, the mean over seeds with its interval over patients.

        Returns:
            index `variant`; `what` (its name for a reader), an `Estimate` a score (names of `scores.labels.SCORES`), and
            `without_nodule`: images, the mean over seeds, in which the segmenter found nothing to crop to, so that the classifier
            saw the whole frame (NaN for the other variants).
        """
        found = self.classes.estimates(scores).loc[self.variants].rename_axis("variant")
        found.insert(0, "what", [VARIANTS[name] for name in self.variants])
        empty = np.mean([table["without_nodule"].sum() for table in self.classes.predictions("crop_predicted")])
        return found.assign(without_nodule=np.where(found.index == "crop_predicted", empty, np.nan))

    def comparisons(self) -> pd.DataFrame:
        """Differences in AUC: every variant less the paper's, and predicted less true crops, which is what an imperfect mask
        costs.

        Returns:
            `first`, `second` (variants), `difference` (`Comparison`, first − second, by the rule of all comparisons), `p_holm`
            over these rows, `differs` (below 0.05).
        """
        asked, compared = [pair for pair in _QUESTIONS if pair[0] in self.variants], self.classes.compared("auc")
        rows = [(*pair, self.classes.withheld(compared(*pair), pair)) for pair in asked]
        table = pd.DataFrame(rows, columns=["first", "second", "difference"])
        table["p_holm"] = holm([found.p_value for found in table["difference"]])
        return table.assign(differs=table["p_holm"] < 0.05)

    def dice_table(self) -> pd.DataFrame:
        """Whether sharing an encoder costs the mask anything: `dice` on the frames (`Estimate`, mean over seeds) and `difference`
        to the segmenter's (`Comparison`, None for itself); a row a role."""
        dice, compared = self.masks.estimates(["dice"])["dice"], self.masks.compared("dice")
        differences = [None if role == "segmenter" else compared(role, "segmenter") for role in self.masks.runs]
        return pd.DataFrame({"dice": dice[self.masks.models], "difference": differences}).rename_axis("role")

    def _on_predicted(self, crop: Run, outlined: Run) -> Run:
        """A crop's run with what its network says of crops by the masks that a segmenter's run of the same split holds;
        `without_nodule`: there is nothing to crop to."""
        asked, segmenter, table = Predictor(crop, self.root), Predictor(outlined, self.root), crop.predictions
        odds, empty = [], []
        for start in range(0, len(table), _BLOCK):
            samples = [
                asked.pipeline(read_image(asked.cases.at[case, "image"]), predicted_mask(segmenter, split, case))
                for case, split in table["split"].iloc[start : start + _BLOCK].items()
            ]
            odds.append(asked.log_odds(np.stack([sample.image for sample in samples])))
            empty += [not sample.mask.any() for sample in samples]
        found, told = Run(crop.folder), np.concatenate(odds)
        found.predictions = table.assign(log_odds=told, probability=expit(told), without_nodule=empty)
        return found


def predicted_mask(predictor: Predictor, split: str, case: str) -> np.ndarray:
    """The mask that a segmenter's or joint run holds of a validation or test image, on its frame: bool (height, width)."""
    return binarise(predictor.held_map(split, case))


def dice_of(path: str, found: np.ndarray) -> float:
    """Dice of a mask on its frame with the mask file; NaN where both are empty."""
    return float(overlap_scores(**pixel_counts(read_mask(path, found.shape), found))["dice"])
