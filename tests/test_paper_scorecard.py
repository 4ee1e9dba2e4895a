"""The scorecard of the papers' claims: its verdicts, its sums by hand, what results and runs bring to it, its picture."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from training_project import register_tiny, tiny_config

from thyroid_utils.common.errors import DataError
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.plots.paper_scorecard import COLOURS, claims_and_reached
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.scores.figures import FigureCheck
from thyroid_utils.studies import paper_scorecard as study
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.papers import PAPERS
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.workbook.notebooks import select_notebooks
from thyroid_utils.workbook.parameters import declared_parameters

PRINTED = {
    "finding": "",
    "arithmetic": "",
    "claimed": (0.9235, 0.9245),
    "reached": None,
    "p": np.nan,
    "why": "no run",
    "rival": "",
}


@pytest.fixture(scope="module")
def card() -> pd.DataFrame:
    """By arithmetic alone."""
    return study.scorecard({}).set_index("claim")


def reached(low: float, high: float) -> dict:
    return {"reached": Estimate((low + high) / 2, low, high, 100, 50)}


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ({}, (study.NOT_TESTABLE, "no run")),
        (reached(np.nan, np.nan), (study.NOT_TESTABLE, "no run")),
        (reached(0.90, 0.95), (study.REPRODUCED, "on other images")),
        (reached(0.90, 0.9236), (study.REPRODUCED, "on other images")),  # printed 0.924, which 0.9236 is rounded to
        (reached(0.60, 0.70), (study.NOT_SHOWN, "does not hold it")),
        (reached(0.95, 0.99), (study.NOT_SHOWN, "does not hold it")),
        (reached(0.90, 0.95) | {"p": 0.2}, (study.NOT_SHOWN, "no difference is shown (p = 0.20 after Holm)")),
        (reached(0.90, 0.95) | {"p": 0.01}, (study.REPRODUCED, "on other images")),
        (reached(0.90, 0.95) | {"p": 0.01, "rival": "by pretraining"}, (study.NOT_SHOWN, "by pretraining")),
        (reached(0.90, 0.95) | {"finding": "broken", "arithmetic": "no counts"}, (study.IMPOSSIBLE, "no counts")),
        ({"finding": "doubt", "arithmetic": "copies"}, (study.NOT_SHOWN, "copies")),
        ({"finding": "confirmed", "arithmetic": "counted"}, (study.REPRODUCED, "counted")),
    ],
)
def test_a_verdict_follows_from_the_row(claim, expected):
    verdict, why = study.verdict(PRINTED | claim)
    assert verdict == expected[0] and expected[1] in why


def test_every_claim_has_a_place_a_verdict_and_a_reason(card):
    assert set(card["paper"]) == set(list(PAPERS)[:5]) and card.index.is_unique
    assert not card[["place", "printed", "data", "split", "why"]].map(lambda text: not str(text).strip()).any().any()
    assert card["verdict"].isin(study.VERDICTS).all()
    assert not card.query("finding == ''")["verdict"].isin([study.REPRODUCED, study.IMPOSSIBLE]).any(), "nothing is reached"


IMPOSSIBLE = {
    "precision 0.997, beside the other figures": "F1, means too: 0.9740 to 0.9879, printed 0.957",
    "F1, said to be of precision and recall, %": "nodules have 0.760 and the background 0.975, of which 0.868 is the mean",
    "mobile_deeplab (tversky), dice": "accuracy between sensitivity and specificity: 0.9837 to 0.9859, printed 0.9817",
    "both losses saw one set of images": "24.93 and 30.94",
    "a separable convolution has a third of the weights of an ordinary one": "0.115: 1/N + 1/k²",
    "energy of an image": "24 mJ",
}
DOUBTED = {
    "the split is by patient": "2 × 329 is 15 % of each class of 2188, rounded up",
    "test images are new to the network": "70 % of test images have a copy in training",
    "generalises to new images": "94 % of test images",  # 1 − 0.4³
    "the test frames are new to the network": "100 % of test frames",
    "a pixel accuracy that speaks for the segmentation, %": "88.4 % to 92.9 %",
    "the gains of three modules make up that of all": "0.80",
}


def test_arithmetic_finds_the_errors_that_are_known(card):
    for verdict, told in ((study.IMPOSSIBLE, IMPOSSIBLE), (study.NOT_SHOWN, DOUBTED)):
        rows = card[card["verdict"] == verdict]
        assert set(rows.index) == set(told)
        assert all(text in rows.at[claim, "why"] for claim, text in told.items())
    assert card.at["vgg16 (cross entropy), accuracy", "arithmetic"] == "TP 325, FP 1, FN 4, TN 328 of 658"
    assert card.at["alexnet (cross entropy), accuracy", "arithmetic"] == "TP 315, FP 33, FN 14, TN 296 of 658"
    told = card.at["resnet18 (focal), auc", "arithmetic"]
    assert told == "TP 264, FP 18, FN 6, TN 1222 of 1510, 10 tests together"
    assert card.at["unet_resnet50 (bce dice), dice", "arithmetic"] == "means over images"
    assert card.at["mobile_deeplab (bce), dice", "arithmetic"] == "all pixels counted together"


def test_a_claim_is_followed_from_print_to_verdict_with_sums_a_reader_can_do_again(card):
    steps = study.followed(card.reset_index())["vgg16 (cross entropy), accuracy"]
    assert (
        steps["printed"].startswith("accuracy 0.9924, precision 0.9969") and steps["the first stands for"] == "0.99235 to 0.99245"
    )
    assert steps["accuracy, (TP + TN) / N"] == "653 / 658 = 0.9924" and steps["precision, TP / (TP + FP)"] == "325 / 326 = 0.9969"
    assert steps["sensitivity, TP / (TP + FN)"] == "325 / 329 = 0.9878"
    assert steps["F1, 2 TP / (2 TP + FP + FN)"] == "650 / 655 = 0.9924"
    assert steps["verdict"].startswith(tuple(study.VERDICTS))


def test_small_sums_by_hand():
    """Of 1,000 pixels TP 50, FP 10, FN 20 and TN 920: an empty mask is right on 930, 93 %."""
    told = study.empty_mask(n_iou=50 / 80, b_iou=920 / 950)["arithmetic"]
    low, high = (float(word) for word in told.split() if word.replace(".", "").isdigit())
    assert low <= 93 <= high and high - low == pytest.approx(3, abs=0.1), "30 pixels are in error"
    assert study.by_image(100, 0.2, 2, 20)["finding"] == "doubt" and study.by_image(100, 0.2, 2, 22)["finding"] == ""
    assert study.by_image(202, 0.15, 2, 32)["finding"] == "doubt", "15.15 of a class are rounded up"
    assert study.met(2, 0.5, "…")["arithmetic"] == "50 % of …" and study.met(3, 0.5, "…")["arithmetic"] == "75 % of …"
    assert study.nodule_f1(0.5, 0.9, printed=0.667)["finding"] == "confirmed"
    assert study.means(precision="0.9", sensitivity="0.9", f1="0.9")["finding"] == ""


def test_a_row_that_no_counts_fit_is_impossible():
    rows = [{"accuracy": "0.99", "sensitivity": "0.50"}, {"accuracy": "0.90", "sensitivity": "0.50"}]
    (wrong, contradiction), (right, none) = study.counted({"n": 10, "positives": 2}, rows)
    assert contradiction.startswith("No table of counts of 10 images (2 malignant)") and none == "" and wrong == contradiction
    assert right == "1 table of counts of 10 images (2 malignant) can give these figures.", "the rows have no size in common"


@pytest.fixture
def results(tmp_path) -> str:
    scores = {"model": ["vgg16", "resnet18"], "accuracy": ["0.99 [0.98, 1.00]", "0.67 [0.57, 0.75]"], "images": 360}
    pd.DataFrame(scores).to_csv(tmp_path / "03_scores.csv", index=False)
    gains = {
        "row": ["none", "attention", "all three"],
        "difference, points": ["reference", "+0.30 [+0.20, +0.40]", "no interval"],
    }
    pd.DataFrame(gains | {"p (Holm)": [None, 0.01, None], "IoU": ["", "", "0.95\xa0[0.90,\xa00.99]"]}).to_csv(
        tmp_path / "08_modules.csv", index=False
    )
    return str(tmp_path)


def test_results_are_set_beside_claims(results, card):
    known = study.of_tables(results)
    assert set(known) == {
        ("classification", "vgg16", "accuracy"), ("classification", "resnet18", "accuracy"),
        ("segmentation", "mobile_deeplab", "iou"),
    }  # fmt: skip
    assert ("gland", "mobile_deeplab", "iou") in (of_gland := study.of_tables(results, "gland"))
    assert not any(what == "segmentation" for what, *_ in of_gland) and ("classification", "vgg16", "accuracy") in of_gland
    found = study.scorecard(known, results).set_index("claim")
    verdicts = found["verdict"]
    assert verdicts["vgg16 (cross entropy), accuracy"] == study.REPRODUCED and found.at["vgg16 (cross entropy), accuracy", "by"]
    assert verdicts["resnet18 (cross entropy), accuracy"] == study.NOT_SHOWN
    assert verdicts["alexnet (cross entropy), accuracy"] == study.NOT_TESTABLE
    assert found.at["alexnet (cross entropy), accuracy", "beside"] == known["classification", "vgg16", "accuracy"][0]
    assert verdicts["attention against none, points of IoU"] == study.REPRODUCED
    assert verdicts["all three against none, points of IoU"] == study.NOT_TESTABLE
    assert verdicts["mobile_deeplab (bce), iou"] == study.REPRODUCED
    assert verdicts["mobile_deeplab (tversky), iou"] == study.IMPOSSIBLE, "whatever is reached"
    assert verdicts["unet (bce), dice"] == study.NOT_TESTABLE and found.at["unet (bce), dice", "beside"] is None, "the gland"
    counts = [(found["verdict"] == name).sum() for name in study.VERDICTS]
    told = "Of 51 claims of five papers: **{}** reproduced within its interval, **{}** not shown, **{}** impossible as stated"
    assert study.answer(found.reset_index()).startswith(told.format(*counts))
    for claim, patients in {"vgg16 (cross entropy), accuracy": 2611, "attention against none, points of IoU": 2336}.items():
        # (2.80 SD / gain)² + 2, of accuracies 0.0030 apart with SD √(0.003 · 0.997), and of 0.29 points with SD 5
        assert card.at[claim, "needed"] == pytest.approx(patients, abs=1)
    with pytest.raises(DataError, match="RESULTS: nowhere: no such folder; expected one that holds"):
        study.of_tables("nowhere")


def test_finished_runs_count_by_patient_and_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path))
    register_tiny(lambda name, network: monkeypatch.setitem(CLASSIFIERS, name, network))
    assert study.of_ledger("phantom", "patient") == {}
    run = fit_or_load(tiny_config(training__epochs=1))
    found = study.of_ledger("phantom", "patient")
    expected = ClassifierComparison.of([run]).estimates(["auc"]).loc["tiny", "auc"]
    assert found["classification", "tiny", "auc"] == (expected, "1 training on phantom")
    assert study.of_ledger("ddti", "patient") == study.of_ledger("phantom", "image") == {}
    fold, other = (SimpleNamespace(config=tiny_config(split__folds=3, seed=seed)) for seed in (0, 1))
    assert study._whole([run]) == [run] and study._whole([fold, other, fold, fold]) == [fold] * 3, "a seed lacks two folds"
    leaky = SimpleNamespace(config=tiny_config(split__leak={"kind": "none"}), data=run.data)
    monkeypatch.setattr(study, "find_run", lambda name: leaky)
    assert study.of_ledger("phantom", "patient") == {}, "runs of the study of leaks are its own"


def test_the_picture_has_a_diamond_a_claim_in_the_colour_of_its_verdict(results):
    card = study.scorecard(study.of_tables(results), results)
    rows = card.query("task != ''")
    figure = claims_and_reached(rows, "score")
    diamonds = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    assert [line.get_color() for line in diamonds] == [COLOURS[verdict] for verdict in rows["verdict"]]
    shown = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert len(shown) == (rows["reached"].notna() | rows["beside"].notna()).sum()
    assert sum(line.get_markerfacecolor() == "white" for line in shown) == (rows["reached"].isna() & rows["beside"].notna()).sum()
    assert claims_and_reached(rows[:0], "score") is None
    shown = study.card_table(card)
    assert (shown.columns == ["claim", "reported", "verdict", "why", "reached", "patients"]).all() and len(shown) == len(card)


def test_the_exercises_come_out_as_they_say():
    (row,) = declared_parameters(select_notebooks(["12"])[0])["FIGURES"].default
    assert len(FigureCheck.of(row).tables) == 1 and "The nearest, TP 26" in FigureCheck.of(row | {"f1": "99.7"}).told
    lesson, without = (study.scorecard(study.of_tables(place), place) for place in ("reports/results/ddti", ""))
    assert (without["verdict"] == study.NOT_TESTABLE).sum() > (lesson["verdict"] == study.NOT_TESTABLE).sum() + 3
    assert without["reached"].isna().all() and without.query("finding == ''")["verdict"].eq(study.NOT_TESTABLE).all()
