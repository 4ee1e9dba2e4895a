"""The audit as a whole: copies, leaks, masks and marks of a table with one of everything that can be wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_pictures import picture
from PIL import Image

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import audit_cases, thumbnail
from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.data.overlays import find_overlays
from thyroid_utils.data.table import make_cases


@pytest.fixture
def mixed(tmp_path) -> pd.DataFrame:
    """Twelve images of patients a to l with what can be wrong, one problem each; see the tests for which is which."""
    pictures = {name: picture(i) for i, name in enumerate("abcdefghijkl")}
    pictures["b"] = pictures["a"]
    pictures["d"] = np.clip(pictures["c"] * 1.15 + 6.0, 0, 255).astype(np.uint8)  # the same view with more gain
    rows = []
    for name, pixels in pictures.items():
        image = write_png(tmp_path / f"image {name}é.png", pixels)
        mask = np.zeros(pixels.shape, bool)
        mask[50:80, 40:90] = True
        if name == "e":
            mask[:] = False
        if name == "f":
            mask = np.zeros((64, 64), bool)
            mask[10:30, 10:30] = True
        if name == "g":
            mask[5, 5] = True
        path = write_png(tmp_path / f"mask {name}.png", mask)
        rows.append({"case": name, "image": str(image), "mask": str(path), "patient": f"patient {name}", "dataset": "made"})
    Image.fromarray(pictures["a"]).save(tmp_path / "image aé.png", compress_level=9)  # other bytes, the same pixels
    (tmp_path / "image hé.png").write_bytes((tmp_path / "image hé.png").read_bytes()[:700])
    (tmp_path / "image ié.png").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "mask j.png").unlink()
    table = make_cases(rows)
    table.loc["k", "mask"] = pd.NA
    return table


def test_audit_lists_everything_and_goes_on(mixed, tmp_path):
    audit = audit_cases(mixed)
    assert audit.images.index.tolist() == list("abcdefghijkl")
    assert audit.identical.to_dict("records") == [{"cases": ["a", "b"], "images": 2, "patients": 2}]
    assert audit.near[["a", "b"]].to_numpy().tolist() == [["c", "d"]]
    assert audit.near.loc[0, "correlation"] > 0.95 and not audit.near.loc[0, "same_patient"]
    assert audit.clusters.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert audit.masks.to_numpy().tolist() == [
        ["e", "empty", 1, 0],
        ["f", "size mismatch", 1, 64 * 64],
        ["g", "specks", 1, 1],
        ["j", "unreadable", 1, 0],
    ]
    assert audit.images.index[~audit.images["readable"]].tolist() == ["h", "i"]
    assert audit.images.loc["a", "mask_share"] == pytest.approx(30 * 50 / 128**2)
    assert audit.images.index[audit.images["mask_share"].isna()].tolist() == ["j", "k"]
    problems = audit.images["problem"].dropna()
    assert problems["h"].startswith("image hé.png: damaged or truncated")
    assert problems["i"].startswith("image ié.png: a web page (HTML)")
    assert not problems.str.contains("\n|" + str(tmp_path), regex=True).any()


def test_summary_counts_by_hand(mixed):
    summary = audit_cases(mixed).summary().set_index("what")
    assert summary.loc["images", ["count", "images", "share"]].tolist() == [12, 12, 1]
    for what in ("unreadable images", "clusters of copies"):
        assert summary.loc[what, "count"] == 2
    for what in ("sets of pixel-identical images", "… filed under several patients", "… of different patients"):
        assert summary.loc[what, ["count", "images"]].tolist() == [1, 2]
    assert summary.loc["masks: empty", "images"] == summary.loc["masks: size mismatch", "images"] == 1
    assert summary.loc["masks: specks", "share"] == pytest.approx(1 / 12)
    assert "masks: full" not in summary.index


def test_leaks_across_a_split(mixed):
    audit = audit_cases(mixed)
    cases = mixed.assign(split=["train"] * 12)
    assert audit.leaks(cases).empty
    cases.loc[["b", "d"], "split"] = "test"
    cases.loc[["k", "l"], "patient"] = "Mrs Smith"
    cases.loc["l", "split"] = "val"
    leaks = audit.leaks(cases)
    assert leaks.to_dict("records") == [
        {"kind": "identical images", "splits": "test, train", "images": 2, "cases": ["a", "b"]},
        {"kind": "near-identical images", "splits": "test, train", "images": 2, "cases": ["c", "d"]},
        {"kind": "patient", "splits": "train, val", "images": 2, "cases": ["k", "l"]},
    ]
    assert audit.leaks(cases.assign(split=cases["split"].where(cases["split"] == "train"))).empty, "cases without a split"
    with pytest.raises(DataError, match="9 cases were not audited"):
        audit_cases(mixed.iloc[:3]).leaks(cases)


def test_same_picture_in_another_frame(tmp_path):
    """Two exports of one scan: a bare frame and the same echo image with a border around it."""
    inner = picture(3, 160)
    framed = np.zeros((240, 300), np.uint8)
    framed[50:210, 90:250] = inner
    rows = []
    for name, pixels in {"bare": inner, "framed": framed, "other": picture(4, 160)}.items():
        image = write_png(tmp_path / f"{name}.png", pixels)
        rows.append({"case": name, "image": str(image), "patient": name, "dataset": "made"})
    near = audit_cases(make_cases(rows)).near
    assert near[["a", "b"]].to_numpy().tolist() == [["bare", "framed"]]
    assert thumbnail(inner) @ thumbnail(framed) < 0.5, "whole frames alone would not have told"


def test_unknown_patients_are_not_called_different_and_workers_change_nothing(mixed):
    one, three = (audit_cases(mixed.assign(patient_known=False), workers=workers) for workers in (1, 3))
    assert len(one.near) == 1 and one.near["same_patient"].isna().all()
    for field in ("images", "identical", "near", "masks"):
        pd.testing.assert_frame_equal(getattr(one, field), getattr(three, field))
    pd.testing.assert_series_equal(one.clusters, three.clusters)


def test_progress_and_an_empty_table(mixed):
    calls = []
    audit_cases(mixed, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 12) for i in range(1, 13)]
    empty = audit_cases(mixed.iloc[:0])
    assert empty.clusters.empty and empty.near.empty and empty.summary().loc[0, "count"] == 0


def test_ddti_duplicates_exactly(real_data):
    labels = pd.read_csv(real_data / "ddti" / "labels.csv")
    folder = real_data / "ddti"
    cases = make_cases(
        pd.DataFrame(
            {
                "case": labels["file"].str.removesuffix(".PNG"),
                "image": [str(folder / "image" / name) for name in labels["file"]],
                "mask": [str(folder / "mask" / name) for name in labels["file"]],
                "patient": labels["case"].astype(str),
                "dataset": "ddti",
            }
        )
    )
    audit = audit_cases(cases)
    assert {frozenset(copies) for copies in audit.identical["cases"]} == {
        frozenset({"1", "2"}),
        frozenset({"467", "468"}),
        frozenset({"332", "389"}),
        frozenset({"71", "181", "294", "295", "325"}),
    }
    assert {frozenset(pair) for pair in audit.near[["a", "b"]].to_numpy().tolist()} == {
        frozenset({"183", "184"}),
        frozenset({"251", "252"}),
    }
    assert audit.near["same_patient"].all(), "near-identical frames are views of one patient; the copies are the errors"
    first = read_gray(cases["image"].iloc[0])
    overlays = find_overlays(first)
    assert tuple(audit.images[["text_regions", "callipers"]].iloc[0]) == (overlays.text_regions, overlays.callipers)
    assert 20 < (audit.images["callipers"] > 0).sum() < 543 and (audit.images["text_regions"] > 0).mean() > 0.9
