"""What the five papers and others report, number by number, with the reason why it may not be set against a figure of one's own;
and the TN-SCUI paper's own evaluation with its faults.

The numbers are the papers'; where one contradicts the others of its table, `remark` says so. The tables of Yang et al. are
pictures: their text quotes those by loss (3 and 8) in full, and of the other methods (7) the points that their network is ahead.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.masks import overlap_scores, pixel_counts


@dataclass(frozen=True)
class Paper:
    """A paper whose figures are quoted: `name` as prose and tables call it, and the whole `reference` as Markdown."""

    name: str
    reference: str


_TOLD = tomllib.loads(Path(__file__).with_name("papers.toml").read_text(encoding="utf-8"))
PAPERS = {key: Paper(**told) for key, told in _TOLD.items()}
PAPER_SIZE = 512  # pixels a side, to which the TN-SCUI paper brings its labels
# That paper's five figures, which its evaluation and the corrected one give.
PAPER_SCORES = ("b_iou", "n_iou", "miou", "pixel_accuracy", "class_mean_f1")


def reported_scores(task: str) -> pd.DataFrame:
    """What the papers report for a task.

    Args:
        task: "classification" or "segmentation".

    Returns:
        DataFrame, a row a number: `paper` (a key of `PAPERS`), `model` (its name here),
        `loss` (its name here, "" where none is told), `score` (as in `metrics`), `value` (in [0, 1]), `data`, `split`, `why_not`
        (why it may not be compared with another figure), `remark` on this number, or "", `place` (in the paper) and `printed`
        (the value with all its decimals). Paper, model, loss and score occur together once.
    """
    table = pd.read_csv(Path(__file__).with_name("reported_scores.csv"), dtype=str, keep_default_na=False)
    table = table.assign(printed=table["value"], value=table["value"].astype(float))
    return table[table["task"] == task].drop(columns="task").reset_index(drop=True)


def beside_reported(
    estimates: pd.DataFrame, task: str, pooled: pd.DataFrame | None = None, papers: Sequence[str] = ()
) -> tuple[pd.DataFrame, str]:
    """What the papers report for the models compared, beside what these reach here, and why the two may not be compared.

    Args:
        estimates: index model, columns scores, each value with a `text(digits)`.
        task: as for `reported_scores`.
        pooled: the same of all pixels together, for segmenters (`SegmenterComparison.estimates(scores, pooled=True)`), as some
            papers report pooled figures, beside which a mean over images says little. What it lacks stays blank.
        papers: keys of `PAPERS`, to show these alone.

    Returns:
        DataFrame, a row a paper, model, loss and score: `paper`, `model`, `loss` (the paper's), `score`, `reported`, `here`,
        `here_pooled` (with `pooled` only); no row where the papers have none of the models. And Markdown, a line a paper: on
        which images and by which split its figures were had, why that is another thing, and what is odd about single ones.
    """
    table = reported_scores(task)
    table = table[table["model"].isin(estimates.index) & table["score"].isin(estimates.columns)]
    table = table[table["paper"].isin(list(papers or PAPERS))]
    shown = pd.DataFrame({"paper": [PAPERS[paper].name for paper in table["paper"]]}, index=table.index)
    shown = shown.assign(model=table["model"], loss=table["loss"].str.replace("_", " "))
    shown = shown.assign(score=table["score"].str.replace("_", " "), reported=table["value"], here=_texts(estimates, table))
    if pooled is not None:
        shown["here_pooled"] = _texts(pooled, table)
    return shown, "\n".join(_why_not(paper, rows) for paper, rows in table.groupby("paper"))


def _why_not(paper: str, rows: pd.DataFrame) -> str:
    """A line of Markdown: the basis of a paper's figures and the remarks on single ones."""
    first, name = rows.iloc[0], PAPERS[paper].name
    told = f"- **{name[0].upper()}{name[1:]}**: {first['data']}; split {first['split']}. Not comparable: {first['why_not']}."
    for remark, meant in rows[rows["remark"] != ""].groupby("remark", sort=False):
        models = meant.groupby("model", sort=False)["score"]
        of = [f"`{model}` ({', '.join(scores.str.replace('_', ' '))})" for model, scores in models]
        told += f" {', '.join(of)}: {remark}."
    return told


def _texts(estimates: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The estimate of each row's model and score, "" where there is none."""
    return [
        estimates.at[model, score].text(3) if model in estimates.index and score in estimates else ""
        for model, score in zip(table["model"], table["score"], strict=True)
    ]


def compare_with_faulty_002(
    truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], size: int = PAPER_SIZE
) -> pd.DataFrame:
    """What the faults of the TN-SCUI paper's evaluation are worth on these masks: for showing that, never for results.

    The faults, as the code printed in the paper has them:

    1. Labels are resized to 512² with bilinear interpolation and then compared with 0: every pixel that a nodule's edge bleeds
       into becomes nodule, so that the truth grows.
    2. Three equal channels are counted. Every count is three times what it should be; ratios of counts do not change.
    3. Pairs whose sizes differ are skipped with a message, so that the figures describe fewer images than the text says. Here
       each prediction is brought to `size` × `size` by nearest neighbour, as a network of that size would put it out, so that no
       pair is skipped.
    4. TN is defined as "the number of negative samples that were wrongly determined". The code does not follow this definition:
       its diagonal holds the negatives determined rightly. `pixel_accuracy_as_defined` is what the text's formula gives: the
       negatives wrongly determined are FP, which stands both for TN and for itself.
    5. Colours are turned into classes with blue·65536 + green·256 + red on 8-bit arrays. In 8 bits white becomes 255 and not
       16777215, and its class 0; NumPy 1 widened the product and hid the fault, NumPy 2 refuses it.

    Args:
        truths: bool (height, width) at the size of the labels' files.
        predictions: bool (height, width) of the whole frame, at any size.
        size: that the labels are resized to, in pixels.

    Returns:
        rows `PAPER_SCORES` and `pixel_accuracy_as_defined`, whose corrected value is pixel accuracy; columns `corrected` (at
        the truth's own size, which predictions are brought to by nearest neighbour, pooled), `faulty`, and `difference`,
        faulty − corrected.
    """
    own, grown = [], []
    for truth, prediction in zip(truths, predictions, strict=True):
        own.append(pixel_counts(truth, _at_size(prediction, truth.shape)))
        bled = cv2.resize(255 * truth.astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR) != 0
        grown.append(pixel_counts(bled, _at_size(prediction, (size, size))))
    counts, faulty_counts = pd.DataFrame(own).sum(), pd.DataFrame(grown).sum()
    tp, fp, fn = faulty_counts[["true_positives", "false_positives", "false_negatives"]]
    both = pd.DataFrame({"corrected": overlap_scores(**counts), "faulty": overlap_scores(**faulty_counts)}).astype(float)
    both.loc["pixel_accuracy_as_defined"] = both.at["pixel_accuracy", "corrected"], (tp + fp) / (tp + fp + fp + fn)
    both = both.loc[[*PAPER_SCORES, "pixel_accuracy_as_defined"]]
    return both.assign(difference=both["faulty"] - both["corrected"]).rename_axis("score")


def _at_size(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) != 0
