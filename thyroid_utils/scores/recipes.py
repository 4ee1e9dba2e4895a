"""Whether two recipes of training differ: the one rule of this workbook.

A recipe trained again gives another network. Two networks that differ on these patients need not come from recipes that differ:
train one recipe twice, and one network is better, which enough patients show. The rule asks of other patients *and* of other
trainings: two recipes differ where the test that belongs to the interval over both rejects at 5 %, after Holm over all pairs.
One training each shows no spread between trainings, so that there is no verdict; an interval over patients then speaks of these
two trained networks alone.

A score is taken with its influences, what each image moves it by: for a mean its deviation from the mean, for an AUC DeLong's
placement values (`scores.patients` has their variance).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from thyroid_utils.scores.checks import checked_labels, checked_scores, need_both_classes, patient_codes
from thyroid_utils.scores.estimates import POWER, Comparison
from thyroid_utils.scores.patients import over_patients

ONE_TRAINING = "one training of each shows no spread between trainings"
_ROUNDING = 1e-12
_NODES = (np.arange(256) + 0.5) / 256  # of the numerical integral over one of two t distributions


@dataclass(frozen=True)
class Influence:
    """A score of each training of a recipe, (seeds,), and what each image moves it by, (seeds, n), which adds up to 0.

    strata: the class of each image, (n,), where classes are averaged apart, as in an AUC; all alike for a mean.
    """

    scores: np.ndarray
    by_image: np.ndarray
    strata: np.ndarray


def mean_influence(values: Sequence[float] | Sequence[Sequence[float]]) -> Influence:
    """Of a mean over images: values (n,) or (seeds, n), such as Dice, or 1 where an image is called rightly and 0 elsewhere.

    Raises:
        ValueError: values that are NaN or infinite, which have no mean; leave such images out of both recipes.
    """
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    if not np.isfinite(rows).all():
        raise ValueError(
            f"mean_influence: {(~np.isfinite(rows)).sum()} of {rows.size} values are NaN or infinite; leave these images out"
        )
    means = rows.mean(axis=1) if rows.size else np.full(len(rows), np.nan)
    return Influence(means, (rows - means[:, None]) / rows.shape[1], np.zeros(rows.shape[1], int))


def auc_influence(labels: Sequence[int], scores: Sequence[float] | Sequence[Sequence[float]]) -> Influence:
    """Of an AUC: labels (n,), 0 benign and 1 malignant, and any numbers that rank malignant images higher, (n,) or (seeds, n).

    Raises:
        DataError: one class only. ValueError: shapes that differ, or scores that are NaN.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845.
    """
    truth = checked_labels(labels, "auc_influence")
    need_both_classes(truth, "auc_influence")
    rows = np.atleast_2d(checked_scores(scores, len(truth), "auc_influence"))
    areas, found = np.empty(len(rows)), np.empty(rows.shape)
    for seed, row in enumerate(rows):
        benign, malignant = np.sort(row[~truth]), np.sort(row[truth])
        # The share of the other class that each image is ranked rightly against, ties half.
        ranked = np.where(truth, _below(benign, row), 1 - _below(malignant, row))
        areas[seed] = ranked[truth].mean()
        found[seed] = (ranked - areas[seed]) / np.where(truth, len(malignant), len(benign))
    return Influence(areas, found, truth.astype(int))


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The share of ordered numbers (m,) that each value (n,) is above, equal ones half."""
    return (ordered.searchsorted(values) + ordered.searchsorted(values, side="right")) / (2 * len(ordered))


@dataclass(frozen=True)
class RecipeComparison(Comparison):
    """A `Comparison` of two recipes by means over `seeds` trainings: `low`, `high` and `p_value` are over patients and trainings,
    NaN for one training each.

    `fixed_low` and `fixed_high` bound the difference of these trained networks over patients alone. `detectable` is the
    difference that patients and trainings like these show with a power of 80 % in a single two-sided test at 5 %, NaN where
    none is large enough.
    """

    seeds: int = 1
    fixed_low: float = np.nan
    fixed_high: float = np.nan
    detectable: float = np.nan


def compare_recipes(first: Influence, second: Influence, patients: Sequence[str], most: float = np.inf) -> RecipeComparison:
    """Whether the scores of two recipes differ, for other patients and other trainings.

    d is the difference of the means over seeds. Its variance has two parts: of the trainings, s² / seeds of the differences seed
    by seed, and of the patients, that of the seeds' mean less what patients' own answers to each training put into both, not
    below 0. d is held against the sum of two t variables, each with the degrees of freedom of its part (Behrens and Fisher):
    Satterthwaite's one t rejects up to 12 % of equal recipes that were trained twice, and 8 % of those trained three times.

    Args:
        first, second: of `mean_influence` or `auc_influence`, on the same images, trained with the same seeds in the same order.
        patients: the patient of each image, (n,).
        most: the largest difference there can be, at which intervals end (1 for shares).

    Returns:
        RecipeComparison (first − second). No p-value, with the reason in `note`: one training each, fewer than two patients (of
        a class), no image, or a difference without any spread. Recipes that agree in every training and patient have p = 1.

    Raises:
        ValueError: other images or another number of seeds, or a patient missing.

    Reference:
        Hillis, Stat. Med. 26 (2007) 596-619, of readers and cases; Robinson, Ann. Stat. 4 (1976) 963-971: the test by the sum of
        two t variables does not exceed its level.
    """
    if first.by_image.shape != second.by_image.shape or (first.strata != second.strata).any():
        shapes = f"{first.by_image.shape} and {second.by_image.shape}"
        raise ValueError(f"compare_recipes: scores of (seeds, images) {shapes}; expected the same images and as many seeds")
    seeds, images = first.by_image.shape
    if not images:
        return RecipeComparison(*[np.nan] * 6, 0, 0, note="no image to compare", seeds=seeds)
    codes, count = patient_codes(patients, images, "compare_recipes")
    of_seeds, moves = first.scores - second.scores, first.by_image - second.by_image
    means, difference = (float(first.scores.mean()), float(second.scores.mean())), float(of_seeds.mean())
    (of_patients,), (freedom,) = over_patients(moves.mean(axis=0, keepdims=True), first.strata, codes)
    found = {"images": images, "patients": count, "seeds": seeds}

    def told(note: str = "", **more: float) -> RecipeComparison:
        values = {"low": np.nan, "high": np.nan, "p_value": np.nan, **more}
        return RecipeComparison(*means, difference, **values, **found, note=note)

    if np.isnan(of_patients):
        return told("fewer than two patients" + " of a class" * bool(first.strata.any()))
    if of_patients > _ROUNDING**2:
        reach = stdtrit(freedom, 0.975) * np.sqrt(of_patients)
        found |= {"fixed_low": max(difference - reach, -most), "fixed_high": min(difference + reach, most)}
    if seeds < 2:
        return told(ONE_TRAINING)
    of_trainings = float(of_seeds.var(ddof=1)) / seeds
    own_answers = over_patients(moves - moves.mean(axis=0), first.strata, codes)[0].sum() / (seeds * (seeds - 1))
    parts = (max(float(of_patients - own_answers), 0.0), float(freedom)), (of_trainings, seeds - 1.0)
    error = np.sqrt(parts[0][0] + of_trainings)
    if not error > _ROUNDING:
        same = abs(difference) < _ROUNDING
        return told("" if same else "the difference is the same in every training and patient", p_value=1.0 if same else np.nan)
    limit = limit_of(parts, 0.05)
    bounds = {"low": max(difference - limit, -most), "high": min(difference + limit, most)}
    detectable = limit + limit_of(parts, 2 * (1 - POWER))
    bounds["detectable"] = detectable if detectable < most else np.nan
    return told(p_value=_beyond(abs(difference), parts), **bounds)


def compare_apart(
    here: tuple[Influence, Sequence[str]], there: tuple[Influence, Sequence[str]], most: float = np.inf
) -> RecipeComparison:
    """`compare_recipes` of two scores of the same trainings on different patients: each with the patient of each of its images,
    who is never one of the other's, whatever the name. The variance over patients is then the sum of both sets', and that over
    trainings is of the differences seed by seed, as there."""
    sizes = [score.by_image.shape[1] for score, _ in (here, there)]
    if not min(sizes):
        return RecipeComparison(*[np.nan] * 6, 0, 0, note="no image to compare", seeds=len(here[0].scores))
    strata = np.concatenate([here[0].strata, there[0].strata + 1 + here[0].strata.max()])
    one = Influence(here[0].scores, np.pad(here[0].by_image, ((0, 0), (0, sizes[1]))), strata)
    two = Influence(there[0].scores, np.pad(there[0].by_image, ((0, 0), (sizes[0], 0))), strata)
    names = [f"{side} {name}" for side, (_, patients) in enumerate((here, there)) for name in patients]
    found = compare_recipes(one, two, names, most)
    return found if here[0].strata.any() else replace(found, note=found.note.replace("of a class", "of a set"))


_Parts = tuple[tuple[float, float], tuple[float, float]]


def _beyond(distance: float, parts: _Parts) -> float:
    """The probability that `limit_of` inverts."""
    (small, few), (large, many) = sorted(parts)
    shifts = np.sqrt(small) * stdtrit(few, _NODES)
    scaled = (np.array([-distance, distance])[:, None] - shifts) / np.sqrt(large)
    return float(np.mean(stdtr(many, scaled[0]) + stdtr(many, -scaled[1])))


def limit_of(parts: _Parts, level: float) -> float:
    """What |√v₁ t₁ + √v₂ t₂| exceeds with a probability of `level`, for parts ((v₁, degrees of freedom), (v₂, those of t₂))."""
    from scipy.optimize import brentq

    highest = sum(np.sqrt(variance) * stdtrit(degrees, 1 - level / 4) for variance, degrees in parts)
    return float(brentq(lambda distance: _beyond(distance, parts) - level, 0.0, highest, xtol=1e-12 + 1e-9 * highest))
