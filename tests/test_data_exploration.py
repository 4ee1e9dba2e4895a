"""Notebook 01: tables and figures show the numbers of the data, and nothing is left open behind."""

import numpy as np
import pandas as pd
import pytest
from drawn import bars, ticks, titles

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.data.splits import split_cases
from thyroid_utils.data.table import label_names, make_cases, measure_cases
from thyroid_utils.plots import data_exploration as plots
from thyroid_utils.studies import data_exploration as study
from thyroid_utils.studies.preprocessing import outlined


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """12 frames of 60×48 from 8 patients: 4 benign, 6 malignant, 2 unlabelled; a dark disc on noise is the nodule."""
    folder, random = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    y, x = np.ogrid[:48, :60]
    files = []
    for number in range(12):
        mask = (y - 24) ** 2 + (x - 25 - number) ** 2 < (5 + number % 4) ** 2
        image = (random.integers(80, 140, (48, 60)) // (1 + mask)).astype(np.uint8)
        paths = write_png(folder / f"{number}.png", image), write_png(folder / f"{number}_mask.png", mask)
        files.append(dict(zip(("image", "mask"), map(str, paths), strict=True)))
    table = pd.DataFrame(files).assign(
        case=[f"drawn/{n}" for n in range(12)], label=[0] * 4 + [1] * 6 + [pd.NA] * 2, dataset="drawn",
        patient=[f"patient-{n * 2 // 3}" for n in range(12)], pane=["left", "right"] * 6, shape=["wide"] * 6 + ["tall"] * 6,
        tirads=["2", "2", "3", "3", "4a", "4a", "4b", "4b", "5", "5", pd.NA, pd.NA],
    )  # fmt: skip
    return make_cases(table.to_dict("records"))


@pytest.fixture(scope="module")
def simulated():
    return phantom_cases(patients=4, size=96, views=(2, 2))


def test_bars_are_the_counts_beside_tables_sizes_areas_and_intensities(cases):
    first, views, pane = plots.counts(cases, "pane").axes
    assert bars(first)[::2] == [4, 6, 2] and sum(bars(pane)) == len(cases)
    assert sum(patch.get_height() for patch in views.patches) == cases["patient"].nunique()
    assert sum(bars(plots.tirads(cases).axes[0])) == len(cases)
    assert plots.tirads(cases.drop(columns="tirads")) is None
    images, patients = plots.split_bars(split_cases(cases, (0.5, 0.5), require_classes=False)).axes
    assert sum(bars(images)) == len(cases) and sum(bars(patients)) == cases["patient"].nunique()
    audit = audit_cases(cases)
    splits = {rule: [split_cases(cases, (0.5, 0.5), by=rule, seed=seed) for seed in (0, 1)] for rule in ("patient", "image")}
    table = study.exposure(splits, audit.clusters)
    axes = plots.exposure_bars(table).axes[0]
    assert bars(axes) == pytest.approx([100 * share for share in table["mean"]])
    assert table.set_index(["split by", "training holds"]).loc[("patient", "same patient"), "highest"] == 0
    shown = titles(plots.gallery(cases, each=2))
    assert cases.loc[[title.split("\n")[0] for title in shown[:4]], "patient"].nunique() == 4
    images = pd.DataFrame({"callipers": [0] * 4 + [2, 2] + [0] * 6, "text_regions": [3] * 12}, index=cases.index)
    marks = study.marks_by_class(cases, images)
    assert marks.at["malignant", "with callipers, %"].startswith("40 [12, 77]"), "two of five patients"
    counts = study.class_counts(cases)
    assert counts.loc["all"].tolist() == [12, 8, 12] and counts.loc["malignant", "images"] == 6
    measured = study.measures_by_class(measure_cases(cases), cases)
    assert measured.loc["benign", "patients"] == 3 and "[" in measured.loc["benign", "area, % of frame"]
    traits = study.malignant_by_trait(cases)
    assert traits["patients"].sum() == cases[cases["label"].notna()]["patient"].nunique()
    measures = measure_cases(cases)
    sizes = plots.frame_sizes(measures.table, cases).axes[0]
    assert sorted(bars(sizes)) == [2, 4, 6] and "(12 images)" in sizes.get_title(loc="left")
    assert ticks(plots.frame_sizes(measures.table.assign(width=range(100, 112)), cases).axes[0])[-1] == "others"
    areas = plots.areas_and_positions(measures, label_names(cases))
    for axes, name in zip(areas.axes[1:], ["benign", "malignant", "unlabelled"], strict=False):
        np.testing.assert_allclose(axes.images[0].get_array(), 100 * measures.positions[name])
    assert len(plots.intensities(measures).axes) == 3
    bare = cases.assign(mask=pd.NA)
    measures = measure_cases(bare)
    assert plots.areas_and_positions(measures, label_names(bare)) is None and plots.intensities(measures) is None
    with pytest.raises(DataError, match="none of 12 images has an outline"):
        outlined(bare)


def test_findings_show_what_the_audit_names(cases, simulated, tmp_path):
    doubled = cases.copy()
    doubled.loc["drawn/5", "image"] = doubled.at["drawn/0", "image"]  # another patient's picture
    specked = np.zeros((48, 60), bool)
    specked[10:30, 10:30] = specked[40, 50] = True
    doubled.loc["drawn/1", "mask"] = str(write_png(tmp_path / "specked.png", specked))
    audit = audit_cases(doubled)
    shown = titles(plots.identical_images(doubled, audit))
    assert [title.split("\n")[0] for title in shown] == ["drawn/0", "drawn/5"]
    figure = plots.mask_problems(doubled, audit)
    assert len(titles(figure)) == 1 and titles(figure)[0].startswith("drawn/1\nspecks, ")
    assert len(figure.axes[0].patches) == 1, "a box around pixels that may be too few to be seen"
    assert plots.identical_images(cases, audit_cases(cases)) is None
    audit = audit_cases(simulated)
    shown = titles(plots.near_identical_images(simulated, audit))
    assert any("same patient" in title for title in shown)
    assert all("text regions" in title for title in titles(plots.burned_in_marks(simulated, audit)))


def test_what_training_has_seen_and_two_outlines_of_one_picture_by_hand(tmp_path):
    columns = {"patient": list("112345"), "split": ["train", "test", "train", "test", "test", "val"], "dataset": "drawn"}
    rows = pd.DataFrame({"case": list("abcdef"), "image": "a.png", **columns}).to_dict("records")
    clusters = pd.Series([0, 1, 2, 2, 3, 3], index=list("abcdef"))  # c and d are copies; e and f too, but f is in validation
    seen = study.seen_in_training(make_cases(rows), clusters)
    assert seen.loc["b"].tolist() == [True, False, True] and seen.loc["d"].tolist() == [False, True, True]
    assert not seen.loc["e"].any() and list(seen) == ["same patient", "near-identical image", "either"]
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[0, :3], b[0, 1:4] = True, True  # three pixels each, two shared: 2·2 / 6
    masks = [str(write_png(tmp_path / "a.png", a)), str(write_png(tmp_path / "b.png", b)), pd.NA]
    table = pd.DataFrame({"case": list("abc"), "image": "same.png", "patient": list("abc"), "dataset": "drawn", "mask": masks})
    found = study.outline_agreement(make_cases(table.to_dict("records")), pd.DataFrame({"cases": [["a", "b", "c"]]}))
    assert found.to_dict("records") == [{"a": "a", "b": "b", "dice": pytest.approx(2 / 3)}]
    assert study.outline_agreement(cases, pd.DataFrame({"cases": []})).empty


def test_ddti_outlines_of_the_same_picture_differ_and_its_frames_stand_beside_phantoms(real_data, tmp_path):
    simulated, real = study.simulated_and_real("phantom", real_data, "the phantoms")
    assert simulated == "the phantoms" and len(real) == 543
    assert study.simulated_and_real("phantom", "", "the phantoms") == ("the phantoms", None)
    with pytest.raises(DataError, match="DATA_ROOT holds no DDTI"):
        study.simulated_and_real("phantom", tmp_path, None)
    found = study.outline_agreement(real, pd.DataFrame({"cases": [["ddti/332", "ddti/389"]]}))
    assert 0.5 < found.at[0, "dice"] < 0.99


def test_majority_columns_and_the_answer_say_what_is_there_and_no_name(cases, simulated):
    assert "right on 60 % of 10 labelled images" in study.majority(cases)
    assert "none" in study.majority(cases.assign(label=pd.NA))
    told = study.columns(simulated.assign(patient_name="Anna M", remark=range(len(simulated))))
    assert told.loc["patient_name", "different values"] == 1 and told.loc["remark", "different values"] == len(simulated)
    assert "Anna" not in told.to_string() and not {"image", "mask", "patient"} & {*told.index}
    cases, audit = simulated, audit_cases(simulated)
    split = cases.assign(split="test")
    none = audit.leaks(split)
    told = study.answer(cases, audit, split, none)
    assert told.startswith(f"The set holds {len(cases)} images, {cases['patient'].nunique()} patients, ")
    assert "no known patient and no copy lies on two sides; the test holds 2 malignant patients and 2 benign" in told
    # Wilson's interval of two of two
    assert told.endswith("would be known to [34 %, 100 %], so differences between networks will hardly show.")
    unknown = cases.assign(patient_known=False, label=pd.NA)
    unknown.attrs["notes"] = [{"problem": "2 images outside left out (anna/)"}]
    told = study.answer(unknown, audit, unknown.assign(split="test"), none.iloc[:0])
    assert "patients unknown, none labelled" in told and "2 images outside left out" in told and "anna" not in told
    assert "no test patient of" in told
    one_class = cases.assign(label=1, split="test")
    told = study.answer(one_class, audit, one_class, pd.DataFrame({"kind": ["patient"]}))
    assert "1 leak across the split; this split cannot test a classifier" in told and "are malignant" in told
