"""What the runs of an ablation table say: costs, scores with intervals, and paired differences to the table's reference row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.comparisons import compare_means, holm
from thyroid_utils.studies.module_ablation.tables import SWITCHES, AblationRow, AblationTable, ablation_table_named
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.ledger import Run


def ablation_comparison(table: str | AblationTable, runs: Sequence[Run], root: str | Path | None = None) -> SegmenterComparison:
    """The runs of a table by the names of its rows.

    Args:
        table: as for `ablation_configs`.
        runs: finished ones; what belongs to no row, such as runs of other tables, is left aside, and a run that is given twice
            counts once.
        root: the data's folder, where it is another than in training.

    Raises:
        DataError: a row without a run; or runs that cannot be compared (`SegmenterComparison.of`).
    """
    chosen = ablation_table_named(table)
    unique = {run.name: run for run in runs}
    found = {row.name: [run for run in unique.values() if _belongs(run, row)] for row in chosen.rows}
    missing = [name for name, of_row in found.items() if not of_row]
    if missing:
        raise DataError(f"ablation: no run of {', '.join(missing)} ({chosen.title}); train the configs of ablation_configs")
    whole = SegmenterComparison.of([run for of_row in found.values() for run in of_row], root=root)
    return replace(whole, runs=found)


def _belongs(run: Run, row: AblationRow) -> bool:
    model = run.config.model
    return model.name == row.model and {name: v for name, v in model.options.items() if name in SWITCHES} == dict(row.switches)


def ablation_table(
    table: str | AblationTable,
    comparison: SegmenterComparison,
    *,
    score: str = "iou",
    resamples: int = 2000,
    costs: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A table of the paper on these data.

    Args:
        table: the one that `comparison` was made for.
        comparison: of `ablation_comparison`.
        score: of `scores.masks.SEGMENTATION_SCORES`, per image at the image's own resolution.
        resamples: of the bootstrap over patients.
        costs: the rows' `SegmenterComparison.costs` where they are measured already; None measures them.

    Returns:
        index `row`: `network` (its name beyond this table), `seeds` (number), `parameters` (millions), `share` (of the
        reference's), `training_seconds` (mean over seeds, as measured where each run was trained), `latency_ms` (one
        image on this CPU), `weights` (what it started from); the score's `Estimate` over patients of the mean over seeds;
        `seed_sd`, the SD over seeds of its mean (NaN for one); `difference`, a `Comparison` of row and reference on the
        images that define the score for both (`scores.comparisons.compare_means`: interval and p-value over patients, both of the
        mean); None for the reference; `p_holm`, adjusted for the rows of this table, and `differs`, below 0.05;
        `reported_points` and `reported_share`, the paper's, with its `remark`.
    """
    chosen = ablation_table_named(table)
    costs = comparison.costs if costs is None else costs
    estimates = comparison.estimates([score], resamples=resamples)[score]
    means = comparison.by_run([score]).groupby("model")[score]
    wide, patients = _by_row(comparison, score), comparison.truth["patient"]
    reference, rows = chosen.reference, {}
    for row in chosen.rows:
        if row.name == reference:
            compared = None
        else:
            compared = compare_means(wide[row.name], wide[reference], patients, resamples=resamples)
        seconds = [run.environment["seconds"] for run in comparison.runs[row.name]]
        rows[row.name] = {
            "network": row.network or row.name,
            "seeds": len(seconds),
            "parameters": costs.at[row.name, "parameters"],
            "share": costs.at[row.name, "parameters"] / costs.at[reference, "parameters"],
            "training_seconds": float(np.mean(seconds)),
            "latency_ms": costs.at[row.name, "latency_ms"],
            "weights": costs.at[row.name, "weights"],
            score: estimates[row.name],
            "seed_sd": float(means.get_group(row.name).std(ddof=1)),
            "difference": compared,
            "p": np.nan if compared is None else compared.p_value,
            "reported_points": row.reported_iou,
            "reported_share": row.reported_share,
            "remark": row.remark,
        }
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")
    adjusted = holm(found.pop("p"))
    found.insert(found.columns.get_loc("difference") + 1, "p_holm", adjusted)
    found.insert(found.columns.get_loc("p_holm") + 1, "differs", adjusted < 0.05)
    return found


def _by_row(comparison: SegmenterComparison, score: str) -> pd.DataFrame:
    """The score of each test image, the mean over seeds: a column a row of the table."""
    return comparison.by_image([score]).pivot(index="case", columns="model", values=score).loc[comparison.truth.index]


def pareto_front(cost: pd.Series, score: pd.Series) -> list[str]:
    """The rows that no other row beats in one of both without losing in the other: lower cost, higher score.

    Args:
        cost, score: row → number, the same rows; one with NaN in either is on no front.

    Returns:
        names by rising cost. Of equal rows all are on the front.
    """
    known = pd.DataFrame({"cost": cost, "score": score}).dropna().sort_values(["cost", "score"], ascending=[True, False])
    beaten = [
        ((known["cost"] <= row.cost) & (known["score"] >= row.score)
         & ((known["cost"] < row.cost) | (known["score"] > row.score))).any()
        for row in known.itertuples()
    ]  # fmt: skip
    return list(known.index[~np.array(beaten, dtype=bool)])


def gain_by_seed(comparison: SegmenterComparison, row: str, reference: str, score: str = "iou") -> tuple[np.ndarray, pd.Series]:
    """A row's score less the reference's, for `scores.power.power_simulation`.

    Returns:
        float (seeds, n), NaN where one of the two is undefined, and the patient of each of the n test images.
    """

    def scored(name: str) -> np.ndarray:
        tables = [table[table["resolution"] == "own"] for table in comparison.tables[name]]
        return np.stack([table[score].to_numpy(float) for table in tables])

    return scored(row) - scored(reference), comparison.truth["patient"]
