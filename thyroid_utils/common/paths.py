"""The one place that knows where things lie.

papermill runs a notebook in the caller's folder and nbval in the notebook's own, so nothing in the workbook asks for the
current folder: every location is derived from the project root.
"""

import os
from pathlib import Path


def project_root() -> Path:
    """The folder that holds `notebooks/` and `params/`: `THYROID_WORKBOOK_ROOT` when set, else the checkout of this package."""
    configured = os.environ.get("THYROID_WORKBOOK_ROOT")
    return Path(configured).resolve() if configured else Path(__file__).resolve().parents[2]


def notebooks_dir() -> Path:
    return project_root() / "notebooks"


def params_dir() -> Path:
    return project_root() / "params"


def reports_dir() -> Path:
    return project_root() / "reports"


def cache_dir() -> Path:
    """Where derived files that can always be made again are kept: `THYROID_WORKBOOK_CACHE` when set, else `.cache/`."""
    configured = os.environ.get("THYROID_WORKBOOK_CACHE")
    return Path(configured).resolve() if configured else project_root() / ".cache"


def runs_dir() -> Path:
    """Where trained runs are kept, and the key of case codes: `THYROID_WORKBOOK_RUNS` when set, else `runs/`."""
    configured = os.environ.get("THYROID_WORKBOOK_RUNS")
    return Path(configured).resolve() if configured else project_root() / "runs"


def resolve_in_project(path: str | Path) -> Path:
    """An absolute path as it is; a relative one seen from the project root, whatever the current folder is."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else (project_root() / path).resolve()
