"""Paper 003's ablations again: several of its tables from one set of runs, every network scored and timed once, however many
tables it is in; and how many patients and trainings it takes to see gains as small as the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import UNKNOWN, count, listed, number, whole
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import POWER, Comparison
from thyroid_utils.scores.power import (
    paired_power,
    patients_needed,
    power_simulation,
    seed_components,
    smallest_gain,
)
from thyroid_utils.scores.recipes import compare_recipes, mean_influence
from thyroid_utils.studies.module_ablation.tables import OURS, SWITCHES, AblationRow, AblationTable, network_stages, tables_named
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import Run

SCORE = "iou"
_COSTS = {"aspp": ["training_seconds"], "backbone": ["latency_ms"], "method": ["latency_ms"]}  # those that the paper's table has
_NAMES = {"training_seconds": "training, s", "latency_ms": "latency, ms"}


@dataclass(frozen=True)
class AblationStudy:
    """`tables`: name → table; `whole`: the runs of all of them by the networks' names beyond a table; `assumed_sd`: points of
    IoU between trainings, taken where there is one."""

    tables: dict[str, AblationTable]
    whole: SegmenterComparison
    assumed_sd: float

    @classmethod
    def of(cls, tables: Sequence[str], runs: Sequence[Run], assumed_sd: float, root: str | Path | None = None) -> AblationStudy:
        """The study of finished runs (`study_configs`).

        Args:
            tables: names in `TABLES`.
            runs: of all their rows, in any order; others are left aside, and a run that is given twice counts once.
            assumed_sd: from 0.
            root: the data's folder, where it is another than in training.

        Raises:
            ConfigError: no such table. DataError: a network without runs, or runs that cannot be compared.
        """
        named = tables_named(tables)
        networks = {row.network: row for table in named.values() for row in table.rows}
        unique = by_folds({run.name: run for run in runs}.values())
        found = {network: [run for run in unique if _belongs(run, row)] for network, row in networks.items()}
        missing = [network for network, own in found.items() if not own]
        if missing:
            raise DataError(f"ablation: no run of {', '.join(missing)}; train the configs of study_configs")
        whole = SegmenterComparison.of([run for own in found.values() for run in own], root=root)
        return cls(named, replace(whole, runs=found), float(assumed_sd))

    @property
    def patients(self) -> pd.Series:
        """Of each test image."""
        return self.whole.truth["patient"]

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """Network → IoU at the images' own resolution, a row a seed and a column a test image; NaN where there is no nodule."""
        cases = self.whole.truth.index
        return {
            network: pd.DataFrame(self.whole.values(network, [SCORE])[..., 0], columns=cases) for network in self.whole.models
        }

    def gains(self) -> Iterable[tuple[str, AblationRow, pd.DataFrame]]:
        """Each row that is compared: name of its table, the row, and its score less the reference's, as in `scores`."""
        for name, table in self.tables.items():
            reference = self.scores[table.row(table.reference).network].to_numpy()
            for row in table.rows:
                if row.name != table.reference:
                    yield name, row, self.scores[row.network] - reference

    @cached_property
    def measured_sd(self) -> float:
        """SD over seeds of a row's difference to its reference that all patients share, points, from the mean over all rows that
        are compared of its square (`seed_components`): two or three seeds alone tell next to nothing of it. 0 where patients' own
        answers to the seeds explain it all; NaN for one seed, or fewer than two patients."""
        if self.whole.trainings < 2 or self.patients.nunique() < 2:
            return np.nan
        squares = [seed_components(gain, self.patients)[0] for _, _, gain in self.gains()]
        return 100 * float(np.sqrt(max(0.0, np.mean(squares))))

    @property
    def seed_sd(self) -> float:
        """`measured_sd`, else `assumed_sd`."""
        return self.assumed_sd if np.isnan(self.measured_sd) else self.measured_sd

    @property
    def basis(self) -> str:
        """Where `seed_sd` is from, for a caption."""
        assumed = "assumed, as one training cannot show it"
        how = assumed if np.isnan(self.measured_sd) else "measured, pooled over all rows"
        return f"SD over seeds {self.seed_sd:.2f} points, {how}"

    @cached_property
    def results(self) -> dict[str, pd.DataFrame]:
        """Each table of the paper on these data.

        Returns:
            name of the table → DataFrame, index `row`: `network` (its name beyond this table), `parameters` (millions), `share`
            (of the reference's), `training_seconds` (mean over seeds, as measured where each run was trained), `latency_ms` (one
            image on this CPU); `iou`, its `Estimate` over patients of the mean over seeds, per image at the image's own
            resolution; `seed_sd`, the SD over seeds of its mean (NaN for one); `difference`, of row and reference on the images
            with a nodule (`compare_recipes`; no verdict on `untrained` networks), None for the reference; `p_holm`, adjusted for
            the rows of this table, and `differs`, below 0.05; `reported_points` and `reported_share`, the paper's, with its
            `remark`.
        """
        estimates, costs = self.whole.estimates([SCORE])[SCORE], self.whole.costs
        compare, found = self.whole.compared(SCORE), {}
        trained = {network: [fold for run in runs for fold in run.folds] for network, runs in self.whole.runs.items()}
        for name, table in self.tables.items():
            reference, rows = table.row(table.reference).network, {}
            for row in table.rows:
                network, compared = row.network, None
                if row.name != table.reference:
                    compared = self.whole.withheld(compare(network, reference), (network, reference))
                rows[row.name] = {
                    "network": network,
                    "parameters": costs.at[network, "parameters"],
                    "share": costs.at[network, "parameters"] / costs.at[reference, "parameters"],
                    "training_seconds": float(np.mean([run.environment["seconds"] for run in trained[network]])),
                    "latency_ms": costs.at[network, "latency_ms"],
                    SCORE: estimates[network],
                    "seed_sd": float(self.scores[network].mean(axis=1).std()),
                    "difference": compared,
                    "reported_points": row.reported_iou,
                    "reported_share": row.reported_share,
                    "remark": row.remark,
                }
            result = pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")
            adjusted = holm([np.nan if compared is None else compared.p_value for compared in result["difference"]])
            found[name] = result.assign(p_holm=adjusted, differs=adjusted < 0.05)
        return found

    @property
    def titled(self) -> dict[str, pd.DataFrame]:
        """`results` by the tables' titles."""
        return {self.tables[name].title: found for name, found in self.results.items()}

    @cached_property
    def networks(self) -> pd.DataFrame:
        """A row a network, with the columns of `results` that do not depend on a reference row."""
        found = pd.concat(self.results.values()).drop_duplicates("network").set_index("network")
        return found[["parameters", "training_seconds", "latency_ms", SCORE]]

    @property
    def answer(self) -> str:
        """What the rows add, on whom, and whether that is more than chance, in a sentence or two."""
        found = pd.concat(self.titled).dropna(subset="difference")
        if found.empty:
            return "No row has a row to be compared with."
        most = found.loc[found["difference"].map(lambda gap: abs(gap.difference)).idxmax()]
        (_, row), told = most.name, told_difference(most["difference"], 2, scale=100)
        largest = f"The largest difference to a reference row is that of **{row}**: {told} points of IoU {self.whole.over}"
        on = f"{largest}, on {self.whole.tested_on}, with {number(most['share'])} times the parameters."
        asked = int(found["p_holm"].notna().sum())
        if not asked:
            return f"{on} This run cannot say what a module adds: {listed(sorted({gap.note for gap in found['difference']}))}."
        left = f", {count(len(found) - asked, 'row')} without a verdict" if asked < len(found) else ""
        return f"{on} **{int(found['differs'].sum())} of {count(asked, 'row')}** differ from their reference after Holm{left}."

    def one_case(self, case: str) -> pd.DataFrame:
        """A test image through the plainest and the fullest network: index `part` (its parts, then what is scored); a column a
        network, as text: the maps that each part puts out, and its parameters."""
        ours = [row for table in self.tables.values() for row in table.rows if row.model == OURS]
        off, told, found = {row.network: list(row.switches.values()).count(False) for row in ours}, {}, {}
        for network in sorted({pick(off, key=off.get) for pick in (min, max)}, key=off.get):
            run = self.whole.runs[network][0].of_case(case)
            *parts, last = network_stages(run.load_model(), run.config.size).itertuples()
            scored = self.whole.tables[network][0].query("resolution == 'own'").loc[case]
            maps = {part.stage: f"{part.channels}×{part.height}×{part.width}" for part in [*parts, last]}
            told[network] = {part.stage: f"{maps[part.stage]}, {whole(part.parameters)}" for part in parts}
            sums = {"logits": maps[last.stage], "weights": whole(sum(part.parameters for part in parts))}
            counts = {"TP, FP, FN": ", ".join(whole(scored[name]) for name in COUNTS[:3])}
            found[network] = sums | counts | {"Dice": number(scored["dice"], 3)}
        parts = pd.concat({network: pd.Series(rows) for network, rows in told.items()}, axis=1)
        return pd.concat([parts, pd.DataFrame(found)]).iloc[:, ::-1].rename_axis("part")

    def front(self, cost: str) -> list[str]:
        """Networks that no other beats in both cost ("parameters" or "latency_ms") and score, by rising cost."""
        return pareto_front(self.networks[cost], self.networks[SCORE].map(lambda estimate: estimate.value))

    def together(self) -> Comparison | None:
        """How far the gain of all modules together is from the sum of their single gains, points: the row that is on in every
        switch, less the reference, less the differences of the rows between. None without the table "modules"."""
        if "modules" not in self.tables:
            return None
        known = (self.whole.truth["area"] > 0).to_numpy()
        first, *single, last = [100 * self.scores[row.network].to_numpy()[:, known] for row in self.tables["modules"].rows]
        gains = mean_influence(last - first), mean_influence(sum(one - first for one in single))
        return compare_recipes(*gains, self.patients[known])


def _belongs(run: Run | FoldedRun, row: AblationRow) -> bool:
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


class GainPower(NamedTuple):
    """The answer for each row that is compared.

    table: index (table, row); `gain` to be seen, points; `whose` it is ("paper", or "asked" where the paper quotes none);
    `patient_sd`, points; `power` of this study for it, in [0, 1], and the `smallest` gain that this study sees with a power of
    80 %, points, both NaN where nothing was measured, each network was trained once, or folds are compared; then a text a number
    of seeds: patients needed.
    curves: title → `power_simulation` of the rows whose gain the paper quotes, of all where it quotes none.
    """

    table: pd.DataFrame
    curves: dict[str, pd.DataFrame]


def gain_power(
    study: AblationStudy, *, gain: float, patients_grid: Sequence[int], seeds_grid: Sequence[int], simulations: int
) -> GainPower:
    """Simulate studies of other sizes for every row of a study that is compared with its reference.

    Args:
        study: whose differences, seed by seed, are drawn from.
        gain: points, for rows of which the paper quotes none; above 0.
        patients_grid, seeds_grid, simulations: as for `power_simulation`.

    Raises:
        ValueError: a grid as `power_simulation` refuses it.
    """
    rows, powers, used, bar = {}, {}, study.seed_sd, progress_bar("Simulating studies")
    compared = list(study.gains())
    for done, (name, row, gains) in enumerate(compared, start=1):
        quoted = not np.isnan(row.reported_iou)
        effect = abs(row.reported_iou) if quoted else float(gain)
        of_patients = (100 * gains).mean().groupby(study.patients.to_numpy()).mean().dropna()
        spread, patients = float(of_patients.std()), len(of_patients)
        found = {
            "gain": effect,
            "whose": "paper" if quoted else "asked",
            "patient_sd": spread,
            "power": np.nan,
            "smallest": np.nan,
        }
        if patients > 1:
            if study.whole.trainings > 1 and not study.whole.fold_by_fold and spread + used > 0:
                found["power"] = paired_power(effect, spread, patients, study.whole.trainings, used)
                found["smallest"] = smallest_gain(spread, patients, study.whole.trainings, used)
            sizes = patients_grid, seeds_grid, used
            table = power_simulation(100 * gains, study.patients, effect, *sizes, simulations=simulations)
            table.loc[table["seeds"] < 2, ["power", "low", "high"]] = np.nan  # one training gives no verdict on recipes
            powers[f"{row.name}: {effect:.2f} points"] = quoted, table
            needed = patients_needed(table)["text"]
            found |= {count(seeds, "seed"): text for seeds, text in needed.items()}
        rows[name, row.name] = found
        bar(done, len(compared))
    none_quoted = not any(quoted for quoted, _ in powers.values())
    curves = {title: found for title, (quoted, found) in powers.items() if quoted or none_quoted}
    return GainPower(pd.DataFrame.from_dict(rows, orient="index").rename_axis(["table", "row"]), curves)


def power_told(powers: GainPower, fold_by_fold: bool = False) -> str:
    """The smallest gain that the study sees, and how many of the paper's are smaller, as a sentence; fold_by_fold: how the study
    compares."""
    smallest, quoted = powers.table["smallest"].min(), powers.table[powers.table["whose"] == "paper"]
    if fold_by_fold:
        return "Its test is over folds, and how small a gain that sees, simulated tests over patients and seeds cannot say."
    if np.isnan(smallest):
        return "It sees no gain of a recipe, however large, as that takes two trainings of each network or more."
    least = f"The smallest gain that it sees with a power of 80 % is {number(smallest, 1)} points of IoU"
    few = int((quoted["power"] < POWER).sum())
    return f"{least}; of {count(len(quoted), 'gain')} that the paper quotes {few} {'is' if few == 1 else 'are'} too small for it."


def power_table(powers: GainPower) -> pd.DataFrame:
    """`GainPower.table` for a reader: "> 1000" is beyond what was simulated, "≤ 20" at or below it, "–" not measured."""
    found = powers.table
    shown = pd.DataFrame({"gain": found["gain"], "from": found["whose"]})
    for seeds in found.columns[found.columns.get_loc("smallest") + 1 :]:
        texts = found[seeds].fillna(UNKNOWN).str.replace("about ", "").str.replace("not within ", "> ")
        shown[f"patients, {seeds}"] = texts.str.replace(r"(\d+) or fewer", r"≤ \1", regex=True)
    shown["smallest seen here"] = found["smallest"]
    shown["power here, %"] = 100 * found["power"]
    return shown.assign(**{"SD over patients": found["patient_sd"]})


def reading_table(study: AblationStudy, name: str) -> pd.DataFrame:
    """A table of the study for a reader, without rows where it was not asked for.

    Returns:
        index `row`; IoU [95 % over patients]; difference to the reference row in points [95 %], over patients and seeds, or over
        patients alone where each network was trained once; p-value after Holm and whether the rows differ by it; the paper's
        points; SD over seeds of the mean IoU in points; parameters (millions, and times the reference's, here and in the paper),
        training time and latency where the paper's table has them. Columns that say nothing of any row are left out.
    """
    if name not in study.tables:
        return pd.DataFrame()
    found = study.results[name]
    shown = pd.DataFrame(index=found.index)
    shown["IoU"] = [estimate.text(3) for estimate in found[SCORE]]
    gaps = found["difference"]
    shown["difference, points"] = ["reference" if gap is None else told_difference(gap, 2, scale=100) for gap in gaps]
    shown["p (Holm)"] = found["p_holm"]
    shown["differs"] = np.where(found["p_holm"].isna(), "", np.where(found["differs"], "yes", "no"))
    shown["paper, points"] = found["reported_points"].map(lambda points: "" if np.isnan(points) else f"{points:+.2f}")
    shown["SD over seeds"] = 100 * found["seed_sd"]
    shown["parameters, M"] = found["parameters"]
    shown["× reference"] = found["share"]
    shown["paper, ×"] = found["reported_share"]
    for cost in _COSTS.get(name, []):
        shown[_NAMES[cost]] = found[cost]
        if cost == "training_seconds":
            shown["time, ×"] = found[cost] / found.at[study.tables[name].reference, cost]
    shown["remark"] = found["remark"]
    return shown.loc[:, [not (column.isna() | (column == "")).all() for _, column in shown.items()]]
