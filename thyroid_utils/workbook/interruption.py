"""Ctrl-C and its like: the kernel at work ends, files that are being moved into place are not disturbed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class Interruption:
    """While entered, SIGINT, SIGTERM and SIGHUP raise nothing: they set `requested` and call `end_kernel` where one is set.

    An exception out of a signal handler could strike between two files that belong together, or in the middle of the event loop
    that talks to the kernel.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.requested = False
        self.end_kernel: Callable[[], None] | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._earlier = {number: signal.signal(number, self._handle) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        self.requested = True
        if self.end_kernel is not None:
            self.end_kernel()
