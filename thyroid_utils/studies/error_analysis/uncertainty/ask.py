"""All ways of asking for uncertainty of some images of a run, a block of images in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from thyroid_utils.common.progress import Progress
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.inference.uncertainty_samples import (
    augmented_views,
    cases_of,
    check_ensemble,
    has_dropout,
    mc_dropout,
    seed_ensemble,
)
from thyroid_utils.inference.uncertainty_scores import label_uncertainty, map_uncertainty
from thyroid_utils.training.ledger import Run

_BLOCK = 16  # images whose samples are in memory at once

# Name in code → name in a table.
WAYS = {
    "single": "the network as it is",
    "seeds": "ensemble of training seeds",
    "views": "mirrored and shifted images",
    "dropout": "random dropout",
}


@dataclass(frozen=True)
class Asked:
    """What was found of a run's images.

    scores: way (a key of `WAYS`) → table of `label_uncertainty` or `map_uncertainty`, index `case`. skipped: way → why it was not
    asked.
    """

    scores: dict[str, pd.DataFrame]
    skipped: dict[str, str]


def ask_all(
    runs: Sequence[Run],
    cases: Sequence[str] | None = None,
    *,
    split: str = "test",
    root: str | None = None,
    passes: int = 20,
    shift: int = 4,
    threshold: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Asked:
    """Uncertainty of images of a split by every way that the runs allow.

    Args:
        runs: of one model, one a seed; the first is the one whose errors are looked for.
        cases: of the split; None takes all.
        split: "val" or "test".
        root: folder of the data as it is now; None takes the one that was trained with.
        passes: of dropout. shift: in pixels, of the views.
        threshold: at or above it an image is called malignant, or a pixel nodule.
        seed: of dropout's draws. A case has the same draws whatever others are asked along.
        progress: called with (images done, images in all).

    Returns:
        `Asked`: "single" and "views" always; "seeds" where there are two runs or more, "dropout" where the network has any.

    Raises:
        DataError: no run, or runs of several splits or tasks.
        KeyError: a case that is not in the split.
    """
    check_ensemble(runs)
    cases = list(cases_of(runs[0], split, cases))
    predictor, score = Predictor(runs[0], root), map_uncertainty if runs[0].config.task == "segmentation" else label_uncertainty
    skipped = {} if len(runs) > 1 else {"seeds": "there is one seed"}
    if not has_dropout(predictor.network):
        skipped["dropout"] = "the network has no dropout"
    tables: dict[str, list[pd.DataFrame]] = {way: [] for way in WAYS if way not in skipped}
    for start in range(0, len(cases), _BLOCK):
        block = cases[start : start + _BLOCK]
        inputs = predictor.inputs(block)
        samples = {"views": augmented_views(predictor, inputs, shift)}
        samples["single"] = samples["views"][:1]
        if "seeds" in tables:
            samples["seeds"] = seed_ensemble(runs, split, block)[1]
        if "dropout" in tables:
            samples["dropout"] = mc_dropout(predictor.network, inputs, passes, seed, keys=[_key(case) for case in block])
        for way, found in tables.items():
            found.append(score(samples[way], threshold))
        if progress is not None:
            progress(start + len(block), len(cases))
    index = pd.Index(cases, dtype=runs[0].predictions.index.dtype, name="case")
    return Asked({way: pd.concat(found).set_axis(index) for way, found in tables.items()}, skipped)


def _key(case: str) -> int:
    """A whole number for a case id, which may be any text."""
    return int(hashlib.sha256(case.encode()).hexdigest()[:16], 16)
