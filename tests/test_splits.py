"""Splits: nobody on two sides, classes and ratios kept, the same seed the same split; and what stands for unknown patients."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import stored

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import audit_cases, pixel_groups
from thyroid_utils.data.splits import (
    assert_disjoint,
    kfold_splits,
    official_split,
    patient_class,
    shared_groups,
    split_cases,
    split_hash,
    split_table,
)
from thyroid_utils.data.table import make_cases
from thyroid_utils.data.videos import recover_patients, recover_videos


def table(patients: list[tuple[str, list[int | None]]], **columns) -> pd.DataFrame:
    """A case table from (patient, labels of its images); no image file exists."""
    rows = [
        {"case": f"c{i:03d}-{j}", "image": f"{i}-{j}.png", "patient": patient, "dataset": "made", "label": label}
        for i, (patient, labels) in enumerate(patients)
        for j, label in enumerate(labels)
    ]
    return make_cases(pd.DataFrame(rows).assign(**columns))


def clinic(patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Patients of one to six images: a third malignant, some unlabelled."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, None], patients, p=[0.55, 0.3, 0.15])
    return table([(f"p{i}", [label] * int(random.integers(1, 7))) for i, label in enumerate(labels)])


@pytest.fixture
def shared_image(tmp_path) -> pd.DataFrame:
    """Twelve patients with a picture each; patients 0, 5 and 9 have the same one, in files of different formats."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (12, 20, 24), dtype=np.uint8))
    pictures[0] = pictures[9] = np.full((20, 24), 7, np.uint8)
    pictures[5] = np.dstack([pictures[0]] * 3)  # RGB on disk, the same gray image once read
    return stored(tmp_path, pictures, label=[0, 1] * 6)


COPIES = ["made/0000", "made/0005", "made/0009"]


def test_large_patients_are_tested_as_often_and_equal_and_mixed_ones_by_hand():
    """Ten benign and ten malignant patients with one image each, 60/20/20: 6 + 2 + 2 of each class, whatever the seed."""
    cases = table([(f"p{i}", [i % 2]) for i in range(20)])
    for seed in range(3):
        counts = split_table(split_cases(cases, (0.6, 0.2, 0.2), seed=seed, check_pixels=False))
        assert counts.loc[["train", "val", "test"], ["benign", "malignant"]].T.to_numpy().tolist() == [[6, 2, 2]] * 2
        assert counts.loc["all"].tolist() == [20, 20, 10, 10, 0]
    assert set(split_cases(cases, (0.7, 0.3, 0), check_pixels=False)["split"]) == {"train", "val"}
    cases = table([("a", [0, 1, None]), ("b", [None, 0]), ("c", [None])])
    assert patient_class(cases).to_dict() == {"a": "malignant", "b": "benign", "c": "unlabelled"}
    # 30 patients with one image and 10 with twelve: dealing by size would tie the large ones to one side. Each is in the test
    # set with probability 0.3; over 40 repeats the mean of ten has a standard error of 0.023.
    cases = table([(f"p{i}", [0] * (12 if i < 10 else 1)) for i in range(40)])
    tested = [split_cases(cases, (0.7, 0.3), repeat=repeat, check_pixels=False)["split"] == "test" for repeat in range(40)]
    assert abs(np.mean([share.groupby(cases["patient"]).first()[[f"p{i}" for i in range(10)]] for share in tested]) - 0.3) < 0.09


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.sampled_from([0, 1, None]), st.integers(1, 8)), min_size=3, max_size=30),
    ratios=st.sampled_from([(0.7, 0.15, 0.15), (0.7, 0.3), (0.34, 0.33, 0.33)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_patient_is_on_two_sides(sizes, ratios, seed):
    cases = table([(f"p{i}", [label] * count) for i, (label, count) in enumerate(sizes)])
    try:
        split = split_cases(cases, ratios, seed=seed, check_pixels=False, require_classes=False)
    except DataError as error:
        assert "stay empty" in str(error)
        return
    assert split["split"].notna().all()
    assert split.groupby("patient")["split"].nunique().max() == 1
    assert set(split["split"]) == ({"train", "test"} if len(ratios) == 2 else {"train", "val", "test"})
    assert_disjoint(split, check_pixels=False)


def test_same_seed_same_split_whatever_the_order_of_rows_and_the_names_of_patients():
    cases = clinic()
    before = cases.copy()
    first = split_cases(cases, seed=3, check_pixels=False)
    again = split_cases(cases.sample(frac=1, random_state=5), seed=3, check_pixels=False)
    assert split_hash(first) == split_hash(again)
    assert (first["split"] == again["split"][first.index]).all()
    renamed = cases.assign(patient=("zz" + cases["patient"].str[::-1]).astype("string"))
    assert split_hash(split_cases(renamed, seed=3, check_pixels=False)) == split_hash(first)
    assert split_hash(split_cases(cases, seed=4, check_pixels=False)) != split_hash(first)
    assert split_hash(first.assign(split=first["split"].mask(first["split"] == "val", "test"))) != split_hash(first)
    pd.testing.assert_frame_equal(cases, before)


def test_kfold_tests_each_case_once_with_enough_patients_of_each_class(shared_image):
    cases = clinic()
    tables = kfold_splits(cases, 5, val_ratio=0.2, check_pixels=False)
    tested = [case for fold in tables for case in fold.index[fold["split"] == "test"]]
    assert sorted(tested) == sorted(cases.index)
    for fold in tables:
        assert_disjoint(fold, check_pixels=False)
        counts = split_table(fold)
        assert (counts[["benign", "malignant"]] > 0).all(axis=None)
        assert counts.loc["val", "images"] == pytest.approx(0.2 * (len(cases) - counts.loc["test", "images"]), abs=8)
    cases = shared_image.loc[[*COPIES, "made/0001", "made/0002"]]
    assert len(kfold_splits(cases, 3, require_classes=False)) == 3
    with pytest.raises(DataError, match=r"4 folds need as many patients, and there are 3; ask for fewer folds"):
        kfold_splits(cases, 4, require_classes=False)
    cases = table([(f"b{i}", [0]) for i in range(10)] + [("m0", [1, 1, 1, 1]), ("m1", [1])])
    with pytest.raises(DataError, match=r"3 folds need as many patients of each class, and there are 2 malignant"):
        kfold_splits(cases, 3, check_pixels=False)
    assert len(kfold_splits(cases, 3, check_pixels=False, require_classes=False)) == 3
    assert len(kfold_splits(cases[:10], 3, check_pixels=False)) == 3, "a set of one class is no reason to stop"


def test_patients_that_share_an_image_stay_together_and_senseless_arguments_are_refused(shared_image, tmp_path):
    groups = pixel_groups(shared_image)
    assert groups[COPIES].nunique() == 1 and groups.nunique() == 10
    apart = 0
    for seed in range(6):
        split = split_cases(shared_image, (0.6, 0.4), seed=seed)
        assert split.loc[COPIES, "split"].nunique() == 1
        unchecked = split_cases(shared_image, (0.6, 0.4), seed=seed, check_pixels=False)
        if unchecked.loc[COPIES, "split"].nunique() > 1:
            apart += 1
            with pytest.raises(DataError, match="1 patients, alone or joined by a pixel-identical image"):
                assert_disjoint(unchecked)
    assert apart > 0
    for ratios in ((0.7, 0.2), (1.2, -0.2), (0.25, 0.25, 0.25, 0.25), (float("nan"), 0.5), (1.0,)):
        with pytest.raises(DataError, match="expected two or three numbers from 0 to 1 that sum to 1"):
            split_cases(clinic(), ratios, check_pixels=False)
    with pytest.raises(DataError, match="by='scanner' is not possible here"):
        split_cases(clinic(), by="scanner")
    for wrong in ({"folds": 1}, {"folds": 3, "val_ratio": 1}):
        with pytest.raises(DataError, match=r"folds is .*, val_ratio"):
            kfold_splits(clinic(), **wrong, check_pixels=False)
    (tmp_path / "0003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0003\.png: not a PNG"):
        split_cases(shared_image)


def official(patients: list[str], splits: list[str | None]) -> pd.DataFrame:
    return table([(patient, [0]) for patient in patients]).assign(split=pd.array(splits, dtype="string"))


def test_an_official_split_is_used_as_published_and_one_by_image_marked_and_refused():
    cases = official([*"abc"], ["train", "test", "test"])
    split = official_split(cases)
    assert split["split"].tolist() == ["train", "test", "test"] and set(split["split_by"]) == {"official"}
    assert split_hash(split_cases(cases, by="official")) == split_hash(cases)
    split = split_cases(clinic(), by="image")
    assert set(split["split_by"]) == {"image"}
    assert len(shared_groups(split, check_pixels=False)) > 5, "patients must really be on both sides"
    with pytest.raises(DataError, match="made by image"):
        assert_disjoint(split, check_pixels=False)
    assert_disjoint(split, check_pixels=False, allow_leaky=True)


@pytest.mark.parametrize(
    ("patients", "splits", "message"),
    [
        ("abc", [None, None, None], "found none; expected two or more"),
        ("abc", ["train", None, "test"], "1 of 3 cases have none"),
        (["Mrs Smith", "Mrs Smith", "b"], ["train", "test", "test"], r"1 patients are .* c000-0 in train, c001-0 in test"),
    ],
)
def test_official_split_that_is_none_or_has_a_patient_on_both_sides(patients, splits, message):
    with pytest.raises(DataError, match=message) as error:
        official_split(official([*patients], splits))
    assert "Smith" not in str(error.value)


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
