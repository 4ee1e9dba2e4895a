"""Scores of many resamples at once: a resample is a column that says how often each patient was drawn.

Whatever is a sum over images (counts at a threshold, squared errors, calibration gaps) is one matrix product of patients' sums
and draws. What depends on the order of the probabilities (AUC, curves) needs that order once: drawing patients changes how often
an image counts, not where it ranks, so that a cumulative sum down the sorted images serves every column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from thyroid_utils.scores.metrics.calibration import bin_index, logit, recalibration
from thyroid_utils.scores.metrics.classification import ROUNDING, SCORES, scores_from_counts

RANKING = ("auc", "pr_auc", "sensitivity_at_specificity")
CALIBRATION = ("calibration_slope", "calibration_intercept")
TABLE = ("true_positives", "false_positives", "false_negatives", "true_negatives")
# Images × resamples held at once: 512 kB of float64 stay in a core's cache. Blocks four times as large take four times as long.
BLOCK_VALUES = 2**16


def drawn_patients(patients: int, resamples: int, images: int, seed: int) -> Iterator[np.ndarray]:
    """How often each patient is drawn, float64 (patients, block), block after block until `resamples` columns were given.

    Each column draws `patients` patients with replacement. The same seed gives the same columns, whatever the block.
    """
    random = np.random.default_rng(seed)
    block = int(np.clip(BLOCK_VALUES // max(patients, images), 8, resamples))
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = random.integers(patients, size=(columns, patients))
        cells = drawn * columns + np.arange(columns)[:, None]
        yield np.bincount(cells.ravel(), minlength=patients * columns).reshape(patients, columns).astype(float)


class Ranked:
    """Images of one model by falling probability, ready to be counted with any weights.

    Args:
        truth: bool (n,), True for malignant.
        probabilities: of malignancy, (n,).
        codes: the patient of each image, int (n,).
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, codes: np.ndarray) -> None:
        order = np.argsort(-probabilities, kind="stable")
        self.codes = codes[order]
        self.truth = truth[order].astype(float)[:, None]
        # Images of equal probability cross a threshold together: the curve has a point only at the last of each such run.
        self.ends = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))

    def curve(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at each distinct probability as threshold, (distinct, m), for counts (patients, m)."""
        weights = counts[self.codes]
        true_positives = np.cumsum(weights * self.truth, axis=0)
        false_positives = np.cumsum(weights, axis=0, out=weights)
        false_positives -= true_positives
        if len(self.ends) < len(self.codes):
            return true_positives[self.ends], false_positives[self.ends]
        return true_positives, false_positives

    def scores(self, counts: np.ndarray, names: Iterable[str], specificity: float) -> dict[str, np.ndarray]:
        """Those of the scores `RANKING` that `names` holds, each (m,); NaN where a column has one class only."""
        true_positives, false_positives = self.curve(counts)
        malignant, benign = true_positives[-1], false_positives[-1]
        found = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if "auc" in names:
                # Trapezoids between the points are the Mann-Whitney statistic with half for ties.
                widths, heights = np.diff(false_positives, axis=0), true_positives[1:] + true_positives[:-1]
                area = (np.einsum("ij,ij->j", widths, heights) + false_positives[0] * true_positives[0]) / 2
                found["auc"] = area / (malignant * benign)
            if "pr_auc" in names:
                called = true_positives + false_positives
                precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
                gains = np.diff(true_positives, axis=0, prepend=0)
                found["pr_auc"] = np.einsum("ij,ij->j", gains, precision) / malignant
            if "sensitivity_at_specificity" in names:
                allowed = false_positives <= (1 - specificity + ROUNDING) * benign
                found["sensitivity_at_specificity"] = (true_positives * allowed).max(axis=0) / malignant
        both = (malignant > 0) & (benign > 0)
        return {name: np.where(both, values, np.nan) for name, values in found.items()}


class Scorer:
    """The scores of one model for any number of times that each patient counts.

    Args:
        truth: bool (n,), True for malignant.
        probabilities: of malignancy, (n,).
        codes: the patient of each image, int (n,), below `patients`.
        names: some of `SCORES`.
        threshold, specificity, bins: as in `classification_scores`.
    """

    def __init__(
        self,
        truth: np.ndarray,
        probabilities: np.ndarray,
        codes: np.ndarray,
        patients: int,
        names: tuple[str, ...],
        threshold: float,
        specificity: float,
        bins: int,
    ) -> None:
        self.names, self.specificity, self.codes, self.truth = names, specificity, codes, truth
        self.ranked = Ranked(truth, probabilities, codes) if set(names) & set(RANKING) else None
        self.logits = logit(probabilities) if set(names) & set(CALIBRATION) else None
        called = probabilities >= threshold
        table = np.column_stack([truth & called, ~truth & called, truth & ~called, ~truth & ~called])
        gap = probabilities - truth
        gaps = np.zeros((len(truth), bins))
        gaps[np.arange(len(truth)), bin_index(probabilities, np.arange(1, bins) / bins)] = gap
        by_image = np.column_stack([table, gap**2, gaps])
        self.sums = np.zeros((patients, by_image.shape[1]))
        np.add.at(self.sums, codes, by_image)

    def __call__(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Score name → values (m,), for counts (patients, m); NaN where `classification_scores` has NaN."""
        sums = counts.T @ self.sums
        images = sums[:, :4].sum(axis=1)
        found = scores_from_counts(**dict(zip(TABLE, sums[:, :4].T, strict=True)))
        found["brier"] = sums[:, 4] / images
        found["ece"] = np.abs(sums[:, 5:]).sum(axis=1) / images
        if self.ranked is not None:
            found |= self.ranked.scores(counts, self.names, self.specificity)
        if self.logits is not None:
            found |= dict(zip(CALIBRATION, recalibration(self.truth, self.logits, counts[self.codes]), strict=True))
        return {name: found[name] for name in self.names}

    def patients_behind(self, name: str) -> int:
        """Patients with an image in the denominator of a proportion; 0 for a score that is no proportion of images."""
        columns = {"accuracy": [0, 1, 2, 3], "sensitivity": [0, 2], "specificity": [1, 3], "precision": [0, 1]}.get(name)
        return int((self.sums[:, columns].sum(axis=1) > 0).sum()) if columns else 0


def checked_names(names: str | tuple[str, ...], where: str) -> tuple[str, ...]:
    """Names of scores as a tuple. Raises ValueError for one that is not in `SCORES`."""
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"{where}: no score {', '.join(map(repr, unknown)) or 'named'}; expected some of {', '.join(SCORES)}")
    return names
