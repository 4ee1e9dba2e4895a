"""Networks asked on sets that they were not trained on: tiny runs on discs, and other discs."""

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import disc, disc_cases, project
from scipy.special import expit

from thyroid_utils.common import paths
from thyroid_utils.common.config import DataConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import number
from thyroid_utils.data.images import read_gray, read_image, read_mask, write_png
from thyroid_utils.data.readers.published import SETS, meaning
from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.inference.ensemble import held_out
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.plots import external_validation as plots
from thyroid_utils.scores.comparisons import compare_means
from thyroid_utils.scores.curves import benefit_curve
from thyroid_utils.scores.labels import choose_threshold, classification_scores
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.scores.recipes import auc_influence, compare_apart, mean_influence
from thyroid_utils.studies.external_validation import ExternalValidation, asked
from thyroid_utils.studies.external_validation.asked import Tested
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.ledger import Run
from thyroid_utils.workbook import run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, seeds=[0, 1]) as found:
        yield found


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> pd.DataFrame:
    """The discs of another hospital: brighter, and other ones."""
    folder, random = tmp_path_factory.mktemp("other"), np.random.default_rng(1)
    cases = disc_cases(folder, 48).assign(target="nodule")
    for _, row in cases.iterrows():
        gray, mask = disc(random, (88, 104), int(row["label"]))
        write_png(row["image"], np.clip(gray.astype(int) + 20, 0, 255).astype(np.uint8))
        write_png(row["mask"], mask)
    return cases


@pytest.fixture(scope="module")
def home(runs) -> pd.DataFrame:
    return asked.home_cases(runs["frame"] + runs["segmenter"]).assign(target="nodule")


@pytest.fixture(scope="module")
def study(runs, home, other) -> ExternalValidation:
    trained = {"A": asked.trainings(runs["frame"] + runs["segmenter"])}
    for found in trained["A"].values():
        found.__dict__["untrained"] = []  # whatever validation says of runs as short as these
    return ExternalValidation(trained, {"A": home, "B": other}, {"A": "phantom", "B": "phantom"})


def test_a_set_is_answered_as_each_network_answers_its_images_alone(study, runs, other):
    case = other.index[5]
    frame, mask = read_image(other.at[case, "image"]), read_mask(other.at[case, "mask"])
    for score, role in (("AUC", "frame"), ("Dice", "segmenter")):
        found = study.tested[score, "A", "B"]
        for seed, predictor in enumerate(map(Predictor, runs[role])):
            sample = predictor.pipeline(frame, mask)
            if score == "AUC":
                expected = predictor.log_odds(sample.image[None])[0]
            else:
                called = predictor.maps(sample.image[None])[0] >= 0.5
                expected = 2 * (called & sample.mask).sum() / (called.sum() + sample.mask.sum())
            assert found.values[seed, 5] == pytest.approx(expected, abs=1e-4)
    assert study.answered("AUC") == study.answered("Dice") == ["A", "B"]


def test_the_own_test_images_are_answered_from_what_the_runs_have_kept(study, runs, home):
    tested = home[home["split"] == "test"]
    for score, role in (("AUC", "frame"), ("Dice", "segmenter")):
        kept, again = study.tested[score, "A", "A"], asked.on_other_set(study.trained["A"][score], tested)
        again = again.values[:, again.table.index.get_indexer(kept.table.index)]
        assert kept.values == pytest.approx(again, abs=1e-4), "asked once more they say the same"
        assert kept.score().value == pytest.approx(np.mean([each.metrics["test"][score.lower()] for each in runs[role]]))
    together = held_out(runs["frame"], "test")["log_odds"]
    assert study.tested["AUC", "A", "A"].table["log_odds"].to_numpy() == pytest.approx(together.to_numpy())


def test_what_is_lost_is_told_by_the_one_rule_with_patients_of_both_sets(study, monkeypatch):
    for score in ("AUC", "Dice"):
        here, there = study.tested[score, "A", "B"], study.tested[score, "A", "A"]
        (row,) = study.drops(score).to_dict("records")
        part = auc_influence if score == "AUC" else lambda _, values: mean_influence(values)
        parts = [(part(own.table["label"], own.values), own.table["patient"]) for own in (here, there)]
        assert (row["first"], row["second"]) == ("B", "A") and row["difference"].seeds == 2
        assert told_difference(row["difference"], 9) == told_difference(compare_apart(*parts, 1), 9)
        assert row["difference"].difference == pytest.approx(here.score().value - there.score().value)
        assert row["difference"].patients == here.table["patient"].nunique() + there.table["patient"].nunique()
        assert row["p_holm"] == row["difference"].p_value
        matrix = study.matrix(score)
        assert matrix.at["A", "B"] == here.score() and matrix.shape == (1, 2)
        assert f"On B {here.score().text(2)}: {told_difference(row['difference'])} against home, " in study.told()
    assert study.told().count("after Holm") == 2 and "No verdict" not in study.told()
    for own, which in zip(study.trained["A"].values(), ["where chance is not named", "on any difference"], strict=True):
        monkeypatch.setitem(own.__dict__, "untrained", own.models)
        assert study.told().endswith(f"No verdict {which}: validation does not show that they have learnt.")
    assert study.told().count("learnt") == 1 and "after Holm" not in study.told()
    elsewhere = ExternalValidation(study.trained, study.sets, {"A": "ddti", "B": "tn5000"})
    elsewhere.__dict__["tested"] = study.tested
    assert "Its labels say: biopsy; home's: suspicion (TI-RADS" in elsewhere.told()
    assert elsewhere.told().count("labels say") == 1 and "labels say" not in study.told()


def test_answers_made_elsewhere_are_tested_beside_home_s_on_the_images_of_both(study, other, tmp_path):
    """The true masks, and a reader who knows the class of all that are answered but one patient's."""
    cases = other[4:]
    for case, row in cases.iterrows():
        write_png(tmp_path / "masks" / f"{case}.png", read_mask(row["mask"]))
    said = [0.1 + 0.8 * label for label in cases["label"]]
    cases.assign(probability=[1 - said[0], *said[1:]])["probability"].to_csv(tmp_path / "reader.csv")
    sources = {"net": str(tmp_path / "masks"), "reader": str(tmp_path / "reader.csv")}
    table, told = study.beside({"B": sources, "reader of notebook 03": "elsewhere"})
    rows = table.set_index("score")
    assert rows["source"].to_dict() == {"AUC": "reader", "Dice": "net"} and (rows["images"] == len(cases)).all()
    assert rows.at["Dice", "theirs"].value == 1 and 0.9 < rows.at["AUC", "theirs"].value < 1
    ours = study.tested["Dice", "A", "B"].values[:, 4:].mean(axis=0)
    found = compare_means(np.ones(len(cases)), ours, cases["patient"])
    assert rows.at["Dice", "difference"] == told_difference(found) and rows.at["Dice", "ours"] == pytest.approx(ours.mean())
    assert found.p_value <= rows.at["Dice", "p (Holm)"] <= 2 * found.p_value
    assert told[0].startswith("B: reader was not trained here and answers 44 of 48 test images. Without an answer: 4 images")
    assert study.beside({})[0].empty


def test_subgroups_are_those_of_both_sets_with_ten_patients_each(study):
    rows = study.subgroups("Dice")
    assert set(rows["first"]) >= {"B, class: benign", "B, class: malignant"} or not len(rows)
    few = {"A": study.sets["A"], "B": study.sets["B"][:10]}
    alone = ExternalValidation(study.trained, few, study.readers)
    assert alone.subgroups("Dice").empty, "fewer than ten patients"


def test_an_image_is_followed_from_its_pixels_to_the_calls_that_are_scored(study, other, monkeypatch):
    found = study.followed("B")
    case, (home, helped) = found.index.name, found.columns
    row, table = other.loc[case], study.tested["AUC", "A", "B"].table
    others = table[table["patient"] != row["patient"]]
    scale = fit_platt(others["label"], others["log_odds"])
    assert case == min(other.index) and helped == f"with the help of {others['patient'].nunique()} other patients"
    assert found.at["their mean: m", home] == number(table.at[case, "log_odds"])
    assert found.at["probability of malignant: 1 / (1 + exp(−m))", helped] == f"{scale(table.at[case, 'log_odds']):.2f}"
    assert set(found.loc["truth"]) == {"malignant" if row["label"] else "benign"}
    monkeypatch.setitem(study.trained["A"]["AUC"].first.data, "fitted", (0.25, 0.125))
    assert found.index[0] == "0. input" and study.followed("B").at["home's µ and σ", home] == "0.25 and 0.125"
    alone = ExternalValidation(study.trained, study.sets, study.readers)
    few = pd.concat([table.loc[[case]], table[table["label"] != table.at[case, "label"]]])
    alone.__dict__["tested"] = {**study.tested, ("AUC", "A", "B"): Tested(few, study.tested["AUC", "A", "B"].values)}
    assert list(alone.followed("B")) == [home], "the others are of one class"


def test_predictive_values_and_net_benefit_move_with_threshold_and_prevalence(study):
    table = pd.DataFrame({"label": [1, 1, 0, 0, 0, 0], "log_odds": [2.0, -2.0, 1.0, -1.0, -1.0, -1.0]})
    values, worth = plots.used_there({"B": table}, "B", threshold=0.6, prevalence=0.2).axes
    assert values.get_title("left") == "B: sensitivity 0.50,\nspecificity 0.75"
    # Of 100: 10 of 20 found, 20 of 80 called in vain; 10 missed, 60 cleared.
    assert [text.get_text() for text in values.get_legend().texts] == [f"PPV {10 / 30:.2f}", f"NPV {60 / 70:.2f}"]
    acted = ["acting on these calls −0.200", "acting on all −1.000", "acting on nobody 0.000"]  # 0.1 − 0.2 × 0.6 / 0.4
    assert [text.get_text() for text in worth.get_legend().texts] == acted
    table = study.tested["AUC", "A", "B"].table
    curve = benefit_curve(table["label"], expit(table["log_odds"]), table["patient"])
    _, worth = plots.used_there({"B": table}, "B", prevalence=table["label"].mean()).axes
    assert worth.lines[0].get_ydata() == pytest.approx(curve["net_benefit"].to_numpy())
    sick, _ = plots.used_there({"B": table[table["label"] == 1]}, "B").axes
    assert sick.get_title("left").endswith("specificity –"), "nobody there is benign"
    assert plots.used_there({}, "") is None


def test_threshold_and_calibration_are_home_s_until_patients_have_helped(study):
    ((known, table),) = study.judged("B")
    threshold = choose_threshold(known["label"], expit(known["log_odds"]))
    expected = classification_scores(table["label"], expit(table["log_odds"]), threshold)
    found = study.mended("B", [4, 6, 1000], 5)
    assert list(found.index) == [0, 4, 6], "too many help: half of the patients stay to be tested"
    for score in found:
        assert found.at[0, score].value == pytest.approx(expected[score], nan_ok=True)
    assert found.at[4, "brier"].patients == table["patient"].nunique() - 4
    assert list(study.mended("A", [4], 5).index) == [0], "home's own are not drawn"


def test_helpers_mend_probabilities_that_are_all_too_high():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], 200)
    odds = random.normal(2 * truth - 1, np.sqrt(2))  # whose log-odds they are: both normal, means apart by their variance
    table = pd.DataFrame({"patient": [f"p{at}" for at in range(400)], "label": truth, "log_odds": odds + 3})
    study = ExternalValidation({"A": {}}, {}, {})
    study.__dict__["judged"] = lambda _: [(table.assign(log_odds=odds), table)]
    found = study.mended("B", [100], 20)
    assert found.at[0, "calibration_intercept"].value == pytest.approx(-3, abs=0.3)
    assert found.at[100, "calibration_intercept"].value == pytest.approx(0, abs=0.3)
    assert found.at[100, "brier"].high < found.at[0, "brier"].value
    assert found.at[0, "specificity"].value < found.at[100, "specificity"].low


def test_sets_of_labels_are_made_with_home_s_validation(study):
    ((known, table),) = study.judged("B")
    sets = conformal_sets(
        expit(known["log_odds"]), known["label"], expit(table["log_odds"]), 0.2, val_patients=known["patient"], by_class=True
    )
    held = coverage(sets, table["label"], table["patient"])["coverage"]
    assert study.coverage(0.2).loc["B", ["all", "benign", "malignant"]].to_dict() == held.to_dict()


def test_both_sets_are_measured_alike(study):
    table = study.statistics()
    grays = [np.median([read_gray(path).mean() for path in study.sets[name]["image"]]) for name in "AB"]
    assert [found.value for found in table.loc["brightness, gray levels"]] == pytest.approx(grays) and grays[1] > grays[0] + 15
    assert table.at["spacing, mm/pixel", "B"].value == pytest.approx(study.sets["B"]["spacing_mm"].median())


@pytest.mark.parametrize(
    ("role", "dataset", "columns", "told"),
    [
        ("segmenter", "busi", {}, "of the breast, in training of the thyroid"),
        ("frame", "busi", {}, "of the breast"),
        ("segmenter", "phantom", {"target": "gland"}, "outlined there: gland, in training: nodule"),
        ("crop", "phantom", {"target": "gland"}, "outlined there: gland"),
        ("segmenter", "phantom", {"mask": pd.NA}, "outlined there: nothing"),
        ("frame", "phantom", {"label": pd.NA}, "classes there: none"),
        ("frame", "phantom", {"label": 1}, "classes there: malignant"),
        ("frame", "phantom", {"target": "gland", "mask": pd.NA}, ""),
        ("segmenter", "phantom", {"label": pd.NA}, ""),
    ],
)  # fmt: skip
def test_a_set_that_asks_another_question_is_not_asked_and_the_page_says_why(runs, study, other, role, dataset, columns, told):
    cases, why = asked.asked_cases(runs[role][0], "nodule", dataset, other.assign(**columns))
    assert told in why and bool(why) == bool(told) == cases.empty
    if told and role != "crop":
        score = {"frame": "AUC", "segmenter": "Dice"}[role]
        trained = {"A": {score: study.trained["A"][score]}}
        alone = ExternalValidation(trained, {"A": study.sets["A"], "B": other.assign(**columns)}, {"A": "phantom", "B": dataset})
        with pytest.raises(DataError, match=f"another question than B .*{told}"):
            alone.questions()


@pytest.mark.parametrize("change", [0, 3], ids=["identical", "near-identical"])
def test_images_that_training_has_met_are_refused_by_name_or_left_out_with_their_patients(tmp_path, home, other, change):
    shared = other.copy()
    copied = read_gray(home["image"].iloc[0]).astype(int) + change
    write_png(tmp_path / "copy.png", np.clip(copied, 0, 255).astype(np.uint8))
    shared.loc[shared.index[7], "image"] = str(tmp_path / "copy.png")
    sets = {"A": home, "B": shared}
    with pytest.raises(DataError, match=r"B shares 1 image, the same or nearly, .* \(007\)"):
        asked.apart(sets, ["A"], leave_out=False)
    kept = asked.apart(sets, ["A"], leave_out=True)
    assert kept["A"] is home and sorted(set(shared.index) - set(kept["B"].index)) == ["006", "007"], "the patient's two"
    assert kept["B"].attrs["left out"] == 2
    met = home["patient"] == home["patient"].iloc[0]
    assert asked.apart(sets, ["A", "B"], leave_out=True)["A"].equals(home[~met]), "B's networks have met this patient"
    assert asked.apart({"A": home, "B": other}, ["A"], leave_out=False)["B"].equals(other)


def test_scores_of_runs_whose_data_are_gone_are_those_they_have_kept(runs, study, other, monkeypatch):
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: other)
    assert asked.home_cases(runs["frame"]) is None, "other data under the same name"
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: (_ for _ in ()).throw(DataError("gone")))
    assert asked.home_cases(runs["frame"]) is None
    alone = ExternalValidation(study.trained, asked.apart({"B": other}, ["A"], False), study.readers)
    assert alone.matrix("AUC").loc["A"].equals(study.matrix("AUC").loc["A"])
    assert alone.drops("Dice").equals(study.drops("Dice"))
    assert alone.subgroups("AUC").empty and list(alone.statistics()) == ["B"]
    asks = alone.questions()
    assert asks.at["A", "outlined"].startswith("not at hand") and asks.at["B", "left out"] == "not known"
    assert study.questions().loc["B", ["images", "left out", "AUC"]].tolist() == [48, 0, "all images"]


def test_without_another_set_the_page_says_so_and_of_a_split_by_image_what_it_is(study, monkeypatch):
    alone = ExternalValidation(study.trained, {"A": study.sets["A"]}, {"A": "phantom"})
    assert "LEAKY" not in alone.told() + alone.plan
    monkeypatch.setitem(study.trained["A"]["AUC"].first.data, "leaky", True)
    assert alone.told().count("LEAKY: split by image, which flatters it") == 1 and "LEAKY" in alone.plan
    assert "asked about no other set" in alone.told() and alone.drops("AUC").empty and alone.subgroups("Dice").empty


def test_runs_are_chosen_by_name_and_of_one_recipe(runs):
    frame, segmenter = runs["frame"], runs["segmenter"]
    assert [each.name for each in asked.runs_of([frame[0].name, segmenter[1].name[:12]])] == [frame[0].name, segmenter[1].name]
    with pytest.raises(DataError, match="no finished run is called feed"):
        asked.runs_of([frame[0].name, "feed"])
    moved = Run(frame[0].folder)
    moved.config = frame[0].config.model_copy(update={"data": DataConfig(options={"seed": 1})})
    with pytest.raises(DataError, match="several data sets"):
        asked.trainings([moved, segmenter[0]])
    with pytest.raises(DataError, match="recipe"):
        asked.trainings([frame[0], runs["crop"][1]])
    assert set(asked.trainings([*segmenter, runs["joint"][0]])) == {"AUC", "Dice"}


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("A", {"dataset": "phantom"}, "another name"),
        ("B", "ddti", "found 'ddti'; expected a mapping"),
        ("B", {"datset": "ddti"}, "mean dataset"),
    ],
)
def test_other_sets_are_told_by_their_own_names_and_as_mappings(name, source, told):
    with pytest.raises(DataError, match=f"EXTERNAL.* {name}.*{told}"):
        asked.other_sets({name: source}, "A")


def test_a_set_without_labels_trains_segmenters_alone(runs, other):
    assert asked.trainable(runs["frame"] + runs["segmenter"], other.assign(label=pd.NA)) == runs["segmenter"]
    assert asked.trainable(runs["frame"] + runs["segmenter"], other.assign(mask=pd.NA)) == runs["frame"]


def test_paths_of_other_sets_are_kept_off_the_pages_as_the_own_are(tmp_path):
    own = {"DATASET": "phantom", "EXTERNAL": {"B": {"dataset": "folders", "root": str(tmp_path)}}}
    assert [source.get("root") for source in run._data_of(own)] == [None, tmp_path]
    assert run._may_name_patients(own) and not run._may_name_patients({"DATASET": "phantom"})


def test_what_labels_say_is_what_readme_says():
    rows = [line.split("|") for line in (paths.project_root() / "README.md").read_text().splitlines() if line.startswith("| `")]
    told = {row[1].split("`")[1]: row[5].strip() for row in rows if len(row) > 6}
    assert {name: meaning(name)[0] for name in SETS} == {name: told[name] for name in SETS}
    assert meaning("phantom")[1] == meaning("folders")[1] == "thyroid" != meaning("busi")[1]
