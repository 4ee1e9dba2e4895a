"""Whether uncertainty finds the errors: the ranking of wrong against right images, and the error left when the doubtful go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from thyroid_utils.inference.uncertainty_scores import LABEL_SCORES, MAP_SCORES
from thyroid_utils.scores.checks import patient_codes
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.probabilities import aurc


def error_detection(
    uncertainty: Sequence[float],
    wrong: Sequence[bool],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """AUROC of telling wrong images from right ones by their uncertainty: 0.5 is chance, 1 finds every error first.

    Args:
        uncertainty: the higher the less certain, any scale, shape (n,).
        wrong: whether each image is, such as a wrong label or a Dice below a limit; NaN where that is not defined. Shape (n,).
        patients: the patient of each, shape (n,).
        resamples, seed: of the bootstrap over patients.

    Returns:
        Estimate. The value is NaN where no image is wrong, or none is right, and `note` says so; it also says how many images
        were left out, having no uncertainty or no error.
    """
    values = np.asarray(uncertainty, dtype=float)
    errors = pd.Series(wrong).astype("Float64").to_numpy(float, na_value=np.nan)
    if values.ndim != 1 or values.shape != errors.shape:
        raise ValueError(f"error_detection: uncertainty {values.shape} and wrong {errors.shape}; expected two equal (n,)")
    if not np.isin(errors[~np.isnan(errors)], (0, 1)).all():
        raise ValueError("error_detection: wrong must be true or false, or NaN where it is not defined")
    patient_codes(patients, len(values), "error_detection")
    known = ~(np.isnan(values) | np.isnan(errors))
    values, errors, patients = values[known], errors[known].astype(int), np.asarray(patients, dtype=object)[known]
    left_out = f"{(~known).sum()} of {len(known)} images left out" if not known.all() else ""
    if len(set(errors)) < 2:
        what = "wrong" if errors.any() else "right"
        note = f"all {len(errors)} images are {what}" if len(errors) else "no image"
        found = Estimate(np.nan, np.nan, np.nan, len(errors), len(set(patients)), note=note)
    else:
        ranks = rankdata(values) / len(values)  # the AUROC is of the order alone
        found = patient_bootstrap_scores(errors, ranks, patients, "auc", resamples=resamples, seed=seed)["auc"]
    return replace(found, note="; ".join(filter(None, (found.note, left_out))))


def selective_risk(
    uncertainty: Sequence[float], errors: Sequence[float], patients: Sequence[str], *, resamples: int = 500, seed: int = 0
) -> Estimate:
    """Area under the risk-coverage curve (`scores.probabilities.aurc`) with its interval over patients; arguments as there."""
    values, losses = np.asarray(uncertainty, dtype=float), np.asarray(errors, dtype=float)

    def area(drawn: np.ndarray) -> float:
        return aurc(*drawn.T)

    return patient_bootstrap(np.column_stack([values, losses]), patients, area, resamples=resamples, seed=seed)


def detection_table(
    scores: Mapping[str, pd.DataFrame],
    wrong: Sequence[bool],
    patients: Sequence[str],
    *,
    errors: Sequence[float] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every way: does it find the errors?

    Args:
        scores: way → table of `label_uncertainty` or `map_uncertainty`, all of the same images in the same order.
        wrong, patients: as for `error_detection`.
        errors: as for `scores.probabilities.risk_coverage`; None takes `wrong`.

    Returns:
        a row a way and score that is defined for some image: `method`, `score`, `auroc` (`Estimate`), `aurc` (`Estimate`),
        `images` counted, `errors` (wrong ones among them), `left_out`.
    """
    truth = pd.Series(wrong).astype("Float64").to_numpy(float, na_value=np.nan)
    losses = truth if errors is None else np.asarray(errors, dtype=float)
    names, rows = dict.fromkeys([*LABEL_SCORES, *MAP_SCORES]), []
    for method, table in scores.items():
        for name in [name for name in names if name in table and table[name].notna().any()]:
            values = table[name].to_numpy(float)
            known = ~(np.isnan(values) | np.isnan(truth))
            rows.append(
                {
                    "method": method,
                    "score": name,
                    "auroc": error_detection(values, truth, patients, resamples=resamples, seed=seed),
                    "aurc": selective_risk(values, losses, patients, resamples=resamples, seed=seed),
                    "images": int(known.sum()),
                    "errors": int(truth[known].sum()),
                    "left_out": int((~known).sum()),
                }
            )
    return pd.DataFrame(rows, columns=["method", "score", "auroc", "aurc", "images", "errors", "left_out"])
