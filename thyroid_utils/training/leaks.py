"""Splits that leak on purpose: what training may have seen changes, and nothing else.

Of each validation and test patient every second image, in the order of frames or else of a draw, is put aside as the pool, and
the others are validated or scored, whatever leaks. A leak of m images takes the place of m training images of the same classes,
so that training has as many. Validation leaks as test does, as in a split by image: an honest one would stop a training before it
knows patients by heart, and give the leak away.
"""

import numpy as np
import pandas as pd

from thyroid_utils.common.config import SplitConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import count
from thyroid_utils.preprocess.augment import augmented_copies

# A picture that was exported twice: moved by a hair, with another gain and new noise.
NEAR = [
    {"affine": {"degrees": 1, "translate": 0.01}},
    {"gain": {"brightness": 0.02, "contrast": 0.05}},
    {"noise": {"sigma": 0.01}},
]
COPIED = {"augmented": "paper_002", "copies": NEAR}  # that paper, too, makes one copy of each image


def leaked(cases: pd.DataFrame, plan: SplitConfig) -> pd.DataFrame:
    """A split case table with the leak of its plan; that of kind "preprocessing" is made where the preprocessing is fitted.

    Args:
        cases: split, no patient on two sides.
        plan: its seed and fold decide what is scored, and in which order patients are met, whatever the kind; more are met with
            a larger share, and none fewer.

    Returns:
        the table without the pool and the images that made room. What leaks is marked `split_by` = "leaky"; copies are rows
        `CASE+1`, of another patient where that is the leak, and images that also validate `CASE+val`.

    Raises:
        DataError: no patient has a pool, or training has too few images of a class to make room.
    """
    kind, train = plan.leak.kind, cases[cases["split"] == "train"]
    random = np.random.default_rng(np.random.SeedSequence([plan.seed, plan.fold, plan.repeat or 0], spawn_key=(4,)))
    held, train = (side.iloc[random.permutation(len(side))] for side in (cases.drop(train.index), train))
    order = random.permutation(sorted(held["patient"].unique()))
    if of_videos(cases):
        held = held.sort_values("frame", key=pd.to_numeric, kind="stable")
    aside = held.groupby("patient").cumcount() % 2 == 1
    source = held[aside if kind in ("image", "frames") else ~aside]
    sides = source.drop_duplicates("patient").set_index("patient")["split"]
    if not (sides == "test").any():
        tested = held.loc[held["split"] == "test", "patient"].nunique()
        raise DataError(f"split.leak: none of {count(tested, 'test patient')} has a second image that could leak")
    sides = sides.loc[[patient for patient in order if patient in sides.index]]
    wanted = (plan.leak.share * sides.map(sides.value_counts())).round().clip(lower=1)
    given = source[source["patient"].isin(sides.index[sides.groupby(sides).cumcount() < wanted])]
    gone = held.index[aside]
    if kind in ("none", "preprocessing"):
        given = given[:0]
    elif kind == "validation":
        given = given[given["split"] == "test"]
        given = given.set_axis(given.index + "+val").assign(split="val")
        gone = gone.union(cases.index[cases["split"] == "val"])
    else:
        given = _copies(given, kind, plan.seed) if kind in COPIED else given
        given, gone = given.assign(split="train"), gone.union(_making_room(train, given)).difference(given.index)
    found = pd.concat([cases.drop([*gone, *given.index.intersection(cases.index)]), given]).sort_index()
    return found if kind == "none" else found.assign(split_by="leaky")


def of_videos(cases: pd.DataFrame) -> bool:
    """Whether the images of a patient are the numbered frames of videos: ten or more (median)."""
    return "frame" in cases and bool(cases["patient"].value_counts().median() >= 10)


def _copies(cases: pd.DataFrame, kind: str, seed: int) -> pd.DataFrame:
    """A copy of each case, the same for the same seed."""
    made = augmented_copies(cases, COPIED[kind], seed=seed)
    made = made.loc[made["copy"] == 1, cases.columns]
    return made.assign(patient=made["patient"] + "+1") if kind == "copies" else made


def _making_room(train: pd.DataFrame, given: pd.DataFrame) -> pd.Index:
    """The training images, first ones first, that as many others of the same classes replace."""
    labels = [side["label"].astype("Float64").fillna(-1) for side in (train, given)]
    if (labels[1] < 0).any():  # classes are not what is learnt
        labels = [0 * label for label in labels]
    wanted = labels[1].value_counts()
    held = labels[0].value_counts().reindex(wanted.index, fill_value=0)
    if (held < wanted).any():
        told = f"{count(wanted.sum(), 'image')} leak, and training has too few of their classes ({len(train)} in all)"
        raise DataError(f"split.leak: {told}; give training a larger share of RATIOS")
    return train.index[labels[0].groupby(labels[0]).cumcount() < labels[0].map(wanted).fillna(0)]
