"""Net benefit with its interval over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thyroid_utils.scores.metrics.decisions import THRESHOLDS, benefit_values, decision_curve
from thyroid_utils.scores.statistics.estimates import patient_codes
from thyroid_utils.scores.statistics.resampling import drawn_patients


def benefit_curve(
    labels: Sequence[int],
    probabilities: Sequence[float],
    patients: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """`metrics.decision_curve` with `low` and `high`, the net benefit's percentile interval at each threshold alone.

    Args:
        labels, probabilities, thresholds: as for `decision_curve`.
        patients: of each image, shape (n,).
        resamples, level, seed: of the bootstrap that draws whole patients.

    Raises:
        ValueError: as `decision_curve`, or a patient missing. A single patient has no interval.
    """
    codes, count = patient_codes(patients, len(labels), "benefit_curve")
    curve = decision_curve(labels, probabilities, thresholds)
    if count < 2:
        return curve.assign(low=np.nan, high=np.nan)
    values = [benefit_values(labels, probabilities, threshold) for threshold in curve["threshold"]]
    sums, sizes = np.stack([np.bincount(codes, found) for found in values]), np.bincount(codes)
    drawn = [(sums @ times) / (sizes @ times) for times in drawn_patients(count, resamples, len(labels), seed)]
    low, high = np.quantile(np.concatenate(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2], axis=1)
    return curve.assign(low=low, high=high)
