"""The ablation's tables and findings as they are read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from thyroid_utils.studies.module_ablation.gain_power import GainPower
from thyroid_utils.studies.module_ablation.study import SCORE, AblationStudy
from thyroid_utils.studies.module_ablation.sums import sums_that_do_not_add_up
from thyroid_utils.studies.module_ablation.tables import TABLES, parameter_counts

_COSTS = {"aspp": ["training_seconds"], "backbone": ["latency_ms"], "method": ["latency_ms"]}  # those that the paper's table has
_FRONTS = {"parameters": "parameters", "latency_ms": "latency"}
_NAMES = {"training_seconds": "training, s", "latency_ms": "latency, ms"}


def reading_table(study: AblationStudy, name: str, seed_sd: float) -> pd.DataFrame:
    """A table of the study for a reader, without rows where it is not among the study's.

    Args:
        seed_sd: points, for the interval over patients and seeds (`GainPower.seed_sd`).

    Returns:
        index `row`; IoU [95 % over patients]; difference to the reference row in points [95 % over patients], the same interval
        over patients and seeds, p-value after Holm, the paper's points; SD over seeds of the mean IoU in points; parameters
        (millions, and times the reference's, here and in the paper), training time and latency where the paper's table has them.
        Columns that say nothing of any row are left out.
    """
    if name not in study.tables:
        return pd.DataFrame()
    found, table = study.results[name], study.tables[name]
    wider = study.with_seeds(seed_sd / 100)
    shown = pd.DataFrame(index=found.index)
    shown["IoU"] = [_unbroken(estimate.text(3)) for estimate in found[SCORE]]
    shown["difference, points"] = ["reference" if row is None else _points(row.difference, row.low, row.high)
                                   for row in found["difference"]]  # fmt: skip
    shown["with seeds"] = ["" if found.at[row, "difference"] is None else _interval(*wider[name, row]) for row in found.index]
    shown["p (Holm)"] = ["" if row is None else _p(p) for row, p in zip(found["difference"], found["p_holm"], strict=True)]
    shown["paper, points"] = found["reported_points"].map(lambda points: "" if np.isnan(points) else f"{points:+.2f}")
    shown["SD over seeds"] = 100 * found["seed_sd"]
    shown["parameters, M"] = found["parameters"]
    shown["× reference"] = found["share"]
    shown["paper, ×"] = found["reported_share"]
    for cost in _COSTS.get(name, []):
        shown[_NAMES[cost]] = found[cost]
        if cost == "training_seconds":
            shown["time, ×"] = found[cost] / found.at[table.reference, cost]
    shown["remark"] = found["remark"]
    return shown.loc[:, [not (column.isna() | (column == "")).all() for _, column in shown.items()]]


def power_table(powers: GainPower) -> pd.DataFrame:
    """`GainPower.table` for a reader: "> 1000" is beyond what was simulated, "≤ 20" at or below it, "–" not measured.
    The spread over seeds, one and the same in all rows, belongs into the caption (`GainPower.basis`)."""
    found = powers.table
    shown = pd.DataFrame({"gain": found["gain"], "from": found["whose"]})
    for seeds in found.columns[found.columns.get_loc("smallest") + 1 :]:
        texts = found[seeds].fillna("–").str.replace("about ", "").str.replace("not within ", "> ")
        shown[f"patients, {seeds}"] = texts.str.replace(r"(\d+) or fewer", r"≤ \1", regex=True)
    here = {
        "smallest seen here": found["smallest"],
        "power here, %": 100 * found["power"],
        "SD over patients": found["patient_sd"],
    }
    return shown.assign(**here)


def count_table() -> pd.DataFrame:
    """`parameter_counts` of all tables for a reader."""
    names = {"parameters": "parameters, M", "mebibytes": "float32, MiB", "share": "× reference", "reported_share": "paper, ×"}
    return parameter_counts().rename(columns=names)


def stage_table(stages: pd.DataFrame) -> pd.DataFrame:
    """`models.network_stages` for a reader: index `part`; what it `reads`, its `output` (channels×height×width), `parameters`
    and their `share, %`. What lies between parts without a name is called "between"."""
    whole = max(1, int(stages["parameters"].sum()))
    rows = {
        row.stage: {
            "reads": ", ".join(dict.fromkeys(name or "between" for name, *_ in row.inputs)),
            "output": f"{row.channels}×{row.height}×{row.width}",
            "parameters": row.parameters,
            "share, %": round(100 * row.parameters / whole, 1),
        }
        for row in stages.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def sums_table(name: str) -> pd.DataFrame:
    """`sums_that_do_not_add_up` of one place for a reader."""
    found = sums_that_do_not_add_up(name).drop(columns="table")
    found["agrees"] = found["agrees"].map({True: "yes", False: "no"})
    return found.set_index("claim")


def cost_table(study: AblationStudy) -> pd.DataFrame:
    """The networks of a study, what they cost and reach, cheapest first."""
    found = study.networks.sort_values("parameters")
    fronts = {cost: study.front(cost) for cost in _FRONTS}
    return pd.DataFrame(
        {
            "parameters, M": found["parameters"],
            "float32, MiB": found["parameters"] * 4e6 / 2**20,
            "latency, ms": found["latency_ms"],
            "training, s": found["training_seconds"],
            "IoU": [_unbroken(estimate.text(3)) for estimate in found[SCORE]],
            "on the front by": [
                " and ".join(_FRONTS[cost] for cost in fronts if network in fronts[cost]) or "–" for network in found.index
            ],
        }
    )


def ablation_findings(study: AblationStudy, powers: GainPower) -> list[str]:
    """What a study shows, in sentences."""
    lines = []
    wider = study.with_seeds(powers.seed_sd / 100)
    for name, table in study.tables.items():
        found = study.results[name]
        compared = found[found["difference"].notna()]
        differing = list(compared.index[compared["differs"]])
        sure = [row for row in differing if wider[name, row][0] > 0 or wider[name, row][1] < 0]
        told = f" ({', '.join(differing)}); with the spread of training {len(sure)} still {'do' if len(sure) != 1 else 'does'}"
        lines.append(f"**{table.title}**: over patients {len(differing)} of {len(compared)} rows differ in IoU from the row "
                     f"'{table.reference}' after Holm{told if differing else ''}.")  # fmt: skip
    if study.seeds == 1:
        lines.append(
            "Every network was trained once: a difference may be the luck of that training, which no test over patients sees."
        )
    excess = study.together()
    if excess is not None:
        *single, together = [row.reported_iou for row in TABLES["modules"].rows[1:]]
        paper = f"{together - sum(single):+.2f} in the paper's table"
        lines.append(f"All modules together gain {excess.text(2)} points more than the sum of their single gains ({paper}).")
    smallest = powers.table["smallest"].dropna()
    if len(smallest):
        missed = powers.table[(powers.table["whose"] == "paper") & (powers.table["power"] < 0.8)]
        quoted = int((powers.table["whose"] == "paper").sum())
        tested = f"{study.whole.truth['patient'].nunique()} test patients, {study.whole.plan}"
        lines.append(f"This study ({tested}) sees a gain of {smallest.min():.1f} points or more with a power of 80 %, "
                     f"{smallest.max():.1f} in the noisiest row; {len(missed)} of the {quoted} gains that the paper quotes are "
                     f"too small for it. {powers.basis}.")  # fmt: skip
    fronts = [network for network in study.front("parameters") if network in study.front("latency_ms")]
    lines.append(f"No network is better and cheaper, by parameters or by latency, than {_listed(fronts)}.")
    return lines


def _unbroken(text: str) -> str:
    """An interval that is not broken in a narrow column."""
    return text.replace(", ", ",\u00a0")


def _points(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "no data"
    return f"{100 * value:+.2f} {_interval(low, high)}".strip()


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else _unbroken(f"[{100 * low:+.2f}, {100 * high:+.2f}]")


def _p(value: float) -> str:
    return "no test" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
