"""Long work: many items by threads, and what a person who waits for it is told."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

Progress = Callable[[int, int], None]  # called with (items done, items in all)
Item = TypeVar("Item")
Result = TypeVar("Result")


def notebook_shell() -> Any:
    """IPython's shell where this is a notebook's kernel, else None."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


class _Line:
    """One line of HTML below the cell at work, for all its bars, and gone with the cell: text bars would stand in a red box, and
    widgets leave dead ones in a saved notebook."""

    def __init__(self) -> None:
        self.bars: dict[str, str] = {}
        self.shown: Any = None
        self.since = 0.0

    def tell(self, label: str, done: int, total: int) -> None:
        self.bars[label] = f'{escape(label)} <progress value="{done}" max="{total}"></progress> {done}/{total}'
        if done >= total:
            del self.bars[label]
        if time.monotonic() - self.since > 0.2 or not self.bars:
            self.since = time.monotonic()
            self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        line = HTML(" &emsp; ".join(self.bars.values()))
        if self.shown is not None:
            self.shown.update(line)
        elif self.bars:
            self.shown = display(line, display_id=True)
            notebook_shell().events.register("post_run_cell", self.end)

    def end(self, _: Any = None) -> None:
        notebook_shell().events.unregister("post_run_cell", self.end)
        self.bars = {}
        self._show()
        self.shown = None


_line = _Line()


def _told(label: str) -> Progress:
    since = time.monotonic()
    due = since + 2

    def tell(done: int, total: int) -> None:
        nonlocal due
        if (now := time.monotonic()) > due:
            print(f"{label}: {done} of {total} after {now - since:.0f} s", flush=True)
            due = now + 30

    return tell


def progress_bar(label: str, *, lines: bool = True) -> Progress:
    """A `progress(done, total)` that draws one bar, with the label before it, and removes it at the end.

    Where `THYROID_REPORT_DIR` is set, that is in a notebook run into a report, hundreds of bars would stay: what takes more than
    two seconds prints a line then and every half minute; nothing where `lines` is False, for work that tells more itself.
    """
    silent, bar = "THYROID_REPORT_DIR" in os.environ, None
    if silent and lines:
        return _told(label)
    if not silent and notebook_shell() is not None:
        return partial(_line.tell, label)

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
