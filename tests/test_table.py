from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.table import REQUIRED_COLUMNS, data_fingerprint, make_cases, malignant_share, validate_cases


def row(case: str, **values) -> dict:
    return {"case": case, "image": f"/data/{case}.png", "patient": f"p-{case}", "dataset": "own", **values}


def test_missing_columns_become_na_and_types_are_fixed():
    cases = make_cases([row("a", label=1, age=40), row("b", label=None, age=50)])
    assert list(cases.columns) == [*REQUIRED_COLUMNS, "age"] and cases.index.name == "case"
    assert cases.loc["a", "label"] == 1 and pd.isna(cases.loc["b", "label"])
    assert cases["mask"].isna().all() and cases["split"].isna().all()
    assert str(cases["label"].dtype) == "Int8" and str(cases["image"].dtype) == "string"
    assert cases["age"].tolist() == [40, 50]


@pytest.mark.parametrize("value, expected", [(0, 0), (1, 1), (1.0, 1), ("0", 0), ("1", 1), (True, 1), (np.int64(0), 0)])
def test_labels_in_every_spelling_of_a_number(value, expected):
    assert make_cases([row("a", label=value)]).loc["a", "label"] == expected


@pytest.mark.parametrize("value", [2, -1, 0.5, "malign", "", float("inf"), 257])
def test_a_label_outside_0_and_1_is_refused(value):
    with pytest.raises(DataError) as error:
        make_cases([row("a", label=0), row("wrong", label=value)])
    text = str(error.value)
    assert "wrong" in text and "0 (benign), 1 (malignant)" in text and "\n" not in text


REFUSED_SPACINGS = {
    "unknown": "'unknown'", 0: "0.0", -1: "-1.0", math.inf: "inf", "": "''", "0": "'0'", "inf": "'inf'", (0.1, 0.2): "(0.1, 0.2)"
}  # fmt: skip


@pytest.mark.parametrize("value, shown", REFUSED_SPACINGS.items())
def test_a_spacing_is_a_number_above_0(value, shown):
    with pytest.raises(DataError) as error:
        make_cases([row("a", spacing_mm=0.1), row("wrong", spacing_mm=value)])
    assert str(error.value) == (
        f"case table: 1 values of spacing_mm are not a number above 0 (wrong: {shown}); give the side of a pixel in "
        "millimetres, or leave it missing (NA) where it is unknown"
    )


@pytest.mark.parametrize("missing", [None, pd.NA, math.nan])
def test_a_spacing_may_be_missing_and_comes_in_any_spelling_of_a_number(missing):
    spacing = make_cases([row("a", spacing_mm="0.08"), row("b", spacing_mm=missing), row("c", spacing_mm=1)])["spacing_mm"]
    assert str(spacing.dtype) == "float64"
    np.testing.assert_equal(spacing.to_numpy(), [0.08, math.nan, 1])
    assert make_cases([row("a", spacing_mm=missing)])["spacing_mm"].isna().all()
    assert "spacing_mm" not in make_cases([row("a")])


def test_case_ids_are_unique():
    with pytest.raises(DataError) as error:
        make_cases([row("a"), row("a"), row("b")])
    assert "1 case ids occur more than once (first: a)" in str(error.value) and "rename" in str(error.value)
    with pytest.raises(DataError, match="occur more than once"):
        make_cases([row(None), row(None)])


@pytest.mark.parametrize("column", ["image", "patient", "dataset"])
def test_what_must_be_there_is_asked_for(column):
    values = row("a")
    del values[column]
    with pytest.raises(DataError, match=f"no column {column}"):
        make_cases([values])
    for blank in (None, " "):
        with pytest.raises(DataError) as error:
            make_cases([row("b"), row("a", **{column: blank})])
        assert column in str(error.value) and "\n" not in str(error.value)


def test_a_split_is_train_val_or_test():
    assert make_cases([row("a", split="val")]).loc["a", "split"] == "val"
    with pytest.raises(DataError, match="split"):
        make_cases([row("a", split="holdout")])


def test_no_rows_make_an_empty_valid_table():
    cases = make_cases([])
    assert len(cases) == 0 and list(cases.columns) == list(REQUIRED_COLUMNS)


def test_the_given_table_is_left_alone():
    cases = make_cases([row("a", label=1)])
    given_table = cases.assign(label=cases["label"].astype("float64"))
    validate_cases(given_table)
    assert str(given_table["label"].dtype) == "float64"


@given(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=30))
def test_validating_twice_changes_nothing(labels):
    spacing = [0.1, None]
    cases = make_cases([row(str(at), label=label, spacing_mm=spacing[at % 2]) for at, label in enumerate(labels)])
    pd.testing.assert_frame_equal(validate_cases(cases), cases)


def test_malignant_share():
    cases = make_cases([row("a", label=1), row("b", label=0), row("c", label=0), row("d")])
    assert malignant_share(cases) == pytest.approx(1 / 3)
    assert math.isnan(malignant_share(make_cases([row("a")])))


def test_the_fingerprint_follows_content_and_neither_order_nor_folder(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "a-mask"):
            (tmp_path / folder / name).write_bytes(name.encode())

    def table(folder: str, names: str = "ab", **values) -> pd.DataFrame:
        rows = [row(name, label=1) | {"image": str(tmp_path / folder / name)} for name in names]
        rows[0]["mask"] = str(tmp_path / folder / "a-mask") if names[0] == "a" else None
        rows[-1] |= values
        return make_cases(rows)

    first = data_fingerprint(table("one"))
    assert data_fingerprint(table("two")) == first == data_fingerprint(table("one").iloc[::-1])
    assert data_fingerprint(table("one", label=0)) != first
    assert data_fingerprint(table("one", label=None)) != first
    assert data_fingerprint(table("one", patient="other")) != first
    assert data_fingerprint(table("one", mask=str(tmp_path / "one" / "b"))) != first
    (tmp_path / "two" / "a-mask").write_bytes(b"changed")
    assert data_fingerprint(table("two")) != first


def test_a_missing_file_has_no_fingerprint(tmp_path):
    cases = make_cases([{"case": "a", "image": str(tmp_path / "gone.png"), "patient": "1", "dataset": "drawn"}])
    with pytest.raises(DataError, match=r"case a: .*gone\.png: No such file"):
        data_fingerprint(cases)
