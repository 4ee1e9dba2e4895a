"""HD95 + ASSD on 1,000 pairs of nodule-sized masks at 256² against MONAI: the same values, at least 60 times the speed.

    python benchmarks/bench_segmentation_metrics.py [--pairs 1000] [--block 50]

The two take turns in short blocks and each is charged its processor time, so that whatever else the machine does falls on both
alike; one thread each. The nodules are ellipses with half axes of 12 to 42 pixels (quartiles of the area near 1,100, 1,600 and
2,300 pixels; those of DDTI at 256² are 1,900, 4,000 and 8,200), predicted with an error in place, size and angle. The larger the
nodule, the smaller the ratio: pairs of outline pixels grow with the area. Two 2048² masks of noise follow, with time and memory.
Exit code 1 where the ratio, the agreement or the memory is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tracemalloc
import warnings

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from thyroid_utils.scores.masks import segmentation_scores, surface_scores

RATIO = 60
SIDE = 256
# MONAI holds distances in float32: about seven digits.
AGREEMENT = 1e-6
LARGE_SIDE = 2048
LARGE_MEGABYTES = 1024


def ellipse(centre: np.ndarray, axes: np.ndarray, angle: float) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (tuple(centre), tuple(2 * axes), angle), 1, -1)
    return mask.astype(bool)


def nodules(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Truths and predictions, bool (pairs, side, side) each."""
    random = np.random.default_rng(0)
    truths, predictions = np.empty((2, pairs, SIDE, SIDE), bool)
    for number in range(pairs):
        axes, angle = np.exp(random.uniform(np.log(12), np.log(42), 2)), random.uniform(0, 180)
        centre = random.uniform(50, SIDE - 50, 2)
        moved, sized = random.normal(0, 0.1, 2) * axes, random.uniform(0.8, 1.2, 2)
        truths[number] = ellipse(centre, axes, angle)
        predictions[number] = ellipse(centre + moved, axes * sized, angle + random.normal(0, 10))
    return truths, predictions


def ours(truths: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """HD95 and ASSD, (pairs, 2)."""
    scores = [surface_scores(*pair) for pair in zip(truths, predictions, strict=True)]
    return np.array([(score["hd95"], score["assd"]) for score in scores])


def monais(truths: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The same by MONAI, which takes a batch, (pairs, 1, height, width)."""
    y, y_pred = torch.from_numpy(truths)[:, None], torch.from_numpy(predictions)[:, None]
    hd95 = compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95)
    assd = compute_average_surface_distance(y_pred, y, include_background=True, symmetric=True)
    return torch.cat([hd95, assd], dim=1).numpy()


def charged(score, truths: np.ndarray, predictions: np.ndarray) -> tuple[float, np.ndarray]:
    started = time.process_time()
    values = score(truths, predictions)
    return time.process_time() - started, values


def large() -> tuple[float, float]:
    """Seconds and megabytes for every score of two 2048² masks whose outlines are as long as they get: noise."""
    random = np.random.default_rng(0)
    truth, prediction = random.random((2, LARGE_SIDE, LARGE_SIDE)) < 0.5
    tracemalloc.start()
    started = time.process_time()
    segmentation_scores(truth, prediction)
    seconds, megabytes = time.process_time() - started, tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, megabytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--block", type=int, default=50, help="pairs in a turn; what is left over is not scored")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    turns_in_all = options.pairs // options.block
    truths, predictions = nodules(turns_in_all * options.block)
    blocks = list(zip(np.split(truths, turns_in_all), np.split(predictions, turns_in_all), strict=True))
    ours(*blocks[0]), monais(*blocks[0])
    turns = [(charged(ours, *block), charged(monais, *block)) for block in blocks]
    # The median turn: one that something else disturbed says nothing about either.
    mine, theirs = (float(np.median([turn[side][0] for turn in turns])) / options.block for side in (0, 1))
    ratio = theirs / mine
    values, reference = (np.concatenate([turn[side][1] for turn in turns]) for side in (0, 1))
    difference = float(np.abs(values / reference - 1).max())
    areas = np.percentile(truths.sum(axis=(1, 2)), [25, 50, 75])
    print(f"HD95 + ASSD, {len(truths)} pairs of {SIDE}², area quartiles {areas[0]:.0f}, {areas[1]:.0f}, {areas[2]:.0f} pixels")
    print(f"ours    {mine * 1e6:7.0f} µs a pair")
    print(f"MONAI   {theirs * 1e6:7.0f} µs a pair   {ratio:.0f} times as long   limit {RATIO}")
    print(f"largest relative difference {difference:.1e}   limit {AGREEMENT:.0e} (MONAI holds distances in float32)")
    every = charged(lambda *masks: [segmentation_scores(*pair) for pair in zip(*masks, strict=True)], *blocks[0])[0]
    print(f"every score of a pair       {every / options.block * 1e6:7.0f} µs")
    seconds, megabytes = large()
    print(f"every score, {LARGE_SIDE}² of noise {seconds:7.1f} s   {megabytes:.0f} MB   limit {LARGE_MEGABYTES} MB")
    return 0 if ratio >= RATIO and difference <= AGREEMENT and megabytes < LARGE_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
