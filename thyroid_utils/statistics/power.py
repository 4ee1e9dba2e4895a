"""How many patients and training seeds it takes to see a gain, by simulation from the spread that was measured.

A gain is a mean over patients of the difference of two models' scores. Three things blur it: patients differ (σ² / patients), the
same model trained with another seed differs on all patients at once (τ² / seeds, which no number of patients lessens), and each
patient answers to the seed in his own way (lessened by both).

No simulation knows more of the spread than what was measured: from a handful of patients its answer is as uncertain as their SD
(20 patients leave that between 0.76 and 1.46 times the true one, with 95 % confidence; two seeds theirs almost open).

Reference: Chow, Wang, Lokhnygina and Shao, Sample Size Calculations in Clinical Research (2017), sections 2.1 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import nct
from scipy.stats import t as student

from thyroid_utils.statistics.estimates import POWER, check_level, patient_codes, proportion_interval

PATIENTS_GRID = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SEEDS_GRID = (1, 3, 10, 30, 100)
_BLOCK = 2**21  # values drawn at once
_AVERAGES = 64  # different means over seeds kept for each patient and number of seeds


def power_simulation(
    differences: Sequence[float] | Sequence[Sequence[float]],
    patients: Sequence[str],
    effect: float,
    patients_grid: Sequence[int] = PATIENTS_GRID,
    seeds_grid: Sequence[int] = SEEDS_GRID,
    seed_sd: float | None = None,
    *,
    simulations: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Power of a paired test of two models for each number of patients and seeds.

    A simulated study draws patients with replacement from those measured, each with the mean difference of its images, moved so
    that their mean is `effect`; adds to all of them the mean of as many seeds' deviations (normal, SD `seed_sd`); and tests the
    mean difference d by t = d / √(s² / patients + seed_sd² / seeds), two-sided, with Satterthwaite's degrees of freedom. s is the
    SD over the study's patients; seed_sd is taken as known. Without seed_sd² it is the paired t-test over patients. A test that
    leaves it out takes the luck of one training for a gain.

    Args:
        differences: first − second of each image, shape (n,), best with each model's mean over seeds; or (seeds, n), a row a
            seed. Images with NaN (in every row) are left out. With rows, a patient's own answer to the seed is drawn anew for
            each simulated seed, on top of what his mean holds of it, which makes the power a little too small; without rows it
            stays as it was measured.
        patients: the patient of each image, shape (n,).
        effect: the true gain to be found, in the unit of the differences.
        patients_grid: numbers of patients, each 2 or more.
        seeds_grid: numbers of training seeds, each 1 or more.
        seed_sd: SD over seeds of the mean difference; None takes it from the rows of `differences`, of which there must be two.
        simulations: studies for each cell.
        level: 1 − level is the significance level.
        seed: same seed, same table.
        progress: called with (cells done, cells in all).

    Returns:
        DataFrame, a row a cell: `patients`, `seeds`, `power`, and `low`, `high`, the 95 % interval of its simulation error.

    Raises:
        ValueError: shapes that differ, a patient missing, fewer than two patients with a difference, a grid or seed_sd out of
            range, or no seed_sd where there is one row.
    """
    where = "power_simulation"
    check_level(level, where)
    rows = np.atleast_2d(np.asarray(differences, dtype=float))
    own, answers = _by_patient(rows, patients, where)
    if seed_sd is None:
        if len(rows) < 2:
            raise ValueError(f"{where}: seed_sd cannot be measured from one row of differences; give it, or a row a seed")
        seed_sd = float(np.std(answers.mean(axis=1), ddof=1))
    if not (seed_sd >= 0 and np.isfinite(seed_sd) and np.isfinite(effect)):
        raise ValueError(f"{where}: seed_sd is {seed_sd}, effect {effect}; expected a number from 0, and a number")
    _check_grid(patients_grid, 2, "patients_grid")
    _check_grid(seeds_grid, 1, "seeds_grid")
    if simulations < 1:
        raise ValueError(f"{where}: {simulations} simulations; expected 1 or more, 1000 for two digits")
    own = own - own.mean() + effect
    answers = answers - answers.mean(axis=1, keepdims=True) - (answers.mean(axis=0) - answers.mean())
    if len(rows) > 1:  # deviations from a mean of k are smaller than those from the truth
        answers = answers * np.sqrt(len(rows) / (len(rows) - 1))
    random = np.random.default_rng(seed)
    cells, found = [(count, seeds) for seeds in seeds_grid for count in patients_grid], []
    for done, (count, seeds) in enumerate(cells, start=1):
        values = own[:, None] + _seed_means(answers, seeds, random)
        hits = _rejections(values, count, seed_sd / np.sqrt(seeds), simulations, level, random)
        low, high = proportion_interval(hits, simulations)
        found.append({"patients": count, "seeds": seeds, "power": hits / simulations, "low": low, "high": high})
        if progress is not None:
            progress(done, len(cells))
    return pd.DataFrame(found)


def patients_needed(powers: pd.DataFrame, power: float = POWER) -> pd.DataFrame:
    """The fewest patients that reach a power, for each number of seeds.

    Args:
        powers: of `power_simulation`.
        power: to be reached, in (0, 1).

    Returns:
        index `seeds`: `patients`, interpolated between the simulated numbers (linear in the power against √patients, rounded up;
        NaN where it is not reached), `highest`, the highest power met, and `text`: "about 240", "20 or fewer" at the lower end,
        or "not within 5000".

    Raises:
        ValueError: a power outside (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"patients_needed: power is {power}; expected a number between 0 and 1, such as 0.8")
    rows = {}
    for seeds, table in powers.groupby("seeds"):
        table = table.sort_values("patients")
        counts, reached = table["patients"].to_numpy(float), table["power"].to_numpy(float)
        needed, text = np.nan, f"not within {counts[-1]:.0f}"
        # Simulation error can make a larger study look weaker: the first crossing after which the power stays.
        below = np.flatnonzero(reached < power)
        if not len(below):
            needed, text = counts[0], f"{counts[0]:.0f} or fewer"
        elif below[-1] < len(counts) - 1:
            ends = slice(below[-1], below[-1] + 2)
            needed = np.ceil(round(np.interp(power, reached[ends], np.sqrt(counts[ends])) ** 2, 6))
            text = f"about {needed:.0f}"
        rows[seeds] = {"patients": float(needed), "highest": float(reached.max()), "text": text}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seeds")


def paired_power(effect: float, sd: float, patients: int, seeds: int = 1, seed_sd: float = 0.0, level: float = 0.95) -> float:
    """The same power by formula, for normal differences with SD `sd` over patients: that of a t-test whose t is noncentral.

    Exact for `seed_sd` 0, the paired t-test; else with Satterthwaite's degrees of freedom, close from some 20 patients on.

    Raises:
        ValueError: fewer than 2 patients or 1 seed, SDs below 0 or both 0.
    """
    if patients < 2 or seeds < 1 or sd < 0 or seed_sd < 0 or not sd + seed_sd > 0:
        raise ValueError(
            f"paired_power: {patients} patients, {seeds} seeds, SDs {sd} and {seed_sd}; "
            "expected 2 or more, 1 or more, and SDs from 0, one of them above"
        )
    error = np.sqrt(sd**2 / patients + seed_sd**2 / seeds)
    freedom = np.inf if sd == 0 else (patients - 1) * (error**2 / (sd**2 / patients)) ** 2
    freedom = min(freedom, 1e6)  # scipy's noncentral t needs a finite number
    limit = student.ppf((1 + level) / 2, freedom)
    return float(nct.sf(limit, freedom, effect / error) + nct.cdf(-limit, freedom, effect / error))


def _by_patient(rows: np.ndarray, patients: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Each patient's mean difference (patients,), and the same of each seed (seeds, patients)."""
    if rows.ndim != 2:
        raise ValueError(f"{where}: differences have shape {rows.shape}; expected (n,) or (seeds, n)")
    patient_codes(patients, rows.shape[1], where)
    known = ~np.isnan(rows).all(axis=0)
    codes, count = patient_codes(np.asarray(patients, dtype=object)[known], int(known.sum()), where)
    if count < 2:
        raise ValueError(f"{where}: {count} patients have a difference; expected 2 or more, whose spread can be measured")
    rows = rows[:, known]
    # An image that one seed leaves undefined has the mean of the others there.
    rows = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
    images = np.bincount(codes, minlength=count)
    of_seeds = np.stack([np.bincount(codes, row, count) / images for row in rows])
    return of_seeds.mean(axis=0), of_seeds


def _check_grid(grid: Sequence[int], least: int, name: str) -> None:
    wrong = [number for number in grid if isinstance(number, bool) or int(number) != number or number < least]
    if wrong or not len(grid):
        raise ValueError(f"power_simulation: {name} must hold whole numbers from {least}; found {wrong or list(grid)}")


def _seed_means(answers: np.ndarray, seeds: int, random: np.random.Generator) -> np.ndarray:
    """Means over `seeds` of each patient's own answers, drawn with replacement from those measured: (patients, averages)."""
    if len(answers) < 2:
        return np.zeros((answers.shape[1], 1))
    drawn = random.integers(len(answers), size=(seeds, answers.shape[1], _AVERAGES))
    return sum(np.take_along_axis(answers.T, chosen, axis=1) for chosen in drawn) / seeds


def _rejections(
    values: np.ndarray, count: int, seed_error: float, simulations: int, level: float, random: np.random.Generator
) -> int:
    """How many of the simulated studies with `count` patients, drawn from values (patients, averages), find a difference."""
    hits, block = 0, max(1, _BLOCK // count)
    flat = values.ravel()
    for start in range(0, simulations, block):
        studies = min(block, simulations - start)
        drawn = flat[random.integers(flat.size, size=(studies, count))]
        means = drawn.mean(axis=1) + seed_error * random.standard_normal(studies)
        of_patients = drawn.var(axis=1, ddof=1) / count
        variance = of_patients + seed_error**2
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = (count - 1) * (variance / of_patients) ** 2
            statistic = np.abs(means) / np.sqrt(variance)
        limit = student.ppf((1 + level) / 2, np.minimum(np.nan_to_num(freedom, nan=1.0, posinf=1e6), 1e6))
        hits += int((statistic > limit).sum())  # NaN, where nothing differs at all, is no rejection
    return hits
