"""`thyroid-workbook predict`: image files in, a table of findings, masks and a page of cards out, and nobody's name among them.

What is printed or written tells of files by their place in the list alone, unless it is asked to keep their names.
"""

from __future__ import annotations

import csv
import errno
import math
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import NO_SPACE, write_text
from thyroid_utils.data.images import write_png
from thyroid_utils.inference.dual_stage import RESEARCH_ONLY, DualStage, Finding
from thyroid_utils.training.ledger import Run, RunDamaged, find_run, runs_dir
from thyroid_utils.workbook import environment
from thyroid_utils.workbook.errors import ParameterError
from thyroid_utils.workbook.pages import duration_text
from thyroid_utils.workbook.predict_inputs import BURNED_IN, Source, case_images, find_sources
from thyroid_utils.workbook.predict_page import Pages, card, page_names

FINE, SOME_FAILED = 0, 1
TABLE, MASKS, INDEX = "findings.csv", "masks", "index.html"
MASK = "mask"  # the table's last column: the mask's place in the folder
_STEP = 15.0  # seconds between two lines of progress where there is no terminal


def predict(
    images: Sequence[Path],
    classifier: str,
    segmenter: str,
    out: Path,
    spacing: float | None = None,
    keep_names: bool = False,
    console: Console | None = None,
) -> int:
    """Find and judge the nodules of image files, write `findings.csv`, `masks/` and `index.html`, and say how it went.

    The folder is written beside its place and put there when all is done; an earlier result is replaced, and kept where this one
    is interrupted.

    Args:
        images: files and folders (searched with all below them) of PNG, JPEG, TIFF, BMP, GIF or DICOM, one or many frames.
        classifier, segmenter: names of finished runs, or their beginnings.
        out: folder that does not exist, is empty or holds an earlier result.
        spacing: mm a pixel of images whose file gives none.
        keep_names: call results by the files' names; for files that name nobody.

    Returns:
        exit code: 0, or 1 where some images could not be used.

    Raises:
        ParameterError: nothing to read, no such run, runs that do not serve, a folder that holds something else.
    """
    console = console or Console(highlight=False)
    if spacing is not None and not (math.isfinite(spacing) and spacing > 0):
        raise ParameterError(f"predict: --spacing is {spacing:g}; expected millimetres a pixel, such as 0.07")
    _check_out(out)
    sources, others = find_sources(images, out, keep_names)
    runs = [named_run(option, name) for option, name in (("classifier", classifier), ("segmenter", segmenter))]
    try:
        stage = DualStage(*runs)
    except DataError as error:
        raise ParameterError(f"predict: {error}") from None
    if others:
        console.print(f"{others} file{'s' * (others != 1)} of another kind left out")
    began = time.monotonic()
    with _staged(out) as folder, _progress(console, len(sources)) as progress:
        counts = _write(folder, stage, sources, spacing, progress, began)
    failed = counts["not predicted"]
    told = ", ".join(f"{number} {name}" for name, number in counts.items())
    console.print(f"{told} in {duration_text(time.monotonic() - began)}: {_seen_from_here(out / INDEX)}", soft_wrap=True)
    for note in stage.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    console.print(RESEARCH_ONLY)
    return SOME_FAILED if failed else FINE


def named_run(option: str, name: str) -> Run:
    """The finished run of that name, or the only one whose name begins so.

    Raises:
        ParameterError: none, several, unfinished or damaged.
    """
    folder = runs_dir()
    fitting = sorted(path.name for path in folder.glob("*") if path.is_dir() and path.name.startswith(name) and name)
    fitting = [name] if name in fitting else [found for found in fitting if not found.startswith(".")]
    if len(fitting) != 1:
        found = f"{len(fitting)} runs begin so" if fitting else "there is no such run"
        raise ParameterError(f"predict: --{option} {name}: {found}; thyroid-workbook runs list shows them all")
    try:
        run = find_run(fitting[0])
    except RunDamaged as damage:
        raise ParameterError(f"predict: --{option} {name}: {damage}; train it again") from None
    if run is None:
        raise ParameterError(f"predict: --{option} {name}: the run is not finished; train it to its end first")
    return run


def _write(folder: Path, stage: DualStage, sources: list[Source], spacing: float | None, progress: Any, began: float) -> Counter:
    """Write everything into the folder; returns what the counts on the page say."""
    (folder / MASKS).mkdir()
    notes: dict[str, list[str]] = {}
    pages, rows = Pages(folder), []
    counts = Counter({"images": 0, "not predicted": 0, "without a nodule": 0, "undecided": 0, "with a warning": 0})
    for finding in stage.findings(case_images(sources, spacing, notes, progress)):
        noted = notes.pop(finding.case, [])
        warnings = [*finding.warnings, *noted]
        mask_file = "" if finding.error else f"{MASKS}/{finding.case}.png"
        if mask_file:
            write_png(folder / mask_file, finding.mask)
        rows.append(finding.row() | {"warnings": "; ".join(warnings), MASK: mask_file})
        counts.update(
            {
                "images": 1,
                "not predicted": bool(finding.error),
                "without a nodule": not finding.error and not finding.mask.any(),
                "undecided": not finding.error and len(finding.labels) != 1,
                "with a warning": bool(warnings),
            }
        )
        pages.add(card(finding, warnings, letters=BURNED_IN in noted))
    write_text(folder / TABLE, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    made = environment.describe()
    pages.close(
        counts=counts,
        alpha=stage.alpha,
        notes=stage.notes,
        networks={"Classifier": _facts(stage.classifier.run), "Segmenter": _facts(stage.segmenter.run)},
        made=made,
        duration=time.monotonic() - began,
    )
    return counts


def _facts(run: Run) -> dict[str, str]:
    """What a reader should know of a network: name, what it was trained on, and how well it did on its test images."""
    test = run.metrics["test"]
    scores = {"AUC": test.get("auc"), "Dice": test.get("dice")}
    facts = {
        "run": run.name[:8],
        "network": run.config.model.name,
        "trained on": run.config.data.dataset,
        "seed": run.config.seed,
    }
    return facts | {f"{name} on its test images": f"{value:.3f}" for name, value in scores.items() if value is not None}


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ParameterError("predict: --out is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_result(out):
        raise ParameterError("predict: --out holds files that are no earlier result; give a new or an empty folder")


def _is_result(folder: Path) -> bool:
    """Whether a folder holds a table of findings and nothing but what that table speaks of, so that it may be replaced."""
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
            lines = csv.DictReader(stream)
            rows = list(lines) if lines.fieldnames == [*Finding(case="").row(), MASK] else None
    except (OSError, ValueError, csv.Error):
        return False
    if rows is None:
        return False
    own = {TABLE, *page_names(len(rows)), *(row[MASK] for row in rows)}
    files = [path for path in folder.rglob("*") if path != folder / MASKS or path.is_symlink() or not path.is_dir()]
    return all(path.is_file() and not path.is_symlink() and path.relative_to(folder).as_posix() in own for path in files)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed when it does not."""
    out = out.resolve()
    folder = out.with_name(f".{out.name}-{secrets.token_hex(6)}")
    try:
        folder.mkdir(parents=True)
        yield folder
        _put_in_place(folder, out)
    except OSError as error:
        if error.errno not in (*NO_SPACE, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ParameterError(f"predict: --out cannot be written ({error.strerror}); free some space or give another") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, out: Path) -> None:
    """Let `folder` become `out`; what was there is removed once that is done, and put back where it fails."""
    if not out.is_dir():
        os.replace(folder, out)
        return
    earlier = folder.with_name(f"{folder.name}-earlier")
    os.replace(out, earlier)
    try:
        os.replace(folder, out)
    except OSError:
        os.replace(earlier, out)
        raise
    shutil.rmtree(earlier)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """A function to call with the number of files read: a bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()]
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("files", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    told = time.monotonic()

    def advance(done: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told >= _STEP:
            told = time.monotonic()
            console.print(f"{done} of {total} files read")

    yield advance


def _seen_from_here(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..")) else relative
