"""A split data set written for nnU-Net and as COCO, read back by the formats' own rules."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import disc_cases
from training_project import with_cases

from thyroid_utils.data.images import read_gray, read_image, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.studies.review_marks import Marks, image_code, marks_of, second_labels
from thyroid_utils.workbook.cli import main

SPLIT = ("--set", "RATIOS=[0.6, 0.2, 0.2]")


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pd.DataFrame:
    """Sixteen patients; three images have no mask, and one has two nodules, one of them in the corner."""
    found = disc_cases(tmp_path_factory.mktemp("discs"), images=32).assign(target="nodule", patient_known=True)
    found.loc[["000", "001", "002"], "mask"] = pd.NA
    found.index = pd.Index("discs/" + found.index, name="case")
    return found


@pytest.fixture
def exported(cases, monkeypatch, tmp_path, capsys):
    with_cases(monkeypatch, cases)

    def run(*options: str, code: int = 0, dataset: str = "phantom") -> tuple[Path, str]:
        assert main(["export-dataset", dataset, "--out", str(tmp_path / "out"), *options]) == code
        told = capsys.readouterr()
        return tmp_path / "out", told.err if code else told.out

    return run


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_nnunet_has_each_fold_by_patient_and_its_test_images_apart(exported, cases, tmp_path):
    (tmp_path / "own.yaml").write_text("common: {FOLDS: 3, RATIOS: [0.5, 0.1, 0.4]}\n04_segmenter_comparison: {SEEDS: [3]}\n")
    out, told = exported("--params", str(tmp_path / "own.yaml"), *SPLIT)
    raw, splits = out / "nnUNet_raw/Dataset900_phantom", json.loads(
        (out / "nnUNet_preprocessed/Dataset900_phantom/splits_final.json").read_text()
    )  # fmt: skip
    names = {case.replace("/", "_"): case for case in cases.index[3:]}
    assert (
        "29 images of 15 patients (" in told
        and "patients: as the data set names them" in told
        and "left out: 3 images without a mask" in told
    )
    assert stems(raw / "labelsTr") == set(names) and stems(raw / "imagesTr") == {f"{name}_0000" for name in names}
    expected = {"channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "nodule": 1}, "numTraining": 29}
    assert json.loads((raw / "dataset.json").read_text()) == {**expected, "file_ending": ".png"}
    tested = []
    for fold, sides in enumerate(splits):
        parts = [sides["train"], sides["val"], sorted(stems(raw / f"labelsTs_fold_{fold}"))]
        assert stems(raw / f"imagesTs_fold_{fold}") == {f"{name}_0000" for name in parts[2]}
        assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted(names)
        patients = [set(cases.loc[[names[name] for name in part], "patient"]) for part in parts]
        assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
        tested += parts[2]
    assert sorted(tested) == sorted(names) and len(splits) == 3
    for name, case in names.items():
        label = read_image(raw / "labelsTr" / f"{name}.png")
        assert set(np.unique(label)) <= {0, 1} and (label == read_mask(cases.at[case, "mask"])).all()
        assert (read_image(raw / "imagesTr" / f"{name}_0000.png") == read_gray(cases.at[case, "image"])).all()


def test_of_one_split_nnunet_trains_on_what_is_not_tested(exported):
    out, _ = exported(*SPLIT)
    raw, (split,) = out / "nnUNet_raw/Dataset900_phantom", json.loads(next(out.glob("*/*/splits_final.json")).read_text())
    tested = stems(raw / "labelsTs")
    assert stems(raw / "labelsTr") == {*split["train"], *split["val"]} and not tested & stems(raw / "labelsTr")
    assert len(tested | stems(raw / "labelsTr")) == 29 and json.loads((raw / "dataset.json").read_text())["numTraining"] < 29


def test_coco_has_a_box_and_the_pixels_of_each_nodule(exported, cases):
    out, _ = exported("--format", "coco", *SPLIT)
    files = {side: json.loads((out / f"{side}.json").read_text()) for side in ("train", "val", "test")}
    images = [image for file in files.values() for image in file["images"]]
    found = [each for file in files.values() for each in file["annotations"]]
    for entries in (images, found):
        assert len({entry["id"] for entry in entries}) == len(entries) >= 29
    for image in images:
        case = Path(image["file_name"]).stem.replace("_", "/")
        mask, drawn = read_mask(cases.at[case, "mask"]), np.zeros((image["height"], image["width"]), bool)
        for each in (each for each in found if each["image_id"] == image["id"]):
            runs = each["segmentation"]["counts"]
            nodule = np.repeat(np.arange(len(runs)) % 2, runs).reshape(drawn.shape, order="F").astype(bool)
            (left, top, width, height), (rows, columns) = each["bbox"], np.nonzero(nodule)
            assert (columns.min(), rows.min()) == (left, top) and each["area"] == nodule.sum() and each["iscrowd"] == 0
            assert (columns.max(), rows.max()) == (left + width - 1, top + height - 1)
            drawn |= nodule
        assert (drawn == mask).all() and (out / "images" / image["file_name"]).is_file()
    assert all(file["categories"] == [{"id": 1, "name": "nodule"}] for file in files.values())
    assert all(each["segmentation"]["size"] for each in found)


@pytest.mark.parametrize("dataset, options, told", [
    ("phantom", ("--format", "yolo"), "--format yolo; expected nnunet or coco"),
    ("phantom", ("--set", "FOLDS=99"), "FOLDS of"),
    ("phantom", ("--set", "RATIO=[1]"), "RATIO is no parameter of any notebook"),
    ("ddit", (), "unknown data set 'ddit'; did you mean ddti?"),
    ("ddti", (), "no folder given; name that of the data after ddti"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(exported, dataset, options, told):
    out, error = exported(*options, code=2, dataset=dataset)
    assert told in error and not out.exists()


def test_a_folder_that_holds_something_and_alike_names_are_refused_and_a_failure_leaves_nothing(
    exported, cases, monkeypatch, tmp_path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    out, error = exported(code=2)
    assert "not an empty folder" in error and [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    with_cases(monkeypatch, cases.rename(index={"discs/030": "discs_031"}))
    assert "two case ids make one file name" in exported(code=2)[1]
    with_cases(monkeypatch, cases)
    monkeypatch.setattr("thyroid_utils.workbook.export.read_gray", lambda file: read_gray(f"{file}.gone"))
    assert "gone" in exported(code=2)[1] and not out.exists()


def test_marked_cases_go_to_a_reader_without_their_labels_and_come_back_as_second_ones(tmp_path, capsys):
    options = {"patients": 3, "size": 64, "views": [1, 1]}
    cases, marks = load_cases("phantom", **options), Marks(tmp_path / "review.csv")
    out, asked = tmp_path / "out", ["export-dataset", "phantom", "--set", f"DATA_OPTIONS={options}", "--review", str(marks.path)]
    marks.add("x", "image-0123456789", "outline poor", "ABC")
    assert main([*asked, "--out", str(out)]) == 2 and "is of these images" in capsys.readouterr().err and not out.exists()
    for case in cases.index[:2]:
        marks.add(case, image_code(cases.at[case, "image"]), "label wrong", "ABC", "benign")
    assert main([*asked, "--out", str(out)]) == 0 and "2 marked images" in capsys.readouterr().out
    names = {case.replace("/", "_") for case in cases.index[:2]}
    assert stems(out / "images") == stems(out / "outlines") == names
    text = (out / "review.csv").read_text()
    assert "benign" not in text and "ABC" not in text and marks_of(str(out / "review.csv"), cases).empty
    (out / "review.csv").write_text(text.replace("label read,,,,", "label read,malignant,,XYZ,"))
    assert second_labels(marks_of(str(out / "review.csv"), cases)).to_dict() == dict.fromkeys(cases.index[:2], 1)
