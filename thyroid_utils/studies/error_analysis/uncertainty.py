"""What is doubtful: how unsure a network is of an image, asked in several ways, whether that finds its errors, and which labels
are likely wrong.

Each way gives samples, several answers to the same image (`inference.uncertainty`), of which scores are made
(`inference.uncertainty`).

Labels are doubted by confident learning: what a network that never saw an image says firmly against its label. Probabilities
must be out of sample: of test images, as a network has learnt the labels of its training images, the wrong ones too. A suspect is
a question to a reader, not a correction: where the network is weak, what it lists are its own errors. Both look alike from here.

Reference:
    Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, J. Artif. Intell. Res. 70 (2021)
    1373-1411.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty import (
    LABEL_SCORES,
    MAP_SCORES,
    augmented_views,
    check_ensemble,
    has_dropout,
    label_uncertainty,
    map_uncertainty,
    mc_dropout,
    seed_ensemble,
)
from thyroid_utils.scores.checks import checked
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap, patient_bootstrap_scores
from thyroid_utils.scores.probabilities import aurc
from thyroid_utils.training.ledger import Run

_BLOCK = 16  # images whose samples are in memory at once

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


def ask_all(runs: Sequence[Run], passes: int, threshold: float = 0.5, root: str | None = None) -> Asked:
    """Uncertainty of the test images by every way that the runs allow, a block of images in memory at a time.

    Args:
        runs: of one model, one a seed; the first is the one whose errors are looked for.
        passes: of dropout. A case has the same draws whatever others are asked along.
        threshold: at or above it an image is called malignant, or a pixel nodule.
        root: folder of the data as it is now; None takes the one that was trained with.

    Returns:
        `Asked`: "single" and "views" always; "seeds" where there are two runs or more, "dropout" where the network has any.

    Raises:
        DataError: no run, or runs of several splits or tasks.
    """
    check_ensemble(runs)
    predictions = runs[0].predictions
    index = predictions.index[predictions["split"] == "test"]
    predictor = Predictor(runs[0], root)
    segmenting = runs[0].config.task == "segmentation"
    answer, score = (predictor.maps, map_uncertainty) if segmenting else (predictor.probabilities, label_uncertainty)
    skipped = {} if len(runs) > 1 else {"seeds": "there is one seed"}
    if not has_dropout(predictor.network):
        skipped["dropout"] = "the network has no dropout"
    bar, tables = progress_bar("Asking again"), {way: [] for way in WAYS if way not in skipped}
    for start in range(0, len(index), _BLOCK):
        block = index[start : start + _BLOCK]
        inputs = predictor.inputs(block)
        samples = {"views": augmented_views(answer, inputs)}
        samples["single"] = samples["views"][:1]
        if "seeds" in tables:
            samples["seeds"] = seed_ensemble(runs, block)
        if "dropout" in tables:
            keys = [int(hashlib.sha256(case.encode()).hexdigest()[:16], 16) for case in block]
            samples["dropout"] = mc_dropout(predictor.network, inputs, passes, keys=keys)
        for way, found in tables.items():
            found.append(score(samples[way], threshold))
        bar(start + len(block), len(index))
    return Asked({way: pd.concat(found).set_axis(index) for way, found in tables.items()}, skipped)


def error_detection(
    uncertainty: Sequence[float],
    wrong: Sequence[bool],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
) -> Estimate:
    """AUROC of telling wrong images from right ones by their uncertainty: 0.5 is chance, 1 finds every error first.

    Args:
        uncertainty: the higher the less certain, any scale, shape (n,).
        wrong: whether each image is, such as a wrong label or a Dice below a limit; NaN where that is not defined. Shape (n,).
        patients: the patient of each, shape (n,).
        resamples: of the bootstrap over patients.

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
        found = patient_bootstrap_scores(errors, ranks, patients, "auc", resamples=resamples)["auc"]
    return replace(found, note="; ".join(filter(None, (found.note, left_out))))


def _numbers(wrong: Sequence[bool]) -> np.ndarray:
    return pd.Series(wrong).astype("Float64").to_numpy(float, na_value=np.nan)


def selective_risk(uncertainty: Sequence[float], errors: Sequence[float], patients: Sequence[str]) -> Estimate:
    """Area under the risk-coverage curve (`scores.probabilities.aurc`) with its interval over patients; arguments as there."""
    pairs = np.column_stack([uncertainty, errors])  # (n, 2)
    return patient_bootstrap(pairs, patients, lambda drawn: aurc(*drawn.T), resamples=500)


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
        (`Estimate`), `aurc` (`Estimate`), `images` counted, `errors` (wrong ones among them), `left_out`.
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
                    "auroc": error_detection(table[name], truth, patients, resamples=500),
                    "aurc": selective_risk(table[name], losses, patients),
                    "images": int(known.sum()),
                    "errors": int(truth[known].sum()),
                    "left_out": int((~known).sum()),
                }
            )
    return pd.DataFrame(rows)


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
