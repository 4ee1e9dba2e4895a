"""The dual stage on files of `thyroid-workbook export`, by onnxruntime alone."""

import math
import re
from pathlib import Path

from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.dual_stage import CLASSIFIER, SEGMENTER, DualStage
from thyroid_utils.inference.known import Known
from thyroid_utils.inference.onnx_network import OnnxNetwork

JOINT = "joint"


def onnx_stage(folder: Path, mirror: bool = False, threads: int = 0) -> DualStage:
    """A `DualStage` that says what that of the exported runs says, but for attention, which takes gradients.

    Args:
        folder: with `classifier.onnx` and `segmenter.onnx`, each perhaps as `-1.onnx`, `-2.onnx`, …; or with `joint.onnx`.
        mirror: as of `DualStage`.
        threads: of onnxruntime; 0 takes one a core.

    Raises:
        DataError: files that are missing, damaged or of several exports.
    """
    given = {role: _networks(folder, role, threads) for role in (CLASSIFIER, SEGMENTER)}
    for role, network in ((role, network) for role, found in given.items() for network in found):
        if role not in network.facts["known"]:
            raise DataError(f"{network.path}: a network of {network.facts['task']}, which is no {role}; export it anew")
    known = {role: Known.of_json(found[0].facts["known"][role]) for role, found in given.items()}
    judged = known[CLASSIFIER]
    if len(judged.calibrations) != len(given[CLASSIFIER]) or math.isnan(judged.threshold):
        raise DataError(f"{folder}: its classifiers are not those of one export; export all runs together into a new folder")
    return DualStage(given[CLASSIFIER], given[SEGMENTER], mirror=mirror, known=known)


def _networks(folder: Path, role: str, threads: int) -> list[OnnxNetwork]:
    """Those of a role in their order; where there is none, joint ones."""
    for kind in (role, JOINT):
        numbers = {path: re.fullmatch(rf"{kind}(?:-(\d+))?\.onnx", path.name) for path in folder.glob(f"{kind}*.onnx")}
        ours = sorted((path for path, number in numbers.items() if number), key=lambda path: int(numbers[path][1] or 0))
        if ours:
            return [OnnxNetwork(path, threads) for path in ours]
    raise DataError(f"{folder}: holds no {role}.onnx and no {JOINT}.onnx; expected a folder of thyroid-workbook export")
