"""What takes the patient's place where none is named: videos recovered from their frames, and clusters of copies."""

import cv2
import numpy as np
import pytest
from made_pictures import stored

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.splits import split_cases
from thyroid_utils.data.videos import recover_patients, recover_videos

SIZE = 128


def sweep(seed: int, frames: int) -> list[np.ndarray]:
    """A camera that moves two pixels a frame over tissue of its own."""
    random = np.random.default_rng(seed)
    height, width = SIZE, SIZE + 2 * frames
    shapes = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 8)
    echo = np.exp(shapes / shapes.std() * 0.6) * random.rayleigh(1, (height, width))
    tissue = np.clip(50 * cv2.GaussianBlur(echo, (0, 0), 1.5), 0, 200).astype(np.uint8)
    return [tissue[:, 2 * t : 2 * t + SIZE].copy() for t in range(frames)]


CORNERS = {"DESC": (4, 20), "PROBE": (50, 110), "AB": (70, 100)}


def film(*parts: tuple[int, int, str]) -> list[np.ndarray]:
    """Sweeps by seed, number of frames and the letters burned into them."""
    frames = []
    for seed, count, text in parts:
        drawn = sweep(seed, count)
        font = cv2.FONT_HERSHEY_SIMPLEX
        frames += [cv2.putText(frame, text, CORNERS[text], font, 0.5, 255, 1) if text else frame for frame in drawn]
    return frames


def test_three_sweeps_are_three_videos_in_the_order_of_the_column_frame(tmp_path):
    cases = stored(tmp_path, sweep(0, 25) + sweep(1, 30) + sweep(2, 15))
    videos = recover_videos(cases)
    assert videos.tolist() == [1] * 25 + [2] * 30 + [3] * 15
    assert recover_videos(cases.sample(frac=1, random_state=0))[cases.index].tolist() == videos.tolist()
    backwards = cases.assign(frame=range(100, 30, -1))
    assert recover_videos(backwards).tolist() == [3] * 25 + [2] * 30 + [1] * 15


def numbered(*counts: int) -> list[int]:
    return [number for number, count in enumerate(counts, 1) for _ in range(count)]


def test_frames_in_text_order_of_their_slices(tmp_path):
    """Slices 2 to 39 as text: 10 to 19, 2, 20 to 29, 3, 30 to 39, 4 to 9. The end meets the start."""
    one = sweep(0, 40)
    order = sorted(range(2, 40), key=str)
    assert order[9:12] == [19, 2, 20] and order[0] == 10 and order[-1] == 9
    assert recover_videos(stored(tmp_path, [one[i] for i in order] + sweep(1, 12))).tolist() == numbered(38, 12)


@pytest.mark.parametrize(
    ("parts", "videos"),
    [
        ([(0, 30, "DESC"), (5, 30, "DESC"), (1, 30, "PROBE")], (60, 30)),  # the same letters over different tissue
        ([(0, 30, "DESC"), (1, 30, "DESC"), (2, 30, "DESC")], (30, 30, 30)),  # letters that every video has say nothing
        ([(0, 30, "DESC"), *[(7, 1, "")] * 6, (1, 30, "AB")], (30, 6, 30)),  # still frames: all stays in place, not letters alone
        ([(0, 1, "")], (1,)),
        ([], ()),
    ],
)
def test_letters_join_what_content_leaves_apart(tmp_path, parts, videos):
    assert recover_videos(stored(tmp_path, film(*parts))).tolist() == numbered(*videos)


def test_numbered_frames_of_nobody_become_videos_that_stay_whole_and_others_are_refused(tmp_path):
    cases = stored(tmp_path, sweep(0, 20) + sweep(1, 20), patient_known=False, frame=range(40))
    recovered = recover_patients(cases, audit_cases(cases))
    assert "2 videos recovered" in recovered.how
    assert recovered.cases["patient"].unique().tolist() == ["made-video-01", "made-video-02"]
    found = recovered.evidence.set_index("measure")["value"]
    assert found["videos found"] == found["unbroken runs of frames"] == 2 and found["frames in the smallest video"] == 20
    assert found["highest correlation of neighbours in two videos"] < 0.4
    assert found["median correlation of neighbours in one video"] > 0.9
    split = split_cases(recovered.cases, (0.5, 0.5), require_classes=False)
    assert split.groupby("patient")["split"].nunique().max() == 1
    with pytest.raises(DataError, match=r"1 case without a frame number of its own \(first: scan\)"):
        recover_videos(stored(tmp_path, sweep(0, 3)).rename(index={"made/0001": "scan"}))
    with pytest.raises(DataError, match="3 cases without a frame number"):
        recover_videos(stored(tmp_path, sweep(0, 3)).rename(index=lambda case: f"case-1f3870be2{case[-1]}"))


@pytest.mark.parametrize(
    ("known", "patients", "how"),
    [
        ("abcd", ["a", "b", "c", "d"], "as the data set names them"),
        ("d", ["made-cluster-0", "made-cluster-0", "made-cluster-1", "d"], "not given for 3 images; in their place 2 clusters"),
        ("b", ["b", "b", "made-cluster-1", "made-cluster-2"], "not given for 3 images"),  # a copy joins its patient
    ],
)
def test_clusters_of_copies_take_the_place_of_unknown_patients(tmp_path, known, patients, how):
    pictures = [sweep(seed, 1)[0] for seed in (0, 0, 1, 2)]
    cases = stored(tmp_path, pictures).assign(patient=list("abcd"), patient_known=[name in known for name in "abcd"])
    recovered = recover_patients(cases, audit_cases(cases))
    assert recovered.cases["patient"].tolist() == patients
    assert recovered.how.startswith(how) and recovered.evidence.empty
