"""How fast phantoms are made: images a second on one core, simulation alone and with the files written.

python benchmarks/bench_phantom.py [SIZE]      (pixels, 256 unless given)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2

from thyroid_utils.data.phantom import phantom_cases, simulate_view
from thyroid_utils.data.phantom.imaging import SCANNERS, homogeneous_phantom, rayleigh_fit

REPEATS = 3
PATIENTS = 60


def simulated_per_second(size: int) -> float:
    """Best of some repeats, in images a second of processor time."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        for patient in range(PATIENTS):
            simulate_view(patient, size=size)
        best = min(best, time.process_time() - start)
    return PATIENTS / best


def written_per_second(size: int) -> tuple[float, float]:
    """Images a second of processor time and of wall clock, three PNG files an image included, one worker."""
    with tempfile.TemporaryDirectory() as folder:
        clock, wall = time.process_time(), time.perf_counter()
        images = len(phantom_cases(folder, patients=PATIENTS, size=size, workers=1))
        return images / (time.process_time() - clock), images / (time.perf_counter() - wall)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    print(f"simulation alone, {size}×{size}: {simulated_per_second(size):.1f} images/s a core")
    cpu, wall = written_per_second(size)
    print(f"with image and two masks written, {size}×{size}: {cpu:.1f} images/s a core ({wall:.1f} by the clock)")
    for name in SCANNERS:
        fit = rayleigh_fit(homogeneous_phantom(scanner=name))
        print(f"{name}: speckle SNR {fit.snr:.3f} (theory 1.913), Kolmogorov-Smirnov p {fit.p_value:.2f}")
