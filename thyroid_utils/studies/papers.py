"""What the five papers and others report, number by number, with the reason why it may not be set against a figure of one's own.

The numbers are the papers'; where one contradicts the others of its table, `remark` says so.
"""

from __future__ import annotations

import pandas as pd

PAPERS = {
    "000": "Dual-stage framework: VGG16 + ResNet50-UNet",
    "001": "ResNet18 with focal loss and Grad-CAM",
    "002": "U-Net on TN-SCUI",
    "003": "Improved DeepLabV3+ with Tversky loss",
    "004": "U-Net, SegNet and Residual U-Net",
}
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
_CLASSIFIER_SCORES = ("accuracy", "precision", "sensitivity", "f1")
_CLASSIFIERS = {
    "vgg16": (0.9924, 0.9969, 0.9878, 0.9924),
    "resnet18": (0.9894, 0.9909, 0.9878, 0.9893),
    "resnet18_transformer": (0.9711, 0.9641, 0.9787, 0.9713),
    "resnet34": (0.9620, 0.9606, 0.9635, 0.9621),
    "vgg19": (0.9483, 0.9836, 0.9119, 0.9464),
    "alexnet": (0.9286, 0.9052, 0.9574, 0.9306),
}
_SEGMENTER_SCORES = ("dice", "iou", "precision", "sensitivity")
_SEGMENTERS = {
    "unet_resnet50": (0.9319, 0.8727, 0.9423, 0.9346),
    "unet_vgg19": (0.9305, 0.8703, 0.9154, 0.9466),
    "unet_vgg16": (0.9254, 0.8614, 0.9066, 0.9457),
    "deeplabv3plus": (0.8180, 0.6981, 0.8410, 0.8035),
    "transunet": (0.8069, 0.6835, 0.8061, 0.8162),
    "attention_unet": (0.7718, 0.6382, 0.7596, 0.8005),
    "unet": (0.7666, 0.6310, 0.7497, 0.7982),
}
_PRETRAINING = "with a pretrained encoder; the plain U-Net has none, so that architecture and pretraining are confounded"
_SCORES_003 = ("dice", "iou", "sensitivity", "specificity", "pixel_accuracy")
_LOSSES_003 = {
    "tversky": (0.9710, 0.9437, 0.9837, 0.9859, 0.9817),
    "bce": (0.9708, 0.9434, 0.9660, 0.9892, 0.9820),
}
_BEHIND_003 = {  # model → (name in the paper, points of IoU below the paper's own)
    "fcn8s": ("FCN-8s", 4.47),
    "unet": ("U-Net", 0.65),
    "deeplabv3plus_xception": ("DeepLabV3+, with Xception to judge by its size", 0.17),
}
_TN3K = {  # model → (name in the publication, IoU, Dice)
    "unet": ("U-Net", 0.6467, 0.7855),
    "segnet": ("SegNet", 0.6587, 0.7942),
    "deeplabv3plus": ("DeepLabV3+", 0.6486, 0.7868),
    "attention_unet": ("Attention U-Net", 0.6938, 0.8192),
    "enhanced_transunet": ("Enhanced TransUNet (Ozcan 2024)", 0.7087, 0.8292),
    "trfe_plus": ("TRFE+", 0.7138, 0.8330),
    "ssmt_net": ("SSMT-Net (2026)", 0.7834, 0.8694),
}


def reported_scores(task: str) -> pd.DataFrame:
    """What the papers report for a task.

    Args:
        task: "classification" or "segmentation".

    Returns:
        DataFrame, a row a number: `paper` ("000" to "004", or "TN3K" for published figures on that set), `model` (its name here),
        `loss` (its name here, "" where none is told), `score` (as in `metrics`), `value` (in [0, 1]), `data`, `split`, `why_not`
        (why it may not be compared with another figure) and `remark` on this number, or "". Paper, model, loss and score occur
        together once.

    Raises:
        ValueError: another task.
    """
    if task == "classification":
        rows = _classification()
    elif task == "segmentation":
        rows = _segmentation()
    else:
        raise ValueError(f"reported_scores: task is {task!r}; expected classification or segmentation")
    table = pd.DataFrame(rows, columns=["paper", "model", "loss", "score", "value", "remark"])
    basis = pd.DataFrame([_BASIS[paper] for paper in table["paper"]], columns=["data", "split", "why_not"])
    return pd.concat([table.drop(columns="remark"), basis, table["remark"]], axis=1)


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
    why_not = [
        f"{reason}; {remark}" if remark else reason for reason, remark in zip(table["why_not"], table["remark"], strict=True)
    ]
    columns = {
        "model": table["model"],
        "loss": table["loss"].str.replace("_", " "),
        "score": table["score"].str.replace("_", " "),
        "reported": table["value"],
        "paper": table["paper"],
        "here": _texts(estimates, table),
        **({} if pooled is None else {"here_pooled": _texts(pooled, table)}),
        "reported on": table["data"] + ", " + table["split"],
        "why not comparable": why_not,
    }
    return pd.DataFrame(columns)


def _texts(estimates: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The estimate of each row's model and score, "" where there is none."""
    return [
        estimates.at[model, score].text(3) if model in estimates.index and score in estimates else ""
        for model, score in zip(table["model"], table["score"], strict=True)
    ]


def _classification() -> list[tuple]:
    rows = [
        ("000", model, "cross_entropy", score, value, "")
        for model, values in _CLASSIFIERS.items()
        for score, value in zip(_CLASSIFIER_SCORES, values, strict=True)
    ]
    return [
        *rows,
        ("000", "vgg16", "cross_entropy", "auc", 0.9998, ""),
        ("001", "resnet18", "focal", "auc", 0.997, ""),
        ("001", "resnet18", "focal", "accuracy", 0.984, ""),
        ("001", "resnet18", "focal", "sensitivity", 0.978, ""),
        ("001", "resnet18", "focal", "precision", 0.939, "the results section says 0.997, with which F1 would be 0.987"),
        ("001", "resnet18", "focal", "f1", 0.957, ""),
    ]


def _segmentation() -> list[tuple]:
    rows = [
        ("000", model, "bce_dice", score, value, _PRETRAINING if model.startswith("unet_") else "")
        for model, values in _SEGMENTERS.items()
        for score, value in zip(_SEGMENTER_SCORES, values, strict=True)
    ]
    rows += [
        ("002", "unet", "border_cross_entropy", "iou", 0.6131, "pooled over pixels (n_IoU); a Dice of 0.760"),
        ("002", "unet", "border_cross_entropy", "pixel_accuracy", 0.955, "an empty prediction would reach about 0.9"),
    ]
    rows += _paper_003()
    rows += [
        ("004", model, "bce", "dice", value, "")
        for model, value in (("unet", 0.9765), ("residual_unet", 0.9732), ("segnet", 0.7783))
    ]
    for model, (name, iou, dice) in _TN3K.items():
        rows += [("TN3K", model, "", "iou", iou, name), ("TN3K", model, "", "dice", dice, name)]
    return rows


def _paper_003() -> list[tuple]:
    """Its network by loss (Tables 3 and 8), and the IoU of the other methods (Table 7).

    The tables are pictures. The text quotes the first two in full, of Table 7 the points that the paper's network is ahead.
    """
    impossible = "impossible beside its sensitivity and specificity, between which it must lie"
    rows = [
        ("003", "mobile_deeplab", loss, score, value, impossible if (loss, score) == ("tversky", "pixel_accuracy") else "")
        for loss, values in _LOSSES_003.items()
        for score, value in zip(_SCORES_003, values, strict=True)
    ]
    best = _LOSSES_003["tversky"][_SCORES_003.index("iou")]
    for model, (name, points) in _BEHIND_003.items():
        remark = f"{name}; {best} less the {points} points that the text says it is behind"
        rows.append(("003", model, "", "iou", round(best - points / 100, 4), remark))
    return rows


def whole_counts(images: range, prevalence: tuple[float, float], scores: tuple[float, ...], decimals: int = 4) -> list[tuple]:
    """Every table of counts whose accuracy, precision, sensitivity and F1 round to the ones reported.

    Percentages with two decimals on a few hundred images leave few possibilities, which shows what a table can rest on.

    Args:
        images: test images to try.
        prevalence: smallest and largest share of malignant images to try.
        scores: accuracy, precision, sensitivity and F1 in [0, 1], as rounded in the paper.
        decimals: they were rounded to.

    Returns:
        tuples (true positives, false positives, false negatives, true negatives).
    """
    accuracy, precision, sensitivity, f1 = scores
    half = 0.5 * 10**-decimals + 1e-12
    found = []
    for total in images:
        for malignant in range(round(prevalence[0] * total), round(prevalence[1] * total) + 1):
            for tp in range(int((sensitivity - half) * malignant), int((sensitivity + half) * malignant) + 2):
                if tp < 1 or tp > malignant or abs(tp / malignant - sensitivity) > half:
                    continue
                fn = malignant - tp
                for fp in range(max(0, int(tp / (precision + half)) - tp - 1), int(tp / (precision - half)) - tp + 2):
                    tn = total - malignant - fp
                    if fp < 0 or tn < 0 or abs(tp / (tp + fp) - precision) > half:
                        continue
                    if abs((tp + tn) / total - accuracy) <= half and abs(2 * tp / (2 * tp + fp + fn) - f1) <= half:
                        found.append((tp, fp, fn, tn))
    return found
