"""Stanford's cine-clips: frames that are read out of one HDF5 file, whose clips stay whole."""

import h5py
import numpy as np
import pandas as pd
import pytest
from made_pictures import picture, refusal

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.common.files import file_hashes
from thyroid_utils.data.audit import audit_cases, pixel_hashes
from thyroid_utils.data.check import check_dataset
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import assert_disjoint, split_cases
from thyroid_utils.data.videos import recover_patients
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.preprocess.store import preprocessed

CLIPS = ["12_"] * 3 + ["7_1"] * 2 + ["7_2"] * 2 + ["30_"] * 3
METADATA = """annot_id,histopath_diagnosis,age,sex,size_x,ti-rads_composition,ti-rads_level
12_,0,45,F,1.5,solid,3.0
7_1,1,60,M,1,solid,5
7_2,0,60,M,1,cystic,2
30_,1,,F,1,,4
"""
IMAGES = np.stack([picture(seed)[:40, :60] for seed in range(len(CLIPS))])
MASKS = np.zeros_like(IMAGES)
for number, mask in enumerate(MASKS):
    mask[10 : 20 + number, 15:40] = 255


def write(folder, **arrays):
    """`dataset.hdf5` of ten frames of four clips; an array that is None is left out."""
    numbers = [str(CLIPS[:place].count(clip) + 1).encode() for place, clip in enumerate(CLIPS)]
    told = {"image": IMAGES, "mask": MASKS, "annot_id": np.array(CLIPS, "S"), "frame_num": np.array(numbers)} | arrays
    with h5py.File(folder / "dataset.hdf5", "w") as file:
        for name, values in told.items():
            if values is not None:
                file[name] = values


@pytest.fixture
def stanford(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "stanford").mkdir()
    write(tmp_path / "stanford")
    (tmp_path / "stanford" / "metadata.csv").write_text(METADATA)
    return tmp_path / "stanford"


def test_frames_of_clips_with_what_the_metadata_tell(stanford):
    cases = load_cases("stanford", stanford.parent)
    assert cases.index[[0, 9]].tolist() == ["stanford/12_/00000", "stanford/30_/00009"]
    assert cases["clip"].tolist() == CLIPS and cases["frame"].tolist() == [1, 2, 3, 1, 2, 1, 2, 1, 2, 3]
    patients = ["stanford-12"] * 3 + ["stanford-7"] * 4 + ["stanford-30"] * 3
    assert cases["patient"].tolist() == patients and cases["patient_known"].all()
    assert cases["label"].tolist() == [0] * 3 + [1] * 2 + [0] * 2 + [1] * 3
    assert cases.iloc[0][["age", "sex", "size_x", "tirads", "composition"]].tolist() == [45, "F", 1.5, "3", "solid"]
    assert cases["age"].isna().sum() == 3 and cases["foci"].isna().all()
    for place, (image, mask) in enumerate(zip(cases["image"], cases["mask"], strict=True)):
        assert np.array_equal(read_image(image), IMAGES[place])
        assert np.array_equal(read_mask(mask, IMAGES[0].shape, image), MASKS[place] > 0)
    assert sorted(path.name for path in stanford.iterdir()) == ["dataset.hdf5", "metadata.csv"]
    assert load_cases("stanford", stanford, every=2).index.str[-1].tolist() == ["0", "2", "3", "5", "7", "9"]


def test_a_frame_is_hashed_audited_checked_and_preprocessed_like_a_file(stanford, monkeypatch):
    cases, read = load_cases("stanford", stanford), []
    monkeypatch.setattr("thyroid_utils.common.files.file_hash", lambda path: read.append(path) or "f" * 64)
    assert file_hashes(cases["image"])[cases["image"].iloc[4]] == "f" * 64 + "::image[4]" and len(read) == 1
    audit = audit_cases(cases)
    assert audit.images["readable"].all() and recover_patients(cases, audit).cases["patient"].equals(cases["patient"])
    report = check_dataset("stanford", stanford)
    assert report.ok and report.summary["formats"] == "HDF5 (10)" and report.summary["patients"] == 3
    store = preprocessed(cases, build_pipeline(["gray", {"resize": {"size": 32}}, "scale"]))
    assert store.images.shape == (10, 1, 32, 32) and store.masks.any(axis=(1, 2)).all()
    before = pixel_hashes(cases)
    write(stanford, image=IMAGES[::-1])
    assert pixel_hashes(cases).tolist() == before[::-1].tolist(), "a file that is another by its date is read again"


def test_clips_stay_on_one_side_and_one_on_both_is_refused(stanford):
    cases = load_cases("stanford", stanford)
    for seed in range(3):
        split = split_cases(cases, (0.5, 0.5), by="patient", seed=seed, require_classes=False)
        assert split.groupby("clip")["split"].nunique().eq(1).all()
    with pytest.raises(DataError, match="stanford/7_1/00003"):
        assert_disjoint(cases.assign(split=pd.array(["train"] * 4 + ["test"] * 6, dtype="string")))


def test_ids_without_a_number_in_front_folders_with_braces_and_clips_without_a_row(stanford):
    folder = stanford.rename(stanford.with_name("x{a}y"))
    write(folder, annot_id=np.array(["_3"] * 5 + ["_4"] * 2 + ["30_"] * 3, "S"))
    (folder / "metadata.csv").write_text("annot_id,histopath_diagnosis\n_3,0\n_4,1\n")
    cases = load_cases("stanford", folder)
    assert cases["patient"].tolist() == ["stanford-_3"] * 5 + ["stanford-_4"] * 2 + ["stanford-30"] * 3
    assert cases["image"].iloc[4] == f"{folder}/dataset.hdf5::image[4]" and cases["label"].isna().sum() == 3
    assert [note["problem"] for note in cases.attrs["notes"]] == ["no row for 1 of 3 clips (30_): no label"]


UNFIT = "its arrays are not as published"
FAULTS = [
    ({"mask": None}, "found: dataset.hdf5 without mask; published at"),
    ({"mask": MASKS[:4]}, UNFIT),
    ({"image": IMAGES.astype(np.float32)}, UNFIT),
    ({"annot_id": np.array(CLIPS[:9], "S")}, UNFIT),
    ({"annot_id": np.array(["12_"] * 10, "S")}, "metadata.csv: 3 rows have no image file (7_1, 7_2, 30_)"),
]


@pytest.mark.parametrize(("arrays", "told"), FAULTS)
def test_a_file_without_what_is_published_is_refused(stanford, arrays, told):
    write(stanford, **arrays)
    assert told in refusal("stanford", stanford)


def test_a_truncated_file_a_missing_table_and_an_impossible_option_are_refused(stanford):
    image, file = load_cases("stanford", stanford)["image"].iloc[9], stanford / "dataset.hdf5"
    with pytest.raises(ImageError, match=r"image\[99\] cannot be read"):
        read_image(image.replace("[9]", "[99]"))
    assert "every is 0; expected a whole number" in refusal("stanford", stanford, every=0)
    (stanford / "metadata.csv").unlink()
    assert "expected metadata.csv (annot_id,histopath_diagnosis)" in refusal("stanford", stanford)
    file.write_bytes(file.read_bytes()[:3000])
    assert "dataset.hdf5: damaged or truncated" in refusal("stanford", stanford)
    with pytest.raises(ImageError, match=r"image\[9\] cannot be read .*truncated"):
        read_image(image)
