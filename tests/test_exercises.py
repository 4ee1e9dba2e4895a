"""The exercises of the notebooks come out as the notebooks say, at the notebooks' own sizes.

What is trained is shared between them; on one thread, so that the sums are the same on every machine of a kind.
"""

import json
import re
from typing import Any

import pytest

from thyroid_utils.common import paths
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import split_cases
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.augment import augmented_copies
from thyroid_utils.scores.power import paired_power, smallest_gain
from thyroid_utils.studies.classifier_comparison import ClassifierComparison, banner
from thyroid_utils.studies.compare import comparison_configs, shared_settings
from thyroid_utils.studies.data_exploration import exposure
from thyroid_utils.studies.error_analysis.trust import robustness_curve
from thyroid_utils.studies.external_validation import asked
from thyroid_utils.studies.grad_cam import study_maps
from thyroid_utils.studies.grad_cam.faithfulness import randomisation_table
from thyroid_utils.studies.leakage_study import ladder_plan, ladders_of, nearest_neighbours
from thyroid_utils.studies.preprocessing import augmentation_leaks
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.engine import run_all
from thyroid_utils.workbook.notebooks import select_notebooks
from thyroid_utils.workbook.parameters import declared_parameters


@pytest.fixture(scope="module", autouse=True)
def ledger(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


def defaults(number: str) -> dict[str, Any]:
    """The values of a notebook's parameters cell: its lesson."""
    return {name: found.default for name, found in declared_parameters(select_notebooks([number])[0]).items()}


def first(lesson: dict[str, Any], *names: str) -> str:
    """The network that a notebook names under the first of these names that it has."""
    value = next(lesson[name] for name in names if name in lesson)
    return value[0] if isinstance(value, list) else value


def classified(number: str, prefix: str = "", **changes: Any) -> ClassifierComparison:
    """The first classifier of a notebook's lesson, with these changes."""
    lesson = defaults(number) | changes
    model = first(lesson, "CLASSIFIER", "MODELS", "MODEL")
    configs = comparison_configs([model], lesson["SEEDS"][:1], shared_settings(lesson, "classification", prefix))
    return ClassifierComparison.of(run_all(configs, threads=1))


def outlined(number: str, prefix: str = "", **changes: Any) -> SegmenterComparison:
    lesson = defaults(number) | changes
    model = first(lesson, "SEGMENTER", "SEGMENTERS", "MODEL", "MODELS")
    options = lesson[f"{prefix or 'MODEL_'}OPTIONS"]
    shared = shared_settings(lesson, "segmentation", prefix)
    configs = comparison_configs([model], lesson["SEEDS"][:1], shared, options={model: options.get(model, options)})
    return SegmenterComparison.of(run_all(configs, threads=1))


def score(comparison: ClassifierComparison | SegmenterComparison, name: str, **options: Any) -> float:
    return comparison.estimates([name], **options)[name].iloc[0].value


def tversky(beta: float) -> dict[str, Any]:
    return {"LOSS": "tversky", "LOSS_OPTIONS": {"alpha": round(1 - beta, 2), "beta": beta}}


def test_01_a_split_by_image_meets_patients_and_a_bias_of_callipers_shows():
    lesson = defaults("01")
    cases = load_cases("phantom", **lesson["DATA_OPTIONS"])
    splits = {by: [split_cases(cases, lesson["RATIOS"], by=by, seed=0)] for by in ("patient", "image")}
    met = exposure(splits, cases["patient"]).set_index(["split by", "training holds"])["mean"]
    assert met["patient", "either"] == 0 and met["image", "either"] > 0.5
    biased = load_cases("phantom", **lesson["DATA_OPTIONS"], calliper_bias=0.6)
    marked = [table.groupby("label")["callipers"].mean().diff().iloc[-1] for table in (cases, biased)]
    assert marked[1] > marked[0] + 0.2


def test_02_copies_made_before_the_split_leak_however_many_patients_and_views():
    lesson = defaults("02")
    for change in ({"patients": 6}, {"patients": 20}, {"patients": 20, "views": [1, 1]}):
        cases = load_cases("phantom", **(lesson["DATA_OPTIONS"] | change))
        copies = augmented_copies(cases, "paper_003", copies=3, seed=0)
        split = {by: split_cases(copies, lesson["RATIOS"], by, 0, require_classes=False) for by in ("image", "patient")}
        leak = augmentation_leaks(split)["copy in training"]
        assert leak.iloc[0] > 0.75 and leak.iloc[1] == 0, change


def test_03_a_split_by_image_raises_the_auc_focal_loss_lowers_sensitivity_and_one_epoch_shows_nothing():
    lesson = classified("03")
    assert lesson.estimates(["auc"])["auc"].iloc[0].low > 0.5, "the lesson's network is better than chance"
    assert score(classified("03", SPLIT_BY="image"), "auc") > score(lesson, "auc") + 0.03
    focal = classified("03", LOSS="focal", LOSS_OPTIONS={"alpha": 0.25, "gamma": 2.0})
    assert score(focal, "sensitivity", fixed=True) < score(lesson, "sensitivity", fixed=True) - 0.1
    assert score(focal, "specificity", fixed=True) > score(lesson, "specificity", fixed=True)
    hardly = classified("03", EPOCHS=1)
    assert hardly.estimates(["auc"])["auc"].iloc[0].low < 0.5


def test_04_and_05_a_higher_beta_finds_more_and_is_right_less_often_and_one_epoch_draws_worse():
    lesson, swept = outlined("04"), [outlined("05", **tversky(beta)) for beta in (0.3, 0.9)]
    high = outlined("04", **tversky(0.9))
    for low, more in ((lesson, high), swept):
        assert score(more, "sensitivity") > score(low, "sensitivity") + 0.03
        assert score(more, "precision") < score(low, "precision") - 0.03
    assert score(lesson, "dice") > 0.5 and score(outlined("04", EPOCHS=1), "dice") < score(lesson, "dice") - 0.1


def test_05_alpha_of_the_focal_loss_decides_what_is_called_malignant():
    focal = {"BATCH_SIZE": 16, "CLASSIFIER_LOSS": "focal"}
    weights = [{"alpha": alpha, "gamma": 2.0} for alpha in (0.25, 0.75)]
    runs = [classified("05", "CLASSIFIER_", **focal, CLASSIFIER_LOSS_OPTIONS=own) for own in weights]
    calls = [score(run, "sensitivity", fixed=True) for run in runs]
    assert calls[1] > calls[0] + 0.2


def test_06_maps_of_a_random_network_are_others_and_one_epoch_is_not_worth_explaining():
    lesson = defaults("06")
    runs = classified("06")
    decided = runs.decisions(runs.chosen)
    study = study_maps(Predictor(runs.first), decided, layer=lesson["LAYERS"].get(runs.chosen)).some(lesson["SANITY_IMAGES"])
    alike = [value.value for value in randomisation_table(study, [0])["spearman"]]
    assert alike[0] == pytest.approx(1) and alike[-1] < 0.7
    assert banner("a network", runs.auc_of_first(runs.chosen)) == ""
    assert "not shown to be above chance" in banner("a network", classified("06", EPOCHS=1).estimates(["auc"])["auc"].iloc[0])


def test_07_a_lower_bar_lets_more_masks_pass_and_blur_costs_dice():
    lesson, drawn = defaults("07"), outlined("07", "SEGMENTER_")
    dice = drawn.by_image(["dice"])["dice"]
    assert (dice < 0.5).mean() < (dice < lesson["ENOUGH"]).mean() - 0.1
    curve = robustness_curve(Predictor(drawn.first), drawn.truth, {"blur": [5.0]}, lesson["DISTURBED_IMAGES"])
    assert curve["change"].iloc[-1].value < -0.03


def test_later_notebooks_share_a_classifier_and_load_the_segmenter_of_04():
    assert len({classified(number).first.name for number in ("06", "07", "10")}) == 1
    assert {outlined(number, "SEGMENTER_").first.name for number in ("06", "07", "10")} == {outlined("04").first.name}


def test_08_larger_gains_are_easier_and_shakier_trainings_harder_to_see():
    assert paired_power(3, sd=10, patients=50) > paired_power(0.3, sd=10, patients=50) + 0.2
    assert smallest_gain(10, 50, seeds=3, seed_sd=4) > smallest_gain(10, 50, seeds=3, seed_sd=1) + 1


def test_09_patients_are_learnt_by_heart_in_time_and_one_view_leaves_nothing_to_leak():
    lesson = defaults("09")
    gains = []
    for epochs in (lesson["EPOCHS"], 2):
        settings = shared_settings(lesson | {"EPOCHS": epochs}, "classification")
        plan = ladder_plan(settings, lesson["MODEL"], lesson["SEEDS"][:1], ["image"])
        gains.append(ladders_of([run_all(plan.configs, threads=1)])[0].worth["difference"][0].difference)
    assert gains[0] > 0.2 and gains[1] < gains[0] - 0.1
    alone = shared_settings(lesson | {"DATA_OPTIONS": lesson["DATA_OPTIONS"] | {"views": [1, 1]}}, "classification")
    plan = ladder_plan(alone, lesson["MODEL"], [0], ["image", "validation"])
    assert "has a second image" in plan.left_out["by image"]
    assert nearest_neighbours(alone, plan).at["by image", "same patient"].value == 0


def test_every_notebook_has_exercises_that_say_how_they_come_out_or_are_checked_and_most_have_a_figure_to_move():
    for path in sorted(paths.notebooks_dir().glob("[01]*.ipynb")):
        before, _, text = path.read_text(encoding="utf-8").partition("## Limits and exercises")
        assert text.count("*Then:*") >= 2 and text.count("check_answer(answer, ") == 1, path.name
        moved = path.name[:2] not in ("08", "10", "11", "12")
        assert before.count('"play(') == moved, path.name


def test_the_course_hands_in_exercises_whose_answers_are_checked():
    readme = (paths.project_root() / "README.md").read_text(encoding="utf-8")
    course = readme.split("\n## A course of five sessions\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in course.splitlines() if re.match(r"\| \d ", line)]
    assert [row[0] for row in rows] == list("12345")
    for _, run, _, handed in rows:
        asked = re.findall(r"(\d\d), exercise (\d)", handed)
        assert [number for number, _ in asked] == run.split(", ")
        for number, exercise in asked:
            cells = json.loads(select_notebooks([number])[0].read_text(encoding="utf-8"))["cells"]
            assert re.search(rf"^{exercise}\. ", "".join(cells[-2]["source"]), re.M), f"{number} has no exercise {exercise}"
            last = "".join(cells[-1]["source"])
            assert last.startswith(f"answer = None  # exercise {exercise}") and "check_answer(answer, " in last, number


def test_13_callipers_that_tell_the_class_at_home_alone_are_lost_elsewhere():
    lesson, home, lost = defaults("13"), [], []
    elsewhere = load_cases("phantom", **lesson["EXTERNAL"]["B"]["options"])
    for bias in (0, lesson["DATA_OPTIONS"]["calliper_bias"]):
        found = classified("13", DATA_OPTIONS=lesson["DATA_OPTIONS"] | {"calliper_bias": bias})
        own, there = asked.on_own_test(found).score().value, asked.on_other_set(found, elsewhere).score().value
        home.append(own)
        lost.append(own - there)
    assert home[1] > home[0] + 0.02 and lost[1] > lost[0] + 0.02, (home, lost)
