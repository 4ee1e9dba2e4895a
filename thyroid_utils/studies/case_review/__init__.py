"""The test cases of a finished report, one by one: what each network says of a case, and how it came out.

Networks stand side by side where they were tested on the same images: same data, same split. What a network is said to get wrong
is what notebook 07 says, from the same functions. Tables are made once and kept in the cache folder, so that the app opens
without PyTorch; Grad-CAM asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from scipy.special import entr

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import MARK, cached, content_key, source_hash
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count
from thyroid_utils.data.images import read_image, read_mask
from thyroid_utils.data.readers.listing import first_few
from thyroid_utils.data.table import measure_cases
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.scores.probabilities import fit_platt, logit
from thyroid_utils.training.folds import FoldedRun, by_folds
from thyroid_utils.training.ledger import SHORT, Run, runs_that_begin

if TYPE_CHECKING:
    from thyroid_utils.inference.predictor import Predictor
    from thyroid_utils.studies.error_analysis import Errors

ENOUGH = 0.8  # Dice from which a mask counts as right, as in notebook 07
_EXPLAINED = 256  # Grad-CAM maps that are kept in memory


@dataclass(frozen=True, eq=False)
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

    def of_task(self, *tasks: str) -> list[str]:
        """Names of the networks of some tasks, the best on validation first."""
        scores = {name: runs[0].metrics["val"] for name, runs in self.networks.items() if runs[0].config.task in tasks}
        return sorted(scores, key=lambda name: -scores[name].get("auc" if "classification" in tasks else "dice", 0))

    @property
    def best(self) -> list[str]:
        """The best classifier and the best segmenter, as far as there are any; a joint network counts as a classifier."""
        return [*self.of_task("classification", "joint")[:1], *self.of_task("segmentation")[:1]]

    @cached_property
    def cases(self) -> pd.DataFrame:
        """The test images, index `case`: `patient`, `label`; where the data can be read `image`, `mask`, `spacing_mm` and a
        column `group F` a factor F of `attrs["groups"]`, which has its levels; else `attrs["unread"]` says why."""
        tested = self.first.predictions.query("split == 'test'")[["patient", "label"]]
        try:
            kept = cached("review_cases", content_key(_hashes(self.first), _code()), self._read)
        except DataError as error:
            tested.attrs = {"groups": {}, "unread": str(error)}
            return tested
        found = tested.join(pd.DataFrame(kept["cases"]).set_index("case"))
        found.attrs = {"groups": kept["groups"], "unread": ""}
        return found

    def _read(self) -> dict[str, Any]:
        from thyroid_utils.inference.predictor import predictor_of
        from thyroid_utils.studies.error_analysis.subgroups import subgroup_columns

        cases = predictor_of(self.first).cases
        groups = subgroup_columns(cases, measure_cases(cases, progress=progress_bar("Measuring images")).table)
        groups = groups.drop(columns="class", errors="ignore")  # it is what is predicted
        columns = [name for name in ("image", "mask", "spacing_mm") if name in cases]
        levels = {factor: list(map(str, groups[factor].cat.categories)) for factor in groups}
        tested = cases.loc[cases["split"] == "test", columns].join(groups.astype("string").add_prefix("group "))
        return {"cases": _plain(tested), "groups": levels}

    def table(self, network: str) -> pd.DataFrame:
        """What notebook 07 says of a network's test images, those of its first training; index `case`.

        Returns:
            `error` (place among the errors as 07 shows them, from 0; NaN where right), `wrong`, `confidence` and `uncertainty`
            (`label_uncertainty`'s nearness; of a segmenter `map_uncertainty`'s soft_dice_loss); then of a classifier or joint
            network `label`, `patient`, `probability`, `calibrated`, `threshold`, `prediction`, `kind`, `runs_wrong` of `runs`,
            `between_runs` (SD over trainings, each brought to one scale; NaN for one), `label_error` (rank of
            `rank_label_errors`), `suspect`; and of a segmenter or joint network `dice`, `iou`, `hd95` (pixels), `presence`,
            `mode`: where its mask fails.

        Raises:
            DataError: the data or the maps of a segmenter are gone, where nothing was kept.
        """
        return _table(tuple(self.networks[network]))

    def calibrate(self, network: str, threshold: float) -> float:
        """A classifier's probability once slope and intercept from validation have mended it; of folds it is mended already."""
        run = self.networks[network][0]
        if isinstance(run, FoldedRun):
            return threshold
        known = run.predictions.query("split == 'val'")
        return float(fit_platt(known["label"], known["log_odds"])(logit(threshold)))

    def layers(self, network: str, case: str, *, attention: bool = False) -> dict[str, np.ndarray]:
        """The pictures of a case, each of the frame's size.

        attention: with Grad-CAM for malignant, or for nodule of a segmenter, which needs PyTorch.

        Returns:
            `frame`, uint8; as far as they are kept `truth`, bool; of a network with maps `prediction`, the probability of nodule,
            and `uncertainty`, its entropy in bits; `attention`. All three in [0, 1].

        Raises:
            DataError: an image that cannot be read; a map or network whose file is damaged or gone.
        """
        if "image" not in self.cases:
            raise DataError(f"The images cannot be read: {self.cases.attrs['unread']}")
        row, run = self.cases.loc[case], self.networks[network][0].of_case(case)
        found = {"frame": read_image(row["image"])}
        if isinstance(row.get("mask"), str):
            found["truth"] = read_mask(row["mask"], found["frame"].shape[:2])
        with _held(run):
            if run.config.task != "classification":
                pipeline = Pipeline(
                    build_pipeline(run.config.preprocessing, run.data["input"][1]).steps, "", *(run.data["fitted"] or ())
                )
                geometry = pipeline(found["frame"]).geometry
                found["prediction"] = geometry.to_original(run.maps("test", [case])[1][0], smooth=True)
                entropies = entr(found["prediction"]) + entr(1 - found["prediction"])
                found["uncertainty"] = entropies / np.float32(np.log(2))
            if attention:
                found["attention"] = _attention(run, case)
        return found


@lru_cache(maxsize=_EXPLAINED)
def _attention(run: Run, case: str) -> np.ndarray:
    from thyroid_utils.inference.cam import cam_maps, target_layer

    predictor, task = _predictor(run), "segmentation" if run.config.task == "segmentation" else "classification"
    inputs = predictor.inputs([case])
    layer = target_layer(predictor.network, inputs.shape[2:])  # the whole network's, of which a joint one answers a part
    return predictor.on_frame(case, cam_maps(predictor.answering(task), inputs, layer=layer).maps[0])


@cache
def _predictor(run: Run) -> Predictor:
    from thyroid_utils.inference.predictor import Predictor

    return Predictor(run)


@cache
def _table(runs: tuple[Run | FoldedRun, ...]) -> pd.DataFrame:
    key = content_key([_hashes(run) for run in runs], _code())
    with _held(runs[0]):
        return pd.DataFrame(cached("review_tables", key, lambda: _plain(_asked(runs)))).set_index("case")


def _hashes(run: Run | FoldedRun) -> list[dict[str, str]]:
    """A run that was made again may say something else."""
    return [fold.hashes for fold in run.folds]


def _code() -> str:
    """Of the modules that say what a network gets wrong."""
    return source_hash([__file__, *sorted(Path(__file__).parents[1].glob("error_analysis/*.py"))])


def _plain(table: pd.DataFrame) -> dict[str, list]:
    """A table as JSON holds it, with its index as first column."""
    table = table.reset_index()
    return table.astype(object).where(table.notna(), None).to_dict("list")


def _asked(runs: Sequence[Run | FoldedRun]) -> pd.DataFrame:
    """The table of `CaseSet.table`, from the functions of notebook 07."""
    from thyroid_utils.inference.ensemble import seed_ensemble
    from thyroid_utils.inference.uncertainty import label_uncertainty, map_uncertainty
    from thyroid_utils.studies.classifier_comparison import ClassifierComparison
    from thyroid_utils.studies.error_analysis import classifier_errors, segmenter_errors
    from thyroid_utils.studies.error_analysis.trust import rank_label_errors
    from thyroid_utils.studies.segmenter_comparison import SegmenterComparison

    class Segmenters(SegmenterComparison):
        tasks = ("segmentation", "joint")

    task, parts = runs[0].config.task, []
    if task != "segmentation":
        comparison = ClassifierComparison.of(runs)
        (model,) = comparison.models
        calls = comparison.decisions(model)
        asked = label_uncertainty(calls["probability"], calls["threshold"].to_numpy()).set_axis(calls.index)
        images = _with_places(classifier_errors(comparison, model, None, asked["nearness"]))
        between = seed_ensemble(runs, images.index).std(axis=0) if len(runs) > 1 else np.nan
        ranked = rank_label_errors(images).rename(columns={"rank": "label_error"})[["label_error", "suspect"]]
        parts.append(images.assign(calibrated=calls["calibrated"], between_runs=between).join(ranked))
    if task != "classification":
        comparison = Segmenters.of(runs)
        (model,) = comparison.models
        names = list(comparison.truth.index)
        asked = [map_uncertainty(runs[0].maps("test", [case])[1][None])["soft_dice_loss"].iloc[0] for case in names]
        images = _with_places(segmenter_errors(comparison, model, ENOUGH, None, pd.Series(asked, names)))
        shared = [name for name in images if parts and name in parts[0]]  # a joint network's are those of its calls
        parts.append(images.drop(columns=shared))
    return pd.concat(parts, axis=1).rename_axis("case")


def _with_places(errors: Errors) -> pd.DataFrame:
    from thyroid_utils.studies.error_analysis import MODES

    images = errors.images.replace({"mode": MODES})
    return images.assign(error=pd.Series(range(len(errors.table)), errors.table.index))


@contextmanager
def _held(run: Run | FoldedRun) -> Iterator[None]:
    """A file of a run that is gone or damaged as a DataError."""
    try:
        yield
    except (OSError, SafetensorError, KeyError) as error:
        told = f"run {run.name[:SHORT]}: a file of it is missing or damaged ({error})"
        raise DataError(f"{told}; run its notebook again") from None


@dataclass(frozen=True)
class Review:
    """What can be looked at. report: its folder; None of runs by name. sets: the one with the most kinds of networks first.
    missing: what cannot be shown and why, as sentences."""

    report: Path | None = None
    sets: list[CaseSet] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, report: str = "", runs: Sequence[str] = ()) -> Review:
        """Of a finished report, or of runs by name.

        Args:
            report: its folder; "" takes the newest finished one in `reports/`.
            runs: beginnings of names; where there are any they are taken instead of a report's.

        Raises:
            DataError: a folder that is no finished report.
        """
        folder = None if runs else _report(report)
        if folder is None and not runs:
            told = "there is no finished report yet: `make report` writes one, or name a run with RUNS"
            return cls(missing=[f"Nothing can be shown, as {told}."])
        named = dict.fromkeys(runs, "") if runs else _named(folder)
        found, missing = _kept(named)
        sets, broken = _sets(found)
        return cls(folder, sets, missing + broken)


def prepare(report: str = "") -> None:
    """Make what the app shows first of a report, so that it opens without PyTorch; what cannot be made is told there."""
    with suppress(DataError):
        for chosen in Review.of(report).sets[:1]:
            for name in chosen.best:
                chosen.table(name)
            chosen.cases  # noqa: B018


def _report(named: str) -> Path | None:
    if named:
        folder = paths.resolve_in_project(named)
        if _record(folder).get("status") != "finished":
            told = "expected the folder of a finished report, with run.json, such as reports/quick"
            raise DataError(f"{folder}: {told}; name another one, or make one with `make report`")
        return folder
    finished = {path.parent: _record(path.parent) for path in paths.reports_dir().glob("*/run.json")}
    begun = {folder: str(record.get("started")) for folder, record in finished.items() if record.get("status") == "finished"}
    return max(begun, key=begun.get, default=None)


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("notebooks"), dict) else {}


def _named(report: Path) -> dict[str, str]:
    """Runs of a report → the numbers of their notebooks."""
    found: dict[str, str] = {}
    for stem, record in _record(report)["notebooks"].items():
        for run in record.get("runs", []):
            found[run] = f"{found[run]}, {stem[:2]}" if run in found else stem[:2]
    return found


def _kept(named: Mapping[str, str]) -> tuple[list[tuple[Run, str]], list[str]]:
    """The finished runs of these names with what they are told by, and what is said of the others. Their files are not hashed,
    which would take seconds."""
    found, missing = [], []
    for name, told in named.items():
        fitting = [run for run in runs_that_begin(name) if (run.folder / MARK).exists()]
        if len(fitting) == 1:
            found.append((fitting[0], told))
        else:
            missing.append(name[:SHORT])
    gone = f"{count(len(missing), 'run')} of {len(named)} {'is' if len(missing) == 1 else 'are'} not to be found"
    how = f"({first_few(missing)}), and left out. Run the report again, or name longer beginnings, to see what they say"
    return found, [f"{gone} {how}."] if missing else []


def _sets(told: Sequence[tuple[Run, str]]) -> tuple[list[CaseSet], list[str]]:
    """Case sets of runs, without those that are made to mislead (leaks, permuted labels), and what is said of folds that are
    not whole."""
    places: dict[tuple, dict[str, list[Run]]] = {}
    notebooks: dict[tuple, set[str]] = {}
    for run, numbers in told:
        config = run.config
        if config.split.leak is None and config.data.permute_labels is None:
            split = config.split.model_copy(update={"fold": 0}) if config.split.folds else run.data["split_hash"]
            place = run.data["fingerprint"], str(split)
            places.setdefault(place, {}).setdefault(config.recipe, []).append(run)
            notebooks.setdefault(place, set()).update(numbers.split(", "))
    sets, broken = [], []
    for place, recipes in places.items():
        networks = {}
        for name, trained in zip(_names([found[0] for found in recipes.values()]), recipes.values(), strict=True):
            try:
                networks[name] = by_folds(trained)
            except DataError as error:
                broken.append(f"{name} is left out: {error}.")
        if networks:
            sets.append(CaseSet(_title(networks, sorted(notebooks[place])), networks))
    kinds = {found: len({run[0].config.task for run in found.networks.values()}) for found in sets}
    return sorted(sets, key=lambda found: (-kinds[found], -len(found.networks))), broken


def _names(firsts: Sequence[Run]) -> list[str]:
    """A name a recipe: what its runs are called without seed and fold, and what they started from where that tells them apart."""
    short = [re.sub(r", (fold \d+ of \d+, )?seed \d+$", "", run.config.label) for run in firsts]
    for more in (lambda run: f" ({run.data['weights']})", lambda run: f" [{run.name[:SHORT]}]"):
        short = [name + more(run) if short.count(name) > 1 else name for name, run in zip(short, firsts, strict=True)]
    return short


def _title(networks: dict[str, list[Run | FoldedRun]], notebooks: Sequence[str]) -> str:
    first = next(iter(networks.values()))[0]
    images = count(first.data["images"]["test"], "test image")
    where = f" (notebooks {', '.join(notebooks)})" if any(notebooks) else ""
    return f"{first.config.data.dataset}: {images}, {count(len(networks), 'network')}{where}"
