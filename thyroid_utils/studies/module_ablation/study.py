"""Several of the paper's tables from one set of runs: every network scored and timed once, however many tables it is in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common.config import RunConfig
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap
from thyroid_utils.scores.power import patients_and_seeds_interval, seed_components
from thyroid_utils.studies.module_ablation.results import ablation_comparison, ablation_table, gain_by_seed, pareto_front
from thyroid_utils.studies.module_ablation.tables import AblationRow, AblationTable, ablation_configs, ablation_table_named
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.ledger import Run

SCORE = "iou"


def study_configs(
    tables: Sequence[str],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[RunConfig]:
    """The configs of several tables, each network once a seed; arguments and errors as for `ablation_configs`."""
    found = [config for name in tables for config in ablation_configs(name, seeds, common, weights=weights, options=options)]
    return list({config.to_json(): config for config in found}.values())


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
            runs: of all their rows; others are left aside.
            root: the data's folder, where it is another than in training.

        Raises:
            ConfigError: no such table. DataError: a network without runs, or runs that cannot be compared.
        """
        named = dict(tables) if isinstance(tables, Mapping) else {name: ablation_table_named(name) for name in tables}
        networks = {row.key: replace(row, name=_network(row)) for table in named.values() for row in table.rows}
        every = AblationTable("all networks", tuple(networks.values()), "")
        return cls(named, ablation_comparison(every, runs, root))

    @property
    def seeds(self) -> int:
        """Trainings of each network."""
        return len(next(iter(self.whole.runs.values())))

    def comparison(self, name: str) -> SegmenterComparison:
        """The runs of one table by its rows' names."""
        return replace(self.whole, runs={row.name: self.whole.runs[_network(row)] for row in self.tables[name].rows})

    @cached_property
    def results(self) -> dict[str, pd.DataFrame]:
        """Name → `ablation_table`."""
        found = {}
        for name, table in self.tables.items():
            costs = self.whole.costs.loc[[_network(row) for row in table.rows]]
            found[name] = ablation_table(table, self.comparison(name), costs=costs.set_axis([row.name for row in table.rows]))
        return found

    def titled(self, seed_sd: float) -> dict[str, pd.DataFrame]:
        """`results` by the tables' titles, for figures, with the columns `wide_low` and `wide_high` of `with_seeds`."""
        wider = self.with_seeds(seed_sd)
        found = {}
        for name, table in self.results.items():
            ends = [wider.get((name, row), (np.nan, np.nan)) for row in table.index]
            found[self.tables[name].title] = table.assign(wide_low=[low for low, _ in ends], wide_high=[high for _, high in ends])
        return found

    @property
    def networks(self) -> pd.DataFrame:
        """A row a network, with the columns of `ablation_table` that do not depend on a reference row."""
        found = pd.concat(self.results.values()).drop_duplicates("network").set_index("network")
        return found[["parameters", "training_seconds", "latency_ms", "weights", "seeds", SCORE, "seed_sd"]]

    def front(self, cost: str) -> list[str]:
        """Networks that no other beats in both cost ("parameters" or "latency_ms") and score."""
        table = self.networks
        return pareto_front(table[cost].astype(float), table[SCORE].map(lambda estimate: estimate.value))

    def gains(self) -> Iterable[tuple[str, AblationRow, np.ndarray, pd.Series]]:
        """Each row that is compared: name of its table, the row, its differences to the reference (seeds, n), patients (n,)."""
        for name, table in self.tables.items():
            comparison = self.comparison(name)
            for row in table.rows:
                if row.name != table.reference:
                    yield name, row, *gain_by_seed(comparison, row.name, table.reference, SCORE)

    @cached_property
    def seed_sd(self) -> float:
        """SD over seeds of a row's difference to its reference that all patients share, from the mean over all rows that are
        compared of its square (`seed_components`): two or three seeds alone tell next to nothing of it. 0 where patients' own
        answers to the seeds explain it all; NaN for one seed, or fewer than two patients."""
        if self.seeds < 2 or self.whole.truth["patient"].nunique() < 2:
            return np.nan
        squares = [seed_components(gain, patients)[0] for _, _, gain, patients in self.gains()]
        return float(np.sqrt(max(0.0, np.mean(squares))))

    def with_seeds(self, seed_sd: float) -> dict[tuple[str, str], tuple[float, float]]:
        """(table, row) → 95 % interval of its difference for other patients and other trainings, of which there are as many."""
        return {
            (name, row.name): patients_and_seeds_interval(_over_seeds(gain), patients, seed_sd, self.seeds)
            for name, row, gain, patients in self.gains()
        }

    def together(self, name: str = "modules") -> Estimate | None:
        """How far the gain of all modules together is from the sum of their single gains, points: the row that is on in every
        switch, less the reference, less the differences of the rows between. None where the table is not among `tables`."""
        if name not in self.tables:
            return None
        first, *single, last = [row.name for row in self.tables[name].rows]
        table = self.comparison(name).by_image([SCORE])
        wide = table.pivot(index="case", columns="model", values=SCORE).loc[self.whole.truth.index]
        excess = wide[last] - wide[first] - wide[single].sub(wide[first], axis=0).sum(axis=1, skipna=False)
        return patient_bootstrap(100 * excess, self.whole.truth["patient"], resamples=2000)


def _over_seeds(gain: np.ndarray) -> np.ndarray:
    """Mean over seeds (seeds, n) → (n,) of what is defined."""
    return pd.DataFrame(gain).mean().to_numpy()


def _network(row: AblationRow) -> str:
    return row.network or row.name
