"""Figures: what is drawn are the numbers of the data, and nothing is left open behind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.plots import segmentation


def scored_images() -> pd.DataFrame:
    """Two models on six images: from a hundredth of a percent of the frame to a fifth, one without a nodule."""
    share = np.array([0.0001, 0.0004, 0.002, 0.03, 0.2, 0.0])
    one = pd.DataFrame({"case": list("abcdef"), "area": 1e5 * share, "share": share, "diameter_mm": np.sqrt(share) * 50})
    one["dice"] = [0.1, 0.3, 0.5, 0.8, 0.9, np.nan]
    return pd.concat([one.assign(model="first"), one.assign(model="second")], ignore_index=True)


def test_the_spread_counts_the_images_that_have_the_score():
    table = scored_images()
    place = segmentation.score_spread(table, "dice", "Dice", ["first", "second"]).axes[0]
    assert place.get_xlabel() == "Dice, n = 5 images"
    table.loc[table["model"].eq("second") & table["case"].isin(["a", "b"]), "dice"] = np.nan
    place = segmentation.score_spread(table, "dice", "Dice", ["first", "second"]).axes[0]
    assert place.get_xlabel() == "Dice, n = 3 to 5 images, by model"
    assert segmentation.score_spread(table, "dice", "Dice", ["second"]).axes[0].get_xlabel() == "Dice, n = 3 images"


@pytest.mark.parametrize(
    "spacing, label, ticks",
    [
        ("known", "diameter of a disc of the nodule's area, mm (log scale)", ["0.5", "1", "2.24", "8.66", "22.4"]),
        ("partly known", "nodule, % of the frame (log scale)", ["0.01", "0.04", "0.2", "3", "20"]),
        ("unknown", "nodule, % of the frame (log scale)", ["0.01", "0.04", "0.2", "3", "20"]),
    ],
)
def test_sizes_are_in_mm_where_all_are_known_and_no_tick_of_a_small_nodule_says_0(spacing, label, ticks):
    table = scored_images()
    table.loc[{"known": [], "partly known": [0], "unknown": table.index}[spacing], "diameter_mm"] = np.nan
    place = segmentation.score_by_size(table, "dice", "Dice", "first").axes[0]
    assert place.get_xlabel() == label and place.get_xscale() == "log"
    assert [text.get_text() for text in place.get_xticklabels()] == ticks
    assert place.get_xticks().tolist() == [float(tick) for tick in ticks]
