"""A model card of one training run, in Markdown: what it is for, made of and worth, from what the run itself holds.

Reference:
    Mitchell et al., Model Cards for Model Reporting, Proc. FAT* (2019) 220-229.
"""

from thyroid_utils.inference.doubts import own_scores
from thyroid_utils.models.networks import parameter_count
from thyroid_utils.scores.estimates import few_told, patient_scores
from thyroid_utils.scores.labels import SCORES, choose_threshold
from thyroid_utils.studies.tables import names_patients
from thyroid_utils.training.ledger import RECIPE, Run
from thyroid_utils.workbook.pages import render_page

_AT_A_THRESHOLD = [name for name in SCORES if name not in ("auc", "mcc")]


def model_card(run: Run) -> str:
    """The card of a finished run, whether its data are still there or not. Of runs of older versions of the code, which do not
    hold `sides`, images are counted and no patients."""
    sides = run.data.get("sides") or {side: {"all": [images, None]} for side, images in run.data["images"].items()}
    known, test = (run.predictions[run.predictions["split"] == side] for side in ("val", "test"))
    scores, threshold, few = own_scores(run), None, []
    if "AUC" in scores:
        threshold = choose_threshold(known["label"].astype(int), known["probability"])
        rest = patient_scores(test["label"].astype(int), test["probability"], test["patient"], _AT_A_THRESHOLD, threshold)
        scores = {"AUC": scores["AUC"], **{SCORES[name]: found for name, found in rest.items()}, **scores}
        fewest = test.groupby("label")["patient"].nunique().min()
        few += [few_told(fewest, "test patient of the rarer class", "test patients of the rarer class", score="auc")]
    if "Dice" in scores:
        few += [few_told(scores["Dice"].patients, "test patient with a nodule", "test patients with a nodule", score="dice")]
    few = [told.partition("** ")[2].replace("this page", "this card") for told in few if told]
    values = {"kinds": list(dict.fromkeys(kind for found in sides.values() for kind in found)), "named": names_patients(run)}
    values |= {"parameters": parameter_count(run.load_model()), "current": run.data["recipe"] == RECIPE}
    card = render_page("model_card.md.j2", run=run, sides=sides, scores=scores, threshold=threshold, few=few, **values)
    return f"{card.rstrip()}\n"
