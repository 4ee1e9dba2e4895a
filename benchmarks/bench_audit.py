"""How long an audit takes and how much memory it needs: 10,000 images with masks against 60 s and 2 GB on two cores.

    python benchmarks/bench_audit.py [--images 10000] [--size 256] [--cores 2]

The images are speckle of tissue of their own inside a black border, with letters and depth ticks; 2 % are pixel-identical copies
and 3 % the same view with other gain and new noise. The audit must find just these. Exit code 1 where a limit or a copy is
missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases

SECONDS = 60
GIGABYTES = 2


def draw(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8 (size, size), and a nodule mask, bool (size, size)."""
    random = np.random.default_rng(seed)
    height, width = int(size * 0.8), int(size * 0.85)
    tissue = cv2.resize(random.normal(0, 0.7, (9, 11)), (width, height), interpolation=cv2.INTER_CUBIC)
    speckle = cv2.GaussianBlur(random.rayleigh(1, (height, width)), (0, 0), 1)
    echo = 70 * np.exp(tissue) * speckle * np.linspace(1.3, 0.5, height)[:, None]
    frame = np.zeros((size, size))
    top, left = int(size * 0.12), int(size * 0.08)
    frame[top : top + height, left : left + width] = np.clip(echo, 2, 255)
    frame = frame.astype(np.uint8)
    cv2.putText(frame, f"{seed % 97} dB", (left, top - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 230, 1)
    frame[top : top + height : height // 8, left + width + 3 : left + width + 8] = 200
    mask = np.zeros((size, size), np.uint8)
    centre = (int(random.integers(size // 3, 2 * size // 3)), int(random.integers(size // 3, 2 * size // 3)))
    cv2.ellipse(mask, centre, (size // 8, size // 11), float(random.integers(0, 180)), 0, 360, 1, -1)
    return frame, mask.astype(bool)


def write_set(folder: Path, count: int, size: int) -> tuple[pd.DataFrame, int, int]:
    """The case table and how many of its images are identical and near-identical copies of an earlier one."""
    identical, near = count // 50, 3 * count // 100
    originals = count - identical - near
    rows = []
    for i in range(count):
        frame, mask = draw(i if i < originals else i - originals, size)
        if i >= originals + identical:
            noise = np.random.default_rng(i).normal(0, 4, frame.shape)
            frame = np.where(frame > 0, np.clip(frame * 1.1 + noise, 1, 255), 0).astype(np.uint8)
        image = write_png(folder / f"{i}.png", frame)
        path = write_png(folder / f"{i}-mask.png", mask)
        rows.append({"case": f"{i:05d}", "image": str(image), "mask": str(path), "patient": str(i), "dataset": "made"})
    return make_cases(rows), identical, near


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as folder:
        cases, identical, near = write_set(Path(folder), options.images, options.size)
        started, used = time.perf_counter(), time.process_time()
        audit = audit_cases(cases, workers=options.cores)
        seconds, processor = time.perf_counter() - started, time.process_time() - used
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{options.images} images of {options.size}×{options.size} with masks, {options.cores} cores")
    print(f"time      {seconds:6.1f} s   limit {SECONDS} s   processor time {processor:.1f} s")
    print(f"memory    {gigabytes:6.2f} GB  limit {GIGABYTES} GB (peak of the whole process)")
    print(f"identical {len(audit.identical):6d}     made {identical}")
    print(f"near      {len(audit.near):6d}     made {near}")
    found = len(audit.identical) == identical and len(audit.near) == near
    return 0 if seconds < SECONDS and gigabytes < GIGABYTES and found else 1


if __name__ == "__main__":
    sys.exit(main())
