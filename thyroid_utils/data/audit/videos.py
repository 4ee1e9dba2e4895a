"""Which frames come from one video, found from the frames alone.

Two sources of evidence. Content: frames that look alike (local-contrast correlation) are of one video, whether they are
neighbours or not. Screen layout: letters that the scanner burned in stay in place for the length of a video while the tissue
moves; where most videos have a layout of their own, two runs of frames with the same one are of one video even when their
content differs. Frames need not be in recording order: sets that were numbered in text order of slice names ("100", …, "27",
"270", …) begin a video with its hundredth slice, end it with its ninety-ninth and shuffle some in between.

A wrong join costs a few patients' worth of independence, a wrong cut leaks; the thresholds lean towards joining.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.progress import Progress, in_threads
from thyroid_utils.data.audit.similar import SIDE, components, thumbnail
from thyroid_utils.data.images import read_gray

NEIGHBOUR_CORRELATION = 0.5
ANY_CORRELATION = 0.7
_STROKE_CONTRAST = 40  # gray levels that a burned-in letter rises above its surroundings
_LAYOUT_FRAMES = 20  # in fewer frames slow tissue stays in place too
_LAYOUT_PIXELS = 10
_SAME_LAYOUT = 0.85  # layouts of different TG3K videos share at most 0.7 of their pixels, frames of one video nearly all
_BLOCK = 512


class Frames(NamedTuple):
    """The frames of a case table in the order of their numbers: `cases` (ids), `thumbs` float32 (n, 1024), `shapes`
    [(height, width)], `strokes` (n packed bool arrays: thin bright structures)."""

    cases: pd.Index
    thumbs: np.ndarray
    shapes: list[tuple[int, int]]
    strokes: list[np.ndarray]

    def every(self, step: int) -> Frames:
        return Frames(self.cases[::step], self.thumbs[::step], self.shapes[::step], self.strokes[::step])


class VideoQuality(NamedTuple):
    """How far recovered videos can be trusted.

    summary: measure and value, for display. neighbours: one row a pair of neighbouring frames: `a`, `b`, `correlation`,
    `same_video`. sensitivity: one row a setting: `neighbour_correlation`, `any_correlation`, `layout`, `every` (1: all frames,
    2: every second), `videos` (number found), `agreement` (adjusted Rand index with the videos in question, 1 = the same).
    """

    summary: pd.DataFrame
    neighbours: pd.DataFrame
    sensitivity: pd.DataFrame


def recover_videos(
    cases: pd.DataFrame,
    *,
    neighbour_correlation: float = NEIGHBOUR_CORRELATION,
    any_correlation: float = ANY_CORRELATION,
    layout: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> pd.Series:
    """Number the videos behind a set of frames.

    Args:
        cases: case table of frames; their order is the column `frame` where it holds numbers, else the last number in the case
            id.
        neighbour_correlation: neighbouring frames that correlate at least this much are of one video, 0 to 1.
        any_correlation: any two frames that correlate at least this much are of one video, 0 to 1.
        layout: also join neighbouring runs of frames with the same burned-in letters, provided that letters tell videos apart
            in this set: at least half of the runs that show any have them at a place of their own.
        workers: reading threads; None takes one a core, at most four.
        progress: called with (frames read, frames in all).

    Returns:
        int Series `video`, index as `cases`, numbered from 1 in the order of the first frame.

    Raises:
        DataError: no frame numbers, a number that occurs twice, or an image that cannot be read.
    """
    frames = _read_frames(cases, workers, progress)
    numbers = _recover(frames, neighbour_correlation, any_correlation, layout)
    return pd.Series(numbers + 1, index=frames.cases, name="video")[cases.index]


def video_recovery_quality(
    cases: pd.DataFrame,
    videos: pd.Series,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VideoQuality:
    """Judge recovered videos without knowing the true ones.

    The only truth is that neighbouring frames that look nearly the same (correlation 0.9 or more) are of one video. Beyond it:
    how unlike the frames at the cuts are, how unlike the most similar frames of two videos, whether each video is one unbroken
    run, and how the answer moves with the thresholds, without the layouts, and with frames left out.

    Args:
        cases: the case table that was given to `recover_videos`.
        videos: its result.
        workers, progress: as in `recover_videos`.

    Raises:
        DataError: fewer than two frames, and as `recover_videos`.
    """
    if len(cases) < 2:
        raise DataError(f"videos: {len(cases)} frames cannot be judged; expected two or more")
    frames = _read_frames(cases, workers, progress)
    video = videos[frames.cases].to_numpy()
    correlation = _neighbour_correlations(frames.thumbs)
    neighbours = pd.DataFrame(
        {
            "a": frames.cases[:-1],
            "b": frames.cases[1:],
            "correlation": correlation,
            "same_video": video[1:] == video[:-1],
        }
    )
    return VideoQuality(_summary(frames, video, neighbours), neighbours, _sensitivity(frames, video))


def videos_as_patients(cases: pd.DataFrame, videos: pd.Series) -> pd.DataFrame:
    """The case table with its videos in the column `patient`, so that splits keep them whole.

    Raises:
        DataError: a case without a video.
    """
    missing = cases.index.difference(videos.index)
    if len(missing):
        raise DataError(f"videos: {len(missing)} cases have none (first: {missing[0]}); recover the videos of this table")
    numbers = videos[cases.index].map("{:02d}".format).astype("string")
    return cases.assign(patient=cases["dataset"] + "-video-" + numbers)


def _read_frames(cases: pd.DataFrame, workers: int | None, progress: Progress | None) -> Frames:
    ordered = _in_order(cases)
    read = in_threads(_frame_of_file, ordered["image"].astype(str).tolist(), workers, progress)
    thumbs = np.array([frame[0] for frame in read], np.float32).reshape(len(read), SIDE * SIDE)
    return Frames(ordered.index, thumbs, [frame[1] for frame in read], [frame[2] for frame in read])


def _in_order(cases: pd.DataFrame) -> pd.DataFrame:
    numbers = pd.to_numeric(cases["frame"], errors="coerce") if "frame" in cases else pd.Series(np.nan, cases.index)
    if numbers.isna().any():
        numbers = pd.to_numeric(cases.index.to_series().str.extract(r"(\d+)\D*$", expand=False), errors="coerce")
    if numbers.isna().any():
        raise DataError(
            f"videos: {numbers.isna().sum()} cases have no frame number (first: {numbers.index[numbers.isna()][0]}); "
            "add a column `frame` with the number of each frame"
        )
    if numbers.duplicated().any():
        doubled = numbers.index[numbers.duplicated(keep=False)][:2]
        raise DataError(f"videos: a frame number occurs twice ({', '.join(doubled)}); number the frames of one set in one row")
    return cases.loc[numbers.sort_values().index]


def _frame_of_file(path: str) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    try:
        state = os.stat(path)
    except OSError:
        read_gray(path)  # raises the ImageError that says what is wrong with the path
        raise
    return _frame_of_state(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8192)
def _frame_of_state(path: str, modified_ns: int, size: int) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    gray = read_gray(path)
    side = max(9, min(gray.shape) // 28 | 1)  # wider than a stroke, narrower than most tissue
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)) > _STROKE_CONTRAST
    return thumbnail(gray), gray.shape, np.packbits(strokes)


def _neighbour_correlations(thumbs: np.ndarray) -> np.ndarray:
    return (thumbs[:-1] * thumbs[1:]).sum(1).round(4)


def _alike(thumbs: np.ndarray, at_least: float) -> np.ndarray:
    """Pairs of positions, int (m, 2), that correlate at least so much."""
    found = [np.zeros((0, 2), int)]
    for start in range(0, len(thumbs), _BLOCK):
        row, column = np.nonzero(np.triu((thumbs[start : start + _BLOCK] @ thumbs[start:].T).round(4) >= at_least, 1))
        found.append(np.stack([row, column], 1) + start)
    return np.concatenate(found)


def _recover(frames: Frames, neighbour_correlation: float, any_correlation: float, layout: bool) -> np.ndarray:
    """int (n,): the videos of the frames, numbered from 0 in order."""
    count = len(frames.cases)
    near = np.flatnonzero(_neighbour_correlations(frames.thumbs) >= neighbour_correlation)
    links = np.concatenate([_alike(frames.thumbs, any_correlation), np.stack([near, near + 1], 1)])
    runs = components(count, links)
    if layout:
        runs = _joined_by_layout(frames, runs)
    return runs


class _Run(NamedTuple):
    """Some frames of one video: `lit` int (height, width), in how many of its `count` frames a pixel is part of a stroke."""

    count: int
    lit: np.ndarray

    def layout(self) -> np.ndarray | None:
        """bool (height, width): what stays lit; None where too few frames tell or nothing is burned in."""
        steady = self.lit >= 0.9 * self.count
        return steady if self.count >= _LAYOUT_FRAMES and steady.sum() >= _LAYOUT_PIXELS else None


def _joined_by_layout(frames: Frames, runs: np.ndarray) -> np.ndarray:
    state = [_run(frames, np.flatnonzero(runs == run)) for run in range(runs.max(initial=-1) + 1)]
    if not _layouts_tell_apart([run for run in state if run is not None and run.layout() is not None]):
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


def _run(frames: Frames, positions: np.ndarray) -> _Run | None:
    """None where the frames differ in size."""
    shapes = {frames.shapes[position] for position in positions}
    if len(shapes) > 1:
        return None
    (shape,) = shapes
    lit = np.zeros(shape[0] * shape[1], np.int32)
    for position in positions:
        lit += np.unpackbits(frames.strokes[position], count=lit.size)
    return _Run(len(positions), lit.reshape(shape))


def _same_layout(a: _Run | None, b: _Run | None) -> bool:
    """Whether the layout of either run, where known, shows in most frames of the other. False where neither is known."""
    if a is None or b is None or a.lit.shape != b.lit.shape:
        return False
    known = [(one.layout(), other) for one, other in ((a, b), (b, a)) if one.layout() is not None]
    return bool(known) and all((other.lit[layout] >= 0.5 * other.count).mean() >= _SAME_LAYOUT for layout, other in known)


def _layouts_tell_apart(shown: list[_Run]) -> bool:
    """Whether at least half of the runs that show a layout have one of their own; one menu on every video says nothing."""
    same = [(i, j) for i in range(len(shown)) for j in range(i + 1, len(shown)) if _same_layout(shown[i], shown[j])]
    distinct = len(np.unique(components(len(shown), np.array(same, int).reshape(-1, 2))))
    return distinct >= 2 and 2 * distinct >= len(shown)


def _summary(frames: Frames, video: np.ndarray, neighbours: pd.DataFrame) -> pd.DataFrame:
    close = neighbours["correlation"] >= 0.9
    cut = ~neighbours["same_video"]
    runs = 1 + int(cut.sum())
    rows = [
        ("frames", len(video)),
        ("videos found", len(np.unique(video))),
        ("frames in the smallest video", int(np.unique(video, return_counts=True)[1].min())),
        ("unbroken runs of frames", runs),
        ("neighbouring pairs", len(neighbours)),
        ("neighbouring pairs in one video", int((~cut).sum())),
        ("share of neighbouring pairs in one video", float((~cut).mean())),
        ("neighbouring pairs that correlate at 0.9 or more", int(close.sum())),
        ("share of these in one video", float((~cut[close]).mean())),
        ("median correlation of neighbours in one video", float(neighbours.loc[~cut, "correlation"].median())),
        ("highest correlation of neighbours in two videos", float(neighbours.loc[cut, "correlation"].max())),
        ("highest correlation of any frames in two videos", _highest_between(frames.thumbs, video)),
        ("pairs of videos", len(np.unique(video)) * (len(np.unique(video)) - 1) // 2),
    ]
    # Counts and shares stand in one column: as objects each keeps its kind, and a count is shown without decimals.
    measures, values = zip(*rows, strict=True)
    return pd.DataFrame({"measure": measures, "value": pd.Series(values, dtype=object)})


def _highest_between(thumbs: np.ndarray, video: np.ndarray) -> float:
    highest = -1.0
    for start in range(0, len(thumbs), _BLOCK):
        rows = slice(start, start + _BLOCK)
        other = video[rows, None] != video[None, :]
        if other.any():
            highest = max(highest, float((thumbs[rows] @ thumbs.T)[other].max()))
    return round(highest, 4) if highest > -1 else float("nan")


def _sensitivity(frames: Frames, video: np.ndarray) -> pd.DataFrame:
    from sklearn.metrics import adjusted_rand_score  # half a second to import, and only this needs it

    usual = (NEIGHBOUR_CORRELATION, ANY_CORRELATION, True, 1)
    settings = [usual]
    settings += [(value, ANY_CORRELATION, True, 1) for value in (0.4, 0.6, 0.7)]
    settings += [(NEIGHBOUR_CORRELATION, value, True, 1) for value in (0.65, 0.8, 0.9)]
    settings += [(NEIGHBOUR_CORRELATION, ANY_CORRELATION, False, 1), (0.4, ANY_CORRELATION, False, 1)]
    settings += [(NEIGHBOUR_CORRELATION, ANY_CORRELATION, True, step) for step in (2, 3, 5)]
    rows = []
    for near, far, layout, step in settings:
        found = _recover(frames.every(step), near, far, layout)
        agreement = round(float(adjusted_rand_score(video[::step], found)), 4)
        rows.append((near, far, layout, step, found.max(initial=-1) + 1, agreement))
    return pd.DataFrame(rows, columns=["neighbour_correlation", "any_correlation", "layout", "every", "videos", "agreement"])
