"""Paper 003's ablations again: its tables as runs, what these say, and where the paper's own figures do not add up."""

from __future__ import annotations

from thyroid_utils.module_ablation.results import ablation_comparison, ablation_table, gain_by_seed, pareto_front
from thyroid_utils.module_ablation.sums import sums_that_do_not_add_up
from thyroid_utils.module_ablation.tables import (
    OURS,
    SWITCHES,
    TABLES,
    AblationRow,
    AblationTable,
    ablation_configs,
    ablation_table_named,
    parameter_counts,
)

__all__ = [
    "OURS",
    "SWITCHES",
    "TABLES",
    "AblationRow",
    "AblationTable",
    "ablation_comparison",
    "ablation_configs",
    "ablation_table",
    "ablation_table_named",
    "gain_by_seed",
    "parameter_counts",
    "pareto_front",
    "sums_that_do_not_add_up",
]
