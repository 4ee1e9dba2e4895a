"""The ablation's tables and findings as they are read, and the parts of a network as seen by forward hooks."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pandas as pd
import torch
from torch import nn

from thyroid_utils.models.networks import parameter_count
from thyroid_utils.scores.estimates import p_text
from thyroid_utils.studies.module_ablation.study import SCORE, AblationStudy, GainPower
from thyroid_utils.studies.module_ablation.tables import TABLES

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
    table = study.tables[name]
    found = study.titled(seed_sd / 100)[table.title]
    shown = pd.DataFrame(index=found.index)
    shown["IoU"] = found[SCORE].map(_unbroken)
    shown[["difference, points", "with seeds", "p (Holm)"]] = [_compared(row) for row in found.itertuples()]
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


def _compared(row) -> tuple[str, str, str]:
    """Difference, its interval over patients and seeds, and p-value of a row of `AblationStudy.titled`."""
    compared = row.difference
    if compared is None:
        return "reference", "", ""
    difference = f"{100 * compared.difference:+.2f} {_interval(compared.low, compared.high)}".strip()
    told = "no test" if np.isnan(row.p_holm) else p_text(row.p_holm)
    return "no data" if np.isnan(compared.difference) else difference, _interval(row.wide_low, row.wide_high), told


def _interval(low: float, high: float) -> str:
    """Not broken in a narrow column."""
    return "" if np.isnan(low) else f"[{100 * low:+.2f},\u00a0{100 * high:+.2f}]"


def _unbroken(estimate) -> str:
    return estimate.text(3).replace(", ", ",\u00a0")


def power_table(powers: GainPower) -> pd.DataFrame:
    """`GainPower.table` for a reader: "> 1000" is beyond what was simulated, "≤ 20" at or below it, "–" not measured.
    The spread over seeds, one and the same in all rows, belongs into the caption (`GainPower.basis`)."""
    found = powers.table
    shown = pd.DataFrame({"gain": found["gain"], "from": found["whose"]})
    for seeds in found.columns[found.columns.get_loc("smallest") + 1 :]:
        texts = found[seeds].fillna("–").str.replace("about ", "").str.replace("not within ", "> ")
        shown[f"patients, {seeds}"] = texts.str.replace(r"(\d+) or fewer", r"≤ \1", regex=True)
    shown["smallest seen here"] = found["smallest"]
    shown["power here, %"] = 100 * found["power"]
    return shown.assign(**{"SD over patients": found["patient_sd"]})


def network_stages(network: nn.Module, size: int = 256) -> pd.DataFrame:
    """The parts of a network in the order in which they finish, on one black image in evaluation mode; it is left as it was.

    The parts are those of the network's method `stages` where it has one (`mobile_deeplab`), else its direct submodules.

    Args:
        network: a `Segmenter`, `Classifier` or what these wrap, with `in_channels` or three.
        size: side of the square image in pixels, one that the network takes.

    Returns:
        DataFrame, a row a part: `stage` (its name), `kind` (its class), `channels`, `height` and `width` of its output (the last
        one where it puts out several; 1×1 for vectors), `parameters` (number), and `inputs`: tuples (name of the part whose
        output it reads, "image", or "" where something else lies between; channels, height, width). Last the row "logits", the
        network's own output, without parameters of its own.
    """
    inner = getattr(network, "network", network)
    parts = inner.stages() if hasattr(inner, "stages") else dict(inner.named_children())
    parameter = next(network.parameters())
    image = torch.zeros(1, getattr(network, "in_channels", 3), size, size, device=parameter.device, dtype=parameter.dtype)
    rows: list[dict] = []
    seen: dict[int, tuple[str, torch.Tensor]] = {id(image): ("image", image)}  # holds the tensors, so that no id comes twice

    def hook(name: str):
        def note(module: nn.Module, given: tuple, output: object) -> None:
            outputs = list(output) if isinstance(output, list | tuple) else [output]
            read = [tensor for tensor in given if isinstance(tensor, torch.Tensor)]
            inputs = tuple((seen.get(id(tensor), ("", None))[0], *_shape(tensor)) for tensor in read)
            for tensor in outputs:
                seen.setdefault(id(tensor), (name, tensor))
            rows.append(_row(name, module, outputs[-1], parameter_count(module), inputs))

        return note

    modes = {module: module.training for module in inner.modules()}
    with ExitStack() as after, torch.no_grad():
        for name, module in parts.items():
            after.callback(module.register_forward_hook(hook(name)).remove)
        for module, mode in modes.items():
            after.callback(setattr, module, "training", mode)
        logits = inner.eval()(image)
    last = rows[-1]
    source = ((last["stage"], last["channels"], last["height"], last["width"]),)
    rows.append(_row("logits", inner, logits, 0, source))
    return pd.DataFrame(rows)


def _row(name: str, module: nn.Module, output: torch.Tensor, parameters: int, inputs: tuple) -> dict:
    shape = dict(zip(("channels", "height", "width"), _shape(output), strict=True))
    return {"stage": name, "kind": type(module).__name__, **shape, "parameters": parameters, "inputs": inputs}


def _shape(tensor: torch.Tensor) -> tuple[int, int, int]:
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return int(channels), int(height), int(width)


def stage_table(stages: pd.DataFrame) -> pd.DataFrame:
    """`network_stages` for a reader: index `part`; what it `reads`, its `output` (channels×height×width), `parameters`
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


def cost_table(study: AblationStudy) -> pd.DataFrame:
    """The networks of a study, what they cost and reach, cheapest first."""
    found = study.networks.sort_values("parameters")
    fronts = {name: study.front(cost) for cost, name in _FRONTS.items()}
    return pd.DataFrame(
        {
            "parameters, M": found["parameters"],
            "float32, MiB": found["parameters"] * 4e6 / 2**20,
            "latency, ms": found["latency_ms"],
            "training, s": found["training_seconds"],
            "IoU": found[SCORE].map(_unbroken),
            "on the front by": [
                " and ".join(name for name, front in fronts.items() if network in front) or "–" for network in found.index
            ],
        }
    )


def ablation_findings(study: AblationStudy, powers: GainPower) -> list[str]:
    """What a study shows, in sentences."""
    lines = []
    titled = study.titled(powers.seed_sd / 100)
    for table in study.tables.values():
        compared = titled[table.title].dropna(subset="difference")
        differing = compared[compared["differs"]]
        sure = ((differing["wide_low"] > 0) | (differing["wide_high"] < 0)).sum()
        told = f" ({', '.join(differing.index)}); with the spread of training {sure} still {'do' if sure != 1 else 'does'}"
        lines.append(f"**{table.title}**: over patients {len(differing)} of {len(compared)} rows differ in IoU from the row "
                     f"'{table.reference}' after Holm{told if len(differing) else ''}.")  # fmt: skip
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
    listed = " and ".join([", ".join(fronts[:-1]), fronts[-1]] if len(fronts) > 1 else fronts) or "none"
    return [*lines, f"No network is better and cheaper, by parameters or by latency, than {listed}."]
