"""Copies: hashes of pixels, correlation of pictures, and the groups that either makes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_pictures import picture

from thyroid_utils.data.audit import components, links, near_pairs, perceptual_hash, pixel_hash, pixel_hashes, thumbnail
from thyroid_utils.data.images import read_gray, write_png
from thyroid_utils.data.table import make_cases


def test_pixel_hash_is_of_pixels_and_shape():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert pixel_hash(gray) == pixel_hash(np.asfortranarray(gray))
    assert pixel_hash(gray) != pixel_hash(gray.reshape(4, 3))
    changed = gray.copy()
    changed[2, 3] += 1
    assert pixel_hash(gray) != pixel_hash(changed)


def test_pixel_hashes_follow_a_file_that_changes(tmp_path):
    path = write_png(tmp_path / "a.png", picture(0))
    cases = make_cases([{"case": "a", "image": str(path), "patient": "a", "dataset": "made"}])
    before = pixel_hashes(cases)["a"]
    write_png(path, picture(1))
    assert before == pixel_hash(picture(0)) and pixel_hashes(cases)["a"] == pixel_hash(picture(1))


def test_groups_join_over_either_key_and_are_numbered_by_their_first_member():
    names, numbers = pd.Series(["a", "a", "b", "c", "d", None, None]), pd.Series([1, 2, 2, 3, pd.NA, pd.NA, 9])
    assert components(7, links(names), links(numbers)).tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert components(6, np.array([[4, 5], [1, 4]])).tolist() == [0, 1, 2, 3, 1, 1]
    assert components(0, links(pd.Series([], dtype=object))).tolist() == []


def test_thumbnails_correlate_as_numpy_says_and_ignore_gain():
    a, b = thumbnail(picture(0)), thumbnail(picture(1))
    assert a @ b == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
    brighter = np.clip(picture(0) * 1.2 + 10.0, 0, 255).astype(np.uint8)
    assert a @ thumbnail(brighter) > 0.97 > 0.5 > a @ b
    assert not thumbnail(np.full((50, 60), 9, np.uint8)).any(), "a flat frame correlates with nothing, itself included"


def test_near_pairs_are_those_of_a_full_search():
    """600 pictures (more than two blocks) with 40 copies under noise: hash and blocks must lose none and invent none."""
    random = np.random.default_rng(0)
    pictures = [picture(seed, 48) for seed in range(560)]
    for i in range(40):
        noisy = pictures[i * 13] + random.normal(0, 4, (48, 48))
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    thumbs = np.array([thumbnail(gray) for gray in pictures])
    hashes = np.array([perceptual_hash(thumb) for thumb in thumbs])
    full = np.corrcoef(thumbs)
    expected = np.argwhere(np.triu(full >= 0.9, 1))
    pairs, correlation, distance = near_pairs(thumbs[None], hashes[None])
    assert pairs.tolist() == expected.tolist() == [[i * 13, 560 + i] for i in range(40)]
    np.testing.assert_allclose(correlation, full[tuple(pairs.T)], atol=1e-4)
    assert distance.tolist() == [(hashes[a] != hashes[b]).sum() for a, b in pairs]


def test_the_hash_loses_no_pair_of_real_frames(real_data):
    for folder in ("ddti/image", "tg3k/thyroid-image"):
        paths = sorted((real_data / folder).iterdir())[:300]
        thumbs = np.array([thumbnail(read_gray(path)) for path in paths])
        hashes = np.array([perceptual_hash(thumb) for thumb in thumbs])
        pairs, _, _ = near_pairs(thumbs[None], hashes[None])
        full = np.argwhere(np.triu((thumbs @ thumbs.T).round(4) >= 0.9, 1))
        assert len(full) and pairs.tolist() == full.tolist()
