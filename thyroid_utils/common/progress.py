"""Long work: many items by threads, and what a person who waits for it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Progress = Callable[[int, int], None]  # called with (items done, items in all)
Item = TypeVar("Item")
Result = TypeVar("Result")


def progress_bar(label: str) -> Progress:
    """A `progress(done, total)` that draws one text bar, with the label before it, and removes it at the end.

    There is none where `THYROID_REPORT_DIR` is set, that is in a notebook run into a report, where hundreds would stay.
    """
    silent, bar = "THYROID_REPORT_DIR" in os.environ, None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label, leave=False, mininterval=0.2, dynamic_ncols=True, disable=silent)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return advance


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, progress: Progress | None = None
) -> list[Result]:
    """`[function(item) for item in items]` by threads: Pillow, OpenCV and hashlib release the interpreter lock.

    The first failure in the order of the items is raised, and what had not begun by then is not begun.

    Args:
        workers: number of threads; None takes one a core, at most four.
        progress: told from the calling thread and in order.
    """
    results: list[Result] = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # threads inside threads cost a tenth of the time and bring nothing
    try:
        with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in futures:
                    results.append(future.result())
                    if progress is not None:
                        progress(len(results), len(items))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        cv2.setNumThreads(threads)
    return results
