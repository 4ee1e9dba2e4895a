"""The numbers that describe images, on frames drawn so that they are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.images import ring_around, write_png
from thyroid_utils.data.table import GRID, label_names, make_cases, measure_cases


@pytest.fixture
def cases(tmp_path):
    """A bright 20×10 box on a 100×80 frame (malignant), the same without a mask (benign), and an empty mask (unlabelled)."""
    image, mask = np.full((80, 100), 40, np.uint8), np.zeros((80, 100), bool)
    mask[30:50, 60:70] = True
    image[mask] = 90
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "mask.png", mask)
    write_png(tmp_path / "empty.png", np.zeros_like(mask))
    common = {"image": str(tmp_path / "image.png"), "dataset": "drawn"}
    return make_cases(
        [
            common | {"case": "a", "patient": "1", "mask": str(tmp_path / "mask.png"), "label": 1},
            common | {"case": "b", "patient": "2", "label": 0},
            common | {"case": "c", "patient": "3", "mask": str(tmp_path / "empty.png")},
        ]
    )


def test_hand_computed(cases):
    seen = []
    measures = measure_cases(cases, progress=lambda done, total: seen.append((done, total)))
    a = measures.table.loc["a"]
    assert (a["width"], a["height"], a["parts"]) == (100, 80, 1)
    assert a["area_share"] == pytest.approx(200 / 8000)
    assert (a["x"], a["y"]) == (pytest.approx(0.65), pytest.approx(0.5))
    assert a["taller"] == 2.0
    assert (a["inside"], a["around"]) == (90, 40)
    assert a["gray"] == pytest.approx((90 * 200 + 40 * 7800) / 8000)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(measures.table.index) == ["a", "b", "c"]


def test_cases_without_a_nodule_are_left_out_of_maps_and_histograms(cases):
    measures = measure_cases(cases)
    assert np.isnan(measures.table.loc["b", "area_share"]) and measures.table.loc["c", "area_share"] == 0
    assert set(measures.positions) == set(measures.histograms) == {"malignant"}
    position = measures.positions["malignant"]
    assert position.shape == (GRID, GRID) and position.mean() == pytest.approx(200 / 8000, rel=1e-5)
    assert measures.histograms["malignant"][0, 90] == 1 and measures.histograms["malignant"][1, 40] == 1


def test_the_ring_lies_outside_and_has_the_stated_width():
    mask = np.zeros((200, 200), bool)
    mask[80:120, 80:120] = True  # equivalent diameter 45.1 px, so the ring is 11.3 px wide
    ring = ring_around(mask, gap=0)
    assert not (ring & mask).any()
    assert ring[100, 120:140].sum() == 11 and ring[100, 120]
    assert ring_around(mask, width=4, gap=2)[100, 120:130].tolist() == [False] * 2 + [True] * 4 + [False] * 4
    assert not ring_around(np.zeros((5, 5), bool)).any()


def test_worker_count_does_not_change_the_result(cases):
    pd.testing.assert_frame_equal(measure_cases(cases, workers=1).table, measure_cases(cases, workers=3).table)


def test_a_mask_of_another_size_is_named(cases, tmp_path):
    write_png(tmp_path / "mask.png", np.ones((10, 10), bool))
    with pytest.raises(ImageError, match=r"mask\.png: mask is 10×10, its image 100×80"):
        measure_cases(cases)


def test_label_names(cases):
    assert label_names(cases).tolist() == ["malignant", "benign", "unlabelled"]
