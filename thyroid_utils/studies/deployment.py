"""What it costs to use a trained network: size, time and memory by how it is run, and what int8 takes from its score.

Of each model one network is looked at, that of the first seed and fold, as somebody would use it. All numbers are of this
network, and of this machine; nothing here speaks of recipes.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import number
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.onnx_export import export_network, graph_module
from thyroid_utils.inference.onnx_network import OnnxNetwork
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import for_each_case
from thyroid_utils.scores.comparisons import compare_answers, holm
from thyroid_utils.scores.estimates import patient_estimate, patient_scores
from thyroid_utils.scores.labels import choose_threshold
from thyroid_utils.scores.masks import binarise, overlap_scores, pixel_counts
from thyroid_utils.scores.recipes import Influence, auc_influence, mean_influence
from thyroid_utils.studies.compared_runs import ComparedRuns
from thyroid_utils.studies.tables import told_difference

EAGER, FLOAT, DYNAMIC, STATIC = VARIANTS = ("PyTorch", "ONNX float32", "ONNX int8, dynamic", "ONNX int8, static")
# Asked of a network for a phone: files in MB (a million bytes), points of the score, share of PyTorch's time.
FLOAT_MB, INT8_MB, LOST, TIME = 12.4, 4.0, 0.5, 0.5
PHONE_MS = 28.0  # an image, by Yang et al. (2025, section 5), whose network has FLOAT_MB
# What static int8 computes with; to resize in int8 takes longer than in float32.
_QUANTISED = ["Conv", "Gemm", "MatMul", "Relu", "Clip", "Add", "Concat"]
_TIMED_ONLY = 2  # images that calibrate a file whose answers are not scored
# Prints the most memory that its own process had, in kB. `getrusage` counts that of the process it was forked from, too.
_PEAK = """
import sys, numpy as np
kind, path, ask, side, threads = *sys.argv[1:4], *map(int, sys.argv[4:])
if kind == "PyTorch":
    import torch
    from thyroid_utils.training.ledger import Run
    torch.set_num_threads(threads)
    with torch.inference_mode():
        Run(path).load_model()(torch.zeros(1, Run(path).data["input"][0], side, side))
else:
    from thyroid_utils.inference.onnx_network import OnnxNetwork
    getattr(OnnxNetwork(path, threads), ask)(np.zeros((1, 1, side, side), np.uint8))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Deployed:
    """The first network of a model, the files that it is written to as they are asked for, and what these answer.

    comparison: whose model it is. folder: of the files. root: of the data, where it is another than in training. calibrating:
    how many training images static int8 takes its ranges from.
    """

    comparison: ComparedRuns
    model: str
    folder: Path
    root: str | None = None
    calibrating: int = 32

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.comparison.runs[self.model][0].folds[0], self.root)

    @property
    def task(self) -> str:
        return self.predictor.run.config.task

    @property
    def ask(self) -> str:
        """The method of a `Predictor` or `OnnxNetwork` that answers."""
        return "log_odds" if self.task == "classification" else "maps"

    @property
    def side(self) -> int:
        """Of its input in training, pixels."""
        return self.predictor.run.data["input"][1]

    def file(self, variant: str, side: int, kept: Sequence[str] = ()) -> Path:
        """The ONNX file of a variant for images of a side in pixels; kept: `layer_groups` that static int8 leaves in float32.

        Raises:
            DataError: an operator that has no form in ONNX.
        """
        name = "_".join([self.model.replace("/", "_"), str(VARIANTS.index(variant)), str(side), *kept])
        path = self.folder / f"{name}.onnx"
        if path.exists():
            return path
        if variant == FLOAT:
            return export_network(self.predictor.run, path, (side, side))
        from onnxruntime import quantization as q  # half a second, with onnx

        given = self.file(FLOAT, side)
        logging.disable(logging.WARNING)  # its advice to simplify the graph first, which changes no number of these
        try:
            if variant == DYNAMIC:  # with signed weights convolutions take twice as long
                q.quantize_dynamic(given, path, weight_type=q.QuantType.QUInt8)
            else:
                rows, groups = self.cases("train"), layer_groups(given)
                wanted = self.calibrating if side == self.side else _TIMED_ONLY
                few = np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int)
                images = iter([{"levels": image[None]} for image in self.levels(rows.iloc[few], side)])
                reader = type("Reader", (q.CalibrationDataReader,), {"get_next": lambda self: next(images, None)})()
                how = {"nodes_to_exclude": [name for kind in kept for name in groups[kind]], "op_types_to_quantize": _QUANTISED}
                q.quantize_static(given, path, reader, per_channel=True, quant_format=q.QuantFormat.QDQ, **how)
        finally:
            logging.disable(logging.NOTSET)
        return path

    def cases(self, split: str) -> pd.DataFrame:
        rows = self.predictor.cases
        return rows[rows["split"].eq(split).fillna(False)]

    def levels(self, rows: pd.DataFrame, side: int) -> np.ndarray:
        """What a file for that side is given of images, (n, 1, side, side)."""
        network = OnnxNetwork(self.file(FLOAT, side))
        found = for_each_case(lambda row: network.pipeline.load(row).image, rows.assign(mask=pd.NA))
        return np.stack(found).astype(np.uint8 if "uint8" in network.session.get_inputs()[0].type else np.float32)

    @cached_property
    def _levels(self) -> dict[str, np.ndarray]:
        return {split: self.levels(self.cases(split), self.side) for split in ("val", "test")}

    def answers(self, variant: str, split: str, kept: Sequence[str] = ()) -> np.ndarray:
        """What a variant says of "val" or "test": log-odds of malignant (n,), or probabilities of nodule (n, side, side)."""
        if variant == EAGER:
            return getattr(self.predictor, self.ask)(self.predictor.inputs(self.cases(split).index))
        return getattr(OnnxNetwork(self.file(variant, self.side, kept)), self.ask)(self._levels[split])

    def rated(self, answers: np.ndarray, split: str) -> np.ndarray:
        """The numbers that the score is of, (n,): log-odds, or Dice on the frame, NaN where it has no nodule."""
        if self.task == "classification":
            return answers
        found = []
        for (case, path), given in zip(self.cases(split)["mask"].items(), answers, strict=True):
            truth, mask = read_mask(path), binarise(self.predictor.on_frame(case, given))
            found.append(overlap_scores(**pixel_counts(truth, mask))["dice"] if truth.any() else np.nan)
        return np.array(found)

    def influence(self, rated: np.ndarray, split: str) -> Influence:
        """Of AUC, or of mean Dice over the images with a nodule."""
        if self.task == "classification":
            return auc_influence(self.cases(split)["label"].astype(int), rated)
        return mean_influence(rated[np.isfinite(rated)])

    @cached_property
    def tried(self) -> pd.DataFrame:
        """What static int8 loses on validation: a row with nothing kept in float32, and, where that loses more than `LOST`, one
        for each of `layer_groups` and for all: `kept`, `layers` (how many), `MB`, `points lost` of the score."""

        def score(*asked: Any) -> float:
            return float(self.influence(self.rated(self.answers(*asked), "val"), "val").scores[0])

        whole, groups, rows = score(FLOAT, "val"), layer_groups(self.file(FLOAT, self.side)), []
        for kept in [(), *((kind,) for kind in groups), tuple(groups)]:
            lost, size = 100 * (whole - score(STATIC, "val", kept)), _megabytes(self.file(STATIC, self.side, kept))
            layers = len({layer for kind in kept for layer in groups[kind]})
            rows.append({"kept": kept, "layers": layers, "MB": size, "points lost": lost})
            if not kept and lost <= LOST:
                break
        return pd.DataFrame(rows)

    def kept(self, variant: str) -> tuple[str, ...]:
        """What static int8 leaves in float32, by validation: the smallest file that loses no more than `LOST`, else the one that
        loses least."""
        if variant != STATIC:
            return ()
        fit = self.tried[self.tried["points lost"] <= LOST]
        return (self.tried.sort_values("points lost") if fit.empty else fit.sort_values("MB"))["kept"].iloc[0]

    @cached_property
    def threshold(self) -> float:
        """Of the probability: of malignant by Youden's rule on validation, in float32; of nodule 0.5."""
        if self.task == "segmentation":
            return 0.5
        return choose_threshold(self.cases("val")["label"].astype(int), expit(self.answers(FLOAT, "val")))

    def costs(self) -> pd.DataFrame:
        """A row a variant: `MB` of its file (of the weights, of PyTorch), `score` on test (`Estimate`), `difference` from float32
        (`Comparison` of fixed answers; None of itself and PyTorch), and `changed`: the share of images, or of pixels, that it
        calls otherwise."""
        rows, cut, said, told = self.cases("test"), self.threshold, {}, []
        for variant in VARIANTS:
            answers = self.answers(variant, "test", self.kept(variant))
            called = (expit(answers) if self.task == "classification" else answers) >= cut
            said[variant] = self.rated(answers, "test"), called
        base, calls = said[FLOAT]
        for variant, (rated, called) in said.items():
            weights, found = self.predictor.run.folder / "weights.safetensors", None
            if variant in (DYNAMIC, STATIC):
                pair = self.influence(rated, "test"), self.influence(base, "test")
                found = self.comparison.withheld(compare_answers(*pair, rows["patient"][np.isfinite(base)]), [self.model] * 2)
            if self.task == "classification":
                score = patient_scores(rows["label"].astype(int), expit(rated), rows["patient"], "auc")["auc"]
            else:
                score = patient_estimate(rated, rows["patient"], share=True)
            file = weights if variant == EAGER else self.file(variant, self.side, self.kept(variant))
            told.append((_megabytes(file), score, found, float((called != calls).mean())))
        return pd.DataFrame(told, list(VARIANTS), ["MB", "score", "difference", "changed"], dtype=object)

    def followed(self) -> tuple[str, dict[str, np.ndarray]]:
        """The test image whose answer static int8 moves farthest, with what float32 and int8 say of it."""
        said = {variant: self.answers(variant, "test", self.kept(variant)) for variant in (FLOAT, STATIC)}
        moved = np.abs(said[STATIC] - said[FLOAT]).reshape(len(said[FLOAT]), -1).mean(axis=1)
        return self.cases("test").index[moved.argmax()], {name: found[moved.argmax()] for name, found in said.items()}

    def calls(self, side: int, threads: int) -> dict[str, Callable[[], Any]]:
        """Variant → what answers one test image of a side, from gray levels to log-odds."""
        image, run = self.levels(self.cases("test")[:1], side), self.predictor.run
        graph = graph_module(Predictor(run), (side, side)).eval()  # of its own, which this takes off a GPU
        files = {variant: self.file(variant, side, self.kept(variant)) for variant in VARIANTS[1:]}
        asked = {variant: partial(getattr(OnnxNetwork(file, threads), self.ask), image) for variant, file in files.items()}
        return {EAGER: partial(graph, torch.from_numpy(image)), **asked}

    def peak(self, variant: str, side: int, threads: int) -> float:
        """The most memory that a process has which loads a variant and asks it about one image, MB; NaN outside of Linux."""
        path = self.predictor.run.folder if variant == EAGER else self.file(variant, side, self.kept(variant))
        command = [sys.executable, "-c", _PEAK, variant, str(path), self.ask, str(side), str(threads)]
        if not Path("/proc/self/status").exists():
            return np.nan
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) / 1000


def layer_groups(path: Path) -> dict[str, list[str]]:
    """Names of layers in an ONNX file that int8 may hurt most, by kind; only the kinds that it has.

    first, last: of the graph. depthwise: convolutions of few channels each, whose ranges differ. gates: those whose result a
    sigmoid or softmax turns into weights for others, as squeeze-and-excitation and attention do.
    """
    import onnx

    nodes = onnx.load(path).graph.node
    makers = {output: node for node in nodes for output in node.output}
    layers = {node.name: node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")}
    gates, ahead = {}, [name for node in nodes if node.op_type in ("Sigmoid", "HardSigmoid", "Softmax") for name in node.input]
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.name in layers:
            gates[node.name] = node
        elif node is not None:
            ahead += node.input
    deep = [name for name, node in layers.items() if any(part.name == "group" and part.i > 1 for part in node.attribute)]
    groups = {"first": [*layers][:1], "last": [*layers][-1:], "gates": [*gates], "depthwise": deep}
    return {kind: names for kind, names in groups.items() if names}


def deployed(
    comparisons: Sequence[ComparedRuns], sides: Sequence[int], folder: str | Path, **more: Any
) -> tuple[list[Deployed], dict[str, str]]:
    """The networks of finished runs that can be written as ONNX, and why others cannot, by model.

    sides: of images in pixels that time will be taken at. folder: of the files. more: other fields of `Deployed`.

    Raises:
        ParameterError: a side that a network does not take, before anything is written.
        DataError: none of them can be written.
    """
    networks = [Deployed(found, model, Path(folder), **more) for found in comparisons for model in found.models]
    try:
        for network, side in product(networks, sides):
            network.predictor.network.check_size(side, side)
    except ValueError as error:
        raise ParameterError(f"SIZES: {error}") from None
    written, failed, bar = [], {}, progress_bar("Writing ONNX")
    for done, network in enumerate(networks, 1):
        try:
            for side in {network.side, *sides}:
                network.file(FLOAT, side)
            written.append(network)
        except DataError as error:
            failed[network.model] = str(error)
        bar(done, len(networks))
    if not written:
        told = "; ".join(f"{model}: {why}" for model, why in failed.items())
        raise DataError(f"none of these networks can be written as ONNX ({told}); name others in MODELS or SEGMENTERS")
    return written, failed


def cost_table(networks: Sequence[Deployed]) -> pd.DataFrame:
    """`Deployed.costs` of all, index (model, variant), with `p_holm` over all, and `differs`, of these networks alone."""
    table = pd.concat({network.model: network.costs() for network in networks}, names=["model", "variant"])
    adjusted = holm([np.nan if found is None else found.p_value for found in table["difference"]])
    return table.assign(p_holm=adjusted, differs=adjusted < 0.05)


def timed(networks: Sequence[Deployed], sides: Sequence[int], threads: Sequence[int], repeats: int) -> pd.DataFrame:
    """How long one image takes on this CPU, from gray levels to log-odds, in milliseconds.

    Variants take turns, so that what else the machine does falls on all alike. In its turn each is asked twice and the second
    time is taken, as the first brings back what others have driven from the caches. The first turn is left out.

    Returns:
        a row a model, side (each one's own too), number of threads and variant: `ms`, the median of `repeats`, `low` and `high`,
        the quartiles, and `over`, the share of PyTorch's time.
    """
    before, rows, bar = torch.get_num_threads(), [], progress_bar("Timing")
    asked = [(network, side, many) for network in networks for side in sorted({network.side, *sides}) for many in {*threads}]
    for done, (network, side, many) in enumerate(asked, 1):
        calls, spent = network.calls(side, many), {variant: [] for variant in VARIANTS}
        torch.set_num_threads(many)
        with torch.inference_mode():
            for _, variant in product(range(repeats + 1), VARIANTS):
                calls[variant]()
                began = time.perf_counter()
                calls[variant]()
                spent[variant].append(1000 * (time.perf_counter() - began))
        torch.set_num_threads(before)
        found = {variant: np.quantile(spent[variant][1:], [0.5, 0.25, 0.75]) for variant in VARIANTS}
        rows += [(network.model, side, many, name, *row, row[0] / found[EAGER][0]) for name, row in found.items()]
        bar(done, len(asked))
    return pd.DataFrame(rows, columns=["model", "side", "threads", "variant", "ms", "low", "high", "over"])


def held_to(costs: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """What is asked of a network for a phone and whether it is met, a row a model and demand; costs, times: of `cost_table` and
    `timed`. `met`: "not shown" where no more is lost than may be, but the interval holds more."""
    rows = []
    for model, own in costs.groupby(level="model", sort=False):
        size, lost = own["MB"].droplevel("model"), own.at[(model, STATIC), "difference"]
        over = times.query("model == @model and variant == @FLOAT")["over"]
        met = "no" if -100 * lost.difference > LOST else "yes" if -100 * lost.low <= LOST else "not shown"
        ratios = f"{number(over.min())} to {number(over.max())}"
        rows += [
            (model, "float32 file, MB", FLOAT_MB, number(size[FLOAT], 1), "yes" if size[FLOAT] <= FLOAT_MB else "no"),
            (model, "int8 file, MB", INT8_MB, number(size[STATIC], 1), "yes" if size[STATIC] <= INT8_MB else "no"),
            (model, "points lost by int8", LOST, told_difference(lost, 2, -100), met),
            (model, "onnxruntime's time over PyTorch's", TIME, ratios, "yes" if over.max() <= TIME else "no"),
        ]
    return pd.DataFrame(rows, columns=["model", "asked", "at most", "measured", "met"])


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
