"""The audit of a case table: copies, leaks, mask noise, burned-in marks, in one pass over the files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.audit.examine import VIEWS, Findings, examine, optional_text
from thyroid_utils.data.audit.pixels import groups_on_both_sides, patient_groups
from thyroid_utils.data.audit.similar import HASH_BITS, NEAR_CORRELATION, SIDE, components, near_pairs

MASK_PROBLEMS = (
    "unreadable", "size mismatch", "empty", "full", "holes", "specks", "several parts", "touches border",
)  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """What an audit found. Tables name cases, never patients.

    Attributes:
        images: one row a case: `width`, `height` (pixels), `pixel_hash`, `mask_share` (mask area over frame area),
            `text_regions`, `callipers` (counts), `readable` and `problem` (one line, NA for a readable image).
        identical: one row a set of pixel-identical images: `cases` (sorted list, two or more), `images` (how many), `patients`
            (how many names they carry; more than one means that the same picture was filed under several patients).
        near: one row a pair that looks the same but is not pixel-identical: `a`, `b`, `correlation` (of local contrast, 0 to 1),
            `hash_distance` (differing bits of 64), `same_patient` (NA where the set gives no patients); best pairs first.
        clusters: case → cluster number, by union-find over both kinds of copies; an image without a copy is alone in its cluster.
        masks: one row a case and problem: `case`, `problem`, `count`, `pixels`; see `mask_problems`, and "unreadable" and
            "size mismatch".
    """

    images: pd.DataFrame
    identical: pd.DataFrame
    near: pd.DataFrame
    clusters: pd.Series
    masks: pd.DataFrame

    def leaks(self, cases: pd.DataFrame) -> pd.DataFrame:
        """What lies on more than one side of a split.

        Args:
            cases: the audited case table, or rows of it, with `split` filled; cases without a split are passed over.

        Returns:
            one row a leak: `kind` ("identical images", "near-identical images", "patient"), `splits`, `images` and `cases`.
            A cluster that holds pixel-identical images on two sides is listed as such and not again as near-identical.

        Raises:
            DataError: cases that were not audited.
        """
        unknown = cases.index.difference(self.clusters.index)
        if len(unknown):
            raise DataError(f"audit: {len(unknown)} cases were not audited (first: {unknown[0]}); audit this table again")
        hashes = self.images.loc[cases.index, "pixel_hash"]
        same_pixels = groups_on_both_sides(cases[hashes.notna()], hashes.dropna())
        same_cluster = groups_on_both_sides(cases, self.clusters[cases.index])
        already = {case for members in same_pixels["cases"] for case in members}
        new = [not already.intersection(members) for members in same_cluster["cases"]]
        parts = {
            "identical images": same_pixels,
            "near-identical images": same_cluster[np.array(new, bool)],
            "patient": groups_on_both_sides(cases, patient_groups(cases)),
        }
        rows = [part.assign(kind=kind) for kind, part in parts.items()]
        return pd.concat(rows, ignore_index=True)[["kind", "splits", "images", "cases"]]

    def summary(self) -> pd.DataFrame:
        """One row a kind of finding, for display: `what`, `count` (sets, pairs, regions), `images` concerned, their `share`."""
        near_images = set(self.near["a"]) | set(self.near["b"])
        sizes = self.clusters.value_counts()
        across = self.identical[self.identical["patients"] > 1]
        other_patient = self.near[~self.near["same_patient"].fillna(True).astype(bool)]
        unreadable = int((~self.images["readable"]).sum())
        rows = [
            ("images", len(self.images), len(self.images)),
            ("unreadable images", unreadable, unreadable),
            ("sets of pixel-identical images", len(self.identical), int(self.identical["images"].sum())),
            ("… filed under several patients", len(across), int(across["images"].sum())),
            ("pairs of near-identical images", len(self.near), len(near_images)),
            ("… of different patients", len(other_patient), len(set(other_patient["a"]) | set(other_patient["b"]))),
            ("clusters of copies", int((sizes > 1).sum()), int(sizes[sizes > 1].sum())),
        ]
        for problem in MASK_PROBLEMS:
            found = self.masks[self.masks["problem"] == problem]
            if len(found):
                rows.append((f"masks: {problem}", int(found["count"].sum()), len(found)))
        for column, name in (("text_regions", "burned-in text regions"), ("callipers", "callipers")):
            counts = self.images[column].fillna(0)
            rows.append((name, int(counts.sum()), int((counts > 0).sum())))
        table = pd.DataFrame(rows, columns=["what", "count", "images"])
        return table.assign(share=table["images"] / max(len(self.images), 1))


def audit_cases(
    cases: pd.DataFrame,
    *,
    near_correlation: float = NEAR_CORRELATION,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Look at every image and mask of a case table once.

    Args:
        cases: case table.
        near_correlation: local-contrast correlation from which two images count as near-identical, above 0 and at most 1. At 0.9
            images of different DDTI patients (at most 0.8) stay apart and four of five neighbouring TG3K frames are paired.
        workers: reading threads; None takes one a core, at most four. The result does not depend on it.
        progress: called with (images done, images in all).

    Returns:
        Audit, in the order of `cases`. Unreadable files are listed in it; they do not stop the audit.

    Raises:
        DataError: near_correlation is out of range.
    """
    if not 0 < near_correlation <= 1:
        raise DataError(f"audit: near_correlation is {near_correlation}, expected above 0 and at most 1")
    paths = list(zip(cases["image"].astype(str), map(optional_text, cases["mask"]), strict=True))
    thumbs = np.zeros((VIEWS, len(cases), SIDE * SIDE), np.float32)
    hashes = np.ones((VIEWS, len(cases), HASH_BITS), np.int8)

    def work(position: int) -> Findings:
        found = examine(*paths[position])
        thumbs[:, position], hashes[:, position] = found.thumbs, found.hashes
        del found.thumbs, found.hashes  # ten thousand small arrays would hold twice the memory of the two large ones
        return found

    findings = in_threads(work, range(len(paths)), workers, progress)
    images = _image_table(cases, findings)
    identical = _identical(cases, images["pixel_hash"])
    pairs, correlation, distance = near_pairs(thumbs, hashes, near_correlation)
    codes = pd.factorize(images["pixel_hash"])[0]  # NA becomes -1; an unreadable image is in no pair
    numbers = components(len(cases), np.concatenate([pairs, _links(codes)]))
    return Audit(
        images=images,
        identical=identical,
        near=_near_table(cases, codes, pairs, correlation, distance),
        clusters=pd.Series(numbers, index=cases.index, name="cluster"),
        masks=_mask_table(cases, findings),
    )


def _image_table(cases: pd.DataFrame, findings: list[Findings]) -> pd.DataFrame:
    types = {
        "width": "Int64", "height": "Int64", "pixel_hash": "string", "mask_share": "Float64", "text_regions": "Int64",
        "callipers": "Int64", "problem": "string",
    }  # fmt: skip
    columns = {name: pd.array([getattr(found, name) for found in findings], dtype=kind) for name, kind in types.items()}
    table = pd.DataFrame(columns, index=cases.index)
    table.insert(6, "readable", table["problem"].isna())
    return table


def _identical(cases: pd.DataFrame, hashes: pd.Series) -> pd.DataFrame:
    rows = []
    for _, members in cases[hashes.notna()].groupby(hashes.dropna(), sort=False):
        if len(members) > 1:
            rows.append({"cases": sorted(members.index), "images": len(members), "patients": members["patient"].nunique()})
    return pd.DataFrame(sorted(rows, key=lambda row: row["cases"]), columns=["cases", "images", "patients"])


def _links(codes: np.ndarray) -> np.ndarray:
    """Pairs, int (m, 2), that chain the positions of equal codes together; -1 equals nothing."""
    order = np.argsort(codes, kind="stable")
    equal = (codes[order][1:] == codes[order][:-1]) & (codes[order][1:] >= 0)
    return np.stack([order[:-1][equal], order[1:][equal]], 1)


def _near_table(
    cases: pd.DataFrame, codes: np.ndarray, pairs: np.ndarray, correlation: np.ndarray, distance: np.ndarray
) -> pd.DataFrame:
    other = np.flatnonzero(codes[pairs[:, 0]] != codes[pairs[:, 1]])
    best_first = other[np.argsort(-correlation[other], kind="stable")]
    a, b = pairs[best_first].T
    patients = pd.factorize(cases["patient"])[0]
    known = cases["patient_known"].to_numpy(bool) if "patient_known" in cases else np.ones(len(cases), bool)
    same = pd.array(patients[a] == patients[b], dtype="boolean")
    same[~(known[a] & known[b])] = pd.NA
    return pd.DataFrame(
        {
            "a": cases.index[a],
            "b": cases.index[b],
            "correlation": correlation[best_first],
            "hash_distance": distance[best_first],
            "same_patient": same,
        }
    )


def _mask_table(cases: pd.DataFrame, findings: list[Findings]) -> pd.DataFrame:
    rows = [(case, *problem) for case, found in zip(cases.index, findings, strict=True) for problem in found.mask_problems]
    return pd.DataFrame(rows, columns=["case", "problem", "count", "pixels"]).astype({"case": "string"})
