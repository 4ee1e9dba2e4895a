"""Masks and probabilities that were made elsewhere, beside finished runs on discs, against the same numbers by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import disc_cases, project
from training_project import with_cases

from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.data.images import read_image, read_mask, write_png
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.plots.classifier_comparison import roc_and_pr
from thyroid_utils.plots.segmenter_comparison import side_by_side
from thyroid_utils.scores.comparisons import compare_answers, compare_means
from thyroid_utils.scores.estimates import patient_scores
from thyroid_utils.scores.recipes import auc_influence, compare_recipes, mean_influence
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.predictions import GivenMasks, GivenProbabilities, read_predictions
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.workbook.export import export_dataset


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pd.DataFrame:
    """Four patients of two discs each, the first two patients of the training side; two files are both called `twin`."""
    folder = tmp_path_factory.mktemp("few")
    found = disc_cases(folder, images=8).assign(split=pd.array(["train"] * 4 + ["test"] * 4, dtype="string"))
    for case, name in zip(("004", "005"), ("a", "b"), strict=True):
        (folder / name).mkdir()
        (folder / name / "twin.png").write_bytes(Path(found.at[case, "image"]).read_bytes())
        found.loc[case, "image"] = str(folder / name / "twin.png")
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier, a segmenter and the split case table, of 64 discs."""
    with project(tmp_path_factory, [0]) as runs:
        found = ClassifierComparison.of(runs["frame"]), SegmenterComparison.of(runs["segmenter"])
        yield SimpleNamespace(classifier=found[0], segmenter=found[1], cases=Predictor(runs["segmenter"][0]).cases)


def rows_of(trained) -> pd.DataFrame:
    return trained.cases[trained.cases["split"] == "test"]


def masks(folder: Path, rows: pd.DataFrame, change=lambda mask: mask) -> str:
    """The true masks, changed, each named by its case."""
    for case, row in rows.iterrows():
        write_png(folder / f"{case}.PNG", change(read_mask(row["mask"])))
    return str(folder)


def table(path: Path, rows: dict[str, object]) -> str:
    path.write_text("case,probability\n" + "".join(f"{case},{value}\n" for case, value in rows.items()))
    return str(path)


def test_masks_are_scored_as_ours_are_and_the_test_is_of_these_answers(trained, tmp_path):
    run, ours = trained.segmenter.runs["tiny_segmenter"][0], tmp_path / "ours"
    for case in rows_of(trained).index:
        write_png(ours / f"{case}.png", Predictor(run).held_map("test", case) >= 0.5)
    less = masks(tmp_path / "less", rows_of(trained), lambda mask: mask & (np.arange(mask.shape[1]) < 50))
    beside = GivenMasks.of_notebook(trained.segmenter, {"ours": str(ours), "less": less, "no masks": __file__})
    assert beside.models == ["tiny_segmenter", "ours", "less"]
    scores = ["dice", "hd95", "hd95_mm"]
    estimates, truth = beside.estimates(scores), trained.segmenter.truth
    for score in scores:
        same, known = (estimates.at[model, score] for model in ("ours", "tiny_segmenter"))
        assert (same.text(9), same.images) == (known.text(9), known.images)
    by_hand = [read_mask(row["mask"]) for _, row in rows_of(trained).loc[truth.index].iterrows()]
    dice = [2 * mask[:, :50].sum() / (mask.sum() + mask[:, :50].sum()) for mask in by_hand]
    assert estimates.at["less", "dice"].value == pytest.approx(np.mean(dice))
    pairs = beside.pairs("dice").set_index("first")
    network = beside.rated("tiny_segmenter", "dice")[0]
    expected = compare_means(dice, network, truth["patient"])
    found = pairs.at["less", "difference"]
    assert (found.difference, found.low, found.p_value) == pytest.approx((expected.difference, expected.low, expected.p_value))
    assert pairs.at["ours", "p_holm"] == 1 and pairs.at["ours", "difference"].difference == 0
    assert len(beside.apart()) == 2 and len(side_by_side(beside, beside.models, beside.apart()).axes) >= 6
    told = " ".join(beside.said(estimates["dice"], beside.pairs("dice"), "Dice"))
    wrong = beside.errors(pd.Series(True, truth.index), 0.9)
    assert wrong["theirs"]["less"] == (np.array(dice) < 0.9).sum() > 0
    assert "less was not trained here and answers 16 of 16 test images." in told and "after Holm" in told


def test_what_is_exported_comes_back_as_a_row(trained, monkeypatch, tmp_path):
    """nnU-Net's answers are played by the test labels that it was given, one row lower."""
    with_cases(monkeypatch, trained.cases.assign(target="nodule"))
    export_dataset("phantom", None, "nnunet", tmp_path, ["RATIOS=[0.5, 0.25, 0.25]", "SEEDS=[0]"])
    labels = next(tmp_path.glob("nnUNet_raw/*/labelsTs"))
    for file in labels.iterdir():
        write_png(file, np.roll(read_image(file), 1, axis=0))
    beside = GivenMasks.of_notebook(trained.segmenter, {"nnU-Net": str(labels)})
    found, (pair,) = beside.estimates(["dice"]).at["nnU-Net", "dice"], beside.pairs("dice")["difference"]
    assert found.images == pair.images == len(rows_of(trained)) and 0.9 < found.value < 1 and not beside.given["nnU-Net"].missing


@pytest.mark.parametrize(("below", "settings", "told"), [("data/out", [], "lies in"), ("out", ["DATASET=phantom"], "told twice")])
def test_an_export_writes_what_it_is_asked_for_and_never_among_the_data(tmp_path, below, settings, told):
    with pytest.raises(ParameterError, match=told):
        export_dataset("folders", tmp_path / "data", "coco", tmp_path / below, settings)
    assert not list(tmp_path.iterdir())


def test_only_who_is_answered_and_was_not_trained_on_is_scored_and_the_rest_is_named(trained, tmp_path):
    rows, chance = rows_of(trained), np.random.default_rng(0)
    learnt, absent = rows.index[0], list(rows.index[[5, 9]])
    met = list(rows.index[rows["patient"] == rows.at[learnt, "patient"]])
    says = {case: round(value, 3) for case, value in zip(rows.index, chance.random(len(rows)), strict=True)}
    answers = {**{case: value for case, value in says.items() if case not in absent}, "elsewhere": 0.5}
    training = tmp_path / "training.csv"
    training.write_text(f"case\n{learnt}\n{Path(trained.cases['image'].iloc[0]).name}\nof another set\n")
    source = {"path": table(tmp_path / "reader.csv", answers), "trained_on": str(training)}
    beside = GivenProbabilities.of_notebook(trained.classifier, {"reader 2": source, "net": str(tmp_path)})
    assert beside.unread == ["net gives masks, which notebook 04 scores."]
    found = beside.given["reader 2"]
    assert found.missing == absent and found.trained_on == met and found.others == 1
    scored = rows.drop(index=absent + met)
    labels, values = scored["label"], [says[case] for case in scored.index]
    expected = patient_scores(labels, values, scored["patient"], ["auc", "sensitivity"])
    estimates = beside.estimates(["auc", "sensitivity"])
    assert [str(estimates.at["reader 2", name]) for name in expected] == [str(each) for each in expected.values()]
    assert estimates.at["tiny", "auc"].images == len(rows), "ours keep all of theirs"
    ours = trained.classifier.predictions("tiny")[0].loc[scored.index, "probability"]
    same = patient_scores(labels, values, scored["patient"], "auc", less=ours)["auc"]
    (pair,) = beside.pairs("auc")["difference"]
    assert (pair.difference, pair.images) == (pytest.approx(same.value), len(scored))
    right = (np.array(values) >= 0.5) == labels.to_numpy(bool)
    assert roc_and_pr(beside, 10) is not None
    wrong = pd.Series(np.arange(len(rows)) % 3 == 0, rows.index)
    errors, own = beside.errors(wrong).loc["reader 2"], wrong[scored.index].to_numpy()
    counts = [len(scored), own.sum(), (~right).sum(), (own & ~right).sum()]
    assert errors[["images", "ours", "theirs", "both"]].tolist() == counts and 0 < errors["p (Holm)"] <= 1
    assert errors["by chance"] == pytest.approx(own.mean() * (~right).mean() * len(scored))
    (told,) = beside.said(estimates["auc"], beside.pairs("auc"), "AUC")
    assert f"answers {len(scored)} of {len(rows)} test images. Without an answer: 2 images ({', '.join(absent)})." in told
    assert f"Left out, as it was trained on their patients: {len(met)} images" in told and "Of no test image: 1 answer." in told
    assert "Of 3 names in its training list 2 fit images here." in told


def test_the_test_of_answers_is_that_of_fixed_networks_over_patients():
    """Its interval is the one that `compare_recipes` gives of trained networks, and it has a p-value where that has none."""
    chance, labels = np.random.default_rng(1), np.arange(60) % 2
    patients = [f"p{number // 3}" for number in range(60)]
    one, two = labels + chance.normal(0, 1, (2, 60)), labels + chance.normal(0, 2, (2, 60))
    for influence in (lambda rows: auc_influence(labels, rows), mean_influence):
        found = compare_answers(influence(one), influence(two), patients)
        fixed = compare_recipes(influence(one), influence(two), patients)
        assert (found.low, found.high) == pytest.approx((fixed.fixed_low, fixed.fixed_high)) and 0 < found.p_value < 1
        assert compare_answers(influence(one), influence(one[:1]), patients).difference != 0, "numbers of trainings may differ"
    means = compare_means(one.mean(axis=0), two.mean(axis=0), patients)
    assert found.p_value == pytest.approx(means.p_value)
    nobody = compare_answers(mean_influence(one[:, :0]), mean_influence(two[:, :0]), [])
    assert np.isnan(nobody.p_value) and nobody.note


@pytest.mark.parametrize("change, expected", [
    (lambda mask: mask, "same"),
    (lambda mask: mask.astype(np.uint8), "same"),  # 0 and 1, as nnU-Net writes
    (lambda mask: np.kron(mask, np.ones((2, 2), bool)), "same"),  # twice the size
    (lambda mask: mask[:, :-20], "other proportions"),
    (lambda mask: np.full(mask.shape, 100, np.uint8), "do not tell foreground"),
])  # fmt: skip
def test_a_mask_of_any_size_comes_to_its_frame_and_another_shape_is_refused(cases, tmp_path, change, expected):
    found = read_predictions({"theirs": masks(tmp_path, cases[4:], change)}, cases, masks=True)["theirs"]
    truth = read_mask(cases.at["006", "mask"])
    if expected == "same":
        assert (found.mask("006", truth.shape) == truth).all() and len(found.given) == 4 and found.others == 0
        return
    with pytest.raises(DataError, match=expected) as error:
        found.mask("006", truth.shape)
    assert "006" in str(error.value) and str(tmp_path) not in str(error.value)


def test_cases_go_by_id_or_file_name_and_other_sources_are_passed_over(cases, tmp_path):
    name = Path(cases.at["006", "image"]).name
    file = table(tmp_path / "some.csv", {"004": 0, name: 1, Path(cases.at["007", "image"]).stem: 0.25})
    found = read_predictions({"reader": {"path": file}, "net": str(tmp_path)}, cases, masks=False)
    assert list(found) == ["reader"] and found["reader"].given.to_dict() == {"004": 0, "006": 1, "007": 0.25}
    nested = masks(tmp_path / "nested" / "deep", cases[4:])
    assert len(read_predictions({"net": str(Path(nested).parent)}, cases, masks=True)["net"].given) == 4
    assert found["reader"].missing == ["005"] and read_predictions({}, cases, masks=True) == {}


@pytest.mark.parametrize("rows, expected", [
    ({"elsewhere": 0.2, "000": 0.5}, "no answer to any of 4 test images; found 0 to patients of its training and 2 to others"),
    ({"006": 0.2, "6-image.png": 0.3}, "two answers to 006; keep one"),
    ({"twin": 0.2}, "one name for the images of 004 and 005; name answers by case id"),
    ({"006": "nan"}, "line 2, and 1 in all: found <NA>; expected a probability"),
    ({"006": 0.5, "004": -2.3, "005": 4.1}, "line 3, and 2 in all: found -2.3; .* no logit or percentage"),
])  # fmt: skip
def test_probabilities_that_cannot_be_used_are_refused(cases, tmp_path, rows, expected):
    with pytest.raises(DataError, match=expected):
        read_predictions({"reader": table(tmp_path / "reader.csv", rows)}, cases, masks=False)


@pytest.mark.parametrize("source, expected", [
    ("nowhere", "found .*nowhere.*; expected path, a folder of PNG masks or a CSV file with columns case and probability"),
    ({"path": ".", "train": "x"}, "train.*; expected path, .*, and trained_on"),
    ({"trained_on": "x"}, "expected path"),
    ({"path": ".", "trained_on": "nowhere"}, "nowhere: cannot be read"),
    (".", "no answer to any of 4 test images; .*, such as 004"),
    ("params", "no PNG file in .*; give masks as PNG"),
    (3, "found .*3.*; expected path"),
    ({"path": ".", "trained_on": ["000"]}, "expected path, .*, and trained_on, a CSV file"),
])  # fmt: skip
def test_a_source_that_is_none_is_refused(cases, source, expected):
    with pytest.raises(DataError, match=expected):
        read_predictions({"reader": source}, cases, masks=True)


def test_a_training_list_that_fits_no_image_is_refused(cases, tmp_path):
    (tmp_path / "list.csv").write_text("case\n000.jpeg\n")
    source = {"path": masks(tmp_path / "masks", cases[4:]), "trained_on": str(tmp_path / "list.csv")}
    with pytest.raises(DataError, match="trained_on fits no image here"):
        read_predictions({"net": source}, cases, masks=True)


def test_a_source_named_as_a_network_or_with_one_class_is_refused(trained, tmp_path):
    with pytest.raises(DataError, match="tiny_segmenter is one of our networks"):
        GivenMasks.of_notebook(trained.segmenter, {"tiny_segmenter": masks(tmp_path, rows_of(trained))})
    benign = rows_of(trained).query("label == 0").index
    with pytest.raises(DataError, match=r"reader: all \d+ images are benign"):
        file = table(tmp_path / "reader.csv", dict.fromkeys(benign, 0.5))
        GivenProbabilities.of_notebook(trained.classifier, {"reader": file})
