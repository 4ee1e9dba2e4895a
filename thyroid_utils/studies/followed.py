"""One case from input to answer, with the numbers that each step leaves: what notebooks follow."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from thyroid_utils.common.words import count, number, share
from thyroid_utils.data.audit import Audit
from thyroid_utils.data.images import read_image, read_mask, ring_around
from thyroid_utils.data.table import LABEL_NAMES, Measures, label_names
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.masks import overlap_scores
from thyroid_utils.scores.probabilities import Platt
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison


def first_test_case(split: pd.DataFrame) -> str:
    """By name; of all cases where none is held out."""
    held = split[split["split"] == "test"]
    return min(held.index if len(held) else split.index)


def through_table(split: pd.DataFrame, measures: Measures, audit: Audit, case: str) -> pd.DataFrame:
    """From a file to a row of the case table to a side of the split: index step, one column, the case. A patient is counted, not
    named.

    Args:
        split: case table with its split; measures and audit: of its images.
    """
    row, found, marks = split.loc[case], measures.table.loc[case], audit.images.loc[case]
    width, height, area, gray, inside, around = found[["width", "height", "area_share", "gray", "inside", "around"]]
    told = {"file: the frame": f"{width:.0f} × {height:.0f} pixels, mean gray {number(gray, 1)}"}
    if area > 0:
        told["file: the outline"] = f"{area * width * height:.0f} pixels, {share(area, 1)} of the frame"
        inside, around = round(inside, 1), round(around, 1)
        told["mean gray inside − around"] = f"{inside} − {around} = {number(inside - around, 1)}"
    told["its row of the table: the label"] = label_names(split)[case]
    told["audit"] = f"{count(marks['callipers'], 'calliper')}, {count(marks['text_regions'], 'text region')}"
    sides = split.loc[split["patient"] == row["patient"], "split"].value_counts()
    told["images of its patient"] = ", ".join(f"{n} in {side}" for side, n in sides.items())
    return _steps(case, told | {"its side": row["split"]})


def through_steps(pipeline: Pipeline, row: pd.Series) -> pd.DataFrame:
    """What each preprocessing step leaves of one image: its size, lowest, mean and highest value, and mean and SD inside the
    outline and in a ring around it.

    Args:
        pipeline: fitted where it needs it.
        row: of the case table; without a mask the last four columns are not there.

    Returns:
        DataFrame, index "0. input", "1. gray", …
    """
    image, rows = read_image(row["image"]), {}
    mask = None if pd.isna(row["mask"]) else read_mask(row["mask"], image.shape[:2])
    for place, (name, pixels, outline) in enumerate(pipeline.stages(image, mask)):
        gray = (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(float)
        told = {"pixels": f"{gray.shape[1]} × {gray.shape[0]}", "lowest": gray.min(), "mean": gray.mean(), "highest": gray.max()}
        if outline is not None and outline.any():
            for where, region in (("inside", outline), ("around", ring_around(outline))):
                told |= {f"mean {where}": gray[region].mean(), f"SD {where}": gray[region].std()}
        rows[f"{place}. {name}"] = told
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")


def to_call(comparison: ClassifierComparison, row: pd.Series) -> pd.DataFrame:
    """From a frame to what the first run of the chosen classifier calls it. row: of the case table, of a test case."""
    case = row.name
    run, told = comparison.runs[comparison.chosen][0], comparison.decisions(comparison.chosen).loc[case]
    own = told.get("own_log_odds", told["log_odds"])
    p, limit = _apart(told["probability"], told["threshold"])
    raw, mended = (number(expit(own)), p) if comparison.folds else (p, number(told["calibrated"]))
    steps = {"log-odds of malignant: s": number(own), "probability: p = 1 / (1 + exp(−s))": raw}
    calibrated = {"probability, as validation calibrates it": mended}
    called = {f"called, malignant from {limit} on": LABEL_NAMES[told["called"]]}
    steps |= calibrated | called if comparison.folds else called | calibrated
    return _steps(case, inputs_of(Predictor(run.of_case(case)), row) | steps | {"truth": LABEL_NAMES[told["label"]]})


def to_dice(comparison: SegmenterComparison, model: str, case: str) -> pd.DataFrame:
    """From a frame to the Dice of the mask of a model's first run. case: of the test side, with a nodule."""
    run = comparison.runs[model][0]
    asked = comparison.asked(run.of_case(case))
    probability = comparison.picture(model, case)[2]
    row = comparison.tables[model][0].query("resolution == 'own'").loc[case]
    return _steps(case, inputs_of(asked, asked.cases.loc[case]) | {
        "map, back on the frame": f"probabilities {number(probability.min())} to {number(probability.max())}",
        **mask_steps(*(int(row[name]) for name in COUNTS)),
    })  # fmt: skip


def steps_to_call(log_odds: Sequence[float], calibrations: Sequence[Platt], threshold: float) -> dict[str, str]:
    """How what classifiers say of one image becomes a call: step → its numbers, for a reader.

    Args:
        log_odds: of malignant, before calibration, one a network.
        calibrations: of each network (`training.folds.calibrations_of`).
        threshold: the probability from which on an image is called malignant.
    """
    scaled = [scale.log_odds(own) for scale, own in zip(calibrations, log_odds, strict=True)]
    mean, parts = float(np.mean(scaled)), zip(calibrations, log_odds, scaled, strict=True)
    called, (p, limit) = expit(mean) >= threshold, _apart(expit(mean), threshold)
    sums = [f"{number(by.intercept)} + {number(by.slope)} × {number(own, 4)} = {number(found)}" for by, own, found in parts]
    return {
        "log-odds of malignant, a network each: s": "; ".join(number(own, 4) for own in log_odds),  # slopes of 50 occur
        "calibrated on validation: a + b·s": "; ".join(sums),
        "their mean: m": number(mean),
        "probability of malignant: 1 / (1 + exp(−m))": number(expit(mean)),
        "called": f"{LABEL_NAMES[int(called)]}: {p} {'≥' if called else '<'} {limit}",
    }


def mask_steps(tp: int, fp: int, fn: int, tn: int) -> dict[str, str]:
    """From counted pixels to Dice: step → its numbers."""
    dice = overlap_scores(tp, fp, fn, tn)["dice"]
    return {
        "mask: the map from 0.5 on": f"{tp + fp} pixels",
        "truth": f"{tp + fn} pixels",
        "both, the mask alone, the truth alone, neither": f"TP {tp}, FP {fp}, FN {fn}, TN {tn}",
        "Dice = 2TP / (2TP + FP + FN)": f"{2 * tp} / {2 * tp + fp + fn} = {number(dice)}",
    }


def inputs_of(predictor: Predictor, row: pd.Series) -> dict[str, str]:
    """What each step of a run's preprocessing leaves, in words."""
    found = through_steps(predictor.pipeline, row)
    return {
        step: f"{told['pixels']} pixels, {told['lowest']:.3g} to {told['highest']:.3g}, mean {told['mean']:.3g}"
        for step, told in found.iterrows()
    }


def _apart(probability: float, threshold: float) -> tuple[str, str]:
    """Both with as many decimals as tell them apart, two at least."""
    tried = [(number(probability, digits), number(threshold, digits)) for digits in range(2, 7)]
    return next((pair for pair in tried if pair[0] != pair[1]), tried[0])


def _steps(case: str, told: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({case: told}).rename_axis("step")
