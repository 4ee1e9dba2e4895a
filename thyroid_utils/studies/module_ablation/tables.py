"""Paper 003's ablation tables, row by row: the networks, the runs that they need, their parameters.

The paper's tables are pictures; what is set beside ours is what its text quotes. Its gains are points of IoU on one training of
each network, scored on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.models import SEGMENTERS, build_segmenter, parameter_count
from thyroid_utils.studies.compare import comparison_configs

OURS = "mobile_deeplab"
SWITCHES = ("attention", "multi_skip", "ppm", "separable_aspp", "separable_decoder", "backbone")
_PLAIN = {"attention": False, "multi_skip": False, "ppm": False}


@dataclass(frozen=True)
class AblationRow:
    """A row of a table: its name, the network, and those of `SWITCHES` that are not at their default.

    reported_iou: points of IoU that the paper has it ahead of the table's reference row; reported_share: its parameters divided
    by the reference's; NaN where the text quotes neither. remark: what the text does not settle. network: what to call it where
    rows of several tables stand together; empty takes the row's name.
    """

    name: str
    model: str = OURS
    switches: Mapping[str, Any] = field(default_factory=dict)
    reported_iou: float = np.nan
    reported_share: float = np.nan
    remark: str = ""
    network: str = ""

    @property
    def key(self) -> str:
        """The network, in one way for all rows that are the same one."""
        return json.dumps([self.model, dict(self.switches)], sort_keys=True)


@dataclass(frozen=True)
class AblationTable:
    """A table of the paper: what it asks, its rows, and the row that the others are compared with."""

    title: str
    rows: tuple[AblationRow, ...]
    reference: str

    def row(self, name: str) -> AblationRow:
        return next(row for row in self.rows if row.name == name)


_ALL_ON = AblationRow("all three", network="ours")
TABLES: dict[str, AblationTable] = {
    "aspp": AblationTable(
        "ASPP convolution (Table 4)",
        (
            AblationRow(
                "ordinary",
                switches={**_PLAIN, "separable_aspp": False},
                remark="stock MobileNetV2 DeepLabV3+",
                network="stock, ordinary ASPP",
            ),
            AblationRow(
                "separable",
                switches=_PLAIN,
                reported_iou=-0.31,
                reported_share=0.642,
                remark="paper: training time −5 %",
                network="stock, separable ASPP",
            ),
        ),
        "ordinary",
    ),
    "modules": AblationTable(
        "Modules one by one and together (Table 5)",
        (
            AblationRow("none", switches=_PLAIN, network="stock, separable ASPP"),
            AblationRow("attention", switches={"multi_skip": False, "ppm": False}, reported_iou=0.29, network="attention alone"),
            AblationRow("skips", switches={"attention": False, "ppm": False}, reported_iou=0.29, network="skips alone"),
            AblationRow("PPM", switches={"attention": False, "multi_skip": False}, reported_iou=0.22, network="PPM alone"),
            replace(_ALL_ON, reported_iou=0.76, reported_share=0.85),
        ),
        "none",
    ),
    "backbone": AblationTable(
        "Backbone (Table 6)",
        (
            AblationRow("MobileNetV2", network="ours"),
            AblationRow(
                "ResNet50",
                switches={"backbone": "resnet50"},
                reported_share=125 / 12.4,
                remark="paper: 125 MB against 12.4",
                network="ours on ResNet50",
            ),
            AblationRow("Xception", switches={"backbone": "xception"}, network="ours on Xception"),
        ),
        "MobileNetV2",
    ),
    "method": AblationTable(
        "Method (Table 7)",
        (
            AblationRow("improved DeepLabV3+", network="ours"),
            AblationRow(
                "DeepLabV3+",
                "deeplabv3plus_xception",
                {"separable_aspp": False},
                reported_iou=-0.17,
                reported_share=1 / 0.06,
                remark="backbone and convolutions not told; with an ordinary ASPP on Xception the parameters fit",
                network="DeepLabV3+ on Xception",
            ),
            AblationRow("U-Net", "unet", reported_iou=-0.65, reported_share=10, remark="from scratch in every case"),
            AblationRow("FCN-8s", "fcn8s", reported_iou=-4.47),
        ),
        "improved DeepLabV3+",
    ),
    "removed": AblationTable(
        "Components removed (Table 9)",
        (
            AblationRow("complete", network="ours"),
            AblationRow("without attention", switches={"attention": False}, network="ours without attention"),
            AblationRow(
                "without fusion",
                switches={"multi_skip": False},
                remark="the stock decoder instead",
                network="ours without fusion",
            ),
            AblationRow(
                "without separable",
                switches={"separable_aspp": False, "separable_decoder": False},
                remark="read as every separable convolution behind the backbone",
                network="ours without separable",
            ),
        ),
        "complete",
    ),
}


def ablation_table_named(table: str | AblationTable) -> AblationTable:
    """A table of `TABLES` by its name; one that is given is given back.

    Raises:
        ConfigError: no such table.
    """
    if isinstance(table, AblationTable):
        return table
    if table not in TABLES:
        raise ConfigError("table", f"must be one of {', '.join(TABLES)}; found {table!r}")
    return TABLES[table]


def ablation_configs(
    table: str | AblationTable,
    seeds: Sequence[int],
    common: Mapping[str, Any],
    *,
    weights: str = "none",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[RunConfig]:
    """One config a row and seed, equal in all else. Rows of several tables that are one network have equal configs: one run.

    Args:
        table: a name in `TABLES`, or a table of one's own.
        seeds: of the training.
        common: the other fields of `RunConfig`.
        weights: what encoders start from; a network without an encoder starts at random in every case.
        options: model → more options of its builder, such as fewer channels; none of `SWITCHES`. Those of a model that only
            other tables have are left aside.

    Raises:
        ConfigError: no such table, a field that cannot be, options of a model that is in no table, or one that a row decides.
    """
    configs = []
    known = {row.model for entry in [*TABLES.values(), ablation_table_named(table)] for row in entry.rows}
    for name in options or {}:
        if name not in known:
            raise ConfigError("options", f"are given for {name}, which is in no table; known: {', '.join(sorted(known))}")
    for row in ablation_table_named(table).rows:
        more = dict((options or {}).get(row.model, {}))
        decided = [name for name in more if name in SWITCHES]
        if decided:
            raise ConfigError("options", f"of {row.model} must not name {', '.join(decided)}, which the rows of the table decide")
        own = weights if SEGMENTERS[row.model].encoder is not None else "none"
        given = {row.model: {**more, **row.switches}}
        configs += comparison_configs([row.model], seeds, {**common, "task": "segmentation"}, weights=own, options=given)
    return configs


def parameter_counts(table: str | AblationTable | None = None) -> pd.DataFrame:
    """Parameters of the networks of a table, or of all tables, in one colour channel...

    Returns:
        index (table, row): `parameters` (millions), `mebibytes` (float32), `share` of the table's reference, `reported_share`.
    """
    rows = {}
    for name in TABLES if table is None else [table]:
        chosen = ablation_table_named(name)
        counts = {row.name: count_parameters(row.model, **row.switches) for row in chosen.rows}
        for row in chosen.rows:
            count = counts[row.name]
            rows[chosen.title, row.name] = {
                "parameters": count / 1e6,
                "mebibytes": 4 * count / 2**20,
                "share": count / counts[chosen.reference],
                "reported_share": row.reported_share,
            }
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.index = pd.MultiIndex.from_tuples(rows, names=["table", "row"])
    return found


def count_parameters(model: str, **options: Any) -> int:
    """Parameters of a segmenter, from shapes alone."""
    with torch.device("meta"):
        return parameter_count(build_segmenter(model, **options))
