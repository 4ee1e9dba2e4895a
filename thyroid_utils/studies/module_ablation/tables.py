"""Paper 003's ablation tables, row by row: the networks, their parts and parameters, the runs that they need; and its figures
held to each other.

The paper's tables are pictures; what is set beside ours is what its text quotes. Its gains are points of IoU on one training of
each network, scored on the validation split.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.models.mobile_deeplab import convolution
from thyroid_utils.models.networks import Segmenter, build_segmenter, parameter_count
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.studies.compare import comparison_configs
from thyroid_utils.studies.papers import reported_scores

OURS = "mobile_deeplab"
SWITCHES = ("attention", "multi_skip", "ppm", "separable_aspp", "separable_decoder", "backbone")
_KERNEL, _IN, _OUT = 3, 320, 256  # of the ASPP's dilated convolutions on MobileNetV2
_WATT, _MILLISECONDS = 0.85, 28.0  # told of a phone, an image
_COUNTED = "counted in the networks here, whose widths the paper leaves open"


@dataclass(frozen=True)
class AblationRow:
    """A row of a table: its name, the network, and those of `SWITCHES` that are not at their default.

    reported_iou: points of IoU that the paper has it ahead of the table's reference row; reported_share: its parameters divided
    by the reference's; NaN where the text quotes neither. remark: what the text does not settle. label: what to call it where
    rows of several tables stand together; empty takes the row's name.
    """

    name: str
    model: str = OURS
    switches: Mapping[str, Any] = field(default_factory=dict)
    reported_iou: float = np.nan
    reported_share: float = np.nan
    remark: str = ""
    label: str = ""

    @property
    def network(self) -> str:
        """The name that all rows of this network share."""
        return self.label or self.name


@dataclass(frozen=True)
class AblationTable:
    """A table of the paper: what it asks, its rows, and the row that the others are compared with."""

    title: str
    reference: str
    rows: tuple[AblationRow, ...]

    def row(self, name: str) -> AblationRow:
        return next(row for row in self.rows if row.name == name)


def _read() -> dict[str, AblationTable]:
    tables = tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))
    return {
        name: AblationTable(**told | {"rows": tuple(AblationRow(**row) for row in told["rows"])}) for name, told in tables.items()
    }


TABLES = _read()


def tables_named(names: Sequence[str]) -> dict[str, AblationTable]:
    """Those of `TABLES`, by name. Raises ConfigError where there is no such table."""
    for name in names:
        if name not in TABLES:
            raise ConfigError("table", f"must be one of {', '.join(TABLES)}; found {name!r}")
    return {name: TABLES[name] for name in names}


def study_configs(
    tables: Sequence[str],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[RunConfig]:
    """One config a network and seed, equal in all else, however many tables a network is in.

    Args:
        tables: names in `TABLES`.
        seeds: of the training.
        common: the other fields of `RunConfig`.
        weights: what encoders start from; a network without an encoder starts at random in every case.
        options: model → more options of its builder, such as fewer channels; none of `SWITCHES`. Those of a model that only
            other tables have are left aside.

    Raises:
        ConfigError: no such table, a field that cannot be, options of a model that is in no table, or one that a row decides.
    """
    chosen, options = tables_named(tables), options or {}
    known = {row.model for table in TABLES.values() for row in table.rows}
    for name, own in options.items():
        if name not in known:
            raise ConfigError("options", f"are given for {name}, which is in no table; known: {', '.join(sorted(known))}")
        decided = [option for option in own if option in SWITCHES]
        if decided:
            raise ConfigError("options", f"of {name} must not name {', '.join(decided)}, which the rows of the table decide")
    configs = []
    for row in {row.network: row for table in chosen.values() for row in table.rows}.values():
        own = weights if SEGMENTERS[row.model].imagenet else "none"
        given = {row.model: {**options.get(row.model, {}), **row.switches}}
        configs += comparison_configs([row.model], seeds, {**common, "task": "segmentation"}, weights=own, options=given)
    return configs


def network_stages(network: Segmenter, size: int) -> pd.DataFrame:
    """The parts of a `mobile_deeplab` in the order in which they finish, on one black image.

    Args:
        network: put into evaluation mode.
        size: side of the square image in pixels, one that the network takes.

    Returns:
        DataFrame, a row a part: `stage` (its name), `kind` (its class), `channels`, `height` and `width` of its output (the last
        one where it puts out several; 1×1 for vectors), `parameters` (number), and `inputs`: tuples (name of the part whose
        output it reads, or "image"; channels, height, width). Last the row "logits", the network's own output, without
        parameters of its own.
    """
    inner, image, rows = network.network, torch.zeros(1, network.in_channels, size, size), []
    seen: dict[int, tuple[str, torch.Tensor]] = {id(image): ("image", image)}  # holds the tensors, so that no id comes twice

    def hook(name: str):
        def note(module: nn.Module, given: tuple, output: object) -> None:
            outputs = list(output) if isinstance(output, list | tuple) else [output]
            inputs = tuple((seen[id(tensor)][0], *_shape(tensor)) for tensor in given)
            for tensor in outputs:
                seen.setdefault(id(tensor), (name, tensor))
            shape = dict(zip(("channels", "height", "width"), _shape(outputs[-1]), strict=True))
            count = parameter_count(module)
            rows.append({"stage": name, "kind": type(module).__name__, **shape, "parameters": count, "inputs": inputs})

        return note

    inner.eval()
    handles = [module.register_forward_hook(hook(name)) for name, module in {**inner.stages(), "logits": inner}.items()]
    with torch.inference_mode():
        inner(image)
    for handle in handles:
        handle.remove()
    last = tuple(rows[-2][name] for name in ("stage", "channels", "height", "width"))
    return pd.DataFrame([*rows[:-1], {**rows[-1], "parameters": 0, "inputs": (last,)}])


def _shape(tensor: torch.Tensor) -> tuple[int, int, int]:
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return int(channels), int(height), int(width)


def stage_table(stages: pd.DataFrame) -> pd.DataFrame:
    """`network_stages` for a reader: index `part`; what it `reads`, its `output` (channels×height×width), `parameters`
    and their `share, %`."""
    whole = int(stages["parameters"].sum())
    rows = {
        row.stage: {
            "reads": ", ".join(dict.fromkeys(name for name, *_ in row.inputs)),
            "output": f"{row.channels}×{row.height}×{row.width}",
            "parameters": row.parameters,
            "share, %": round(100 * row.parameters / whole, 1),
        }
        for row in stages.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def count_table() -> pd.DataFrame:
    """Parameters of the networks of all tables, for colour images and at full width: index (table, row); millions, mebibytes in
    float32, and times the table's reference, here and in the paper."""
    rows = {}
    for table in TABLES.values():
        counts = {row.name: count_parameters(row.model, **row.switches) for row in table.rows}
        for row in table.rows:
            count = counts[row.name]
            rows[table.title, row.name] = (count / 1e6, 4 * count / 2**20, count / counts[table.reference], row.reported_share)
    index = pd.MultiIndex.from_tuples(rows, names=["table", "row"])
    return pd.DataFrame(list(rows.values()), index, ["parameters, M", "float32, MiB", "× reference", "paper, ×"])


@cache
def count_parameters(model: str, **options: Any) -> int:
    """Parameters of a segmenter, from shapes alone."""
    with torch.device("meta"):
        return parameter_count(build_segmenter(model, **options))


def pixel_shares(dice: float, sensitivity: float, specificity: float) -> tuple[float, float]:
    """Precision and prevalence, the share of pixels in a nodule, that three scores pooled over pixels fix; all in [0, 1].

    Dice = 2 · precision · sensitivity / (precision + sensitivity); precision and specificity both count the false positives.

    >>> print(*np.round(pixel_shares(160 / 220, 80 / 100, 860 / 900), 6))  # 80 found, 20 missed, 40 false, 860 right
    0.666667 0.1
    """
    precision = dice * sensitivity / (2 * sensitivity - dice)
    false_per_true = (1 - precision) / precision * sensitivity
    return precision, (1 - specificity) / (false_per_true + 1 - specificity)


def sums_table(place: str, asked: Sequence[str] = tuple(TABLES)) -> pd.DataFrame:
    """What paper 003 says, what follows from its other figures or from the networks, and whether the two agree.

    Args:
        place: where it says so: "loss" (Tables 3 and 8), "aspp", "modules", "backbone", "method" or "text".
        asked: names in `TABLES`; what is said of another table has no rows.

    Returns:
        index `claim`; `paper` (what it says), `computed` (what follows), `how` (from what), `agrees` ("yes" or "no").
    """
    sums = {"loss": _loss_sums, "aspp": _aspp_sums, "modules": _module_sums, "backbone": _backbone_sums, "method": _method_sums,
            "text": _text_sums}  # fmt: skip
    rows = [] if place in TABLES and place not in asked else sums[place]()
    found = pd.DataFrame(rows, columns=["claim", "paper", "computed", "how", "agrees"])
    return found.assign(agrees=found["agrees"].map({True: "yes", False: "no"})).set_index("claim")


def _loss_sums() -> list[tuple]:
    scores = reported_scores("segmentation").query(f"paper == '003' and model == '{OURS}'")
    of_loss = {loss: table.set_index("score")["value"] for loss, table in scores.groupby("loss", sort=False)}
    rows, shares = [], {}
    for loss, found in of_loss.items():
        name = {"tversky": "Tversky", "bce": "BCE"}[loss]
        shares[loss] = pixel_shares(*found[["dice", "sensitivity", "specificity"]])
        low, high = sorted([found["sensitivity"], found["specificity"]])
        how = "pooled over pixels it is a mean of sensitivity and specificity"
        between = low <= found["pixel_accuracy"] <= high
        told = _percent(found["pixel_accuracy"])
        rows.append((f"accuracy with {name}, %", told, f"{_percent(low)} to {_percent(high)}", how, between))
        of_dice = found["dice"] / (2 - found["dice"])
        how = "Dice / (2 − Dice), so both are pooled"
        rows.append((f"IoU with {name}, %", _percent(found["iou"]), _percent(of_dice), how, abs(of_dice - found["iou"]) < 2e-4))
    tversky, (precision, other), (_, share) = of_loss["tversky"], shares["tversky"], shares["bce"]
    claim, how = "nodule pixels in the images of both losses, %", "from Dice, sensitivity and specificity of each"
    rows.append((claim, "one set of images", f"{_percent(other)} and {_percent(share)}", how, abs(other - share) < 0.01))
    found = share * tversky["sensitivity"]
    repaired = 1 - found * (1 - precision) / precision / (1 - share)
    how = (
        "with the share of nodule pixels that BCE's figures have; the accuracy is then "
        f"{_percent(found + (1 - share) * repaired)}"
    )
    told, agrees = _percent(tversky["specificity"]), abs(repaired - tversky["specificity"]) < 1e-3
    return [*rows, ("specificity with Tversky, %", told, _percent(repaired), how, agrees)]


def _aspp_sums() -> list[tuple]:
    with torch.device("meta"):
        kinds = [convolution(_IN, _OUT, _KERNEL, separable) for separable in (False, True)]
    weights = [sum(parameter_count(part) for part in kind if isinstance(part, nn.Conv2d)) for kind in kinds]
    share = weights[1] / weights[0]
    by_rule = 1 / _OUT + 1 / _KERNEL**2
    how = f"1/N + 1/k² = 1/{_OUT} + 1/{_KERNEL}² = {by_rule:.3f}; counted in the network {share:.3f}"
    found = ("separable over ordinary convolution, weights", "about 1/3", f"{share:.3f}", how, abs(share - 1 / 3) < 0.05)
    ordinary, separable = TABLES["aspp"].rows
    return [found, _share("parameters with the separable ASPP over stock", "0.642", separable, ordinary, 0.60, 0.69)]


def _module_sums() -> list[tuple]:
    none, *single, whole = TABLES["modules"].rows
    gains, together = [row.reported_iou for row in single], whole.reported_iou
    told = f"{' + '.join(f'{gain:.2f}' for gain in gains)} → {together:.2f}"
    how = "the sum of the three; gains need not add up, but nothing in the paper says why these do not"
    agrees = abs(sum(gains) - together) < 0.005
    return [
        ("gains of the three modules, points of IoU", told, f"{sum(gains):.2f}", how, agrees),
        _share("parameters of all modules over none", "0.85", whole, none, 0.80, 0.90),
    ]


def _backbone_sums() -> list[tuple]:
    ours, large = (count_parameters(row.model, **row.switches) for row in TABLES["backbone"].rows[:2])
    size, large = 4 * ours / 2**20, 4 * large / 2**20
    how = f"{ours / 1e6:.2f} million parameters, {_COUNTED}"
    return [
        ("size in float32", "12.4 MB", f"{size:.1f} MiB", how, 11.9 <= size <= 12.9),
        ("size on ResNet50", "125 MB", f"{large:.1f} MiB", _COUNTED, 120 <= large <= 130),
    ]


def _method_sums() -> list[tuple]:
    ours, xception, unet, _ = TABLES["method"].rows
    return [
        _share("parameters over DeepLabV3+ on Xception", "0.06", ours, xception, 0.055, 0.065),
        _share("parameters over U-Net", "about 1/10", ours, unet, 0.09, 0.11),
    ]


def _text_sums() -> list[tuple]:
    energy = f"{_WATT * _MILLISECONDS:.0f} mJ an image"
    return [("energy consumption", f"{_WATT} W", energy, f"a watt is power; energy is {_WATT} W · {_MILLISECONDS:.0f} ms", False)]


def _share(claim: str, told: str, one: AblationRow, other: AblationRow, low: float, high: float) -> tuple:
    """A claim on parameters of one network over those of another, which agrees from `low` to `high`."""
    share = count_parameters(one.model, **one.switches) / count_parameters(other.model, **other.switches)
    return claim, told, f"{share:.3f}", _COUNTED, low <= share <= high


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
