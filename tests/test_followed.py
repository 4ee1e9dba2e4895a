"""One case in numbers, from its files to a side of the split and through a pipeline: by hand."""

import cv2
import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.words import number
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import ring_around, write_png
from thyroid_utils.data.table import measure_cases
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.scores.probabilities import Platt
from thyroid_utils.studies.followed import first_test_case, steps_to_call, through_steps, through_table

MASK = np.zeros((40, 60), bool)
MASK[10:20, 20:40] = True


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> pd.DataFrame:
    """Three images of two patients, a nodule of 200 pixels at 50 on 80 to 120; the last without a mask."""
    folder, rows = tmp_path_factory.mktemp("frames"), []
    for name, patient, side in (("b", "one", "test"), ("a", "one", "train"), ("c", "two", "test")):
        image = np.random.default_rng(ord(name)).integers(80, 120, MASK.shape, np.uint8)
        image[MASK] = 50
        write_png(folder / f"{name}.png", image)
        write_png(folder / "mask.png", MASK)
        rows.append({"case": name, "image": str(folder / f"{name}.png"), "mask": str(folder / "mask.png"), "label": 1,
                     "patient": patient, "split": side, "patient_known": True})  # fmt: skip
    rows[-1] |= {"mask": pd.NA, "label": pd.NA}
    return pd.DataFrame(rows).set_index("case")


def test_a_case_is_followed_from_its_files_to_its_side_and_names_no_patient(split):
    assert first_test_case(split) == "b" and first_test_case(split.query("split == 'train'")) == "a"
    measures, audit = measure_cases(split), audit_cases(split)
    told = through_table(split, measures, audit, "b")["b"]
    image = cv2.imread(split.at["b", "image"], cv2.IMREAD_GRAYSCALE)
    around = image[ring_around(MASK)].mean().round(1)
    assert told["file: the frame"] == f"60 × 40 pixels, mean gray {image.mean():.1f}"
    assert told["file: the outline"] == "200 pixels, 8.3 % of the frame"
    assert told["mean gray inside − around"] == f"50.0 − {around} = {number(50 - around, 1)}"
    assert told["its row of the table: the label"] == "malignant" and told["its side"] == "test"
    assert told["images of its patient"] == "1 in test, 1 in train" and "one" not in " ".join(told)
    bare = through_table(split, measures, audit, "c")["c"]
    assert "file: the outline" not in bare and bare["its row of the table: the label"] == "unlabelled"


def test_each_step_leaves_its_numbers_inside_and_around_the_outline(split):
    table = through_steps(build_pipeline(["gray", {"resize": {"size": [20, 30]}}, "scale"]), split.loc["b"])
    assert list(table.index) == ["0. input", "1. gray", "2. resize", "3. scale"]
    assert list(table["pixels"]) == ["60 × 40", "60 × 40", "30 × 20", "30 × 20"]
    image = cv2.imread(split.at["b", "image"], cv2.IMREAD_GRAYSCALE)
    first, resized, last = table.iloc[0], table.iloc[2], table.iloc[3]
    assert (first["lowest"], first["highest"], first["mean inside"], first["SD inside"]) == (50, image.max(), 50, 0)
    assert first["SD around"] == pytest.approx(image[ring_around(MASK)].std())
    for name in ("mean", "highest", "mean around", "SD around"):
        assert last[name] == pytest.approx(resized[name] / 255), name
    assert "SD inside" not in through_steps(build_pipeline("plain"), split.loc["c"])


def test_the_steps_to_a_call_are_sums_a_reader_can_do_again():
    told = list(steps_to_call([2.0, -1.0], [Platt(0.5, 0.0), Platt(2.0, 1.0)], threshold=0.5).values())
    sums = "0.00 + 0.50 × 2.0000 = 1.00; 1.00 + 2.00 × −1.0000 = −1.00"
    assert told == ["2.0000; −1.0000", sums, "0.00", "0.50", "malignant: 0.50 ≥ 0.50"]
    assert steps_to_call([2.0], [Platt(1.0, 0.0)], threshold=0.9)["called"] == "benign: 0.88 < 0.90"
    near = steps_to_call([0.0], [Platt(1.0, 0.0)], threshold=0.5004)["called"]
    assert near == "benign: 0.5000 < 0.5004", "decimals enough to see why"
