"""Subgroups: what images can be divided by, and scores of the parts against numbers by hand and other tests."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_1samp

from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.table import measure_cases
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import patient_estimate
from thyroid_utils.studies.error_analysis.subgroups import (
    COLUMNS,
    subgroup_calibration,
    subgroup_columns,
    subgroup_table,
    tertiles,
)


def table_of(sizes: dict[str, int], images: int = 2) -> tuple[pd.DataFrame, pd.Series]:
    """Groups of one factor, so many patients a level with `images` each; and the patients."""
    levels = np.repeat(list(sizes), [count * images for count in sizes.values()])
    numbers = np.arange(len(levels))
    index = pd.Index([f"c{number}" for number in numbers], name="case")
    groups = pd.DataFrame({"device": pd.Categorical(levels, list(sizes), ordered=True)}, index)
    return groups, pd.Series([f"p{number // images}" for number in numbers], index)


def test_phantoms_are_divided_by_all_they_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    phantoms = load_cases("phantom", patients=30, size=64)
    phantoms["split"] = np.resize(["train", "val", "test"], len(phantoms))
    measures = measure_cases(phantoms).table
    groups = subgroup_columns(phantoms, measures)
    assert list(groups) == ["mask area", "nodule size", "contrast", "class", "TI-RADS", "echogenicity", "scanner", "callipers"]
    assert list(groups["TI-RADS"].cat.categories) == sorted(phantoms["tirads"].unique())
    longer = phantoms[["nodule_width_mm", "nodule_height_mm"]].max(axis=1)
    assert ((longer < 10) == (groups["nodule size"] == "below 10 mm")).all()
    train = measures.loc[phantoms["split"] != "test", "area_share"]
    assert ((measures["area_share"] < np.quantile(train, 1 / 3)) == groups["mask area"].str.startswith("low")).all()
    alike = subgroup_columns(phantoms.assign(scanner="one", tirads=pd.NA), measures)
    assert alike.attrs["left_out"] == {"TI-RADS": "not known", "scanner": "all one"}
    sized = measures.assign(width=np.arange(len(measures)) % 2 * 32 + 64)
    assert set(subgroup_columns(phantoms.drop(columns="scanner"), sized)["frame size"].cat.categories) == {"64 × 64", "96 × 64"}


def test_tertiles_are_those_of_the_reference_and_may_coincide():
    values = pd.Series([1, 2, 3, 4, 5, 6, 100, np.nan])
    reference = np.array([True] * 6 + [False] * 2)
    found = tertiles(values, reference, "%")
    assert list(found.cat.categories) == ["low (below 2.67 %)", "middle", "high (from 4.33 %)"]  # 1 + 5/3, 1 + 10/3
    assert list(found.cat.codes) == [0, 0, 1, 1, 2, 2, 2, -1]
    few = np.array([True, True] + [False] * 6)
    assert list(tertiles(values, few, "%").cat.codes) == [0, 0, 1, 1, 2, 2, 2, -1]  # of all: cuts at 3 and 5
    assert list(tertiles(pd.Series([0, 0, 0, 5]), np.ones(4, bool), "%").cat.categories) == ["all alike"]
    assert list(tertiles(pd.Series([0, 0, 5, 5]), np.ones(4, bool), "%").cat.categories) == ["below 5 %", "from 5 %"]
    assert tertiles(pd.Series([np.nan, np.nan]), np.ones(2, bool), "%").isna().all()


def test_a_subgroup_against_the_rest_by_hand():
    groups, patients = table_of({"A": 10, "B": 12, "C": 3})
    values = pd.Series(np.random.default_rng(0).random(50), groups.index)
    values[:4] = np.nan  # two patients of A without a value: eight are left, too few
    table = subgroup_table(values, groups, patients)
    assert list(table.columns) == COLUMNS and list(table["level"]) == ["A", "B", "C"] and set(table["factor"]) == {"device"}
    assert list(table["patients"]) == [8, 12, 3] and list(table["images"]) == [16, 24, 6]
    assert list(table["marked"]) == table["p"].isna().tolist() == [True, False, True]
    inside = values[20:44]
    assert table.at[1, "estimate"] == patient_estimate(inside, patients[20:44], share=True)
    rest = pd.concat([values[4:20], values[44:]]).mean()
    assert table.at[1, "rest"] == pytest.approx(rest) and table.at[1, "difference"] == pytest.approx(inside.mean() - rest)


def test_a_patient_on_both_sides_is_compared_with_itself():
    """One image inside and one outside for every patient: that is McNemar's exact test."""
    random = np.random.default_rng(3)
    patients = pd.Series(np.repeat([f"p{number}" for number in range(30)], 2), [f"c{number}" for number in range(60)])
    groups = pd.DataFrame({"callipers": pd.Categorical(["no", "yes"] * 30)}, patients.index)
    right = pd.Series((random.random(60) < np.tile([0.9, 0.75], 30)).astype(float), patients.index)
    gaps = right[::2].to_numpy() - right[1::2].to_numpy()
    expected = binomtest(int((gaps > 0).sum()), int((gaps != 0).sum())).pvalue
    found = subgroup_table(right, groups, patients)
    assert 0.001 < expected < 0.3
    assert found["p"][0] == pytest.approx(expected, abs=4 * np.sqrt(expected / 5000))
    # Deals within patients leave a difference between patients alone: it is no evidence about the factor.
    of_patient = pd.Series(np.repeat(random.random(30), 2), patients.index)
    assert subgroup_table(of_patient, groups, patients)["p"].tolist() == [1.0, 1.0]


def test_holm_counts_every_question_once():
    groups, patients = table_of({"A": 15, "B": 15})
    groups["twin"] = groups["device"]  # the same division by another name
    groups["third"] = pd.Categorical(np.repeat(["x", "y", "z"], 20))
    values = pd.Series(np.random.default_rng(5).normal(size=60), groups.index)
    values[:30] += 1.0
    table = subgroup_table(values, groups, patients)
    asked = table["p"][[0, 4, 5, 6]]
    np.testing.assert_allclose(table["p_holm"][[0, 4, 5, 6]], holm(asked))
    assert table["differs"][0] and not table["differs"].all()


def test_unknown_levels_are_shown_and_counted_outside_the_tests():
    groups, patients = table_of({"A": 12, "B": 12, "C": 12})
    groups.loc[groups["device"] == "C", "device"] = pd.NA
    values = pd.Series(np.random.default_rng(7).random(72), groups.index)
    table = subgroup_table(values, groups, patients)
    assert table["level"].tolist() == ["A", "B", "not known"] and table["images"].sum() == 72
    assert table.at[0, "rest"] == pytest.approx(values[24:48].mean())
    assert np.isnan(table.at[2, "p"])
    alone = subgroup_table(values[:24], groups, patients)
    assert alone["untested"].tolist() == ["fewer than 10 patients to compare with"]
    assert subgroup_table(values, groups[[]], patients).empty


def test_calibration_of_subgroups_by_hand():
    groups, patients = table_of({"A": 10, "B": 10}, images=1)
    predictions = pd.DataFrame({"label": [1] * 5 + [0] * 15, "probability": [0.2] * 10 + [0.3] * 10}, groups.index)
    table = subgroup_calibration(predictions, groups, patients)
    assert [found.value for found in table["observed"]] == pytest.approx([0.5, 0])
    assert [found.value for found in table["predicted"]] == pytest.approx([0.2, 0.3])
    assert [found.value for found in table["estimate"]] == pytest.approx([0.3, -0.3])
    low, high = ttest_1samp([0.8] * 5 + [-0.2] * 5, 0).confidence_interval()  # a gap may lie below 0: no share
    assert (table["estimate"][0].low, table["estimate"][0].high) == pytest.approx((low, high))
    assert table["difference"].tolist() == pytest.approx([0.6, -0.6]) and 0 < table["p"][0] < 0.1
