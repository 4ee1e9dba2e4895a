"""How long intervals over patients take: AUC of 5,000 images against 1 s on two cores, and a table of every score.

    python benchmarks/bench_statistics.py [--images 5000] [--patients 800] [--cores 2] [--loop 100]

The same numbers by a loop that leaves each patient out and calls scikit-learn's roc_auc_score are timed on `--loop` patients, and
must agree. Exit code 1 where the limit, the agreement or 1 GB of memory is missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from thyroid_utils.scores.estimates import patient_scores
from thyroid_utils.scores.labels import SCORES, Labelled, Weighed
from thyroid_utils.scores.patients import leave_out

SECONDS = 1
GIGABYTES = 1


def make(images: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), probabilities (n,) rounded to four decimals so that some are equal, and patients, int (n,)."""
    random = np.random.default_rng(0)
    codes = np.append(np.arange(patients), random.integers(patients, size=images - patients))
    labels = random.integers(2, size=patients)[codes]
    scores = labels + random.normal(size=patients)[codes] + random.normal(size=images)
    return labels, expit(scores).round(4), codes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--patients", type=int, default=800)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--loop", type=int, default=100, help="patients left out by the scikit-learn loop")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    labels, probabilities, codes = make(options.images, options.patients)

    def seconds(metrics: tuple[str, ...]) -> float:
        started = time.perf_counter()
        patient_scores(labels, probabilities, codes, metrics)
        return time.perf_counter() - started

    ours = seconds(("auc",))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started = time.perf_counter()
    left = range(min(options.loop, options.patients))
    looped = [roc_auc_score(labels[codes != out], probabilities[codes != out]) for out in left]
    loop = time.perf_counter() - started
    images = Labelled(labels.astype(bool), probabilities)
    value, moves = leave_out(lambda weights: Weighed(images, weights).score("auc"), codes)
    difference = float(np.abs(value + moves[: len(looped)] - looped).max())

    print(f"{options.images} images of {options.patients} patients, {options.cores} cores")
    print(f"AUC                          {ours:7.2f} s   limit {SECONDS} s")
    print(f"scikit-learn, {len(looped)} patients   {loop:7.2f} s")
    print(f"largest difference from it   {difference:.1e}   limit 1e-12")
    print(f"memory                       {memory:7.2f} GB  limit {GIGABYTES} GB (peak of the whole process)")
    print(f"all {len(SCORES)} scores                {seconds(tuple(SCORES)):7.2f} s")
    return 0 if ours < SECONDS and difference < 1e-12 and memory < GIGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
