"""What stands in for the patient where a data set names none: the videos behind numbered frames, or clusters of like images.

Videos are found from the frames alone, by two sources of evidence. Content: frames that look alike (local-contrast correlation)
are of one video, whether they are neighbours or not. Screen layout: letters that the scanner burned in stay in place for the
length of a video while the tissue moves; where most videos have a layout of their own, two runs of frames with the same one are
of one video even when their content differs. Frames need not be in recording order: sets that were numbered in text order of
slice names ("100", …, "27", "270", …) begin a video with its hundredth slice, end it with its ninety-ninth and shuffle some in
between.

A wrong join costs a few patients' worth of independence, a wrong cut leaks; the thresholds lean towards joining.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import in_threads
from thyroid_utils.common.words import count
from thyroid_utils.data.audit import NEAR_CORRELATION, SIDE, Audit, components, near_pairs, thumbnail
from thyroid_utils.data.images import read_gray
from thyroid_utils.data.table import known_patients

_NEIGHBOUR_CORRELATION = 0.5  # from which neighbouring frames are of one video
_ANY_CORRELATION = 0.7  # from which any two frames are
_STROKE_CONTRAST = 40  # gray levels that a burned-in letter rises above its surroundings
_LAYOUT_FRAMES = 20  # in fewer frames slow tissue stays in place too
_LAYOUT_PIXELS = 10
_SAME_LAYOUT = 0.85  # layouts of different TG3K videos share at most 0.7 of their pixels, frames of one video nearly all


class Recovered(NamedTuple):
    """cases: the table, `patient` filled with the unit to split by. how: where that unit comes from, as a phrase.
    evidence: how well it was recovered (measure, value), empty where nothing had to be."""

    cases: pd.DataFrame
    how: str
    evidence: pd.DataFrame


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
    known = known_patients(cases)
    if known.all():
        return Recovered(cases, "as the data set names them", pd.DataFrame())
    if "frame" in cases and not known.any():
        frames = _read_frames(cases)
        videos = _videos(frames)
        found = count(videos.nunique(), "video")
        how = f"not given; in their place {found} recovered from the frames, of which one patient may have several"
        return Recovered(videos_as_patients(cases, videos), how, _evidence(frames, videos))
    clusters = cases["dataset"] + "-cluster-" + audit.clusters[cases.index].astype("string")
    # A copy of a known patient's image is of that patient.
    named = cases["patient"].where(known).groupby(clusters).transform("min")
    filled = cases.assign(patient=cases["patient"].where(known, named.fillna(clusters)).astype("string"))
    groups = count(clusters[~known].nunique(), "cluster")
    given = f"not given for {count((~known).sum(), 'image')}; in their place {groups} of near-identical images"
    how = f"{given}. Unlike images of one patient may still be split, so results on this set are an upper bound"
    return Recovered(filled, how, pd.DataFrame())


def recover_videos(cases: pd.DataFrame) -> pd.Series:
    """Number the videos behind a set of frames.

    Neighbouring runs of frames with the same burned-in letters are joined as well, provided that letters tell videos apart in
    this set: at least half of the runs that show any have them at a place of their own.

    Args:
        cases: case table of frames; their order is the column `frame` where it holds numbers, else the last number in the case
            id.

    Returns:
        int Series `video`, index as `cases`, numbered from 1 in the order of the first frame.

    Raises:
        DataError: no frame numbers, a number that occurs twice, or an image that cannot be read.
    """
    return _videos(_read_frames(cases))[cases.index]


def _videos(frames: _Frames) -> pd.Series:
    near = np.flatnonzero(_neighbour_correlations(frames.thumbs) >= _NEIGHBOUR_CORRELATION)
    runs = components(len(frames.cases), near_pairs(frames.thumbs[None], _ANY_CORRELATION)[0], np.stack([near, near + 1], 1))
    return pd.Series(_joined_by_layout(frames, runs) + 1, index=frames.cases, name="video")


def _evidence(frames: _Frames, videos: pd.Series) -> pd.DataFrame:
    """How far recovered videos can be trusted, judged without knowing the true ones: `measure` and `value`, for display.

    The only truth is that neighbouring frames that look nearly the same (correlation 0.9 or more) are of one video. Beyond it:
    how unlike the frames at the cuts are, and whether each video is one unbroken run.
    """
    video = videos[frames.cases].to_numpy()
    correlation = _neighbour_correlations(frames.thumbs)
    same = video[1:] == video[:-1]
    close = correlation >= NEAR_CORRELATION
    sizes = pd.Series(video).value_counts()
    rows = {
        "frames": len(video),
        "videos found": len(sizes),
        "frames in the smallest video": int(sizes.min()),
        "unbroken runs of frames": 1 + int((~same).sum()),
        "neighbouring pairs": len(same),
        "neighbouring pairs in one video": int(same.sum()),
        "share of neighbouring pairs in one video": float(pd.Series(same).mean()),
        "neighbouring pairs that correlate at 0.9 or more": int(close.sum()),
        "share of these in one video": float(pd.Series(same[close]).mean()),
        "median correlation of neighbours in one video": float(pd.Series(correlation[same]).median()),
        "highest correlation of neighbours in two videos": float(pd.Series(correlation[~same]).max()),
    }
    # Counts and shares stand in one column: as objects each keeps its kind, and a count is shown without decimals.
    return pd.DataFrame({"measure": list(rows), "value": pd.Series(list(rows.values()), dtype=object)})


def videos_as_patients(cases: pd.DataFrame, videos: pd.Series) -> pd.DataFrame:
    """The case table with its videos in the column `patient`, so that splits keep them whole."""
    numbers = videos[cases.index].map("{:02d}".format).astype("string")
    return cases.assign(patient=cases["dataset"] + "-video-" + numbers)


class _Frames(NamedTuple):
    """The frames of a case table in the order of their numbers: `cases` (ids), `thumbs` float32 (n, 1024), `strokes` (n packed
    bool arrays: thin bright structures), `shapes` [(height, width)]."""

    cases: pd.Index
    thumbs: np.ndarray
    strokes: list[np.ndarray]
    shapes: list[tuple[int, int]]


def _read_frames(cases: pd.DataFrame) -> _Frames:
    ordered = _in_order(cases)
    read = in_threads(_frame, ordered["image"].astype(str).tolist())
    thumbs = np.array([thumb for thumb, _, _ in read], np.float32).reshape(len(read), SIDE * SIDE)
    return _Frames(ordered.index, thumbs, [strokes for _, strokes, _ in read], [shape for _, _, shape in read])


def _frame(path: str) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    gray = read_gray(path)
    side = max(9, min(gray.shape) // 28 | 1)  # wider than a stroke, narrower than most tissue
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)) > _STROKE_CONTRAST
    return thumbnail(gray), np.packbits(strokes), gray.shape


def _in_order(cases: pd.DataFrame) -> pd.DataFrame:
    numbers = pd.to_numeric(cases["frame"], errors="coerce") if "frame" in cases else pd.Series(np.nan, cases.index)
    if numbers.isna().any():
        last = cases.index.to_series().str.extract(r"^(?!case-[\da-f]{10}\b).*?(\d+)\D*$", expand=False)  # codes have no order
        numbers = pd.to_numeric(last, errors="coerce")
    wrong = numbers.index[numbers.isna() | numbers.duplicated()]
    if len(wrong):
        told = f"{count(len(wrong), 'case')} without a frame number of its own (first: {wrong[0]})"
        raise DataError(f"videos: {told}; number the frames in one row, in a column `frame`")
    return cases.loc[numbers.sort_values().index]


def _neighbour_correlations(thumbs: np.ndarray) -> np.ndarray:
    return (thumbs[:-1] * thumbs[1:]).sum(1).round(4)


class _Run(NamedTuple):
    """Some frames of one video: `lit` int (height, width), in how many of its `count` frames a pixel is part of a stroke."""

    count: int
    lit: np.ndarray

    def layout(self) -> np.ndarray | None:
        """bool (height, width): what stays lit; None where too few frames tell or nothing is burned in."""
        steady = self.lit >= 0.9 * self.count
        return steady if self.count >= _LAYOUT_FRAMES and steady.sum() >= _LAYOUT_PIXELS else None


def _joined_by_layout(frames: _Frames, runs: np.ndarray) -> np.ndarray:
    state = [_run(frames, np.flatnonzero(runs == run)) for run in range(runs.max(initial=-1) + 1)]
    if not _layouts_tell_apart([run for run in state if run.layout() is not None]):
        return runs
    runs = runs.copy()
    joined = True
    while joined:  # two short runs may agree with nothing until one of them has joined a long one
        joined = False
        for cut in np.flatnonzero(runs[1:] != runs[:-1]):
            a, b = sorted((int(runs[cut]), int(runs[cut + 1])))
            if a != b and _same_layout(state[a], state[b]):
                state[a] = _Run(state[a].count + state[b].count, state[a].lit + state[b].lit)
                runs[runs == b] = a
                joined = True
    return pd.factorize(runs)[0]


def _run(frames: _Frames, positions: np.ndarray) -> _Run:
    """The run of these frames: of those of the first one's size."""
    shape = frames.shapes[positions[0]]
    alike = [frames.strokes[position] for position in positions if frames.shapes[position] == shape]
    lit = sum(np.unpackbits(strokes, count=shape[0] * shape[1]).astype(np.int32) for strokes in alike)
    return _Run(len(alike), lit.reshape(shape))


def _same_layout(a: _Run, b: _Run) -> bool:
    """Whether the layout of either run, where known, shows in most frames of the other. False where neither is known."""
    known = [(one.layout(), other) for one, other in ((a, b), (b, a)) if one.layout() is not None]
    comparable = bool(known) and a.lit.shape == b.lit.shape
    return comparable and all((other.lit[layout] >= 0.5 * other.count).mean() >= _SAME_LAYOUT for layout, other in known)


def _layouts_tell_apart(shown: list[_Run]) -> bool:
    """Whether at least half of the runs that show a layout have one of their own; one menu on every video says nothing."""
    same = [(i, j) for i in range(len(shown)) for j in range(i + 1, len(shown)) if _same_layout(shown[i], shown[j])]
    distinct = len(np.unique(components(len(shown), np.array(same, int).reshape(-1, 2))))
    return distinct >= 2 and 2 * distinct >= len(shown)
