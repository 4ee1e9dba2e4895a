"""The test cases of a finished report, one by one: what each network says of a case, and how it came out.

Networks stand side by side where they were tested on the same images: same data, same split. What a network is said to get wrong
is what notebook 07 says, from the same functions. Tables are made once and kept in the cache folder, so that the app opens
without PyTorch; Grad-CAM asks for it.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import MARK
from thyroid_utils.common.words import count, listed
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import SHORT, Run, runs_that_begin

REPORT_VARIABLE = "THYROID_WORKBOOK_REPORT"  # names the report where the notebook does not


@dataclass(frozen=True)
class CaseSet:
    """Networks that were tested on the same images.

    title: of the data, as a choice is called. networks: name → its trainings, a seed or, of folds, a cross-validation each.
    """

    title: str
    networks: dict[str, list[Run | FoldedRun]]

    @property
    def first(self) -> Run | FoldedRun:
        return next(iter(self.networks.values()))[0]

    @property
    def fingerprint(self) -> str:
        """Of the data."""
        return self.first.data["fingerprint"]

    @cached_property
    def cases(self) -> list[str]:
        """Ids of the test images."""
        return self.first.predictions.query("split == 'test'").index.tolist()


@dataclass(frozen=True)
class Review:
    """What can be looked at. report: its folder; None of runs by name. sets: the one with the most kinds of networks first.
    missing: what cannot be shown and why, as sentences."""

    report: Path | None = None
    sets: list[CaseSet] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, report: str = "", runs: Sequence[str] = ()) -> "Review":
        """Of a finished report, or of runs by name.

        Args:
            report: its folder; "" takes the one that the environment names, else the newest finished one in `reports/`.
            runs: beginnings of names; where there are any they are taken instead of a report's.

        Raises:
            DataError: a folder that is no finished report.
        """
        folder = None if runs else _report(report or os.environ.get(REPORT_VARIABLE, ""))
        if folder is None and not runs:
            told = "there is no finished report yet: `make report` writes one, or name a run with RUNS"
            return cls(missing=[f"Nothing can be shown, as {told}."])
        names = list(runs) or _named(folder)
        found, missing = _kept(names)
        sets, broken = _sets(found)
        return cls(folder, sets, missing + broken)


def _report(named: str) -> Path | None:
    if named:
        folder = paths.resolve_in_project(named)
        if _record(folder).get("status") != "finished":
            told = "expected the folder of a finished report, with run.json, such as reports/quick"
            raise DataError(f"{folder}: {told}; name another one, or make one with `make report`")
        return folder
    finished = {path.parent: _record(path.parent) for path in paths.reports_dir().glob("*/run.json")}
    begun = {folder: record["started"] for folder, record in finished.items() if record.get("status") == "finished"}
    return max(begun, key=begun.get, default=None)


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("notebooks"), dict) else {}


def _named(report: Path) -> list[str]:
    records = _record(report)["notebooks"].values()
    return list(dict.fromkeys(run for record in records for run in record.get("runs", [])))


def _kept(names: Iterable[str]) -> tuple[list[Run], list[str]]:
    """The finished runs of these names, and what is said of the others. Their files are not hashed, which would take seconds."""
    found, missing = [], []
    for name in names:
        fitting = [run for run in runs_that_begin(name) if (run.folder / MARK).exists()]
        if len(fitting) == 1:
            found.append(fitting[0])
        else:
            missing.append(name[:SHORT])
    told = f"{count(len(missing), 'run')} of {len(missing) + len(found)} not in {paths.runs_dir().name}/ any more"
    how = f"({listed(missing)}); what they said is left out. Run the report again to have them back"
    return found, [f"{told} {how}."] if missing else []


def _sets(runs: Sequence[Run]) -> tuple[list[CaseSet], list[str]]:
    """Case sets of runs, without those that are made to mislead (leaks, permuted labels)."""
    places: dict[tuple, dict[str, list[Run]]] = {}
    for run in runs:
        config = run.config
        if config.split.leak is None and config.data.permute_labels is None:
            split = config.split.model_copy(update={"fold": 0}).to_json() if config.split.folds else run.data["split_hash"]
            places.setdefault((run.data["fingerprint"], split), {}).setdefault(config.recipe, []).append(run)
    sets, broken = [], []
    for recipes in places.values():
        networks = {}
        for name, trained in zip(_names([found[0] for found in recipes.values()]), recipes.values(), strict=True):
            try:
                networks[name] = by_folds(trained)
            except DataError as error:
                broken.append(f"{name} is left out: {error}.")
        if networks:
            sets.append(CaseSet(_title(networks), networks))
    kinds = {id(found): len({run[0].config.task for run in found.networks.values()}) for found in sets}
    return sorted(sets, key=lambda found: (-kinds[id(found)], -len(found.networks))), broken


def _names(firsts: Sequence[Run]) -> list[str]:
    """A name a recipe: what its runs are called without seed and fold, and what they started from where that tells them apart."""
    short = [re.sub(r", (fold \d+ of \d+, )?seed \d+$", "", run.config.label) for run in firsts]
    for more in (lambda run: f" ({run.data['weights']})", lambda run: f" [{run.name[:SHORT]}]"):
        short = [name + more(run) if short.count(name) > 1 else name for name, run in zip(short, firsts, strict=True)]
    return short


def _title(networks: dict[str, list[Run | FoldedRun]]) -> str:
    first = next(iter(networks.values()))[0]
    images = count(first.data["images"]["test"], "test image")
    return f"{first.config.data.dataset}: {images}, {count(len(networks), 'network')}"
