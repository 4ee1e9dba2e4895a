"""What each preprocessing step costs, side by side in one run, and what the store saves the second time.

    python benchmarks/bench_preprocess.py [--size 256] [--images 40] [--repeats 5] [--folder IMAGES]

Without a folder the images are drawn speckle in a scanner's frame of 360×560 pixels. OpenCV runs on one thread, so that the
numbers are milliseconds of one core. Every step is timed on what the papers' order gives it: whole frames for `crop_echo`,
`remove_overlays` and `resize`, images of the network's size for the others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from thyroid_utils.data.images import IMAGE_SUFFIXES, read_gray, write_png
from thyroid_utils.data.overlays import find_overlays
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import PRESETS, build_pipeline
from thyroid_utils.preprocess.steps import STEPS, Sample
from thyroid_utils.preprocess.store import preprocessed

WHOLE_FRAME = ("gray", "crop_echo", "remove_overlays", "resize")


def drawn_frame(seed: int) -> np.ndarray:
    """Speckle in a black frame with a line of text and two callipers, uint8 (360, 560)."""
    rng = np.random.default_rng(seed)
    gray = np.zeros((360, 560), np.uint8)
    speckle = cv2.GaussianBlur(rng.normal(size=(305, 390)), (0, 0), 1.2)
    gray[6:311, 85:475] = np.clip(90 + 25 * speckle / speckle.std(), 8, 255).astype(np.uint8)
    cv2.putText(gray, "DR65 2DG 92", (480, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1)
    for column in (200, 330):
        cv2.drawMarker(gray, (column, 150), 255, cv2.MARKER_CROSS, 11, 1)
    return gray


def median_ms(work, images: list, repeats: int) -> float:
    """Median over the repeats of the mean time per image, in milliseconds."""
    work(images[0])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for image in images:
            work(image)
        times.append((time.perf_counter() - start) / len(images) * 1000)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the network's input in pixels")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a folder of images instead of drawn ones")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    if arguments.folder:
        files = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        frames = [read_gray(path) for path in files[:: max(1, len(files) // arguments.images)][: arguments.images]]
    else:
        frames = [drawn_frame(seed) for seed in range(arguments.images)]
    resize = STEPS["resize"](size=arguments.size)
    whole = [Sample(frame, None, Geometry.of(frame)) for frame in frames]
    small = [resize(sample) for sample in whole]

    rows = [("find_overlays", "frame", median_ms(find_overlays, frames, arguments.repeats))]
    for name, step in STEPS.items():
        made = resize if name == "resize" else step()
        on_frame = name in WHOLE_FRAME
        rows.append((name, "frame" if on_frame else "input", median_ms(made, whole if on_frame else small, arguments.repeats)))
    for name in PRESETS:
        pipeline = build_pipeline(name, size=arguments.size)
        pipeline.mean, pipeline.deviation = 0.3, 0.2  # any numbers: fitting is not what is timed
        rows.append((f"preset {name}", "frame", median_ms(pipeline, frames, arguments.repeats)))
    print(f"{len(frames)} images, one core, input {arguments.size}×{arguments.size}, median of {arguments.repeats} runs\n")
    print(pd.DataFrame(rows, columns=["step", "measured on", "ms an image"]).round(3).to_string(index=False))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["THYROID_WORKBOOK_CACHE"] = folder
        paths = [str(write_png(Path(folder) / "images" / f"{number}.png", frame)) for number, frame in enumerate(frames)]
        cases = make_cases([{"case": p, "image": p, "patient": p, "dataset": "bench", "split": "train"} for p in paths])
        pipeline = build_pipeline("paper_002", size=arguments.size)
        time.sleep(2.1)  # hashes of files younger than two seconds are not remembered
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            preprocessed(cases, pipeline, workers=1)
            seconds.append(time.perf_counter() - start)
    first, second, third = (1000 * value for value in seconds)
    print(f"\nstore of paper_002: first use {first:.0f} ms, second {second:.1f} ms, third {third:.1f} ms")


if __name__ == "__main__":
    main()
