"""The case table's types, refusals and fingerprint, and the numbers that describe images, on frames whose numbers are known."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import GRID, data_fingerprint, label_names, make_cases, malignant_share, measure_cases


def row(case: str, **values) -> dict:
    return {"case": case, "image": f"/data/{case}.png", "patient": f"p-{case}", "dataset": "own", **values}


REFUSED = [
    *(("label", value, "labels are not 0 (benign), 1 (malignant) or empty") for value in (2, -1, 0.5, "x", "", math.inf, 257)),
    *(("spacing_mm", value, "spacing_mm are not a number above 0") for value in ("x", 0, -1, math.inf, "", "0", (0.1, 0.2))),
    *((column, blank, f"values of {column} are missing") for column in ("image", "patient", "dataset") for blank in (None, " ")),
    ("case", " ", "values of case are missing"),
    ("split", "holdout", "splits are not train, val, test or empty"),
]


@pytest.mark.parametrize(("column", "value", "words"), REFUSED)
def test_a_value_outside_its_domain_is_refused_by_case_and_value(column, value, words):
    with pytest.raises(DataError) as error:
        make_cases([row("a", split="val", spacing_mm=0.1), row("wrong") | {column: value}])
    text = str(error.value)
    assert text.startswith("case table: 1 ") and words in text and "\n" not in text and "; " in text
    assert "wrong: " in text or column == "case"


def test_case_ids_are_unique_and_numbers_read_in_every_spelling():
    with pytest.raises(DataError, match=r"1 case ids occur more than once \(first: a\).*rename"):
        make_cases([row("a"), row("a"), row("b")])
    with pytest.raises(DataError, match="occur more than once"):
        make_cases([row(None), row(None)])
    labels = [row(str(number), label=value) for number, value in enumerate((0, 1.0, "0", "1", True, np.int64(0)))]
    assert make_cases(labels)["label"].tolist() == [0, 1, 0, 1, 1, 0]
    for missing in (None, pd.NA, math.nan):
        rows = [row("a", spacing_mm="0.08"), row("b", spacing_mm=missing), row("c", spacing_mm=1)]
        spacing = make_cases(rows)["spacing_mm"]
        np.testing.assert_equal(spacing.to_numpy(), [0.08, math.nan, 1])
        assert make_cases(rows[1:2])["spacing_mm"].isna().all()
    cases = make_cases([row("a", label=1), row("b", label=0), row("c", label=0), row("d")])
    assert malignant_share(cases) == pytest.approx(1 / 3) and math.isnan(malignant_share(cases.tail(1)))
    assert label_names(cases).tolist() == ["malignant", "benign", "benign", "unlabelled"]


def test_the_fingerprint_follows_content_and_neither_order_nor_folder(tmp_path):
    for name in ("one/a", "one/b", "one/mask", "two/a", "two/b", "two/mask"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name[4:].encode())

    def table(folder: Path, **values) -> pd.DataFrame:
        rows = [row(name, label=1) | {"image": str(folder / name), "mask": str(folder / "mask")} for name in "ab"]
        return make_cases([rows[0], rows[1] | values])

    one, two = tmp_path / "one", tmp_path / "two"
    first = data_fingerprint(table(one))
    assert data_fingerprint(table(two)) == first == data_fingerprint(table(one).iloc[::-1])
    for change in ({"label": 0}, {"label": None}, {"patient": "other"}, {"mask": str(one / "b")}, {"mask": None}):
        assert data_fingerprint(table(one, **change)) != first, change
    (two / "mask").write_bytes(b"changed")
    assert data_fingerprint(table(two)) != first
    (two / "b").unlink()
    with pytest.raises(DataError, match=r"two.b: "):
        data_fingerprint(table(two))


@pytest.fixture
def drawn(tmp_path):
    """A bright 20×10 box on a 100×80 frame (malignant), the same without a mask (benign), and an empty mask (unlabelled)."""
    image, mask = np.full((80, 100), 40, np.uint8), np.zeros((80, 100), bool)
    mask[30:50, 60:70] = True
    image[mask] = 90
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "mask.png", mask)
    write_png(tmp_path / "empty.png", np.zeros_like(mask))
    masks = {"a": str(tmp_path / "mask.png"), "b": None, "c": str(tmp_path / "empty.png")}
    labels = {"a": 1, "b": 0, "c": None}
    image = str(tmp_path / "image.png")
    return make_cases([row(case, label=labels[case]) | {"image": image, "mask": mask} for case, mask in masks.items()])


def test_measures_computed_by_hand_and_what_cannot_be_measured(drawn, tmp_path):
    seen = []
    measures = measure_cases(drawn, progress=lambda done, total: seen.append((done, total)))
    a = measures.table.loc["a"]
    assert (a["width"], a["height"], a["parts"], a["taller"]) == (100, 80, 1, 2.0)
    assert a["area_share"] == pytest.approx(200 / 8000)
    assert (a["x"], a["y"]) == (pytest.approx(0.65), pytest.approx(0.5))
    assert (a["inside"], a["around"]) == (90, 40)
    assert a["gray"] == pytest.approx((90 * 200 + 40 * 7800) / 8000)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert np.isnan(measures.table.loc["b", "area_share"]) and measures.table.loc["c", "area_share"] == 0
    assert set(measures.positions) == set(measures.histograms) == {"malignant"}, "those with a nodule"
    position = measures.positions["malignant"]
    assert position.shape == (GRID, GRID) and position.mean() == pytest.approx(200 / 8000, rel=1e-5)
    assert measures.histograms["malignant"][0, 90] == 1 and measures.histograms["malignant"][1, 40] == 1
    write_png(tmp_path / "mask.png", np.ones((10, 10), bool))
    with pytest.raises(ImageError, match=r"mask\.png: mask is 10×10, its image 100×80"):
        measure_cases(drawn)
