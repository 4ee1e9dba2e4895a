"""The audit: copies, leaks, masks and marks of a table with one of everything that can be wrong, and what it is made of."""

import numpy as np
import pandas as pd
import pytest
from made_pictures import disc, picture, stored
from PIL import Image

from thyroid_utils.data.audit import (
    audit_cases,
    clean_mask,
    components,
    links,
    mask_problems,
    near_pairs,
    pixel_hash,
    pixel_hashes,
    thumbnail,
)
from thyroid_utils.data.images import write_png
from thyroid_utils.data.readers import load_cases


@pytest.fixture
def mixed(tmp_path) -> pd.DataFrame:
    """Twelve images of patients a to l with what can be wrong, one problem each; see the tests for which is which."""
    names = list("abcdefghijkl")
    pictures = [picture(number) for number in range(12)]
    pictures[1] = pictures[0]
    pictures[3] = np.clip(pictures[2] * 1.15 + 6.0, 0, 255).astype(np.uint8)  # the same view with more gain
    masks = [np.zeros((128, 128), bool) for _ in names]
    for mask in masks:
        mask[50:80, 40:90] = True
    masks[4][:] = False
    masks[5] = masks[5][30:94, 30:94]
    masks[6][5, 5] = True
    paths = [str(write_png(tmp_path / f"mask {name}.png", mask)) for name, mask in zip(names, masks, strict=True)]
    cases = stored(tmp_path / "é", pictures, mask=paths)
    Image.fromarray(pictures[0]).save(cases["image"].iloc[0], compress_level=9)  # other bytes, the same pixels
    (tmp_path / "é" / "0007.png").write_bytes((tmp_path / "é" / "0007.png").read_bytes()[:700])
    (tmp_path / "é" / "0008.png").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "mask j.png").unlink()
    cases.index = pd.Index(names, dtype="string", name="case")
    cases.loc["k", "mask"] = pd.NA
    return cases


def test_audit_lists_everything_and_goes_on(mixed, tmp_path):
    calls = []
    audit = audit_cases(mixed, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 12) for i in range(1, 13)]
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
    assert problems["h"].startswith("h: damaged or truncated") and problems["i"].startswith("i: not a PNG"), "no file"
    assert not problems.str.contains("\n|" + str(tmp_path), regex=True).any()
    summary = audit.summary().set_index("what")
    assert summary.loc["images", ["count", "images", "share"]].tolist() == [12, 12, 1]
    for what in ("sets of pixel-identical images", "… filed under several patients", "… of different patients"):
        assert summary.loc[what, ["count", "images"]].tolist() == [1, 2]


def test_leaks_across_a_split_with_unknown_patients_and_workers(mixed):
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
    one, three = (audit_cases(mixed.assign(patient_known=False), workers=workers) for workers in (1, 3))
    assert len(one.near) == 1 and one.near["same_patient"].isna().all()
    for field in ("images", "identical", "near", "masks"):
        pd.testing.assert_frame_equal(getattr(one, field), getattr(three, field))
    pd.testing.assert_series_equal(one.clusters, three.clusters)


def test_ddti_duplicates_exactly(real_data):
    identical = [{"1", "2"}, {"467", "468"}, {"332", "389"}, {"71", "181", "294", "295", "325"}]
    near = [{"183", "184"}, {"251", "252"}]
    cases = load_cases("ddti", real_data)
    copies = [f"ddti/{name}" for name in set().union(*identical, *near)]
    cases = cases[cases.index.isin(copies) | (np.arange(len(cases)) % 6 == 0)]
    audit = audit_cases(cases)
    for found, expected in ((audit.identical["cases"], identical), (audit.near[["a", "b"]].to_numpy(), near)):
        sets = [{case.removeprefix("ddti/") for case in members} for members in found]
        assert sorted(map(sorted, sets)) == sorted(map(sorted, expected))
    assert audit.near["same_patient"].all(), "near-identical frames are views of one patient; the copies are the errors"
    assert 4 < (audit.images["callipers"] > 0).sum() < len(cases) and (audit.images["text_regions"] > 0).mean() > 0.9


def test_pixel_hash_is_of_pixels_and_shape_and_follows_a_file_that_changes(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert pixel_hash(gray) == pixel_hash(np.asfortranarray(gray))
    assert len({pixel_hash(other) for other in (gray, gray.reshape(4, 3), gray + (gray == 11))}) == 3
    cases = stored(tmp_path, [picture(0)])
    before = pixel_hashes(cases).iloc[0]
    write_png(cases["image"].iloc[0], picture(1))
    assert before == pixel_hash(picture(0)) and pixel_hashes(cases).iloc[0] == pixel_hash(picture(1))


def test_near_pairs_are_those_of_numpy_and_groups_join_over_either_key():
    """300 pictures (more than one block) with 20 copies under noise."""
    random = np.random.default_rng(0)
    pictures = [picture(seed, 48) for seed in range(280)]
    noisy = [pictures[i * 13] + random.normal(0, 4, (48, 48)) for i in range(20)]
    thumbs = np.array([thumbnail(gray) for gray in [*pictures, *(np.clip(gray, 0, 255).astype(np.uint8) for gray in noisy)]])
    full = np.corrcoef(thumbs)
    for views in (thumbs[None], np.stack([thumbs * 0, thumbs])):
        pairs, correlation = near_pairs(views)
        assert pairs.tolist() == np.argwhere(np.triu(full >= 0.9, 1)).tolist() == [[i * 13, 280 + i] for i in range(20)]
        np.testing.assert_allclose(correlation, full[tuple(pairs.T)], atol=1e-4)
    names, numbers = pd.Series(["a", "a", "b", "c", "d", None, None]), pd.Series([1, 2, 2, 3, pd.NA, pd.NA, 9])
    assert components(7, links(names), links(numbers)).tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert components(0, links(pd.Series([], dtype=object))).tolist() == []


def test_problems_of_masks_by_hand_and_what_is_cleaned():
    for mask, problems in ((disc(), []), (disc() & False, [("empty", 1, 0)]), (disc() | True, [("full", 1, 96 * 96)])):
        assert mask_problems(mask) == problems and (clean_mask(mask) == mask).all()
    mask = disc(64, 20)
    mask[2:4, 2:4] = mask[60, 60] = True  # specks of 4 pixels and of 1
    mask[32, 30:33] = mask[40, 32] = False  # holes of 3 and of 1
    assert mask_problems(mask) == [("holes", 2, 4), ("specks", 2, 5)] and (clean_mask(mask) == disc(64, 20)).all()
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = True  # 10,000 pixels: 1 % is 100
    mask[10:19, 10:21] = True  # 99
    assert mask_problems(mask) == [("specks", 1, 99)]
    mask[10:20, 10:20] = True  # 109 together
    assert mask_problems(mask) == [("several parts", 2, 109)] and (clean_mask(mask) == mask).all()
    mask = np.zeros((20, 20), bool)
    mask[5, 5:8] = mask[10, 10] = True
    assert mask_problems(mask) == [("specks", 1, 1)] and clean_mask(mask).sum() == 3, "the largest part stays however small"
    assert clean_mask(np.array([[0, 0, 1], [1, 0, 0]], bool)).tolist() == [[False, False, True], [False, False, False]]
    mask = np.zeros((40, 40), bool)
    mask[0:20, 10:30] = mask[39, 39] = True
    assert mask_problems(mask) == [("specks", 1, 1), ("touches border", 1, 20)], "parts and not specks"
    diagonal = np.zeros((12, 12), bool)
    diagonal[0:6, 0:6] = diagonal[6:12, 6:12] = True
    assert [problem.problem for problem in mask_problems(diagonal)] == ["touches border"], "a corner joins parts"
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert ("holes", 1, 1) in mask_problems(np.pad(ring, 2)), "an 8-connected ring encloses its middle"
