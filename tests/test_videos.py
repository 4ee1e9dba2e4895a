"""What takes the patient's place where none is named: videos recovered from their frames, and clusters of copies."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import write_png
from thyroid_utils.data.splits import split_cases
from thyroid_utils.data.table import make_cases
from thyroid_utils.data.videos import recover_patients, recover_videos, video_evidence, videos_as_patients

SIZE = 128


def sweep(seed: int, frames: int, start: int = 0) -> list[np.ndarray]:
    """A camera that moves two pixels a frame over tissue of its own."""
    random = np.random.default_rng(seed)
    height, width = SIZE, SIZE + 2 * (frames + start)
    shapes = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 8)
    echo = np.exp(shapes / shapes.std() * 0.6) * random.rayleigh(1, (height, width))
    tissue = np.clip(50 * cv2.GaussianBlur(echo, (0, 0), 1.5), 0, 200).astype(np.uint8)
    return [tissue[:, 2 * t : 2 * t + SIZE].copy() for t in range(start, start + frames)]


def with_letters(frames: list[np.ndarray], text: str, corner: tuple[int, int]) -> list[np.ndarray]:
    return [cv2.putText(frame, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1) for frame in frames]


def stored(folder, frames: list[np.ndarray], **columns) -> pd.DataFrame:
    rows = []
    for number, frame in enumerate(frames):
        image = write_png(folder / f"{number:04d}.png", frame)
        rows.append({"case": f"made/{number:04d}", "image": str(image), "patient": str(number), "dataset": "made"})
    return make_cases(pd.DataFrame(rows).assign(**columns))


def test_three_sweeps_are_three_videos_in_the_order_of_the_column_frame(tmp_path):
    cases = stored(tmp_path, sweep(0, 25) + sweep(1, 30) + sweep(2, 15))
    videos = recover_videos(cases)
    assert videos.tolist() == [1] * 25 + [2] * 30 + [3] * 15
    assert recover_videos(cases.sample(frac=1, random_state=0))[cases.index].tolist() == videos.tolist()
    backwards = cases.assign(frame=range(100, 30, -1))
    assert recover_videos(backwards).tolist() == [3] * 25 + [2] * 30 + [1] * 15


def test_frames_in_text_order_of_their_slices(tmp_path):
    """Slices 2 to 39 as text: 10 to 19, 2, 20 to 29, 3, 30 to 39, 4 to 9. The end meets the start."""
    one = sweep(0, 40)
    order = sorted(range(2, 40), key=str)
    assert order[9:12] == [19, 2, 20] and order[0] == 10 and order[-1] == 9
    cases = stored(tmp_path, [one[i] for i in order] + sweep(1, 12))
    assert recover_videos(cases).tolist() == [1] * 38 + [2] * 12


def test_letters_join_what_content_leaves_apart(tmp_path):
    """Two sweeps over different tissue under the same letters are one video; the third has its letters elsewhere."""
    one = with_letters(sweep(0, 30) + sweep(5, 30), "DESC", (4, 20))
    cases = stored(tmp_path, one + with_letters(sweep(1, 30), "PROBE", (50, 110)))
    assert recover_videos(cases).tolist() == [1] * 60 + [2] * 30


def test_letters_that_every_video_has_say_nothing(tmp_path):
    cases = stored(tmp_path, with_letters(sweep(0, 30) + sweep(1, 30) + sweep(2, 30), "DESC", (4, 20)))
    assert recover_videos(cases).tolist() == [1] * 30 + [2] * 30 + [3] * 30


def test_letters_are_not_read_from_a_few_still_frames(tmp_path):
    """Six frames that hardly move: everything in them stays in place, which is no layout."""
    still = [sweep(7, 1)[0]] * 6
    cases = stored(tmp_path, with_letters(sweep(0, 30), "DESC", (4, 20)) + still + with_letters(sweep(1, 30), "AB", (70, 100)))
    assert recover_videos(cases).tolist() == [1] * 30 + [2] * 6 + [3] * 30


def test_frames_of_different_sizes_one_frame_and_none(tmp_path):
    cases = stored(tmp_path, sweep(0, 8) + [frame[:100, :90] for frame in sweep(1, 8)])
    assert recover_videos(cases).tolist() == [1] * 8 + [2] * 8
    assert recover_videos(cases.iloc[:1]).tolist() == [1] and recover_videos(cases.iloc[:0]).tolist() == []
    with pytest.raises(DataError, match="1 frames cannot be judged"):
        video_evidence(cases.iloc[:1], recover_videos(cases.iloc[:1]))


def test_evidence_by_hand(tmp_path):
    cases = stored(tmp_path, sweep(0, 20) + sweep(1, 20))
    found = video_evidence(cases, recover_videos(cases)).set_index("measure")["value"]
    assert found["videos found"] == 2 and found["unbroken runs of frames"] == 2 and found["pairs of videos"] == 1
    assert found["frames in the smallest video"] == 20
    assert found["neighbouring pairs"] == 39 and found["neighbouring pairs in one video"] == 38
    assert found["share of these in one video"] == 1
    assert found["highest correlation of neighbours in two videos"] < 0.4
    assert found["median correlation of neighbours in one video"] > 0.9
    wrong = video_evidence(cases, pd.Series([1] * 10 + [2] * 30, index=cases.index)).set_index("measure")["value"]
    assert wrong["share of these in one video"] < 1


def test_videos_become_patients_and_stay_whole_in_a_split(tmp_path):
    cases = stored(tmp_path, [frame for seed in range(6) for frame in sweep(seed, 8)])
    videos = recover_videos(cases)
    grouped = videos_as_patients(cases, videos)
    assert grouped["patient"].unique().tolist() == [f"made-video-0{i}" for i in range(1, 7)]
    split = split_cases(grouped, (0.5, 0.5), require_classes=False)
    assert split.groupby("patient")["split"].nunique().max() == 1


def test_bad_frames_say_what_is_wrong(tmp_path):
    cases = stored(tmp_path, sweep(0, 3))
    with pytest.raises(DataError, match=r"1 cases have no frame number \(first: scan\)"):
        recover_videos(cases.rename(index={"made/0001": "scan"}))
    with pytest.raises(DataError, match=r"a frame number occurs twice \(made/0000, other/0000\)"):
        recover_videos(cases.rename(index={"made/0001": "other/0000"}))
    (tmp_path / "0002.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0002\.png: empty \(0 bytes\)"):
        recover_videos(cases)
    (tmp_path / "0002.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        recover_videos(cases)


def test_tg3k_comes_apart_into_fifteen_unbroken_runs(real_data):
    """16 videos are published for all 3,585 frames. The 717 at hand show 15: every cut was checked by eye, and at each the
    anatomy changes and the burned-in letters move or vanish."""
    paths = sorted((real_data / "tg3k" / "thyroid-image").glob("*.jpg"))
    rows = [{"case": f"tg3k/{path.stem}", "image": str(path), "patient": path.stem, "dataset": "tg3k"} for path in paths]
    cases = make_cases(rows)
    videos = recover_videos(cases)
    starts = [int(case[-4:]) for case in videos.drop_duplicates().index]
    assert starts == [0, 274, 449, 657, 838, 1018, 1200, 1514, 1712, 1960, 2196, 2446, 2711, 3031, 3275]
    found = video_evidence(cases, videos).set_index("measure")["value"]
    assert found["neighbouring pairs in one video"] == 702 and found["unbroken runs of frames"] == 15
    assert found["share of these in one video"] == 1


@pytest.mark.parametrize(
    ("known", "patients", "how"),
    [
        ("abcd", ["a", "b", "c", "d"], "as the data set names them"),
        ("d", ["made-cluster-0", "made-cluster-0", "made-cluster-1", "d"], "not given for 3 images; 2 clusters"),
        ("b", ["b", "b", "made-cluster-1", "made-cluster-2"], "not given for 3 images"),  # a copy joins its patient
    ],
)
def test_clusters_of_copies_take_the_place_of_unknown_patients(tmp_path, known, patients, how):
    pictures = [sweep(seed, 1)[0] for seed in (0, 0, 1, 2)]
    cases = stored(tmp_path, pictures).assign(patient=list("abcd"), patient_known=[name in known for name in "abcd"])
    recovered = recover_patients(cases, audit_cases(cases))
    assert recovered.cases["patient"].tolist() == patients
    assert recovered.how.startswith(how) and recovered.evidence.empty


def test_numbered_frames_of_nobody_become_videos(tmp_path):
    cases = stored(tmp_path, sweep(0, 4), patient_known=False, frame=range(4))
    recovered = recover_patients(cases, audit_cases(cases))
    assert "the 1 videos recovered" in recovered.how and len(recovered.evidence)
    assert set(recovered.cases["patient"]) == {"made-video-01"}
