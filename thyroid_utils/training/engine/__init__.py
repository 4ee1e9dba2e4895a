"""Where runs execute: one after the other here, or several at once on workers of dask.distributed.

Nothing is kept beside the ledger. A run is named by what decides its result and locked while it is trained, a killed one is
resumed from its last epoch by whoever takes it up next: so an engine only hands out configs until every run is there.
"""

from __future__ import annotations

from thyroid_utils.training.engine.outcome import Failure, RunsFailed
from thyroid_utils.training.engine.scheduling import run_all

__all__ = ["Failure", "RunsFailed", "run_all"]
