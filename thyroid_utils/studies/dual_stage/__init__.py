"""The dual-stage framework on the test split: against other orders of its stages, and what its two answers say together."""

from thyroid_utils.studies.dual_stage.outcomes import (
    Agreement,
    DecisionDice,
    agreement,
    dice_by_decision,
    examples,
    findings_on_test,
    outcome_table,
    stage_seconds,
)
from thyroid_utils.studies.dual_stage.variants import VARIANTS, DualStageStudy, predicted_mask, variant_configs, with_crop

__all__ = [
    "VARIANTS",
    "Agreement",
    "DecisionDice",
    "DualStageStudy",
    "agreement",
    "dice_by_decision",
    "examples",
    "findings_on_test",
    "outcome_table",
    "predicted_mask",
    "stage_seconds",
    "variant_configs",
    "with_crop",
]
