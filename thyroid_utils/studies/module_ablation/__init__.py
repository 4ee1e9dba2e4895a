"""Paper 003's ablations again: its tables as runs, what these say, and where the paper's own figures do not add up."""

from __future__ import annotations

from thyroid_utils.studies.module_ablation.gain_power import GainPower, gain_power
from thyroid_utils.studies.module_ablation.reading import (
    ablation_findings,
    cost_table,
    count_table,
    power_table,
    reading_table,
    stage_table,
    sums_table,
)
from thyroid_utils.studies.module_ablation.results import ablation_comparison, ablation_table, gain_by_seed, pareto_front
from thyroid_utils.studies.module_ablation.study import AblationStudy, study_configs
from thyroid_utils.studies.module_ablation.sums import sums_that_do_not_add_up
from thyroid_utils.studies.module_ablation.tables import (
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
    "AblationStudy",
    "AblationTable",
    "GainPower",
    "ablation_comparison",
    "ablation_configs",
    "ablation_findings",
    "ablation_table",
    "ablation_table_named",
    "cost_table",
    "count_table",
    "gain_by_seed",
    "gain_power",
    "parameter_counts",
    "pareto_front",
    "power_table",
    "reading_table",
    "stage_table",
    "study_configs",
    "sums_table",
    "sums_that_do_not_add_up",
]
