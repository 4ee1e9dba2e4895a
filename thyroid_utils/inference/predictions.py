"""Answers that something or someone else gave to the same cases: masks in a folder, or probabilities in a table.

`PREDICTIONS` of a notebook names each source: `{"nnU-Net": FOLDER, "reader 2": FILE.csv}`. A folder holds a PNG mask a case,
named by the case; a CSV file has the columns `case` and `probability` (of malignant, in [0, 1]). A case goes by its id or by the
name of its image's file, with or without the ending. `{"path": FOLDER, "trained_on": FILE}` says what a source was trained on, a
case in each line of the file; images of these patients are no test of it and are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ImageError, readable
from thyroid_utils.common.words import count, listed
from thyroid_utils.data.images import read_mask, resize_mask
from thyroid_utils.data.readers import listing

_NAMED = 20  # cases that a sentence names


@dataclass(frozen=True)
class Answers:
    """What one source says of the tested cases.

    source: how it is called. given: case → mask file, or probability of malignant in [0, 1], of the cases that are scored.
    missing: tested cases that it does not answer. trained_on: tested cases that it answers and that are left out, as it was
    trained on images of their patients. others: how many of its answers are of no tested case. training: what was said of that.
    """

    source: str
    given: pd.Series
    missing: list[str]
    trained_on: list[str]
    others: int
    training: str = ""

    def mask(self, case: str, shape: tuple[int, int]) -> np.ndarray:
        """Its mask of a case, bool, brought to the frame's (height, width) by `images.resize_mask`: the nearest pixel, or, where
        it is made smaller, what is more than half covered.

        Raises:
            DataError: no mask, or one of other proportions than the frame.
        """
        path, where = Path(self.given[case]), f"PREDICTIONS, {self.source}, mask of {case}"
        try:
            mask = read_mask(path)
        except ImageError as error:
            raise DataError(f"{where}: {str(error).removeprefix(f'{path}: ')}") from None
        (height, width), (own_height, own_width) = shape, mask.shape
        if abs(own_height / height - own_width / width) > 1 / height + 1 / width:  # more than a pixel's rounding
            sizes = f"{own_width}×{own_height} pixels for a frame of {width}×{height}"
            raise DataError(f"{where}: {sizes}, which has other proportions; give it uncropped, at any size of the frame's shape")
        return resize_mask(mask, shape)

    @property
    def told(self) -> str:
        """Whom it answers and whom not, as sentences."""
        said = [f"{self.source} was not trained here and answers {len(self.given)} of {len(self.given) + len(self.unscored)}"]
        said[0] += " test images"
        reasons = {"Without an answer": self.missing, "Left out, as it was trained on their patients": self.trained_on}
        for why, cases in reasons.items():
            more = [f"{len(cases) - _NAMED} more"] * (len(cases) > _NAMED)
            said += [f"{why}: {count(len(cases), 'image')} ({listed([*cases[:_NAMED], *more])})"] * bool(cases)
        said += [f"Of no test image: {count(self.others, 'answer')}"] * bool(self.others) + [self.training] * bool(self.training)
        return " ".join(f"{sentence}." for sentence in said)

    @property
    def unscored(self) -> list[str]:
        """The tested cases that are not scored."""
        return [*self.missing, *self.trained_on]


def file_name(case: str) -> str:
    """A case id as the name of a file, without ending: whatever is no letter, digit, dot or hyphen is an underscore."""
    return re.sub(r"[^\w.-]", "_", case)


def read_predictions(predictions: Mapping[str, Any], cases: pd.DataFrame, *, masks: bool) -> dict[str, Answers]:
    """The sources that give masks, or those that give probabilities, by name.

    Args:
        predictions: as the module says; relative paths are seen from the project's folder.
        cases: the split case table; what is scored is of `split` "test".
        masks: which of the two.

    Raises:
        DataError: a source that is not there or cannot be read, no answer to a tested case, two to one case, a name that several
            images have, or a probability that is none.
    """
    found = {}
    for source, told in predictions.items():
        told = told if isinstance(told, Mapping) else {"path": told}
        where, known = f"PREDICTIONS, {source}", ("path", "trained_on")
        if not told.get("path") or not {*told} <= {*known}:
            raise DataError(f"{where}: found {listed(told)}; expected a folder, a CSV file, or {listed(known)}")
        path = paths.resolve_in_project(told["path"])
        if not path.exists():
            raise DataError(
                f"{where}: no {path}; expected a folder of PNG masks, or a CSV file with columns case and probability"
            )
        if path.is_dir() == masks:
            found[source] = _answers(source, path, told.get("trained_on"), cases)
    return found


def _answers(source: str, path: Path, trained_on: str | None, cases: pd.DataFrame) -> Answers:
    where, named = f"PREDICTIONS, {source}", _named(cases)
    given: dict[str, Any] = {}
    others = 0
    for name, answer in _masks(path) if path.is_dir() else _probabilities(path):
        bearing = named.get(name, [])
        if len(bearing) > 1:
            raise DataError(f"{where}: one name for the images of {listed(bearing)}; name answers by case id")
        for case in bearing:
            if case in given:
                raise DataError(f"{where}: two answers to {case}; keep one")
            given[case] = answer
        others += not bearing
    tested, listed_there = cases.index[cases["split"] == "test"], _lines(trained_on)
    here = [case for name in listed_there for case in named.get(name, [])]
    met = set(cases.loc[here, "patient"])
    seen = [case for case in tested if case in given and cases.at[case, "patient"] in met]
    scored = [case for case in tested if case in given and case not in seen]
    others += len(given) - len(seen) - len(scored)
    if not scored:
        found = f"{len(seen)} to patients of its training and {others} to others"
        remedy = "name them by case id, as predictions.csv of a run and export-dataset do"
        raise DataError(f"{where}: no answer to any of {count(len(tested), 'test image')}; found {found}; {remedy}")
    missing = [case for case in tested if case not in given]
    training = f"Of {count(len(listed_there), 'name')} in its training list {len(here)} are of images here" if trained_on else ""
    return Answers(source, pd.Series({case: given[case] for case in scored}), missing, seen, others, training)


def _named(cases: pd.DataFrame) -> dict[str, list[str]]:
    """What a case may be called → the cases that are called so; an id is that of one case alone."""
    named: dict[str, list[str]] = {}
    for case, image in cases["image"].items():
        for name in {Path(image).name, Path(image).stem, file_name(case)}:
            named.setdefault(name, []).append(case)
    return named | {case: [case] for case in cases.index}


def _masks(folder: Path) -> Iterator[tuple[str, Path]]:
    with readable(folder):
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".png")
    yield from ((file.relative_to(folder).with_suffix("").as_posix(), file) for file in files)


def _probabilities(path: Path) -> Iterator[tuple[str, float]]:
    table = listing.read_table(path, ("case", "probability"))
    values = pd.to_numeric(table["probability"], errors="coerce").astype(float)
    wrong = table.index[table["case"].isna() | ~values.between(0, 1)]
    if len(wrong):
        found = f"case or probability missing, or a probability outside [0, 1], in {count(len(wrong), 'line')}"
        raise DataError(f"{wrong[0]}: {found}; expected probabilities, not logits or percent; leave out who has no answer")
    yield from zip(table["case"], values, strict=True)


def _lines(file: str | None) -> list[str]:
    """The first field of each line of a text or CSV file; of no file none."""
    if not file:
        return []
    path = paths.resolve_in_project(file)
    with readable(path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [name for line in text.splitlines() if (name := line.partition(",")[0].strip()) not in ("", "case")]
