"""Several of the paper's tables from one set of runs: every network scored and timed once, however many tables it is in; and how
many patients and trainings it takes to see gains as small as the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.scores.comparisons import compare_means, holm
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap
from thyroid_utils.scores.power import (
    paired_power,
    patients_and_seeds_interval,
    patients_needed,
    power_simulation,
    seed_components,
    smallest_gain,
)
from thyroid_utils.studies.module_ablation.tables import SWITCHES, AblationRow, AblationTable, tables_named
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.ledger import Run

SCORE = "iou"


@dataclass(frozen=True)
class AblationStudy:
    """`tables`: name → table; `whole`: the runs of all of them by the networks' names beyond a table."""

    tables: dict[str, AblationTable]
    whole: SegmenterComparison

    @classmethod
    def of(cls, tables: Sequence[str] | Mapping[str, AblationTable], runs: Sequence[Run], root: str | Path | None = None):
        """The study of finished runs (`study_configs`).

        Args:
            tables: names in `TABLES`, or tables of one's own by name.
            runs: of all their rows, in any order; others are left aside, and a run that is given twice counts once.
            root: the data's folder, where it is another than in training.

        Raises:
            ConfigError: no such table. DataError: a network without runs, or runs that cannot be compared.
        """
        named = tables_named(tables)
        networks = {row.network: row for table in named.values() for row in table.rows}
        unique = {run.name: run for run in runs}.values()
        found = {network: [run for run in unique if _belongs(run, row)] for network, row in networks.items()}
        missing = [network for network, own in found.items() if not own]
        if missing:
            raise DataError(f"ablation: no run of {', '.join(missing)}; train the configs of study_configs")
        whole = SegmenterComparison.of([run for own in found.values() for run in own], root=root)
        return cls(named, replace(whole, runs=found))

    @property
    def seeds(self) -> int:
        """Trainings of each network."""
        return len(next(iter(self.whole.runs.values())))

    @cached_property
    def _by_image(self) -> pd.DataFrame:
        """The score of each test image, the mean over seeds: a column a network."""
        found = self.whole.by_image([SCORE]).pivot(index="case", columns="model", values=SCORE)
        return found.loc[self.whole.truth.index]

    @cached_property
    def results(self) -> dict[str, pd.DataFrame]:
        """Each table of the paper on these data.

        Returns:
            name of the table → DataFrame, index `row`: `network` (its name beyond this table), `parameters`
            (millions), `share` (of the reference's), `training_seconds` (mean over seeds, as measured where each run was
            trained), `latency_ms` (one image on this CPU); `iou`, its `Estimate` over patients
            of the mean over seeds, per image at the image's own resolution; `seed_sd`, the SD over seeds of its mean (NaN for
            one); `difference`, a `Comparison` of row and reference on the images that define the score for both
            (`compare_means`: interval and p-value over patients, both of the mean), None for the reference; `p_holm`, adjusted
            for the rows of this table, and `differs`, below 0.05; `reported_points` and `reported_share`, the paper's, with its
            `remark`.
        """
        estimates = self.whole.estimates([SCORE])[SCORE]
        means = self.whole.by_run([SCORE]).groupby("model")[SCORE]
        costs, patients = self.whole.costs, self.whole.truth["patient"]
        found = {}
        for name, table in self.tables.items():
            reference, rows = table.row(table.reference).network, {}
            for row in table.rows:
                network = row.network
                compared = None
                if network != reference:
                    compared = compare_means(self._by_image[network], self._by_image[reference], patients, resamples=2000)
                cost = costs.loc[network]
                rows[row.name] = {
                    "network": network,
                    "parameters": cost["parameters"],
                    "share": cost["parameters"] / costs.at[reference, "parameters"],
                    "training_seconds": float(np.mean([run.environment["seconds"] for run in self.whole.runs[network]])),
                    "latency_ms": cost["latency_ms"],
                    SCORE: estimates[network],
                    "seed_sd": float(means.get_group(network).std(ddof=1)),
                    "difference": compared,
                    "reported_points": row.reported_iou,
                    "reported_share": row.reported_share,
                    "remark": row.remark,
                }
            result = pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")
            adjusted = holm([np.nan if compared is None else compared.p_value for compared in result["difference"]])
            found[name] = result.assign(p_holm=adjusted, differs=adjusted < 0.05)
        return found

    def titled(self, seed_sd: float) -> dict[str, pd.DataFrame]:
        """`results` by the tables' titles, with the columns `wide_low` and `wide_high`: the 95 % interval of the difference for
        other patients and other trainings, of which there are as many, at an SD of `seed_sd` over seeds; NaN for references."""
        wide = {
            (name, row.name): patients_and_seeds_interval(gain.mean().to_numpy(), patients, seed_sd, self.seeds)
            for name, row, gain, patients in self.gains()
        }
        found = {}
        for name, table in self.results.items():
            low, high = zip(*[wide.get((name, row), (np.nan, np.nan)) for row in table.index], strict=True)
            found[self.tables[name].title] = table.assign(wide_low=low, wide_high=high)
        return found

    @cached_property
    def networks(self) -> pd.DataFrame:
        """A row a network, with the columns of `results` that do not depend on a reference row."""
        found = pd.concat(self.results.values()).drop_duplicates("network").set_index("network")
        return found[["parameters", "training_seconds", "latency_ms", SCORE]]

    def front(self, cost: str) -> list[str]:
        """Networks that no other beats in both cost ("parameters" or "latency_ms") and score, by rising cost."""
        return pareto_front(self.networks[cost], self.networks[SCORE].map(lambda estimate: estimate.value))

    def gains(self) -> Iterable[tuple[str, AblationRow, pd.DataFrame, pd.Series]]:
        """Each row that is compared: name of its table, the row, its score less the reference's (seeds, n), NaN where one of the
        two is undefined, and the patient of each of the n test images."""
        scored = {}
        for network, tables in self.whole.tables.items():
            own = [table.loc[table["resolution"] == "own", SCORE].to_numpy(float) for table in tables]
            scored[network] = pd.DataFrame(own)
        for name, table in self.tables.items():
            reference = scored[table.row(table.reference).network]
            for row in table.rows:
                if row.name != table.reference:
                    yield name, row, scored[row.network] - reference, self.whole.truth["patient"]

    @cached_property
    def seed_sd(self) -> float:
        """SD over seeds of a row's difference to its reference that all patients share, from the mean over all rows that are
        compared of its square (`seed_components`): two or three seeds alone tell next to nothing of it. 0 where patients' own
        answers to the seeds explain it all; NaN for one seed, or fewer than two patients."""
        if self.seeds < 2 or self.whole.truth["patient"].nunique() < 2:
            return np.nan
        squares = [seed_components(gain, patients)[0] for _, _, gain, patients in self.gains()]
        return float(np.sqrt(max(0.0, np.mean(squares))))

    def together(self, name: str = "modules") -> Estimate | None:
        """How far the gain of all modules together is from the sum of their single gains, points: the row that is on in every
        switch, less the reference, less the differences of the rows between. None where the table is not among `tables`."""
        if name not in self.tables:
            return None
        first, *single, last = [self._by_image[row.network] for row in self.tables[name].rows]
        excess = last - first - sum(one - first for one in single)
        return patient_bootstrap(100 * excess, self.whole.truth["patient"], resamples=2000)


def _belongs(run: Run, row: AblationRow) -> bool:
    model = run.config.model
    return model.name == row.model and {name: v for name, v in model.options.items() if name in SWITCHES} == dict(row.switches)


def pareto_front(cost: pd.Series, score: pd.Series) -> list[str]:
    """The rows that no other row beats in one of both without losing in the other: lower cost, higher score.

    Args:
        cost, score: row → number, the same rows; one with NaN in either is on no front.

    Returns:
        names by rising cost. Of equal rows all are on the front.
    """
    known = pd.DataFrame({"cost": cost, "score": score}).dropna().sort_values(["cost", "score"], ascending=[True, False])
    front = []
    for name, row in known.iterrows():
        as_good = (known["cost"] <= row["cost"]) & (known["score"] >= row["score"])
        better = (known["cost"] < row["cost"]) | (known["score"] > row["score"])
        if not (as_good & better).any():
            front.append(name)
    return front


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
    gain: float,
    seed_sd: float,
    patients_grid: Sequence[int],
    seeds_grid: Sequence[int],
    simulations: int,
) -> GainPower:
    """Simulate studies of other sizes for every row of a study that is compared with its reference.

    Args:
        study: whose differences, seed by seed, are drawn from.
        gain: points, for rows of which the paper quotes none; above 0.
        seed_sd: points, taken where the study has one seed; from 0.
        patients_grid, seeds_grid, simulations: as for `power_simulation`.

    Raises:
        ValueError: a grid as `power_simulation` refuses it.
    """
    measured = not np.isnan(study.seed_sd)
    used = 100 * study.seed_sd if measured else float(seed_sd)
    rows, powers, bar = {}, {}, progress_bar("Simulating studies")
    compared = list(study.gains())
    for done, (name, row, gains, patients) in enumerate(compared, start=1):
        quoted = not np.isnan(row.reported_iou)
        effect = abs(row.reported_iou) if quoted else float(gain)
        of_patients = (100 * gains).mean().groupby(patients.to_numpy()).mean().dropna()
        spread, count = float(of_patients.std(ddof=1)), len(of_patients)
        found = {"gain": effect, "whose": "paper" if quoted else "asked", "patient_sd": spread, "seed_sd": used,
                 "power": np.nan, "smallest": np.nan}  # fmt: skip
        if count > 1:
            if spread + used > 0:
                found["power"] = paired_power(effect, spread, count, study.seeds, used)
                found["smallest"] = smallest_gain(spread, count, study.seeds, used)
            table = power_simulation(100 * gains, patients, effect, patients_grid, seeds_grid, used, simulations=simulations)
            powers[f"{row.name}: {effect:.2f} points"] = quoted, table
            needed = patients_needed(table)["text"]
            found |= {f"{seeds} seed{'s' * (seeds != 1)}": text for seeds, text in needed.items()}
        rows[name, row.name] = found
        bar(done, len(compared))
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["table", "row"])
    none_quoted = not any(quoted for quoted, _ in powers.values())
    curves = {title: found for title, (quoted, found) in powers.items() if quoted or none_quoted}
    return GainPower(table, curves, used, measured)
