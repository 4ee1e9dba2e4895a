"""What the five papers and others report, number by number, with the reason why it may not be set against a figure of one's own;
and paper 002's own evaluation with its faults.

The numbers are the papers'; where one contradicts the others of its table, `remark` says so. Paper 003's tables are pictures: its
text quotes those by loss (3 and 8) in full, and of the other methods (7) the points that its network is ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.scores.masks import overlap_scores, pixel_counts

# Paper → what its numbers rest on: test set, split, and what makes them incomparable.
_BASIS = {
    "000": (
        "TNUS, 658 test images",
        "70/15/15, said to be by patient",
        "another set, not public; 658 is what a split by image and class leaves, not one by patient",
    ),
    "001": ("508 images of 508 patients, 151 of them test", "70/30", "another set; no validation set: test chose the epoch"),
    "002": (
        "TN-SCUI 2020 with an augmented copy of each image, 7,288 in all",
        "7:2:1 after augmentation",
        "copies of one image lie on both sides of the split",
    ),
    "003": (
        "247 hospital images, augmented fourfold",
        "6:2:2 after augmentation",
        "copies of one image lie on both sides of the split; validation is used as test",
    ),
    "004": (
        "TG3K, 1,076 test frames",
        "2,509/1,076 frames of 16 videos",
        "gland, not nodule; frames of one video lie on both sides; test chose the model",
    ),
    "TN3K": ("TN3K, official test set of 614 images", "official", "another set; Dice mostly pooled, or derived from IoU"),
}
_OVERLAP = ("dice", "iou", "precision", "sensitivity")
_OF_003 = ("dice", "iou", "sensitivity", "specificity", "pixel_accuracy")
# Task → blocks of a paper's numbers: paper, loss, scores, and model → its values.
_REPORTED: dict[str, list[tuple[str, str, tuple[str, ...], dict[str, tuple[float, ...]]]]] = {
    "classification": [
        ("000", "cross_entropy", ("accuracy", "precision", "sensitivity", "f1"), {
            "vgg16": (0.9924, 0.9969, 0.9878, 0.9924),
            "resnet18": (0.9894, 0.9909, 0.9878, 0.9893),
            "resnet18_transformer": (0.9711, 0.9641, 0.9787, 0.9713),
            "resnet34": (0.9620, 0.9606, 0.9635, 0.9621),
            "vgg19": (0.9483, 0.9836, 0.9119, 0.9464),
            "alexnet": (0.9286, 0.9052, 0.9574, 0.9306),
        }),
        ("000", "cross_entropy", ("auc",), {"vgg16": (0.9998,)}),
        ("001", "focal", ("auc", "accuracy", "sensitivity", "precision", "f1"), {
            "resnet18": (0.997, 0.984, 0.978, 0.939, 0.957),
        }),
    ],
    "segmentation": [
        ("000", "bce_dice", _OVERLAP, {
            "unet_resnet50": (0.9319, 0.8727, 0.9423, 0.9346),
            "unet_vgg19": (0.9305, 0.8703, 0.9154, 0.9466),
            "unet_vgg16": (0.9254, 0.8614, 0.9066, 0.9457),
            "deeplabv3plus": (0.8180, 0.6981, 0.8410, 0.8035),
            "transunet": (0.8069, 0.6835, 0.8061, 0.8162),
            "attention_unet": (0.7718, 0.6382, 0.7596, 0.8005),
            "unet": (0.7666, 0.6310, 0.7497, 0.7982),
        }),
        ("002", "border_cross_entropy", ("iou", "pixel_accuracy"), {"unet": (0.6131, 0.955)}),
        ("003", "tversky", _OF_003, {"mobile_deeplab": (0.9710, 0.9437, 0.9837, 0.9859, 0.9817)}),
        ("003", "bce", _OF_003, {"mobile_deeplab": (0.9708, 0.9434, 0.9660, 0.9892, 0.9820)}),
        ("003", "", ("iou",), {"fcn8s": (0.8990,), "unet": (0.9372,), "deeplabv3plus_xception": (0.9420,)}),
        ("004", "bce", ("dice",), {"unet": (0.9765,), "residual_unet": (0.9732,), "segnet": (0.7783,)}),
        ("TN3K", "", ("iou", "dice"), {
            "unet": (0.6467, 0.7855),
            "segnet": (0.6587, 0.7942),
            "deeplabv3plus": (0.6486, 0.7868),
            "attention_unet": (0.6938, 0.8192),
            "enhanced_transunet": (0.7087, 0.8292),
            "trfe_plus": (0.7138, 0.8330),
            "ssmt_net": (0.7834, 0.8694),
        }),
    ],
}  # fmt: skip
_BEHIND = "{}; 0.9437 less the {} points that the text says it is behind"
_PRETRAINING = "with a pretrained encoder; the plain U-Net has none, so that architecture and pretraining are confounded"
# Paper and model, with loss and score where it is of one number → what is to be said of it.
_REMARKS = {
    ("000", "unet_resnet50"): _PRETRAINING,
    ("000", "unet_vgg19"): _PRETRAINING,
    ("000", "unet_vgg16"): _PRETRAINING,
    ("001", "resnet18", "focal", "precision"): "the results section says 0.997, with which F1 would be 0.987",
    ("002", "unet", "border_cross_entropy", "iou"): "pooled over pixels (n_IoU); a Dice of 0.760",
    ("002", "unet", "border_cross_entropy", "pixel_accuracy"): "an empty prediction would reach about 0.9",
    ("003", "mobile_deeplab", "tversky", "pixel_accuracy"): "impossible beside its sensitivity and specificity, between which it "
    "must lie",
    ("003", "fcn8s"): _BEHIND.format("FCN-8s", 4.47),
    ("003", "unet"): _BEHIND.format("U-Net", 0.65),
    ("003", "deeplabv3plus_xception"): _BEHIND.format("DeepLabV3+, with Xception to judge by its size", 0.17),
    ("TN3K", "enhanced_transunet"): "Enhanced TransUNet (Ozcan 2024)",
    ("TN3K", "trfe_plus"): "TRFE+",
    ("TN3K", "ssmt_net"): "SSMT-Net (2026)",
}
PAPER_SIZE = 512  # pixels a side, to which paper 002 brings its labels
# Paper 002's five figures, which its evaluation and the corrected one give.
PAPER_SCORES = ("b_iou", "n_iou", "miou", "pixel_accuracy", "class_mean_f1")


def reported_scores(task: str) -> pd.DataFrame:
    """What the papers report for a task.

    Args:
        task: "classification" or "segmentation".

    Returns:
        DataFrame, a row a number: `paper` ("000" to "004", or "TN3K" for published figures on that set), `model` (its name here),
        `loss` (its name here, "" where none is told), `score` (as in `metrics`), `value` (in [0, 1]), `data`, `split`, `why_not`
        (why it may not be compared with another figure) and `remark` on this number, or "". Paper, model, loss and score occur
        together once.
    """
    rows = []
    for paper, loss, scores, models in _REPORTED[task]:
        for model, values in models.items():
            for score, value in zip(scores, values, strict=True):
                remark = _REMARKS.get((paper, model, loss, score)) or _REMARKS.get((paper, model), "")
                rows.append((paper, model, loss, score, value, *_BASIS[paper], remark))
    columns = ["paper", "model", "loss", "score", "value", "data", "split", "why_not", "remark"]
    return pd.DataFrame(rows, columns=columns)


def beside_reported(estimates: pd.DataFrame, task: str, pooled: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the papers report for the models compared, beside what these reach here.

    Args:
        estimates: index model, columns scores, each value with a `text(digits)`.
        task: as for `reported_scores`.
        pooled: the same of all pixels together, for segmenters (`SegmenterComparison.estimates(scores, pooled=True)`), as some
            papers report pooled figures, beside which a mean over images says little. What it lacks stays blank.

    Returns:
        DataFrame, a row a model, loss, score and paper: `model`, `loss` (the paper's), `score`, `reported`, `paper`, `here`,
        `here_pooled` (with `pooled` only), `reported on`, `why not comparable`; no row where the papers have none of the models.
    """
    table = reported_scores(task)
    table = table[table["model"].isin(estimates.index) & table["score"].isin(estimates.columns)]
    shown = table[["model", "loss", "score"]].replace("_", " ", regex=True).assign(model=table["model"])
    shown["reported"], shown["paper"] = table["value"], table["paper"]
    shown["here"] = _texts(estimates, table)
    if pooled is not None:
        shown["here_pooled"] = _texts(pooled, table)
    shown["reported on"] = table["data"] + ", " + table["split"]
    shown["why not comparable"] = (table["why_not"] + "; " + table["remark"]).str.removesuffix("; ")
    return shown


def _texts(estimates: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The estimate of each row's model and score, "" where there is none."""
    return [
        estimates.at[model, score].text(3) if model in estimates.index and score in estimates else ""
        for model, score in zip(table["model"], table["score"], strict=True)
    ]


def compare_with_faulty_002(
    truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], size: int = PAPER_SIZE
) -> pd.DataFrame:
    """What the faults of paper 002's evaluation are worth on these masks: for showing that, never for results.

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
