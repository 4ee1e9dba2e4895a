"""What a notebook draws of results that have nothing to show: no error, one class, a segmenter that finds nothing."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.plots import error_analysis as errors
from thyroid_utils.scores.estimates import benefit_curve
from thyroid_utils.scores.probabilities import risk_coverage
from thyroid_utils.studies.error_analysis.error_analysis import decision_errors, failure_modes, map_errors, mask_row
from thyroid_utils.studies.error_analysis.label_errors import rank_label_errors
from thyroid_utils.studies.error_analysis.mask_errors import lost_dice, nodule_frame_errors, outliers_of
from thyroid_utils.studies.error_analysis.subgroups import overall_estimate, subgroup_calibration, subgroup_table
from thyroid_utils.studies.error_analysis.uncertainty import detection_table

COUNT = 60
CASES = pd.Index([f"drawn/{number}" for number in range(COUNT)], name="case")
PATIENTS = pd.Series([f"patient-{number // 2}" for number in range(COUNT)], CASES)
GROUPS = pd.DataFrame({"scanner": pd.Categorical(["A" if number % 6 < 4 else "B" for number in range(COUNT)])}, CASES)


def decided(labels: list[int], probabilities: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"patient": PATIENTS, "label": labels, "probability": probabilities, "threshold": 0.5}, CASES)


def drawn(figure) -> bool:
    """Whether there is a figure, which can be drawn to its last text."""
    if figure is not None:
        figure.savefig(io.BytesIO(), format="png")
    return figure is not None


def figures(decisions: pd.DataFrame) -> dict[str, bool]:
    """Every figure of a classifier's errors but the cards, as the notebook makes them: name → whether there is one."""
    found = decision_errors(decisions, "tiny", groups=GROUPS)
    results, patients = found.images[["label", "probability"]], found.images["patient"]
    table = subgroup_table(results, GROUPS, patients, "accuracy", 0.5, deals=19)
    doubt = -(results["probability"] - 0.5).abs()
    sets = conformal_sets(results["probability"], results["label"], results["probability"], val_patients=patients, by_class=True)
    case, row = next(found.images.iterrows())
    return {
        "cards": drawn(errors.cards([errors.card(case, row, np.zeros((20, 20), np.uint8))])),
        "subgroups": drawn(errors.forest(table, overall_estimate(results, patients, "accuracy", 0.5), "accuracy")),
        "calibration": drawn(errors.calibration_by_subgroup(subgroup_calibration(results, GROUPS, patients, deals=19))),
        "risk": drawn(errors.risk_coverage({"single": risk_coverage(doubt, found.images["wrong"])})),
        "conformal": drawn(errors.conformal_bars(coverage(sets, results["label"], patients, resamples=20), 0.1)),
        "decisions": drawn(
            errors.decision_curve({"tiny": benefit_curve(results["label"], results["probability"], ["a"] * len(results))})
        ),
        "suspects": bool(rank_label_errors(results["label"], results["probability"], patients)["suspect"].any()),
    }


EVERY = {"cards", "subgroups", "calibration", "risk", "conformal", "decisions"}


def test_no_error_at_all_has_every_figure_but_that_of_the_errors():
    labels = [number // 2 % 2 for number in range(COUNT)]
    perfect = decided(labels, np.where(labels, 0.9, 0.2))
    assert {name for name, there in figures(perfect).items() if there} == EVERY
    found = decision_errors(perfect, "tiny")
    assert failure_modes(found).sentence.startswith("tiny makes no error on 60 images of 30 patients")
    doubt = pd.DataFrame({"nearness": np.arange(COUNT, dtype=float)}, CASES)
    (row,) = detection_table({"single": doubt}, found.images["wrong"], PATIENTS, resamples=20).itertuples()
    assert row.auroc.text() == "all 60 images are right" and row.errors == 0 and row.aurc.value == 0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_every_figure_and_no_suspect(label):
    random = np.random.default_rng(0)
    one = decided([label] * COUNT, random.uniform(0.2, 0.8, COUNT))
    assert {name for name, there in figures(one).items() if there} == EVERY


def test_a_segmenter_that_predicts_nothing_anywhere_has_every_figure():
    truth, nothing = np.zeros((COUNT, 24, 24), bool), np.zeros((COUNT, 24, 24))
    for number in range(COUNT):
        truth[number, 6:16, 4 + number % 8 : 12 + number % 8] = True
    scores = {"dice": 0.0, "iou": 0.0, "hd95": np.hypot(24, 24), "presence": "missed"}
    rows = pd.DataFrame([mask_row(*pair) for pair in zip(truth, nothing, strict=True)], CASES).assign(**scores)
    found = map_errors(rows.assign(patient=PATIENTS, label=0), "unet", groups=GROUPS)
    modes = failure_modes(found)
    assert modes.sentence.startswith("unet is wrong on 60 of 60 images of 30 patients (100.0 %")
    assert "The one failure mode is nodule missed (60 of 60 errors, 100 %" in modes.sentence
    assert modes.table["dice_lost"].tolist() == [1.0]
    assert drawn(errors.loss_of_dice({"unet": lost_dice(found.images)}))
    framed = nodule_frame_errors(truth, nothing.astype(bool))
    assert framed.images == COUNT and drawn(errors.nodule_frame(framed))
    table = subgroup_table(found.images["dice"], GROUPS, PATIENTS, deals=19)
    assert not table["differs"].any() and drawn(errors.forest(table, overall_estimate(found.images["dice"], PATIENTS), "Dice"))
    case, row = next(found.table.iterrows())
    card = errors.card(case, row, np.zeros((24, 24), np.uint8), truth[0], found=nothing[0] > 0, values=nothing[0])
    assert card.title == "drawn/0\nnodule missed" and drawn(errors.cards([card]))
    far = outliers_of(found.images[["patient", "dice", "hd95", "presence"]], lambda case: (truth[0], nothing[0] > 0))
    assert len(far) == COUNT and set(far["cause"]) == {"nodule missed"}
