"""What stands in for the patient where a data set names none."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from thyroid_utils.data.audit import Audit
from thyroid_utils.data.audit.videos import recover_videos, video_recovery_quality, videos_as_patients


class Recovered(NamedTuple):
    """cases: the table, `patient` filled with the unit to split by. how: where that unit comes from, as a phrase.
    evidence: how well it was recovered (measure, value), or None where nothing had to be."""

    cases: pd.DataFrame
    how: str
    evidence: pd.DataFrame | None


def recover_patients(cases: pd.DataFrame, audit: Audit) -> Recovered:
    """Patients as given; else the videos behind numbered frames; else clusters of near-identical images, each under the name of
    the (first) known patient in it where there is one.

    A cluster is the least that must stay together: unlike images of one patient end up in two clusters, so a split by clusters
    can still leak, and results on such a set are an upper bound.

    Args:
        cases: the audited case table. Videos are recovered where it has a column `frame` and names no patient at all.
        audit: of `audit_cases`.

    Raises:
        DataError: a frame has no number, or a number occurs twice.
    """
    known = cases["patient_known"].astype(bool) if "patient_known" in cases else pd.Series(True, cases.index)
    if known.all():
        return Recovered(cases, "as the data set names them", None)
    if "frame" in cases and not known.any():
        videos = recover_videos(cases)
        evidence = video_recovery_quality(cases, videos).summary
        how = (
            f"none are given; the {videos.nunique()} videos recovered from the frames take their place, and one patient may be "
            "in several"
        )
        return Recovered(videos_as_patients(cases, videos), how, evidence)
    clusters = cases["dataset"] + "-cluster-" + audit.clusters[cases.index].astype("string")
    # A copy of a known patient's image is of that patient.
    named = cases["patient"].where(known).groupby(clusters).transform("min")
    filled = cases.assign(patient=cases["patient"].where(known, named.fillna(clusters)).astype("string"))
    count = clusters[~known].nunique()
    how = (
        f"not given for {int((~known).sum())} images; {count} clusters of near-identical images take their place. Unlike images "
        "of one patient may still be split, so results on this set are an upper bound"
    )
    return Recovered(filled, how, None)
