"""How well two outlines of the same picture agree: where a set holds a picture twice, its own truth can be measured."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from thyroid_utils.data.images import read_mask


def outline_agreement(cases: pd.DataFrame, identical: pd.DataFrame) -> pd.DataFrame:
    """Dice of the masks of pixel-identical images: what the set's own outlines would score against each other.

    Args:
        cases: case table.
        identical: one row a set of pixel-identical images with a list `cases` (`Audit.identical`).

    Returns:
        one row a pair that has two masks: `a`, `b` (cases), `dice` = 2|A∩B| / (|A| + |B|), in [0, 1]; NaN where both are empty.

    Raises:
        ImageError: a mask cannot be read.
    """
    rows = []
    for members in identical["cases"]:
        masks = {case: read_mask(cases.at[case, "mask"]) for case in members if pd.notna(cases.at[case, "mask"])}
        for a, b in combinations(masks, 2):
            total = masks[a].sum() + masks[b].sum()
            rows.append({"a": a, "b": b, "dice": 2 * (masks[a] & masks[b]).sum() / total if total else np.nan})
    return pd.DataFrame(rows, columns=["a", "b", "dice"]).astype({"dice": float})
