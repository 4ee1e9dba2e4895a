"""The model card of a run: computed from what the run holds, right for older and leaky ones, printed by `runs show --card`."""

import re

from training_project import joint_config, one_cache, own_runs  # noqa: F401

from thyroid_utils.data.splits import patient_class
from thyroid_utils.inference.doubts import own_scores
from thyroid_utils.models.networks import parameter_count
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.training.data import split_data
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import RECIPE, Run
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.model_card import model_card


def test_a_card_tells_data_network_scores_and_limits_of_a_run(capsys, monkeypatch):
    config = joint_config(training__epochs=1)
    run, cases = fit_or_load(config), split_data(config).cases
    monkeypatch.setattr("thyroid_utils.data.readers.READERS", {})  # the run alone is asked
    capsys.readouterr()
    assert main(["runs", "show", run.name[:8], "--card"]) == 0
    card = capsys.readouterr().out
    assert card.startswith(f"# Model card: {config.label}\n\nRun {run.name[:8]} of") and "not a medical device" in card
    assert "is malignant, in the sense" in card and "It outlines in an ultrasound frame" in card
    for side, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        own, kinds = cases[cases["split"] == side], patient_class(cases[cases["split"] == side]).value_counts()
        counted = [f"{len(own)} / {own['patient'].nunique()}"]
        counted += [f"{(own['label'] == label).sum()} / {kinds[kind]}" for label, kind in enumerate(("benign", "malignant"))]
        cells = re.search(rf"^\| {name} \|(.*)\|", card, re.M)[1].split("|")
        heads = re.search(r"^\| images / patients \|(.*)\|", card, re.M)[1].split("|")
        by_kind = {head.strip(): cell.strip() for head, cell in zip(heads, cells, strict=True)}
        assert [by_kind[kind] for kind in ("all", "benign", "malignant")] == counted
    known = run.predictions.query("split == 'val'")
    threshold = choose_threshold(known["label"], known["probability"])
    scores = own_scores(run)
    rows = [f"| {name} | {scores[name].text()} |" for name in ("AUC", "Dice")]
    rows += [f"| parameters | {parameter_count(run.load_model())} |".replace("\u202f", ""), "| starts from | from scratch |"]
    rows += ["by patient, shares 0.7 : 0.15 : 0.15, seed 0 |", "patients 14, size 64, views [1, 2]", "| device | cpu |"]
    rows += [f"from a probability of {threshold:.3f} on", f"on {len(known)} images of validation", "epoch kept | 1 of 1"]
    told = card.replace("\u202f", "")
    assert all(row in told for row in rows), [row for row in rows if row not in told]
    assert "simulated" in card and "rest on" in card and "by image" not in card and "another version" not in card
    held = dict(run.data)
    for changed, said in [
        ({"leaky": True}, "- Its split leaks (by patient)"),
        ({"patients": "copies | stand for them"}, "- Patients are not all named (copies"),
        ({"recipe": RECIPE - 1}, "- It was made by another version of the code"),
        ({"left_out": 1}, "| left out for want of a label or mask | 1 image |"),
        ({"sides": None}, f"| training | {held['images']['train']} / – |"),
    ]:
        again = Run(run.folder)
        again.data = held | changed
        assert said in model_card(again) and said not in card, said
    for split, said in [
        ({"by": "official"}, "| split | the set's own |"),
        ({"folds": 5, "fold": 1, "seed": 3}, "| split | by patient, fold 2 of 5, seed 3 |"),
    ]:
        again = Run(run.folder)
        again.config = joint_config(split=split)
        assert said in model_card(again), said
