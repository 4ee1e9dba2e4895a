"""Paper 000's framework on any images: a classifier and a segmenter, and what both say of an image as one finding.

For research only: nothing here is a medical device.
"""

from thyroid_utils.inference.dual_stage.finding import (
    OUTCOME_COLUMNS,
    RESEARCH_ONLY,
    STAGES,
    UNCERTAINTY,
    CaseImage,
    Finding,
    Findings,
)
from thyroid_utils.inference.dual_stage.stages import DualStage

__all__ = ["OUTCOME_COLUMNS", "RESEARCH_ONLY", "STAGES", "UNCERTAINTY", "CaseImage", "DualStage", "Finding", "Findings"]
