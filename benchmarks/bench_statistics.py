"""How long the patient bootstrap takes: 10,000 resamples of 5,000 images with AUC against 5 s on two cores.

    python benchmarks/bench_statistics.py [--images 5000] [--patients 2000] [--resamples 10000] [--cores 2] [--loop 100]

The same interval by a loop that draws patients, gathers their images and calls scikit-learn's roc_auc_score is timed on `--loop`
resamples, and on the very same draws both must agree. Exit code 1 where the limit, the agreement or 1 GB of memory is missed.
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

from thyroid_utils.scores.estimates import drawn_patients, patient_scores
from thyroid_utils.scores.labels import SCORES, Labelled, Weighed

SECONDS = 5
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
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--loop", type=int, default=100, help="resamples of the scikit-learn loop")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    labels, probabilities, codes = make(options.images, options.patients)

    def seconds(metrics: tuple[str, ...], resamples: int) -> float:
        started = time.perf_counter()
        patient_scores(labels, probabilities, codes, metrics, resamples=resamples)
        return time.perf_counter() - started

    ours = seconds(("auc",), options.resamples)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    draws = np.concatenate(list(drawn_patients(options.patients, options.loop, options.images)), axis=1).astype(int)
    members = [np.flatnonzero(codes == code) for code in range(options.patients)]
    started = time.perf_counter()
    looped = []
    for counts in draws.T:
        drawn = np.concatenate([members[code] for code in np.repeat(np.arange(options.patients), counts)])
        looped.append(roc_auc_score(labels[drawn], probabilities[drawn]))
    loop = time.perf_counter() - started
    vectorised = Weighed(Labelled(labels.astype(bool), probabilities), draws[codes].astype(float)).score("auc")
    difference = float(np.abs(vectorised - looped).max())

    ratio = (loop / options.loop) / (ours / options.resamples)
    print(f"{options.images} images of {options.patients} patients, {options.cores} cores")
    print(f"AUC, {options.resamples} resamples   {ours:7.2f} s   limit {SECONDS} s")
    print(f"scikit-learn, {options.loop} resamples {loop:7.2f} s   {ratio:.1f} times as long a resample")
    print(f"largest difference from it   {difference:.1e}   limit 1e-12")
    print(f"memory                       {memory:7.2f} GB  limit {GIGABYTES} GB (peak of the whole process)")
    print(f"all {len(SCORES)} scores, 2000 resamples {seconds(tuple(SCORES), 2000):6.2f} s")
    return 0 if ours < SECONDS and difference < 1e-12 and memory < GIGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
