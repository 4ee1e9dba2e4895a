"""Words: counts, numbers, p-values, shares and lists at their bounds."""

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.words import count, listed, number, p_number, p_value, share, whole


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "no images"),
        (1, "1 image"),
        (2, "2 images"),
        (np.int64(1), "1 image"),
        (1284, "1284 images"),
        (32510, "32\u202f510 images"),
        (np.nan, "an unknown number of images"),
        (None, "an unknown number of images"),
        (pd.NA, "an unknown number of images"),
        (np.inf, "an unknown number of images"),
    ],
)
def test_a_count_agrees_with_its_noun(value, told):
    assert count(value, "image") == told


def test_irregular_plurals_and_bare_counts():
    assert count(1.4, "image") == "1.4 images"
    assert [count(n, "study", "studies") for n in (0, 1, 2)] == ["no studies", "1 study", "2 studies"]
    assert [whole(value) for value in (0, 7.0, 10_000, None)] == ["0", "7", "10\u202f000", "–"]


@pytest.mark.parametrize(
    ("value", "digits", "told", "signed"),
    [
        (0.615, 1, "0.6", "+0.6"),
        (-0.0004, 3, "0.000", "0.000"),
        (-0.0006, 3, "-0.001", "-0.001"),
        (-0.0, 2, "0.00", "0.00"),
        (0.004, 2, "0.00", "0.00"),
        (-9.1e-4, 3, "-0.001", "-0.001"),
        (1, 2, "1.00", "+1.00"),
        (np.nan, 2, "–", "–"),
        (None, 2, "–", "–"),
        (pd.NA, 2, "–", "–"),
        (np.inf, 2, "∞", "+∞"),
        (-np.inf, 2, "-∞", "-∞"),
    ],
)
def test_a_number_has_fixed_decimals_and_no_negative_zero(value, digits, told, signed):
    assert (number(value, digits), number(value, digits, sign=True)) == (told, signed)


@pytest.mark.parametrize(
    ("value", "told", "column"),
    [
        (0, "p < 0.001", "< 0.001"),
        (1e-300, "p < 0.001", "< 0.001"),
        (0.000999, "p < 0.001", "< 0.001"),
        (0.001, "p = 0.001", "0.001"),
        (0.0321, "p = 0.032", "0.032"),
        (0.04996, "p < 0.05", "< 0.05"),
        (0.05, "p = 0.05", "0.050"),
        (0.4, "p = 0.4", "0.400"),
        (1, "p = 1", "1.000"),
        (np.nan, "no p-value", "–"),
        (None, "no p-value", "–"),
        (np.inf, "no p-value", "–"),
        (-0.0004, "no p-value", "–"),
    ],
)
def test_a_p_value_is_never_zero_and_never_rounded_over_its_level(value, told, column):
    assert (p_value(value), p_number(value)) == (told, column)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.82, "82 %"),
        (0.001, "< 1 %"),
        (0.999, "> 99 %"),
        (-0.0004, "0 %"),
        (np.nan, "–"),
        (None, "–"),
        (np.inf, "–"),
    ],
)
def test_a_share_says_none_and_all_only_where_it_is(value, told):
    assert share(value) == told


def test_shares_with_decimals():
    assert [share(value, 1) for value in (0.0004, 0.1234, 0.9999)] == ["< 0.1 %", "12.3 %", "> 99.9 %"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "none"),
        (["a"], "a"),
        (("a", "b"), "a and b"),
        (iter("abc"), "a, b and c"),
        ([1, None], "1 and None"),
        (["a, x", "b", "c"], "a, x; b; and c"),
    ],
)
def test_a_list_is_read_one_way(names, told):
    assert listed(names) == told
