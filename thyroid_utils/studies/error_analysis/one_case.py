"""One image of a classifier, from what each training says of it to the call, and what speaks for and against believing it."""

import pandas as pd

from thyroid_utils.common.words import listed, number
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.error_analysis import Errors
from thyroid_utils.studies.error_analysis.trust import Asked


def call_by_hand(
    comparison: ClassifierComparison, errors: Errors, asked: Asked, sets: pd.DataFrame, ranked: pd.DataFrame, case: str
) -> pd.DataFrame:
    """The steps to a call and to its doubts.

    Args:
        comparison: with the errors' model.
        errors: of `classifier_errors`. asked: of `trust.ask_all`. sets: of `trust.prediction_sets`. ranked: of
            `trust.rank_label_errors`; all of that model.
        case: one of its test images.

    Returns:
        DataFrame, index `step`; `how` and `value`, both text.
    """
    row, doubts = comparison.decisions(errors.model).loc[case], {way: table.loc[case] for way, table in asked.scores.items()}
    told = {name: number(row[name], 3) for name in ("probability", "calibrated", "threshold")}
    call, label = errors.images.loc[case], ranked.loc[case]
    seeds = [(run.config.seed, run.predictions.at[case, "log_odds"]) for run in comparison.runs[errors.model]]
    logit = f"logit of malignant less that of benign{', calibrated by its fold' * bool(comparison.folds)}"
    rows = [(f"log-odds, seed {seed}", logit, number(value, 3)) for seed, value in seeds]
    if "seeds" in doubts:
        mean = number(doubts["seeds"]["probability"], 3)
        rows.append(("mean over seeds", "each on a scale where 0.5 is its own threshold", mean))
    p, inside = told["probability"], [name for name in ("benign", "malignant") if sets.at[case, name]]
    rows += [
        ("p(malignant)", f"1 / (1 + exp({number(-row['log_odds'], 3)}))", p),
        ("calibrated", "log-odds by slope and intercept of validation", told["calibrated"]),
        ("called", f"{p} against the threshold {told['threshold']}", f"{call['prediction']}; labelled {call['truth']}"),
        ("entropy", f"−{p} log₂ {p} − (1 − {p}) log₂ (1 − {p})", f"{number(doubts['single']['entropy'])} bits"),
        ("SD over views", "of p over mirrored and shifted images", number(doubts["views"]["sd"], 3)),
        ("prediction set", "labels that cannot be excluded", listed(inside)),
        ("label suspect", f"p of its label: {number(label['self_confidence'], 3)}", "yes" if label["suspect"] else "no"),
    ]
    return pd.DataFrame(rows, columns=["step", "how", "value"]).set_index("step")
