"""What this project's maps answer to paper 001's "P < 0.05" for the shape of highlighted regions.

The paper names no feature, no test and no threshold. An answer therefore has three parts: without adjustment, adjusted for the
features that could have been named, and adjusted for the thresholds that could have been chosen as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from thyroid_utils.scores.checks import check_level


@dataclass(frozen=True)
class ClaimAnswer:
    """Whether P < 1 − level holds for the shape of highlighted regions, threshold by threshold.

    Attributes:
        by_threshold: index `threshold`: `tested` (features), `p` (the smallest) and `feature` (whose), `below` (features with
            an unadjusted p below 1 − level), `p_holm` (the smallest after Holm), `below_holm`, `left_out` (most images that a
            feature leaves out), `detectable` (the smallest effect of a single feature that these patients show with a power of
            80 %, before Holm), `benign_patients`, `malignant_patients` and `at_edge` (share of regions at the image's border).
        plain, holm: thresholds at which some feature is below, without and with Holm over the features.
        plain_stops, holm_stops: the lowest threshold from which on no feature is below; NaN where the claim still holds at the
            highest one, or where nothing could be tested.
        sweep_holds: whether some feature is below after Holm over all features and thresholds.
        text: all of it in a few sentences, with what the patients at hand could have shown.
    """

    by_threshold: pd.DataFrame
    plain: tuple[float, ...]
    holm: tuple[float, ...]
    plain_stops: float
    holm_stops: float
    sweep_holds: bool
    text: str


def claim_answer(sweep: pd.DataFrame, level: float = 0.95) -> ClaimAnswer:
    """Does paper 001's "P < 0.05" for the shape of highlighted regions hold here, and from which threshold on does it not.

    Args:
        sweep: of `threshold_sweep`.
        level: 1 − level is the P that is asked for.

    Raises:
        ValueError: `level` outside (0, 1).
    """
    check_level(level, "claim_answer")
    alpha = 1 - level
    rows = {threshold: _best(group, alpha) for threshold, group in sweep.groupby("threshold")}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold")
    plain = tuple(float(at) for at in table.index[table["below"] > 0])
    adjusted = tuple(float(at) for at in table.index[table["below_holm"] > 0])
    sweep_holds = bool((sweep["p_sweep"] < alpha).any())
    if not table["tested"].any():
        text = "No test: one class has no patient with a region."
        return ClaimAnswer(table, plain, adjusted, np.nan, np.nan, sweep_holds, text)
    stops = _stops(table, plain), _stops(table, adjusted)
    text = f"{_claim(table, plain, adjusted, stops, sweep_holds, alpha)} {_limits(table, level)}"
    return ClaimAnswer(table, plain, adjusted, *stops, sweep_holds, text)


def _stops(table: pd.DataFrame, holding: tuple[float, ...]) -> float:
    beyond = [float(at) for at in table.index if not holding or at > holding[-1]]
    return beyond[0] if beyond else np.nan


def _best(group: pd.DataFrame, alpha: float) -> dict:
    tested = group[group["p"].notna()]
    best = tested.loc[tested["p"].idxmin()] if len(tested) else None
    return {
        "tested": len(tested),
        "p": np.nan if best is None else best["p"],
        "feature": "" if best is None else best["feature"],
        "below": int((tested["p"] < alpha).sum()),
        "p_holm": tested["p_holm"].min() if len(tested) else np.nan,
        "below_holm": int((tested["p_holm"] < alpha).sum()),
        "left_out": int(group["left_out"].max()),
        "detectable": group["detectable"].min(),
        "benign_patients": int(group["benign_patients"].max()),
        "malignant_patients": int(group["malignant_patients"].max()),
        "at_edge": group["at_edge"].max(),
    }


def _claim(
    table: pd.DataFrame,
    plain: tuple[float, ...],
    adjusted: tuple[float, ...],
    stops: tuple[float, float],
    sweep_holds: bool,
    alpha: float,
) -> str:
    at, name = f"of {len(table)} thresholds", f"P < {alpha:.3g}"
    if not plain:
        return f"{name} holds for no feature at any {at}, even without adjustment: the claim is not found here."
    first = f"{name} holds for some feature at {len(plain)} {at} without adjustment ({_listed(plain)}; {_end(stops[0])})"
    if not adjusted:
        return f"{first}, and at none after Holm over the features: the claim does not survive that several features were tried."
    best = table.loc[list(adjusted), "feature"].mode()[0]
    kept = "it survives" if sweep_holds else "it does not survive"
    return (
        f"{first}, and at {len(adjusted)} after Holm over the features ({_listed(adjusted)}; {_end(stops[1])}; most often by "
        f"{best}). Adjusted for all features at all thresholds {kept}."
    )


def _end(stops: float) -> str:
    return "up to the highest tried" if np.isnan(stops) else f"from {stops:.3g} on no longer"


def _limits(table: pd.DataFrame, level: float) -> str:
    """What these patients could have shown, and whether outlines are the map's own."""
    best = table.loc[table["detectable"].idxmin()]
    found = f"rank-biserial effects from {best['detectable']:.2f} on" if best["detectable"] <= 1 else "no effect, however large,"
    text = (
        f"With {best['benign_patients']} benign and {best['malignant_patients']} malignant patients a single test finds "
        f"{found} with a power of 80 %"
    )
    edges = sorted({f"{share:.0%}" for share in table["at_edge"].dropna()}, key=lambda text: float(text[:-1]))
    most = table["left_out"].max()
    lost = f"up to {most} images have no region large enough and are left out" if most else "no image is left out"
    return f"{text}; {lost}; {' to '.join(dict.fromkeys([edges[0], edges[-1]]))} of the regions reach the image's border."


def _listed(thresholds: tuple[float, ...]) -> str:
    return ", ".join(f"{threshold:.3g}" for threshold in thresholds)
