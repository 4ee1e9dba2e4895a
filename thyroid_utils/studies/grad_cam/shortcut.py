"""Do burned-in text, ticks and callipers attract a network: frames with their marks against the same with them painted over.

Where a map lies on the marks proves little: callipers are set where the nodule is. So the same pixels are asked twice, with the
marks kept and with them painted over by the preprocessing step `remove_overlays` (inpainted inside the echo image, blanked
outside). What the map loses there by the painting is what the marks themselves attracted. Whether the network *uses* them shows
in the probability, held against a placebo: the same paint on the mirror image of the marks inside the echo image.

Marks are found by `data.overlays`, which can miss faint ones and take bright echoes for letters; a map is as fine as the layer
that it comes from (7 × 7 cells for ResNet18 at 224 pixels), and smears what a thin mark attracts over its neighbours. A map that
ignores the marks therefore does not prove that the network does; the probability is the better witness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit
from torch import nn

from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.cam import CamMaps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.checks import check_level
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.studies.grad_cam.marks import mark_pairs

# What `shortcut_table` compares: row → the two columns, as `_measures` makes them.
COMPARED = {
    "energy on marks, kept − painted over": ("energy_kept", "energy_removed"),
    "energy on marks, kept − area share": ("energy_kept", "chance"),
    "probability, kept − painted over": ("probability_kept", "probability_removed"),
    "probability moved by, marks − placebo": ("moved_by_removal", "moved_by_placebo"),
    "calls changed by, marks − placebo": ("changed_by_removal", "changed_by_placebo"),
    "area painted, marks − placebo": ("area_removal", "area_placebo"),
}


def text_attention(marks: np.ndarray, kept: np.ndarray, removed: np.ndarray, cases: Sequence[str] | None = None) -> pd.DataFrame:
    """Share of each map's sum on the marks' pixels, with the marks kept and with them painted over.

    Args:
        marks: bool (n, height, width), of `MarkPairs`.
        kept, removed: maps of the two, at least 0, (n, height, width).
        cases: ids for the index; None numbers the rows.

    Returns:
        DataFrame, index `case`: `energy_kept`, `energy_removed` and `chance` (the marks' share of the area: what a uniform map
        has), each in [0, 1]; NaN without marks, and an energy NaN for a blank map.

    Raises:
        ValueError: shapes that differ, or maps with NaN or values below 0.
    """
    marks = np.asarray(marks, dtype=bool)
    columns = {}
    for name, maps in (("energy_kept", kept), ("energy_removed", removed)):
        values = np.asarray(maps)
        if values.shape != marks.shape or values.ndim != 3:
            raise ValueError(f"text_attention: maps are {values.shape}, marks {marks.shape}; expected equal (n, height, width)")
        if not (values >= 0).all():
            raise ValueError("text_attention: maps hold NaN or values below 0; expected maps after ReLU")
        total = values.sum(axis=(1, 2), dtype=float)
        inside = (values * marks).sum(axis=(1, 2), dtype=float)
        columns[name] = np.divide(inside, total, out=np.full(len(total), np.nan), where=total > 0)
    index = pd.Index(range(len(marks)) if cases is None else list(cases), name="case")
    found = pd.DataFrame(columns | {"chance": marks.mean(axis=(1, 2))}, index=index)
    found.loc[~marks.any(axis=(1, 2))] = np.nan
    return found


def shortcut_scores(
    predictor: Predictor,
    cases: pd.DataFrame,
    make_maps: Callable[[nn.Module, np.ndarray], CamMaps],
    *,
    block: int = 32,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Everything the shortcut test asks of a classifier, image by image; memory is that of one block.

    Args:
        predictor: of a classification run.
        cases: rows of its case table, the test images as a rule.
        make_maps: `explain.cam_maps`, or a `functools.partial` of it with another method.
        block: images in memory at once.
        progress: called with (images done, images in all).

    Returns:
        DataFrame, index `case`: the columns of `MarkPairs.table` and of `text_attention`, and `probability_kept`,
        `probability_removed`, `probability_placebo` of malignancy, these two NaN where there was nothing to paint.

    Raises:
        ValueError: a run that is not one of classification, no rows, or a block below 1.
        DataError: an image that cannot be read.
    """
    if block < 1:
        raise ValueError(f"shortcut_scores: block is {block}; expected a whole number from 1")
    if cases.empty:
        raise ValueError("shortcut_scores: no cases; expected one row or more of a case table")
    tables = []
    for start in range(0, len(cases), block):
        pairs = mark_pairs(predictor.pipeline, cases.iloc[start : start + block])
        shown = pairs.table["marks"].to_numpy() > 0
        painted = pairs.table["placebo"].to_numpy() > 0
        odds = {name: predictor.log_odds(getattr(pairs, name)) for name in ("kept", "removed", "placebo")}
        kept, removed = (make_maps(predictor.network, images).maps for images in (pairs.kept, pairs.removed))
        found = pairs.table.join(text_attention(pairs.marks, kept, removed, pairs.table.index))
        found["probability_kept"] = expit(odds["kept"])
        found["probability_removed"] = np.where(shown, expit(odds["removed"]), np.nan)
        found["probability_placebo"] = np.where(shown & painted, expit(odds["placebo"]), np.nan)
        tables.append(found)
        if progress is not None:
            progress(min(start + block, len(cases)), len(cases))
    return pd.concat(tables)


def shortcut_table(
    scores: pd.DataFrame,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The paired comparisons of the shortcut test, over patients. For callipers alone give the rows with `callipers` above 0.

    Args:
        scores: of `shortcut_scores`.
        patients: the patient of each row.
        threshold: at or above this probability an image is called malignant.
        level, resamples, seed: of the intervals, as in `scores.comparisons.compare_means`.

    Returns:
        DataFrame, index `measure` (`COMPARED`): `comparison` (`scores.estimates.Comparison` of the two means), `images` compared,
        `patients`, and `left_out` (images without marks or placebo, or with a blank map). The probability moved is |difference|.

    Raises:
        ValueError: a patient missing, or as many patients as there are not rows.
    """
    measures = _measures(scores, threshold)
    settings = {"resamples": resamples, "level": level, "seed": seed}
    rows = []
    for name, (first, second) in COMPARED.items():
        found = compare_means(measures[first], measures[second], patients, **settings)
        counts = {"images": found.images, "patients": found.patients, "left_out": len(scores) - found.images}
        rows.append({"measure": name, "comparison": found, **counts})
    return pd.DataFrame(rows).set_index("measure")


def _measures(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    measures, kept = scores.copy(), scores["probability_kept"]
    for way in ("removal", "placebo"):
        other = scores["probability_removed" if way == "removal" else "probability_placebo"]
        measures[f"moved_by_{way}"] = (kept - other).abs()
        changed = ((kept >= threshold) != (other >= threshold)).astype(float)
        measures[f"changed_by_{way}"] = changed.where(other.notna())
        painted = scores["marks" if way == "removal" else "placebo"]
        measures[f"area_{way}"] = painted.where(scores["probability_placebo"].notna())
    return measures


def shortcut_answer(table: pd.DataFrame, level: float = 0.95) -> str:
    """The shortcut test's answer in words: do the marks attract the map, and do they move the network.

    A test of many images finds effects that are too small to matter: the calls that change say whether the marks decide anything.

    Args:
        table: of `shortcut_table`.
        level: a p-value below 1 − level is taken for an effect; the three questions are not adjusted for their number.

    Raises:
        ValueError: `level` outside (0, 1).
    """
    check_level(level, "shortcut_answer")
    energy, chance, shift, moved, changed, area = (table.at[name, "comparison"] for name in COMPARED)
    if not shift.images:
        return "No image shows the network a burned-in mark: there is nothing to test."
    sentences = [f"Marks are visible in {shift.images} images of {shift.patients} patients."]
    if energy.images:
        sentences.append(
            f"They hold {energy.first:.1%} of the map's energy (area: {chance.second:.1%}) and {energy.second:.1%} once painted "
            f"over: {_verdict(energy.p_value, energy.difference, level, 'they attract the map', 'they repel the map')} "
            f"({_chance(energy.p_value)})."
        )
    else:
        sentences.append("All maps are blank, so that nothing can be said of them.")
    sentences.append(
        f"Painting them over moves the mean probability of malignancy by {_signed(-shift.difference)} "
        f"[{_signed(-shift.high)}, {_signed(-shift.low)}] ({_chance(shift.p_value)})."
    )
    if moved.images:
        used = _verdict(moved.p_value, moved.difference, level, "the network sees them", "paint alone moves it more")
        sentences.append(
            f"An image moves by {moved.first:.3f} on average, by {moved.second:.3f} under like paint elsewhere "
            f"({area.second:.1%} of the area, for the marks {area.first:.1%}): {used} "
            f"({_chance(moved.p_value)}), and {changed.first:.1%} of calls change, {changed.second:.1%} by the placebo."
        )
        if area.second < 0.8 * area.first:
            sentences.append("The placebo covers less than the marks do, as it has to fit beside them: part of that is area.")
    return " ".join(sentences)


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no −0


def _verdict(p_value: float, difference: float, level: float, more: str, less: str) -> str:
    if np.isnan(p_value):
        return "no test is possible"
    if p_value >= 1 - level:
        return "no effect is shown"
    return more if difference > 0 else less


def _chance(p_value: float) -> str:
    return "no p-value" if np.isnan(p_value) else "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
