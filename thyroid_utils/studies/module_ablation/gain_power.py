"""How many patients and trainings it takes to see gains as small as the paper's, from the spread that a study measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from thyroid_utils.scores.power import PATIENTS_GRID, SEEDS_GRID, paired_power, patients_needed, power_simulation, smallest_gain
from thyroid_utils.studies.module_ablation.study import AblationStudy


@dataclass(frozen=True)
class GainPower:
    """The answer for each row that is compared.

    table: index (table, row); `gain` to be seen, points; `whose` it is ("paper", or "asked" where the paper quotes none);
    `patient_sd` and `seed_sd`, points; `power` of this study for it, in [0, 1], and the `smallest` gain that this study sees with
    a power of 80 %, points, both NaN where nothing was measured; then a text a number of seeds: patients needed.
    curves: title → `power_simulation` of the rows whose gain the paper quotes, of all where it quotes none.
    seed_sd: points. measured: whether it was measured here, else it was given.
    """

    table: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    seed_sd: float
    measured: bool

    @property
    def basis(self) -> str:
        """Where the spread over seeds is from, for a caption."""
        how = "measured, pooled over all rows" if self.measured else "assumed, as one training cannot show it"
        return f"SD over seeds {self.seed_sd:.2f} points, {how}"


def gain_power(
    study: AblationStudy,
    *,
    gain: float = 0.3,
    seed_sd: float = 1.0,
    patients_grid: Sequence[int] = PATIENTS_GRID,
    seeds_grid: Sequence[int] = SEEDS_GRID,
    simulations: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> GainPower:
    """Simulate studies of other sizes for every row of a study that is compared with its reference.

    Args:
        study: whose differences, seed by seed, are drawn from.
        gain: points, for rows of which the paper quotes none; above 0.
        seed_sd: points, taken where the study has one seed; from 0.
        patients_grid, seeds_grid, simulations: as for `power_simulation`.
        progress: called with (rows done, rows in all).

    Raises:
        ValueError: a gain or seed_sd out of range, or a grid as `power_simulation` refuses it.
    """
    if not (gain > 0 and seed_sd >= 0):
        raise ValueError(f"gain_power: gain is {gain}, seed_sd {seed_sd} points; expected above 0, and from 0")
    measured = not np.isnan(study.seed_sd)
    used = 100 * study.seed_sd if measured else float(seed_sd)
    rows, powers, quoted = {}, {}, {}
    compared = list(study.gains())
    for done, (name, row, gains, patients) in enumerate(compared, start=1):
        told = not np.isnan(row.reported_iou)
        effect = abs(row.reported_iou) if told else float(gain)
        differences = pd.DataFrame(100 * gains).mean().to_numpy()
        of_patients = pd.Series(differences).groupby(patients.to_numpy()).mean().dropna()
        rows[name, row.name] = {"gain": effect, "whose": "paper" if told else "asked",
                                 **_here(of_patients, effect, study.seeds, used)}  # fmt: skip
        if len(of_patients) > 1:
            table = power_simulation(100 * gains, patients, effect, patients_grid, seeds_grid, used, simulations=simulations)
            powers[name, row.name] = table
            quoted[name, row.name] = told
            needed = patients_needed(table)["text"]
            rows[name, row.name] |= {f"{seeds} seed{'s' * (seeds != 1)}": text for seeds, text in needed.items()}
        if progress is not None:
            progress(done, len(compared))
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["table", "row"])
    drawn = {key: found for key, found in powers.items() if quoted[key] or not any(quoted.values())}
    curves = {f"{key[1]}: {rows[key]['gain']:.2f} points": found for key, found in drawn.items()}
    return GainPower(table, curves, used, measured)


def _here(of_patients: pd.Series, effect: float, seeds: int, seed_sd: float) -> dict[str, float]:
    """What a study can see that is as large as the one at hand."""
    spread = float(of_patients.std(ddof=1))
    found = {"patient_sd": spread, "seed_sd": seed_sd, "power": np.nan, "smallest": np.nan}
    if len(of_patients) > 1 and spread + seed_sd > 0:
        found["power"] = paired_power(effect, spread, len(of_patients), seeds, seed_sd)
        found["smallest"] = smallest_gain(spread, len(of_patients), seeds, seed_sd)
    return found
