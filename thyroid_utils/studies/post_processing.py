"""What can be done to a network's masks after training, and what each is worth: an experiment, not a default.

The largest part alone, holes filled, a threshold of validation instead of 0.5, the mean with the map of the mirror image, and,
where there are several trainings, their mean map. Nothing of it is chosen on test.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import ndimage

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import listed
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.ensemble import mirrored
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.scores.masks import SEGMENTATION_SCORES, binarise, overlap_scores, pixel_counts
from thyroid_utils.scores.recipes import compare_recipes, mean_influence
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import estimate_table, pair_table, told_difference

NONE, MIRRORED = "none", "mean with the mirror image"
ENSEMBLES = ("ensemble", "ensemble with mirror images")
# Name in a parameter → name in a table.
TREATMENTS = {"largest": "largest part", "holes": "holes filled", "threshold": "validation's threshold", "mirrored": MIRRORED}
THRESHOLDS = np.arange(2, 19) / 20  # 0.1 to 0.9


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a mask, bool (height, width); the first of equals, nothing of an empty one."""
    labels, parts = ndimage.label(mask, np.ones((3, 3)))
    return labels == np.bincount(labels.flat)[1:].argmax() + 1 if parts else mask


def best_threshold(predictor: Predictor) -> float:
    """The threshold of `THRESHOLDS` with the highest mean Dice over a run's own validation images with a nodule, at the network's
    resolution; the nearest to 0.5 of equals."""
    cases, maps = predictor.run.maps("val")
    truth = np.stack([predictor.store.masks[at] for at in predictor.cases.index.get_indexer(cases)]).astype(bool)
    outlined = truth.any(axis=(1, 2))
    scores = []
    for threshold in THRESHOLDS:
        called = binarise(maps[outlined], threshold)
        both = called.sum(axis=(1, 2)) + truth[outlined].sum(axis=(1, 2))
        scores.append((2 * (called & truth[outlined]).sum(axis=(1, 2)) / both).sum())
    return float(max(zip(scores, -np.abs(THRESHOLDS - 0.5), THRESHOLDS, strict=True))[2])


class PostProcessing(SegmenterComparison):
    """The trainings of one network by what is done to their masks: a "model" is a treatment. Made by `post_processed`."""

    @cached_property
    def networks(self) -> dict[str, tuple[Predictor, float]]:
        """Run → its network and the threshold of its own validation, of each fold by itself."""
        asked = {fold.name: self.asked(fold) for run in self.runs[NONE] for fold in run.folds}
        return {name: (network, best_threshold(network)) for name, network in asked.items()}

    @cached_property
    def dice(self) -> dict[str, np.ndarray]:
        """Treatment → Dice of the test images at their own resolution, (trainings, n), of an ensemble (1, n); NaN where the truth
        has no nodule."""
        bar, found = progress_bar("Treating masks"), {name: [] for name in self.runs}
        for done, (case, area) in enumerate(self.truth["area"].items(), 1):
            truth, masks = read_mask(self._splits[0].at[case, "mask"]), self._masks(case)
            for name, values in found.items():
                scores = [overlap_scores(**pixel_counts(truth, mask))["dice"] for mask in masks[name]]
                values.append(scores if area else np.full(len(scores), np.nan))
            bar(done, len(self.truth))
        return {name: np.array(values, float).T for name, values in found.items()}

    def _masks(self, case: str) -> dict[str, Sequence[np.ndarray]]:
        """Treatment → the masks of a test image on its frame, one a training, of an ensemble one."""
        networks = [self.networks[run.of_case(case).name] for run in self.runs[NONE]]
        maps = np.stack([network.held_map("test", case) for network, _ in networks])
        plain = binarise(maps)
        found = {
            NONE: plain,
            TREATMENTS["largest"]: [largest_part(mask) for mask in plain],
            TREATMENTS["holes"]: [ndimage.binary_fill_holes(mask) for mask in plain],
            TREATMENTS["threshold"]: [binarise(each, cut) for each, (_, cut) in zip(maps, networks, strict=True)],
            ENSEMBLES[0]: binarise(maps.mean(axis=0))[None],
        }
        if MIRRORED in self.runs:
            others = [network.on_frame(case, mirrored(network.maps, network.inputs([case]))[0]) for network, _ in networks]
            maps = (maps + np.stack(others)) / 2
            found |= {MIRRORED: binarise(maps), ENSEMBLES[1]: binarise(maps.mean(axis=0))[None]}
        return found

    def values(self, model: str, *_: object) -> np.ndarray:
        """Dice at the images' own resolution whatever is asked for, (trainings, n, 1), of an ensemble (1, n, 1)."""
        return self.dice[model][..., None]

    def pairs(self, score: str = "dice") -> pd.DataFrame:
        """Every treatment less none, as `ComparedRuns.paired`. An ensemble stands beside the mean of its trainings: it is there
        once, so that nothing shows how another one would be, and has an interval over patients but no verdict."""
        return self.paired(self.compared(score), [(name, NONE) for name in self.models[1:]])

    def compared(self, score: str) -> Callable[[str, str], Comparison]:
        """What `pairs` compares a treatment with none by."""
        folded = self.over_folds(score) if self.fold_by_fold else None
        known = (self.truth["area"] > 0).to_numpy()

        def compare(name: str, other: str) -> Comparison:
            if folded and name not in ENSEMBLES:
                return folded(name, other)
            values, plain = self.dice[name][:, known], self.dice[other][:, known]
            base = mean_influence(plain.mean(axis=0) if name in ENSEMBLES else plain)
            found = compare_recipes(mean_influence(values), base, self.truth["patient"][known], most=1)
            alone = "one ensemble shows no spread between ensembles"
            return replace(found, note=alone) if name in ENSEMBLES else found

        return compare

    def table(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """For a reader, a row a treatment: Dice, and what the treatment is worth in points beside none; pairs: of `pairs`."""
        told = pair_table(pairs).set_index("first").drop(columns=["second", "difference [95 %]", "detectable"], errors="ignore")
        told.insert(0, "points [95 %]", [told_difference(found, 1, 100) for found in pairs["difference"]])
        dice = estimate_table(self.estimates(["dice"]).loc[self.models], SEGMENTATION_SCORES)
        return dice.join(told).rename_axis("done to the masks")

    def worth(self, pairs: pd.DataFrame) -> str:
        """What each treatment is worth, as sentences; pairs: of `pairs`."""
        told = [f"{pair.first} {told_difference(pair.difference, 1, 100)}" for pair in pairs.itertuples()]
        return f"In points of Dice beside none: {listed(told, 'nothing was tried')}. {self.verdicts(pairs, 'Dice')}"


def post_processed(comparison: SegmenterComparison, model: str, wanted: Sequence[str]) -> PostProcessing:
    """A network's masks treated in each of the `wanted` ways, keys of `TREATMENTS`, and where it has two trainings or more, by
    their ensemble."""
    runs, names = comparison.runs[model], [NONE, *(TREATMENTS[name] for name in wanted)]
    if len(runs) > 1:
        names += ENSEMBLES[: 1 + ("mirrored" in wanted)]
    return PostProcessing(dict.fromkeys(names, runs), comparison.root)
