"""Long work: many items by threads, and what a person who waits for it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Progress = Callable[[int, int], None]  # called with (items done, items in all)
Item = TypeVar("Item")
Result = TypeVar("Result")

_FIRST_LINE = 20.0  # seconds of work after which a report says what it is waiting for
_NEXT_LINE = 60.0


def progress_bar(label: str, lines: bool = True) -> Progress:
    """A `progress(done, total)` that draws one text bar and removes it at the end.

    Where `THYROID_REPORT_DIR` is set, that is in a notebook run into a report, there is no bar, of which hundreds would stay:
    work that takes longer than 20 seconds prints a line then, and one each further minute.

    Args:
        label: what is being done, shown before the bar.
        lines: False prints nothing in a report, for work that tells of itself.
    """
    if os.environ.get("THYROID_REPORT_DIR"):
        return _told_in_lines(label) if lines else lambda done, total: None
    bar: tqdm | None = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label, leave=False, mininterval=0.2, dynamic_ncols=True)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return advance


def _told_in_lines(label: str) -> Progress:
    began, due = time.monotonic(), _FIRST_LINE

    def advance(done: int, total: int) -> None:
        nonlocal due
        passed = time.monotonic() - began
        if passed >= due and done < total:
            due = passed + _NEXT_LINE
            print(f"{label}: {done} of {total} after {passed:.0f} s", flush=True)

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
