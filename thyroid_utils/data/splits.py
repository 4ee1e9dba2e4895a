"""Train, validation and test: by patient, stratified, reproducible, asserted disjoint and hashed.

The unit of a split is a group of patients: a patient with all images, merged with every patient that shares a
pixel-identical image (`audit.pixel_groups`). A data set without patient ids is split by something else that is known to
tie images together by writing it into the column `patient` first, for example near-duplicate clusters
(`audit_cases(...).clusters`) or the videos of `recover_videos`.

How groups are dealt (ratios, folds and repeats alike). Groups are put into strata by class: malignant if any image of the
group is, else benign if any is, else unlabelled. In each labelled stratum every part first gets one group, in an order
shuffled by the seed. Each further group goes to the part whose share lags furthest behind its ratio, counted as lacking
share of images plus lacking share of patients. The rule looks at what a part holds and never at the size of the group to be
placed, so a patient with many images is as likely to be tested as one with few. scikit-learn's
StratifiedGroupKFold was not taken: it offers equal folds only, places large groups first (which ties them to the same
folds whatever the seed), and does not promise that each class reaches each fold.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import groups_on_both_sides, pixel_groups
from thyroid_utils.data.table import LABEL_NAMES, SPLITS, label_names

LEAKY = ("image", "leaky")  # marks in `split_by` of a split that leaks: by its nature, or on purpose


class TooFewPatients(DataError):
    """Not every fold could test a patient, of each class where the task needs them."""


def split_cases(
    cases: pd.DataFrame,
    ratios: Sequence[float] = (0.7, 0.15, 0.15),
    by: str = "patient",
    seed: int = 0,
    *,
    repeat: int | None = None,
    check_pixels: bool = True,
    require_classes: bool = True,
) -> pd.DataFrame:
    """The case table with `split` filled by ratio.

    Args:
        cases: case table; an existing split is overwritten.
        ratios: two numbers (train, test) or three (train, val, test) that sum to 1. A split with ratio 0 stays empty.
        by: "patient" (no patient and no pixel-identical image on two sides), "image" (each image for itself: leaky, and
            marked so in the column `split_by`) or "official" (`official_split`; ratios and seed play no part).
        seed: same seed and same cases → same split, whatever the order of the rows.
        repeat: number, from 0, of one of many independent splits of this seed (Monte-Carlo cross-validation); None: a single one.
        check_pixels: read every image to keep patients with a pixel-identical image together; False trusts the names alone.
        require_classes: raise when a class cannot be given to every split.

    Returns:
        a copy in the order of `cases`, with the columns `split` and `split_by`.

    Raises:
        DataError: ratios or `by` make no sense, fewer patients than splits, a class that cannot reach every split, or an
            unreadable image.

    >>> rows = [{"case": f"c{i}", "image": f"{i}.png", "patient": f"p{i}", "dataset": "own", "label": i % 2} for i in range(20)]
    >>> from thyroid_utils.data.table import make_cases
    >>> split_cases(make_cases(rows), (0.6, 0.2, 0.2), check_pixels=False)["split"].value_counts().to_dict()
    {'train': 12, 'test': 4, 'val': 4}
    """
    if by == "official":
        return official_split(cases)
    shares = _named_ratios(ratios)
    groups = _groups(cases, by, check_pixels)
    source = np.random.SeedSequence(seed if repeat is None else [seed, repeat])
    return _marked(cases, _deal(cases, groups, shares, source, require_classes), by)


def kfold_splits(
    cases: pd.DataFrame,
    folds: int = 5,
    by: str = "patient",
    seed: int = 0,
    *,
    val_ratio: float = 0.0,
    check_pixels: bool = True,
    require_classes: bool = True,
) -> list[pd.DataFrame]:
    """Stratified k-fold cross-validation: table k has fold k as `test` and the rest as `train` (and `val`).

    Args:
        folds: 2 or more; every case is `test` in exactly one table.
        val_ratio: share of the cases outside the test fold that becomes `val`, in [0, 1).
        cases, by, seed, check_pixels, require_classes: as in `split_cases`.

    Raises:
        TooFewPatients: fewer patients than folds, or a class with fewer patients than folds.
        DataError: as `split_cases`.
    """
    if folds < 2 or not 0 <= val_ratio < 1:
        raise DataError(f"k folds: folds is {folds}, val_ratio {val_ratio}; expected 2 or more, and 0 to below 1")
    groups = _groups(cases, by, check_pixels)
    classes, what = patient_class(cases, groups), groups.name
    held = {"": len(classes)}
    if require_classes:
        held, what = classes[classes != LABEL_NAMES[None]].value_counts().to_dict(), f"{what} of each class"
    few = " and ".join(f"{count} {kind}".strip() for kind, count in held.items() if count < folds)
    if few:
        raise TooFewPatients(f"{folds} folds need as many {what}, and there are {few}; ask for fewer folds, or for one split (0)")
    names = {f"fold {k + 1}": 1 / folds for k in range(folds)}
    fold_of = _deal(cases, groups, names, np.random.SeedSequence([seed, 0]), require_classes)
    tables = []
    for k, name in enumerate(names):
        parts, rest = fold_of.mask(fold_of == name, "test"), cases[fold_of != name]
        parts[rest.index] = "train"
        if val_ratio:
            shares, source = {"train": 1 - val_ratio, "val": val_ratio}, np.random.SeedSequence([seed, 1, k])
            parts[rest.index] = _deal(rest, groups[rest.index], shares, source, require_classes)
        tables.append(_marked(cases, parts, by))
    return tables


def official_split(cases: pd.DataFrame) -> pd.DataFrame:
    """The case table with the split that its data set came with, checked by patient and marked `split_by` = "official".

    Pixel-identical images on two sides are left as published; the audit reports such leaks.

    Raises:
        DataError: no official split, cases without one, only one side, or a patient on both sides.
    """
    present = [name for name in SPLITS if (cases["split"] == name).any()]
    if len(present) < 2:
        found = ", ".join(present) or "none"
        raise DataError(f"official split: found {found}; expected two or more of {', '.join(SPLITS)}: use by='patient'")
    table = _marked(cases, cases["split"], "official")
    assert_disjoint(table, check_pixels=False)
    return table


def shared_groups(cases: pd.DataFrame, *, check_pixels: bool) -> pd.DataFrame:
    """The patients on more than one side of a split, a row each: `splits` ("test, train"), `images` and `cases`.

    Patients merged by a pixel-identical image count as one when `check_pixels`. Cases without a split are passed over.
    """
    return groups_on_both_sides(cases, _groups(cases, "patient", check_pixels))


def assert_disjoint(cases: pd.DataFrame, *, check_pixels: bool = True, allow_leaky: bool = False) -> None:
    """Raise unless every case has a split and no patient and no pixel-identical image is on two sides.

    Args:
        cases: case table with `split` filled.
        check_pixels: also compare the decoded images; False compares patients alone and reads nothing.
        allow_leaky: accept a table marked `split_by` as one of `LEAKY` (its mark stays: every result made from it is leaky).

    Raises:
        DataError: what overlaps, how many patients, and the first cases (never a patient's name).
    """
    marks = set(cases["split_by"].dropna().unique()) if "split_by" in cases else set()
    missing = cases.index[cases["split"].isna()]
    if len(missing):
        raise DataError(f"split: {len(missing)} of {len(cases)} cases have none (first: {missing[0]}); split again or drop them")
    if marks & {*LEAKY}:
        if allow_leaky:
            return
        raise DataError("split: made by image, or to leak: patients may be on both sides; split by patient, or allow_leaky=True")
    found = shared_groups(cases, check_pixels=check_pixels)
    if len(found):
        members = cases["split"][found["cases"].iloc[0]].sort_index()
        first = ", ".join(f"{case} in {split}" for case, split in members[~members.duplicated()].items())
        what = "patients, alone or joined by a pixel-identical image, are" if check_pixels else "patients are"
        raise DataError(f"split: {len(found)} {what} on more than one side (first: {first}); split again by='patient'")


def split_hash(cases: pd.DataFrame) -> str:
    """SHA-256 (hexadecimal) over the sorted pairs (case, split): the same split has the same hash, whatever the row order."""
    digest = hashlib.sha256()
    for case, split in sorted(zip(cases.index, cases["split"].fillna(""), strict=True)):
        digest.update(f"{case}\0{split}\n".encode())
    return digest.hexdigest()


def split_table(cases: pd.DataFrame) -> pd.DataFrame:
    """What each split holds: index train, val, test (those present) and "all"; counts of images, patients and, among the
    images, benign, malignant and unlabelled ones. `patients` counts the names in the table."""
    placed = cases[cases["split"].notna()].assign(kind=label_names(cases))
    twice = pd.concat([placed, placed.assign(split="all")])
    sides = twice.groupby("split")
    table = pd.DataFrame({"images": sides.size(), "patients": sides["patient"].nunique()})
    table[[*LABEL_NAMES.values()]] = pd.crosstab(twice["split"], twice["kind"]).reindex(
        columns=LABEL_NAMES.values(), fill_value=0
    )
    return table.reindex([name for name in (*SPLITS, "all") if name in table.index])


def patient_class(cases: pd.DataFrame, groups: pd.Series | None = None) -> pd.Series:
    """Class of each group of images: "malignant" if any image is, else "benign" if any is, else "unlabelled".

    Args:
        cases: case table.
        groups: Series case → group; None takes the patients.

    Returns:
        Series, index group. A patient with both labels is malignant: one malignant nodule decides the treatment.
    """
    groups = cases["patient"] if groups is None else groups
    highest = cases["label"].astype("Float64").groupby(groups).max()  # NA only where every label is
    return highest.map({0.0: "benign", 1.0: "malignant"}).astype("string").fillna("unlabelled").rename("class")


def _named_ratios(ratios: Sequence[float]) -> dict[str, float]:
    names = ("train", "test") if len(ratios) == 2 else SPLITS
    if len(ratios) != len(names) or not all(0 <= share <= 1 for share in ratios) or abs(sum(ratios) - 1) > 1e-6:
        shown = ", ".join(f"{share:g}" for share in ratios)
        raise DataError(f"split: ratios are ({shown}); expected two or three numbers from 0 to 1 that sum to 1")
    return {name: float(share) for name, share in zip(names, ratios, strict=True) if share > 0}


def _groups(cases: pd.DataFrame, by: str, check_pixels: bool) -> pd.Series:
    """What is dealt out as one, by case; the series' name is the unit in the plural."""
    if by == "image":
        return pd.Series(cases.index, cases.index, dtype="string", name="images")
    if by != "patient":
        raise DataError(f"split: by={by!r} is not possible here; expected 'patient' or 'image'")
    groups = pixel_groups(cases) if check_pixels else cases["patient"]
    return groups.rename("patients")


def _marked(cases: pd.DataFrame, parts: pd.Series, by: str) -> pd.DataFrame:
    return cases.assign(split=parts.astype("string"), split_by=pd.array([by] * len(cases), dtype="string"))


def _deal(
    cases: pd.DataFrame, groups: pd.Series, shares: Mapping[str, float], source: np.random.SeedSequence, require_classes: bool
) -> pd.Series:
    """Series case → part: groups dealt to parts by the rule in the module's docstring."""
    parts, unit = ", ".join(shares), groups.name
    summary = pd.DataFrame({"images": groups.value_counts(), "class": patient_class(cases, groups)})
    summary["first"] = cases.index.to_series().groupby(groups).min()
    summary = summary.sort_values("first")  # an order that depends on the cases alone, not on rows or patients' names
    if len(summary) < len(shares):
        raise DataError(f"split: {len(summary)} {unit} cannot fill {len(shares)} parts ({parts}); use fewer parts or more {unit}")
    random = np.random.default_rng(source)
    part_of: dict[str, str] = {}
    held = dict.fromkeys(shares, 0)
    for class_name in LABEL_NAMES.values():
        stratum = summary[summary["class"] == class_name]
        labelled = class_name != LABEL_NAMES[None]
        if labelled and require_classes and 0 < len(stratum) < len(shares):
            told = f"only {len(stratum)} {class_name} {unit} for {len(shares)} parts ({parts})"
            raise DataError(f"split: {told}; use fewer parts, or require_classes=False")
        images = stratum["images"].iloc[random.permutation(len(stratum))]
        # Equal claims go to the first part: the emptiest, so that what is left over of each class goes to different parts.
        emptiest = sorted(zip(random.permutation(len(shares)), shares, strict=True))
        emptiest = sorted((name for _, name in emptiest), key=lambda name: held[name] / shares[name])
        ordered = {name: shares[name] for name in emptiest}
        dealt = _deal_stratum(images, ordered, one_each=labelled and len(stratum) >= len(shares))
        for group, part in dealt.items():
            held[part] += images[group]
        part_of |= dealt
    empty = [name for name in shares if name not in set(part_of.values())]
    if empty:
        raise DataError(f"split: {', '.join(empty)} would stay empty with {len(summary)} {unit}; raise its ratio")
    return groups.map(part_of).astype("string")


def _deal_stratum(images: pd.Series, shares: Mapping[str, float], *, one_each: bool) -> dict[str, str]:
    """{group: part} for the groups of one stratum, `images` giving the number of images of each, in dealing order."""
    names, wanted = list(shares), np.array(list(shares.values()))
    has_images, has_groups = np.zeros(len(names)), np.zeros(len(names))
    part_of = {}
    for position, (group, count) in enumerate(images.items()):
        lacking = 2 * wanted - has_images / max(int(images.sum()), 1) - has_groups / len(images)
        part = position if one_each and position < len(names) else int(np.argmax(lacking))
        part_of[group] = names[part]
        has_images[part] += count
        has_groups[part] += 1
    return part_of
