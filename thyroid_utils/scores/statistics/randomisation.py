"""Whether a score of some images differs from that of the others, or two values of the same images: randomisation over patients.

Were a patient's results unrelated to what tells the two parts apart, the parts could be dealt out anew: patients whose images are
all in one part swap places among themselves, and a patient with images in both has its own images shuffled. The p-value is the
share of such deals whose |t| is at least the one seen, t being the difference of the scores over its standard error, of patients,
in that very deal. An AUC does not depend on how frequent the classes are, so for it patients swap within their class: a part with
two benign patients is compared with others of two.

That holds exactly where the levels make no difference whatever, for any number of patients, and also where a part has no error at
all: a bootstrap would take its spread for zero. Dividing by the standard error keeps it near where the scores are alike and only
scatter differently, as Dice does among small nodules; the bare difference fails there.

Reference:
    Janssen, Stat. Probab. Lett. 36 (1997) 9-21; Chung and Romano, Ann. Stat. 41 (2013) 484-507; the standard error of an AUC of
    clustered images is Obuchowski's, Biometrics 53 (1997) 567-578.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

MOST_UNDEFINED = 0.1  # share of deals without a score above which there is no p-value
_BLOCK_VALUES = 2**18  # images × deals held at once
_MOST_FLIPPED_IN_FULL = 12  # patients


class Score(Protocol):
    """A score of any part of some images."""

    strata: np.ndarray | None  # int (n,): images that may not swap with others; None where all may

    def of(self, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of m parts, given as 0 and 1 float (n, m): the scores (m,), NaN where undefined, and each image's influence on them
        (n, m), 0 outside the part, whose sums over patients vary as the score does."""


class Mean:
    """Score: the mean of `values`, float (n,) without NaN."""

    def __init__(self, values: np.ndarray):
        self.values, self.strata = np.asarray(values, dtype=float), None

    def of(self, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = parts.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (self.values @ parts) / images
            return means, parts * (self.values[:, None] - means) / images


class Area:
    """Score: the ROC-AUC of `probabilities`, float (n,), of images that are malignant where `truth`, bool (n,)."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray):
        self.truth = np.asarray(truth, dtype=bool)
        self.strata = self.truth.astype(int)
        self.order = np.argsort(probabilities, kind="stable")
        _, self.ties = np.unique(np.asarray(probabilities)[self.order], return_inverse=True)
        self.last = np.searchsorted(self.ties, np.arange(self.ties[-1] + 1), side="right") - 1 if len(self.ties) else self.ties

    def of(self, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        malignant, benign = parts * self.truth[:, None], parts * ~self.truth[:, None]
        positives, negatives = malignant.sum(axis=0), benign.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            # The share of the other class that each image is ranked rightly against, ties half.
            ranked = np.where(self.truth[:, None], self._below(benign) / negatives, 1 - self._below(malignant) / positives)
            areas = (malignant * ranked).sum(axis=0) / positives
            influence = parts * (ranked - areas) / np.where(self.truth[:, None], positives, negatives)
        return np.where((positives > 0) & (negatives > 0), areas, np.nan), influence

    def _below(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the chosen (n, m) have a lower probability than each image, those of equal probability half: (n, m)."""
        through = np.cumsum(chosen[self.order], axis=0)[self.last]  # (distinct, m)
        before = np.concatenate([np.zeros((1, chosen.shape[1])), through[:-1]])
        counts = np.empty_like(chosen)
        counts[self.order] = ((through + before) / 2)[self.ties]
        return counts


def sign_flip_test(sums: np.ndarray, flips: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0 between two values of the same images, over patients.

    Were the two values alike, each patient's difference could as well have the other sign. The p-value is the share of such flips
    whose mean over all images is at least as far from 0 as the one seen: it asks of the mean that is shown, where Wilcoxon's asks
    of ranks. Exact where differences are symmetric; as all flips have one sum of squares, dividing by the standard error would
    change nothing.

    Args:
        sums: the sum of a patient's differences, one a patient, float (n,).
        flips: how many are drawn; up to 12 patients all are taken instead, so that n patients give 2 / 2ⁿ at least.
        seed: same seed, same flips.

    Raises:
        ValueError: a sum that is NaN or infinite.

    Reference:
        Fisher, The Design of Experiments (1935), section 21.
    """
    if not np.isfinite(sums).all():
        raise ValueError("sign_flip_test: a sum is NaN or infinite; expected numbers, patients without a difference left out")
    seen = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # sums in another order differ by rounding
    if len(sums) <= _MOST_FLIPPED_IN_FULL:
        signs = 1 - 2.0 * (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    random = np.random.default_rng(seed)
    block = int(np.clip(_BLOCK_VALUES // len(sums), 1, flips))
    rare = 0
    for start in range(0, flips, block):
        signs = random.integers(0, 2, (min(block, flips - start), len(sums))) * 2.0 - 1
        rare += int((np.abs(signs @ sums) >= seen).sum())
    return (rare + 1) / (flips + 1)


def randomisation_test(
    score: Score, inside: np.ndarray, known: np.ndarray, codes: np.ndarray, deals: int = 4999, seed: int = 0
) -> tuple[float, str]:
    """Two-sided p-value of equal scores of `inside` and of the rest of `known`, and why there is none ("" where there is one).

    Args:
        score: of the images, `Mean` or `Area`.
        inside: bool (n,), within `known`; neither it nor the rest is empty.
        known: bool (n,), the images that are compared.
        codes: the patient of each image, int (n,), from 0, every number below the largest occurring.
        deals: how many; the p-value is at least 1 / (deals + 1).
        seed: same seed, same deals.
    """
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))

    def sizes(parts: np.ndarray) -> np.ndarray:
        return _studentised(score, parts, known, order, first, codes)

    seen = sizes(inside[:, None].astype(float))[0]
    if np.isnan(seen):
        return np.nan, "the score is undefined on one side"
    rare = defined = 0
    for dealt in _deals(inside, known, codes, score.strata, deals, seed):
        found = sizes(dealt)
        defined += int((~np.isnan(found)).sum())
        rare += int((found >= seen * (1 - 1e-9) - 1e-12).sum())
    if defined < (1 - MOST_UNDEFINED) * deals:
        return np.nan, f"the score is undefined in {1 - defined / deals:.0%} of the deals"
    return (rare + 1) / (defined + 1), ""


def _studentised(
    score: Score, parts: np.ndarray, known: np.ndarray, order: np.ndarray, first: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """|difference| over its standard error, (m,); infinite where parts differ and nothing varies, NaN where undefined."""
    rest = known[:, None] - parts
    difference, influence = 0.0, 0.0
    for sign, part in ((1, parts), (-1, rest)):
        value, moved = score.of(part)
        patients = (np.add.reduceat(part[order], first, axis=0) > 0).sum(axis=0)
        difference = difference + sign * value
        influence = influence + sign * moved * np.sqrt(patients / np.maximum(patients - 1, 1))
    error = np.sqrt((np.add.reduceat(influence[order], first, axis=0) ** 2).sum(axis=0))
    # Sums in another order differ by rounding; what is that small is nothing.
    size, error = (np.where(np.abs(numbers) < 1e-12, 0.0, np.abs(numbers)) for numbers in (difference, error))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size == 0, 0.0, size / error)


def _deals(
    inside: np.ndarray, known: np.ndarray, codes: np.ndarray, strata: np.ndarray | None, deals: int, seed: int
) -> Iterator[np.ndarray]:
    """Parts dealt anew, float (n, block), block after block."""
    random = np.random.default_rng(seed)
    patients = codes.max() + 1
    members, images = (np.bincount(codes[part], minlength=patients) for part in (inside, known))
    whole = (images > 0) & ((members == 0) | (members == images))
    kinds = np.zeros(patients, int) if strata is None else np.bincount(codes, strata, patients) / np.bincount(codes)
    # A patient with images of several strata is of a kind of its own.
    swapping = [np.flatnonzero(whole & (kinds == kind)) for kind in np.unique(kinds[whole])]
    mixed = [np.flatnonzero(known & (codes == code)) for code in np.flatnonzero((members > 0) & (members < images))]
    block = int(np.clip(_BLOCK_VALUES // len(codes), 8, deals))
    for start in range(0, deals, block):
        columns = min(block, deals - start)
        of_patient = np.zeros((patients, columns))
        for alike in swapping:
            of_patient[alike] = random.permuted(np.tile((members[alike] > 0)[:, None], columns), axis=0)
        dealt = of_patient[codes] * known[:, None]
        for rows in mixed:
            dealt[rows] = random.permuted(np.tile(inside[rows][:, None], columns), axis=0)
        yield dealt
