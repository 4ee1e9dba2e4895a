"""Every claim of the five papers beside what arithmetic says of it and what was reached on open data, with a verdict.

A verdict is one of four, and `verdict` alone gives it. What is reached comes from tables of results and from the ledger: finished
runs whose split keeps patients apart. It is of other images than the papers', which are not public.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import UNKNOWN, count, listed, number, whole
from thyroid_utils.common.words import share as percent
from thyroid_utils.scores.estimates import DETECTED, Estimate
from thyroid_utils.scores.figures import FIGURES, FigureCheck, Printed, common_sizes, consistency, counts_told, dice_of
from thyroid_utils.scores.labels import SCORES
from thyroid_utils.scores.masks import OVERLAP_SCORES
from thyroid_utils.studies.classifier_comparison import MAIN_SCORES, ClassifierComparison
from thyroid_utils.studies.module_ablation.tables import OURS, TABLES, sums_table
from thyroid_utils.studies.papers import reported_scores
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.ledger import Run, find_run, list_runs

REPRODUCED, NOT_SHOWN = "reproduced within its interval", "not shown"
IMPOSSIBLE, NOT_TESTABLE = "impossible as stated", "not testable here"
VERDICTS = (REPRODUCED, NOT_SHOWN, IMPOSSIBLE, NOT_TESTABLE)
_FINDINGS = {"broken": IMPOSSIBLE, "doubt": NOT_SHOWN, "confirmed": REPRODUCED}
_NOTHING = {
    **dict.fromkeys(("finding", "arithmetic", "by", "rival", "task", "figures"), ""), "why": "no finished run of it here",
    "claimed": (np.nan, np.nan), "reached": None, "beside": None, "p": np.nan, "needed": np.nan,
}  # fmt: skip
# Task → the result table of its scores, their names there, what compares runs.
_TASKS = {
    "classification": ("03_scores", {name: SCORES[name] for name in MAIN_SCORES}, ClassifierComparison),
    "segmentation": ("04_scores", OVERLAP_SCORES, SegmenterComparison),
}
_CLAIMS = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
# ("classification", "segmentation" of nodules or "gland"; model; score) → what is reached, and whose it is.
Known = dict[tuple[str, str, str], tuple[Estimate, str]]


def verdict(claim: Mapping[str, Any]) -> tuple[str, str]:
    """One of `VERDICTS` and its reason.

    claim: `finding` of arithmetic, "broken" (it cannot be), "doubt" (something speaks against it), "confirmed" or "", and
    `arithmetic`, its words; `claimed`, the lowest and highest number that is printed so; `reached`, an `Estimate` or None; `p`,
    of a gain after Holm, NaN of a score; `why`, the reason where nothing is reached; `rival`, what reached it in place of what
    the claim names, or "".
    """
    if claim["finding"]:
        return _FINDINGS[claim["finding"]], claim["arithmetic"]
    found, (low, high) = claim["reached"], claim["claimed"]
    if found is None or np.isnan(found.low):
        return NOT_TESTABLE, claim["why"]
    if high < found.low or low > found.high:
        return NOT_SHOWN, "the interval of what is reached, on other images, does not hold it"
    if claim["p"] >= 0.05:
        return NOT_SHOWN, f"the interval holds it, but no difference is shown (p = {number(claim['p'])} after Holm)"
    return (NOT_SHOWN, claim["rival"]) if claim["rival"] else (REPRODUCED, "on other images")


def scorecard(known: Known, results: str = "", pair_sd: float = 5.0) -> pd.DataFrame:
    """Every claim with its verdict.

    Args:
        known: scores that are reached (`of_tables`, `of_ledger`).
        results: folder of tables that reports leave, for gains (`08_modules.csv` …); empty for none.
        pair_sd: SD over patients of the difference of two segmenters, in points.

    Returns:
        DataFrame, a row a claim: `paper`, `claim`, `place`, `printed`, `data`, `split`, `task` and `figures` (of scores: name →
        text), what `verdict` takes, `by` (whose `reached` is), `beside` (of a score, an `Estimate` of another network), `needed`
        (patients that tell it, with a power of 80 %, from the next lower row of its table, or a gain from none; by the normal
        approximation of the paired test), `verdict`, `why`.
    """
    claims = [*_scores(known, pair_sd / 100), *_gains(results, pair_sd)]
    for told in _CLAIMS["claims"]:
        check, given = told.get("check"), told.get("with", {})
        found = _gain(results, **given) if check == "gain" else CHECKS[check](**given) if check else {}
        claims.append({**found, **told})
    table = pd.DataFrame([{**_NOTHING, **claim} for claim in claims]).sort_values("paper", kind="stable", ignore_index=True)
    images = pd.concat([reported_scores(task) for task in _TASKS]).groupby("paper")[["data", "split"]].first()
    judged = [verdict(claim) for claim in table.to_dict("records")]
    return table.join(images, on="paper").assign(**dict(zip(("verdict", "why"), zip(*judged, strict=True), strict=True)))


def _scores(known: Known, pair_sd: float) -> list[dict]:
    """The rows of the papers' tables of scores, each by its first figure, or by the first that is known."""
    claims, of_papers = [], _CLAIMS["tests"]
    for task in _TASKS:
        for paper, table in reported_scores(task).query("loss != '' and paper in @of_papers").groupby("paper"):
            rows = {key: row.set_index("score")["printed"].to_dict() for key, row in table.groupby(["model", "loss"], sort=False)}
            test = of_papers[paper].get(task, {})
            what, one_test = test.get("target", task), "tests" not in test if "n" in test else None
            counts = counted(test, list(rows.values())) if "n" in test else [("", "")] * len(rows)
            for ((model, loss), figures), (told, wrong) in zip(rows.items(), counts, strict=True):
                score = next((name for name in figures if (what, model, name) in known), next(iter(figures)))
                value = float(figures[score])
                gain = value - max((low for row in rows.values() if (low := float(row.get(score, 1))) < value), default=np.nan)
                of_pixels, contradiction = held_to_each_other(figures, one_test)
                others = [reached for (kind, _, name), (reached, _) in known.items() if (kind, name) == (what, score)]
                reached, by = known.get((what, model, score), (None, ""))
                claims.append({
                    "paper": paper, "task": task, "claim": f"{model} ({loss.replace('_', ' ')}), {score}",
                    "place": table["place"].iloc[0], "printed": figures[score], "figures": figures,
                    "arithmetic": wrong or contradiction or told or of_pixels, "finding": "broken" * bool(wrong or contradiction),
                    "claimed": Printed.read(score, figures[score]).ends(), "reached": reached, "by": by,
                    "beside": next(iter(others), None),
                    "needed": _patients(gain, (gain - gain**2) ** 0.5 if task == "classification" else pair_sd),
                })  # fmt: skip
    return claims


def _patients(gain: float, sd: float) -> float:
    return np.ceil((DETECTED * sd / gain) ** 2 + 2)  # t takes two more than the normal distribution


def counted(test: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The counts behind rows of figures of one test set, in words, and of each the contradiction where there are none, or "".

    test: of `FigureCheck.of`, with `tests` and `adding_up` as in `claims.toml`.
    """
    names = test.get("adding_up", FIGURES)
    checks = [FigureCheck.of({**test, **{name: row[name] for name in row if name in names}}) for row in rows]
    sizes, found = common_sizes([check.tables for check in checks]), []
    for check in checks:
        table = check.tables.assign(positives=check.tables["true_positives"] + check.tables["false_negatives"]).merge(sizes)
        told = counts_told(table.iloc[0]) if len(table) == 1 else check.told
        found.append((told + f", {test.get('tests')} tests together" * ("tests" in test), check.told * check.tables.empty))
    return found


def held_to_each_other(figures: Mapping[str, str], one_test: bool | None = None) -> tuple[str, str]:
    """Of which pixels the figures of a row are, and where they contradict each other, or "".

    one_test: whether they are of one table of counts; None: of pixels, where Dice and IoU say so.
    """
    rules = consistency(figures)
    pooled = rules["rule"].str.contains("counted together")
    one_table = bool(rules.loc[pooled, "agrees"].any()) if one_test is None else one_test
    wrong = rules[(rules["always"] | one_table) & ~rules["agrees"] & ~rules["rule"].str.contains("concave")]
    told = [f"{row.rule}: {number(row.low, 4)} to {number(row.high, 4)}, printed {row.printed}" for row in wrong.itertuples()]
    return ("all pixels counted together" if one_table else "means over images") * bool(pooled.any()), "; ".join(told)


def _gains(results: str, pair_sd: float) -> list[dict]:
    """The rows of the ablation tables of which the text quotes a gain."""
    rows = [(name, table, row) for name, table in TABLES.items() for row in table.rows if not np.isnan(row.reported_iou)]
    return [
        {"paper": "003", "claim": f"{row.name} against {table.reference}, points of IoU", "place": table.title[-8:-1],
         "needed": _patients(row.reported_iou, pair_sd), **_gain(results, row.reported_iou, f"08_{name}", row.name)}
        for name, table, row in rows
    ]  # fmt: skip


def _gain(results: str, gain: float, file: str, row: str) -> dict[str, Any]:
    """A gain in points, and what a row of a result table gained."""
    claim, table = {"printed": f"{gain:+.2f}", "claimed": (gain - 0.005, gain + 0.005)}, _table(results, file)
    column = next((name for name in table if name.startswith("difference")), "")
    if not column or row not in table.index:
        return claim
    reached = read_estimate(table.at[row, column], 1 if "points" in column else 100)
    return claim | {"reached": reached, "p": float(table.at[row, "p (Holm)"]), "by": f"{file}, {row}"}


def read_estimate(text: object, scale: float = 1) -> Estimate | None:
    """Of a cell of a result table, `0.61 [0.55, 0.66]`, times `scale`; None of any other."""
    told = re.match(r"([-+]?[\d.]+)\s\[([-+]?[\d.]+),\s([-+]?[\d.]+)\]", str(text))
    return Estimate(*(scale * float(end) for end in told.groups()), 0, 0) if told else None


def _table(results: str, file: str) -> pd.DataFrame:
    """A table of results as text, without rows where it is not there. Raises DataError where the folder is not."""
    folder = paths.resolve_in_project(results)
    if not folder.is_dir():
        raise DataError(f"RESULTS: {results}: no such folder; expected one that holds 03_scores.csv or the like; empty for none")
    path = folder / f"{file}.csv"
    return pd.read_csv(path, index_col=0, dtype=str) if results and path.is_file() else pd.DataFrame()


def _what(task: str, target: str) -> str:
    return "gland" if (task, target) == ("segmentation", "gland") else task


def of_tables(results: str, target: str = "nodule") -> Known:
    """The scores that tables of results hold; of Yang et al.'s network those of notebook 08.

    results: their folder. target: what the masks outline that they are of. Raises DataError where there is no such folder.
    """
    places = [(task, score, file, label) for task, (file, names, _) in _TASKS.items() for score, label in names.items()]
    cells = {
        (_what(task, target), model, score): (read_estimate(text), f"{file}, {model}")
        for task, score, file, label in places
        for model, text in _table(results, file).get(label, {}).items()
    }
    ours = read_estimate(_table(results, "08_modules").get("IoU", {}).get("all three"))
    cells[_what("segmentation", target), OURS, "iou"] = ours, "08_modules, all three"
    return {key: entry for key, entry in cells.items() if entry[0]}


def of_ledger(dataset: str, by: str, root: str | None = None, target: str = "nodule") -> Known:
    """The scores of finished runs on a data set, split `by` patient, of each network by the recipe that validation prefers.

    Seeds that lack a fold are left out. root: the data set's folder, where it is another than in training. target: what its masks
    outline.
    """
    finished = list_runs().query("state == 'finished' and dataset == @dataset and task in @_TASKS")
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in map(find_run, finished.index):
        if run.config.split.by == by and not run.data["leaky"] and run.config.split.leak is None:
            recipe = f"{run.config.recipe} {run.data['fingerprint']} {run.config.split.model_copy(update={'fold': 0})}"
            groups.setdefault((run.config.task, run.config.model.name), {}).setdefault(recipe, []).append(run)
    found = {}
    for (task, model), recipes in groups.items():
        _, names, kind = _TASKS[task]
        more = {"root": root} if task == "segmentation" else {}
        compared = [kind.of(runs, **more) for runs in map(_whole, recipes.values()) if runs]
        if compared:
            best = max(compared, key=lambda each: each.validation.iloc[0])
            told = f"{count(best.trainings, 'training')} on {dataset}"
            scores = best.estimates(list(names)).iloc[0].items()
            found |= {(_what(task, target), model, score): (value, told) for score, value in scores}
    return found


def _whole(runs: Sequence[Run]) -> list[Run]:
    """Those of runs of one recipe whose seed has been trained on every fold."""
    seeds = [run.config.seed for run in runs]
    return [run for run in runs if seeds.count(run.config.seed) == max(run.config.split.folds, 1)]


def sums(place: str, row: str, impossible: bool = False) -> dict[str, str]:
    """A row of `sums_table`: what Yang et al. say, held to the networks or to the paper's other figures."""
    told = sums_table(place).loc[row]
    finding = "confirmed" if told["agrees"] == "yes" else "broken" if impossible else "doubt"
    return {"printed": told["paper"], "finding": finding, "arithmetic": f"{told['computed']}: {told['how']}"}


def by_image(images: int, share: float, classes: int, tested: int) -> dict[str, str]:
    """Whether a test side of `tested` images is what a split by image and class makes, its share rounded up."""
    each = ceil(round(share * images / classes, 9))
    told = f"{classes} × {each} is {percent(share)} of each class of {images // classes}, rounded up, as if images were drawn"
    return {"finding": "doubt" * (classes * each == tested), "arithmetic": told}


def met(copies: int, share: float, what: str) -> dict[str, str]:
    """How many test images have at least one of their other copies in training, if each image is drawn by itself."""
    return {"finding": "doubt", "arithmetic": f"{percent(1 - (1 - share) ** (copies - 1))} of {what}"}


def nodule_f1(n_iou: float, b_iou: float, printed: float) -> dict[str, str]:
    """F1 of nodule pixels, of background pixels and their mean, by their IoU."""
    nodule, background = dice_of(n_iou), dice_of(b_iou)
    mean = number((nodule + background) / 2, 3)
    told = f"nodules have {number(nodule, 3)} and the background {number(background, 3)}, of which {mean} is the mean"
    return {"finding": "broken" if abs(printed - nodule) > 0.001 else "confirmed", "arithmetic": told}


def empty_mask(n_iou: float, b_iou: float) -> dict[str, str]:
    """The pixel accuracy of calling nothing nodule that two IoUs of the same pixels leave possible.

    With one pixel in error TP = n / (1 − n) and TN = b / (1 − b); nodules have TP to TP + 1 pixels.
    """
    found, right = n_iou / (1 - n_iou), b_iou / (1 - b_iou)
    low, high = (percent(1 - (found + missed) / (found + right + 1), 1) for missed in (1, 0))
    return {"finding": "doubt", "arithmetic": f"by the paper's own IoUs an empty mask has {low} to {high}"}


def means(**figures: str) -> dict[str, Any]:
    """Where figures contradict each other even as means over tests."""
    wrong = held_to_each_other(figures, one_test=False)[1]
    return {"finding": "broken" * bool(wrong), "arithmetic": wrong, "figures": figures}


CHECKS = {check.__name__: check for check in (sums, by_image, met, nodule_f1, empty_mask, means)}


def followed(card: pd.DataFrame) -> pd.DataFrame:
    """The first claim whose counts are known, from what is printed to its verdict: a row a step, in a column of its name. Claims
    beside which something is reached come first."""
    counted = card[card["arithmetic"].str.startswith("TP ")]
    claim = counted.sort_values("reached", key=pd.isna, kind="stable").iloc[0]
    tp, fp, fn, tn, images = map(int, re.findall(r"\d+", claim["arithmetic"])[:5])
    shares = {
        "accuracy, (TP + TN) / N": (tp + tn, images), "precision, TP / (TP + FP)": (tp, tp + fp),
        "sensitivity, TP / (TP + FN)": (tp, tp + fn), "F1, 2 TP / (2 TP + FP + FN)": (2 * tp, 2 * tp + fp + fn),
    }  # fmt: skip
    steps = {
        "printed": ", ".join(f"{name} {text}" for name, text in claim["figures"].items()),
        "the first stands for": " to ".join(number(end, 5) for end in claim["claimed"]),
        "counts that give all of them": claim["arithmetic"],
        **{name: f"{part} / {of} = {number(part / of, 4)}" for name, (part, of) in shares.items()},
        "reached here": f"{claim['reached']} ({claim['by']})" if claim["reached"] else UNKNOWN,
        "verdict": f"{claim['verdict']}: {claim['why']}",
    }
    return pd.DataFrame({claim["claim"]: steps}).rename_axis("step")


def card_table(card: pd.DataFrame) -> pd.DataFrame:
    """Claims of a scorecard for a reader."""
    reached = [f"{row.reached} ({row.by})" if row.reached else UNKNOWN for row in card.itertuples()]
    shown = pd.DataFrame({"claim": card["claim"] + " (" + card["place"] + ")", "reported": card["printed"]})
    return shown.assign(verdict=card["verdict"], why=card["why"], reached=reached, patients=card["needed"].map(whole))


def answer(card: pd.DataFrame) -> str:
    """How many claims carry which verdict, in words."""
    counts = card["verdict"].value_counts().reindex(VERDICTS, fill_value=0)
    told = f"Of {count(len(card), 'claim')} of five papers: {listed(f'**{number}** {name}' for name, number in counts.items())}."
    return f"{told} Arithmetic alone settles {count((card['finding'] != '').sum(), 'claim')}."
