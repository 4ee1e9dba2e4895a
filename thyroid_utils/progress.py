"""One bar for a person who waits; nothing in a notebook that is executed unattended, where bars leave hundreds of lines."""

from __future__ import annotations

import os
from collections.abc import Callable

from tqdm import tqdm


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A `progress(done, total)` that draws one text bar and removes it at the end.

    Silent where `THYROID_REPORT_DIR` is set, that is in a notebook run into a report: the runner shows its progress there.

    Args:
        label: what is being done, shown before the bar.
    """
    if os.environ.get("THYROID_REPORT_DIR"):
        return lambda done, total: None
    bar: tqdm | None = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label, leave=False, mininterval=0.2, dynamic_ncols=True)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return advance
