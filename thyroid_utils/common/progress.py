"""One bar for a person who waits; a line now and then in a notebook that is executed unattended, where bars leave hundreds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tqdm import tqdm

_FIRST_LINE = 20.0  # seconds of work after which a report says what it is waiting for
_NEXT_LINE = 60.0


def progress_bar(label: str, lines: bool = True) -> Callable[[int, int], None]:
    """A `progress(done, total)` that draws one text bar and removes it at the end.

    Where `THYROID_REPORT_DIR` is set, that is in a notebook run into a report, there is no bar: work that takes longer than 20
    seconds prints a line then, and one each further minute.

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


def _told_in_lines(label: str) -> Callable[[int, int], None]:
    began, due = time.monotonic(), _FIRST_LINE

    def advance(done: int, total: int) -> None:
        nonlocal due
        passed = time.monotonic() - began
        if passed >= due and done < total:
            due = passed + _NEXT_LINE
            print(f"{label}: {done} of {total} after {passed:.0f} s", flush=True)

    return advance
