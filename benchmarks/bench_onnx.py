"""Every network of the registries as ONNX against PyTorch: log-odds, masks, size, CPU seconds to export. Some minutes.

    python benchmarks/bench_onnx.py [NAME...]

Values are random, from a fixed seed; batch normalisation takes its statistics from random images, as in training.
SegNet's pooling keeps places: where two neighbours are equal but for the last digit, another program may take the other one.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from thyroid_utils.inference.onnx_export import Levels, LogOdds, write_graph
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import JOINT_MODELS, build_classifier, build_joint, build_segmenter
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.preprocess.pipeline import build_pipeline

SIDE = 96
NAMES = [*CLASSIFIERS, *SEGMENTERS, *(f"joint:{name}" for name in JOINT_MODELS[:1])]
STEPS = build_pipeline(["resize", "scale", "three_channels"], SIDE)


def compared(name: str, folder: Path) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    build = build_joint if name.startswith("joint:") else build_classifier if name in CLASSIFIERS else build_segmenter
    network = build(name.removeprefix("joint:"))
    graph = nn.Sequential(Levels(STEPS.steps[-2:], STEPS), LogOdds(network))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 1, SIDE, SIDE), dtype=np.uint8))
    network.train()
    with torch.no_grad():
        network(graph[0](frames))
    network.eval()
    with torch.inference_mode():
        expected = [answer.numpy() for answer in graph(frames[:3])]
    began, path = time.process_time(), folder / "network.onnx"
    names = [f"answer{number}" for number in range(len(expected))]
    write_graph(graph, (frames[:2],), ({0: torch.export.Dim("batch")},), (["levels"], names), path, {"model": name})
    spent = time.process_time() - began
    found = onnxruntime.InferenceSession(path).run(names, {"levels": frames[:3].numpy()})
    apart = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
    sides = sum(int(((one >= 0) != (other >= 0)).sum()) for one, other in zip(found, expected, strict=True))
    largest = max(float(np.abs(one).max()) for one in expected)
    return f"{name:36} {apart:9.1e} {largest:9.2g} {sides:6} {path.stat().st_size / 1e6:8.1f} {spent:6.1f}"


if __name__ == "__main__":
    print(f"{'network':36} {'apart':>9} {'largest':>9} {'sides':>6} {'MB':>8} {'s':>6}")
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:] or NAMES:
            print(compared(name, Path(temporary)), flush=True)
