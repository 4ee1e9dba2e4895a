"""A data set with the split of notebook 04, written for other programs: nnU-Net's folders, or COCO's files; or its marked cases
for a reader who is to label them anew.

Cases are named by their ids, as `PREDICTIONS` reads them back. In folds nnU-Net has every image in `imagesTr`, the training and
validation side of each fold in `splits_final.json`, and in `imagesTs_fold_k` the images that fold k tests, which its network
alone may answer; else `imagesTs` has the test side.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.common.files import csv_text, write_text
from thyroid_utils.common.progress import in_threads, progress_bar
from thyroid_utils.common.words import count
from thyroid_utils.data.images import read_gray, read_image, read_mask, write_png
from thyroid_utils.data.readers import check_options, load_cases
from thyroid_utils.studies.compare import comparison_configs, shared_settings
from thyroid_utils.studies.predictions import file_name
from thyroid_utils.studies.review_marks import COLUMNS, READ, REVIEW, marks_of
from thyroid_utils.training.data import SplitData, split_data
from thyroid_utils.training.tasks import SIDES
from thyroid_utils.workbook.parameters import ParameterFile, declared_parameters, parameters_by_notebook, read_parameter_file

NOTEBOOK = "04_segmenter_comparison"
NUMBER = 900  # of nnU-Net's data set; those of its authors are lower


def export_dataset(
    dataset: str,
    root: Path | None,
    kind: str,
    out: Path,
    settings: Sequence[str] = (),
    params: Path | None = None,
    review: Path | None = None,
) -> str:
    """Write a data set and its split into a new or empty folder and say what was written.

    Args:
        dataset, root: as in `load_cases`.
        kind: "nnunet" or "coco".
        settings: `NAME=VALUE` as `run` takes them, such as `FOLDS=5`; they and the values of `params`, a parameter file, make the
            split that notebook 04 makes of them.
        review: a `review.csv`: its cases alone are written, to be labelled anew, and no split is made.

    Raises:
        ParameterError: settings that cannot be, or a folder that holds something or lies in that of the data.
        DataError: the data cannot be read or split, or two case ids make one file name.
    """
    check_options(dataset, {})
    if root is None and dataset != "phantom":
        raise ParameterError(f"export-dataset: no folder given; name that of the data after {dataset}")
    if kind not in KINDS:
        raise ParameterError(f"export-dataset: --format {kind}; expected {' or '.join(KINDS)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ParameterError(f"export-dataset: {out} is there and not an empty folder; give a new or an empty one")
    if root and root.resolve() in out.resolve().parents:
        raise ParameterError(f"export-dataset: {out} lies in the folder of the data, which stays as it is; give another")
    file = read_parameter_file(params) if params else ParameterFile(Path("export-dataset"), "")
    source = {"DATASET": dataset, "DATA_ROOT": str(root.absolute()) if root else ""}
    given = parameters_by_notebook(replace(file, common=file.common | source), settings)[NOTEBOOK]
    if told := [name for name in source if given[name] != source[name]]:
        raise ParameterError(f"export-dataset: {told[0]} is told twice, and not alike; leave it to the command's arguments")
    declared = declared_parameters(paths.notebooks_dir() / f"{NOTEBOOK}.ipynb")
    values = {name: parameter.default for name, parameter in declared.items()} | given
    if review is not None:
        return _to_label_anew(out, load_cases(dataset, root, **values["DATA_OPTIONS"]), review)
    configs = comparison_configs(values["MODELS"][:1], values["SEEDS"][:1], shared_settings(values, "segmentation"))
    tables = [split_data(config) for config in configs]
    cases, left_out = tables[0].cases, count(tables[0].left_out, "image")
    if cases.index.map(file_name).has_duplicates:
        raise DataError("export-dataset: two case ids make one file name; let them differ in letters or digits")
    try:
        KINDS[kind](out, dataset, tables)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    sides = "; ".join(", ".join(f"{len(table.positions(side))} {side}" for side in SIDES) for table in tables)
    written = f"{count(len(cases), 'image')} of {count(cases['patient'].nunique(), 'patient')} ({sides})"
    return f"{out}: {written}\nleft out: {left_out} without a mask\npatients: {tables[0].patients}"


def _to_label_anew(out: Path, cases: pd.DataFrame, review: Path) -> str:
    """Frames and outlines of marked cases under their ids, and a `review.csv` without labels for a reader to fill in."""
    marked = marks_of(str(review.absolute()), cases).drop_duplicates("case")
    if marked.empty:
        raise DataError(f"export-dataset: no mark in {review} is of these images; name their data set as its report did")
    for case in marked["case"]:
        write_png(out / "images" / f"{file_name(case)}.png", read_image(cases.at[case, "image"]))
        if pd.notna(cases.at[case, "mask"]):
            write_png(out / "outlines" / f"{file_name(case)}.png", read_mask(cases.at[case, "mask"]))
    form = marked.assign(kind=READ, value="", note="", reader="", time="").sort_values("image")[list(COLUMNS)]
    write_text(out / REVIEW, csv_text(form, index=False))
    told = f"fill in value (benign or malignant) and reader in {REVIEW}, and name it as REVIEW in notebooks 01, 03 and 07"
    return f"{out}: {count(len(marked), 'marked image')}\n{told}\nlook for names in the pictures before you pass them on"


def _nnunet(out: Path, dataset: str, tables: Sequence[SplitData]) -> None:
    folder, cases, folded = f"Dataset{NUMBER}_{dataset}", tables[0].cases, len(tables) > 1
    raw, trained = out / "nnUNet_raw" / folder, cases.index if folded else cases.index[cases["split"] != "test"]
    files = [("Tr", case) for case in trained]
    for at, table in enumerate(tables):
        files += [(f"Ts_fold_{at}" if folded else "Ts", case) for case in cases.index[table.positions("test")]]

    def write(file: tuple[str, str]) -> None:
        side, case = file
        write_png(raw / f"images{side}" / f"{file_name(case)}_0000.png", read_gray(cases.at[case, "image"]))
        write_png(raw / f"labels{side}" / f"{file_name(case)}.png", read_mask(cases.at[case, "mask"]).astype(np.uint8))

    in_threads(write, files, progress=progress_bar("Writing images"))
    labels = {"background": 0, cases["target"].iloc[0]: 1}
    told = {"channel_names": {"0": "ultrasound"}, "labels": labels, "numTraining": len(trained), "file_ending": ".png"}
    write_text(raw / "dataset.json", json.dumps(told))
    splits = [{side: [*map(file_name, cases.index[table.positions(side)])] for side in ("train", "val")} for table in tables]
    write_text(out / "nnUNet_preprocessed" / folder / "splits_final.json", json.dumps(splits))


def _coco(out: Path, dataset: str, tables: Sequence[SplitData]) -> None:
    cases = tables[0].cases

    def write(at: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        frame, mask, name = read_gray(cases["image"].iloc[at]), read_mask(cases["mask"].iloc[at]), file_name(cases.index[at])
        write_png(out / "images" / f"{name}.png", frame)
        image = {"id": at + 1, "file_name": f"{name}.png", "height": frame.shape[0], "width": frame.shape[1]}
        return image, [{"image_id": at + 1, "category_id": 1, "iscrowd": 0, **nodule} for nodule in _instances(mask)]

    found = in_threads(write, range(len(cases)), progress=progress_bar("Writing images"))
    for number, annotation in enumerate((own for _, several in found for own in several), 1):
        annotation["id"] = number
    categories = [{"id": 1, "name": cases["target"].iloc[0]}]
    for fold, table in enumerate(tables):
        for side in SIDES:
            parts = [found[at] for at in table.positions(side)]
            told = {"images": [image for image, _ in parts], "annotations": [own for _, several in parts for own in several]}
            name = f"fold_{fold}_{side}.json" if len(tables) > 1 else f"{side}.json"
            write_text(out / name, json.dumps({**told, "categories": categories}))


def _instances(mask: np.ndarray) -> Iterator[dict[str, Any]]:
    """`bbox` (left, top, width, height), `area` and `segmentation` of each 8-connected part: run lengths, column by column."""
    parts, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for part in range(1, parts):
        flat, (*box, area) = (labels == part).ravel(order="F"), boxes[part].tolist()
        runs = np.diff([0, *np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
        yield {"bbox": box, "area": area, "segmentation": {"size": list(mask.shape), "counts": [0] * bool(flat[0]) + runs}}


KINDS = {"nnunet": _nnunet, "coco": _coco}
