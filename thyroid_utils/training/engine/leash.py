"""Loaded by the supervisor of each local worker: both end with the process that started them, however that ends.

Dask loads this file by its path, so it imports nothing of the package: a supervisor needs no PyTorch.
"""

from __future__ import annotations

import os
import sys
import threading


def dask_setup(nanny: object) -> None:
    """Called by Dask in the supervisor. The other end of its standard input is held by the process that started it."""
    threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)  # the worker notices and ends at once, in the middle of a run too
