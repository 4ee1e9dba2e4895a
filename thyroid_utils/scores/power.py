"""How many patients and training seeds it takes to see a gain, by simulation from the spread that was measured.

A gain is a mean over patients of the difference of two models' scores. Three things blur it: patients differ (σ² / patients), the
same model trained with another seed differs on all patients at once (τ² / seeds, which no number of patients lessens), and each
patient answers to the seed in his own way (lessened by both).

No simulation knows more of the spread than what was measured: from a handful of patients its answer is as uncertain as their SD
(20 patients leave that between 0.76 and 1.46 times the true one, with 95 % confidence; two seeds theirs almost open).

Reference: Chow, Wang, Lokhnygina and Shao, Sample Size Calculations in Clinical Research (2017), sections 2.1 and 3.1.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import known_patients
from thyroid_utils.scores.estimates import POWER, proportion_interval
from thyroid_utils.scores.recipes import limit_of

_BLOCK = 2**21  # values drawn at once
_ANGLES = np.linspace(0, np.pi / 2, 25)  # of the two errors, between which limits are interpolated
_AVERAGES = 64  # different means over seeds kept for each patient and number of seeds


def power_simulation(
    differences: Sequence[float] | Sequence[Sequence[float]],
    patients: Sequence[str],
    effect: float,
    patients_grid: Sequence[int],
    seeds_grid: Sequence[int],
    seed_sd: float,
    *,
    simulations: int = 1000,
) -> pd.DataFrame:
    """Power at the 5 % level of the test of `compare_recipes` for each number of patients and seeds.

    A simulated study draws patients with replacement from those measured, each with the mean difference of its images, moved so
    that their mean is `effect`; adds to all of them the mean of as many seeds' deviations (normal, SD `seed_sd`); and tests the
    mean difference by its error √(s² / patients + q² / seeds), where s is the SD over the study's patients and q that over its
    seeds. Without a spread over seeds it is the paired t-test over patients.

    Args:
        differences: first − second of each image, shape (n,), best with each model's mean over seeds; or (seeds, n), a row a
            seed. Images with NaN (in every row) are left out. With rows, a patient's own answer to the seed is drawn anew for
            each simulated seed, and taken out of his mean and of the seeds' spread (`seed_components`); without rows it stays in
            his mean as it was measured.
        patients: the patient of each image, shape (n,).
        effect: the true gain to be found, in the unit of the differences.
        patients_grid: numbers of patients, each 2 or more.
        seeds_grid: numbers of training seeds, each 1 or more.
        seed_sd: SD over seeds of a difference that all patients share (`seed_components`).
        simulations: studies for each cell, the same ones each time.

    Returns:
        DataFrame, a row a cell: `patients`, `seeds`, `power`, and `low`, `high`, the 95 % interval of its simulation error; NaN
        for one seed, which cannot show a spread that there is, and where nothing has any spread.

    Raises:
        ValueError: shapes that differ, a patient missing, or fewer than two patients with a difference.
    """
    rows = np.atleast_2d(np.asarray(differences, dtype=float))
    measured = _by_patient(rows, patients, "power_simulation")
    (measured_seeds, measured_patients), answers = measured.shape, _centred(measured)
    own = measured.mean(axis=0) - measured.mean()
    if measured_seeds > 1:
        spread = float(own.var(ddof=1))
        if spread > 0:  # what the seeds' noise adds to the patients' means is taken out
            own *= np.sqrt(max(0.0, 1 - _components(measured)[1] / measured_seeds / spread))
        # Of the size they have about the truth instead of about the means of what was measured.
        answers *= np.sqrt(measured.size / ((measured_seeds - 1) * (measured_patients - 1)))
    rounding = 1e-12 * np.abs(measured).max()
    spread_out = bool(seed_sd) or np.ptp(own) > rounding or np.ptp(answers) > rounding
    random = np.random.default_rng(0)
    found = []
    for seeds, count in product(seeds_grid, patients_grid):
        power = low = high = np.nan
        if spread_out and (seeds > 1 or not seed_sd):
            values = own[:, None] + _seed_means(answers, seeds, random)
            values += effect - values.mean()  # what was drawn is the whole population here, and its gain is `effect`
            hits = _rejections(values, count, seeds, seed_sd / np.sqrt(seeds), simulations, random)
            power, (low, high) = hits / simulations, proportion_interval(hits, simulations)
        found.append({"patients": count, "seeds": seeds, "power": power, "low": low, "high": high})
    table = pd.DataFrame(found)
    table.attrs["spread"] = spread_out
    return table


def patients_needed(powers: pd.DataFrame) -> pd.DataFrame:
    """The fewest patients that reach a power of 80 %, for each number of seeds.

    Args:
        powers: of `power_simulation`.

    Returns:
        index `seeds`: `patients`, interpolated between the simulated numbers (linear in the power against √patients, rounded up;
        NaN where it is not reached), `highest`, the highest power met, and `text`: "about 240", "20 or fewer" at the lower end,
        "not within 5000", "no test" for one seed, or "not measured" where nothing had any spread.

    Example:
        >>> patients_needed(pd.DataFrame({"patients": [100, 400, 900], "seeds": 1, "power": [0.3, 0.7, 0.9]}))["text"][1]
        'about 625'
    """
    rows, untold = {}, "no test" if powers.attrs.get("spread", True) else "not measured"
    for seeds, table in powers.groupby("seeds"):
        table = table.sort_values("patients")
        counts, reached = table["patients"].to_numpy(float), table["power"].to_numpy(float)
        unknown = np.isnan(reached).any()
        needed, text = np.nan, untold if unknown else f"not within {counts[-1]:.0f}"
        # Simulation error can make a larger study look weaker: the first crossing after which the power stays.
        below = np.flatnonzero(reached < POWER)
        if not len(below) and not unknown:
            needed, text = counts[0], f"{counts[0]:.0f} or fewer"
        elif len(below) and below[-1] < len(counts) - 1:
            ends = slice(below[-1], below[-1] + 2)
            needed = np.ceil(round(np.interp(POWER, reached[ends], np.sqrt(counts[ends])) ** 2, 6))
            text = f"about {needed:.0f}"
        rows[seeds] = {"patients": float(needed), "highest": float(reached.max()), "text": text}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seeds")


def paired_power(effect: float, sd: float, patients: int, seeds: int = 1, seed_sd: float = 0.0) -> float:
    """The same power by formula, for normal differences with SD `sd` over patients: that of a t-test whose t is noncentral.

    Exact for `seed_sd` 0, the paired t-test; else with Satterthwaite's degrees of freedom, within a few points from three seeds
    on. NaN for one seed and a `seed_sd` above 0, and where both SDs are 0. At least 2 patients.

    Example:
        >>> round(paired_power(effect=0.01, sd=0.05, patients=200), 2)
        0.8
    """
    from scipy.stats import nct  # half a second to load

    if (seed_sd and seeds < 2) or not (sd or seed_sd):
        return np.nan
    of_patients, of_seeds = sd**2 / patients, seed_sd**2 / seeds
    error = np.sqrt(of_patients + of_seeds)
    limit = float(_limits(np.array([of_patients]), of_seeds, patients, seeds)[0]) / error
    freedom = min(error**4 / (of_patients**2 / (patients - 1) + of_seeds**2 / max(seeds - 1, 1)), 1e6)  # scipy needs it finite
    other_side = np.nan_to_num(nct.cdf(-limit, freedom, effect / error))  # scipy's NaN far from it is next to nothing
    return float(nct.sf(limit, freedom, effect / error) + other_side)


def smallest_gain(sd: float, patients: int, seeds: int = 1, seed_sd: float = 0.0) -> float:
    """The smallest gain that a study of this size finds with a power of 80 %, in the unit of the SDs; for numbers as in
    `paired_power`, and NaN where that is."""
    from scipy.optimize import brentq

    if (seed_sd and seeds < 2) or not (sd or seed_sd):
        return np.nan
    most = np.sqrt(sd**2 / patients + seed_sd**2 / seeds)  # far above, scipy gives NaN
    while paired_power(most, sd, patients, seeds, seed_sd) < POWER:
        most *= 2
    return float(brentq(lambda gain: paired_power(gain, sd, patients, seeds, seed_sd) - POWER, 0.0, most))


def _limits(of_patients: np.ndarray, of_seeds: float | np.ndarray, count: int, seeds: int) -> np.ndarray:
    """What a mean difference must exceed at the 5 % level, for parts of its variance from `count` patients and from `seeds`."""
    angles = np.arctan2(np.sqrt(of_seeds), np.sqrt(of_patients))
    return np.interp(angles, _ANGLES, _limits_by_angle(count - 1, max(seeds - 1, 1))) * np.sqrt(of_patients + of_seeds)


@cache
def _limits_by_angle(of_patients: int, of_seeds: int) -> np.ndarray:
    """In errors, for these degrees of freedom."""
    parts = [((np.cos(angle) ** 2, of_patients), (np.sin(angle) ** 2, of_seeds)) for angle in _ANGLES]
    return np.array([limit_of(part, 0.05) for part in parts])


def _by_patient(rows: np.ndarray, patients: Sequence[str], where: str) -> np.ndarray:
    """Each patient's mean difference of each seed (seeds, patients)."""
    some = np.where(np.isnan(rows).all(axis=0), np.nan, 0)
    known, codes, count = known_patients(some, patients, where)
    if count < 2:
        raise ValueError(f"{where}: {count} patients have a difference; expected 2 or more, whose spread can be measured")
    rows = rows[:, known]
    # An image that one seed leaves undefined has the mean of the others there.
    rows = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
    images = np.bincount(codes, minlength=count)
    return np.stack([np.bincount(codes, row, count) / images for row in rows])


def seed_components(differences: Sequence[Sequence[float]], patients: Sequence[str]) -> tuple[float, float]:
    """What the spread over seeds is made of, by the two-way analysis of variance with one value a cell.

    Args:
        differences: first − second, (seeds, n), two rows or more; NaN as in `power_simulation`.
        patients: the patient of each image, shape (n,).

    Returns:
        τ², the variance over seeds of what all patients share, and σ², that of a patient's own answer to a seed. The variance of
        the seeds' means holds τ² + σ² / patients; τ² is that less σ² / patients, unbiased and therefore below 0 at times.

    Raises:
        ValueError: one row, shapes that differ, a patient missing, or fewer than two patients with a difference.

    Reference:
        Searle, Casella and McCulloch, Variance Components (1992), section 4.3.
    """
    rows = np.asarray(differences, dtype=float)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"seed_components: differences have shape {rows.shape}; expected (seeds, n) with two seeds or more")
    return _components(_by_patient(rows, patients, "seed_components"))


def _components(of_seeds: np.ndarray) -> tuple[float, float]:
    """`seed_components` of (seeds, patients)."""
    seeds, count = of_seeds.shape
    inner = float((_centred(of_seeds) ** 2).sum() / ((seeds - 1) * (count - 1)))
    return float(of_seeds.mean(axis=1).var(ddof=1)) - inner / count, inner


def _centred(of_seeds: np.ndarray) -> np.ndarray:
    """What neither the seed nor the patient explains."""
    return of_seeds - of_seeds.mean(axis=1, keepdims=True) - of_seeds.mean(axis=0) + of_seeds.mean()


def _seed_means(answers: np.ndarray, seeds: int, random: np.random.Generator) -> np.ndarray:
    """Means over `seeds` of each patient's own answers, drawn with replacement from those measured: (patients, averages)."""
    if len(answers) < 2:
        return np.zeros((answers.shape[1], 1))
    drawn = random.integers(len(answers), size=(seeds, answers.shape[1], _AVERAGES))
    return sum(np.take_along_axis(answers.T, chosen, axis=1) for chosen in drawn) / seeds


def _rejections(
    values: np.ndarray, count: int, seeds: int, seed_error: float, simulations: int, random: np.random.Generator
) -> int:
    """How many of the simulated studies with `count` patients, drawn from values (patients, averages), find a difference."""
    hits, block = 0, max(1, _BLOCK // count)
    flat = values.ravel()
    for start in range(0, simulations, block):
        studies = min(block, simulations - start)
        drawn = flat[random.integers(flat.size, size=(studies, count))]
        means = drawn.mean(axis=1) + seed_error * random.standard_normal(studies)
        of_seeds = seed_error**2 * random.chisquare(max(seeds - 1, 1), studies) / max(seeds - 1, 1)
        # Where nothing differs at all both sides are 0, which is no rejection.
        hits += int((np.abs(means) > _limits(drawn.var(axis=1, ddof=1) / count, of_seeds, count, seeds)).sum())
    return hits
