"""How dark nodules are: the study of a notebook that shows the shape of one (README, "Adding to it")."""

import pandas as pd

from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.table import label_names
from thyroid_utils.scores.estimates import patient_estimate


def nodule_brightness(cases: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
    """The mean gray level inside each outline.

    Args:
        cases: a case table; images without a label or a mask are left out.
        progress: called with (images done, images in all).

    Returns:
        index `case`; `class` ("benign", "malignant"), `patient`, `brightness` (0 to 255).
    """
    known = cases.dropna(subset=["label", "mask"])
    pairs = list(zip(known["image"], known["mask"], strict=True))
    found = in_threads(lambda pair: read_gray(pair[0])[read_mask(pair[1])].mean(), pairs, progress=progress)
    return known[["patient"]].assign(**{"class": label_names(known), "brightness": found})


def brightness_table(brightness: pd.DataFrame) -> pd.DataFrame:
    """A row a class: `brightness` (`Estimate`, mean with its interval over patients), images and patients."""
    rows = {}
    for name, own in brightness.groupby("class"):
        estimate = patient_estimate(own["brightness"], own["patient"])
        rows[name] = {"brightness": estimate, "images": len(own), "patients": own["patient"].nunique()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")
