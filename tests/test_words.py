"""Words: counts, numbers, p-values, shares and lists at their bounds."""

import numpy as np
import pandas as pd

from thyroid_utils.common.words import count, listed, number, p_number, p_value, share, whole

UNKNOWN = [np.nan, None, pd.NA, np.inf]


def test_a_count_agrees_with_its_noun_and_a_list_is_read_one_way():
    counted = [count(value, "image") for value in (0, 1, 2, np.int64(1), 1284, 32510, 1.4)]
    assert counted == ["no images", "1 image", "2 images", "1 image", "1284 images", "32\u202f510 images", "1.4 images"]
    assert {count(value, "image") for value in UNKNOWN} == {"an unknown number of images"}
    assert [count(n, "study", "studies") for n in (0, 1, 2)] == ["no studies", "1 study", "2 studies"]
    assert [whole(value) for value in (0, 7.0, 10_000, None)] == ["0", "7", "10\u202f000", "–"]
    names = [], ["a"], ("a", "b"), iter("abc"), [1, None], ["a, x", "b", "c"]
    assert [listed(some) for some in names] == ["none", "a", "a and b", "a, b and c", "1 and None", "a, x; b; and c"]


def test_a_number_has_fixed_decimals_and_p_values_and_shares_say_none_and_all_only_where_it_is():
    values = [(0.615, 1), (-0.0, 2), (0.004, 2), (1, 2), (-0.0004, 3), (-0.0006, 3), (-9.1e-4, 3), (np.inf, 2), (-np.inf, 2)]
    assert [number(*value) for value in values] == ["0.6", "0.00", "0.00", "1.00", "0.000", "−0.001", "−0.001", "∞", "−∞"]
    signed = [number(*value, sign=True) for value in values]
    assert signed == ["+0.6", "0.00", "0.00", "+1.00", "0.000", "−0.001", "−0.001", "+∞", "−∞"]
    assert {number(value, 2, sign=sign) for value in UNKNOWN[:3] for sign in (False, True)} == {"–"}
    values = [0.001, 0.0321, 0.04996, 0.05, 0.4, 1]
    assert [p_value(value) for value in values] == ["p = 0.001", "p = 0.032", "p < 0.05", "p = 0.05", "p = 0.4", "p = 1"]
    assert [p_number(value) for value in values] == ["0.001", "0.032", "< 0.05", "0.050", "0.400", "1.000"]
    assert {(p_value(value), p_number(value)) for value in (0, 1e-300, 0.000999)} == {("p < 0.001", "< 0.001")}
    assert {(p_value(value), p_number(value)) for value in (np.nan, None, np.inf, -0.0004)} == {("no p-value", "–")}
    told = [share(value) for value in (0, 1, 0.82, 0.001, 0.999, -0.0004, np.nan, None, np.inf)]
    assert told == ["0 %", "100 %", "82 %", "< 1 %", "> 99 %", "0 %", "–", "–", "–"]
    assert [share(value, 1) for value in (0.0004, 0.1234, 0.9999)] == ["< 0.1 %", "12.3 %", "> 99.9 %"]
