"""How far an answer can be trusted: how unsure a network is of an image, asked in several ways, whether that finds its errors,
which labels are likely wrong, and how its score falls as frames are disturbed by what clinics, scanners and archives do to them.

Each way of asking gives samples, several answers to the same image, of which scores are made (`inference.uncertainty`).

Labels are doubted by confident learning: what a network that never saw an image says firmly against its label. Probabilities
must be out of sample: of test images, as a network has learnt the labels of its training images, the wrong ones too. A suspect is
a question to a reader, not a correction: where the network is weak, what it lists are its own errors. Both look alike from here.

Each disturbance works on the frame as it was read, in front of preprocessing, which may undo it: that is part of the answer. At
level 0 a frame is untouched. Curves of one seed disturb an image by the same draw at every level, so that they differ by strength
alone.

Reference:
    Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, J. Artif. Intell. Res. 70 (2021)
    1373-1411.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from thyroid_utils.common.progress import in_threads, progress_bar
from thyroid_utils.common.words import listed, literal
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.inference.conformal import conformal_sets
from thyroid_utils.inference.dropout import has_dropout, mc_dropout
from thyroid_utils.inference.ensemble import check_ensemble, one_scale_on_test, seed_ensemble
from thyroid_utils.inference.predictor import FoldedPredictor, Predictor, in_order, predictor_of
from thyroid_utils.inference.uncertainty import (
    LABEL_SCORES,
    MAP_SCORES,
    augmented_views,
    label_uncertainty,
    map_uncertainty,
)
from thyroid_utils.scores.checks import checked
from thyroid_utils.scores.estimates import Estimate, patient_estimate, patient_scores
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts
from thyroid_utils.scores.probabilities import aurc, logit
from thyroid_utils.studies.error_analysis import Errors
from thyroid_utils.studies.error_analysis.subgroups import FEWEST_PATIENTS
from thyroid_utils.training.folds import FoldedRun
from thyroid_utils.training.ledger import Run

_BLOCK = 16  # images whose samples are in memory at once
DYNAMIC_RANGE_DB = 60.0  # that a scanner is taken to show in 255 gray levels

# Name in code → name in a table.
WAYS = {
    "single": "the network as it is",
    "seeds": "ensemble of training seeds",
    "views": "mirrored and shifted images",
    "dropout": "random dropout",
}


class Asked(NamedTuple):
    """What was found of a run's images.

    scores: way (a key of `WAYS`) → table of `label_uncertainty` or `map_uncertainty`, index `case`. skipped: way → why it was not
    asked.
    """

    scores: dict[str, pd.DataFrame]
    skipped: dict[str, str]


def ask_all(runs: Sequence[Run | FoldedRun], passes: int, threshold: float | pd.Series = 0.5, root: str | None = None) -> Asked:
    """Uncertainty of the test images by every way that the runs allow, a block of images in memory at a time.

    Args:
        runs: of one model, one a seed; the first is the one whose errors are looked for. Of folds each image is asked of the
            network that tests it.
        passes: of dropout. A case has the same draws whatever others are asked along.
        threshold: at or above it the first run calls an image malignant (of folds: index case), or a pixel nodule. Other seeds
            have their own.
        root: folder of the data as it is now; None takes the one that was trained with.

    Returns:
        `Asked`: "single" and "views" always; "seeds" where there are two runs or more, "dropout" where the network has any.

    Raises:
        DataError: no run, or runs of several splits or tasks.
    """
    check_ensemble(runs)
    index = runs[0].predictions.query("split == 'test'").index
    asked, segmenting = predictor_of(runs[0], root), runs[0].config.task == "segmentation"
    skipped = {} if len(runs) > 1 else {"seeds": "there is one seed"}
    if not segmenting and not skipped and all((one_scale_on_test(run) == 0.5).all() for run in runs):
        skipped["seeds"] = "no training ranks validation better than chance"
    if not has_dropout(runs[0].folds[0].load_model()):
        skipped["dropout"] = "the network has no dropout"
    bar, tables, done = progress_bar("Asking again"), {way: [] for way in WAYS if way not in skipped}, 0
    for predictor, rows in asked.by_fold(index):
        answer = predictor.maps if segmenting else predictor.probabilities
        for start in range(0, len(rows), _BLOCK):
            block = index[rows[start : start + _BLOCK]]
            inputs = predictor.inputs(block)
            samples = {"views": augmented_views(answer, inputs)}
            samples["single"] = samples["views"][:1]
            if "seeds" in tables:
                samples["seeds"] = seed_ensemble(runs, block)
            if "dropout" in tables:
                keys = [int(hashlib.sha256(case.encode()).hexdigest()[:16], 16) for case in block]
                found = mc_dropout(predictor.network, inputs, passes, keys=keys)
                samples["dropout"] = found if segmenting else predictor.scale(logit(found))
            limit = threshold if isinstance(threshold, float) else threshold[block].to_numpy()
            for way, found in tables.items():
                if segmenting:
                    table = map_uncertainty(samples[way], limit)
                else:  # the ensemble's samples have been brought to one threshold
                    table = label_uncertainty(samples[way], 0.5 if way == "seeds" else limit, samples["single"][0] >= limit)
                found.append(table.set_axis(block))
            done += len(block)
            bar(done, len(index))
    return Asked({way: pd.concat(found).loc[index] for way, found in tables.items()}, skipped)


def prediction_sets(run: Run | FoldedRun, alpha: float) -> pd.DataFrame:
    """`conformal_sets` by class of a classifier's test images, of folds each by the validation of its own.

    alpha: share of the sets that may miss the truth, in (0, 1).
    """
    parts = []
    for fold in run.folds:
        val, test = (fold.predictions[fold.predictions["split"] == side] for side in ("val", "test"))
        known = {"val_patients": val["patient"], "by_class": True}
        parts.append(conformal_sets(val["probability"], val["label"], test["probability"], alpha, **known))
    sets, notes = pd.concat(parts), [part.attrs["note"] for part in parts if part.attrs["note"]]
    several = f"There are too few in {len(notes)} of {len(parts)} folds; the first of them: " * (len(parts) > 1)
    sets.attrs = {"note": f"{several}{notes[0]}" if notes else ""}
    return sets


def error_detection(uncertainty: Sequence[float], wrong: Sequence[bool], patients: Sequence[str]) -> Estimate:
    """AUROC of telling wrong images from right ones by their uncertainty: 0.5 is chance, 1 finds every error first.

    Args:
        uncertainty: the higher the less certain, any scale, shape (n,).
        wrong: whether each image is, such as a wrong label or a Dice below a limit; NaN where that is not defined. Shape (n,).
        patients: the patient of each, shape (n,).

    Returns:
        Estimate. The value is NaN where no image is wrong, or none is right, and `note` says so; it also says how many images
        were left out, having no uncertainty or no error.

    Raises:
        ValueError: `wrong` holds other values.
    """
    values, errors = np.asarray(uncertainty, dtype=float), _numbers(wrong)
    known = ~(np.isnan(values) | np.isnan(errors))
    values, errors, patients = values[known], errors[known], np.asarray(patients, dtype=object)[known]
    left_out = f"{(~known).sum()} of {len(known)} images left out" if not known.all() else ""
    if len(set(errors)) < 2:
        note = f"all {len(errors)} images are {'wrong' if errors.any() else 'right'}" if len(errors) else "no image"
        found = Estimate(np.nan, np.nan, np.nan, len(errors), len(set(patients)), note=note)
    else:
        ranks = rankdata(values) / len(values)  # the AUROC is of the order alone
        found = patient_scores(errors, ranks, patients, "auc")["auc"]
    return replace(found, note="; ".join(filter(None, (found.note, left_out))))


def _numbers(wrong: Sequence[bool]) -> np.ndarray:
    return pd.Series(wrong).astype("Float64").to_numpy(float, na_value=np.nan)


def detection_table(
    scores: Mapping[str, pd.DataFrame],
    wrong: Sequence[bool],
    patients: Sequence[str],
    errors: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Every score of every way: does it find the errors?

    Args:
        scores: of `Asked`, all of the same images in the same order.
        wrong, patients: as for `error_detection`.
        errors: as for `scores.probabilities.risk_coverage`; None takes `wrong`.

    Returns:
        a row a way and score that is defined for some image: `method`, `score` (by their names in a table), `auroc`
        (`Estimate`), `aurc` (a number: its interval would be too short where errors are rare), `images` counted, `errors` (wrong
        ones among them), `left_out`.
    """
    truth = _numbers(wrong)
    losses = truth if errors is None else np.asarray(errors, dtype=float)
    rows = []
    for way, table in scores.items():
        for name in dict.fromkeys([*LABEL_SCORES, *MAP_SCORES]):
            if name not in table or table[name].isna().all():
                continue
            known = (table[name].notna() & ~np.isnan(truth)).to_numpy()
            rows.append(
                {
                    "method": WAYS[way],
                    "score": name.replace("_", " "),
                    "auroc": error_detection(table[name], truth, patients),
                    "aurc": aurc(table[name], losses),
                    "images": int(known.sum()),
                    "errors": int(truth[known].sum()),
                    "left_out": int((~known).sum()),
                }
            )
    return pd.DataFrame(rows)


def errors_answer(errors: Errors, table: pd.DataFrame, detection: pd.DataFrame) -> str:
    """How many images a classifier calls wrongly, what they have in common and whether that could be foreseen, as markdown.

    In common is what the subgroups' test finds; foreseen is asked of the nearness to the threshold, which costs nothing.

    Args:
        errors: of the classifier. table: of `subgroups.subgroup_table` for its right calls. detection: of `detection_table`.
    """
    if not errors.images["wrong"].any():
        return errors.sentence
    worse = [f"{row.factor}: {row.level}" for row in table[table["differs"] & (table["difference"] < 0)].itertuples()]
    common = "None of the subgroups that could be tested has more of them than the rest"
    if worse:
        common = f"There are more of them than elsewhere in {literal(listed(worse))} (p < 0.05 after Holm)"
    elif table["p"].isna().all():
        common = f"What they have in common cannot be tested: no subgroup and its rest have {FEWEST_PATIENTS} patients each"
    near = detection.query("method == @WAYS['single'] and score == 'nearness'")["auroc"].iloc[0]
    foreseen = "are not shown to be foreseeable" if not near.low > 0.5 else "could in part have been foreseen"
    if np.isnan(near.low):
        foreseen = "cannot be said to be foreseeable or not"
    return f"{errors.sentence} {common}. They {foreseen} by nearness to the threshold (AUROC {near.text()})."


def rank_label_errors(images: pd.DataFrame) -> pd.DataFrame:
    """Every image, the likeliest label error first.

    An image confidently has the most probable of the classes whose probability reaches the mean that it has over the images
    labelled so. Suspects (images that confidently have the other class) come before the rest, and within both the lowest
    self-confidence, the probability of the label that the image has.

    Args:
        images: index `case`; `patient`, `label` (0 benign, 1 malignant, as they are in the data set) and `probability` of
            malignancy, out of sample.

    Returns:
        index `case`: `rank` (from 1), `patient`, `label`, `probability`, `self_confidence`, `confident` (0, 1, or −1 for
        neither) and `suspect` (bool). With one class only nothing can be suspect.

    Raises:
        ValueError: a label that is unknown.
    """
    truth, malignant = checked(images["label"], images["probability"], "rank_label_errors")
    both, labels = np.column_stack([1 - malignant, malignant]), truth.astype(int)
    thresholds = [both[labels == kind, kind].mean() if (labels == kind).any() else np.nan for kind in (0, 1)]
    reached = both >= thresholds  # (n, 2); nothing reaches NaN
    confident = np.where(reached.any(axis=1), np.where(reached, both, -1.0).argmax(axis=1), -1)
    table = images[["patient", "label", "probability"]].assign(
        self_confidence=both[np.arange(len(labels)), labels],
        confident=confident,
        suspect=(confident >= 0) & (confident != labels),
    )
    ordered = table.sort_values(["suspect", "self_confidence"], ascending=[False, True], kind="stable")
    ordered.insert(0, "rank", np.arange(1, len(ordered) + 1))
    return ordered


class Perturbation(NamedTuple):
    """A disturbance of a gray frame.

    label: of a figure's axis, with the unit. low, high: levels that can be. change: (gray uint8, level, generator) → gray uint8,
    never called with level 0.
    """

    label: str
    low: float
    high: float
    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _gain(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    """A frame holds decibels: gain adds. What is black has no echo and stays black."""
    return np.where(gray == 0, 0, _levels(gray + level / DYNAMIC_RANGE_DB * 255.0)).astype(np.uint8)


def _speckle(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _levels(gray * (1 + level * random.standard_normal(gray.shape)))


def _blur(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(gray, (0, 0), level / 100 * min(gray.shape))


def _jpeg(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    _, data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, round(100 - level)])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def _rotation(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _turned(gray, level, cv2.INTER_LINEAR)


def _clahe(gray: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return cv2.createCLAHE(float(level), (8, 8)).apply(gray)


PERTURBATIONS = {
    "gain": Perturbation("gain, dB", -DYNAMIC_RANGE_DB, DYNAMIC_RANGE_DB, _gain),
    "speckle": Perturbation("multiplied noise, SD", 0, 10, _speckle),
    "blur": Perturbation("Gaussian blur, σ in % of the shorter side", 0, 50, _blur),
    "jpeg": Perturbation("JPEG, 100 − quality", 0, 100, _jpeg),
    "rotation": Perturbation("rotation clockwise, degrees", -180, 180, _rotation),
    "clahe": Perturbation("CLAHE, clip limit (8 × 8 tiles)", 0, 1000, _clahe),
}


def perturb(gray: np.ndarray, name: str, level: float, seed: int | Sequence[int] = 0) -> np.ndarray:
    """A disturbed copy of a frame.

    Args:
        gray: uint8 (height, width).
        name: of `PERTURBATIONS`.
        level: strength, in the unit of its label; 0 changes nothing.
        seed: of what is random; the same for every level gives the same draw.

    Returns:
        uint8 (height, width). What a rotation brings in from outside is black.
    """
    return gray.copy() if level == 0 else PERTURBATIONS[name].change(gray, level, np.random.default_rng(seed))


def perturb_mask(mask: np.ndarray, name: str, level: float) -> np.ndarray:
    """The mask, bool (height, width), of a disturbed frame: turned with it, by the nearest pixel, and otherwise the same."""
    return _turned(mask.astype(np.uint8), level, cv2.INTER_NEAREST).astype(bool) if name == "rotation" else mask


def _turned(pixels: np.ndarray, degrees: float, interpolation: int) -> np.ndarray:
    height, width = pixels.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)  # OpenCV turns anticlockwise
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def robustness_curve(
    predictor: Predictor | FoldedPredictor, images: pd.DataFrame, perturbations: Mapping[str, Sequence[float]], most: int
) -> pd.DataFrame:
    """Scores of a network on frames disturbed in several ways and strengths, with their change from the undisturbed ones.

    Args:
        predictor: of a classifier, whose AUC is asked, or of a segmenter, whose Dice is, at its own resolution; or of folds.
        images: index `case`, of its case table; `patient` and, for a classifier, `label`.
        perturbations: name of `PERTURBATIONS` → levels. Level 0 is always among them, and asked once.
        most: images; of more so many are taken at equal steps.

    Returns:
        a row a perturbation and level: `perturbation`, `level`, `score` (`Estimate`) and `change` (`Estimate` of score − score at
        level 0, paired). A segmenter's score is the mean over the images whose score is defined: those with a nodule in truth or
        prediction, counted in `Estimate.images`.

    Raises:
        ValueError: an unknown name, or a level out of range.
    """
    wanted = _wanted(perturbations)
    images = images.iloc[:: max(1, len(images) // most)][:most]
    files, segmenting = predictor.cases.loc[images.index], predictor.run.config.task == "segmentation"
    of_both = _of_maps if segmenting else _of_labels
    frames, masks = files["image"].map(read_gray), files["mask"].map(read_mask) if segmenting else None
    steps = [(name, level) for name, levels in wanted.items() for level in levels]
    untouched, bar, rows = _answers(predictor, frames, masks, steps[0][0], 0.0), progress_bar("Disturbing"), []
    for done, (name, level) in enumerate(steps, 1):
        found = _answers(predictor, frames, masks, name, level) if level else untouched
        rows.append({"perturbation": name, "level": level, **of_both(found, untouched, images)})
        bar(done, len(steps))
    return pd.DataFrame(rows)


def _wanted(perturbations: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    if not perturbations or not set(perturbations) <= set(PERTURBATIONS):
        raise ValueError(f"disturbances: {list(perturbations)}; expected some of {', '.join(PERTURBATIONS)}")
    wanted = {name: sorted({0.0, *map(float, levels)}) for name, levels in perturbations.items()}
    for name, levels in wanted.items():
        kind = PERTURBATIONS[name]
        if not kind.low <= levels[0] <= levels[-1] <= kind.high:
            raise ValueError(f"disturbance {name}: levels are {levels}; expected {kind.low:g} to {kind.high:g} ({kind.label})")
    return wanted


def _answers(
    predictor: Predictor | FoldedPredictor, frames: pd.Series, masks: pd.Series | None, name: str, level: float
) -> np.ndarray:
    """Probabilities of malignancy (n,), or pixel counts (n, 4) of a segmenter, a batch of frames in memory at a time."""
    found, order = [], []
    for asked, rows in predictor.by_fold(frames.index):

        def prepared(position: int, asked: Predictor = asked):
            mask = None if masks is None else perturb_mask(masks.iloc[position], name, level)
            return asked.pipeline(perturb(frames.iloc[position], name, level, (0, position)), mask)

        for start in range(0, len(rows), asked.batch_size):
            order.append(rows[start : start + asked.batch_size])
            samples = in_threads(prepared, order[-1])
            inputs = np.stack([sample.image for sample in samples])
            if masks is None:
                found.append(asked.probabilities(inputs))
            else:
                counts = map(pixel_counts, [sample.mask for sample in samples], binarise(asked.maps(inputs)))
                found.append(np.array([list(count.values()) for count in counts]))
    return in_order(found, order)


def _of_labels(found: np.ndarray, untouched: np.ndarray, images: pd.DataFrame) -> dict[str, Estimate]:
    labels, patients = images["label"].astype(int), images["patient"]
    return {
        name: patient_scores(labels, found, patients, "auc", less=less)["auc"]
        for name, less in (("score", None), ("change", untouched))
    }


def _of_maps(found: np.ndarray, untouched: np.ndarray, images: pd.DataFrame) -> dict[str, Estimate]:
    now, before = (overlap_scores(*counts.T)["dice"] for counts in (found, untouched))
    return {
        "score": patient_estimate(now, images["patient"], share=True),
        "change": patient_estimate(now - before, images["patient"]),
    }


def change_table(curve: pd.DataFrame) -> pd.DataFrame:
    """`robustness_curve` as a table of the disturbed images: `disturbance` (its label), `strength`, `score`, `change`."""
    table = curve[curve["level"] != 0].rename(columns={"perturbation": "disturbance", "level": "strength"})
    return table.assign(disturbance=[PERTURBATIONS[name].label for name in table["disturbance"]])
